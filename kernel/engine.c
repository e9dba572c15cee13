// SPDX-License-Identifier: GPL-2.0-only
/*
 * The engine's lock, and what it takes to get a call through: blocks it
 * misses are read and installed, transactions it finds too large committed.
 *
 * Nothing here waits without a bound but for the device and for the lock,
 * whose holders do neither more. User calls wait killably. Under the lock
 * memory is taken without entering a filesystem, and nothing of the VFS is
 * called.
 */
#include <linux/blkdev.h>
#include <linux/slab.h>

#include "vexfs.h"

enum { HELD_NOT, HELD_SHARED, HELD_EXCLUSIVE };

/* No operation needs more blocks than this; reclaim may take some away again. */
#define VEXFS_ROUNDS_MAX 65536
#define VEXFS_COMMITS_MAX 3

static bool vexfs_lock_shared(struct vexfs_op *op)
{
	if (op->mode & VEXFS_NOKILL) {
		down_read(&op->fs->lock);
		return true;
	}
	return !down_read_killable(&op->fs->lock);
}

static bool vexfs_lock_exclusive(struct vexfs_op *op)
{
	if (op->mode & VEXFS_NOKILL) {
		down_write(&op->fs->lock);
		return true;
	}
	return !down_write_killable(&op->fs->lock);
}

void vexfs_release(struct vexfs_op *op)
{
	current->journal_info = op->outer;
	memalloc_nofs_restore(op->nofs);
	if (op->held == HELD_EXCLUSIVE)
		up_write(&op->fs->lock);
	else if (op->held == HELD_SHARED)
		up_read(&op->fs->lock);
	op->held = HELD_NOT;
}

void vexfs_enter(struct vexfs_op *op)
{
	op->nofs = memalloc_nofs_save();
	op->outer = current->journal_info;
	current->journal_info = op;
}

static int vexfs_usable(struct vexfs_op *op)
{
	struct vexfs_fs *fs = op->fs;

	if (op->mode & VEXFS_LATE)
		return READ_ONCE(fs->abandoned) ? -EIO : 0;
	if (READ_ONCE(fs->dead))
		return -EIO;
	if (READ_ONCE(fs->failed) && (op->mode & VEXFS_EXCLUSIVE))
		return -EROFS;
	return 0;
}

/* Takes the lock for a call, unless the last round left it held. */
int vexfs_op_lock(struct vexfs_op *op)
{
	struct vexfs_fs *fs = op->fs;
	int err;

	if (op->held != HELD_NOT)
		return 0;
	err = vexfs_usable(op);
	if (err)
		return err;
	if (op->mode & VEXFS_EXCLUSIVE) {
		if (op->mode & VEXFS_NOWAIT) {
			if (!down_write_trylock(&fs->lock))
				return -EAGAIN;
		} else if (!vexfs_lock_exclusive(op)) {
			return -EINTR;
		}
		op->held = HELD_EXCLUSIVE;
	} else {
		if (op->mode & VEXFS_NOWAIT) {
			if (!down_read_trylock(&fs->lock))
				return -EAGAIN;
		} else if (!vexfs_lock_shared(op)) {
			return -EINTR;
		}
		op->held = HELD_SHARED;
	}
	vexfs_enter(op);
	/* Once more: it may have died while we waited. */
	err = vexfs_usable(op);
	if (err)
		vexfs_release(op);
	return err;
}

/* The engine cannot be trusted with this volume any more. */
void vexfs_error(struct vexfs_fs *fs, const char *message)
{
	struct super_block *sb = fs->sb;

	if (fs->errors == VEXFS_ERRORS_SHUTDOWN) {
		pr_err(VEXFS_NAME " (%s): %s; shut down: unmount it and run fsck.vexfs\n",
		       sb->s_id, message);
		WRITE_ONCE(fs->dead, true);
	} else if (!READ_ONCE(fs->failed)) {
		pr_err(VEXFS_NAME " (%s): %s; read-only from now on: unmount it and run fsck.vexfs\n",
		       sb->s_id, message);
	} else {
		pr_err_ratelimited(VEXFS_NAME " (%s): %s\n", sb->s_id, message);
	}
	WRITE_ONCE(fs->failed, true);
	sb->s_flags |= SB_RDONLY;
}

/* What the medium holds is not known any more: from here on nothing is promised. */
void vexfs_stop(struct vexfs_fs *fs, const char *why)
{
	WRITE_ONCE(fs->failed, true);
	if (!xchg(&fs->dead, true))
		pr_err(VEXFS_NAME " (%s): %s; the volume stopped: unmount it\n", fs->sb->s_id, why);
}

/* Reads what the call missed: under its hold of the lock, lowered to shared. */
static int vexfs_bring(struct vexfs_op *op)
{
	struct vexfs_fs *fs = op->fs;
	struct vexfs_node *node = NULL;
	int err;

	if (op->mode & VEXFS_NOWAIT)
		return -EAGAIN;
	if (++op->rounds > VEXFS_ROUNDS_MAX)
		return -EIO;
	if (op->held == HELD_EXCLUSIVE) {
		downgrade_write(&fs->lock);
		op->held = HELD_SHARED;
	}
	if (vexfs_guard_enter(&op->guard))
		return -EIO;
	err = vexfs_rust_fetch(fs->volume, &op->report, &node);
	if (err)
		return err;
	vexfs_release(op);

	/* Others may change things now; the engine drops what went stale. */
	if (!vexfs_lock_exclusive(op)) {
		vexfs_rust_discard(node);
		return -EINTR;
	}
	op->held = HELD_EXCLUSIVE;
	vexfs_enter(op);
	err = vexfs_usable(op);
	if (err) {
		vexfs_rust_discard(node);
		return err;
	}
	if (vexfs_guard_enter(&op->guard))
		return -EIO;
	err = vexfs_rust_install(fs->volume, node, &op->report);
	if (!err && !(op->mode & VEXFS_EXCLUSIVE)) {
		downgrade_write(&fs->lock);
		op->held = HELD_SHARED;
	}
	return err;
}

/* Takes note of what a call did, while the lock is held: of its change, if it succeeded. */
static void vexfs_note(struct vexfs_op *op, bool changed)
{
	struct vexfs_fs *fs = op->fs;
	struct vexfs_state state;
	int i;

	if (vexfs_rust_get_state(fs->volume, &state))
		return;
	if (state.dead && !READ_ONCE(fs->dead)) {
		pr_err(VEXFS_NAME " (%s): a change or a commit could not be completed: %s; the volume stopped, what was fsync'ed is safe: unmount it and mount it again\n",
		       fs->sb->s_id, op->report.message_len ?
		       (char *)op->report.message : "the engine failed");
		WRITE_ONCE(fs->failed, true);
		WRITE_ONCE(fs->dead, true);
	}
	if (!changed)
		return;
	fs->changes++;
	WRITE_ONCE(fs->durable, state.durable);
	WRITE_ONCE(fs->running, state.running);
	/* A call may succeed without a change; then there may be nothing in the running one. */
	WRITE_ONCE(fs->newest, state.dirty ? state.running : state.running - 1);
	WRITE_ONCE(fs->cached_nodes, state.cached_nodes);
	for (i = 0; i < ARRAY_SIZE(op->inode) && op->inode[i]; i++) {
		struct vexfs_inode *vi = VEXFS_I(op->inode[i]);

		if (!(op->mode & VEXFS_QUIET))
			WRITE_ONCE(vi->generation, fs->newest);
		if (op->mode & VEXFS_MAPS)
			WRITE_ONCE(vi->map_seq, vi->map_seq + 1);
	}
	if (state.dirty && !(op->mode & VEXFS_NOCOMMIT))
		queue_delayed_work(fs->wq, &fs->commit_work, VEXFS_COMMIT_DELAY);
}

/*
 * The room of what was removed before a crash comes back a little after the
 * mount. Without the lock. True: it is worth another try.
 */
static bool vexfs_wait_for_room(struct vexfs_op *op)
{
	if (!READ_ONCE(op->fs->orphans_end) || op->waited ||
	    (op->mode & (VEXFS_NOKILL | VEXFS_NOWAIT | VEXFS_NOCOMMIT)))
		return false;
	vexfs_orphans_wait(op->fs);
	op->waited = true;
	op->commits = 0;
	return true;
}

/* Ends a round of a call. True: another one is needed. */
bool vexfs_op_unlock(struct vexfs_op *op, int *err)
{
	struct vexfs_fs *fs = op->fs;
	struct vexfs_state state;

	/* The guard of the caller's frame is still the one that counts. */
	if (!op->panicked)
		vexfs_hook_panic();
	if (op->panicked) {
		WRITE_ONCE(fs->abandoned, true);
		WRITE_ONCE(fs->failed, true);
		WRITE_ONCE(fs->dead, true);
		vexfs_release(op);
		*err = -EIO;
		return false;
	}
	if (*err == -EAGAIN && op->report.want == VEXFS_WANT_NODE) {
		*err = vexfs_bring(op);
		if (op->panicked)
			return vexfs_op_unlock(op, err);
		if (!*err)
			return true;
	} else if (*err == -EAGAIN && op->report.want == VEXFS_WANT_COMMIT) {
		bool known = !vexfs_rust_get_state(fs->volume, &state);

		vexfs_release(op);
		if (op->mode & VEXFS_NOWAIT)
			return false;
		*err = -ENOSPC;
		if ((op->mode & VEXFS_NOCOMMIT) || !known)
			return false;
		if (++op->commits > VEXFS_COMMITS_MAX)
			return vexfs_wait_for_room(op);
		*err = vexfs_commit(fs, state.running, op->mode & VEXFS_NOKILL);
		return !*err;
	} else if (op->held == HELD_EXCLUSIVE) {
		vexfs_note(op, !*err);
	}
	if (op->held != HELD_NOT)
		vexfs_release(op);
	if (*err == -ENOSPC && vexfs_wait_for_room(op))
		return true;
	if (*err == -EUCLEAN)
		vexfs_error(fs, op->report.message_len ? (char *)op->report.message : "damaged");
	else if (*err && *err != -EINTR && op->report.message_len && !(op->mode & VEXFS_NOCOMMIT))
		pr_notice_ratelimited(VEXFS_NAME " (%s): %s\n", fs->sb->s_id,
				      (char *)op->report.message);
	return false;
}

/*
 * Makes generation @target durable, and with it everything before. Callers that
 * arrive while a commit is under way wait for it and share the next one.
 */
int vexfs_commit(struct vexfs_fs *fs, u64 target, unsigned int mode)
{
	unsigned int flags = VEXFS_EXCLUSIVE | VEXFS_NOCOMMIT | VEXFS_QUIET;
	struct vexfs_commit *commit = NULL;
	struct vexfs_op *op;
	int err;

	if (READ_ONCE(fs->durable) >= target)
		return 0;
	/* Several operations' worth of reports would weigh on the stack. */
	op = kmalloc(sizeof(*op), GFP_NOFS | __GFP_NOFAIL);
	if (mode & VEXFS_NOKILL) {
		mutex_lock(&fs->commit_mutex);
	} else if (mutex_lock_killable(&fs->commit_mutex)) {
		kfree(op);
		return -EINTR;
	}
	err = 0;
	if (READ_ONCE(fs->durable) >= target)
		goto out;

	vexfs_op_init(op, fs, flags | (mode & VEXFS_NOKILL));
	err = vexfs_run(op, vexfs_rust_commit_begin(fs->volume, vexfs_now(), &commit,
						    &op->report));
	if (err && err != -EUCLEAN && op->report.message_len)
		pr_notice_ratelimited(VEXFS_NAME " (%s): a commit could not be begun: %s\n",
				      fs->sb->s_id, (char *)op->report.message);
	if (err || !commit)
		goto out;

	/* Without the lock: the next transaction goes on meanwhile. */
	vexfs_op_init(op, fs, flags);
	vexfs_enter(op);
	/* How it went is kept in the commit, and told by the call that ends it. */
	if (!vexfs_guard_enter(&op->guard))
		vexfs_rust_commit_write(commit, &op->report);
	vexfs_release(op);
	if (op->panicked) {
		WRITE_ONCE(fs->abandoned, true);
		WRITE_ONCE(fs->failed, true);
		WRITE_ONCE(fs->dead, true);
		err = -EIO;
		goto out;
	}

	vexfs_op_init(op, fs, flags | VEXFS_NOKILL | VEXFS_LATE);
	err = vexfs_run(op, vexfs_rust_commit_finish(fs->volume, commit, &op->report));
out:
	mutex_unlock(&fs->commit_mutex);
	kfree(op);
	return err;
}

/* Makes @generation durable, and with it what was overwritten in place up to now. */
static int vexfs_settle(struct vexfs_fs *fs, u64 generation, unsigned int mode)
{
	u64 running = READ_ONCE(fs->running);
	int err;

	if (READ_ONCE(fs->dead))
		return -EIO;
	if (generation > READ_ONCE(fs->durable)) {
		err = vexfs_commit(fs, generation, mode);
		/*
		 * A commit that was under way when we came may have flushed before
		 * our overwrites were through; one that began later covers them.
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
	if (READ_ONCE(fs->failed) && !READ_ONCE(fs->dead))
		return -EROFS;
	return vexfs_settle(fs, READ_ONCE(fs->newest), mode);
}

/* Makes one inode durable; its data was written and waited for. */
int vexfs_fsync_inode(struct inode *inode)
{
	return vexfs_settle(VEXFS_SB(inode->i_sb), READ_ONCE(VEXFS_I(inode)->generation), 0);
}

static void vexfs_commit_work(struct work_struct *work)
{
	struct vexfs_fs *fs = container_of(to_delayed_work(work), struct vexfs_fs, commit_work);

	if (READ_ONCE(fs->failed))
		return;
	/* Without memory nothing was lost; later there may be some. */
	if (vexfs_commit(fs, READ_ONCE(fs->newest), VEXFS_NOKILL) && !READ_ONCE(fs->failed))
		queue_delayed_work(fs->wq, &fs->commit_work, VEXFS_COMMIT_DELAY);
}

static unsigned long vexfs_shrink_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct vexfs_fs *fs = shrinker->private_data;

	return READ_ONCE(fs->cached_nodes) ?: SHRINK_EMPTY;
}

static unsigned long vexfs_shrink_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct vexfs_fs *fs = shrinker->private_data;
	unsigned long cached = READ_ONCE(fs->cached_nodes);
	size_t limit = cached - min(cached, sc->nr_to_scan);
	size_t freed = 0;
	struct vexfs_op op;

	/* Reclaim must not wait for the lock: its holder may be waiting for memory. */
	if (!(sc->gfp_mask & __GFP_FS))
		return SHRINK_STOP;
	vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE | VEXFS_NOWAIT | VEXFS_QUIET | VEXFS_LATE);
	if (vexfs_run(&op, vexfs_rust_trim(fs->volume, limit, &freed)))
		return SHRINK_STOP;
	return freed;
}

int vexfs_engine_open(struct vexfs_fs *fs, bool read_only, struct vexfs_report *report)
{
	size_t cache = clamp(totalram_pages() / 16, 2048UL, 65536UL) << PAGE_SHIFT;
	u32 flags = read_only ? VEXFS_OPEN_READ_ONLY : 0;
	struct vexfs_state state;
	struct vexfs_op op;
	int err;

	report->message_len = 0;
	err = vexfs_run_alone(&op, fs, vexfs_rust_fill_super(&fs->device, flags, cache,
							     &fs->volume, report));
	if (!err)
		err = vexfs_run_alone(&op, fs, vexfs_rust_get_state(fs->volume, &state));
	if (!err) {
		fs->durable = state.durable;
		fs->running = state.running;
		fs->newest = state.running - 1;
	}
	return err;
}

/* Finds out whether the volume could be opened for writing. */
int vexfs_engine_probe(struct vexfs_fs *fs, struct vexfs_report *report)
{
	struct vexfs_volume *volume = NULL;
	struct vexfs_op op;
	int err;

	report->message_len = 0;
	err = vexfs_run_alone(&op, fs, vexfs_rust_fill_super(&fs->device, 0, 1 << 20, &volume,
							     report));
	if (volume && vexfs_run_alone(&op, fs, vexfs_rust_cleanup_superblock(volume)))
		err = err ?: -EIO;
	return err;
}

int vexfs_engine_set_read_only(struct vexfs_fs *fs, bool read_only)
{
	struct vexfs_op op;

	vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE | VEXFS_QUIET | VEXFS_LATE);
	return vexfs_run(&op, vexfs_rust_set_read_only(fs->volume, read_only));
}

void vexfs_engine_close(struct vexfs_fs *fs)
{
	struct vexfs_op op;

	if (!fs->volume)
		return;
	/* What a panic left behind is not walked again; better to lose the memory. */
	if (!fs->abandoned) {
		vexfs_run_alone(&op, fs, vexfs_rust_put_super(fs->volume));
		vexfs_run_alone(&op, fs, vexfs_rust_cleanup_superblock(fs->volume));
	}
	fs->volume = NULL;
}

/* What runs beside a mounted volume. */
int vexfs_engine_start(struct vexfs_fs *fs)
{
	INIT_DELAYED_WORK(&fs->commit_work, vexfs_commit_work);
	/* Freezable: once an image for hibernation is taken, the medium must not move on. */
	fs->wq = alloc_workqueue("vexfs/%s", WQ_MEM_RECLAIM | WQ_UNBOUND | WQ_FREEZABLE, 0,
				 fs->sb->s_id);
	if (!fs->wq)
		return -ENOMEM;
	fs->shrinker = shrinker_alloc(0, "vexfs:%s", fs->sb->s_id);
	if (!fs->shrinker)
		return -ENOMEM;
	fs->shrinker->count_objects = vexfs_shrink_count;
	fs->shrinker->scan_objects = vexfs_shrink_scan;
	fs->shrinker->private_data = fs;
	shrinker_register(fs->shrinker);
	return 0;
}

void vexfs_engine_stop(struct vexfs_fs *fs)
{
	if (fs->shrinker)
		shrinker_free(fs->shrinker);
	fs->shrinker = NULL;
	if (fs->wq) {
		cancel_delayed_work_sync(&fs->commit_work);
		destroy_workqueue(fs->wq);
	}
	fs->wq = NULL;
}
