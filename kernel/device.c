// SPDX-License-Identifier: GPL-2.0-only
/*
 * The block device under the engine: metadata goes straight to it, by bios.
 *
 * Buffers are the engine's, from kmalloc or vmalloc, in whole blocks of 4096
 * bytes; sectors are not larger. They are mapped page by page. A buffer whose
 * alignment the device cannot use is copied first. Every function waits until
 * the device has completed the request; none takes a lock.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "vexfs.h"

struct vexfs_batch {
	struct completion done;
	atomic_t pending;
	int error;
	/* How many pages a bio is likely to hold. */
	unsigned short vecs;
};

static void vexfs_batch_put(struct vexfs_batch *batch)
{
	if (atomic_dec_and_test(&batch->pending))
		complete(&batch->done);
}

static void vexfs_batch_end_io(struct bio *bio)
{
	struct vexfs_batch *batch = bio->bi_private;

	if (bio->bi_status)
		cmpxchg(&batch->error, 0, blk_status_to_errno(bio->bi_status));
	bio_put(bio);
	vexfs_batch_put(batch);
}

static void vexfs_batch_submit(struct vexfs_batch *batch, struct bio *bio)
{
	bio->bi_private = batch;
	bio->bi_end_io = vexfs_batch_end_io;
	atomic_inc(&batch->pending);
	submit_bio(bio);
}

struct page *vexfs_page_of(const void *at)
{
	return is_vmalloc_addr(at) ? vmalloc_to_page(at) : virt_to_page(at);
}

/*
 * Adds a buffer for byte @at of the device to *@bio, starting new bios (and
 * submitting the full ones) as needed.
 */
static void vexfs_batch_add(struct vexfs_batch *batch, struct block_device *bdev,
			    struct bio **bio, blk_opf_t opf, u64 at, const void *data, size_t len)
{
	while (len) {
		unsigned int offset = offset_in_page(data);
		unsigned int piece = min_t(size_t, len, PAGE_SIZE - offset);
		struct page *page = vexfs_page_of(data);

		if (*bio && (bio_end_sector(*bio) != at >> SECTOR_SHIFT ||
			     bio_add_page(*bio, page, piece, offset) != piece)) {
			vexfs_batch_submit(batch, *bio);
			*bio = NULL;
		} else if (*bio) {
			goto added;
		}
		/*
		 * May wait for memory of its pool; full bios are submitted already and
		 * will give it back.
		 */
		*bio = bio_alloc(bdev, batch->vecs, opf, GFP_NOFS);
		(*bio)->bi_iter.bi_sector = at >> SECTOR_SHIFT;
		__bio_add_page(*bio, page, piece, offset);
added:
		data += piece;
		at += piece;
		len -= piece;
	}
}

static bool vexfs_dma_aligned(struct block_device *bdev, const void *data)
{
	return !((unsigned long)data & (bdev_dma_alignment(bdev) | (SECTOR_SIZE - 1)));
}

static int vexfs_read_aligned(struct block_device *bdev, u64 at, void *target, size_t len)
{
	struct vexfs_batch batch = { .pending = ATOMIC_INIT(1) };
	struct bio *bio = NULL;

	init_completion(&batch.done);
	batch.vecs = bio_max_segs(len / PAGE_SIZE + 2);
	vexfs_batch_add(&batch, bdev, &bio, REQ_OP_READ | REQ_META | REQ_PRIO, at, target, len);
	if (bio)
		vexfs_batch_submit(&batch, bio);
	vexfs_batch_put(&batch);
	wait_for_completion_io(&batch.done);
	return batch.error;
}

static int vexfs_device_read(void *ctx, uint64_t at, uint8_t *buf, size_t len)
{
	struct vexfs_fs *fs = ctx;
	struct block_device *bdev = fs->sb->s_bdev;
	void *copy;
	int err;

	if (vexfs_dma_aligned(bdev, buf))
		return vexfs_read_aligned(bdev, at, buf, len);
	copy = kvmalloc(roundup_pow_of_two(len), GFP_NOFS);
	if (!copy)
		return -ENOMEM;
	err = vexfs_read_aligned(bdev, at, copy, len);
	if (!err)
		memcpy(buf, copy, len);
	kvfree(copy);
	return err;
}

static int vexfs_device_write(void *ctx, const struct vexfs_write_request *requests, size_t count,
			      bool fua)
{
	struct vexfs_fs *fs = ctx;
	struct block_device *bdev = fs->sb->s_bdev;
	blk_opf_t opf = REQ_OP_WRITE | REQ_META | REQ_SYNC | (fua ? REQ_FUA : 0);
	struct vexfs_batch batch = { .pending = ATOMIC_INIT(1) };
	struct bio *bio = NULL;
	struct blk_plug plug;
	size_t i;
	int err = 0;

	init_completion(&batch.done);
	batch.vecs = bio_max_segs(count + requests[0].len / PAGE_SIZE + 1);
	blk_start_plug(&plug);
	for (i = 0; i < count && !err; i++) {
		const struct vexfs_write_request *request = &requests[i];
		void *copy;

		if (vexfs_dma_aligned(bdev, request->data)) {
			vexfs_batch_add(&batch, bdev, &bio, opf, request->at, request->data,
					request->len);
			continue;
		}
		copy = kvmalloc(roundup_pow_of_two(request->len), GFP_NOFS);
		if (copy && vexfs_dma_aligned(bdev, copy)) {
			struct vexfs_write_request one = {
				.at = request->at, .data = copy, .len = request->len,
			};

			memcpy(copy, request->data, request->len);
			err = vexfs_device_write(ctx, &one, 1, fua);
		} else {
			err = -ENOMEM;
		}
		kvfree(copy);
	}
	if (bio)
		vexfs_batch_submit(&batch, bio);
	blk_finish_plug(&plug);
	vexfs_batch_put(&batch);
	wait_for_completion_io(&batch.done);
	return err ?: batch.error;
}

static int vexfs_device_flush(void *ctx)
{
	struct vexfs_fs *fs = ctx;

	return blkdev_issue_flush(fs->sb->s_bdev);
}

void vexfs_device_init(struct vexfs_fs *fs)
{
	fs->device.ctx = fs;
	fs->device.len_bytes = bdev_nr_bytes(fs->sb->s_bdev);
	fs->device.read = vexfs_device_read;
	fs->device.write = vexfs_device_write;
	fs->device.flush = vexfs_device_flush;
}
