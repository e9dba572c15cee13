// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls of the engine: its lock, the blocks that a call misses, the commits
 * that it needs. And commits for their own sake.
 *
 * Nothing here waits without a bound but for the device and for the lock, whose
 * holders only work in memory: blocks are read and commits written without it.
 * What users wait for can be killed. Under the lock, memory is allocated
 * without entering a filesystem, and nothing of the VFS is called.
 */
#include <linux/blkdev.h>
#include <linux/slab.h>

#include "vexfs.h"
#include "trace.h"

enum {
	HELD_NOT,	/* outside the call */
	HELD_NO_LOCK,	/* inside, without the lock */
	HELD_SHARED,
	HELD_EXCLUSIVE,
};

/* No operation needs more blocks than this, even if reclaim evicts some again. */
#define VEXFS_READS_MAX 65536
#define VEXFS_COMMITS_MAX 3

void __vexfs_call_init(struct vexfs_call *call, struct vexfs_fs *fs, unsigned int mode,
		       const char *name)
{
	/* The report is large, and the engine fills it in. */
	memset(call, 0, offsetof(struct vexfs_call, report));
	call->magic = VEXFS_CALL_MAGIC;
	call->fs = fs;
	call->name = name;
	call->mode = mode;
	call->report.want = VEXFS_WANT_NOTHING;
	call->report.message_len = 0;
}

static int vexfs_lock_shared(struct vexfs_call *call)
{
	if (call->mode & VEXFS_NOWAIT) {
		if (!down_read_trylock(&call->fs->lock))
			return -EAGAIN;
	} else if (call->mode & VEXFS_NOKILL) {
		down_read(&call->fs->lock);
	} else if (down_read_killable(&call->fs->lock)) {
		return -EINTR;
	}
	call->held = HELD_SHARED;
	return 0;
}

static int vexfs_lock_exclusive(struct vexfs_call *call)
{
	if (call->mode & VEXFS_NOWAIT) {
		if (!down_write_trylock(&call->fs->lock))
			return -EAGAIN;
	} else if (call->mode & VEXFS_NOKILL) {
		down_write(&call->fs->lock);
	} else if (down_write_killable(&call->fs->lock)) {
		return -EINTR;
	}
	call->held = HELD_EXCLUSIVE;
	return 0;
}

static void vexfs_unlock(struct vexfs_call *call)
{
	if (call->held == HELD_EXCLUSIVE)
		up_write(&call->fs->lock);
	else if (call->held == HELD_SHARED)
		up_read(&call->fs->lock);
	call->held = HELD_NO_LOCK;
}

static void vexfs_downgrade(struct vexfs_call *call)
{
	if (call->held == HELD_EXCLUSIVE)
		downgrade_write(&call->fs->lock);
	call->held = HELD_SHARED;
}

static void vexfs_call_leave(struct vexfs_call *call)
{
	current->journal_info = call->journal_info;
	memalloc_nofs_restore(call->nofs);
	vexfs_unlock(call);
	call->held = HELD_NOT;
}

static int vexfs_check_state(const struct vexfs_call *call)
{
	const struct vexfs_fs *fs = call->fs;

	if (call->mode & VEXFS_ANY_STATE)
		return vexfs_abandoned(fs) ? -EIO : 0;
	if (vexfs_dead(fs))
		return -EIO;
	if (vexfs_failed(fs) && (call->mode & VEXFS_EXCLUSIVE))
		return -EROFS;
	return 0;
}

/* Begins a round of a call, unless the last round left the lock held. See vexfs_call_enter(). */
int vexfs_call_lock(struct vexfs_call *call)
{
	int err;

	if (call->held != HELD_NOT)
		return 0;
	if (call->mode & VEXFS_UNLOCKED) {
		call->held = HELD_NO_LOCK;
	} else {
		err = vexfs_check_state(call);
		if (err)
			return err;
		err = call->mode & VEXFS_EXCLUSIVE ? vexfs_lock_exclusive(call) :
						     vexfs_lock_shared(call);
		if (err)
			return err;
		/* The state may have changed while we waited. */
		err = vexfs_check_state(call);
		if (err) {
			vexfs_unlock(call);
			call->held = HELD_NOT;
			return err;
		}
	}
	call->nofs = memalloc_nofs_save();
	/* Where vexfs_host_panic() finds the call. */
	call->journal_info = current->journal_info;
	current->journal_info = call;
	return 0;
}

/* Takes in a block that was read; the lock is not held. Leaves it held as the call wants it. */
static int vexfs_install(struct vexfs_call *call, struct vexfs_node *node)
{
	int err;

	err = vexfs_lock_exclusive(call) ?: vexfs_check_state(call);
	if (err) {
		vexfs_rust_discard(node);
		return err;
	}
	/* The volume may have changed meanwhile: the engine drops a stale block. */
	err = vexfs_rust_install(call->fs->volume, node, &call->report);
	if (!err && !(call->mode & VEXFS_EXCLUSIVE))
		vexfs_downgrade(call);
	return err;
}

/*
 * Reads the block that the call missed. Without the lock, so that nobody waits
 * for this device but us; then the block may be used for something else before
 * it is read, and does not verify. That is only damage if it happens again to
 * a block that is missed and read within one hold of the lock.
 */
static int vexfs_fetch(struct vexfs_call *call)
{
	bool locked = call->stale;
	struct vexfs_node *node;
	int err;

	if (call->mode & VEXFS_NOWAIT)
		return -EAGAIN;
	if (++call->reads > VEXFS_READS_MAX)
		return -EIO;
	err = vexfs_guard_enter(&call->guard) ?:
	      vexfs_rust_fetch_begin(call->fs->volume, &call->report, &node);
	if (err)
		return err;
	if (locked)
		vexfs_downgrade(call);
	else
		vexfs_unlock(call);
	err = vexfs_rust_fetch(node, &call->report);
	trace_vexfs_fetch(call, locked, err);
	if (locked)
		vexfs_unlock(call);
	call->stale = false;
	if (!err)
		return vexfs_install(call, node);
	vexfs_rust_discard(node);
	if (err != -EUCLEAN || locked)
		return err;
	call->stale = true;
	vexfs_call_leave(call);
	return 0;
}

/* Records what a call with the lock held exclusively did: its change, if it succeeded. */
static void vexfs_record_change(struct vexfs_call *call, bool changed)
{
	struct vexfs_fs *fs = call->fs;
	struct vexfs_state state;
	int i;

	lockdep_assert_held_write(&fs->lock);
	if (vexfs_rust_get_state(fs->volume, &state))
		return;
	if (state.dead && vexfs_raise_state(fs, VEXFS_DEAD)) {
		const char *why = call->report.message_len ? (char *)call->report.message :
							     "the engine failed";

		trace_vexfs_error(fs->sb, -EIO, why);
		vexfs_err(fs->sb, "a change or a commit could not be completed: %s; the volume stopped, what was fsync'ed is safe: unmount it and mount it again\n",
			  why);
	}
	if (!changed)
		return;
	fs->changes++;
	WRITE_ONCE(fs->durable, state.durable);
	WRITE_ONCE(fs->running, state.running);
	/* A call may succeed without a change: then the running generation may be empty. */
	WRITE_ONCE(fs->newest, state.dirty ? state.running : state.running - 1);
	WRITE_ONCE(fs->cached_nodes, state.cached_nodes);
	for (i = 0; i < ARRAY_SIZE(call->inode) && call->inode[i]; i++) {
		struct vexfs_inode *vi = VEXFS_I(call->inode[i]);

		WRITE_ONCE(vi->generation, fs->newest);
		if (call->mode & VEXFS_MAPS)
			WRITE_ONCE(vi->map_seq, vi->map_seq + 1);
	}
	if (state.dirty && !(call->mode & VEXFS_NOCOMMIT))
		queue_delayed_work(fs->wq, &fs->commit_work, VEXFS_COMMIT_DELAY);
}

/*
 * The blocks of what was removed before a crash become free a little after the
 * mount. Waits for that once. True: the call is worth another try.
 */
static bool vexfs_wait_for_room(struct vexfs_call *call)
{
	lockdep_assert_not_held(&call->fs->lock);
	if (!READ_ONCE(call->fs->orphans_end) || call->waited ||
	    (call->mode & (VEXFS_NOKILL | VEXFS_NOWAIT | VEXFS_NOCOMMIT)))
		return false;
	vexfs_orphans_wait(call->fs);
	call->waited = true;
	call->commits = 0;
	return true;
}

/* Commits for a call that found no room in the running transaction. True: make it again. */
static bool vexfs_commit_for(struct vexfs_call *call, int *err)
{
	struct vexfs_fs *fs = call->fs;
	struct vexfs_state state;
	bool known;

	known = !vexfs_rust_get_state(fs->volume, &state);
	vexfs_call_leave(call);
	if (call->mode & VEXFS_NOWAIT)
		return false;
	*err = -ENOSPC;
	if ((call->mode & VEXFS_NOCOMMIT) || !known)
		return false;
	if (++call->commits > VEXFS_COMMITS_MAX)
		return vexfs_wait_for_room(call);
	*err = vexfs_commit(fs, state.running, call->mode & VEXFS_NOKILL);
	return !*err;
}

/* The engine panicked in this call. */
static void vexfs_abandon(struct vexfs_call *call, int *err)
{
	vexfs_raise_state(call->fs, VEXFS_ABANDONED);
	vexfs_call_leave(call);
	*err = -EIO;
}

/* What the engine says of a call that failed for good. */
static void vexfs_report_error(struct vexfs_call *call, int err)
{
	const char *message = call->report.message_len ? (char *)call->report.message : "damaged";

	if (err == -EUCLEAN || (err && call->report.want == VEXFS_WANT_READ_ONLY))
		vexfs_error(call->fs, err, message);
	else if (err && err != -EINTR && call->report.message_len &&
		 !(call->mode & VEXFS_NOCOMMIT))
		vexfs_notice_ratelimited(call->fs->sb, "%s\n", message);
}

static bool vexfs_end_round(struct vexfs_call *call, int *err)
{
	/* The lock could not be taken, or must not be. */
	if (call->held == HELD_NOT)
		return false;
	if (!call->panicked && !(call->mode & VEXFS_UNLOCKED))
		vexfs_hook_panic();
	if (call->panicked) {
		vexfs_abandon(call, err);
		return false;
	}
	if (call->mode & VEXFS_UNLOCKED) {
		vexfs_call_leave(call);
		return false;
	}
	if (*err == -EAGAIN && call->report.want == VEXFS_WANT_COMMIT)
		return vexfs_commit_for(call, err);
	if (*err == -EAGAIN && call->report.want == VEXFS_WANT_NODE) {
		*err = vexfs_fetch(call);
		if (call->panicked) {
			vexfs_abandon(call, err);
			return false;
		}
		if (!*err)
			return true;
	} else if (call->held == HELD_EXCLUSIVE) {
		vexfs_record_change(call, !*err);
	}
	vexfs_call_leave(call);
	if (*err == -ENOSPC && vexfs_wait_for_room(call))
		return true;
	vexfs_report_error(call, *err);
	return false;
}

/* Ends a round of a call. True: another one is needed. */
bool vexfs_call_again(struct vexfs_call *call, int *err)
{
	bool again = vexfs_end_round(call, err);

	if (!again)
		trace_vexfs_call(call, *err);
	return again;
}

/* One commit. The caller holds commit_mutex. */
static int vexfs_commit_once(struct vexfs_fs *fs, struct vexfs_call *call, unsigned int mode)
{
	unsigned int flags = VEXFS_EXCLUSIVE | VEXFS_NOCOMMIT;
	struct vexfs_commit *commit = NULL;
	int err;

	lockdep_assert_held(&fs->commit_mutex);
	vexfs_call_init(call, fs, flags | (mode & VEXFS_NOKILL));
	do {
		err = vexfs_call_enter(call) ?:
		      vexfs_rust_commit_begin(fs->volume, vexfs_now(), &commit, &call->report);
	} while (vexfs_call_again(call, &err));
	if (err && err != -EUCLEAN && call->report.message_len)
		vexfs_notice_ratelimited(fs->sb, "a commit could not be begun: %s\n",
					 (char *)call->report.message);
	if (err || !commit)
		return err;

	/*
	 * The next transaction goes on meanwhile. The commit keeps the result for the
	 * call that ends it.
	 */
	vexfs_call_init(call, fs, VEXFS_UNLOCKED);
	do {
		err = vexfs_call_enter(call) ?:
		      (vexfs_rust_commit_write(commit, &call->report), 0);
	} while (vexfs_call_again(call, &err));
	if (err)
		return err;

	vexfs_call_init(call, fs, flags | VEXFS_NOKILL | VEXFS_ANY_STATE);
	do {
		err = vexfs_call_enter(call) ?:
		      vexfs_rust_commit_finish(fs->volume, commit, &call->report);
	} while (vexfs_call_again(call, &err));
	return err;
}

/*
 * Makes generation @target durable, and with it everything before. Callers that
 * arrive while a commit is under way wait for it and share the next one.
 */
int vexfs_commit(struct vexfs_fs *fs, u64 target, unsigned int mode)
{
	struct vexfs_call *call;
	int err = 0;

	if (READ_ONCE(fs->durable) >= target)
		return 0;
	/* Not on the stack: the caller has a call there already. */
	call = kmalloc(sizeof(*call), GFP_NOFS | __GFP_NOFAIL);
	if (mode & VEXFS_NOKILL) {
		mutex_lock(&fs->commit_mutex);
	} else if (mutex_lock_killable(&fs->commit_mutex)) {
		kfree(call);
		return -EINTR;
	}
	if (READ_ONCE(fs->durable) < target) {
		trace_vexfs_commit_begin(fs->sb, target, READ_ONCE(fs->durable), 0);
		err = vexfs_commit_once(fs, call, mode);
		trace_vexfs_commit_end(fs->sb, target, READ_ONCE(fs->durable), err);
	}
	mutex_unlock(&fs->commit_mutex);
	kfree(call);
	return err;
}

/* Makes @generation durable, and with it what was overwritten in place so far. */
static int vexfs_sync_generation(struct vexfs_fs *fs, u64 generation, unsigned int mode)
{
	u64 running = READ_ONCE(fs->running);
	int err;

	if (vexfs_dead(fs))
		return -EIO;
	if (generation > READ_ONCE(fs->durable)) {
		err = vexfs_commit(fs, generation, mode);
		/*
		 * A commit that was under way when we came may have flushed before
		 * our overwrites completed; one that began later covers them.
		 */
		if (err || generation >= running)
			return err;
	}
	err = blkdev_issue_flush(fs->sb->s_bdev);
	/* The device may have dropped any of it, and tells one caller only. */
	if (err)
		vexfs_stop(fs, "a flush of the device failed, what was overwritten may be lost");
	return err;
}

/* Makes everything durable: what changed, and what was overwritten in place. */
int vexfs_sync(struct vexfs_fs *fs, unsigned int mode)
{
	if (vexfs_failed(fs) && !vexfs_dead(fs))
		return -EROFS;
	return vexfs_sync_generation(fs, READ_ONCE(fs->newest), mode);
}

/* Makes one inode durable; its data was written and waited for. */
int vexfs_fsync_inode(struct inode *inode)
{
	u64 generation = READ_ONCE(VEXFS_I(inode)->generation);

	return vexfs_sync_generation(VEXFS_SB(inode->i_sb), generation, 0);
}
