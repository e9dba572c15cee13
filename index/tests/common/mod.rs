// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the integration tests share: the corpus, and an index that builds graphs early.

#![allow(dead_code, reason = "each test uses its part")]

use std::path::PathBuf;

use vexfs_index::{
    FileId, Hit, Index, Options, Recovered, Slot, Store,
    npy::{self, Matrix},
};

pub fn corpus(name: &str) -> Matrix {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data")).join(name);
    npy::read_matrix(&path).unwrap()
}

pub fn raw(row: &[f32]) -> Vec<u8> {
    row.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub fn open_with(
    store: Option<Box<dyn Store>>,
    graph_rows: usize,
    owner: u8,
) -> (Index, Recovered) {
    let options =
        Options { graph_rows, owner: [owner; 16], nice: 0, scan_factor: 2, ..Options::default() };
    Index::open(store, options).unwrap()
}

pub fn open(graph_rows: usize) -> Index {
    open_with(None, graph_rows, 1).0
}

/// Feeds rows as consecutive slots.
pub fn feed(index: &Index, file: FileId, first: u64, matrix: &Matrix) {
    let bytes = raw(&matrix.data);
    let stride = matrix.dim * 4;
    let batch = index.upsert_rows(file, Slot(first), &bytes, stride, 0).unwrap();
    assert_eq!(batch.indexed, matrix.rows as u64);
}

/// How many of the exact answers' distances the approximate answers reach.
pub fn recall(exact: &[Hit], found: &[Hit]) -> f64 {
    let worst = exact.last().map_or(0.0, |hit| hit.distance) + 1e-6;
    let good = found.iter().filter(|hit| hit.distance <= worst).count();
    good as f64 / exact.len() as f64
}

/// The mean recall at 10 over all queries.
pub fn mean_recall(index: &Index, files: &[FileId], queries: &Matrix, ef: Option<usize>) -> f64 {
    let total: f64 = (0..queries.rows)
        .map(|row| {
            let query = queries.row(row);
            let exact = index.search(files, query, 10, None, true).unwrap();
            let found = index.search(files, query, 10, ef, false).unwrap();
            assert_eq!(exact.len(), 10);
            assert!(found.is_sorted_by(|a, b| a.distance <= b.distance));
            recall(&exact, &found)
        })
        .sum();
    total / queries.rows as f64
}
