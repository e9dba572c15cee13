// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A process that is killed in the midst of merges and checkpoints, and a disk that is full in the midst of one:
//! what is opened afterwards is a checkpoint, whole, and once the rows are supplied again the answers are exact.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vexfs_index::{
    DirStore, Element, FileId, Index, IndexError, Medium, Metric, Options, Params, Recovered, Slot,
    Space, Store, TailStore,
};

const FILE: FileId = FileId(3);
const DIM: usize = 8;
const ROWS: u64 = 3000;
/// Told to a copy of this test program, which then is the process that is killed.
const CHILD: &str = "VEXFS_INDEX_KILLED_DIRECTORY";
const KILLS: u64 = 24;

/// A row as it was written the n-th time.
fn row(slot: u64, time: u64) -> Vec<u8> {
    let number = |i: u64| ((slot * 13 + i * 7 + time * 31) as f32 * 0.11).sin() + time as f32 * 4.0;
    (0..DIM as u64).flat_map(|i| number(i).to_le_bytes()).collect()
}

fn numbers(raw: &[u8]) -> Vec<f32> {
    raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn open(store: Box<dyn Store>) -> (Index, Recovered) {
    let options = Options {
        graph_rows: 64,
        idle: Duration::ZERO,
        nice: 0,
        scan_factor: 1,
        ..Options::default()
    };
    let (index, recovered) = Index::open(Some(store), options).unwrap();
    let space = Space::new(Element::F32, Metric::L2, DIM as u32);
    index.declare(FILE, space, Params::default()).unwrap();
    (index, recovered)
}

fn store(directory: &Path, tail: bool) -> Box<dyn Store> {
    if !tail {
        return Box::new(DirStore::open(directory.join("store")).unwrap());
    }
    let path = directory.join("tail");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    Box::new(TailStore::open(file.unwrap(), 4096, None).unwrap())
}

/// Writes all rows again and again, with a checkpoint after every part, until it is killed.
fn write_until_killed(directory: &Path, tail: bool) -> ! {
    let (index, recovered) = open(store(directory, tail));
    let mut generation = recovered.covered.map_or(0, |covered| covered.generation);
    loop {
        let time = generation % 1000;
        for slot in (0..ROWS).step_by(200) {
            for slot in slot..slot + 200 {
                index.upsert(FILE, Slot(slot), &row(slot, time)).unwrap();
            }
            generation += 1;
            println!("{generation}");
            index.checkpoint(generation, b"", &[(FILE, Vec::new())]).unwrap();
        }
    }
}

/// Supplies all rows, as the tracker does after a start, and compares every answer with the definition.
fn supplied_and_right(index: &Index, time: u64) {
    for slot in 0..ROWS {
        index.upsert(FILE, Slot(slot), &row(slot, time)).unwrap();
    }
    index.settle();
    assert_eq!(index.lost(), []);
    assert_eq!(index.stats().counts.vectors, ROWS);
    let all: Vec<Vec<f32>> = (0..ROWS).map(|slot| numbers(&row(slot, time))).collect();
    for query in all.iter().step_by(331) {
        let hits = index.search(&[FILE], query, 5, None, true).unwrap();
        let square =
            |row: &[f32]| row.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let mut truth: Vec<f32> = all.iter().map(|row| square(row).sqrt()).collect();
        truth.sort_by(f32::total_cmp);
        for (hit, truth) in hits.iter().zip(&truth) {
            assert!((hit.distance - truth).abs() <= 1e-3, "{hit:?}, {truth}");
        }
    }
}

#[test]
fn a_process_that_is_killed_leaves_a_checkpoint() {
    if let Some(directory) = std::env::var_os(CHILD) {
        let tail = std::env::var_os("VEXFS_INDEX_KILLED_TAIL").is_some();
        write_until_killed(Path::new(&directory), tail);
    }
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut state = 0x9e37_79b9_u64;
    for kill in 0..KILLS {
        let tail = kill % 2 == 1;
        let directory = directories[usize::from(tail)].path();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_process_that_is_killed_leaves_a_checkpoint", "--nocapture"]);
        if tail {
            command.env("VEXFS_INDEX_KILLED_TAIL", "1");
        }
        let mut child = command.env(CHILD, directory).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The last checkpoint that was finished for certain is the one before the last that was begun.
        let mut begun = 0;
        for line in lines.by_ref().take((state >> 60) as usize + 4) {
            let line = line.unwrap();
            begun = line.trim().parse().unwrap_or(begun);
        }
        std::thread::sleep(Duration::from_micros(state >> 50 & 0x3fff));
        child.kill().unwrap();
        child.wait().unwrap();
        let (index, recovered) = open(store(directory, tail));
        assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
        let covered = recovered.covered.map_or(0, |covered| covered.generation);
        assert!(covered + 1 >= begun, "generation {covered} after {begun} had begun");
        // Nothing but rows that were written once.
        for slot in (0..ROWS).step_by(17) {
            match index.get(FILE, Slot(slot)) {
                Ok(found) => {
                    let time = (found[0] / 4.0).round();
                    let right = (time - 1.0).max(0.0) as u64..=time as u64 + 1;
                    let written = right.into_iter().any(|time| numbers(&row(slot, time)) == found);
                    assert!(written, "slot {slot}: {found:?}");
                }
                Err(IndexError::UnknownSlot { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        supplied_and_right(&index, 7);
    }
}

/// A file on a disk that has room for so many more bytes.
struct Disk {
    file: File,
    room: Arc<AtomicU64>,
}

impl Medium for Disk {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(&self.file, buffer, at)
    }

    fn write_all_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        let left = self.room.load(Ordering::Relaxed);
        let Some(left) = left.checked_sub(data.len() as u64) else {
            return Err(io::ErrorKind::StorageFull.into());
        };
        self.room.store(left, Ordering::Relaxed);
        FileExt::write_all_at(&self.file, data, at)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
}

#[test]
fn a_disk_that_fills_up_in_a_checkpoint_keeps_the_one_before() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let room = Arc::new(AtomicU64::new(u64::MAX));
    let disk = || {
        let file = file.reopen().unwrap();
        Box::new(TailStore::open(Disk { file, room: room.clone() }, 0, None).unwrap())
    };
    let save = |index: &Index, generation| index.checkpoint(generation, b"", &[(FILE, Vec::new())]);
    let (index, _) = open(disk());
    for slot in 0..ROWS {
        index.upsert(FILE, Slot(slot), &row(slot, 1)).unwrap();
    }
    save(&index, 1).unwrap();
    let used = file.as_file().metadata().unwrap().len();
    for slot in 0..ROWS {
        index.upsert(FILE, Slot(slot), &row(slot, 2)).unwrap();
    }
    index.settle();
    // At whichever write the disk is full, the checkpoint before is the one that is opened.
    for bytes in (0..used).step_by(used as usize / 24) {
        room.store(bytes, Ordering::Relaxed);
        if save(&index, 2).is_ok() {
            break;
        }
        let (other, recovered) = open(disk());
        assert!(recovered.problems.is_empty(), "{bytes}: {:?}", recovered.problems);
        assert_eq!(recovered.covered.unwrap().generation, 1, "{bytes}");
        assert_eq!(other.get(FILE, Slot(9)).unwrap(), numbers(&row(9, 1)), "{bytes}");
        // Meanwhile everything is found.
        assert_eq!(index.get(FILE, Slot(9)).unwrap(), numbers(&row(9, 2)));
    }
    room.store(u64::MAX, Ordering::Relaxed);
    save(&index, 3).unwrap();
    drop(index);
    let (index, recovered) = open(disk());
    assert_eq!(recovered.covered.unwrap().generation, 3);
    assert_eq!(index.get(FILE, Slot(9)).unwrap(), numbers(&row(9, 2)));
}

// A merge that met a damaged row left the file as it was until a restart.
#[test]
fn a_merge_that_meets_a_lost_row_goes_on_once_it_is_supplied() {
    let directory = tempfile::tempdir().unwrap();
    let (index, _) = open(store(directory.path(), true));
    for slot in 0..ROWS {
        index.upsert(FILE, Slot(slot), &row(slot, 1)).unwrap();
    }
    index.settle();
    index.checkpoint(1, b"", &[(FILE, Vec::new())]).unwrap();
    drop(index);
    let tail = File::options().read(true).write(true).open(directory.path().join("tail")).unwrap();
    let needle = row(1500, 1);
    let mut bytes = vec![0; tail.metadata().unwrap().len() as usize];
    FileExt::read_exact_at(&tail, &mut bytes, 0).unwrap();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    FileExt::write_all_at(&tail, &[bytes[at] ^ 0x40], at as u64).unwrap();

    let (index, recovered) = open(store(directory.path(), true));
    assert!(recovered.problems.is_empty());
    index.settle();
    // So many rows come that a merge with the damaged segment is due.
    for slot in ROWS..2 * ROWS {
        index.upsert(FILE, Slot(slot), &row(slot, 1)).unwrap();
    }
    index.settle();
    assert_eq!(index.lost(), [FILE]);
    for slot in 0..ROWS {
        index.upsert(FILE, Slot(slot), &row(slot, 1)).unwrap();
    }
    index.settle();
    assert_eq!(index.lost(), []);
    let counts = index.stats().counts;
    assert_eq!((counts.vectors, counts.segments, counts.graphs), (2 * ROWS, 1, 1), "{counts:?}");
    assert_eq!(index.get(FILE, Slot(1500)).unwrap(), numbers(&needle));
}
