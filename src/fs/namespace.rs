// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Names: create, link, unlink, rmdir. `rename` has a module of its own.
//!
//! Invariant: an inode has as many names as its `nlink` says; one without a name is an orphan.

use super::directory::{Entry, check_name};
use super::inode::{Inode, NewInode, orphan_key};
use super::symlink::TARGET_LEAVES;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::types::{FileType, Time};
use crate::volume::{Change, Need, Volume};
use vexfs_format::{Ino, Key, Kind, SYMLINK_MAX, VectorItem};
use zerocopy::IntoBytes;

/// Most names one inode may have.
const LINKS_MAX: u32 = u32::MAX - 1;

impl<D: Device> Volume<D> {
    /// Checks the attributes of a new inode and returns it, with the vector attribute that it inherits.
    fn prepare(
        &self,
        dir: Option<&Inode>,
        new: &NewInode<'_>,
    ) -> Result<(Inode, Option<VectorItem>)> {
        let Some(file_type) = FileType::from_mode(new.mode) else {
            return Err(Error::Invalid("a new inode's mode has no type"));
        };
        let symlink = file_type == FileType::Symlink;
        if symlink == new.target.is_empty() {
            return Err(Error::Invalid("a symbolic link has a target, and nothing else has one"));
        }
        if new.target.len() > SYMLINK_MAX {
            return Err(Error::NameTooLong);
        }
        let ino = self.next_ino();
        if ino > Ino::MAX {
            return Err(Error::NoSpace);
        }
        let vector = match dir {
            Some(dir)
                if dir.vector && matches!(file_type, FileType::Regular | FileType::Directory) =>
            {
                self.vector_item(dir.ino)?
            }
            _ => None,
        };
        if self.tree()?.get(Key::inode(ino))?.is_some() {
            return Err(Error::inode(ino, "the next inode's number is in use"));
        }
        let inode = Inode {
            ino,
            mode: new.mode,
            nlink: if file_type == FileType::Directory { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            size: new.target.len() as u64,
            blocks: 0,
            atime: new.now,
            mtime: new.now,
            ctime: new.now,
            btime: new.now,
            rdev: new.rdev,
            parent: match dir {
                Some(dir) if file_type == FileType::Directory => dir.ino,
                _ => Ino(0),
            },
            project: dir.map_or(0, |dir| dir.project),
            version: 1,
            vector: vector.is_some(),
        };
        Ok((inode, vector))
    }

    /// Creates `name` in `dir`: a file, directory, symbolic link or special file.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NotDirectory`], [`Error::NotFound`] in a removed directory, and those of every change.
    pub fn create(&mut self, dir: Ino, name: &[u8], new: &NewInode<'_>) -> Result<Inode> {
        check_name(name)?;
        let plan = self.begin(Need::growth().with_leaves(TARGET_LEAVES))?;
        let mut parent = plan.live_directory(dir)?;
        let key = plan.vacant_entry(dir, name)?;
        let (inode, vector) = plan.prepare(Some(&parent), new)?;
        if inode.is_dir() && parent.nlink >= LINKS_MAX {
            return Err(Error::TooManyLinks);
        }
        plan.change(|change| {
            change.put_new(&inode, vector, new.target)?;
            change.put_entry(key, name, inode.ino, inode.file_type())?;
            if inode.is_dir() {
                parent.nlink += 1;
            }
            parent.size = parent.size.saturating_add(1);
            parent.modified(new.now);
            change.put_inode(&parent)
        })?;
        Ok(inode)
    }

    /// Creates a regular file without a name (`O_TMPFILE`): an orphan until it is linked.
    ///
    /// # Errors
    /// Those of every change.
    pub fn create_unnamed(&mut self, new: &NewInode<'_>) -> Result<Inode> {
        let plan = self.begin(Need::growth())?;
        let (mut inode, _) = plan.prepare(None, new)?;
        if !inode.is_file() {
            return Err(Error::Invalid("only a regular file can be without a name"));
        }
        plan.tree()?.touch(orphan_key(inode.ino))?;
        inode.nlink = 0;
        plan.change(|change| {
            change.put_new(&inode, None, &[])?;
            change.put_orphan(inode.ino)
        })?;
        Ok(inode)
    }

    /// Adds the name `name` in `dir` to inode `ino`.
    ///
    /// # Errors
    /// [`Error::IsDirectory`] for a directory, [`Error::Exists`], [`Error::TooManyLinks`], and those of every change.
    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8], now: Time) -> Result<Inode> {
        check_name(name)?;
        let plan = self.begin(Need::growth())?;
        let mut parent = plan.live_directory(dir)?;
        let mut inode = plan.inode(ino)?;
        if inode.is_dir() {
            return Err(Error::IsDirectory);
        }
        if inode.nlink >= LINKS_MAX {
            return Err(Error::TooManyLinks);
        }
        let key = plan.vacant_entry(dir, name)?;
        plan.tree()?.touch(orphan_key(ino))?;
        plan.change(|change| {
            if inode.nlink == 0 {
                change.remove_orphan(ino)?;
            }
            inode.nlink += 1;
            inode.changed(now);
            change.put_inode(&inode)?;
            change.put_entry(key, name, ino, inode.file_type())?;
            parent.size = parent.size.saturating_add(1);
            parent.modified(now);
            change.put_inode(&parent)
        })?;
        Ok(inode)
    }

    /// Takes the name `name` out of `dir`; not for directories. Returns the inode as it is now: with
    /// `nlink` 0 it is an orphan, to be evicted when nobody uses it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], and those of every change.
    pub fn unlink(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<Inode> {
        let plan = self.begin(Need::upkeep())?;
        let parent = plan.directory(dir)?;
        let entry = plan.find_entry(dir, name)?.ok_or(Error::NotFound)?;
        let inode = plan.entry_inode(&entry)?;
        if inode.is_dir() {
            return Err(Error::IsDirectory);
        }
        plan.tree()?.touch(orphan_key(inode.ino))?;
        plan.change(|change| change.remove_name(parent, &entry, inode, now))
    }

    /// Removes the empty directory `name` of `dir`. Returns its inode, now an orphan.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NotEmpty`], and those of every change.
    pub fn rmdir(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<Inode> {
        let plan = self.begin(Need::upkeep())?;
        let parent = plan.directory(dir)?;
        let entry = plan.find_entry(dir, name)?.ok_or(Error::NotFound)?;
        let inode = plan.entry_inode(&entry)?;
        if !inode.is_dir() {
            return Err(Error::NotDirectory);
        }
        if inode.size != 0 {
            return Err(Error::NotEmpty);
        }
        plan.tree()?.touch(orphan_key(inode.ino))?;
        plan.change(|change| change.remove_name(parent, &entry, inode, now))
    }

    /// The inode that an entry names. An entry whose inode does not exist is damage, not `NotFound`.
    pub(super) fn entry_inode(&self, entry: &Entry) -> Result<Inode> {
        match self.inode(entry.ino) {
            Err(Error::NotFound) => {
                Err(Error::inode(entry.ino, "a directory entry names an inode that does not exist"))
            }
            other => other,
        }
    }

    /// A directory that still has a name.
    pub(super) fn live_directory(&self, ino: Ino) -> Result<Inode> {
        let inode = self.directory(ino)?;
        if inode.nlink == 0 { Err(Error::NotFound) } else { Ok(inode) }
    }
}

impl<D: Device> Change<'_, D> {
    /// Puts a new inode, its vector attribute and its target into the tree.
    fn put_new(&mut self, inode: &Inode, vector: Option<VectorItem>, target: &[u8]) -> Result<()> {
        self.put_inode(inode)?;
        if let Some(item) = vector {
            self.put(Key::new(inode.ino, Kind::Vector, 0), item.as_bytes())?;
        }
        self.put_target(inode.ino, target)?;
        self.inode_made();
        Ok(())
    }

    /// Removes `entry` of `parent`, which names `inode`; returns the inode without that name.
    fn remove_name(
        &mut self,
        mut parent: Inode,
        entry: &Entry,
        mut inode: Inode,
        now: Time,
    ) -> Result<Inode> {
        self.remove(entry.key)?;
        self.drop_name(&mut inode, now)?;
        parent.size = parent.size.saturating_sub(1);
        if inode.is_dir() {
            parent.nlink = parent.nlink.saturating_sub(1);
        }
        parent.modified(now);
        self.put_inode(&parent)?;
        Ok(inode)
    }

    /// Counts one name less of an inode; without its last name it becomes an orphan.
    pub(super) fn drop_name(&mut self, inode: &mut Inode, now: Time) -> Result<()> {
        inode.nlink = if inode.is_dir() { 0 } else { inode.nlink.saturating_sub(1) };
        inode.changed(now);
        self.put_inode(inode)?;
        if inode.nlink == 0 { self.put_orphan(inode.ino) } else { Ok(()) }
    }
}
