// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Keeps the index of the vectors up to date with the filesystem on the image, in a thread of its own.
//!
//! It sleeps until the queues report a commit or a flushed overwrite, or until somebody asks for
//! everything so far; then it reads what changed and feeds the index. It reads the image like any
//! other reader, so a queue never waits for it, and it may always be behind; [`view::View`] says how
//! far. It notices a filesystem that is made on the device while the device is served, and drops the
//! index of one that is gone.

pub mod view;

use crate::error::{Error, Result};
use crate::image::Image;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vexfs_image::{Access, FileDevice};
use vexfs_index::{DirStore, FileId, Index, IndexError, Options, Store, TailStore};
use vexfs_search::corpus::tracker::Tracker;
use vexfs_search::dirty_log::DirtyLog;
use vexfs_search::log_line;
use vexfs_search::rights::names::Names;
use vexfs_search::snapshot::Snapshot;
use vexfs_search::unmounted::TAIL_ALIGN;
use view::View;

/// Shortest time between two updates that nobody waits for, because commits come in bursts.
const PAUSE: Duration = Duration::from_millis(100);
/// Time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);
/// Time for the last update, of a device that is stopped.
const LAST_UPDATE: Duration = Duration::from_secs(10);
/// How often it is looked whether the index wants a checkpoint, while it has something to save.
const SAVE_TICK: Duration = Duration::from_secs(1);

/// The running indexer.
pub struct IndexerThread {
    view: Arc<View>,
    thread: JoinHandle<()>,
}

impl IndexerThread {
    /// Starts it.
    pub fn start(image: Arc<Image>, dirty_log: Arc<DirtyLog>, memory: Option<u64>) -> Result<Self> {
        let mut worker = Worker::new(image, dirty_log)?;
        worker.memory = memory.unwrap_or(worker.memory);
        let view = worker.view.clone();
        let thread = std::thread::Builder::new()
            .name("vexfs-indexer".into())
            .spawn(move || worker.run())
            .map_err(|source| Error::System { what: "thread", source })?;
        Ok(Self { view, thread })
    }

    /// Its state as others see it.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Lets it update the index once more, write a checkpoint, and end.
    pub fn finish(self) {
        self.view.stop();
        let _ = self.thread.join();
    }
}

struct Worker {
    image: Arc<Image>,
    dirty_log: Arc<DirtyLog>,
    view: Arc<View>,
    reader: FileDevice,
    tracker: Option<(Tracker<FileDevice>, Arc<Index>)>,
    names: Option<Arc<Names>>,
    /// UUID and checksum of the superblock: with an old UUID, `mkfs` still makes another filesystem.
    identity: Option<([u8; 16], u32)>,
    problem: Option<String>,
    /// The index holds something that is in no checkpoint.
    unsaved: bool,
    /// When the last checkpoint was written.
    saved: Instant,
    pause: Duration,
    checkpoint_every: Duration,
    /// Bytes of memory for the index.
    memory: u64,
    /// Why the newest checkpoint was not written, if it was not.
    unwritten: Option<String>,
    /// The newest checkpoint says that it is the last.
    closed: bool,
}

impl Worker {
    fn new(image: Arc<Image>, dirty_log: Arc<DirtyLog>) -> Result<Self> {
        let system = |what| move |source| Error::System { what, source };
        let view = Arc::new(View::new().map_err(system("eventfd"))?);
        let reader = image.reader().map_err(system("image"))?;
        Ok(Self {
            image,
            dirty_log,
            view,
            reader,
            tracker: None,
            names: None,
            identity: None,
            problem: None,
            unsaved: false,
            saved: Instant::now(),
            pause: PAUSE,
            checkpoint_every: CHECKPOINT_EVERY,
            memory: Options::default().memory,
            unwritten: None,
            closed: false,
        })
    }

    fn run(mut self) {
        while !self.view.stopping() {
            self.update(None);
            self.checkpoint(false);
            self.sleep();
        }
        self.update(Some(Instant::now() + LAST_UPDATE));
        self.checkpoint(true);
    }

    /// Sleeps until there is something to read. Returns at once if somebody asks for an update, and otherwise
    /// not before the pause is over.
    fn sleep(&self) {
        if self.view.awaited() {
            return;
        }
        let pause = Timespec::try_from(self.pause).ok();
        let _ = poll(
            &mut [PollFd::from_borrowed_fd(self.view.urgent_fd(), PollFlags::IN)],
            pause.as_ref(),
        );
        let wait = if self.unsaved {
            self.checkpoint_every.min(SAVE_TICK)
        } else {
            Duration::from_secs(3600)
        };
        let wait = Timespec::try_from(wait).ok();
        let mut fds = [
            PollFd::from_borrowed_fd(self.view.urgent_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.dirty_log.wake_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, wait.as_ref());
    }

    /// Updates the index until there is nothing new to read, or until the given time.
    fn update(&mut self, until: Option<Instant>) {
        self.view.rearm();
        self.dirty_log.rearm();
        let ticket = self.view.newest_ticket();
        let outcome = self.recognise().and_then(|()| self.run_cycles(until));
        if let Err(problem) = &outcome
            && self.problem.as_ref() != Some(problem)
        {
            log_line!("indexer: {problem}");
        }
        self.problem = outcome.err();
        self.show(Some(ticket));
    }

    /// Lets the tracker work until there is nothing left to read, the time is over, or the indexer is asked to
    /// finish.
    fn run_cycles(&mut self, until: Option<Instant>) -> std::result::Result<(), String> {
        let mut shown = Instant::now();
        if let Some((tracker, index)) = &mut self.tracker {
            for file in self.view.take_rebuilt() {
                // Its vectors stay where they are and are compared: it is searched all the time.
                index.rebuild(FileId(file));
                tracker.ask(file, 0..u64::MAX);
                self.unsaved = true;
            }
        }
        loop {
            let Some((tracker, index)) = &mut self.tracker else { return Ok(()) };
            let before = tracker.generation();
            let more = tracker.cycle().map_err(|e| e.to_string())?;
            for problem in index.problems() {
                log_line!("indexer: {problem}");
            }
            self.unsaved |= more || before != tracker.generation();
            if !more {
                return Ok(());
            }
            self.checkpoint(false);
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

    /// Publishes the state; with `ticket`, everything up to that ticket is in the index.
    fn show(&self, ticket: Option<u64>) {
        let mut snapshot = Snapshot {
            problem: self.problem.clone(),
            unwritten: self.unwritten.clone(),
            ..Snapshot::default()
        };
        if let Some((tracker, index)) = &self.tracker {
            snapshot.index = Some(index.clone());
            snapshot.names.clone_from(&self.names);
            snapshot.generation = tracker.generation();
            snapshot.roots = tracker.roots();
            snapshot.pending = tracker.pending();
            snapshot.files = Arc::new(tracker.files().collect());
        } else {
            snapshot.roots = self.dirty_log.root_writes();
        }
        self.view.show(snapshot, ticket);
    }

    /// Makes sure that the filesystem on the image is the one whose vectors are indexed.
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
            log_line!("indexer: {problem}: the index is built again");
        }
        let index = Arc::new(index);
        let tracker = Tracker::open(self.reader.clone(), index.clone(), self.dirty_log.clone())
            .map_err(|e| e.to_string())?;
        let names = Names::open(self.reader.clone()).map_err(|e| e.to_string())?;
        self.names = Some(Arc::new(names.watching(tracker.sidecars())));
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
                log_line!("indexer: no place for checkpoints: {e}");
                None
            }
        };
        let memory = self.memory;
        Index::open(store, Options { owner: uuid, memory, ..Options::default() })
    }

    /// The store for checkpoints: in the image behind the device or, if that is not possible, beside it.
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
        let file = image.reopen(Access::Write).map_err(|e| e.to_string())?;
        let start = image.exposed_bytes().next_multiple_of(TAIL_ALIGN);
        let store = TailStore::open(file, start, None).map_err(|e| e.to_string())?;
        Ok(Some(Box::new(store)))
    }

    /// Writes a checkpoint if there is something to save and it is time, the index wants one to bound its memory,
    /// or this is the last one. One that fails is tried again at the next time.
    fn checkpoint(&mut self, last: bool) {
        let Some((tracker, index)) = &self.tracker else { return };
        let due = last || self.saved.elapsed() >= self.checkpoint_every;
        let wanted = self.unwritten.is_none() && index.wants_checkpoint();
        let closes = last && (self.unsaved || !self.closed) && tracker.pending() == 0;
        if !(self.unsaved || closes) || !(due || wanted) || self.problem.is_some() {
            return;
        }
        let written = if closes { tracker.close() } else { tracker.checkpoint() };
        let before = self.unwritten.take();
        match written {
            Ok(()) | Err(IndexError::NoStore) => {}
            Err(e) => {
                let why = format!(
                    "no checkpoint can be written: {e}: the index is read again when its device is next added"
                );
                if before.is_none() {
                    log_line!("indexer: {why}");
                }
                self.unwritten = Some(why);
            }
        }
        self.closed = closes && self.unwritten.is_none();
        // Once all vectors are in graphs, another checkpoint is worth its while.
        self.unsaved = self.unwritten.is_some() || index.stats().building;
        self.saved = Instant::now();
    }
}

/// The directory for the checkpoints of an image that has no room for them: a block device ends where
/// its filesystem does, and a raw image must keep its length.
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
mod tests;
#[cfg(test)]
mod worker_tests;
