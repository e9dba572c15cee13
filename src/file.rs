// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The extents of a file: where its blocks are, and whether they were written.
//!
//! Invariant: extents of a file do not overlap; a block becomes *written* only after its data is on
//! the device; a written extent never lies beyond the file's size, except while the file is on the
//! list of orphans. Long work is cut into steps, each of them a change of its own.

use crate::buffer::push;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::inode::{Inode, orphan_key, parse};
use crate::txn::GROUPS;
use crate::types::{Mapping, MappingKind, Progress, Time};
use crate::volume::Volume;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use vexfs_format::item::{EXTENT_KNOWN, EXTENT_UNWRITTEN, EXTENT_VECTOR};
use vexfs_format::mutants::{self, Mutant};
use vexfs_format::{BlockNr, ExtentItem, FILE_BYTES_MAX, FIRST_FREE, FileBlock, Ino, Key, Kind};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Extents that one step changes, at most.
const STEP_EXTENTS: usize = 16;
/// Items of other kinds that one step of an eviction removes, at most.
const STEP_ITEMS: usize = 64;
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
        let item: ExtentItem = parse(payload, "an extent's item has the wrong length")?;
        let extent = Self {
            start: key.offset(),
            block: BlockNr(item.block.get()),
            len: u64::from(item.len.get()),
            flags: item.flags.get(),
        };
        // Neither the superblocks nor the root ring are anybody's data.
        let end = extent.block.0.saturating_add(extent.len);
        let inside = extent.block.0 >= FIRST_FREE && end < blocks;
        let fits = extent.start.checked_add(extent.len).is_some_and(|end| end <= FILE_BYTES_MAX);
        if extent.len == 0 || !inside || !fits || extent.flags & !EXTENT_KNOWN != 0 {
            return Err(Error::inode(key.ino(), "an extent is impossible"));
        }
        Ok(extent)
    }

    /// The part of it from `from` to `to`, if there is any.
    fn cut(&self, from: u64, to: u64) -> Option<Self> {
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

    const fn is_unwritten(&self) -> bool {
        self.flags & EXTENT_UNWRITTEN != 0
    }
}

impl<D: Device> Volume<D> {
    fn parse_extent(&self, key: Key, payload: &[u8]) -> Result<Extent> {
        Extent::parse(key, payload, self.geometry.blocks)
    }

    /// The last extent that starts at or before `block`.
    fn extent_before(&self, ino: Ino, block: u64) -> Result<Option<Extent>> {
        match self.floor(Key::new(ino, Kind::Extent, block))? {
            Some((key, payload)) => self.parse_extent(key, payload).map(Some),
            None => Ok(None),
        }
    }

    /// The first extent that starts at or after `block`.
    fn extent_after(&self, ino: Ino, block: u64) -> Result<Option<Extent>> {
        let to = Key::new(ino, Kind::Extent, u64::MAX);
        match self.first(Key::new(ino, Kind::Extent, block), to)? {
            Some((key, payload)) => self.parse_extent(key, payload).map(Some),
            None => Ok(None),
        }
    }

    /// Up to `max` extents that have a part in `from..to`, and whether there are more.
    fn overlapping(
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
        self.scan(Key::new(ino, Kind::Extent, first), last, &mut |key, payload| {
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

    fn put_extent(&mut self, ino: Ino, extent: &Extent) -> Result<()> {
        let item = ExtentItem {
            block: U64::new(extent.block.0),
            len: U32::new(extent.len as u32),
            flags: U32::new(extent.flags),
        };
        self.put(Key::new(ino, Kind::Extent, extent.start), item.as_bytes())
    }

    /// Puts an extent and joins it with the neighbours it continues, which are cached.
    fn join_extent(&mut self, ino: Ino, mut extent: Extent) -> Result<()> {
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

    /// Makes sure that what [`join_extent`](Self::join_extent) looks at is cached.
    fn touch_neighbours(&self, ino: Ino, from: u64, to: u64) -> Result<()> {
        self.extent_before(ino, from.saturating_sub(1))?;
        self.extent_after(ino, to)?;
        self.touch(Key::new(ino, Kind::Extent, from))?;
        self.touch(Key::new(ino, Kind::Extent, to))
    }

    fn file(&self, ino: Ino) -> Result<Inode> {
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

    /// Makes sure that the range's first blocks are allocated and returns their mapping, which may be
    /// shorter than `count`. New blocks are unwritten; those there stay as they are.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::FileTooBig`], and those of every change.
    pub fn allocate(&mut self, ino: Ino, block: FileBlock, count: u64) -> Result<Mapping> {
        self.check_alive()?;
        let hole = self.map(ino, block, count)?;
        if hole.kind != MappingKind::Hole {
            return Ok(hole);
        }
        if block.0.saturating_add(count) > FILE_BYTES_MAX >> self.geometry.block_shift {
            return Err(Error::FileTooBig);
        }
        self.begin(1, true)?;
        let mut inode = self.file(ino)?;
        let previous = self.extent_before(ino, block.0)?;
        self.touch_neighbours(ino, block.0, block.0 + hole.count)?;
        let wanted = hole.count.min(EXTENT_MAX).min(self.space.group_blocks());
        let (start, len) = self.find_data(&inode, previous, block.0, wanted)?;
        let unwritten = if mutants::is(Mutant::Unwritten) { 0 } else { EXTENT_UNWRITTEN };
        let flags = unwritten | if inode.vector { EXTENT_VECTOR } else { 0 };
        let extent = Extent { start: block.0, block: start, len, flags };
        self.change(|volume| {
            volume.changes = volume.changes.wrapping_add(1);
            volume.space.take(start, len)?;
            volume.space.set_data_cursor(BlockNr(start.0 + len));
            volume.join_extent(ino, extent)?;
            inode.blocks = inode.blocks.saturating_add(len);
            volume.put_inode(&inode)
        })?;
        Ok(Mapping { start: block, count: len, kind: MappingKind::Unwritten(start) })
    }

    /// Looks for blocks: right behind the previous extent, else at the cursor, else anywhere.
    fn find_data(
        &mut self,
        inode: &Inode,
        previous: Option<Extent>,
        at: u64,
        count: u64,
    ) -> Result<(BlockNr, u64)> {
        let count = count.min(self.data_room());
        let goal = previous.map(|e| BlockNr(e.block.0.saturating_add(at - e.start)));
        if let Some(goal) = goal.filter(|goal| goal.0 < self.geometry.blocks) {
            let index = self.space.group_of(goal);
            if self.group_may_have_room(index)? {
                self.load_group(index)?;
                let len = self.space.run_at(goal, count);
                if len > 0 {
                    return Ok((goal, len));
                }
            }
        }
        let cursor = self.space.data_cursor();
        let groups = self.space.group_count();
        let (need, align) =
            if inode.vector { (count.max(VECTOR_ALIGN), VECTOR_ALIGN) } else { (count, 1) };
        let mut index = self.space.group_of(cursor);
        let mut best: Option<(BlockNr, u64)> = None;
        // Once around, and the first group once more for what lies before the cursor.
        for round in 0..=groups {
            if self.group_may_have_room(index)? {
                self.load_group(index)?;
                let from = if round == 0 { cursor } else { BlockNr(0) };
                if let Some((start, len)) = self.space.find(index, from, need, align) {
                    if len >= count {
                        return Ok((start, count));
                    }
                    if best.is_none_or(|(_, longest)| longest < len) {
                        best = Some((start, len));
                    }
                }
                // A long run may be anywhere; looking through a few groups for it is enough.
                if best.is_some() && round >= 4 {
                    break;
                }
            }
            index = if index + 1 < groups { index + 1 } else { 0 };
        }
        best.ok_or(if self.space.has_pins() { Error::NeedCommit } else { Error::NoSpace })
    }

    /// Notes that the range's data is on the device: unwritten extents in it become written; the
    /// size grows to `new_size`, the modification time becomes `now`.
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
        self.check_alive()?;
        let (from, to) = (block.0, block.0.saturating_add(count));
        let (extents, more) =
            self.overlapping(ino, from, to, STEP_EXTENTS, Extent::is_unwritten)?;
        let inode = self.inode(ino)?;
        let grows = new_size.is_some_and(|size| size > inode.size);
        if extents.is_empty() && !grows && now.is_none() {
            return Ok(Progress::Done);
        }
        self.begin(STEP_EXTENTS as u64 / 2, false)?;
        // Beginning may have moved nothing, but evicted: everything the change needs is touched again.
        let mut inode = self.file(ino)?;
        if new_size.is_some_and(|size| size > FILE_BYTES_MAX) {
            return Err(Error::FileTooBig);
        }
        for extent in &extents {
            self.touch_neighbours(ino, extent.start, extent.end())?;
        }
        self.change(|volume| {
            for extent in &extents {
                let Some(mut written) = extent.cut(from, to) else { continue };
                if let Some(left) = extent.cut(0, from) {
                    volume.put_extent(ino, &left)?;
                }
                if let Some(right) = extent.cut(to, u64::MAX) {
                    volume.put_extent(ino, &right)?;
                }
                written.flags &= !EXTENT_UNWRITTEN;
                volume.join_extent(ino, written)?;
            }
            if let Some(size) = new_size {
                // After each step the file ends behind what is written of it.
                let end = extents.last().map_or(to, |extent| extent.end().min(to));
                let reached = if more { end << volume.geometry.block_shift } else { size };
                inode.size = inode.size.max(size.min(reached));
            }
            if let Some(now) = now {
                inode.modified(now);
            }
            volume.put_inode(&inode)
        })?;
        Ok(if more { Progress::More } else { Progress::Done })
    }

    /// Frees a step's worth of what lies in `from..to`; true if there is more.
    fn plan_free(
        &self,
        ino: Ino,
        from: u64,
        to: u64,
        wanted: fn(&Extent) -> bool,
    ) -> Result<(Vec<Extent>, bool)> {
        let (mut extents, mut more) = self.overlapping(ino, from, to, STEP_EXTENTS, wanted)?;
        // A long extent may lie in many groups, each of which the commit has to write.
        let mut room = 4 * self.space.group_blocks();
        let mut kept = 0;
        for extent in &extents {
            let len = extent.cut(from, to).map_or(0, |part| part.len);
            if kept > 0 && len > room {
                more = true;
                break;
            }
            room = room.saturating_sub(len);
            kept += 1;
        }
        extents.truncate(kept);
        for extent in &extents {
            self.touch_neighbours(ino, extent.start, extent.end())?;
        }
        Ok((extents, more))
    }

    /// Frees the parts of `extents` in `from..to`, but of a very long one only the end.
    /// Returns whether something of them is left.
    fn free_extents(
        &mut self,
        inode: &mut Inode,
        extents: &[Extent],
        from: u64,
        to: u64,
    ) -> Result<bool> {
        let limit = (GROUPS / 4) * self.space.group_blocks();
        let mut left_over = false;
        for extent in extents {
            let Some(whole) = extent.cut(from, to) else { continue };
            let from = if whole.len > limit { whole.end() - limit } else { from };
            left_over |= whole.len > limit;
            let Some(part) = extent.cut(from, to) else { continue };
            match extent.cut(0, from) {
                Some(left) => self.put_extent(inode.ino, &left)?,
                None => {
                    self.remove(Key::new(inode.ino, Kind::Extent, extent.start))?;
                }
            }
            if let Some(right) = extent.cut(to, u64::MAX) {
                self.put_extent(inode.ino, &right)?;
            }
            self.space.release(part.block, part.len)?;
            inode.blocks = inode.blocks.saturating_sub(part.len);
        }
        Ok(left_over)
    }

    /// Changes the size. Growing leaves a hole; shrinking frees whole blocks, in steps: call it
    /// until it is done. A crash between the steps is finished by the next mount. The host zeroes
    /// the rest of the last block before it shrinks.
    ///
    /// # Errors
    /// [`Error::FileTooBig`], and those of every change.
    pub fn set_size(&mut self, ino: Ino, size: u64, now: Time) -> Result<Progress> {
        if size > FILE_BYTES_MAX {
            return Err(Error::FileTooBig);
        }
        self.begin(STEP_EXTENTS as u64 / 2, false)?;
        let mut inode = self.file(ino)?;
        let block_bytes = self.geometry.block_bytes() as u64;
        if size > inode.size && self.get(orphan_key(ino))?.is_some() {
            // An earlier truncation was given up halfway: what it left must not come back. A file
            // without a name is listed too; what is unwritten may belong to data on their way.
            let from = inode.size.div_ceil(block_bytes);
            let (extents, _) =
                self.plan_free(ino, from, u64::MAX, |extent| !extent.is_unwritten())?;
            if !extents.is_empty() {
                return self.change(|volume| {
                    let _ = volume.free_extents(&mut inode, &extents, from, u64::MAX)?;
                    volume.put_inode(&inode)?;
                    Ok(Progress::More)
                });
            }
        }
        inode.size = size;
        inode.modified(now);
        self.free_step(inode, size.div_ceil(block_bytes))
    }

    /// One step of freeing everything from block `from` on. More steps to come leave the inode
    /// among the orphans.
    fn free_step(&mut self, mut inode: Inode, from: u64) -> Result<Progress> {
        let ino = inode.ino;
        let (extents, mut more) = self.plan_free(ino, from, u64::MAX, |_| true)?;
        self.touch(orphan_key(ino))?;
        let listed = self.get(orphan_key(ino))?.is_some();
        self.change(|volume| {
            more |= volume.free_extents(&mut inode, &extents, from, u64::MAX)?;
            volume.put_inode(&inode)?;
            if more && !listed {
                volume.put_orphan(ino)?;
            } else if !more && listed && inode.nlink > 0 {
                volume.remove_orphan(ino)?;
            }
            Ok(if more { Progress::More } else { Progress::Done })
        })
    }

    /// Makes a hole of whole blocks, in steps: call it until it is done. `now` becomes the modification
    /// time; without it the times stay, as they do where only blocks that nobody sees are freed.
    ///
    /// # Errors
    /// Those of every change.
    pub fn punch(
        &mut self,
        ino: Ino,
        block: FileBlock,
        count: u64,
        now: Option<Time>,
    ) -> Result<Progress> {
        self.begin(STEP_EXTENTS as u64 / 2, false)?;
        let mut inode = self.file(ino)?;
        let (from, to) = (block.0, block.0.saturating_add(count));
        let (extents, mut more) = self.plan_free(ino, from, to, |_| true)?;
        if extents.is_empty() {
            return Ok(Progress::Done);
        }
        self.change(|volume| {
            more |= volume.free_extents(&mut inode, &extents, from, to)?;
            if let Some(now) = now {
                inode.modified(now);
            }
            volume.put_inode(&inode)
        })?;
        Ok(if more { Progress::More } else { Progress::Done })
    }

    /// Removes an orphan that nobody uses, or finishes a truncation that a crash cut short, in steps:
    /// call it until it is done. An inode that has a name and is no orphan is left as it is.
    ///
    /// # Errors
    /// Those of every change.
    pub fn evict(&mut self, ino: Ino) -> Result<Progress> {
        self.begin(STEP_EXTENTS as u64 / 2, false)?;
        let inode = match self.inode(ino) {
            Ok(inode) => inode,
            Err(Error::NotFound) => {
                self.touch(orphan_key(ino))?;
                return self.change(|volume| {
                    volume.remove_orphan(ino)?;
                    Ok(Progress::Done)
                });
            }
            Err(other) => return Err(other),
        };
        if inode.nlink > 0 {
            if self.get(orphan_key(ino))?.is_none() {
                return Ok(Progress::Done);
            }
            let from = inode.size.div_ceil(self.geometry.block_bytes() as u64);
            return self.free_step(inode, from);
        }
        let (extents, _) = self.plan_free(ino, 0, u64::MAX, |_| true)?;
        if !extents.is_empty() && mutants::is(Mutant::OrphanOrder) {
            return self.change(|volume| {
                volume.remove(Key::inode(ino))?;
                volume.inodes = volume.inodes.saturating_sub(1);
                Ok(Progress::More)
            });
        }
        if !extents.is_empty() {
            return self.change(|volume| {
                let mut inode = inode;
                let _ = volume.free_extents(&mut inode, &extents, 0, u64::MAX)?;
                volume.put_inode(&inode)?;
                if mutants::is(Mutant::OrphanEarly) {
                    volume.remove_orphan(ino)?;
                }
                Ok(Progress::More)
            });
        }
        // Then whatever else it has: the inode item is the smallest of its keys and goes last.
        let mut keys: Vec<Key> = Vec::new();
        let from = Key::inode(ino).next().ok_or(Error::NotFound)?;
        let to = Key::new(ino, Kind::Group, u64::MAX);
        self.scan(from, to, &mut |key, _| {
            if keys.len() == STEP_ITEMS {
                return Ok(ControlFlow::Break(()));
            }
            push(&mut keys, key)?;
            Ok(ControlFlow::Continue(()))
        })?;
        self.touch(orphan_key(ino))?;
        let last = keys.len() < STEP_ITEMS;
        self.change(|volume| {
            for key in &keys {
                volume.remove(*key)?;
            }
            if last {
                volume.remove(Key::inode(ino))?;
                volume.remove_orphan(ino)?;
                volume.inodes = volume.inodes.saturating_sub(1);
            }
            Ok(if last { Progress::Done } else { Progress::More })
        })
    }
}
