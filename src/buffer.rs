// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Allocation that fails with an error instead of a panic.

use crate::error::{Error, Result};
use alloc::vec::Vec;

/// A zeroed buffer of `len` bytes, or [`Error::NoMemory`].
pub fn zeroed(len: usize) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Error::NoMemory)?;
    buffer.resize(len, 0);
    Ok(buffer)
}

/// Appends `value`, or fails with [`Error::NoMemory`] and leaves the list as it is.
pub fn push<T>(list: &mut Vec<T>, value: T) -> Result<()> {
    list.try_reserve(1).map_err(|_| Error::NoMemory)?;
    list.push(value);
    Ok(())
}
