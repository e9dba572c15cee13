// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The command window: the device's last bytes, past the filesystem, through which the kernel module asks for
//! searches (`ioctl(VEXFS_IOC_SEARCH)`).
//!
//! Invariant: nothing of it touches the image, and no queue waits for it. A read of a slot is answered within
//! [`WAIT`], if only with "not yet", so that no request of the device is held for longer; the queue meanwhile waits
//! for a descriptor of the read, in its ring, as it waits for the image. Searches run on threads of the window.
//!
//! `slots` is what the window holds, `layer` what a queue sees of it, `answer` turns a request into an answer.

mod answer;
mod layer;
mod slots;

pub use layer::WindowLayer;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::indexer::view::View;
use rustix::event::{EventfdFlags, eventfd};
use slots::{Found, Job, Slots};
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vexfs_format::window::{BYTES, PAGES_AT};
use vexfs_search::log_line;

/// Longest time that a read of a slot is held.
pub const WAIT: Duration = Duration::from_millis(250);
/// Searches that run at once; others wait.
const WORKERS: usize = 4;

/// The window of a device.
pub struct Window {
    state: Mutex<State>,
    /// Something for the workers to do.
    work: Condvar,
    /// Something for the clock to do.
    tick: Condvar,
}

struct State {
    slots: Slots,
    jobs: VecDeque<Job>,
    /// Somebody read the header: the UUID has to be read again.
    stale: bool,
    waiting: Vec<Waiting>,
    stopping: bool,
}

/// A read that is held.
struct Waiting {
    slot: usize,
    until: Instant,
    fd: Arc<OwnedFd>,
}

/// How a read of the window goes on.
pub enum Read {
    /// The buffer is filled.
    Filled,
    /// It is, once the descriptor can be read and [`Window::answer`] was called.
    Held(Held),
}

/// A read that the window holds.
pub struct Held {
    slot: usize,
    fd: Arc<OwnedFd>,
}

impl Held {
    /// Readable when the read can go on.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Window {
    /// A window of a device with that filesystem.
    #[must_use]
    pub fn new(uuid: [u8; 16]) -> Arc<Self> {
        // A number that no daemon before had is all that is needed, not a secret.
        let session = RandomState::new().build_hasher().finish().max(1);
        Arc::new(Self {
            state: Mutex::new(State {
                slots: Slots::new(session, uuid),
                jobs: VecDeque::new(),
                stale: false,
                waiting: Vec::new(),
                stopping: false,
            }),
            work: Condvar::new(),
            tick: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left whole messages: each is replaced in one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a write at an offset in the window; false if it is no part of a request.
    #[must_use]
    pub fn write(&self, offset: u64, data: &[u8]) -> bool {
        self.state().slots.write(offset, data)
    }

    /// Answers a read at an offset in the window, at once or soon.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Read {
        let now = Instant::now();
        let mut state = self.state();
        let found = state.slots.read(offset, buffer, now);
        if offset == PAGES_AT {
            state.stale = true;
            self.work.notify_one();
        }
        let Found::Pending(slot, job) = found else { return Read::Filled };
        if let Some(job) = job {
            state.jobs.push_back(job);
            self.work.notify_one();
        }
        let fd = match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
            Ok(fd) if !state.stopping => Arc::new(fd),
            // "Not yet" at once: the caller sleeps before it asks again.
            _ => {
                state.slots.answer(slot, buffer);
                return Read::Filled;
            }
        };
        state.waiting.push(Waiting { slot, until: now + WAIT, fd: fd.clone() });
        self.tick.notify_one();
        Read::Held(Held { slot, fd })
    }

    /// What the window holds at an offset, for a read that is not only the window's.
    pub fn look(&self, offset: u64, buffer: &mut [u8]) {
        self.state().slots.look(offset, buffer);
    }

    /// Ends a read that was held.
    pub fn answer(&self, held: &Held, buffer: &mut [u8]) {
        let mut state = self.state();
        state.waiting.retain(|waiting| !Arc::ptr_eq(&waiting.fd, &held.fd));
        state.slots.answer(held.slot, buffer);
    }

    /// Lets reads go on whose slot is answered, or whose time is up.
    fn release(state: &State, which: impl Fn(&Waiting) -> bool) {
        for waiting in state.waiting.iter().filter(|waiting| which(waiting)) {
            let _ = rustix::io::write(&*waiting.fd, &1u64.to_ne_bytes());
        }
    }

    /// Wakes reads when their time is up, and empties slots that nobody asks for, until the window is stopped.
    fn keep_time(&self) {
        let mut state = self.state();
        while !state.stopping {
            let now = Instant::now();
            Self::release(&state, |waiting| waiting.until <= now);
            state.waiting.retain(|waiting| waiting.until > now);
            state.slots.expire(now);
            let next = state.waiting.iter().map(|waiting| waiting.until).min();
            let wait = next.map_or(slots::LEASE, |next| next.saturating_duration_since(now));
            let waited = self.tick.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Self::release(&state, |_| true);
    }

    /// The next thing to do; `None` if the window is stopped.
    fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if state.stopping {
                return None;
            }
            if std::mem::take(&mut state.stale) {
                return Some(Work::Look);
            }
            match state.jobs.pop_front() {
                Some(job) if state.slots.wanted(job.slot, job.number) => {
                    return Some(Work::Search(job));
                }
                Some(_) => {}
                None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Does what there is to do, until the window is stopped.
    fn serve(&self, image: &Image, view: &View) {
        let session = self.state().slots.session();
        while let Some(work) = self.next() {
            match work {
                Work::Look => {
                    let uuid = answer::uuid(image);
                    self.state().slots.set_uuid(uuid);
                }
                Work::Search(job) => {
                    let answered = catch_unwind(AssertUnwindSafe(|| {
                        answer::answer(&job.request, session, |ask| ask.search(view))
                    }));
                    let bytes = answered.unwrap_or_else(|_| answer::failed(&job.request, session));
                    let mut state = self.state();
                    state.slots.put(job.slot, job.number, bytes, Instant::now());
                    Self::release(&state, |waiting| waiting.slot == job.slot);
                }
            }
        }
    }

    fn stop(&self) {
        self.state().stopping = true;
        self.work.notify_all();
        self.tick.notify_all();
    }
}

enum Work {
    Look,
    Search(Job),
}

/// The threads of a window.
pub struct WindowThreads {
    window: Arc<Window>,
    threads: Vec<JoinHandle<()>>,
}

impl WindowThreads {
    /// Starts to answer.
    pub fn start(window: Arc<Window>, image: &Arc<Image>, view: &Arc<View>) -> Result<Self> {
        let mut threads = Vec::new();
        let mut spawn = |name: &str, run: Box<dyn FnOnce() + Send>| -> Result<()> {
            let builder = std::thread::Builder::new().name(name.to_owned());
            let thread = builder.spawn(run);
            threads.push(thread.map_err(|source| Error::System { what: "thread", source })?);
            Ok(())
        };
        let own = window.clone();
        spawn("vexfs-window", Box::new(move || own.keep_time()))?;
        for _ in 0..WORKERS {
            let (own, image, view) = (window.clone(), image.clone(), view.clone());
            spawn("vexfs-answer", Box::new(move || own.serve(&image, &view)))?;
        }
        log_line!("the command window is open: {BYTES} bytes past the filesystem");
        Ok(Self { window, threads })
    }

    /// Ends them, after the queues have ended. A search that runs is not waited for: the process ends with it.
    pub fn finish(self) {
        self.window.stop();
        drop(self.threads);
    }
}

#[cfg(test)]
mod tests;
