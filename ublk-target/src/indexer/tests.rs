// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The indexer's thread on an image file: catching up, checkpoints, restarts, and a filesystem that
//! appears on a raw image.

use super::*;
use crate::options::ImageOptions;
use vexfs_index::Slot;
use vexfs_search::snapshot::Snapshot;
use vexfs_search::testing::{Mounted, floats};

const BYTES: u64 = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon {
    thread: IndexerThread,
    dirty_log: Arc<DirtyLog>,
}

impl Daemon {
    fn start(path: &std::path::Path, raw: bool) -> Self {
        let options = ImageOptions { path: path.to_owned(), raw, ..ImageOptions::default() };
        let image = Arc::new(Image::open(&options).unwrap());
        let dirty_log = Arc::new(DirtyLog::new(image.exposed_bytes()).unwrap());
        Self { thread: IndexerThread::start(image, dirty_log.clone(), None).unwrap(), dirty_log }
    }

    fn now(&self) -> Snapshot {
        let (snapshot, caught_up) = self.thread.view().catch_up(PATIENCE);
        assert!(caught_up);
        assert_eq!(snapshot.problem, None);
        snapshot
    }
}

fn image() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BYTES).unwrap();
    image
}

fn fill(mounted: &mut Mounted, rows: usize) -> u64 {
    let dir = mounted.corpus("corpus", "type=f32,dim=4,metric=l2,header=0");
    let file = mounted.create(dir, "a", 0o100_644);
    mounted.write(file, 0, &floats((0..rows * 4).map(|i| i as f32)));
    mounted.commit();
    file.0
}

#[test]
fn a_checkpoint_in_the_images_tail_survives_and_is_verified() {
    let image = image();
    let unused = Arc::new(DirtyLog::new(BYTES).unwrap());
    let file = fill(&mut Mounted::format(image.path(), BYTES, unused), 2000);

    let daemon = Daemon::start(image.path(), false);
    let snapshot = daemon.now();
    assert_eq!(snapshot.index.unwrap().stats().counts.vectors, 2000);
    daemon.thread.finish();
    assert!(image.as_file().metadata().unwrap().len() > BYTES, "the tail holds the checkpoint");

    // While no daemon runs, a row changes in place and rows are appended.
    let unused = Arc::new(DirtyLog::new(BYTES).unwrap());
    let mut mounted = Mounted::open(image.path(), BYTES, unused);
    mounted.write(vexfs::Ino(file), 16 * 100, &floats([9.0; 4]));
    mounted.write(vexfs::Ino(file), 16 * 2000, &floats([7.0; 400]));
    mounted.commit();

    let daemon = Daemon::start(image.path(), false);
    let index = daemon.now().index.unwrap();
    assert!(index.stats().generation.is_some(), "the checkpoint was loaded");
    assert_eq!(index.stats().counts.vectors, 2100);
    assert_eq!(index.get(FileId(file), Slot(100)).unwrap(), [9.0; 4]);
    assert_eq!(index.get(FileId(file), Slot(99)).unwrap(), [396.0, 397.0, 398.0, 399.0]);
    daemon.thread.finish();
}

#[test]
fn a_filesystem_that_is_made_on_a_raw_image_is_recognised_and_one_that_goes_is_forgotten() {
    let image = image();
    let daemon = Daemon::start(image.path(), true);
    assert!(daemon.now().index.is_none());
    let mut mounted = Mounted::format(image.path(), BYTES, daemon.dirty_log.clone());
    fill(&mut mounted, 100);
    let snapshot = daemon.now();
    assert_eq!(snapshot.index.unwrap().stats().counts.vectors, 100);
    assert_eq!((snapshot.generation, snapshot.files.len()), (mounted.volume.generation().0, 1));
    // Formatted again with the same UUID, empty.
    drop(mounted);
    let mounted = Mounted::format(image.path(), BYTES, daemon.dirty_log.clone());
    let snapshot = daemon.now();
    assert_eq!(snapshot.generation, mounted.volume.generation().0);
    assert_eq!(snapshot.index.unwrap().stats().counts.vectors, 0);
    // Overwritten by something else.
    std::os::unix::fs::FileExt::write_all_at(image.as_file(), &vec![0xee; 262_144], 0).unwrap();
    daemon.dirty_log.mark(0, 262_144, false);
    assert!(daemon.now().index.is_none());
    daemon.thread.finish();
    assert_eq!(image.as_file().metadata().unwrap().len(), BYTES, "a raw image keeps its length");
    let beside = format!("{}.index", image.path().display());
    std::fs::remove_dir_all(beside).unwrap();
}
