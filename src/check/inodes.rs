// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The check's second half: what the items of each inode say together, and the names between inodes.
//!
//! Items come in the order of their keys, so one inode's stand together; what spans inodes (names,
//! links, parents, orphans) is listed and compared at the end.

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

/// The inode whose items are being met.
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
    /// The attribute being met: (key offset expected next, chunks left, bytes left).
    xattr: (u64, u64, u64),
}

/// A name: who it names, where it stands, what it says of the type.
struct Name {
    ino: Ino,
    dir: Ino,
    file_type: FileType,
}

/// What is kept of an inode to the end.
struct Kept {
    ino: Ino,
    nlink: u32,
    file_type: FileType,
    parent: Ino,
    /// 0 not known, 1 on the way up, 2 reaches the root.
    rooted: u8,
    /// Its written extents end beyond its size: fine for a truncation under way.
    beyond: bool,
}

pub(super) struct Inodes {
    geometry: Geometry,
    current: Option<Current>,
    kept: Vec<Kept>,
    names: Vec<Name>,
    orphans: Vec<Ino>,
}

impl Inodes {
    pub(super) const fn new(geometry: Geometry) -> Self {
        Self { geometry, current: None, kept: Vec::new(), names: Vec::new(), orphans: Vec::new() }
    }

    /// Takes in the next item.
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
                    checker
                        .at_block(block, "an item of a kind the filesystem itself does not have");
                }
            }
            return Ok(());
        }
        if self.current.as_ref().is_none_or(|current| current.inode.ino != ino) {
            self.close(checker)?;
            if key != Key::inode(ino) {
                checker.at_inode(ino, "items of an inode that does not exist");
                return Ok(());
            }
            match Inode::from_payload(ino, payload) {
                Ok(inode) => self.open(checker, inode),
                Err(Error::Corrupt(corruption)) => checker.find(corruption, None),
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
            checker.at_inode(ino, "an item of a kind this type of inode does not have");
            return Ok(());
        }
        match key.kind() {
            Some(Kind::Vector) => {
                let item = parse_item::<VectorItem>(payload, "");
                if item.and_then(|item| VectorLayout::from_item(&item)).is_err() {
                    checker.at_inode(ino, "the vector attribute is malformed");
                }
                current.vector = true;
            }
            Some(Kind::Xattr) => current.xattr(checker, key, payload),
            Some(Kind::Inline) => {
                if key.offset() != current.inline {
                    checker.at_inode(ino, "the symlink's target has a gap");
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
                Err(_) => checker.at_inode(ino, "a directory entry is malformed"),
            },
        }
        Ok(())
    }

    /// A directory entry.
    fn entry<D: Device>(
        &mut self,
        checker: &mut Checker<'_, D>,
        key: Key,
        (ino, file_type, name): (Ino, FileType, &[u8]),
    ) -> Result<()> {
        let dir = key.ino();
        let hash = name_hash(&self.geometry, name);
        if hash_base(hash).max(FIRST_COOKIE) | 0xff != key.offset() | 0xff {
            checker.at_inode(dir, "a directory entry stands under the wrong hash");
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
            xattr: (0, 0, 0),
        });
    }

    /// All items of the current inode were met: do they add up?
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
            checker.at_inode(inode.ino, "the vector flag and the vector attribute disagree");
        }
        if current.xattr.1 != 0 {
            checker.at_inode(inode.ino, "an extended attribute lacks chunks");
        }
        let size_blocks = inode.size.div_ceil(self.geometry.block_bytes() as u64);
        push(
            &mut self.kept,
            Kept {
                ino: inode.ino,
                nlink: inode.nlink,
                file_type: inode.file_type(),
                parent: inode.parent,
                rooted: 0,
                beyond: inode.is_file() && current.written_end > size_blocks,
            },
        )
    }

    fn index_of(&self, ino: Ino) -> Option<usize> {
        self.kept.binary_search_by_key(&ino, |kept| kept.ino).ok()
    }

    /// Everything was met: names, links, parents, orphans, and the root record's figures.
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
        if self.kept.last().is_some_and(|last| last.ino.0 >= record.next_ino.get()) {
            checker.find(
                crate::error::Corruption {
                    block: None,
                    ino: self.kept.last().map(|kept| kept.ino),
                    what: "the inode's number was not given out yet",
                },
                None,
            );
        }
        self.names.sort_unstable_by_key(|name| (name.ino, name.dir));
        self.orphans.sort_unstable();
        for orphan in &self.orphans {
            if self.index_of(*orphan).is_none() {
                checker.at_inode(*orphan, "an orphan that does not exist");
            }
        }
        let mut position = 0;
        for kept in &self.kept {
            while self.names.get(position).is_some_and(|name| name.ino < kept.ino) {
                if let Some(name) = self.names.get(position) {
                    checker
                        .at_inode(name.dir, "a directory entry names an inode that does not exist");
                }
                position += 1;
            }
            let rest = self.names.get(position..).unwrap_or(&[]);
            let count = rest.partition_point(|name| name.ino == kept.ino);
            let own = rest.get(..count).unwrap_or(&[]);
            position += count;
            self.links(checker, kept, own);
        }
        for name in self.names.get(position..).unwrap_or(&[]) {
            checker.at_inode(name.dir, "a directory entry names an inode that does not exist");
        }
        self.subdirectories(checker)?;
        self.reach(checker)
    }

    /// Checks the names of one inode.
    fn links<D: Device>(&self, checker: &mut Checker<'_, D>, kept: &Kept, names: &[Name]) {
        if names.iter().any(|name| name.file_type != kept.file_type) {
            checker.at_inode(kept.ino, "a directory entry says another type than the inode");
        }
        let listed = self.orphans.binary_search(&kept.ino).is_ok();
        if kept.file_type == FileType::Directory {
            let named = names.len() == 1 && names.iter().all(|name| name.dir == kept.parent);
            let root = kept.ino == Ino::ROOT && names.is_empty() && kept.parent == Ino::ROOT;
            let orphan = kept.nlink == 0 && names.is_empty();
            if !(named || root || orphan) {
                checker.at_inode(kept.ino, "the directory is not named once, by its parent");
            }
        } else {
            let count = names.len() as u64;
            checker.compare(Some(kept.ino), "the inode's links", u64::from(kept.nlink), count);
        }
        if kept.nlink == 0 && !listed {
            checker.at_inode(kept.ino, "an inode without a name is not among the orphans");
        }
        if kept.beyond && !listed {
            checker.at_inode(kept.ino, "written blocks lie beyond the file's end");
        }
    }

    /// A directory's links are 2 and one for each directory in it.
    fn subdirectories<D: Device>(&self, checker: &mut Checker<'_, D>) -> Result<()> {
        let mut parents: Vec<Ino> = Vec::new();
        for name in self.names.iter().filter(|name| name.file_type == FileType::Directory) {
            push(&mut parents, name.dir)?;
        }
        parents.sort_unstable();
        for kept in self.kept.iter().filter(|k| k.file_type == FileType::Directory && k.nlink > 0) {
            let from = parents.partition_point(|ino| *ino < kept.ino);
            let to = parents.partition_point(|ino| *ino <= kept.ino);
            let counted = 2 + (to - from) as u64;
            checker.compare(
                Some(kept.ino),
                "the directory's links",
                u64::from(kept.nlink),
                counted,
            );
        }
        Ok(())
    }

    /// Every directory that has a name is below the root.
    fn reach<D: Device>(&mut self, checker: &mut Checker<'_, D>) -> Result<()> {
        let mut way: Vec<usize> = Vec::new();
        for start in 0..self.kept.len() {
            let mut at = Some(start).filter(|index| {
                self.kept
                    .get(*index)
                    .is_some_and(|k| k.file_type == FileType::Directory && k.nlink > 0)
            });
            way.clear();
            let mut rooted = false;
            // A directory is entered once on a way up, and not at all where its answer is known.
            while let Some(index) = at {
                let Some(kept) = self.kept.get_mut(index) else { break };
                if kept.ino == Ino::ROOT || kept.rooted == 2 {
                    rooted = true;
                    break;
                }
                if kept.rooted == 1 {
                    break;
                }
                kept.rooted = 1;
                let parent = kept.parent;
                push(&mut way, index)?;
                at = self.index_of(parent);
            }
            for index in &way {
                if let Some(kept) = self.kept.get_mut(*index) {
                    if rooted {
                        kept.rooted = 2;
                    } else {
                        checker.at_inode(kept.ino, "the directory is not below the root");
                    }
                }
            }
        }
        Ok(())
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
            checker.at_inode(ino, "an extent is impossible");
            return Ok(());
        };
        if extent.start < self.extent_end {
            checker.at_inode(ino, "two extents overlap in the file");
        }
        if (extent.flags & EXTENT_VECTOR != 0) != self.inode.vector {
            checker.at_inode(ino, "an extent's vector flag is not the file's");
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
        let (expected, chunks_left, bytes_left) = self.xattr;
        if is_first(key) {
            if chunks_left != 0 {
                checker.at_inode(ino, "an extended attribute lacks chunks");
            }
            self.xattr = (0, 0, 0);
            let Ok((head, _, start)) = parse_first(payload) else {
                checker.at_inode(ino, "an extended attribute is malformed");
                return;
            };
            let left = u64::from(head.value_len.get()).saturating_sub(start.len() as u64);
            let chunks = u64::from(head.chunks.get()) - 1;
            if (chunks == 0) != (left == 0) {
                checker.at_inode(ino, "an extended attribute has the wrong length");
            }
            self.xattr = (key.offset() + 1, chunks, left);
            return;
        }
        if chunks_left == 0 || key.offset() != expected {
            checker.at_inode(ino, "a chunk of an extended attribute is out of place");
            return;
        }
        let left = bytes_left.saturating_sub(payload.len() as u64);
        if chunks_left == 1 && (left != 0 || payload.len() as u64 > bytes_left) {
            checker.at_inode(ino, "an extended attribute has the wrong length");
        }
        self.xattr = (expected + 1, chunks_left - 1, left);
    }
}
