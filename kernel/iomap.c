// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where a file's bytes are, for reads, writes, faults and writeback.
 *
 * New blocks are allocated as unwritten, and marked as written in the engine only
 * after their data is on the device: so stale data is never read. A written block
 * is overwritten in place without the engine.
 *
 * The inode keeps the mapping looked up last. It is valid, like every mapping that
 * iomap holds, while the inode's map_seq has not changed; map_seq grows with each
 * change of the mapping, under the engine's exclusive lock.
 */
#include <linux/blkdev.h>
#include <linux/iomap.h>
#include <linux/pagemap.h>
#include <linux/writeback.h>

#include "vexfs.h"

/* Mappings are looked up for at least this many blocks: the next call will need them too. */
#define VEXFS_MAP_BLOCKS 16384
/* A file that grows by appending gets as many blocks ahead as it has, within these limits. */
#define VEXFS_AHEAD_MIN 16
#define VEXFS_AHEAD_MAX 2048

static bool vexfs_map_cached(struct inode *inode, u64 block, struct vexfs_extent *extent, u32 *seq)
{
	struct vexfs_inode *vi = VEXFS_I(inode);
	bool hit;

	spin_lock(&vi->map_lock);
	hit = vi->cached.count && vi->cached_seq == READ_ONCE(vi->map_seq) &&
	      block >= vi->cached.start && block - vi->cached.start < vi->cached.count;
	if (hit) {
		u64 skip = block - vi->cached.start;

		*extent = vi->cached;
		*seq = vi->cached_seq;
		extent->start += skip;
		extent->count -= skip;
		if (extent->kind != VEXFS_MAP_HOLE)
			extent->block += skip;
	}
	spin_unlock(&vi->map_lock);
	return hit;
}

static void vexfs_cache_map(struct inode *inode, const struct vexfs_extent *extent, u32 seq)
{
	struct vexfs_inode *vi = VEXFS_I(inode);

	spin_lock(&vi->map_lock);
	vi->cached = *extent;
	vi->cached_seq = seq;
	spin_unlock(&vi->map_lock);
}

static int vexfs_map(struct inode *inode, u64 block, u64 count, struct vexfs_extent *extent,
		     u32 *seq, unsigned int mode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	u64 limit = (inode->i_sb->s_maxbytes >> VEXFS_BLOCK_SHIFT) + 1;
	struct vexfs_call call;
	int err;

	if (vexfs_map_cached(inode, block, extent, seq))
		return vexfs_dead(fs) ? -EIO : 0;
	count = min(max_t(u64, count, VEXFS_MAP_BLOCKS), limit - block);
	vexfs_call_init(&call, fs, VEXFS_SHARED | mode);
	do {
		err = vexfs_call_enter(&call);
		if (!err) {
			*seq = VEXFS_I(inode)->map_seq;
			err = vexfs_rust_map(fs->volume, inode->i_ino, block, count, extent,
					     &call.report);
		}
	} while (vexfs_call_again(&call, &err));
	if (!err)
		vexfs_cache_map(inode, extent, *seq);
	return err;
}

/* Allocates at least the first block of the range. */
int vexfs_allocate(struct inode *inode, u64 block, u64 count, struct vexfs_extent *extent,
		   unsigned int mode)
{
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE | VEXFS_MAPS | mode);
	call.inode[0] = inode;
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_allocate(fs->volume, inode->i_ino, block, count, extent,
					  &call.report) ?:
		      vexfs_update_blocks(inode, &call);
	} while (vexfs_call_again(&call, &err));
	return err;
}

/*
 * Allocates for a write. An appending write allocates more, for the ones after it;
 * what they do not use is freed when the last writer closes the file.
 */
static int vexfs_allocate_write(struct inode *inode, u64 block, u64 count, u64 room,
				unsigned int flags)
{
	struct vexfs_inode *vi = VEXFS_I(inode);
	u64 blocks = i_size_read(inode) >> VEXFS_BLOCK_SHIFT;
	struct vexfs_extent extent;
	u64 ahead = 0;
	int err;

	if (!(flags & (IOMAP_DIRECT | IOMAP_FAULT)) && blocks && block >= blocks)
		ahead = min(clamp_t(u64, blocks, VEXFS_AHEAD_MIN, VEXFS_AHEAD_MAX), room);
	if (ahead > count) {
		err = vexfs_allocate(inode, block, ahead, &extent, 0);
		if (!err) {
			WRITE_ONCE(vi->ahead_end, extent.start + extent.count);
			return 0;
		}
		if (err != -ENOSPC)
			return err;
	}
	return vexfs_allocate(inode, block, count, &extent, 0);
}

static bool vexfs_iomap_valid(struct inode *inode, const struct iomap *iomap)
{
	return iomap->validity_cookie == READ_ONCE(VEXFS_I(inode)->map_seq);
}

static const struct iomap_folio_ops vexfs_folio_ops = {
	.iomap_valid	= vexfs_iomap_valid,
};

static void vexfs_to_iomap(struct inode *inode, const struct vexfs_extent *extent, u32 seq,
			   struct iomap *iomap)
{
	iomap->bdev = inode->i_sb->s_bdev;
	iomap->offset = (loff_t)extent->start << VEXFS_BLOCK_SHIFT;
	iomap->length = extent->count << VEXFS_BLOCK_SHIFT;
	iomap->validity_cookie = seq;
	iomap->folio_ops = &vexfs_folio_ops;
	iomap->flags = 0;
	switch (extent->kind) {
	case VEXFS_MAP_WRITTEN:
		iomap->type = IOMAP_MAPPED;
		iomap->addr = extent->block << VEXFS_BLOCK_SHIFT;
		break;
	case VEXFS_MAP_UNWRITTEN:
		iomap->type = IOMAP_UNWRITTEN;
		iomap->addr = extent->block << VEXFS_BLOCK_SHIFT;
		break;
	default:
		iomap->type = IOMAP_HOLE;
		iomap->addr = IOMAP_NULL_ADDR;
	}
}

static int vexfs_iomap_begin(struct inode *inode, loff_t pos, loff_t length, unsigned int flags,
			     struct iomap *iomap, struct iomap *srcmap)
{
	struct vexfs_inode *vi = VEXFS_I(inode);
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	u64 block = pos >> VEXFS_BLOCK_SHIFT;
	u64 count = ((pos + length - 1) >> VEXFS_BLOCK_SHIFT) - block + 1;
	unsigned int mode = (flags & IOMAP_NOWAIT) ? VEXFS_NOWAIT : 0;
	struct vexfs_extent extent;
	u32 seq;
	int err;

	/* Mappings are in whole blocks: the one found may begin before @pos. */
	err = vexfs_map(inode, block, count, &extent, &seq, mode);
	if (err)
		return err;
	if (extent.kind == VEXFS_MAP_HOLE && (flags & IOMAP_WRITE) && !(flags & IOMAP_ZERO)) {
		if (flags & IOMAP_NOWAIT)
			return -EAGAIN;
		err = vexfs_allocate_write(inode, block, min(count, extent.count), extent.count,
					   flags);
		if (err)
			return err;
		/* If it changes after this, iomap notices by map_seq and asks again. */
		err = vexfs_map(inode, block, count, &extent, &seq, 0);
		if (err)
			return err;
		if (extent.kind == VEXFS_MAP_HOLE)
			return -EAGAIN;
	}
	vexfs_to_iomap(inode, &extent, seq, iomap);
	if ((flags & IOMAP_WRITE) && READ_ONCE(vi->generation) > READ_ONCE(fs->durable))
		iomap->flags |= IOMAP_F_DIRTY;
	return 0;
}

const struct iomap_ops vexfs_iomap_ops = {
	.iomap_begin	= vexfs_iomap_begin,
};

/*
 * Marks blocks as written: the data of this range is on the device. @size is the
 * least size that the file has then, or 0. Not ended by a signal: the data was
 * promised.
 */
int vexfs_mark_written(struct inode *inode, loff_t offset, size_t len, loff_t size)
{
	struct vexfs_inode *vi = VEXFS_I(inode);
	struct vexfs_fs *fs = VEXFS_SB(inode->i_sb);
	u64 block = offset >> VEXFS_BLOCK_SHIFT;
	u64 count = ((offset + len - 1) >> VEXFS_BLOCK_SHIFT) - block + 1;
	struct vexfs_call call;
	u32 more;
	int err;

	if (size <= READ_ONCE(vi->disk_size))
		size = 0;
	do {
		vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE | VEXFS_NOKILL | VEXFS_MAPS);
		call.inode[0] = inode;
		do {
			err = vexfs_call_enter(&call) ?:
			      vexfs_rust_mark_written(fs->volume, inode->i_ino, block, count,
						      size ?: VEXFS_KEEP_SIZE, NULL, &more,
						      &call.report);
		} while (vexfs_call_again(&call, &err));
	} while (!err && more);
	if (!err && size > READ_ONCE(vi->disk_size))
		WRITE_ONCE(vi->disk_size, size);
	return err;
}

/* --- writeback --- */

/* Marks the blocks of completed writes as written, then ends the writeback of their folios. */
void vexfs_ioend_work(struct work_struct *work)
{
	struct vexfs_inode *vi = container_of(work, struct vexfs_inode, ioend_work);
	unsigned int nofs = memalloc_nofs_save();
	struct iomap_ioend *ioend;
	struct list_head done;
	unsigned long flags;

	spin_lock_irqsave(&vi->ioend_lock, flags);
	list_replace_init(&vi->ioend_list, &done);
	spin_unlock_irqrestore(&vi->ioend_lock, flags);

	iomap_sort_ioends(&done);
	while ((ioend = list_first_entry_or_null(&done, struct iomap_ioend, io_list))) {
		struct inode *inode = ioend->io_inode;
		int err = blk_status_to_errno(ioend->io_bio.bi_status);
		loff_t end;

		list_del_init(&ioend->io_list);
		iomap_ioend_try_merge(ioend, &done);
		end = min_t(loff_t, ioend->io_offset + ioend->io_size, i_size_read(inode));
		/*
		 * What a truncation has cut off meanwhile stays unwritten: a written
		 * block past the end would be readable when the file grows.
		 */
		if (!err && end > ioend->io_offset)
			err = vexfs_mark_written(inode, ioend->io_offset,
						 end - ioend->io_offset, end);
		/* The inode may be evicted after the last one. */
		iomap_finish_ioends(ioend, err);
		cond_resched();
	}
	memalloc_nofs_restore(nofs);
}

static void vexfs_ioend_end_io(struct bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);
	struct vexfs_inode *vi = VEXFS_I(ioend->io_inode);
	struct vexfs_fs *fs = VEXFS_SB(ioend->io_inode->i_sb);
	unsigned long flags;

	spin_lock_irqsave(&vi->ioend_lock, flags);
	if (list_empty(&vi->ioend_list))
		queue_work(fs->wq, &vi->ioend_work);
	list_add_tail(&ioend->io_list, &vi->ioend_list);
	spin_unlock_irqrestore(&vi->ioend_lock, flags);
}

static int vexfs_prepare_ioend(struct iomap_ioend *ioend, int status)
{
	struct vexfs_inode *vi = VEXFS_I(ioend->io_inode);

	if (vexfs_ioend_unwritten(ioend) ||
	    ioend->io_offset + ioend->io_size > READ_ONCE(vi->disk_size))
		ioend->io_bio.bi_end_io = vexfs_ioend_end_io;
	return status;
}

static int vexfs_map_blocks(struct iomap_writepage_ctx *wpc, struct inode *inode, loff_t offset,
			    unsigned int len)
{
	struct vexfs_extent extent;
	u32 seq;
	int err;

	if (offset >= wpc->iomap.offset && offset < wpc->iomap.offset + wpc->iomap.length &&
	    wpc->iomap.bdev && vexfs_iomap_valid(inode, &wpc->iomap))
		return 0;
	err = vexfs_map(inode, offset >> VEXFS_BLOCK_SHIFT, 1, &extent, &seq, VEXFS_NOKILL);
	if (err)
		return err;
	vexfs_to_iomap(inode, &extent, seq, &wpc->iomap);
	return 0;
}

static const struct iomap_writeback_ops vexfs_writeback_ops = {
	.map_blocks	= vexfs_map_blocks,
	.prepare_ioend	= vexfs_prepare_ioend,
};

static int vexfs_writepages(struct address_space *mapping, struct writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = { };

	return iomap_writepages(mapping, wbc, &wpc, &vexfs_writeback_ops);
}

static int vexfs_read_folio(struct file *file, struct folio *folio)
{
	return iomap_read_folio(folio, &vexfs_iomap_ops);
}

static void vexfs_readahead(struct readahead_control *rac)
{
	iomap_readahead(rac, &vexfs_iomap_ops);
}

static sector_t vexfs_bmap(struct address_space *mapping, sector_t block)
{
	return iomap_bmap(mapping, block, &vexfs_iomap_ops);
}

const struct address_space_operations vexfs_aops = {
	.read_folio		= vexfs_read_folio,
	.readahead		= vexfs_readahead,
	.writepages		= vexfs_writepages,
	.dirty_folio		= iomap_dirty_folio,
	.release_folio		= iomap_release_folio,
	.invalidate_folio	= iomap_invalidate_folio,
	.migrate_folio		= filemap_migrate_folio,
	.is_partially_uptodate	= iomap_is_partially_uptodate,
	.error_remove_folio	= generic_error_remove_folio,
	.bmap			= vexfs_bmap,
};

/* --- direct I/O --- */

static int vexfs_dio_write_end_io(struct kiocb *iocb, ssize_t size, int error, unsigned int flags)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	loff_t end = iocb->ki_pos + size;
	int err;

	if (error || !size)
		return error;
	if (!(flags & IOMAP_DIO_UNWRITTEN) && end <= READ_ONCE(VEXFS_I(inode)->disk_size))
		return 0;
	err = vexfs_mark_written(inode, iocb->ki_pos, size, end);
	/* A write that extends the file holds i_rwsem exclusively until it has completed. */
	if (!err && end > i_size_read(inode))
		i_size_write(inode, end);
	return err;
}

const struct iomap_dio_ops vexfs_dio_write_ops = {
	.end_io		= vexfs_dio_write_end_io,
};
