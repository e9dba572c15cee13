// SPDX-License-Identifier: GPL-2.0-only
/*
 * The command window: the last bytes of a device that vexfs-ublk serves, past the
 * filesystem and stored nowhere, where the module talks to the target.
 *
 * Nothing is written there before reads have proved that somebody answers: the
 * same place of a loop device may hold somebody's data. Nobody waits for the
 * device but killably and until a deadline: transfers are submitted by a worker,
 * since submitting may wait, too, and a transfer that is given up keeps its
 * buffer and its slot until the device has completed it. Nothing that the device
 * says is used before the engine's side has judged it (kernel/ffi/src/window.rs).
 *
 * Mounting does not look at the window. Unmounting waits for transfers that are
 * under way, as it does for pages that are being read.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "vexfs.h"

/* The bit of a proof that is under way; slots have the bits before it. */
#define PROVING VEXFS_WINDOW_SLOTS
/*
 * Echoes that have to follow each other. What answers by chance what a page was
 * read before is right once in 255 times.
 */
#define PROOF_ROUNDS 12
#define PROOF_TRIES 4

void vexfs_window_init(struct vexfs_fs *fs)
{
	init_waitqueue_head(&fs->window.wait);
	atomic_set(&fs->window.in_flight, 0);
}

/* Waits for transfers whose callers were killed or gave up; there are no others any more. */
void vexfs_window_drain(struct vexfs_fs *fs)
{
	wait_var_event(&fs->window.in_flight, !atomic_read(&fs->window.in_flight));
}

/* Where the window begins, or an error if the device has no room for one. */
static int vexfs_window_start(const struct vexfs_fs *fs, u64 *start)
{
	struct block_device *bdev = fs->sb->s_bdev;
	u64 bytes = bdev_nr_bytes(bdev);

	if (bdev_read_only(bdev) || bytes < VEXFS_WINDOW_BYTES ||
	    bytes % VEXFS_WINDOW_PAGE_BYTES || fs->bytes > bytes - VEXFS_WINDOW_BYTES)
		return -EOPNOTSUPP;
	*start = bytes - VEXFS_WINDOW_BYTES;
	return 0;
}

static void vexfs_talk_free(struct work_struct *work)
{
	struct vexfs_talk *talk = container_of(work, struct vexfs_talk, free);
	struct vexfs_window *window = &talk->fs->window;

	if (talk->slot >= 0) {
		clear_bit_unlock(talk->slot, window->busy);
		wake_up_all(&window->wait);
	}
	kvfree(talk->data);
	kfree(talk);
}

static void vexfs_talk_end_io(struct bio *bio)
{
	struct vexfs_talk *talk = bio->bi_private;
	struct vexfs_window *window = &talk->fs->window;

	talk->error = blk_status_to_errno(bio->bi_status);
	bio_put(bio);
	complete(&talk->done);
	/* The caller gave up. This may be an interrupt, in which memory cannot be given back. */
	if (refcount_dec_and_test(&talk->refs))
		queue_work(talk->fs->wq, &talk->free);
	/* Nothing of the filesystem is touched after this. */
	if (atomic_dec_and_test(&window->in_flight))
		wake_up_var(&window->in_flight);
}

static void vexfs_talk_submit(struct work_struct *work)
{
	struct vexfs_talk *talk = container_of(work, struct vexfs_talk, submit);
	struct block_device *bdev = talk->fs->sb->s_bdev;
	unsigned int pages = DIV_ROUND_UP(talk->len, PAGE_SIZE);
	struct bio *bio;
	size_t done;

	/* Never merged with a request of the filesystem, which must not wait for this one. */
	bio = bio_alloc(bdev, pages, talk->opf | REQ_NOMERGE, GFP_NOIO);
	bio->bi_iter.bi_sector = talk->at >> SECTOR_SHIFT;
	bio->bi_private = talk;
	bio->bi_end_io = vexfs_talk_end_io;
	for (done = 0; done < talk->len; done += PAGE_SIZE)
		__bio_add_page(bio, vexfs_page_of(talk->data + talk->from + done),
			       min_t(size_t, PAGE_SIZE, talk->len - done), 0);
	submit_bio(bio);
}

/* Begins a conversation; a caller that does not get an answer gives up at @deadline. */
struct vexfs_talk *vexfs_talk_begin(struct vexfs_fs *fs, unsigned long deadline)
{
	struct vexfs_talk *talk = kzalloc(sizeof(*talk), GFP_KERNEL);

	if (!talk)
		return NULL;
	talk->fs = fs;
	talk->deadline = deadline;
	talk->slot = -1;
	refcount_set(&talk->refs, 1);
	init_completion(&talk->done);
	INIT_WORK(&talk->submit, vexfs_talk_submit);
	INIT_WORK(&talk->free, vexfs_talk_free);
	return talk;
}

/* The caller uses neither the conversation nor its buffer any more. */
void vexfs_talk_end(struct vexfs_talk *talk)
{
	if (refcount_dec_and_test(&talk->refs))
		vexfs_talk_free(&talk->free);
}

/* Makes the buffer at least @size bytes large; what it held is lost. */
int vexfs_talk_room(struct vexfs_talk *talk, size_t size)
{
	void *data;

	size = roundup_pow_of_two(max_t(size_t, size, PAGE_SIZE));
	if (size <= talk->size)
		return 0;
	data = kvzalloc(size, GFP_KERNEL_ACCOUNT);
	if (!data)
		return -ENOMEM;
	kvfree(talk->data);
	talk->data = data;
	talk->size = size;
	return 0;
}

/* What is left of the caller's time, in jiffies. */
static long vexfs_talk_left(const struct vexfs_talk *talk)
{
	return max(0L, (long)(talk->deadline - jiffies));
}

/*
 * Moves @len bytes between the buffer, from @from on, and byte @at of the window.
 * After -EINTR and -ETIMEDOUT the transfer may go on, and the caller may only end
 * the conversation.
 */
static int vexfs_talk_move(struct vexfs_talk *talk, blk_opf_t opf, size_t from, u64 at, size_t len)
{
	struct vexfs_fs *fs = talk->fs;
	u64 start;
	long left;
	int err;

	err = vexfs_window_start(fs, &start);
	if (err)
		return err;
	if (WARN_ON_ONCE(from + len > talk->size || at + len > VEXFS_WINDOW_BYTES))
		return -EIO;
	left = vexfs_talk_left(talk);
	if (!left)
		return -ETIMEDOUT;
	talk->opf = opf;
	talk->from = from;
	talk->at = start + at;
	talk->len = len;
	reinit_completion(&talk->done);
	refcount_inc(&talk->refs);
	atomic_inc(&fs->window.in_flight);
	queue_work(fs->wq, &talk->submit);
	left = wait_for_completion_killable_timeout(&talk->done, left);
	if (left < 0)
		return -EINTR;
	return left ? talk->error : -ETIMEDOUT;
}

static u64 vexfs_talk_place(const struct vexfs_talk *talk)
{
	return (u64)talk->slot * VEXFS_WINDOW_SLOT_BYTES;
}

/*
 * Writes a request to the slot, its first page before the rest: what is written to a
 * slot that holds no head of a request is refused.
 */
int vexfs_talk_write(struct vexfs_talk *talk, size_t len)
{
	u64 place = vexfs_talk_place(talk);
	size_t head = VEXFS_WINDOW_PAGE_BYTES;
	int err;

	err = vexfs_talk_move(talk, REQ_OP_WRITE | REQ_SYNC, 0, place, head);
	if (!err && len > head)
		err = vexfs_talk_move(talk, REQ_OP_WRITE | REQ_SYNC, head, place + head, len - head);
	return err;
}

/* Reads the answer, or that it is not there yet. */
int vexfs_talk_read(struct vexfs_talk *talk, size_t len)
{
	return vexfs_talk_move(talk, REQ_OP_READ, 0, vexfs_talk_place(talk), len);
}

/* Sleeps, killably and not beyond the deadline. */
int vexfs_talk_sleep(struct vexfs_talk *talk, unsigned int ms)
{
	long left = vexfs_talk_left(talk);

	if (!left)
		return -ETIMEDOUT;
	schedule_timeout_killable(min_t(long, left, msecs_to_jiffies(ms)));
	return fatal_signal_pending(current) ? -EINTR : 0;
}

static bool vexfs_window_take(struct vexfs_window *window, int *slot)
{
	int i;

	for (i = 0; i < VEXFS_WINDOW_SLOTS; i++) {
		if (!test_and_set_bit_lock(i, window->busy)) {
			*slot = i;
			return true;
		}
	}
	return false;
}

static int vexfs_waited(long left)
{
	if (left < 0)
		return -EINTR;
	return left ? 0 : -ETIMEDOUT;
}

/* Takes a slot; it is given back with the conversation. */
int vexfs_talk_claim(struct vexfs_talk *talk)
{
	struct vexfs_window *window = &talk->fs->window;

	if (talk->slot >= 0)
		return 0;
	return vexfs_waited(wait_event_killable_timeout(window->wait,
							vexfs_window_take(window, &talk->slot),
							vexfs_talk_left(talk)));
}

/* Reads a page of the window into the buffer. */
static int vexfs_talk_page(struct vexfs_talk *talk, u32 page)
{
	return vexfs_talk_move(talk, REQ_OP_READ, 0,
			       VEXFS_WINDOW_PAGES_AT + (u64)page * VEXFS_WINDOW_PAGE_BYTES,
			       VEXFS_WINDOW_PAGE_BYTES);
}

/*
 * Reads the header, then pages in an order that nobody can foresee; each has to
 * name the one before. The first page is read again at the end: a cache between
 * would answer what it said before.
 */
static int vexfs_prove_once(struct vexfs_talk *talk, struct vexfs_window_proof *proof)
{
	u32 first = 0, page = 0;
	int err, i;

	err = vexfs_talk_page(talk, 0) ?:
	      vexfs_rust_window_header(talk->data, VEXFS_WINDOW_PAGE_BYTES,
				       talk->fs->sb->s_uuid.b, proof);
	for (i = 0; !err && i <= PROOF_ROUNDS; i++) {
		page = i == PROOF_ROUNDS ? first :
					   get_random_u32_inclusive(1, VEXFS_WINDOW_ECHO_END - 1);
		if (!i)
			first = page;
		err = vexfs_talk_page(talk, page) ?:
		      vexfs_rust_window_prove(proof, page, talk->data, VEXFS_WINDOW_PAGE_BYTES);
	}
	if (!err && (proof->rounds != PROOF_ROUNDS || !proof->session))
		err = -EOPNOTSUPP;
	return err;
}

/* Finds out who answers: *@session, unless it is -EOPNOTSUPP because nobody does. */
int vexfs_talk_prove(struct vexfs_talk *talk, u64 *session)
{
	struct vexfs_window *window = &talk->fs->window;
	struct vexfs_window_proof proof = { };
	int err, tries;
	u64 start;

	*session = READ_ONCE(window->session);
	if (*session)
		return 0;
	err = vexfs_window_start(talk->fs, &start) ?:
	      vexfs_talk_room(talk, VEXFS_WINDOW_PAGE_BYTES) ?:
	      vexfs_waited(wait_event_killable_timeout(window->wait,
						       !test_and_set_bit_lock(PROVING, window->busy),
						       vexfs_talk_left(talk)));
	if (err)
		return err;
	*session = READ_ONCE(window->session);
	for (tries = 0; !*session && tries < PROOF_TRIES; tries++) {
		err = vexfs_prove_once(talk, &proof);
		if (!err)
			*session = proof.session;
		/* Right after mkfs the target has to look again; others may read pages, too. */
		if (err != -ESTALE && (err != -EOPNOTSUPP || !proof.session))
			break;
		err = vexfs_talk_sleep(talk, 50) ?: -EOPNOTSUPP;
		if (err != -EOPNOTSUPP)
			break;
	}
	if (*session)
		WRITE_ONCE(window->session, *session);
	clear_bit_unlock(PROVING, window->busy);
	wake_up_all(&window->wait);
	return *session ? 0 : err;
}

/* A session does not answer any more: whoever asks next wants a proof. */
void vexfs_talk_forget(struct vexfs_talk *talk, u64 session)
{
	cmpxchg64(&talk->fs->window.session, session, 0);
}
