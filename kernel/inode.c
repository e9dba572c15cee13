// SPDX-License-Identifier: GPL-2.0-only
/*
 * Inodes: from the engine into the kernel and back.
 *
 * While an inode is in memory its times are the kernel's, written back lazily;
 * everything else changes in the engine first.
 */
#include <linux/blkdev.h>
#include <linux/iversion.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/slab.h>
#include <linux/writeback.h>

#include "vexfs.h"

/* The engine's count of changes, made so that our own finer one never falls behind it. */
#define VEXFS_VERSION_SHIFT 16

/* Makes the kernel's inode what the engine says it is. */
int vexfs_inode_fill(struct inode *inode, const struct vexfs_attr *attr)
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

static int vexfs_read_link(struct inode *inode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	size_t len = inode->i_size + 1, used;
	struct vexfs_op op;
	char *target;
	int err;

	if (len > PAGE_SIZE)
		return -EUCLEAN;
	target = kmalloc(len, GFP_KERNEL);
	if (!target)
		return -ENOMEM;
	vexfs_op_init(&op, fs, VEXFS_SHARED);
	err = vexfs_run(&op, vexfs_rust_readlink(fs->volume, inode->i_ino, target, len, &used,
						 &op.report));
	if (err) {
		kfree(target);
		return err == -ERANGE ? -EUCLEAN : err;
	}
	inode->i_link = target;
	return 0;
}

/*
 * A handle's number can be guessed. One of an inode that its maker has not hashed
 * yet would bring in a second one: until then it is stale. Under the engine's lock.
 */
static int vexfs_check_newborn(struct vexfs_fs *fs, u64 ino)
{
	struct vexfs_inode *vi;
	int err = 0;

	spin_lock(&fs->newborn_lock);
	list_for_each_entry(vi, &fs->newborn, newborn)
		if (vi->vfs.i_ino == ino)
			err = -ESTALE;
	spin_unlock(&fs->newborn_lock);
	return err;
}

/*
 * The inode in memory. @attr, if it is not NULL, is what a lookup found when
 * the filesystem's count of changes stood at @changes.
 */
struct inode *vexfs_iget(struct super_block *sb, u64 ino, const struct vexfs_attr *attr,
			 u64 changes)
{
	struct vexfs_fs *fs = VEXFS_SB(sb);
	struct vexfs_attr fresh;
	struct vexfs_op op;
	struct inode *inode;
	int err = 0;

	inode = iget_locked(sb, ino);
	if (!inode)
		return ERR_PTR(-ENOMEM);
	if (!(inode->i_state & I_NEW))
		return inode;

	/* It may have been changed and thrown out of memory since that lookup. */
	if (!attr || READ_ONCE(fs->changes) != changes) {
		attr = &fresh;
		vexfs_op_init(&op, fs, VEXFS_SHARED);
		err = vexfs_run(&op, vexfs_rust_init_inode(fs->volume, ino, &fresh, &op.report) ?:
				     vexfs_check_newborn(fs, ino));
	}
	if (!err && !attr->nlink)
		err = -ESTALE;
	if (!err && READ_ONCE(fs->orphans_end) && S_ISREG(attr->mode)) {
		err = vexfs_finish_truncation(fs, ino, &fresh);
		/* What may not be changed cannot be made longer either. */
		if (err == -EROFS)
			err = 0;
		else
			attr = &fresh;
	}
	if (!err)
		err = vexfs_inode_fill(inode, attr);
	if (!err && S_ISLNK(inode->i_mode))
		err = vexfs_read_link(inode);
	if (err) {
		if (err == -EUCLEAN)
			vexfs_error(fs, "an inode's attributes are impossible");
		iget_failed(inode);
		return ERR_PTR(err);
	}
	/* When it changed last is not known: it may have been in memory before. */
	VEXFS_I(inode)->generation = READ_ONCE(fs->newest);
	unlock_new_inode(inode);
	return inode;
}

/* Under the engine's lock: its changes bring their own times, and what is older may not come after them. */
static void vexfs_read_times(struct inode *inode, struct vexfs_set_attrs *attrs)
{
	attrs->atime = vexfs_time(inode_get_atime(inode));
	attrs->mtime = vexfs_time(inode_get_mtime(inode));
	attrs->ctime = vexfs_time(inode_get_ctime(inode));
}

/* The kernel's attributes for the engine, but for the times: those that @valid names. */
static struct vexfs_set_attrs vexfs_attrs_of(const struct inode *inode, unsigned int valid)
{
	return (struct vexfs_set_attrs){
		.valid = valid | VEXFS_ATTR_ATIME | VEXFS_ATTR_MTIME,
		.mode = inode->i_mode,
		.uid = i_uid_read(inode),
		.gid = i_gid_read(inode),
	};
}

/* Writes the kernel's attributes to the engine: times, and what else @valid names. */
int vexfs_push_attrs(struct inode *inode, unsigned int valid, unsigned int mode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_set_attrs attrs = vexfs_attrs_of(inode, valid);
	struct vexfs_op op;

	vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE | mode);
	op.inode[0] = inode;
	return vexfs_run(&op, (vexfs_read_times(inode, &attrs),
			       vexfs_rust_write_inode(fs->volume, inode->i_ino, &attrs, NULL,
						      &op.report)));
}

/* The same, together with an ACL by its attribute's name; without a value it goes. */
int vexfs_push_acl(struct inode *inode, unsigned int valid, const char *name, const void *value,
		   size_t size)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_set_attrs attrs = vexfs_attrs_of(inode, valid);
	struct vexfs_op op;

	vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE);
	op.inode[0] = inode;
	return vexfs_run(&op, (vexfs_read_times(inode, &attrs),
			       vexfs_rust_set_acl(fs->volume, inode->i_ino, (const u8 *)name,
						  strlen(name), value, size, &attrs, &op.report)));
}

int vexfs_write_inode(struct inode *inode, struct writeback_control *wbc)
{
	return vexfs_push_attrs(inode, 0, VEXFS_NOKILL);
}

/*
 * What an engine's change did to inodes in memory. Under the engine's lock, in the
 * same hold as the change: writeback of their times must not come in between.
 */
void vexfs_touch(struct inode *inode, struct vexfs_timestamp now)
{
	inode_set_ctime_to_ts(inode, vexfs_timespec(now));
	inode_inc_iversion(inode);
}

/* A directory after one of its entries changed. */
void vexfs_touch_dir(struct inode *dir, const struct vexfs_attr *attr, struct vexfs_timestamp now)
{
	if (attr->ino == dir->i_ino) {
		i_size_write(dir, attr->size);
		VEXFS_I(dir)->disk_size = attr->size;
		set_nlink(dir, attr->nlink);
	}
	inode_set_mtime_to_ts(dir, vexfs_timespec(now));
	vexfs_touch(dir, now);
}

void vexfs_evict_inode(struct inode *inode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_op op;
	u32 more;
	int err;

	truncate_inode_pages_final(&inode->i_data);
	if (!inode->i_nlink && !is_bad_inode(inode) && inode->i_ino) {
		sb_start_intwrite(inode->i_sb);
		do {
			vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE | VEXFS_NOKILL);
			err = vexfs_run(&op, vexfs_rust_destroy_inode(fs->volume, inode->i_ino,
								      &more, &op.report));
			cond_resched();
		} while (!err && more);
		sb_end_intwrite(inode->i_sb);
		/* Not lost: it stays in the list of orphans, for the next mount. */
		if (err && !READ_ONCE(fs->failed))
			pr_warn_ratelimited(VEXFS_NAME " (%s): inode %lu cannot be freed now (%d); the next mount will\n",
					    inode->i_sb->s_id, inode->i_ino, err);
	}
	clear_inode(inode);
}

/* How many blocks the inode holds since a change, and its size. Under the engine's lock, in the same hold as that. */
int vexfs_follow_blocks(struct inode *inode, struct vexfs_op *op)
{
	struct vexfs_attr attr;
	int err;

	err = vexfs_rust_init_inode(op->fs->volume, inode->i_ino, &attr, &op->report);
	if (err)
		return err;
	inode->i_blocks = attr.blocks << (VEXFS_BLOCK_SHIFT - SECTOR_SHIFT);
	WRITE_ONCE(VEXFS_I(inode)->disk_size, attr.size);
	return 0;
}

static int vexfs_change_size(struct inode *inode, loff_t size)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_timestamp now = vexfs_time(inode_get_ctime(inode));
	struct vexfs_op op;
	u32 more;
	int err;

	do {
		vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE | VEXFS_NOKILL | VEXFS_MAPS);
		op.inode[0] = inode;
		err = vexfs_run(&op, vexfs_rust_truncate_file(fs->volume, inode->i_ino, size, now,
							      &more, &op.report) ?:
				     vexfs_follow_blocks(inode, &op));
		if (err)
			return err;
		cond_resched();
	} while (more);
	return 0;
}

/* Truncates or extends. The caller holds i_rwsem. */
int vexfs_setsize(struct inode *inode, loff_t size)
{
	struct address_space *mapping = inode->i_mapping;
	loff_t old = i_size_read(inode);
	bool zeroed = false;
	int err;

	inode_dio_wait(inode);
	filemap_invalidate_lock(mapping);
	/* What becomes readable past the old end, or past the new one later, reads as zeroes. */
	if (size > old)
		err = iomap_zero_range(inode, old, size - old, NULL, &vexfs_iomap_ops);
	else
		err = iomap_truncate_page(inode, size, &zeroed, &vexfs_iomap_ops);
	/* On the medium too, before the new size is. */
	if (!err && zeroed)
		err = filemap_write_and_wait_range(mapping, size, size);
	if (!err) {
		truncate_setsize(inode, size);
		err = vexfs_change_size(inode, size);
		/* It failed: the engine's size is the file's, and what was written behind that one stays. */
		if (err)
			i_size_write(inode, max(VEXFS_I(inode)->disk_size, min(old, size)));
	}
	filemap_invalidate_unlock(mapping);
	return err;
}

int vexfs_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	struct posix_acl *acl = NULL;
	unsigned int valid = 0;
	umode_t mode;
	kuid_t uid;
	kgid_t gid;
	int err;

	err = setattr_prepare(idmap, dentry, attr);
	if (err)
		return err;
	if (attr->ia_valid & ATTR_MODE) {
		acl = get_inode_acl(inode, ACL_TYPE_ACCESS);
		if (acl == ERR_PTR(-EOPNOTSUPP))
			acl = NULL;
		if (IS_ERR(acl))
			return PTR_ERR(acl);
		/* Gives the old one back, whatever comes of it. */
		if (acl)
			err = __posix_acl_chmod(&acl, GFP_KERNEL, attr->ia_mode);
		if (err)
			return err;
	}
	if ((attr->ia_valid & ATTR_SIZE) && attr->ia_size != i_size_read(inode)) {
		struct timespec64 now = inode_set_ctime_current(inode);

		inode_set_mtime_to_ts(inode, now);
		err = vexfs_setsize(inode, attr->ia_size);
		if (err)
			goto out;
	}

	mode = inode->i_mode;
	uid = inode->i_uid;
	gid = inode->i_gid;
	setattr_copy(idmap, inode, attr);
	inode_inc_iversion(inode);
	if (inode->i_mode != mode)
		valid |= VEXFS_ATTR_MODE;
	if (!uid_eq(inode->i_uid, uid))
		valid |= VEXFS_ATTR_UID;
	if (!gid_eq(inode->i_gid, gid))
		valid |= VEXFS_ATTR_GID;
	/* The mode and the ACL's idea of it change together. */
	err = acl ? vexfs_store_acl(inode, acl, ACL_TYPE_ACCESS, valid) :
		    vexfs_push_attrs(inode, valid, 0);
	if (err) {
		inode->i_mode = mode;
		inode->i_uid = uid;
		inode->i_gid = gid;
	}
out:
	posix_acl_release(acl);
	return err;
}

int vexfs_getattr(struct mnt_idmap *idmap, const struct path *path, struct kstat *stat,
		  u32 request_mask, unsigned int flags)
{
	struct inode *inode = d_inode(path->dentry);
	struct block_device *bdev = inode->i_sb->s_bdev;

	generic_fillattr(idmap, request_mask, inode, stat);
	stat->blksize = VEXFS_BLOCK_BYTES;
	stat->result_mask |= STATX_BTIME;
	stat->btime = VEXFS_I(inode)->btime;
	if ((request_mask & STATX_DIOALIGN) && S_ISREG(inode->i_mode)) {
		stat->result_mask |= STATX_DIOALIGN;
		stat->dio_mem_align = bdev_dma_alignment(bdev) + 1;
		stat->dio_offset_align = bdev_logical_block_size(bdev);
	}
	return 0;
}
