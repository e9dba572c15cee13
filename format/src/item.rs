// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Payloads of the tree's items.

use crate::node::RawPointer;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A time on disk: seconds since 1970 (two's complement) and nanoseconds.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Default)]
#[repr(C)]
pub struct RawTime {
    /// Seconds.
    pub seconds: U64,
    /// Nanoseconds, below 10^9.
    pub nanos: U32,
}
const _: () = assert!(size_of::<RawTime>() == 12);

/// The inode has a [`VectorItem`].
pub const INODE_VECTOR: u32 = 1 << 0;
/// Every inode flag of this version.
pub const INODE_KNOWN: u32 = INODE_VECTOR;

/// An inode: 128 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct InodeItem {
    /// Type and permissions, as `st_mode`.
    pub mode: U32,
    /// Names of the inode; of a directory, 2 and one for each subdirectory.
    pub nlink: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// Bytes of a file or symlink; entries of a directory.
    pub size: U64,
    /// Blocks its extents hold, in the filesystem's block size.
    pub blocks: U64,
    /// Last access.
    pub atime: RawTime,
    /// Last change of contents.
    pub mtime: RawTime,
    /// Last change of the inode.
    pub ctime: RawTime,
    /// Birth.
    pub btime: RawTime,
    /// `INODE_*`.
    pub flags: U32,
    /// Device number of a special file, as the kernel's `new_encode_dev`.
    pub rdev: U32,
    /// Of a directory: the directory it is in.
    pub parent: U64,
    /// Project, for quotas.
    pub project: U32,
    /// Zero.
    pub reserved0: U32,
    /// Grows with every change of the inode (`STATX_CHANGE_COOKIE`).
    pub version: U64,
    /// Zero.
    pub reserved1: [u8; 16],
}
const _: () = assert!(size_of::<InodeItem>() == 128);

/// Head of a directory entry: 10 bytes, the name follows.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DirentHead {
    /// The inode.
    pub ino: U64,
    /// Its type, as `DT_*` of `readdir`.
    pub file_type: u8,
    /// Length of the name.
    pub name_len: u8,
}
const _: () = assert!(size_of::<DirentHead>() == 10);

/// The extent's blocks are allocated but read as zeroes.
pub const EXTENT_UNWRITTEN: u32 = 1 << 0;
/// The extent belongs to a vector file.
pub const EXTENT_VECTOR: u32 = 1 << 1;
/// Every extent flag of this version.
pub const EXTENT_KNOWN: u32 = EXTENT_UNWRITTEN | EXTENT_VECTOR;

/// An extent: 16 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ExtentItem {
    /// First block of the device.
    pub block: U64,
    /// Blocks, at least 1.
    pub len: U32,
    /// `EXTENT_*`.
    pub flags: U32,
}
const _: () = assert!(size_of::<ExtentItem>() == 16);

/// Head of an extended attribute, in its first chunk: 8 bytes, then name and value.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct XattrHead {
    /// Length of the whole value in bytes.
    pub value_len: U32,
    /// Chunks of the attribute, at least 1.
    pub chunks: U16,
    /// Length of the name, its prefix ("user.") included.
    pub name_len: u8,
    /// Zero.
    pub reserved: u8,
}
const _: () = assert!(size_of::<XattrHead>() == 8);

/// The header's length is read from the file itself (`.npy`).
pub const VECTOR_AUTO_HEADER: u16 = 1 << 0;
/// Every vector flag of this version.
pub const VECTOR_KNOWN: u16 = VECTOR_AUTO_HEADER;

/// The vector attribute of a file, or of a directory whose new files inherit it: 48 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VectorItem {
    /// Element type: 1 `f32`, 2 `f16`, 3 `bf16`, 4 `i8`, 5 `bit`, 6 `u8`.
    pub element: u8,
    /// Metric: 1 `l2`, 2 `cosine`, 3 `dot`, 4 `hamming`.
    pub metric: u8,
    /// `VECTOR_*`.
    pub flags: U16,
    /// Elements of a vector.
    pub dim: U32,
    /// Bytes before the first record.
    pub header: U64,
    /// Bytes from one record to the next.
    pub stride: U32,
    /// Bytes from a record's start to its vector.
    pub offset: U32,
    /// Index parameter: links of a node.
    pub m: U16,
    /// Index parameter: width of the search while building.
    pub ef_construction: U16,
    /// Zero.
    pub reserved: [u8; 20],
}
const _: () = assert!(size_of::<VectorItem>() == 48);

/// A group of blocks and the bitmap of those in use: 32 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct GroupItem {
    /// The bitmap's block: bit `i` of byte `i / 8` is set where the group's block `i` is in use.
    pub bitmap: RawPointer,
    /// Clear bits among the blocks that exist.
    pub free: U32,
    /// Zero.
    pub reserved: U32,
}
const _: () = assert!(size_of::<GroupItem>() == 32);
