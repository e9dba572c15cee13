// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What merging costs and leaves, in sizes, without rows.

use super::*;
use proptest::prelude::*;

const GROWING: usize = 1024;
const HANDFUL: usize = GROWING / 8;

/// A file as sizes: the sealed parts, the growing one, and what was inserted and copied so far.
#[derive(Default)]
struct Sizes {
    sealed: Vec<usize>,
    growing: usize,
    credit: usize,
    inserted: usize,
    copied: usize,
}

impl Sizes {
    fn merge(&mut self, bound: usize, at_rest: bool) -> bool {
        let mut parts: Vec<Part> = self
            .sealed
            .iter()
            .map(|&rows| Part { rows, tombstones: 0, lacks_graph: false })
            .collect();
        let with_growing = if at_rest && !self.sealed.is_empty() { HANDFUL + 1 } else { GROWING };
        if self.growing >= with_growing {
            let lacks_graph = self.growing >= GROWING;
            parts.push(Part { rows: self.growing, tombstones: 0, lacks_graph });
        }
        let credit = if at_rest { self.credit } else { 0 };
        let Some(choice) = choose(&parts, Terms { bound, handful: HANDFUL, credit }) else {
            return false;
        };
        let rows: Vec<usize> = choice.parts.iter().map(|&at| parts[at].rows).collect();
        self.copied += rows.iter().sum::<usize>();
        self.inserted += rows.iter().skip(usize::from(rows.len() > 1)).sum::<usize>();
        let mut at = 0;
        self.sealed.retain(|_| {
            at += 1;
            !choice.parts.contains(&(at - 1))
        });
        if choice.parts.contains(&at) {
            self.growing = 0;
        }
        self.sealed.push(rows.iter().sum());
        if choice.by_credit {
            self.credit = 0;
        }
        true
    }

    fn add(&mut self, rows: usize) {
        self.growing += rows;
        self.credit += rows;
    }

    fn total(&self) -> usize {
        self.sealed.iter().sum::<usize>() + self.growing
    }
}

#[test]
fn a_file_that_was_written_at_once_becomes_one_graph_and_a_handful() {
    for rows in [1_500, 20_000, 100_000, 1_000_000, 1_000_127, 1_040_000] {
        let mut sizes = Sizes::default();
        // The builds keep up, which leaves as many parts as there ever are.
        while sizes.total() < rows {
            sizes.add(200.min(rows - sizes.total()));
            while sizes.merge(usize::MAX, false) {}
        }
        while sizes.merge(usize::MAX, true) {}
        assert_eq!(sizes.sealed.len(), 1, "{rows}: {:?}", sizes.sealed);
        assert!(sizes.growing <= HANDFUL, "{rows}: {}", sizes.growing);
    }
}

#[test]
fn a_row_is_inserted_a_few_times_and_copied_a_few_dozen_times() {
    for (rows, at_rest) in [(100_000, false), (1_000_000, false), (1_000_000, true)] {
        let mut sizes = Sizes::default();
        while sizes.total() < rows {
            sizes.add(50);
            while sizes.merge(usize::MAX, false) {}
            while at_rest && sizes.merge(usize::MAX, true) {}
        }
        let levels = (rows / GROWING).ilog(RATIO) as usize + 1;
        let rest = usize::from(at_rest);
        assert!(sizes.inserted <= rows * (levels + rest), "{} at {rows}", sizes.inserted);
        assert!(sizes.copied <= rows * 2 * RATIO * (levels + rest), "{} at {rows}", sizes.copied);
    }
}

#[test]
fn a_trickle_into_a_large_file_does_not_copy_it_each_time() {
    let mut sizes = Sizes { sealed: vec![1_000_000], ..Sizes::default() };
    for _ in 0..10_000 {
        sizes.add(1);
        while sizes.merge(usize::MAX, true) {}
    }
    assert_eq!(sizes.sealed[0], 1_000_000);
    assert!(sizes.copied < 10_000 * 2 * RATIO, "{}", sizes.copied);
}

#[test]
fn graphs_that_are_missing_and_tombstones_are_worth_a_merge_of_one() {
    let terms = Terms { bound: 100, handful: 8, credit: 0 };
    let part = |rows, tombstones, lacks_graph| Part { rows, tombstones, lacks_graph };
    let alone = |at| Some(Choice { parts: vec![at], by_credit: false });
    assert_eq!(choose(&[part(90, 0, false), part(40, 0, true)], terms), alone(1));
    assert_eq!(choose(&[part(90, 45, false)], terms), None);
    assert_eq!(choose(&[part(90, 46, false)], terms), alone(0));
    assert_eq!(choose(&[], terms), None);
}

proptest! {
    /// However rows come, merging ends, keeps its bound, and leaves few parts.
    #[test]
    fn merging_ends_within_its_bound(
        steps in prop::collection::vec((1usize..20_000, any::<bool>()), 1..60),
        bound in 2_000usize..200_000,
    ) {
        let mut sizes = Sizes::default();
        for (rows, at_rest) in steps {
            sizes.add(rows.min(bound / 2));
            let before = sizes.total();
            let mut jobs = 0;
            while sizes.merge(bound, at_rest) {
                jobs += 1;
                prop_assert!(jobs < 1_000);
            }
            prop_assert_eq!(sizes.total(), before);
            prop_assert!(sizes.sealed.iter().all(|&rows| rows <= bound));
            // Any two parts that are at least a bound together, and a level for each ratio below it.
            let most = 2 * sizes.total() / bound + 1 + bound.ilog(RATIO) as usize;
            prop_assert!(sizes.sealed.len() <= most, "{:?} within {bound}", sizes.sealed);
        }
    }
}
