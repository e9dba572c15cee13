/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A host in userspace for the engine: a device in memory that fails when told
 * to, an allocator that fails when told to, and what tests need.
 */
#ifndef HARNESS_HOST_H
#define HARNESS_HOST_H

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vexfs_ffi.h"

#define BLOCK 4096u
#define ROOT 1u
#define NOW ((struct vexfs_timestamp){ .seconds = 1700000000, .nanos = 5 })

/* A name in a directory, and attributes of a symbolic link, as arguments. */
#define AT_BYTES(parent, bytes, count) \
	(&(struct vexfs_name_at){ .dir = (parent), .name = (const uint8_t *)(bytes), .len = (count) })
#define AT(parent, text) AT_BYTES(parent, text, (uint32_t)strlen(text))
#define LINK_TO(type, bytes, count) \
	(&(struct vexfs_new_attrs){ .now = NOW, .mode = (type) | 0777, \
				    .target = (const uint8_t *)(bytes), .target_len = (count) })

struct memory_device {
	uint8_t *bytes;
	size_t len;
	/* Fail the n-th request from now on with this errno; 0: none. */
	int fail_after;
	int fail_with;
	unsigned long reads, writes, flushes, fuas;
	struct vexfs_host_device host;
};

extern int passed, failed;
/* Let the n-th allocation from now on fail, and all that follow; below 0: none. */
extern long memory_left;
extern long memory_live;
/* Where a panic goes while a test expects one. */
extern jmp_buf *panic_exit;

void device_make(struct memory_device *device, size_t len);
void device_free(struct memory_device *device);
void check(const char *name, int truth, const char *file, int line);

#define CHECK(name, truth) check(name, !!(truth), __FILE__, __LINE__)

/* Opens the device; the volume must open. */
struct vexfs_volume *open_volume(struct memory_device *device, uint32_t flags);
void format(struct memory_device *device);
/* Fetches what a call missed, or commits for it. True: make it again; else *err is its result. */
int again(struct vexfs_volume *volume, struct vexfs_report *report, int *err);

/* Makes a call as often as it takes. The expression uses `report`. */
#define RUN(volume, call)						\
({									\
	int result_;							\
	do								\
		result_ = (call);					\
	while (again((volume), &report, &result_));			\
	result_;							\
})

/* volume.c, names.c, data.c, memory.c, window.c: the tests. */
void test_volume(void);
void test_names(void);
void test_data(void);
void test_vectors(void);
void test_failures(void);
void test_memory(void);
void test_window(void);

#endif /* HARNESS_HOST_H */
