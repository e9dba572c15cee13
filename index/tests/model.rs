// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The index beside a map of vectors, under random operations, builds and reopenings.

mod common;

use std::collections::BTreeMap;

use common::open_with;
use proptest::prelude::*;
use vexfs_index::{DirStore, Element, FileId, Hit, Index, Metric, Params, Slot, Space, Store};

const DIM: usize = 6;

#[derive(Clone, Debug)]
enum Op {
    Upsert { file: u64, slot: u64, rows: Vec<[i8; DIM]> },
    Remove { file: u64, from: u64, count: u64 },
    Truncate { file: u64, slots: u64 },
    Drop { file: u64 },
    Settle,
    Search { files: Vec<u64>, query: [i8; DIM], k: usize },
    Checkpoint,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let row = || prop::array::uniform6(-4i8..4);
    let file = || 0u64..3;
    prop_oneof![
        8 => (file(), 0u64..120, prop::collection::vec(row(), 1..30))
            .prop_map(|(file, slot, rows)| Op::Upsert { file, slot, rows }),
        3 => (file(), 0u64..150, 0u64..40)
            .prop_map(|(file, from, count)| Op::Remove { file, from, count }),
        1 => (file(), 0u64..150).prop_map(|(file, slots)| Op::Truncate { file, slots }),
        1 => file().prop_map(|file| Op::Drop { file }),
        2 => Just(Op::Settle),
        6 => (prop::collection::vec(0u64..4, 1..4), row(), 1usize..20)
            .prop_map(|(files, query, k)| Op::Search { files, query, k }),
        2 => Just(Op::Checkpoint),
        2 => Just(Op::Reopen),
    ]
}

type Vectors = BTreeMap<u64, BTreeMap<u64, [i8; DIM]>>;

/// What the definition of the metric says.
fn distance(metric: Metric, a: [i8; DIM], b: [i8; DIM]) -> f64 {
    let dot = |a: [i8; DIM], b: [i8; DIM]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(y)).sum()
    };
    match metric {
        Metric::L2 => (dot(a, a) - 2.0 * dot(a, b) + dot(b, b)).max(0.0).sqrt(),
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        _ => -dot(a, b),
    }
}

fn check(
    metric: Metric,
    index: &Index,
    model: &Vectors,
    files: &[u64],
    query: [i8; DIM],
    k: usize,
) -> Result<(), TestCaseError> {
    let ids: Vec<FileId> = files.iter().map(|&file| FileId(file)).collect();
    let numbers: Vec<f32> = query.iter().map(|&x| f32::from(x)).collect();
    let mut truth: Vec<f64> = files
        .iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .filter_map(|file| model.get(file))
        .flat_map(|vectors| vectors.values().map(|row| distance(metric, *row, query)))
        .collect();
    if metric == Metric::Cosine && query == [0; DIM] {
        let known = files.iter().any(|file| model.contains_key(file));
        prop_assert_eq!(index.search(&ids, &numbers, k, None, true).is_err(), known);
        return Ok(());
    }
    truth.sort_by(f64::total_cmp);
    truth.truncate(k);
    let valid = |hits: &[Hit]| -> Result<(), TestCaseError> {
        let order = |hit: &Hit| (hit.distance, hit.file, hit.slot);
        prop_assert!(hits.is_sorted_by(|a, b| order(a) < order(b)), "{:?}", hits);
        for hit in hits {
            let row = model[&hit.file.0].get(&hit.slot.0);
            prop_assert!(row.is_some(), "{:?} is not there", hit);
            let real = distance(metric, *row.unwrap(), query);
            prop_assert!((f64::from(hit.distance) - real).abs() < 1e-5, "{:?}: {}", hit, real);
        }
        Ok(())
    };
    let exact = index.search(&ids, &numbers, k, None, true).unwrap();
    valid(&exact)?;
    prop_assert_eq!(exact.len(), truth.len());
    for (hit, real) in exact.iter().zip(&truth) {
        prop_assert!((f64::from(hit.distance) - real).abs() < 1e-5, "{:?}: {}", exact, truth[0]);
    }
    // Graphs may miss some, but neither invent nor resurrect any, nor return too few.
    let found = index.search(&ids, &numbers, k, Some(k.max(8)), false).unwrap();
    valid(&found)?;
    prop_assert_eq!(found.len(), truth.len());
    Ok(())
}

fn run(metric: Metric, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let space = Space::new(Element::I8, metric, DIM as u32);
    let dir = tempfile::tempdir().unwrap();
    let store = || Some(Box::new(DirStore::open(dir.path()).unwrap()) as Box<dyn Store>);
    let (mut index, recovered) = open_with(store(), 24, 3);
    prop_assert!(recovered.covered.is_none() && recovered.problems.is_empty());
    let mut model = Vectors::new();
    let mut saved: Option<(u64, Vectors)> = None;
    for op in ops {
        match op {
            Op::Upsert { file, slot, rows } => {
                let fresh = index.declare(FileId(file), space, Params::default()).unwrap();
                prop_assert_eq!(fresh, !model.contains_key(&file));
                let bytes: Vec<Vec<u8>> = rows
                    .iter()
                    .map(|row| row.iter().map(|&x| x.cast_unsigned()).collect())
                    .collect();
                let batch: Vec<(Slot, &[u8])> =
                    (slot..).map(Slot).zip(bytes.iter().map(Vec::as_slice)).collect();
                // Twice: a replayed write changes nothing.
                let first = index.upsert_batch(FileId(file), &batch).unwrap();
                prop_assert_eq!(index.upsert_batch(FileId(file), &batch).unwrap(), first);
                let vectors = model.entry(file).or_default();
                for (slot, row) in (slot..).zip(rows) {
                    if metric == Metric::Cosine && row == [0; DIM] {
                        vectors.remove(&slot);
                    } else {
                        vectors.insert(slot, row);
                    }
                }
            }
            Op::Remove { file, from, count } => {
                let gone = index.remove(FileId(file), from..from + count);
                let vectors = model.entry(file).or_default();
                let before = vectors.len();
                vectors.retain(|slot, _| !(from..from + count).contains(slot));
                prop_assert_eq!(gone as usize, before - vectors.len());
                index.declare(FileId(file), space, Params::default()).unwrap();
            }
            Op::Truncate { file, slots } => {
                index.truncate(FileId(file), slots);
                if let Some(vectors) = model.get_mut(&file) {
                    vectors.retain(|slot, _| *slot < slots);
                }
            }
            Op::Drop { file } => {
                prop_assert_eq!(index.drop_file(FileId(file)), model.remove(&file).is_some());
            }
            Op::Settle => {
                index.settle();
                prop_assert_eq!(index.stats().problem, None);
            }
            Op::Search { files, query, k } => check(metric, &index, &model, &files, query, k)?,
            Op::Checkpoint => {
                let generation = saved.as_ref().map_or(5, |(generation, _)| generation + 1);
                let files: Vec<(FileId, Vec<u8>)> =
                    model.keys().map(|&file| (FileId(file), vec![file as u8; 3])).collect();
                index.checkpoint(generation, b"note", &files).unwrap();
                saved = Some((generation, model.clone()));
            }
            Op::Reopen => {
                drop(index);
                let (again, recovered) = open_with(store(), 24, 3);
                index = again;
                prop_assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
                let covered = recovered.covered;
                prop_assert_eq!(
                    covered.as_ref().map(|covered| covered.generation),
                    saved.as_ref().map(|(generation, _)| *generation)
                );
                model = saved.as_ref().map(|(_, model)| model.clone()).unwrap_or_default();
                if let Some(covered) = covered {
                    prop_assert_eq!(&covered.note, b"note");
                    let files: Vec<(FileId, Vec<u8>)> =
                        model.keys().map(|&file| (FileId(file), vec![file as u8; 3])).collect();
                    prop_assert_eq!(covered.files, files);
                }
            }
        }
        let total: usize = model.values().map(BTreeMap::len).sum();
        prop_assert_eq!(index.stats().counts.vectors as usize, total);
    }
    index.settle();
    prop_assert_eq!(index.stats().problem, None);
    check(metric, &index, &model, &[0, 1, 2], [1, -2, 3, 0, 1, 1], 12)?;
    for (file, vectors) in &model {
        for slot in 0..160 {
            let got = index.get(FileId(*file), Slot(slot));
            prop_assert_eq!(got.is_ok(), vectors.contains_key(&slot), "slot {}", slot);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 2000, ..Default::default() })]

    #[test]
    fn l2_agrees_with_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(Metric::L2, ops)?;
    }

    #[test]
    fn cosine_agrees_with_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(Metric::Cosine, ops)?;
    }

    #[test]
    fn dot_agrees_with_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(Metric::Dot, ops)?;
    }
}
