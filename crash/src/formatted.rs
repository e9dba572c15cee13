// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Filesystems to test with, the same at every call.

use crate::cache::Keep;
use crate::device::CacheDevice;
use crate::image::Image;
use vexfs::{MkfsOptions, Time, mkfs};

/// A filesystem of `bytes` bytes in blocks of 4096, with a fixed UUID, key and birth. A test that
/// needs another value writes `MkfsOptions { block_bytes: 8192, ..mkfs_options(bytes) }`.
#[must_use]
pub const fn mkfs_options(bytes: u64) -> MkfsOptions<'static> {
    let now = Time { seconds: 1_600_000_000, nanos: 1 };
    MkfsOptions { label: b"crash lab", ..MkfsOptions::new(bytes, [7; 16], [9; 16], now) }
}

/// An image of `options.bytes` bytes with such a filesystem, all of it durable.
///
/// # Errors
/// Those of [`mkfs`].
pub fn formatted(options: &MkfsOptions<'_>) -> vexfs::Result<Image> {
    let device = CacheDevice::new(Image::new(options.bytes));
    mkfs(&device, options)?;
    Ok(device.cut(Keep::None))
}
