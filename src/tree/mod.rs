// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The copy-on-write B+tree: the nodes in memory and how items are found in them.
//!
//! Invariant: every node below `root` that is not durable is in the cache; all others are on the device
//! where their pointers say and may be evicted. Nothing here does I/O: a node that is not cached is
//! named in [`Error::Miss`], and the owner of the device reads it. [`TreeMut`] changes the tree.

mod cache;
mod modify;
pub(crate) mod node;
#[cfg(test)]
mod tests;

pub use cache::LoadedNode;
use cache::{NodeCache, NodeId};
pub(crate) use modify::TreeMut;

use crate::buffer::{push, zeroed};
use crate::error::{Error, Missing, Result};
use crate::superblock::Geometry;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use vexfs_format::node::Pointer;
use vexfs_format::{Generation, Key, LEVELS_MAX};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Parses an item's payload, which must have exactly the item's length.
pub(crate) fn parse_item<T>(payload: &[u8], what: &'static str) -> Result<T>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::read_from_bytes(payload).map_err(|_| Error::damaged(what))
}

/// Damage and not a bug: a tree that grew by insertions never needs so many levels, but in a crafted
/// image every node of a path may be full.
const TOO_DEEP: Error = Error::damaged("the tree has more levels than the format allows");

/// What a scan calls for each item; it returns `Break` to stop.
pub(crate) type Visit<'a> = dyn FnMut(Key, &[u8]) -> Result<ControlFlow<()>> + 'a;

/// Where a search for a key ended.
struct Descent {
    /// The leaf that holds the key if any does.
    leaf: NodeId,
    /// Lower bound of the keys in the next leaf to the right.
    right: Option<Key>,
    /// Root and level of the next subtree to the left.
    left: Option<(Pointer, u8)>,
}

/// The tree of the running transaction.
#[derive(Debug)]
pub(crate) struct Tree {
    geometry: Geometry,
    cache: NodeCache,
    root: Pointer,
    level: u8,
    /// Nodes of the running generation.
    dirty_nodes: usize,
    /// Nodes of the commit in flight.
    frozen_nodes: usize,
    /// Node buffers allocated before a change, for the nodes that it makes.
    spares: Vec<Vec<u8>>,
    /// As long as a node: where the items of a leaf are compacted.
    scratch: Vec<u8>,
}

impl Tree {
    /// A tree without a root, which [`adopt`](Self::adopt) gives it. Its cache keeps about `cache_nodes`
    /// clean nodes.
    pub(crate) fn new(geometry: Geometry, cache_nodes: usize) -> Result<Self> {
        Ok(Self {
            geometry,
            cache: NodeCache::new(cache_nodes)?,
            root: Pointer::default(),
            level: 0,
            dirty_nodes: 0,
            frozen_nodes: 0,
            spares: Vec::new(),
            scratch: zeroed(geometry.block_bytes())?,
        })
    }

    /// Makes the tree of `root` the current one.
    pub(crate) const fn adopt(&mut self, root: Pointer, level: u8) {
        self.root = root;
        self.level = level;
    }

    pub(crate) const fn root(&self) -> Pointer {
        self.root
    }

    /// Level of the root; leaves are on level 0.
    pub(crate) const fn level(&self) -> u8 {
        self.level
    }

    /// Levels of the tree.
    pub(crate) fn levels(&self) -> u64 {
        u64::from(self.level).saturating_add(1).min(LEVELS_MAX as u64)
    }

    pub(crate) const fn dirty_nodes(&self) -> usize {
        self.dirty_nodes
    }

    // --- nodes in memory ---

    pub(crate) const fn cached_nodes(&self) -> usize {
        self.cache.len()
    }

    pub(crate) fn is_cached(&self, pointer: &Pointer) -> bool {
        self.cache.find(pointer).is_some()
    }

    /// The cached node of `pointer`, which must be on `level`.
    // Every step of every descent: as a call of its own it made creating and removing files 4 to 10% slower
    // in the kernel, where a return costs more than here.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "measured in the kernel")]
    fn node(&self, pointer: &Pointer, level: u8) -> Result<NodeId> {
        let Some(id) = self.cache.find(pointer) else { return Err(self.miss(pointer)) };
        if node::header(self.data(id)?)?.level != level {
            return Err(Error::block(pointer.block, "a node is not on the level its parent says"));
        }
        Ok(id)
    }

    /// Why the node of `pointer` is not cached.
    #[cold]
    fn miss(&self, pointer: &Pointer) -> Error {
        // Reading the block would not help: it was allocated anew while the tree still reaches it.
        if self.cache.has_newer(pointer.block, pointer.generation) {
            return Error::block(pointer.block, "the block of a node was marked free");
        }
        Error::Miss(Missing::node(*pointer))
    }

    fn data(&self, id: NodeId) -> Result<&[u8]> {
        Ok(&self.cache.get(id)?.data)
    }

    /// The bytes of the cached node of `pointer`, which must be on `level`.
    pub(crate) fn node_data(&self, pointer: &Pointer, level: u8) -> Result<&[u8]> {
        self.data(self.node(pointer, level)?)
    }

    /// Caches a verified node, unless a newer node of its block is cached.
    pub(crate) fn install(&mut self, pointer: Pointer, data: Vec<u8>) -> Result<()> {
        if !self.is_cached(&pointer) && !self.cache.has_newer(pointer.block, pointer.generation) {
            self.cache.insert(pointer, data)?;
        }
        Ok(())
    }

    /// Evicts nodes that were not used lately until the cache is within its limit; those newer than
    /// `durable` stay.
    pub(crate) fn trim(&mut self, durable: Generation) {
        self.cache.trim(durable);
    }

    /// As [`trim`](Self::trim), but the limit does not count nodes that cannot be evicted.
    pub(crate) fn trim_clean(&mut self, durable: Generation) {
        self.cache.trim_beside(self.dirty_nodes.saturating_add(self.frozen_nodes), durable);
    }

    /// As [`trim`](Self::trim), down to `limit` nodes.
    pub(crate) fn trim_to(&mut self, limit: usize, durable: Generation) {
        self.cache.trim_to(limit, durable);
    }

    /// Allocates the memory that a change needs to cache `nodes` more nodes and to make `splits` new ones.
    pub(crate) fn reserve(&mut self, nodes: usize, splits: usize) -> Result<()> {
        self.cache.reserve(nodes)?;
        while self.spares.len() < splits {
            let spare = zeroed(self.geometry.block_bytes())?;
            push(&mut self.spares, spare)?;
        }
        Ok(())
    }

    /// Lengths that the cache's lists and the list of spares have memory for.
    #[cfg(test)]
    pub(crate) const fn memory(&self) -> ([usize; 3], usize) {
        (self.cache.memory(), self.spares.capacity())
    }

    /// The dirty nodes are those of the commit in flight from here on.
    pub(crate) const fn freeze(&mut self) {
        self.frozen_nodes = self.dirty_nodes;
        self.dirty_nodes = 0;
    }

    /// The commit in flight ended.
    pub(crate) const fn finish(&mut self) {
        self.frozen_nodes = 0;
    }

    // --- finding items ---

    fn descend(&self, key: Key) -> Result<Descent> {
        let (mut pointer, mut level) = (self.root, self.level);
        let (mut right, mut left) = (None, None);
        for _ in 0..LEVELS_MAX {
            let id = self.node(&pointer, level)?;
            if level == 0 {
                return Ok(Descent { leaf: id, right, left });
            }
            let data = self.data(id)?;
            let index = node::child_index(data, key)?;
            let entries = node::entries(data)?;
            level -= 1;
            if let Some(entry) = entries.get(index + 1) {
                right = Some(entry.key.into());
            }
            if let Some(entry) = index.checked_sub(1).and_then(|i| entries.get(i)) {
                left = Some((entry.child.into(), level));
            }
            pointer = node::child(data, index)?;
        }
        Err(TOO_DEEP)
    }

    /// The item at `key`.
    pub(crate) fn get(&self, key: Key) -> Result<Option<&[u8]>> {
        let data = self.data(self.descend(key)?.leaf)?;
        match node::leaf_find(data, key)? {
            Ok(index) => Ok(node::leaf_item(data, index)?.map(|(_, payload)| payload)),
            Err(_) => Ok(None),
        }
    }

    /// Fails with a miss unless the whole path to `key` is cached.
    pub(crate) fn touch(&self, key: Key) -> Result<()> {
        self.descend(key).map(|_| ())
    }

    /// Calls `visit` with the items from `from` to `to`, both included, until it breaks.
    /// A miss may come after some were visited.
    pub(crate) fn scan(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<()> {
        let mut key = from;
        loop {
            let Descent { leaf, right, .. } = self.descend(key)?;
            let data = self.data(leaf)?;
            let (Ok(start) | Err(start)) = node::leaf_find(data, key)?;
            for index in start..node::count(data)? {
                let Some((found, payload)) = node::leaf_item(data, index)? else { break };
                if found > to || visit(found, payload)?.is_break() {
                    return Ok(());
                }
            }
            // The bound grows with every leaf, so the loop ends.
            match right {
                Some(bound) if bound > key && bound <= to => key = bound,
                _ => return Ok(()),
            }
        }
    }

    /// The first item from `from` to `to`, both included.
    pub(crate) fn first(&self, from: Key, to: Key) -> Result<Option<(Key, &[u8])>> {
        let mut key = from;
        loop {
            let Descent { leaf, right, .. } = self.descend(key)?;
            let data = self.data(leaf)?;
            let (Ok(index) | Err(index)) = node::leaf_find(data, key)?;
            if let Some(item) = node::leaf_item(data, index)? {
                return Ok(Some(item).filter(|(found, _)| *found <= to));
            }
            match right {
                Some(bound) if bound > key && bound <= to => key = bound,
                _ => return Ok(None),
            }
        }
    }

    /// The last item of `key`'s inode and kind that is not above `key`.
    pub(crate) fn floor(&self, key: Key) -> Result<Option<(Key, &[u8])>> {
        let Descent { mut leaf, left, .. } = self.descend(key)?;
        let data = self.data(leaf)?;
        let mut index = match node::leaf_find(data, key)? {
            Ok(index) => Some(index),
            Err(index) => index.checked_sub(1),
        };
        if index.is_none()
            && let Some((mut pointer, mut level)) = left
        {
            // All keys of the subtree to the left are smaller, so its last item is the floor.
            for _ in 0..LEVELS_MAX {
                leaf = self.node(&pointer, level)?;
                let data = self.data(leaf)?;
                let last = node::count(data)?.checked_sub(1);
                if level == 0 {
                    index = last;
                    break;
                }
                pointer = node::child(data, last.unwrap_or(0))?;
                level -= 1;
            }
        }
        let Some(index) = index else { return Ok(None) };
        let item = node::leaf_item(self.data(leaf)?, index)?;
        Ok(item.filter(|(found, _)| found.same_run(key)))
    }
}
