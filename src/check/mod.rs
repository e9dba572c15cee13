// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The full check: reads every structure that the newest root reaches and compares them.
//!
//! It never writes, trusts nothing that it did not verify, and goes on after a finding as far as it
//! can. It enters every block once, so damage cannot make it loop. File data carries no checksum and
//! is not read.

mod inodes;

use crate::buffer::{push, zeroed};
use crate::device::Device;
use crate::error::{Corruption, Error, Result};
use crate::mutants::{self, Mutant};
use crate::superblock::{Geometry, read_ring, read_superblock};
use crate::tree::{node, parse_item};
use alloc::vec::Vec;
use core::fmt;
use inodes::Inodes;
use vexfs_format::node::Pointer;
use vexfs_format::superblock::SUPER_OFFSET;
use vexfs_format::{
    BACKUP_FIRST, BlockNr, FIRST_FREE, Generation, GroupItem, Ino, Key, Kind, RootRecord,
    Superblock, crc32c,
};
use zerocopy::IntoBytes;

/// Something that is wrong with a filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Where it is, and what is wrong.
    pub corruption: Corruption,
    /// Two figures that should be the same: (what is stored, what was counted).
    pub figures: Option<(u64, u64)>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(block) = self.corruption.block {
            write!(f, "block {block}: ")?;
        }
        if let Some(ino) = self.corruption.ino {
            write!(f, "inode {ino}: ")?;
        }
        f.write_str(self.corruption.what)?;
        match self.figures {
            Some((stored, counted)) => write!(f, " (stored {stored}, counted {counted})"),
            None => Ok(()),
        }
    }
}

/// What a check reports while it runs.
#[derive(Clone, Copy, Debug)]
pub enum Report {
    /// How far it got.
    Progress {
        /// Blocks found in use so far.
        done: u64,
        /// Blocks in use, as the root record says.
        total: u64,
    },
    /// Something is wrong.
    Finding(Finding),
}

/// What was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckSummary {
    /// The generation that was checked.
    pub generation: Generation,
    /// Valid records in the root ring.
    pub roots: u64,
    /// Levels of the tree.
    pub levels: u64,
    /// Nodes of the tree.
    pub nodes: u64,
    /// Blocks of the filesystem.
    pub blocks: u64,
    /// Blocks in use.
    pub blocks_used: u64,
    /// Inodes, of any type.
    pub inodes: u64,
    /// Directories.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Files with a vector attribute.
    pub vector_files: u64,
    /// Extents.
    pub extents: u64,
    /// Inodes without a name, or with a truncation to be finished.
    pub orphans: u64,
    /// Findings; 0 means clean.
    pub findings: u64,
}

/// Checks the filesystem on `device`. Findings and progress go to `report` as they come.
///
/// # Errors
/// Where nothing can be checked: no valid superblock or root record, a failure of the device, no memory.
pub fn check<D: Device>(device: &D, report: &mut dyn FnMut(Report)) -> Result<CheckSummary> {
    let superblock = read_superblock(device)?;
    let geometry = Geometry::of(&superblock);
    let ring = read_ring(device, &geometry)?;
    let record = ring.newest;
    let mut checker = Checker {
        device,
        geometry,
        report,
        total: geometry.blocks.saturating_sub(record.free_blocks.get()),
        in_use: InUse::new(&geometry)?,
        summary: CheckSummary {
            generation: Generation(record.generation.get()),
            levels: u64::from(record.level.get()) + 1,
            blocks: geometry.blocks,
            roots: ring.valid,
            ..CheckSummary::default()
        },
        complete: true,
        groups: Vec::new(),
    };
    checker.superblocks(&superblock)?;
    let mut inodes = Inodes::new(geometry);
    checker.walk(&record, &mut inodes)?;
    inodes.finish(&mut checker, &record)?;
    checker.space(&record)?;
    Ok(checker.summary)
}

/// The blocks that are in use, by group; a group has bits once one of its blocks is.
struct InUse {
    groups: Vec<Option<Vec<u8>>>,
    group_shift: u32,
    count: u64,
}

impl InUse {
    fn new(geometry: &Geometry) -> Result<Self> {
        let mut groups = Vec::new();
        let count = geometry.groups() as usize;
        groups.try_reserve_exact(count).map_err(|_| Error::NoMemory)?;
        groups.resize(count, None);
        Ok(Self { groups, group_shift: geometry.group_shift(), count: 0 })
    }

    /// Marks a block as in use; false if it was before.
    fn mark(&mut self, block: u64) -> Result<bool> {
        let bytes = 1usize << (self.group_shift - 3);
        let Some(group) = self.groups.get_mut((block >> self.group_shift) as usize) else {
            return Ok(true);
        };
        let bits = match group {
            Some(bits) => bits,
            None => group.insert(zeroed(bytes)?),
        };
        let within = block & ((1 << self.group_shift) - 1);
        let Some(byte) = bits.get_mut((within / 8) as usize) else { return Ok(true) };
        let bit = 1u8 << (within % 8);
        let new = *byte & bit == 0;
        *byte |= bit;
        self.count += u64::from(new);
        Ok(new)
    }

    /// True if the blocks from `block` on, a multiple of 8, are in use exactly as `stored` says.
    fn matches(&self, block: u64, stored: &[u8]) -> bool {
        let within = ((block & ((1 << self.group_shift) - 1)) / 8) as usize;
        match self.groups.get((block >> self.group_shift) as usize).and_then(Option::as_ref) {
            Some(bits) => bits.get(within..).is_some_and(|bits| bits.starts_with(stored)),
            None => stored.iter().all(|byte| *byte == 0),
        }
    }

    fn get(&self, block: u64) -> bool {
        let within = block & ((1 << self.group_shift) - 1);
        self.groups
            .get((block >> self.group_shift) as usize)
            .and_then(Option::as_ref)
            .and_then(|bits| bits.get((within / 8) as usize))
            .is_some_and(|byte| byte >> (within % 8) & 1 == 1)
    }
}

/// A subtree that is still to be checked, and the keys it may hold: from `low` up to, not including, `high`.
struct Subtree {
    pointer: Pointer,
    level: u8,
    low: Key,
    high: Option<Key>,
}

struct Checker<'a, D> {
    device: &'a D,
    geometry: Geometry,
    report: &'a mut dyn FnMut(Report),
    total: u64,
    in_use: InUse,
    summary: CheckSummary,
    /// Every node was read. Otherwise nothing is reported as missing: it may be in one that was not.
    complete: bool,
    groups: Vec<(u64, GroupItem)>,
}

impl<D: Device> Checker<'_, D> {
    fn finding(&mut self, corruption: Corruption, figures: Option<(u64, u64)>) {
        self.summary.findings += 1;
        (self.report)(Report::Finding(Finding { corruption, figures }));
    }

    fn block_finding(&mut self, block: BlockNr, what: &'static str) {
        self.finding(Corruption { block: Some(block), ino: None, what }, None);
    }

    fn inode_finding(&mut self, ino: Ino, what: &'static str) {
        self.finding(Corruption { block: None, ino: Some(ino), what }, None);
    }

    /// Reports two figures that should be equal and are not.
    fn compare(&mut self, ino: Option<Ino>, what: &'static str, stored: u64, counted: u64) {
        if stored != counted {
            self.finding(Corruption { block: None, ino, what }, Some((stored, counted)));
        }
    }

    /// Marks a block as in use, once; false, and a finding, if it was before.
    fn mark(&mut self, block: BlockNr) -> Result<bool> {
        let new = self.in_use.mark(block.0)?;
        if !new {
            self.block_finding(block, "the block is used twice");
        }
        if self.in_use.count.is_multiple_of(4096) {
            (self.report)(Report::Progress { done: self.in_use.count, total: self.total });
        }
        Ok(new)
    }

    fn superblocks(&mut self, valid: &Superblock) -> Result<()> {
        let mut block = zeroed(self.geometry.block_bytes())?;
        let copies = [
            (BlockNr(0), SUPER_OFFSET as usize),
            (BlockNr(BACKUP_FIRST), 0),
            (self.geometry.backup_last(), 0),
        ];
        for (number, at) in copies {
            self.device.read(self.geometry.byte_of(number), &mut block)?;
            let same = block.get(at..at + size_of::<Superblock>()) == Some(valid.as_bytes());
            if !same && !mutants::is(Mutant::CheckCopies) {
                self.block_finding(
                    number,
                    "this copy of the superblock differs from the valid one",
                );
            }
        }
        for block in (0..FIRST_FREE).chain([self.geometry.backup_last().0]) {
            self.in_use.mark(block)?;
        }
        Ok(())
    }

    /// Checks every node and its items, in the order of their keys.
    fn walk(&mut self, record: &RootRecord, inodes: &mut Inodes) -> Result<()> {
        let mut stack: Vec<Subtree> = Vec::new();
        let root = Subtree {
            pointer: record.tree.into(),
            level: record.level.get() as u8,
            low: Key::MIN,
            high: None,
        };
        push(&mut stack, root)?;
        let mut data = zeroed(self.geometry.block_bytes())?;
        // A block is entered once: a second pointer to it is a finding and is not followed.
        while let Some(subtree) = stack.pop() {
            if !self.node(&subtree, &mut data)? {
                self.complete = false;
                continue;
            }
            self.summary.nodes += 1;
            if subtree.level > 0 {
                let entries = node::entries(&data)?;
                let mut high = subtree.high;
                for (index, entry) in entries.iter().enumerate().rev() {
                    let key = Key::from(entry.key);
                    let low = if index == 0 { subtree.low } else { key };
                    let level = subtree.level - 1;
                    push(&mut stack, Subtree { pointer: entry.child.into(), level, low, high })?;
                    high = Some(key);
                }
                continue;
            }
            for index in 0..node::count(&data)? {
                let Some((key, payload)) = node::leaf_item(&data, index)? else { break };
                if key.ino() == Ino::SYSTEM && key.kind() == Some(Kind::Group) {
                    self.group(key, payload)?;
                } else {
                    inodes.item(self, key, payload, subtree.pointer.block)?;
                }
            }
        }
        Ok(())
    }

    /// Reads a node and checks it against its pointer and its parent; false if it cannot be used.
    fn node(&mut self, subtree: &Subtree, data: &mut [u8]) -> Result<bool> {
        let pointer = &subtree.pointer;
        if pointer.block.0 >= self.geometry.blocks {
            self.block_finding(pointer.block, "a pointer leads outside the filesystem");
            return Ok(false);
        }
        if !self.mark(pointer.block)? {
            return Ok(false);
        }
        self.device.read(self.geometry.byte_of(pointer.block), data)?;
        match node::verify(data, pointer, &self.geometry.uuid, self.geometry.blocks) {
            Ok(()) => {}
            Err(Error::Corrupt(corruption)) => {
                self.finding(corruption, None);
                return Ok(false);
            }
            Err(other) => return Err(other),
        }
        if node::header(data)?.level != subtree.level {
            self.block_finding(pointer.block, "the node is not on the level its parent says");
            return Ok(false);
        }
        let first = node::first_key(data)?;
        let last = node::last_key(data)?;
        if first.is_some_and(|key| key < subtree.low)
            || subtree.high.is_some_and(|high| last.is_some_and(|key| key >= high))
        {
            self.block_finding(pointer.block, "the node holds keys outside its parent's bounds");
        }
        if first.is_none() && subtree.low != Key::MIN {
            self.block_finding(pointer.block, "an empty leaf that is not the root");
        }
        Ok(true)
    }

    fn group(&mut self, key: Key, payload: &[u8]) -> Result<()> {
        let Ok(item) = parse_item::<GroupItem>(payload, "") else {
            self.inode_finding(Ino::SYSTEM, "a group's item has the wrong length");
            return Ok(());
        };
        if key.offset() >= self.geometry.groups() {
            self.inode_finding(Ino::SYSTEM, "an item of a group that does not exist");
            return Ok(());
        }
        let block = BlockNr(item.bitmap.block.get());
        if block.0 >= self.geometry.blocks {
            self.block_finding(block, "a group's bitmap lies outside the filesystem");
            return Ok(());
        }
        self.mark(block)?;
        push(&mut self.groups, (key.offset(), item))
    }

    /// Compares the bitmaps with the blocks that are in use.
    fn space(&mut self, record: &RootRecord) -> Result<()> {
        if !self.complete {
            let what = "part of the tree cannot be read, so space was not checked";
            self.finding(Corruption { block: None, ino: None, what }, None);
            return Ok(());
        }
        self.summary.blocks_used = self.in_use.count;
        let counted = self.geometry.blocks - self.in_use.count;
        self.compare(None, "the root record's free blocks", record.free_blocks.get(), counted);
        let mut bitmap = zeroed(self.geometry.block_bytes())?;
        let mut items = core::mem::take(&mut self.groups).into_iter().peekable();
        for index in 0..self.geometry.groups() {
            let first = index * self.geometry.group_blocks();
            match items.next_if(|(at, _)| *at == index) {
                Some((_, item)) => {
                    let pointer = Pointer::from(item.bitmap);
                    self.device.read(self.geometry.byte_of(pointer.block), &mut bitmap)?;
                    if crc32c(&bitmap) != pointer.crc {
                        self.block_finding(
                            pointer.block,
                            "the checksum of a group's bitmap is wrong",
                        );
                        continue;
                    }
                    let clear = zeroes(&bitmap);
                    let stored = u64::from(item.free.get());
                    self.compare(None, "the free blocks of a group", stored, clear);
                }
                // In a group without an item only what the format reserves is in use.
                None if self.in_use.groups.get(index as usize).is_none_or(Option::is_none) => {
                    continue;
                }
                None => {
                    bitmap.fill(0);
                    let end = first + self.geometry.group_blocks();
                    let reserved = (0..FIRST_FREE).chain(self.geometry.backup_last().0..end);
                    for block in reserved {
                        let within = block.wrapping_sub(first);
                        if let Some(byte) = bitmap.get_mut((within / 8) as usize) {
                            *byte |= 1 << (within % 8);
                        }
                    }
                }
            }
            self.group_space(first, &bitmap);
        }
        Ok(())
    }

    /// Compares one group's bitmap with the blocks that are in use; `first` is its first block.
    fn group_space(&mut self, first: u64, bitmap: &[u8]) {
        const CHUNK: usize = 64;
        for (index, stored) in bitmap.chunks(CHUNK).enumerate() {
            let start = first + (index * CHUNK * 8) as u64;
            let end = start + (stored.len() * 8) as u64;
            // Nearly always the whole chunk agrees, and its bits need not be looked at.
            let agrees = if start >= self.geometry.blocks {
                stored.iter().all(|byte| *byte == u8::MAX)
            } else {
                end <= self.geometry.blocks && self.in_use.matches(start, stored)
            };
            if agrees {
                continue;
            }
            for (block, used) in (start..end).zip(bits(stored)) {
                match (used, self.in_use.get(block)) {
                    (false, true) => {
                        self.block_finding(BlockNr(block), "the block is in use and marked free");
                    }
                    (true, false) if block < self.geometry.blocks => {
                        self.block_finding(
                            BlockNr(block),
                            "the block is marked in use and nothing uses it",
                        );
                    }
                    (false, false) if block >= self.geometry.blocks => {
                        self.block_finding(BlockNr(block), "a block past the end is marked free");
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Clear bits of a bitmap.
fn zeroes(bitmap: &[u8]) -> u64 {
    let (words, rest) = bitmap.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_ne_bytes(*word).count_zeros());
    let rest = rest.iter().map(|byte| byte.count_zeros());
    words.chain(rest).map(u64::from).sum()
}

/// The bits of a bitmap, the first block's first.
fn bits(bytes: &[u8]) -> impl Iterator<Item = bool> + '_ {
    bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1))
}
