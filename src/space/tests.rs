// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The allocator without a tree: pins, deferred frees, runs.

use super::Space;
use crate::error::Error;
use crate::superblock::Geometry;
use vexfs_format::node::Pointer;
use vexfs_format::{BlockNr, FIRST_FREE, Generation};

const GROUP: u64 = 1 << 15;

fn geometry(blocks: u64) -> Geometry {
    let (uuid, hash_key, label) = ([7; 16], [0; 16], [0; 64]);
    Geometry { uuid, hash_key, label, block_shift: 12, blocks, incompat: 0 }
}

fn space(blocks: u64) -> Space {
    let mut space = Space::new(&geometry(blocks));
    space.set_free(blocks - FIRST_FREE - 1);
    space.insert_fresh(0).unwrap();
    space.reserve_frees(64).unwrap();
    space
}

#[test]
fn a_freed_block_is_allocated_again_only_after_its_commit() {
    let mut space = space(1_000);
    let (start, count) = space.find(0, BlockNr(500), 10, 1).unwrap();
    assert_eq!((start, count), (BlockNr(500), 10));
    space.take(start, count).unwrap();
    space.release(start, count).unwrap();
    assert!(space.has_pins());
    assert_eq!(space.find(0, BlockNr(500), 10, 1), Some((BlockNr(510), 10)), "running");
    space.freeze();
    assert_eq!(space.find(0, BlockNr(500), 10, 1), Some((BlockNr(510), 10)), "in flight");
    assert_eq!(space.run_at(BlockNr(500), 10), 0);
    space.unpin();
    assert!(!space.has_pins());
    assert_eq!(space.find(0, BlockNr(500), 10, 1), Some((BlockNr(500), 10)));
}

#[test]
fn a_block_freed_while_a_commit_is_in_flight_waits_for_the_next_commit() {
    let mut space = space(1_000);
    space.take(BlockNr(500), 2).unwrap();
    space.release(BlockNr(500), 1).unwrap();
    space.freeze();
    space.release(BlockNr(501), 1).unwrap();
    space.unpin();
    assert_eq!((space.run_at(BlockNr(500), 9), space.run_at(BlockNr(501), 9)), (1, 0));
    space.freeze();
    space.unpin();
    assert_eq!(space.run_at(BlockNr(500), 9), 9);
}

#[test]
fn a_free_in_a_group_that_is_not_loaded_is_deferred() {
    let mut space = space(3 * GROUP);
    let mut bitmap = [0u8; 4096];
    bitmap[0] = 0b1111;
    space.release(BlockNr(GROUP), 3).unwrap();
    assert_eq!((space.next_deferred(), space.dirty_groups()), (Some(1), 1));
    space.insert(1, Pointer::default(), &bitmap).unwrap();
    space.apply_deferred().unwrap();
    assert_eq!((space.next_deferred(), space.next_unplaced(Generation(1))), (None, Some(1)));
    space.bitmap(1, &mut bitmap).unwrap();
    assert_eq!(bitmap[0], 0b1000);
}

#[test]
fn a_free_that_spans_groups_is_cut_at_their_border() {
    let mut space = space(3 * GROUP);
    space.take(BlockNr(GROUP - 2), 2).unwrap();
    space.release(BlockNr(GROUP - 2), 5).unwrap();
    assert_eq!((space.next_deferred(), space.dirty_groups()), (Some(1), 2));
}

#[test]
fn runs_are_aligned_where_one_is_free_and_long_where_not() {
    let mut space = space(4_000);
    space.take(BlockNr(1_000), 1).unwrap();
    assert_eq!(space.find(0, BlockNr(900), 512, 512), Some((BlockNr(1_024), 512)));
    space.take(BlockNr(1_100), 2_899).unwrap();
    assert_eq!(space.find(0, BlockNr(900), 512, 512), Some((BlockNr(900), 100)), "the longest");
}

#[test]
fn the_end_and_the_reserved_blocks_are_never_free() {
    let space = space(1_000);
    assert_eq!(space.find(0, BlockNr(0), 1_000, 1), Some((BlockNr(FIRST_FREE), 965)));
    assert_eq!(space.run_at(BlockNr(999), 1), 0, "the last backup superblock");
}

/// Allocating a block in use is the engine's mistake; freeing a free one means that the tree is damaged.
#[test]
fn a_bug_is_told_apart_from_damage() {
    let mut space = space(1_000);
    space.take(BlockNr(500), 1).unwrap();
    assert!(matches!(space.take(BlockNr(500), 1), Err(Error::Bug(_))));
    assert!(matches!(space.release(BlockNr(600), 1), Err(Error::Corrupt(_))));
    assert!(matches!(space.release(BlockNr(999), 2), Err(Error::Corrupt(_))));
    assert!(matches!(space.group_mut(7), Err(Error::Bug(_))));
}

#[test]
fn a_free_that_is_refused_changes_nothing() {
    let mut space = space(3 * GROUP);
    let mut bitmap = [0u8; 4096];
    bitmap[0] = 0b0111;
    space.release(BlockNr(GROUP), 4).unwrap();
    space.insert(1, Pointer::default(), &bitmap).unwrap();
    for _ in 0..2 {
        assert!(matches!(space.apply_deferred(), Err(Error::Corrupt(_))));
        space.bitmap(1, &mut bitmap).unwrap();
        assert_eq!(bitmap[0], 0b0111);
    }
}

#[test]
fn a_bitmap_that_marks_reserved_blocks_free_is_refused() {
    // Blocks 0 to 33 of the first group, and from the last backup superblock on in the second.
    let (first, last) = (FIRST_FREE as usize, 999);
    let whole = |index: u64| {
        let mut bitmap = [0u8; 4096];
        let reserved = if index == 0 { 0..first } else { last..GROUP as usize };
        reserved.for_each(|bit| bitmap[bit / 8] |= 1 << (bit % 8));
        bitmap
    };
    for (index, reserved) in [(0, [0, 1, first - 1]), (1, [last, 1_000, GROUP as usize - 1])] {
        for bit in reserved {
            let mut space = Space::new(&geometry(GROUP + 1_000));
            let mut bitmap = whole(index);
            bitmap[bit / 8] &= !(1 << (bit % 8));
            let refused = space.insert(index, Pointer::default(), &bitmap);
            assert!(matches!(refused, Err(Error::Corrupt(_))), "{index}, {bit}: {refused:?}");
            space.insert(index, Pointer::default(), &whole(index)).unwrap();
        }
    }
}

#[test]
fn blocks_of_a_commit_are_contiguous() {
    let mut space = space(4_000);
    let first = space.take_meta(None).unwrap();
    for offset in 1..20 {
        assert_eq!(space.take_meta(None).unwrap(), BlockNr(first.0 + offset));
    }
}
