// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module without the engine (make SAFE=1): it loads, registers nothing
 * that could be mounted, says so, and unloads. It shows whether a kernel loads
 * the module at all.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>

static int __init vexfs_safe_init(void)
{
	pr_info("built without the engine (SAFE=1): nothing can be mounted; build without SAFE=1 to mount\n");
	return 0;
}

static void __exit vexfs_safe_exit(void)
{
	pr_info("unloaded\n");
}

module_init(vexfs_safe_init);
module_exit(vexfs_safe_exit);
MODULE_DESCRIPTION("VexFS (without its engine)");
MODULE_LICENSE("GPL");
