// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The checksum of a structure that fills a sector: its last four bytes are the CRC-32C of those before.

use crate::crc::crc32c;
use zerocopy::{Immutable, IntoBytes};

/// The checksum that `structure`, which ends in a CRC-32C, should carry.
pub(crate) fn checksum<T: IntoBytes + Immutable>(structure: &T) -> u32 {
    let bytes = structure.as_bytes();
    crc32c(bytes.split_last_chunk::<4>().map_or(bytes, |(head, _)| head))
}
