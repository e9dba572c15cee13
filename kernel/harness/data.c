// SPDX-License-Identifier: GPL-2.0-only
/* File contents, vectors, and what happens when the device or memory fails. */
#include "host.h"

#define NAME(text) (const uint8_t *)(text), (uint32_t)strlen(text)

static struct vexfs_report report;

static uint64_t make(struct vexfs_volume *v, const char *name)
{
	struct vexfs_new_attrs file = { .now = NOW, .mode = 0100600 };
	struct vexfs_attr attr = { 0 };

	RUN(v, vexfs_rust_create_file(v, AT(ROOT, name), &file, &attr, NULL, &report));
	return attr.ino;
}

void test_data(void)
{
	struct memory_device device;
	struct vexfs_volume *v;
	struct vexfs_extent extent;
	struct vexfs_attr attr;
	struct vexfs_timestamp later = { .seconds = 1800000000 };
	uint8_t *data = malloc(100000), *back = malloc(100000);
	uint64_t ino;
	uint32_t more, destroy = 9;
	size_t got = 0;

	device_make(&device, 8 << 20);
	format(&device);
	v = open_volume(&device, 0);
	ino = make(v, "f");
	for (int i = 0; i < 100000; i++)
		data[i] = (uint8_t)(i * 31 + i / 997);

	CHECK("open_file", RUN(v, vexfs_rust_open_file(v, ino, VEXFS_OPEN_WRITE, &attr, &report)) == 0 &&
	      attr.ino == ino);
	CHECK("open_file of a directory", RUN(v, vexfs_rust_open_file(v, ROOT, 0, &attr,
	      &report)) == -EISDIR);
	CHECK("open_file with unknown flags", vexfs_rust_open_file(v, ino, 2, &attr, &report) == -EINVAL);
	CHECK("open_file without a place", vexfs_rust_open_file(v, ino, 0, NULL, &report) == -EFAULT);
	CHECK("open_file of nothing", RUN(v, vexfs_rust_open_file(v, 999, 0, &attr, &report)) == -ENOENT);
	CHECK("release_file", RUN(v, vexfs_rust_release_file(v, ino, &destroy, &report)) == 0 &&
	      destroy == 0);
	CHECK("release_file without a place", vexfs_rust_release_file(v, ino, NULL, &report) == -EFAULT);
	CHECK("release_file of a directory", RUN(v, vexfs_rust_release_file(v, ROOT, &destroy,
	      &report)) == -EISDIR);

	CHECK("map of nothing yet", RUN(v, vexfs_rust_map(v, ino, 0, 100, &extent, &report)) == 0 &&
	      extent.kind == VEXFS_MAP_HOLE && extent.count == 100);
	CHECK("map of 0 blocks", vexfs_rust_map(v, ino, 0, 0, &extent, &report) == -EINVAL);
	CHECK("map past the largest file", vexfs_rust_map(v, ino, UINT64_MAX, 2, &extent,
	      &report) == -EINVAL);
	CHECK("map without a place", vexfs_rust_map(v, ino, 0, 1, NULL, &report) == -EFAULT);
	CHECK("map of nothing is a hole", RUN(v, vexfs_rust_map(v, 999, 0, 1, &extent, &report)) == 0 &&
	      extent.kind == VEXFS_MAP_HOLE);
	CHECK("allocate", RUN(v, vexfs_rust_allocate(v, ino, 2, 4, &extent, &report)) == 0 &&
	      extent.kind == VEXFS_MAP_UNWRITTEN && extent.start == 2 && extent.block >= 34);
	CHECK("allocate of 0 blocks", vexfs_rust_allocate(v, ino, 2, 0, &extent, &report) == -EINVAL);
	CHECK("allocate without a place", vexfs_rust_allocate(v, ino, 2, 1, NULL, &report) == -EFAULT);
	CHECK("mark_written", RUN(v, vexfs_rust_mark_written(v, ino, 2, 2, 4 * BLOCK, &later, &more,
	      &report)) == 0 && !more);
	CHECK("the blocks are written", RUN(v, vexfs_rust_map(v, ino, 2, 9, &extent, &report)) == 0 &&
	      extent.kind == VEXFS_MAP_WRITTEN && extent.count == 2);
	CHECK("the others are not", RUN(v, vexfs_rust_map(v, ino, 4, 9, &extent, &report)) == 0 &&
	      extent.kind == VEXFS_MAP_UNWRITTEN);
	RUN(v, vexfs_rust_init_inode(v, ino, &attr, &report));
	CHECK("size and time moved", attr.size == 4 * BLOCK && attr.mtime.seconds == later.seconds &&
	      attr.blocks == 4);
	CHECK("mark_written of 0 blocks", vexfs_rust_mark_written(v, ino, 2, 0, VEXFS_KEEP_SIZE, NULL,
	      &more,
	      &report) == -EINVAL);
	CHECK("mark_written without a place", vexfs_rust_mark_written(v, ino, 2, 1, VEXFS_KEEP_SIZE, NULL,
	      NULL, &report) == -EFAULT);
	CHECK("punch", RUN(v, vexfs_rust_punch(v, ino, 3, 1, NULL, &more, &report)) == 0 && !more);
	CHECK("a hole is there", RUN(v, vexfs_rust_map(v, ino, 3, 9, &extent, &report)) == 0 &&
	      extent.kind == VEXFS_MAP_HOLE && extent.count == 1);
	RUN(v, vexfs_rust_init_inode(v, ino, &attr, &report));
	CHECK("without a time it leaves the times", attr.blocks == 3 &&
	      attr.mtime.seconds == later.seconds);
	later.seconds += 9;
	CHECK("punch with a time", RUN(v, vexfs_rust_punch(v, ino, 2, 1, &later, &more, &report)) == 0);
	RUN(v, vexfs_rust_init_inode(v, ino, &attr, &report));
	CHECK("it becomes mtime and ctime", attr.blocks == 2 && attr.mtime.seconds == later.seconds &&
	      attr.ctime.seconds == later.seconds);
	CHECK("punch of 0 blocks", vexfs_rust_punch(v, ino, 3, 0, NULL, &more, &report) == -EINVAL);
	CHECK("punch without a place", vexfs_rust_punch(v, ino, 3, 1, NULL, NULL, &report) == -EFAULT);

	CHECK("write_file", vexfs_rust_write_file(v, ino, 777, data, 100000, NOW, &report) == 0);
	CHECK("read_file", vexfs_rust_read_file(v, ino, 777, back, 100000, &got, &report) == 0 &&
	      got == 100000 && !memcmp(data, back, got));
	CHECK("read_file before it", vexfs_rust_read_file(v, ino, 0, back, 777, &got, &report) == 0 &&
	      got == 777 && !back[0] && !back[776]);
	CHECK("read_file at the end", vexfs_rust_read_file(v, ino, 100777, back, 100, &got, &report) == 0 &&
	      got == 0);
	CHECK("read_file without a buffer", vexfs_rust_read_file(v, ino, 0, NULL, 100, &got,
	      &report) == -EFAULT);
	CHECK("read_file without a place", vexfs_rust_read_file(v, ino, 0, back, 100, NULL,
	      &report) == -EFAULT);
	CHECK("read_file of a directory", vexfs_rust_read_file(v, ROOT, 0, back, 100, &got,
	      &report) == -EISDIR);
	CHECK("write_file of a directory", vexfs_rust_write_file(v, ROOT, 0, data, 100, NOW,
	      &report) == -EISDIR);
	CHECK("write_file past the largest file", vexfs_rust_write_file(v, ino, UINT64_MAX - 5, data, 100,
	      NOW, &report) == -EFBIG);
	CHECK("write_file without data", vexfs_rust_write_file(v, ino, 0, NULL, 100, NOW,
	      &report) == -EFAULT);
	CHECK("truncate_file", RUN(v, vexfs_rust_truncate_file(v, ino, 5000, NOW, &more,
	      &report)) == 0 && !more);
	RUN(v, vexfs_rust_init_inode(v, ino, &attr, &report));
	CHECK("it is shorter", attr.size == 5000 && attr.blocks == 2);
	CHECK("truncate_file too far", RUN(v, vexfs_rust_truncate_file(v, ino, UINT64_MAX, NOW, &more,
	      &report)) == -EFBIG);
	CHECK("truncate_file of a directory", RUN(v, vexfs_rust_truncate_file(v, ROOT, 0, NOW, &more,
	      &report)) == -EISDIR);
	CHECK("truncate_file without a place", vexfs_rust_truncate_file(v, ino, 0, NOW, NULL,
	      &report) == -EFAULT);
	{
		int err = 0, files = 0;

		while (files < 400 && !err) {
			char name[16];
			uint64_t fill;

			snprintf(name, sizeof(name), "fill%d", files++);
			fill = make(v, name);
			err = fill ? vexfs_rust_write_file(v, fill, 0, data, 100000, NOW,
			      &report) : -ENOSPC;
		}
		CHECK("the device gets full", err == -ENOSPC);
		while (files--) {
			char name[16];

			snprintf(name, sizeof(name), "fill%d", files);
			err = RUN(v, vexfs_rust_unlink_file(v, AT(ROOT, name), NOW, &attr, NULL, &report));
			if (err && err != -ENOENT)
				break;
			do
				more = 0;
			while (!err && !RUN(v, vexfs_rust_destroy_inode(v, attr.ino, &more, &report)) &&
			      more);
		}
		CHECK("everything can be deleted all the same", files == -1);
		CHECK("and written again", vexfs_rust_write_file(v, ino, 0, data, 100000, NOW,
		      &report) == 0);
	}
	vexfs_rust_cleanup_superblock(v);
	device_free(&device);
	free(data);
	free(back);
}

void test_vectors(void)
{
	static const char layout[] = "type=f32,dim=4,metric=l2";
	struct memory_device device;
	struct vexfs_vector_shape shape;
	struct vexfs_vector_hit hits[8];
	struct vexfs_volume *v;
	uint8_t text[128];
	float rows[500][4], query[4] = { 250.2f, 0, 0, 0 }, distance;
	uint64_t ino, plain;
	uint32_t found = 0;
	size_t used = 0;

	device_make(&device, 8 << 20);
	format(&device);
	v = open_volume(&device, 0);
	ino = make(v, "v");
	plain = make(v, "p");
	for (int i = 0; i < 500; i++)
		for (int j = 0; j < 4; j++)
			rows[i][j] = j ? 0 : (float)i;
	rows[251][1] = 0.0f / 0.0f;

	CHECK("set_vector", RUN(v, vexfs_rust_set_vector(v, ino, NAME(layout), NOW, &report)) == 0);
	CHECK("get_vector", RUN(v, vexfs_rust_get_vector(v, ino, text, sizeof(text), &used,
	      &report)) == 0 &&
	      used == strlen(layout) && !memcmp(text, layout, used));
	CHECK("get_vector of the length", RUN(v, vexfs_rust_get_vector(v, ino, NULL, 0, &used,
	      &report)) == 0 && used == strlen(layout));
	CHECK("get_vector without room", RUN(v, vexfs_rust_get_vector(v, ino, text, 3, &used,
	      &report)) == -ERANGE);
	CHECK("get_vector without a buffer", vexfs_rust_get_vector(v, ino, NULL, 3, &used,
	      &report) == -EFAULT);
	CHECK("get_vector of a plain file", RUN(v, vexfs_rust_get_vector(v, plain, text, 99, &used,
	      &report)) == -ENODATA);
	CHECK("get_vector without a place", vexfs_rust_get_vector(v, ino, text, 99, NULL,
	      &report) == -EFAULT);
	CHECK("set_vector to nonsense", vexfs_rust_set_vector(v, plain, NAME("dim=4"), NOW,
	      &report) == -EINVAL && report.message_len);
	CHECK("set_vector to no text", vexfs_rust_set_vector(v, plain, NAME("\xff\xfe"), NOW,
	      &report) == -EINVAL);
	CHECK("set_vector without text", vexfs_rust_set_vector(v, plain, NULL, 9, NOW, &report) == -EFAULT);
	CHECK("write the rows", vexfs_rust_write_file(v, ino, 0, (uint8_t *)rows, sizeof(rows), NOW,
	      &report) == 0);
	CHECK("set_vector to the same on contents", RUN(v, vexfs_rust_set_vector(v, ino, NAME(layout), NOW,
	      &report)) == 0);
	CHECK("vector_storage", vexfs_rust_vector_storage(v, ino, &shape, &report) == 0 &&
	      shape.slots == 500 && shape.vector_bytes == 16 && shape.stride == 16 && shape.dim == 4);
	CHECK("vector_storage of a plain file", vexfs_rust_vector_storage(v, plain, &shape,
	      &report) == -ENODATA);
	CHECK("vector_storage without a place", vexfs_rust_vector_storage(v, ino, NULL,
	      &report) == -EFAULT);
	CHECK("vector_search", vexfs_rust_vector_search(v, ino, (uint8_t *)query, 16, 3, hits, &found,
	      &report) == 0 && found == 3 &&
	      hits[0].slot == 250 && hits[1].slot == 249 && hits[2].slot == 252);
	memcpy(&distance, &hits[0].distance_bits, 4);
	CHECK("its distance", distance > 0.199f && distance < 0.201f);
	CHECK("vector_search for more than there are", vexfs_rust_vector_search(v, ino,
	      (uint8_t *)query, 16,
	      8, hits, &found, &report) == 0 && found == 8);
	CHECK("vector_search with a short query", vexfs_rust_vector_search(v, ino, (uint8_t *)query, 12, 3,
	      hits, &found, &report) == -EINVAL);
	CHECK("vector_search for none", vexfs_rust_vector_search(v, ino, (uint8_t *)query, 16, 0, hits,
	      &found, &report) == -EINVAL);
	CHECK("vector_search for too many", vexfs_rust_vector_search(v, ino, (uint8_t *)query, 16,
	      VEXFS_HITS_MAX + 1, hits, &found, &report) == -EINVAL);
	CHECK("vector_search without room", vexfs_rust_vector_search(v, ino, (uint8_t *)query, 16, 3, NULL,
	      &found, &report) == -EFAULT);
	CHECK("vector_search without a query", vexfs_rust_vector_search(v, ino, NULL, 16, 3, hits, &found,
	      &report) == -EFAULT);
	CHECK("vector_search without a place", vexfs_rust_vector_search(v, ino, (uint8_t *)query, 16, 3,
	      hits, NULL, &report) == -EFAULT);
	query[0] = 0.0f / 0.0f;
	CHECK("vector_search with NaN", vexfs_rust_vector_search(v, ino, (uint8_t *)query, 16, 3, hits,
	      &found, &report) == -EINVAL);
	CHECK("set_vector takes it away", RUN(v, vexfs_rust_set_vector(v, plain, NULL, 0, NOW,
	      &report)) == 0);
	vexfs_rust_cleanup_superblock(v);
	device_free(&device);
}

/* Makes one file durable; whatever it needs may fail. */
static int work(struct vexfs_volume *v)
{
	struct vexfs_new_attrs file = { .now = NOW, .mode = 0100600 };
	uint8_t data[5000] = { 1 };
	struct vexfs_attr attr;
	int err;

	err = RUN(v, vexfs_rust_create_file(v, AT(ROOT, "w"), &file, &attr, NULL, &report));
	if (!err)
		err = RUN(v, vexfs_rust_xattr_set(v, attr.ino, NAME("user.x"), data, 3000, 0, NOW,
		      &report));
	if (!err)
		err = vexfs_rust_write_file(v, attr.ino, 0, data, sizeof(data), NOW, &report);
	return err ?: vexfs_rust_sync_fs(v, NOW, NULL, &report);
}

void test_failures(void)
{
	struct vexfs_volume *v = NULL;
	struct memory_device device;
	struct vexfs_attr attr;
	struct vexfs_state state;
	int bad = 0, tried, err;

	for (tried = 0; tried < 200; tried++) {
		device_make(&device, 2 << 20);
		format(&device);
		device.fail_after = tried;
		device.fail_with = ENOSPC;
		v = NULL;
		err = vexfs_rust_fill_super(&device.host, 0, 0, &v, &report);
		if (!err)
			err = work(v);
		device.fail_with = 0;
		if (v) {
			vexfs_rust_get_state(v, &state);
			/* After a failed commit the volume stays dead. */
			if (err && state.dead && vexfs_rust_sync_fs(v, NOW, NULL, &report) != -EIO)
				bad++;
			vexfs_rust_cleanup_superblock(v);
		}
		if (err && err != -ENOSPC) {
			printf("# request %d: %d dead %u\n", tried, err, state.dead);
			bad++;
		}
		/* The device still holds a committed state. */
		v = open_volume(&device, 0);
		if (RUN(v, vexfs_rust_init_inode(v, ROOT, &attr, &report)))
			bad++;
		vexfs_rust_cleanup_superblock(v);
		device_free(&device);
		if (!err)
			break;
	}
	CHECK("the device fails at every request in turn", !bad && tried > 5 && tried < 200);

	for (tried = 0; tried < 5000; tried++) {
		bool opened;

		device_make(&device, 2 << 20);
		format(&device);
		memory_left = tried;
		v = NULL;
		err = vexfs_rust_fill_super(&device.host, 0, 0, &v, &report);
		opened = !err;
		if (!err)
			err = work(v);
		memory_left = -1;
		if (opened)
			vexfs_rust_cleanup_superblock(v);
		device_free(&device);
		if (!err)
			break;
		if (err != -ENOMEM && err != -EIO) {
			printf("# allocation %d: %d\n", tried, err);
			bad++;
		}
	}
	CHECK("memory runs out at every allocation in turn", !bad && tried > 20 && tried < 5000);
}
