// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Changing the tree: items are put and removed, nodes copied, split, merged and sealed.
//!
//! Invariant: a change first makes sure that every node of its path is cached, then copies the path
//! from the root down, then changes it, so a miss never leaves a change half done. A node is copied by
//! giving its buffer a new address; the old block is freed with the commit. Blocks come from [`Space`]
//! and memory from what [`Tree::reserve`] allocated; with enough of both, only damage makes it fail.

use super::cache::NodeId;
use super::{TOO_DEEP, Tree, node};
use crate::error::{Error, Result};
use crate::mutants::{self, Mutant};
use crate::space::Space;
use alloc::vec::Vec;
use vexfs_format::node::Pointer;
use vexfs_format::{Generation, ITEM_BYTES_MAX, Key, LEVELS_MAX};

/// A node is merged with a neighbour when less than 1/`SPARSE` of it is used.
const SPARSE: usize = 3;
/// Most buffers of merged nodes that are kept for the next splits.
const SPARES_MAX: usize = 64;

const EMPTY_PATH: Error = Error::Bug("a path of the tree has no leaf");

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
        *self.steps.get_mut(self.len).ok_or(TOO_DEEP)? = Some(step);
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

/// A tree that is being changed, and the space that its new nodes come from.
pub(crate) struct TreeMut<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) space: &'a mut Space,
    /// The generation that is being built.
    pub(crate) running: Generation,
    /// Set once something was modified.
    pub(crate) begun: &'a mut bool,
}

impl TreeMut<'_> {
    /// Makes the tree a single empty leaf.
    pub(crate) fn plant(&mut self) -> Result<()> {
        *self.begun = true;
        let (pointer, leaf) = self.new_node(0)?;
        self.tree.cache.insert(pointer, leaf)?;
        self.tree.adopt(pointer, 0);
        Ok(())
    }

    /// Puts the item at `key`, in place of the one that is there.
    pub(crate) fn put(&mut self, key: Key, payload: &[u8]) -> Result<()> {
        if payload.len() > ITEM_BYTES_MAX {
            return Err(Error::Bug("an item is too long for a node"));
        }
        let path = self.own_path(key)?;
        let leaf = path.last().ok_or(EMPTY_PATH)?;
        let data = &mut self.tree.cache.get_mut(leaf.id)?.data;
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
        if node::leaf_insert(data, index, key, payload, &mut self.tree.scratch)? {
            return Ok(());
        }
        self.split_and_insert(path, index, key, payload)
    }

    /// Removes the item at `key`; false if there is none.
    pub(crate) fn remove(&mut self, key: Key) -> Result<bool> {
        if self.tree.get(key)?.is_none() {
            return Ok(false);
        }
        let path = self.own_path(key)?;
        let leaf = path.last().ok_or(EMPTY_PATH)?;
        let data = &mut self.tree.cache.get_mut(leaf.id)?.data;
        if let Ok(index) = node::leaf_find(data, key)? {
            node::leaf_remove(data, index)?;
        }
        self.shrink(path)?;
        Ok(true)
    }

    /// Makes every node on the path to `key` one of the running generation.
    fn own_path(&mut self, key: Key) -> Result<Path> {
        self.tree.touch(key)?;
        *self.begun = true;
        let mut path = Path::new();
        let (mut pointer, mut level) = (self.tree.root, self.tree.level);
        for _ in 0..LEVELS_MAX {
            let mut id = self.tree.node(&pointer, level)?;
            if pointer.generation != self.running && !mutants::is(Mutant::InPlace) {
                id = self.own(id, &path)?;
            }
            let data = &mut self.tree.cache.get_mut(id)?.data;
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
        Err(TOO_DEEP)
    }

    /// Moves a node to a new block of the running generation and updates its parent's pointer.
    fn own(&mut self, id: NodeId, parents: &Path) -> Result<NodeId> {
        let old = self.tree.cache.get(id)?.pointer;
        let pointer = self.new_pointer()?;
        self.tree.cache.readdress(id, pointer)?;
        node::readdress(&mut self.tree.cache.get_mut(id)?.data, &pointer)?;
        self.space.release(old.block, 1)?;
        match parents.last() {
            Some(parent) => {
                node::set_child(
                    &mut self.tree.cache.get_mut(parent.id)?.data,
                    parent.index,
                    pointer,
                )?;
            }
            None => self.tree.root = pointer,
        }
        Ok(id)
    }

    /// A pointer to a new block. Its checksum is zero until the freeze fills it in.
    fn new_pointer(&mut self) -> Result<Pointer> {
        let block = self.space.take_meta(None)?;
        self.tree.dirty_nodes += 1;
        Ok(Pointer { block, generation: self.running, crc: 0 })
    }

    /// An empty node of the running generation, not yet in the cache.
    fn new_node(&mut self, level: u8) -> Result<(Pointer, Vec<u8>)> {
        let pointer = self.new_pointer()?;
        let none = Error::Bug("no memory was reserved for a new node");
        let mut data = self.tree.spares.pop().ok_or(none)?;
        node::format(&mut data, self.tree.geometry.uuid, level, &pointer)?;
        Ok((pointer, data))
    }

    fn split_and_insert(
        &mut self,
        mut path: Path,
        index: usize,
        key: Key,
        payload: &[u8],
    ) -> Result<()> {
        let leaf = path.pop().ok_or(EMPTY_PATH)?;
        let (right_pointer, mut right) = self.new_node(0)?;
        let left = &mut self.tree.cache.get_mut(leaf.id)?.data;
        let at = node::leaf_split_point(left, index)?;
        node::leaf_split(left, &mut right, at, &mut self.tree.scratch)?;
        let fits = if index < at {
            node::leaf_insert(left, index, key, payload, &mut self.tree.scratch)?
        } else {
            node::leaf_insert(&mut right, index - at, key, payload, &mut self.tree.scratch)?
        };
        if !fits {
            return Err(Error::Bug("an item does not fit into half a leaf"));
        }
        let mut bound = node::first_key(&right)?.ok_or(Error::Bug("half a leaf is empty"))?;
        let mut child = right_pointer;
        self.tree.cache.insert(right_pointer, right)?;
        // The parent gets the new child and may split in turn, up to the root.
        for level in 1..LEVELS_MAX as u8 {
            let Some(step) = path.pop() else {
                return self.grow(level, bound, child);
            };
            let parent = &mut self.tree.cache.get_mut(step.id)?.data;
            let position = step.index + 1;
            if node::inner_insert(parent, position, bound, child)? {
                return Ok(());
            }
            let count = node::count(parent)?;
            let at = if position == count { count - 1 } else { count / 2 };
            let (right_pointer, mut right) = self.new_node(level)?;
            let parent = &mut self.tree.cache.get_mut(step.id)?.data;
            node::inner_split(parent, &mut right, at)?;
            if position <= at {
                node::inner_insert(parent, position, bound, child)?;
            } else {
                node::inner_insert(&mut right, position - at, bound, child)?;
            }
            bound = node::first_key(&right)?.ok_or(Error::Bug("half a node is empty"))?;
            child = right_pointer;
            self.tree.cache.insert(right_pointer, right)?;
        }
        Err(TOO_DEEP)
    }

    /// Puts a new root of `level` above the old one and `child`.
    fn grow(&mut self, level: u8, bound: Key, child: Pointer) -> Result<()> {
        let (pointer, mut data) = self.new_node(level)?;
        node::inner_insert(&mut data, 0, Key::MIN, self.tree.root)?;
        node::inner_insert(&mut data, 1, bound, child)?;
        self.tree.cache.insert(pointer, data)?;
        self.tree.root = pointer;
        self.tree.level = level;
        Ok(())
    }

    /// After a removal: drops empty nodes, merges sparse ones and lowers the root.
    fn shrink(&mut self, mut path: Path) -> Result<()> {
        for _ in 0..LEVELS_MAX {
            let Some(step) = path.pop() else { break };
            let Some(parent) = path.last() else { break };
            let data = &self.tree.cache.get(step.id)?.data;
            let capacity = node::capacity(data.len());
            if node::count(data)? == 0 {
                self.drop_child(parent, parent.index, step.id)?;
            } else if node::used(data)? >= capacity / SPARSE || !self.merge(parent, step.id)? {
                break;
            }
        }
        for _ in 0..LEVELS_MAX {
            if self.tree.level == 0 {
                break;
            }
            let id = self.tree.node(&self.tree.root, self.tree.level)?;
            let data = &mut self.tree.cache.get_mut(id)?.data;
            match node::count(data)? {
                // The last leaf was dropped: the tree is a single empty leaf.
                0 => {
                    let pointer = self.tree.root;
                    node::format(data, self.tree.geometry.uuid, 0, &pointer)?;
                    self.tree.level = 0;
                }
                1 => {
                    let child = node::child(data, 0)?;
                    // Lowering the root needs its child in the cache; a later removal may do it.
                    if self.tree.cache.find(&child).is_none() {
                        break;
                    }
                    let old = self.tree.root;
                    self.release_node(old)?;
                    self.tree.root = child;
                    self.tree.level -= 1;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn release_node(&mut self, pointer: Pointer) -> Result<()> {
        self.tree.cache.forget(pointer.block);
        if pointer.generation == self.running {
            self.tree.dirty_nodes = self.tree.dirty_nodes.saturating_sub(1);
        }
        self.space.release(pointer.block, 1)
    }

    fn drop_child(&mut self, parent: Step, index: usize, child: NodeId) -> Result<()> {
        let pointer = self.tree.cache.get(child)?.pointer;
        node::inner_remove(&mut self.tree.cache.get_mut(parent.id)?.data, index)?;
        self.release_node(pointer)
    }

    /// Merges a sparse node with a neighbour that is cached and fits; false if there is none.
    fn merge(&mut self, parent: Step, id: NodeId) -> Result<bool> {
        let level = node::header(&self.tree.cache.get(id)?.data)?.level;
        let parent_data = &self.tree.cache.get(parent.id)?.data;
        let count = node::count(parent_data)?;
        let neighbours = [parent.index.checked_sub(1), Some(parent.index + 1)];
        for index in neighbours.into_iter().flatten().filter(|index| *index < count) {
            let pointer = node::child(&self.tree.cache.get(parent.id)?.data, index)?;
            let Some(other) = self.tree.cache.find(&pointer) else { continue };
            let other_data = &self.tree.cache.get(other)?.data;
            let data = &self.tree.cache.get(id)?.data;
            if node::header(other_data)?.level != level
                || node::used(other_data)? + node::used(data)? > node::capacity(data.len())
            {
                continue;
            }
            let in_front = index < parent.index;
            let taken = core::mem::take(&mut self.tree.cache.get_mut(other)?.data);
            node::absorb(
                &mut self.tree.cache.get_mut(id)?.data,
                &taken,
                in_front,
                &mut self.tree.scratch,
            )?;
            let parent_data = &mut self.tree.cache.get_mut(parent.id)?.data;
            if in_front {
                let bound = node::entries(parent_data)?.get(index).map(|e| Key::from(e.key));
                if let Some(bound) = bound {
                    node::set_entry_key(parent_data, parent.index, bound)?;
                }
            }
            node::inner_remove(parent_data, index)?;
            self.release_node(pointer)?;
            // Kept only where the list needs no memory for it.
            if self.tree.spares.len() < self.tree.spares.capacity().min(SPARES_MAX) {
                let mut taken = taken;
                taken.fill(0);
                self.tree.spares.push(taken);
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
        if self.tree.root.generation != self.running {
            return Ok(());
        }
        path.push(Step { id: self.tree.node(&self.tree.root, self.tree.level)?, index: 0 })?;
        // Each round goes down to a dirty child or up from a sealed node, so the loop ends.
        while let Some(step) = path.last() {
            let data = &self.tree.cache.get(step.id)?.data;
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
                path.push(Step { id: self.tree.node(&child, level - 1)?, index: 0 })?;
                continue;
            }
            path.pop();
            let node = self.tree.cache.get_mut(step.id)?;
            node.pointer.crc = vexfs_format::crc32c(&node.data);
            let pointer = node.pointer;
            emit(pointer, &node.data)?;
            match path.pop() {
                Some(parent) => {
                    let data = &mut self.tree.cache.get_mut(parent.id)?.data;
                    node::set_child(data, parent.index, pointer)?;
                    path.push(Step { id: parent.id, index: parent.index + 1 })?;
                }
                None => self.tree.root = pointer,
            }
        }
        Ok(())
    }
}
