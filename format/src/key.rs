// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Keys of the tree: (inode, kind, offset), ordered as one 128-bit number.

use crate::units::{FileBlock, Ino};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The kind of an item. The items of one inode are sorted by kind, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::InodeItem`]; offset 0.
    Inode = 1,
    /// [`crate::VectorItem`]; offset 0.
    Vector = 2,
    /// A chunk of an extended attribute; offset `hash48 << 16 | index << 8 | chunk`.
    Xattr = 3,
    /// A chunk of a symlink's target; offset is the byte offset of the chunk.
    Inline = 4,
    /// [`crate::DirentHead`] and the name; offset `hash55 << 8 | index`.
    Dirent = 5,
    /// [`crate::ExtentItem`]; offset is the first file block.
    Extent = 6,
    /// An inode without a name that is still to be removed; under [`Ino::SYSTEM`], offset is its number.
    Orphan = 7,
    /// [`crate::GroupItem`]; under [`Ino::SYSTEM`], offset is the group's number.
    Group = 8,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Inode,
            2 => Self::Vector,
            3 => Self::Xattr,
            4 => Self::Inline,
            5 => Self::Dirent,
            6 => Self::Extent,
            7 => Self::Orphan,
            8 => Self::Group,
            _ => return None,
        })
    }
}

/// A key in memory. `hi` is `inode << 8 | kind`, so that comparing the pair orders by inode, kind, offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    hi: u64,
    lo: u64,
}

impl Key {
    /// The smallest key.
    pub const MIN: Self = Self { hi: 0, lo: 0 };
    /// The largest key.
    pub const MAX: Self = Self { hi: u64::MAX, lo: u64::MAX };

    /// The key of item `kind` of `ino` at `offset`.
    #[must_use]
    pub const fn new(ino: Ino, kind: Kind, offset: u64) -> Self {
        Self { hi: ino.0 << 8 | kind as u64, lo: offset }
    }

    /// The key of the inode item of `ino`.
    #[must_use]
    pub const fn inode(ino: Ino) -> Self {
        Self::new(ino, Kind::Inode, 0)
    }

    /// The key of an extent that starts at `block`.
    #[must_use]
    pub const fn extent(ino: Ino, block: FileBlock) -> Self {
        Self::new(ino, Kind::Extent, block.0)
    }

    /// The inode the item belongs to.
    #[must_use]
    pub const fn ino(self) -> Ino {
        Ino(self.hi >> 8)
    }

    /// The item's kind, or `None` for a number that is no kind.
    #[must_use]
    pub const fn kind(self) -> Option<Kind> {
        Kind::from_byte(self.hi as u8)
    }

    /// The offset; what it counts depends on the kind.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.lo
    }

    /// True if both keys are of the same inode and kind.
    #[must_use]
    pub const fn same_run(self, other: Self) -> bool {
        self.hi == other.hi
    }

    /// The next larger key, or `None` after [`Key::MAX`].
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.lo.checked_add(1) {
            Some(lo) => Some(Self { hi: self.hi, lo }),
            None => match self.hi.checked_add(1) {
                Some(hi) => Some(Self { hi, lo: 0 }),
                None => None,
            },
        }
    }
}

/// A key on disk: 16 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawKey {
    /// `inode << 8 | kind`.
    pub hi: U64,
    /// Offset.
    pub lo: U64,
}
const _: () = assert!(size_of::<RawKey>() == 16);

impl From<Key> for RawKey {
    fn from(key: Key) -> Self {
        Self { hi: U64::new(key.hi), lo: U64::new(key.lo) }
    }
}

impl From<RawKey> for Key {
    fn from(raw: RawKey) -> Self {
        Self { hi: raw.hi.get(), lo: raw.lo.get() }
    }
}
