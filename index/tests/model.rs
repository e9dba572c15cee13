// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The index beside a map of vectors, under random operations, builds and reopenings.

mod common;

use std::collections::BTreeMap;

use common::open_with;
use proptest::prelude::*;
use tempfile::TempDir;
use vexfs_index::{
    DirStore, Element, FileId, Hit, Index, Metric, Params, Recovered, Slot, Space, Store,
};

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
    // Graphs may miss some, but return neither vectors that are not there nor too few.
    let found = index.search(&ids, &numbers, k, Some(k.max(8)), false).unwrap();
    valid(&found)?;
    prop_assert_eq!(found.len(), truth.len());
    Ok(())
}

/// An index beside its model.
struct World {
    space: Space,
    dir: TempDir,
    index: Option<Index>,
    model: Vectors,
    /// The newest checkpoint's generation, and the model then.
    saved: Option<(u64, Vectors)>,
}

impl World {
    fn new(metric: Metric) -> Result<Self, TestCaseError> {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(Element::I8, metric, DIM as u32);
        let mut world = Self { space, dir, index: None, model: Vectors::new(), saved: None };
        let recovered = world.open();
        prop_assert!(recovered.covered.is_none() && recovered.problems.is_empty());
        Ok(world)
    }

    /// Closes the index if it is open, and opens it.
    fn open(&mut self) -> Recovered {
        self.index = None;
        let store: Box<dyn Store> = Box::new(DirStore::open(self.dir.path()).unwrap());
        let (index, recovered) = open_with(Some(store), 24, 3);
        self.index = Some(index);
        recovered
    }

    fn index(&self) -> &Index {
        self.index.as_ref().unwrap()
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Upsert { file, slot, rows } => self.upsert(file, slot, rows)?,
            Op::Remove { file, from, count } => self.remove(file, from, count)?,
            Op::Truncate { file, slots } => {
                self.index().truncate(FileId(file), slots);
                if let Some(vectors) = self.model.get_mut(&file) {
                    vectors.retain(|slot, _| *slot < slots);
                }
            }
            Op::Drop { file } => {
                let known = self.model.remove(&file).is_some();
                prop_assert_eq!(self.index().drop_file(FileId(file)), known);
            }
            Op::Settle => self.settle()?,
            Op::Search { files, query, k } => self.search(&files, query, k)?,
            Op::Checkpoint => {
                let generation = self.saved.as_ref().map_or(5, |(generation, _)| generation + 1);
                self.index().checkpoint(generation, b"note", &self.states()).unwrap();
                self.saved = Some((generation, self.model.clone()));
            }
            Op::Reopen => self.reopen()?,
        }
        let total: usize = self.model.values().map(BTreeMap::len).sum();
        prop_assert_eq!(self.index().stats().counts.vectors as usize, total);
        Ok(())
    }

    fn upsert(&mut self, file: u64, slot: u64, rows: Vec<[i8; DIM]>) -> Result<(), TestCaseError> {
        let fresh = self.index().declare(FileId(file), self.space, Params::default()).unwrap();
        prop_assert_eq!(fresh, !self.model.contains_key(&file));
        let bytes: Vec<Vec<u8>> =
            rows.iter().map(|row| row.iter().map(|&x| x.cast_unsigned()).collect()).collect();
        let batch: Vec<(Slot, &[u8])> =
            (slot..).map(Slot).zip(bytes.iter().map(Vec::as_slice)).collect();
        // Twice: a write that is repeated changes nothing.
        let first = self.index().upsert_batch(FileId(file), &batch).unwrap();
        prop_assert_eq!(self.index().upsert_batch(FileId(file), &batch).unwrap(), first);
        let vectors = self.model.entry(file).or_default();
        for (slot, row) in (slot..).zip(rows) {
            if self.space.metric == Metric::Cosine && row == [0; DIM] {
                vectors.remove(&slot);
            } else {
                vectors.insert(slot, row);
            }
        }
        Ok(())
    }

    fn remove(&mut self, file: u64, from: u64, count: u64) -> Result<(), TestCaseError> {
        let gone = self.index().remove(FileId(file), from..from + count);
        let vectors = self.model.entry(file).or_default();
        let before = vectors.len();
        vectors.retain(|slot, _| !(from..from + count).contains(slot));
        prop_assert_eq!(gone as usize, before - vectors.len());
        self.index().declare(FileId(file), self.space, Params::default()).unwrap();
        Ok(())
    }

    fn settle(&self) -> Result<(), TestCaseError> {
        self.index().settle();
        prop_assert_eq!(self.index().stats().problem, None);
        Ok(())
    }

    fn search(&self, files: &[u64], query: [i8; DIM], k: usize) -> Result<(), TestCaseError> {
        check(self.space.metric, self.index(), &self.model, files, query, k)
    }

    /// The files of a checkpoint, with their states.
    fn states(&self) -> Vec<(FileId, Vec<u8>)> {
        self.model.keys().map(|&file| (FileId(file), vec![file as u8; 3])).collect()
    }

    fn reopen(&mut self) -> Result<(), TestCaseError> {
        let recovered = self.open();
        prop_assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
        let covered = recovered.covered;
        prop_assert_eq!(
            covered.as_ref().map(|covered| covered.generation),
            self.saved.as_ref().map(|(generation, _)| *generation)
        );
        self.model = self.saved.as_ref().map(|(_, model)| model.clone()).unwrap_or_default();
        if let Some(covered) = covered {
            prop_assert_eq!(&covered.note, b"note");
            prop_assert_eq!(covered.files, self.states());
        }
        Ok(())
    }
}

fn run(metric: Metric, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut world = World::new(metric)?;
    for op in ops {
        world.apply(op)?;
    }
    world.settle()?;
    world.search(&[0, 1, 2], [1, -2, 3, 0, 1, 1], 12)?;
    for (file, vectors) in &world.model {
        for slot in 0..160 {
            let got = world.index().get(FileId(*file), Slot(slot));
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
