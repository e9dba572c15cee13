// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What `core` and `alloc` need of a host without `std`: memory, and an end for a panic.

use crate::abi::Line;
use core::alloc::{GlobalAlloc, Layout};
use core::fmt::Write as _;
use core::panic::PanicInfo;

/// Largest alignment that is ever asked of the host, in bytes.
const ALIGN_MAX: usize = 4096;

unsafe extern "C" {
    /// Memory of `size` (more than 0) bytes aligned to `align` (a power of two up to 4096), or null.
    /// May sleep; must not enter a filesystem.
    fn vexfs_host_alloc(size: usize, align: usize) -> *mut u8;
    /// Gives back memory of `vexfs_host_alloc`.
    fn vexfs_host_free(memory: *mut u8);
    /// The engine panicked. Logs the message (not ended by a zero), stops the volume that the call works on, and ends
    /// that call with `-EIO`. Does not return.
    fn vexfs_host_panic(message: *const u8, len: usize);
}

struct HostMemory;

// SAFETY: rule 8: null, or memory of the size and alignment asked for, which nobody else uses until it is freed.
unsafe impl GlobalAlloc for HostMemory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > ALIGN_MAX {
            return core::ptr::null_mut();
        }
        // SAFETY: the trait promises a size above 0, and the alignment is one that the host has.
        unsafe { vexfs_host_alloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _layout: Layout) {
        // SAFETY: the trait promises that it came from `alloc` above.
        unsafe { vexfs_host_free(memory) }
    }
}

#[global_allocator]
static MEMORY: HostMemory = HostMemory;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut bytes = [0; 200];
    let mut text = Line { bytes: &mut bytes, len: 0 };
    // Cannot fail: what does not fit is cut off.
    let _ = write!(text, "{}", info.message());
    if let Some(place) = info.location() {
        let _ = write!(text, " ({}:{})", place.file(), place.line());
    }
    // SAFETY: the message is live, and by rule 8 the host does not return. It is declared as if it did, and `ud2`
    // follows, because objtool wants to see where a function ends.
    unsafe {
        vexfs_host_panic(text.bytes.as_ptr(), text.len);
        core::arch::asm!("ud2", options(noreturn))
    }
}
