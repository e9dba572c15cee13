/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The parts of the glue among each other.
 *
 * The engine decides everything about the format. The glue owns what a kernel
 * is about: locks, lifetimes, the page cache, credentials.
 *
 * Lock order: i_rwsem, mapping->invalidate_lock, folio lock, then commit_mutex,
 * then the engine's lock. Nothing of the VFS is called under the engine's lock.
 */
#ifndef VEXFS_H
#define VEXFS_H

#include <linux/fs.h>
#include <linux/iomap.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/shrinker.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "vexfs_ffi.h"

#define VEXFS_NAME "vexfs"
#define VEXFS_SUPER_MAGIC 0x56455846
#define VEXFS_BLOCK_BYTES 4096
#define VEXFS_BLOCK_SHIFT 12
#define VEXFS_ROOT_INO 1
/* How long a change may wait for somebody's fsync before it is committed. */
#define VEXFS_COMMIT_DELAY (5 * HZ)

enum vexfs_errors {
	VEXFS_ERRORS_REMOUNT_RO,
	VEXFS_ERRORS_SHUTDOWN,
};

/* One mounted filesystem. */
struct vexfs_fs {
	struct super_block *sb;
	struct vexfs_volume *volume;
	struct vexfs_host_device device;

	/* The engine: shared to look, exclusive to change. Sleeps, and is slept on. */
	struct rw_semaphore lock;
	/* One commit at a time; those who wait for it share the next one. */
	struct mutex commit_mutex;
	/* Newest durable generation, the one being built, and how often anything changed. */
	u64 durable;
	u64 running;
	/* Newest generation that has changes: once it is durable, everything up to now is. */
	u64 newest;
	u64 changes;
	unsigned long cached_nodes;

	/* Set once, never cleared: changes are refused; nothing works any more. */
	bool failed;
	bool dead;
	/* The engine was left in the middle of something: its memory is not touched again. */
	bool abandoned;
	enum vexfs_errors errors;

	/* Inodes that the engine has and the kernel does not know by number yet. */
	spinlock_t newborn_lock;
	struct list_head newborn;

	/* Where writes are told of when they are done, and commits are made unasked. */
	struct workqueue_struct *wq;
	struct delayed_work commit_work;
	struct shrinker *shrinker;

	/* Orphans of before the mount have numbers below this; 0 once they are cleared. */
	u64 orphans_end;
	struct work_struct orphan_work;
	bool stopping;
};

struct vexfs_inode {
	/* Generation that has its last change, or a later one; protected by the engine's lock. */
	u64 generation;
	/* Counts changes of where the file's blocks are. */
	u32 map_seq;
	bool vector;
	/* Size the engine knows: the page cache may be ahead of it. */
	loff_t disk_size;
	/* End of what was allocated ahead of an appending writer; 0: nothing. In blocks. */
	u64 ahead_end;
	struct timespec64 btime;

	/* The mapping looked up last, valid while cached_seq is map_seq. */
	spinlock_t map_lock;
	u32 cached_seq;
	struct vexfs_extent cached;

	/* Writes that are done and have to be told to the engine. */
	spinlock_t ioend_lock;
	struct list_head ioend_list;
	struct work_struct ioend_work;

	/* In the volume's list of that name. */
	struct list_head newborn;

	struct inode vfs;
};

static inline struct vexfs_inode *VEXFS_I(const struct inode *inode)
{
	return container_of(inode, struct vexfs_inode, vfs);
}

static inline struct vexfs_fs *VEXFS_SB(const struct super_block *sb)
{
	return sb->s_fs_info;
}

/*
 * GCC warns of variables that a second return of vexfs_guard_enter() may find
 * changed. Nothing that is assigned between the two returns is read after the
 * second one: the op is memory, and results are not looked at after an error.
 */
#pragma GCC diagnostic ignored "-Wclobbered"

/* guard.c: a way out of the engine should it panic. Registers a call has to keep. */
struct vexfs_guard {
	unsigned long saved[8];
};

int vexfs_guard_enter(struct vexfs_guard *guard) __attribute__((returns_twice));
void __noreturn vexfs_guard_leave(struct vexfs_guard *guard);

/* How a call holds the engine. */
#define VEXFS_SHARED		0x00
#define VEXFS_EXCLUSIVE		0x01
#define VEXFS_NOKILL		0x02	/* must not be given up for a signal */
#define VEXFS_NOWAIT		0x04	/* -EAGAIN instead of waiting or reading */
#define VEXFS_NOCOMMIT		0x08	/* is part of a commit */
#define VEXFS_MAPS		0x10	/* changes where blocks are */
#define VEXFS_QUIET		0x20	/* changes nothing on the medium */
#define VEXFS_LATE		0x40	/* allowed on a volume that failed or stopped */

/* One call of the engine, with everything it may take to get it through. */
struct vexfs_op {
	unsigned long magic;
	struct vexfs_fs *fs;
	struct inode *inode[4];
	struct vexfs_guard guard;
	void *outer;
	u64 target;
	unsigned int mode;
	unsigned int nofs;
	unsigned int rounds;
	unsigned int commits;
	unsigned char held;
	bool panicked;
	bool waited;
	struct vexfs_report report;
};

void vexfs_op_init(struct vexfs_op *op, struct vexfs_fs *fs, unsigned int mode);
int vexfs_op_lock(struct vexfs_op *op);
bool vexfs_op_unlock(struct vexfs_op *op, int *err);

/*
 * Runs an expression that calls the engine, as often as that takes, under the
 * lock the mode asks for. The expression names its struct vexfs_op *op.
 */
#define vexfs_run(op, expression)					\
({									\
	int __err;							\
	do {								\
		__err = vexfs_op_lock(op);				\
		if (__err)						\
			break;						\
		__err = vexfs_guard_enter(&(op)->guard) ? -EIO : (expression); \
	} while (vexfs_op_unlock((op), &__err));			\
	__err;								\
})

/* Runs a call on a volume that nobody else knows yet, or no longer. */
#define vexfs_run_alone(op, fs, expression)				\
({									\
	int __err;							\
	vexfs_op_init((op), (fs), VEXFS_EXCLUSIVE);			\
	vexfs_enter(op);						\
	__err = vexfs_guard_enter(&(op)->guard) ? -EIO : (expression);	\
	vexfs_release(op);						\
	if ((op)->panicked)						\
		(fs)->abandoned = (fs)->failed = (fs)->dead = true;	\
	__err;								\
})

/* engine.c */
void vexfs_enter(struct vexfs_op *op);
void vexfs_release(struct vexfs_op *op);
int vexfs_commit(struct vexfs_fs *fs, u64 target, unsigned int mode);
int vexfs_sync(struct vexfs_fs *fs, unsigned int mode);
int vexfs_fsync_inode(struct inode *inode);
int vexfs_engine_open(struct vexfs_fs *fs, bool read_only, struct vexfs_report *report);
int vexfs_engine_probe(struct vexfs_fs *fs, struct vexfs_report *report);
int vexfs_engine_set_read_only(struct vexfs_fs *fs, bool read_only);
void vexfs_engine_close(struct vexfs_fs *fs);
int vexfs_engine_start(struct vexfs_fs *fs);
void vexfs_engine_stop(struct vexfs_fs *fs);
void vexfs_error(struct vexfs_fs *fs, const char *message);
void vexfs_stop(struct vexfs_fs *fs, const char *why);

static inline struct vexfs_timestamp vexfs_time(struct timespec64 time)
{
	return (struct vexfs_timestamp){ .seconds = time.tv_sec, .nanos = time.tv_nsec };
}

static inline struct timespec64 vexfs_timespec(struct vexfs_timestamp time)
{
	return (struct timespec64){ .tv_sec = time.seconds, .tv_nsec = time.nanos };
}

static inline struct vexfs_timestamp vexfs_now(void)
{
	struct timespec64 now;

	ktime_get_coarse_real_ts64(&now);
	return vexfs_time(now);
}

/* orphan.c */
void vexfs_orphans_init(struct vexfs_fs *fs);
int vexfs_orphans_start(struct vexfs_fs *fs);
void vexfs_orphans_wait(struct vexfs_fs *fs);
void vexfs_orphans_stop(struct vexfs_fs *fs);
int vexfs_finish_truncation(struct vexfs_fs *fs, u64 ino, struct vexfs_attr *attr);

/* device.c */
void vexfs_device_init(struct vexfs_fs *fs);

/* inode.c */
struct inode *vexfs_iget(struct super_block *sb, u64 ino, const struct vexfs_attr *attr,
			 u64 changes);
int vexfs_inode_fill(struct inode *inode, const struct vexfs_attr *attr);
int vexfs_setsize(struct inode *inode, loff_t size);
int vexfs_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr);
int vexfs_getattr(struct mnt_idmap *idmap, const struct path *path, struct kstat *stat,
		  u32 request_mask, unsigned int flags);
int vexfs_write_inode(struct inode *inode, struct writeback_control *wbc);
void vexfs_evict_inode(struct inode *inode);
int vexfs_push_attrs(struct inode *inode, unsigned int valid, unsigned int mode);
int vexfs_push_acl(struct inode *inode, unsigned int valid, const char *name, const void *value,
		   size_t size);
void vexfs_touch(struct inode *inode, struct vexfs_timestamp now);
void vexfs_touch_dir(struct inode *dir, const struct vexfs_attr *attr, struct vexfs_timestamp now);
int vexfs_follow_blocks(struct inode *inode, struct vexfs_op *op);

/* dir.c */
extern const struct inode_operations vexfs_dir_iops;
extern const struct file_operations vexfs_dir_fops;
extern const struct inode_operations vexfs_symlink_iops;
extern const struct inode_operations vexfs_special_iops;

/* file.c */
extern const struct inode_operations vexfs_file_iops;
extern const struct file_operations vexfs_file_fops;
int vexfs_fsync(struct file *file, loff_t start, loff_t end, int datasync);

/* iomap.c */
extern const struct iomap_ops vexfs_iomap_ops;
extern const struct iomap_dio_ops vexfs_dio_write_ops;
extern const struct address_space_operations vexfs_aops;
int vexfs_mark_written(struct inode *inode, loff_t offset, size_t len, loff_t size);
int vexfs_allocate(struct inode *inode, u64 block, u64 count, struct vexfs_extent *extent,
		   unsigned int mode);
void vexfs_ioend_work(struct work_struct *work);

/* xattr.c */
extern const struct xattr_handler *const vexfs_xattr_handlers[];
ssize_t vexfs_listxattr(struct dentry *dentry, char *buffer, size_t size);
struct posix_acl *vexfs_get_acl(struct inode *inode, int type, bool rcu);
int vexfs_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, struct posix_acl *acl, int type);
int vexfs_store_acl(struct inode *inode, struct posix_acl *acl, int type, unsigned int valid);
int vexfs_init_security(struct inode *inode, struct inode *dir, const struct qstr *name);

/* hooks.c */
#ifdef VEXFS_TEST_HOOKS
void vexfs_hook_panic(void);
int vexfs_hook_selftest(void);
#else
static inline void vexfs_hook_panic(void) { }
static inline int vexfs_hook_selftest(void) { return 0; }
#endif

/* export.c */
extern const struct export_operations vexfs_export_ops;

#endif /* VEXFS_H */
