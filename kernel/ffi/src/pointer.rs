// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Pointers from C become references here, each after its null check.

use crate::abi::{Answer, FAULT, INVALID};
use core::slice;

/// The bytes at `data`; null is allowed where there are none.
///
/// # Safety
/// If not null, `len` bytes at `data` are readable and stay as they are while the result lives.
pub(crate) unsafe fn bytes<'a>(data: *const u8, len: usize) -> Answer<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(FAULT);
    }
    if len > isize::MAX as usize {
        return Err(INVALID);
    }
    // SAFETY: not null, of a length a slice may have, and readable by this function's contract.
    Ok(unsafe { slice::from_raw_parts(data, len) })
}

/// The writable bytes at `data`.
///
/// # Safety
/// If not null, `len` bytes at `data` are initialised, writable and the caller's alone while the result lives.
pub(crate) unsafe fn bytes_mut<'a>(data: *mut u8, len: usize) -> Answer<&'a mut [u8]> {
    if len == 0 {
        return Ok(&mut []);
    }
    if data.is_null() {
        return Err(FAULT);
    }
    if len > isize::MAX as usize {
        return Err(INVALID);
    }
    // SAFETY: not null, of a length a slice may have, and exclusively writable by this function's contract.
    Ok(unsafe { slice::from_raw_parts_mut(data, len) })
}

/// A structure to read.
///
/// # Safety
/// If not null, `value` points at a live `T` that stays as it is while the result lives.
pub(crate) unsafe fn input<'a, T>(value: *const T) -> Answer<&'a T> {
    // SAFETY: by this function's contract.
    unsafe { value.as_ref() }.ok_or(FAULT)
}

/// A place for a result: checked before the work begins, written after it succeeded.
pub(crate) struct Place<T>(*mut T);

impl<T> Place<T> {
    /// # Safety
    /// If not null, `place` is writable, aligned, and the caller's alone until the call returns.
    pub(crate) unsafe fn new(place: *mut T) -> Answer<Self> {
        if place.is_null() { Err(FAULT) } else { Ok(Self(place)) }
    }

    /// # Safety
    /// As [`Place::new`]; null stands for a result that is not wanted.
    pub(crate) unsafe fn optional(place: *mut T) -> Option<Self> {
        if place.is_null() { None } else { Some(Self(place)) }
    }

    /// Changes a result whose bytes the caller owns; only for types of which every bit pattern is a value.
    pub(crate) fn with(&self, change: impl FnOnce(&mut T))
    where
        T: Copy + Default,
    {
        // SAFETY: `new` and `optional` let only valid, exclusively held pointers in; plain old data by its callers.
        change(unsafe { &mut *self.0 });
    }

    pub(crate) fn set(&self, value: T) {
        // SAFETY: `new` and `optional` let only valid, exclusively held pointers in.
        unsafe { self.0.write(value) };
    }
}
