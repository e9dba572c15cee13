// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Room for a change: what it may need, and what is kept back for those that make room.
//!
//! Invariant: an operation that began with success finds blocks and memory for its nodes and blocks
//! for the commit that follows, so a full filesystem can always be deleted from.

use super::{Plan, Volume};
use crate::device::Device;
use crate::error::{Error, Missing, Result};
use crate::tree::parse_item;
use vexfs_format::node::Pointer;
use vexfs_format::{GroupItem, Ino, Key, Kind};

/// Paths of the tree that one operation may change, at most (`rename` with everything).
const PATHS: u64 = 9;
/// Groups that the frees of one operation may touch (a step of `evict`).
pub(crate) const GROUPS: u64 = 40;
/// Places of the tree that one operation puts new items in, at most: a name and an inode, a name and an orphan.
const NEW_PLACES: u64 = 2;

/// What a change may need beyond the nodes of its paths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    leaves: u64,
    may_use_reserve: bool,
}

impl Need {
    /// Of a change that makes the filesystem fuller.
    pub(crate) const fn growth() -> Self {
        Self { leaves: 0, may_use_reserve: false }
    }

    /// Of a change that frees something, or leaves as much in use as there was.
    pub(crate) const fn upkeep() -> Self {
        Self { leaves: 0, may_use_reserve: true }
    }

    /// The same, and up to `leaves` new leaves for many items in a row.
    pub(crate) const fn with_leaves(self, leaves: u64) -> Self {
        Self { leaves, ..self }
    }
}

impl<D: Device> Volume<D> {
    /// Blocks one operation may take for nodes: each path copied, and split at every level.
    fn operation_cost(&self) -> u64 {
        PATHS * (2 * self.tree.levels() + 1)
    }

    /// Blocks the commit may take: a bitmap for each group, and the paths to their items.
    fn commit_cost(&self, groups: u64) -> u64 {
        let groups = groups.min(self.space.group_count());
        groups + (groups / 32 + 1) * (2 * self.tree.levels() + 1) + 8
    }

    /// Blocks kept back for deletions, commits and attributes.
    pub(super) fn reserve(&self) -> u64 {
        let blocks = self.geometry.blocks;
        let twice = 2 * (self.operation_cost() + self.commit_cost(GROUPS));
        twice.max((blocks / 64).min(16_384)).min(blocks / 2)
    }

    /// Blocks that file data may take right now, at least one once a growth was [begun](Self::begin).
    pub(crate) fn data_room(&self) -> u64 {
        let kept = self.operation_cost()
            + self.commit_cost(self.space.dirty_groups() + GROUPS)
            + self.reserve();
        self.space.available().saturating_sub(kept).max(1)
    }

    /// Begins an operation: makes sure of blocks and memory for what it may `need`. Nothing is changed.
    ///
    /// # Errors
    /// [`Error::NeedCommit`] if a commit may make room, [`Error::NoSpace`] if it cannot.
    pub(crate) fn begin(&mut self, need: Need) -> Result<Plan<'_, D>> {
        self.check_alive()?;
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.tree.trim_clean(self.generations.durable());
        if self.tree.dirty_nodes() as u64 > (self.geometry.blocks / 16).clamp(64, 4096) {
            return Err(Error::NeedCommit);
        }
        let nodes = self.operation_cost() + need.leaves;
        let room = nodes + self.commit_cost(self.space.dirty_groups() + GROUPS);
        let kept = if need.may_use_reserve { 0 } else { self.reserve() };
        if self.space.available() < room + kept {
            let may_help = self.space.has_pins() || self.generations.is_in_flight();
            return Err(if may_help { Error::NeedCommit } else { Error::NoSpace });
        }
        self.load_room(room)?;
        self.space.reserve_frees(64 + GROUPS as usize * 2)?;
        let splits = NEW_PLACES * (self.tree.levels() + 1) + need.leaves;
        self.tree.reserve(nodes as usize, splits as usize)?;
        Ok(Plan::new(self))
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
    pub(super) fn load_group(&mut self, index: u64) -> Result<()> {
        if self.space.is_loaded(index) {
            return Ok(());
        }
        match self.group_item(index)? {
            None => self.space.insert_fresh(index),
            Some((pointer, _)) => Err(Error::Miss(Missing { pointer, group: Some(index) })),
        }
    }

    /// The item of group `index`: (bitmap's pointer, free blocks).
    pub(super) fn group_item(&self, index: u64) -> Result<Option<(Pointer, u64)>> {
        let key = Key::new(Ino::SYSTEM, Kind::Group, index);
        let Some(payload) = self.tree()?.get(key)? else { return Ok(None) };
        let item: GroupItem = parse_item(payload, "a group's item has the wrong length")?;
        Ok(Some((item.bitmap.into(), u64::from(item.free.get()))))
    }
}
