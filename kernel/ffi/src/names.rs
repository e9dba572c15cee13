// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Names: look up, list, create, link, remove, rename.
//!
//! A name is bytes, 1 to 255 of them, without a slash or a zero. `dir_out`, where there is one, may be null; else it gets
//! the directory as it is after the change, or an inode number of 0 if that could not be read without waiting.

use crate::abi::{
    Answer, Attr, DirRecord, INVALID, NewAttrs, RANGE, RENAME_EXCHANGE, RENAME_NOREPLACE, Report,
    Timestamp, answer,
};
use crate::device::KernelDevice;
use crate::handle::{VolumeHandle, exclusive, fill, shared};
use crate::inode::new_inode;
use crate::pointer::{Place, bytes, input};
use core::mem::size_of;
use vexfs::{FileType, Ino, Inode, RenameFlags, Volume};

const RECORD_HEAD: usize = size_of::<DirRecord>();
const NAME_MAX: usize = 255;

/// A name that is long enough to be one; the engine judges the rest.
unsafe fn name<'a>(name: *const u8, len: u32) -> Answer<&'a [u8]> {
    if len == 0 {
        return Err(INVALID);
    }
    // SAFETY: handed on to the caller.
    unsafe { bytes(name, len as usize) }
}

#[inline(never)]
fn directory(volume: &Volume<KernelDevice>, dir: Ino) -> Attr {
    // Just changed, so it is in the cache.
    volume.inode(dir).map_or_else(|_| Attr::default(), |inode| Attr::from(&inode))
}

/// Runs a change of one name in `dir`; the inode and the directory as they are then go to their places.
///
/// # Safety
/// The crate's contract, for each pointer.
unsafe fn change_name(
    volume: *mut VolumeHandle,
    dir: u64,
    (name_at, name_len): (*const u8, u32),
    (out, dir_out): (*mut Attr, *mut Attr),
    report: *mut Report,
    change: impl FnOnce(&mut Volume<KernelDevice>, Ino, &[u8]) -> Answer<Inode>,
) -> i32 {
    answer(report, || {
        // SAFETY: handed on to the caller.
        let (volume, name, out, dir_out) = unsafe {
            (
                exclusive(volume)?,
                name(name_at, name_len)?,
                Place::new(out)?,
                Place::optional(dir_out),
            )
        };
        out.set(Attr::from(&change(volume, Ino(dir), name)?));
        if let Some(dir_out) = dir_out {
            dir_out.set(directory(volume, Ino(dir)));
        }
        Ok(())
    })
}

/// Finds a name in directory `dir` and reads its inode into `*out`.
///
/// 0, `-ENOENT`, `-ENOTDIR`, `-ENAMETOOLONG`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_lookup_inode(
    volume: *const VolumeHandle,
    dir: u64,
    name_at: *const u8,
    name_len: u32,
    out: *mut Attr,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: the crate's contract.
        let (volume, name, out) =
            unsafe { (shared(volume)?, name(name_at, name_len)?, Place::new(out)?) };
        let (ino, _) = volume.lookup(Ino(dir), name)?;
        out.set(Attr::from(&volume.inode(ino)?));
        Ok(())
    })
}

/// Packs entries of directory `dir` from `cookie` on (0 at the start, then the last record's) into the `len` bytes at
/// `buf`, which are aligned to 8: records of `struct vexfs_dir_record`. `*used` gets the bytes that were filled; 0 bytes
/// and success is the end. '.' and '..' are not among them.
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
    // SAFETY: the crate's contract.
    unsafe { fill(volume, (buf, len), used, report, pack) }
}

/// Makes what `attrs` says, which has to be of a type that `fits`.
///
/// # Safety
/// The crate's contract, for `attrs`.
unsafe fn create(
    volume: &mut Volume<KernelDevice>,
    dir: Ino,
    name: &[u8],
    attrs: *const NewAttrs,
    target: &[u8],
    fits: fn(FileType) -> bool,
) -> Answer<Inode> {
    // SAFETY: handed on to the caller.
    let attrs = unsafe { input(attrs)? };
    if !FileType::from_mode(attrs.mode).is_some_and(fits) {
        return Err(INVALID);
    }
    Ok(volume.create(dir, name, &new_inode(attrs, target))?)
}

/// Makes a file of any type but directory and symbolic link, under a name in `dir`.
///
/// 0; `-EINVAL` for one of those; `-EEXIST`, `-ENOENT`, `-ENOTDIR`, `-ENAMETOOLONG`, `-EROFS`, `-EAGAIN`, `-ENOSPC`,
/// `-ENOMEM`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_create_file(
    volume: *mut VolumeHandle,
    dir: u64,
    name_at: *const u8,
    name_len: u32,
    attrs: *const NewAttrs,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    let fits = |kind| !matches!(kind, FileType::Directory | FileType::Symlink);
    // SAFETY: the crate's contract.
    unsafe {
        change_name(volume, dir, (name_at, name_len), (out, dir_out), report, |v, dir, name| {
            create(v, dir, name, attrs, &[], fits)
        })
    }
}

/// Makes a directory. As `vexfs_rust_create_file`, and `-EMLINK`; the mode's type must be a directory's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_create_dir(
    volume: *mut VolumeHandle,
    dir: u64,
    name_at: *const u8,
    name_len: u32,
    attrs: *const NewAttrs,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    let fits = |kind| kind == FileType::Directory;
    // SAFETY: the crate's contract.
    unsafe {
        change_name(volume, dir, (name_at, name_len), (out, dir_out), report, |v, dir, name| {
            create(v, dir, name, attrs, &[], fits)
        })
    }
}

/// Makes a symbolic link to the `target_len` bytes (1 to 4095) at `target`. As `vexfs_rust_create_file`; the mode's type
/// must be a symbolic link's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_symlink(
    volume: *mut VolumeHandle,
    dir: u64,
    name_at: *const u8,
    name_len: u32,
    target: *const u8,
    target_len: u32,
    attrs: *const NewAttrs,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    let fits = |kind| kind == FileType::Symlink;
    // SAFETY: the crate's contract.
    unsafe {
        change_name(volume, dir, (name_at, name_len), (out, dir_out), report, |v, dir, name| {
            if target_len == 0 {
                return Err(INVALID);
            }
            create(v, dir, name, attrs, bytes(target, target_len as usize)?, fits)
        })
    }
}

/// Reads a symbolic link's target and a zero behind it into the `len` bytes at `buf`; `*used` gets its length without the zero.
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
    // SAFETY: the crate's contract.
    unsafe { fill(volume, (buf, len), used, report, copy) }
}

/// Gives inode `ino` one more name. `*out` gets the inode after it.
///
/// 0, `-EEXIST`, `-EISDIR`, `-EMLINK`, and as `vexfs_rust_create_file`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_link(
    volume: *mut VolumeHandle,
    ino: u64,
    dir: u64,
    name_at: *const u8,
    name_len: u32,
    now: Timestamp,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: the crate's contract.
    unsafe {
        change_name(volume, dir, (name_at, name_len), (out, dir_out), report, |v, dir, name| {
            Ok(v.link(Ino(ino), dir, name, now.into())?)
        })
    }
}

/// Takes a name away from something that is no directory. `*out` gets the inode after it: if its `nlink` is 0, destroy
/// it with `vexfs_rust_destroy_inode` once nobody uses it.
///
/// 0, `-ENOENT`, `-EISDIR`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_unlink_file(
    volume: *mut VolumeHandle,
    dir: u64,
    name_at: *const u8,
    name_len: u32,
    now: Timestamp,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: the crate's contract.
    unsafe {
        change_name(volume, dir, (name_at, name_len), (out, dir_out), report, |v, dir, name| {
            Ok(v.unlink(dir, name, now.into())?)
        })
    }
}

/// Removes an empty directory. As `vexfs_rust_unlink_file`, with `-ENOTEMPTY` and `-ENOTDIR`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_remove_dir(
    volume: *mut VolumeHandle,
    dir: u64,
    name_at: *const u8,
    name_len: u32,
    now: Timestamp,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: the crate's contract.
    unsafe {
        change_name(volume, dir, (name_at, name_len), (out, dir_out), report, |v, dir, name| {
            Ok(v.rmdir(dir, name, now.into())?)
        })
    }
}

/// Where a rename starts or ends.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NameAt {
    /// The directory.
    pub dir: u64,
    /// The name.
    pub name: *const u8,
    /// Its bytes.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
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

/// Moves a name. `flags`: 0, `VEXFS_RENAME_NOREPLACE` or `VEXFS_RENAME_EXCHANGE`. `*out` may not be null.
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
        // SAFETY: the crate's contract.
        let (volume, from, to, out) =
            unsafe { (exclusive(volume)?, input(from)?, input(to)?, Place::new(out)?) };
        // SAFETY: the crate's contract.
        let (from_name, to_name) = unsafe { (name(from.name, from.len)?, name(to.name, to.len)?) };
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0
            || flags == RENAME_NOREPLACE | RENAME_EXCHANGE
        {
            return Err(INVALID);
        }
        let engine_flags = RenameFlags {
            no_replace: flags & RENAME_NOREPLACE != 0,
            exchange: flags & RENAME_EXCHANGE != 0,
        };
        let (from_dir, to_dir) = (Ino(from.dir), Ino(to.dir));
        let done = volume.rename(from_dir, from_name, to_dir, to_name, engine_flags, now.into())?;
        // Field by field: a kernel's stack has no room for all of it at once.
        out.with(|out| out.other = done.other.as_ref().map_or_else(Attr::default, Attr::from));
        out.with(|out| out.from_dir = directory(volume, from_dir));
        out.with(|out| out.to_dir = directory(volume, to_dir));
        Ok(())
    })
}

const _: () = assert!(RECORD_HEAD == 24 && (RECORD_HEAD + NAME_MAX).next_multiple_of(8) <= 296);
