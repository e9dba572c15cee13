// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `search`: finds the daemon behind a path on a mount, hands it the open file or directory, and turns its
//! hits into paths and names.
//!
//! Which files are searched, the daemon decides: those under the descriptor that its user may read.

use crate::cli::SearchArgs;
use crate::control::client;
use crate::control::wire::{Reply, Request};
use crate::error::{Error, Result};
use crate::state::RunDir;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vexfs_search::ask::{Query, Search};
use vexfs_search::client::{
    UNMARKED, joined, names_file, names_of_rows, nothing_searched, read_query, to_json, to_text,
};

pub fn run(args: &SearchArgs) -> Result<()> {
    let at = |source| Error::Image { path: args.path.clone(), source };
    let meta = fs::metadata(&args.path).map_err(at)?;
    let query = match (&args.query, args.like) {
        (Some(file), _) => read_query(file, args.row).map_err(Error::Refused)?,
        (None, Some(slot)) => Query::Like(slot),
        (None, None) => return Err(Error::Refused("give --query or --like".into())),
    };
    let id = device_of(meta.dev()).ok_or_else(|| not_on_ublk(&args.path))?;
    let Some(state) = RunDir::default_path().load(id)? else { return Err(not_on_ublk(&args.path)) };
    if !meta.is_dir() && !meta.is_file() {
        return Err(Error::Refused(format!(
            "{}: neither a file nor a directory",
            args.path.display()
        )));
    }
    let file = open(&args.path).map_err(at)?;
    let search =
        Search { query, k: args.k, ef: args.ef, exact: args.exact, at_least: args.at_least };
    let request = Request::Search(search);
    let reply =
        client::ask_about(&state.socket, &request, &[file.as_fd()]).map_err(|e| match e {
            Error::Refused(why) => Error::Refused(format!("{}: {why}", args.path.display())),
            other => other,
        })?;
    let Reply::Found(mut found) = reply else {
        return Err(client::unexpected());
    };
    let mut paths: BTreeMap<u64, PathBuf> =
        found.paths.iter().map(|(ino, below)| (*ino, joined(&args.path, below))).collect();
    if meta.is_dir() {
        for (ino, path) in unmarked(&args.path, meta.dev()) {
            found.notes.push((ino, UNMARKED.to_owned()));
            paths.insert(ino, path);
        }
    }
    if found.searched == 0 {
        return Err(Error::Refused(nothing_searched(&args.path, &found, &paths)));
    }
    for (ino, note) in &found.notes {
        let path = paths.get(ino).map_or_else(|| PathBuf::from("?"), Clone::clone);
        eprintln!("vexfs-ublk: {}: {note}", path.display());
    }
    if let Some(problem) = &found.problem {
        eprintln!(
            "vexfs-ublk: the index is not kept up to date: {problem}: newer rows may be missing"
        );
    }
    if !found.caught_up {
        eprintln!("vexfs-ublk: the index is still catching up: newer rows may be missing");
    }
    if args.json {
        return super::print(&format!("{}\n", to_json(&found, &paths, args.exact)));
    }
    super::print(&to_text(&found, &paths, &mut names_beside))
}

pub(super) fn not_on_ublk(path: &Path) -> Error {
    Error::Refused(format!(
        "{}: not on a mounted device of vexfs-ublk: see `vexfs-ublk list`",
        path.display()
    ))
}

/// Number of the ublk device that the `st_dev` of a file belongs to.
pub(super) fn device_of(dev: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    link.file_name()?.to_str()?.strip_prefix("ublkb")?.parse().ok()
}

/// Opens a file or directory: for reading if that is allowed, else only to say which one is meant.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => Ok(rustix::fs::open(path, flags | OFlags::PATH, Mode::empty())?),
        other => Ok(other?),
    }
}

/// Whether a file or directory has the vector attribute; `None` where its user may not know.
fn marked(path: &Path) -> Option<bool> {
    match rustix::fs::lgetxattr(path, "vexfs.vector", &mut [0u8; 256]) {
        Ok(_) => Some(true),
        Err(Errno::NODATA) => Some(false),
        Err(_) => None,
    }
}

/// The regular files below a directory, on the same filesystem, that have no vector attribute although their
/// directory has. What the user may not list is left out.
fn unmarked(top: &Path, dev: u64) -> BTreeMap<u64, PathBuf> {
    let mut found = BTreeMap::new();
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        let directory_marked = marked(&directory);
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != dev {
                continue;
            }
            if meta.is_dir() {
                directories.push(entry.path());
            } else if meta.is_file()
                && directory_marked == Some(true)
                && marked(&entry.path()) == Some(false)
            {
                found.insert(meta.ino(), entry.path());
            }
        }
    }
    found
}

/// The names of a file's rows: the lines of the `.tsv` file with its name, if there is one.
fn names_beside(path: &Path) -> Vec<String> {
    names_of_rows(&fs::read_to_string(names_file(path)).unwrap_or_default())
}
