// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The tracker on a filesystem that the engine writes: after every cycle the index holds what the files
//! hold.

use super::*;
use crate::testing::{Mounted, NOW, floats, reader};
use vexfs_image::FileDevice;
use vexfs_index::{Options, npy};

const BYTES: u64 = 64 << 20;
const FILE: u32 = 0o100_644;
/// Raw rows: their bytes do not say what they are.
const L2: &str = "type=f32,dim=4,metric=l2,header=0";

struct World {
    image: tempfile::NamedTempFile,
    mounted: Mounted,
    index: Arc<Index>,
    tracker: Tracker<FileDevice>,
}

/// Cycles until there is nothing left to read.
pub fn settle<D: Device + Clone>(tracker: &mut Tracker<D>) {
    for _ in 0..10_000 {
        match tracker.cycle() {
            Ok(false) => return,
            Ok(true) => {}
            Err(e) => panic!("{e}"),
        }
    }
    panic!("the tracker does not come to an end");
}

fn new_index() -> Arc<Index> {
    Arc::new(Index::open(None, Options::default()).unwrap().0)
}

impl World {
    fn new() -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(BYTES).unwrap();
        let dirty_log = Arc::new(DirtyLog::new(BYTES).unwrap());
        let mounted = Mounted::format(image.path(), BYTES, dirty_log.clone());
        let index = new_index();
        let tracker = Tracker::open(reader(image.path(), BYTES), index.clone(), dirty_log).unwrap();
        Self { image, mounted, index, tracker }
    }

    fn settle(&mut self) {
        settle(&mut self.tracker);
    }

    fn commit(&mut self) {
        self.mounted.commit();
        self.settle();
    }

    fn row(&self, ino: Ino, slot: u64) -> Option<Vec<f32>> {
        self.index.get(FileId(ino.0), Slot(slot)).ok()
    }
}

fn rows(count: usize, start: f32) -> Vec<u8> {
    floats((0..count * 4).map(|i| start + i as f32))
}

// As the index gives it.
#[allow(clippy::unnecessary_wraps)]
fn row(slot: usize, start: f32) -> Option<Vec<f32>> {
    Some((0..4).map(|i| start + (slot * 4 + i) as f32).collect())
}

#[test]
fn rows_are_found_after_their_commit_and_not_before() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", L2);
    let file = w.mounted.create(dir, "a", FILE);
    w.mounted.write(file, 0, &rows(1000, 0.0));
    w.settle();
    assert!(w.index.files().is_empty());
    w.commit();
    assert_eq!(w.index.stats().counts.vectors, 1000);
    assert_eq!((w.row(file, 0), w.row(file, 999)), (row(0, 0.0), row(999, 0.0)));
    // Appended rows, one of them across a block that was written before.
    w.mounted.write(file, 16_000, &rows(500, 0.5));
    w.settle();
    assert_eq!(w.index.stats().counts.vectors, 1000);
    w.commit();
    assert_eq!((w.row(file, 1000), w.row(file, 1499)), (row(0, 0.5), row(499, 0.5)));
}

#[test]
fn rows_overwritten_in_place_are_found_without_a_commit() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", L2);
    let file = w.mounted.create(dir, "a", FILE);
    w.mounted.write(file, 0, &rows(1000, 0.0));
    w.commit();
    let generation = w.tracker.generation();
    w.mounted.write(file, 16 * 300, &rows(3, 7000.0));
    w.settle();
    assert_eq!(w.tracker.generation(), generation, "no commit was needed");
    assert_eq!((w.row(file, 299), w.row(file, 300)), (row(299, 0.0), row(0, 7000.0)));
    assert_eq!((w.row(file, 302), w.row(file, 303)), (row(2, 7000.0), row(303, 0.0)));
    assert_eq!(w.index.stats().counts.vectors, 1000);
}

#[test]
fn a_numpy_file_is_read_from_where_numpy_put_its_rows() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", "type=f32,dim=4,metric=cosine");
    let scratch = tempfile::NamedTempFile::new().unwrap();
    let values: Vec<f32> = (0..400).map(|i| (i % 37) as f32 + 1.0).collect();
    npy::write(scratch.path(), 4, &values).unwrap();
    let bytes = std::fs::read(scratch.path()).unwrap();
    let file = w.mounted.create(dir, "a.npy", FILE);
    w.mounted.write(file, 0, &bytes);
    let other = w.mounted.create(dir, "wrong.npy", FILE);
    npy::write(scratch.path(), 5, &values).unwrap();
    w.mounted.write(other, 0, &std::fs::read(scratch.path()).unwrap());
    w.commit();
    assert_eq!(w.index.file_stats(FileId(file.0)).unwrap().vectors, 100);
    let hits = w.index.search(&[FileId(file.0)], &values[44..48], 1, None, true).unwrap();
    assert!(hits[0].distance.abs() < 1e-6);
    let trouble: BTreeMap<_, _> = w.tracker.files().collect();
    assert_eq!(trouble[&file.0], None);
    assert!(matches!(&trouble[&other.0], Some(Trouble::Unusable(why)) if why.contains("f32 x 5")));
    // The wrong one is replaced by a right one.
    npy::write(scratch.path(), 4, &values[..80]).unwrap();
    w.mounted.volume.truncate(other, 0, NOW).unwrap();
    w.mounted.write(other, 0, &std::fs::read(scratch.path()).unwrap());
    w.commit();
    assert_eq!(w.index.file_stats(FileId(other.0)).unwrap().vectors, 20);
}

#[test]
fn holes_cuts_and_removed_files_leave_the_index() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", L2);
    let file = w.mounted.create(dir, "a", FILE);
    w.mounted.write(file, 0, &rows(1024, 0.0));
    // A hole of 4 blocks, then a block.
    w.mounted.write(file, 32_768, &rows(256, 1.0));
    w.commit();
    assert_eq!(w.index.stats().counts.vectors, 1024 + 256);
    assert_eq!((w.row(file, 1024), w.row(file, 2048)), (None, row(0, 1.0)));
    // The hole is filled, and a hole punched into rows.
    w.mounted.write(file, 16_384, &rows(256, 2.0));
    w.mounted.volume.steps(NOW, |v| v.punch(file, vexfs::FileBlock(1), 1, Some(NOW))).unwrap();
    w.commit();
    assert_eq!((w.row(file, 255), w.row(file, 256)), (row(255, 0.0), None));
    assert_eq!((w.row(file, 512), w.row(file, 1024)), (row(512, 0.0), row(0, 2.0)));
    w.mounted.volume.truncate(file, 16 * 600 + 5, NOW).unwrap();
    w.commit();
    assert_eq!((w.row(file, 599), w.row(file, 600)), (row(599, 0.0), None));
    let trouble: BTreeMap<_, _> = w.tracker.files().collect();
    assert!(matches!(&trouble[&file.0], Some(Trouble::Partial(why)) if why.contains("5 are left")));
    // Another file takes the freed blocks; nothing of the old one is found.
    w.mounted.unlink(dir, "a");
    w.mounted.commit();
    let next = w.mounted.create(dir, "b", FILE);
    w.mounted.write(next, 0, &rows(3000, 9.0));
    w.commit();
    assert_eq!(w.index.files(), [FileId(next.0)]);
    assert_eq!(w.row(next, 2999), row(2999, 9.0));
}

#[test]
fn what_happened_while_nobody_looked_is_found_by_verifying() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", L2);
    let (kept, gone) = (w.mounted.create(dir, "a", FILE), w.mounted.create(dir, "b", FILE));
    for file in [kept, gone] {
        w.mounted.write(file, 0, &rows(500, 0.0));
    }
    w.commit();
    // Overwritten in place, and the marks are lost with the daemon; a file is removed.
    w.mounted.write(kept, 16 * 20, &rows(1, 5000.0));
    w.mounted.unlink(dir, "b");
    w.mounted.commit();
    w.mounted.dirty_log.drain();
    w.tracker =
        Tracker::open(reader(w.image.path(), BYTES), w.index.clone(), w.mounted.dirty_log.clone())
            .unwrap();
    assert_eq!(w.row(kept, 20), row(20, 0.0), "not known yet");
    w.settle();
    assert_eq!((w.row(kept, 20), w.row(kept, 21)), (row(0, 5000.0), row(21, 0.0)));
    assert_eq!(w.index.files(), [FileId(kept.0)]);
}

/// A file's rows according to its bytes.
fn expected(w: &mut World, ino: Ino) -> BTreeMap<u64, Vec<f32>> {
    let size = w.mounted.volume.resolve(|v| v.inode(ino)).unwrap().size;
    let mut bytes = vec![0; size as usize];
    w.mounted.volume.read_at(ino, 0, &mut bytes).unwrap();
    let rows = bytes.chunks_exact(16).enumerate();
    rows.map(|(slot, row)| {
        let floats = row.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap()));
        (slot as u64, floats.collect())
    })
    .collect()
}

#[test]
fn after_random_changes_the_index_is_what_the_files_are() {
    for seed in 1..=12u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut w = World::new();
        let dir = w.mounted.corpus("corpus", L2);
        let mut files: Vec<(String, Ino)> = Vec::new();
        for step in 0..80u64 {
            match random(8) {
                0 | 1 if files.len() < 5 => {
                    let name = format!("f{step}");
                    let ino = w.mounted.create(dir, &name, FILE);
                    files.push((name, ino));
                }
                2 if !files.is_empty() => {
                    let (name, _) = files.remove(random(files.len() as u64) as usize);
                    w.mounted.unlink(dir, &name);
                }
                3 if !files.is_empty() => {
                    let (_, ino) = files[random(files.len() as u64) as usize];
                    w.mounted.volume.truncate(ino, random(10_000) * 4, NOW).unwrap();
                }
                4..=6 if !files.is_empty() => {
                    let (_, ino) = files[random(files.len() as u64) as usize];
                    // Never a hole, whose rows the index leaves out.
                    let size = w.mounted.volume.resolve(|v| v.inode(ino)).unwrap().size;
                    let at = random(size / 4 + 1) * 4;
                    let data = rows(random(400) as usize + 1, (step * 1000) as f32);
                    w.mounted.write(ino, at, &data);
                }
                _ => w.mounted.commit(),
            }
            if random(3) == 0 {
                // A cycle at any moment must do no harm.
                let _ = w.tracker.cycle();
            }
        }
        w.commit();
        for (name, ino) in files {
            let expected = expected(&mut w, ino);
            let id = FileId(ino.0);
            // Rows in a hole, which a truncation may leave, are not indexed.
            let missing = expected.len() as u64 - w.index.file_stats(id).map_or(0, |s| s.vectors);
            let mut zeroes = 0;
            for (slot, row) in expected {
                if let Some(found) = w.row(ino, slot) {
                    assert_eq!(found, row, "seed {seed}: {name} slot {slot}");
                } else {
                    assert!(row.contains(&0.0), "seed {seed}: {name} slot {slot}: {row:?}");
                    zeroes += 1;
                }
            }
            assert_eq!(missing, zeroes, "seed {seed}: {name}");
        }
        let known = w.index.files().len();
        assert!(known <= 5, "seed {seed}: removed files stayed: {known}");
    }
}

// A file of 2^58 rows without a block kept the indexer busy forever, and no file after it was indexed.
#[test]
fn a_huge_hole_does_not_keep_other_files_waiting() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", L2);
    let hole = w.mounted.create(dir, "a", FILE);
    w.mounted.write(hole, 0, &rows(10, 0.0));
    w.mounted.volume.truncate(hole, 1 << 62, NOW).unwrap();
    let file = w.mounted.create(dir, "b", FILE);
    w.mounted.write(file, 0, &rows(10, 5.0));
    w.commit();
    assert_eq!((w.row(hole, 9), w.row(hole, 1 << 50)), (row(9, 0.0), None));
    assert_eq!(w.row(file, 9), row(9, 5.0));
}

/// A medium on which a range cannot be read.
#[derive(Clone)]
struct Failing(FileDevice, Arc<std::sync::Mutex<Range<u64>>>);

impl Device for Failing {
    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        let bad = self.1.lock().unwrap().clone();
        if at < bad.end && at + buf.len() as u64 > bad.start {
            return Err(DeviceError::Io(libc::EIO));
        }
        self.0.read(at, buf)
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.0.write(at, data)
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.0.write_fua(at, data)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.0.flush()
    }
}

/// Who trusts a closed checkpoint reads nothing of a file that is whole in it.
#[test]
fn a_file_with_an_unreadable_row_is_not_whole_in_a_closed_checkpoint() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", L2);
    let files = [w.mounted.create(dir, "a", FILE), w.mounted.create(dir, "b", FILE)];
    for file in files {
        w.mounted.write(file, 0, &rows(300, 1.0));
    }
    w.mounted.commit();
    let mapped = w.mounted.volume.resolve(|v| v.map(files[0], vexfs::FileBlock(0), 1)).unwrap();
    let vexfs::MappingKind::Written(block) = mapped.kind else { panic!("not written") };
    let at = block.0 * 4096;
    let bad = Arc::new(std::sync::Mutex::new(at + 512..at + 1024));
    let place = tempfile::tempdir().unwrap();
    let open = || {
        let store = vexfs_index::DirStore::open(place.path()).unwrap();
        Index::open(Some(Box::new(store)), vexfs_index::Options::default()).unwrap()
    };
    let index = Arc::new(open().0);
    let device = Failing(reader(w.image.path(), BYTES), bad);
    let mut tracker = Tracker::open(device, index.clone(), w.mounted.dirty_log.clone()).unwrap();
    settle(&mut tracker);
    tracker.close().unwrap();
    drop((tracker, index));
    let covered = open().1.covered.unwrap();
    assert_eq!(covered.note, CLOSED);
    let states: BTreeMap<_, _> = covered.files.into_iter().collect();
    assert_eq!(states[&FileId(files[0].0)], b"");
    assert_eq!(states[&FileId(files[1].0)], WHOLE);
}

// One bad sector in one file stopped the indexing of all files, and searches did not say so.
#[test]
fn unreadable_rows_are_left_out_and_named_and_the_rest_is_indexed() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", L2);
    let files = [w.mounted.create(dir, "a", FILE), w.mounted.create(dir, "b", FILE)];
    for file in files {
        w.mounted.write(file, 0, &rows(3000, 1.0));
    }
    w.mounted.commit();
    let mapped = w.mounted.volume.resolve(|v| v.map(files[0], vexfs::FileBlock(4), 1)).unwrap();
    let vexfs::MappingKind::Written(block) = mapped.kind else { panic!("not written") };
    let at = block.0 * 4096;
    let bad = Arc::new(std::sync::Mutex::new(at + 512..at + 1024));
    let device = Failing(reader(w.image.path(), BYTES), bad.clone());
    let mut tracker = Tracker::open(device, w.index.clone(), w.mounted.dirty_log.clone()).unwrap();
    settle(&mut tracker);
    // 4 blocks of 256 rows, then a sector of 32.
    assert_eq!((w.row(files[0], 1055), w.row(files[0], 1056)), (row(1055, 1.0), None));
    assert_eq!((w.row(files[0], 1087), w.row(files[0], 1088)), (None, row(1088, 1.0)));
    assert_eq!(w.index.file_stats(FileId(files[1].0)).unwrap().vectors, 3000);
    let trouble: BTreeMap<_, _> = tracker.files().collect();
    assert!(
        matches!(&trouble[&files[0].0], Some(Trouble::Unreadable(why)) if why.contains("32 of its rows") && why.contains("first is 1056"))
    );
    assert_eq!(trouble[&files[1].0], None);
    // Written again, it is read again.
    *bad.lock().unwrap() = 0..0;
    w.mounted.write(files[0], 1056 * 16, &rows(32, 7.0));
    settle(&mut tracker);
    assert_eq!(w.row(files[0], 1056), row(0, 7.0));
    assert_eq!(tracker.files().find(|(ino, _)| *ino == files[0].0).unwrap().1, None);
}

const AUTO: &str = "type=f32,dim=4,metric=l2";

fn array(rows: &[u8]) -> Vec<u8> {
    let scratch = tempfile::NamedTempFile::new().unwrap();
    npy::write(scratch.path(), 4, &vec![0.0; rows.len() / 4]).unwrap();
    let mut bytes = std::fs::read(scratch.path()).unwrap();
    let at = bytes.len() - rows.len();
    bytes[at..].copy_from_slice(rows);
    bytes
}

impl World {
    fn trouble(&self, ino: Ino) -> Option<Trouble> {
        self.tracker.files().find(|(file, _)| *file == ino.0).and_then(|(_, trouble)| trouble)
    }

    fn vectors(&self, ino: Ino) -> u64 {
        self.index.file_stats(FileId(ino.0)).map_or(0, |stats| stats.vectors)
    }
}

// A Parquet file in a marked directory gave hits.
#[test]
fn what_is_no_vectors_in_a_marked_directory_is_left_out_until_it_is_vectors() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", AUTO);
    let file = w.mounted.create(dir, "a.parquet", FILE);
    w.mounted.write(file, 0, &[b"PAR1", rows(1000, 1.0).as_slice()].concat());
    w.commit();
    assert_eq!(w.vectors(file), 0);
    assert!(matches!(w.trouble(file), Some(Trouble::Unusable(why)) if why.contains("Parquet")));
    // Overwritten in place, without a commit.
    w.mounted.write(file, 0, &array(&rows(900, 1.0)));
    w.settle();
    assert!(w.vectors(file) >= 900);
    assert_eq!(w.row(file, 899), row(899, 1.0));
}

#[test]
fn a_second_array_in_a_file_is_no_rows_and_what_is_appended_without_a_header_is() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", AUTO);
    let file = w.mounted.create(dir, "a.npy", FILE);
    let one = array(&rows(1000, 1.0));
    w.mounted.write(file, 0, &one);
    w.commit();
    assert_eq!((w.vectors(file), w.trouble(file)), (1000, None));
    w.mounted.write(file, one.len() as u64, &rows(10, 9.0));
    w.commit();
    assert_eq!((w.vectors(file), w.trouble(file)), (1010, None));
    assert_eq!(w.row(file, 1009), row(9, 9.0));
    // The appended rows are overwritten in place with another array.
    w.mounted.write(file, one.len() as u64, &array(&rows(2, 5.0)));
    w.commit();
    assert_eq!((w.vectors(file), w.row(file, 999)), (1000, row(999, 1.0)));
    assert!(matches!(w.trouble(file), Some(Trouble::Partial(why)) if why.contains("not searched")));
    // Back to rows, without a commit.
    w.mounted.write(file, one.len() as u64, &rows(10, 4.0));
    w.settle();
    assert_eq!(w.row(file, 1009), row(9, 4.0));
}

#[test]
fn rows_with_length_words_are_read_and_one_wrong_word_gives_the_file_up() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", AUTO);
    let records = |count: usize| {
        let values = rows(count, 1.0);
        let record = |row: &[u8]| [&4u32.to_le_bytes(), row].concat();
        values.chunks(16).flat_map(record).collect::<Vec<u8>>()
    };
    let files = [w.mounted.create(dir, "a.fvecs", FILE), w.mounted.create(dir, "b.fvecs", FILE)];
    w.mounted.write(files[0], 0, &records(3000));
    let mut wrong = records(3000);
    wrong[20 * 777] = 5;
    w.mounted.write(files[1], 0, &wrong);
    w.commit();
    assert_eq!((w.vectors(files[0]), w.row(files[0], 2999)), (3000, row(2999, 1.0)));
    assert_eq!((w.vectors(files[1]), w.trouble(files[0])), (0, None));
    assert!(matches!(w.trouble(files[1]), Some(Trouble::Unusable(why)) if why.contains("row 777")));
}

#[test]
fn signed_packed_bits_are_those_of_packbits() {
    let mut w = World::new();
    let dir = w.mounted.corpus("corpus", "type=bit,dim=16");
    let bits = [0b1010_0000u8, 0b0000_0001];
    let save = |descr: &str, flip: u8| {
        let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1, 2), }}\n");
        let head = [b"\x93NUMPY\x01\0", &(dict.len() as u16).to_le_bytes()[..]].concat();
        [&head, dict.as_bytes(), &bits.map(|byte| byte ^ flip)].concat()
    };
    let files = [w.mounted.create(dir, "u", FILE), w.mounted.create(dir, "i", FILE)];
    w.mounted.write(files[0], 0, &save("|u1", 0));
    w.mounted.write(files[1], 0, &save("|i1", 0x80));
    w.commit();
    let wanted: Vec<f32> = (0..16).map(|i| f32::from(bits[i / 8] >> (7 - i % 8) & 1)).collect();
    for file in files {
        assert_eq!(w.row(file, 0).as_ref(), Some(&wanted));
    }
}

// A copy sets the attribute after the contents.
#[test]
fn a_file_is_found_once_it_is_marked_and_not_after_its_mark_is_gone() {
    let mut w = World::new();
    let file = w.mounted.create(Ino::ROOT, "a.npy", FILE);
    w.mounted.write(file, 0, &array(&rows(1000, 1.0)));
    w.commit();
    assert_eq!(w.vectors(file), 0);
    let attribute = VectorLayout::parse(AUTO).unwrap();
    for layout in [Some(&attribute), None, Some(&attribute)] {
        w.mounted.volume.run(NOW, |v| v.set_vector(file, layout, NOW)).unwrap();
        w.commit();
        assert_eq!(w.vectors(file), if layout.is_some() { 1000 } else { 0 });
    }
    w.mounted.write(file, 128, &rows(1, 7.0));
    w.settle();
    assert_eq!(w.row(file, 0), row(0, 7.0), "its extents are watched");
}

/// Rows that the index kept in its checkpoint only, and cannot read there any more, are read from their file.
#[test]
fn what_the_index_lost_is_read_again() {
    let checkpoints = tempfile::tempdir().unwrap();
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BYTES).unwrap();
    let dirty_log = Arc::new(DirtyLog::new(BYTES).unwrap());
    let mut mounted = Mounted::format(image.path(), BYTES, dirty_log.clone());
    let store = vexfs_index::DirStore::open(checkpoints.path()).unwrap();
    let options = Options { graph_rows: 64, nice: 0, ..Options::default() };
    let index = Arc::new(Index::open(Some(Box::new(store)), options).unwrap().0);
    let mut tracker = Tracker::open(reader(image.path(), BYTES), index.clone(), dirty_log).unwrap();
    let dir = mounted.corpus("corpus", L2);
    let file = mounted.create(dir, "a", FILE);
    let row = |slot: u16| [f32::from(slot), 1.0, 2.0, 3.0];
    mounted.write(file, 0, &floats((0..256).flat_map(row)));
    mounted.commit();
    settle(&mut tracker);
    // One that is in no filesystem: nobody can supply its rows.
    let foreign = FileId(999);
    let space = index.space(FileId(file.0)).unwrap();
    index.declare(foreign, space, vexfs_index::Params::default()).unwrap();
    for slot in 0..256 {
        index.upsert(foreign, Slot(slot.into()), &floats(row(slot))).unwrap();
    }
    index.settle();
    let files = [(FileId(file.0), Vec::new()), (foreign, Vec::new())];
    index.checkpoint(tracker.generation(), &[], &files).unwrap();
    for entry in std::fs::read_dir(checkpoints.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "manifest" {
            std::fs::File::options().write(true).open(entry.path()).unwrap().set_len(0).unwrap();
        }
    }
    let nearest = |id| index.search(&[id], &row(77), 1, None, true).map(|hits| hits[0].slot);
    assert!(nearest(FileId(file.0)).is_err() && nearest(foreign).is_err());
    settle(&mut tracker);
    assert_eq!(nearest(FileId(file.0)).unwrap(), Slot(77));
    assert!(nearest(foreign).is_err());
}

#[test]
fn a_hole_reads_as_zeroes_and_is_not_written() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BYTES).unwrap();
    std::os::unix::fs::FileExt::write_all_at(image.as_file(), &[7; 4096], 5 << 12).unwrap();
    let device = reader(image.path(), BYTES);
    let mut file = FileBytes {
        device: &device,
        extents: &[DataExtent { start: 1, count: 1, block: 5 }],
        block_shift: 12,
        size: 3 << 12,
        looked: Vec::new(),
    };
    assert_eq!(file.read(4092..4100).unwrap(), [0, 0, 0, 0, 7, 7, 7, 7]);
    assert_eq!(file.read(8190..8194).unwrap(), [7, 7, 0, 0]);
    let written =
        [4096..8192, 4090..4100, 8000..8193, 0..10, 9000..9001].map(|range| file.written(range));
    assert_eq!(written, [true, false, false, false, false]);
    assert_eq!(file.looked, [4092..4100, 8190..8194]);
}
