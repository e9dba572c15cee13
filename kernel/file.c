// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regular files: reads, writes, maps, holes.
 *
 * i_rwsem is held exclusively by whatever moves the size or the blocks, shared
 * by direct I/O within the file. mapping->invalidate_lock keeps faults and
 * readahead away while blocks are taken from under the page cache.
 */
#include <linux/types.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/pagemap.h>
#include <linux/uio.h>
#include <linux/writeback.h>

#include "vexfs.h"

#define VEXFS_FALLOC_MODES (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)

static int vexfs_lock_inode(struct kiocb *iocb, struct inode *inode, bool shared)
{
	if (iocb->ki_flags & IOCB_NOWAIT) {
		if (!(shared ? inode_trylock_shared(inode) : inode_trylock(inode)))
			return -EAGAIN;
	} else if (shared) {
		inode_lock_shared(inode);
	} else {
		inode_lock(inode);
	}
	return 0;
}

static void vexfs_unlock_inode(struct inode *inode, bool shared)
{
	if (shared)
		inode_unlock_shared(inode);
	else
		inode_unlock(inode);
}

static ssize_t vexfs_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t done;

	if (!iov_iter_count(to))
		return 0;
	if (!(iocb->ki_flags & IOCB_DIRECT))
		return generic_file_read_iter(iocb, to);
	done = vexfs_lock_inode(iocb, inode, true);
	if (done)
		return done;
	file_accessed(iocb->ki_filp);
	done = iomap_dio_rw(iocb, to, &vexfs_iomap_ops, NULL, 0, NULL, 0);
	inode_unlock_shared(inode);
	return done;
}

/* The checks before a write. Returns the number of bytes to write, 0, or an error. */
static ssize_t vexfs_write_checks(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	loff_t size;
	ssize_t count;
	int err;

	lockdep_assert_held(&inode->i_rwsem);
	count = generic_write_checks(iocb, from);
	if (count <= 0)
		return count;
	err = kiocb_modified(iocb);
	if (err)
		return err;
	/* The bytes between the old end and this write become part of the file, as zeroes. */
	size = i_size_read(inode);
	if (iocb->ki_pos > size) {
		if (iocb->ki_flags & IOCB_NOWAIT)
			return -EAGAIN;
		inode_dio_wait(inode);
		filemap_invalidate_lock(inode->i_mapping);
		err = iomap_zero_range(inode, size, iocb->ki_pos - size, NULL, &vexfs_iomap_ops);
		filemap_invalidate_unlock(inode->i_mapping);
		if (err)
			return err;
	}
	return count;
}

static ssize_t vexfs_buffered_write(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t done;

	done = vexfs_lock_inode(iocb, inode, false);
	if (done)
		return done;
	done = vexfs_write_checks(iocb, from);
	if (done > 0)
		done = iomap_file_buffered_write(iocb, from, &vexfs_iomap_ops, NULL);
	inode_unlock(inode);
	if (done > 0)
		done = generic_write_sync(iocb, done);
	return done;
}

static bool vexfs_unaligned(struct kiocb *iocb, struct iov_iter *from)
{
	return (iocb->ki_pos | iov_iter_count(from)) & (VEXFS_BLOCK_BYTES - 1);
}

/*
 * A direct write needs i_rwsem exclusively if it changes the size, shares a block, or
 * has to clear setuid.
 */
static bool vexfs_may_share(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);

	return !(iocb->ki_flags & IOCB_APPEND) && !vexfs_unaligned(iocb, from) &&
	       iocb->ki_pos + iov_iter_count(from) <= i_size_read(inode) && IS_NOSEC(inode);
}

static ssize_t vexfs_direct_write(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	bool shared = vexfs_may_share(iocb, from);
	unsigned int flags = 0;
	ssize_t done;

again:
	done = vexfs_lock_inode(iocb, inode, shared);
	if (done)
		return done;
	/*
	 * The file may have changed before we got the lock, and the checks may shorten
	 * the write.
	 */
	if (!shared || vexfs_may_share(iocb, from))
		done = vexfs_write_checks(iocb, from);
	if (shared && done >= 0 && !vexfs_may_share(iocb, from)) {
		inode_unlock_shared(inode);
		shared = false;
		goto again;
	}
	if (done <= 0)
		goto out;
	if (!shared) {
		bool unaligned = vexfs_unaligned(iocb, from);

		if (unaligned) {
			if (iocb->ki_flags & IOCB_NOWAIT) {
				done = -EAGAIN;
				goto out;
			}
			inode_dio_wait(inode);
		}
		if (unaligned || iocb->ki_pos + iov_iter_count(from) > i_size_read(inode))
			flags |= IOMAP_DIO_FORCE_WAIT;
	}
	done = iomap_dio_rw(iocb, from, &vexfs_iomap_ops, &vexfs_dio_write_ops, flags, NULL, 0);
out:
	vexfs_unlock_inode(inode, shared);
	return done;
}

static ssize_t vexfs_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	ssize_t done;

	if (vexfs_failed(VEXFS_SB(file_inode(iocb->ki_filp)->i_sb)))
		return -EROFS;
	if (iocb->ki_flags & IOCB_DIRECT) {
		done = vexfs_direct_write(iocb, from);
		/* The page cache could not be invalidated: write through it. */
		if (done != -ENOTBLK)
			return done;
	}
	return vexfs_buffered_write(iocb, from);
}

static vm_fault_t vexfs_page_mkwrite(struct vm_fault *vmf)
{
	struct inode *inode = file_inode(vmf->vma->vm_file);
	vm_fault_t done;

	/* As for write(): mapped blocks could be overwritten without asking the engine. */
	if (vexfs_failed(VEXFS_SB(inode->i_sb)))
		return VM_FAULT_SIGBUS;
	sb_start_pagefault(inode->i_sb);
	file_update_time(vmf->vma->vm_file);
	filemap_invalidate_lock_shared(inode->i_mapping);
	done = iomap_page_mkwrite(vmf, &vexfs_iomap_ops);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	sb_end_pagefault(inode->i_sb);
	return done;
}

static const struct vm_operations_struct vexfs_vm_ops = {
	.fault		= filemap_fault,
	.map_pages	= filemap_map_pages,
	.page_mkwrite	= vexfs_page_mkwrite,
};

static int vexfs_mmap(struct file *file, struct vm_area_struct *vma)
{
	file_accessed(file);
	vma->vm_ops = &vexfs_vm_ops;
	return 0;
}

static int vexfs_open(struct inode *inode, struct file *file)
{
	file->f_mode |= FMODE_NOWAIT | FMODE_CAN_ODIRECT;
	return generic_file_open(inode, file);
}

/* For files and directories. */
int vexfs_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	struct inode *inode = file->f_mapping->host;
	int err, late;

	err = file_write_and_wait_range(file, start, end);
	/*
	 * fdatasync need not make times durable that are all that changed. An inode
	 * under writeback is clean already, but the engine may not have its times yet.
	 */
	if (!err && (inode->i_state & (datasync ? I_DIRTY_DATASYNC : I_DIRTY_ALL | I_SYNC)))
		err = sync_inode_metadata(inode, 1);
	if (!err)
		err = vexfs_fsync_inode(inode);
	late = file_check_and_advance_wb_err(file);
	return err ?: late;
}

static loff_t vexfs_llseek(struct file *file, loff_t offset, int whence)
{
	struct inode *inode = file_inode(file);

	switch (whence) {
	case SEEK_HOLE:
	case SEEK_DATA:
		inode_lock_shared(inode);
		if (whence == SEEK_HOLE)
			offset = iomap_seek_hole(inode, offset, &vexfs_iomap_ops);
		else
			offset = iomap_seek_data(inode, offset, &vexfs_iomap_ops);
		inode_unlock_shared(inode);
		if (offset < 0)
			return offset;
		return vfs_setpos(file, offset, inode->i_sb->s_maxbytes);
	default:
		return generic_file_llseek(file, offset, whence);
	}
}

static int vexfs_fiemap(struct inode *inode, struct fiemap_extent_info *info, u64 start, u64 len)
{
	int err;

	inode_lock_shared(inode);
	err = iomap_fiemap(inode, info, start, len, &vexfs_iomap_ops);
	inode_unlock_shared(inode);
	return err;
}

/*
 * Frees whole blocks, in steps. Leaves the times alone: a caller that frees what
 * the user wrote has set them already.
 */
static int vexfs_free_blocks(struct inode *inode, u64 first, u64 last, unsigned int mode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_call call;
	u32 more;
	int err;

	lockdep_assert_held_write(&inode->i_rwsem);
	lockdep_assert_held_write(&inode->i_mapping->invalidate_lock);
	do {
		vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE | VEXFS_MAPS | mode);
		call.inode[0] = inode;
		do {
			err = vexfs_call_enter(&call) ?:
			      vexfs_rust_punch(fs->volume, inode->i_ino, first, last - first,
					       NULL, &more, &call.report) ?:
			      vexfs_update_blocks(inode, &call);
		} while (vexfs_call_again(&call, &err));
		cond_resched();
	} while (!err && more);
	return err;
}

/* Frees blocks that were allocated ahead of an appending writer and not used. */
static void vexfs_free_ahead(struct inode *inode)
{
	struct vexfs_inode *vi = VEXFS_I(inode);
	u64 first, last;

	inode_lock(inode);
	filemap_invalidate_lock(inode->i_mapping);
	/* A frozen filesystem must not change; then the next close does this. */
	if (sb_start_intwrite_trylock(inode->i_sb)) {
		first = DIV_ROUND_UP_ULL(i_size_read(inode), VEXFS_BLOCK_BYTES);
		last = vi->ahead_end;
		vi->ahead_end = 0;
		/* If it fails, they stay allocated until the file is truncated or removed. */
		if (first < last)
			vexfs_free_blocks(inode, first, last, VEXFS_NOKILL);
		sb_end_intwrite(inode->i_sb);
	}
	filemap_invalidate_unlock(inode->i_mapping);
	inode_unlock(inode);
}

static int vexfs_file_release(struct inode *inode, struct file *file)
{
	if ((file->f_mode & FMODE_WRITE) && READ_ONCE(VEXFS_I(inode)->ahead_end) &&
	    atomic_read(&inode->i_writecount) == 1 && inode->i_nlink)
		vexfs_free_ahead(inode);
	return 0;
}

/* Zeroes the partial blocks at both ends, and frees the blocks between. */
static int vexfs_punch(struct inode *inode, loff_t start, loff_t end)
{
	u64 first = DIV_ROUND_UP_ULL(start, VEXFS_BLOCK_BYTES);
	u64 last = end >> VEXFS_BLOCK_SHIFT;
	int err;

	if (first >= last)
		return iomap_zero_range(inode, start, end - start, NULL, &vexfs_iomap_ops);
	if (start & (VEXFS_BLOCK_BYTES - 1)) {
		err = iomap_zero_range(inode, start, (first << VEXFS_BLOCK_SHIFT) - start, NULL,
				       &vexfs_iomap_ops);
		if (err)
			return err;
	}
	if (end & (VEXFS_BLOCK_BYTES - 1)) {
		err = iomap_zero_range(inode, last << VEXFS_BLOCK_SHIFT,
				       end - (last << VEXFS_BLOCK_SHIFT), NULL, &vexfs_iomap_ops);
		if (err)
			return err;
	}
	truncate_pagecache_range(inode, first << VEXFS_BLOCK_SHIFT, (last << VEXFS_BLOCK_SHIFT) - 1);
	return vexfs_free_blocks(inode, first, last, 0);
}

static int vexfs_preallocate(struct inode *inode, loff_t start, loff_t end)
{
	u64 block = start >> VEXFS_BLOCK_SHIFT;
	u64 stop = DIV_ROUND_UP_ULL(end, VEXFS_BLOCK_BYTES);
	struct vexfs_extent extent;
	int err;

	while (block < stop) {
		err = vexfs_allocate(inode, block, stop - block, &extent, 0);
		if (err)
			return err;
		block += min(extent.count, stop - block);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static long vexfs_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	struct inode *inode = file_inode(file);
	struct address_space *mapping = inode->i_mapping;
	loff_t end = offset + len, size;
	int err;

	if (mode & ~VEXFS_FALLOC_MODES)
		return -EOPNOTSUPP;
	inode_lock(inode);
	inode_dio_wait(inode);
	size = i_size_read(inode);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && end > size) {
		err = inode_newsize_ok(inode, end);
		if (err)
			goto out;
	}
	err = file_modified(file);
	if (err)
		goto out;
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
		loff_t stop = min(end, size);

		filemap_invalidate_lock(mapping);
		err = filemap_write_and_wait_range(mapping, offset, end - 1);
		/* Past the end nothing can be read, but blocks may be allocated. */
		if (!err && offset < size)
			err = vexfs_punch(inode, offset, end > size ? round_up(end, VEXFS_BLOCK_BYTES) :
						 stop);
		else if (!err)
			err = vexfs_punch(inode, round_up(offset, VEXFS_BLOCK_BYTES),
					  max(round_up(offset, VEXFS_BLOCK_BYTES),
					      round_down(end, VEXFS_BLOCK_BYTES)));
		filemap_invalidate_unlock(mapping);
		if (err)
			goto out;
	}
	if (!(mode & FALLOC_FL_PUNCH_HOLE)) {
		/* Blocks past the end are now wanted: closing must not free them. */
		VEXFS_I(inode)->ahead_end = 0;
		err = vexfs_preallocate(inode, offset, end);
		if (!err && !(mode & FALLOC_FL_KEEP_SIZE) && end > size)
			err = vexfs_setsize(inode, end);
	}
	if (!err && ((file->f_flags & O_DSYNC) || IS_SYNC(inode)))
		err = vexfs_fsync_inode(inode);
out:
	inode_unlock(inode);
	return err;
}

const struct inode_operations vexfs_file_iops = {
	.setattr	= vexfs_setattr,
	.getattr	= vexfs_getattr,
	.listxattr	= vexfs_listxattr,
	.get_inode_acl	= vexfs_get_acl,
	.set_acl	= vexfs_set_acl,
	.fiemap		= vexfs_fiemap,
};

const struct file_operations vexfs_file_fops = {
	.llseek		= vexfs_llseek,
	.read_iter	= vexfs_read_iter,
	.write_iter	= vexfs_write_iter,
	.mmap		= vexfs_mmap,
	.unlocked_ioctl	= vexfs_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.open		= vexfs_open,
	.release	= vexfs_file_release,
	.fsync		= vexfs_fsync,
	.splice_read	= filemap_splice_read,
	.splice_write	= iter_file_splice_write,
	.fallocate	= vexfs_fallocate,
	.get_unmapped_area = thp_get_unmapped_area,
	.fop_flags	= FOP_BUFFER_RASYNC | FOP_BUFFER_WASYNC | FOP_DIO_PARALLEL_WRITE,
};
