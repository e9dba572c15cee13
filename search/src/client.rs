// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a command line does with a question and with its answer: reading a query, and printing what was found.
//!
//! Shared by everybody who asks, of a mount as of an image. How the question reaches an index is not known
//! here, nor is where the names of rows come from.

use crate::ask::{Found, Query};
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use vexfs_index::npy::{self, Stored};

/// What is said of a file without the attribute that its directory has.
pub const UNMARKED: &str = "left out: it has no vexfs.vector attribute, as its directory has: it came from elsewhere; set it with setfattr";
/// Most files whose reason is in the line about a directory without one that can be searched.
const REASONS_MAX: usize = 8;

/// The line about a directory of which nothing could be searched.
#[must_use]
pub fn nothing_searched(top: &Path, found: &Found, paths: &BTreeMap<u64, PathBuf>) -> String {
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

/// The query in a row of a `.npy` file.
///
/// # Errors
/// One line that says why there is none.
pub fn read_query(file: &Path, row: usize) -> Result<Query, String> {
    let (matrix, stored) = npy::read_stored(file).map_err(|e| e.to_string())?;
    if matrix.rows == 0 {
        return Err(format!("{}: it has no rows to search for", file.display()));
    }
    if row >= matrix.rows {
        return Err(format!("{}: there is no row {row}: it has {}", file.display(), matrix.rows));
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

/// The path of what lies `below` the path that was given.
#[must_use]
pub fn joined(top: &Path, below: &[u8]) -> PathBuf {
    if below.is_empty() { top.to_owned() } else { top.join(OsStr::from_bytes(below)) }
}

/// What was found, as JSON.
#[must_use]
pub fn to_json(found: &Found, paths: &BTreeMap<u64, PathBuf>, exact: bool) -> serde_json::Value {
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

/// What was found, as a table. `names_beside` has the names of a file's rows, in order.
pub fn to_text(
    found: &Found,
    paths: &BTreeMap<u64, PathBuf>,
    names_beside: &mut dyn FnMut(&Path) -> Vec<String>,
) -> String {
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

/// The file that has the names of a file's rows, if there is one.
#[must_use]
pub fn names_file(path: &Path) -> PathBuf {
    path.with_extension("tsv")
}

/// The names in such a file.
#[must_use]
pub fn names_of_rows(text: &str) -> Vec<String> {
    text.lines().map(|line| line.replace('\t', "  ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Hit;
    use std::fs;

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
        let text = to_text(&found, &paths, &mut |path| {
            names_of_rows(&fs::read_to_string(names_file(path)).unwrap_or_default())
        });
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
        assert!(read_query(&file, 2).unwrap_err().contains("no row 2: it has 2"));
        for (odd, words) in [(f32::NAN, "is NaN"), (f32::INFINITY, "is inf")] {
            npy::write(&file, 2, &[1.0, odd]).unwrap();
            let why = read_query(&file, 0).unwrap_err();
            assert!(why.contains(words) && !why.contains('\n'), "{why}");
        }
        npy::write(&file, 2, &[]).unwrap();
        assert!(read_query(&file, 0).unwrap_err().contains("no rows"));
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
