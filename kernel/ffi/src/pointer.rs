// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Pointers from C become references here, each after its null check.

use crate::abi::{Answer, FAULT, INVALID};
use core::slice;

/// The bytes at `data`; null is allowed where there are none.
///
/// # Safety
/// Rule 1 of the crate's contract for `data`, while the result lives.
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
    // SAFETY: not null, of a length a slice may have, and readable by rule 1.
    Ok(unsafe { slice::from_raw_parts(data, len) })
}

/// The writable bytes at `data`.
///
/// # Safety
/// Rule 2 of the crate's contract for `data`, while the result lives.
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
    // SAFETY: not null, of a length a slice may have, and writable by nobody else by rule 2.
    Ok(unsafe { slice::from_raw_parts_mut(data, len) })
}

/// A structure to read.
///
/// # Safety
/// Rule 1 of the crate's contract for `value`, while the result lives.
pub(crate) unsafe fn input<'a, T>(value: *const T) -> Answer<&'a T> {
    // SAFETY: rule 1 for `value`.
    unsafe { value.as_ref() }.ok_or(FAULT)
}

/// A place for a result: checked before the work begins, written after it succeeded.
pub(crate) struct Place<T>(*mut T);

impl<T> Place<T> {
    /// # Safety
    /// Rule 2 of the crate's contract for `place`, until the call returns.
    pub(crate) unsafe fn new(place: *mut T) -> Answer<Self> {
        if place.is_null() { Err(FAULT) } else { Ok(Self(place)) }
    }

    /// # Safety
    /// Rule 2 of the crate's contract for `place`, until the call returns. Null: the result is not wanted.
    pub(crate) unsafe fn optional(place: *mut T) -> Option<Self> {
        if place.is_null() { None } else { Some(Self(place)) }
    }

    /// Changes a result in place; only for types of which every bit pattern is a value.
    pub(crate) fn with(&self, change: impl FnOnce(&mut T))
    where
        T: Copy + Default,
    {
        // SAFETY: not null, and rule 2 still holds; the caller chose a type of which every bit pattern is a value.
        change(unsafe { &mut *self.0 });
    }

    pub(crate) fn set(&self, value: T) {
        // SAFETY: not null, and rule 2 still holds.
        unsafe { self.0.write(value) };
    }
}
