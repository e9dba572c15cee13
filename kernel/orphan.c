// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a crash left half done: inodes that lost their last name while they were
 * open, and truncations that were cut short. A mount does not wait for them; they
 * are destroyed and finished beside everything else.
 *
 * Only what was there before the mount is touched, which its numbers tell: none is
 * used twice. Nobody can open an inode without a name, so what is in memory was
 * unlinked since, and goes when its last user does. A file whose truncation was cut
 * short is brought into memory by vexfs_iget(), which finishes it: nobody can make
 * it longer, and see what should be gone, before that.
 */
#include <linux/sched.h>

#include "vexfs.h"

/* Under the engine's lock: one step of destroying or finishing @ino. */
static int vexfs_orphan_step(struct vexfs_op *op, u64 ino, u32 *more)
{
	return vexfs_rust_destroy_inode(op->fs->volume, ino, more, &op->report);
}

/* Finishes the truncation of an inode that has a name and is not in memory yet, if there is one. */
int vexfs_finish_truncation(struct vexfs_fs *fs, u64 ino, struct vexfs_attr *attr)
{
	struct vexfs_op op;
	u32 more;
	int err;

	sb_start_intwrite(fs->sb);
	do {
		/* The others wait for this inode: it must not wait for them to make room. */
		vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE | VEXFS_NOKILL);
		err = vexfs_run(&op, vexfs_orphan_step(&op, ino, &more) ?:
				     vexfs_rust_init_inode(fs->volume, ino, attr, &op.report));
		cond_resched();
	} while (!err && more);
	sb_end_intwrite(fs->sb);
	return err;
}

static int vexfs_clear_orphan(struct vexfs_fs *fs, u64 ino)
{
	struct inode *inode = vexfs_iget(fs->sb, ino, NULL, 0);
	struct vexfs_op op;
	u32 more = 0;
	int err;

	if (!IS_ERR(inode)) {
		iput(inode);
		return 0;
	}
	/* Without a name and in nobody's hands; or an item of the list without an inode. */
	err = PTR_ERR(inode);
	if (err != -ESTALE && err != -ENOENT)
		return err;
	sb_start_intwrite(fs->sb);
	do {
		vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE | VEXFS_NOKILL);
		err = vexfs_run(&op, vexfs_orphan_step(&op, ino, &more));
		cond_resched();
	} while (!err && more && !READ_ONCE(fs->stopping));
	sb_end_intwrite(fs->sb);
	return err;
}

static void vexfs_orphan_work(struct work_struct *work)
{
	struct vexfs_fs *fs = container_of(work, struct vexfs_fs, orphan_work);
	u64 ino, next = 0;
	struct vexfs_op op;
	int err;

	while (!READ_ONCE(fs->stopping)) {
		vexfs_op_init(&op, fs, VEXFS_SHARED | VEXFS_NOKILL);
		err = vexfs_run(&op, vexfs_rust_next_orphan(fs->volume, next, &ino, &op.report));
		if (!err && (!ino || ino >= fs->orphans_end)) {
			WRITE_ONCE(fs->orphans_end, 0);
			return;
		}
		if (!err)
			err = vexfs_clear_orphan(fs, ino);
		if (err) {
			/* Not lost: they stay in the list, and those with a name are finished when they are used. */
			if (!READ_ONCE(fs->failed))
				pr_warn(VEXFS_NAME " (%s): what was removed before a crash cannot be freed now (%d); the next mount will\n",
					fs->sb->s_id, err);
			return;
		}
		next = ino + 1;
	}
}

void vexfs_orphans_init(struct vexfs_fs *fs)
{
	INIT_WORK(&fs->orphan_work, vexfs_orphan_work);
}

/* Begins to clear what is there now, of a volume that may be changed. */
int vexfs_orphans_start(struct vexfs_fs *fs)
{
	struct vexfs_state state;
	struct vexfs_op op;
	int err;

	vexfs_op_init(&op, fs, VEXFS_SHARED);
	err = vexfs_run(&op, vexfs_rust_get_state(fs->volume, &state));
	if (err || !state.orphans)
		return err;
	WRITE_ONCE(fs->orphans_end, state.next_ino);
	queue_work(fs->wq, &fs->orphan_work);
	return 0;
}

/* Waits until they are cleared. The caller holds nothing that bringing an inode into memory needs. */
void vexfs_orphans_wait(struct vexfs_fs *fs)
{
	flush_work(&fs->orphan_work);
}

/* Leaves the rest to the next mount. */
void vexfs_orphans_stop(struct vexfs_fs *fs)
{
	WRITE_ONCE(fs->stopping, true);
	cancel_work_sync(&fs->orphan_work);
}
