// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The follower's steps one by one, without its thread: when it looks, shows, saves, gives up and
//! begins again.

use super::testing::{Mounted, floats};
use super::*;
use crate::image::ImageOptions;
use std::os::unix::fs::FileExt;
use vexfs_index::{FileId, Slot};

const BYTES: u64 = 32 << 20;
const L2: &str = "type=f32,dim=4,metric=l2";
/// The follower reads a mebibyte of rows at a time.
const BATCH: u64 = 65_536;

fn image() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BYTES).unwrap();
    image
}

fn observer() -> Arc<DirtyLog> {
    Arc::new(DirtyLog::new(BYTES).unwrap())
}

/// A filesystem with so many rows in one file.
fn filled(path: &Path, observer: Arc<DirtyLog>, rows: u64) -> (Mounted, FileId) {
    let mut mounted = Mounted::format(path, BYTES, observer);
    let dir = mounted.corpus("corpus", L2);
    let file = mounted.create(dir, "a", 0o100_644);
    mounted.write(file, 0, &floats((0..rows * 4).map(|i| i as f32)));
    mounted.commit();
    (mounted, FileId(file.0))
}

fn worker(path: &Path, options: ImageOptions, observer: Arc<DirtyLog>) -> Worker {
    Worker::new(Arc::new(Image::open(path, options).unwrap()), observer).unwrap()
}

fn plain(path: &Path, observer: Arc<DirtyLog>) -> Worker {
    worker(path, ImageOptions::default(), observer)
}

fn length(image: &tempfile::NamedTempFile) -> u64 {
    image.as_file().metadata().unwrap().len()
}

#[test]
fn the_last_look_ends_in_time_and_a_stop_ends_any_other() {
    let image = image();
    let observer = observer();
    filled(image.path(), observer.clone(), 3 * BATCH);
    let mut w = plain(image.path(), observer.clone());
    w.look(Some(Instant::now()));
    let shown = w.view.now();
    assert!(shown.generation > 0 && shown.pending == 2 * BATCH, "{}", shown.pending);
    // A last look that has time goes on though it was told to stop.
    w.view.stop();
    w.look(Some(Instant::now() + Duration::from_secs(3600)));
    assert_eq!(w.view.now().pending, 0);
    drop(w);

    let mut w = plain(image.path(), observer);
    w.view.stop();
    w.look(None);
    assert_eq!(w.view.now().pending, 2 * BATCH);
}

/// Who asks for the state during a long catch-up is told how far it is.
#[test]
fn a_long_look_shows_how_far_it_is() {
    let image = image();
    let observer = observer();
    filled(image.path(), observer.clone(), 2 * BATCH);
    for (pause, shows) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let mut w = plain(image.path(), observer.clone());
        w.pause = pause;
        w.recognise().unwrap();
        w.follow(None).unwrap();
        assert_eq!(w.view.now().generation > 0, shows, "{pause:?}");
    }
}

#[test]
fn a_checkpoint_is_written_when_it_is_due_and_there_is_something_to_save() {
    let image = image();
    let observer = observer();
    filled(image.path(), observer.clone(), 100);
    let mut w = plain(image.path(), observer.clone());
    w.checkpoint(true);
    w.look(None);
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
    // Nothing new.
    let before = w.saved;
    w.look(None);
    w.checkpoint(true);
    assert!(w.saved == before && length(&image) == saved);
}

#[test]
fn an_image_that_may_not_be_written_is_followed_without_checkpoints() {
    let image = image();
    let observer = observer();
    filled(image.path(), observer.clone(), 100);
    let mut w = worker(
        image.path(),
        ImageOptions { read_only: true, ..ImageOptions::default() },
        observer.clone(),
    );
    w.look(None);
    w.checkpoint(true);
    assert_eq!((length(&image), w.unsaved), (BYTES, false));
    assert_eq!(w.view.now().index.unwrap().stats().counts.vectors, 100);
}

/// A superblock without a root is a problem, told once; what is repaired is followed.
#[test]
fn a_filesystem_that_cannot_be_read_is_tried_again() {
    let image = image();
    let observer = observer();
    filled(image.path(), observer.clone(), 100);
    let ring = vexfs_format::ROOT_RING_START * 4096;
    let mut roots = vec![0; (vexfs_format::ROOT_SLOTS * 4096) as usize];
    image.as_file().read_exact_at(&mut roots, ring).unwrap();
    image.as_file().write_all_at(&vec![0; roots.len()], ring).unwrap();
    let mut w = plain(image.path(), observer.clone());
    for _ in 0..2 {
        w.look(None);
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
    w.look(None);
    assert!(w.problem.is_some() && w.problem != no_root);
    for at in copies {
        let mut byte = [0];
        image.as_file().read_exact_at(&mut byte, at + 100).unwrap();
        image.as_file().write_all_at(&[byte[0] ^ 1], at + 100).unwrap();
    }
    image.as_file().write_all_at(&roots, ring).unwrap();
    w.look(None);
    assert_eq!(w.problem, None);
    assert_eq!(w.view.now().index.unwrap().stats().counts.vectors, 100);
    // Something else's: of an image that is not served raw that is a problem, not a change.
    image.as_file().write_all_at(&[0xee; 4096], 0).unwrap();
    w.look(None);
    assert!(w.problem.is_some());
}

/// Damage that no newer root excuses is shown, and over when it is repaired.
#[test]
fn a_damaged_tree_is_a_problem_until_it_is_repaired() {
    let image = image();
    let observer = observer();
    filled(image.path(), observer.clone(), 100);
    let tree = vexfs_format::BACKUP_FIRST * 4096 + 4096;
    let mut good = vec![0; 1 << 20];
    image.as_file().read_exact_at(&mut good, tree).unwrap();
    image.as_file().write_all_at(&vec![0xee; good.len()], tree).unwrap();
    let mut w = plain(image.path(), observer);
    w.look(None);
    assert!(w.problem.is_some() && w.view.now().problem == w.problem);
    image.as_file().write_all_at(&good, tree).unwrap();
    w.look(None);
    assert_eq!(
        (w.problem.clone(), w.view.now().index.unwrap().stats().counts.vectors),
        (None, 100)
    );
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_index_as_it_is() {
    let image = image();
    let observer = observer();
    filled(image.path(), observer.clone(), 100);
    let mut w =
        worker(image.path(), ImageOptions { raw: true, ..ImageOptions::default() }, observer);
    w.look(None);
    let beside = PathBuf::from(format!("{}.index", image.path().display()));
    std::fs::remove_dir_all(&beside).unwrap();
    w.checkpoint(true);
    assert!(!beside.exists());
    w.look(None);
    let shown = w.view.now();
    let stats = shown.index.unwrap().stats();
    assert_eq!((stats.counts.vectors, stats.generation, shown.problem), (100, None, None));
}

#[test]
fn a_damaged_checkpoint_costs_a_rebuild_and_nothing_else() {
    let image = image();
    let observer = observer();
    let (_, file) = filled(image.path(), observer.clone(), 100);
    let mut w = plain(image.path(), observer.clone());
    w.look(None);
    w.checkpoint(true);
    drop(w);
    // The rows, in the tail behind its two slots.
    let mut byte = [0];
    image.as_file().read_exact_at(&mut byte, BYTES + 8192 + 1000).unwrap();
    image.as_file().write_all_at(&[byte[0] ^ 1], BYTES + 8192 + 1000).unwrap();
    let mut w = plain(image.path(), observer);
    w.look(None);
    let shown = w.view.now();
    let index = shown.index.unwrap();
    assert_eq!(
        (index.stats().counts.vectors, index.stats().generation, shown.problem),
        (100, None, None)
    );
    assert_eq!(index.get(file, Slot(99)).unwrap(), [396.0, 397.0, 398.0, 399.0]);
}

/// The place for checkpoints is taken by something else: it is followed without.
#[test]
fn a_place_for_checkpoints_that_is_none_is_done_without() {
    let image = image();
    let beside = PathBuf::from(format!("{}.index", image.path().display()));
    std::fs::write(&beside, b"somebody's file").unwrap();
    let observer = observer();
    filled(image.path(), observer.clone(), 100);
    let mut w =
        worker(image.path(), ImageOptions { raw: true, ..ImageOptions::default() }, observer);
    w.look(None);
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

/// Nobody waits for a follower that sleeps: who asks, and a stop, wake it.
#[test]
fn a_call_ends_the_sleep() {
    let image = image();
    let observer = observer();
    filled(image.path(), observer.clone(), 10);
    let mut w = plain(image.path(), observer);
    w.pause = Duration::from_secs(3600);
    // Asked for, and not served yet.
    let (_, served) = w.view.catch_up(Duration::ZERO);
    assert!(!served && w.view.awaited());
    w.sleep();
    w.look(None);
    assert!(!w.view.awaited());
    for unsaved in [true, false] {
        w.unsaved = unsaved;
        w.view.stop();
        w.sleep();
    }
}
