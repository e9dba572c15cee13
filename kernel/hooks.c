// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test hooks: module parameters that only tests set. In the module only if it
 * is built with TEST_HOOKS=1.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/slab.h>

#include "vexfs.h"

static bool selftest;
module_param(selftest, bool, 0444);
MODULE_PARM_DESC(selftest, "Run the engine on a filesystem in memory when the module is loaded");

static int panic_next;
module_param(panic_next, int, 0600);
MODULE_PARM_DESC(panic_next, "1 makes the engine panic in its next call, which stops that volume");

/* Called at the end of each call of the engine, while its guard still holds. */
void vexfs_hook_panic(void)
{
	if (unlikely(READ_ONCE(panic_next)) && xchg(&panic_next, 0))
		vexfs_rust_test_panic(1);
}

/* Called when the module is loaded. */
int vexfs_hook_selftest(void)
{
	struct vexfs_fs *fs;
	struct vexfs_call call;
	int err;

	if (!selftest)
		return 0;
	fs = kzalloc(sizeof(*fs), GFP_KERNEL);
	if (!fs)
		return -ENOMEM;
	vexfs_call_init(&call, fs, VEXFS_UNLOCKED);
	do {
		err = vexfs_call_enter(&call) ?:
		      vexfs_rust_test_basic() ?:
		      vexfs_rust_test_vector_ops();
	} while (vexfs_call_again(&call, &err));
	kfree(fs);
	pr_info("self-test: %s (%d)\n", err ? "failed" : "passed", err);
	return err;
}
