// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What was found, as tables, as JSON, and as the lines beside them.

use super::{Answer, AskArgs};
use crate::ask::{Found, Hit, Shown};
use crate::sidecar;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use vexfs_index::npy;

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

/// Which widths were taken, and whether more is within the radius than is shown.
#[must_use]
pub fn remarks(answers: &[Answer], args: &AskArgs) -> Vec<String> {
    let mut lines = Vec::new();
    let all = || answers.iter().flat_map(|(found, _)| &found.answers);
    if let Some(recall) = args.recall {
        lines.push(match all().filter_map(|answer| answer.ef).max() {
            Some(ef) => format!("ef {ef} was taken for a recall of {recall}"),
            None => format!("for a recall of {recall} every vector was compared"),
        });
    }
    if all().any(|answer| answer.cut) {
        let k = args.k();
        lines.push(format!("more than {k} vectors are that near: these are the nearest; give -k"));
    }
    lines
}

/// What was found, as JSON: an object, or of a batch a list of them.
#[must_use]
pub fn to_json(answers: &[Answer], args: &AskArgs) -> serde_json::Value {
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

/// What was found, as a table for each query. `names_beside` has the names of a file's rows, in order.
pub fn to_text(
    answers: &[Answer],
    args: &AskArgs,
    names_beside: &mut dyn FnMut(&Path) -> Vec<String>,
) -> String {
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

/// The file that has the names of a file's rows, if there is one.
#[must_use]
pub fn names_file(path: &Path) -> PathBuf {
    path.with_extension("tsv")
}

/// The names in such a file: its lines, after the one with the names of its columns, if it has one: not if
/// there are as many lines as `rows`.
#[must_use]
pub fn names_of_rows(text: &str, rows: Option<u64>) -> Vec<String> {
    let header = text.lines().next().is_some_and(sidecar::has_header)
        && rows != Some(text.lines().count() as u64);
    text.lines().skip(usize::from(header)).map(|line| line.replace('\t', "  ")).collect()
}

/// Bytes from a file's start that say how many rows it has.
pub const HEAD_BYTES: u64 = 4096;

/// How many rows an `.npy` file says that it has, by its first [`HEAD_BYTES`].
#[must_use]
pub fn rows_of(head: &[u8]) -> Option<u64> {
    Some(npy::parse(head)?.rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Answered;
    use crate::client::joined;
    use crate::client::tests::args;
    use std::fs;

    #[test]
    fn hits_are_shown_with_paths_and_names() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sub/a.npy");
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(&file, "").unwrap();
        fs::write(file.with_extension("tsv"), "first\tx\nsecond\ty\n").unwrap();
        assert_eq!(joined(&file, b""), file);
        let mut beside = |path: &Path| {
            let text = fs::read_to_string(names_file(path)).unwrap_or_default();
            names_of_rows(&text, Some(2))
        };
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
        let text = to_text(&answers, &args(&[]), &mut beside);
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
        let text = to_text(&answers, &batch, &mut beside);
        assert!(text.contains("query 0\n") && text.contains("query 1\n"), "{text}");
        assert!(text.contains("a b  -  ") && text.contains("7  true  "), "{text}");
    }

    #[test]
    fn a_line_of_column_names_names_no_row() {
        let text = "year\ttag\n2020\tx\n";
        assert_eq!(names_of_rows(text, None), ["2020  x"]);
        assert_eq!(names_of_rows(text, Some(1)), ["2020  x"]);
        // As many lines as rows: all of them are names.
        assert_eq!(names_of_rows(text, Some(2)), ["year  tag", "2020  x"]);
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
