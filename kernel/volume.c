// SPDX-License-Identifier: GPL-2.0-only
/*
 * Opening and closing a volume, and what runs beside a mounted one: commits
 * after a while, and the shrinker of the engine's cache.
 */
#include <linux/mm.h>

#include "vexfs.h"

int vexfs_volume_open(struct vexfs_fs *fs, bool read_only, struct vexfs_report *report)
{
	size_t cache = clamp(totalram_pages() / 16, 2048UL, 65536UL) << PAGE_SHIFT;
	u32 flags = read_only ? VEXFS_OPEN_READ_ONLY : 0;
	struct vexfs_state state;
	struct vexfs_call call;
	int err;

	report->message_len = 0;
	vexfs_call_init(&call, fs, VEXFS_UNLOCKED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_fill_super(&fs->device, flags, cache, &fs->volume, report) ?:
		      vexfs_rust_get_state(fs->volume, &state);
	} while (vexfs_call_again(&call, &err));
	if (err)
		return err;
	fs->durable = state.durable;
	fs->running = state.running;
	fs->newest = state.running - 1;
	return 0;
}

/* Finds out whether the volume could be opened for writing. */
int vexfs_volume_probe(struct vexfs_fs *fs, struct vexfs_report *report)
{
	struct vexfs_volume *volume = NULL;
	struct vexfs_call call;
	int err;

	report->message_len = 0;
	vexfs_call_init(&call, fs, VEXFS_UNLOCKED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_fill_super(&fs->device, 0, 1 << 20, &volume, report) ?:
		      vexfs_rust_cleanup_superblock(volume);
	} while (vexfs_call_again(&call, &err));
	return err;
}

int vexfs_volume_set_read_only(struct vexfs_fs *fs, bool read_only)
{
	struct vexfs_call call;
	int err;

	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE | VEXFS_ANY_STATE);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_set_read_only(fs->volume, read_only);
	} while (vexfs_call_again(&call, &err));
	return err;
}

void vexfs_volume_close(struct vexfs_fs *fs)
{
	struct vexfs_call call;
	int err;

	if (!fs->volume)
		return;
	/* What a panic left behind is not touched again; its memory is lost. */
	if (!vexfs_abandoned(fs)) {
		vexfs_call_init(&call, fs, VEXFS_UNLOCKED);
		do {
			/* -EBUSY: uncommitted changes were lost, which sync has reported. */
			err = vexfs_call_enter(&call) ?:
			      (vexfs_rust_put_super(fs->volume),
			       vexfs_rust_cleanup_superblock(fs->volume));
		} while (vexfs_call_again(&call, &err));
	}
	fs->volume = NULL;
}

static void vexfs_commit_work(struct work_struct *work)
{
	struct vexfs_fs *fs = container_of(to_delayed_work(work), struct vexfs_fs, commit_work);

	if (vexfs_failed(fs))
		return;
	/* It failed for want of memory or room: nothing was lost, try again later. */
	if (vexfs_commit(fs, READ_ONCE(fs->newest), VEXFS_NOKILL) && !vexfs_failed(fs))
		queue_delayed_work(fs->wq, &fs->commit_work, VEXFS_COMMIT_DELAY);
}

static unsigned long vexfs_shrink_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct vexfs_fs *fs = shrinker->private_data;

	return READ_ONCE(fs->cached_nodes) ?: SHRINK_EMPTY;
}

static unsigned long vexfs_shrink_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct vexfs_fs *fs = shrinker->private_data;
	unsigned long cached = READ_ONCE(fs->cached_nodes);
	size_t limit = cached - min(cached, sc->nr_to_scan);
	struct vexfs_call call;
	size_t freed = 0;
	int err;

	/* Reclaim must not wait for the lock: its holder may be waiting for memory. */
	if (!(sc->gfp_mask & __GFP_FS))
		return SHRINK_STOP;
	vexfs_call_init(&call, fs, VEXFS_EXCLUSIVE | VEXFS_NOWAIT | VEXFS_ANY_STATE);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_trim(fs->volume, limit, &freed);
	} while (vexfs_call_again(&call, &err));
	return err ? SHRINK_STOP : freed;
}

/* Starts what runs beside a mounted volume. */
int vexfs_volume_start(struct vexfs_fs *fs)
{
	INIT_DELAYED_WORK(&fs->commit_work, vexfs_commit_work);
	/* Freezable: once an image for hibernation is taken, the medium must not change. */
	fs->wq = alloc_workqueue("vexfs/%s", WQ_MEM_RECLAIM | WQ_UNBOUND | WQ_FREEZABLE, 0,
				 fs->sb->s_id);
	if (!fs->wq)
		return -ENOMEM;
	fs->shrinker = shrinker_alloc(0, "vexfs:%s", fs->sb->s_id);
	if (!fs->shrinker)
		return -ENOMEM;
	fs->shrinker->count_objects = vexfs_shrink_count;
	fs->shrinker->scan_objects = vexfs_shrink_scan;
	fs->shrinker->private_data = fs;
	shrinker_register(fs->shrinker);
	return 0;
}

void vexfs_volume_stop(struct vexfs_fs *fs)
{
	if (fs->shrinker)
		shrinker_free(fs->shrinker);
	fs->shrinker = NULL;
	if (fs->wq) {
		cancel_delayed_work_sync(&fs->commit_work);
		destroy_workqueue(fs->wq);
	}
	fs->wq = NULL;
}
