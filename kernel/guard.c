// SPDX-License-Identifier: GPL-2.0-only
/*
 * A way out of the engine should it panic, and memory for it.
 *
 * The engine is built so that it does not panic. If it does all the same, it
 * cannot return: vexfs_guard_enter() remembers where a call of it started, and
 * vexfs_host_panic() goes back there. The volume is dead from then on, and the
 * memory the engine was working on is not touched again. This is setjmp and
 * longjmp over frames of Rust only, which hold no lock and no kernel resource.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/linkage.h>
#include <linux/mm.h>
#include <linux/objtool.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "vexfs.h"

asm(
".pushsection .text\n"
".balign 16\n"
".globl vexfs_guard_enter\n"
".type vexfs_guard_enter, @function\n"
"vexfs_guard_enter:\n"
#ifdef CONFIG_X86_KERNEL_IBT
"	endbr64\n"
#endif
"	movq %rbx, (%rdi)\n"
"	movq %rbp, 8(%rdi)\n"
"	movq %r12, 16(%rdi)\n"
"	movq %r13, 24(%rdi)\n"
"	movq %r14, 32(%rdi)\n"
"	movq %r15, 40(%rdi)\n"
"	leaq 8(%rsp), %rax\n"
"	movq %rax, 48(%rdi)\n"
"	movq (%rsp), %rax\n"
"	movq %rax, 56(%rdi)\n"
"	xorl %eax, %eax\n"
	ASM_RET
".size vexfs_guard_enter, . - vexfs_guard_enter\n"
".globl vexfs_guard_jump\n"
".type vexfs_guard_jump, @function\n"
"vexfs_guard_jump:\n"
#ifdef CONFIG_X86_KERNEL_IBT
"	endbr64\n"
#endif
"	movq (%rdi), %rbx\n"
"	movq 8(%rdi), %rbp\n"
"	movq 16(%rdi), %r12\n"
"	movq 24(%rdi), %r13\n"
"	movq 32(%rdi), %r14\n"
"	movq 40(%rdi), %r15\n"
"	movq 48(%rdi), %rsp\n"
"	pushq 56(%rdi)\n"
"	movl $-5, %eax\n" /* -EIO */
	ASM_RET
".size vexfs_guard_jump, . - vexfs_guard_jump\n"
".popsection\n"
);

void vexfs_guard_jump(struct vexfs_guard *guard);
STACK_FRAME_NON_STANDARD(vexfs_guard_jump);

void __noreturn vexfs_guard_leave(struct vexfs_guard *guard)
{
	vexfs_guard_jump(guard);
	BUG();
}

/* The engine panicked. See vexfs_ffi.h. */
void __noreturn vexfs_host_panic(const uint8_t *message, size_t len)
{
	struct vexfs_call *call = current->journal_info;

	pr_crit("the engine stopped: %.*s\n", (int)min_t(size_t, len, 200), message);
	/* Nothing enters the engine but vexfs_call_enter(), which leaves the call here. */
	if (!call || call->magic != VEXFS_CALL_MAGIC)
		BUG();
	call->panicked = true;
	vexfs_guard_leave(&call->guard);
}

/*
 * Memory for the engine. It allocates under its lock and during commits, which
 * reclaim may be waiting for: this must not enter a filesystem.
 */
uint8_t *vexfs_host_alloc(size_t size, size_t align)
{
	/* Powers of two are aligned to themselves, and whole pages to a page. */
	if (align > ARCH_KMALLOC_MINALIGN)
		size = max(roundup_pow_of_two(size), align);
	return kvmalloc(size, GFP_NOFS | __GFP_NOWARN);
}

void vexfs_host_free(uint8_t *memory)
{
	kvfree(memory);
}
