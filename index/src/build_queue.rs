// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The queue of files that may have something to build, and the thread that builds it.
//!
//! One thread plans all builds and merges of an index, and does one at a time, on all processors. It holds
//! no lock while it builds, runs at a lower priority, and stops in the middle of a graph when it is told to.
//! A file that has no more to do waits until no file has; then what is left of it is merged if that is much
//! beside the whole. The rest is merged once the file has been left alone for a while: for so long that such
//! merges take no more than a small part of the time.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    error::IndexError,
    merge_policy::Moment,
    sync::{lock, read, write},
    vector_file::{Files, Limits, VectorFile},
};

/// A merge of an idle file comes after a pause of so many times what the last one took.
const IDLE_FACTOR: u32 = 20;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<u64>,
    /// The same files, so that none waits twice.
    queued: HashSet<u64>,
    /// Files that are at rest once none is waiting.
    resting: VecDeque<u64>,
    /// Files whose next job does not fit into the memory that is left.
    starved: Vec<u64>,
    idle: IdleFiles,
    /// Whether the thread is at work on a file.
    busy: bool,
}

/// Files that were left alone, and when each has been for long enough.
#[derive(Default)]
struct IdleFiles {
    due: HashMap<u64, Instant>,
    by_time: BTreeSet<(Instant, u64)>,
    /// What the last merge of an idle file took.
    took: HashMap<u64, Duration>,
}

impl IdleFiles {
    fn put(&mut self, file: u64, pause: Duration) {
        self.take(file);
        let pause = self.took.get(&file).map_or(pause, |took| pause.max(*took * IDLE_FACTOR));
        let due = Instant::now() + pause;
        self.due.insert(file, due);
        self.by_time.insert((due, file));
    }

    fn take(&mut self, file: u64) {
        if let Some(due) = self.due.remove(&file) {
            self.by_time.remove(&(due, file));
        }
    }

    /// A file that is due, or how long it is until one is.
    fn next(&mut self) -> Result<u64, Option<Duration>> {
        let (due, file) = self.by_time.first().copied().ok_or(None)?;
        match due.saturating_duration_since(Instant::now()) {
            Duration::ZERO => {
                self.take(file);
                Ok(file)
            }
            left => Err(Some(left)),
        }
    }
}

/// What the index and the build thread share.
pub(crate) struct BuildQueue {
    pub limits: Limits,
    /// How long a file is left alone before all of it is merged, at least.
    idle: Duration,
    stop: AtomicBool,
    queue: Mutex<Queue>,
    changed: Condvar,
    problem: Mutex<Option<String>>,
    /// Files with vectors that were found to be lost.
    pub lost: Mutex<BTreeSet<u64>>,
}

impl BuildQueue {
    pub(crate) fn new(limits: Limits, idle: Duration) -> Self {
        Self {
            limits,
            idle,
            stop: AtomicBool::new(false),
            queue: Mutex::default(),
            changed: Condvar::new(),
            problem: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Puts a file in the queue.
    pub(crate) fn push(&self, file: u64) {
        let mut queue = lock(&self.queue);
        queue.idle.take(file);
        if queue.queued.insert(file) {
            queue.waiting.push_back(file);
            self.changed.notify_all();
        }
    }

    /// Whether a job waits for memory.
    pub(crate) fn is_starved(&self) -> bool {
        !lock(&self.queue).starved.is_empty()
    }

    /// There may be more memory: puts the files back that wait for some.
    pub(crate) fn resume(&self) {
        let mut queue = lock(&self.queue);
        for file in std::mem::take(&mut queue.starved) {
            if queue.queued.insert(file) {
                queue.waiting.push_back(file);
            }
        }
        drop(queue);
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        // Set under the lock: the thread has not checked it yet, or is waiting to be notified.
        let queue = lock(&self.queue);
        self.stop.store(true, Ordering::Relaxed);
        drop(queue);
        self.changed.notify_all();
    }

    /// Whether a graph is built, or may be once a file was left alone for a while.
    pub(crate) fn building(&self) -> bool {
        let queue = lock(&self.queue);
        queue.busy
            || !queue.waiting.is_empty()
            || !queue.resting.is_empty()
            || !queue.idle.due.is_empty()
    }

    pub(crate) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }

    /// Waits until nothing is left to build; false if the time is up or the thread was stopped.
    pub(crate) fn settle(&self, limit: Option<Duration>) -> bool {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut queue = lock(&self.queue);
        let idle = |queue: &Queue| self.idle.is_zero() && !queue.idle.due.is_empty();
        while queue.busy || !queue.waiting.is_empty() || !queue.resting.is_empty() || idle(&queue) {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = match deadline {
                None => Duration::from_secs(3600),
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return false;
            }
            (queue, _) =
                self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// What the build thread runs, until it is told to stop.
    pub(crate) fn run(&self, files: &RwLock<Files>, nice: i32) {
        if nice != 0 {
            // If it is refused, the work is done at the normal priority.
            let _ = rustix::process::nice(nice);
        }
        while let Some((id, moment)) = self.next() {
            let file = read(files).get(&id).map(Arc::clone);
            let begun = Instant::now();
            let outcome =
                file.map_or(Outcome::Dropped, |file| self.build(files, id, &file, moment));
            let mut queue = lock(&self.queue);
            queue.busy = false;
            match (outcome, moment) {
                (Outcome::Done, _) => {
                    if moment == Moment::Idle {
                        queue.idle.took.insert(id, begun.elapsed());
                    }
                    if queue.queued.insert(id) {
                        queue.waiting.push_back(id);
                    }
                }
                (Outcome::Nothing, Moment::Busy) if !queue.resting.contains(&id) => {
                    queue.resting.push_back(id);
                }
                (Outcome::Later, _) if !queue.queued.contains(&id) => {
                    queue.idle.put(id, self.idle);
                }
                (Outcome::Starved, _) if !queue.starved.contains(&id) => queue.starved.push(id),
                (Outcome::Dropped, _) => {
                    queue.idle.took.remove(&id);
                }
                (Outcome::Nothing | Outcome::Later | Outcome::Starved, _) => {}
            }
            drop(queue);
            self.changed.notify_all();
        }
    }

    /// The next file, and what is to be done of it; `None` if the thread is to end.
    fn next(&self) -> Option<(u64, Moment)> {
        let mut queue = lock(&self.queue);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(id) = queue.waiting.pop_front() {
                queue.queued.remove(&id);
                queue.busy = true;
                return Some((id, Moment::Busy));
            }
            if let Some(id) = queue.resting.pop_front() {
                queue.busy = true;
                return Some((id, Moment::Rest));
            }
            let pause = match queue.idle.next() {
                Ok(id) => {
                    queue.busy = true;
                    return Some((id, Moment::Idle));
                }
                Err(pause) => pause.unwrap_or(Duration::MAX),
            };
            (queue, _) =
                self.changed.wait_timeout(queue, pause).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does one job of a file.
    fn build(
        &self,
        files: &RwLock<Files>,
        id: u64,
        file: &RwLock<VectorFile>,
        moment: Moment,
    ) -> Outcome {
        let Some(job) = write(file).plan(self.limits, moment) else {
            let later = moment == Moment::Rest && read(file).has_work(self.limits);
            return if later { Outcome::Later } else { Outcome::Nothing };
        };
        let (cost, memory) = (job.cost(), self.limits.memory);
        if cost > memory / 2 {
            job.give_up();
            *lock(&self.problem) = Some(format!(
                "a graph needs {cost} bytes, more than half of the {memory} that the index may use: its vectors are scanned; give it more with --index-memory"
            ));
            return Outcome::Done;
        }
        // An eighth is left for what comes meanwhile.
        if used(files).saturating_add(cost) > memory - memory / 8 {
            return Outcome::Starved;
        }
        match job.run(&self.stop) {
            Ok(None) => Outcome::Done,
            Ok(Some(segment)) => {
                write(file).replace(&job, segment);
                Outcome::Done
            }
            Err(IndexError::Stopped) => Outcome::Dropped,
            // Whoever feeds the index supplies its vectors again, or removes them; then it is in the queue.
            Err(IndexError::Damaged(_)) => {
                lock(&self.lost).insert(id);
                Outcome::Dropped
            }
            Err(error) => {
                job.give_up();
                *lock(&self.problem) = Some(error.to_string());
                Outcome::Done
            }
        }
    }
}

/// Bytes of memory that all files use.
fn used(files: &RwLock<Files>) -> u64 {
    let files: Vec<_> = read(files).values().map(Arc::clone).collect();
    files.iter().map(|file| read(file).counts().bytes).sum()
}

/// What came of looking at a file.
enum Outcome {
    /// A job was done: there may be another.
    Done,
    /// There was no job.
    Nothing,
    /// There is a job, and not enough memory for it until the next checkpoint.
    Starved,
    /// There will be one if the file is left alone.
    Later,
    /// The file is gone, or the index is closed.
    Dropped,
}
