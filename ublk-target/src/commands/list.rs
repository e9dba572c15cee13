// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `list` and `features`: the devices, and what the driver can do.

use crate::device::block_path;
use crate::device::command::{Control, FEATURES};
use crate::error::{Error, Result};
use crate::state::RunDir;
use serde_json::json;
use std::fmt::Write;
use vexfs_format::window::BYTES;

pub fn devices(as_json: bool) -> Result<()> {
    let run_dir = RunDir::default_path();
    let states = run_dir.all()?;
    // Without the driver there are no devices, whatever the state files say.
    let mut control = match Control::open() {
        Err(Error::NoDriver) => None,
        other => Some(other?),
    };
    let mut rows = Vec::new();
    for state in states {
        let info = match control.as_mut().map(|c| c.info(state.id)) {
            Some(Ok(info)) => Some(info),
            Some(Err(Error::NoDevice(_))) | None => None,
            Some(Err(e)) => return Err(e),
        };
        if info.is_none() && !state.daemon_runs() {
            run_dir.remove(state.id);
            continue;
        }
        let name = info.map_or("missing", |info| info.state.name());
        rows.push((state, name));
    }
    if as_json {
        let list: Vec<_> = rows
            .iter()
            .map(|(s, name)| {
                json!({
                    "id": s.id,
                    "device": block_path(s.id),
                    "state": name,
                    "pid": s.pid,
                    "running": s.daemon_runs(),
                    "image": s.options.image.path,
                    "bytes": s.bytes,
                    "window_bytes": if s.options.window { BYTES } else { 0 },
                    "queues": s.options.queues,
                    "depth": s.options.depth,
                    "recovery": s.options.recovery.name(),
                    "raw": s.options.image.raw,
                    "read_only": s.options.image.read_only,
                    "buffered": s.options.image.buffered,
                    "crash_model": s.options.crash_model,
                    "record": s.options.record,
                    "log": s.log,
                    "socket": s.socket,
                })
            })
            .collect();
        return super::print_json(&json!(list));
    }
    let mut text = String::new();
    for (s, name) in &rows {
        let _ = writeln!(
            text,
            "{}  {name}  pid {}{}  {} bytes  {}  recovery {}  log {}",
            block_path(s.id).display(),
            s.pid,
            if s.daemon_runs() { "" } else { " (dead)" },
            s.bytes,
            s.options.image.path.display(),
            s.options.recovery.name(),
            s.log.display(),
        );
    }
    super::print(&text)
}

pub fn features(as_json: bool) -> Result<()> {
    let flags = Control::open()?.features()?;
    if as_json {
        let list: serde_json::Map<_, _> = FEATURES
            .iter()
            .map(|(bit, name, _)| ((*name).to_owned(), json!(flags & bit != 0)))
            .collect();
        return super::print_json(&json!({ "flags": flags, "features": list }));
    }
    let mut text = String::new();
    for (bit, name, since) in FEATURES {
        let has = if flags & bit != 0 { "yes" } else { "no" };
        let _ = writeln!(text, "{name:<24} {has:<4} Linux {since}");
    }
    super::print(&text)
}
