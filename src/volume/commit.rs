// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Commits: a root record makes the running transaction durable.
//!
//! Protocol: [`Volume::freeze`] gives every dirty bitmap and node its checksum and copies it into a
//! [`Commit`]; [`Commit::write`] writes them, flushes, and writes the root record with FUA, and does
//! not need the volume for that; [`Volume::finish`] unpins the blocks that the commit freed. The next
//! transaction may run between freeze and finish.
//!
//! Invariant: no metadata that a durable root reaches is overwritten, and a root record is written only
//! after everything that it reaches is durable.

use super::{Change, Volume};
use crate::buffer::{push, zeroed};
use crate::device::{Device, Write};
use crate::error::{Error, Result};
use crate::mutants::{self, Mutant};
use crate::superblock::Geometry;
use crate::types::Time;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use vexfs_format::node::{Pointer, RawPointer};
use vexfs_format::root::ROOT_MAGIC;
use vexfs_format::{
    BlockNr, Generation, GroupItem, Ino, Key, Kind, ROOT_RING_START, ROOT_SLOTS, RootRecord,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// A frozen transaction: copies of all blocks that it writes.
#[derive(Debug)]
pub struct Commit {
    generation: Generation,
    geometry: Geometry,
    blocks: Vec<(BlockNr, Vec<u8>)>,
    /// The root record's block.
    root: Vec<u8>,
}

/// Writes of one batch where there is no memory for a list of all of them.
const FEW_WRITES: usize = 32;

/// Memory for a commit, allocated before the commit changes anything.
struct Room {
    blocks: Vec<(BlockNr, Vec<u8>)>,
    buffers: Vec<Vec<u8>>,
}

impl Room {
    fn new(count: usize, block_bytes: usize) -> Result<Self> {
        let (mut blocks, mut buffers) = (Vec::new(), Vec::new());
        blocks.try_reserve_exact(count).map_err(|_| Error::NoMemory)?;
        buffers.try_reserve_exact(count).map_err(|_| Error::NoMemory)?;
        for _ in 0..count {
            push(&mut buffers, zeroed(block_bytes)?)?;
        }
        Ok(Self { blocks, buffers })
    }

    /// Takes a buffer for one block.
    fn buffer(&mut self) -> Result<Vec<u8>> {
        self.buffers.pop().ok_or(Error::Bug("a commit has more blocks than were counted"))
    }

    /// Adds a copy of `data` as the contents of `block`.
    fn add(&mut self, block: BlockNr, data: &[u8]) -> Result<()> {
        let mut buffer = self.buffer()?;
        for (to, from) in buffer.iter_mut().zip(data) {
            *to = *from;
        }
        push(&mut self.blocks, (block, buffer))
    }
}

impl Commit {
    /// The generation this commit makes.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Blocks that it writes, without the root record's.
    pub const fn len_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Writes nodes and bitmaps, flushes, and writes the root record. Writes of file data that the
    /// commit calls written have to be complete before.
    ///
    /// # Errors
    /// The device's. Pass the result, whatever it is, to [`Volume::finish`].
    pub fn write<D: Device + ?Sized>(&self, device: &D) -> Result<()> {
        let block_bytes = self.geometry.block_bytes() as u32;
        let slot = if mutants::is(Mutant::RootSlot) { 0 } else { self.generation.0 % ROOT_SLOTS };
        let slot = self.geometry.byte_of(BlockNr(ROOT_RING_START + slot));
        if mutants::is(Mutant::RootFirst) {
            device.write_fua(slot, &self.root)?;
        }
        let mut writes = Vec::new();
        if writes.try_reserve_exact(self.blocks.len()).is_ok() {
            writes.extend(self.blocks.iter().map(|(block, data)| Write { block: *block, data }));
            if mutants::is(Mutant::BlockLost) {
                writes.pop();
            }
            device.write_many(block_bytes, &writes)?;
        } else {
            for few in self.blocks.chunks(FEW_WRITES) {
                let mut writes = [Write { block: BlockNr(0), data: &[] }; FEW_WRITES];
                for (write, (block, data)) in writes.iter_mut().zip(few) {
                    *write = Write { block: *block, data };
                }
                device.write_many(block_bytes, writes.get(..few.len()).unwrap_or(&writes))?;
            }
        }
        if !mutants::is(Mutant::CommitFlush) {
            device.flush()?;
        }
        if mutants::is(Mutant::RootFirst) {
            return Ok(());
        }
        if mutants::is(Mutant::RootFua) {
            device.write(slot, &self.root)?;
        } else {
            device.write_fua(slot, &self.root)?;
        }
        Ok(())
    }
}

impl<D: Device> Volume<D> {
    /// Freezes the running transaction; `None` if nothing was changed. Only one commit may be in
    /// flight: [`finish`](Self::finish) the previous one first.
    ///
    /// # Errors
    /// [`Error::Miss`], as of any operation: read the block and call it again.
    pub fn freeze(&mut self, now: Time) -> Result<Option<Commit>> {
        self.check_alive()?;
        if !self.dirty {
            return Ok(None);
        }
        if self.generations.is_in_flight() {
            return Err(Error::Invalid("a commit is still being written"));
        }
        self.place_bitmaps()?;
        let blocks = self.space.dirty_groups() as usize + self.tree.dirty_nodes() + 1;
        let room = Room::new(blocks, self.geometry.block_bytes())?;
        let commit = Change::run(self, |change| {
            // Sealing fills in checksums: a failure in the middle counts as half a change.
            change.begun = true;
            change.seal(now, room)
        })?;
        self.generations.freeze();
        self.dirty = false;
        self.tree.freeze();
        self.space.freeze();
        if mutants::is(Mutant::PinCommit) {
            self.space.unpin();
        }
        Ok(Some(commit))
    }

    /// Gives the bitmap of each dirty group a new block. This takes and frees blocks itself and so makes
    /// more groups dirty; it ends because each group is placed once in a generation. After a miss it
    /// continues where it was.
    fn place_bitmaps(&mut self) -> Result<()> {
        for _ in 0..self.space.group_count().saturating_mul(2).saturating_add(1_000_000) {
            if let Some(index) = self.space.next_deferred() {
                self.load_group(index)?;
                self.space.apply_deferred()?;
                continue;
            }
            let running = self.generations.running();
            let Some(index) = self.space.next_unplaced(running) else { return Ok(()) };
            let key = group_key(index);
            self.tree()?.touch(key)?;
            self.space.reserve_frees(64)?;
            let splits = self.tree.levels() as usize + 1;
            self.tree.reserve(splits, splits)?;
            Change::run(self, |change| change.place_bitmap(index))?;
        }
        Err(Error::Bug("the bitmaps find no place"))
    }

    /// Ends the commit in flight with the result of writing it. If it failed the volume stops, because
    /// nobody knows what the medium holds.
    ///
    /// # Errors
    /// The commit's.
    pub fn finish(&mut self, commit: &Commit, result: Result<()>) -> Result<()> {
        self.generations.finish(result.is_ok().then_some(commit.generation));
        self.tree.finish();
        if let Err(error) = result {
            self.dead = !mutants::is(Mutant::CommitFailed);
            return Err(error);
        }
        self.space.unpin();
        Ok(())
    }

    /// Commits the running transaction, if there is one, and returns the newest durable generation.
    ///
    /// # Errors
    /// Those of [`freeze`](Self::freeze), [`Commit::write`] and the device.
    pub fn commit(&mut self, now: Time) -> Result<Generation> {
        if let Some(commit) = self.resolve(|volume| volume.freeze(now))? {
            let result = commit.write(&self.device);
            self.finish(&commit, result)?;
        }
        Ok(self.generations.durable())
    }

    /// Runs `operation` as a host does: reads the blocks that it misses and commits where it has to.
    ///
    /// # Errors
    /// The operation's; [`Error::NoSpace`] if commits do not make room.
    pub fn run<T>(
        &mut self,
        now: Time,
        mut operation: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..3 {
            match self.resolve(&mut operation) {
                Err(Error::NeedCommit) => {
                    self.commit(now)?;
                }
                other => return other,
            }
        }
        Err(Error::NoSpace)
    }
}

impl<D: Device> Change<'_, D> {
    /// Gives the bitmap of dirty group `index` its block in the running generation.
    fn place_bitmap(&mut self, index: u64) -> Result<()> {
        self.begun = true;
        let running = self.volume.generations.running();
        let space = &mut self.volume.space;
        let before = space.group(index).and_then(|group| group.pointer);
        let kept = before.filter(|_| mutants::is(Mutant::BitmapInPlace));
        let block = match kept {
            Some(old) => old.block,
            None => space.take_meta(Some(index))?,
        };
        let pointer = Pointer { block, generation: running, crc: 0 };
        let group = space.group_mut(index)?;
        group.placed = running;
        group.pointer = Some(pointer);
        if let Some(old) = before.filter(|_| kept.is_none()) {
            space.release(old.block, 1)?;
        }
        // The item has its final length: sealing changes it in place.
        self.put(group_key(index), group_item(pointer, 0).as_bytes())
    }

    /// Fills in the checksums of the running transaction and copies its blocks into a commit.
    fn seal(&mut self, now: Time, mut room: Room) -> Result<Commit> {
        let mut root = room.buffer()?;
        self.seal_bitmaps(&mut room)?;
        self.tree_mut().seal_nodes(&mut |pointer, data| room.add(pointer.block, data))?;
        // Sorted by address, for the device. The recursion of sort_unstable() overflows a kernel's stack.
        let blocks = BinaryHeap::from(room.blocks).into_sorted_vec();
        let record = self.root_record(now);
        for (to, from) in root.iter_mut().zip(record.as_bytes()) {
            *to = *from;
        }
        let generation = self.generations.running();
        Ok(Commit { generation, geometry: self.geometry, blocks, root })
    }

    fn seal_bitmaps(&mut self, room: &mut Room) -> Result<()> {
        let mut index = 0;
        while let Some((group, pointer, free)) = self.space.next_dirty(index) {
            index = group + 1;
            let mut bitmap = room.buffer()?;
            self.space.bitmap(group, &mut bitmap)?;
            if mutants::is(Mutant::BitmapStale) {
                // The first block after the backup superblock, which is the first to be used.
                bitmap.iter_mut().skip(4).take(1).for_each(|byte| *byte &= 3);
            }
            let sealed = Pointer { crc: vexfs_format::crc32c(&bitmap), ..pointer };
            self.volume.space.group_mut(group)?.pointer = Some(sealed);
            self.put(group_key(group), group_item(sealed, free).as_bytes())?;
            push(&mut room.blocks, (sealed.block, bitmap))?;
        }
        Ok(())
    }

    /// The root record of the running generation, whose nodes are sealed.
    fn root_record(&self, now: Time) -> RootRecord {
        RootRecord {
            magic: U32::new(ROOT_MAGIC),
            level: U32::new(u32::from(self.tree.level())),
            uuid: self.geometry.uuid,
            generation: U64::new(self.generations.running().0),
            tree: RawPointer::from(self.tree.root()),
            next_ino: U64::new(self.counters.next_ino),
            free_blocks: U64::new(self.space.free()),
            inodes: U64::new(self.counters.inodes),
            orphans: U64::new(self.counters.orphans),
            time_ns: U64::new(now.as_nanos() as u64),
            reserved: [0; 412],
            crc: U32::ZERO,
        }
        .sealed()
    }
}

const fn group_key(index: u64) -> Key {
    Key::new(Ino::SYSTEM, Kind::Group, index)
}

fn group_item(bitmap: Pointer, free: u64) -> GroupItem {
    let (bitmap, free) = (RawPointer::from(bitmap), U32::new(free as u32));
    GroupItem { bitmap, free, reserved: U32::ZERO }
}
