// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `add` and `recover`: start a daemon for an image, and wait until its device can be opened.

use super::lab;
use crate::cli::AddArgs;
use crate::daemon::{self, Reporter, Role};
use crate::device::block_path;
use crate::device::command::{Control, State, open_control};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::options::Options;
use crate::options::Recovery;
use crate::serve::{self, Job, Task};
use crate::state::{DeviceState, RunDir, is_killed};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time for the device node to appear and become openable.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// Time for a dying daemon to end, and for the driver to notice.
const DEATH_DEADLINE: Duration = Duration::from_secs(30);
/// A daemon that still runs after this time is not dying.
const DYING_DEADLINE: Duration = Duration::from_secs(1);

pub fn add(args: AddArgs) -> Result<()> {
    let AddArgs { mut options, id, foreground } = args;
    let image = &mut options.image.path;
    *image = std::fs::canonicalize(&*image)
        .map_err(|source| Error::Image { path: image.clone(), source })?;
    options.record = options.record.as_deref().map(absolute).transpose()?;
    options.crash_model |= options.record.is_some();
    options.window = !options.image.raw && !options.image.read_only;
    start(&options, Task::Add(id), foreground, None)
}

pub fn recover(id: u32, index_memory: Option<u64>) -> Result<()> {
    open_control()?;
    let run_dir = RunDir::default_path();
    let Some(state) = run_dir.load(id)? else {
        Control::open()?.info(id)?;
        return Err(Error::NotOurs(id));
    };
    // After a power cut in the crash lab the daemon still runs.
    if state.options.crash_model && state.daemon_runs() && lab::power_on(&state)? {
        return super::print(&format!("{}\n", block_path(id).display()));
    }
    wait_for_death(&state)?;
    let task = Task::Recover { id, begun: state.fetching };
    // The recording ended with the daemon.
    let index_memory = index_memory.or(state.options.index_memory);
    let options = Options { record: None, index_memory, ..state.options };
    start(&options, task, false, Some(state.bytes))
}

/// The path from the root, because the daemon changes its working directory.
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
            // A daemon that was just killed still runs for a moment.
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
                return refused(format!("its state in the driver is still {}", other.name()));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn start(options: &Options, task: Task, foreground: bool, bytes: Option<u64>) -> Result<()> {
    // Whatever can be checked is checked before anything is created.
    open_control()?;
    let image = match task {
        Task::Add(_) => Image::open(&options.image)?,
        Task::Recover { .. } => open_left_image(options)?,
    };
    if let Some(device) = bytes
        && image.exposed_bytes() != device
    {
        let (path, bytes) = (image.path().to_owned(), image.exposed_bytes());
        return Err(Error::ImageChanged { path, bytes, device });
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
            // The parent prints the error.
            std::process::exit(i32::from(served.is_err()))
        }
    }
}

/// Opens an image whose daemon just died. Its lock is held until the last of its I/O has ended, which may
/// be after its process has.
fn open_left_image(options: &Options) -> Result<Image> {
    let deadline = Instant::now() + DEATH_DEADLINE;
    loop {
        match Image::open(&options.image) {
            Err(Error::ImageLocked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Waits for the device node, which another process may create a moment after the device.
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
