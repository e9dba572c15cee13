// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An operation that modifies the filesystem, in two halves that the compiler keeps apart.
//!
//! `Volume::begin` reserves blocks and memory and returns a [`Plan`]. With it the operation reads and
//! checks all that it needs, which may miss or fail and changes nothing. [`Plan::change`] consumes the
//! plan and gives the operation a [`Change`], the only type with functions that modify. All that these
//! need was read and reserved, so they neither miss nor allocate memory.
//!
//! Invariant: a change that fails after it modified something stops the volume, so half a change is
//! never committed.

use super::Volume;
use crate::device::Device;
use crate::error::Result;
use crate::tree::TreeMut;
use core::ops::Deref;
use vexfs_format::{BlockNr, Key};

/// An operation for which room is reserved and that changed nothing yet.
#[derive(Debug)]
pub(crate) struct Plan<'v, D> {
    volume: &'v mut Volume<D>,
    /// Blocks that its nodes and the commit that follows may take.
    room: u64,
}

impl<D> Deref for Plan<'_, D> {
    type Target = Volume<D>;
    fn deref(&self) -> &Volume<D> {
        self.volume
    }
}

impl<'v, D: Device> Plan<'v, D> {
    pub(super) const fn new(volume: &'v mut Volume<D>, room: u64) -> Self {
        Self { volume, room }
    }

    /// Loads groups until `count` blocks for file data leave room in the loaded ones for the nodes of
    /// this change and of the commit: these cannot load a group.
    pub(crate) fn reserve_data(&mut self, count: u64) -> Result<()> {
        self.volume.load_room(self.room.saturating_add(count))
    }

    /// Loads group `index`, or misses its bitmap.
    pub(crate) fn load_group(&mut self, index: u64) -> Result<()> {
        self.volume.load_group(index)
    }

    /// Runs the half of the operation that modifies. It fails only because of damage or a bug; if it
    /// does after it modified something, the volume stops.
    pub(crate) fn change<T>(
        self,
        modify: impl FnOnce(&mut Change<'v, D>) -> Result<T>,
    ) -> Result<T> {
        Change::run(self.volume, modify)
    }
}

/// The half of an operation that modifies: every function that modifies is one of this type.
#[derive(Debug)]
pub(crate) struct Change<'v, D> {
    pub(super) volume: &'v mut Volume<D>,
    /// Whether something was modified.
    pub(super) begun: bool,
}

impl<D> Deref for Change<'_, D> {
    type Target = Volume<D>;
    fn deref(&self) -> &Volume<D> {
        self.volume
    }
}

impl<'v, D: Device> Change<'v, D> {
    /// Runs `modify`, for which the caller reserved room.
    pub(super) fn run<T>(
        volume: &'v mut Volume<D>,
        modify: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        #[cfg(test)]
        let memory = volume.memory();
        let mut change = Self { volume, begun: false };
        let result = modify(&mut change);
        #[cfg(test)]
        assert_eq!(change.volume.memory(), memory, "a change took memory");
        if change.begun {
            change.volume.dirty = true;
            change.volume.dead |= result.is_err();
        }
        result
    }

    pub(super) const fn tree_mut(&mut self) -> TreeMut<'_> {
        let running = self.volume.generations.running();
        let (tree, space) = (&mut self.volume.tree, &mut self.volume.space);
        TreeMut { tree, space, running, begun: &mut self.begun }
    }

    /// Puts the item at `key`, in place of the one that is there.
    pub(crate) fn put(&mut self, key: Key, payload: &[u8]) -> Result<()> {
        self.tree_mut().put(key, payload)
    }

    /// Removes the item at `key`; false if there is none.
    pub(crate) fn remove(&mut self, key: Key) -> Result<bool> {
        self.tree_mut().remove(key)
    }

    /// Allocates free blocks for file data and moves the data cursor behind them.
    pub(crate) fn take(&mut self, start: BlockNr, count: u64) -> Result<()> {
        self.begun = true;
        self.volume.space.take(start, count)?;
        self.volume.space.set_data_cursor(BlockNr(start.0.saturating_add(count)));
        Ok(())
    }

    /// Frees blocks; they stay pinned until the commit that frees them is durable.
    pub(crate) fn release(&mut self, start: BlockNr, count: u64) -> Result<()> {
        self.begun = true;
        self.volume.space.release(start, count)
    }

    /// Counts an inode whose item was put with the number `next_ino`.
    pub(crate) const fn inode_made(&mut self) {
        self.begun = true;
        self.volume.counters.inode_made();
    }

    /// Counts an inode whose item was removed.
    pub(crate) const fn inode_gone(&mut self) {
        self.begun = true;
        self.volume.counters.inode_gone();
    }

    /// Counts an orphan whose item was put.
    pub(crate) const fn orphan_listed(&mut self) {
        self.begun = true;
        self.volume.counters.orphan_listed();
    }

    /// Counts an orphan whose item was removed.
    pub(crate) const fn orphan_unlisted(&mut self) {
        self.begun = true;
        self.volume.counters.orphan_unlisted();
    }
}
