// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `index`: what a device's index is like, file by file; verifying, tuning and rebuilding it.
//!
//! The daemon answers one short request after the other, so that it shows progress and is not kept busy.

use super::search::{device_of, not_on_ublk, open};
use crate::cli::{IndexArgs, IndexTask};
use crate::control::client;
use crate::control::wire::{IndexReply, IndexRequest, Reply, Request};
use crate::error::{Error, Result};
use crate::state::RunDir;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;
use vexfs_search::upkeep::{self, FileStatus, Measured};

/// How often progress is asked for.
const TICK: Duration = Duration::from_millis(200);

/// A daemon, and the part of its files that is meant.
struct Daemon {
    socket: PathBuf,
    top: Option<OwnedFd>,
}

impl Daemon {
    fn find(args: &IndexArgs) -> Result<Self> {
        let run_dir = RunDir::default_path();
        let Some(path) = &args.path else {
            let id = args.id.unwrap_or(0);
            let state = run_dir.load(id)?.ok_or(Error::NoDevice(id))?;
            return Ok(Self { socket: state.socket, top: None });
        };
        let at = |source| Error::Image { path: path.clone(), source };
        let meta = std::fs::metadata(path).map_err(at)?;
        let id = device_of(meta.dev()).ok_or_else(|| not_on_ublk(path))?;
        let state = run_dir.load(id)?.ok_or_else(|| not_on_ublk(path))?;
        Ok(Self { socket: state.socket, top: Some(open(path).map_err(at)?) })
    }

    fn ask(&self, request: IndexRequest) -> Result<IndexReply> {
        let top: Vec<_> = self.top.iter().map(AsFd::as_fd).collect();
        match client::ask_about(&self.socket, &Request::Index(request), &top)? {
            Reply::Index(reply) => Ok(reply),
            _ => Err(client::unexpected()),
        }
    }

    fn status(&self) -> Result<(Vec<FileStatus>, u64)> {
        match self.ask(IndexRequest::Status)? {
            IndexReply::Status(files, unread) => Ok((files, unread)),
            _ => Err(client::unexpected()),
        }
    }
}

pub fn run(args: &IndexArgs) -> Result<()> {
    let daemon = Daemon::find(args)?;
    match args.task {
        IndexTask::Status => {
            let (files, _) = daemon.status()?;
            shown(args, &upkeep::to_json(&files), || upkeep::table(&files))
        }
        IndexTask::Rebuild => rebuild(&daemon, args),
        IndexTask::Verify => verify(&daemon, args),
        IndexTask::Tune => tune(&daemon, args),
    }
}

fn shown(args: &IndexArgs, value: &Value, text: impl FnOnce() -> String) -> Result<()> {
    if args.json { super::print_json(value) } else { super::print(&text()) }
}

fn bar(total: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn rebuild(daemon: &Daemon, args: &IndexArgs) -> Result<()> {
    let IndexReply::Rebuilding(count) = daemon.ask(IndexRequest::Rebuild)? else {
        return Err(client::unexpected());
    };
    let (files, _) = daemon.status()?;
    let total: u64 = files.iter().map(|file| file.rows).sum();
    let bar = bar(total, "vectors in graphs");
    let files = loop {
        let (files, unread) = daemon.status()?;
        // A small file never gets a graph; a segment without one that is to have one has its rows pending.
        let left: u64 =
            files.iter().filter(|file| file.segments > file.graphs).map(|file| file.pending).sum();
        bar.set_position(total.saturating_sub(left.max(unread)));
        if left == 0 && unread == 0 {
            break files;
        }
        std::thread::sleep(TICK);
    };
    bar.finish_and_clear();
    let value = json!({ "rebuilt": count, "files": upkeep::to_json(&files) });
    shown(args, &value, || upkeep::table(&files))
}

/// Measures each file; what was found by path.
fn measured(daemon: &Daemon, args: &IndexArgs, widths: bool) -> Result<Vec<(Vec<u8>, Measured)>> {
    let (files, _) = daemon.status()?;
    let bar = bar(files.len() as u64, "files measured");
    let mut all = Vec::new();
    for file in files {
        let measured = match file.reason {
            Some(why) if file.rows == 0 => Err(why),
            _ => {
                let request = IndexRequest::Recall { ino: file.ino, queries: args.queries, widths };
                match daemon.ask(request)? {
                    IndexReply::Recall(measured) => measured,
                    _ => return Err(client::unexpected()),
                }
            }
        };
        all.push((file.path, measured));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(all)
}

fn verify(daemon: &Daemon, args: &IndexArgs) -> Result<()> {
    let IndexReply::Damage(damage) = daemon.ask(IndexRequest::Verify)? else {
        return Err(client::unexpected());
    };
    let all = measured(daemon, args, false)?;
    let files: Vec<Value> = all.iter().map(|(path, m)| upkeep::recall_json(path, m)).collect();
    shown(args, &json!({ "damage": damage, "files": files }), || {
        let mut text: String = all.iter().map(|(path, m)| upkeep::recall_text(path, m)).collect();
        for what in &damage {
            let _ = writeln!(text, "{what}");
        }
        if damage.is_empty() {
            text += "every checksum is right\n";
        }
        text
    })
}

fn tune(daemon: &Daemon, args: &IndexArgs) -> Result<()> {
    let all = measured(daemon, args, true)?;
    let best = |measured: &Measured| {
        let measured = measured.as_ref().ok()?;
        upkeep::smallest(measured, args.recall).and_then(|one| one.ef)
    };
    let files: Vec<Value> = all
        .iter()
        .map(|(path, m)| {
            let mut value = upkeep::recall_json(path, m);
            value["recommended"] = json!(best(m));
            value
        })
        .collect();
    shown(args, &Value::Array(files), || {
        let mut text = String::new();
        for (path, m) in &all {
            text += &upkeep::recall_text(path, m);
            if let Some(ef) = best(m) {
                let path = String::from_utf8_lossy(path);
                let _ = writeln!(text, "{path}: --ef {ef} reaches a recall of {}", args.recall);
            }
        }
        text
    })
}
