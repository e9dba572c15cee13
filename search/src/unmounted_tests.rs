// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Images that nobody serves, written by the engine: with an index, without one, and with one that is behind.

use super::*;
use crate::testing::{Mounted, floats};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BYTES: u64 = 64 << 20;
const DIM: usize = 16;
const ROWS: usize = 3000;
const MEMORY: u64 = 1 << 30;

struct Fixture {
    image: tempfile::NamedTempFile,
    dir: Ino,
    file: Ino,
}

/// A row like no other, near to those before and after it.
fn row(slot: usize) -> Vec<f32> {
    (0..DIM).map(|i| (slot as f32 * 0.01 + i as f32).sin() * 10.0 + slot as f32 * 0.001).collect()
}

fn rows(range: std::ops::Range<usize>) -> Vec<u8> {
    floats(range.flat_map(row))
}

fn fixture() -> Fixture {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BYTES).unwrap();
    let log = Arc::new(DirtyLog::new(BYTES).unwrap());
    let mut mounted = Mounted::format(image.path(), BYTES, log);
    let dir = mounted.corpus("corpus", "type=f32,dim=16,metric=l2,header=0");
    let file = mounted.create(dir, "a", 0o100_600);
    mounted.write(file, 0, &rows(0..ROWS));
    mounted.commit();
    Fixture { image, dir, file }
}

impl Fixture {
    fn mounted(&self) -> Mounted {
        let log = Arc::new(DirtyLog::new(BYTES).unwrap());
        Mounted::open(self.image.path(), BYTES, log)
    }

    fn open(&self, memory: u64) -> Unmounted {
        open(self.image.path(), memory)
    }

    fn build(&self) -> Built {
        self.open(MEMORY).build(&mut |_| {}).unwrap()
    }
}

fn open(path: &Path, memory: u64) -> Unmounted {
    let file = File::options().read(true).write(true).open(path).unwrap();
    Unmounted::open(FileDevice::new(file).unwrap(), memory).unwrap()
}

fn near(slot: usize, exact: bool) -> Search {
    let query = Query::Vector(row(slot).iter().map(|x| x + 0.0001).collect());
    Search { exact, ..Search::nearest(query, 5) }
}

/// The slots that are nearest, by the definition.
fn truth(all: &[(u64, Vec<f32>)], search: &Search) -> Vec<u64> {
    let Query::Vector(query) = &search.query else { panic!("no vector") };
    let square =
        |row: &[f32]| row.iter().zip(query).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let mut all: Vec<_> = all.iter().map(|(slot, row)| (square(row), *slot)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.iter().take(search.k as usize).map(|(_, slot)| *slot).collect()
}

fn slots(found: &Found) -> Vec<u64> {
    found.hits.iter().map(|hit| hit.slot).collect()
}

#[test]
fn an_image_without_an_index_is_searched_in_little_memory_and_not_written_to() {
    let fs = fixture();
    let before = std::fs::read(fs.image.path()).unwrap();
    let all: Vec<_> = (0..ROWS).map(|slot| (slot as u64, row(slot))).collect();
    // A part of 16 KiB is less than what is read at once.
    for memory in [MEMORY, 64 << 10] {
        for slot in [0, 7, 1500, ROWS - 1] {
            let search = near(slot, false);
            let answer = fs.open(memory).search(fs.dir, &search).unwrap();
            assert_eq!(slots(&answer.found), truth(&all, &search), "{slot}");
            assert_eq!((answer.found.searched, answer.remarks.len()), (1, 0));
            assert_eq!(answer.found.paths, [(fs.file.0, b"a".to_vec())]);
        }
    }
    assert!(std::fs::read(fs.image.path()).unwrap() == before, "the image was written to");
}

#[test]
fn an_index_is_built_used_and_brought_up_to_date() {
    let fs = fixture();
    let built = fs.build();
    assert_eq!((built.files, built.counts.vectors, built.counts.graphs), (1, ROWS as u64, 1));
    assert!(built.tail_bytes > 0);
    let read = |search: &Search| {
        let unmounted = fs.open(MEMORY);
        let mut remarks = Vec::new();
        let found = unmounted.by_index(fs.dir, search, &mut remarks).unwrap();
        assert_eq!(remarks, [""; 0]);
        found.expect("the index is used")
    };
    let mut all: Vec<_> = (0..ROWS).map(|slot| (slot as u64, row(slot))).collect();
    assert_eq!(slots(&read(&near(1500, false))), truth(&all, &near(1500, false)));
    // A row changes in place, one is appended, and a new file comes; the first index knows nothing of it.
    let mut mounted = fs.mounted();
    mounted.write(fs.file, 4 * DIM as u64 * 1500, &rows(9000..9001));
    mounted.write(fs.file, 4 * DIM as u64 * ROWS as u64, &rows(1500..1501));
    mounted.commit();
    drop(mounted);
    all[1500].1 = row(9000);
    all.push((ROWS as u64, row(1500)));
    for slot in [1500, 9000] {
        let search = near(slot, false);
        assert_eq!(slots(&read(&search)), truth(&all, &search), "{slot}");
        let exact = fs.open(MEMORY).search(fs.dir, &near(slot, true)).unwrap();
        assert_eq!(slots(&exact.found), truth(&all, &search), "{slot}");
    }
    let again = fs.build();
    assert_eq!(again.counts.vectors, ROWS as u64 + 1);
    assert!(again.generation > built.generation);
}

/// How many bytes of rows a search would read.
fn behind(fs: &Fixture) -> u64 {
    let unmounted = fs.open(MEMORY);
    let mut opened = unmounted.opened(Some(unmounted.tail().unwrap()), false, true).unwrap();
    opened.tracker.follow().unwrap();
    opened.tracker.pending_bytes()
}

// The rows of files that nobody touched were read again by every search.
#[test]
fn only_files_that_a_commit_touched_are_read_again() {
    let fs = fixture();
    fs.build();
    assert_eq!(behind(&fs), 0);
    let mut mounted = fs.mounted();
    let other = mounted.create(fs.dir, "b", 0o100_600);
    mounted.write(other, 0, &rows(0..10));
    mounted.commit();
    drop(mounted);
    // The inodes are neighbours in the tree, and whoever shares a changed leaf is compared too.
    assert!(behind(&fs) >= 10 * 4 * DIM as u64);
    let hits = fs.open(MEMORY).search(other, &near(3, false)).unwrap().found;
    assert_eq!((hits.hits[0].file, hits.hits[0].slot), (other.0, 3));
}

// Rows that are written back after their commit are in no later one.
#[test]
fn a_checkpoint_that_was_not_the_last_is_not_believed() {
    let fs = fixture();
    let unmounted = fs.open(MEMORY);
    let start = unmounted.end.next_multiple_of(TAIL_ALIGN);
    let file = File::options().read(true).write(true).open(fs.image.path()).unwrap();
    let store = TailStore::open(file, start, None).unwrap();
    let mut opened = unmounted.opened(Some(Box::new(store)), true, false).unwrap();
    while opened.tracker.cycle().unwrap() {}
    opened.tracker.checkpoint().unwrap();
    assert_eq!(behind(&fs), (ROWS * DIM * 4) as u64);
    opened.tracker.close().unwrap();
    assert_eq!(behind(&fs), 0);
}

#[test]
fn an_index_that_is_too_far_behind_or_damaged_is_said_and_done_without() {
    let fs = fixture();
    fs.build();
    let mut mounted = fs.mounted();
    mounted.write(fs.file, 0, &rows(5000..5000 + ROWS));
    mounted.commit();
    drop(mounted);
    let all: Vec<_> = (0..ROWS).map(|slot| (slot as u64, row(5000 + slot))).collect();
    let search = near(5100, false);
    let answer = fs.open(64 << 10).search(fs.dir, &search).unwrap();
    assert_eq!(slots(&answer.found), truth(&all, &search));
    assert!(answer.remarks[0].contains("too far behind"), "{:?}", answer.remarks);

    fs.build();
    let tail = BYTES.next_multiple_of(TAIL_ALIGN);
    let len = fs.image.as_file().metadata().unwrap().len();
    for at in (tail + 8192..len).step_by(512) {
        fs.image.as_file().write_all_at(&[0x5a; 8], at).unwrap();
    }
    let answer = fs.open(MEMORY).search(fs.dir, &search).unwrap();
    assert_eq!(slots(&answer.found), truth(&all, &search));
}

#[test]
fn a_row_of_the_file_is_a_query_and_a_missing_one_is_named() {
    let fs = fixture();
    for indexed in [false, true] {
        let like = |slot| Search { query: Query::Like(slot), ..near(0, false) };
        let found = fs.open(MEMORY).search(fs.file, &like(77)).unwrap().found;
        assert_eq!((found.hits[0].slot, found.hits[0].distance), (77, 0.0), "{indexed}");
        let why = fs.open(MEMORY).search(fs.file, &like(99_999)).unwrap_err().to_string();
        assert!(why.contains("no vector in slot 99999"), "{why}");
        fs.build();
    }
}

#[test]
fn a_generation_that_is_not_there_is_refused() {
    let fs = fixture();
    let generation = fs.open(MEMORY).search(fs.dir, &near(0, false)).unwrap().found.generation;
    let at = |at_least| Search { at_least: Some(at_least), ..near(0, false) };
    fs.open(MEMORY).search(fs.dir, &at(generation)).unwrap();
    let why = fs.open(MEMORY).search(fs.dir, &at(generation + 1)).unwrap_err().to_string();
    assert!(why.contains(&format!("at generation {generation}, not {}", generation + 1)), "{why}");
}

#[test]
fn filters_batches_and_radii_are_the_same_with_an_index_and_in_parts() {
    let fs = fixture();
    let all: Vec<_> = (0..ROWS).map(|slot| (slot as u64, row(slot))).collect();
    let even: Vec<_> = all.iter().filter(|(slot, _)| *slot < 2000).cloned().collect();
    let query = |slot: usize| near(slot, false).query;
    let search = Search {
        more: vec![query(1990), Query::Vector(row(2500))],
        filter: Some("slot < 2000 and path ~ \"a*\"".to_owned()),
        ef: Some(400),
        ..near(7, false)
    };
    let wide = Search { within: Some(1e9), k: 50, ..near(7, false) };
    let asked = |memory| {
        let answer = fs.open(memory).search(fs.dir, &search).unwrap();
        assert_eq!(answer.remarks, [""; 0]);
        let each: Vec<Vec<u64>> = answer
            .found
            .each()
            .map(|(_, hits)| hits.iter().map(|hit| hit.slot).collect())
            .collect();
        let wide = fs.open(memory).search(fs.dir, &wide).unwrap().found;
        assert!(wide.hits.len() == 50 && wide.answers[0].cut, "more than so many are that near");
        each
    };
    let wanted: Vec<Vec<u64>> = std::iter::once(&search.query)
        .chain(&search.more)
        .map(|query| truth(&even, &Search::nearest(query.clone(), 5)))
        .collect();
    for memory in [MEMORY, 64 << 10] {
        assert_eq!(asked(memory), wanted, "in parts, {memory}");
    }
    fs.build();
    assert_eq!(asked(MEMORY), wanted, "with an index");
    let wrong = Search { filter: Some("slot <".to_owned()), ..near(7, false) };
    let why = fs.open(MEMORY).search(fs.dir, &wrong).unwrap_err().to_string();
    assert!(why.contains("the filter is wrong"), "{why}");
}

// The index of what was there before the copy would be believed of what is there now.
#[test]
fn an_image_that_is_older_than_its_index_is_read_as_it_is() {
    let fs = fixture();
    let mut old = vec![0; BYTES as usize];
    fs.image.as_file().read_exact_at(&mut old, 0).unwrap();
    let mut mounted = fs.mounted();
    mounted.write(fs.file, 4 * DIM as u64 * 1500, &rows(9000..9001));
    mounted.commit();
    drop(mounted);
    fs.build();
    fs.image.as_file().write_all_at(&old, 0).unwrap();
    let all: Vec<_> = (0..ROWS).map(|slot| (slot as u64, row(slot))).collect();
    for slot in [1500, 9000] {
        let search = near(slot, false);
        let answer = fs.open(MEMORY).search(fs.dir, &search).unwrap();
        assert_eq!(slots(&answer.found), truth(&all, &search), "{slot}");
    }
}

#[test]
fn files_beside_what_is_searched_are_left_alone_whatever_they_are() {
    let fs = fixture();
    let mut mounted = fs.mounted();
    let other = mounted.corpus("other", "type=f32,dim=16,metric=l2");
    let text = mounted.create(other, "notes", 0o100_600);
    mounted.write(text, 0, b"no vectors but words\n");
    mounted.commit();
    drop(mounted);
    fs.build();
    let answer = fs.open(MEMORY).search(fs.dir, &near(7, false)).unwrap();
    assert_eq!((answer.found.searched, answer.found.notes.len()), (1, 0));
    assert_eq!(slots(&answer.found)[0], 7);
}
