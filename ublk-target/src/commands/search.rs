// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `search`: finds the daemon behind a path on a mount, hands it the open file or directory, and turns its
//! hits into paths and names. Where no daemon is known, the kernel asks the device.
//!
//! Which files are searched, the daemon decides: those under the descriptor that its user may read.

use crate::cli::SearchArgs;
use crate::control::client;
use crate::control::inband::{self, Refusal};
use crate::control::wire::{Reply, Request};
use crate::error::{Error, Result};
use crate::state::{DeviceState, RunDir};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vexfs_search::ask::{Found, Search};
use vexfs_search::client::{
    HEAD_BYTES, UNMARKED, joined, names_file, names_of_rows, nothing_searched, remarks, rows_of,
    to_json, to_text,
};

pub fn run(args: &SearchArgs) -> Result<()> {
    let at = |source| Error::Image { path: args.path.clone(), source };
    let meta = fs::metadata(&args.path).map_err(at)?;
    let (searches, by_name) = args.ask.searches().map_err(Error::Refused)?;
    let state = match device_of(meta.dev()) {
        Some(id) => RunDir::default_path().load(id)?,
        None => None,
    };
    if !meta.is_dir() && !meta.is_file() {
        return Err(Error::Refused(format!(
            "{}: neither a file nor a directory",
            args.path.display()
        )));
    }
    let Place { top, only } = place(&args.path, meta.is_file() && by_name).map_err(at)?;
    let file = open(&top).map_err(at)?;
    let mut answers = Vec::new();
    for search in searches {
        let search = Search { only: only.clone(), ..search };
        let mut found = match &state {
            Some(state) => by_socket(state, search, file.as_fd()),
            // No daemon is known here: the one that serves the device may be on another machine.
            None => in_band(&args.path, &search, file.as_fd()),
        }
        .map_err(|e| match e {
            Error::Refused(why) => Error::Refused(format!("{}: {why}", args.path.display())),
            other => other,
        })?;
        let mut paths: BTreeMap<u64, PathBuf> =
            found.paths.iter().map(|(ino, below)| (*ino, joined(&top, below))).collect();
        if meta.is_dir() && answers.is_empty() {
            for (ino, path) in unmarked(&args.path, meta.dev()) {
                found.notes.push((ino, UNMARKED.to_owned()));
                paths.insert(ino, path);
            }
        }
        if found.searched == 0 {
            return Err(Error::Refused(nothing_searched(&args.path, &found, &paths)));
        }
        if answers.is_empty() {
            say(&found, &paths);
        }
        answers.push((found, paths));
    }
    for line in remarks(&answers, &args.ask) {
        eprintln!("vexfs-ublk: {line}");
    }
    if args.ask.json {
        return super::print(&format!("{}\n", to_json(&answers, &args.ask)));
    }
    super::print(&to_text(&answers, &args.ask, &mut names_beside))
}

/// Prints what is to be known beside the hits.
fn say(found: &Found, paths: &BTreeMap<u64, PathBuf>) {
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
}

/// What is asked about.
struct Place {
    /// What is opened.
    top: PathBuf,
    /// The only file there that is meant.
    only: Option<Vec<u8>>,
}

/// Of a single file whose name matters, its directory is asked, since the daemon knows an open file by its
/// number alone.
fn place(path: &Path, by_name: bool) -> io::Result<Place> {
    if !by_name {
        return Ok(Place { top: path.to_owned(), only: None });
    }
    // The directory that a link is in is not the one that is meant.
    let is_link = fs::symlink_metadata(path)?.is_symlink();
    let path = if is_link { fs::canonicalize(path)? } else { path.to_owned() };
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let only = Some(name.as_bytes().to_vec());
            let here = parent.as_os_str().is_empty();
            Ok(Place { top: if here { ".".into() } else { parent.to_owned() }, only })
        }
        _ => Ok(Place { top: path, only: None }),
    }
}

pub(super) fn not_on_ublk(path: &Path) -> Error {
    Error::Refused(format!(
        "{}: not on a mounted device of vexfs-ublk: see `vexfs-ublk list`",
        path.display()
    ))
}

fn by_socket(state: &DeviceState, search: Search, file: BorrowedFd<'_>) -> Result<Found> {
    match client::ask_about(&state.socket, &Request::Search(search), &[file])? {
        Reply::Found(found) => Ok(found),
        _ => Err(client::unexpected()),
    }
}

/// Asks one query after the other.
fn in_band(path: &Path, search: &Search, file: BorrowedFd<'_>) -> Result<Found> {
    let mut all: Option<Found> = None;
    for query in std::iter::once(&search.query).chain(&search.more) {
        let one = Search { query: query.clone(), more: Vec::new(), ..search.clone() };
        if !inband::is_plain(&one) {
            return Err(Error::Refused(
                "no daemon of this device is known here, and the filesystem takes no --where, --show, --recall, --within and --at-least: leave them out, or search where the daemon runs"
                    .to_owned(),
            ));
        }
        let found = one_in_band(path, &one, file)?;
        match &mut all {
            None => all = Some(found),
            Some(all) => {
                all.hits.extend(found.hits);
                all.answers.extend(found.answers);
                all.paths.extend(found.paths);
            }
        }
    }
    all.ok_or_else(client::unexpected)
}

fn one_in_band(path: &Path, search: &Search, file: BorrowedFd<'_>) -> Result<Found> {
    inband::search(file, search).map_err(|e| match e {
        Refusal::Unsupported => Error::Refused(
            "not on a mounted device of vexfs-ublk: see `vexfs-ublk list`".to_owned(),
        ),
        Refusal::Refused(why) => Error::Refused(why),
        // It was opened only to say which one is meant.
        Refusal::Failed(e) if e.raw_os_error() == Some(libc::EBADF) => {
            Error::Refused("you may not read it".to_owned())
        }
        Refusal::Failed(source) => Error::Image { path: path.to_owned(), source },
    })
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

/// The names of a file's rows, if there is a file of them beside it.
fn names_beside(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(names_file(path)).unwrap_or_default();
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    names_of_rows(&text, read.ok().and_then(|_| rows_of(&head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_name_matters_is_asked_for_in_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.npy");
        fs::write(&file, "").unwrap();
        let asked = place(&file, true).unwrap();
        assert_eq!(asked.only.as_deref(), Some(&b"a.npy"[..]));
        assert_eq!(asked.top, directory.path());
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(place(&link, true).unwrap().only, asked.only);
        let asked = place(&file, false).unwrap();
        assert_eq!((asked.top, asked.only), (file, None));
    }
}
