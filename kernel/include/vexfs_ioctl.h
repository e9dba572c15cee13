/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Searching a mounted VexFS for vectors: ioctl(fd, VEXFS_IOC_SEARCH, search) on a
 * file or directory that was opened for reading.
 *
 *	struct vexfs_search *search = calloc(1, SIZE);
 *
 *	search->size = SIZE;
 *	search->version = VEXFS_SEARCH_VERSION;
 *	search->k = 10;
 *	search->element = VEXFS_QUERY_F32;
 *	search->dim = 384;
 *	memcpy(search->data, query, 384 * 4);
 *	if (ioctl(fd, VEXFS_IOC_SEARCH, search) == 0)
 *		... search->hits of struct vexfs_search_hit at search->data
 *
 * The structure has no pointers and is the same for 32-bit and 64-bit programs.
 * Numbers are in the machine's byte order. Bytes of data before the call: the
 * query. After it: `hits` hits, the nearest first, and behind them `note_bytes`
 * bytes of notes, each a struct vexfs_search_note, its text, and zeroes up to a
 * multiple of 8.
 *
 * A file or directory covers all vector files at or under it that the caller may
 * read in the newest committed tree. The kernel drops hits and paths of files that
 * the caller may not read now.
 *
 * Errors:
 *	EBADF		not opened for reading
 *	EFAULT		the structure, as long as its size says, is not there
 *	EINVAL		another version, a flag or element that is not known, a reserved
 *			field that is not zero, an impossible k, ef or dim; or a size
 *			that is too small for the query or for k hits, or too large
 *	EBADR		the search makes no sense for these files, or the target may not
 *			answer it: a note says why (VEXFS_NOTE_REASON)
 *	EOPNOTSUPP	nobody answers searches on this device: it is not served by
 *			vexfs-ublk, or something between keeps copies of it
 *	E2BIG		the caller is in more groups than a request can name
 *	ETIMEDOUT	no answer in time
 *	EAGAIN		the target was restarted again and again; try once more
 *	EPROTO		the target's answers are not understood
 *	EIO		the device or the filesystem failed
 *	ENOMEM, EINTR
 */
#ifndef VEXFS_IOCTL_H
#define VEXFS_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define VEXFS_SEARCH_VERSION	1

/* Limits. */
#define VEXFS_SEARCH_K_MAX	16384
#define VEXFS_SEARCH_DIM_MAX	65536
#define VEXFS_SEARCH_SIZE_MAX	(1 << 20)

/* flags: compare the query with every vector. */
#define VEXFS_SEARCH_EXACT	(1 << 0)
/* flags: the query is the vector in slot `like` of the file; element and dim are 0. */
#define VEXFS_SEARCH_LIKE	(1 << 1)

/* element: how the query is written. */
#define VEXFS_QUERY_F32		1	/* dim 32-bit floating point numbers, little-endian */
#define VEXFS_QUERY_U8		2	/* dim bytes: numbers, or packed bits where files hold bits */
#define VEXFS_QUERY_I8		3	/* dim signed bytes; packed bits are then 128 less */

/* out_flags: everything that was committed before the call was searched. */
#define VEXFS_SEARCH_CAUGHT_UP	(1 << 0)
/* out_flags: there was no room for all notes. */
#define VEXFS_SEARCH_NOTES_CUT	(1 << 1)
/* out_flags: hits were dropped because the caller may not read their files now. */
#define VEXFS_SEARCH_DROPPED	(1 << 2)

/* The kind of a note. */
#define VEXFS_NOTE_PATH		1	/* the path below the descriptor of a file with hits */
#define VEXFS_NOTE_FILE		2	/* why a file was not searched as expected */
#define VEXFS_NOTE_REASON	3	/* why there is no answer */
#define VEXFS_NOTE_INDEX	4	/* why the index is not kept up to date */

struct vexfs_search_hit {
	__u64 ino;		/* inode number of the file */
	__u64 slot;		/* ordinal of the vector in the file */
	__u32 distance;		/* the bits of a 32-bit floating point number */
	__u32 reserved;
};

struct vexfs_search_note {
	__u64 ino;		/* inode number of the file, or 0 */
	__u32 kind;
	__u32 len;		/* bytes of text that follow */
};

struct vexfs_search {
	/* To the kernel. */
	__u32 size;		/* bytes of this structure with its data */
	__u32 version;
	__u32 flags;
	__u32 k;		/* hits wanted */
	__u32 ef;		/* width of the search; 0: as the index was set up */
	__u32 element;
	__u32 dim;		/* numbers in the query */
	__u32 timeout_ms;	/* 0: a minute */
	__u64 like;
	__u64 reserved[3];
	/* From the kernel. */
	__u64 generation;	/* the generation that was searched */
	__u64 searched;		/* files that were searched */
	__u64 denied;		/* files and directories that the caller may not read */
	__u32 out_flags;
	__u32 hits;
	__u32 note_bytes;
	__u32 reserved_out;
	/* The query; then hits and notes. */
	__u8 data[];
};

#define VEXFS_IOC_SEARCH	_IOWR(0xf5, 1, struct vexfs_search)

#endif /* VEXFS_IOCTL_H */
