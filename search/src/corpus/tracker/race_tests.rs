// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The tracker while the filesystem changes between its walk of the tree and its reads of rows, and when
//! one of them fails. In the end the index holds what the files hold.

use super::tests::settle;
use super::*;
use crate::testing::{Mounted, NOW, floats, reader};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use vexfs::{DeviceError, VectorLayout};
use vexfs_image::FileDevice;
use vexfs_index::{Options, npy};

const BYTES: u64 = 16 << 20;
const FILE: u32 = 0o100_644;
/// Raw rows: their bytes do not say what they are.
const L2: &str = "type=f32,dim=4,metric=l2,header=0";
/// First byte behind the superblock and the root ring.
const TREE: u64 = (vexfs_format::ROOT_RING_START + vexfs_format::ROOT_SLOTS) * 4096;
const EIO: Error = Error::Device(DeviceError::Io(libc::EIO));

type Hook = Box<dyn FnOnce(&mut Mounted)>;

/// The device that the tracker reads. During a read, something can happen, or the read fails.
#[derive(Clone)]
struct Hooked {
    reader: FileDevice,
    mounted: Rc<RefCell<Mounted>>,
    during: Rc<RefCell<Option<Hook>>>,
    broken: Rc<RefCell<Option<Range<u64>>>>,
    /// Before every read of a block of the tree, a commit reuses that block.
    storm: Rc<Cell<bool>>,
}

impl Device for Hooked {
    fn len_bytes(&self) -> u64 {
        self.reader.len_bytes()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        let end = at + buf.len() as u64;
        if self.broken.borrow().as_ref().is_some_and(|bad| at < bad.end && end > bad.start) {
            return Err(DeviceError::Io(libc::EIO));
        }
        self.reader.read(at, buf)?;
        if self.storm.get() && at >= TREE {
            let mut mounted = self.mounted.borrow_mut();
            let name = format!("{}", mounted.volume.running().0);
            mounted.create(Ino::ROOT, &name, FILE);
            mounted.commit();
            buf.fill(0xee);
        }
        let hook = self.during.borrow_mut().take();
        if let Some(hook) = hook {
            hook(&mut self.mounted.borrow_mut());
        }
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Io(libc::EROFS))
    }

    fn write_fua(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Io(libc::EROFS))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Err(DeviceError::Io(libc::EROFS))
    }
}

struct World {
    _image: tempfile::NamedTempFile,
    device: Hooked,
    dirty_log: Arc<DirtyLog>,
    index: Arc<Index>,
    tracker: Tracker<Hooked>,
    dir: Ino,
}

impl World {
    fn new(attribute: &str) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(BYTES).unwrap();
        let dirty_log = Arc::new(DirtyLog::new(BYTES).unwrap());
        let mut mounted = Mounted::format(image.path(), BYTES, dirty_log.clone());
        let dir = mounted.corpus("corpus", attribute);
        let device = Hooked {
            reader: reader(image.path(), BYTES),
            mounted: Rc::new(RefCell::new(mounted)),
            during: Rc::default(),
            broken: Rc::default(),
            storm: Rc::default(),
        };
        let index = Arc::new(Index::open(None, Options::default()).unwrap().0);
        let tracker = Tracker::open(device.clone(), index.clone(), dirty_log.clone()).unwrap();
        Self { _image: image, device, dirty_log, index, tracker, dir }
    }

    fn create(&mut self, name: &str, rows: usize, start: f32) -> Ino {
        let mut mounted = self.device.mounted.borrow_mut();
        let ino = mounted.create(self.dir, name, FILE);
        mounted.write(ino, 0, &vectors(rows, start));
        ino
    }

    /// Changes the filesystem.
    fn change<T>(&self, change: impl FnOnce(&mut Mounted) -> T) -> T {
        change(&mut self.device.mounted.borrow_mut())
    }

    /// Makes something happen during the next read.
    fn during(&self, hook: impl FnOnce(&mut Mounted) + 'static) {
        *self.device.during.borrow_mut() = Some(Box::new(hook));
    }

    fn settle(&mut self) {
        settle(&mut self.tracker);
    }

    fn commit(&mut self) {
        self.change(Mounted::commit);
        self.settle();
    }

    fn row(&self, ino: Ino, slot: u64) -> Option<f32> {
        Some(self.index.get(FileId(ino.0), Slot(slot)).ok()?[0])
    }

    fn vectors(&self, ino: Ino) -> u64 {
        self.index.file_stats(FileId(ino.0)).map_or(0, |stats| stats.vectors)
    }

    fn trouble(&self, ino: Ino) -> Option<Trouble> {
        self.tracker.files().find(|(known, _)| *known == ino.0).unwrap().1
    }
}

/// Rows whose first numbers are `start`, `start` + 4, ...
fn vectors(count: usize, start: f32) -> Vec<u8> {
    floats((0..count * 4).map(|i| start + i as f32))
}

fn array(rows: usize, dim: usize) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    npy::write(file.path(), dim, &vec![0.5; rows * dim]).unwrap();
    std::fs::read(file.path()).unwrap()
}

#[test]
fn a_file_that_goes_while_it_is_read_leaves_nothing() {
    let mut w = World::new(L2);
    let file = w.create("a", 1000, 0.0);
    w.change(Mounted::commit);
    w.tracker.catch_up().unwrap();
    assert_eq!(w.tracker.pending(), 1000);
    let dir = w.dir;
    w.during(move |mounted| {
        mounted.unlink(dir, "a");
        mounted.commit();
    });
    assert_eq!(w.tracker.step(), Ok(true));
    assert_eq!((w.tracker.pending(), w.tracker.files().count()), (0, 0));
    w.settle();
    assert!(w.index.files().is_empty() && w.row(file, 0).is_none());
}

/// Its old blocks are free and may have been written by another file before they were read.
#[test]
fn a_file_that_moves_while_it_is_read_is_read_again() {
    let mut w = World::new(L2);
    let file = w.create("a", 1000, 0.0);
    w.change(Mounted::commit);
    w.tracker.catch_up().unwrap();
    w.during(move |mounted| {
        mounted.volume.truncate(file, 0, NOW).unwrap();
        mounted.commit();
        mounted.write(file, 0, &vectors(600, 5000.0));
        mounted.commit();
    });
    assert_eq!(w.tracker.step(), Ok(true));
    assert_eq!((w.vectors(file), w.tracker.pending()), (0, 600), "nothing of it was believed");
    w.settle();
    assert_eq!((w.vectors(file), w.row(file, 599)), (600, Some(5000.0 + 599.0 * 4.0)));
}

#[test]
fn a_commit_that_leaves_the_file_where_it_was_does_not_keep_its_rows_out() {
    let mut w = World::new(L2);
    let file = w.create("a", 1000, 0.0);
    w.change(Mounted::commit);
    w.tracker.catch_up().unwrap();
    let dir = w.dir;
    w.during(move |mounted| {
        mounted.create(dir, "b", FILE);
        mounted.commit();
    });
    assert_eq!(w.tracker.step(), Ok(true));
    assert_eq!((w.vectors(file), w.tracker.pending()), (1000, 0));
}

/// The same between two reads of one tree: the walk starts again.
#[test]
fn a_tree_that_moves_on_while_it_is_walked_is_walked_again() {
    let mut w = World::new(L2);
    let file = w.create("a", 10, 0.0);
    w.change(Mounted::commit);
    let dir = w.dir;
    w.during(move |mounted| {
        // Often enough for blocks of the tree that is being walked to be used again.
        for i in 0..40 {
            mounted.create(dir, &format!("b{i}"), FILE);
            mounted.commit();
        }
    });
    w.settle();
    assert_eq!(w.vectors(file), 10);
    assert_eq!(w.tracker.generation(), w.change(|mounted| mounted.volume.generation().0));
}

/// Commits come faster than a walk: the caller gets its turn, and the next cycle tries again.
#[test]
fn a_walk_that_never_catches_up_returns_to_the_caller() {
    let mut w = World::new(L2);
    let file = w.create("a", 10, 0.0);
    w.change(Mounted::commit);
    w.device.storm.set(true);
    let before = w.change(|mounted| mounted.volume.generation().0);
    assert_eq!(w.tracker.cycle(), Ok(true));
    let commits = w.change(|mounted| mounted.volume.generation().0) - before;
    assert_eq!((commits, w.tracker.generation()), (WALKS as u64, 0));
    w.device.storm.set(false);
    w.settle();
    assert_eq!(w.vectors(file), 10);
}

#[test]
fn rows_that_cannot_be_read_are_left_out_until_they_are_written_again() {
    let mut w = World::new(L2);
    let file = w.create("a", 1000, 0.0);
    w.commit();
    w.change(|mounted| mounted.write(file, 0, &vectors(100, 7.0)));
    w.tracker.catch_up().unwrap();
    // A mark is of whole blocks: 256 rows.
    assert_eq!(w.tracker.pending(), 256);
    *w.device.broken.borrow_mut() = Some(0..BYTES);
    assert_eq!(w.tracker.step(), Ok(true));
    assert_eq!((w.tracker.pending(), w.vectors(file), w.row(file, 0)), (0, 744, None));
    assert!(matches!(w.trouble(file), Some(Trouble::Unreadable(why)) if why.starts_with("256 ")));
    // Neither the roots nor the tree can be read.
    w.change(Mounted::commit);
    assert_eq!(w.tracker.cycle(), Err(EIO));
    *w.device.broken.borrow_mut() = Some(TREE..BYTES);
    assert_eq!(w.tracker.cycle(), Err(EIO));
    *w.device.broken.borrow_mut() = None;
    w.change(|mounted| mounted.write(file, 0, &vectors(256, 7.0)));
    w.settle();
    assert_eq!((w.vectors(file), w.row(file, 0), w.trouble(file)), (1000, Some(7.0), None));
}

/// A file of which hardly any row can be read is not searched at all, and not read row by row.
#[test]
fn a_file_with_too_many_unreadable_rows_is_given_up() {
    let mut w = World::new(L2);
    let file = w.create("a", 4000, 0.0);
    let other = w.create("b", 10, 0.0);
    w.commit();
    w.change(|mounted| mounted.write(file, 0, &vectors(4000, 7.0)));
    w.tracker.catch_up().unwrap();
    *w.device.broken.borrow_mut() = Some(0..BYTES);
    assert_eq!(w.tracker.step(), Ok(true));
    *w.device.broken.borrow_mut() = None;
    w.settle();
    assert!(
        matches!(w.trouble(file), Some(Trouble::Unusable(why)) if why.contains("cannot be read"))
    );
    assert_eq!((w.vectors(file), w.vectors(other), w.tracker.pending()), (0, 10, 0));
}

/// The index does not know a file that the tracker has: the file's trouble says so, and other files are
/// indexed.
#[test]
fn a_file_whose_rows_the_index_refuses_is_given_up_with_a_reason() {
    // With a header, a write to it would refresh the file.
    let mut w = World::new("type=f32,dim=4,metric=l2,header=0");
    let file = w.create("a", 10, 0.0);
    let other = w.create("b", 10, 0.0);
    w.change(Mounted::commit);
    w.tracker.catch_up().unwrap();
    w.index.drop_file(FileId(file.0));
    w.settle();
    assert_eq!((w.tracker.pending(), w.vectors(file), w.vectors(other)), (0, 0, 10));
    let trouble = w.trouble(file);
    assert!(
        matches!(&trouble, Some(Trouble::Unusable(why)) if why.contains("not in the index")),
        "{trouble:?}"
    );
    // Overwritten without a commit: still no row is indexed.
    w.change(|mounted| mounted.write(file, 0, &vectors(10, 3.0)));
    w.settle();
    assert_eq!((w.tracker.pending(), w.vectors(file)), (0, 0));
    // The next commit that changes it refreshes it.
    w.change(|mounted| mounted.write(file, 160, &vectors(1, 9.0)));
    w.commit();
    assert_eq!((w.vectors(file), w.row(file, 0), w.trouble(file)), (11, Some(3.0), None));
}

/// Within one walk, a file gets the blocks that another one freed, and comes before it.
#[test]
fn a_block_belongs_to_the_file_that_has_it_now() {
    let mut w = World::new(L2);
    let first = w.create("a", 256, 0.0);
    let second = w.create("b", 256, 0.0);
    assert!(first < second);
    w.commit();
    let place = |w: &World, ino: Ino| {
        let of =
            |(start, (_, owner, _)): (&u64, &(u64, u64, u64))| (*owner == ino.0).then_some(*start);
        w.tracker.places.iter().filter_map(of).collect::<Vec<_>>()
    };
    let before = place(&w, second);
    let dir = w.dir;
    w.change(|mounted| {
        mounted.unlink(dir, "b");
        mounted.commit();
        mounted.commit();
        // Until it gets that block.
        for i in 1..3000 {
            mounted.write(first, i * 4096, &vectors(256, 1.0));
            let parts = mounted.volume.resolve(|v| v.map(first, vexfs::FileBlock(i), 1)).unwrap();
            if matches!(parts.kind, vexfs::MappingKind::Written(b) if before == [b.0 << 12]) {
                break;
            }
        }
    });
    w.commit();
    assert!(!w.tracker.files.contains_key(&second.0));
    let extents = w.tracker.files[&first.0].extents.clone();
    let held: Vec<u64> = extents.iter().map(|extent| extent.block << 12).collect();
    assert_eq!(place(&w, first).len(), held.len());
    // Overwritten in place, without a commit.
    let at = extents
        .iter()
        .find(|e| before[0] >= e.block << 12 && before[0] < (e.block + e.count) << 12);
    let extent = at.expect("the block was not used again");
    let offset = (extent.start << 12) + (before[0] - (extent.block << 12));
    w.change(|mounted| mounted.write(first, offset, &vectors(1, 777.0)));
    w.settle();
    assert_eq!(w.row(first, offset / 16), Some(777.0));
}

#[test]
fn what_is_no_vector_file_any_more_is_forgotten() {
    let mut w = World::new(L2);
    let plain = w.create("plain", 10, 0.0);
    let open = w.create("open", 10, 0.0);
    let dir = w.dir;
    // A checkpoint may have them: a directory, and an inode that does not exist.
    let space = vexfs_index::Space::new(vexfs_index::Element::F32, vexfs_index::Metric::L2, 4);
    for ino in [dir.0, 999_999] {
        w.index.declare(FileId(ino), space, vexfs_index::Params::default()).unwrap();
    }
    w.commit();
    assert_eq!(w.index.files(), [FileId(plain.0), FileId(open.0)]);
    w.change(|mounted| {
        mounted.volume.truncate(plain, 0, NOW).unwrap();
        mounted.volume.run(NOW, |v| v.set_vector(plain, None, NOW)).unwrap();
        mounted.write(plain, 0, &vectors(10, 1.0));
        // Without a name, and not evicted: somebody has it open.
        mounted.volume.run(NOW, |v| v.unlink(dir, b"open", NOW)).unwrap();
    });
    w.commit();
    assert!(w.index.files().is_empty() && w.tracker.files.is_empty());
    assert!(w.tracker.places.is_empty());
}

#[test]
fn another_attribute_has_everything_read_again() {
    let mut w = World::new(L2);
    let file = w.create("a", 100, 1.0);
    w.commit();
    // Another space, then the same space with another stride.
    for (attribute, count, first) in [
        ("type=f32,dim=8,metric=l2,header=0", 50, 1.0 + 8.0),
        ("type=f32,dim=8,metric=l2,header=0,stride=64", 25, 1.0 + 16.0),
    ] {
        let attribute = VectorLayout::parse(attribute).unwrap();
        w.change(|mounted| {
            mounted.volume.truncate(file, 0, NOW).unwrap();
            mounted.volume.run(NOW, |v| v.set_vector(file, Some(&attribute), NOW)).unwrap();
            mounted.write(file, 0, &vectors(100, 1.0));
        });
        w.commit();
        assert_eq!((w.vectors(file), w.row(file, 1)), (count, Some(first)), "{attribute:?}");
    }
}

/// A header that is overwritten in place changes the layout of the file, without a commit.
#[test]
fn a_header_that_is_overwritten_is_read_again() {
    let mut w = World::new("type=f32,dim=4,metric=cosine");
    let dir = w.dir;
    let file = w.change(|mounted| {
        let file = mounted.create(dir, "a.npy", FILE);
        mounted.write(file, 0, &array(1000, 4));
        file
    });
    w.commit();
    assert_eq!(w.vectors(file), 1000);
    let generation = w.tracker.generation();
    // Far behind the header, which is not read again.
    w.change(|mounted| mounted.write(file, 8192, &vectors(1, 2.0)));
    w.tracker.catch_up().unwrap();
    assert!(w.tracker.headers.is_empty() && w.tracker.pending() > 0);
    w.settle();
    w.change(|mounted| mounted.write(file, 0, &array(800, 5)[..128]));
    w.settle();
    assert_eq!((w.vectors(file), w.tracker.generation()), (0, generation));
    assert!(matches!(w.trouble(file), Some(Trouble::Unusable(why)) if why.contains("f32 x 5")));
    // Its rows are marked, too, but not read, because the file has no layout.
    w.change(|mounted| mounted.write(file, 8192, &vectors(1, 3.0)));
    w.settle();
    assert_eq!((w.vectors(file), w.tracker.pending()), (0, 0));
    w.change(|mounted| mounted.write(file, 0, &array(1000, 4)[..128]));
    w.settle();
    assert_eq!((w.vectors(file), w.trouble(file)), (1000, None));
    // The header cannot be read: no row is indexed until it is written again.
    w.change(|mounted| mounted.write(file, 0, &array(1000, 4)[..128]));
    *w.device.broken.borrow_mut() = Some(0..BYTES);
    w.settle();
    assert!(matches!(w.trouble(file), Some(Trouble::Unusable(why)) if why.contains("first block")));
    assert_eq!(w.vectors(file), 0);
    *w.device.broken.borrow_mut() = None;
    w.change(|mounted| mounted.write(file, 0, &array(1000, 4)[..128]));
    w.settle();
    assert_eq!((w.vectors(file), w.trouble(file)), (1000, None));
}

/// The layout of a file changes while its rows are read: they are neither indexed nor read again.
#[test]
fn a_header_that_is_overwritten_during_a_read_ends_it() {
    let mut w = World::new("type=f32,dim=4,metric=l2");
    let dir = w.dir;
    let file = w.change(|mounted| {
        let file = mounted.create(dir, "a.npy", FILE);
        mounted.write(file, 0, &array(1000, 4));
        mounted.commit();
        file
    });
    w.tracker.catch_up().unwrap();
    assert_eq!(w.tracker.pending(), 1000);
    w.during(move |mounted| {
        mounted.write(file, 0, &array(800, 5)[..128]);
        mounted.create(dir, "b", FILE);
        mounted.commit();
    });
    assert_eq!(w.tracker.step(), Ok(true));
    assert_eq!((w.vectors(file), w.tracker.pending()), (0, 0));
    assert!(matches!(w.trouble(file), Some(Trouble::Unusable(_))));
    w.settle();
    assert!(!w.index.files().contains(&FileId(file.0)));
}

/// The first walk starts again because the tree moved on. Writes before the daemon started are not
/// marked, so all rows of a file that the first try has visited are read again.
#[test]
fn until_the_first_walk_is_complete_every_row_is_read_again() {
    let mut w = World::new(L2);
    let file = w.create("a", 1000, 0.0);
    w.change(Mounted::commit);
    w.tracker.follower.poll().unwrap();
    w.tracker.refresh(file).unwrap();
    let batch = w.tracker.files.get_mut(&file.0).unwrap().next_batch(file.0).unwrap();
    assert_eq!((batch.slots, w.tracker.pending()), (0..1000, 0));
    w.tracker.refresh(file).unwrap();
    assert_eq!((w.vectors(file), w.tracker.pending()), (0, 1000));
    w.settle();
    assert_eq!((w.vectors(file), w.tracker.pending()), (1000, 0));
    w.tracker.refresh(file).unwrap();
    assert_eq!(w.tracker.pending(), 0);
}

/// A write to the root ring need not be a commit: a host may repeat a request.
#[test]
fn a_write_to_the_root_ring_without_a_commit_changes_nothing() {
    let mut w = World::new(L2);
    w.create("a", 10, 0.0);
    w.commit();
    let (roots, generation) = (w.tracker.roots(), w.tracker.generation());
    w.dirty_log.mark(8192, 4096, true);
    assert_eq!(w.tracker.cycle(), Ok(false));
    assert!(w.tracker.roots() > roots && w.tracker.generation() == generation);
}
