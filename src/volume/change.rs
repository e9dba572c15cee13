// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One operation's change of the filesystem, in two halves that the compiler keeps apart.
//!
//! [`Volume::begin`](super::Volume) makes sure of blocks and memory and hands out a [`Plan`], with which an operation reads
//! and checks all it needs: that may miss and fails cleanly. [`Plan::change`] uses the plan up and hands
//! out a [`Change`], the only value that has functions that modify. What it needs was read and
//! reserved, so it neither misses nor takes memory.
//!
//! Invariant: a change that fails after it modified something stops the volume, so that nothing
//! half done is ever committed.

use super::Volume;
use crate::device::Device;
use crate::error::Result;
use crate::tree::TreeMut;
use core::ops::Deref;
use vexfs_format::{BlockNr, Key};

/// An operation that began: room is reserved, nothing is changed.
#[derive(Debug)]
pub(crate) struct Plan<'v, D> {
    volume: &'v mut Volume<D>,
}

impl<D> Deref for Plan<'_, D> {
    type Target = Volume<D>;
    fn deref(&self) -> &Volume<D> {
        self.volume
    }
}

impl<'v, D: Device> Plan<'v, D> {
    pub(super) const fn new(volume: &'v mut Volume<D>) -> Self {
        Self { volume }
    }

    /// Brings group `index` into memory, or misses its bitmap.
    pub(crate) fn load_group(&mut self, index: u64) -> Result<()> {
        self.volume.load_group(index)
    }

    /// Runs the half of the operation that modifies. It fails only where the engine or the tree is
    /// broken; if it does after it modified something, the volume stops.
    pub(crate) fn change<T>(
        self,
        modify: impl FnOnce(&mut Change<'v, D>) -> Result<T>,
    ) -> Result<T> {
        Change::run(self.volume, modify)
    }
}

/// A change under way: everything that modifies is a function of this.
#[derive(Debug)]
pub(crate) struct Change<'v, D> {
    pub(super) volume: &'v mut Volume<D>,
    /// Something was modified.
    pub(super) begun: bool,
}

impl<D> Deref for Change<'_, D> {
    type Target = Volume<D>;
    fn deref(&self) -> &Volume<D> {
        self.volume
    }
}

impl<'v, D: Device> Change<'v, D> {
    /// Runs `modify`, for which the caller made room.
    pub(super) fn run<T>(
        volume: &'v mut Volume<D>,
        modify: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut change = Self { volume, begun: false };
        let result = modify(&mut change);
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

    /// Takes free blocks for file data; the next are looked for behind them.
    pub(crate) fn take(&mut self, start: BlockNr, count: u64) -> Result<()> {
        self.begun = true;
        self.volume.space.take(start, count)?;
        self.volume.space.set_data_cursor(BlockNr(start.0.saturating_add(count)));
        Ok(())
    }

    /// Gives blocks back; they stay pinned until the commit that does so is durable.
    pub(crate) fn release(&mut self, start: BlockNr, count: u64) -> Result<()> {
        self.begun = true;
        self.volume.space.release(start, count)
    }

    /// Counts an inode whose item was put at the number that was next.
    pub(crate) const fn inode_made(&mut self) {
        self.volume.counters.inode_made();
    }

    /// Counts an inode whose item was removed.
    pub(crate) const fn inode_gone(&mut self) {
        self.volume.counters.inode_gone();
    }

    /// Counts an orphan whose item was put.
    pub(crate) const fn orphan_listed(&mut self) {
        self.volume.counters.orphan_listed();
    }

    /// Counts an orphan whose item was removed.
    pub(crate) const fn orphan_unlisted(&mut self) {
        self.volume.counters.orphan_unlisted();
    }
}
