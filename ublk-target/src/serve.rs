// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's life: from a device that was created to one that is gone.
//!
//! The main thread only waits: for a signal, for the end of the queues, and once a second to check that
//! the image is still there. It never reads or writes the device it serves: it would wait for itself.

use crate::control::answer::Sources;
use crate::control::service::ControlThread;
use crate::daemon::{self, Reporter};
use crate::device::command::{Control, DeviceInfo};
use crate::device::{self, Served};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::indexer::IndexerThread;
use crate::lab::Lab;
use crate::options::Options;
use crate::state::{DeviceState, RunDir, process_start};
use crate::window::{Window, WindowThreads};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vexfs_image::Access;
use vexfs_search::dirty_log::DirtyLog;
use vexfs_search::log_line;

/// Time for a daemon to end once its device is stopped; it writes a checkpoint of its index.
const END_DEADLINE: Duration = Duration::from_secs(120);

/// Serves in this process until the device goes away.
pub fn run(job: &Job<'_>, image: Image, reporter: &mut Reporter) -> Result<()> {
    let mut control = Control::open()?;
    let info = match job.task {
        Task::Add(id) => device::add(&mut control, id, job.options)?,
        Task::Recover { id, .. } => control.info(id)?,
    };
    let running = match prepare(job, image, control, &info, reporter) {
        Ok(running) => running,
        Err(error) => {
            if matches!(job.task, Task::Add(_)) {
                abandon(info.id, job.run_dir);
            }
            return Err(error);
        }
    };
    reporter.ready();
    if job.foreground {
        println!("{}", device::block_path(info.id).display());
    }
    running.wait(job.run_dir)
}

/// What a daemon is started for.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// How the device is served.
    pub options: &'a Options,
    /// Where its files are.
    pub run_dir: &'a RunDir,
    /// What is to be done first.
    pub task: Task,
    /// Whether this process keeps its terminal.
    pub foreground: bool,
}

/// What a daemon does first.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Create a device; with this number, if one is given.
    Add(Option<u32>),
    /// Take over a device whose daemon died.
    Recover {
        /// Its number.
        id: u32,
        /// The daemon died while its queues were starting: see [`DeviceState::fetching`].
        begun: bool,
    },
}

struct Running {
    served: Served,
    indexer: IndexerThread,
    control: ControlThread,
    window: Option<WindowThreads>,
    lab: Option<Arc<Lab>>,
    image: Arc<Image>,
    signals: OwnedFd,
    queue_end: Arc<OwnedFd>,
    foreground: bool,
}

/// The user who owns the image.
fn owner(path: &Path) -> Result<u32> {
    let meta =
        std::fs::metadata(path).map_err(|source| Error::Image { path: path.to_owned(), source })?;
    Ok(meta.uid())
}

fn prepare(
    job: &Job<'_>,
    image: Image,
    control: Control,
    info: &DeviceInfo,
    reporter: &mut Reporter,
) -> Result<Running> {
    let Job { options, run_dir, task, foreground } = *job;
    let id = info.id;
    run_dir.create()?;
    let log = run_dir.log(id);
    if !foreground {
        daemon::detach(&log, matches!(task, Task::Add(_)))?;
    }
    reporter.id(id);
    let mut state = DeviceState {
        id,
        pid: std::process::id(),
        started: process_start(std::process::id()).unwrap_or(0),
        bytes: image.exposed_bytes(),
        log,
        socket: run_dir.socket(id),
        fetching: false,
        options: options.clone(),
    };
    run_dir.save(&state)?;
    become_flusher();
    let signals = block_signals()?;
    let image = Arc::new(image);
    let dirty_log = Arc::new(
        DirtyLog::new(image.exposed_bytes())
            .map_err(|source| Error::System { what: "eventfd", source })?,
    );
    let queue_end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|e| Error::System { what: "eventfd", source: e.into() })?;
    let queue_end = Arc::new(queue_end);
    let ended = queue_end.clone();
    let on_end = move || {
        let _ = rustix::io::write(&*ended, &1u64.to_ne_bytes());
    };
    let lab = lab(options, &image, &dirty_log)?;
    let window = options.window.then(|| Window::new(image.uuid()));
    let host = device::Host {
        image: &image,
        dirty_log: &dirty_log,
        lab: lab.as_ref(),
        window: window.as_ref(),
    };
    let begun = matches!(task, Task::Recover { begun: true, .. });
    let mut fetching = |fetching| {
        state.fetching = fetching && info.queues > 1;
        run_dir.save(&state)
    };
    let served = device::start(control, info, host, begun, &mut fetching, on_end)?;
    let indexer = IndexerThread::start(image.clone(), dirty_log.clone(), options.index_memory)?;
    let window =
        window.map(|window| WindowThreads::start(window, &image, indexer.view())).transpose()?;
    let sources = Sources {
        view: indexer.view().clone(),
        dirty_log,
        queues: served.stats().to_vec(),
        started: Instant::now(),
        lab: lab.clone(),
        owner: owner(image.path())?,
        device: Box::new(move || device::block_number(id)),
    };
    let control = ControlThread::start(&state.socket, sources)?;
    log_line!(
        "device {id}: serving {} ({} bytes, {} queues of {}, {})",
        image.path().display(),
        image.exposed_bytes(),
        info.queues,
        info.depth,
        if image.direct() { "direct" } else { "buffered" }
    );
    Ok(Running { served, indexer, control, window, lab, image, signals, queue_end, foreground })
}

/// The crash lab, if the options ask for it.
fn lab(options: &Options, image: &Image, dirty_log: &Arc<DirtyLog>) -> Result<Option<Arc<Lab>>> {
    if !options.crash_model {
        return Ok(None);
    }
    let failed = |source| Error::Image { path: image.path().to_owned(), source };
    let access = if image.read_only() { Access::Read } else { Access::Write };
    let file = image.reopen(access).map_err(failed)?;
    let record = options.record.as_deref();
    let lab = Lab::new(file, image.exposed_bytes(), record, dirty_log.clone());
    let path = || options.record.clone().unwrap_or_default();
    lab.map(|lab| Some(Arc::new(lab))).map_err(|source| Error::Image { path: path(), source })
}

impl Running {
    fn wait(mut self, run_dir: &RunDir) -> Result<()> {
        let id = self.served.id();
        let mut stopped_by_signal = false;
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        while !self.served.ended() {
            let mut fds = [
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::from_borrowed_fd(self.queue_end.as_fd(), PollFlags::IN),
            ];
            let _ = poll(&mut fds, Some(&second));
            let signalled = fds[0].revents().contains(PollFlags::IN);
            let _ = rustix::io::read(&*self.queue_end, &mut [0u8; 8]);
            if let Some(why) = self.image.check_identity() {
                log_line!("{why}");
            }
            if signalled && !stopped_by_signal {
                let _ = rustix::io::read(&self.signals, &mut [0u8; 128]);
                stopped_by_signal = self.stop_on_signal(id);
            }
        }
        let mut control = self.served.close();
        if let Some(window) = self.window {
            window.finish();
        }
        self.indexer.finish();
        self.control.finish();
        if let Some(lab) = &self.lab {
            lab.finish();
        }
        if stopped_by_signal {
            control.delete(id)?;
            run_dir.remove(id);
        }
        log_line!("device {id}: ended");
        Ok(())
    }

    fn stop_on_signal(&mut self, id: u32) -> bool {
        if in_use(id) {
            let error = Error::Busy(id);
            log_line!("not stopped: {error}");
            if self.foreground {
                eprintln!("vexfs-ublk: not stopped: {error}");
            }
            return false;
        }
        log_line!("device {id}: stopping on a signal");
        match self.served.stop() {
            Ok(()) => true,
            Err(e) => {
                log_line!("{e}");
                false
            }
        }
    }
}

/// Whether somebody has the device mounted or open exclusively.
#[must_use]
pub fn in_use(id: u32) -> bool {
    let opened = File::options().read(true).custom_flags(libc::O_EXCL).open(device::block_path(id));
    opened.is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY))
}

/// Removes a device whose start failed.
fn abandon(id: u32, run_dir: &RunDir) {
    let cleaned = (|| {
        let mut control = Control::open()?;
        // This also ends the queues of a device that never started.
        control.stop(id)?;
        control.delete(id)
    })();
    if let Err(e) = cleaned {
        log_line!("device {id} could not be removed: {e}");
    }
    run_dir.remove(id);
}

/// Waits until a stopped device's daemon has ended; false if it does not in time.
pub fn wait_for_end(state: &DeviceState) -> bool {
    let deadline = Instant::now() + END_DEADLINE;
    while state.daemon_runs() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// From the kernel's `linux/prctl.h`; the libc crate lacks it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that writeback goes through this process, so that its allocations must not wait for
/// writeback.
fn become_flusher() {
    // SAFETY: the call takes numbers and changes only this process's flags.
    let done = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if done != 0 {
        let error = std::io::Error::last_os_error();
        log_line!("PR_SET_IO_FLUSHER: {error}: serving may stall when memory is short");
    }
}

/// Blocks the signals that end a process, in this thread and all that it starts, and returns a
/// descriptor to poll for them.
fn block_signals() -> Result<OwnedFd> {
    let failed = || Error::System { what: "signals", source: std::io::Error::last_os_error() };
    // SAFETY: `set` is initialised by sigemptyset before it is used, and outlives the calls; nobody else
    // owns the descriptor that signalfd returns.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(failed());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(failed()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}
