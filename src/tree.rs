// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The copy-on-write B+tree: reads that may miss, and changes that may not.
//!
//! Invariant: a change first makes sure that every node of its path is cached ([`Volume::touch`]),
//! then copies the path from the root down, then changes it. So a miss never leaves a change half done.
//! A node is copied by giving its buffer another address; the old block is freed with the commit.

use crate::cache::NodeId;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::node;
use crate::volume::Volume;
use core::ops::ControlFlow;
use vexfs_format::mutants::{self, Mutant};
use vexfs_format::node::Pointer;
use vexfs_format::{Generation, Ino, Key, Kind, LEVELS_MAX};

/// One node of a path and the entry that was followed.
#[derive(Clone, Copy)]
struct Step {
    id: NodeId,
    index: usize,
}

/// The nodes from the root to a leaf.
struct Path {
    steps: [Option<Step>; LEVELS_MAX],
    len: usize,
}

impl Path {
    const fn new() -> Self {
        Self { steps: [None; LEVELS_MAX], len: 0 }
    }

    fn push(&mut self, step: Step) -> Result<()> {
        *self.steps.get_mut(self.len).ok_or(Error::internal("the tree is too deep"))? = Some(step);
        self.len += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<Step> {
        self.len = self.len.checked_sub(1)?;
        *self.steps.get(self.len)?
    }

    fn last(&self) -> Option<Step> {
        *self.steps.get(self.len.checked_sub(1)?)?
    }
}

/// What a scan calls for each item; it breaks to stop.
pub(crate) type Visit<'a> = dyn FnMut(Key, &[u8]) -> Result<ControlFlow<()>> + 'a;

/// A node is merged with a neighbour when less than this part of it is used.
const SPARSE: usize = 3;

impl<D: Device> Volume<D> {
    // --- reading ---

    /// The leaf that holds `key` if any does, the smallest bound of the leaf to its right, and
    /// the subtree to its left.
    #[allow(clippy::type_complexity)]
    fn descend(&self, key: Key) -> Result<(NodeId, Option<Key>, Option<(Pointer, u8)>)> {
        self.check_alive()?;
        let (mut pointer, mut level) = (self.root, self.level);
        let (mut right, mut left) = (None, None);
        for _ in 0..LEVELS_MAX {
            let id = self.node(&pointer, level)?;
            if level == 0 {
                return Ok((id, right, left));
            }
            let data = &self.cache.get(id)?.data;
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
        Err(Error::internal("the tree is too deep"))
    }

    /// The item at `key`.
    pub(crate) fn get(&self, key: Key) -> Result<Option<&[u8]>> {
        let (id, ..) = self.descend(key)?;
        let data = &self.cache.get(id)?.data;
        match node::leaf_find(data, key)? {
            Ok(index) => Ok(node::leaf_item(data, index)?.map(|(_, payload)| payload)),
            Err(_) => Ok(None),
        }
    }

    /// Calls `visit` with the items from `from` to `to`, both included, until it breaks.
    /// A miss may come after some were visited.
    pub(crate) fn scan(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<()> {
        let mut key = from;
        loop {
            let (id, right, _) = self.descend(key)?;
            let data = &self.cache.get(id)?.data;
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
            let (id, right, _) = self.descend(key)?;
            let data = &self.cache.get(id)?.data;
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
        let (mut id, _, left) = self.descend(key)?;
        let data = &self.cache.get(id)?.data;
        let mut index = match node::leaf_find(data, key)? {
            Ok(index) => Some(index),
            Err(index) => index.checked_sub(1),
        };
        if index.is_none()
            && let Some((mut pointer, mut level)) = left
        {
            // Everything in the subtree to the left is smaller: its last item is the one.
            for _ in 0..LEVELS_MAX {
                id = self.node(&pointer, level)?;
                let data = &self.cache.get(id)?.data;
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
        let item = node::leaf_item(&self.cache.get(id)?.data, index)?;
        Ok(item.filter(|(found, _)| found.same_run(key)))
    }

    /// The item of group `index`: (bitmap's pointer, free blocks).
    pub(crate) fn group_item(&self, index: u64) -> Result<Option<(Pointer, u64)>> {
        let Some(payload) = self.get(Key::new(Ino::SYSTEM, Kind::Group, index))? else {
            return Ok(None);
        };
        let item: vexfs_format::GroupItem = crate::inode::parse(payload, "a group's item")?;
        Ok(Some((item.bitmap.into(), u64::from(item.free.get()))))
    }

    /// Makes sure that the path to `key` is cached.
    pub(crate) fn touch(&self, key: Key) -> Result<()> {
        self.descend(key).map(|_| ())
    }

    // --- changing ---

    /// Puts the item at `key`, in place of the one that is there.
    pub(crate) fn put(&mut self, key: Key, payload: &[u8]) -> Result<()> {
        if payload.len() > vexfs_format::ITEM_BYTES_MAX {
            return Err(Error::internal("an item is too long for a node"));
        }
        let path = self.own_path(key)?;
        let leaf = path.last().ok_or(Error::internal("an empty path"))?;
        let data = &mut self.cache.get_mut(leaf.id)?.data;
        let index = match node::leaf_find(data, key)? {
            Ok(index) => {
                let old = node::leaf_payload_mut(data, index)?;
                if old.len() == payload.len() {
                    old.copy_from_slice(payload);
                    return Ok(());
                }
                node::leaf_remove(data, index)?;
                index
            }
            Err(index) => index,
        };
        if node::leaf_insert(data, index, key, payload, &mut self.scratch)? {
            return Ok(());
        }
        self.split_and_insert(path, index, key, payload)
    }

    /// Removes the item at `key`; false if there is none.
    pub(crate) fn remove(&mut self, key: Key) -> Result<bool> {
        if self.get(key)?.is_none() {
            return Ok(false);
        }
        let path = self.own_path(key)?;
        let leaf = path.last().ok_or(Error::internal("an empty path"))?;
        let data = &mut self.cache.get_mut(leaf.id)?.data;
        if let Ok(index) = node::leaf_find(data, key)? {
            node::leaf_remove(data, index)?;
        }
        self.shrink(path)?;
        Ok(true)
    }

    /// Makes every node on the way to `key` one of the running generation.
    fn own_path(&mut self, key: Key) -> Result<Path> {
        self.touch(key)?;
        self.changes = self.changes.wrapping_add(1);
        self.dirty = true;
        let mut path = Path::new();
        let (mut pointer, mut level) = (self.root, self.level);
        for _ in 0..LEVELS_MAX {
            let mut id = self.node(&pointer, level)?;
            if pointer.generation != self.running && !mutants::is(Mutant::InPlace) {
                id = self.own(id, &path)?;
            }
            let data = &mut self.cache.get_mut(id)?.data;
            if level == 0 {
                path.push(Step { id, index: 0 })?;
                return Ok(path);
            }
            let index = node::child_index(data, key)?;
            if node::entries(data)?.get(index).is_some_and(|e| Key::from(e.key) > key) {
                node::set_entry_key(data, index, key)?;
            }
            pointer = node::child(data, index)?;
            path.push(Step { id, index })?;
            level -= 1;
        }
        Err(Error::internal("the tree is too deep"))
    }

    /// Moves a node to a new block of the running generation and tells its parent.
    fn own(&mut self, id: NodeId, parents: &Path) -> Result<NodeId> {
        let old = self.cache.get(id)?.pointer;
        let pointer = self.new_pointer()?;
        self.cache.readdress(id, pointer)?;
        node::readdress(&mut self.cache.get_mut(id)?.data, &pointer)?;
        self.space.release(old.block, 1)?;
        match parents.last() {
            Some(parent) => {
                node::set_child(&mut self.cache.get_mut(parent.id)?.data, parent.index, pointer)?;
            }
            None => self.root = pointer,
        }
        Ok(id)
    }

    /// A pointer to a new block. Its checksum is filled in by the freeze; until then it is zero.
    fn new_pointer(&mut self) -> Result<Pointer> {
        let block = self.space.take_meta(None)?;
        self.dirty_nodes += 1;
        Ok(Pointer { block, generation: self.running, crc: 0 })
    }

    /// An empty node of the running generation, not yet in the cache.
    fn new_node(&mut self, level: u8) -> Result<(Pointer, alloc::vec::Vec<u8>)> {
        let pointer = self.new_pointer()?;
        let mut data = match self.spares.pop() {
            Some(data) => data,
            None => crate::buffer::zeroed(self.geometry.block_bytes())?,
        };
        node::format(&mut data, self.geometry.uuid, level, &pointer)?;
        Ok((pointer, data))
    }

    fn split_and_insert(
        &mut self,
        mut path: Path,
        index: usize,
        key: Key,
        payload: &[u8],
    ) -> Result<()> {
        let leaf = path.pop().ok_or(Error::internal("an empty path"))?;
        let (right_pointer, mut right) = self.new_node(0)?;
        let left = &mut self.cache.get_mut(leaf.id)?.data;
        let at = node::leaf_split_point(left, index)?;
        node::leaf_split(left, &mut right, at, &mut self.scratch)?;
        let fits = if index < at {
            node::leaf_insert(left, index, key, payload, &mut self.scratch)?
        } else {
            node::leaf_insert(&mut right, index - at, key, payload, &mut self.scratch)?
        };
        if !fits {
            return Err(Error::internal("an item does not fit into half a leaf"));
        }
        let mut bound = node::first_key(&right)?.ok_or(Error::internal("half a leaf is empty"))?;
        let mut child = right_pointer;
        self.cache.insert(right_pointer, right)?;
        // The new child goes to the parent, which may split in turn, up to the root.
        for level in 1..LEVELS_MAX as u8 {
            let Some(step) = path.pop() else {
                return self.grow(level, bound, child);
            };
            let parent = &mut self.cache.get_mut(step.id)?.data;
            let position = step.index + 1;
            if node::inner_insert(parent, position, bound, child)? {
                return Ok(());
            }
            let count = node::count(parent)?;
            let at = if position == count { count - 1 } else { count / 2 };
            let (right_pointer, mut right) = self.new_node(level)?;
            let parent = &mut self.cache.get_mut(step.id)?.data;
            node::inner_split(parent, &mut right, at)?;
            if position <= at {
                node::inner_insert(parent, position, bound, child)?;
            } else {
                node::inner_insert(&mut right, position - at, bound, child)?;
            }
            bound = node::first_key(&right)?.ok_or(Error::internal("half a node is empty"))?;
            child = right_pointer;
            self.cache.insert(right_pointer, right)?;
        }
        Err(Error::internal("the tree is too deep"))
    }

    /// Puts a new root of `level` above the old one and `child`.
    fn grow(&mut self, level: u8, bound: Key, child: Pointer) -> Result<()> {
        let (pointer, mut data) = self.new_node(level)?;
        node::inner_insert(&mut data, 0, Key::MIN, self.root)?;
        node::inner_insert(&mut data, 1, bound, child)?;
        self.cache.insert(pointer, data)?;
        self.root = pointer;
        self.level = level;
        Ok(())
    }

    /// After a removal: takes empty nodes out, merges sparse ones, lowers the root.
    fn shrink(&mut self, mut path: Path) -> Result<()> {
        for _ in 0..LEVELS_MAX {
            let Some(step) = path.pop() else { break };
            let Some(parent) = path.last() else { break };
            let data = &self.cache.get(step.id)?.data;
            let capacity = node::capacity(data.len());
            if node::count(data)? == 0 {
                self.drop_child(parent, parent.index, step.id)?;
            } else if node::used(data)? >= capacity / SPARSE || !self.merge(parent, step.id)? {
                break;
            }
        }
        for _ in 0..LEVELS_MAX {
            if self.level == 0 {
                break;
            }
            let id = self.node(&self.root, self.level)?;
            let data = &mut self.cache.get_mut(id)?.data;
            match node::count(data)? {
                // The last leaf went: the tree is one empty leaf again.
                0 => {
                    let pointer = self.root;
                    node::format(data, self.geometry.uuid, 0, &pointer)?;
                    self.level = 0;
                }
                1 => {
                    let child = node::child(data, 0)?;
                    // A root that is lowered onto a child that is not cached waits for another time.
                    if self.cache.find(&child).is_none() {
                        break;
                    }
                    let old = self.root;
                    self.release_node(old)?;
                    self.root = child;
                    self.level -= 1;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn release_node(&mut self, pointer: Pointer) -> Result<()> {
        self.cache.forget(pointer.block);
        if pointer.generation == self.running {
            self.dirty_nodes = self.dirty_nodes.saturating_sub(1);
        }
        self.space.release(pointer.block, 1)
    }

    fn drop_child(&mut self, parent: Step, index: usize, child: NodeId) -> Result<()> {
        let pointer = self.cache.get(child)?.pointer;
        node::inner_remove(&mut self.cache.get_mut(parent.id)?.data, index)?;
        self.release_node(pointer)
    }

    /// Merges a sparse node with a neighbour that is cached and fits; false if none does.
    fn merge(&mut self, parent: Step, id: NodeId) -> Result<bool> {
        let level = node::header(&self.cache.get(id)?.data)?.level;
        let parent_data = &self.cache.get(parent.id)?.data;
        let count = node::count(parent_data)?;
        let neighbours = [parent.index.checked_sub(1), Some(parent.index + 1)];
        for index in neighbours.into_iter().flatten().filter(|index| *index < count) {
            let pointer = node::child(&self.cache.get(parent.id)?.data, index)?;
            let Some(other) = self.cache.find(&pointer) else { continue };
            let other_data = &self.cache.get(other)?.data;
            let data = &self.cache.get(id)?.data;
            if node::header(other_data)?.level != level
                || node::used(other_data)? + node::used(data)? > node::capacity(data.len())
            {
                continue;
            }
            let in_front = index < parent.index;
            let taken = core::mem::take(&mut self.cache.get_mut(other)?.data);
            node::absorb(&mut self.cache.get_mut(id)?.data, &taken, in_front, &mut self.scratch)?;
            let parent_data = &mut self.cache.get_mut(parent.id)?.data;
            if in_front {
                let bound = node::entries(parent_data)?.get(index).map(|e| Key::from(e.key));
                if let Some(bound) = bound {
                    node::set_entry_key(parent_data, parent.index, bound)?;
                }
            }
            node::inner_remove(parent_data, index)?;
            self.release_node(pointer)?;
            if self.spares.try_reserve(1).is_ok() && self.spares.len() < 64 {
                let mut taken = taken;
                taken.fill(0);
                self.spares.push(taken);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Fills in the checksums of the running generation's nodes, children first, and hands each to `emit`.
    pub(crate) fn seal_nodes(
        &mut self,
        emit: &mut dyn FnMut(Pointer, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut path = Path::new();
        if self.root.generation != self.running {
            return Ok(());
        }
        path.push(Step { id: self.node(&self.root, self.level)?, index: 0 })?;
        // Each round goes down to a dirty child, on to the next child, or up: bounded by the entries there are.
        while let Some(step) = path.last() {
            let data = &self.cache.get(step.id)?.data;
            let level = node::header(data)?.level;
            let dirty_child = if level == 0 {
                None
            } else {
                let running = self.running;
                node::entries(data)?
                    .iter()
                    .enumerate()
                    .skip(step.index)
                    .map(|(index, entry)| (index, Pointer::from(entry.child)))
                    .find(|(_, child)| child.generation == running)
            };
            if let Some((index, child)) = dirty_child {
                path.pop();
                path.push(Step { id: step.id, index })?;
                path.push(Step { id: self.node(&child, level - 1)?, index: 0 })?;
                continue;
            }
            path.pop();
            let node = self.cache.get_mut(step.id)?;
            node.pointer.crc = vexfs_format::crc32c(&node.data);
            let pointer = node.pointer;
            emit(pointer, &node.data)?;
            match path.pop() {
                Some(parent) => {
                    let data = &mut self.cache.get_mut(parent.id)?.data;
                    node::set_child(data, parent.index, pointer)?;
                    path.push(Step { id: parent.id, index: parent.index + 1 })?;
                }
                None => self.root = pointer,
            }
        }
        Ok(())
    }

    /// The generation below which nothing of the tree is evicted.
    pub(crate) const fn evictable(&self) -> Generation {
        self.durable
    }
}
