// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The on-disk structures of VexFS and nothing else.
//!
//! Every structure is little-endian, without padding, and parsed in place by `zerocopy` without
//! `unsafe`; an assertion beside it fixes its size. Magic numbers, versions and feature bits are
//! defined only here. `FORMAT.md` in this crate's folder is the specification in prose.
//!
//! This crate does no I/O and decides nothing: the engine (`vexfs`) reads and writes.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod crc;
pub mod features;
pub mod item;
pub mod key;
pub mod node;
pub mod root;
mod seal;
pub mod superblock;
pub mod units;
pub mod window;

pub use crc::crc32c;
pub use item::{DirentHead, ExtentItem, GroupItem, InodeItem, VectorItem, XattrHead};
pub use key::{Key, Kind};
pub use node::{NodeHeader, Pointer};
pub use root::RootRecord;
pub use superblock::Superblock;
pub use units::{BlockNr, FileBlock, Generation, Ino};

/// Bytes of a disk sector: the unit a medium writes atomically.
pub const SECTOR_BYTES: usize = 512;
/// Default and, in the kernel, only block size in bytes.
pub const BLOCK_BYTES_DEFAULT: u32 = 4096;
/// Smallest `log2` of a block size.
pub const BLOCK_SHIFT_MIN: u32 = 12;
/// Largest `log2` of a block size.
pub const BLOCK_SHIFT_MAX: u32 = 16;
/// Slots in the root ring; generation `g` is recorded in slot `g % ROOT_SLOTS`.
pub const ROOT_SLOTS: u64 = 32;
/// First block of the root ring.
pub const ROOT_RING_START: u64 = 1;
/// Block of the first backup superblock.
pub const BACKUP_FIRST: u64 = ROOT_RING_START + ROOT_SLOTS;
/// First block that may be allocated.
pub const FIRST_FREE: u64 = BACKUP_FIRST + 1;
/// Smallest filesystem, in blocks.
pub const BLOCKS_MIN: u64 = 256;
/// Largest filesystem, in blocks (2^46 keeps every byte offset within a signed 64-bit number at any block size).
pub const BLOCKS_MAX: u64 = 1 << 46;
/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Longest value of an extended attribute, in bytes.
pub const XATTR_VALUE_MAX: usize = 65_536;
/// Largest payload of one item in a leaf, in bytes: less than a quarter of the smallest node, so that
/// a split always makes room.
pub const ITEM_BYTES_MAX: usize = 960;
/// Bytes of one chunk of data that spans several items (long symlinks and attribute values).
pub const CHUNK_BYTES: usize = 640;
/// Most levels of a tree; 16 levels of at least 40 children reach every block there can be.
pub const LEVELS_MAX: usize = 16;
/// Largest file, in bytes.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
