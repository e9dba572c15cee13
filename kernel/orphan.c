// SPDX-License-Identifier: GPL-2.0-only
/*
 * Orphans that a crash left: inodes that had lost their last name while they were
 * open, and truncations that were cut short. A mount does not wait for them; a
 * worker destroys and finishes them while the filesystem is in use.
 *
 * It touches only orphans from before the mount. Their numbers tell, since none is
 * used twice. Nobody can open an inode without a name, so one that is in memory was
 * unlinked after the mount, and goes with its last user. A file whose truncation was
 * cut short is loaded by vexfs_iget(), which finishes the truncation first: nobody
 * can extend the file before that, and see what should be gone.
 */
#include <linux/sched.h>

#include "vexfs.h"

static int vexfs_clear_orphan(struct vexfs_fs *fs, u64 ino)
{
	struct inode *inode = vexfs_iget(fs->sb, ino, NULL, 0);
	int err;

	if (!IS_ERR(inode)) {
		iput(inode);
		return 0;
	}
	/* It has no name and no user; or the list of orphans names an inode that is not there. */
	err = PTR_ERR(inode);
	if (err != -ESTALE && err != -ENOENT)
		return err;
	return vexfs_destroy_inode(fs, ino, &fs->stopping);
}

static int vexfs_next_orphan(struct vexfs_fs *fs, u64 from, u64 *ino)
{
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_SHARED | VEXFS_NOKILL);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_next_orphan(fs->volume, from, ino, &call.report);
	} while (vexfs_call_again(&call, &err));
	return err;
}

static void vexfs_orphan_work(struct work_struct *work)
{
	struct vexfs_fs *fs = container_of(work, struct vexfs_fs, orphan_work);
	u64 ino, next = 0;
	int err;

	while (!READ_ONCE(fs->stopping)) {
		err = vexfs_next_orphan(fs, next, &ino);
		if (!err && (!ino || ino >= fs->orphans_end)) {
			WRITE_ONCE(fs->orphans_end, 0);
			return;
		}
		if (!err)
			err = vexfs_clear_orphan(fs, ino);
		if (err) {
			/*
			 * They stay in the list; one that has a name is finished when
			 * it is used.
			 */
			if (!vexfs_failed(fs))
				vexfs_warn(fs->sb, "what was removed before a crash cannot be freed now (%d); the next mount will\n",
					   err);
			return;
		}
		next = ino + 1;
	}
}

void vexfs_orphans_init(struct vexfs_fs *fs)
{
	INIT_WORK(&fs->orphan_work, vexfs_orphan_work);
}

/* Begins to clear the orphans of a volume that may be changed. */
int vexfs_orphans_start(struct vexfs_fs *fs)
{
	struct vexfs_state state;
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_get_state(fs->volume, &state);
	} while (vexfs_call_again(&call, &err));
	if (err || !state.orphans)
		return err;
	WRITE_ONCE(fs->orphans_end, state.next_ino);
	queue_work(fs->wq, &fs->orphan_work);
	return 0;
}

/* Leaves the rest to the next mount. */
void vexfs_orphans_stop(struct vexfs_fs *fs)
{
	WRITE_ONCE(fs->stopping, true);
	cancel_work_sync(&fs->orphan_work);
}
