// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `del`: stops a device, waits for its daemon and removes the device, also if the daemon died.

use crate::cli::DelArgs;
use crate::device::{
    self,
    command::{Control, State},
};
use crate::error::{Error, Result};
use crate::serve;
use crate::state::{DeviceState, RunDir};
use std::time::{Duration, Instant};

/// Time for a device without users to disappear.
const GONE_DEADLINE: Duration = Duration::from_secs(2);

pub fn run(args: &DelArgs) -> Result<()> {
    let run_dir = RunDir::default_path();
    let mut control = Control::open()?;
    if let Some(id) = args.id {
        return delete(&mut control, &run_dir, id, run_dir.load(id)?.as_ref());
    }
    delete_all(&mut control, &run_dir)
}

/// Deletes every device that it can: one in use must not protect the others.
fn delete_all(control: &mut Control, run_dir: &RunDir) -> Result<()> {
    let mut states = run_dir.all()?;
    loop {
        let before = states.len();
        let mut errors = Vec::new();
        states.retain(|state| {
            let done = delete(control, run_dir, state.id, Some(state));
            done.map_err(|error| errors.push(error)).is_err()
        });
        // A device may be the image of another one, and is free once that one is gone.
        if states.is_empty() || states.len() == before {
            let last = errors.pop();
            for error in &errors {
                eprintln!("vexfs-ublk: {error}");
            }
            return last.map_or(Ok(()), Err);
        }
    }
}

fn delete(
    control: &mut Control,
    run_dir: &RunDir,
    id: u32,
    state: Option<&DeviceState>,
) -> Result<()> {
    let info = match control.info(id) {
        Err(Error::NoDevice(_)) if state.is_some_and(|s| !s.daemon_runs()) => {
            // It is gone already, for instance with the driver, and only its files are left.
            run_dir.remove(id);
            return Ok(());
        }
        other => other?,
    };
    let Some(state) = state else { return Err(Error::NotOurs(id)) };
    let served = state.daemon_runs();
    if served && info.state == State::Live && serve::in_use(id) {
        return Err(Error::Busy(id));
    }
    control.stop(id)?;
    if !serve::wait_for_end(state) {
        return Err(Error::DaemonStays { id, pid: state.pid, log: state.log.clone() });
    }
    if served {
        control.delete(id)?;
    } else {
        control.delete_later(id)?;
        if !gone(control, id)? {
            eprintln!(
                "vexfs-ublk: device {id} is stopped; it goes away with its last user: unmount {}",
                device::block_path(id).display()
            );
        }
    }
    run_dir.remove(id);
    Ok(())
}

/// Waits a moment for a device to disappear.
fn gone(control: &mut Control, id: u32) -> Result<bool> {
    let deadline = Instant::now() + GONE_DEADLINE;
    loop {
        match control.info(id) {
            Err(Error::NoDevice(_)) => return Ok(true),
            Err(e) => return Err(e),
            Ok(_) if Instant::now() >= deadline => return Ok(false),
            Ok(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
