// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Commits: the running transaction becomes one root record.
//!
//! Protocol: [`Volume::freeze`] gives every dirty bitmap and node its checksum and copies it into a
//! [`Commit`]; [`Commit::write`] writes them, flushes, and writes the root record with FUA, without
//! the volume; [`Volume::finish`] makes what the commit freed usable. Between freeze and finish the
//! next transaction runs.
//!
//! Invariant: nothing that a durable root reaches is written over, and the root record is written
//! after everything it reaches is durable.

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

/// A frozen transaction: everything that has to reach the medium, owned.
#[derive(Debug)]
pub struct Commit {
    generation: Generation,
    geometry: Geometry,
    blocks: Vec<(BlockNr, Vec<u8>)>,
    /// The root record's block.
    root: Vec<u8>,
}

/// Writes that are handed to the device at once where there is no memory for a list of all.
const FEW_WRITES: usize = 32;

/// Memory for a commit, taken before anything is changed for it.
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

    /// A buffer for one more block.
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

    /// Blocks it writes, the root record's not counted.
    pub const fn len_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Writes it: nodes and bitmaps, flush, root record. File data that must be durable with it has
    /// to be complete before.
    ///
    /// # Errors
    /// The device's. Whatever came of it, hand the result to [`Volume::finish`].
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
    /// Freezes the running transaction; `None` if nothing was changed. One commit at a time may be
    /// under way: [`finish`](Self::finish) the last one first.
    ///
    /// # Errors
    /// [`Error::Miss`] as any operation; call it again after the block was read.
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
            // From here on nothing misses or takes memory; a failure leaves checksums half filled in.
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

    /// Gives each dirty group's bitmap a new block. That frees and takes blocks in turn, so it goes on
    /// until none is left without; each group is placed once in a generation. May miss, and then goes on where it was.
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

    /// Takes note of how the commit went. If it failed the volume stops: what the medium holds is not known.
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

    /// Runs an operation with everything a host does: reads what it misses, commits when it must.
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
        // The item exists from here on, at its final length: the seal only fills it in.
        self.put(group_key(index), group_item(pointer, 0).as_bytes())
    }

    /// Copies the running transaction into a commit, everything with its checksum.
    fn seal(&mut self, now: Time, mut room: Room) -> Result<Commit> {
        let mut root = room.buffer()?;
        self.seal_bitmaps(&mut room)?;
        self.tree_mut().seal_nodes(&mut |pointer, data| room.add(pointer.block, data))?;
        // By address, for the device. Not sort_unstable(): its recursion overflows a kernel's stack.
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
