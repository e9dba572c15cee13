// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Names: create, link, unlink, rmdir, rename.
//!
//! Every operation has two halves: it reads and checks all it needs, which may miss and fails
//! cleanly, then changes, which does neither.

use crate::device::Device;
use crate::dir::{Entry, check_name};
use crate::error::{Error, Result};
use crate::inode::{Inode, NewInode, orphan_key};
use crate::types::{FileType, Time};
use crate::volume::Volume;
use vexfs_format::{CHUNK_BYTES, Ino, Key, Kind, SYMLINK_MAX, VectorItem};
use zerocopy::IntoBytes;

/// Most names one inode may have.
const LINKS_MAX: u32 = u32::MAX - 1;
/// Deepest directory that a rename follows upwards: paths are shorter than this.
const DEPTH_MAX: usize = 1 << 20;

/// How `rename` treats a name that exists.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenameFlags {
    /// Fail with [`Error::Exists`].
    pub no_replace: bool,
    /// Exchange the two names.
    pub exchange: bool,
}

/// What a rename did.
#[derive(Clone, Copy, Debug)]
pub struct Renamed {
    /// The inode that got the new name.
    pub moved: Ino,
    /// The inode that had it: replaced (as it is now; to be evicted when `nlink` is 0) or exchanged.
    pub other: Option<Inode>,
}

impl<D: Device> Volume<D> {
    /// Checks what a new inode is to be, and makes it, without a name.
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
        let ino = Ino(self.next_ino);
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
        if self.get(Key::inode(ino))?.is_some() {
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

    /// Puts a prepared inode and what belongs to it into the tree.
    fn put_new(&mut self, inode: &Inode, vector: Option<VectorItem>, target: &[u8]) -> Result<()> {
        self.put_inode(inode)?;
        if let Some(item) = vector {
            self.put(Key::new(inode.ino, Kind::Vector, 0), item.as_bytes())?;
        }
        for (index, chunk) in target.chunks(CHUNK_BYTES).enumerate() {
            self.put(Key::new(inode.ino, Kind::Inline, (index * CHUNK_BYTES) as u64), chunk)?;
        }
        self.next_ino = self.next_ino.saturating_add(1);
        self.inodes = self.inodes.saturating_add(1);
        Ok(())
    }

    /// Creates `name` in `dir`: a file, directory, symbolic link or special file.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NotDirectory`], [`Error::NotFound`] in a removed directory, and those of every change.
    pub fn create(&mut self, dir: Ino, name: &[u8], new: &NewInode<'_>) -> Result<Inode> {
        check_name(name)?;
        self.begin(4, true)?;
        let mut parent = self.live_directory(dir)?;
        let key = self.vacant_entry(dir, name)?;
        let (inode, vector) = self.prepare(Some(&parent), new)?;
        if inode.is_dir() && parent.nlink >= LINKS_MAX {
            return Err(Error::TooManyLinks);
        }
        self.change(|volume| {
            volume.put_new(&inode, vector, new.target)?;
            volume.put_entry(key, name, inode.ino, inode.file_type())?;
            if inode.is_dir() {
                parent.nlink += 1;
            }
            parent.size = parent.size.saturating_add(1);
            parent.modified(new.now);
            volume.put_inode(&parent)
        })?;
        Ok(inode)
    }

    /// Creates a regular file without a name (`O_TMPFILE`): an orphan until it is linked.
    ///
    /// # Errors
    /// Those of every change.
    pub fn create_unnamed(&mut self, new: &NewInode<'_>) -> Result<Inode> {
        self.begin(0, true)?;
        let (mut inode, _) = self.prepare(None, new)?;
        if !inode.is_file() {
            return Err(Error::Invalid("only a regular file can be without a name"));
        }
        self.touch(orphan_key(inode.ino))?;
        inode.nlink = 0;
        self.change(|volume| {
            volume.put_new(&inode, None, &[])?;
            volume.put_orphan(inode.ino)
        })?;
        Ok(inode)
    }

    /// Gives `ino` the further name `name` in `dir`.
    ///
    /// # Errors
    /// [`Error::IsDirectory`] for a directory, [`Error::Exists`], [`Error::TooManyLinks`], and those of every change.
    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8], now: Time) -> Result<Inode> {
        check_name(name)?;
        self.begin(0, true)?;
        let mut parent = self.live_directory(dir)?;
        let mut inode = self.inode(ino)?;
        if inode.is_dir() {
            return Err(Error::IsDirectory);
        }
        if inode.nlink >= LINKS_MAX {
            return Err(Error::TooManyLinks);
        }
        let key = self.vacant_entry(dir, name)?;
        self.touch(orphan_key(ino))?;
        self.change(|volume| {
            if inode.nlink == 0 {
                volume.remove_orphan(ino)?;
            }
            inode.nlink += 1;
            inode.changed(now);
            volume.put_inode(&inode)?;
            volume.put_entry(key, name, ino, inode.file_type())?;
            parent.size = parent.size.saturating_add(1);
            parent.modified(now);
            volume.put_inode(&parent)
        })?;
        Ok(inode)
    }

    /// Takes the name `name` out of `dir`; not for directories. Returns the inode as it is now: with
    /// `nlink` 0 it is an orphan, to be evicted when nobody uses it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], and those of every change.
    pub fn unlink(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<Inode> {
        self.begin(0, false)?;
        let mut parent = self.directory(dir)?;
        let entry = self.find_entry(dir, name)?.ok_or(Error::NotFound)?;
        let mut inode = self.entry_inode(&entry)?;
        if inode.is_dir() {
            return Err(Error::IsDirectory);
        }
        self.touch(orphan_key(inode.ino))?;
        self.change(|volume| {
            volume.remove(entry.key)?;
            volume.drop_name(&mut inode, now)?;
            parent.size = parent.size.saturating_sub(1);
            parent.modified(now);
            volume.put_inode(&parent)
        })?;
        Ok(inode)
    }

    /// Removes the empty directory `name` of `dir`. Returns its inode, now an orphan.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NotEmpty`], and those of every change.
    pub fn rmdir(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<Inode> {
        self.begin(0, false)?;
        let mut parent = self.directory(dir)?;
        let entry = self.find_entry(dir, name)?.ok_or(Error::NotFound)?;
        let mut inode = self.entry_inode(&entry)?;
        if !inode.is_dir() {
            return Err(Error::NotDirectory);
        }
        if inode.size != 0 {
            return Err(Error::NotEmpty);
        }
        self.touch(orphan_key(inode.ino))?;
        self.change(|volume| {
            volume.remove(entry.key)?;
            volume.drop_name(&mut inode, now)?;
            parent.size = parent.size.saturating_sub(1);
            parent.nlink = parent.nlink.saturating_sub(1);
            parent.modified(now);
            volume.put_inode(&parent)
        })?;
        Ok(inode)
    }

    /// Takes one name away from an inode; the last one makes it an orphan.
    fn drop_name(&mut self, inode: &mut Inode, now: Time) -> Result<()> {
        inode.nlink = if inode.is_dir() { 0 } else { inode.nlink.saturating_sub(1) };
        inode.changed(now);
        self.put_inode(inode)?;
        if inode.nlink == 0 { self.put_orphan(inode.ino) } else { Ok(()) }
    }

    /// The inode an entry names; a dangling entry is damage.
    fn entry_inode(&self, entry: &Entry) -> Result<Inode> {
        match self.inode(entry.ino) {
            Err(Error::NotFound) => {
                Err(Error::inode(entry.ino, "a directory entry names an inode that does not exist"))
            }
            other => other,
        }
    }

    /// A directory that still has a name.
    fn live_directory(&self, ino: Ino) -> Result<Inode> {
        let inode = self.directory(ino)?;
        if inode.nlink == 0 { Err(Error::NotFound) } else { Ok(inode) }
    }

    /// True if `ino` is `dir` or above it.
    fn is_above(&self, ino: Ino, dir: Ino) -> Result<bool> {
        let mut at = dir;
        for _ in 0..DEPTH_MAX {
            if at == ino {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            at = self.inode(at)?.parent;
        }
        Err(Error::inode(dir, "the directory's parents form a loop"))
    }

    /// Renames `from_name` of `from` to `to_name` of `to`, atomically.
    ///
    /// # Errors
    /// As `rename(2)`: [`Error::NotFound`], [`Error::Exists`], [`Error::NotEmpty`], [`Error::IsDirectory`],
    /// [`Error::NotDirectory`], [`Error::Invalid`] into itself; and those of every change.
    pub fn rename(
        &mut self,
        from: Ino,
        from_name: &[u8],
        to: Ino,
        to_name: &[u8],
        flags: RenameFlags,
        now: Time,
    ) -> Result<Renamed> {
        check_name(to_name)?;
        if flags.no_replace && flags.exchange {
            return Err(Error::Invalid("a rename cannot both exchange and not replace"));
        }
        self.begin(0, !flags.exchange)?;
        // One copy of each inode: a kernel's stack is small.
        let mut from_dir = self.directory(from)?;
        let mut to_dir = self.live_directory(to)?;
        let source = self.find_entry(from, from_name)?.ok_or(Error::NotFound)?;
        let mut moved = self.entry_inode(&source)?;
        let target = self.find_entry(to, to_name)?;
        if target.is_some() && flags.no_replace {
            return Err(Error::Exists);
        }
        if target.is_none() && flags.exchange {
            return Err(Error::NotFound);
        }
        let mut other = target.as_ref().map(|entry| self.entry_inode(entry)).transpose()?;
        if other.is_some_and(|other| other.ino == moved.ino) {
            // Two names of one inode: POSIX asks for nothing to happen.
            return Ok(Renamed { moved: moved.ino, other: None });
        }
        if from != to {
            if moved.is_dir() && self.is_above(moved.ino, to)? {
                return Err(Error::Invalid("a directory cannot be moved into itself"));
            }
            if flags.exchange
                && let Some(other) = other.filter(Inode::is_dir)
                && self.is_above(other.ino, from)?
            {
                return Err(Error::Invalid("a directory cannot be moved into itself"));
            }
        }
        if flags.exchange
            && let (Some(target), Some(other)) = (target, other)
        {
            return self.exchange(
                (from_dir, from_name, source, moved),
                (to_dir, to_name, target, other),
                now,
            );
        }
        if let Some(other) = other {
            match (moved.is_dir(), other.is_dir()) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                (true, true) if other.size != 0 => return Err(Error::NotEmpty),
                _ => {}
            }
            self.touch(orphan_key(other.ino))?;
        }
        let key = match &target {
            Some(target) => target.key,
            None => self.vacant_entry(to, to_name)?,
        };
        self.change(|volume| {
            volume.remove(source.key)?;
            volume.put_entry(key, to_name, moved.ino, moved.file_type())?;
            from_dir.size = from_dir.size.saturating_sub(1);
            from_dir.modified(now);
            if from == to {
                to_dir = from_dir;
            }
            to_dir.modified(now);
            match &mut other {
                Some(other) => {
                    if other.is_dir() {
                        to_dir.nlink = to_dir.nlink.saturating_sub(1);
                    }
                    volume.drop_name(other, now)?;
                }
                None => to_dir.size = to_dir.size.saturating_add(1),
            }
            if moved.is_dir() && from != to {
                from_dir.nlink = from_dir.nlink.saturating_sub(1);
                to_dir.nlink = to_dir.nlink.saturating_add(1);
                moved.parent = to;
            }
            moved.changed(now);
            volume.put_inode(&moved)?;
            if from != to {
                volume.put_inode(&from_dir)?;
            }
            volume.put_inode(&to_dir)?;
            Ok(Renamed { moved: moved.ino, other })
        })
    }

    fn exchange(
        &mut self,
        (mut from_dir, from_name, source, mut moved): (Inode, &[u8], Entry, Inode),
        (mut to_dir, to_name, target, mut other): (Inode, &[u8], Entry, Inode),
        now: Time,
    ) -> Result<Renamed> {
        self.change(|volume| {
            volume.put_entry(target.key, to_name, moved.ino, moved.file_type())?;
            volume.put_entry(source.key, from_name, other.ino, other.file_type())?;
            moved.changed(now);
            other.changed(now);
            if from_dir.ino != to_dir.ino {
                match (moved.is_dir(), other.is_dir()) {
                    (true, false) => {
                        from_dir.nlink = from_dir.nlink.saturating_sub(1);
                        to_dir.nlink = to_dir.nlink.saturating_add(1);
                    }
                    (false, true) => {
                        to_dir.nlink = to_dir.nlink.saturating_sub(1);
                        from_dir.nlink = from_dir.nlink.saturating_add(1);
                    }
                    _ => {}
                }
                if moved.is_dir() {
                    moved.parent = to_dir.ino;
                }
                if other.is_dir() {
                    other.parent = from_dir.ino;
                }
                to_dir.modified(now);
                volume.put_inode(&to_dir)?;
            }
            from_dir.modified(now);
            volume.put_inode(&from_dir)?;
            volume.put_inode(&moved)?;
            volume.put_inode(&other)?;
            Ok(Renamed { moved: moved.ino, other: Some(other) })
        })
    }
}
