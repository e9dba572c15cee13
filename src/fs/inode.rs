// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Inodes: their items, attributes, and the list of orphans.
//!
//! Invariant: an inode without a name has an orphan item, by which the next mount finds it after a crash.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::mutants::{self, Mutant};
use crate::tree::parse_item;
use crate::types::{FileType, S_IFMT, Time};
use crate::volume::{Change, Need, Volume};
use vexfs_format::item::{INODE_KNOWN, INODE_VECTOR};
use vexfs_format::{Ino, InodeItem, Key, Kind};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// An inode in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Its number.
    pub ino: Ino,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Number of names; of a directory, 2 and one for each subdirectory.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; of a directory, entries.
    pub size: u64,
    /// Blocks of its extents, unwritten ones included.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
    /// Device number of a special file, as the kernel's `new_encode_dev`.
    pub rdev: u32,
    /// The directory that a directory is in; 0 of other inodes.
    pub parent: Ino,
    /// Project, for quotas.
    pub project: u32,
    /// Grows with every change.
    pub version: u64,
    /// It has a vector attribute.
    pub vector: bool,
}

impl Inode {
    /// Its type.
    #[must_use]
    pub const fn file_type(&self) -> FileType {
        match FileType::from_mode(self.mode) {
            Some(file_type) => file_type,
            // Cannot be: from_payload() and prepare() check the type.
            None => FileType::Regular,
        }
    }

    /// True of a directory.
    #[must_use]
    pub const fn is_dir(&self) -> bool {
        matches!(self.file_type(), FileType::Directory)
    }

    /// True of a regular file.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        matches!(self.file_type(), FileType::Regular)
    }

    pub(crate) fn from_payload(ino: Ino, payload: &[u8]) -> Result<Self> {
        let item: InodeItem = parse_item(payload, "an inode's item has the wrong length")?;
        let mode = item.mode.get();
        if FileType::from_mode(mode).is_none() || item.flags.get() & !INODE_KNOWN != 0 {
            return Err(Error::inode(ino, "the inode's type or flags are impossible"));
        }
        Ok(Self {
            ino,
            mode,
            nlink: item.nlink.get(),
            uid: item.uid.get(),
            gid: item.gid.get(),
            size: item.size.get(),
            blocks: item.blocks.get(),
            atime: item.atime.into(),
            mtime: item.mtime.into(),
            ctime: item.ctime.into(),
            btime: item.btime.into(),
            rdev: item.rdev.get(),
            parent: Ino(item.parent.get()),
            project: item.project.get(),
            version: item.version.get(),
            vector: item.flags.get() & INODE_VECTOR != 0,
        })
    }

    pub(crate) fn to_item(self) -> InodeItem {
        InodeItem {
            mode: U32::new(self.mode),
            nlink: U32::new(self.nlink),
            uid: U32::new(self.uid),
            gid: U32::new(self.gid),
            size: U64::new(self.size),
            blocks: U64::new(self.blocks),
            atime: self.atime.into(),
            mtime: self.mtime.into(),
            ctime: self.ctime.into(),
            btime: self.btime.into(),
            flags: U32::new(if self.vector { INODE_VECTOR } else { 0 }),
            rdev: U32::new(self.rdev),
            parent: U64::new(self.parent.0),
            project: U32::new(self.project),
            reserved0: U32::ZERO,
            version: U64::new(self.version),
            reserved1: [0; 16],
        }
    }

    /// Marks the inode changed at `now`.
    pub(crate) const fn changed(&mut self, now: Time) {
        self.ctime = now;
        self.version = self.version.wrapping_add(1);
    }

    /// Marks its contents changed at `now`.
    pub(crate) const fn modified(&mut self, now: Time) {
        self.mtime = now;
        self.changed(now);
    }
}

/// Attributes of a new inode.
#[derive(Clone, Copy, Debug)]
pub struct NewInode<'a> {
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file.
    pub rdev: u32,
    /// Target of a symbolic link; empty for everything else.
    pub target: &'a [u8],
    /// Its birth.
    pub now: Time,
}

/// Attributes to change; those that are `None` stay as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permissions; the type bits are ignored.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of contents.
    pub mtime: Option<Time>,
    /// The time of the change.
    pub ctime: Time,
}

impl SetAttr {
    /// Changes only the time of the last change.
    pub(crate) fn at(now: Time) -> Self {
        Self { ctime: now, ..Self::default() }
    }

    pub(crate) fn apply(&self, inode: &mut Inode) {
        if let Some(mode) = self.mode {
            inode.mode = (inode.mode & S_IFMT) | (mode & !S_IFMT & 0o7777);
        }
        inode.uid = self.uid.unwrap_or(inode.uid);
        inode.gid = self.gid.unwrap_or(inode.gid);
        inode.atime = self.atime.unwrap_or(inode.atime);
        inode.mtime = self.mtime.unwrap_or(inode.mtime);
        inode.changed(self.ctime);
    }
}

impl<D: Device> Volume<D> {
    /// The inode.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Miss`].
    pub fn inode(&self, ino: Ino) -> Result<Inode> {
        if ino == Ino::SYSTEM || ino > Ino::MAX {
            return Err(Error::NotFound);
        }
        match self.tree()?.get(Key::inode(ino))? {
            Some(payload) => Inode::from_payload(ino, payload),
            None => Err(Error::NotFound),
        }
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of every change.
    pub fn set_attr(&mut self, ino: Ino, attr: &SetAttr) -> Result<Inode> {
        let plan = self.begin(Need::upkeep())?;
        let mut inode = plan.inode(ino)?;
        attr.apply(&mut inode);
        plan.change(|change| change.put_inode(&inode))?;
        Ok(inode)
    }

    /// The first orphan with number `from` or higher: an inode without a name, left by a crash or still
    /// open, or one whose truncation was interrupted.
    ///
    /// # Errors
    /// [`Error::Miss`].
    pub fn next_orphan(&self, from: Ino) -> Result<Option<Ino>> {
        if self.orphans() == 0 {
            return Ok(None);
        }
        let to = Key::new(Ino::SYSTEM, Kind::Orphan, u64::MAX);
        Ok(self.tree()?.first(orphan_key(from), to)?.map(|(key, _)| Ino(key.offset())))
    }
}

impl<D: Device> Change<'_, D> {
    /// Puts the inode's item in place of the one that is there.
    pub(crate) fn put_inode(&mut self, inode: &Inode) -> Result<()> {
        self.put(Key::inode(inode.ino), inode.to_item().as_bytes())
    }

    /// Adds an inode without a name, or one whose truncation is not done, to the list of orphans.
    pub(crate) fn put_orphan(&mut self, ino: Ino) -> Result<()> {
        // It is listed already if a truncation of it was given up halfway.
        if self.tree()?.get(orphan_key(ino))?.is_none() && !mutants::is(Mutant::OrphanForgotten) {
            self.put(orphan_key(ino), &[])?;
            self.orphan_listed();
        }
        Ok(())
    }

    /// Removes an inode from the list of orphans, if it is there.
    pub(crate) fn remove_orphan(&mut self, ino: Ino) -> Result<()> {
        if self.remove(orphan_key(ino))? {
            self.orphan_unlisted();
        }
        Ok(())
    }
}

pub(crate) const fn orphan_key(ino: Ino) -> Key {
    Key::new(Ino::SYSTEM, Kind::Orphan, ino.0)
}
