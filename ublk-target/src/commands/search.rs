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
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vexfs_index::npy::{self, Stored};
use vexfs_search::ask::{Found, Query, Search};

pub fn run(args: &SearchArgs) -> Result<()> {
    let at = |source| Error::Image { path: args.path.clone(), source };
    let meta = fs::metadata(&args.path).map_err(at)?;
    let query = match (&args.query, args.like) {
        (Some(file), _) => read_query(file, args.row)?,
        (None, Some(slot)) => Query::Like(slot),
        (None, None) => return Err(Error::Refused("give --query or --like".into())),
    };
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
    let file = open(&args.path).map_err(at)?;
    let search = Search { query, k: args.k, ef: args.ef, exact: args.exact };
    let mut found = match state {
        Some(state) => by_socket(&state, search, file.as_fd()),
        // No daemon is known here: the one that serves the device may be on another machine.
        None => in_band(&args.path, &search, file.as_fd()),
    }
    .map_err(|e| match e {
        Error::Refused(why) => Error::Refused(format!("{}: {why}", args.path.display())),
        other => other,
    })?;
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
    super::print(&to_text(&found, &paths))
}

fn by_socket(state: &DeviceState, search: Search, file: BorrowedFd<'_>) -> Result<Found> {
    match client::ask_about(&state.socket, &Request::Search(search), &[file])? {
        Reply::Found(found) => Ok(found),
        _ => Err(client::unexpected()),
    }
}

fn in_band(path: &Path, search: &Search, file: BorrowedFd<'_>) -> Result<Found> {
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

/// What is said of a file without the attribute that its directory has.
const UNMARKED: &str = "left out: it has no vexfs.vector attribute, as its directory has: it came from elsewhere; set it with setfattr";
/// Most files whose reason is in the line about a directory without one that can be searched.
const REASONS_MAX: usize = 8;

/// The line about a directory of which nothing could be searched.
fn nothing_searched(top: &Path, found: &Found, paths: &BTreeMap<u64, PathBuf>) -> String {
    let mut line = format!("{}: no vector files there that can be searched", top.display());
    for (ino, note) in found.notes.iter().take(REASONS_MAX) {
        let path = paths.get(ino).map_or(Path::new("?"), PathBuf::as_path);
        let path = path.strip_prefix(top).unwrap_or(path);
        let _ = write!(line, "; {}: {}", path.display(), note.trim_start_matches("left out: "));
    }
    if let Some(more) = found.notes.len().checked_sub(REASONS_MAX).filter(|more| *more > 0) {
        let _ = write!(line, "; and {more} more");
    }
    if found.denied > 0 {
        let _ = write!(line, "; {} files or directories there you may not read", found.denied);
    }
    line
}

fn read_query(file: &Path, row: usize) -> Result<Query> {
    let (matrix, stored) = npy::read_stored(file).map_err(|e| Error::Refused(e.to_string()))?;
    if matrix.rows == 0 {
        return Err(Error::Refused(format!("{}: it has no rows to search for", file.display())));
    }
    if row >= matrix.rows {
        return Err(Error::Refused(format!(
            "{}: there is no row {row}: it has {}",
            file.display(),
            matrix.rows
        )));
    }
    let numbers = matrix.row(row).iter();
    Ok(match stored {
        Stored::U8 => Query::Bytes { bytes: numbers.map(|x| *x as u8).collect(), signed: false },
        Stored::I8 => {
            let bytes = numbers.map(|x| (*x as i8).cast_unsigned()).collect();
            Query::Bytes { bytes, signed: true }
        }
        _ => Query::Vector(numbers.copied().collect()),
    })
}

/// Number of the ublk device that the `st_dev` of a file belongs to.
fn device_of(dev: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    link.file_name()?.to_str()?.strip_prefix("ublkb")?.parse().ok()
}

/// Opens a file or directory: for reading if that is allowed, else only to say which one is meant.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => Ok(rustix::fs::open(path, flags | OFlags::PATH, Mode::empty())?),
        other => Ok(other?),
    }
}

/// The path of what lies `below` the path that was given.
fn joined(top: &Path, below: &[u8]) -> PathBuf {
    if below.is_empty() { top.to_owned() } else { top.join(OsStr::from_bytes(below)) }
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

fn to_json(found: &Found, paths: &BTreeMap<u64, PathBuf>, exact: bool) -> serde_json::Value {
    let hits: Vec<_> = found
        .hits
        .iter()
        .map(|hit| {
            let path = paths.get(&hit.file).map(|p| p.to_string_lossy());
            json!({ "path": path, "slot": hit.slot, "distance": hit.distance })
        })
        .collect();
    json!({ "generation": found.generation, "exact": exact, "hits": hits })
}

fn to_text(found: &Found, paths: &BTreeMap<u64, PathBuf>) -> String {
    let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut text = format!("{:>11}  {:>9}  path\n", "distance", "slot");
    for hit in &found.hits {
        let path = paths.get(&hit.file).map_or(Path::new("?"), PathBuf::as_path);
        let lines = names.entry(hit.file).or_insert_with(|| names_beside(path));
        let name = lines.get(hit.slot as usize).map_or("", String::as_str);
        let line = format!("{:>11.6}  {:>9}  {}  {name}", hit.distance, hit.slot, path.display());
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The names of a file's rows: the lines of the `.tsv` file with its name, if there is one.
fn names_beside(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path.with_extension("tsv")).unwrap_or_default();
    text.lines().map(|line| line.replace('\t', "  ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vexfs_search::ask::Hit;

    #[test]
    fn hits_are_shown_with_paths_and_names() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sub/a.npy");
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(&file, "").unwrap();
        fs::write(file.with_extension("tsv"), "first\tx\nsecond\ty\n").unwrap();
        assert_eq!(joined(&file, b""), file);
        let ino = 12;
        let paths = BTreeMap::from([(ino, joined(directory.path(), b"sub/a.npy"))]);
        let hit = |slot, distance| Hit { file: ino, slot, distance };
        let found = Found {
            generation: 4,
            searched: 1,
            denied: 0,
            caught_up: true,
            hits: vec![hit(1, 0.25), hit(7, 0.5)],
            notes: vec![],
            paths: vec![],
            problem: None,
        };
        let text = to_text(&found, &paths);
        assert!(
            text.contains("0.250000          1") && text.contains("a.npy  second  y\n"),
            "{text}"
        );
        assert!(text.contains("a.npy\n"), "a row without a name: {text}");
        let json = to_json(&found, &paths, true);
        assert_eq!(json["generation"], 4);
        assert_eq!(json["hits"][1]["slot"], 7);
        assert_eq!(json["hits"][0]["path"], file.to_string_lossy().as_ref());
    }

    #[test]
    fn a_query_is_a_row_that_exists() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("q.npy");
        npy::write(&file, 2, &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(read_query(&file, 1).unwrap(), Query::Vector(vec![3.0, 4.0]));
        assert!(read_query(&file, 2).unwrap_err().to_string().contains("no row 2: it has 2"));
        for (odd, words) in [(f32::NAN, "is NaN"), (f32::INFINITY, "is inf")] {
            npy::write(&file, 2, &[1.0, odd]).unwrap();
            let why = read_query(&file, 0).unwrap_err().to_string();
            assert!(why.contains(words) && !why.contains('\n'), "{why}");
        }
        npy::write(&file, 2, &[]).unwrap();
        assert!(read_query(&file, 0).unwrap_err().to_string().contains("no rows"));
        // Bytes stay what they are: only the daemon knows whether they are numbers or bits.
        let header = fs::read(&file).unwrap();
        let of = |descr: &str| {
            let text = String::from_utf8_lossy(&header[10..]).replace("<f4", descr);
            let text = text.replace("(0, 2)", "(1, 2)");
            [&header[..10], text.as_bytes(), &[0x80, 0x7f]].concat()
        };
        for (descr, signed) in [("|u1", false), ("|i1", true)] {
            fs::write(&file, of(descr)).unwrap();
            let bytes = vec![0x80, 0x7f];
            assert_eq!(read_query(&file, 0).unwrap(), Query::Bytes { bytes, signed });
        }
    }

    #[test]
    fn a_directory_without_vectors_says_why_in_one_line() {
        let top = Path::new("/c");
        let names = ["a.npy", "a.tsv", "b.parquet", "notes.tsv"];
        let paths: BTreeMap<_, _> = (1..).zip(names.map(|name| top.join(name))).collect();
        let text = "left out: it holds text".to_owned();
        let notes = vec![(3, "left out: it is a Parquet file".to_owned()), (4, text)];
        let (generation, searched, caught_up, hits) = (1, 0, true, vec![]);
        let found = Found {
            denied: 3,
            paths: vec![],
            ..Found {
                generation,
                searched,
                denied: 0,
                caught_up,
                hits,
                notes,
                paths: vec![],
                problem: None,
            }
        };
        let line = nothing_searched(top, &found, &paths);
        let start = "/c: no vector files there that can be searched; b.parquet: it is a Parquet file; \
                     notes.tsv: it holds text";
        assert!(line.starts_with(start) && !line.contains('\n'), "{line}");
        assert!(line.ends_with("3 files or directories there you may not read"), "{line}");
    }
}
