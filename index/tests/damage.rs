// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Faults in a checkpoint that is mapped, and files that are cut off under an index.
//!
//! Every answer is what was written, or the damage is reported. `VEXFS_FAULTS=10000` tries so many faults.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use common::open_with;
use vexfs_index::{
    DirStore, Element, FileId, Index, IndexError, Metric, Params, Slot, Space, Store,
};

const FLOATS: FileId = FileId(1);
const BYTES: FileId = FileId(2);
const DIM: usize = 24;
const ROWS: u64 = 400;
const FAULTS: usize = 1_000;

struct Luck(u64);

impl Luck {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) as usize) % limit
    }
}

fn space(file: FileId) -> Space {
    match file {
        FLOATS => Space::new(Element::F32, Metric::L2, DIM as u32),
        _ => Space::new(Element::U8, Metric::Cosine, DIM as u32),
    }
}

/// A row's numbers: small whole ones, so that all sums are exact.
fn row(file: FileId, slot: u64, version: u64) -> Vec<f32> {
    let mut luck = Luck(file.0 << 40 ^ slot << 8 ^ version);
    (0..DIM).map(|_| (luck.below(100) + 1) as f32).collect()
}

fn bytes(file: FileId, row: &[f32]) -> Vec<u8> {
    if file == FLOATS {
        return row.iter().flat_map(|x| x.to_le_bytes()).collect();
    }
    row.iter().map(|x| *x as u8).collect()
}

/// The version of each slot's row.
type Model = BTreeMap<u64, u64>;

fn feed(index: &Index, model: &Model) {
    for file in [FLOATS, BYTES] {
        index.declare(file, space(file), Params::default()).unwrap();
        for (slot, version) in model {
            let raw = bytes(file, &row(file, *slot, *version));
            index.upsert(file, Slot(*slot), &raw).unwrap();
        }
    }
}

fn distance(file: FileId, a: &[f32], b: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum()
    };
    if file == FLOATS {
        return sum(&|a, b| (a - b) * (a - b)).sqrt();
    }
    let (aa, bb) = (sum(&|a, _| a * a), sum(&|_, b| b * b));
    1.0 - sum(&|a, b| a * b) / (aa * bb).sqrt()
}

/// What a search may say: the truth, or that vectors are lost. Whether it was the truth.
fn ask(index: &Index, model: &Model, file: FileId, exact: bool, luck: &mut Luck) -> bool {
    let query = row(file, luck.below(1000) as u64, 77);
    let found = match index.search(&[file], &query, 5, Some(24), exact) {
        Ok(found) => found,
        Err(IndexError::Lost(lost)) => {
            assert!(lost == file && index.lost().contains(&file));
            return false;
        }
        Err(error) => panic!("{error}"),
    };
    let far = |slot: u64, version: u64| distance(file, &row(file, slot, version), &query);
    assert_eq!(found.len(), 5.min(model.len()));
    for hit in &found {
        let truth = far(hit.slot.0, model[&hit.slot.0]);
        assert!((f64::from(hit.distance) - truth).abs() < 1e-4, "{hit:?}, and not {truth}");
    }
    if exact {
        let mut all: Vec<f64> = model.iter().map(|(slot, version)| far(*slot, *version)).collect();
        all.sort_by(f64::total_cmp);
        for (hit, truth) in found.iter().zip(all) {
            assert!((f64::from(hit.distance) - truth).abs() < 1e-4, "{hit:?} before {truth}");
        }
    }
    true
}

fn open(path: &Path) -> (Index, vexfs_index::Recovered) {
    open_with(Some(Box::new(DirStore::open(path).unwrap()) as Box<dyn Store>), 128, 1)
}

/// A checkpoint of several segments with graphs, tombstones and growing rows; and the files of the one before
/// it, whose pages are stale.
fn saved(path: &Path) -> (Model, Vec<PathBuf>, Vec<Vec<u8>>) {
    let mut model: Model = (0..ROWS).map(|slot| (slot * 3 % 1000, 0)).collect();
    let (index, _) = open(path);
    feed(&index, &model);
    index.settle();
    let states = [(FLOATS, vec![]), (BYTES, vec![])];
    index.checkpoint(1, b"", &states).unwrap();
    let files = || {
        let mut files: Vec<PathBuf> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    let stale = files().iter().map(|file| fs::read(file).unwrap()).collect();
    for slot in (0..900).step_by(9) {
        if let Some(version) = model.get_mut(&slot) {
            *version = 1;
        }
    }
    feed(&index, &model);
    for slot in [3, 30, 33] {
        model.remove(&slot);
        index.remove(FLOATS, slot..slot + 1);
        index.remove(BYTES, slot..slot + 1);
    }
    index.settle();
    index.checkpoint(2, b"", &states).unwrap();
    (model, files(), stale)
}

/// Damages a file's bytes; false if nothing has changed.
fn damage(good: &[u8], stale: &[Vec<u8>], luck: &mut Luck) -> Option<Vec<u8>> {
    let mut bad = good.to_vec();
    let pages = (good.len() / 4096).max(1);
    let page = |number: usize| number * 4096..((number + 1) * 4096).min(good.len());
    match luck.below(7) {
        0 => bad.truncate(luck.below(good.len())),
        1 => {
            let (a, b) = (page(luck.below(pages)), page(luck.below(pages)));
            let length = a.len().min(b.len());
            bad[a.start..a.start + length].copy_from_slice(&good[b.start..b.start + length]);
            bad[b.start..b.start + length].copy_from_slice(&good[a.start..a.start + length]);
        }
        2 => bad[page(luck.below(pages))].fill(0),
        3 => {
            let other = &stale[luck.below(stale.len())];
            let page = page(luck.below(pages));
            let old = other.get(page.clone())?;
            bad[page].copy_from_slice(old);
        }
        4 => bad.clone_from(&stale[luck.below(stale.len())]),
        _ => bad[luck.below(good.len())] ^= 1 << luck.below(8),
    }
    (bad != good).then_some(bad)
}

#[allow(clippy::if_not_else, reason = "the short case first")]
#[test]
fn nothing_damaged_is_ever_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (model, files, stale) = saved(dir.path());
    let good: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let mut luck = Luck(1);
    let (mut refused, mut lost, mut whole) = (0, 0, 0);
    let faults = std::env::var("VEXFS_FAULTS").ok().and_then(|faults| faults.parse().ok());
    let faults = faults.unwrap_or(FAULTS);
    for _ in 0..faults {
        let which = luck.below(files.len());
        let Some(bad) = damage(&good[which], &stale, &mut luck) else { continue };
        fs::write(&files[which], bad).unwrap();
        let (index, recovered) = open(dir.path());
        // A checkpoint that is stale as a whole is one that was written.
        let is_new = recovered.covered.as_ref().is_some_and(|covered| covered.generation == 2);
        if !is_new {
            refused += 1;
            assert!(recovered.covered.is_none() || !recovered.problems.is_empty());
            assert!(recovered.covered.is_some() || index.stats().counts.vectors == 0);
        } else {
            if luck.below(2) == 0 {
                index.settle();
            }
            let mut all = true;
            for exact in [false, true] {
                for file in [FLOATS, BYTES] {
                    all &= ask(&index, &model, file, exact, &mut luck);
                }
            }
            if all {
                whole += 1;
            } else {
                lost += 1;
            }
            if luck.below(8) == 0 {
                // What is supplied again is found again, and the damage is never met any more.
                feed(&index, &model);
                assert!(index.lost().is_empty());
                assert!(ask(&index, &model, FLOATS, true, &mut luck));
                assert!(ask(&index, &model, BYTES, true, &mut luck));
            }
        }
        drop(index);
        // With an older manifest, the newer blobs were taken for leftovers.
        for (file, bytes) in files.iter().zip(&good) {
            let same = fs::metadata(file).is_ok_and(|meta| meta.len() == bytes.len() as u64);
            if *file == files[which] || !same {
                fs::write(file, bytes).unwrap();
            }
        }
    }
    let enough = faults / 20;
    assert!(refused > enough && lost > enough && whole > enough, "{refused} {lost} {whole}");
}

/// Without the handler of SIGBUS the process would end here.
#[test]
fn files_cut_off_under_an_index_are_reported_and_kill_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (model, files, _) = saved(dir.path());
    for warm in [false, true] {
        for keep in [0, 4096, 20_000] {
            let good: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
            let (index, recovered) = open(dir.path());
            assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
            let mut luck = Luck(9);
            if warm {
                index.settle();
                for file in [FLOATS, BYTES] {
                    assert!(ask(&index, &model, file, false, &mut luck));
                    assert!(ask(&index, &model, file, true, &mut luck));
                }
            }
            for file in &files {
                let file = fs::OpenOptions::new().write(true).open(file).unwrap();
                file.set_len(file.metadata().unwrap().len().min(keep)).unwrap();
            }
            let mut lost = 0;
            std::thread::scope(|scope| {
                let searchers: Vec<_> = (0..3)
                    .map(|seed| {
                        let (index, model) = (&index, &model);
                        scope.spawn(move || {
                            let mut luck = Luck(seed);
                            (0..20)
                                .filter(|round| {
                                    let file = if round % 2 == 0 { FLOATS } else { BYTES };
                                    !ask(index, model, file, round % 4 < 2, &mut luck)
                                })
                                .count()
                        })
                    })
                    .collect();
                lost = searchers.into_iter().map(|thread| thread.join().unwrap()).sum();
            });
            assert!(lost > 0 || keep > 4096, "{warm} {keep}");
            feed(&index, &model);
            assert!(index.lost().is_empty());
            assert!(ask(&index, &model, FLOATS, true, &mut luck));
            assert!(ask(&index, &model, BYTES, true, &mut luck));
            drop(index);
            for (file, bytes) in files.iter().zip(good) {
                fs::write(file, bytes).unwrap();
            }
        }
    }
}
