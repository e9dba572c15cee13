// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! File data: written to the device between `allocate` and `mark_written`, as a host does, with an
//! account of every version a sector had.

use super::Lockstep;
use crate::halt::{Halt, ensure, mismatch};
use crate::history::DataVersion;
use crate::image::SECTOR;
use crate::model::{BLOCK, Block, Model, sector_of};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use vexfs::{Device, Error, FileBlock, Ino, MappingKind, Progress};

/// Bytes on their way into a file.
#[derive(Clone, Copy)]
struct Span<'a> {
    offset: u64,
    data: &'a [u8],
}

impl Span<'_> {
    const fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// Copies what belongs into a block to its contents; returns which bytes of it that is.
    fn copy_to(&self, block: u64, contents: &mut Block) -> Range<usize> {
        let base = block * BLOCK as u64;
        let from = (self.offset.max(base) - base) as usize;
        let to = (self.end().min(base + BLOCK as u64) - base) as usize;
        let source = (base + from as u64 - self.offset) as usize;
        contents[from..to].copy_from_slice(&self.data[source..source + (to - from)]);
        from..to
    }
}

impl Lockstep {
    /// Writes sectors of a block to the device; `at` is its block there.
    fn write_sectors(
        &mut self,
        ino: u64,
        block: u64,
        at: u64,
        data: &Block,
        sectors: Range<usize>,
    ) -> Result<(), Halt> {
        for index in sectors.clone() {
            let mut sector = [0; SECTOR];
            sector.copy_from_slice(Model::sector(data, index));
            let event = self.volume.device().recorded();
            let version = DataVersion { write: self.writes, event, ino, block, data: sector };
            self.versions.push(sector_of(at, index), version);
        }
        self.writes += 1;
        let bytes = &data[sectors.start * SECTOR..sectors.end * SECTOR];
        let byte = sector_of(at, sectors.start) * SECTOR as u64;
        match self.volume.device().write(byte, bytes) {
            Ok(()) => Ok(()),
            Err(error) => self.device_error("a write failed", &error.into()),
        }
    }

    /// Zeroes on the device the rest of the block that byte `from` lies in. A cut may have left data
    /// there that was never committed, and a file that shrank its old data.
    pub(crate) fn zero_tail(&mut self, ino: u64, from: u64) -> Result<(), Halt> {
        let (block, within) = (from / BLOCK as u64, (from % BLOCK as u64) as usize);
        if within == 0 {
            return Ok(());
        }
        let mapping = self.must("map", |v| v.map(Ino(ino), FileBlock(block), 1))?;
        let MappingKind::Written(at) = mapping.kind else { return Ok(()) };
        let mut data = self.model.block(ino, block);
        data[within..].fill(0);
        self.write_sectors(ino, block, at.0, &data, within / SECTOR..BLOCK / SECTOR)?;
        if let Some(old) = self.model.get_mut(ino).ok().and_then(|n| n.data.get_mut(&block)) {
            *Arc::make_mut(old) = data;
        }
        Ok(())
    }

    /// Writes `data` at byte `offset`. Each mapping is marked as written by itself or, with `batch`,
    /// all of them at the end. Returns false if the space ran out on the way.
    pub(crate) fn write(
        &mut self,
        ino: u64,
        offset: u64,
        data: &[u8],
        batch: bool,
    ) -> Result<bool, Halt> {
        let size = self.model.get(ino).map_or(0, |n| n.attr.size);
        let span = Span { offset, data };
        if span.end() > size {
            self.zero_tail(ino, size)?;
        }
        let (first, last) = (offset / BLOCK as u64, span.end().div_ceil(BLOCK as u64));
        let mut at = first;
        let mut fresh: BTreeMap<u64, Block> = BTreeMap::new();
        while at < last {
            let mapping = match self.run(|v| v.allocate(Ino(ino), FileBlock(at), last - at))? {
                Ok(mapping) => mapping,
                Err(Error::NoSpace) => {
                    self.mark_written(ino, first..at, &mut fresh, None)?;
                    return Ok(false);
                }
                Err(error) => return mismatch(format!("allocate: {error}")),
            };
            ensure!(mapping.count > 0, "allocate gave an empty mapping");
            let until = (at + mapping.count).min(last);
            self.write_blocks(ino, at..until, mapping.kind, span, &mut fresh)?;
            if !batch {
                let size = span.end().min(until * BLOCK as u64);
                self.mark_written(ino, at..until, &mut fresh, Some(size))?;
            }
            at = until;
        }
        if batch {
            self.mark_written(ino, first..last, &mut fresh, Some(span.end()))?;
        }
        Ok(true)
    }

    /// Writes the blocks of one mapping. Those that were not written before go into `fresh`: the
    /// model has them when they are marked.
    fn write_blocks(
        &mut self,
        ino: u64,
        blocks: Range<u64>,
        kind: MappingKind,
        span: Span<'_>,
        fresh: &mut BTreeMap<u64, Block>,
    ) -> Result<(), Halt> {
        let (start, written) = match kind {
            MappingKind::Written(start) => (start.0, true),
            MappingKind::Unwritten(start) => (start.0, false),
            MappingKind::Hole => return mismatch("allocate left a hole"),
        };
        let at = blocks.start;
        if let Ok(node) = self.model.get_mut(ino) {
            ensure!(
                written == node.data.contains_key(&at),
                "inode {ino} block {at}: written is {written}, the model says otherwise"
            );
            node.held.extend(blocks.clone());
        }
        for block in blocks {
            let known = fresh.get(&block).copied();
            let mut contents = known.unwrap_or_else(|| self.model.block(ino, block));
            let changed = span.copy_to(block, &mut contents);
            let sectors = if written {
                changed.start / SECTOR..changed.end.div_ceil(SECTOR)
            } else {
                0..BLOCK / SECTOR
            };
            self.write_sectors(ino, block, start + (block - at), &contents, sectors)?;
            if !written {
                fresh.insert(block, contents);
            } else if let Ok(node) = self.model.get_mut(ino) {
                node.data.insert(block, Arc::new(contents));
            }
        }
        Ok(())
    }

    /// Allocates blocks and writes nothing. Returns false if the space ran out on the way.
    pub(crate) fn preallocate(&mut self, ino: u64, from: u64, count: u64) -> Result<bool, Halt> {
        let (mut at, end) = (from, from + count);
        while at < end {
            let mapping = match self.run(|v| v.allocate(Ino(ino), FileBlock(at), end - at))? {
                Ok(mapping) => mapping,
                Err(Error::NoSpace) => return Ok(false),
                Err(error) => return mismatch(format!("allocate: {error}")),
            };
            ensure!(mapping.kind != MappingKind::Hole, "allocate left a hole");
            ensure!((1..=end - at).contains(&mapping.count), "allocate gave {mapping:?}");
            if let Ok(node) = self.model.get_mut(ino) {
                node.held.extend(at..at + mapping.count);
            }
            at += mapping.count;
        }
        Ok(true)
    }

    /// Marks blocks as written, which takes those of `fresh` over into the model.
    fn mark_written(
        &mut self,
        ino: u64,
        blocks: Range<u64>,
        fresh: &mut BTreeMap<u64, Block>,
        size: Option<u64>,
    ) -> Result<(), Halt> {
        if blocks.is_empty() {
            return Ok(());
        }
        let now = self.now();
        // Of a write that ran out of space the blocks that were allocated count: the file ends there.
        let size = size.unwrap_or(blocks.end * BLOCK as u64);
        let (from, count) = (blocks.start, blocks.end - blocks.start);
        loop {
            let progress = self.must("mark_written", |v| {
                v.mark_written(Ino(ino), FileBlock(from), count, Some(size), Some(now))
            })?;
            let mut pending = std::mem::take(fresh);
            if progress == Progress::More {
                let blocks: Vec<u64> = pending.keys().copied().collect();
                for block in blocks {
                    let mapping = self.must("map", |v| v.map(Ino(ino), FileBlock(block), 1))?;
                    if !matches!(mapping.kind, MappingKind::Written(_))
                        && let Some(contents) = pending.remove(&block)
                    {
                        fresh.insert(block, contents);
                    }
                }
            }
            let Ok(node) = self.model.get_mut(ino) else {
                return mismatch("blocks of no inode were marked");
            };
            let reached = pending.keys().last().map_or(0, |last| (last + 1) * BLOCK as u64);
            node.data.extend(pending.into_iter().map(|(block, data)| (block, Arc::new(data))));
            node.attr.mtime = now;
            node.attr.ctime = now;
            if progress == Progress::Done {
                node.attr.size = node.attr.size.max(size);
                return Ok(());
            }
            node.attr.size = node.attr.size.max(size.min(reached));
        }
    }

    /// Changes a file's size as a host does, in steps.
    pub(crate) fn truncate(&mut self, ino: u64, size: u64) -> Result<(), Halt> {
        let old = self.model.get(ino).map_or(0, |n| n.attr.size);
        self.zero_tail(ino, size.min(old))?;
        let now = self.now();
        let mut first = true;
        loop {
            let progress = self.must("set_size", |v| v.set_size(Ino(ino), size, now))?;
            if first && let Err(error) = self.model.set_size(ino, size, now) {
                return mismatch(format!("set_size worked where the model says {error}"));
            }
            first = false;
            if let Ok(node) = self.model.get_mut(ino) {
                node.dying = progress == Progress::More;
            }
            if progress == Progress::Done {
                return Ok(());
            }
        }
    }

    /// Frees the blocks of a range, in steps.
    pub(crate) fn punch(&mut self, ino: u64, from: u64, count: u64) -> Result<(), Halt> {
        let now = self.now();
        for _ in 0..100_000 {
            let progress =
                self.must("punch", |v| v.punch(Ino(ino), FileBlock(from), count, Some(now)))?;
            let left = self.held(ino, from, from + count)?;
            let Ok(node) = self.model.get_mut(ino) else {
                return mismatch("blocks of no inode were punched");
            };
            let before = node.held.range(from..from + count).count();
            node.held.retain(|b| !(from..from + count).contains(b) || left.contains(b));
            let held = &node.held;
            node.data.retain(|b, _| held.contains(b));
            if before > 0 {
                node.attr.mtime = now;
                node.attr.ctime = now;
            }
            if progress == Progress::Done {
                ensure!(left.is_empty(), "a punched range holds {} blocks", left.len());
                return Ok(());
            }
        }
        mismatch("a punch does not end")
    }

    /// Blocks of a range that are not holes.
    fn held(&mut self, ino: u64, from: u64, to: u64) -> Result<BTreeSet<u64>, Halt> {
        let mut held = BTreeSet::new();
        let mut at = from;
        while at < to {
            let part = self.must("map", |v| v.map(Ino(ino), FileBlock(at), to - at))?;
            if part.kind != MappingKind::Hole {
                held.extend(at..at + part.count);
            }
            at += part.count.max(1);
        }
        Ok(held)
    }

    /// Removes an inode that has no name, in steps.
    pub(crate) fn evict(&mut self, ino: u64) -> Result<(), Halt> {
        for _ in 0..100_000 {
            // A commit from here on may hold it half removed.
            if let Ok(node) = self.model.get_mut(ino) {
                node.dying = true;
            }
            if self.must("evict", |v| v.evict(Ino(ino)))? == Progress::Done {
                self.model.nodes.remove(&ino);
                return Ok(());
            }
        }
        mismatch("an eviction does not end")
    }
}
