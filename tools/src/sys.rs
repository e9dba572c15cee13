// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The system calls that no safe wrapper offers. All of the package's `unsafe` is here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `BLKDISCARD` of `linux/fs.h`: `_IO(0x12, 119)`.
const BLKDISCARD: libc::c_ulong = 0x1277;

/// Tells a block device that nobody needs the contents of a range.
pub fn discard(file: &File, at: u64, len: u64) -> io::Result<()> {
    let range = [at, len];
    // SAFETY: BLKDISCARD reads two 64-bit numbers from the pointer, which outlives the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a closed pipe end the program, as it ends other filters. Rust ignores the signal by default.
pub fn die_of_closed_pipes() {
    // SAFETY: called before any thread starts; restores the default action of one signal.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
