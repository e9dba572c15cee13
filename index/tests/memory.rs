// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The index keeps its bound of memory: by its own account, and by what the kernel says of a process that
//! indexes many times as much.

use std::process::Command;
use vexfs_index::{
    DirStore, Element, FileId, Index, Metric, Options, Params, Slot, Space, TailStore,
};

const BOUND: u64 = 8 << 20;
const DIM: usize = 2048;
/// Bytes of vectors: twelve times the bound.
const BYTES: usize = 100 << 20;
const FILES: u64 = 3;
/// Rows that are handed over at once.
const BATCH: usize = 64;
/// Told to a copy of this test program, which then is the process that is measured.
const CHILD: &str = "VEXFS_INDEX_MEMORY_DIRECTORY";

/// A row that is like others and no other.
fn row(slot: usize) -> Vec<u8> {
    let mut state = (slot as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..DIM).flat_map(|i| (next() + (slot % 16 * i) as f32 * 0.01).to_le_bytes()).collect()
}

/// A number in kilobytes of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() * 1024
}

/// Graphs that take little time: what they find is tested elsewhere.
fn params() -> Params {
    Params { m: 4, ef_construction: 16 }
}

fn options() -> Options {
    Options { memory: BOUND, nice: 0, ..Options::default() }
}

/// Indexes [`BYTES`] of vectors, with a checkpoint whenever one is wanted; the most bytes that the index said
/// it held, and the most memory of its own that the process had more than at the beginning.
fn fill(index: &Index) -> (u64, u64) {
    let space = Space::new(Element::F32, Metric::L2, DIM as u32);
    let files: Vec<FileId> = (1..=FILES).map(FileId).collect();
    for file in &files {
        index.declare(*file, space, params()).unwrap();
    }
    let states: Vec<_> = files.iter().map(|file| (*file, Vec::new())).collect();
    let before = status("RssAnon:");
    let (mut most, mut resident, mut generation) = (0, 0, 0);
    let mut look = |index: &Index| {
        most = most.max(index.stats().counts.bytes);
        resident = resident.max(status("RssAnon:").saturating_sub(before));
        if index.wants_checkpoint() {
            generation += 1;
            index.checkpoint(generation, b"", &states).unwrap();
            return true;
        }
        false
    };
    let rows = BYTES / (DIM * 4);
    for first in (0..rows).step_by(BATCH) {
        let batch: Vec<u8> = (first..(first + BATCH).min(rows)).flat_map(row).collect();
        let file = files[first / BATCH % files.len()];
        index.upsert_rows(file, Slot(first as u64), &batch, DIM * 4, 0).unwrap();
        look(index);
    }
    loop {
        index.settle();
        if !look(index) {
            break;
        }
    }
    assert_eq!(index.stats().counts.vectors, rows as u64);
    (most, resident)
}

fn nearest(index: &Index, slot: usize) -> (u64, f32) {
    let files: Vec<FileId> = (1..=FILES).map(FileId).collect();
    let query: Vec<f32> =
        row(slot).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let hit = index.search(&files, &query, 1, None, false).unwrap()[0];
    (hit.slot.0, hit.distance)
}

#[test]
fn a_process_that_indexes_twelve_times_its_bound_keeps_it() {
    if let Some(directory) = std::env::var_os(CHILD) {
        let store = DirStore::open(directory).unwrap();
        let (index, _) = Index::open(Some(Box::new(store)), options()).unwrap();
        let (most, resident) = fill(&index);
        println!("measured: {most} {resident} graphs {}", index.stats().counts.graphs);
        assert_eq!(nearest(&index, 777), (777, 0.0));
        assert_eq!(index.stats().problem, None);
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_indexes_twelve_times_its_bound_keeps_it", "--nocapture"])
        .env(CHILD, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    let measured = text.split("measured: ").nth(1).unwrap();
    let mut numbers = measured.split_whitespace();
    let mut number = || numbers.next().unwrap().parse::<u64>().unwrap();
    let (most, resident) = (number(), number());
    eprintln!("bound {BOUND}, by its own account {most}, resident {resident}");
    assert!(most <= BOUND, "by its own account {most}");
    // Beside it: buffers of a checkpoint, the allocator's, and the threads' stacks.
    assert!(resident <= 3 * BOUND, "resident {resident}");
}

/// Without room for a checkpoint the vectors stay in memory: they are found, the problem is told, and once
/// there is room the bound is kept again.
#[test]
fn a_store_that_is_full_costs_the_bound_and_not_the_vectors() {
    let file = tempfile::tempfile().unwrap();
    let store = TailStore::open(file, 0, Some(64 << 10)).unwrap();
    let memory = 1 << 20;
    let options = Options { memory, nice: 0, ..Options::default() };
    let (index, _) = Index::open(Some(Box::new(store)), options).unwrap();
    let space = Space::new(Element::F32, Metric::L2, DIM as u32);
    index.declare(FileId(1), space, params()).unwrap();
    let rows: Vec<u8> = (0..500).flat_map(row).collect();
    index.upsert_rows(FileId(1), Slot(0), &rows, DIM * 4, 0).unwrap();
    index.settle();
    assert!(index.wants_checkpoint());
    let full = index.checkpoint(1, b"", &[(FileId(1), Vec::new())]).unwrap_err();
    assert!(matches!(full, vexfs_index::IndexError::Full { .. }), "{full}");
    let problem = index.stats().problem.unwrap();
    assert!(problem.contains("more than the 1048576 of --index-memory"), "{problem}");
    for slot in [0, 234, 499] {
        assert_eq!(nearest(&index, slot), (slot as u64, 0.0));
    }
}
