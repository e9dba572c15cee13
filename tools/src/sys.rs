// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The few system calls that no safe wrapper offers. All of the package's `unsafe` is here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `BLKDISCARD` of `linux/fs.h`: `_IO(0x12, 119)`.
const BLKDISCARD: libc::c_ulong = 0x1277;

/// Locks the whole file on its open description: alone, or shared with other readers. False if
/// somebody else's lock stands in the way. The lock ends with the last descriptor.
pub fn lock(file: &File, alone: bool) -> io::Result<bool> {
    // SAFETY: `flock` is a plain C struct for which all-zero bytes are a valid value.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = if alone { libc::F_WRLCK } else { libc::F_RDLCK } as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: F_OFD_SETLK reads a `flock` from the pointer, which outlives the call, and `file`
    // keeps the descriptor open.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if done == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Tells a block device that the contents of a range are of no use any more.
pub fn discard(file: &File, at: u64, len: u64) -> io::Result<()> {
    let range = [at, len];
    // SAFETY: BLKDISCARD reads two 64-bit numbers from the pointer, which outlives the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a closed pipe end the program, as it ends every other filter.
pub fn die_of_closed_pipes() {
    // SAFETY: called before any thread starts; restores the default action of one signal.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
