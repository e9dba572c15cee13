// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attributes of inodes, as programs ask for them and set them.
 */
#include <linux/blkdev.h>
#include <linux/iversion.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>

#include "vexfs.h"

static int vexfs_change_size(struct inode *inode, loff_t size)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_timestamp now = vexfs_time(inode_get_ctime(inode));
	struct vexfs_call call;
	u32 more;
	int err;

	do {
		vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE | VEXFS_NOKILL | VEXFS_MAPS);
		call.inode[0] = inode;
		do {
			err = vexfs_call_enter(&call) ?:
			      vexfs_rust_truncate_file(fs->volume, inode->i_ino, size, now, &more,
						       &call.report) ?:
			      vexfs_update_blocks(inode, &call);
		} while (vexfs_call_again(&call, &err));
		cond_resched();
	} while (!err && more);
	return err;
}

/* Truncates or extends. */
int vexfs_setsize(struct inode *inode, loff_t size)
{
	struct address_space *mapping = inode->i_mapping;
	loff_t old = i_size_read(inode);
	bool zeroed = false;
	int err;

	lockdep_assert_held_write(&inode->i_rwsem);
	inode_dio_wait(inode);
	filemap_invalidate_lock(mapping);
	/*
	 * What becomes readable past the old end, or later past the new one, must read
	 * as zeroes.
	 */
	if (size > old)
		err = iomap_zero_range(inode, old, size - old, NULL, &vexfs_iomap_ops);
	else
		err = iomap_truncate_page(inode, size, &zeroed, &vexfs_iomap_ops);
	/* The zeroes reach the medium before the new size does. */
	if (!err && zeroed)
		err = filemap_write_and_wait_range(mapping, size, size);
	if (!err) {
		truncate_setsize(inode, size);
		err = vexfs_change_size(inode, size);
		/*
		 * The file then has the size that the engine has, and keeps what was
		 * written past that.
		 */
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
		/* Releases the old ACL even if it fails. */
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
	/* The mode and its copy in the ACL change together. */
	err = acl ? vexfs_write_acl(inode, acl, ACL_TYPE_ACCESS, valid) :
		    vexfs_write_attrs(inode, valid, 0);
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
