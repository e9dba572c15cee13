// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mounting, remounting, unmounting; the module itself.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/blkdev.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/statfs.h>

#include "vexfs.h"

static struct kmem_cache *vexfs_inode_cache;

static struct inode *vexfs_alloc_inode(struct super_block *sb)
{
	struct vexfs_inode *vi = alloc_inode_sb(sb, vexfs_inode_cache, GFP_KERNEL);

	if (!vi)
		return NULL;
	vi->generation = 0;
	vi->map_seq = 0;
	vi->cached_seq = 0;
	vi->cached.count = 0;
	vi->vector = false;
	vi->disk_size = 0;
	vi->ahead_end = 0;
	vi->btime = (struct timespec64){ };
	INIT_LIST_HEAD(&vi->ioend_list);
	INIT_LIST_HEAD(&vi->creating);
	INIT_WORK(&vi->ioend_work, vexfs_ioend_work);
	return &vi->vfs;
}

/* Runs after a grace period: until then, path walks under RCU may still read a link's target. */
static void vexfs_free_inode(struct inode *inode)
{
	if (S_ISLNK(inode->i_mode))
		kfree(inode->i_link);
	kmem_cache_free(vexfs_inode_cache, VEXFS_I(inode));
}

static void vexfs_inode_once(void *object)
{
	struct vexfs_inode *vi = object;

	spin_lock_init(&vi->map_lock);
	spin_lock_init(&vi->ioend_lock);
	inode_init_once(&vi->vfs);
}

static int vexfs_sync_fs(struct super_block *sb, int wait)
{
	struct vexfs_fs *fs = VEXFS_SB(sb);

	if (!wait || sb_rdonly(sb))
		return 0;
	return vexfs_sync(fs, 0);
}

/* Clearing orphans changes the filesystem: it has to be done before a freeze. */
static int vexfs_freeze_super(struct super_block *sb, enum freeze_holder who)
{
	vexfs_orphans_wait(VEXFS_SB(sb));
	return freeze_super(sb, who);
}

static int vexfs_freeze_fs(struct super_block *sb)
{
	return sb_rdonly(sb) ? 0 : vexfs_sync(VEXFS_SB(sb), 0);
}

static int vexfs_unfreeze_fs(struct super_block *sb)
{
	return 0;
}

/* All inodes are evicted; this commits what that changed, and closes the volume. */
static void vexfs_put_super(struct super_block *sb)
{
	struct vexfs_fs *fs = VEXFS_SB(sb);
	int err;

	vexfs_window_drain(fs);
	vexfs_volume_stop(fs);
	if (!sb_rdonly(sb) && !vexfs_failed(fs)) {
		err = vexfs_sync(fs, VEXFS_NOKILL);
		if (err)
			vexfs_err(sb, "the last commit failed (%d)\n", err);
	}
	vexfs_volume_close(fs);
}

static int vexfs_statfs(struct dentry *dentry, struct kstatfs *stat)
{
	struct super_block *sb = dentry->d_sb;
	struct vexfs_fs *fs = VEXFS_SB(sb);
	struct vexfs_figures figures;
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_get_statfs(fs->volume, &figures);
	} while (vexfs_call_again(&call, &err));
	if (err)
		return err;
	stat->f_type = VEXFS_SUPER_MAGIC;
	stat->f_bsize = figures.block_bytes;
	stat->f_blocks = figures.blocks;
	stat->f_bfree = figures.blocks_free;
	stat->f_bavail = figures.blocks_available;
	/* Inodes are allocated from the free blocks: there can be as many as there is room for. */
	stat->f_files = figures.inodes + figures.blocks_available;
	stat->f_ffree = figures.blocks_available;
	stat->f_namelen = figures.name_max;
	stat->f_fsid = uuid_to_fsid(figures.uuid);
	return 0;
}

/* The device was removed while it was mounted. */
static void vexfs_shutdown(struct super_block *sb)
{
	vexfs_stop(VEXFS_SB(sb), "the device is gone");
}

static int vexfs_show_options(struct seq_file *file, struct dentry *root)
{
	if (VEXFS_SB(root->d_sb)->errors == VEXFS_ERRORS_SHUTDOWN)
		seq_puts(file, ",errors=shutdown");
	return 0;
}

static const struct super_operations vexfs_super_ops = {
	.alloc_inode	= vexfs_alloc_inode,
	.free_inode	= vexfs_free_inode,
	.write_inode	= vexfs_write_inode,
	.evict_inode	= vexfs_evict_inode,
	.put_super	= vexfs_put_super,
	.sync_fs	= vexfs_sync_fs,
	.freeze_super	= vexfs_freeze_super,
	.freeze_fs	= vexfs_freeze_fs,
	.unfreeze_fs	= vexfs_unfreeze_fs,
	.statfs		= vexfs_statfs,
	.shutdown	= vexfs_shutdown,
	.show_options	= vexfs_show_options,
};

/* Says why a mount failed. */
static void vexfs_mount_error(struct fs_context *fc, struct super_block *sb,
			      const struct vexfs_report *report, int err)
{
	const char *why = report->message_len ? (const char *)report->message : "cannot be mounted";

	if (fc->sb_flags & SB_SILENT)
		return;
	errorf(fc, VEXFS_NAME " (%s): %s", sb->s_id, why);
	/* With fsopen(2) that went to the caller only, who may not show it. */
	if (fc->log.log)
		vexfs_err(sb, "%s (error %d)\n", why, -err);
}

static int vexfs_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct vexfs_report report;
	struct vexfs_figures figures;
	struct vexfs_fs *fs;
	struct inode *root;
	int err;

	fs = kzalloc(sizeof(*fs), GFP_KERNEL);
	if (!fs)
		return -ENOMEM;
	fs->sb = sb;
	fs->errors = (uintptr_t)fc->fs_private;
	init_rwsem(&fs->lock);
	mutex_init(&fs->commit_mutex);
	spin_lock_init(&fs->creating_lock);
	INIT_LIST_HEAD(&fs->creating);
	vexfs_orphans_init(fs);
	vexfs_window_init(fs);
	sb->s_fs_info = fs;

	if (!sb_set_blocksize(sb, VEXFS_BLOCK_BYTES)) {
		errorf(fc, VEXFS_NAME " (%s): a device with sectors of more than 4096 bytes is not supported",
		       sb->s_id);
		return -EINVAL;
	}
	vexfs_device_init(fs);
	err = vexfs_volume_open(fs, sb_rdonly(sb), &report);
	if (err) {
		vexfs_mount_error(fc, sb, &report, err);
		return err;
	}
	err = vexfs_rust_get_statfs(fs->volume, &figures);
	if (err)
		return err;
	if (figures.block_bytes != VEXFS_BLOCK_BYTES) {
		errorf(fc, VEXFS_NAME " (%s): blocks of %u bytes: only 4096 can be mounted", sb->s_id,
		       figures.block_bytes);
		return -EINVAL;
	}
	fs->bytes = figures.blocks << VEXFS_BLOCK_SHIFT;
	super_set_uuid(sb, figures.uuid, sizeof(figures.uuid));
	sb->s_magic = VEXFS_SUPER_MAGIC;
	sb->s_op = &vexfs_super_ops;
	sb->s_xattr = vexfs_xattr_handlers;
	sb->s_export_op = &vexfs_export_ops;
	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_time_gran = 1;
	sb->s_time_min = S64_MIN;
	sb->s_time_max = S64_MAX;
	sb->s_flags |= SB_POSIXACL | SB_I_VERSION | SB_NOSEC;
	sb->s_iflags |= SB_I_CGROUPWB;

	err = vexfs_volume_start(fs);
	if (err)
		return err;
	root = vexfs_iget(sb, VEXFS_ROOT_INO, NULL, 0);
	if (IS_ERR(root))
		return PTR_ERR(root) == -ENOENT ? -EUCLEAN : PTR_ERR(root);
	if (!S_ISDIR(root->i_mode)) {
		iput(root);
		errorf(fc, VEXFS_NAME " (%s): damaged: the root is not a directory", sb->s_id);
		return -EUCLEAN;
	}
	sb->s_root = d_make_root(root);
	if (!sb->s_root)
		return -ENOMEM;
	return sb_rdonly(sb) ? 0 : vexfs_orphans_start(fs);
}

static int vexfs_get_tree(struct fs_context *fc)
{
	return get_tree_bdev(fc, vexfs_fill_super);
}

static int vexfs_reconfigure(struct fs_context *fc)
{
	struct super_block *sb = fc->root->d_sb;
	struct vexfs_fs *fs = VEXFS_SB(sb);
	bool read_only = fc->sb_flags & SB_RDONLY;
	struct vexfs_report report;
	int err;

	sync_filesystem(sb);
	/* Only flags in sb_flags_mask were asked for. */
	if (!(fc->sb_flags_mask & SB_RDONLY) || read_only == sb_rdonly(sb)) {
		fs->errors = (uintptr_t)fc->fs_private;
		return 0;
	}
	if (read_only) {
		vexfs_orphans_wait(fs);
		err = vexfs_sync(fs, 0);
		if (!err)
			err = vexfs_volume_set_read_only(fs, true);
		if (err)
			return err;
	} else {
		if (vexfs_failed(fs)) {
			errorf(fc, VEXFS_NAME " (%s): damaged: unmount it and run fsck.vexfs first", sb->s_id);
			return -EROFS;
		}
		err = vexfs_volume_probe(fs, &report);
		if (err) {
			vexfs_mount_error(fc, sb, &report, err);
			return err;
		}
		err = vexfs_volume_set_read_only(fs, false);
		if (!err) {
			err = vexfs_orphans_start(fs);
			if (err)
				vexfs_volume_set_read_only(fs, true);
		}
		if (err)
			return err;
	}
	fs->errors = (uintptr_t)fc->fs_private;
	return 0;
}

enum { OPT_ERRORS };

static const struct constant_table vexfs_errors_table[] = {
	{ "remount-ro", VEXFS_ERRORS_REMOUNT_RO },
	{ "shutdown", VEXFS_ERRORS_SHUTDOWN },
	{ }
};

static const struct fs_parameter_spec vexfs_parameters[] = {
	fsparam_enum("errors", OPT_ERRORS, vexfs_errors_table),
	{ }
};

static int vexfs_parse_param(struct fs_context *fc, struct fs_parameter *param)
{
	struct fs_parse_result result;
	int option = fs_parse(fc, vexfs_parameters, param, &result);

	if (option < 0)
		return option;
	fc->fs_private = (void *)(uintptr_t)result.uint_32;
	return 0;
}

static const struct fs_context_operations vexfs_context_ops = {
	.parse_param	= vexfs_parse_param,
	.get_tree	= vexfs_get_tree,
	.reconfigure	= vexfs_reconfigure,
};

static int vexfs_init_fs_context(struct fs_context *fc)
{
	fc->ops = &vexfs_context_ops;
	if (fc->purpose == FS_CONTEXT_FOR_RECONFIGURE)
		fc->fs_private = (void *)(uintptr_t)VEXFS_SB(fc->root->d_sb)->errors;
	return 0;
}

/* Also called after a mount that failed halfway. */
static void vexfs_kill_sb(struct super_block *sb)
{
	struct vexfs_fs *fs = VEXFS_SB(sb);

	/* The orphan worker may use an inode, and inodes are evicted below. */
	if (fs)
		vexfs_orphans_stop(fs);
	/* vexfs_put_super() is only called if there is a root; the device goes away below. */
	if (fs && !sb->s_root)
		vexfs_volume_stop(fs);
	kill_block_super(sb);
	if (fs) {
		vexfs_volume_close(fs);
		kfree(fs);
	}
}

static struct file_system_type vexfs_type = {
	.owner			= THIS_MODULE,
	.name			= VEXFS_NAME,
	.init_fs_context	= vexfs_init_fs_context,
	.parameters		= vexfs_parameters,
	.kill_sb		= vexfs_kill_sb,
	.fs_flags		= FS_REQUIRES_DEV | FS_ALLOW_IDMAP,
};
MODULE_ALIAS_FS(VEXFS_NAME);

static int __init vexfs_init(void)
{
	u8 version[16];
	int err;

	err = vexfs_rust_init(VEXFS_ABI_VERSION);
	if (err) {
		pr_err("the engine and the module do not belong together: build both again\n");
		return err;
	}
	err = vexfs_rust_get_version(version, sizeof(version));
	if (err)
		return err;
	err = vexfs_hook_selftest();
	if (err)
		return err;
	vexfs_inode_cache = kmem_cache_create("vexfs_inode", sizeof(struct vexfs_inode), 0,
					      SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, vexfs_inode_once);
	if (!vexfs_inode_cache)
		return -ENOMEM;
	err = register_filesystem(&vexfs_type);
	if (err) {
		kmem_cache_destroy(vexfs_inode_cache);
		return err;
	}
	pr_info("version %s\n", version);
	return 0;
}

static void __exit vexfs_exit(void)
{
	unregister_filesystem(&vexfs_type);
	/* Inodes are freed after a grace period: the cache must outlive that. */
	rcu_barrier();
	kmem_cache_destroy(vexfs_inode_cache);
	vexfs_rust_exit();
}

module_init(vexfs_init);
module_exit(vexfs_exit);
MODULE_DESCRIPTION("VexFS: a filesystem whose files may hold vectors");
MODULE_LICENSE("GPL");
