// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Nodes of the tree: a header, then either sorted child entries or a slotted page of items.
//!
//! Leaf: `header | slot 0 | slot 1 | ... free ... | payloads`, payloads growing down from the end.
//! Inner: `header | entry 0 | entry 1 | ...`; entry `i` leads to keys `>= entry[i].key`.

use crate::key::RawKey;
use crate::units::{BlockNr, Generation};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a node: "VXND".
pub const NODE_MAGIC: u32 = u32::from_le_bytes(*b"VXND");

/// A pointer in memory: where a block is, which commit wrote it, and its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pointer {
    /// The block's address.
    pub block: BlockNr,
    /// The commit that wrote it.
    pub generation: Generation,
    /// CRC-32C of the whole block.
    pub crc: u32,
}

/// A pointer on disk: 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Default)]
#[repr(C)]
pub struct RawPointer {
    /// Block address.
    pub block: U64,
    /// Generation of the commit that wrote the block.
    pub generation: U64,
    /// CRC-32C of the whole block.
    pub crc: U32,
    /// Zero.
    pub reserved: U32,
}
const _: () = assert!(size_of::<RawPointer>() == 24);

impl From<Pointer> for RawPointer {
    fn from(p: Pointer) -> Self {
        Self {
            block: U64::new(p.block.0),
            generation: U64::new(p.generation.0),
            crc: U32::new(p.crc),
            reserved: U32::ZERO,
        }
    }
}

impl From<RawPointer> for Pointer {
    fn from(raw: RawPointer) -> Self {
        Self {
            block: BlockNr(raw.block.get()),
            generation: Generation(raw.generation.get()),
            crc: raw.crc.get(),
        }
    }
}

/// Header of every node: 64 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NodeHeader {
    /// [`NODE_MAGIC`].
    pub magic: U32,
    /// 0 for a leaf; one more than its children for an inner node.
    pub level: u8,
    /// Zero.
    pub reserved0: u8,
    /// Number of slots or entries.
    pub count: U16,
    /// UUID of the filesystem.
    pub uuid: [u8; 16],
    /// The node's own block address.
    pub address: U64,
    /// Generation of the commit that wrote the node.
    pub generation: U64,
    /// Leaf: offset of the lowest payload byte. Inner: zero.
    pub heap_start: U32,
    /// Leaf: sum of the lengths of the payloads. Inner: zero.
    pub heap_live: U32,
    /// Zero.
    pub reserved1: [u8; 16],
}
const _: () = assert!(size_of::<NodeHeader>() == 64);

/// Slot of a leaf: 24 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LeafSlot {
    /// The item's key.
    pub key: RawKey,
    /// Offset of the payload from the node's start.
    pub offset: U32,
    /// Length of the payload in bytes.
    pub len: U32,
}
const _: () = assert!(size_of::<LeafSlot>() == 24);

/// Entry of an inner node: 40 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct InnerEntry {
    /// A lower bound of the keys below.
    pub key: RawKey,
    /// The child.
    pub child: RawPointer,
}
const _: () = assert!(size_of::<InnerEntry>() == 40);
