// SPDX-License-Identifier: GPL-2.0-only
/*
 * Extended attributes: user, trusted and security as they are; POSIX ACLs,
 * which the kernel interprets; and vexfs.vector, which is the engine's own.
 */
#include <linux/fs.h>
#include <linux/iversion.h>
#include <linux/posix_acl_xattr.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/xattr.h>

#include "vexfs.h"

#define VEXFS_VECTOR "vexfs.vector"

static int vexfs_xattr_read(struct inode *inode, const char *name, void *buffer, size_t size)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_op op;
	size_t used;
	int err;

	if (strlen(name) > XATTR_NAME_MAX)
		return -ERANGE;
	vexfs_op_init(&op, fs, VEXFS_SHARED);
	err = vexfs_run(&op, vexfs_rust_xattr_get(fs->volume, inode->i_ino, (const u8 *)name,
						  strlen(name), buffer, size, &used, &op.report));
	return err ?: used;
}

/* Sets (or, without a value, removes) an attribute by its full name. */
static int vexfs_xattr_write(struct inode *inode, const char *name, const void *value, size_t size,
			     u32 flags)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_timestamp now = vexfs_now();
	struct vexfs_op op;
	int err;

	vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE);
	op.inode[0] = inode;
	if (value)
		err = vexfs_run(&op, vexfs_rust_xattr_set(fs->volume, inode->i_ino, (const u8 *)name,
							  strlen(name), value, size, flags, now,
							  &op.report) ?:
				     (vexfs_touch(inode, now), 0));
	else
		err = vexfs_run(&op, vexfs_rust_xattr_remove(fs->volume, inode->i_ino,
							     (const u8 *)name, strlen(name), now,
							     &op.report) ?:
				     (vexfs_touch(inode, now), 0));
	return err;
}

static int vexfs_xattr_get(const struct xattr_handler *handler, struct dentry *dentry,
			   struct inode *inode, const char *name, void *buffer, size_t size)
{
	return vexfs_xattr_read(inode, xattr_full_name(handler, name), buffer, size);
}

static int vexfs_xattr_set(const struct xattr_handler *handler, struct mnt_idmap *idmap,
			   struct dentry *dentry, struct inode *inode, const char *name,
			   const void *value, size_t size, int flags)
{
	u32 engine_flags = 0;

	if (flags & XATTR_CREATE)
		engine_flags = VEXFS_XATTR_CREATE;
	else if (flags & XATTR_REPLACE)
		engine_flags = VEXFS_XATTR_REPLACE;
	return vexfs_xattr_write(inode, xattr_full_name(handler, name), value, size, engine_flags);
}

static int vexfs_vector_get(const struct xattr_handler *handler, struct dentry *dentry,
			    struct inode *inode, const char *name, void *buffer, size_t size)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_op op;
	size_t used;
	int err;

	vexfs_op_init(&op, fs, VEXFS_SHARED);
	err = vexfs_run(&op, vexfs_rust_get_vector(fs->volume, inode->i_ino, buffer, size, &used,
						   &op.report));
	return err ?: used;
}

static int vexfs_vector_set(const struct xattr_handler *handler, struct mnt_idmap *idmap,
			    struct dentry *dentry, struct inode *inode, const char *name,
			    const void *value, size_t size, int flags)
{
	struct vexfs_inode *vi = VEXFS_I(inode);
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_timestamp now = vexfs_now();
	struct vexfs_op op;
	int err;

	if (!S_ISREG(inode->i_mode) && !S_ISDIR(inode->i_mode))
		return -EOPNOTSUPP;
	if ((flags & XATTR_CREATE) && vi->vector)
		return -EEXIST;
	if (((flags & XATTR_REPLACE) || !value) && !vi->vector)
		return -ENODATA;
	/* An empty text would take the attribute away; the engine has not seen the page cache. */
	if (value && (!size || (S_ISREG(inode->i_mode) && i_size_read(inode))))
		return -EINVAL;
	vexfs_op_init(&op, fs, VEXFS_EXCLUSIVE);
	op.inode[0] = inode;
	err = vexfs_run(&op, vexfs_rust_set_vector(fs->volume, inode->i_ino, value,
						   value ? size : 0, now, &op.report) ?:
			     (vexfs_touch(inode, now), 0));
	if (!err)
		vi->vector = value;
	return err;
}

static const struct xattr_handler vexfs_xattr_user = {
	.prefix = XATTR_USER_PREFIX, .get = vexfs_xattr_get, .set = vexfs_xattr_set,
};

static const struct xattr_handler vexfs_xattr_trusted = {
	.prefix = XATTR_TRUSTED_PREFIX, .get = vexfs_xattr_get, .set = vexfs_xattr_set,
};

static const struct xattr_handler vexfs_xattr_security = {
	.prefix = XATTR_SECURITY_PREFIX, .get = vexfs_xattr_get, .set = vexfs_xattr_set,
};

static const struct xattr_handler vexfs_xattr_vector = {
	.name = VEXFS_VECTOR, .get = vexfs_vector_get, .set = vexfs_vector_set,
};

const struct xattr_handler *const vexfs_xattr_handlers[] = {
	&vexfs_xattr_user,
	&vexfs_xattr_trusted,
	&vexfs_xattr_security,
	&vexfs_xattr_vector,
	NULL
};

static bool vexfs_listed(struct dentry *dentry, const char *name)
{
	if (!strncmp(name, XATTR_TRUSTED_PREFIX, XATTR_TRUSTED_PREFIX_LEN))
		return capable(CAP_SYS_ADMIN);
	if (is_posix_acl_xattr(name))
		return IS_POSIXACL(d_inode(dentry));
	return true;
}

ssize_t vexfs_listxattr(struct dentry *dentry, char *buffer, size_t size)
{
	struct inode *inode = d_inode(dentry);
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	size_t used = 0, have = 0, at, total = 0;
	struct vexfs_op op;
	char *names = NULL;
	int err;

	/* First how many, then which; the list may grow in between, but not for long. */
	do {
		if (used > have) {
			kvfree(names);
			names = kvmalloc(used, GFP_KERNEL);
			if (!names)
				return -ENOMEM;
			have = used;
		}
		vexfs_op_init(&op, fs, VEXFS_SHARED);
		err = vexfs_run(&op, vexfs_rust_xattr_list(fs->volume, inode->i_ino, NULL, 0, &used,
							   &op.report));
		if (!err && used && used <= have)
			err = vexfs_run(&op, vexfs_rust_xattr_list(fs->volume, inode->i_ino,
								   (u8 *)names, have, &used,
								   &op.report));
		if (err && err != -ERANGE)
			goto out;
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			goto out;
		}
	} while (err == -ERANGE || used > have);

	err = -ERANGE;
	for (at = 0; at < used; at += strlen(names + at) + 1) {
		size_t len = strlen(names + at) + 1;

		if (!vexfs_listed(dentry, names + at))
			continue;
		if (size) {
			if (total + len > size)
				goto out;
			memcpy(buffer + total, names + at, len);
		}
		total += len;
	}
	if (VEXFS_I(inode)->vector) {
		if (size) {
			if (total + sizeof(VEXFS_VECTOR) > size)
				goto out;
			memcpy(buffer + total, VEXFS_VECTOR, sizeof(VEXFS_VECTOR));
		}
		total += sizeof(VEXFS_VECTOR);
	}
	err = 0;
out:
	kvfree(names);
	return err ?: total;
}

/* --- POSIX ACLs --- */

struct posix_acl *vexfs_get_acl(struct inode *inode, int type, bool rcu)
{
	const char *name = posix_acl_xattr_name(type);
	struct posix_acl *acl = NULL;
	void *value = NULL;
	int len;

	if (rcu)
		return ERR_PTR(-ECHILD);
	/* No lock keeps it from growing between the two calls. */
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

/* Stores an ACL, or takes it away, with the attributes of the inode that @valid names. */
int vexfs_store_acl(struct inode *inode, struct posix_acl *acl, int type, unsigned int valid)
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
	err = vexfs_push_acl(inode, valid, name, value, size);
	if (!err)
		set_cached_acl(inode, type, acl);
	kfree(value);
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
	err = vexfs_store_acl(inode, acl, type, mode == old ? 0 : VEXFS_ATTR_MODE);
	if (err)
		inode->i_mode = old;
	return err;
}

static int vexfs_init_xattrs(struct inode *inode, const struct xattr *xattrs, void *data)
{
	const struct xattr *xattr;
	int err = 0;

	for (xattr = xattrs; !err && xattr->name; xattr++) {
		char *name = kasprintf(GFP_KERNEL, XATTR_SECURITY_PREFIX "%s", xattr->name);

		if (!name)
			return -ENOMEM;
		err = vexfs_xattr_write(inode, name, xattr->value, xattr->value_len, 0);
		kfree(name);
	}
	return err;
}

int vexfs_init_security(struct inode *inode, struct inode *dir, const struct qstr *name)
{
	int err = security_inode_init_security(inode, dir, name, vexfs_init_xattrs, NULL);

	return err == -EOPNOTSUPP ? 0 : err;
}
