// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The objects C holds by pointer: volume, commit, fetched node.
//!
//! Each is in a box of its own, which is allocated fallibly and freed by the one call that takes the handle back.

use crate::abi::{Answer, FAULT, Report, answer};
use crate::device::KernelDevice;
use crate::pointer::{Place, bytes_mut};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::ptr;
use vexfs::{Commit, Error, LoadedNode, Missing, NodeReader, Progress, Volume};

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

/// A block that a call missed: to be read, or read and verified. Opaque.
pub struct NodeHandle {
    pub(crate) reader: NodeReader<KernelDevice>,
    pub(crate) missing: Missing,
    pub(crate) node: Option<LoadedNode>,
}

// `&VolumeHandle` is shared between tasks that hold the lock shared.
const fn assert_shareable<T: Send + Sync>() {}
const _: () = assert_shareable::<VolumeHandle>();

/// Memory for one value, allocated before there is a value that would be lost if the allocation failed.
pub(crate) struct Room<T>(Box<[MaybeUninit<T>]>);

impl<T> Room<T> {
    pub(crate) fn new() -> Answer<Self> {
        // `Box::new` aborts without memory; reserving room in a vector fails instead.
        let mut one = Vec::new();
        one.try_reserve_exact(1).map_err(|_| Error::NoMemory)?;
        one.push(MaybeUninit::uninit());
        Ok(Self(one.into_boxed_slice()))
    }

    /// Moves `value` there and hands it to C.
    pub(crate) fn give(self, value: T) -> *mut T {
        let place = Box::into_raw(self.0).cast::<T>();
        // SAFETY: the memory is for one `T`, nothing else points at it, and it holds no value that has to be dropped.
        unsafe { place.write(value) };
        place
    }
}

/// Moves `value` to the heap and hands it to C.
pub(crate) fn give<T>(value: T) -> Answer<*mut T> {
    Ok(Room::new()?.give(value))
}

/// Takes back what [`give`] handed out.
///
/// # Safety
/// Rule 3 of the crate's contract, for a handle that is taken back.
pub(crate) unsafe fn take<T>(handle: *mut T) -> Answer<Box<[T]>> {
    if handle.is_null() {
        return Err(FAULT);
    }
    // SAFETY: by rule 3 [`give`] made it, from a boxed slice of one, and nothing else uses it.
    Ok(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(handle, 1)) })
}

/// The volume for reading.
///
/// # Safety
/// Rules 3 and 4 (shared) of the crate's contract, while the result lives.
pub(crate) unsafe fn shared<'a>(handle: *const VolumeHandle) -> Answer<&'a Volume<KernelDevice>> {
    // SAFETY: rule 3: it is live; rule 4: whoever holds the lock shared excludes every `&mut`.
    unsafe { handle.as_ref() }.map(|h| &h.volume).ok_or(FAULT)
}

/// The volume for changing.
///
/// # Safety
/// Rules 3 and 4 (exclusive) of the crate's contract, while the result lives.
pub(crate) unsafe fn exclusive<'a>(
    handle: *mut VolumeHandle,
) -> Answer<&'a mut Volume<KernelDevice>> {
    // SAFETY: rule 3: it is live; rule 4: whoever holds the lock exclusively excludes every other reference.
    unsafe { handle.as_mut() }.map(|h| &mut h.volume).ok_or(FAULT)
}

/// Runs one step of a long change; `*more` gets 1 if there are more to come.
///
/// # Safety
/// The crate's contract: rules 3 and 4 (exclusive) for `volume`, rule 2 for `more` and `report`.
pub(crate) unsafe fn step(
    volume: *mut VolumeHandle,
    more: *mut u32,
    report: *mut Report,
    change: impl FnOnce(&mut Volume<KernelDevice>) -> Answer<Progress>,
) -> i32 {
    answer(report, || {
        // SAFETY: this function's contract, for each pointer.
        let (volume, more) = unsafe { (exclusive(volume)?, Place::new(more)?) };
        more.set(u32::from(change(volume)? == Progress::More));
        Ok(())
    })
}

/// Runs a query whose result goes to the `len` bytes at `buf`; `*used` gets how many bytes it took.
///
/// # Safety
/// The crate's contract: rules 3 and 4 (shared) for `volume`, rule 2 for `buf`, `used` and `report`.
pub(crate) unsafe fn fill(
    volume: *const VolumeHandle,
    (buf, len): (*mut u8, usize),
    used: *mut usize,
    report: *mut Report,
    query: impl FnOnce(&Volume<KernelDevice>, &mut [u8]) -> Answer<usize>,
) -> i32 {
    answer(report, || {
        // SAFETY: this function's contract, for each pointer.
        let (volume, buf, used) =
            unsafe { (shared(volume)?, bytes_mut(buf, len)?, Place::new(used)?) };
        used.set(query(volume, buf)?);
        Ok(())
    })
}
