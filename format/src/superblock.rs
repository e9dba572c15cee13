// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The superblock: written by `mkfs` in three copies and never changed.

use crate::seal;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a superblock. As in PNG, they reveal a transfer that converted line ends.
pub const SUPER_MAGIC: [u8; 8] = *b"VexFS\r\n\x1a";
/// The number `statfs` reports: "VEXF".
pub const STATFS_MAGIC: u32 = 0x5645_5846;
/// Byte offset of the primary superblock; the first kibibyte stays free for boot code.
pub const SUPER_OFFSET: u64 = 1024;
/// Version of the format.
pub const VERSION: u32 = 1;

/// The superblock: 512 bytes at byte 1024, and at the start of each backup block.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Superblock {
    /// [`SUPER_MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// `log2` of the block size in bytes.
    pub block_shift: U32,
    /// UUID.
    pub uuid: [u8; 16],
    /// Label: UTF-8, padded with zeroes.
    pub label: [u8; 64],
    /// Length of the filesystem in blocks.
    pub blocks: U64,
    /// Features that may be ignored.
    pub compat: U64,
    /// Features that must be known to write.
    pub ro_compat: U64,
    /// Features that must be known to read.
    pub incompat: U64,
    /// First block of the root ring.
    pub ring_start: U64,
    /// Slots of the root ring.
    pub ring_slots: U64,
    /// Block of the first backup.
    pub backup_first: U64,
    /// Block of the second backup.
    pub backup_last: U64,
    /// Key of the hash of names (SipHash), random at `mkfs`.
    pub hash_key: [u8; 16],
    /// When the filesystem was made: nanoseconds since 1970.
    pub created_ns: U64,
    /// Zero.
    pub reserved: [u8; 324],
    /// CRC-32C of the bytes before.
    pub crc: U32,
}
const _: () = assert!(size_of::<Superblock>() == 512);

impl Superblock {
    /// The superblock with its checksum filled in.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.crc = U32::new(self.checksum());
        self
    }

    /// The checksum the superblock should carry.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        seal::checksum(self)
    }
}
