// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The check of inodes: the items of each, and the names, links, parents and orphans between them.
//!
//! Items come in the order of their keys, so those of one inode come together. What spans inodes is
//! collected meanwhile and compared at the end.

use super::Checker;
use crate::buffer::push;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::fs::directory::{FIRST_COOKIE, hash_base, name_hash, parse_entry};
use crate::fs::extents::Extent;
use crate::fs::xattr::{is_first, parse_first};
use crate::fs::{Inode, VectorLayout};
use crate::superblock::Geometry;
use crate::tree::parse_item;
use crate::types::FileType;
use alloc::vec::Vec;
use vexfs_format::item::{EXTENT_UNWRITTEN, EXTENT_VECTOR};
use vexfs_format::{BlockNr, Ino, Key, Kind, RootRecord, VectorItem};

/// The inode whose items are being checked.
struct Current {
    inode: Inode,
    entries: u64,
    blocks: u64,
    /// End of the last extent, in blocks of the file.
    extent_end: u64,
    /// End of the last written extent.
    written_end: u64,
    /// Bytes of a symlink's target so far.
    inline: u64,
    vector: bool,
    xattr: PendingXattr,
}

/// What is still to come of the extended attribute whose chunks are being checked.
#[derive(Clone, Copy, Default)]
struct PendingXattr {
    /// Offset of the next chunk's key.
    offset: u64,
    chunks: u64,
    bytes: u64,
}

/// A directory entry.
struct Name {
    /// The inode it names.
    ino: Ino,
    /// The directory it is in.
    dir: Ino,
    /// The type it gives the inode.
    file_type: FileType,
}

/// What the comparison at the end needs of an inode.
struct InodeSummary {
    ino: Ino,
    nlink: u32,
    file_type: FileType,
    parent: Ino,
    ancestry: Ancestry,
    /// Its written extents end beyond its size, as those of an interrupted truncation do.
    written_beyond_size: bool,
}

/// What is known of a directory's parents.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ancestry {
    Unknown,
    /// It is on the path that is being followed, or on one that did not reach the root.
    Visited,
    ReachesRoot,
}

pub(super) struct Inodes {
    geometry: Geometry,
    current: Option<Current>,
    /// In the order of their numbers.
    all: Vec<InodeSummary>,
    names: Vec<Name>,
    orphans: Vec<Ino>,
}

impl Inodes {
    pub(super) const fn new(geometry: Geometry) -> Self {
        Self { geometry, current: None, all: Vec::new(), names: Vec::new(), orphans: Vec::new() }
    }

    /// Checks the next item.
    pub(super) fn item<D: Device>(
        &mut self,
        checker: &mut Checker<'_, D>,
        key: Key,
        payload: &[u8],
        block: BlockNr,
    ) -> Result<()> {
        let ino = key.ino();
        if ino == Ino::SYSTEM {
            match key.kind() {
                Some(Kind::Orphan) => push(&mut self.orphans, Ino(key.offset()))?,
                _ => {
                    checker.block_finding(
                        block,
                        "an item of a kind the filesystem itself does not have",
                    );
                }
            }
            return Ok(());
        }
        if self.current.as_ref().is_none_or(|current| current.inode.ino != ino) {
            self.close(checker)?;
            if key != Key::inode(ino) {
                checker.inode_finding(ino, "items of an inode that does not exist");
                return Ok(());
            }
            match Inode::from_payload(ino, payload) {
                Ok(inode) => self.open(checker, inode),
                Err(Error::Corrupt(corruption)) => checker.finding(corruption, None),
                Err(other) => return Err(other),
            }
            return Ok(());
        }
        let Some(current) = self.current.as_mut() else { return Ok(()) };
        let file_type = current.inode.file_type();
        let fits = match key.kind() {
            Some(Kind::Vector) => key.offset() == 0,
            Some(Kind::Xattr) => true,
            Some(Kind::Inline) => file_type == FileType::Symlink,
            Some(Kind::Dirent) => file_type == FileType::Directory,
            Some(Kind::Extent) => file_type == FileType::Regular,
            _ => false,
        };
        if !fits {
            checker.inode_finding(ino, "an item of a kind this type of inode does not have");
            return Ok(());
        }
        match key.kind() {
            Some(Kind::Vector) => {
                let item = parse_item::<VectorItem>(payload, "");
                if item.and_then(|item| VectorLayout::from_item(&item)).is_err() {
                    checker.inode_finding(ino, "the vector attribute is malformed");
                }
                current.vector = true;
            }
            Some(Kind::Xattr) => current.xattr(checker, key, payload),
            Some(Kind::Inline) => {
                if key.offset() != current.inline {
                    checker.inode_finding(ino, "the symlink's target has a gap");
                }
                current.inline = key.offset().saturating_add(payload.len() as u64);
            }
            Some(Kind::Extent) => {
                checker.summary.extents += 1;
                current.extent(checker, key, payload, self.geometry.blocks)?;
            }
            _ => match parse_entry(payload) {
                Ok(entry) => {
                    current.entries += 1;
                    self.entry(checker, key, entry)?;
                }
                Err(_) => checker.inode_finding(ino, "a directory entry is malformed"),
            },
        }
        Ok(())
    }

    /// Checks a directory entry.
    fn entry<D: Device>(
        &mut self,
        checker: &mut Checker<'_, D>,
        key: Key,
        (ino, file_type, name): (Ino, FileType, &[u8]),
    ) -> Result<()> {
        let dir = key.ino();
        let hash = name_hash(&self.geometry, name);
        if hash_base(hash).max(FIRST_COOKIE) | 0xff != key.offset() | 0xff {
            checker.inode_finding(dir, "a directory entry is not at the hash of its name");
        }
        push(&mut self.names, Name { ino, dir, file_type })
    }

    fn open<D: Device>(&mut self, checker: &mut Checker<'_, D>, inode: Inode) {
        let summary = &mut checker.summary;
        summary.inodes += 1;
        match inode.file_type() {
            FileType::Directory => summary.directories += 1,
            FileType::Regular => {
                summary.files += 1;
                summary.vector_files += u64::from(inode.vector);
            }
            _ => {}
        }
        self.current = Some(Current {
            inode,
            entries: 0,
            blocks: 0,
            extent_end: 0,
            written_end: 0,
            inline: 0,
            vector: false,
            xattr: PendingXattr::default(),
        });
    }

    /// Compares the current inode, all of whose items were checked, with their sums.
    fn close<D: Device>(&mut self, checker: &mut Checker<'_, D>) -> Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let inode = &current.inode;
        let ino = Some(inode.ino);
        match inode.file_type() {
            FileType::Directory => {
                checker.compare(ino, "the directory's size", inode.size, current.entries);
            }
            FileType::Symlink => {
                checker.compare(ino, "the symlink's length", inode.size, current.inline);
            }
            _ => {}
        }
        checker.compare(ino, "the inode's blocks", inode.blocks, current.blocks);
        if inode.vector != current.vector {
            checker.inode_finding(inode.ino, "the vector flag and the vector attribute disagree");
        }
        if current.xattr.chunks != 0 {
            checker.inode_finding(inode.ino, "an extended attribute lacks chunks");
        }
        let size_blocks = inode.size.div_ceil(self.geometry.block_bytes() as u64);
        push(
            &mut self.all,
            InodeSummary {
                ino: inode.ino,
                nlink: inode.nlink,
                file_type: inode.file_type(),
                parent: inode.parent,
                ancestry: Ancestry::Unknown,
                written_beyond_size: inode.is_file() && current.written_end > size_blocks,
            },
        )
    }

    fn index_of(&self, ino: Ino) -> Option<usize> {
        self.all.binary_search_by_key(&ino, |inode| inode.ino).ok()
    }

    /// Compares names, links, parents, orphans and the root record's figures, once all items were checked.
    pub(super) fn finish<D: Device>(
        mut self,
        checker: &mut Checker<'_, D>,
        record: &RootRecord,
    ) -> Result<()> {
        self.close(checker)?;
        if !checker.complete {
            return Ok(());
        }
        checker.summary.orphans = self.orphans.len() as u64;
        let (inodes, orphans) = (checker.summary.inodes, checker.summary.orphans);
        checker.compare(None, "the root record's inodes", record.inodes.get(), inodes);
        checker.compare(None, "the root record's orphans", record.orphans.get(), orphans);
        if let Some(last) = self.all.last().filter(|last| last.ino.0 >= record.next_ino.get()) {
            checker.inode_finding(last.ino, "the inode's number was not given out yet");
        }
        self.names.sort_unstable_by_key(|name| (name.ino, name.dir));
        self.orphans.sort_unstable();
        for orphan in &self.orphans {
            if self.index_of(*orphan).is_none() {
                checker.inode_finding(*orphan, "an orphan that does not exist");
            }
        }
        let mut position = 0;
        for inode in &self.all {
            while self.names.get(position).is_some_and(|name| name.ino < inode.ino) {
                if let Some(name) = self.names.get(position) {
                    checker.inode_finding(
                        name.dir,
                        "a directory entry names an inode that does not exist",
                    );
                }
                position += 1;
            }
            let rest = self.names.get(position..).unwrap_or(&[]);
            let count = rest.partition_point(|name| name.ino == inode.ino);
            let own = rest.get(..count).unwrap_or(&[]);
            position += count;
            self.links(checker, inode, own);
        }
        for name in self.names.get(position..).unwrap_or(&[]) {
            checker.inode_finding(name.dir, "a directory entry names an inode that does not exist");
        }
        self.subdirectories(checker)?;
        self.ancestries(checker)
    }

    /// Checks the names of one inode.
    fn links<D: Device>(&self, checker: &mut Checker<'_, D>, inode: &InodeSummary, names: &[Name]) {
        if names.iter().any(|name| name.file_type != inode.file_type) {
            checker.inode_finding(inode.ino, "a directory entry says another type than the inode");
        }
        let listed = self.orphans.binary_search(&inode.ino).is_ok();
        if inode.file_type == FileType::Directory {
            let named = names.len() == 1 && names.iter().all(|name| name.dir == inode.parent);
            let root = inode.ino == Ino::ROOT && names.is_empty() && inode.parent == Ino::ROOT;
            let orphan = inode.nlink == 0 && names.is_empty();
            if !(named || root || orphan) {
                checker.inode_finding(inode.ino, "the directory is not named once, by its parent");
            }
        } else {
            let count = names.len() as u64;
            checker.compare(Some(inode.ino), "the inode's links", u64::from(inode.nlink), count);
        }
        if inode.nlink == 0 && !listed {
            checker.inode_finding(inode.ino, "an inode without a name is not among the orphans");
        }
        if inode.written_beyond_size && !listed {
            checker.inode_finding(inode.ino, "written blocks lie beyond the file's end");
        }
    }

    /// Checks that a directory's links are 2 and one for each directory in it.
    fn subdirectories<D: Device>(&self, checker: &mut Checker<'_, D>) -> Result<()> {
        let mut parents: Vec<Ino> = Vec::new();
        for name in self.names.iter().filter(|name| name.file_type == FileType::Directory) {
            push(&mut parents, name.dir)?;
        }
        parents.sort_unstable();
        for inode in self.all.iter().filter(|inode| inode.is_named_directory()) {
            let from = parents.partition_point(|ino| *ino < inode.ino);
            let to = parents.partition_point(|ino| *ino <= inode.ino);
            let counted = 2 + (to - from) as u64;
            checker.compare(
                Some(inode.ino),
                "the directory's links",
                u64::from(inode.nlink),
                counted,
            );
        }
        Ok(())
    }

    /// Checks that every directory that has a name is below the root.
    fn ancestries<D: Device>(&mut self, checker: &mut Checker<'_, D>) -> Result<()> {
        let mut path: Vec<usize> = Vec::new();
        for start in 0..self.all.len() {
            let mut at = Some(start)
                .filter(|index| self.all.get(*index).is_some_and(InodeSummary::is_named_directory));
            path.clear();
            let mut reaches_root = false;
            // Each directory is visited once, so a loop of parents ends too.
            while let Some(index) = at {
                let Some(inode) = self.all.get_mut(index) else { break };
                if inode.ino == Ino::ROOT || inode.ancestry == Ancestry::ReachesRoot {
                    reaches_root = true;
                    break;
                }
                if inode.ancestry == Ancestry::Visited {
                    break;
                }
                inode.ancestry = Ancestry::Visited;
                let parent = inode.parent;
                push(&mut path, index)?;
                at = self.index_of(parent);
            }
            for index in &path {
                if let Some(inode) = self.all.get_mut(*index) {
                    if reaches_root {
                        inode.ancestry = Ancestry::ReachesRoot;
                    } else {
                        checker.inode_finding(inode.ino, "the directory is not below the root");
                    }
                }
            }
        }
        Ok(())
    }
}

impl InodeSummary {
    fn is_named_directory(&self) -> bool {
        self.file_type == FileType::Directory && self.nlink > 0
    }
}

impl Current {
    fn extent<D: Device>(
        &mut self,
        checker: &mut Checker<'_, D>,
        key: Key,
        payload: &[u8],
        blocks: u64,
    ) -> Result<()> {
        let ino = self.inode.ino;
        let Ok(extent) = Extent::parse(key, payload, blocks) else {
            checker.inode_finding(ino, "an extent is impossible");
            return Ok(());
        };
        if extent.start < self.extent_end {
            checker.inode_finding(ino, "two extents overlap in the file");
        }
        if (extent.flags & EXTENT_VECTOR != 0) != self.inode.vector {
            checker.inode_finding(ino, "an extent's vector flag is not the file's");
        }
        self.extent_end = extent.end();
        if extent.flags & EXTENT_UNWRITTEN == 0 {
            self.written_end = extent.end();
        }
        self.blocks = self.blocks.saturating_add(extent.len);
        for block in extent.block.0..extent.block.0.saturating_add(extent.len) {
            checker.mark(BlockNr(block))?;
        }
        Ok(())
    }

    fn xattr<D: Device>(&mut self, checker: &mut Checker<'_, D>, key: Key, payload: &[u8]) {
        let ino = self.inode.ino;
        let pending = core::mem::take(&mut self.xattr);
        if is_first(key) {
            if pending.chunks != 0 {
                checker.inode_finding(ino, "an extended attribute lacks chunks");
            }
            let Ok((head, _, start)) = parse_first(payload) else {
                checker.inode_finding(ino, "an extended attribute is malformed");
                return;
            };
            let left = u64::from(head.value_len.get()).saturating_sub(start.len() as u64);
            let chunks = u64::from(head.chunks.get()) - 1;
            if (chunks == 0) != (left == 0) {
                checker.inode_finding(ino, "an extended attribute has the wrong length");
            }
            self.xattr = PendingXattr { offset: key.offset() + 1, chunks, bytes: left };
            return;
        }
        if pending.chunks == 0 || key.offset() != pending.offset {
            self.xattr = pending;
            checker.inode_finding(ino, "a chunk of an extended attribute is out of place");
            return;
        }
        let (chunks, len) = (pending.chunks - 1, payload.len() as u64);
        let bytes = pending.bytes.saturating_sub(len);
        if chunks == 0 && (bytes != 0 || len > pending.bytes) {
            checker.inode_finding(ino, "an extended attribute has the wrong length");
        }
        self.xattr = PendingXattr { offset: pending.offset + 1, chunks, bytes };
    }
}
