// SPDX-License-Identifier: GPL-2.0-only
/*
 * Directories and the names in them. The engine changes first; the kernel's
 * inodes are updated after it succeeded, in the same hold of its lock.
 */
#include <linux/namei.h>
#include <linux/posix_acl.h>
#include <linux/slab.h>

#include "vexfs.h"

/*
 * Entries are copied out of the engine in batches: the reader's buffer may fault,
 * which must not happen under the lock.
 */
#define VEXFS_READDIR_BYTES 8192

/* Where the engine finds the name of @dentry, which is in @dir. */
static struct vexfs_name_at vexfs_name_at(const struct inode *dir, const struct dentry *dentry)
{
	return (struct vexfs_name_at){
		.dir = dir->i_ino,
		.name = dentry->d_name.name,
		.len = dentry->d_name.len,
	};
}

static struct dentry *vexfs_lookup(struct inode *dir, struct dentry *dentry, unsigned int flags)
{
	struct vexfs_fs *fs = VEXFS_SB(dir->i_sb);
	struct vexfs_name_at at = vexfs_name_at(dir, dentry);
	struct inode *inode = NULL;
	struct vexfs_attr attr;
	struct vexfs_call call;
	u64 changes;
	int err;

	if (dentry->d_name.len > NAME_MAX)
		return ERR_PTR(-ENAMETOOLONG);
	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call);
		if (!err) {
			changes = fs->changes;
			err = vexfs_rust_lookup_inode(fs->volume, &at, &attr, &call.report);
		}
	} while (vexfs_call_again(&call, &err));
	if (!err)
		inode = vexfs_iget(dir->i_sb, attr.ino, &attr, changes);
	else if (err != -ENOENT)
		return ERR_PTR(err);
	return d_splice_alias(inode, dentry);
}

static int vexfs_read_entries(struct inode *dir, u64 pos, u8 *buffer, size_t *used)
{
	struct vexfs_fs *fs = VEXFS_SB(dir->i_sb);
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_readdir(fs->volume, dir->i_ino, pos, buffer,
					 VEXFS_READDIR_BYTES, used, &call.report);
	} while (vexfs_call_again(&call, &err));
	return err;
}

static int vexfs_iterate(struct file *file, struct dir_context *ctx)
{
	struct inode *dir = file_inode(file);
	size_t used, at;
	u8 *buffer;
	int err = 0;

	if (!dir_emit_dots(file, ctx))
		return 0;
	buffer = kmalloc(VEXFS_READDIR_BYTES, GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	for (;;) {
		err = vexfs_read_entries(dir, ctx->pos, buffer, &used);
		if (err || !used)
			break;
		for (at = 0; at < used;) {
			const struct vexfs_dir_record *record = (const void *)(buffer + at);

			if (!dir_emit(ctx, (const char *)(record + 1), record->name_len,
				      record->ino, record->file_type))
				goto out;
			ctx->pos = record->cookie;
			at += record->record_len;
		}
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		cond_resched();
	}
out:
	kfree(buffer);
	return err;
}

static void vexfs_new_attrs(struct vexfs_new_attrs *attrs, const struct inode *inode, dev_t rdev,
			    const char *target)
{
	*attrs = (struct vexfs_new_attrs){
		.now = vexfs_time(inode_get_ctime(inode)),
		.mode = inode->i_mode,
		.uid = i_uid_read(inode),
		.gid = i_gid_read(inode),
		.rdev = new_encode_dev(rdev),
		.target = target,
		.target_len = target ? strlen(target) : 0,
	};
}

static struct inode *vexfs_new_inode(struct mnt_idmap *idmap, struct inode *dir, umode_t mode)
{
	struct inode *inode = new_inode(dir->i_sb);

	if (inode) {
		inode_init_owner(idmap, inode, dir, mode);
		inode_set_atime_to_ts(inode, inode_set_mtime_to_ts(inode,
					     inode_set_ctime_current(inode)));
	}
	return inode;
}

/*
 * The end of every change of names: with -o dirsync the change is durable before the
 * call returns.
 */
static int vexfs_dirsync(struct inode *dir)
{
	return IS_DIRSYNC(dir) ? vexfs_fsync_inode(dir) : 0;
}

/*
 * The engine has created an inode, under its lock. File handles do not find it
 * before vexfs_end_creating().
 */
static void vexfs_begin_creating(struct inode *inode, const struct vexfs_attr *attr)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);

	lockdep_assert_held_write(&fs->lock);
	inode->i_ino = attr->ino;
	spin_lock(&fs->creating_lock);
	list_add(&VEXFS_I(inode)->creating, &fs->creating);
	spin_unlock(&fs->creating_lock);
}

static void vexfs_end_creating(struct inode *inode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);

	spin_lock(&fs->creating_lock);
	list_del_init(&VEXFS_I(inode)->creating);
	spin_unlock(&fs->creating_lock);
}

/* Fills in an inode that the engine has created, and puts it into the inode cache. */
static int vexfs_insert_inode(struct inode *inode, const struct vexfs_attr *attr)
{
	int err = vexfs_fill_inode(inode, attr) ?: insert_inode_locked(inode);

	if (!err)
		return 0;
	/* Numbers are never given twice. */
	vexfs_error(VEXFS_SB(inode->i_sb), -EUCLEAN, "a new inode's number is in use");
	return -EUCLEAN;
}

static void vexfs_finish_unlink(struct inode *dir, struct inode *inode,
				const struct vexfs_attr *attr, const struct vexfs_attr *dir_attr,
				struct vexfs_timestamp now)
{
	vexfs_update_dir(dir, dir_attr, now);
	vexfs_update_ctime(inode, now);
	if (S_ISDIR(inode->i_mode))
		i_size_write(inode, 0);
	set_nlink(inode, attr->nlink);
}

/* Removes a name of @inode, which may be a directory. */
static int vexfs_remove(struct inode *dir, struct dentry *dentry, struct inode *inode,
			unsigned int mode)
{
	struct vexfs_fs *fs = VEXFS_SB(dir->i_sb);
	struct vexfs_name_at at = vexfs_name_at(dir, dentry);
	struct vexfs_timestamp now = vexfs_now();
	struct vexfs_attr attr, dir_attr;
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE | mode);
	call.inode[0] = dir;
	call.inode[1] = inode;
	do {
		err = vexfs_call_enter(&call);
		if (!err && S_ISDIR(inode->i_mode))
			err = vexfs_rust_remove_dir(fs->volume, &at, now, &attr, &dir_attr,
						    &call.report);
		else if (!err)
			err = vexfs_rust_unlink_file(fs->volume, &at, now, &attr, &dir_attr,
						     &call.report);
		if (!err)
			vexfs_finish_unlink(dir, inode, &attr, &dir_attr, now);
	} while (vexfs_call_again(&call, &err));
	return err;
}

/* Creates in the engine what @attrs says, for @inode. */
static int vexfs_create_in(struct inode *dir, struct dentry *dentry, struct inode *inode,
			   const struct vexfs_new_attrs *attrs, struct vexfs_attr *attr)
{
	struct vexfs_fs *fs = VEXFS_SB(dir->i_sb);
	struct vexfs_name_at at = vexfs_name_at(dir, dentry);
	struct vexfs_attr dir_attr;
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE);
	call.inode[0] = dir;
	call.inode[1] = inode;
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_create(fs->volume, &at, attrs, attr, &dir_attr, &call.report);
		if (!err) {
			vexfs_update_dir(dir, &dir_attr, attr->ctime);
			vexfs_begin_creating(inode, attr);
		}
	} while (vexfs_call_again(&call, &err));
	return err;
}

/* Creates a name for a new inode of any type; @target is a symbolic link's. */
static int vexfs_create_entry(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
			      umode_t mode, dev_t rdev, const char *target)
{
	struct posix_acl *default_acl = NULL, *acl = NULL;
	struct vexfs_new_attrs attrs;
	struct vexfs_attr attr;
	struct inode *inode;
	char *link = NULL;
	int err;

	if (!S_ISLNK(mode)) {
		err = posix_acl_create(dir, &mode, &default_acl, &acl);
		if (err)
			return err;
	}
	err = -ENOMEM;
	inode = vexfs_new_inode(idmap, dir, mode);
	if (!inode)
		goto out;
	if (target) {
		link = kstrdup(target, GFP_KERNEL);
		if (!link)
			goto out_inode;
	}

	vexfs_new_attrs(&attrs, inode, rdev, target);
	err = vexfs_create_in(dir, dentry, inode, &attrs, &attr);
	if (!err)
		err = vexfs_insert_inode(inode, &attr);
	vexfs_end_creating(inode);
	if (err)
		goto out_inode;
	if (link)
		inode->i_link = link;
	link = NULL;
	err = vexfs_init_acl(inode, default_acl, acl) ?:
	      vexfs_init_security(inode, dir, &dentry->d_name);
	if (err) {
		/* If that fails too, the file stays, without what it was to inherit. */
		vexfs_remove(dir, dentry, inode, VEXFS_NOKILL);
		discard_new_inode(inode);
		goto out;
	}
	d_instantiate_new(dentry, inode);
	err = vexfs_dirsync(dir);
	goto out;

out_inode:
	kfree(link);
	iput(inode);
out:
	posix_acl_release(default_acl);
	posix_acl_release(acl);
	return err;
}

static int vexfs_create(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
			umode_t mode, bool excl)
{
	return vexfs_create_entry(idmap, dir, dentry, mode, 0, NULL);
}

static VEXFS_MKDIR_RETURNS vexfs_mkdir(struct mnt_idmap *idmap, struct inode *dir,
				       struct dentry *dentry, umode_t mode)
{
	return VEXFS_MKDIR_RESULT(vexfs_create_entry(idmap, dir, dentry, mode | S_IFDIR, 0, NULL));
}

static int vexfs_mknod(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
		       umode_t mode, dev_t rdev)
{
	return vexfs_create_entry(idmap, dir, dentry, mode, rdev, NULL);
}

static int vexfs_symlink(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
			 const char *target)
{
	if (strlen(target) >= PAGE_SIZE)
		return -ENAMETOOLONG;
	return vexfs_create_entry(idmap, dir, dentry, S_IFLNK | 0777, 0, target);
}

static int vexfs_tmpfile(struct mnt_idmap *idmap, struct inode *dir, struct file *file,
			 umode_t mode)
{
	struct vexfs_fs *fs = VEXFS_SB(dir->i_sb);
	struct posix_acl *default_acl, *acl;
	struct vexfs_new_attrs attrs;
	struct vexfs_attr attr;
	struct vexfs_call call;
	struct inode *inode;
	int err;

	err = posix_acl_create(dir, &mode, &default_acl, &acl);
	if (err)
		return err;
	inode = vexfs_new_inode(idmap, dir, mode);
	if (!inode) {
		err = -ENOMEM;
		goto out;
	}
	vexfs_new_attrs(&attrs, inode, 0, NULL);
	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE);
	call.inode[0] = inode;
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_new_inode(fs->volume, &attrs, &attr, &call.report);
	} while (vexfs_call_again(&call, &err));
	if (err) {
		iput(inode);
		goto out;
	}
	/* File handles find no inode without a name. d_tmpfile() drops this link again. */
	attr.nlink = 1;
	err = vexfs_insert_inode(inode, &attr);
	if (err) {
		iput(inode);
		goto out;
	}
	err = vexfs_init_acl(inode, default_acl, acl) ?: vexfs_init_security(inode, dir, NULL);
	if (err) {
		clear_nlink(inode);
		discard_new_inode(inode);
		goto out;
	}
	d_tmpfile(file, inode);
	unlock_new_inode(inode);
out:
	posix_acl_release(default_acl);
	posix_acl_release(acl);
	return finish_open_simple(file, err);
}

static int vexfs_link(struct dentry *old, struct inode *dir, struct dentry *dentry)
{
	struct vexfs_fs *fs = VEXFS_SB(dir->i_sb);
	struct inode *inode = d_inode(old);
	struct vexfs_name_at at = vexfs_name_at(dir, dentry);
	struct vexfs_attr attr, dir_attr;
	struct vexfs_timestamp now = vexfs_now();
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE);
	call.inode[0] = dir;
	call.inode[1] = inode;
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_link(fs->volume, inode->i_ino, &at, now, &attr, &dir_attr,
				      &call.report);
		if (!err) {
			vexfs_update_dir(dir, &dir_attr, now);
			vexfs_update_ctime(inode, now);
			set_nlink(inode, attr.nlink);
		}
	} while (vexfs_call_again(&call, &err));
	if (err)
		return err;
	ihold(inode);
	d_instantiate(dentry, inode);
	return vexfs_dirsync(dir);
}

static int vexfs_unlink(struct inode *dir, struct dentry *dentry)
{
	return vexfs_remove(dir, dentry, d_inode(dentry), 0) ?: vexfs_dirsync(dir);
}

static int vexfs_rmdir(struct inode *dir, struct dentry *dentry)
{
	return vexfs_remove(dir, dentry, d_inode(dentry), 0) ?: vexfs_dirsync(dir);
}

static void vexfs_finish_rename(struct inode *old_dir, struct inode *new_dir, struct inode *inode,
				struct inode *other, const struct vexfs_rename_result *result,
				bool exchange, struct vexfs_timestamp now)
{
	vexfs_update_dir(old_dir, &result->from_dir, now);
	vexfs_update_dir(new_dir, &result->to_dir, now);
	vexfs_update_ctime(inode, now);
	if (other && result->other.ino == other->i_ino) {
		vexfs_update_ctime(other, now);
		if (!exchange)
			set_nlink(other, result->other.nlink);
	}
}

static int vexfs_rename(struct mnt_idmap *idmap, struct inode *old_dir, struct dentry *old_dentry,
			struct inode *new_dir, struct dentry *new_dentry, unsigned int flags)
{
	struct vexfs_fs *fs = VEXFS_SB(old_dir->i_sb);
	struct inode *inode = d_inode(old_dentry), *other = d_inode(new_dentry);
	struct vexfs_timestamp now = vexfs_now();
	struct vexfs_name_at from = vexfs_name_at(old_dir, old_dentry);
	struct vexfs_name_at to = vexfs_name_at(new_dir, new_dentry);
	struct vexfs_rename_result *result;
	struct vexfs_call call;
	u32 engine_flags = 0;
	int err;

	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	if (flags & RENAME_NOREPLACE)
		engine_flags |= VEXFS_RENAME_NOREPLACE;
	if (flags & RENAME_EXCHANGE)
		engine_flags |= VEXFS_RENAME_EXCHANGE;
	result = kmalloc(sizeof(*result), GFP_KERNEL);
	if (!result)
		return -ENOMEM;

	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE);
	call.inode[0] = inode;
	call.inode[1] = new_dir;
	call.inode[2] = old_dir;
	call.inode[3] = other;
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_rename(fs->volume, &from, &to, engine_flags, now, result,
					&call.report);
		if (!err)
			vexfs_finish_rename(old_dir, new_dir, inode, other, result,
					    flags & RENAME_EXCHANGE, now);
	} while (vexfs_call_again(&call, &err));
	kfree(result);
	/* One commit has both directories. */
	return err ?: vexfs_dirsync(IS_DIRSYNC(old_dir) ? old_dir : new_dir);
}

const struct inode_operations vexfs_dir_iops = {
	.lookup		= vexfs_lookup,
	.create		= vexfs_create,
	.link		= vexfs_link,
	.unlink		= vexfs_unlink,
	.symlink	= vexfs_symlink,
	.mkdir		= vexfs_mkdir,
	.rmdir		= vexfs_rmdir,
	.mknod		= vexfs_mknod,
	.rename		= vexfs_rename,
	.tmpfile	= vexfs_tmpfile,
	.setattr	= vexfs_setattr,
	.getattr	= vexfs_getattr,
	.listxattr	= vexfs_listxattr,
	.get_inode_acl	= vexfs_get_acl,
	.set_acl	= vexfs_set_acl,
};

const struct file_operations vexfs_dir_fops = {
	.llseek		= generic_file_llseek,
	.read		= generic_read_dir,
	.iterate_shared	= vexfs_iterate,
	.unlocked_ioctl	= vexfs_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.fsync		= vexfs_fsync,
};

const struct inode_operations vexfs_symlink_iops = {
	.get_link	= simple_get_link,
	.setattr	= vexfs_setattr,
	.getattr	= vexfs_getattr,
	.listxattr	= vexfs_listxattr,
};

const struct inode_operations vexfs_special_iops = {
	.setattr	= vexfs_setattr,
	.getattr	= vexfs_getattr,
	.listxattr	= vexfs_listxattr,
	.get_inode_acl	= vexfs_get_acl,
	.set_acl	= vexfs_set_acl,
};
