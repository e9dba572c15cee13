// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What only hosts in userspace call: they have no page cache, and hold the volume as long as a call takes.
//!
//! None of it is in the kernel's object. The harness in `kernel/harness` tests it with everything else.

use crate::abi::{
    Answer, Attr, FormatOptions, HostDevice, INVALID, NameAt, NewAttrs, Refusal, Report, Timestamp,
    answer, plain,
};
use crate::device::KernelDevice;
use crate::handle::{VolumeHandle, exclusive, shared};
use crate::inode::new_inode;
use crate::names::change_name;
use crate::pointer::{Place, bytes, bytes_mut, input};
use vexfs::{Device, Error, FileType, Ino, Inode, MkfsOptions};

/// `open_file`: the file is to be written.
pub const OPEN_WRITE: u32 = 1;

/// `mkfs`: formats `device`. 0, `-EINVAL`, `-ENOMEM`, or the device's error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_userspace_init(
    device: *const HostDevice,
    options: *const FormatOptions,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rule 1 for `device` and `options`.
        let (host, options) = unsafe { (*input(device)?, input(options)?) };
        let device = KernelDevice::new(host)?;
        let label = options.label.get(..options.label_len as usize).ok_or(INVALID)?;
        vexfs::mkfs(
            &device,
            &MkfsOptions {
                block_bytes: options.block_bytes,
                label,
                root_uid: options.root_uid,
                root_gid: options.root_gid,
                ..MkfsOptions::new(
                    options.bytes,
                    options.uuid,
                    options.hash_key,
                    options.now.into(),
                )
            },
        )?;
        Ok(())
    })
}

/// `Volume::kill`: stops the volume for good: every later operation fails with `-EIO`. 0, or `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_kill(volume: *mut VolumeHandle) -> i32 {
    plain(|| {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`.
        unsafe { exclusive(volume)? }.kill();
        Ok(())
    })
}

/// `Volume::commit`: commits everything in one call, under the lock: for a host that has nothing else to do
/// meanwhile. `*generation`, if not null, gets the newest durable generation.
///
/// 0, or what the stages fail with; after a failure of the device the volume is dead.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_sync_fs(
    volume: *mut VolumeHandle,
    now: Timestamp,
    generation: *mut u64,
    report: *mut Report,
) -> i32 {
    answer(report, || -> Answer {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 2 for `generation`.
        let (volume, out) = unsafe { (exclusive(volume)?, Place::optional(generation)) };
        let durable = volume.commit(now.into())?;
        if let Some(out) = out {
            out.set(durable.0);
        }
        Ok(())
    })
}

/// `Volume::commit`, or a flush of the device: makes one inode durable in one call, under the lock: commits if
/// anything is uncommitted, else flushes the device, for data that was overwritten in place. If that flush fails the
/// volume is dead: what the medium holds is not known.
///
/// 0, `-ENOENT` without that inode, or as `vexfs_rust_sync_fs`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_fsync_file(
    volume: *mut VolumeHandle,
    ino: u64,
    now: Timestamp,
    report: *mut Report,
) -> i32 {
    answer(report, || -> Answer {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`.
        let volume = unsafe { exclusive(volume)? };
        volume.resolve(|volume| volume.inode(Ino(ino)))?;
        if volume.is_dirty() {
            volume.commit(now.into())?;
        } else if let Err(error) = volume.device().flush() {
            volume.kill();
            return Err(Error::from(error).into());
        }
        Ok(())
    })
}

/// `vexfs_rust_create` of something whose type `fits`; a symbolic link needs its target before the volume is looked at.
///
/// # Safety
/// The contract of `vexfs_rust_create`.
unsafe fn create_of(
    fits: fn(FileType) -> bool,
    volume: *mut VolumeHandle,
    at: *const NameAt,
    attrs: *const NewAttrs,
    (out, dir_out): (*mut Attr, *mut Attr),
    report: *mut Report,
) -> i32 {
    // SAFETY: `change_name` has the same contract; rule 1 for `attrs` and its target.
    unsafe {
        change_name(volume, at, (out, dir_out), report, |volume, dir, name| {
            let new = new_inode(attrs)?;
            let kind = FileType::from_mode(new.mode).ok_or(INVALID)?;
            if !fits(kind) || (kind == FileType::Symlink && new.target.is_empty()) {
                return Err(INVALID);
            }
            Ok(volume.create(dir, name, &new)?)
        })
    }
}

/// `vexfs_rust_create` of anything but a directory or a symbolic link, for which it returns `-EINVAL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_create_file(
    volume: *mut VolumeHandle,
    at: *const NameAt,
    attrs: *const NewAttrs,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: `create_of` has the same contract.
    unsafe {
        create_of(
            |kind| !matches!(kind, FileType::Directory | FileType::Symlink),
            volume,
            at,
            attrs,
            (out, dir_out),
            report,
        )
    }
}

/// `vexfs_rust_create` of a directory; `-EINVAL` for anything else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_create_dir(
    volume: *mut VolumeHandle,
    at: *const NameAt,
    attrs: *const NewAttrs,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: `create_of` has the same contract.
    unsafe {
        create_of(|kind| kind == FileType::Directory, volume, at, attrs, (out, dir_out), report)
    }
}

/// `vexfs_rust_create` of a symbolic link; `-EINVAL` for anything else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_symlink(
    volume: *mut VolumeHandle,
    at: *const NameAt,
    attrs: *const NewAttrs,
    out: *mut Attr,
    dir_out: *mut Attr,
    report: *mut Report,
) -> i32 {
    // SAFETY: `create_of` has the same contract.
    unsafe {
        create_of(|kind| kind == FileType::Symlink, volume, at, attrs, (out, dir_out), report)
    }
}

fn regular(inode: &Inode) -> Answer {
    if inode.is_dir() {
        Err(Refusal::Errno(21))
    } else if inode.is_file() {
        Ok(())
    } else {
        Err(INVALID)
    }
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
        // SAFETY: rules 3 and 4 (shared) for `volume`, 2 for `out`.
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
        // SAFETY: rules 3 and 4 (shared) for `volume`, 2 for `destroy`.
        let (volume, destroy) = unsafe { (shared(volume)?, Place::new(destroy)?) };
        let inode = volume.inode(Ino(ino))?;
        regular(&inode)?;
        destroy.set(u32::from(inode.nlink == 0));
        Ok(())
    })
}

/// `Volume::read_at`: reads up to `len` bytes of file `ino` from byte `offset` into `buf`, through the device;
/// `*read` gets how many there were. For hosts without a page cache.
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
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 2 for `buf` and `read`.
        let (volume, buf, read) =
            unsafe { (exclusive(volume)?, bytes_mut(buf, len)?, Place::new(read)?) };
        regular(&volume.resolve(|volume| volume.inode(Ino(ino)))?)?;
        read.set(volume.read_at(Ino(ino), offset, buf)?);
        Ok(())
    })
}

/// `Volume::write_at`: writes `len` bytes to file `ino` from byte `offset` on, through the device, and commits when
/// it must. For hosts without a page cache.
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
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 1 for `data`.
        let (volume, data) = unsafe { (exclusive(volume)?, bytes(data, len)?) };
        if offset.checked_add(len as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Refusal::Errno(27));
        }
        regular(&volume.resolve(|volume| volume.inode(Ino(ino)))?)?;
        volume.write_at(Ino(ino), offset, data, now.into())?;
        Ok(())
    })
}
