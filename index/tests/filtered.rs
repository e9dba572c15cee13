// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Filtered searches, radii, batches and wished recalls against the definition, with rows that were removed,
//! overwritten and are equal to others.

mod common;

use common::{corpus, feed, open, raw};
use proptest::prelude::*;
use std::collections::BTreeMap;
use vexfs_index::{
    Answer, Ask, Bitmap, Element, FileId, Filter, Hit, Index, Metric, Options, Params, Slot, Space,
    Width, npy::Matrix,
};

const FILE: FileId = FileId(7);
const DIM: usize = 8;

/// A number that has nothing to do with the slot.
fn mixed(slot: u64) -> u64 {
    let z = (slot + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

fn row(seed: u64) -> Vec<f32> {
    (0..DIM as u64).map(|i| (mixed(seed * 31 + i) % 2000) as f32 / 100.0 - 10.0).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f32>().sqrt()
}

/// The definition: all rows that pass, the nearest first.
fn expected(
    rows: &BTreeMap<u64, Vec<f32>>,
    query: &[f32],
    passes: impl Fn(u64) -> bool,
) -> Vec<(f32, u64)> {
    let mut all: Vec<(f32, u64)> = rows
        .iter()
        .filter(|(slot, _)| passes(**slot))
        .map(|(slot, row)| (distance(row, query), *slot))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all
}

/// How many hits are among the nearest, by distance.
fn good(expected: &[(f32, u64)], hits: &[Hit]) -> usize {
    let worst = expected.last().map_or(0.0, |last| last.0) + 1e-4;
    hits.iter().filter(|hit| hit.distance <= worst).count()
}

/// What is in an index after it was built: rows by slot.
fn built(
    count: u64,
    removed: u64,
    overwritten: u64,
    equal: u64,
) -> (Index, BTreeMap<u64, Vec<f32>>) {
    let index = open(500);
    index
        .declare(FILE, Space::new(Element::F32, Metric::L2, DIM as u32), Params::default())
        .unwrap();
    let mut rows = BTreeMap::new();
    let put = |slot: u64, row: Vec<f32>, rows: &mut BTreeMap<u64, Vec<f32>>| {
        index.upsert(FILE, Slot(slot), &raw(&row)).unwrap();
        rows.insert(slot, row);
    };
    // Equal rows: every so many slots have the row of the first of them.
    for slot in 0..count {
        put(slot, row(if mixed(slot) % 100 < equal { slot % 7 } else { slot }), &mut rows);
    }
    index.settle();
    for slot in (0..count).filter(|slot| mixed(slot + 1) % 100 < removed) {
        index.remove(FILE, slot..slot + 1);
        rows.remove(&slot);
    }
    for slot in (0..count).filter(|slot| mixed(slot + 2) % 100 < overwritten) {
        put(slot, row(slot + 100_000), &mut rows);
    }
    (index, rows)
}

fn one(answers: Vec<Answer>) -> Answer {
    assert_eq!(answers.len(), 1);
    answers.into_iter().next().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_found_passes_and_is_nearly_all_of_it(
        removed in 0u64..40, overwritten in 0u64..20, equal in 0u64..30,
        per_mille in prop::sample::select(vec![1u64, 10, 100, 300, 500, 900]),
        // By slot, as topics are, or by chance.
        by_slot: bool, ef in prop::sample::select(vec![24usize, 64]), settled: bool,
    ) {
        const COUNT: u64 = 3000;
        let (index, rows) = built(COUNT, removed, overwritten, equal);
        if settled {
            index.settle();
        }
        let passes = |slot: u64| if by_slot { slot * 1000 < per_mille * COUNT } else { mixed(slot + 3) % 1000 < per_mille };
        let filter = |_: FileId, slot: Slot| passes(slot.0);
        let (mut found, mut wanted) = (0, 0);
        for seed in 0..12 {
            let query = row(500_000 + seed);
            let nearest = expected(&rows, &query, passes);
            let first = &nearest[..nearest.len().min(10)];
            let ask = |width| {
                let ask = Ask { k: 10, width, filter: Some(&filter), within: None };
                one(index.search_all(&[FILE], &[&query], &ask).unwrap()).hits
            };
            let exact = ask(Width::Exact);
            prop_assert_eq!(exact.len(), first.len());
            prop_assert_eq!(good(first, &exact), first.len());
            let hits = ask(Width::Ef(ef));
            prop_assert_eq!(hits.len(), first.len());
            for hit in &hits {
                prop_assert!(passes(hit.slot.0) && rows.contains_key(&hit.slot.0), "{:?}", hit);
                prop_assert!((hit.distance - distance(&rows[&hit.slot.0], &query)).abs() < 1e-3);
            }
            let mut slots: Vec<u64> = hits.iter().map(|hit| hit.slot.0).collect();
            slots.sort_unstable();
            slots.dedup();
            prop_assert_eq!(slots.len(), hits.len(), "a row twice");
            found += good(first, &hits);
            wanted += first.len();
        }
        prop_assert!(found * 100 >= wanted * 95, "{} of {}", found, wanted);
    }

    #[test]
    fn a_radius_holds_what_is_near_and_says_when_it_is_cut(
        removed in 0u64..30, radius in 0.0f32..16.0, k in prop::sample::select(vec![1usize, 10, 70, 2000]), half: bool, exact: bool,
    ) {
        let (index, rows) = built(1500, removed, 5, 10);
        let passes = |slot: u64| !half || slot.is_multiple_of(2);
        let filter = |_: FileId, slot: Slot| passes(slot.0);
        let query = row(777_777);
        let width = if exact { Width::Exact } else { Width::Ef(64) };
        let ask = Ask { k, width, filter: Some(&filter), within: Some(radius) };
        let answer = one(index.search_all(&[FILE], &[&query], &ask).unwrap());
        let inside = expected(&rows, &query, passes).into_iter().filter(|(distance, _)| *distance <= radius).count();
        prop_assert!(answer.hits.iter().all(|hit| hit.distance <= radius && passes(hit.slot.0)));
        let wanted = inside.min(k);
        if exact {
            prop_assert_eq!((answer.hits.len(), answer.cut, answer.ef), (wanted, inside > k, None));
        } else {
            prop_assert!(answer.hits.len() * 20 >= wanted * 19, "{} of {}", answer.hits.len(), wanted);
            prop_assert!(!answer.cut || inside > k);
        }
    }
}

/// Real embeddings whose graph is walked however few they are, and queries.
fn packages() -> (Index, Matrix) {
    let options = Options { graph_rows: 500, nice: 0, scan_factor: 1, ..Options::default() };
    let (index, _) = Index::open(None, options).unwrap();
    index.declare(FILE, Space::new(Element::F32, Metric::Cosine, 384), Params::default()).unwrap();
    feed(&index, FILE, 0, &corpus("packages-2k.npy"));
    index.settle();
    (index, corpus("queries-200.npy"))
}

#[test]
fn a_filter_on_real_embeddings_is_walked_and_found() {
    let (index, queries) = packages();
    let filter = |_: FileId, slot: Slot| mixed(slot.0).is_multiple_of(2);
    let each: Vec<&[f32]> = (0..queries.rows).map(|row| queries.row(row)).collect();
    let ask = |width| {
        let ask = Ask { k: 10, width, filter: Some(&filter), within: None };
        index.search_all(&[FILE], &each, &ask).unwrap()
    };
    let (exact, found) = (ask(Width::Exact), ask(Width::Ef(40)));
    let walked = found.iter().filter(|answer| answer.ef == Some(40)).count();
    assert!(walked > 150, "{walked} of 200 queries were walked");
    assert!(exact.iter().all(|answer| answer.ef.is_none()));
    let good: usize = exact
        .iter()
        .zip(&found)
        .map(|(exact, found)| {
            let worst = exact.hits[9].distance + 1e-6;
            found.hits.iter().filter(|hit| hit.distance <= worst).count()
        })
        .sum();
    assert!(good >= 1900, "recall {}", good as f64 / 2000.0);
}

#[test]
fn a_wished_recall_is_met_or_everything_is_compared() {
    let (index, queries) = packages();
    let each: Vec<&[f32]> = (0..queries.rows).map(|row| queries.row(row)).collect();
    let ask =
        |width| index.search_all(&[FILE], &each, &Ask { k: 10, width, ..Ask::default() }).unwrap();
    let exact = ask(Width::Exact);
    let mut widths = Vec::new();
    for recall in [0.5, 0.9, 0.99] {
        let found = ask(Width::Recall(recall));
        let good: usize = exact
            .iter()
            .zip(&found)
            .map(|(exact, found)| {
                let worst = exact.hits[9].distance + 1e-6;
                found.hits.iter().filter(|hit| hit.distance <= worst).count()
            })
            .sum();
        assert!(good as f64 >= recall * 2000.0, "{recall}: {good} of 2000");
        widths.push(found.iter().map(|answer| answer.ef).max().unwrap());
    }
    assert!(widths.is_sorted() && widths[0].is_some(), "{widths:?}");
    // More than the sample can show: nothing is left to a graph.
    assert_eq!(ask(Width::Recall(1.0)), exact);
    for recall in [0.0, 1.1, f64::NAN] {
        let wrong = Ask { k: 10, width: Width::Recall(recall), ..Ask::default() };
        assert!(index.search_all(&[FILE], &each, &wrong).is_err());
    }
}

#[test]
fn queries_of_a_batch_are_answered_as_alone() {
    let (index, _) = built(1200, 10, 10, 10);
    let queries: Vec<Vec<f32>> = (0..30).map(|seed| row(900_000 + seed)).collect();
    let each: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
    let filter = |_: FileId, slot: Slot| !slot.0.is_multiple_of(3);
    let ask = Ask { k: 5, width: Width::Ef(32), filter: Some(&filter), within: None };
    let together = index.search_all(&[FILE], &each, &ask).unwrap();
    for (query, answer) in each.iter().zip(&together) {
        assert_eq!(&one(index.search_all(&[FILE], &[query], &ask).unwrap()), answer);
    }
    assert_eq!(index.search_all(&[FILE], &[], &ask).unwrap(), []);
    assert!(index.search_all(&[FILE], &[&queries[0], &[1.0]], &ask).is_err());
}

#[test]
fn a_slot_far_out_costs_no_more_than_its_row() {
    struct Windows;
    impl Filter for Windows {
        fn passing(&self, _: FileId, slots: std::ops::Range<u64>) -> Bitmap {
            assert!(slots.end - slots.start <= vexfs_index::WINDOW as u64);
            Bitmap::all((slots.end - slots.start) as usize)
        }
    }
    let index = open(500);
    index
        .declare(FILE, Space::new(Element::F32, Metric::L2, DIM as u32), Params::default())
        .unwrap();
    for slot in [0, 5, 1 << 20, 1 << 60, u64::MAX - 1] {
        index.upsert(FILE, Slot(slot), &raw(&row(slot % 97))).unwrap();
    }
    let ask = Ask { k: 10, filter: Some(&Windows), ..Ask::default() };
    assert_eq!(one(index.search_all(&[FILE], &[&row(1)], &ask).unwrap()).hits.len(), 5);
}
