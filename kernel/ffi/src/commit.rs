// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Making changes durable, in three stages so that the lock is not held while the device writes:
//! begin (exclusive), write (no lock), finish (exclusive). One commit may be under way at a time.

use crate::abi::{FAULT, Report, Timestamp, answer};
use crate::handle::{CommitHandle, Room, VolumeHandle, exclusive, take};
use crate::pointer::Place;
use core::ptr;
use vexfs::Error;

/// `Volume::freeze`: freezes the running transaction. `*out` gets the commit, or null if nothing has changed since
/// the last one.
///
/// 0; `-EAGAIN` with `VEXFS_WANT_NODE`; `-EINVAL` while another commit is under way; `-ENOMEM`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_commit_begin(
    volume: *mut VolumeHandle,
    now: Timestamp,
    out: *mut *mut CommitHandle,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 2 for `out`.
        let (volume, out) = unsafe { (exclusive(volume)?, Place::new(out)?) };
        let device = *volume.device();
        // Before the freeze: one that cannot be handed over is lost, and the volume with it.
        let room = Room::new()?;
        let frozen = volume.freeze(now.into())?;
        out.set(frozen.map_or(ptr::null_mut(), |commit| {
            room.give(CommitHandle { commit, device, result: None })
        }));
        Ok(())
    })
}

/// `Commit::write`: writes a frozen transaction to the device, flushes, and writes its root record. Takes no lock,
/// and must be called by one task at a time.
///
/// 0, or the device's error. Either way go on with `vexfs_rust_commit_finish`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_commit_write(
    commit: *mut CommitHandle,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 5 for `commit`.
        let handle = unsafe { commit.as_mut() }.ok_or(FAULT)?;
        let result = handle.commit.write(&handle.device);
        handle.result = Some(result);
        result?;
        Ok(())
    })
}

/// `Volume::finish`: takes note of how the commit went, and gives it back. If writing failed, or was left out, the
/// volume is dead.
///
/// 0, or the error `vexfs_rust_commit_write` had.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_commit_finish(
    volume: *mut VolumeHandle,
    commit: *mut CommitHandle,
    report: *mut Report,
) -> i32 {
    // SAFETY: rule 3: this is the last use of the commit, which this call takes back.
    let commit = unsafe { take(commit) };
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`.
        let volume = unsafe { exclusive(volume)? };
        for handle in commit? {
            volume.finish(&handle.commit, handle.result.unwrap_or(Err(Error::Dead)))?;
        }
        Ok(())
    })
}
