// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The extents of a file: where its blocks are, and whether they were written. `truncate` frees them.
//!
//! Invariant: extents of a file do not overlap; a block becomes *written* only after its data is on
//! the device; a written extent lies beyond the file's size only while the file is on the list of
//! orphans. Long work is split into steps, each a change of its own.

use super::inode::Inode;
use crate::buffer::push;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::mutants::{self, Mutant};
use crate::tree::parse_item;
use crate::types::{Mapping, MappingKind, Progress, Time};
use crate::volume::{Change, Need, Plan, Volume};
use alloc::vec::Vec;
use core::ops::ControlFlow;
use vexfs_format::item::{EXTENT_KNOWN, EXTENT_UNWRITTEN, EXTENT_VECTOR};
use vexfs_format::{BlockNr, ExtentItem, FILE_BYTES_MAX, FIRST_FREE, FileBlock, Ino, Key, Kind};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Most extents that one step changes.
pub(super) const STEP_EXTENTS: usize = 16;
/// Most new leaves that one step needs.
pub(super) const STEP_LEAVES: u64 = STEP_EXTENTS as u64 / 2;
/// Longest extent, in blocks.
const EXTENT_MAX: u64 = 1 << 30;
/// Blocks a vector file's extents are aligned to.
const VECTOR_ALIGN: u64 = 512;

/// An extent in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) block: BlockNr,
    pub(crate) len: u64,
    pub(crate) flags: u32,
}

impl Extent {
    pub(crate) const fn end(&self) -> u64 {
        self.start + self.len
    }

    pub(crate) fn parse(key: Key, payload: &[u8], blocks: u64) -> Result<Self> {
        let item: ExtentItem = parse_item(payload, "an extent's item has the wrong length")?;
        let extent = Self {
            start: key.offset(),
            block: BlockNr(item.block.get()),
            len: u64::from(item.len.get()),
            flags: item.flags.get(),
        };
        // The superblocks and the root ring belong to no file.
        let end = extent.block.0.saturating_add(extent.len);
        let inside = extent.block.0 >= FIRST_FREE && end < blocks;
        let fits = extent.start.checked_add(extent.len).is_some_and(|end| end <= FILE_BYTES_MAX);
        if extent.len == 0 || !inside || !fits || extent.flags & !EXTENT_KNOWN != 0 {
            return Err(Error::inode(key.ino(), "an extent is impossible"));
        }
        Ok(extent)
    }

    /// The part of it in `from..to`, if there is any.
    pub(super) fn cut(&self, from: u64, to: u64) -> Option<Self> {
        let (start, end) = (self.start.max(from), self.end().min(to));
        (start < end).then(|| Self {
            start,
            block: BlockNr(self.block.0 + (start - self.start)),
            len: end - start,
            flags: self.flags,
        })
    }

    /// True if `next` continues it in the file and on the device.
    const fn continues(&self, next: &Self) -> bool {
        self.end() == next.start
            && self.block.0 + self.len == next.block.0
            && self.flags == next.flags
            && self.len + next.len <= EXTENT_MAX
    }

    pub(super) const fn is_unwritten(&self) -> bool {
        self.flags & EXTENT_UNWRITTEN != 0
    }
}

impl<D: Device> Volume<D> {
    fn parse_extent(&self, key: Key, payload: &[u8]) -> Result<Extent> {
        Extent::parse(key, payload, self.geometry().blocks)
    }

    /// The last extent that starts at or before `block`.
    fn extent_before(&self, ino: Ino, block: u64) -> Result<Option<Extent>> {
        match self.tree()?.floor(Key::new(ino, Kind::Extent, block))? {
            Some((key, payload)) => self.parse_extent(key, payload).map(Some),
            None => Ok(None),
        }
    }

    /// The first extent that starts at or after `block`.
    fn extent_after(&self, ino: Ino, block: u64) -> Result<Option<Extent>> {
        let to = Key::new(ino, Kind::Extent, u64::MAX);
        match self.tree()?.first(Key::new(ino, Kind::Extent, block), to)? {
            Some((key, payload)) => self.parse_extent(key, payload).map(Some),
            None => Ok(None),
        }
    }

    /// Up to `max` of the `wanted` extents with a part in `from..to`, and whether there are more.
    pub(super) fn overlapping(
        &self,
        ino: Ino,
        from: u64,
        to: u64,
        max: usize,
        wanted: fn(&Extent) -> bool,
    ) -> Result<(Vec<Extent>, bool)> {
        let mut found = Vec::new();
        let mut more = false;
        if from >= to {
            return Ok((found, false));
        }
        let first = match self.extent_before(ino, from)? {
            Some(extent) if extent.end() > from => extent.start,
            _ => from,
        };
        let last = Key::new(ino, Kind::Extent, to - 1);
        self.tree()?.scan(Key::new(ino, Kind::Extent, first), last, &mut |key, payload| {
            let extent = self.parse_extent(key, payload)?;
            if wanted(&extent) {
                if found.len() == max {
                    more = true;
                    return Ok(ControlFlow::Break(()));
                }
                push(&mut found, extent)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((found, more))
    }

    /// Makes sure that all that [`Change::join_extent`] reads is cached.
    pub(super) fn touch_neighbours(&self, ino: Ino, from: u64, to: u64) -> Result<()> {
        self.extent_before(ino, from.saturating_sub(1))?;
        self.extent_after(ino, to)?;
        self.tree()?.touch(Key::new(ino, Kind::Extent, from))?;
        self.tree()?.touch(Key::new(ino, Kind::Extent, to))
    }

    /// The inode, which must be a regular file.
    pub(super) fn file(&self, ino: Ino) -> Result<Inode> {
        let inode = self.inode(ino)?;
        if inode.is_dir() {
            return Err(Error::IsDirectory);
        }
        if inode.is_file() { Ok(inode) } else { Err(Error::Invalid("not a regular file")) }
    }

    /// Where `block` of a file is: the mapping starts there and is 1 to `count` blocks long.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `count` is 0, [`Error::Miss`].
    pub fn map(&self, ino: Ino, block: FileBlock, count: u64) -> Result<Mapping> {
        let start = block.0;
        let end = start.saturating_add(count);
        if end <= start {
            return Err(Error::Invalid("a mapping of no blocks was asked for"));
        }
        if let Some(part) = self.extent_before(ino, start)?.and_then(|e| e.cut(start, end)) {
            let kind = if part.is_unwritten() {
                MappingKind::Unwritten(part.block)
            } else {
                MappingKind::Written(part.block)
            };
            return Ok(Mapping { start: block, count: part.len, kind });
        }
        let hole_end = self.extent_after(ino, start)?.map_or(end, |next| next.start.min(end));
        Ok(Mapping { start: block, count: hole_end - start, kind: MappingKind::Hole })
    }

    /// Makes sure that the first blocks of the range are allocated and returns their mapping, which may
    /// be shorter than `count`. New blocks are unwritten; allocated ones stay as they are.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::FileTooBig`], and those of every change.
    pub fn allocate(&mut self, ino: Ino, block: FileBlock, count: u64) -> Result<Mapping> {
        let hole = self.map(ino, block, count)?;
        if hole.kind != MappingKind::Hole {
            return Ok(hole);
        }
        if block.0.saturating_add(count) > FILE_BYTES_MAX >> self.geometry().block_shift {
            return Err(Error::FileTooBig);
        }
        let mut plan = self.begin(Need::growth().with_leaves(1))?;
        let mut inode = plan.file(ino)?;
        let previous = plan.extent_before(ino, block.0)?;
        plan.touch_neighbours(ino, block.0, block.0 + hole.count)?;
        let wanted = hole.count.min(EXTENT_MAX).min(plan.geometry().group_blocks());
        let (start, len) = plan.find_data(&inode, previous, block.0, wanted)?;
        plan.reserve_data(len)?;
        let unwritten = if mutants::is(Mutant::Unwritten) { 0 } else { EXTENT_UNWRITTEN };
        let flags = unwritten | if inode.vector { EXTENT_VECTOR } else { 0 };
        let extent = Extent { start: block.0, block: start, len, flags };
        plan.change(|change| {
            change.take(start, len)?;
            change.join_extent(ino, extent)?;
            inode.blocks = inode.blocks.saturating_add(len);
            change.put_inode(&inode)
        })?;
        Ok(Mapping { start: block, count: len, kind: MappingKind::Unwritten(start) })
    }

    /// Marks the range as written, once its data is on the device: unwritten extents in it become written,
    /// the size grows to `new_size`, and the modification time becomes `now`. In steps: call it until it
    /// is done.
    ///
    /// # Errors
    /// Those of every change.
    pub fn mark_written(
        &mut self,
        ino: Ino,
        block: FileBlock,
        count: u64,
        new_size: Option<u64>,
        now: Option<Time>,
    ) -> Result<Progress> {
        let (from, to) = (block.0, block.0.saturating_add(count));
        let (extents, more) =
            self.overlapping(ino, from, to, STEP_EXTENTS, Extent::is_unwritten)?;
        let inode = self.inode(ino)?;
        let grows = new_size.is_some_and(|size| size > inode.size);
        if extents.is_empty() && !grows && now.is_none() {
            return Ok(Progress::Done);
        }
        let plan = self.begin(Need::upkeep().with_leaves(STEP_LEAVES))?;
        // begin() may have evicted nodes: everything that the change needs is touched again.
        let mut inode = plan.file(ino)?;
        if new_size.is_some_and(|size| size > FILE_BYTES_MAX) {
            return Err(Error::FileTooBig);
        }
        for extent in &extents {
            plan.touch_neighbours(ino, extent.start, extent.end())?;
        }
        plan.change(|change| {
            for extent in &extents {
                change.mark_extent(ino, extent, from, to)?;
            }
            if let Some(size) = new_size {
                // After each step the file's size covers what is written of it.
                let end = extents.last().map_or(to, |extent| extent.end().min(to));
                let reached = if more { end << change.geometry().block_shift } else { size };
                inode.size = inode.size.max(size.min(reached));
            }
            if let Some(now) = now {
                inode.modified(now);
            }
            change.put_inode(&inode)
        })?;
        Ok(if more { Progress::More } else { Progress::Done })
    }
}

impl<D: Device> Plan<'_, D> {
    /// Finds free blocks: right behind the previous extent, else at the cursor, else anywhere.
    fn find_data(
        &mut self,
        inode: &Inode,
        previous: Option<Extent>,
        at: u64,
        count: u64,
    ) -> Result<(BlockNr, u64)> {
        let count = count.min(self.data_room());
        let goal = previous.map(|e| BlockNr(e.block.0.saturating_add(at - e.start)));
        if let Some(goal) = goal.filter(|goal| goal.0 < self.geometry().blocks) {
            let index = self.space().group_of(goal);
            if self.group_may_have_room(index)? {
                self.load_group(index)?;
                let len = self.space().run_at(goal, count);
                if len > 0 {
                    return Ok((goal, len));
                }
            }
        }
        let cursor = self.space().data_cursor();
        let groups = self.space().group_count();
        let (need, align) =
            if inode.vector { (count.max(VECTOR_ALIGN), VECTOR_ALIGN) } else { (count, 1) };
        let mut index = self.space().group_of(cursor);
        let mut best: Option<(BlockNr, u64)> = None;
        // Each group once, and the first one again for the blocks before the cursor.
        for round in 0..=groups {
            if self.group_may_have_room(index)? {
                self.load_group(index)?;
                let from = if round == 0 { cursor } else { BlockNr(0) };
                if let Some((start, len)) = self.space().find(index, from, need, align) {
                    if len >= count {
                        return Ok((start, count));
                    }
                    if best.is_none_or(|(_, longest)| longest < len) {
                        best = Some((start, len));
                    }
                }
                // A longer run may be in any group, but only a few are searched for it.
                if best.is_some() && round >= 4 {
                    break;
                }
            }
            index = if index + 1 < groups { index + 1 } else { 0 };
        }
        best.ok_or(if self.space().has_pins() { Error::NeedCommit } else { Error::NoSpace })
    }
}

impl<D: Device> Change<'_, D> {
    pub(super) fn put_extent(&mut self, ino: Ino, extent: &Extent) -> Result<()> {
        let item = ExtentItem {
            block: U64::new(extent.block.0),
            len: U32::new(extent.len as u32),
            flags: U32::new(extent.flags),
        };
        self.put(Key::new(ino, Kind::Extent, extent.start), item.as_bytes())
    }

    /// Puts an extent, merged with its neighbours where they are contiguous. They are cached.
    pub(super) fn join_extent(&mut self, ino: Ino, mut extent: Extent) -> Result<()> {
        if let Some(before) = extent.start.checked_sub(1)
            && let Some(previous) = self.extent_before(ino, before)?
            && previous.continues(&extent)
        {
            self.remove(Key::new(ino, Kind::Extent, extent.start))?;
            extent = Extent { len: previous.len + extent.len, ..previous };
        }
        if let Some(next) = self.extent_after(ino, extent.end())?
            && extent.continues(&next)
        {
            self.remove(Key::new(ino, Kind::Extent, next.start))?;
            extent.len += next.len;
        }
        self.put_extent(ino, &extent)
    }

    /// Makes the part of an unwritten extent in `from..to` written.
    fn mark_extent(&mut self, ino: Ino, extent: &Extent, from: u64, to: u64) -> Result<()> {
        let Some(mut written) = extent.cut(from, to) else { return Ok(()) };
        if let Some(left) = extent.cut(0, from) {
            self.put_extent(ino, &left)?;
        }
        if let Some(right) = extent.cut(to, u64::MAX) {
            self.put_extent(ino, &right)?;
        }
        written.flags &= !EXTENT_UNWRITTEN;
        self.join_extent(ino, written)
    }
}
