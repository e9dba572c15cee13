// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From what is written to what is searched: the follower's thread.
//!
//! It sleeps until the queues report a commit or a flushed overwrite, or until somebody asks;
//! then it looks at the image and feeds the index. It reads the image like any other reader, so
//! a queue never waits for it, and it may always be behind: [`view::View`] says how far. A
//! filesystem that is made on the device while it is served is recognised, one that is gone is
//! forgotten.

pub mod header;
pub mod reader;
pub mod slots;
#[cfg(test)]
mod testing;
pub mod tracker;
pub mod view;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::log_line;
use crate::observe::DirtyLog;
use reader::ImageReader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracker::Tracker;
use vexfs_index::{DirStore, Index, IndexError, Options, Store, TailStore};
use view::{Snapshot, View};

/// Shortest time between two looks that nobody waits for: commits come in bursts.
const PAUSE: Duration = Duration::from_millis(100);
/// Time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);
/// Time that the last look at a stopped device may take.
const LAST_LOOK: Duration = Duration::from_secs(10);
/// Alignment of the checkpoints' place in the image.
const TAIL_ALIGN: u64 = 4096;

/// The running follower.
pub struct FollowThread {
    view: Arc<View>,
    thread: JoinHandle<()>,
}

impl FollowThread {
    /// Starts it.
    pub fn start(image: Arc<Image>, observer: Arc<DirtyLog>) -> Result<Self> {
        let worker = Worker::new(image, observer)?;
        let view = worker.view.clone();
        let thread = std::thread::Builder::new()
            .name("vexfs-follow".into())
            .spawn(move || worker.run())
            .map_err(|source| Error::System { what: "thread", source })?;
        Ok(Self { view, thread })
    }

    /// What it shows.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Lets it look once more, save a checkpoint, and end.
    pub fn finish(self) {
        self.view.stop();
        let _ = self.thread.join();
    }
}

struct Worker {
    image: Arc<Image>,
    observer: Arc<DirtyLog>,
    view: Arc<View>,
    reader: ImageReader,
    tracker: Option<(Tracker<ImageReader>, Arc<Index>)>,
    /// UUID and checksum of the superblock: `mkfs` with an old UUID makes another filesystem.
    identity: Option<([u8; 16], u32)>,
    problem: Option<String>,
    unsaved: bool,
    saved: Instant,
    pause: Duration,
    checkpoint_every: Duration,
}

impl Worker {
    fn new(image: Arc<Image>, observer: Arc<DirtyLog>) -> Result<Self> {
        let system = |what| move |source| Error::System { what, source };
        let view = Arc::new(View::new().map_err(system("eventfd"))?);
        let file = image.open_reader().map_err(system("image"))?;
        let reader = ImageReader::new(file, image.exposed_bytes());
        Ok(Self {
            image,
            observer,
            view,
            reader,
            tracker: None,
            identity: None,
            problem: None,
            unsaved: false,
            saved: Instant::now(),
            pause: PAUSE,
            checkpoint_every: CHECKPOINT_EVERY,
        })
    }

    fn run(mut self) {
        while !self.view.stopping() {
            self.look(None);
            self.checkpoint(false);
            self.sleep();
        }
        self.look(Some(Instant::now() + LAST_LOOK));
        self.checkpoint(true);
    }

    /// Waits for something to look at: at once if somebody asks, else not too often.
    fn sleep(&self) {
        if self.view.awaited() {
            return;
        }
        let pause = Timespec::try_from(self.pause).ok();
        let _ = poll(
            &mut [PollFd::from_borrowed_fd(self.view.urgent_fd(), PollFlags::IN)],
            pause.as_ref(),
        );
        let wait = if self.unsaved { self.checkpoint_every } else { Duration::from_secs(3600) };
        let wait = Timespec::try_from(wait).ok();
        let mut fds = [
            PollFd::from_borrowed_fd(self.view.urgent_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.observer.wake_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, wait.as_ref());
    }

    /// Looks at the image until there is nothing new to read, or until then.
    fn look(&mut self, until: Option<Instant>) {
        self.view.rearm();
        self.observer.rearm();
        let ticket = self.view.newest_ticket();
        let outcome = self.recognise().and_then(|()| self.follow(until));
        if let Err(problem) = &outcome
            && self.problem.as_ref() != Some(problem)
        {
            log_line!("follower: {problem}");
        }
        self.problem = outcome.err();
        self.show(Some(ticket));
    }

    fn follow(&mut self, until: Option<Instant>) -> std::result::Result<(), String> {
        let mut shown = Instant::now();
        loop {
            let Some((tracker, _)) = &mut self.tracker else { return Ok(()) };
            let before = (tracker.generation(), tracker.pending());
            let more = tracker.cycle().map_err(|e| e.to_string())?;
            self.unsaved |= more || before.0 != tracker.generation();
            if !more {
                return Ok(());
            }
            if until.is_some_and(|until| Instant::now() >= until)
                || (until.is_none() && self.view.stopping())
            {
                return Ok(());
            }
            if shown.elapsed() > self.pause {
                self.show(None);
                shown = Instant::now();
            }
        }
    }

    fn show(&self, ticket: Option<u64>) {
        let mut snapshot = Snapshot { problem: self.problem.clone(), ..Snapshot::default() };
        if let Some((tracker, index)) = &self.tracker {
            snapshot.index = Some(index.clone());
            snapshot.generation = tracker.generation();
            snapshot.roots = tracker.roots();
            snapshot.pending = tracker.pending();
            snapshot.files = Arc::new(tracker.files().collect());
        } else {
            snapshot.roots = self.observer.root_writes();
        }
        self.view.show(snapshot, ticket);
    }

    /// Sees to it that the filesystem that is there now is the one that is followed.
    fn recognise(&mut self) -> std::result::Result<(), String> {
        let found = match vexfs::read_superblock(&self.reader) {
            Ok(superblock) => Some((superblock.uuid, superblock.crc.get())),
            Err(vexfs::Error::NotVexfs) if self.image.raw() => None,
            Err(e) => return Err(e.to_string()),
        };
        if found == self.identity && (found.is_none() || self.tracker.is_some()) {
            return Ok(());
        }
        self.tracker = None;
        self.identity = found;
        let Some((uuid, _)) = found else { return Ok(()) };
        let (index, recovered) = match self.open_index(uuid) {
            Ok(opened) => opened,
            Err(e) => return Err(format!("the index cannot be opened: {e}")),
        };
        for problem in &recovered.problems {
            log_line!("follower: index: {problem}: it is built again");
        }
        let index = Arc::new(index);
        let tracker = Tracker::open(self.reader.clone(), index.clone(), self.observer.clone())
            .map_err(|e| e.to_string())?;
        self.tracker = Some((tracker, index));
        Ok(())
    }

    fn open_index(
        &self,
        uuid: [u8; 16],
    ) -> std::result::Result<(Index, vexfs_index::Recovered), IndexError> {
        let store = match self.open_store(uuid) {
            Ok(store) => store,
            Err(e) => {
                log_line!("follower: no place for checkpoints: {e}");
                None
            }
        };
        Index::open(store, Options { owner: uuid, ..Options::default() })
    }

    /// Checkpoints lie in the image past the device, or, where that is not possible, beside it.
    fn open_store(&self, uuid: [u8; 16]) -> std::result::Result<Option<Box<dyn Store>>, String> {
        let image = &*self.image;
        if image.read_only() {
            return Ok(None);
        }
        if let Some(path) = directory(image.path(), image.block_device(), image.raw(), uuid) {
            let parent = path.parent().unwrap_or(&path);
            std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
            let store = DirStore::open(&path).map_err(|e| e.to_string())?;
            return Ok(Some(Box::new(store)));
        }
        let file = image.open_writer().map_err(|e| e.to_string())?;
        let start = image.exposed_bytes().next_multiple_of(TAIL_ALIGN);
        let store = TailStore::open(file, start, None).map_err(|e| e.to_string())?;
        Ok(Some(Box::new(store)))
    }

    fn checkpoint(&mut self, last: bool) {
        let due = last || self.saved.elapsed() >= self.checkpoint_every;
        let Some((tracker, index)) = &self.tracker else { return };
        if !self.unsaved || !due || self.problem.is_some() {
            return;
        }
        match tracker.checkpoint() {
            Ok(()) | Err(IndexError::NoStore) => {}
            Err(e) => log_line!("follower: checkpoint: {e}: the index is built again next time"),
        }
        // What is not in a graph yet is worth another checkpoint later.
        self.unsaved = index.stats().building;
        self.saved = Instant::now();
    }
}

/// Where the checkpoints of an image lie that has no room for them: a block device ends where its
/// filesystem does, and a raw image keeps its length.
fn directory(image: &Path, block_device: bool, raw: bool, uuid: [u8; 16]) -> Option<PathBuf> {
    if block_device {
        let name = format!("{:032x}", u128::from_be_bytes(uuid));
        return Some(PathBuf::from("/var/lib/vexfs").join(name));
    }
    if !raw {
        return None;
    }
    let mut name = image.as_os_str().to_owned();
    name.push(".index");
    Some(name.into())
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod worker_tests;
