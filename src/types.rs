// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Values that operations take and return.

use vexfs_format::item::RawTime;
use vexfs_format::{BlockNr, FileBlock, Ino};
use zerocopy::little_endian::{U32, U64};

/// A point in time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanos: u32,
}

impl Time {
    /// Nanoseconds since 1970; saturates some 292 years from then.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.seconds.saturating_mul(1_000_000_000).saturating_add(self.nanos as i64)
    }
}

impl From<Time> for RawTime {
    fn from(time: Time) -> Self {
        Self { seconds: U64::new(time.seconds as u64), nanos: U32::new(time.nanos) }
    }
}

impl From<RawTime> for Time {
    fn from(raw: RawTime) -> Self {
        Self { seconds: raw.seconds.get() as i64, nanos: raw.nanos.get() }
    }
}

/// Mask of the type bits of a mode.
pub const S_IFMT: u32 = 0o170_000;

/// The type of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileType {
    /// Named pipe.
    Fifo,
    /// Character device.
    CharDevice,
    /// Directory.
    Directory,
    /// Block device.
    BlockDevice,
    /// Regular file.
    Regular,
    /// Symbolic link.
    Symlink,
    /// Socket.
    Socket,
}

impl FileType {
    /// The type in the upper bits of a mode.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Self::from_dt((mode >> 12) as u8)
    }

    /// The type of the `DT_*` value `dt` of `readdir(3)`.
    #[must_use]
    pub const fn from_dt(dt: u8) -> Option<Self> {
        Some(match dt {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// Its `DT_*` value of `readdir(3)`.
    #[must_use]
    pub const fn dt(self) -> u8 {
        match self {
            Self::Fifo => 1,
            Self::CharDevice => 2,
            Self::Directory => 4,
            Self::BlockDevice => 6,
            Self::Regular => 8,
            Self::Symlink => 10,
            Self::Socket => 12,
        }
    }

    /// Its bits in a mode.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        (self.dt() as u32) << 12
    }
}

/// An entry that `readdir` emits.
#[derive(Clone, Copy, Debug)]
pub struct Dirent<'a> {
    /// The inode.
    pub ino: Ino,
    /// Its type.
    pub file_type: FileType,
    /// The name.
    pub name: &'a [u8],
    /// Where to continue after this entry; stable, at least 3, below 2^63.
    pub cookie: u64,
}

/// Where a range of a file is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingKind {
    /// Nowhere: it reads as zeroes.
    Hole,
    /// In the blocks from this one on, not yet written: it reads as zeroes.
    Unwritten(BlockNr),
    /// In the blocks from this one on.
    Written(BlockNr),
}

/// A range of a file and where it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// First block of the range.
    pub start: FileBlock,
    /// Blocks, at least 1.
    pub count: u64,
    /// Where.
    pub kind: MappingKind,
}

/// Whether an operation that works in steps is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// All of it is done.
    Done,
    /// Call it again.
    More,
}

/// How `xattr_set` treats an attribute that exists, or does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// Fail with `Exists` if it exists.
    Create,
    /// Fail with `NoAttr` if it does not exist.
    Replace,
}

/// Sizes and counts of a filesystem.
#[derive(Clone, Copy, Debug)]
pub struct StatFs {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Blocks of the filesystem.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Blocks that file data may take: the free ones less the reserve.
    pub blocks_available: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// UUID.
    pub uuid: [u8; 16],
    /// Label, padded with zeroes.
    pub label: [u8; 64],
}
