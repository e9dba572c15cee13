/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the C files share.
 *
 * The engine decides everything about the format. C owns what a kernel is
 * about: locks, lifetimes, the page cache, credentials.
 *
 * Lock order: i_rwsem, mapping->invalidate_lock, folio lock, then commit_mutex,
 * then the engine's lock. Nothing of the VFS is called under the engine's lock.
 */
#ifndef VEXFS_H
#define VEXFS_H

#include <linux/blk_types.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/iomap.h>
#include <linux/lockdep.h>
#include <linux/mutex.h>
#include <linux/ratelimit.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/shrinker.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "vexfs_ffi.h"

#define VEXFS_NAME "vexfs"
#define VEXFS_SUPER_MAGIC 0x56455846
#define VEXFS_BLOCK_BYTES 4096
#define VEXFS_BLOCK_SHIFT 12
#define VEXFS_ROOT_INO 1
/* A change is committed after this time if no fsync commits it earlier. */
#define VEXFS_COMMIT_DELAY (5 * HZ)

/* What damage does to the mount: errors=remount-ro, errors=shutdown. */
enum vexfs_errors {
	VEXFS_ERRORS_REMOUNT_RO,
	VEXFS_ERRORS_SHUTDOWN,
};

/* What still works. Only vexfs_raise_state() changes it, and only upwards. */
enum vexfs_state_level {
	VEXFS_LIVE,		/* everything */
	VEXFS_FAILED,		/* reading: the filesystem is damaged */
	VEXFS_DEAD,		/* unmounting: what the medium holds is not known */
	VEXFS_ABANDONED,	/* as above; the engine panicked and is not entered again */
};

/* What is known of the command window past the filesystem's end. */
struct vexfs_window {
	/* The session that proved that it answers; 0: none. */
	u64 session;
	/* Slots in use; the bit behind them: somebody asks for a proof. */
	DECLARE_BITMAP(busy, VEXFS_WINDOW_SLOTS + 1);
	wait_queue_head_t wait;
	/* Transfers that the device has not completed. */
	atomic_t in_flight;
};

/* One mounted filesystem. */
struct vexfs_fs {
	struct super_block *sb;
	struct vexfs_volume *volume;
	struct vexfs_host_device device;
	struct vexfs_window window;
	/* Length of the filesystem. */
	u64 bytes;

	/* The engine's lock: shared to read the volume, exclusive to change it. Sleeps. */
	struct rw_semaphore lock;
	/* One commit at a time; those who wait for it share the next one. */
	struct mutex commit_mutex;
	/* Newest durable generation, and the one being built. */
	u64 durable;
	u64 running;
	/* Newest generation with changes: once it is durable, all changes so far are. */
	u64 newest;
	/* How often the volume was changed. */
	u64 changes;
	unsigned long cached_nodes;

	atomic_t state;
	enum vexfs_errors errors;

	/* Inodes that the engine has created and the inode cache does not have yet. */
	spinlock_t creating_lock;
	struct list_head creating;

	/* Runs commit_work, orphan_work and the inodes' ioend_work. */
	struct workqueue_struct *wq;
	struct delayed_work commit_work;
	struct shrinker *shrinker;

	/* Orphans from before the mount have lower numbers; 0 once they are cleared. */
	u64 orphans_end;
	struct work_struct orphan_work;
	bool stopping;
};

struct vexfs_inode {
	/* Generation that has its last change, or a later one; changes under the engine's lock. */
	u64 generation;
	/* Counts changes of the file's mapping to blocks; changes under the engine's lock. */
	u32 map_seq;
	bool vector;
	/* Size the engine knows: the page cache may be ahead of it. */
	loff_t disk_size;
	/* End of what was allocated ahead of an appending writer, in blocks; 0: nothing. */
	u64 ahead_end;
	struct timespec64 btime;

	/* The mapping looked up last, valid while cached_seq is map_seq. */
	spinlock_t map_lock;
	u32 cached_seq;
	struct vexfs_extent cached;

	/* Writes that have completed and have to be recorded in the engine. */
	spinlock_t ioend_lock;
	struct list_head ioend_list;
	struct work_struct ioend_work;

	/* On fs->creating. */
	struct list_head creating;

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

static inline bool vexfs_failed(const struct vexfs_fs *fs)
{
	return atomic_read(&fs->state) >= VEXFS_FAILED;
}

static inline bool vexfs_dead(const struct vexfs_fs *fs)
{
	return atomic_read(&fs->state) >= VEXFS_DEAD;
}

static inline bool vexfs_abandoned(const struct vexfs_fs *fs)
{
	return atomic_read(&fs->state) >= VEXFS_ABANDONED;
}

/* error.c: messages that name the volume, and the volume's state. */
__printf(3, 4)
void vexfs_msg(const struct super_block *sb, const char *level, const char *fmt, ...);
bool vexfs_raise_state(struct vexfs_fs *fs, enum vexfs_state_level to);
void vexfs_error(struct vexfs_fs *fs, int err, const char *message);
void vexfs_stop(struct vexfs_fs *fs, const char *message);

#define vexfs_err(sb, fmt, ...)		vexfs_msg(sb, KERN_ERR, fmt, ##__VA_ARGS__)
#define vexfs_warn(sb, fmt, ...)	vexfs_msg(sb, KERN_WARNING, fmt, ##__VA_ARGS__)
#define vexfs_notice(sb, fmt, ...)	vexfs_msg(sb, KERN_NOTICE, fmt, ##__VA_ARGS__)
#define vexfs_info(sb, fmt, ...)	vexfs_msg(sb, KERN_INFO, fmt, ##__VA_ARGS__)

#define vexfs_msg_ratelimited(sb, level, fmt, ...)			\
do {									\
	static DEFINE_RATELIMIT_STATE(__limit, DEFAULT_RATELIMIT_INTERVAL, \
				      DEFAULT_RATELIMIT_BURST);		\
	if (__ratelimit(&__limit))					\
		vexfs_msg(sb, level, fmt, ##__VA_ARGS__);		\
} while (0)

#define vexfs_err_ratelimited(sb, fmt, ...)	\
	vexfs_msg_ratelimited(sb, KERN_ERR, fmt, ##__VA_ARGS__)
#define vexfs_warn_ratelimited(sb, fmt, ...)	\
	vexfs_msg_ratelimited(sb, KERN_WARNING, fmt, ##__VA_ARGS__)
#define vexfs_notice_ratelimited(sb, fmt, ...)	\
	vexfs_msg_ratelimited(sb, KERN_NOTICE, fmt, ##__VA_ARGS__)

/* guard.c: a way out of the engine should it panic. The registers a function has to keep. */
struct vexfs_guard {
	unsigned long saved[8];
};

int vexfs_guard_enter(struct vexfs_guard *guard) __attribute__((returns_twice));
void __noreturn vexfs_guard_leave(struct vexfs_guard *guard);

/*
 * GCC warns that vexfs_guard_enter() may return a second time and find variables
 * changed. After the second return no variable is read that was assigned after
 * the first one: the call is in memory, and results are not read after an error.
 */
#pragma GCC diagnostic ignored "-Wclobbered"

/* How a call uses the engine. */
#define VEXFS_SHARED		0x00	/* reads the volume */
#define VEXFS_EXCLUSIVE		0x01	/* changes the volume */
#define VEXFS_UNLOCKED		0x02	/* needs no lock: nobody else can reach what it uses */
#define VEXFS_NOKILL		0x04	/* a fatal signal does not end it */
#define VEXFS_NOWAIT		0x08	/* -EAGAIN instead of waiting or reading */
#define VEXFS_NOCOMMIT		0x10	/* is part of a commit */
#define VEXFS_MAPS		0x20	/* changes where the inodes' blocks are */
#define VEXFS_ANY_STATE		0x40	/* even on a volume that failed or is dead */

#define VEXFS_CALL_MAGIC 0x7665786673206f70UL

/*
 * One call of the engine, which is made as often as it takes:
 *
 *	vexfs_call_init(&call, fs, VEXFS_SHARED);
 *	do {
 *		err = vexfs_call_enter(&call) ?:
 *		      vexfs_rust_something(fs->volume, ..., &call.report);
 *	} while (vexfs_call_again(&call, &err));
 *
 * vexfs_call_enter() takes the lock. vexfs_call_again() does what the call has to
 * wait for, if anything: it reads the block that the engine missed, or commits.
 * Otherwise it gives the lock back, records what changed, and reports errors.
 * Everything in the body runs under the lock.
 */
struct vexfs_call {
	unsigned long magic;
	struct vexfs_fs *fs;
	/* The function that makes it, for the trace. */
	const char *name;
	/* What it changes; set by the caller. */
	struct inode *inode[4];
	struct vexfs_guard guard;
	/* What vexfs_call_enter() found, to be restored. */
	void *journal_info;
	unsigned int nofs;
	unsigned int mode;
	/* How often it read a block, and committed. */
	unsigned int reads;
	unsigned int commits;
	unsigned char held;
	/* The last block was read without the lock and was not what its pointer says. */
	bool stale;
	bool waited;
	bool panicked;
	struct vexfs_report report;
};

/* engine.c */
#define vexfs_call_init(call, fs, mode) __vexfs_call_init(call, fs, mode, __func__)
void __vexfs_call_init(struct vexfs_call *call, struct vexfs_fs *fs, unsigned int mode,
		       const char *name);
int vexfs_call_lock(struct vexfs_call *call);
bool vexfs_call_again(struct vexfs_call *call, int *err);

/*
 * The guard returns 0, and should the engine panic, once more: then -EIO. Not a
 * function: its frame must last.
 */
#define vexfs_call_enter(call) (vexfs_call_lock(call) ?: vexfs_guard_enter(&(call)->guard))

int vexfs_commit(struct vexfs_fs *fs, u64 target, unsigned int mode);
int vexfs_sync(struct vexfs_fs *fs, unsigned int mode);
int vexfs_fsync_inode(struct inode *inode);

/* volume.c */
int vexfs_volume_open(struct vexfs_fs *fs, bool read_only, struct vexfs_report *report);
int vexfs_volume_probe(struct vexfs_fs *fs, struct vexfs_report *report);
int vexfs_volume_set_read_only(struct vexfs_fs *fs, bool read_only);
void vexfs_volume_close(struct vexfs_fs *fs);
int vexfs_volume_start(struct vexfs_fs *fs);
void vexfs_volume_stop(struct vexfs_fs *fs);

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
void vexfs_orphans_stop(struct vexfs_fs *fs);

/* Waits until the orphans are cleared. The caller holds no lock that vexfs_iget() needs. */
static inline void vexfs_orphans_wait(struct vexfs_fs *fs)
{
	flush_work(&fs->orphan_work);
}

/* device.c */
void vexfs_device_init(struct vexfs_fs *fs);
struct page *vexfs_page_of(const void *at);

/*
 * window.c: one conversation with whoever serves the device. It outlives a caller
 * that gives up: until the device has completed a transfer, its buffer stays, and so
 * does its slot.
 */
struct vexfs_talk {
	struct vexfs_fs *fs;
	/* When the caller gives up, in jiffies. */
	unsigned long deadline;
	/* Written and read by the device; whole pages. */
	void *data;
	size_t size;
	/* -1: none. */
	int slot;

	/* The rest is window.c's own. */
	refcount_t refs;
	struct completion done;
	struct work_struct submit;
	struct work_struct free;
	blk_opf_t opf;
	size_t from;
	u64 at;
	size_t len;
	int error;
};

void vexfs_window_init(struct vexfs_fs *fs);
void vexfs_window_drain(struct vexfs_fs *fs);
struct vexfs_talk *vexfs_talk_begin(struct vexfs_fs *fs, unsigned long deadline);
int vexfs_talk_room(struct vexfs_talk *talk, size_t size);
int vexfs_talk_prove(struct vexfs_talk *talk, u64 *session);
void vexfs_talk_forget(struct vexfs_talk *talk, u64 session);
int vexfs_talk_claim(struct vexfs_talk *talk);
int vexfs_talk_write(struct vexfs_talk *talk, size_t len);
int vexfs_talk_read(struct vexfs_talk *talk, size_t len);
int vexfs_talk_sleep(struct vexfs_talk *talk, unsigned int ms);
void vexfs_talk_end(struct vexfs_talk *talk);

/* search.c */
long vexfs_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* inode.c */
struct inode *vexfs_iget(struct super_block *sb, u64 ino, const struct vexfs_attr *attr,
			 u64 changes);
int vexfs_fill_inode(struct inode *inode, const struct vexfs_attr *attr);
int vexfs_destroy_inode(struct vexfs_fs *fs, u64 ino, const bool *stop);
void vexfs_evict_inode(struct inode *inode);
int vexfs_write_inode(struct inode *inode, struct writeback_control *wbc);
int vexfs_write_attrs(struct inode *inode, unsigned int valid, unsigned int mode);
void vexfs_get_attrs(const struct inode *inode, struct vexfs_set_attrs *attrs, unsigned int valid);
void vexfs_get_times(const struct inode *inode, struct vexfs_set_attrs *attrs);
void vexfs_update_ctime(struct inode *inode, struct vexfs_timestamp now);
void vexfs_update_dir(struct inode *dir, const struct vexfs_attr *attr, struct vexfs_timestamp now);
int vexfs_update_blocks(struct inode *inode, struct vexfs_call *call);

/* attr.c */
int vexfs_setsize(struct inode *inode, loff_t size);
int vexfs_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr);
int vexfs_getattr(struct mnt_idmap *idmap, const struct path *path, struct kstat *stat,
		  u32 request_mask, unsigned int flags);

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
int vexfs_xattr_read(struct inode *inode, const char *name, void *buffer, size_t size);
ssize_t vexfs_listxattr(struct dentry *dentry, char *buffer, size_t size);
int vexfs_init_security(struct inode *inode, struct inode *dir, const struct qstr *name);

/* acl.c */
struct posix_acl *vexfs_get_acl(struct inode *inode, int type, bool rcu);
int vexfs_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, struct posix_acl *acl, int type);
int vexfs_write_acl(struct inode *inode, struct posix_acl *acl, int type, unsigned int valid);
int vexfs_init_acl(struct inode *inode, struct posix_acl *default_acl, struct posix_acl *acl);

/* export.c */
extern const struct export_operations vexfs_export_ops;

/* hooks.c */
#ifdef VEXFS_TEST_HOOKS
void vexfs_hook_panic(void);
int vexfs_hook_selftest(void);
#else
static inline void vexfs_hook_panic(void)
{
}

static inline int vexfs_hook_selftest(void)
{
	return 0;
}
#endif

#endif /* VEXFS_H */
