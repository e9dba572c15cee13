// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The cache of tree nodes, found by block address.
//!
//! Invariant: a cached node was verified, or made by the engine. A node that is not durable yet is
//! never evicted. Nothing here does I/O.

use crate::buffer::push;
use crate::error::{Error, Missing, Result};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use vexfs_format::node::Pointer;
use vexfs_format::{BlockNr, Generation};

/// A block that was read and verified, for [`crate::Volume::install`].
#[derive(Debug)]
pub struct LoadedNode {
    pub(crate) missing: Missing,
    pub(crate) data: Vec<u8>,
}

/// Handle of a cached node; valid until the next eviction, and nodes are evicted only between operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeId(u32);

#[derive(Debug)]
pub(crate) struct CachedNode {
    pub(crate) pointer: Pointer,
    pub(crate) data: Vec<u8>,
    used: AtomicBool,
    live: bool,
}

const EMPTY: u32 = u32::MAX;
/// More nodes than any operation reads.
const WORKING_SET: usize = 512;

#[derive(Debug)]
pub(crate) struct NodeCache {
    nodes: Vec<CachedNode>,
    /// Open addressing with linear probing; a power of two long, at most half full.
    table: Vec<u32>,
    vacant: Vec<u32>,
    live: usize,
    limit: usize,
    hand: usize,
}

impl NodeCache {
    /// A cache that is trimmed to about `limit` nodes.
    pub(crate) fn new(limit: usize) -> Result<Self> {
        let mut cache = Self {
            nodes: Vec::new(),
            table: Vec::new(),
            vacant: Vec::new(),
            live: 0,
            limit: limit.max(64),
            hand: 0,
        };
        cache.resize_table(256)?;
        Ok(cache)
    }

    fn mask(&self) -> usize {
        self.table.len().wrapping_sub(1)
    }

    fn home(&self, block: BlockNr) -> usize {
        // Fibonacci hashing: neighbouring blocks spread over the whole table.
        (block.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize & self.mask()
    }

    fn node_at(&self, position: usize) -> Option<(u32, &CachedNode)> {
        let index = *self.table.get(position)?;
        Some((index, self.nodes.get(index as usize)?))
    }

    fn position(&self, block: BlockNr) -> Option<usize> {
        let mut position = self.home(block);
        for _ in 0..self.table.len() {
            let (_, node) = self.node_at(position)?;
            if node.pointer.block == block {
                return Some(position);
            }
            position = (position + 1) & self.mask();
        }
        None
    }

    fn place(&mut self, block: BlockNr, index: u32) {
        let mut position = self.home(block);
        for _ in 0..self.table.len() {
            match self.table.get_mut(position) {
                Some(entry) if *entry == EMPTY => {
                    *entry = index;
                    return;
                }
                _ => position = (position + 1) & self.mask(),
            }
        }
    }

    fn resize_table(&mut self, len: usize) -> Result<()> {
        let mut table = Vec::new();
        table.try_reserve_exact(len).map_err(|_| Error::NoMemory)?;
        table.resize(len, EMPTY);
        self.table = table;
        for index in 0..self.nodes.len() {
            if let Some(block) = self.nodes.get(index).filter(|n| n.live).map(|n| n.pointer.block) {
                self.place(block, index as u32);
            }
        }
        Ok(())
    }

    /// Removes `block` from the table and closes the gap (backward shift).
    fn unplace(&mut self, block: BlockNr) {
        let Some(mut gap) = self.position(block) else { return };
        let mask = self.mask();
        let mut position = gap;
        for _ in 0..self.table.len() {
            position = (position + 1) & mask;
            let Some((index, home)) =
                self.node_at(position).map(|(i, n)| (i, self.home(n.pointer.block)))
            else {
                break;
            };
            if position.wrapping_sub(home) & mask >= position.wrapping_sub(gap) & mask {
                if let Some(entry) = self.table.get_mut(gap) {
                    *entry = index;
                }
                gap = position;
            }
        }
        if let Some(entry) = self.table.get_mut(gap) {
            *entry = EMPTY;
        }
    }

    /// The node that `pointer` names, if it is cached in exactly that state.
    pub(crate) fn find(&self, pointer: &Pointer) -> Option<NodeId> {
        let (index, node) = self.node_at(self.position(pointer.block)?)?;
        if node.pointer != *pointer {
            return None;
        }
        // Stored only if it changes: readers on several processors share the cache line.
        if !node.used.load(Ordering::Relaxed) {
            node.used.store(true, Ordering::Relaxed);
        }
        Some(NodeId(index))
    }

    pub(crate) fn get(&self, id: NodeId) -> Result<&CachedNode> {
        self.nodes.get(id.0 as usize).ok_or(Error::Bug("a cached node's handle is stale"))
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> Result<&mut CachedNode> {
        self.nodes.get_mut(id.0 as usize).ok_or(Error::Bug("a cached node's handle is stale"))
    }

    /// True if a node of `block` newer than `generation` is cached.
    pub(crate) fn has_newer(&self, block: BlockNr, generation: Generation) -> bool {
        self.position(block)
            .and_then(|position| self.node_at(position))
            .is_some_and(|(_, node)| node.pointer.generation > generation)
    }

    /// Allocates memory for `count` more nodes, so that inserting them cannot fail.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<()> {
        self.nodes.try_reserve(count).map_err(|_| Error::NoMemory)?;
        let wanted = self.nodes.len().saturating_add(count).saturating_sub(self.vacant.len());
        self.vacant.try_reserve(wanted).map_err(|_| Error::NoMemory)?;
        let needed = self.live.saturating_add(count).saturating_mul(2).next_power_of_two();
        if self.table.len() < needed {
            self.resize_table(needed)?;
        }
        Ok(())
    }

    /// Adds a node, in place of the one of its block, if any.
    pub(crate) fn insert(&mut self, pointer: Pointer, data: Vec<u8>) -> Result<NodeId> {
        self.forget(pointer.block);
        if self.table.len() < self.live.saturating_add(1).saturating_mul(2) {
            self.resize_table(self.table.len().saturating_mul(2))?;
        }
        let node = CachedNode { pointer, data, used: AtomicBool::new(true), live: true };
        let index = if let Some(index) = self.vacant.pop() {
            *self.get_mut(NodeId(index))? = node;
            index
        } else {
            // Memory for removing the node again is allocated with it, so that forget() never allocates.
            let wanted = self.nodes.len().saturating_add(1).saturating_sub(self.vacant.len());
            self.vacant.try_reserve(wanted).map_err(|_| Error::NoMemory)?;
            push(&mut self.nodes, node)?;
            (self.nodes.len() - 1) as u32
        };
        self.place(pointer.block, index);
        self.live += 1;
        Ok(NodeId(index))
    }

    /// Gives a cached node another address (copy-on-write moves it; no bytes are copied).
    pub(crate) fn readdress(&mut self, id: NodeId, pointer: Pointer) -> Result<()> {
        let old = self.get(id)?.pointer.block;
        self.unplace(old);
        self.forget(pointer.block);
        self.get_mut(id)?.pointer = pointer;
        self.place(pointer.block, id.0);
        Ok(())
    }

    /// Drops the node of `block`, if it is cached.
    pub(crate) fn forget(&mut self, block: BlockNr) {
        let Some((index, _)) = self.position(block).and_then(|p| self.node_at(p)) else { return };
        self.unplace(block);
        if let Some(node) = self.nodes.get_mut(index as usize) {
            node.live = false;
            node.data = Vec::new();
            node.pointer = Pointer { block: BlockNr(u64::MAX), ..Pointer::default() };
        }
        self.live = self.live.saturating_sub(1);
        // insert() allocated memory for this. If it had not, the slot would not be reused, no more.
        let _ = push(&mut self.vacant, index);
    }

    /// Evicts nodes that were not used lately until the cache is within its limit, but none newer than `durable`.
    pub(crate) fn trim(&mut self, durable: Generation) {
        self.trim_to(self.limit, durable);
    }

    /// The same where `spared` nodes are newer than `durable`: beside them there is always room for the
    /// nodes that one operation reads. Otherwise it might evict and miss them in turn for ever.
    pub(crate) fn trim_beside(&mut self, spared: usize, durable: Generation) {
        self.trim_to(self.limit.max(spared.saturating_add(WORKING_SET)), durable);
    }

    /// The same, down to `limit` nodes.
    pub(crate) fn trim_to(&mut self, limit: usize, durable: Generation) {
        if self.live <= limit {
            return;
        }
        // Two rounds of the clock hand: the first clears the marks of nodes that were used.
        for _ in 0..self.nodes.len().saturating_mul(2) {
            if self.live <= limit {
                return;
            }
            self.hand = if self.hand + 1 < self.nodes.len() { self.hand + 1 } else { 0 };
            let Some(node) = self.nodes.get(self.hand) else { return };
            if !node.live || node.pointer.generation > durable {
                continue;
            }
            if node.used.swap(false, Ordering::Relaxed) {
                continue;
            }
            self.forget(node.pointer.block);
        }
    }

    /// Lengths that its lists have memory for.
    #[cfg(test)]
    pub(crate) const fn memory(&self) -> [usize; 3] {
        [self.nodes.capacity(), self.table.capacity(), self.vacant.capacity()]
    }

    pub(crate) const fn len(&self) -> usize {
        self.live
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::vec;

    fn pointer(block: u64, generation: u64) -> Pointer {
        Pointer { block: BlockNr(block), generation: Generation(generation), crc: 0 }
    }

    #[test]
    fn agrees_with_a_map_under_random_use() {
        let mut cache = NodeCache::new(1 << 20).unwrap();
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut seed = 7u64;
        for step in 0..20_000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let block = (seed >> 40) % 700;
            match (seed >> 33) % 3 {
                0 => {
                    cache.insert(pointer(block, step), vec![1]).unwrap();
                    model.insert(block, step);
                }
                1 => {
                    cache.forget(BlockNr(block));
                    model.remove(&block);
                }
                _ => {
                    if let Some(generation) = model.remove(&block) {
                        let to = 1000 + (seed >> 50) % 700;
                        let id = cache.find(&pointer(block, generation)).unwrap();
                        cache.readdress(id, pointer(to, step)).unwrap();
                        model.insert(to, step);
                    }
                }
            }
            assert_eq!(cache.len(), model.len());
        }
        for (block, generation) in model {
            assert!(cache.find(&pointer(block, generation)).is_some());
        }
    }

    #[test]
    fn trimming_spares_what_is_not_durable() {
        let mut cache = NodeCache::new(64).unwrap();
        for block in 0..500 {
            cache.insert(pointer(block, if block % 5 == 0 { 9 } else { 3 }), vec![1]).unwrap();
        }
        cache.trim(Generation(3));
        assert_eq!(cache.len(), 100);
        assert!((0..500).step_by(5).all(|b| cache.find(&pointer(b, 9)).is_some()));
    }
}
