// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The lock on an image, which every program of VexFS takes. The crate's only `unsafe` is here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks the whole file for its open file description: alone, or shared with other readers. False
/// if another lock is in the way. The lock ends when the last descriptor is closed.
///
/// # Errors
/// The host's, where it cannot lock this file at all.
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
