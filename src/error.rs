// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The engine's errors, a variant per cause, and their error numbers, which nothing else assigns.

use crate::device::DeviceError;
use core::fmt;
use vexfs_format::node::Pointer;
use vexfs_format::{BlockNr, Ino, features};

const ENOSPC: i32 = 28;

/// The engine's result.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// A structure that does not hold what its pointer or the format demands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corruption {
    /// The block, where one is known.
    pub block: Option<BlockNr>,
    /// The inode, where one is known.
    pub ino: Option<Ino>,
    /// What is wrong.
    pub what: &'static str,
}

/// A block that an operation needs and that is not in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing {
    pub(crate) pointer: Pointer,
    /// The group whose bitmap it is; `None` for a node of the tree.
    pub(crate) group: Option<u64>,
}

impl Missing {
    /// The block to read.
    #[must_use]
    pub const fn block(&self) -> BlockNr {
        self.pointer.block
    }

    pub(crate) const fn node(pointer: Pointer) -> Self {
        Self { pointer, group: None }
    }
}

/// Why an operation did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// No such name or inode.
    NotFound,
    /// The name is taken.
    Exists,
    /// Not a directory, where one is needed.
    NotDirectory,
    /// A directory, where none is allowed.
    IsDirectory,
    /// The directory still has entries.
    NotEmpty,
    /// A name or symlink target is too long.
    NameTooLong,
    /// The arguments are not valid; says why.
    Invalid(&'static str),
    /// No block is left.
    NoSpace,
    /// The inode has as many names as an inode may have.
    TooManyLinks,
    /// The file would be larger than a file may be.
    FileTooBig,
    /// No such extended attribute.
    NoAttr,
    /// The attribute's value or name is too long.
    AttrTooBig,
    /// The caller's buffer is too small.
    RangeTooSmall,
    /// The volume was opened read-only.
    ReadOnly,
    /// No memory; nothing was changed.
    NoMemory,
    /// The device holds no VexFS.
    NotVexfs,
    /// The device is shorter than the filesystem.
    Truncated {
        /// Length that the superblock states.
        expected_bytes: u64,
        /// Length of the device.
        actual_bytes: u64,
    },
    /// Unknown bits of `incompat`: the filesystem cannot be opened.
    UnknownIncompat(u64),
    /// Unknown bits of `ro_compat`: the filesystem can be opened read-only.
    UnknownRoCompat(u64),
    /// An unknown version of the format.
    UnknownVersion(u32),
    /// A block size that the host does not support.
    BlockSize(u32),
    /// No valid root record in the ring.
    NoRoot,
    /// A damaged structure.
    Corrupt(Corruption),
    /// The engine is in a state that no image can lead to: a mistake in VexFS, not damage.
    Bug(&'static str),
    /// The device failed.
    Device(DeviceError),
    /// An earlier failure stopped the volume.
    Dead,
    /// A block has to be read first, with [`crate::Volume::fetch`]; nothing was changed.
    Miss(Missing),
    /// The running transaction has to be committed first; nothing was changed.
    NeedCommit,
    /// The writer reused blocks of the tree that is being followed; start again from the newest root.
    Stale,
    /// Not possible on this kind of inode or device.
    NotSupported,
}

impl Error {
    /// The (positive) Linux error number.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        match self {
            Self::NotFound => 2,
            Self::Miss(_) | Self::NeedCommit | Self::Stale => 11,
            Self::NoMemory => 12,
            Self::Exists => 17,
            Self::NotDirectory => 20,
            Self::IsDirectory => 21,
            Self::Invalid(_)
            | Self::NotVexfs
            | Self::BlockSize(_)
            | Self::UnknownIncompat(_)
            | Self::UnknownVersion(_)
            | Self::Truncated { .. } => 22,
            Self::FileTooBig => 27,
            Self::NoSpace => ENOSPC,
            Self::ReadOnly | Self::UnknownRoCompat(_) => 30,
            Self::TooManyLinks => 31,
            Self::RangeTooSmall => 34,
            Self::NameTooLong => 36,
            Self::NotEmpty => 39,
            Self::NoAttr => 61,
            Self::NotSupported => 95,
            Self::AttrTooBig => 7,
            Self::Corrupt(_) | Self::NoRoot => 117,
            Self::Dead | Self::Bug(_) => 5,
            Self::Device(DeviceError::Io(errno)) => *errno,
        }
    }

    /// A damaged block.
    pub(crate) const fn block(block: BlockNr, what: &'static str) -> Self {
        Self::Corrupt(Corruption { block: Some(block), ino: None, what })
    }

    /// A damaged inode.
    pub(crate) const fn inode(ino: Ino, what: &'static str) -> Self {
        Self::Corrupt(Corruption { block: None, ino: Some(ino), what })
    }

    /// Damage whose block and inode are not known here.
    pub(crate) const fn damaged(what: &'static str) -> Self {
        Self::Corrupt(Corruption { block: None, ino: None, what })
    }
}

impl From<DeviceError> for Error {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such file or directory"),
            Self::Exists => f.write_str("the name exists already"),
            Self::NotDirectory => f.write_str("not a directory"),
            Self::IsDirectory => f.write_str("is a directory"),
            Self::NotEmpty => f.write_str("the directory is not empty"),
            Self::NameTooLong => {
                f.write_str("the name is too long (255 bytes, 4095 for a link's target)")
            }
            Self::Invalid(why) => f.write_str(why),
            Self::NoSpace => f.write_str("no space left: delete something or make a larger image"),
            Self::TooManyLinks => f.write_str("too many hard links to one inode"),
            Self::FileTooBig => f.write_str("the file would be larger than 2^63 - 1 bytes"),
            Self::NoAttr => f.write_str("no such attribute"),
            Self::AttrTooBig => f.write_str("the attribute's value is longer than 65536 bytes"),
            Self::RangeTooSmall => f.write_str("the buffer is too small"),
            Self::ReadOnly => f.write_str("the filesystem is read-only"),
            Self::NoMemory => f.write_str("out of memory"),
            Self::NotVexfs => f.write_str("not a VexFS filesystem: it has no VexFS superblock"),
            Self::Truncated { expected_bytes, actual_bytes } => write!(
                f,
                "truncated: the filesystem is {expected_bytes} bytes long, the device {actual_bytes}"
            ),
            Self::UnknownIncompat(bits) => feature_message(f, "incompat", *bits, "mounted"),
            Self::UnknownRoCompat(bits) => feature_message(f, "ro_compat", *bits, "written to"),
            Self::UnknownVersion(version) => {
                write!(f, "format version {version} is not known to this program: update it")
            }
            Self::BlockSize(bytes) => write!(f, "a block size of {bytes} bytes is not supported"),
            Self::NoRoot => {
                f.write_str("no valid root record in the ring: the filesystem is damaged")
            }
            Self::Corrupt(c) => {
                f.write_str("damaged: ")?;
                if let Some(block) = c.block {
                    write!(f, "block {block}: ")?;
                }
                if let Some(ino) = c.ino {
                    write!(f, "inode {ino}: ")?;
                }
                f.write_str(c.what)
            }
            Self::Bug(what) => {
                write!(f, "a bug in VexFS, not damage to the filesystem: {what}: please report it")
            }
            Self::Device(DeviceError::Io(ENOSPC)) => {
                f.write_str("no space is left beneath the device: make room where its image lies")
            }
            Self::Device(DeviceError::Io(errno)) => write!(f, "the device failed (errno {errno})"),
            Self::Dead => {
                f.write_str("an earlier failure stopped this volume; see the first message")
            }
            Self::Miss(m) => write!(f, "block {} has to be read first", m.pointer.block),
            Self::NeedCommit => f.write_str("the running transaction has to be committed first"),
            Self::Stale => f.write_str("the tree changed while it was read"),
            Self::NotSupported => f.write_str("not supported here"),
        }
    }
}

fn feature_message(f: &mut fmt::Formatter<'_>, word: &str, bits: u64, verb: &str) -> fmt::Result {
    write!(f, "unknown {word} feature")?;
    for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
        match features::incompat_name(bit).filter(|_| word == "incompat") {
            Some(name) => write!(f, " '{name}'")?,
            None => write!(f, " bit {bit}")?,
        }
    }
    write!(f, ": the image needs a later version to be {verb}")
}

impl core::error::Error for Error {}
