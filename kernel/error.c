// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the kernel's log says of a volume, and how a volume stops.
 *
 * A volume's state only moves up, in vexfs_raise_state(); whoever moved it says
 * why in the log, once.
 */
#include "vexfs.h"
#include "trace.h"

void vexfs_msg(const struct super_block *sb, const char *level, const char *fmt, ...)
{
	struct va_format vaf;
	va_list args;

	va_start(args, fmt);
	vaf.fmt = fmt;
	vaf.va = &args;
	printk("%s" VEXFS_NAME " (%s): %pV", level, sb->s_id, &vaf);
	va_end(args);
}

/* True if this call moved the state up; the caller says why. */
bool vexfs_raise_state(struct vexfs_fs *fs, enum vexfs_state_level to)
{
	int from = atomic_read(&fs->state);

	do {
		if (from >= to)
			return false;
	} while (!atomic_try_cmpxchg(&fs->state, &from, to));
	return true;
}

/*
 * The volume must not be written to any more: it is damaged (@err is -EUCLEAN),
 * or the engine has found a bug of its own.
 */
void vexfs_error(struct vexfs_fs *fs, int err, const char *message)
{
	bool shutdown = fs->errors == VEXFS_ERRORS_SHUTDOWN;
	const char *advice = err == -EUCLEAN ? " and run fsck.vexfs" : "";

	trace_vexfs_error(fs->sb, err, message);
	if (vexfs_raise_state(fs, shutdown ? VEXFS_DEAD : VEXFS_FAILED))
		vexfs_err(fs->sb, "%s; %s: unmount it%s\n", message,
			  shutdown ? "shut down" : "read-only from now on", advice);
	else
		vexfs_err_ratelimited(fs->sb, "%s\n", message);
	fs->sb->s_flags |= SB_RDONLY;
}

/* What the medium holds is not known any more: the volume promises nothing from here on. */
void vexfs_stop(struct vexfs_fs *fs, const char *message)
{
	trace_vexfs_error(fs->sb, -EIO, message);
	if (vexfs_raise_state(fs, VEXFS_DEAD))
		vexfs_err(fs->sb, "%s; the volume stopped: unmount it\n", message);
}
