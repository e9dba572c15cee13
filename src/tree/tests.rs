// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The tree compared with a map through splits, merges, copies and seals, without a device.

use super::{Tree, TreeMut, node};
use crate::error::{Error, Result};
use crate::space::Space;
use crate::superblock::Geometry;
use core::ops::ControlFlow;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;
use vexfs_format::node::Pointer;
use vexfs_format::{BlockNr, Generation, Ino, Key, Kind, LEVELS_MAX};

fn geometry() -> Geometry {
    let (uuid, hash_key, label) = ([7; 16], [0; 16], [0; 64]);
    Geometry { uuid, hash_key, label, block_shift: 12, blocks: 1 << 15, incompat: 0 }
}

/// A tree with the space and the generation that it needs. Each commit is durable at once.
struct Fixture {
    tree: Tree,
    space: Space,
    running: Generation,
}

impl Fixture {
    // Named without a closure, `plant` is not general enough over the lifetime.
    #[allow(clippy::redundant_closure_for_method_calls)]
    fn new() -> Self {
        let geometry = geometry();
        let mut space = Space::new(&geometry);
        space.set_free(geometry.blocks - 100);
        space.insert_fresh(0).unwrap();
        let tree = Tree::new(geometry, 1 << 16).unwrap();
        let mut fixture = Self { tree, space, running: Generation(1) };
        fixture.tree.reserve(1, 1).unwrap();
        fixture.change(|tree: &mut TreeMut<'_>| tree.plant()).unwrap();
        fixture
    }

    fn change<T>(&mut self, apply: impl FnOnce(&mut TreeMut<'_>) -> Result<T>) -> Result<T> {
        let (running, begun) = (self.running, &mut false);
        apply(&mut TreeMut { tree: &mut self.tree, space: &mut self.space, running, begun })
    }

    /// Reserves what a change of one item needs and no more, so that a change that needs more fails.
    fn reserve(&mut self) {
        self.space.reserve_frees(64).unwrap();
        let levels = self.tree.levels() as usize;
        self.tree.reserve(2 * levels + 1, levels + 1).unwrap();
    }

    fn put(&mut self, key: Key, payload: &[u8]) {
        self.reserve();
        self.change(|tree| tree.put(key, payload)).unwrap();
    }

    fn remove(&mut self, key: Key) -> bool {
        self.reserve();
        self.change(|tree| tree.remove(key)).unwrap()
    }

    /// Seals the running generation and verifies every node that it writes.
    fn commit(&mut self) -> usize {
        let mut written = Vec::new();
        self.change(|tree| {
            tree.seal_nodes(&mut |pointer, data| {
                written.push((pointer, data.to_vec()));
                Ok(())
            })
        })
        .unwrap();
        for (pointer, data) in &written {
            node::verify(data, pointer, &geometry().uuid, geometry().blocks).unwrap();
        }
        assert_eq!(written.len(), self.tree.dirty_nodes(), "each new node is written once");
        self.tree.freeze();
        self.tree.finish();
        self.space.freeze();
        self.space.unpin();
        self.running = Generation(self.running.0 + 1);
        written.len()
    }
}

fn key(ino: u64, offset: u64) -> Key {
    Key::new(Ino(ino), Kind::Extent, offset)
}

#[test]
fn agrees_with_a_map_under_random_use() {
    let mut fixture = Fixture::new();
    let mut model: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
    let mut seed = 11u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for step in 0..30_000u64 {
        // First it grows to several levels, then it shrinks to nothing.
        let grows = step < 15_000;
        let at = key(1 + random(20), random(400));
        if random(100) < if grows { 70 } else { 20 } {
            let payload = vec![step as u8; [0, 8, 16, 200, 960][random(5) as usize]];
            fixture.put(at, &payload);
            model.insert(at, payload);
        } else {
            assert_eq!(fixture.remove(at), model.remove(&at).is_some());
        }
        assert_eq!(fixture.tree.get(at).unwrap(), model.get(&at).map(Vec::as_slice));
        if step % 97 == 0 {
            let from = key(1 + random(20), random(400));
            let first = fixture.tree.first(from, key(99, 0)).unwrap();
            assert_eq!(first.map(|(k, _)| k), model.range(from..).next().map(|(k, _)| *k));
            let floor = fixture.tree.floor(from).unwrap();
            let expected = model.range(..=from).next_back().filter(|(k, _)| k.ino() == from.ino());
            assert_eq!(floor.map(|(k, _)| k), expected.map(|(k, _)| *k));
        }
        if step % 1_000 == 0 {
            assert!(fixture.commit() > 0);
        }
    }
    let mut seen = Vec::new();
    fixture
        .tree
        .scan(Key::MIN, key(u64::MAX >> 8, 0), &mut |k, payload| {
            seen.push((k, payload.to_vec()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(seen, model.iter().map(|(k, v)| (*k, v.clone())).collect::<Vec<_>>());
    for at in model.into_keys() {
        assert!(fixture.remove(at));
    }
    assert_eq!((fixture.tree.level(), fixture.tree.dirty_nodes()), (0, 1));
}

/// Keys are added in order, which leaves full leaves behind, and removed in order.
#[test]
fn nodes_of_a_removed_tree_are_given_back() {
    let mut fixture = Fixture::new();
    let free = fixture.space.free();
    for offset in 0..5_000 {
        fixture.put(key(1, offset), &[1; 100]);
    }
    assert!(fixture.tree.level() >= 2);
    fixture.commit();
    for offset in 0..5_000 {
        assert!(fixture.remove(key(1, offset)));
    }
    fixture.commit();
    assert_eq!(fixture.space.free(), free);
}

#[test]
fn a_change_that_misses_a_node_changes_nothing() {
    let mut fixture = Fixture::new();
    for offset in 0..500 {
        fixture.put(key(1, offset), &[1; 100]);
    }
    fixture.commit();
    let root = fixture.tree.root();
    fixture.tree.trim_to(1, Generation(1));
    fixture.reserve();
    let mut begun = false;
    let (tree, space, running) = (&mut fixture.tree, &mut fixture.space, fixture.running);
    let result = TreeMut { tree, space, running, begun: &mut begun }.put(key(1, 3), &[2; 100]);
    assert!(matches!(result, Err(Error::Miss(_))), "{result:?}");
    assert!(!begun);
    assert_eq!((fixture.tree.root(), fixture.tree.dirty_nodes()), (root, 0));
}

/// Memory is reserved before a change. If the engine forgot to, a split fails as a bug, not as damage.
#[test]
fn a_split_without_reserved_memory_is_a_bug() {
    let mut fixture = Fixture::new();
    let full = (0..100).find_map(|offset| {
        fixture.space.reserve_frees(64).unwrap();
        fixture.change(|tree| tree.put(key(1, offset), &[1; 100])).err()
    });
    assert!(matches!(full, Some(Error::Bug(_))), "{full:?}");
}

/// All levels that the format allows, each full: only a crafted image has such a tree.
#[test]
fn a_tree_that_cannot_grow_is_damage() {
    let mut fixture = Fixture::new();
    let pointer = |level: u8| Pointer {
        block: BlockNr(100 + u64::from(level)),
        generation: Generation(1),
        crc: 0,
    };
    fixture.space.take(BlockNr(100), LEVELS_MAX as u64).unwrap();
    for level in 0..LEVELS_MAX as u8 {
        let mut data = vec![0; geometry().block_bytes()];
        node::format(&mut data, geometry().uuid, level, &pointer(level)).unwrap();
        let mut scratch = data.clone();
        for index in 0.. {
            let fits = if level == 0 {
                let at = key(1, index as u64);
                node::leaf_insert(&mut data, index, at, &[1; 100], &mut scratch).unwrap()
            } else {
                let at = key(1, index as u64 * 1_000);
                node::inner_insert(&mut data, index, at, pointer(level - 1)).unwrap()
            };
            if !fits {
                break;
            }
        }
        fixture.tree.cache.insert(pointer(level), data).unwrap();
    }
    fixture.tree.adopt(pointer(LEVELS_MAX as u8 - 1), LEVELS_MAX as u8 - 1);
    fixture.running = Generation(2);
    fixture.reserve();
    let result = fixture.change(|tree| tree.put(key(1, 999), &[1; 100]));
    assert!(matches!(result, Err(Error::Corrupt(_))), "{result:?}");
}
