// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The objects C holds by pointer: volume, commit, fetched node.
//!
//! Each lives in a box of its own, made fallibly, and is given back exactly once.

use crate::abi::{Answer, FAULT};
use crate::device::KernelDevice;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;
use vexfs::{Commit, Error, LoadedNode, Volume};

/// An open volume. Opaque.
pub struct VolumeHandle {
    pub(crate) volume: Volume<KernelDevice>,
}

/// A frozen transaction on its way to the device. Opaque.
pub struct CommitHandle {
    pub(crate) commit: Commit,
    pub(crate) device: KernelDevice,
    /// How writing it went; `None` until it was tried.
    pub(crate) result: Option<Result<(), Error>>,
}

/// A block that was read and verified. Opaque.
pub struct NodeHandle {
    pub(crate) node: LoadedNode,
}

// `&VolumeHandle` is shared between tasks that hold the lock shared.
const fn assert_shareable<T: Send + Sync>() {}
const _: () = assert_shareable::<VolumeHandle>();

/// Moves `value` to the heap and hands it to C.
pub(crate) fn give<T>(value: T) -> Answer<*mut T> {
    // `Box::new` ends in an abort without memory; a vector of one can be asked first.
    let mut one = Vec::new();
    one.try_reserve_exact(1).map_err(|_| Error::NoMemory)?;
    one.push(value);
    Ok(Box::into_raw(one.into_boxed_slice()).cast())
}

/// Takes back what [`give`] handed out.
///
/// # Safety
/// If not null, `handle` came from [`give`] and nobody uses it any more.
pub(crate) unsafe fn take<T>(handle: *mut T) -> Answer<Box<[T]>> {
    if handle.is_null() {
        return Err(FAULT);
    }
    // SAFETY: `give` made it from a boxed slice of one, and this is its only owner.
    Ok(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(handle, 1)) })
}

/// The volume for reading.
///
/// # Safety
/// The caller holds the volume's lock, and keeps it while the result lives.
pub(crate) unsafe fn shared<'a>(handle: *const VolumeHandle) -> Answer<&'a Volume<KernelDevice>> {
    // SAFETY: live by the crate's contract; the shared lock excludes every `&mut`.
    unsafe { handle.as_ref() }.map(|h| &h.volume).ok_or(FAULT)
}

/// The volume for changing.
///
/// # Safety
/// The caller holds the volume's lock exclusively, and keeps it while the result lives.
pub(crate) unsafe fn exclusive<'a>(
    handle: *mut VolumeHandle,
) -> Answer<&'a mut Volume<KernelDevice>> {
    // SAFETY: live by the crate's contract; the exclusive lock excludes every other reference.
    unsafe { handle.as_mut() }.map(|h| &mut h.volume).ok_or(FAULT)
}
