// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Contents of regular files: where their blocks are. What a block holds is the host's matter.
//!
//! Blocks of a file count from 0 in the filesystem's block size.

use crate::abi::{Answer, Extent, INVALID, KEEP_SIZE, Report, Timestamp, answer};
use crate::handle::{VolumeHandle, exclusive, shared, step};
use crate::pointer::Place;
use vexfs::{FileBlock, Ino, Time};

/// A time, or none where the pointer is null.
///
/// # Safety
/// Rule 1 of the crate's contract for `now`.
unsafe fn time(now: *const Timestamp) -> Option<Time> {
    // SAFETY: rule 1 for `now`.
    unsafe { now.as_ref() }.map(|now| (*now).into())
}

fn range(block: u64, count: u64) -> Answer {
    // The last byte of a file is below 2^63.
    if count == 0 || block.checked_add(count).is_none_or(|end| end > 1 << 51) {
        return Err(INVALID);
    }
    Ok(())
}

/// `Volume::map`: finds where the blocks of file `ino` from `block` on live: `*out` gets one range that starts there,
/// of at most `count` blocks. What does not exist is a hole.
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
        // SAFETY: rules 3 and 4 (shared) for `volume`, 2 for `out`.
        let (volume, out) = unsafe { (shared(volume)?, Place::new(out)?) };
        range(block, count)?;
        out.set(volume.map(Ino(ino), FileBlock(block), count)?.into());
        Ok(())
    })
}

/// `Volume::allocate`: as `vexfs_rust_map`, but where there is nothing yet it allocates unwritten blocks. `*out` may
/// be shorter than asked.
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
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 2 for `out`.
        let (volume, out) = unsafe { (exclusive(volume)?, Place::new(out)?) };
        range(block, count)?;
        out.set(volume.allocate(Ino(ino), FileBlock(block), count)?.into());
        Ok(())
    })
}

/// `Volume::mark_written`: after the data of these blocks has reached the device: unwritten blocks become written,
/// and the size grows to `new_size` if it was below (`VEXFS_KEEP_SIZE`: it stays). `now`: the new mtime, or null.
/// While `*more` is 1, call it again.
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
    // SAFETY: `step` has the same contract; rule 1 for `now`.
    unsafe {
        step(volume, more_out, report, |volume| {
            range(block, count)?;
            let new_size = (new_size != KEEP_SIZE).then_some(new_size);
            Ok(volume.mark_written(Ino(ino), FileBlock(block), count, new_size, time(now))?)
        })
    }
}

/// `Volume::punch`: frees these blocks; they read as zeroes then. `now`: the new mtime and ctime, or null. While
/// `*more` is 1, call it again.
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
    // SAFETY: `step` has the same contract; rule 1 for `now`.
    unsafe {
        step(volume, more_out, report, |volume| {
            range(block, count)?;
            Ok(volume.punch(Ino(ino), FileBlock(block), count, time(now))?)
        })
    }
}

/// `Volume::set_size`: sets the size of file `ino`; what lies past it is freed. The host zeroes the rest of the last
/// block. While `*more` is 1, call it again.
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
    // SAFETY: `step` has the same contract.
    unsafe {
        step(volume, more_out, report, |volume| Ok(volume.set_size(Ino(ino), size, now.into())?))
    }
}
