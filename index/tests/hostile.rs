// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Data that ruins a graph which is not built for it, through the index's interface: rows come in small
//! batches with builds and merges in between, and the settled file is held against the exact search.

mod common;

use std::collections::BTreeMap;

use common::{mean_recall, raw};
use proptest::prelude::*;
use vexfs_index::{Element, FileId, Index, Metric, Options, Params, Slot, Space, npy::Matrix};

const FILE: FileId = FileId(7);
const GRAPH_ROWS: usize = 256;

fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn index() -> Index {
    let options = Options { graph_rows: GRAPH_ROWS, scan_factor: 1, nice: 0, ..Options::default() };
    Index::open(None, options).unwrap().0
}

/// Streams rows in, 300 at a time, each settled.
fn stream(metric: Metric, rows: &Matrix) -> Index {
    let index = index();
    let space = Space::new(Element::F32, metric, rows.dim as u32);
    index.declare(FILE, space, Params::default()).unwrap();
    for (part, numbers) in rows.data.chunks(300 * rows.dim).enumerate() {
        let first = Slot(part as u64 * 300);
        index.upsert_rows(FILE, first, &raw(numbers), rows.dim * 4, 0).unwrap();
        index.settle();
    }
    index
}

/// Recall at `ef` 40 of some of the rows, moved a little; and the file is one graph but for a sixteenth.
fn check(name: &str, index: &Index, rows: &Matrix) {
    let mut next = random(11);
    let asked: Vec<usize> = (0..rows.rows).step_by(rows.rows / 150).collect();
    let moved =
        |&row: &usize| rows.row(row).iter().map(|x| x * (1.0 + 0.01 * next())).collect::<Vec<_>>();
    let data: Vec<f32> = asked.iter().flat_map(moved).collect();
    let queries = Matrix { rows: asked.len(), dim: rows.dim, data };
    let recall = mean_recall(index, &[FILE], &queries, Some(40));
    let counts = index.stats().counts;
    assert!(recall >= 0.98, "{name}: recall {recall}, {counts:?}");
    assert!(counts.segments <= 2, "{name}: {counts:?}");
    assert_eq!(index.stats().problem, None);
}

fn matrix(rows: usize, dim: usize, row: impl FnMut(usize) -> Vec<f32>) -> Matrix {
    Matrix { rows, dim, data: (0..rows).flat_map(row).collect() }
}

/// Topic by topic.
fn topics(rows: usize, topics: usize, dim: usize, spread: f32) -> Matrix {
    let mut next = random(3);
    let centres: Vec<Vec<f32>> = (0..topics).map(|_| (0..dim).map(|_| next()).collect()).collect();
    matrix(rows, dim, |i| centres[i * topics / rows].iter().map(|x| x + spread * next()).collect())
}

#[test]
fn topic_by_topic() {
    for (count, spread) in [(10, 0.3), (200, 0.2)] {
        let rows = topics(4_000, count, 32, spread);
        check("topics", &stream(Metric::L2, &rows), &rows);
        check("topics", &stream(Metric::Cosine, &rows), &rows);
    }
}

#[test]
fn one_crowd_and_heavy_tails() {
    let (mut next, plain) = (random(5), topics(5_000, 100, 24, 0.3));
    let crowd = matrix(5_000, 24, |i| {
        let scale = if i % 100 == 0 { 1.0 } else { 1e-3 };
        plain.row(i).iter().map(|x| x * scale).collect()
    });
    check("crowd", &stream(Metric::L2, &crowd), &crowd);
    // A few dimensions hold nearly all of every distance.
    let scales: Vec<f32> = (0..24).map(|_| (1.0 / next().abs().max(1e-3)).powf(0.7)).collect();
    let tails = matrix(5_000, 24, |i| {
        plain.row(i).iter().zip(&scales).map(|(x, scale)| x * scale).collect()
    });
    check("tails", &stream(Metric::L2, &tails), &tails);
}

#[test]
fn lengths_that_differ_a_thousandfold() {
    let plain = topics(5_000, 100, 24, 0.3);
    let rows = matrix(5_000, 24, |i| {
        let scale = 10f32.powf((i * 7 % 31) as f32 / 10.0);
        plain.row(i).iter().map(|x| x * scale).collect()
    });
    check("lengths", &stream(Metric::Dot, &rows), &rows);
}

#[test]
fn equal_rows_and_zeroes() {
    let few = topics(40, 40, 24, 0.0);
    let rows = matrix(3_000, 24, |i| few.row(i % 40).to_vec());
    check("equal", &stream(Metric::L2, &rows), &rows);
    let zeroes = matrix(2_000, 24, |_| vec![0.0; 24]);
    check("zeroes", &stream(Metric::L2, &zeroes), &zeroes);
}

#[test]
fn nearly_all_deleted() {
    let rows = topics(6_000, 100, 32, 0.3);
    let index = stream(Metric::L2, &rows);
    for slot in (0..6_000).filter(|slot| slot % 20 != 3) {
        assert_eq!(index.remove(FILE, slot..slot + 1), 1);
    }
    check("deleted, not settled", &index, &rows);
    index.settle();
    check("deleted", &index, &rows);
    let counts = index.stats().counts;
    assert!(counts.tombstones * 2 <= counts.vectors, "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..Default::default() })]

    /// Upserts, overwrites, duplicates and removals, with builds under way: nothing that is not there is
    /// found, and nearly all that is near.
    #[test]
    fn churn_costs_no_recall(
        ops in prop::collection::vec((0u8..6, 0u64..2_000, 1usize..500, any::<u64>()), 8..24),
    ) {
        let (dim, index, few) = (12, index(), topics(60, 60, 12, 0.0));
        index.declare(FILE, Space::new(Element::F32, Metric::L2, 12), Params::default()).unwrap();
        let mut model: BTreeMap<u64, Vec<f32>> = BTreeMap::new();
        for (what, slot, count, seed) in ops {
            let mut next = random(seed);
            let slots = slot..slot + count as u64;
            match what {
                0 => {
                    let there = model.range(slots.clone()).count() as u64;
                    prop_assert_eq!(index.remove(FILE, slots.clone()), there);
                    model.retain(|slot, _| !slots.contains(slot));
                }
                1 => index.settle(),
                _ => {
                    // Of what 2 is, many rows are equal.
                    let spread = if what == 2 { 0.0 } else { 0.3 };
                    let topic = seed as usize % 60;
                    for (i, slot) in slots.clone().enumerate() {
                        let centre = few.row((topic + i / 50) % 60);
                        model.insert(slot, centre.iter().map(|x| x + spread * next()).collect());
                    }
                    let bytes: Vec<f32> = slots.flat_map(|slot| model[&slot].clone()).collect();
                    index.upsert_rows(FILE, Slot(slot), &raw(&bytes), dim * 4, 0).unwrap();
                }
            }
        }
        for settled in [false, true] {
            if settled {
                index.settle();
            }
            prop_assert_eq!(index.stats().counts.vectors, model.len() as u64);
            let (mut good, mut asked) = (0, 0);
            for row in model.values().step_by(model.len() / 60 + 1) {
                let exact = index.search(&[FILE], row, 10, None, true).unwrap();
                let found = index.search(&[FILE], row, 10, Some(40), false).unwrap();
                prop_assert_eq!(found.len(), exact.len());
                for hit in &found {
                    prop_assert!(model.contains_key(&hit.slot.0));
                }
                let pairs = exact.iter().zip(&found);
                good += pairs.filter(|(a, b)| b.distance <= a.distance + 1e-6).count();
                asked += exact.len();
            }
            prop_assert!(good * 100 >= asked * 97, "{} of {}, settled: {}", good, asked, settled);
        }
    }
}
