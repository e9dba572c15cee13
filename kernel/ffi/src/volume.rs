// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Opening and closing a volume, its figures, and bringing in what an operation missed.

use crate::abi::{
    ABI_VERSION, Answer, FAULT, Figures, HostDevice, INVALID, Report, State, answer, plain,
};
use crate::device::KernelDevice;
use crate::handle::{NodeHandle, VolumeHandle, exclusive, give, shared, take};
use crate::pointer::{Place, bytes_mut, input};
use vexfs::{OpenOptions, Volume};

/// `fill_super`: refuse every change.
pub const OPEN_READ_ONLY: u32 = 1;

/// Text of [`vexfs_rust_get_version`].
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prepares the library. `abi_version` is the `VEXFS_ABI_VERSION` of the caller's header.
///
/// 0, or `-EINVAL` if the header and this object do not belong together.
#[unsafe(no_mangle)]
pub extern "C" fn vexfs_rust_init(abi_version: u32) -> i32 {
    if abi_version == ABI_VERSION { 0 } else { -22 }
}

/// The counterpart of `vexfs_rust_init`. There is nothing to give back: volumes are closed one by one. Always 0.
#[unsafe(no_mangle)]
pub extern "C" fn vexfs_rust_exit() -> i32 {
    0
}

/// Writes the version, as text that ends in a zero, to the `len` bytes at `buf`.
///
/// 0, `-EFAULT`, or `-ERANGE` if it does not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_get_version(buf: *mut u8, len: usize) -> i32 {
    plain(|| {
        // SAFETY: rule 2 for `buf`.
        let target = unsafe { bytes_mut(buf, len)? };
        if buf.is_null() {
            return Err(FAULT);
        }
        let text = VERSION.as_bytes();
        target.get_mut(..text.len()).ok_or(crate::abi::RANGE)?.copy_from_slice(text);
        *target.get_mut(text.len()).ok_or(crate::abi::RANGE)? = 0;
        Ok(())
    })
}

/// `Volume::open`: opens the filesystem on `device` and hands its volume to `*out`. `flags`: `VEXFS_OPEN_READ_ONLY`
/// or 0; `cache_bytes`: about how many bytes of clean tree nodes to keep. Reads the device.
///
/// 0; `-EINVAL` if it is no VexFS this code knows, `-EUCLEAN` if it is damaged, `-EROFS` if only reading is possible,
/// the device's error, `-ENOMEM`. The report's message says which. `*out` is written only on success; give it back
/// with `vexfs_rust_cleanup_superblock`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_fill_super(
    device: *const HostDevice,
    flags: u32,
    cache_bytes: usize,
    out: *mut *mut VolumeHandle,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rule 1 for `device`, 2 for `out`.
        let (host, out) = unsafe { (*input(device)?, Place::new(out)?) };
        if flags & !OPEN_READ_ONLY != 0 {
            return Err(INVALID);
        }
        let device = KernelDevice::new(host)?;
        let options = OpenOptions { read_only: flags & OPEN_READ_ONLY != 0, cache_bytes };
        let volume = Volume::open(device, &options)?;
        out.set(give(VolumeHandle { volume })?);
        Ok(())
    })
}

/// `Volume::kill`: ends all work on a volume before it is given back: from here on every operation fails with `-EIO`.
/// Commit first.
///
/// 0, or `-EBUSY` if there were uncommitted changes, which are lost now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_put_super(volume: *mut VolumeHandle) -> i32 {
    plain(|| {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`.
        let volume = unsafe { exclusive(volume)? };
        let lost = volume.is_dirty() && !volume.is_dead();
        volume.kill();
        if lost { Err(crate::abi::Refusal::Errno(16)) } else { Ok(()) }
    })
}

/// `drop(Volume)`: gives a volume back with all its memory; nobody may use it any more. Writes nothing. 0, or
/// `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_cleanup_superblock(volume: *mut VolumeHandle) -> i32 {
    plain(|| {
        // SAFETY: rule 3: this is the last use of the volume, which this call takes back.
        drop(unsafe { take(volume)? });
        Ok(())
    })
}

/// `Volume::statfs`: writes the filesystem's figures to `*out`. 0, or `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_get_statfs(
    volume: *const VolumeHandle,
    out: *mut Figures,
) -> i32 {
    plain(|| {
        // SAFETY: rules 3 and 4 (shared) for `volume`, 2 for `out`.
        let (volume, out) = unsafe { (shared(volume)?, Place::new(out)?) };
        let figures = volume.statfs();
        out.set(Figures {
            blocks: figures.blocks,
            blocks_free: figures.blocks_free,
            blocks_available: figures.blocks_available,
            inodes: figures.inodes,
            block_bytes: figures.block_bytes,
            name_max: 255,
            uuid: figures.uuid,
            label: figures.label,
        });
        Ok(())
    })
}

/// `Volume::generation` and its like: writes where the volume stands to `*out`. 0, or `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_get_state(volume: *const VolumeHandle, out: *mut State) -> i32 {
    plain(|| {
        // SAFETY: rules 3 and 4 (shared) for `volume`, 2 for `out`.
        let (volume, out) = unsafe { (shared(volume)?, Place::new(out)?) };
        out.set(State {
            durable: volume.generation().0,
            running: volume.running().0,
            cached_nodes: volume.cached_nodes() as u64,
            orphans: volume.orphans(),
            next_ino: volume.next_ino().0,
            dirty: u32::from(volume.is_dirty()),
            dead: u32::from(volume.is_dead()),
            read_only: u32::from(volume.is_read_only()),
            reserved: 0,
        });
        Ok(())
    })
}

/// `Volume::set_read_only`: refuses changes from now on (`read_only` true), or allows them again. Commit before
/// refusing. 0, or `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_set_read_only(
    volume: *mut VolumeHandle,
    read_only: bool,
) -> i32 {
    plain(|| {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`.
        unsafe { exclusive(volume)? }.set_read_only(read_only);
        Ok(())
    })
}

/// `Volume::trim`: evicts clean tree nodes until about `limit` are left, and writes how many went to `*freed`. 0, or
/// `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_trim(
    volume: *mut VolumeHandle,
    limit: usize,
    freed: *mut usize,
) -> i32 {
    plain(|| {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 2 for `freed`.
        let (volume, freed) = unsafe { (exclusive(volume)?, Place::new(freed)?) };
        freed.set(volume.trim(limit));
        Ok(())
    })
}

/// `Volume::node_reader`: prepares to read the block that the call before missed, under the same hold of the lock.
/// `report` is that call's. `*out` gets the node, for `vexfs_rust_fetch`. Reads nothing yet.
///
/// 0, `-EINVAL` if the report wants no node, or `-ENOMEM`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_fetch_begin(
    volume: *const VolumeHandle,
    report: *mut Report,
    out: *mut *mut NodeHandle,
) -> i32 {
    // SAFETY: rules 2 and 6 for `report`; this borrow ends before `answer` takes its own.
    let missing = unsafe { report.as_ref() }.and_then(Report::missing);
    answer(report, || {
        // SAFETY: rules 3 and 4 (shared) for `volume`, 2 for `out`.
        let (volume, out) = unsafe { (shared(volume)?, Place::new(out)?) };
        let missing = missing.ok_or(INVALID)?;
        out.set(give(NodeHandle { reader: volume.node_reader(), missing, node: None })?);
        Ok(())
    })
}

/// `NodeReader::fetch`: reads and verifies the block of a node. Takes no lock.
///
/// 0, `-EUCLEAN`, `-ENOMEM`, or the device's error; all of them leave the node to be fetched again, or discarded.
/// `-EUCLEAN` is damage only if the lock was not released since the call that missed. Else the block may have been used
/// for something else: make that call again, and fetch what it misses then under its hold of the lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_fetch(node: *mut NodeHandle, report: *mut Report) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 5 for `node`.
        let handle = unsafe { node.as_mut() }.ok_or(FAULT)?;
        handle.node = Some(handle.reader.fetch(&handle.missing)?);
        Ok(())
    })
}

/// `Volume::install`: takes in what `vexfs_rust_fetch` read, unless it is stale. Takes the node back, whatever the
/// outcome.
///
/// 0, `-EFAULT`, `-ENOMEM`, or `-EINVAL` for a node that was not fetched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_install(
    volume: *mut VolumeHandle,
    node: *mut NodeHandle,
    report: *mut Report,
) -> i32 {
    // SAFETY: rule 3: this is the last use of the node, which this call takes back.
    let node = unsafe { take(node) };
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`.
        let volume = unsafe { exclusive(volume)? };
        for NodeHandle { node, .. } in node? {
            volume.install(node.ok_or(INVALID)?)?;
        }
        Ok(())
    })
}

/// `drop(LoadedNode)`: takes back a node that is not wanted after all. 0, or `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_discard(node: *mut NodeHandle) -> i32 {
    plain(|| -> Answer {
        // SAFETY: rule 3: this is the last use of the node, which this call takes back.
        drop(unsafe { take(node)? });
        Ok(())
    })
}
