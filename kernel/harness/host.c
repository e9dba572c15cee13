// SPDX-License-Identifier: GPL-2.0-only
/* The host: see host.h. Runs all tests and prints the sum. */
#include "host.h"

int passed, failed;
long memory_left = -1;
long memory_live;
jmp_buf *panic_exit;

uint8_t *vexfs_host_alloc(size_t size, size_t align)
{
	void *memory = NULL;

	if (!size || !align || (align & (align - 1)))
		abort();
	if (memory_left == 0)
		return NULL;
	if (memory_left > 0)
		memory_left--;
	if (posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size))
		return NULL;
	memory_live++;
	return memory;
}

void vexfs_host_free(uint8_t *memory)
{
	if (memory)
		memory_live--;
	free(memory);
}

void vexfs_host_panic(const uint8_t *message, size_t len)
{
	if (panic_exit)
		longjmp(*panic_exit, 1);
	fprintf(stderr, "the engine panicked: %.*s\n", (int)len, message);
	abort();
}

/* Referenced by the standard library's objects, never called: nothing unwinds. */
void rust_eh_personality(void);
void rust_eh_personality(void)
{
}

static int fails(struct memory_device *device)
{
	return device->fail_with && device->fail_after-- <= 0 ? -device->fail_with : 0;
}

static int32_t device_read(void *ctx, uint64_t at, uint8_t *buf, size_t len)
{
	struct memory_device *device = ctx;
	int err = fails(device);

	if (at % 512 || len % 512 || at + len > device->len)
		abort();
	device->reads++;
	if (!err)
		memcpy(buf, device->bytes + at, len);
	return err;
}

static int32_t device_write(void *ctx, const struct vexfs_write_request *requests, size_t count,
			    bool fua)
{
	struct memory_device *device = ctx;

	for (size_t i = 0; i < count; i++) {
		int err = fails(device);

		if (requests[i].at % 512 || requests[i].len % 512 ||
		    requests[i].at + requests[i].len > device->len)
			abort();
		if (err)
			return err;
		memcpy(device->bytes + requests[i].at, requests[i].data, requests[i].len);
		device->writes++;
	}
	device->fuas += fua;
	return 0;
}

static int32_t device_flush(void *ctx)
{
	struct memory_device *device = ctx;

	device->flushes++;
	return fails(device);
}

void device_make(struct memory_device *device, size_t len)
{
	memset(device, 0, sizeof(*device));
	device->bytes = calloc(1, len);
	if (!device->bytes)
		abort();
	device->len = len;
	device->host = (struct vexfs_host_device){
		.ctx = device, .len_bytes = len,
		.read = device_read, .write = device_write, .flush = device_flush,
	};
}

void device_free(struct memory_device *device)
{
	free(device->bytes);
	device->bytes = NULL;
}

void check(const char *name, int truth, const char *file, int line)
{
	if (truth) {
		passed++;
		printf("ok %d - %s\n", passed + failed, name);
	} else {
		failed++;
		printf("not ok %d - %s (%s:%d)\n", passed + failed, name, file, line);
	}
}

void format(struct memory_device *device)
{
	struct vexfs_format_options options = {
		.bytes = device->len, .now = NOW, .block_bytes = BLOCK, .label_len = 7,
		.uuid = "0123456789abcde", .hash_key = "fedcba987654321", .label = "harness",
	};
	struct vexfs_report report;

	if (vexfs_rust_userspace_init(&device->host, &options, &report)) {
		fprintf(stderr, "cannot format: %s\n", report.message);
		abort();
	}
}

struct vexfs_volume *open_volume(struct memory_device *device, uint32_t flags)
{
	struct vexfs_volume *volume = NULL;
	struct vexfs_report report;

	if (vexfs_rust_fill_super(&device->host, flags, 1 << 20, &volume, &report)) {
		fprintf(stderr, "cannot open: %s\n", report.message);
		abort();
	}
	return volume;
}

int again(struct vexfs_volume *volume, struct vexfs_report *report, int *err)
{
	struct vexfs_node *node = NULL;

	if (*err != -EAGAIN)
		return 0;
	if (report->want == VEXFS_WANT_NODE) {
		*err = vexfs_rust_fetch_begin(volume, report, &node);
		if (*err)
			return 0;
		*err = vexfs_rust_fetch(node, report);
		if (*err)
			vexfs_rust_discard(node);
		else
			*err = vexfs_rust_install(volume, node, report);
		return !*err;
	}
	if (report->want == VEXFS_WANT_COMMIT) {
		*err = vexfs_rust_sync_fs(volume, NOW, NULL, report);
		return !*err;
	}
	return 0;
}

int main(void)
{
	/* By lines: what was printed is not lost if a test aborts. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	test_volume();
	test_names();
	test_data();
	test_vectors();
	test_failures();
	test_memory();
	test_window();
	CHECK("all memory was given back", memory_live == 0);
	printf("%d passed, %d failed\n", passed, failed);
	return failed > 0;
}
