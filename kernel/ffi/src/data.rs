// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Contents of regular files: where they are, and whole reads and writes for hosts without a page cache.
//!
//! Blocks of a file count from 0 in the filesystem's block size.

use crate::abi::{Answer, Attr, Extent, INVALID, KEEP_SIZE, Refusal, Report, Timestamp, answer};
use crate::handle::{VolumeHandle, exclusive, shared, step};
use crate::pointer::{Place, bytes, bytes_mut};
use vexfs::{FileBlock, Ino, Inode, Time};

/// `open_file`: the file is to be written.
pub const OPEN_WRITE: u32 = 1;

fn regular(inode: &Inode) -> Answer {
    if inode.is_dir() {
        Err(Refusal::Errno(21))
    } else if inode.is_file() {
        Ok(())
    } else {
        Err(INVALID)
    }
}

/// A time, or none where the pointer is null.
///
/// # Safety
/// If not null, `now` points at a live timestamp.
unsafe fn time(now: *const Timestamp) -> Option<Time> {
    // SAFETY: by this function's contract.
    unsafe { now.as_ref() }.map(|now| (*now).into())
}

fn range(block: u64, count: u64) -> Answer {
    // The last byte of a file is below 2^63.
    if count == 0 || block.checked_add(count).is_none_or(|end| end > 1 << 51) {
        return Err(INVALID);
    }
    Ok(())
}

/// Checks that regular file `ino` can be opened (`flags`: 0 or `VEXFS_OPEN_WRITE`) and reads it into `*out`. Nothing is
/// held: an open file is the host's matter.
///
/// 0, `-EISDIR`, `-EINVAL` if it is no regular file, `-EROFS`, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_open_file(
    volume: *const VolumeHandle,
    ino: u64,
    flags: u32,
    out: *mut Attr,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: the crate's contract.
        let (volume, out) = unsafe { (shared(volume)?, Place::new(out)?) };
        if flags & !OPEN_WRITE != 0 {
            return Err(INVALID);
        }
        if flags & OPEN_WRITE != 0 && volume.is_read_only() {
            return Err(Refusal::Errno(30));
        }
        let inode = volume.inode(Ino(ino))?;
        regular(&inode)?;
        out.set(Attr::from(&inode));
        Ok(())
    })
}

/// The counterpart of `vexfs_rust_open_file`: tells with `*destroy` = 1 that the file has no name left, so that its last
/// user has to destroy it.
///
/// 0, `-EISDIR`, `-EINVAL`, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_release_file(
    volume: *const VolumeHandle,
    ino: u64,
    destroy: *mut u32,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: the crate's contract.
        let (volume, destroy) = unsafe { (shared(volume)?, Place::new(destroy)?) };
        let inode = volume.inode(Ino(ino))?;
        regular(&inode)?;
        destroy.set(u32::from(inode.nlink == 0));
        Ok(())
    })
}

/// Finds where the blocks of file `ino` from `block` on live: `*out` gets one range that starts there, of at most `count` blocks.
/// What does not exist is a hole.
///
/// 0, `-EINVAL`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_map(
    volume: *const VolumeHandle,
    ino: u64,
    block: u64,
    count: u64,
    out: *mut Extent,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: the crate's contract.
        let (volume, out) = unsafe { (shared(volume)?, Place::new(out)?) };
        range(block, count)?;
        out.set(volume.map(Ino(ino), FileBlock(block), count)?.into());
        Ok(())
    })
}

/// As `vexfs_rust_map`, but where there is nothing yet it allocates unwritten blocks. `*out` may be shorter than asked.
///
/// 0, `-EINVAL`, `-ENOENT`, `-EFBIG`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_allocate(
    volume: *mut VolumeHandle,
    ino: u64,
    block: u64,
    count: u64,
    out: *mut Extent,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: the crate's contract.
        let (volume, out) = unsafe { (exclusive(volume)?, Place::new(out)?) };
        range(block, count)?;
        out.set(volume.allocate(Ino(ino), FileBlock(block), count)?.into());
        Ok(())
    })
}

/// After the data of these blocks has reached the device: unwritten blocks become written, and the size grows to
/// `new_size` if it was below (`VEXFS_KEEP_SIZE`: it stays). `now`: the new mtime, or null. While `*more` is 1, call it again.
///
/// 0, `-EINVAL`, `-ENOENT`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_mark_written(
    volume: *mut VolumeHandle,
    ino: u64,
    block: u64,
    count: u64,
    new_size: u64,
    now: *const Timestamp,
    more_out: *mut u32,
    report: *mut Report,
) -> i32 {
    // SAFETY: the crate's contract.
    unsafe {
        step(volume, more_out, report, |volume| {
            range(block, count)?;
            let new_size = (new_size != KEEP_SIZE).then_some(new_size);
            Ok(volume.mark_written(Ino(ino), FileBlock(block), count, new_size, time(now))?)
        })
    }
}

/// Frees these blocks; they read as zeroes then. `now`: the new mtime and ctime, or null. While `*more` is 1, call it
/// again.
///
/// 0, `-EINVAL`, `-ENOENT`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_punch(
    volume: *mut VolumeHandle,
    ino: u64,
    block: u64,
    count: u64,
    now: *const Timestamp,
    more_out: *mut u32,
    report: *mut Report,
) -> i32 {
    // SAFETY: the crate's contract.
    unsafe {
        step(volume, more_out, report, |volume| {
            range(block, count)?;
            Ok(volume.punch(Ino(ino), FileBlock(block), count, time(now))?)
        })
    }
}

/// Sets the size of file `ino`; what lies past it is freed. The host zeroes the rest of the last block. While `*more`
/// is 1, call it again.
///
/// 0, `-EISDIR`, `-EINVAL`, `-ENOENT`, `-EFBIG`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_truncate_file(
    volume: *mut VolumeHandle,
    ino: u64,
    size: u64,
    now: Timestamp,
    more_out: *mut u32,
    report: *mut Report,
) -> i32 {
    // SAFETY: the crate's contract.
    unsafe {
        step(volume, more_out, report, |volume| Ok(volume.set_size(Ino(ino), size, now.into())?))
    }
}

/// Reads up to `len` bytes of file `ino` from byte `offset` into `buf`, through the device; `*read` gets how many there were.
/// For hosts without a page cache.
///
/// 0, `-EISDIR`, `-EINVAL`, `-ENOENT`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_read_file(
    volume: *mut VolumeHandle,
    ino: u64,
    offset: u64,
    buf: *mut u8,
    len: usize,
    read: *mut usize,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: the crate's contract.
        let (volume, buf, read) =
            unsafe { (exclusive(volume)?, bytes_mut(buf, len)?, Place::new(read)?) };
        regular(&volume.resolve(|volume| volume.inode(Ino(ino)))?)?;
        read.set(volume.read_at(Ino(ino), offset, buf)?);
        Ok(())
    })
}

/// Writes `len` bytes to file `ino` from byte `offset` on, through the device, and commits when it must.
/// For hosts without a page cache.
///
/// 0, `-EISDIR`, `-EINVAL`, `-ENOENT`, `-EFBIG`, `-EROFS`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_write_file(
    volume: *mut VolumeHandle,
    ino: u64,
    offset: u64,
    data: *const u8,
    len: usize,
    now: Timestamp,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: the crate's contract.
        let (volume, data) = unsafe { (exclusive(volume)?, bytes(data, len)?) };
        if offset.checked_add(len as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Refusal::Errno(27));
        }
        regular(&volume.resolve(|volume| volume.inode(Ino(ino)))?)?;
        volume.write_at(Ino(ino), offset, data, now.into())?;
        Ok(())
    })
}
