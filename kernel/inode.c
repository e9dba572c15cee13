// SPDX-License-Identifier: GPL-2.0-only
/*
 * Inodes: loaded from the engine, written back to it, and destroyed.
 *
 * While an inode is in memory, its times are the kernel's and are written back
 * lazily; everything else changes in the engine first.
 */
#include <linux/iversion.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/writeback.h>

#include "vexfs.h"

/*
 * i_version counts in steps this much finer than the engine's version: it never falls
 * behind that.
 */
#define VEXFS_VERSION_SHIFT 16

int vexfs_fill_inode(struct inode *inode, const struct vexfs_attr *attr)
{
	struct vexfs_inode *vi = VEXFS_I(inode);

	inode->i_ino = attr->ino;
	inode->i_mode = attr->mode;
	i_uid_write(inode, attr->uid);
	i_gid_write(inode, attr->gid);
	set_nlink(inode, attr->nlink);
	inode->i_size = attr->size;
	inode->i_blocks = attr->blocks << (VEXFS_BLOCK_SHIFT - SECTOR_SHIFT);
	inode->i_generation = 0;
	inode_set_atime_to_ts(inode, vexfs_timespec(attr->atime));
	inode_set_mtime_to_ts(inode, vexfs_timespec(attr->mtime));
	inode_set_ctime_to_ts(inode, vexfs_timespec(attr->ctime));
	inode_set_iversion_queried(inode, attr->version << VEXFS_VERSION_SHIFT);
	vi->btime = vexfs_timespec(attr->btime);
	vi->vector = attr->vector;
	vi->disk_size = attr->size;

	switch (attr->mode & S_IFMT) {
	case S_IFREG:
		if (attr->size > inode->i_sb->s_maxbytes)
			return -EUCLEAN;
		inode->i_op = &vexfs_file_iops;
		inode->i_fop = &vexfs_file_fops;
		inode->i_mapping->a_ops = &vexfs_aops;
		mapping_set_large_folios(inode->i_mapping);
		break;
	case S_IFDIR:
		inode->i_op = &vexfs_dir_iops;
		inode->i_fop = &vexfs_dir_fops;
		break;
	case S_IFLNK:
		inode->i_op = &vexfs_symlink_iops;
		break;
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		inode->i_op = &vexfs_special_iops;
		init_special_inode(inode, inode->i_mode, new_decode_dev(attr->rdev));
		break;
	default:
		return -EUCLEAN;
	}
	return 0;
}

/* Reads the target of a symbolic link into i_link. */
static int vexfs_read_link(struct inode *inode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	size_t len = inode->i_size + 1, used;
	struct vexfs_call call;
	char *target;
	int err;

	if (len > PAGE_SIZE)
		return -EUCLEAN;
	target = kmalloc(len, GFP_KERNEL);
	if (!target)
		return -ENOMEM;
	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_readlink(fs->volume, inode->i_ino, target, len, &used,
					  &call.report);
	} while (vexfs_call_again(&call, &err));
	if (err) {
		kfree(target);
		return err == -ERANGE ? -EUCLEAN : err;
	}
	inode->i_link = target;
	return 0;
}

/*
 * A file handle may name an inode that is just being created, and not in the inode
 * cache yet. Loading it would make a second one: until then the handle is stale.
 */
static int vexfs_check_creating(struct vexfs_fs *fs, u64 ino)
{
	struct vexfs_inode *vi;
	int err = 0;

	lockdep_assert_held(&fs->lock);
	spin_lock(&fs->creating_lock);
	list_for_each_entry(vi, &fs->creating, creating)
		if (vi->vfs.i_ino == ino)
			err = -ESTALE;
	spin_unlock(&fs->creating_lock);
	return err;
}

static int vexfs_read_inode(struct vexfs_fs *fs, u64 ino, struct vexfs_attr *attr)
{
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_init_inode(fs->volume, ino, attr, &call.report) ?:
		      vexfs_check_creating(fs, ino);
	} while (vexfs_call_again(&call, &err));
	return err;
}

/*
 * Destroys an inode without a name, or finishes a truncation of one that has a
 * name: in steps, until it is done or *@stop is set, if @stop is not NULL.
 */
int vexfs_destroy_inode(struct vexfs_fs *fs, u64 ino, const bool *stop)
{
	struct vexfs_call call;
	u32 more;
	int err;

	sb_start_intwrite(fs->sb);
	do {
		/*
		 * VEXFS_NOKILL also means not to wait for orphans, whose worker may
		 * wait for this inode.
		 */
		vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE | VEXFS_NOKILL);
		do {
			err = vexfs_call_enter(&call) ?:
			      vexfs_rust_destroy_inode(fs->volume, ino, &more, &call.report);
		} while (vexfs_call_again(&call, &err));
		cond_resched();
	} while (!err && more && !(stop && READ_ONCE(*stop)));
	sb_end_intwrite(fs->sb);
	return err;
}

/*
 * Finishes a truncation that a crash cut short, before anybody can use the inode.
 * On a volume that may not be changed nobody can extend the file either.
 */
static int vexfs_finish_truncation(struct vexfs_fs *fs, u64 ino)
{
	int err = vexfs_destroy_inode(fs, ino, NULL);

	return err == -EROFS ? 0 : err;
}

/*
 * Gets an inode, from memory or the engine. @attr, if it is not NULL, is what a
 * lookup found when fs->changes was @changes.
 */
struct inode *vexfs_iget(struct super_block *sb, u64 ino, const struct vexfs_attr *attr,
			 u64 changes)
{
	struct vexfs_fs *fs = VEXFS_SB(sb);
	struct vexfs_attr read;
	struct inode *inode;
	int err = 0;

	inode = iget_locked(sb, ino);
	if (!inode)
		return ERR_PTR(-ENOMEM);
	if (!(inode->i_state & I_NEW))
		return inode;

	/* Since that lookup it may have been changed, and evicted. */
	if (!attr || READ_ONCE(fs->changes) != changes) {
		attr = &read;
		err = vexfs_read_inode(fs, ino, &read);
	}
	if (!err && !attr->nlink)
		err = -ESTALE;
	if (!err && READ_ONCE(fs->orphans_end) && S_ISREG(attr->mode)) {
		attr = &read;
		err = vexfs_finish_truncation(fs, ino) ?: vexfs_read_inode(fs, ino, &read);
	}
	if (!err)
		err = vexfs_fill_inode(inode, attr);
	if (!err && S_ISLNK(inode->i_mode))
		err = vexfs_read_link(inode);
	if (err) {
		if (err == -EUCLEAN)
			vexfs_error(fs, err, "an inode's attributes are impossible");
		iget_failed(inode);
		return ERR_PTR(err);
	}
	/*
	 * It may have been changed while it was in memory before: then at the latest
	 * in this generation.
	 */
	VEXFS_I(inode)->generation = READ_ONCE(fs->newest);
	unlock_new_inode(inode);
	return inode;
}

/*
 * The inode's times for the engine. Taken under the lock, since changes under it
 * set new ones, which older ones must not overwrite.
 */
void vexfs_get_times(const struct inode *inode, struct vexfs_set_attrs *attrs)
{
	lockdep_assert_held_write(&VEXFS_SB(inode->i_sb)->lock);
	attrs->atime = vexfs_time(inode_get_atime(inode));
	attrs->mtime = vexfs_time(inode_get_mtime(inode));
	attrs->ctime = vexfs_time(inode_get_ctime(inode));
}

/* The inode's other attributes for the engine: those that @valid names are to be written. */
void vexfs_get_attrs(const struct inode *inode, struct vexfs_set_attrs *attrs, unsigned int valid)
{
	*attrs = (struct vexfs_set_attrs){
		.valid = valid | VEXFS_ATTR_ATIME | VEXFS_ATTR_MTIME,
		.mode = inode->i_mode,
		.uid = i_uid_read(inode),
		.gid = i_gid_read(inode),
	};
}

/* Writes the inode's times to the engine, and the attributes that @valid names. */
int vexfs_write_attrs(struct inode *inode, unsigned int valid, unsigned int mode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_set_attrs attrs;
	struct vexfs_call call;
	int err;

	vexfs_get_attrs(inode, &attrs, valid);
	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE | mode);
	call.inode[0] = inode;
	do {
		err = vexfs_call_enter(&call);
		if (!err) {
			vexfs_get_times(inode, &attrs);
			err = vexfs_rust_write_inode(fs->volume, inode->i_ino, &attrs, NULL,
						     &call.report);
		}
	} while (vexfs_call_again(&call, &err));
	return err;
}

int vexfs_write_inode(struct inode *inode, struct writeback_control *wbc)
{
	return vexfs_write_attrs(inode, 0, VEXFS_NOKILL);
}

/*
 * What a change in the engine did to an inode in memory. In the same hold of the
 * lock as the change, so that writeback of the times does not come in between.
 */
void vexfs_update_ctime(struct inode *inode, struct vexfs_timestamp now)
{
	lockdep_assert_held_write(&VEXFS_SB(inode->i_sb)->lock);
	inode_set_ctime_to_ts(inode, vexfs_timespec(now));
	inode_inc_iversion(inode);
}

/* The same for a directory of which an entry changed. */
void vexfs_update_dir(struct inode *dir, const struct vexfs_attr *attr, struct vexfs_timestamp now)
{
	/* The engine could not always read it. */
	if (attr->ino == dir->i_ino) {
		i_size_write(dir, attr->size);
		VEXFS_I(dir)->disk_size = attr->size;
		set_nlink(dir, attr->nlink);
	}
	inode_set_mtime_to_ts(dir, vexfs_timespec(now));
	vexfs_update_ctime(dir, now);
}

/* The number of blocks and the size after a change of them, in the same hold of the lock. */
int vexfs_update_blocks(struct inode *inode, struct vexfs_call *call)
{
	struct vexfs_attr attr;
	int err;

	lockdep_assert_held_write(&call->fs->lock);
	err = vexfs_rust_init_inode(call->fs->volume, inode->i_ino, &attr, &call->report);
	if (err)
		return err;
	inode->i_blocks = attr.blocks << (VEXFS_BLOCK_SHIFT - SECTOR_SHIFT);
	WRITE_ONCE(VEXFS_I(inode)->disk_size, attr.size);
	return 0;
}

void vexfs_evict_inode(struct inode *inode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	int err;

	truncate_inode_pages_final(&inode->i_data);
	if (!inode->i_nlink && !is_bad_inode(inode) && inode->i_ino) {
		err = vexfs_destroy_inode(fs, inode->i_ino, NULL);
		/* It stays in the list of orphans. */
		if (err && !vexfs_failed(fs))
			vexfs_warn_ratelimited(inode->i_sb, "inode %lu cannot be freed now (%d); the next mount will\n",
					       inode->i_ino, err);
	}
	clear_inode(inode);
}
