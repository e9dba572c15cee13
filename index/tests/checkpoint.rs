// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Checkpoints: what is written, what is loaded again, and what damage does.

mod common;

use std::{fs, fs::OpenOptions, path::Path};

use common::{corpus, feed, open_with, raw};
use vexfs_index::{
    DirStore, Element, FileId, IndexError, Metric, Params, Slot, Space, Store, TailStore,
    npy::Matrix,
};

const FILE: FileId = FileId(11);

fn dir_store(path: &Path) -> Box<dyn Store> {
    Box::new(DirStore::open(path).unwrap())
}

fn tail_store(path: &Path, start: u64) -> Box<dyn Store> {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    Box::new(TailStore::open(file, start, None).unwrap())
}

fn some(rows: usize) -> Matrix {
    let all = corpus("packages-2k.npy");
    Matrix { rows, dim: all.dim, data: all.data[..rows * all.dim].to_vec() }
}

fn cosine() -> Space {
    Space::new(Element::F32, Metric::Cosine, 384)
}

#[test]
fn an_image_carries_its_index_in_its_tail_and_writes_segments_once() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::write(&image, vec![0x5a; 64 << 10]).unwrap();
    let rows = some(900);
    let (index, _) = open_with(Some(tail_store(&image, 64 << 10)), 400, 1);
    index.declare(FILE, cosine(), Params::default()).unwrap();
    feed(&index, FILE, 0, &rows);
    index.settle();
    let state = [(FILE, b"layout".to_vec())];
    let first = index.checkpoint(40, b"root", &state).unwrap();
    assert!(first.bytes > 900 * 384 * 4, "{first:?}");
    // Nothing changed: only a manifest is written.
    let second = index.checkpoint(41, b"root", &state).unwrap();
    assert!(second.blobs == 0 && second.bytes < 1000, "{second:?}");
    // A row of the growing segment and a tombstone: no sealed segment is written again.
    assert!(index.upsert(FILE, Slot(900), &raw(rows.row(3))).unwrap());
    assert_eq!(index.remove(FILE, 5..6), 1);
    let third = index.checkpoint(42, b"root", &state).unwrap();
    assert_eq!(third.blobs, 1, "{third:?}");
    let query = rows.row(7);
    let before = index.search(&[FILE], query, 10, None, false).unwrap();
    let stats = index.stats();
    drop(index);

    let (index, recovered) = open_with(Some(tail_store(&image, 64 << 10)), 400, 1);
    assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
    let covered = recovered.covered.unwrap();
    assert_eq!((covered.generation, covered.files), (42, state.to_vec()));
    assert_eq!(index.search(&[FILE], query, 10, None, false).unwrap(), before);
    let again = index.stats();
    assert_eq!((again.counts.vectors, again.counts.graphs), (900, stats.counts.graphs));
    assert!(index.get(FILE, Slot(5)).is_err());
    assert!(fs::read(&image).unwrap()[..64 << 10].iter().all(|&byte| byte == 0x5a));
    // A graph that was loaded is not written again either.
    assert_eq!(index.checkpoint(43, b"root", &state).unwrap().blobs, 0);
}

/// Opens what is in `path`, expecting a rebuild, and gives the reason.
fn refusal(store: Box<dyn Store>, owner: u8) -> String {
    let (index, recovered) = open_with(Some(store), 64, owner);
    assert!(recovered.covered.is_none());
    assert_eq!(index.stats().counts.vectors, 0);
    assert_eq!(recovered.problems.len(), 1, "{:?}", recovered.problems);
    recovered.problems[0].to_string()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn every_damaged_byte_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    let space = Space::new(Element::I8, Metric::L2, 8);
    let graphs;
    {
        let (index, _) = open_with(Some(dir_store(&good)), 64, 1);
        index.declare(FILE, space, Params { m: 4, ef_construction: 16 }).unwrap();
        for slot in 0..150u64 {
            let row: Vec<u8> = (0..8).map(|i| (slot * 37 + i * 11) as u8).collect();
            index.upsert(FILE, Slot(slot), &row).unwrap();
        }
        index.settle();
        index.remove(FILE, 3..9);
        index.checkpoint(9, b"", &[(FILE, vec![])]).unwrap();
        graphs = index.stats().counts.graphs;
        assert!(graphs > 0);
    }
    let bad = dir.path().join("bad");
    let (mut rebuilt, mut refused) = (0, 0);
    let feed = |index: &vexfs_index::Index| {
        index.declare(FILE, space, Params { m: 4, ef_construction: 16 }).unwrap();
        for slot in (0..3).chain(9..150u64) {
            let row: Vec<u8> = (0..8).map(|i| (slot * 37 + i * 11) as u8).collect();
            index.upsert(FILE, Slot(slot), &row).unwrap();
        }
    };
    for entry in fs::read_dir(&good).unwrap() {
        let name = entry.unwrap().file_name();
        let bytes = fs::read(good.join(&name)).unwrap();
        // Flips over the whole file, and two cuts.
        let step = (bytes.len() / 97).max(1);
        let flips = (0..bytes.len()).step_by(step).map(|at| {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            flipped
        });
        let cuts = [0, bytes.len() / 2].map(|cut| bytes[..cut].to_vec());
        for damaged in flips.chain(cuts) {
            copy_dir(&good, &bad);
            fs::write(bad.join(&name), damaged).unwrap();
            let (index, recovered) = open_with(Some(dir_store(&bad)), 64, 1);
            let mut problems = recovered.problems;
            problems.extend(index.verify());
            assert_eq!(problems.len(), 1, "{name:?}: {problems:?}");
            let text = problems[0].to_string();
            assert!(text.contains("damaged"), "{text}");
            if matches!(problems[0], IndexError::Lost(FILE)) {
                // Nothing is answered until they are supplied again.
                let search = index.search(&[FILE], &[0.0; 8], 5, None, true);
                assert!(matches!(search, Err(IndexError::Lost(FILE))), "{search:?}");
                feed(&index);
                assert!(index.lost().is_empty() && index.stats().counts.vectors == 144);
                index.search(&[FILE], &[0.0; 8], 5, None, true).unwrap();
            } else if recovered.covered.is_some() {
                assert!(text.contains("rebuilt"), "{text}");
                // Only a graph may be lost alone; it comes back.
                assert!(text.contains("graph"), "{text}");
                index.settle();
                let stats = index.stats();
                assert_eq!((stats.counts.vectors, stats.counts.graphs), (144, graphs));
                rebuilt += 1;
            } else {
                assert!(text.contains("rebuilt"), "{text}");
                assert_eq!(index.stats().counts.vectors, 0);
                refused += 1;
            }
            drop(index);
            fs::remove_dir_all(&bad).unwrap();
        }
        // And the file gone.
        if name != "manifest" {
            copy_dir(&good, &bad);
            fs::remove_file(bad.join(&name)).unwrap();
            let (_, recovered) = open_with(Some(dir_store(&bad)), 64, 1);
            assert!(recovered.problems[0].to_string().contains("missing"));
            fs::remove_dir_all(&bad).unwrap();
        }
    }
    assert!(rebuilt > 50 && refused > 150, "{rebuilt} {refused}");
}

#[test]
fn another_filesystems_checkpoint_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = open_with(Some(dir_store(dir.path())), 64, 1);
    index.declare(FILE, Space::new(Element::Bit, Metric::Hamming, 20), Params::default()).unwrap();
    index.upsert(FILE, Slot(0), &[1, 2, 3]).unwrap();
    index.checkpoint(3, b"", &[(FILE, vec![])]).unwrap();
    drop(index);
    assert!(refusal(dir_store(dir.path()), 2).contains("another filesystem"));
}

#[test]
fn bits_halves_and_skipped_rows_survive() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = open_with(Some(dir_store(dir.path())), 64, 1);
    let halves = FileId(1);
    let bits = FileId(2);
    index.declare(halves, Space::new(Element::F16, Metric::Cosine, 2), Params::default()).unwrap();
    index.declare(bits, Space::new(Element::Bit, Metric::Hamming, 20), Params::default()).unwrap();
    // 1, 0; then zeroes; then NaN.
    let rows = [[0x00, 0x3c, 0, 0], [0; 4], [0x00, 0x7e, 0, 0]];
    let batch: Vec<(Slot, &[u8])> =
        rows.iter().enumerate().map(|(i, row)| (Slot(i as u64), row.as_slice())).collect();
    let done = index.upsert_batch(halves, &batch).unwrap();
    assert_eq!((done.indexed, done.skipped), (1, 2));
    // A good row that is overwritten by zeroes is gone.
    assert!(index.upsert(halves, Slot(7), &rows[0]).unwrap());
    assert!(!index.upsert(halves, Slot(7), &rows[1]).unwrap());
    assert_eq!(index.file_stats(halves).unwrap().vectors, 1);
    assert_eq!(index.file_stats(halves).unwrap().skipped, 3);
    for slot in 0..200u64 {
        index.upsert(bits, Slot(slot), &[slot as u8, (slot >> 3) as u8, 0xf0]).unwrap();
    }
    index.settle();
    index.checkpoint(3, b"", &[(halves, vec![1]), (bits, vec![]), (FileId(9), vec![7])]).unwrap();
    drop(index);
    let (index, recovered) = open_with(Some(dir_store(dir.path())), 64, 1);
    assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
    assert_eq!(recovered.covered.unwrap().files.len(), 3);
    assert_eq!(index.files(), [halves, bits]);
    assert_eq!(index.file_stats(halves).unwrap().skipped, 3);
    let query = index.get(bits, Slot(77)).unwrap();
    let hits = index.search(&[bits], &query, 1, None, true).unwrap();
    assert_eq!((hits[0].slot, hits[0].distance), (Slot(77), 0.0));
    // Files of different metrics cannot be compared.
    let error = index.search(&[halves, bits], &[1.0, 0.0], 1, None, true).unwrap_err();
    assert!(matches!(error, IndexError::QueryDimension { expected: 20, given: 2, .. }), "{error}");
}

#[test]
fn wrong_use_is_named() {
    let (index, _) = open_with(None, 64, 1);
    assert!(matches!(index.checkpoint(1, b"", &[]), Err(IndexError::NoStore)));
    assert!(matches!(index.upsert(FILE, Slot(0), &[]), Err(IndexError::UnknownFile(FILE))));
    let space = Space::new(Element::F32, Metric::L2, 2);
    assert!(index.declare(FILE, space, Params::default()).unwrap());
    assert!(!index.declare(FILE, space, Params::default()).unwrap());
    let error = index.upsert(FILE, Slot(0), &[0; 7]).unwrap_err().to_string();
    assert!(error.contains("7 bytes") && error.contains('8'), "{error}");
    assert!(index.upsert(FILE, Slot(0), &[0; 8]).unwrap());
    for (query, k, ef, words) in [
        (&[1.0][..], 1, None, "1 dimensions"),
        (&[1.0, f32::NAN], 1, None, "element 1 is NaN"),
        (&[1.0, 2.0], 0, None, "k is 0"),
        (&[1.0, 2.0], 1, Some(20_000), "ef is 20000"),
    ] {
        let error = index.search(&[FILE], query, k, ef, false).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(index.search(&[FileId(99)], &[1.0], 1, None, false).unwrap().is_empty());
    assert!(index.upsert_rows(FILE, Slot(0), &[0; 64], 8, 1).is_err());
    assert!(
        index
            .declare(FILE, Space::new(Element::F32, Metric::Hamming, 2), Params::default())
            .is_err()
    );
    // Another space: its old vectors are gone.
    let wider = Space::new(Element::F32, Metric::L2, 3);
    assert!(index.declare(FILE, wider, Params::default()).unwrap());
    assert_eq!(index.stats().counts.vectors, 0);
}
