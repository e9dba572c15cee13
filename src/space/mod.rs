// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The allocator: groups of blocks, each with a bitmap that is copied on write like a node.
//!
//! Invariant: a block that a durable tree reaches is never allocated. Therefore a freed block is
//! *pinned* until the commit that freed it is durable. Groups are loaded when they are needed; in a
//! group without an item only the reserved blocks are in use. This module does no I/O and does not use
//! the tree: `volume` connects the two.

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
/// Longest run of blocks that is searched for, so that a commit's nodes and bitmaps are contiguous.
const META_RUN_MAX: u64 = 64;
/// Every so many commits one takes the first free blocks instead of a run: it fills the short holes that
/// the others left, so that metadata stay together.
const META_FILL_EVERY: u32 = 8;
/// Loaded groups above which clean ones are dropped.
const GROUPS_KEPT: usize = 512;

/// Blocks to free in a group that is not loaded.
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
    /// Frees in groups that are not loaded; the freeze applies them.
    deferred: Vec<DeferredFree>,
    /// Where the search for the next block of metadata starts.
    meta_cursor: BlockNr,
    /// The cursor is at the front, and the next block of metadata moves it to a run for the commit.
    meta_rewound: bool,
    /// How often the cursor was moved so.
    meta_rewinds: u32,
    /// Blocks of metadata that the last transaction took: an estimate for the next one.
    meta_run: u64,
    /// Blocks of metadata that the running transaction took so far.
    meta_taken: u64,
    /// Where the search for blocks for file data starts.
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
            // Metadata stay together at the front, with data behind them.
            data_cursor: BlockNr(FIRST_FREE.max(geometry.blocks / 16)),
        }
    }

    pub(crate) const fn free(&self) -> u64 {
        self.free
    }

    pub(crate) const fn set_free(&mut self, free: u64) {
        self.free = free;
    }

    /// Free blocks that are not pinned, in loaded groups and others.
    pub(crate) const fn available(&self) -> u64 {
        self.free.saturating_sub(self.pinned)
    }

    pub(crate) const fn has_pins(&self) -> bool {
        self.pinned > 0
    }

    /// Free blocks that are not pinned in the loaded groups.
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

    /// Position of a block in its group.
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

    /// The first dirty group from `index` on: (index, bitmap's pointer, free blocks). All were placed.
    pub(crate) fn next_dirty(&self, index: u64) -> Option<(u64, Pointer, u64)> {
        let group = self.groups.iter().find(|g| g.dirty && g.index >= index)?;
        Some((group.index, group.pointer?, group.free))
    }

    /// Blocks of a group; the last group may be short.
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

    /// The bits of a group that are always set: blocks that the format reserves, and bits past the end.
    fn reserved(&self, index: u64) -> Result<Bits> {
        let bits = self.group_blocks() as usize;
        let mut reserved = Bits::new(bits)?;
        let exist = self.blocks_in(index) as usize;
        reserved.fill(exist, bits.saturating_sub(exist), true);
        if index == 0 {
            reserved.fill(0, FIRST_FREE as usize, true);
        }
        if index + 1 == self.group_count() {
            reserved.fill(exist.saturating_sub(1), 1, true);
        }
        Ok(reserved)
    }

    /// Loads a group without an item, in which only the reserved blocks are in use.
    pub(crate) fn insert_fresh(&mut self, index: u64) -> Result<()> {
        let used = self.reserved(index)?;
        self.add(index, used, None)
    }

    /// Loads a group whose bitmap was read.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if reserved blocks are marked free. Allocating them would overwrite a superblock
    /// or a root record, or write past the end.
    pub(crate) fn insert(&mut self, index: u64, pointer: Pointer, bitmap: &[u8]) -> Result<()> {
        let mut used = Bits::new(self.group_blocks() as usize)?;
        for (word, bytes) in used.0.iter_mut().zip(bitmap.chunks_exact(8)) {
            *word = bytes.try_into().map_or(u64::MAX, u64::from_le_bytes);
        }
        if !used.includes(&self.reserved(index)?) {
            return Err(Error::block(pointer.block, "a group's bitmap marks reserved blocks free"));
        }
        self.add(index, used, Some(pointer))
    }

    /// Writes the group's bitmap into `block` in its on-disk form.
    pub(crate) fn bitmap(&self, index: u64, block: &mut [u8]) -> Result<()> {
        let group = self.group(index).ok_or(NOT_LOADED)?;
        for (word, bytes) in group.used.0.iter().zip(block.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    /// Allocates the memory for the next `count` frees.
    pub(crate) fn reserve_frees(&mut self, count: usize) -> Result<()> {
        self.deferred.try_reserve(count).map_err(|_| Error::NoMemory)
    }

    /// Groups and deferred frees that there is memory for.
    #[cfg(test)]
    pub(crate) const fn memory(&self) -> (usize, usize) {
        (self.groups.capacity(), self.deferred.capacity())
    }

    /// Finds the first free block of group `index` at or after `from`.
    fn find_one(&self, index: u64, from: BlockNr) -> Option<BlockNr> {
        let group = self.group(index).filter(|group| group.available() > 0)?;
        let first = index * self.group_blocks();
        let (at, _) = group.find(from.0.saturating_sub(first) as usize, 1)?;
        Some(BlockNr(first + at as u64))
    }

    /// Finds free blocks in loaded group `index`: the first run of `count` at or after `from` that starts
    /// at a multiple of `align`, or else the longest run.
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
        // Every round advances by at least one block.
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

    /// How many blocks, up to `count`, are free from `start` on; 0 if its group is not loaded.
    pub(crate) fn run_at(&self, start: BlockNr, count: u64) -> u64 {
        self.group(self.group_of(start))
            .map_or(0, |group| group.run(self.within(start), count as usize) as u64)
    }

    /// Allocates a run that [`find`](Self::find) found.
    pub(crate) fn take(&mut self, start: BlockNr, count: u64) -> Result<()> {
        let within = self.within(start);
        let group = self.group_mut(self.group_of(start))?;
        let changed = group.used.fill(within, count as usize, true) as u64;
        if changed != count {
            return Err(Error::Bug("a block in use was about to be allocated again"));
        }
        group.free = group.free.saturating_sub(count);
        group.dirty = true;
        self.free = self.free.saturating_sub(count);
        Ok(())
    }

    pub(crate) const fn set_data_cursor(&mut self, block: BlockNr) {
        self.data_cursor = if block.0 < self.blocks { block } else { BlockNr(FIRST_FREE) };
    }

    /// Allocates one block for metadata: in group `home` if that has one free, else at the cursor or
    /// behind it. Blocks of a commit are contiguous where possible, so that they are one request.
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

    /// Moves the cursor for metadata back to the front, where a commit freed blocks.
    pub(crate) const fn rewind_meta(&mut self) {
        self.meta_cursor = BlockNr(FIRST_FREE);
        self.meta_rewound = true;
    }

    /// Frees blocks; they stay pinned until the commit that frees them is durable.
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
        // Checked before it is changed, because a deferred free that fails does not stop the volume.
        if group.used.count(from, count as usize) as u64 != count {
            return Err(Error::block(start, "a block that is not in use was to be freed"));
        }
        group.used.fill(from, count as usize, false);
        group.free = group.free.saturating_add(count);
        group.dirty = true;
        if !mutants::is(Mutant::PinRunning) {
            group.pinned_running.fill(from, count as usize, true);
            group.pinned = group.pinned.saturating_add(count);
        }
        Ok(())
    }

    /// The group of the last deferred free, which has to be loaded before [`apply_deferred`](Self::apply_deferred).
    pub(crate) fn next_deferred(&self) -> Option<u64> {
        self.deferred.last().map(|free| self.group_of(free.start))
    }

    /// Applies the last deferred free, whose group is loaded.
    pub(crate) fn apply_deferred(&mut self) -> Result<()> {
        let Some(free) = self.deferred.last().copied() else { return Ok(()) };
        self.release_in(self.group_of(free.start), free.start, free.count)?;
        self.deferred.pop();
        Ok(())
    }

    /// Groups that the next commit has to write, at most: each deferred free counts as one.
    pub(crate) fn dirty_groups(&self) -> u64 {
        let dirty = self.groups.iter().filter(|group| group.dirty).count();
        (dirty + self.deferred.len()) as u64
    }

    /// A dirty group whose bitmap has no block of the running generation yet.
    pub(crate) fn next_unplaced(&self, running: Generation) -> Option<u64> {
        self.groups.iter().find(|g| g.dirty && g.placed != running).map(|g| g.index)
    }

    /// Makes the pins of the running transaction those of the commit in flight.
    pub(crate) fn freeze(&mut self) {
        self.meta_run = core::mem::take(&mut self.meta_taken).clamp(1, META_RUN_MAX);
        for group in &mut self.groups {
            group.dirty = false;
            core::mem::swap(&mut group.pinned_running, &mut group.pinned_commit);
        }
    }

    /// Unpins what the commit in flight freed, because it is durable. Drops groups that are not needed.
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
