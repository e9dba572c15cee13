// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Feature words of the superblock.
//!
//! As in ext4 and XFS: with an unknown `incompat` bit a filesystem cannot be mounted, with an unknown
//! `ro_compat` bit it can only be mounted read-only, and an unknown `compat` bit is ignored.

/// `incompat`: the image may hold vector files.
pub const INCOMPAT_VECTORS: u64 = 1 << 0;
/// `incompat`: vectors may have elements of the type `u8`.
pub const INCOMPAT_VECTOR_U8: u64 = 1 << 1;
/// Every `incompat` bit that this version knows.
pub const INCOMPAT_KNOWN: u64 = INCOMPAT_VECTORS | INCOMPAT_VECTOR_U8;
/// Every `ro_compat` bit that this version knows.
pub const RO_COMPAT_KNOWN: u64 = 0;
/// Every `compat` bit that this version knows.
pub const COMPAT_KNOWN: u64 = 0;

/// Name of an `incompat` bit, for messages.
#[must_use]
pub const fn incompat_name(bit: u32) -> Option<&'static str> {
    match bit {
        0 => Some("vectors"),
        1 => Some("vector_u8"),
        _ => None,
    }
}
