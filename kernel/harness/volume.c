// SPDX-License-Identifier: GPL-2.0-only
/* Opening, closing, committing, fetching, and arguments that are refused. */
#include "host.h"

static void test_library(void)
{
	uint8_t text[16];

	CHECK("init", vexfs_rust_init(VEXFS_ABI_VERSION) == 0);
	CHECK("init refuses another interface", vexfs_rust_init(VEXFS_ABI_VERSION + 1) == -EINVAL);
	CHECK("get_version", vexfs_rust_get_version(text, sizeof(text)) == 0 && strchr((char *)text, '.'));
	CHECK("get_version without room", vexfs_rust_get_version(text, 3) == -ERANGE);
	CHECK("get_version without a buffer", vexfs_rust_get_version(NULL, 9) == -EFAULT);
	CHECK("get_version with a null buffer of 0", vexfs_rust_get_version(NULL, 0) == -EFAULT);
	CHECK("test_basic", vexfs_rust_test_basic() == 0);
	CHECK("test_vector_ops", vexfs_rust_test_vector_ops() == 0);
	{
		jmp_buf here;

		CHECK("test_panic of nothing", vexfs_rust_test_panic(0) == 0);
		panic_exit = &here;
		if (!setjmp(here)) {
			vexfs_rust_test_panic(1);
			CHECK("test_panic came back", 0);
		} else {
			CHECK("test_panic goes the way the host says", 1);
		}
		panic_exit = NULL;
	}
	CHECK("exit", vexfs_rust_exit() == 0);
}

static void test_format(struct memory_device *device)
{
	struct vexfs_format_options options = {
		.bytes = device->len, .now = NOW, .block_bytes = BLOCK,
	};
	struct vexfs_report report;

	CHECK("format", vexfs_rust_userspace_init(&device->host, &options, &report) == 0);
	options.label_len = 65;
	CHECK("format with a label too long",
	      vexfs_rust_userspace_init(&device->host, &options, &report) == -EINVAL);
	options.label_len = 0;
	options.block_bytes = 1000;
	CHECK("format with odd blocks",
	      vexfs_rust_userspace_init(&device->host, &options, &report) == -EINVAL);
	options.block_bytes = BLOCK;
	options.bytes = device->len * 2;
	CHECK("format beyond the device",
	      vexfs_rust_userspace_init(&device->host, &options, &report) < 0);
	CHECK("format without a device",
	      vexfs_rust_userspace_init(NULL, &options, &report) == -EFAULT);
	CHECK("format without options",
	      vexfs_rust_userspace_init(&device->host, NULL, &report) == -EFAULT);
	CHECK("format without a report",
	      vexfs_rust_userspace_init(&device->host, &options, NULL) == -EFAULT);
}

static void test_open(struct memory_device *device)
{
	struct vexfs_volume *volume = NULL;
	struct vexfs_host_device broken;
	struct memory_device other;
	struct vexfs_report report;
	uint8_t *sector;

	device_make(&other, 2 << 20);
	CHECK("open an empty device", vexfs_rust_fill_super(&other.host, 0, 0, &volume,
	      &report) == -EINVAL &&
	      strstr((char *)report.message, "no VexFS superblock") && !volume);
	memcpy(other.bytes, device->bytes, 1 << 20);
	other.host.len_bytes = 1 << 20;
	CHECK("open a device cut off", vexfs_rust_fill_super(&other.host, 0, 0, &volume,
	      &report) == -EINVAL &&
	      strstr((char *)report.message, "truncated"));
	other.host.len_bytes = 2 << 20;
	memcpy(other.bytes, device->bytes, 2 << 20);
	/* Every copy of the superblock. */
	other.bytes[1024 + 20] ^= 1;
	other.bytes[33 * BLOCK + 20] ^= 1;
	CHECK("open with damaged superblocks", vexfs_rust_fill_super(&other.host, 0, 0, &volume,
	      &report) == -EUCLEAN &&
	      report.want == VEXFS_WANT_READ_ONLY && report.message_len);
	memcpy(other.bytes, device->bytes, 2 << 20);
	memset(other.bytes + BLOCK, 0, 32 * BLOCK);
	CHECK("open without a root", vexfs_rust_fill_super(&other.host, 0, 0, &volume,
	      &report) == -EUCLEAN);
	memcpy(other.bytes, device->bytes, 2 << 20);
	other.fail_with = EIO;
	CHECK("open a device that fails", vexfs_rust_fill_super(&other.host, 0, 0, &volume,
	      &report) == -EIO);
	device_free(&other);

	broken = device->host;
	broken.flush = NULL;
	CHECK("open a device without flush", vexfs_rust_fill_super(&broken, 0, 0, &volume,
	      &report) == -EFAULT);
	broken = device->host;
	broken.len_bytes = UINT64_MAX;
	CHECK("open a device of impossible length", vexfs_rust_fill_super(&broken, 0, 0, &volume,
	      &report) == -EINVAL);
	CHECK("open without a device", vexfs_rust_fill_super(NULL, 0, 0, &volume, &report) == -EFAULT);
	CHECK("open without a place", vexfs_rust_fill_super(&device->host, 0, 0, NULL, &report) == -EFAULT);
	CHECK("open without a report", vexfs_rust_fill_super(&device->host, 0, 0, &volume,
	      NULL) == -EFAULT);
	CHECK("open with unknown flags", vexfs_rust_fill_super(&device->host, 8, 0, &volume,
	      &report) == -EINVAL);
	sector = malloc(512);
	memcpy(sector, device->bytes + 1024, 512);
	device->bytes[1024]++;
	CHECK("open another filesystem", vexfs_rust_fill_super(&device->host, 0, 0, &volume,
	      &report) == -EINVAL);
	memcpy(device->bytes + 1024, sector, 512);
	free(sector);
}

static void test_state(struct memory_device *device)
{
	struct vexfs_new_attrs attrs = { .now = NOW, .mode = 0100644 };
	struct vexfs_volume *volume = open_volume(device, 0);
	struct vexfs_commit *commit = NULL, *second = NULL;
	struct vexfs_figures figures;
	struct vexfs_report report;
	struct vexfs_state state;
	struct vexfs_attr attr;
	uint64_t generation = 0;
	size_t freed = 99;

	CHECK("get_statfs", vexfs_rust_get_statfs(volume, &figures) == 0 && figures.blocks == 512 &&
	      figures.block_bytes == BLOCK && figures.inodes == 1 && figures.name_max == 255);
	CHECK("get_statfs without a place", vexfs_rust_get_statfs(volume, NULL) == -EFAULT);
	CHECK("get_statfs without a volume", vexfs_rust_get_statfs(NULL, &figures) == -EFAULT);
	CHECK("get_state", vexfs_rust_get_state(volume, &state) == 0 && !state.dirty && !state.dead &&
	      !state.read_only && state.running == state.durable + 1 && !state.orphans &&
	      state.next_ino == ROOT + 1);
	CHECK("get_state without a place", vexfs_rust_get_state(volume, NULL) == -EFAULT);
	CHECK("commit_begin of nothing", RUN(volume, vexfs_rust_commit_begin(volume, NOW, &commit,
	      &report)) == 0 && !commit);
	CHECK("create for a commit", RUN(volume, vexfs_rust_create_file(volume, AT(ROOT, "c"), &attrs,
	      &attr, NULL, &report)) == 0);
	vexfs_rust_get_state(volume, &state);
	CHECK("now it is dirty", state.dirty && state.cached_nodes > 0);
	CHECK("commit_begin", RUN(volume, vexfs_rust_commit_begin(volume, NOW, &commit,
	      &report)) == 0 && commit);
	CHECK("create beside the commit", RUN(volume, vexfs_rust_create_file(volume, AT(ROOT, "d"),
	      &attrs, &attr, NULL, &report)) == 0);
	CHECK("no second commit meanwhile", vexfs_rust_commit_begin(volume, NOW, &second,
	      &report) == -EINVAL && !second);
	device->fuas = device->flushes = 0;
	CHECK("commit_write", vexfs_rust_commit_write(commit, &report) == 0);
	CHECK("it flushed and wrote the root through", device->fuas == 1 && device->flushes == 1);
	CHECK("commit_finish", vexfs_rust_commit_finish(volume, commit, &report) == 0);
	vexfs_rust_get_state(volume, &state);
	generation = state.durable;
	CHECK("the generation is durable, the next one dirty", state.running == generation + 1 &&
	      state.dirty);
	CHECK("sync_fs", vexfs_rust_sync_fs(volume, NOW, &generation, &report) == 0 &&
	      generation == state.running);
	CHECK("sync_fs without a place", vexfs_rust_sync_fs(volume, NOW, NULL, &report) == 0);
	CHECK("sync_fs without a volume", vexfs_rust_sync_fs(NULL, NOW, NULL, &report) == -EFAULT);
	device->flushes = 0;
	CHECK("fsync_file", vexfs_rust_fsync_file(volume, attr.ino, NOW, &report) == 0 &&
	      device->flushes == 1);
	CHECK("fsync_file of nothing", vexfs_rust_fsync_file(volume, 999, NOW, &report) == -ENOENT);
	{
		struct vexfs_volume *other = open_volume(device, 0);

		vexfs_rust_fsync_file(other, attr.ino, NOW, &report);
		device->fail_with = EIO;
		CHECK("fsync_file when the flush fails", vexfs_rust_fsync_file(other, attr.ino, NOW,
		      &report) == -EIO);
		device->fail_with = 0;
		CHECK("it promises nothing after that", vexfs_rust_fsync_file(other, attr.ino, NOW,
		      &report) == -EIO);
		vexfs_rust_cleanup_superblock(other);
	}
	CHECK("commit_begin without a place", vexfs_rust_commit_begin(volume, NOW, NULL,
	      &report) == -EFAULT);
	CHECK("commit_write of nothing", vexfs_rust_commit_write(NULL, &report) == -EFAULT);
	CHECK("commit_finish of nothing", vexfs_rust_commit_finish(volume, NULL, &report) == -EFAULT);

	CHECK("trim", vexfs_rust_trim(volume, 0, &freed) == 0 && freed > 0 && freed != 99);
	CHECK("trim without a place", vexfs_rust_trim(volume, 0, NULL) == -EFAULT);
	CHECK("after it a lookup misses", vexfs_rust_lookup_inode(volume, AT(ROOT, "c"), &attr,
	      &report) == -EAGAIN &&
	      report.want == VEXFS_WANT_NODE);
	{
		struct vexfs_node *node = NULL;

		CHECK("fetch_begin without a place", vexfs_rust_fetch_begin(volume, &report, NULL) == -EFAULT);
		vexfs_rust_lookup_inode(volume, AT(ROOT, "c"), &attr, &report);
		CHECK("fetch_begin", vexfs_rust_fetch_begin(volume, &report, &node) == 0 && node);
		CHECK("fetch", vexfs_rust_fetch(node, &report) == 0);
		CHECK("discard", vexfs_rust_discard(node) == 0);
		vexfs_rust_lookup_inode(volume, AT(ROOT, "c"), &attr, &report);
		vexfs_rust_fetch_begin(volume, &report, &node);
		device->fail_with = EIO;
		CHECK("fetch when the device fails", vexfs_rust_fetch(node, &report) == -EIO);
		device->fail_with = 0;
		CHECK("fetch again", vexfs_rust_fetch(node, &report) == 0);
		CHECK("install", vexfs_rust_install(volume, node, &report) == 0);
		CHECK("fetch_begin of what nobody missed", vexfs_rust_fetch_begin(volume, &report,
		      &node) == -EINVAL);
		CHECK("fetch_begin without a report", vexfs_rust_fetch_begin(volume, NULL, &node) == -EFAULT);
		CHECK("fetch of nothing", vexfs_rust_fetch(NULL, &report) == -EFAULT);
		vexfs_rust_trim(volume, 0, &freed);
		vexfs_rust_lookup_inode(volume, AT(ROOT, "c"), &attr, &report);
		vexfs_rust_fetch_begin(volume, &report, &node);
		CHECK("fetch without a report", vexfs_rust_fetch(node, NULL) == -EFAULT);
		CHECK("install of what was not fetched", vexfs_rust_install(volume, node, &report) == -EINVAL);
		CHECK("install of nothing", vexfs_rust_install(volume, NULL, &report) == -EFAULT);
		CHECK("discard of nothing", vexfs_rust_discard(NULL) == -EFAULT);
	}
	CHECK("then it is found", RUN(volume, vexfs_rust_lookup_inode(volume, AT(ROOT, "c"), &attr,
	      &report)) == 0);

	CHECK("set_read_only", vexfs_rust_set_read_only(volume, true) == 0);
	CHECK("a change is refused", RUN(volume, vexfs_rust_create_file(volume, AT(ROOT, "e"), &attrs,
	      &attr, NULL, &report)) == -EROFS);
	CHECK("set_read_only back", vexfs_rust_set_read_only(volume, false) == 0);
	CHECK("set_read_only of nothing", vexfs_rust_set_read_only(NULL, true) == -EFAULT);
	CHECK("a change is possible again", RUN(volume, vexfs_rust_create_file(volume, AT(ROOT, "e"),
	      &attrs, &attr, NULL, &report)) == 0);
	CHECK("put_super tells of what is lost", vexfs_rust_put_super(volume) == -EBUSY);
	CHECK("after it nothing works", vexfs_rust_lookup_inode(volume, AT(ROOT, "c"), &attr,
	      &report) == -EIO);
	CHECK("put_super of nothing", vexfs_rust_put_super(NULL) == -EFAULT);
	CHECK("cleanup_superblock", vexfs_rust_cleanup_superblock(volume) == 0);
	CHECK("cleanup_superblock of nothing", vexfs_rust_cleanup_superblock(NULL) == -EFAULT);

	volume = open_volume(device, VEXFS_OPEN_READ_ONLY);
	CHECK("what was not committed is gone", RUN(volume, vexfs_rust_lookup_inode(volume, AT(ROOT,
	      "e"), &attr, &report)) == -ENOENT);
	CHECK("what was is there", RUN(volume, vexfs_rust_lookup_inode(volume, AT(ROOT, "d"), &attr,
	      &report)) == 0);
	CHECK("read-only as asked", RUN(volume, vexfs_rust_create_file(volume, AT(ROOT, "e"), &attrs,
	      &attr, NULL, &report)) == -EROFS);
	CHECK("kill", vexfs_rust_kill(volume) == 0);
	CHECK("kill of nothing", vexfs_rust_kill(NULL) == -EFAULT);
	CHECK("it is dead", vexfs_rust_get_state(volume, &state) == 0 && state.dead);
	vexfs_rust_cleanup_superblock(volume);
}

/* A block that is fetched without the lock may have been used for something else since it was missed. */
static void test_stale(struct memory_device *device)
{
	struct vexfs_new_attrs file = { .now = NOW, .mode = 0100644 };
	struct vexfs_volume *volume = open_volume(device, 0);
	int stale = 0, valid = 0, bad = 0, round, i;
	struct vexfs_report report;
	struct vexfs_node *node;
	struct vexfs_attr attr;
	char name[32];
	size_t freed;

	for (round = 0; round < 60; round++) {
		int err;

		vexfs_rust_trim(volume, 0, &freed);
		if (vexfs_rust_lookup_inode(volume, AT(ROOT, "c"), &attr, &report) != -EAGAIN ||
		    vexfs_rust_fetch_begin(volume, &report, &node)) {
			bad++;
			continue;
		}
		/* Commits free the block that was missed, and use it again. */
		for (i = 0; i < round % 6; i++) {
			snprintf(name, sizeof(name), "stale%d-%d", round, i);
			bad += RUN(volume, vexfs_rust_create(volume, AT(ROOT, name), &file, &attr, NULL,
				   &report)) != 0;
			bad += vexfs_rust_sync_fs(volume, NOW, NULL, &report) != 0;
		}
		if (round % 2)
			vexfs_rust_trim(volume, 0, &freed);
		err = vexfs_rust_fetch(node, &report);
		if (err == -EUCLEAN) {
			stale++;
			vexfs_rust_discard(node);
		} else if (!err) {
			valid++;
			bad += vexfs_rust_install(volume, node, &report) != 0;
		} else {
			bad++;
		}
		bad += RUN(volume, vexfs_rust_lookup_inode(volume, AT(ROOT, "c"), &attr, &report)) != 0;
		for (i = 0; i < round % 6; i++) {
			snprintf(name, sizeof(name), "stale%d-%d", round, i);
			bad += RUN(volume, vexfs_rust_lookup_inode(volume, AT(ROOT, name), &attr,
				   &report)) != 0;
		}
	}
	printf("# %d blocks were stale, %d were not\n", stale, valid);
	CHECK("a stale block is refused or does no harm", !bad && stale > 5 && valid > 5);
	vexfs_rust_cleanup_superblock(volume);
}

void test_volume(void)
{
	struct memory_device device;

	test_library();
	device_make(&device, 2 << 20);
	test_format(&device);
	format(&device);
	test_open(&device);
	test_state(&device);
	test_stale(&device);
	device_free(&device);
}
