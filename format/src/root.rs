// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The root record: the sector whose writing makes a commit.

use crate::node::RawPointer;
use crate::seal;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a root record: "VXRR".
pub const ROOT_MAGIC: u32 = u32::from_le_bytes(*b"VXRR");

/// A root record: 512 bytes at the start of its slot's block. A sector is written whole or not at all;
/// if a medium tears it all the same, the checksum is wrong.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RootRecord {
    /// [`ROOT_MAGIC`].
    pub magic: U32,
    /// Level of the tree's root node.
    pub level: U32,
    /// UUID of the filesystem.
    pub uuid: [u8; 16],
    /// The commit's number; the slot is this modulo the ring's length.
    pub generation: U64,
    /// The tree's root node.
    pub tree: RawPointer,
    /// The number that the next new inode gets.
    pub next_ino: U64,
    /// Blocks that no structure uses.
    pub free_blocks: U64,
    /// Inodes in the tree, orphans included.
    pub inodes: U64,
    /// Orphans in the tree.
    pub orphans: U64,
    /// When the commit was made: nanoseconds since 1970, two's complement.
    pub time_ns: U64,
    /// Zero.
    pub reserved: [u8; 412],
    /// CRC-32C of the bytes before.
    pub crc: U32,
}
const _: () = assert!(size_of::<RootRecord>() == 512);

impl RootRecord {
    /// The record with its checksum filled in.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.crc = U32::new(self.checksum());
        self
    }

    /// The checksum the record should carry.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        seal::checksum(self)
    }

    /// The record in `sector`, if magic, filesystem and checksum are right.
    #[must_use]
    pub fn parse(sector: &[u8], uuid: &[u8; 16]) -> Option<Self> {
        Self::parse_unsealed(sector, uuid).filter(|record| record.crc.get() == record.checksum())
    }

    /// The record in `sector`, if magic and filesystem are right; its checksum is not compared.
    #[must_use]
    pub fn parse_unsealed(sector: &[u8], uuid: &[u8; 16]) -> Option<Self> {
        let (record, _) = Self::read_from_prefix(sector).ok()?;
        (record.magic.get() == ROOT_MAGIC && record.uuid == *uuid).then_some(record)
    }
}
