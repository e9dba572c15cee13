// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Names: look up, list, create, link, remove, rename.
//!
//! A change may have a `dir_out`: if that is not null, it gets the directory as it is after the change, or an inode number
//! of 0 if that could not be read without waiting.

use crate::abi::{
    Answer, Attr, DirRecord, INVALID, NameAt, NewAttrs, RANGE, RENAME_EXCHANGE, RENAME_NOREPLACE,
    Report, Timestamp, answer,
};
use crate::device::KernelDevice;
use crate::handle::{VolumeHandle, exclusive, fill, shared};
use crate::inode::new_inode;
use crate::pointer::{Place, bytes, input};
use core::mem::size_of;
use vexfs::{Ino, Inode, RenameFlags, Volume};

const RECORD_HEAD: usize = size_of::<DirRecord>();
const NAME_MAX: usize = 255;

/// The directory and the name, which is not empty; the engine checks the rest.
///
/// # Safety
/// Rule 1 of the crate's contract, for `at` and for the name in it.
unsafe fn name<'a>(at: *const NameAt) -> Answer<(Ino, &'a [u8])> {
    // SAFETY: rule 1 for `at`.
    let at = unsafe { input(at)? };
    if at.len == 0 {
        return Err(INVALID);
    }
    // SAFETY: rule 1 for the name.
    Ok((Ino(at.dir), unsafe { bytes(at.name, at.len as usize)? }))
}

#[inline(never)]
fn directory(volume: &Volume<KernelDevice>, dir: Ino) -> Attr {
    // It was changed just before this, so it is in the cache.
    volume.inode(dir).map_or_else(|_| Attr::default(), |inode| Attr::from(&inode))
}

/// Runs a change of one name; the inode and the directory as they are after it go to their places.
///
/// # Safety
/// The crate's contract: rule 1 for `at` and its name, rule 2 for `out`, `dir_out` and `report`, rules 3 and 4
/// (exclusive) for `volume`.
pub(crate) unsafe fn change_name(
    volume: *mut VolumeHandle,
    at: *const NameAt,
    (out, dir_out): (*mut Attr, *mut Attr),
    report: *mut Report,
    change: impl FnOnce(&mut Volume<KernelDevice>, Ino, &[u8]) -> Answer<Inode>,
) -> i32 {
    answer(report, || {
        // SAFETY: this function's contract, for each pointer.
        let (volume, (dir, name), out, dir_out) =
            unsafe { (exclusive(volume)?, name(at)?, Place::new(out)?, Place::optional(dir_out)) };
        out.set(Attr::from(&change(volume, dir, name)?));
        if let Some(dir_out) = dir_out {
            dir_out.set(directory(volume, dir));
        }
        Ok(())
    })
}

/// `Volume::lookup` and `Volume::inode`: finds a name and reads its inode into `*out`.
///
/// 0, `-ENOENT`, `-ENOTDIR`, `-ENAMETOOLONG`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_lookup_inode(
    volume: *const VolumeHandle,
    at: *const NameAt,
    out: *mut Attr,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (shared) for `volume`, 1 for `at` and its name, 2 for `out`.
        let (volume, (dir, name), out) = unsafe { (shared(volume)?, name(at)?, Place::new(out)?) };
        let (ino, _) = volume.lookup(dir, name)?;
        out.set(Attr::from(&volume.inode(ino)?));
        Ok(())
    })
}

/// `Volume::readdir`: packs entries of directory `dir` from `cookie` on (0 at the start, then the last record's) into
/// the `len` bytes at `buf`, which are aligned to 8: records of `struct vexfs_dir_record`. `*used` gets the bytes
/// that were filled; 0 bytes and success is the end. '.' and '..' are not among them.
///
/// 0, `-ERANGE` if not even one entry fits (296 bytes always do), `-ENOTDIR`, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_readdir(
    volume: *const VolumeHandle,
    dir: u64,
    cookie: u64,
    buf: *mut u8,
    len: usize,
    used: *mut usize,
    report: *mut Report,
) -> i32 {
    let pack = |volume: &Volume<KernelDevice>, target: &mut [u8]| {
        if !(buf as usize).is_multiple_of(8) {
            return Err(INVALID);
        }
        let mut filled = 0;
        let mut full = false;
        volume.readdir(Ino(dir), cookie, &mut |entry| {
            let record_len = (RECORD_HEAD + entry.name.len()).next_multiple_of(8);
            let Some(record) = target.get_mut(filled..).and_then(|rest| rest.get_mut(..record_len))
            else {
                full = true;
                return false;
            };
            record.fill(0);
            let head = [
                (0, &entry.ino.0.to_ne_bytes()[..]),
                (8, &entry.cookie.to_ne_bytes()[..]),
                (16, &(record_len as u16).to_ne_bytes()[..]),
                (18, &(entry.name.len() as u16).to_ne_bytes()[..]),
                (20, &u32::from(entry.file_type.dt()).to_ne_bytes()[..]),
                (RECORD_HEAD, entry.name),
            ];
            for (at, field) in head {
                if let Some(place) = record.get_mut(at..at + field.len()) {
                    place.copy_from_slice(field);
                }
            }
            filled += record_len;
            true
        })?;
        if full && filled == 0 { Err(RANGE) } else { Ok(filled) }
    };
    // SAFETY: `fill` has the same contract.
    unsafe { fill(volume, (buf, len), used, report, pack) }
}

/// `Volume::create`: makes what `attrs` says under a name: a file, directory, symbolic link or special file. `*out`
/// gets the inode.
///
/// 0; `-EINVAL` for a mode without a type, for a target of anything but a symbolic link, and for a link without one;
/// `-EEXIST`, `-ENOENT`, `-ENOTDIR`, `-EMLINK`, `-ENAMETOOLONG`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`,
/// `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_create(
    volume: *mut VolumeHandle,
    at: *const NameAt,
    attrs: *const NewAttrs,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: `change_name` has the same contract; rule 1 for `attrs` and its target.
    unsafe {
        change_name(volume, at, (out, dir_out), report, |volume, dir, name| {
            Ok(volume.create(dir, name, &new_inode(attrs)?)?)
        })
    }
}

/// `Volume::readlink`: reads a symbolic link's target and a zero behind it into the `len` bytes at `buf`; `*used`
/// gets its length without the zero.
///
/// 0, `-ERANGE` if it does not fit (4096 always do), `-EINVAL` if it is none, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_readlink(
    volume: *const VolumeHandle,
    ino: u64,
    buf: *mut u8,
    len: usize,
    used: *mut usize,
    report: *mut Report,
) -> i32 {
    let copy = |volume: &Volume<KernelDevice>, buf: &mut [u8]| {
        let target = volume.readlink(Ino(ino))?;
        let (text, rest) = buf.split_at_mut_checked(target.len()).ok_or(RANGE)?;
        text.copy_from_slice(&target);
        *rest.first_mut().ok_or(RANGE)? = 0;
        Ok(target.len())
    };
    // SAFETY: `fill` has the same contract.
    unsafe { fill(volume, (buf, len), used, report, copy) }
}

/// `Volume::link`: gives inode `ino` one more name. `*out` gets the inode after it.
///
/// 0, `-EEXIST`, `-EISDIR`, `-EMLINK`, and as `vexfs_rust_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_link(
    volume: *mut VolumeHandle,
    ino: u64,
    at: *const NameAt,
    now: Timestamp,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: `change_name` has the same contract.
    unsafe {
        change_name(volume, at, (out, dir_out), report, |volume, dir, name| {
            Ok(volume.link(Ino(ino), dir, name, now.into())?)
        })
    }
}

/// `Volume::unlink`: takes a name away from something that is no directory. `*out` gets the inode after it: if its
/// `nlink` is 0, destroy it with `vexfs_rust_destroy_inode` once nobody uses it.
///
/// 0, `-ENOENT`, `-EISDIR`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_unlink_file(
    volume: *mut VolumeHandle,
    at: *const NameAt,
    now: Timestamp,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: `change_name` has the same contract.
    unsafe {
        change_name(volume, at, (out, dir_out), report, |volume, dir, name| {
            Ok(volume.unlink(dir, name, now.into())?)
        })
    }
}

/// `Volume::rmdir`: removes an empty directory. As `vexfs_rust_unlink_file`, with `-ENOTEMPTY` and `-ENOTDIR`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_remove_dir(
    volume: *mut VolumeHandle,
    at: *const NameAt,
    now: Timestamp,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: `change_name` has the same contract.
    unsafe {
        change_name(volume, at, (out, dir_out), report, |volume, dir, name| {
            Ok(volume.rmdir(dir, name, now.into())?)
        })
    }
}

/// Attributes after a rename; those with an inode number of 0 were not concerned.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct RenameResult {
    /// The inode that had the new name: replaced (destroy it when `nlink` is 0 and nobody uses it) or exchanged.
    pub other: Attr,
    /// The directory of the old name.
    pub from_dir: Attr,
    /// The directory of the new name.
    pub to_dir: Attr,
}

/// `Volume::rename`: moves a name. `flags`: 0, `VEXFS_RENAME_NOREPLACE` or `VEXFS_RENAME_EXCHANGE`. `*out` may not be
/// null.
///
/// 0; `-EINVAL` for both flags or a directory moved into itself; `-EEXIST`, `-ENOENT`, `-ENOTDIR`, `-EISDIR`,
/// `-ENOTEMPTY`, `-EMLINK`, `-ENAMETOOLONG`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_rename(
    volume: *mut VolumeHandle,
    from: *const NameAt,
    to: *const NameAt,
    flags: u32,
    now: Timestamp,
    out: *mut RenameResult,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 1 for `from`, `to` and their names, 2 for `out`.
        let (volume, (from_dir, from_name), (to_dir, to_name), out) =
            unsafe { (exclusive(volume)?, name(from)?, name(to)?, Place::new(out)?) };
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0
            || flags == RENAME_NOREPLACE | RENAME_EXCHANGE
        {
            return Err(INVALID);
        }
        let engine_flags = RenameFlags {
            no_replace: flags & RENAME_NOREPLACE != 0,
            exchange: flags & RENAME_EXCHANGE != 0,
        };
        let done = volume.rename(from_dir, from_name, to_dir, to_name, engine_flags, now.into())?;
        // Field by field: a kernel's stack has no room for all of it at once.
        out.with(|out| out.other = done.other.as_ref().map_or_else(Attr::default, Attr::from));
        out.with(|out| out.from_dir = directory(volume, from_dir));
        out.with(|out| out.to_dir = directory(volume, to_dir));
        Ok(())
    })
}

const _: () = assert!(RECORD_HEAD == 24 && (RECORD_HEAD + NAME_MAX).next_multiple_of(8) <= 296);
