// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which blocks are in use: groups of blocks, each with a bitmap that is copied on write like a node.
//!
//! Invariant: a block that a committed tree reaches, or that the commit in flight may still make
//! unreachable, is never handed out. A freed block is *pinned* until the commit that freed it is
//! durable. Groups come into memory when first touched; one without an item in the tree is wholly
//! free. This module does no I/O and knows nothing of the tree (see `volume`).

mod group;
#[cfg(test)]
mod tests;

use crate::buffer::push;
use crate::error::{Error, Result};
use crate::mutants::{self, Mutant};
use crate::superblock::Geometry;
use alloc::vec::Vec;
use group::{Bits, Group};
use vexfs_format::node::Pointer;
use vexfs_format::{BlockNr, FIRST_FREE, Generation};

const NOT_LOADED: Error = Error::Bug("a group's bitmap is not in memory");
/// Longest run of blocks that is looked for to write a commit's nodes and bitmaps in a row.
const META_RUN_MAX: u64 = 64;
/// One commit of so many takes whatever is free at the front: it fills the holes that are too short
/// for the others, so that metadata stay together.
const META_FILL_EVERY: u32 = 8;
/// Clean groups kept in memory beyond those in use.
const GROUPS_KEPT: usize = 512;

/// Blocks to be freed in a group that is not in memory.
#[derive(Clone, Copy, Debug)]
struct DeferredFree {
    start: BlockNr,
    count: u64,
}

/// The allocator.
#[derive(Debug)]
pub(crate) struct Space {
    /// Sorted by index.
    groups: Vec<Group>,
    /// `log2` of the blocks of a group.
    group_shift: u32,
    blocks: u64,
    free: u64,
    pinned: u64,
    /// Freed blocks of groups that are not in memory; applied by the freeze.
    deferred: Vec<DeferredFree>,
    /// Where the next node is looked for.
    meta_cursor: BlockNr,
    /// A commit freed blocks since: the cursor has to find a place for the next one.
    meta_rewound: bool,
    /// How often it had to.
    meta_rewinds: u32,
    /// Blocks of metadata that the last transaction took: about what the next one will.
    meta_run: u64,
    /// Blocks of metadata that the running transaction took so far.
    meta_taken: u64,
    /// Where the next file data is looked for.
    data_cursor: BlockNr,
}

impl Space {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        Self {
            groups: Vec::new(),
            group_shift: geometry.group_shift(),
            blocks: geometry.blocks,
            free: 0,
            pinned: 0,
            deferred: Vec::new(),
            meta_cursor: BlockNr(FIRST_FREE),
            meta_rewound: true,
            meta_rewinds: 0,
            meta_run: 1,
            meta_taken: 0,
            // Nodes stay together at the front, data behind them.
            data_cursor: BlockNr(FIRST_FREE.max(geometry.blocks / 16)),
        }
    }

    pub(crate) const fn free(&self) -> u64 {
        self.free
    }

    pub(crate) const fn set_free(&mut self, free: u64) {
        self.free = free;
    }

    /// Free blocks that no pin holds back, in memory or not.
    pub(crate) const fn available(&self) -> u64 {
        self.free.saturating_sub(self.pinned)
    }

    pub(crate) const fn has_pins(&self) -> bool {
        self.pinned > 0
    }

    /// Blocks that may be handed out at once, from the groups in memory.
    pub(crate) fn available_loaded(&self) -> u64 {
        self.groups.iter().map(Group::available).sum()
    }

    pub(crate) const fn group_of(&self, block: BlockNr) -> u64 {
        block.0 >> self.group_shift
    }

    /// Blocks of a group.
    pub(crate) const fn group_blocks(&self) -> u64 {
        1 << self.group_shift
    }

    /// Where in its group a block is.
    const fn within(&self, block: BlockNr) -> usize {
        (block.0 & (self.group_blocks() - 1)) as usize
    }

    pub(crate) const fn group_count(&self) -> u64 {
        self.blocks.saturating_add(self.group_blocks() - 1) >> self.group_shift
    }

    pub(crate) const fn meta_cursor(&self) -> BlockNr {
        self.meta_cursor
    }

    pub(crate) const fn data_cursor(&self) -> BlockNr {
        self.data_cursor
    }

    fn find_group(&self, index: u64) -> Result<usize, usize> {
        self.groups.binary_search_by_key(&index, |group| group.index)
    }

    pub(crate) fn is_loaded(&self, index: u64) -> bool {
        self.find_group(index).is_ok()
    }

    pub(crate) fn group(&self, index: u64) -> Option<&Group> {
        self.groups.get(self.find_group(index).ok()?)
    }

    pub(crate) fn group_mut(&mut self, index: u64) -> Result<&mut Group> {
        let position = self.find_group(index).map_err(|_| NOT_LOADED)?;
        self.groups.get_mut(position).ok_or(NOT_LOADED)
    }

    /// The first dirty group from `index` on that has a place: (index, bitmap's pointer, free blocks).
    pub(crate) fn next_dirty(&self, index: u64) -> Option<(u64, Pointer, u64)> {
        let group = self.groups.iter().find(|g| g.dirty && g.index >= index)?;
        Some((group.index, group.pointer?, group.free))
    }

    /// Blocks of a group that exist; the last group may be short.
    fn blocks_in(&self, index: u64) -> u64 {
        self.blocks.saturating_sub(index * self.group_blocks()).min(self.group_blocks())
    }

    fn add(&mut self, index: u64, used: Bits, pointer: Option<Pointer>) -> Result<()> {
        let Err(position) = self.find_group(index) else { return Ok(()) };
        let bits = self.group_blocks() as usize;
        let set: u64 = used.0.iter().map(|word| u64::from(word.count_ones())).sum();
        let group = Group {
            index,
            used,
            pinned_running: Bits::new(bits)?,
            pinned_commit: Bits::new(bits)?,
            free: self.group_blocks().saturating_sub(set),
            pinned: 0,
            pointer,
            dirty: false,
            placed: Generation(0),
        };
        self.groups.try_reserve(1).map_err(|_| Error::NoMemory)?;
        self.groups.insert(position, group);
        Ok(())
    }

    /// Brings in a group that was never written: only what the format reserves is in use.
    pub(crate) fn insert_fresh(&mut self, index: u64) -> Result<()> {
        let mut used = Bits::new(self.group_blocks() as usize)?;
        let exist = self.blocks_in(index) as usize;
        used.fill(exist, (self.group_blocks() as usize).saturating_sub(exist), true);
        if index == 0 {
            used.fill(0, FIRST_FREE as usize, true);
        }
        if index + 1 == self.group_count() {
            used.fill(exist.saturating_sub(1), 1, true);
        }
        self.add(index, used, None)
    }

    /// Brings in a group whose bitmap was read.
    pub(crate) fn insert(&mut self, index: u64, pointer: Pointer, bitmap: &[u8]) -> Result<()> {
        let mut used = Bits::new(self.group_blocks() as usize)?;
        for (word, bytes) in used.0.iter_mut().zip(bitmap.chunks_exact(8)) {
            *word = bytes.try_into().map_or(u64::MAX, u64::from_le_bytes);
        }
        self.add(index, used, Some(pointer))
    }

    /// Writes the bitmap into `block` as it goes to the medium.
    pub(crate) fn bitmap(&self, index: u64, block: &mut [u8]) -> Result<()> {
        let group = self.group(index).ok_or(NOT_LOADED)?;
        for (word, bytes) in group.used.0.iter().zip(block.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    /// Makes sure that the next `count` frees need no memory.
    pub(crate) fn reserve_frees(&mut self, count: usize) -> Result<()> {
        self.deferred.try_reserve(count).map_err(|_| Error::NoMemory)
    }

    /// Finds the first free block of group `index` at or after `from`.
    fn find_one(&self, index: u64, from: BlockNr) -> Option<BlockNr> {
        let group = self.group(index).filter(|group| group.available() > 0)?;
        let first = index * self.group_blocks();
        let (at, _) = group.find(from.0.saturating_sub(first) as usize, 1)?;
        Some(BlockNr(first + at as u64))
    }

    /// Finds free blocks in group `index`, which is in memory: the first run of `count` at or after
    /// `from` that starts on a multiple of `align`, or else the longest run there is.
    pub(crate) fn find(
        &self,
        index: u64,
        from: BlockNr,
        count: u64,
        align: u64,
    ) -> Option<(BlockNr, u64)> {
        let group = self.group(index).filter(|group| group.available() > 0)?;
        let first = index * self.group_blocks();
        let mut start = from.0.saturating_sub(first) as usize;
        let mut longest: Option<(BlockNr, u64)> = None;
        // Every round moves on by at least one block.
        for _ in 0..self.group_blocks() {
            let Some((at, len)) =
                group.find(start, count.saturating_add(align - align.min(1)) as usize)
            else {
                break;
            };
            let aligned = (first + at as u64).next_multiple_of(align.max(1)).saturating_sub(first);
            let skipped = aligned as usize - at;
            if len >= skipped + count as usize {
                return Some((BlockNr(first + aligned), count));
            }
            if longest.is_none_or(|(_, best)| best < len as u64) {
                longest = Some((BlockNr(first + at as u64), (len as u64).min(count)));
            }
            start = at + len;
        }
        longest
    }

    /// How many blocks, up to `count`, are free from `start` on; 0 if its group is not in memory.
    pub(crate) fn run_at(&self, start: BlockNr, count: u64) -> u64 {
        self.group(self.group_of(start))
            .map_or(0, |group| group.run(self.within(start), count as usize) as u64)
    }

    /// Takes a run that [`find`](Self::find) found.
    pub(crate) fn take(&mut self, start: BlockNr, count: u64) -> Result<()> {
        let within = self.within(start);
        let group = self.group_mut(self.group_of(start))?;
        let changed = group.used.fill(within, count as usize, true) as u64;
        if changed != count {
            return Err(Error::Bug("a block that is in use was about to be handed out"));
        }
        group.free = group.free.saturating_sub(count);
        group.dirty = true;
        self.free = self.free.saturating_sub(count);
        Ok(())
    }

    pub(crate) const fn set_data_cursor(&mut self, block: BlockNr) {
        self.data_cursor = if block.0 < self.blocks { block } else { BlockNr(FIRST_FREE) };
    }

    /// Takes one block for metadata, at the cursor or behind it, or in `home` if that group has one.
    /// What a commit writes lies in a row where there is room for that, so that it is one request.
    pub(crate) fn take_meta(&mut self, home: Option<u64>) -> Result<BlockNr> {
        if self.meta_rewound {
            self.meta_rewound = false;
            self.meta_rewinds = self.meta_rewinds.wrapping_add(1);
            if !self.meta_rewinds.is_multiple_of(META_FILL_EVERY) {
                let front = self.meta_cursor;
                let run = self.find(self.group_of(front), front, self.meta_run, 1);
                self.meta_cursor = run.map_or(front, |(start, _)| start);
            }
        }
        let cursor = self.meta_cursor;
        let at_cursor = self.group_of(cursor);
        let found = home
            .and_then(|index| {
                let here = (index == at_cursor).then(|| self.find_one(index, cursor)).flatten();
                here.or_else(|| self.find_one(index, BlockNr(0)))
            })
            .or_else(|| self.find_one(at_cursor, cursor))
            .or_else(|| {
                let after = self.groups.iter().filter(|g| g.index > at_cursor);
                let before = self.groups.iter().filter(|g| g.index <= at_cursor);
                after.chain(before).find_map(|g| self.find_one(g.index, BlockNr(0)))
            });
        let Some(block) = found else { return Err(Error::NoSpace) };
        self.take(block, 1)?;
        self.meta_taken = self.meta_taken.saturating_add(1);
        if home.is_none() || (self.group_of(block) == at_cursor && block.0 >= cursor.0) {
            self.meta_cursor = BlockNr(block.0.saturating_add(1));
        }
        Ok(block)
    }

    /// Looks for nodes from the front of the filesystem again (after a commit freed old ones).
    pub(crate) const fn rewind_meta(&mut self) {
        self.meta_cursor = BlockNr(FIRST_FREE);
        self.meta_rewound = true;
    }

    /// Gives blocks back; they stay pinned until the commit that does so is durable.
    pub(crate) fn release(&mut self, start: BlockNr, count: u64) -> Result<()> {
        let (mut block, end) = (start.0, start.0.saturating_add(count));
        if end > self.blocks {
            return Err(Error::block(start, "blocks outside the filesystem were to be freed"));
        }
        while block < end {
            let index = block >> self.group_shift;
            let len = ((index + 1) * self.group_blocks()).min(end) - block;
            if self.is_loaded(index) {
                self.release_in(index, BlockNr(block), len)?;
            } else {
                push(&mut self.deferred, DeferredFree { start: BlockNr(block), count: len })?;
            }
            self.free = self.free.saturating_add(len);
            if !mutants::is(Mutant::PinRunning) {
                self.pinned = self.pinned.saturating_add(len);
            }
            block += len;
        }
        Ok(())
    }

    fn release_in(&mut self, index: u64, start: BlockNr, count: u64) -> Result<()> {
        let from = self.within(start);
        let group = self.group_mut(index)?;
        if group.used.fill(from, count as usize, false) as u64 != count {
            return Err(Error::block(start, "a block that is not in use was to be freed"));
        }
        group.free = group.free.saturating_add(count);
        group.dirty = true;
        if !mutants::is(Mutant::PinRunning) {
            group.pinned_running.fill(from, count as usize, true);
            group.pinned = group.pinned.saturating_add(count);
        }
        Ok(())
    }

    /// The group of some deferred free, which has to be brought in before [`apply_deferred`](Self::apply_deferred).
    pub(crate) fn next_deferred(&self) -> Option<u64> {
        self.deferred.last().map(|free| self.group_of(free.start))
    }

    /// Applies the last deferred free; its group is in memory.
    pub(crate) fn apply_deferred(&mut self) -> Result<()> {
        let Some(free) = self.deferred.last().copied() else { return Ok(()) };
        self.release_in(self.group_of(free.start), free.start, free.count)?;
        self.deferred.pop();
        Ok(())
    }

    /// Groups the next commit has to write, deferred frees counted as one each.
    pub(crate) fn dirty_groups(&self) -> u64 {
        let dirty = self.groups.iter().filter(|group| group.dirty).count();
        (dirty + self.deferred.len()) as u64
    }

    /// A dirty group whose bitmap has no place in the running generation yet.
    pub(crate) fn next_unplaced(&self, running: Generation) -> Option<u64> {
        self.groups.iter().find(|g| g.dirty && g.placed != running).map(|g| g.index)
    }

    /// Hands the pins of the running transaction over to the commit in flight.
    pub(crate) fn freeze(&mut self) {
        self.meta_run = core::mem::take(&mut self.meta_taken).clamp(1, META_RUN_MAX);
        for group in &mut self.groups {
            group.dirty = false;
            core::mem::swap(&mut group.pinned_running, &mut group.pinned_commit);
        }
    }

    /// The commit in flight is durable: what it freed may be used. Forgets groups that nothing needs.
    pub(crate) fn unpin(&mut self) {
        for group in &mut self.groups {
            if group.pinned == 0 {
                continue;
            }
            let mut cleared = 0u64;
            for word in &mut group.pinned_commit.0 {
                cleared += u64::from(word.count_ones());
                *word = 0;
            }
            group.pinned = group.pinned.saturating_sub(cleared);
            self.pinned = self.pinned.saturating_sub(cleared);
        }
        if self.groups.len() > GROUPS_KEPT {
            let (meta, data) = (self.group_of(self.meta_cursor), self.group_of(self.data_cursor));
            self.groups.retain(|g| g.dirty || g.pinned > 0 || g.index == meta || g.index == data);
        }
        self.rewind_meta();
    }
}
