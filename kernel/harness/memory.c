// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random operations while any allocation may fail. An operation that fails changed nothing, and the volume
 * goes on: operations allocate before they change anything, so lack of memory never stops a volume.
 * Found this way, in a kernel that lets allocations fail: compacting a leaf allocated a buffer in the middle
 * of a change, and so did handing over a frozen transaction.
 */
#include "host.h"

#define NAME(text) (const uint8_t *)(text), (uint32_t)strlen(text)
#define FILES 40
#define STEPS 6000

static struct vexfs_report report;
static uint32_t seed = 1;

static uint32_t below(uint32_t limit)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed % limit;
}

/* One operation on one of the names. */
static int step(struct vexfs_volume *v, uint64_t *inos)
{
	struct vexfs_new_attrs file = { .now = NOW, .mode = 0100600 };
	/* Chosen once: RUN() may make a call again. */
	uint32_t i = below(FILES), j = below(FILES), size = below(3000) + 1, more = 1;
	uint32_t block = below(200), count = below(20) + 1, at = below(1 << 20);
	struct vexfs_timestamp now = NOW;
	struct vexfs_rename_result renamed;
	struct vexfs_extent extent;
	char name[16], other[16];
	static uint8_t data[9000];
	struct vexfs_attr attr;
	int len, other_len, err;

	len = snprintf(name, sizeof(name), "file%u", i);
	other_len = snprintf(other, sizeof(other), "file%u", j);
	if (!inos[i]) {
		err = RUN(v, vexfs_rust_create_file(v, AT_BYTES(ROOT, name, len), &file, &attr, NULL,
		      &report));
		if (!err)
			inos[i] = attr.ino;
		return err;
	}
	switch (below(9)) {
	case 0:
		err = RUN(v, vexfs_rust_unlink_file(v, AT_BYTES(ROOT, name, len), NOW, &attr, NULL,
		      &report));
		if (err)
			return err;
		do
			err = RUN(v, vexfs_rust_destroy_inode(v, inos[i], &more, &report));
		while (!err && more);
		inos[i] = 0;
		return err;
	case 1: {
		struct vexfs_name_at from = { .dir = ROOT, .name = (uint8_t *)name, .len = len };
		struct vexfs_name_at to = { .dir = ROOT, .name = (uint8_t *)other, .len = other_len };

		if (inos[j])
			return 0;
		err = RUN(v, vexfs_rust_rename(v, &from, &to, 0, NOW, &renamed, &report));
		if (!err) {
			inos[j] = inos[i];
			inos[i] = 0;
		}
		return err;
	}
	case 2:
		return RUN(v, vexfs_rust_xattr_set(v, inos[i], NAME("user.x"), data, size, 0, NOW,
						   &report));
	case 3:
		do
			err = RUN(v, vexfs_rust_punch(v, inos[i], block, count, &now, &more, &report));
		while (!err && more);
		return err;
	case 4:
		return RUN(v, vexfs_rust_allocate(v, inos[i], block, count, &extent, &report));
	case 5:
		do
			err = RUN(v, vexfs_rust_mark_written(v, inos[i], block, count, VEXFS_KEEP_SIZE,
							     NULL, &more, &report));
		while (!err && more);
		return err;
	case 6:
		return vexfs_rust_write_file(v, inos[i], at, data, 3 * size, NOW, &report);
	case 7: {
		struct vexfs_commit *commit = NULL;

		if (below(10))
			return 0;
		if (below(2))
			return vexfs_rust_sync_fs(v, NOW, NULL, &report);
		/* In three stages, as the kernel does it. */
		err = RUN(v, vexfs_rust_commit_begin(v, NOW, &commit, &report));
		if (err || !commit)
			return err;
		vexfs_rust_commit_write(commit, &report);
		return vexfs_rust_commit_finish(v, commit, &report);
	}
	default:
		return RUN(v, vexfs_rust_init_inode(v, inos[i], &attr, &report));
	}
}

void test_memory(void)
{
	struct memory_device device;
	struct vexfs_state state;
	int dead = 0, odd = 0;
	unsigned long faults = 0;
	uint32_t round, i;

	for (round = 1; round <= 8; round++) {
		uint64_t inos[FILES] = { 0 };
		struct vexfs_volume *v;
		int err = 0;

		seed = round;
		device_make(&device, 16 << 20);
		format(&device);
		v = open_volume(&device, 0);
		for (i = 0; i < STEPS; i++) {
			memory_left = below(2) ? -1 : (long)below(8);
			err = step(v, inos);
			memory_left = -1;
			vexfs_rust_get_state(v, &state);
			if (state.dead) {
				printf("# seed %u, step %u: stopped, %d: %.*s\n", round, i, err,
				       (int)report.message_len, report.message);
				dead++;
				break;
			}
			faults += err == -ENOMEM;
			if (err && err != -ENOMEM && err != -ENOSPC) {
				printf("# seed %u, step %u: %d\n", round, i, err);
				odd++;
			}
		}
		vexfs_rust_cleanup_superblock(v);
		device_free(&device);
	}
	printf("# %lu operations failed for lack of memory\n", faults);
	CHECK("no volume stops for lack of memory", !dead && faults > 500);
	CHECK("and nothing else goes wrong", !odd);
}
