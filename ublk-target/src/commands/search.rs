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
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vexfs_index::npy::{self, Matrix, Stored};
use vexfs_search::ask::{Found, HITS_MAX, Hit, QUERIES_MAX, Query, Search, Shown};
use vexfs_search::filter::{Expression, Field, Is, Value};
use vexfs_search::sidecar;

/// Vectors within a radius, if nothing else is said.
const WITHIN_MAX: u32 = 1000;
/// Bytes of the queries of one request, less than a request may have.
const QUERY_BYTES_MAX: usize = 900_000;

pub fn run(args: &SearchArgs) -> Result<()> {
    let at = |source| Error::Image { path: args.path.clone(), source };
    let meta = fs::metadata(&args.path).map_err(at)?;
    let queries = match (&args.query, args.like) {
        (Some(file), _) if args.batch => read_queries(file)?,
        (Some(file), _) => vec![read_query(file, args.row)?],
        (None, Some(slot)) => vec![Query::Like(slot)],
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
    let filter = args.filter.as_deref().map(filter).transpose()?;
    let Asked { top, only } = asked(args, meta.is_file(), filter.as_ref()).map_err(at)?;
    let file = open(&top).map_err(at)?;
    let search = Search {
        ef: args.ef,
        exact: args.exact,
        recall: args.recall,
        within: args.within,
        filter: filter.map(|filter| filter.to_string()),
        show: args.show.clone(),
        only,
        ..Search::nearest(Query::Like(0), k(args))
    };
    let mut answers = Vec::new();
    for (query, more) in parts(queries, k(args)) {
        let request = Request::Search(Search { query, more, ..search.clone() });
        let reply =
            client::ask_about(&state.socket, &request, &[file.as_fd()]).map_err(|e| match e {
                Error::Refused(why) => Error::Refused(format!("{}: {why}", args.path.display())),
                other => other,
            })?;
        let Reply::Found(mut found) = reply else {
            return Err(client::unexpected());
        };
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
    say_of_answers(args, &answers);
    if args.json {
        return super::print(&format!("{}\n", to_json(&answers, args)));
    }
    super::print(&to_text(&answers, args))
}

/// A request's answer, and the paths of the files in it.
type Answer = (Found, BTreeMap<u64, PathBuf>);

fn k(args: &SearchArgs) -> u32 {
    args.k.unwrap_or(if args.within.is_some() { WITHIN_MAX } else { 10 })
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

/// Prints which widths were taken, and whether more is within the radius than is shown.
fn say_of_answers(args: &SearchArgs, answers: &[Answer]) {
    let all = || answers.iter().flat_map(|(found, _)| &found.answers);
    if let Some(recall) = args.recall {
        match all().filter_map(|answer| answer.ef).max() {
            Some(ef) => eprintln!("vexfs-ublk: ef {ef} was taken for a recall of {recall}"),
            None => eprintln!("vexfs-ublk: for a recall of {recall} every vector was compared"),
        }
    }
    if all().any(|answer| answer.cut) {
        let k = k(args);
        eprintln!(
            "vexfs-ublk: more than {k} vectors are that near: these are the nearest; give -k"
        );
    }
}

/// The filter, with the users in it as numbers: the daemon may know others by those names.
fn filter(text: &str) -> Result<Expression> {
    let wrong = |why: String| Error::Refused(format!("--where: {why}"));
    let mut filter = vexfs_search::filter::parse(text).map_err(|e| wrong(e.to_string()))?;
    let mut users = None;
    let mut number = |value: &mut Value| -> Result<()> {
        let Value::Text(name) = value else { return Ok(()) };
        let users = users.get_or_insert_with(|| fs::read_to_string(USERS).unwrap_or_default());
        let uid = uid_of(users, name)
            .ok_or_else(|| wrong(format!("{USERS} has no user {name}: give a number as owner")))?;
        *value = Value::Integer(uid.into());
        Ok(())
    };
    filter.each_mut(&mut |test| match (&test.field, &mut test.is) {
        (Field::Owner, Is::Compared(_, value)) => number(value),
        (Field::Owner, Is::In(values)) => values.iter_mut().try_for_each(&mut number),
        _ => Ok(()),
    })?;
    Ok(filter)
}

/// Where users and their numbers are.
const USERS: &str = "/etc/passwd";

fn uid_of(users: &str, name: &str) -> Option<u32> {
    let mut lines = users.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?)
}

/// What is asked about.
struct Asked {
    /// What is opened.
    top: PathBuf,
    /// The only file there that is meant.
    only: Option<Vec<u8>>,
}

/// Of a single file whose name matters, its directory is asked, since the daemon knows an open file by its
/// number alone.
fn asked(args: &SearchArgs, is_file: bool, filter: Option<&Expression>) -> io::Result<Asked> {
    let named = |field: &Field| matches!(field, Field::Path | Field::Row(_));
    let matters = !args.show.is_empty() || filter.is_some_and(|filter| filter.tests(named));
    if !is_file || !matters {
        return Ok(Asked { top: args.path.clone(), only: None });
    }
    // The directory that a link is in is not the one that is meant.
    let is_link = fs::symlink_metadata(&args.path)?.is_symlink();
    let path = if is_link { fs::canonicalize(&args.path)? } else { args.path.clone() };
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let only = Some(name.as_bytes().to_vec());
            let here = parent.as_os_str().is_empty();
            Ok(Asked { top: if here { ".".into() } else { parent.to_owned() }, only })
        }
        _ => Ok(Asked { top: path, only: None }),
    }
}

/// The queries of each request: as many as fit, and as many as may be answered at once.
fn parts(queries: Vec<Query>, k: u32) -> Vec<(Query, Vec<Query>)> {
    let bytes = |query: &Query| match query {
        Query::Vector(vector) => vector.len() * 4 + 16,
        Query::Bytes { bytes, .. } => bytes.len() + 16,
        Query::Like(_) => 16,
    };
    let most = (HITS_MAX / k.max(1) as usize).clamp(1, QUERIES_MAX);
    let mut parts: Vec<(Query, Vec<Query>)> = Vec::new();
    let mut room = 0;
    for query in queries {
        let bytes = bytes(&query);
        let fits = |more: &Vec<Query>| room >= bytes && more.len() + 1 < most;
        if let Some((_, more)) = parts.last_mut().filter(|(_, more)| fits(more)) {
            more.push(query);
            room -= bytes;
        } else {
            parts.push((query, Vec::new()));
            room = QUERY_BYTES_MAX.saturating_sub(bytes);
        }
    }
    parts
}

fn not_on_ublk(path: &Path) -> Error {
    Error::Refused(format!(
        "{}: not on a mounted device of vexfs-ublk: see `vexfs-ublk list`",
        path.display()
    ))
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
    let (matrix, stored) = read_matrix(file)?;
    if row >= matrix.rows {
        return Err(Error::Refused(format!(
            "{}: there is no row {row}: it has {}",
            file.display(),
            matrix.rows
        )));
    }
    Ok(query_of(&matrix, stored, row))
}

/// Every row.
fn read_queries(file: &Path) -> Result<Vec<Query>> {
    let (matrix, stored) = read_matrix(file)?;
    Ok((0..matrix.rows).map(|row| query_of(&matrix, stored, row)).collect())
}

fn read_matrix(file: &Path) -> Result<(Matrix, Stored)> {
    let (matrix, stored) = npy::read_stored(file).map_err(|e| Error::Refused(e.to_string()))?;
    if matrix.rows == 0 {
        return Err(Error::Refused(format!("{}: it has no rows to search for", file.display())));
    }
    Ok((matrix, stored))
}

fn query_of(matrix: &Matrix, stored: Stored, row: usize) -> Query {
    let numbers = matrix.row(row).iter();
    match stored {
        Stored::U8 => Query::Bytes { bytes: numbers.map(|x| *x as u8).collect(), signed: false },
        Stored::I8 => {
            let bytes = numbers.map(|x| (*x as i8).cast_unsigned()).collect();
            Query::Bytes { bytes, signed: true }
        }
        _ => Query::Vector(numbers.copied().collect()),
    }
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

fn to_json(answers: &[Answer], args: &SearchArgs) -> serde_json::Value {
    let each = answers.iter().flat_map(|(found, paths)| {
        found.each().map(move |(answered, hits)| {
            let hits: Vec<_> = hits.iter().map(|hit| hit_json(hit, paths, &args.show)).collect();
            let mut answer = json!({
                "generation": found.generation, "exact": args.exact, "ef": answered.ef, "hits": hits
            });
            if args.within.is_some() {
                answer["cut"] = answered.cut.into();
            }
            answer
        })
    });
    if args.batch {
        return each.collect();
    }
    each.take(1).next().unwrap_or_default()
}

fn hit_json(hit: &Hit, paths: &BTreeMap<u64, PathBuf>, show: &[String]) -> serde_json::Value {
    let path = paths.get(&hit.file).map(|p| p.to_string_lossy());
    let mut json = json!({ "path": path, "slot": hit.slot, "distance": hit.distance });
    if !show.is_empty() {
        let value = |shown: &Option<Shown>| match shown {
            Some(Shown::Integer(n)) => json!(n),
            Some(Shown::Number(x)) => json!(x),
            Some(Shown::Text(text)) => json!(text),
            Some(Shown::Boolean(is)) => json!(is),
            None => serde_json::Value::Null,
        };
        json["row"] = show.iter().cloned().zip(hit.shown.iter().map(value)).collect();
    }
    json
}

fn to_text(answers: &[Answer], args: &SearchArgs) -> String {
    let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut text = String::new();
    let each =
        answers.iter().flat_map(|(found, paths)| found.each().map(move |one| (one.1, paths)));
    for (query, (hits, paths)) in each.enumerate() {
        if args.batch {
            let _ = writeln!(text, "{}query {query}", if query > 0 { "\n" } else { "" });
        }
        let columns =
            if args.show.is_empty() { "path".to_owned() } else { args.show.join("  ") + "  path" };
        let _ = writeln!(text, "{:>11}  {:>9}  {columns}", "distance", "slot");
        for hit in hits {
            let path = paths.get(&hit.file).map_or(Path::new("?"), PathBuf::as_path);
            let mut line = format!("{:>11.6}  {:>9}  ", hit.distance, hit.slot);
            if args.show.is_empty() {
                let lines = names.entry(hit.file).or_insert_with(|| names_beside(path));
                let name = lines.get(hit.slot as usize).map_or("", String::as_str);
                let _ = write!(line, "{}  {name}", path.display());
            } else {
                let shown: Vec<String> =
                    hit.shown.iter().map(|shown| one_line(shown.as_ref())).collect();
                let _ = write!(line, "{}  {}", shown.join("  "), path.display());
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// A value of the metadata, without characters that would break the line.
fn one_line(shown: Option<&Shown>) -> String {
    match shown {
        None => "-".to_owned(),
        Some(Shown::Integer(n)) => n.to_string(),
        Some(Shown::Number(x)) => x.to_string(),
        Some(Shown::Boolean(is)) => is.to_string(),
        Some(Shown::Text(text)) => text.replace(char::is_control, " "),
    }
}

/// The names of a file's rows: the lines of the `.tsv` file with its name, if there is one, after the line with
/// the names of its columns, if it has one: not if there are as many lines as rows.
fn names_beside(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path.with_extension("tsv")).unwrap_or_default();
    let header = text.lines().next().is_some_and(sidecar::has_header)
        && rows_of(path) != Some(text.lines().count() as u64);
    text.lines().skip(usize::from(header)).map(|line| line.replace('\t', "  ")).collect()
}

/// How many rows an `.npy` file says that it has.
fn rows_of(path: &Path) -> Option<u64> {
    let mut head = Vec::new();
    fs::File::open(path).ok()?.take(4096).read_to_end(&mut head).ok()?;
    Some(npy::parse(&head)?.rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use vexfs_search::ask::Answered;

    #[test]
    fn hits_are_shown_with_paths_and_names() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sub/a.npy");
        fs::create_dir(directory.path().join("sub")).unwrap();
        npy::write(&file, 1, &[1.0, 2.0]).unwrap();
        fs::write(file.with_extension("tsv"), "first\tx\nsecond\ty\n").unwrap();
        assert_eq!(joined(&file, b""), file);
        let ino = 12;
        let paths = BTreeMap::from([(ino, joined(directory.path(), b"sub/a.npy"))]);
        let hit = |slot, distance| Hit { file: ino, slot, distance, shown: vec![] };
        let found = Found {
            generation: 4,
            searched: 1,
            denied: 0,
            caught_up: true,
            hits: vec![hit(1, 0.25), hit(7, 0.5)],
            answers: vec![Answered { hits: 2, ef: Some(64), cut: false }],
            notes: vec![],
            paths: vec![],
            problem: None,
        };
        let mut answers = [(found, paths)];
        let text = to_text(&answers, &args(&[]));
        assert!(
            text.contains("0.250000          1") && text.contains("a.npy  second  y\n"),
            "{text}"
        );
        assert!(text.contains("a.npy\n"), "a row without a name: {text}");
        let json = to_json(&answers, &args(&["--exact"]));
        assert_eq!((&json["generation"], &json["exact"]), (&json!(4), &json!(true)));
        assert_eq!(json["hits"][1]["slot"], 7);
        assert_eq!(json["hits"][0]["path"], file.to_string_lossy().as_ref());
        // A batch is a list, and text has a table for each; metadata takes the place of names.
        answers[0].0.answers = vec![Answered { hits: 1, ..Answered::default() }; 2];
        answers[0].0.hits[0].shown = vec![Some(Shown::Text("a\nb".into())), None];
        answers[0].0.hits[1].shown = vec![Some(Shown::Integer(7)), Some(Shown::Boolean(true))];
        let batch = args(&["--batch", "--show", "x,y", "--within", "1"]);
        let json = to_json(&answers, &batch);
        assert_eq!(json[0]["hits"][0]["row"], json!({ "x": "a\nb", "y": null }));
        assert_eq!((&json[1]["hits"][0]["slot"], &json[1]["cut"]), (&json!(7), &json!(false)));
        let text = to_text(&answers, &batch);
        assert!(text.contains("query 0\n") && text.contains("query 1\n"), "{text}");
        assert!(text.contains("a b  -  ") && text.contains("7  true  "), "{text}");
        assert_eq!((k(&batch), k(&args(&[]))), (1000, 10));
    }

    fn args(more: &[&str]) -> SearchArgs {
        let words = ["vexfs-ublk", "search", "/c", "--query", "q.npy"];
        match Cli::parse_from(words.iter().chain(more)).command {
            Command::Search(args) => args,
            _ => panic!("not a search"),
        }
    }

    #[test]
    fn a_line_of_column_names_names_no_row() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.npy");
        fs::write(file.with_extension("tsv"), "year\ttag\n2020\tx\n").unwrap();
        assert_eq!(names_beside(&file), ["2020  x"]);
        npy::write(&file, 1, &[1.0]).unwrap();
        assert_eq!(names_beside(&file), ["2020  x"]);
        // As many lines as rows: all of them are names.
        npy::write(&file, 1, &[1.0, 2.0]).unwrap();
        assert_eq!(names_beside(&file), ["year  tag", "2020  x"]);
    }

    #[test]
    fn a_filter_is_checked_and_users_become_numbers() {
        assert_eq!(
            filter("owner != \"root\" or owner in (7)").unwrap().to_string(),
            "owner != 0 or owner in (7)"
        );
        for (text, words) in
            [("slot <", "--where: column 7"), ("owner = \"nobody by that name\"", "has no user")]
        {
            let why = filter(text).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        }
        let users = "root:x:0:0::/:/bin/sh\nmia:x:1001:1001::/:/bin/sh\nodd\n";
        assert_eq!(
            (uid_of(users, "mia"), uid_of(users, "odd"), uid_of(users, "m")),
            (Some(1001), None, None)
        );
    }

    #[test]
    fn a_batch_is_sent_in_parts_that_fit() {
        let vectors = |count: usize, dim: usize| vec![Query::Vector(vec![0.0; dim]); count];
        let sizes = |queries, k| {
            parts(queries, k).iter().map(|(_, more)| more.len() + 1).collect::<Vec<_>>()
        };
        assert_eq!(sizes(vectors(3, 4), 10), [3]);
        assert_eq!(sizes(vectors(2500, 4), 10), [1024, 1024, 452]);
        assert_eq!(sizes(vectors(40, 4), 16_384), [16, 16, 8]);
        let large = sizes(vectors(1000, 384), 10);
        assert!(large.len() == 2 && large.iter().sum::<usize>() == 1000, "{large:?}");
        assert_eq!(sizes(vectors(2, 250_000), 10), [1, 1]);
    }

    #[test]
    fn a_file_whose_name_matters_is_asked_for_in_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.npy");
        fs::write(&file, "").unwrap();
        let asked_of = |is_file, text: Option<&str>, more: &[&str]| {
            let args = SearchArgs { path: file.clone(), ..args(more) };
            let filter = text.map(|text| filter(text).unwrap());
            asked(&args, is_file, filter.as_ref()).unwrap().only
        };
        let name = Some(b"a.npy".to_vec());
        assert_eq!(asked_of(true, Some("row.x = 1"), &[]), name);
        assert_eq!(asked_of(true, Some("not path ~ \"*\""), &[]), name);
        assert_eq!(asked_of(true, None, &["--show", "x"]), name);
        assert_eq!(asked_of(true, Some("slot = 1"), &[]), None);
        assert_eq!(asked_of(false, Some("row.x = 1"), &[]), None);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let by_link = SearchArgs { path: link, ..args(&["--show", "x"]) };
        assert_eq!(asked(&by_link, true, None).unwrap().only, name);
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
                answers: vec![],
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
