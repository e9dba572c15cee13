/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every difference between the kernel versions VexFS is built for, in one
 * place. The reference is 6.12; what newer kernels changed is adapted here.
 */
#ifndef VEXFS_COMPAT_H
#define VEXFS_COMPAT_H

#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#error "VexFS needs Linux 6.12 or later"
#endif

/* 6.15: ->mkdir returns a dentry instead of an error number. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
#define VEXFS_MKDIR_RETURNS struct dentry *
#define VEXFS_MKDIR_RESULT(err) ERR_PTR(err)
#else
#define VEXFS_MKDIR_RETURNS int
#define VEXFS_MKDIR_RESULT(err) (err)
#endif

/* 6.13: the start of a bio in iomap's ioend and the type moved into flags. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
#define vexfs_ioend_unwritten(ioend) ((ioend)->io_flags & IOMAP_IOEND_UNWRITTEN)
#else
#define vexfs_ioend_unwritten(ioend) ((ioend)->io_type == IOMAP_UNWRITTEN)
#endif

#endif /* VEXFS_COMPAT_H */
