// SPDX-License-Identifier: GPL-2.0-only
/*
 * POSIX ACLs. The kernel interprets them; the engine stores them as attributes,
 * each in one change with the mode that belongs to it.
 */
#include <linux/iversion.h>
#include <linux/posix_acl_xattr.h>
#include <linux/slab.h>

#include "vexfs.h"

struct posix_acl *vexfs_get_acl(struct inode *inode, int type, bool rcu)
{
	const char *name = posix_acl_xattr_name(type);
	struct posix_acl *acl = NULL;
	void *value = NULL;
	int len;

	if (rcu)
		return ERR_PTR(-ECHILD);
	/* It may grow between the two calls. */
	do {
		kfree(value);
		value = NULL;
		len = vexfs_xattr_read(inode, name, NULL, 0);
		if (len > 0) {
			value = kmalloc(len, GFP_KERNEL);
			if (!value)
				return ERR_PTR(-ENOMEM);
			len = vexfs_xattr_read(inode, name, value, len);
		}
	} while (len == -ERANGE);
	if (len > 0)
		acl = posix_acl_from_xattr(&init_user_ns, value, len);
	else if (len && len != -ENODATA)
		acl = ERR_PTR(len);
	kfree(value);
	return acl;
}

/* Writes an encoded ACL, or removes it if @value is NULL, with the attributes that @valid names. */
static int vexfs_write_acl_value(struct inode *inode, const char *name, const void *value,
				 size_t size, unsigned int valid)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_set_attrs attrs;
	struct vexfs_call call;
	int err;

	vexfs_get_attrs(inode, &attrs, valid);
	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE);
	call.inode[0] = inode;
	do {
		err = vexfs_call_enter(&call);
		if (!err) {
			vexfs_get_times(inode, &attrs);
			err = vexfs_rust_set_acl(fs->volume, inode->i_ino, (const u8 *)name,
						 strlen(name), value, size, &attrs, &call.report);
		}
	} while (vexfs_call_again(&call, &err));
	return err;
}

/* Writes an ACL, or removes it if @acl is NULL, with the inode's attributes that @valid names. */
int vexfs_write_acl(struct inode *inode, struct posix_acl *acl, int type, unsigned int valid)
{
	const char *name = posix_acl_xattr_name(type);
	void *value = NULL;
	int size = 0, err;

	if (acl) {
		size = posix_acl_xattr_size(acl->a_count);
		value = kmalloc(size, GFP_KERNEL);
		if (!value)
			return -ENOMEM;
		size = posix_acl_to_xattr(&init_user_ns, acl, value, size);
		if (size < 0) {
			kfree(value);
			return size;
		}
	}
	err = vexfs_write_acl_value(inode, name, value, size, valid);
	if (!err)
		set_cached_acl(inode, type, acl);
	kfree(value);
	return err;
}

/* The ACLs that a new inode inherits. */
int vexfs_init_acl(struct inode *inode, struct posix_acl *default_acl, struct posix_acl *acl)
{
	int err = 0;

	if (default_acl)
		err = vexfs_write_acl(inode, default_acl, ACL_TYPE_DEFAULT, 0);
	if (!err && acl)
		err = vexfs_write_acl(inode, acl, ACL_TYPE_ACCESS, 0);
	return err;
}

int vexfs_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, struct posix_acl *acl, int type)
{
	struct inode *inode = d_inode(dentry);
	umode_t mode = inode->i_mode, old = mode;
	int err;

	if (type == ACL_TYPE_ACCESS && acl) {
		err = posix_acl_update_mode(idmap, inode, &mode, &acl);
		if (err)
			return err;
	} else if (type == ACL_TYPE_DEFAULT && !S_ISDIR(inode->i_mode)) {
		return acl ? -EACCES : 0;
	}
	inode->i_mode = mode;
	inode_set_ctime_current(inode);
	inode_inc_iversion(inode);
	err = vexfs_write_acl(inode, acl, type, mode == old ? 0 : VEXFS_ATTR_MODE);
	if (err)
		inode->i_mode = old;
	return err;
}
