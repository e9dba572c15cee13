// SPDX-License-Identifier: GPL-2.0-only
/*
 * Extended attributes: user, trusted and security, which the engine stores as
 * they are, and vexfs.vector, which it interprets. POSIX ACLs are in acl.c.
 */
#include <linux/fs.h>
#include <linux/posix_acl_xattr.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/xattr.h>

#include "vexfs.h"

#define VEXFS_VECTOR "vexfs.vector"

/* Reads an attribute by its full name; returns its length. */
int vexfs_xattr_read(struct inode *inode, const char *name, void *buffer, size_t size)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_call call;
	size_t used;
	int err;

	if (strlen(name) > XATTR_NAME_MAX)
		return -ERANGE;
	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_xattr_get(fs->volume, inode->i_ino, (const u8 *)name,
					   strlen(name), buffer, size, &used, &call.report);
	} while (vexfs_call_again(&call, &err));
	return err ?: used;
}

/* Sets an attribute by its full name, or removes it if @value is NULL. */
static int vexfs_xattr_write(struct inode *inode, const char *name, const void *value, size_t size,
			     u32 flags)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_timestamp now = vexfs_now();
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE);
	call.inode[0] = inode;
	do {
		err = vexfs_call_enter(&call);
		if (!err && value)
			err = vexfs_rust_xattr_set(fs->volume, inode->i_ino, (const u8 *)name,
						   strlen(name), value, size, flags, now,
						   &call.report);
		else if (!err)
			err = vexfs_rust_xattr_remove(fs->volume, inode->i_ino, (const u8 *)name,
						      strlen(name), now, &call.report);
		if (!err)
			vexfs_update_ctime(inode, now);
	} while (vexfs_call_again(&call, &err));
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
	struct vexfs_call call;
	size_t used;
	int err;

	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_get_vector(fs->volume, inode->i_ino, buffer, size, &used,
					    &call.report);
	} while (vexfs_call_again(&call, &err));
	return err ?: used;
}

static int vexfs_vector_set(const struct xattr_handler *handler, struct mnt_idmap *idmap,
			    struct dentry *dentry, struct inode *inode, const char *name,
			    const void *value, size_t size, int flags)
{
	struct vexfs_inode *vi = VEXFS_I(inode);
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_timestamp now = vexfs_now();
	struct vexfs_call call;
	int err;

	if (!S_ISREG(inode->i_mode) && !S_ISDIR(inode->i_mode))
		return -EOPNOTSUPP;
	if ((flags & XATTR_CREATE) && vi->vector)
		return -EEXIST;
	if (((flags & XATTR_REPLACE) || !value) && !vi->vector)
		return -ENODATA;
	/* To the engine, no text means to remove it. */
	if (value && !size)
		return -EINVAL;
	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE);
	call.inode[0] = inode;
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_set_vector(fs->volume, inode->i_ino, value, value ? size : 0,
					    now, &call.report);
		if (!err)
			vexfs_update_ctime(inode, now);
	} while (vexfs_call_again(&call, &err));
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

static int vexfs_list_names(struct inode *inode, char *names, size_t size, size_t *used)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_xattr_list(fs->volume, inode->i_ino, (u8 *)names, size, used,
					    &call.report);
	} while (vexfs_call_again(&call, &err));
	return err;
}

ssize_t vexfs_listxattr(struct dentry *dentry, char *buffer, size_t size)
{
	struct inode *inode = d_inode(dentry);
	size_t used = 0, have = 0, at, total = 0;
	char *names = NULL;
	int err;

	/* First how long the list is, then the list; it may grow in between, but not for long. */
	do {
		if (used > have) {
			kvfree(names);
			names = kvmalloc(used, GFP_KERNEL);
			if (!names)
				return -ENOMEM;
			have = used;
		}
		err = vexfs_list_names(inode, NULL, 0, &used);
		if (!err && used && used <= have)
			err = vexfs_list_names(inode, names, have, &used);
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
