// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A filesystem in memory that is obviously right: maps of maps, whole copies.
//!
//! It takes the engine's operations and gives the answer that each must have. It shares no code with
//! the engine, only the types of its interface, and does not know how anything is stored, only which
//! blocks a file holds. A clone costs a pointer for each inode.

use crate::image::SECTOR;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vexfs::{
    Error, FileType, Ino, Inode, NewInode, RenameFlags, SetAttr, Time, VectorLayout, XattrMode,
};

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Contents of a block.
pub type Block = [u8; BLOCK];

/// The device's number of the sector `index` of a block of the device.
pub(crate) const fn sector_of(block: u64, index: usize) -> u64 {
    block * (BLOCK / SECTOR) as u64 + index as u64
}

/// One inode and everything that is its own.
#[derive(Clone, Debug)]
pub struct Node {
    /// Attributes; `blocks` and `version` are not kept here.
    pub attr: Inode,
    /// Of a directory: inode by name.
    pub entries: BTreeMap<Vec<u8>, u64>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The target of a symbolic link.
    pub target: Vec<u8>,
    /// Written blocks; past the end of the file a block holds zeroes.
    pub data: BTreeMap<u64, Arc<Block>>,
    /// Allocated blocks, written or not.
    pub held: BTreeSet<u64>,
    /// The vector attribute, if it has one.
    pub layout: Option<VectorLayout>,
    /// Its removal or truncation has begun: which blocks it still holds is not known.
    pub dying: bool,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Model {
    /// All inodes, those without a name included.
    pub nodes: BTreeMap<u64, Arc<Node>>,
}

/// The answer of an operation.
type Answer<T> = Result<T, Error>;

const INVALID: Error = Error::Invalid("");

/// True if two errors are the same; the message of an invalid argument does not count.
#[must_use]
pub fn same_error(a: &Error, b: &Error) -> bool {
    a == b || matches!((a, b), (Error::Invalid(_), Error::Invalid(_)))
}

const fn modify(attr: &mut Inode, now: Time) {
    attr.mtime = now;
    attr.ctime = now;
}

impl Model {
    /// A filesystem as `mkfs` makes it; `root` is its root directory.
    #[must_use]
    pub fn new(root: Inode) -> Self {
        let mut model = Self { nodes: BTreeMap::new() };
        model.add(root, Vec::new(), None);
        model
    }

    fn add(&mut self, attr: Inode, target: Vec<u8>, layout: Option<VectorLayout>) {
        let node = Node {
            attr,
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            target,
            data: BTreeMap::new(),
            held: BTreeSet::new(),
            layout,
            dying: false,
        };
        self.nodes.insert(attr.ino.0, Arc::new(node));
    }

    /// What a mount does first: it removes inodes without a name and finishes truncations.
    pub fn finish_removals(&mut self) {
        self.nodes.retain(|_, node| node.attr.nlink > 0);
        for node in self.nodes.values_mut().filter(|node| node.dying) {
            Arc::make_mut(node).dying = false;
        }
    }

    /// An inode.
    pub fn get(&self, ino: u64) -> Answer<&Node> {
        self.nodes.get(&ino).map(AsRef::as_ref).ok_or(Error::NotFound)
    }

    /// An inode, to be changed.
    pub fn get_mut(&mut self, ino: u64) -> Answer<&mut Node> {
        self.nodes.get_mut(&ino).map(Arc::make_mut).ok_or(Error::NotFound)
    }

    fn dir(&self, ino: u64) -> Answer<&Node> {
        let node = self.get(ino)?;
        if node.attr.is_dir() { Ok(node) } else { Err(Error::NotDirectory) }
    }

    fn live_dir(&self, ino: u64) -> Answer<&Node> {
        self.dir(ino).and_then(|d| if d.attr.nlink == 0 { Err(Error::NotFound) } else { Ok(d) })
    }

    fn name_ok(name: &[u8]) -> Answer<()> {
        if name.len() > 255 {
            return Err(Error::NameTooLong);
        }
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(INVALID);
        }
        Ok(())
    }

    fn new_inode(ino: Ino, new: &NewInode<'_>, parent: u64, vector: bool) -> Option<Inode> {
        let file_type = FileType::from_mode(new.mode)?;
        let dir = file_type == FileType::Directory;
        Some(Inode {
            ino,
            mode: new.mode,
            nlink: if dir { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            size: new.target.len() as u64,
            blocks: 0,
            atime: new.now,
            mtime: new.now,
            ctime: new.now,
            btime: new.now,
            rdev: new.rdev,
            parent: Ino(if dir { parent } else { 0 }),
            project: 0,
            version: 0,
            vector,
        })
    }

    /// What [`vexfs::Volume::create`] does; `ino` is the number the engine chose.
    pub fn create(&mut self, ino: Ino, dir: u64, name: &[u8], new: &NewInode<'_>) -> Answer<()> {
        self.may_create(dir, name)?;
        let layout = self.dir(dir)?.layout;
        let attr = Self::new_inode(ino, new, dir, false).ok_or(INVALID)?;
        let layout = layout.filter(|_| attr.is_dir() || attr.is_file());
        self.add(Inode { vector: layout.is_some(), ..attr }, new.target.to_vec(), layout);
        let parent = self.get_mut(dir)?;
        parent.entries.insert(name.to_vec(), ino.0);
        parent.attr.size += 1;
        parent.attr.nlink += u32::from(attr.is_dir());
        modify(&mut parent.attr, new.now);
        Ok(())
    }

    /// Whether this name can be created.
    pub fn may_create(&self, dir: u64, name: &[u8]) -> Answer<()> {
        Self::name_ok(name)?;
        if self.live_dir(dir)?.entries.contains_key(name) { Err(Error::Exists) } else { Ok(()) }
    }

    /// What [`vexfs::Volume::create_unnamed`] does.
    pub fn create_unnamed(&mut self, ino: Ino, new: &NewInode<'_>) -> Answer<()> {
        let attr = Self::new_inode(ino, new, 0, false).ok_or(INVALID)?;
        self.add(Inode { nlink: 0, ..attr }, Vec::new(), None);
        Ok(())
    }

    /// What [`vexfs::Volume::link`] does.
    pub fn link(&mut self, ino: u64, dir: u64, name: &[u8], now: Time) -> Answer<()> {
        Self::name_ok(name)?;
        self.live_dir(dir)?;
        if self.get(ino)?.attr.is_dir() {
            return Err(Error::IsDirectory);
        }
        self.may_create(dir, name)?;
        let node = self.get_mut(ino)?;
        node.attr.nlink += 1;
        node.attr.ctime = now;
        let parent = self.get_mut(dir)?;
        parent.entries.insert(name.to_vec(), ino);
        parent.attr.size += 1;
        modify(&mut parent.attr, now);
        Ok(())
    }

    fn drop_name(&mut self, ino: u64, now: Time) -> Answer<()> {
        let node = self.get_mut(ino)?;
        node.attr.nlink = if node.attr.is_dir() { 0 } else { node.attr.nlink - 1 };
        node.attr.ctime = now;
        Ok(())
    }

    /// What [`vexfs::Volume::unlink`] and [`vexfs::Volume::rmdir`] do; returns the inode.
    pub fn remove(&mut self, dir: u64, name: &[u8], rmdir: bool, now: Time) -> Answer<u64> {
        let ino = *self.dir(dir)?.entries.get(name).ok_or(Error::NotFound)?;
        let node = self.get(ino)?;
        match (rmdir, node.attr.is_dir()) {
            (true, false) => return Err(Error::NotDirectory),
            (false, true) => return Err(Error::IsDirectory),
            (true, true) if !node.entries.is_empty() => return Err(Error::NotEmpty),
            _ => {}
        }
        self.drop_name(ino, now)?;
        let parent = self.get_mut(dir)?;
        parent.entries.remove(name);
        parent.attr.size -= 1;
        parent.attr.nlink -= u32::from(rmdir);
        modify(&mut parent.attr, now);
        Ok(ino)
    }

    fn is_above(&self, ino: u64, dir: u64) -> bool {
        let mut at = dir;
        loop {
            if at == ino {
                return true;
            }
            match self.get(at) {
                Ok(node) if at != Ino::ROOT.0 => at = node.attr.parent.0,
                _ => return false,
            }
        }
    }

    /// What [`vexfs::Volume::rename`] does; returns the inode that was replaced or exchanged.
    #[allow(clippy::too_many_arguments)]
    pub fn rename(
        &mut self,
        from: u64,
        from_name: &[u8],
        to: u64,
        to_name: &[u8],
        flags: RenameFlags,
        now: Time,
    ) -> Answer<Option<u64>> {
        Self::name_ok(to_name)?;
        if flags.no_replace && flags.exchange {
            return Err(INVALID);
        }
        self.dir(from)?;
        self.live_dir(to)?;
        let moved = *self.dir(from)?.entries.get(from_name).ok_or(Error::NotFound)?;
        let other = self.dir(to)?.entries.get(to_name).copied();
        if other.is_some() && flags.no_replace {
            return Err(Error::Exists);
        }
        if other.is_none() && flags.exchange {
            return Err(Error::NotFound);
        }
        if other == Some(moved) {
            return Ok(None);
        }
        let is_dir = |ino: u64| self.get(ino).is_ok_and(|n| n.attr.is_dir());
        let moved_dir = is_dir(moved);
        let other_dir = other.is_some_and(is_dir);
        if (moved_dir && self.is_above(moved, to))
            || (flags.exchange && other_dir && other.is_some_and(|o| self.is_above(o, from)))
        {
            return Err(INVALID);
        }
        if !flags.exchange
            && let Some(other) = other
        {
            match (moved_dir, other_dir) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                (true, true) if !self.get(other)?.entries.is_empty() => {
                    return Err(Error::NotEmpty);
                }
                _ => {}
            }
        }
        self.get_mut(from)?.entries.remove(from_name);
        self.get_mut(to)?.entries.insert(to_name.to_vec(), moved);
        self.moved(moved, from, to, now)?;
        match other {
            Some(other) if flags.exchange => {
                self.get_mut(from)?.entries.insert(from_name.to_vec(), other);
                self.moved(other, to, from, now)?;
            }
            Some(other) => {
                self.get_mut(to)?.attr.nlink -= u32::from(other_dir);
                self.drop_name(other, now)?;
            }
            None => {}
        }
        for dir in [from, to] {
            let dir = self.get_mut(dir)?;
            dir.attr.size = dir.entries.len() as u64;
            modify(&mut dir.attr, now);
        }
        Ok(other)
    }

    /// After an inode went to another directory: its change time and parent, the directories' links.
    fn moved(&mut self, ino: u64, from: u64, to: u64, now: Time) -> Answer<()> {
        let node = self.get_mut(ino)?;
        node.attr.ctime = now;
        if node.attr.is_dir() && from != to {
            node.attr.parent = Ino(to);
            self.get_mut(from)?.attr.nlink -= 1;
            self.get_mut(to)?.attr.nlink += 1;
        }
        Ok(())
    }

    /// What [`vexfs::Volume::set_attr`] does.
    pub fn set_attr(&mut self, ino: u64, set: &SetAttr) -> Answer<()> {
        let attr = &mut self.get_mut(ino)?.attr;
        if let Some(mode) = set.mode {
            attr.mode = (attr.mode & 0o170_000) | (mode & 0o7777);
        }
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.unwrap_or(attr.atime);
        attr.mtime = set.mtime.unwrap_or(attr.mtime);
        attr.ctime = set.ctime;
        Ok(())
    }

    /// What [`vexfs::Volume::xattr_set`] does.
    pub fn xattr_set(
        &mut self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        now: Time,
    ) -> Answer<()> {
        if value.len() > 65_536 {
            return Err(Error::AttrTooBig);
        }
        let node = self.get_mut(ino)?;
        match (node.xattrs.contains_key(name), mode) {
            (true, XattrMode::Create) => return Err(Error::Exists),
            (false, XattrMode::Replace) => return Err(Error::NoAttr),
            _ => {}
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        node.attr.ctime = now;
        Ok(())
    }

    /// What [`vexfs::Volume::xattr_remove`] does.
    pub fn xattr_remove(&mut self, ino: u64, name: &[u8], now: Time) -> Answer<()> {
        let node = self.get_mut(ino)?;
        node.xattrs.remove(name).ok_or(Error::NoAttr)?;
        node.attr.ctime = now;
        Ok(())
    }

    /// What [`vexfs::Volume::set_vector`] does.
    pub fn set_vector(&mut self, ino: u64, layout: Option<VectorLayout>, now: Time) -> Answer<()> {
        let node = self.get_mut(ino)?;
        if !node.attr.is_dir() && !node.attr.is_file() {
            return Err(Error::NotSupported);
        }
        node.layout = layout;
        node.attr.vector = layout.is_some();
        node.attr.ctime = now;
        Ok(())
    }

    /// What [`vexfs::Volume::set_size`] does once it is done.
    pub fn set_size(&mut self, ino: u64, size: u64, now: Time) -> Answer<()> {
        let node = self.get_mut(ino)?;
        let end = size.div_ceil(BLOCK as u64);
        node.data.split_off(&end);
        node.held.split_off(&end);
        if let Some(last) = node.data.get_mut(&(size / BLOCK as u64)) {
            Arc::make_mut(last)[(size % BLOCK as u64) as usize..].fill(0);
        }
        node.attr.size = size;
        modify(&mut node.attr, now);
        Ok(())
    }

    /// Contents of a block of a file: zeroes where nothing was written.
    #[must_use]
    pub fn block(&self, ino: u64, block: u64) -> Block {
        let data = self.get(ino).ok().and_then(|node| node.data.get(&block));
        data.map_or([0; BLOCK], |data| **data)
    }

    /// The sector at place `index` of a block.
    #[must_use]
    pub fn sector(block: &Block, index: usize) -> &[u8] {
        &block[index * SECTOR..(index + 1) * SECTOR]
    }
}
