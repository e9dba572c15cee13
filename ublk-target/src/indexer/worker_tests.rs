// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The indexer's steps one by one, without its thread: when it updates the index, shows its state, writes
//! a checkpoint, gives up and starts again.

use super::*;
use crate::options::ImageOptions;
use std::os::unix::fs::FileExt;
use vexfs_index::{FileId, Slot};
use vexfs_search::testing::{Mounted, floats};

const BYTES: u64 = 32 << 20;
/// Raw rows: their bytes do not say what they are.
const L2: &str = "type=f32,dim=4,metric=l2,header=0";
/// The rows in a mebibyte: so many are read at once.
const BATCH: u64 = 65_536;

fn image() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BYTES).unwrap();
    image
}

fn dirty_log() -> Arc<DirtyLog> {
    Arc::new(DirtyLog::new(BYTES).unwrap())
}

/// A filesystem with so many rows in one file.
fn filled(path: &Path, dirty_log: Arc<DirtyLog>, rows: u64) -> (Mounted, FileId) {
    let mut mounted = Mounted::format(path, BYTES, dirty_log);
    let dir = mounted.corpus("corpus", L2);
    let file = mounted.create(dir, "a", 0o100_644);
    mounted.write(file, 0, &floats((0..rows * 4).map(|i| i as f32)));
    mounted.commit();
    (mounted, FileId(file.0))
}

fn options(path: &Path) -> ImageOptions {
    ImageOptions { path: path.to_owned(), ..ImageOptions::default() }
}

fn worker(options: &ImageOptions, dirty_log: Arc<DirtyLog>) -> Worker {
    Worker::new(Arc::new(Image::open(options).unwrap()), dirty_log).unwrap()
}

fn plain(path: &Path, dirty_log: Arc<DirtyLog>) -> Worker {
    worker(&options(path), dirty_log)
}

fn length(image: &tempfile::NamedTempFile) -> u64 {
    image.as_file().metadata().unwrap().len()
}

#[test]
fn the_last_update_ends_in_time_and_a_stop_ends_any_other() {
    let image = image();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 3 * BATCH);
    let mut w = plain(image.path(), dirty_log.clone());
    w.update(Some(Instant::now()));
    let shown = w.view.now();
    assert!(shown.generation > 0 && shown.pending == 2 * BATCH, "{}", shown.pending);
    // A last update that has time left goes on, although the indexer was told to stop.
    w.view.stop();
    w.update(Some(Instant::now() + Duration::from_secs(3600)));
    assert_eq!(w.view.now().pending, 0);
    drop(w);

    let mut w = plain(image.path(), dirty_log);
    w.view.stop();
    w.update(None);
    assert_eq!(w.view.now().pending, 2 * BATCH);
}

/// During a long update, others can see how far it is.
#[test]
fn a_long_update_shows_how_far_it_is() {
    let image = image();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 2 * BATCH);
    for (pause, shows) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let mut w = plain(image.path(), dirty_log.clone());
        w.pause = pause;
        w.recognise().unwrap();
        w.run_cycles(None).unwrap();
        assert_eq!(w.view.now().generation > 0, shows, "{pause:?}");
    }
}

#[test]
fn a_checkpoint_is_written_when_it_is_due_and_there_is_something_to_save() {
    let image = image();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 100);
    let mut w = plain(image.path(), dirty_log.clone());
    w.checkpoint(true);
    w.update(None);
    w.checkpoint(false);
    assert_eq!(length(&image), BYTES, "not due");
    w.problem = Some("the image is damaged".into());
    w.checkpoint(true);
    assert_eq!(length(&image), BYTES, "nobody knows what it would cover");
    w.problem = None;
    w.checkpoint_every = Duration::ZERO;
    w.checkpoint(false);
    let saved = length(&image);
    assert!(saved > BYTES && !w.unsaved);
    // Nothing new; but the last one says that it is the last, once.
    w.update(None);
    w.checkpoint(false);
    w.checkpoint(true);
    let (before, saved) = (w.saved, length(&image));
    w.update(None);
    w.checkpoint(true);
    assert!(w.saved == before && length(&image) == saved);
}

#[test]
fn a_read_only_image_is_indexed_without_checkpoints() {
    let image = image();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 100);
    let mut w =
        worker(&ImageOptions { read_only: true, ..options(image.path()) }, dirty_log.clone());
    w.update(None);
    w.checkpoint(true);
    assert_eq!((length(&image), w.unsaved), (BYTES, false));
    assert_eq!(w.view.now().index.unwrap().stats().counts.vectors, 100);
}

/// A superblock without a root is a problem, logged once; after a repair it is indexed.
#[test]
fn a_filesystem_that_cannot_be_read_is_tried_again() {
    let image = image();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 100);
    let ring = vexfs_format::ROOT_RING_START * 4096;
    let mut roots = vec![0; (vexfs_format::ROOT_SLOTS * 4096) as usize];
    image.as_file().read_exact_at(&mut roots, ring).unwrap();
    image.as_file().write_all_at(&vec![0; roots.len()], ring).unwrap();
    let mut w = plain(image.path(), dirty_log.clone());
    for _ in 0..2 {
        w.update(None);
        let shown = w.view.now();
        assert!(shown.problem.is_some() && shown.index.is_none());
    }
    let no_root = w.problem.clone();
    // Another problem: every copy of the superblock is damaged.
    let copies = [1024, vexfs_format::BACKUP_FIRST * 4096, BYTES - 4096];
    for at in copies {
        let mut byte = [0];
        image.as_file().read_exact_at(&mut byte, at + 100).unwrap();
        image.as_file().write_all_at(&[byte[0] ^ 1], at + 100).unwrap();
    }
    w.update(None);
    assert!(w.problem.is_some() && w.problem != no_root);
    for at in copies {
        let mut byte = [0];
        image.as_file().read_exact_at(&mut byte, at + 100).unwrap();
        image.as_file().write_all_at(&[byte[0] ^ 1], at + 100).unwrap();
    }
    image.as_file().write_all_at(&roots, ring).unwrap();
    w.update(None);
    assert_eq!(w.problem, None);
    assert_eq!(w.view.now().index.unwrap().stats().counts.vectors, 100);
    // Not VexFS: that is a problem, unless the image is served raw.
    image.as_file().write_all_at(&[0xee; 4096], 0).unwrap();
    w.update(None);
    assert!(w.problem.is_some());
}

/// Damage that a newer root does not explain is a problem until it is repaired.
#[test]
fn a_damaged_tree_is_a_problem_until_it_is_repaired() {
    let image = image();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 100);
    let tree = vexfs_format::BACKUP_FIRST * 4096 + 4096;
    let mut good = vec![0; 1 << 20];
    image.as_file().read_exact_at(&mut good, tree).unwrap();
    image.as_file().write_all_at(&vec![0xee; good.len()], tree).unwrap();
    let mut w = plain(image.path(), dirty_log);
    w.update(None);
    assert!(w.problem.is_some() && w.view.now().problem == w.problem);
    image.as_file().write_all_at(&good, tree).unwrap();
    w.update(None);
    assert_eq!(
        (w.problem.clone(), w.view.now().index.unwrap().stats().counts.vectors),
        (None, 100)
    );
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_index_as_it_is() {
    let image = image();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 100);
    let mut w = worker(&ImageOptions { raw: true, ..options(image.path()) }, dirty_log);
    w.update(None);
    let beside = PathBuf::from(format!("{}.index", image.path().display()));
    std::fs::remove_dir_all(&beside).unwrap();
    w.checkpoint(true);
    assert!(!beside.exists());
    w.update(None);
    let shown = w.view.now();
    let stats = shown.index.unwrap().stats();
    assert_eq!((stats.counts.vectors, stats.generation, shown.problem), (100, None, None));
}

#[test]
fn a_damaged_checkpoint_costs_a_rebuild_and_nothing_else() {
    let image = image();
    let dirty_log = dirty_log();
    let (_, file) = filled(image.path(), dirty_log.clone(), 100);
    let mut w = plain(image.path(), dirty_log.clone());
    w.update(None);
    w.checkpoint(true);
    drop(w);
    // A row in the checkpoint, which lies behind the tail's two slots.
    let mut byte = [0];
    image.as_file().read_exact_at(&mut byte, BYTES + 8192 + 1000).unwrap();
    image.as_file().write_all_at(&[byte[0] ^ 1], BYTES + 8192 + 1000).unwrap();
    let mut w = plain(image.path(), dirty_log);
    w.update(None);
    let shown = w.view.now();
    let index = shown.index.unwrap();
    assert_eq!(
        (index.stats().counts.vectors, index.stats().generation, shown.problem),
        (100, None, None)
    );
    assert_eq!(index.get(file, Slot(99)).unwrap(), [396.0, 397.0, 398.0, 399.0]);
}

/// Where the checkpoints should be, there is another file.
#[test]
fn an_image_without_a_place_for_checkpoints_is_indexed_without_them() {
    let image = image();
    let beside = PathBuf::from(format!("{}.index", image.path().display()));
    std::fs::write(&beside, b"somebody's file").unwrap();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 100);
    let mut w = worker(&ImageOptions { raw: true, ..options(image.path()) }, dirty_log);
    w.update(None);
    w.checkpoint(true);
    assert_eq!(w.view.now().index.unwrap().stats().counts.vectors, 100);
    assert_eq!(std::fs::read(&beside).unwrap(), b"somebody's file");
    std::fs::remove_file(&beside).unwrap();
}

#[test]
fn checkpoints_lie_where_there_is_room_for_them() {
    let image = Path::new("/srv/disk.img");
    assert_eq!(directory(image, false, false, [1; 16]), None);
    let beside = Some(PathBuf::from("/srv/disk.img.index"));
    assert_eq!(directory(image, false, true, [1; 16]), beside);
    let own = PathBuf::from("/var/lib/vexfs").join("01".repeat(16));
    for raw in [false, true] {
        assert_eq!(directory(Path::new("/dev/sdx"), true, raw, [1; 16]), Some(own.clone()));
    }
}

/// A ticket and a stop wake a sleeping indexer.
#[test]
fn a_ticket_or_a_stop_ends_the_sleep() {
    let image = image();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 10);
    let mut w = plain(image.path(), dirty_log);
    w.pause = Duration::from_secs(3600);
    // A ticket that is not served yet.
    let (_, served) = w.view.catch_up(Duration::ZERO);
    assert!(!served && w.view.awaited());
    w.sleep();
    w.update(None);
    assert!(!w.view.awaited());
    for unsaved in [true, false] {
        w.unsaved = unsaved;
        w.view.stop();
        w.sleep();
    }
}

/// The directory of the checkpoints is gone, as when a disk is full: it is told, the index answers, and once there
/// is room again a checkpoint is written.
#[test]
fn a_checkpoint_that_cannot_be_written_is_told_and_tried_again() {
    let image = image();
    let beside = PathBuf::from(format!("{}.index", image.path().display()));
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), 100);
    let mut w = worker(&ImageOptions { raw: true, ..options(image.path()) }, dirty_log);
    w.update(None);
    std::fs::remove_dir_all(&beside).unwrap();
    w.checkpoint_every = Duration::ZERO;
    w.checkpoint(false);
    w.show(None);
    let shown = w.view.now();
    let why = shown.unwritten.unwrap();
    assert!(why.starts_with("no checkpoint can be written"), "{why}");
    assert_eq!(shown.problem, None, "searches are as good as ever");
    assert_eq!(shown.index.unwrap().stats().counts.vectors, 100);
    assert!(w.unsaved);
    w.checkpoint(false);
    assert!(w.unwritten.is_some());
    std::fs::create_dir(&beside).unwrap();
    w.checkpoint(false);
    w.show(None);
    let shown = w.view.now();
    assert!(shown.unwritten.is_none() && shown.index.unwrap().stats().generation.is_some());
    std::fs::remove_dir_all(&beside).unwrap();
}

#[test]
fn an_index_that_needs_memory_gets_a_checkpoint_before_it_is_due() {
    let image = image();
    let dirty_log = dirty_log();
    filled(image.path(), dirty_log.clone(), BATCH);
    for (memory, wanted) in [(1 << 30, false), (1 << 20, true)] {
        let mut w = plain(image.path(), dirty_log.clone());
        w.memory = memory;
        w.update(None);
        w.checkpoint(false);
        let index = w.view.now().index.unwrap();
        assert_eq!(index.stats().generation.is_some(), wanted, "{memory}");
    }
}

/// What was not read is in no checkpoint, so the last one does not say that it is whole.
#[test]
fn a_device_that_ends_in_the_midst_of_an_update_leaves_no_closed_checkpoint() {
    let image = image();
    let dirty_log = dirty_log();
    let (_, file) = filled(image.path(), dirty_log.clone(), 2 * BATCH);
    let mut w = plain(image.path(), dirty_log.clone());
    w.update(Some(Instant::now()));
    assert_eq!(w.view.now().pending, BATCH);
    w.checkpoint(true);
    assert!(!w.closed && length(&image) > BYTES);
    drop(w);
    let mut w = plain(image.path(), dirty_log);
    w.update(None);
    w.checkpoint(true);
    assert!(w.closed);
    let stats = w.view.now().index.unwrap().file_stats(file).unwrap();
    assert_eq!(stats.vectors, 2 * BATCH);
}

/// What the daemon leaves, `vexfs` uses, and the other way round.
#[test]
fn an_index_is_the_same_to_the_daemon_and_to_who_has_only_the_image() {
    use vexfs_search::ask::{Query, Search};
    use vexfs_search::unmounted::Unmounted;
    let image = image();
    let dirty_log = dirty_log();
    let (mounted, file) = filled(image.path(), dirty_log.clone(), 5000);
    drop(mounted);
    let unmounted = || {
        let file = std::fs::File::options().read(true).write(true).open(image.path()).unwrap();
        Unmounted::open(FileDevice::new(file).unwrap(), 1 << 30).unwrap()
    };
    let built = unmounted().build(&mut |_| {}).unwrap();
    assert_eq!((built.counts.vectors, built.counts.graphs), (5000, 1));

    let mut w = plain(image.path(), dirty_log.clone());
    w.recognise().unwrap();
    let (_, index) = w.tracker.as_ref().unwrap();
    let opened = index.stats();
    assert_eq!((opened.counts.vectors, opened.counts.graphs), (5000, 1), "before anything is read");
    assert_eq!(opened.generation, Some(built.generation));
    w.update(None);
    // A row changes while the daemon serves, and it ends.
    let mut mounted = Mounted::open(image.path(), BYTES, dirty_log);
    mounted.write(vexfs::Ino(file.0), 16 * 77, &floats([-5.0; 4]));
    mounted.commit();
    w.update(None);
    w.checkpoint(true);
    drop((w, mounted));

    let query = Query::Vector(vec![-5.0; 4]);
    let search = Search::nearest(query, 1);
    let answer = unmounted().search(vexfs::Ino(file.0), &search).unwrap();
    assert_eq!((answer.found.hits[0].slot, answer.found.hits[0].distance), (77, 0.0));
    assert!(answer.remarks.is_empty(), "{:?}", answer.remarks);
    let status = unmounted().status().unwrap();
    assert_eq!((status[0].rows, status[0].path.as_slice()), (5000, &b"corpus/a"[..]));
}

/// A file that is built again is found all the time, and has its graph again.
#[test]
fn rebuilding_keeps_everything_findable() {
    let image = image();
    let dirty_log = dirty_log();
    let (_, file) = filled(image.path(), dirty_log.clone(), 5000);
    let mut w = plain(image.path(), dirty_log);
    w.update(None);
    let index = w.view.now().index.unwrap();
    index.settle();
    let row = [40.0, 41.0, 42.0, 43.0];
    let found = || index.search(&[file], &row, 1, None, false).unwrap()[0].slot;
    w.view.rebuild([file.0].into());
    assert!(w.view.awaited());
    assert_eq!(found(), Slot(10));
    w.update(None);
    assert_eq!(found(), Slot(10));
    assert!(w.unsaved && !w.view.awaited());
    index.settle();
    let counts = index.stats().counts;
    assert_eq!((counts.vectors, counts.segments, counts.graphs), (5000, 1, 1), "{counts:?}");
    assert_eq!(found(), Slot(10));
}

/// How long it takes from the end of a commit until its rows are found; run it alone:
/// `cargo test -p vexfs-ublk from_a_commit -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn from_a_commit_to_the_answer() {
    use crate::control::query;
    use vexfs_search::ask::{Query, Search};
    use vexfs_search::rights::caller::Caller;
    use vexfs_search::rights::names::Top;
    const DIM: usize = 384;
    const ROWS: usize = 1000;
    const BYTES: u64 = 256 << 20;
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BYTES).unwrap();
    let dirty_log = Arc::new(DirtyLog::new(BYTES).unwrap());
    let mut mounted = Mounted::format(image.path(), BYTES, dirty_log.clone());
    let dir = mounted.corpus("corpus", "type=f32,dim=384,metric=l2,header=0");
    let file = mounted.create(dir, "a", 0o100_644);
    mounted.commit();
    let opened = Arc::new(Image::open(&options(image.path())).unwrap());
    let thread = IndexerThread::start(opened, dirty_log, None).unwrap();
    let caller = Caller::root();
    let mut times = Vec::new();
    for batch in 0..40 {
        let number = |i: usize| ((batch * ROWS * DIM + i) as f32 * 0.37).sin();
        let rows = floats((0..ROWS * DIM).map(number));
        mounted.write(file, (batch * ROWS * DIM * 4) as u64, &rows);
        mounted.commit();
        let last: Vec<f32> = (0..DIM).map(|i| number((ROWS - 1) * DIM + i)).collect();
        let search = Search::nearest(Query::Vector(last), 1);
        let top = Top { ino: file.0, readable: true };
        let begun = Instant::now();
        let found = query::search(thread.view(), &caller, top, &search).unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(found.hits[0].slot as usize, (batch + 1) * ROWS - 1);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "from a commit of {ROWS} rows of {DIM} to the answer, ms: median {:.1}, 90% {:.1}, most {:.1}",
        times[20], times[36], times[39]
    );
    thread.finish();
}
