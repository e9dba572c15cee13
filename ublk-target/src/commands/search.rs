// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `search`: finds the daemon behind a path on a mount, hands it the open file or directory, and turns its
//! hits into paths and names.
//!
//! Which files are searched, the daemon decides: those under the descriptor that its user may read.

use crate::cli::SearchArgs;
use crate::control::client;
use crate::control::wire::{Found, Query, Reply, Request, Search};
use crate::error::{Error, Result};
use crate::state::RunDir;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vexfs_index::npy;

pub fn run(args: &SearchArgs) -> Result<()> {
    let at = |source| Error::Image { path: args.path.clone(), source };
    let meta = fs::metadata(&args.path).map_err(at)?;
    let query = match (&args.query, args.like) {
        (Some(file), _) => Query::Vector(read_query(file, args.row)?),
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
    let search = Search { query, k: args.k, ef: args.ef, exact: args.exact };
    let request = Request::Search(search);
    let reply =
        client::ask_about(&state.socket, &request, &[file.as_fd()]).map_err(|e| match e {
            Error::Refused(why) => Error::Refused(format!("{}: {why}", args.path.display())),
            other => other,
        })?;
    let Reply::Found(found) = reply else {
        return Err(client::unexpected());
    };
    let paths: BTreeMap<u64, PathBuf> =
        found.paths.iter().map(|(ino, below)| (*ino, joined(&args.path, below))).collect();
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

fn not_on_ublk(path: &Path) -> Error {
    Error::Refused(format!(
        "{}: not on a mounted device of vexfs-ublk: see `vexfs-ublk list`",
        path.display()
    ))
}

fn read_query(file: &Path, row: usize) -> Result<Vec<f32>> {
    let matrix = npy::read_matrix(file).map_err(|e| Error::Refused(e.to_string()))?;
    if row >= matrix.rows {
        return Err(Error::Refused(format!(
            "{}: there is no row {row}: it has {}",
            file.display(),
            matrix.rows
        )));
    }
    Ok(matrix.row(row).to_vec())
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
    use crate::control::wire::Hit;

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
        assert_eq!(read_query(&file, 1).unwrap(), [3.0, 4.0]);
        assert!(read_query(&file, 2).unwrap_err().to_string().contains("no row 2: it has 2"));
        npy::write(&file, 2, &[1.0, f32::NAN]).unwrap();
        assert!(read_query(&file, 0).is_err());
    }
}
