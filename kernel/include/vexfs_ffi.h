/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The VexFS engine's functions for C. Generated from kernel/ffi; do not edit:
 * UPDATE=1 cargo test -p vexfs-ffi --test header
 *
 * The names are those of an older interface. Each description begins with what
 * the function is in the engine's own words. Three sections: what the module
 * calls, its self-tests, and what only hosts in userspace call. The rules for
 * pointers and locks are the contract in kernel/ffi/src/lib.rs.
 */
#ifndef VEXFS_FFI_H
#define VEXFS_FFI_H

#ifdef __KERNEL__
#include <linux/limits.h>
#include <linux/types.h>
#ifndef UINT64_MAX
#define UINT64_MAX U64_MAX
#endif
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif


// Version of this interface; `vexfs_rust_init` refuses another one.
#define VEXFS_ABI_VERSION 5

// Nothing: the call succeeded, or its error is final.
#define VEXFS_WANT_NOTHING 0

// Fetch a block (`vexfs_rust_fetch_begin`), then call again.
#define VEXFS_WANT_NODE 1

// Commit the running transaction, then call again.
#define VEXFS_WANT_COMMIT 2

// Stop writing to the filesystem: it is damaged, or the engine has a bug. The message says which.
#define VEXFS_WANT_READ_ONLY 3

// A range that is stored nowhere and reads as zeroes.
#define VEXFS_MAP_HOLE 0

// Allocated blocks that read as zeroes until they are marked as written.
#define VEXFS_MAP_UNWRITTEN 1

// Allocated blocks that hold data.
#define VEXFS_MAP_WRITTEN 2

// `mark_written`: leave the size as it is.
#define VEXFS_KEEP_SIZE UINT64_MAX

// Bit of `vexfs_set_attrs.valid` for `mode`.
#define VEXFS_ATTR_MODE 1

// Bit for `uid`.
#define VEXFS_ATTR_UID 2

// Bit for `gid`.
#define VEXFS_ATTR_GID 4

// Bit for `atime`.
#define VEXFS_ATTR_ATIME 8

// Bit for `mtime`.
#define VEXFS_ATTR_MTIME 16

// `rename`: fail with `-EEXIST` if the new name is taken.
#define VEXFS_RENAME_NOREPLACE 1

// `rename`: exchange the two names.
#define VEXFS_RENAME_EXCHANGE 2

// `xattr_set`: fail with `-EEXIST` if the attribute exists.
#define VEXFS_XATTR_CREATE 1

// `xattr_set`: fail with `-ENODATA` if it does not.
#define VEXFS_XATTR_REPLACE 2

// `fill_super`: refuse every change.
#define VEXFS_OPEN_READ_ONLY 1

// Bytes of the command window: the last ones of the device.
#define VEXFS_WINDOW_BYTES 8388608

// Bytes of a page of the window.
#define VEXFS_WINDOW_PAGE_BYTES 4096

// Pages from 1 to the one before this are echoed.
#define VEXFS_WINDOW_ECHO_END 256

// First byte of the pages in the window; the slots lie before them.
#define VEXFS_WINDOW_PAGES_AT 7340032

// Slots.
#define VEXFS_WINDOW_SLOTS 14

// Bytes of a slot.
#define VEXFS_WINDOW_SLOT_BYTES 524288

// Bytes of a request before its groups.
#define VEXFS_WINDOW_REQUEST_BYTES 128

// Most groups of a request.
#define VEXFS_WINDOW_GROUPS_MAX 32768

// `open_file`: the file is to be written.
#define VEXFS_OPEN_WRITE 1

// Most hits a search returns.
#define VEXFS_HITS_MAX 1024

// A frozen transaction on its way to the device. Opaque.
struct vexfs_commit;

// A block that a call missed: to be read, or read and verified. Opaque.
struct vexfs_node;

// An open volume. Opaque.
struct vexfs_volume;

// One write of a batch.
struct vexfs_write_request {
	// Byte of the device.
	uint64_t at;
	// The data.
	const uint8_t *data;
	// Bytes, a multiple of 512.
	size_t len;
};

// A device, as a host hands it over: three functions that may sleep, answer 0 or a negative errno, and may be
// called side by side. Offsets and lengths are multiples of 512.
struct vexfs_host_device {
	// Handed to every function.
	void *ctx;
	// Bytes of the device.
	uint64_t len_bytes;
	// `read(ctx, at, buf, len)`
	int32_t (*read)(void*, uint64_t, uint8_t*, size_t);
	// `write(ctx, requests, count, fua)`: all of them, in any order; if `fua`, durable on return.
	int32_t (*write)(void*, const struct vexfs_write_request*, size_t, bool);
	// `flush(ctx)`: makes every completed write durable.
	int32_t (*flush)(void*);
};

// What the host has to do after a call, and why the call failed. The library fills it in; its first contents do not matter.
struct vexfs_report {
	// One of the `VEXFS_WANT_*`.
	uint32_t want;
	// Bytes of `message`, not counting the zero behind it; 0 unless there is something to say.
	uint32_t message_len;
	// For `vexfs_rust_fetch_begin` alone.
	uint64_t missing[6];
	// Text that ends in a zero.
	uint8_t message[160];
};

// Figures of the filesystem.
struct vexfs_figures {
	// Blocks of the filesystem.
	uint64_t blocks;
	// Blocks nothing uses.
	uint64_t blocks_free;
	// Blocks that file data may take.
	uint64_t blocks_available;
	// Inodes in use.
	uint64_t inodes;
	// Bytes of a block.
	uint32_t block_bytes;
	// Longest name of an entry in bytes.
	uint32_t name_max;
	// UUID.
	uint8_t uuid[16];
	// Label, padded with zeroes.
	uint8_t label[64];
};

// Where a volume stands.
struct vexfs_state {
	// Newest generation that is durable.
	uint64_t durable;
	// Generation that is being built.
	uint64_t running;
	// Tree nodes in memory.
	uint64_t cached_nodes;
	// Inodes without a name and truncations that were cut short.
	uint64_t orphans;
	// Number of the next inode that is made; none is used twice.
	uint64_t next_ino;
	// 1 if something changed since the last commit was begun.
	uint32_t dirty;
	// 1 once a failure stopped the volume.
	uint32_t dead;
	// 1 if changes are refused.
	uint32_t read_only;
	// Zero.
	uint32_t reserved;
};

// A point in time.
struct vexfs_timestamp {
	// Seconds since 1970, negative before.
	int64_t seconds;
	// Nanoseconds, below 10^9.
	uint32_t nanos;
	// Zero.
	uint32_t reserved;
};

// An inode's attributes.
struct vexfs_attr {
	// Its number.
	uint64_t ino;
	// Of a directory: the one it is in.
	uint64_t parent;
	// Bytes; of a directory, entries.
	uint64_t size;
	// Blocks of the filesystem that it holds.
	uint64_t blocks;
	// Grows with every change.
	uint64_t version;
	// Last access.
	struct vexfs_timestamp atime;
	// Last change of contents.
	struct vexfs_timestamp mtime;
	// Last change of the inode.
	struct vexfs_timestamp ctime;
	// Birth.
	struct vexfs_timestamp btime;
	// Type and permissions, as `st_mode`.
	uint32_t mode;
	// Number of names.
	uint32_t nlink;
	// Owner.
	uint32_t uid;
	// Group.
	uint32_t gid;
	// Device number of a special file, as `new_encode_dev`.
	uint32_t rdev;
	// 1 if it has a vector attribute.
	uint32_t vector;
};

// Attributes to change.
struct vexfs_set_attrs {
	// Which of the fields below count, as `VEXFS_ATTR_*`. `ctime` always does.
	uint32_t valid;
	// Type and permissions; the type must be the inode's.
	uint32_t mode;
	// Owner.
	uint32_t uid;
	// Group.
	uint32_t gid;
	// Last access.
	struct vexfs_timestamp atime;
	// Last change of contents.
	struct vexfs_timestamp mtime;
	// Last change of the inode.
	struct vexfs_timestamp ctime;
};

// What a new inode is to be.
struct vexfs_new_attrs {
	// Its four times.
	struct vexfs_timestamp now;
	// Type and permissions, as `st_mode`.
	uint32_t mode;
	// Owner.
	uint32_t uid;
	// Group.
	uint32_t gid;
	// Device number of a special file, as `new_encode_dev`.
	uint32_t rdev;
	// Target of a symbolic link.
	const uint8_t *target;
	// Its bytes, 1 to 4095; 0 for everything else.
	uint32_t target_len;
	// Zero.
	uint32_t reserved;
};

// A name in a directory: bytes, 1 to 255 of them, without a slash or a zero.
struct vexfs_name_at {
	// The directory.
	uint64_t dir;
	// The name.
	const uint8_t *name;
	// Its bytes.
	uint32_t len;
	// Zero.
	uint32_t reserved;
};

// Attributes after a rename; those with an inode number of 0 were not concerned.
struct vexfs_rename_result {
	// The inode that had the new name: replaced (destroy it when `nlink` is 0 and nobody uses it) or exchanged.
	struct vexfs_attr other;
	// The directory of the old name.
	struct vexfs_attr from_dir;
	// The directory of the new name.
	struct vexfs_attr to_dir;
};

// A range of a file and where it lives.
struct vexfs_extent {
	// First block of the file.
	uint64_t start;
	// Blocks, at least 1.
	uint64_t count;
	// First block of the device, unless it is a hole.
	uint64_t block;
	// One of the `VEXFS_MAP_*`.
	uint32_t kind;
	// Zero.
	uint32_t reserved;
};

// A search, for a request.
struct vexfs_window_search {
	// Chosen at random.
	uint64_t token;
	// Of the header.
	uint64_t session;
	// The file or directory.
	uint64_t ino;
	// The slot whose vector is the query, if the flags say so.
	uint64_t like;
	// As in the caller's structure.
	uint32_t flags;
	// Hits wanted.
	uint32_t k;
	// Width of the search.
	uint32_t ef;
	// How the query's numbers are written.
	uint32_t element;
	// Numbers of the query.
	uint32_t dim;
	// Bytes of the query; `vexfs_rust_window_plan` fills it in.
	uint32_t query_bytes;
	// The caller's user.
	uint32_t uid;
	// The caller's group.
	uint32_t gid;
	// The caller's supplementary groups.
	uint32_t groups;
	// 1: the caller may read everything.
	uint32_t rights;
};

// What is known of the window so far.
struct vexfs_window_proof {
	// Of the header.
	uint64_t session;
	// The number of the last echo.
	uint64_t count;
	// The page that it was read from.
	uint32_t page;
	// How many echoes followed the first.
	uint32_t rounds;
};

// The head of an answer.
struct vexfs_window_answer {
	// The generation that was searched.
	uint64_t generation;
	// Files that were searched.
	uint64_t searched;
	// Files and directories that the caller may not read.
	uint64_t denied;
	// 0: no request, 1: read again, 2: hits, 3: refused, 4: the request was not understood.
	uint32_t status;
	// As in the caller's structure.
	uint32_t flags;
	// Hits.
	uint32_t hits;
	// Bytes of notes.
	uint32_t note_bytes;
	// Bytes in all.
	uint32_t total;
	// Zero.
	uint32_t reserved;
};

// A hit of an answer.
struct vexfs_window_hit {
	// Inode of the file.
	uint64_t ino;
	// Ordinal of the vector.
	uint64_t slot;
	// The distance's bits.
	uint32_t distance;
	// Zero.
	uint32_t reserved;
};

// A note of an answer.
struct vexfs_window_note {
	// Inode of the file; 0: none.
	uint64_t ino;
	// Its kind.
	uint32_t kind;
	// First byte of its text in the answer.
	uint32_t text_at;
	// Bytes of its text.
	uint32_t text_len;
	// Where the next note begins in the notes.
	uint32_t next;
};

// How to format a device.
struct vexfs_format_options {
	// Bytes of the filesystem, at most the device's.
	uint64_t bytes;
	// When it is made.
	struct vexfs_timestamp now;
	// Bytes of a block: a power of two from 4096 to 65536.
	uint32_t block_bytes;
	// Owner of the root directory.
	uint32_t root_uid;
	// Group of the root directory.
	uint32_t root_gid;
	// Bytes of `label` that count, at most 64.
	uint32_t label_len;
	// UUID.
	uint8_t uuid[16];
	// Secret key of the hash of names.
	uint8_t hash_key[16];
	// Label.
	uint8_t label[64];
};

// Shape of a vector file.
struct vexfs_vector_shape {
	// Whole vectors in the file.
	uint64_t slots;
	// Bytes before the first record.
	uint64_t header;
	// Bytes from one record to the next.
	uint32_t stride;
	// Bytes from a record's start to its vector.
	uint32_t offset;
	// Bytes of a vector.
	uint32_t vector_bytes;
	// Numbers in a vector.
	uint32_t dim;
};

// One result of a search.
struct vexfs_vector_hit {
	// Ordinal of the vector in its file.
	uint64_t slot;
	// The distance as the bits of an IEEE single; the kernel has no floating point.
	uint32_t distance_bits;
	// Zero.
	uint32_t reserved;
};

// The head of one record that `readdir` packs into its buffer; the name follows, and then zeroes
// up to a multiple of 8 bytes.
struct vexfs_dir_record {
	// The inode.
	uint64_t ino;
	// Where to go on after this entry.
	uint64_t cookie;
	// Bytes of this record, padding included.
	uint16_t record_len;
	// Bytes of the name.
	uint16_t name_len;
	// Its `DT_*`.
	uint32_t file_type;
};

// Prepares the library. `abi_version` is the `VEXFS_ABI_VERSION` of the caller's header.
//
// 0, or `-EINVAL` if the header and this object do not belong together.
int32_t vexfs_rust_init(uint32_t abi_version);

// The counterpart of `vexfs_rust_init`. There is nothing to give back: volumes are closed one by one. Always 0.
int32_t vexfs_rust_exit(void);

// Writes the version, as text that ends in a zero, to the `len` bytes at `buf`.
//
// 0, `-EFAULT`, or `-ERANGE` if it does not fit.
int32_t vexfs_rust_get_version(uint8_t *buf, size_t len);

// `Volume::open`: opens the filesystem on `device` and hands its volume to `*out`. `flags`: `VEXFS_OPEN_READ_ONLY`
// or 0; `cache_bytes`: about how many bytes of clean tree nodes to keep. Reads the device.
//
// 0; `-EINVAL` if it is no VexFS this code knows, `-EUCLEAN` if it is damaged, `-EROFS` if only reading is possible,
// the device's error, `-ENOMEM`. The report's message says which. `*out` is written only on success; give it back
// with `vexfs_rust_cleanup_superblock`.
int32_t vexfs_rust_fill_super(const struct vexfs_host_device *device,
			      uint32_t flags,
			      size_t cache_bytes,
			      struct vexfs_volume **out,
			      struct vexfs_report *report);

// `Volume::kill`: ends all work on a volume before it is given back: from here on every operation fails with `-EIO`.
// Commit first.
//
// 0, or `-EBUSY` if there were uncommitted changes, which are lost now.
int32_t vexfs_rust_put_super(struct vexfs_volume *volume);

// `drop(Volume)`: gives a volume back with all its memory; nobody may use it any more. Writes nothing. 0, or
// `-EFAULT`.
int32_t vexfs_rust_cleanup_superblock(struct vexfs_volume *volume);

// `Volume::statfs`: writes the filesystem's figures to `*out`. 0, or `-EFAULT`.
int32_t vexfs_rust_get_statfs(const struct vexfs_volume *volume, struct vexfs_figures *out);

// `Volume::generation` and its like: writes where the volume stands to `*out`. 0, or `-EFAULT`.
int32_t vexfs_rust_get_state(const struct vexfs_volume *volume, struct vexfs_state *out);

// `Volume::set_read_only`: refuses changes from now on (`read_only` true), or allows them again. Commit before
// refusing. 0, or `-EFAULT`.
int32_t vexfs_rust_set_read_only(struct vexfs_volume *volume,
				 bool read_only);

// `Volume::trim`: evicts clean tree nodes until about `limit` are left, and writes how many went to `*freed`. 0, or
// `-EFAULT`.
int32_t vexfs_rust_trim(struct vexfs_volume *volume,
			size_t limit,
			size_t *freed);

// `Volume::node_reader`: prepares to read the block that the call before missed, under the same hold of the lock.
// `report` is that call's. `*out` gets the node, for `vexfs_rust_fetch`. Reads nothing yet.
//
// 0, `-EINVAL` if the report wants no node, or `-ENOMEM`.
int32_t vexfs_rust_fetch_begin(const struct vexfs_volume *volume,
			       struct vexfs_report *report,
			       struct vexfs_node **out);

// `NodeReader::fetch`: reads and verifies the block of a node. Takes no lock.
//
// 0, `-EUCLEAN`, `-ENOMEM`, or the device's error; all of them leave the node to be fetched again, or discarded.
// `-EUCLEAN` is damage only if the lock was not released since the call that missed. Else the block may have been used
// for something else: make that call again, and fetch what it misses then under its hold of the lock.
int32_t vexfs_rust_fetch(struct vexfs_node *node,
			 struct vexfs_report *report);

// `Volume::install`: takes in what `vexfs_rust_fetch` read, unless it is stale. Takes the node back, whatever the
// outcome.
//
// 0, `-EFAULT`, `-ENOMEM`, or `-EINVAL` for a node that was not fetched.
int32_t vexfs_rust_install(struct vexfs_volume *volume,
			   struct vexfs_node *node,
			   struct vexfs_report *report);

// `drop(LoadedNode)`: takes back a node that is not wanted after all. 0, or `-EFAULT`.
int32_t vexfs_rust_discard(struct vexfs_node *node);

// `Volume::freeze`: freezes the running transaction. `*out` gets the commit, or null if nothing has changed since
// the last one.
//
// 0; `-EAGAIN` with `VEXFS_WANT_NODE`; `-EINVAL` while another commit is under way; `-ENOMEM`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_commit_begin(struct vexfs_volume *volume,
				struct vexfs_timestamp now,
				struct vexfs_commit **out,
				struct vexfs_report *report);

// `Commit::write`: writes a frozen transaction to the device, flushes, and writes its root record. Takes no lock,
// and must be called by one task at a time.
//
// 0, or the device's error. Either way go on with `vexfs_rust_commit_finish`.
int32_t vexfs_rust_commit_write(struct vexfs_commit *commit,
				struct vexfs_report *report);

// `Volume::finish`: takes note of how the commit went, and gives it back. If writing failed, or was left out, the
// volume is dead.
//
// 0, or the error `vexfs_rust_commit_write` had.
int32_t vexfs_rust_commit_finish(struct vexfs_volume *volume,
				 struct vexfs_commit *commit,
				 struct vexfs_report *report);

// `Volume::inode`: reads inode `ino` into `*out`. 0, `-ENOENT`, `-EAGAIN` (see the report), `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_init_inode(const struct vexfs_volume *volume,
			      uint64_t ino,
			      struct vexfs_attr *out,
			      struct vexfs_report *report);

// `Volume::set_attr`: changes attributes of inode `ino`; `*out`, if not null, gets the inode as it is then.
//
// 0; `-EINVAL` for an unknown bit in `valid`; `-ENOENT`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_write_inode(struct vexfs_volume *volume,
			       uint64_t ino,
			       const struct vexfs_set_attrs *attrs,
			       struct vexfs_attr *out,
			       struct vexfs_report *report);

// `Volume::create_unnamed`: makes a regular file without a name (`O_TMPFILE`): an orphan until it is linked.
//
// 0; `-EINVAL` for another type; `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_new_inode(struct vexfs_volume *volume,
			     const struct vexfs_new_attrs *attrs,
			     struct vexfs_attr *out,
			     struct vexfs_report *report);

// `Volume::evict`: destroys inode `ino`, which has no name left and no user, in steps: while `*more` is 1, call it
// again. One that has names is left alone, but for what a truncation that was cut short has to free yet.
//
// 0 (also if there is no such inode any more), `-EROFS`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_destroy_inode(struct vexfs_volume *volume,
				 uint64_t ino,
				 uint32_t *more_out,
				 struct vexfs_report *report);

// `Volume::next_orphan`: finds the first orphan numbered `from` or higher, to be handed to
// `vexfs_rust_destroy_inode` unless somebody uses it: an inode without a name, or one whose truncation was cut
// short. `*ino` gets it, or 0 if there is none.
//
// 0, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_next_orphan(const struct vexfs_volume *volume,
			       uint64_t from,
			       uint64_t *ino,
			       struct vexfs_report *report);

// `Volume::lookup` and `Volume::inode`: finds a name and reads its inode into `*out`.
//
// 0, `-ENOENT`, `-ENOTDIR`, `-ENAMETOOLONG`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_lookup_inode(const struct vexfs_volume *volume,
				const struct vexfs_name_at *at,
				struct vexfs_attr *out,
				struct vexfs_report *report);

// `Volume::readdir`: packs entries of directory `dir` from `cookie` on (0 at the start, then the last record's) into
// the `len` bytes at `buf`, which are aligned to 8: records of `struct vexfs_dir_record`. `*used` gets the bytes
// that were filled; 0 bytes and success is the end. '.' and '..' are not among them.
//
// 0, `-ERANGE` if not even one entry fits (296 bytes always do), `-ENOTDIR`, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_readdir(const struct vexfs_volume *volume,
			   uint64_t dir,
			   uint64_t cookie,
			   uint8_t *buf,
			   size_t len,
			   size_t *used,
			   struct vexfs_report *report);

// `Volume::create`: makes what `attrs` says under a name: a file, directory, symbolic link or special file. `*out`
// gets the inode.
//
// 0; `-EINVAL` for a mode without a type, for a target of anything but a symbolic link, and for a link without one;
// `-EEXIST`, `-ENOENT`, `-ENOTDIR`, `-EMLINK`, `-ENAMETOOLONG`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`,
// `-EIO`.
int32_t vexfs_rust_create(struct vexfs_volume *volume,
			  const struct vexfs_name_at *at,
			  const struct vexfs_new_attrs *attrs,
			  struct vexfs_attr *out,
			  struct vexfs_attr *dir_out,
			  struct vexfs_report *report);

// `Volume::readlink`: reads a symbolic link's target and a zero behind it into the `len` bytes at `buf`; `*used`
// gets its length without the zero.
//
// 0, `-ERANGE` if it does not fit (4096 always do), `-EINVAL` if it is none, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_readlink(const struct vexfs_volume *volume,
			    uint64_t ino,
			    uint8_t *buf,
			    size_t len,
			    size_t *used,
			    struct vexfs_report *report);

// `Volume::link`: gives inode `ino` one more name. `*out` gets the inode after it.
//
// 0, `-EEXIST`, `-EISDIR`, `-EMLINK`, and as `vexfs_rust_create`.
int32_t vexfs_rust_link(struct vexfs_volume *volume,
			uint64_t ino,
			const struct vexfs_name_at *at,
			struct vexfs_timestamp now,
			struct vexfs_attr *out,
			struct vexfs_attr *dir_out,
			struct vexfs_report *report);

// `Volume::unlink`: takes a name away from something that is no directory. `*out` gets the inode after it: if its
// `nlink` is 0, destroy it with `vexfs_rust_destroy_inode` once nobody uses it.
//
// 0, `-ENOENT`, `-EISDIR`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_unlink_file(struct vexfs_volume *volume,
			       const struct vexfs_name_at *at,
			       struct vexfs_timestamp now,
			       struct vexfs_attr *out,
			       struct vexfs_attr *dir_out,
			       struct vexfs_report *report);

// `Volume::rmdir`: removes an empty directory. As `vexfs_rust_unlink_file`, with `-ENOTEMPTY` and `-ENOTDIR`.
int32_t vexfs_rust_remove_dir(struct vexfs_volume *volume,
			      const struct vexfs_name_at *at,
			      struct vexfs_timestamp now,
			      struct vexfs_attr *out,
			      struct vexfs_attr *dir_out,
			      struct vexfs_report *report);

// `Volume::rename`: moves a name. `flags`: 0, `VEXFS_RENAME_NOREPLACE` or `VEXFS_RENAME_EXCHANGE`. `*out` may not be
// null.
//
// 0; `-EINVAL` for both flags or a directory moved into itself; `-EEXIST`, `-ENOENT`, `-ENOTDIR`, `-EISDIR`,
// `-ENOTEMPTY`, `-EMLINK`, `-ENAMETOOLONG`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_rename(struct vexfs_volume *volume,
			  const struct vexfs_name_at *from,
			  const struct vexfs_name_at *to,
			  uint32_t flags,
			  struct vexfs_timestamp now,
			  struct vexfs_rename_result *out,
			  struct vexfs_report *report);

// `Volume::map`: finds where the blocks of file `ino` from `block` on live: `*out` gets one range that starts there,
// of at most `count` blocks. What does not exist is a hole.
//
// 0, `-EINVAL`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_map(const struct vexfs_volume *volume,
		       uint64_t ino,
		       uint64_t block,
		       uint64_t count,
		       struct vexfs_extent *out,
		       struct vexfs_report *report);

// `Volume::allocate`: as `vexfs_rust_map`, but where there is nothing yet it allocates unwritten blocks. `*out` may
// be shorter than asked.
//
// 0, `-EINVAL`, `-ENOENT`, `-EFBIG`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_allocate(struct vexfs_volume *volume,
			    uint64_t ino,
			    uint64_t block,
			    uint64_t count,
			    struct vexfs_extent *out,
			    struct vexfs_report *report);

// `Volume::mark_written`: after the data of these blocks has reached the device: unwritten blocks become written,
// and the size grows to `new_size` if it was below (`VEXFS_KEEP_SIZE`: it stays). `now`: the new mtime, or null.
// While `*more` is 1, call it again.
//
// 0, `-EINVAL`, `-ENOENT`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_mark_written(struct vexfs_volume *volume,
				uint64_t ino,
				uint64_t block,
				uint64_t count,
				uint64_t new_size,
				const struct vexfs_timestamp *now,
				uint32_t *more_out,
				struct vexfs_report *report);

// `Volume::punch`: frees these blocks; they read as zeroes then. `now`: the new mtime and ctime, or null. While
// `*more` is 1, call it again.
//
// 0, `-EINVAL`, `-ENOENT`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_punch(struct vexfs_volume *volume,
			 uint64_t ino,
			 uint64_t block,
			 uint64_t count,
			 const struct vexfs_timestamp *now,
			 uint32_t *more_out,
			 struct vexfs_report *report);

// `Volume::set_size`: sets the size of file `ino`; what lies past it is freed. The host zeroes the rest of the last
// block. While `*more` is 1, call it again.
//
// 0, `-EISDIR`, `-EINVAL`, `-ENOENT`, `-EFBIG`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_truncate_file(struct vexfs_volume *volume,
				 uint64_t ino,
				 uint64_t size,
				 struct vexfs_timestamp now,
				 uint32_t *more_out,
				 struct vexfs_report *report);

// `Volume::xattr_get`: reads an attribute's value into the `len` bytes at `buf`; `*used` gets its length. With `len`
// 0 only the length is told.
//
// 0, `-ENODATA`, `-ERANGE` if it does not fit, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_xattr_get(const struct vexfs_volume *volume,
			     uint64_t ino,
			     const uint8_t *name,
			     uint32_t name_len,
			     uint8_t *buf,
			     size_t len,
			     size_t *used,
			     struct vexfs_report *report);

// `Volume::xattr_list`: lists attribute names, each with a zero behind it, in the `len` bytes at `buf`; `*used` gets
// the bytes they take. With `len` 0 only that is told.
//
// 0, `-ERANGE` if they do not fit, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_xattr_list(const struct vexfs_volume *volume,
			      uint64_t ino,
			      uint8_t *buf,
			      size_t len,
			      size_t *used,
			      struct vexfs_report *report);

// `Volume::xattr_set`: sets an attribute. `flags`: 0, `VEXFS_XATTR_CREATE` or `VEXFS_XATTR_REPLACE`.
//
// 0, `-EEXIST`, `-ENODATA`, `-E2BIG`, `-ERANGE`, `-EINVAL`, `-ENOENT`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_xattr_set(struct vexfs_volume *volume,
			     uint64_t ino,
			     const uint8_t *name,
			     uint32_t name_len,
			     const uint8_t *value,
			     size_t len,
			     uint32_t flags,
			     struct vexfs_timestamp now,
			     struct vexfs_report *report);

// `Volume::xattr_remove`: removes an attribute. 0, `-ENODATA`, and as `vexfs_rust_xattr_set`.
int32_t vexfs_rust_xattr_remove(struct vexfs_volume *volume,
				uint64_t ino,
				const uint8_t *name,
				uint32_t name_len,
				struct vexfs_timestamp now,
				struct vexfs_report *report);

// `Volume::acl_set`: sets an attribute, or removes it if `value` is null, and changes attributes of the inode in the
// same change: an ACL and its mode. One that is to be removed need not be there.
//
// 0, `-EINVAL` for an unknown bit in `valid`, and as `vexfs_rust_xattr_set`.
int32_t vexfs_rust_set_acl(struct vexfs_volume *volume,
			   uint64_t ino,
			   const uint8_t *name,
			   uint32_t name_len,
			   const uint8_t *value,
			   size_t len,
			   const struct vexfs_set_attrs *attrs,
			   struct vexfs_report *report);

// `Volume::set_vector`: sets the vector attribute of `ino` from its text, or takes it away if `len` is 0.
//
// 0; `-EINVAL` with a message if the text is wrong or the file lies in too many pieces; `-ENOENT`,
// `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_set_vector(struct vexfs_volume *volume,
			      uint64_t ino,
			      const uint8_t *text,
			      size_t len,
			      struct vexfs_timestamp now,
			      struct vexfs_report *report);

// `Volume::vector`: writes the text of the vector attribute of `ino` (no zero behind it) to the `len` bytes at
// `buf`; `*used` gets its length. With `len` 0 only the length is told.
//
// 0, `-ENODATA` without one, `-ERANGE` if it does not fit, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_get_vector(const struct vexfs_volume *volume,
			      uint64_t ino,
			      uint8_t *buf,
			      size_t len,
			      size_t *used,
			      struct vexfs_report *report);

// `window::query_bytes`: checks a search, fills in the bytes of its query, and writes those of the whole request to
// `*total`. 0; `-EINVAL` for a search that is none; `-EFAULT`.
int32_t vexfs_rust_window_plan(struct vexfs_window_search *search,
			       uint32_t *total);

// Writes the head of a request before its groups and its query, which are in the buffer already, and seals it.
// 0; `-EINVAL` for a search that is none or is longer than the buffer; `-EFAULT`.
int32_t vexfs_rust_window_request(const struct vexfs_window_search *search,
				  uint8_t *buffer,
				  size_t len);

// `Header::parse`: begins a proof with page 0 of the window. 0; `-EOPNOTSUPP` for what is no header of this version;
// `-ESTALE` for that of another filesystem, which it may be for a moment after `mkfs`; `-EFAULT`.
int32_t vexfs_rust_window_header(const uint8_t *page,
				 size_t len,
				 const uint8_t *uuid,
				 struct vexfs_window_proof *proof);

// `Echo::parse`: goes on with a proof by the page `number` that was read. What a medium holds cannot name the page
// read before. 0; `-EOPNOTSUPP` if it is not what somebody who answers would say; `-EFAULT`.
int32_t vexfs_rust_window_prove(struct vexfs_window_proof *proof,
				uint32_t number,
				const uint8_t *page,
				size_t len);

// `window::Answer::parse`: judges what was read of a slot, and writes the head of the answer to `search` to `*out`.
//
// 0; `-EMSGSIZE` if more has to be read: `out->total` bytes; `-ENOENT` if it is the answer to another request or of
// another session; `-EPROTO` for anything else; `-EFAULT`.
int32_t vexfs_rust_window_answer(const uint8_t *answer,
				 size_t len,
				 const struct vexfs_window_search *search,
				 struct vexfs_window_answer *out);

// Writes hit number `index` of an answer that was judged to `*out`. 0, `-ENOENT` if there are not so many, `-EFAULT`.
int32_t vexfs_rust_window_hit(const uint8_t *answer,
			      size_t len,
			      uint32_t index,
			      struct vexfs_window_hit *out);

// Writes the note that begins `at` bytes into the notes of an answer that was judged to `*out`. 0, `-ENOENT` behind the
// last one, `-EPROTO` if it goes on past the notes' end, `-EFAULT`.
int32_t vexfs_rust_window_note(const uint8_t *answer,
			       size_t len,
			       uint32_t at,
			       struct vexfs_window_note *out);

/*
 * Self-tests: in the kernel's object only if that was linked with test hooks.
 */
#if !defined(__KERNEL__) || defined(VEXFS_TEST_HOOKS)

// Formats a filesystem in 1 MiB of memory, works on it, commits, opens it again and compares.
//
// 0, `-EIO` if something came out wrong, `-ENOMEM`, or the error of the step that failed.
int32_t vexfs_rust_test_basic(void);

// Panics if `really` is 1, so that tests can see a host survive it, which has to be prepared for that. 0 otherwise.
//
// # Panics
// If `really` is 1.
int32_t vexfs_rust_test_panic(uint32_t really);

// Parses and prints vector attributes, and has one inherited by a new file.
//
// 0, `-EIO` if something came out wrong, `-ENOMEM`, or the error of the step that failed.
int32_t vexfs_rust_test_vector_ops(void);

#endif /* !__KERNEL__ || VEXFS_TEST_HOOKS */

/*
 * For hosts in userspace: not in the kernel's object.
 */
#ifndef __KERNEL__

// `mkfs`: formats `device`. 0, `-EINVAL`, `-ENOMEM`, or the device's error.
int32_t vexfs_rust_userspace_init(const struct vexfs_host_device *device,
				  const struct vexfs_format_options *options,
				  struct vexfs_report *report);

// `Volume::kill`: stops the volume for good: every later operation fails with `-EIO`. 0, or `-EFAULT`.
int32_t vexfs_rust_kill(struct vexfs_volume *volume);

// `Volume::commit`: commits everything in one call, under the lock: for a host that has nothing else to do
// meanwhile. `*generation`, if not null, gets the newest durable generation.
//
// 0, or what the stages fail with; after a failure of the device the volume is dead.
int32_t vexfs_rust_sync_fs(struct vexfs_volume *volume,
			   struct vexfs_timestamp now,
			   uint64_t *generation,
			   struct vexfs_report *report);

// `Volume::commit`, or a flush of the device: makes one inode durable in one call, under the lock: commits if
// anything is uncommitted, else flushes the device, for data that was overwritten in place. If that flush fails the
// volume is dead: what the medium holds is not known.
//
// 0, `-ENOENT` without that inode, or as `vexfs_rust_sync_fs`.
int32_t vexfs_rust_fsync_file(struct vexfs_volume *volume,
			      uint64_t ino,
			      struct vexfs_timestamp now,
			      struct vexfs_report *report);

// `vexfs_rust_create` of anything but a directory or a symbolic link, for which it returns `-EINVAL`.
int32_t vexfs_rust_create_file(struct vexfs_volume *volume,
			       const struct vexfs_name_at *at,
			       const struct vexfs_new_attrs *attrs,
			       struct vexfs_attr *out,
			       struct vexfs_attr *dir_out,
			       struct vexfs_report *report);

// `vexfs_rust_create` of a directory; `-EINVAL` for anything else.
int32_t vexfs_rust_create_dir(struct vexfs_volume *volume,
			      const struct vexfs_name_at *at,
			      const struct vexfs_new_attrs *attrs,
			      struct vexfs_attr *out,
			      struct vexfs_attr *dir_out,
			      struct vexfs_report *report);

// `vexfs_rust_create` of a symbolic link; `-EINVAL` for anything else.
int32_t vexfs_rust_symlink(struct vexfs_volume *volume,
			   const struct vexfs_name_at *at,
			   const struct vexfs_new_attrs *attrs,
			   struct vexfs_attr *out,
			   struct vexfs_attr *dir_out,
			   struct vexfs_report *report);

// Checks that regular file `ino` can be opened (`flags`: 0 or `VEXFS_OPEN_WRITE`) and reads it into `*out`. Nothing is
// held: an open file is the host's matter.
//
// 0, `-EISDIR`, `-EINVAL` if it is no regular file, `-EROFS`, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_open_file(const struct vexfs_volume *volume,
			     uint64_t ino,
			     uint32_t flags,
			     struct vexfs_attr *out,
			     struct vexfs_report *report);

// The counterpart of `vexfs_rust_open_file`: tells with `*destroy` = 1 that the file has no name left, so that its last
// user has to destroy it.
//
// 0, `-EISDIR`, `-EINVAL`, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_release_file(const struct vexfs_volume *volume,
				uint64_t ino,
				uint32_t *destroy,
				struct vexfs_report *report);

// `Volume::read_at`: reads up to `len` bytes of file `ino` from byte `offset` into `buf`, through the device;
// `*read` gets how many there were. For hosts without a page cache.
//
// 0, `-EISDIR`, `-EINVAL`, `-ENOENT`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_read_file(struct vexfs_volume *volume,
			     uint64_t ino,
			     uint64_t offset,
			     uint8_t *buf,
			     size_t len,
			     size_t *read,
			     struct vexfs_report *report);

// `Volume::write_at`: writes `len` bytes to file `ino` from byte `offset` on, through the device, and commits when
// it must. For hosts without a page cache.
//
// 0, `-EISDIR`, `-EINVAL`, `-ENOENT`, `-EFBIG`, `-EROFS`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_write_file(struct vexfs_volume *volume,
			      uint64_t ino,
			      uint64_t offset,
			      const uint8_t *data,
			      size_t len,
			      struct vexfs_timestamp now,
			      struct vexfs_report *report);

// Writes the shape of vector file `ino` to `*out`: how many whole vectors it holds and where they are. Reads the device.
//
// 0, `-ENODATA` without a vector attribute, `-EINVAL` for a directory, `-ENOENT`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_vector_storage(struct vexfs_volume *volume,
				  uint64_t ino,
				  struct vexfs_vector_shape *out,
				  struct vexfs_report *report);

// Finds the `k` (1 to 1024) vectors of file `ino` nearest to the query by comparing each. The query is one vector in the
// file's own element type, `query_len` its bytes. `hits` has room for `k`; `*found` gets how many there are, nearest first.
// Vectors that are not finite are passed over.
//
// 0; `-EINVAL` for a query of the wrong length or with NaN in it, or an impossible `k`; `-ENODATA` without a vector
// attribute; `-ENOENT`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
int32_t vexfs_rust_vector_search(struct vexfs_volume *volume,
				 uint64_t ino,
				 const uint8_t *query,
				 size_t query_len,
				 uint32_t k,
				 struct vexfs_vector_hit *hits,
				 uint32_t *found,
				 struct vexfs_report *report);

#endif /* !__KERNEL__ */

// Memory of `size` (more than 0) bytes aligned to `align` (a power of two up to 4096), or null. May sleep; must not
// enter a filesystem.
uint8_t *vexfs_host_alloc(size_t size, size_t align);

// Gives back memory of `vexfs_host_alloc`.
void vexfs_host_free(uint8_t *memory);

// The engine panicked. Logs the message (not ended by a zero), stops the volume that the call works on, and ends
// that call with `-EIO`. Does not return.
void __attribute__((noreturn)) vexfs_host_panic(const uint8_t *message, size_t len);

#endif /* VEXFS_FFI_H */
