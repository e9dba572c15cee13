// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `add` and `recover`: from an image to a device that can be opened.

use super::lab;
use crate::cli::AddArgs;
use crate::daemon::{self, Reporter, Role};
use crate::device::command::{Control, State, open_control};
use crate::device::{block_path, params::Recovery};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::serve::{self, Job, Task};
use crate::state::{DeviceState, Options, RunDir, is_killed};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time that the device node gets to appear and to be openable.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// Time that a dying daemon gets to be gone, and the driver to notice.
const DEATH_DEADLINE: Duration = Duration::from_secs(30);
/// Time after which a daemon that runs is taken for alive.
const DYING_DEADLINE: Duration = Duration::from_secs(1);

pub fn add(args: &AddArgs) -> Result<()> {
    let image = std::fs::canonicalize(&args.image)
        .map_err(|source| Error::Image { path: args.image.clone(), source })?;
    let options = Options {
        image,
        raw: args.raw,
        read_only: args.read_only,
        buffered: args.buffered,
        queues: args.queues,
        depth: args.depth,
        recovery: args.recovery,
        crash_model: args.crash_model || args.record.is_some(),
        record: args.record.as_deref().map(absolute).transpose()?,
    };
    start(&options, Task::Add(args.id), args.foreground, None)
}

pub fn recover(id: u32) -> Result<()> {
    open_control()?;
    let run_dir = RunDir::default_path();
    let Some(state) = run_dir.load(id)? else {
        Control::open()?.info(id)?;
        return Err(Error::NotOurs(id));
    };
    // A lab's power cut leaves the daemon alive.
    if state.options.crash_model && state.daemon_runs() && lab::power_on(&state)? {
        return super::print(&format!("{}\n", block_path(id).display()));
    }
    wait_for_death(&state)?;
    let task = Task::Recover { id, begun: state.fetching };
    // A recording ends with its daemon.
    let options = Options { record: None, ..state.options };
    start(&options, task, false, Some(state.bytes))
}

/// The daemon's working directory is another.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::Image { path: path.to_owned(), source })
}

/// Waits until the device is in a state from which it can be recovered.
fn wait_for_death(state: &DeviceState) -> Result<()> {
    let id = state.id;
    let refused = |why: String| Err(Error::NotRecoverable { id, why });
    let mut control = Control::open()?;
    let begun = Instant::now();
    let deadline = begun + DEATH_DEADLINE;
    loop {
        let info = control.info(id)?;
        match info.state {
            State::Quiesced | State::FailIo if !state.daemon_runs() => return Ok(()),
            // A process that was killed a moment ago still runs for a moment.
            State::Live
                if state.daemon_runs()
                    && begun.elapsed() >= DYING_DEADLINE
                    && !is_killed(state.pid) =>
            {
                return refused(format!("process {} serves it", state.pid));
            }
            State::Dead if state.options.recovery == Recovery::None => {
                return refused(format!(
                    "it was added with --recovery none; remove it with `vexfs-ublk del --id {id}`"
                ));
            }
            State::Dead => {
                return refused(format!(
                    "it was stopped; remove it with `vexfs-ublk del --id {id}` and add it again"
                ));
            }
            other if Instant::now() >= deadline => {
                return refused(format!("the driver still calls it {}", other.name()));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn start(options: &Options, task: Task, foreground: bool, bytes: Option<u64>) -> Result<()> {
    // What can be said at once is said before anything is made.
    open_control()?;
    let image = match task {
        Task::Add(_) => serve::open_image(options)?,
        Task::Recover { .. } => open_left_image(options)?,
    };
    if let Some(device) = bytes
        && image.exposed_bytes() != device
    {
        let bytes = image.exposed_bytes();
        return Err(Error::ImageChanged { path: options.image.clone(), bytes, device });
    }
    let run_dir = RunDir::default_path();
    if foreground {
        let job = Job { options, run_dir: &run_dir, task, foreground };
        return serve::run(&job, image, &mut Reporter::silent());
    }
    // SAFETY: nothing in this process has started a thread.
    match unsafe { daemon::fork() }? {
        Role::Parent(listener) => {
            drop(image);
            let id = listener.wait(|id| run_dir.log(id.unwrap_or(0)))?;
            let path = block_path(id);
            wait_until_openable(id)?;
            super::print(&format!("{}\n", path.display()))
        }
        Role::Daemon(mut reporter) => {
            let job = Job { options, run_dir: &run_dir, task, foreground };
            let served = serve::run(&job, image, &mut reporter);
            if let Err(error) = &served {
                reporter.failed(error);
            }
            // The parent has said what there is to say.
            std::process::exit(i32::from(served.is_err()))
        }
    }
}

/// Opens an image whose daemon died a moment ago. The lock goes with the last I/O that the dead one
/// had under way, which may be later than its process.
fn open_left_image(options: &Options) -> Result<Image> {
    let deadline = Instant::now() + DEATH_DEADLINE;
    loop {
        match serve::open_image(options) {
            Err(Error::ImageLocked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// The node may be made by another process, a moment after the device.
fn wait_until_openable(id: u32) -> Result<()> {
    let path = block_path(id);
    let deadline = Instant::now() + OPEN_DEADLINE;
    loop {
        match File::open(&path) {
            Ok(_) => return Ok(()),
            Err(source) if Instant::now() >= deadline => {
                return Err(Error::Runtime { path, source });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
