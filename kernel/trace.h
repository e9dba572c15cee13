/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints: every call of the engine, every block it missed, every commit,
 * every error. In events/vexfs of tracefs.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vexfs

#if !defined(VEXFS_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define VEXFS_TRACE_H

#include <linux/tracepoint.h>

#include "vexfs.h"

/* A call is over. Its name is the function that made it. */
TRACE_EVENT(vexfs_call,
	TP_PROTO(const struct vexfs_call *call, int err),
	TP_ARGS(call, err),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__string(name, call->name)
		__field(unsigned int, mode)
		__field(unsigned int, reads)
		__field(unsigned int, commits)
		__field(int, err)
	),
	TP_fast_assign(
		__entry->dev = call->fs->sb ? call->fs->sb->s_dev : 0;
		__assign_str(name);
		__entry->mode = call->mode;
		__entry->reads = call->reads;
		__entry->commits = call->commits;
		__entry->err = err;
	),
	TP_printk("dev %d:%d %s %s reads %u commits %u err %d", MAJOR(__entry->dev),
		  MINOR(__entry->dev), __get_str(name),
		  __print_flags(__entry->mode, "|", { VEXFS_EXCLUSIVE, "exclusive" },
				{ VEXFS_UNLOCKED, "unlocked" }, { VEXFS_NOKILL, "nokill" },
				{ VEXFS_NOWAIT, "nowait" }, { VEXFS_NOCOMMIT, "nocommit" },
				{ VEXFS_MAPS, "maps" }, { VEXFS_ANY_STATE, "any-state" }),
		  __entry->reads, __entry->commits, __entry->err)
);

/* A block was read that a call missed: without the lock, or (@locked) under it. */
TRACE_EVENT(vexfs_fetch,
	TP_PROTO(const struct vexfs_call *call, bool locked, int err),
	TP_ARGS(call, locked, err),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__string(name, call->name)
		__field(bool, locked)
		__field(int, err)
	),
	TP_fast_assign(
		__entry->dev = call->fs->sb->s_dev;
		__assign_str(name);
		__entry->locked = locked;
		__entry->err = err;
	),
	TP_printk("dev %d:%d %s %s err %d", MAJOR(__entry->dev), MINOR(__entry->dev),
		  __get_str(name), __entry->locked ? "locked" : "unlocked", __entry->err)
);

/* A commit: asked for, with the newest durable generation then; and done. */
DECLARE_EVENT_CLASS(vexfs_commit_class,
	TP_PROTO(const struct super_block *sb, u64 target, u64 durable, int err),
	TP_ARGS(sb, target, durable, err),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, target)
		__field(u64, durable)
		__field(int, err)
	),
	TP_fast_assign(
		__entry->dev = sb->s_dev;
		__entry->target = target;
		__entry->durable = durable;
		__entry->err = err;
	),
	TP_printk("dev %d:%d target %llu durable %llu err %d", MAJOR(__entry->dev),
		  MINOR(__entry->dev), __entry->target, __entry->durable, __entry->err)
);

DEFINE_EVENT(vexfs_commit_class, vexfs_commit_begin,
	TP_PROTO(const struct super_block *sb, u64 target, u64 durable, int err),
	TP_ARGS(sb, target, durable, err)
);

DEFINE_EVENT(vexfs_commit_class, vexfs_commit_end,
	TP_PROTO(const struct super_block *sb, u64 target, u64 durable, int err),
	TP_ARGS(sb, target, durable, err)
);

/* Damage was found, or the volume stops. */
TRACE_EVENT(vexfs_error,
	TP_PROTO(const struct super_block *sb, int err, const char *message),
	TP_ARGS(sb, err, message),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(int, err)
		__string(message, message)
	),
	TP_fast_assign(
		__entry->dev = sb->s_dev;
		__entry->err = err;
		__assign_str(message);
	),
	TP_printk("dev %d:%d err %d: %s", MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->err, __get_str(message))
);

#endif /* VEXFS_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
