// SPDX-License-Identifier: GPL-2.0-only
/*
 * File handles, for NFS and open_by_handle_at(2). The inode number is enough,
 * since none is used twice; the generation is always 0.
 */
#include <linux/exportfs.h>

#include "vexfs.h"

#define VEXFS_FH_WORDS 3
#define VEXFS_FH_PARENT_WORDS 6

static int vexfs_encode_fh(struct inode *inode, __u32 *fh, int *max_len, struct inode *parent)
{
	int words = parent ? VEXFS_FH_PARENT_WORDS : VEXFS_FH_WORDS;

	if (*max_len < words) {
		*max_len = words;
		return FILEID_INVALID;
	}
	*max_len = words;
	fh[0] = inode->i_ino >> 32;
	fh[1] = (u32)inode->i_ino;
	fh[2] = inode->i_generation;
	if (!parent)
		return FILEID_INO64_GEN;
	fh[3] = parent->i_ino >> 32;
	fh[4] = (u32)parent->i_ino;
	fh[5] = parent->i_generation;
	return FILEID_INO64_GEN_PARENT;
}

static struct dentry *vexfs_fh_dentry(struct super_block *sb, const __u32 *raw)
{
	u64 ino = (u64)raw[0] << 32 | raw[1];
	struct inode *inode;

	if (!ino)
		return ERR_PTR(-ESTALE);
	inode = vexfs_iget(sb, ino, NULL, 0);
	if (IS_ERR(inode))
		return PTR_ERR(inode) == -ENOENT ? ERR_PTR(-ESTALE) : ERR_CAST(inode);
	return d_obtain_alias(inode);
}

static struct dentry *vexfs_fh_to_dentry(struct super_block *sb, struct fid *fid, int len, int type)
{
	if (type != FILEID_INO64_GEN && type != FILEID_INO64_GEN_PARENT)
		return NULL;
	if (len < VEXFS_FH_WORDS)
		return NULL;
	return vexfs_fh_dentry(sb, fid->raw);
}

static struct dentry *vexfs_fh_to_parent(struct super_block *sb, struct fid *fid, int len, int type)
{
	if (type != FILEID_INO64_GEN_PARENT || len < VEXFS_FH_PARENT_WORDS)
		return NULL;
	return vexfs_fh_dentry(sb, fid->raw + VEXFS_FH_WORDS);
}

static struct dentry *vexfs_get_parent(struct dentry *child)
{
	struct vexfs_fs *fs = VEXFS_SB(child->d_sb);
	struct vexfs_attr attr;
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_SHARED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_init_inode(fs->volume, d_inode(child)->i_ino, &attr,
					    &call.report);
	} while (vexfs_call_again(&call, &err));
	if (err)
		return ERR_PTR(err);
	return d_obtain_alias(vexfs_iget(child->d_sb, attr.parent, NULL, 0));
}

const struct export_operations vexfs_export_ops = {
	.encode_fh	= vexfs_encode_fh,
	.fh_to_dentry	= vexfs_fh_to_dentry,
	.fh_to_parent	= vexfs_fh_to_parent,
	.get_parent	= vexfs_get_parent,
	/* What an NFS server has replied survives its crash. */
	.commit_metadata = vexfs_fsync_inode,
};
