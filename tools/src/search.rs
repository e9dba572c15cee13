// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs search` and `vexfs index`: the vectors of an image that nobody serves.
//!
//! How a search is answered is in `vexfs-search`, which the daemon uses too; here are paths, messages and
//! tables. Whoever can read the image can search all of it.

use crate::failure::{Failure, Result};
use crate::tree::{PIECE_BYTES, Tree};
use crate::{cli, image, size};
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use vexfs::Ino;
use vexfs_image::Access;
use vexfs_search::ask::Search;
use vexfs_search::client::{
    AskArgs, HEAD_BYTES, UNMARKED, joined, names_file, names_of_rows, nothing_searched, remarks,
    rows_of, to_json, to_text,
};
use vexfs_search::unmounted::{Built, Problem, Progress, Unmounted, Verified};
use vexfs_search::upkeep;

/// Longest file of names that is read.
const NAMES_BYTES_MAX: u64 = 64 << 20;

fn failed(subject: &str) -> impl Fn(Problem) -> Failure + '_ {
    move |problem| match problem {
        Problem::Filesystem(error) => Failure::engine(subject)(error),
        Problem::Host(error) => Failure::host(Path::new(subject), "cannot be used")(error),
        other => Failure::Other(format!("{subject}: {other}")),
    }
}

/// Searches at or under a path of the image at `path`, and prints what is found.
///
/// # Errors
/// Why nothing could be searched, and what to do.
pub fn search(
    path: &Path,
    below: &[u8],
    ask: &AskArgs,
    memory: u64,
    out: &mut dyn Write,
) -> Result<()> {
    let (searches, by_name) = ask.searches().map_err(Failure::Other)?;
    let device = image::device(path, Access::Read)?;
    let name = path.display().to_string();
    let mut tree = Tree::new(image::volume_on(&device, &name)?, path);
    let mut top = tree.find(below)?;
    let is_dir = top.is_dir();
    let mut shown = PathBuf::from(OsStr::from_bytes(below));
    let subject = format!("{name}:{}", shown.display());
    let mut only = None;
    if !is_dir && by_name {
        // Filters test names below a directory.
        only = shown.file_name().map(|name| name.as_bytes().to_vec());
        shown = shown.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        top = tree.find(shown.as_os_str().as_bytes())?;
    }
    let unmounted = Unmounted::open(device, memory).map_err(failed(&name))?;
    let mut answers = Vec::new();
    for search in searches {
        let search = Search { only: only.clone(), ..search };
        let answer = unmounted.search(top.ino, &search).map_err(failed(&subject))?;
        let mut found = answer.found;
        let mut paths: BTreeMap<u64, PathBuf> =
            found.paths.iter().map(|(ino, path)| (*ino, joined(&shown, path))).collect();
        if is_dir && answers.is_empty() {
            for (ino, path) in unmarked(&mut tree, below)? {
                found.notes.push((ino.0, UNMARKED.to_owned()));
                paths.insert(ino.0, path);
            }
        }
        if found.searched == 0 {
            let why = nothing_searched(&shown, &found, &paths);
            return Err(Failure::Other(format!("{name}:{why}")));
        }
        if answers.is_empty() {
            for remark in &answer.remarks {
                eprintln!("vexfs: {name}: {remark}");
            }
            for (ino, note) in &found.notes {
                let path = paths.get(ino).map_or(Path::new("?"), PathBuf::as_path);
                eprintln!("vexfs: {name}:{}: {note}", path.display());
            }
        }
        answers.push((found, paths));
    }
    for line in remarks(&answers, ask) {
        eprintln!("vexfs: {line}");
    }
    let text = if ask.json {
        format!("{}\n", to_json(&answers, ask))
    } else {
        to_text(&answers, ask, &mut |path| names_beside(&mut tree, path))
    };
    out.write_all(text.as_bytes()).map_err(Failure::output)
}

/// The regular files without the vector attribute, in directories that have it, and their paths.
fn unmarked(tree: &mut Tree, below: &[u8]) -> Result<Vec<(Ino, PathBuf)>> {
    let top = tree.find(below)?;
    let mut marked: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    let mut found = Vec::new();
    tree.visit(below, top, &mut |_, _, path, inode| {
        if inode.is_dir() {
            marked.insert(path.to_vec(), inode.vector);
        } else if inode.is_file() && !inode.vector {
            let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            let parent = path.get(..end).unwrap_or_default();
            let parent = if marked.contains_key(parent) { parent } else { b"/" };
            if marked.get(parent).is_some_and(|marked| *marked) {
                found.push((inode.ino, PathBuf::from(OsStr::from_bytes(path))));
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// The names of a file's rows, if there is a file of them beside it.
fn names_beside(tree: &mut Tree, path: &Path) -> Vec<String> {
    let names = names_file(path);
    let read = (|| -> Result<Vec<u8>> {
        let Some(inode) = tree.find_if_there(names.as_os_str().as_bytes())? else {
            return Ok(Vec::new());
        };
        let mut text = Vec::new();
        let end = inode.size.min(NAMES_BYTES_MAX);
        let mut piece = vec![0; PIECE_BYTES as usize];
        while (text.len() as u64) < end {
            let at = text.len() as u64;
            let wrong = tree.at(names.as_os_str().as_bytes());
            let read = tree.volume.read_at(inode.ino, at, &mut piece).map_err(wrong)?;
            match piece.get(..read) {
                None | Some([]) => break,
                Some(read) => text.extend_from_slice(read),
            }
        }
        Ok(text)
    })();
    // Names are an addition: a hit without one is a hit.
    let Ok(text) = read else { return Vec::new() };
    let mut head = vec![0; HEAD_BYTES as usize];
    let rows = tree.find(path.as_os_str().as_bytes()).ok().and_then(|inode| {
        let read = tree.volume.read_at(inode.ino, 0, &mut head).ok()?;
        rows_of(head.get(..read)?)
    });
    names_of_rows(&String::from_utf8_lossy(&text), rows)
}

/// Builds the index in the tail of the image at `path`, with a progress bar, and prints what it is.
///
/// # Errors
/// The image is in use, or has no room; the index's.
pub fn build(path: &Path, memory: u64, as_json: bool, out: &mut dyn Write) -> Result<()> {
    // What a crash left behind is cleared by whoever mounts it; the index does not need it.
    let device = image::device(path, Access::Write)?;
    let name = path.display().to_string();
    let unmounted = Unmounted::open(device, memory).map_err(failed(&name))?;
    let bar = cli::progress(0, "{wide_bar} {pos}/{len} {msg}");
    let begun = std::time::Instant::now();
    let built = unmounted.build(&mut |progress| {
        let (left, what) = match progress {
            Progress::Reading(left) => (left, "rows read"),
            Progress::Building(left) => (left, "vectors in graphs"),
        };
        if bar.message() != what {
            bar.set_message(what);
            bar.set_length(left);
        }
        bar.set_length(bar.length().unwrap_or(0).max(left));
        bar.set_position(bar.length().unwrap_or(0) - left);
    });
    bar.finish_and_clear();
    let built = built.map_err(failed(&name))?;
    let text = summary(&built, begun.elapsed().as_secs_f64(), as_json);
    out.write_all(text.as_bytes()).map_err(Failure::output)
}

/// Prints what the index of the image at `path` is like, file by file.
///
/// # Errors
/// There is none; the image is in use.
pub fn status(path: &Path, memory: u64, as_json: bool, out: &mut dyn Write) -> Result<()> {
    let name = path.display().to_string();
    let device = image::device(path, Access::Read)?;
    let unmounted = Unmounted::open(device, memory).map_err(failed(&name))?;
    let files = unmounted.status().map_err(failed(&name))?;
    let text =
        if as_json { format!("{:#}\n", upkeep::to_json(&files)) } else { upkeep::table(&files) };
    out.write_all(text.as_bytes()).map_err(Failure::output)
}

/// Rows of each file that are searched for to measure its recall.
const QUERIES: u64 = 100;

/// Verifies the index of the image at `path`, and prints what is damaged and the recall of each file.
///
/// # Errors
/// There is none, or it is damaged; the image is in use.
pub fn verify(path: &Path, memory: u64, as_json: bool, out: &mut dyn Write) -> Result<()> {
    let name = path.display().to_string();
    let device = image::device(path, Access::Read)?;
    let unmounted = Unmounted::open(device, memory).map_err(failed(&name))?;
    let bar = cli::progress(0, "{wide_bar} {pos}/{len} files");
    let verified = unmounted.verify(QUERIES, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let Verified { damage, recall } = verified.map_err(failed(&name))?;
    let text = if as_json {
        let files: Vec<_> = recall.iter().map(|(path, m)| upkeep::recall_json(path, m)).collect();
        format!("{:#}\n", json!({ "damage": damage, "files": files }))
    } else {
        recall.iter().map(|(path, m)| upkeep::recall_text(path, m)).collect()
    };
    out.write_all(text.as_bytes()).map_err(Failure::output)?;
    match damage.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Failure::Other(format!(
            "{name}: {} parts of the index are damaged, the first: {first}; `vexfs index` builds it again",
            damage.len()
        ))),
    }
}

fn summary(built: &Built, seconds: f64, as_json: bool) -> String {
    let Built { generation, files, counts, tail_bytes } = built;
    if as_json {
        let value = json!({
            "generation": generation,
            "files": files,
            "vectors": counts.vectors,
            "segments": counts.segments,
            "graphs": counts.graphs,
            "pending": counts.pending,
            "tombstones": counts.tombstones,
            "skipped": counts.skipped,
            "bytes": tail_bytes,
            "seconds": seconds,
        });
        return format!("{value:#}\n");
    }
    format!(
        "{files} files, {} vectors, {} segments ({} with a graph, {} vectors outside), generation {generation}: {} behind the filesystem, {seconds:.1} s\n",
        counts.vectors,
        counts.segments,
        counts.graphs,
        counts.pending,
        size::human(*tail_bytes),
    )
}
