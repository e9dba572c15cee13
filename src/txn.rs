// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Transactions: room is made sure of before a change, and a commit is one root record.
//!
//! Protocol: [`Volume::freeze`] gives every dirty bitmap and node its checksum and copies it into a
//! [`Commit`]; [`Commit::write`] writes them, flushes, and writes the root record with FUA, without
//! the volume; [`Volume::finish`] makes what the commit freed usable. Between freeze and finish the
//! next transaction runs.
//!
//! Invariant: an operation that began with success finds room for its nodes and for the commit that
//! follows, so a full filesystem can always be deleted from. An operation that fails after it
//! changed something stops the volume: nothing half done is ever committed.

use crate::buffer::{push, zeroed};
use crate::device::{Device, Write};
use crate::error::{Error, Missing, Result};
use crate::superblock::Geometry;
use crate::types::Time;
use crate::volume::Volume;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use vexfs_format::mutants::{self, Mutant};
use vexfs_format::node::RawPointer;
use vexfs_format::root::ROOT_MAGIC;
use vexfs_format::{
    BlockNr, Generation, GroupItem, Ino, Key, Kind, ROOT_RING_START, ROOT_SLOTS, RootRecord,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Paths of the tree that one operation may change, at most (`rename` with everything).
const PATHS: u64 = 9;
/// Groups that the frees of one operation may touch (a step of `evict`).
pub(crate) const GROUPS: u64 = 40;

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
        self.buffers.pop().ok_or(Error::internal("a commit has more blocks than were counted"))
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
    /// Blocks one operation may take for nodes: each path copied, and split at every level.
    fn operation_cost(&self) -> u64 {
        PATHS * (2 * self.levels() + 1)
    }

    /// Blocks the commit may take: a bitmap for each group, and the paths to their items.
    fn commit_cost(&self, groups: u64) -> u64 {
        let groups = groups.min(self.space.group_count());
        groups + (groups / 32 + 1) * (2 * self.levels() + 1) + 8
    }

    /// Blocks kept back for deletions, commits and attributes.
    pub(crate) fn reserve(&self) -> u64 {
        let blocks = self.geometry.blocks;
        let twice = 2 * (self.operation_cost() + self.commit_cost(GROUPS));
        twice.max((blocks / 64).min(16_384)).min(blocks / 2)
    }

    /// Blocks that file data may take right now, at least one after a [`begin`](Self::begin) that grows.
    pub(crate) fn data_room(&self) -> u64 {
        let kept = self.operation_cost()
            + self.commit_cost(self.space.dirty_groups() + GROUPS)
            + self.reserve();
        self.space.available().saturating_sub(kept).max(1)
    }

    /// Opens an operation that may take `extra` blocks beyond its paths. `grow`: it may not use the reserve.
    /// Nothing is changed before it succeeds.
    ///
    /// # Errors
    /// [`Error::NeedCommit`] if a commit may make room, [`Error::NoSpace`] if it cannot.
    pub(crate) fn begin(&mut self, extra: u64, grow: bool) -> Result<()> {
        self.check_alive()?;
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let evictable = self.evictable();
        self.cache.trim_beside(self.dirty_nodes.saturating_add(self.frozen_nodes), evictable);
        if self.dirty_nodes as u64 > (self.geometry.blocks / 16).clamp(64, 4096) {
            return Err(Error::NeedCommit);
        }
        let nodes = self.operation_cost() + extra;
        let mut needed = nodes + self.commit_cost(self.space.dirty_groups() + GROUPS);
        let room = needed;
        if grow {
            needed += self.reserve();
        }
        if self.space.available() < needed {
            let may_help = self.space.has_pins() || self.in_flight.is_some();
            return Err(if may_help { Error::NeedCommit } else { Error::NoSpace });
        }
        self.load_room(room)?;
        self.space.reserve_frees(64 + GROUPS as usize * 2)?;
        self.cache.reserve(nodes as usize)?;
        let spares = (2 * self.levels() + 2 + extra) as usize;
        while self.spares.len() < spares {
            let spare = zeroed(self.geometry.block_bytes())?;
            push(&mut self.spares, spare)?;
        }
        Ok(())
    }

    /// Brings groups into memory until `room` blocks can be handed out from them.
    fn load_room(&mut self, room: u64) -> Result<()> {
        let count = self.space.group_count();
        let mut index = self.space.group_of(self.space.meta_cursor());
        for _ in 0..=count {
            if self.space.available_loaded() >= room {
                return Ok(());
            }
            if !self.space.is_loaded(index) && self.group_may_have_room(index)? {
                self.load_group(index)?;
            }
            index = if index + 1 < count { index + 1 } else { 0 };
        }
        Err(if self.space.has_pins() { Error::NeedCommit } else { Error::NoSpace })
    }

    /// False if group `index` is known to be full.
    pub(crate) fn group_may_have_room(&self, index: u64) -> Result<bool> {
        match self.space.group(index) {
            Some(group) => Ok(group.available() > 0),
            None => Ok(self.group_item(index)?.is_none_or(|(_, free)| free > 0)),
        }
    }

    /// Brings group `index` into memory, or misses its bitmap.
    pub(crate) fn load_group(&mut self, index: u64) -> Result<()> {
        if self.space.is_loaded(index) {
            return Ok(());
        }
        match self.group_item(index)? {
            None => self.space.insert_fresh(index),
            Some((pointer, _)) => Err(Error::Miss(Missing { pointer, group: Some(index) })),
        }
    }

    /// Runs the changing part of an operation. It fails only where the engine or the tree is broken;
    /// if it does after a change, the volume stops.
    pub(crate) fn change<T>(&mut self, apply: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.changes;
        let result = apply(self);
        if result.is_err() && self.changes != before {
            self.dead = true;
        }
        result
    }

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
        if self.in_flight.is_some() {
            return Err(Error::Invalid("a commit is still being written"));
        }
        self.place_bitmaps()?;
        let blocks = self.space.dirty_groups() as usize + self.dirty_nodes + 1;
        let room = Room::new(blocks, self.geometry.block_bytes())?;
        let commit = self.change(|volume| {
            // From here on nothing misses or takes memory; a failure leaves checksums half filled in.
            volume.changes = volume.changes.wrapping_add(1);
            volume.seal(now, room)
        })?;
        self.in_flight = Some(self.running);
        self.running = Generation(self.running.0.saturating_add(1));
        self.dirty = false;
        self.frozen_nodes = core::mem::take(&mut self.dirty_nodes);
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
            let Some(index) = self.space.next_unplaced(self.running) else { return Ok(()) };
            let key = Key::new(Ino::SYSTEM, Kind::Group, index);
            self.touch(key)?;
            self.space.reserve_frees(64)?;
            let running = self.running;
            self.change(|volume| {
                volume.changes = volume.changes.wrapping_add(1);
                let before = volume.space.group(index).and_then(|group| group.pointer);
                let kept = before.filter(|_| mutants::is(Mutant::BitmapInPlace));
                let block = match kept {
                    Some(old) => old.block,
                    None => volume.space.take_meta(Some(index))?,
                };
                let pointer = vexfs_format::node::Pointer { block, generation: running, crc: 0 };
                let group = volume.space.group_mut(index)?;
                group.placed = running;
                group.pointer = Some(pointer);
                if let Some(old) = before.filter(|_| kept.is_none()) {
                    volume.space.release(old.block, 1)?;
                }
                // The item exists from here on, at its final length: the seal only fills it in.
                let item = GroupItem {
                    bitmap: RawPointer::from(pointer),
                    free: U32::ZERO,
                    reserved: U32::ZERO,
                };
                volume.put(key, item.as_bytes())
            })?;
        }
        Err(Error::internal("the bitmaps find no place"))
    }

    fn seal(&mut self, now: Time, mut room: Room) -> Result<Commit> {
        let mut root = room.buffer()?;
        let mut index = 0;
        while let Some((group, pointer, free)) = self.space.next_dirty(index) {
            index = group + 1;
            let mut bitmap = room.buffer()?;
            self.space.bitmap(group, &mut bitmap)?;
            if mutants::is(Mutant::BitmapStale) {
                // The first block after the backup superblock, which is the first to be used.
                bitmap.iter_mut().skip(4).take(1).for_each(|byte| *byte &= 3);
            }
            let sealed =
                vexfs_format::node::Pointer { crc: vexfs_format::crc32c(&bitmap), ..pointer };
            self.space.group_mut(group)?.pointer = Some(sealed);
            let item = GroupItem {
                bitmap: RawPointer::from(sealed),
                free: U32::new(free as u32),
                reserved: U32::ZERO,
            };
            self.put(Key::new(Ino::SYSTEM, Kind::Group, group), item.as_bytes())?;
            push(&mut room.blocks, (sealed.block, bitmap))?;
        }
        self.seal_nodes(&mut |pointer, data| room.add(pointer.block, data))?;
        // By address, for the device. Not sort_unstable(): its recursion overflows a kernel's stack.
        let blocks = BinaryHeap::from(room.blocks).into_sorted_vec();
        let record = RootRecord {
            magic: U32::new(ROOT_MAGIC),
            level: U32::new(u32::from(self.level)),
            uuid: self.geometry.uuid,
            generation: U64::new(self.running.0),
            tree: RawPointer::from(self.root),
            next_ino: U64::new(self.next_ino),
            free_blocks: U64::new(self.space.free()),
            inodes: U64::new(self.inodes),
            orphans: U64::new(self.orphans),
            time_ns: U64::new(now.as_nanos() as u64),
            reserved: [0; 412],
            crc: U32::ZERO,
        }
        .sealed();
        for (to, from) in root.iter_mut().zip(record.as_bytes()) {
            *to = *from;
        }
        Ok(Commit { generation: self.running, geometry: self.geometry, blocks, root })
    }

    /// Takes note of how the commit went. If it failed the volume stops: what the medium holds is not known.
    ///
    /// # Errors
    /// The commit's.
    pub fn finish(&mut self, commit: &Commit, result: Result<()>) -> Result<()> {
        self.in_flight = None;
        self.frozen_nodes = 0;
        if let Err(error) = result {
            self.dead = !mutants::is(Mutant::CommitFailed);
            return Err(error);
        }
        self.durable = commit.generation;
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
        Ok(self.durable)
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
