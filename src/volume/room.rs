// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Room for a change: how many blocks it may need, and how many are reserved for changes that free some.
//!
//! Invariant: after a successful `begin` there are blocks and memory for the nodes of the operation and
//! blocks for the commit that follows. So files of a full filesystem can always be deleted.

use super::{Plan, Volume};
use crate::device::Device;
use crate::error::{Error, Missing, Result};
use crate::tree::parse_item;
use vexfs_format::node::Pointer;
use vexfs_format::{GroupItem, Ino, Key, Kind};

/// Most paths of the tree that one operation changes (a `rename` that replaces).
const PATHS: u64 = 9;
/// Most groups in which one operation frees blocks (a step of `evict`).
pub(crate) const GROUPS: u64 = 40;
/// Most places of the tree in which one operation puts new items: a name and an inode, a name and an orphan.
const NEW_PLACES: u64 = 2;

/// What a change needs beyond the nodes of its paths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    leaves: u64,
    may_use_reserve: bool,
}

impl Need {
    /// The need of a change that uses more space; it may not take from the reserve.
    pub(crate) const fn growth() -> Self {
        Self { leaves: 0, may_use_reserve: false }
    }

    /// The need of a change that frees space, or uses no more than before; it may take from the reserve.
    pub(crate) const fn upkeep() -> Self {
        Self { leaves: 0, may_use_reserve: true }
    }

    /// The same need with up to `leaves` more leaves, for many items in a row.
    pub(crate) const fn with_leaves(self, leaves: u64) -> Self {
        Self { leaves, ..self }
    }
}

impl<D: Device> Volume<D> {
    /// Blocks that the nodes of one operation may take: each path copied, and split at every level.
    fn operation_cost(&self) -> u64 {
        PATHS * (2 * self.tree.levels() + 1)
    }

    /// Blocks that the commit may take: a bitmap for each group, and the paths to their items.
    fn commit_cost(&self, groups: u64) -> u64 {
        let groups = groups.min(self.space.group_count());
        groups + (groups / 32 + 1) * (2 * self.tree.levels() + 1) + 8
    }

    /// Blocks that are reserved for deletions, commits and changes of attributes.
    pub(super) fn reserve(&self) -> u64 {
        let blocks = self.geometry.blocks;
        let twice = 2 * (self.operation_cost() + self.commit_cost(GROUPS));
        twice.max((blocks / 64).min(16_384)).min(blocks / 2)
    }

    /// Blocks that file data may take at this moment; after [`begin`](Self::begin) with
    /// [`Need::growth`] there is at least one.
    pub(crate) fn data_room(&self) -> u64 {
        let kept = self.operation_cost()
            + self.commit_cost(self.space.dirty_groups() + GROUPS)
            + self.reserve();
        self.space.available().saturating_sub(kept).max(1)
    }

    /// Begins an operation: reserves blocks and memory for its `need`. Nothing is changed.
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
        Ok(Plan::new(self, room))
    }

    /// Loads groups until `room` blocks are available in the loaded ones.
    pub(super) fn load_room(&mut self, room: u64) -> Result<()> {
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

    /// Loads group `index`, or misses its bitmap.
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
