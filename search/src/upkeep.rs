// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What an index is like, file by file, and how good its answers are: for those who look after it.
//!
//! Recall is measured on rows of the file itself: the part of the true nearest neighbours, by comparing with
//! every vector, that a search finds at a width. Nothing here changes an index.

use crate::corpus::header::{TEXT, Trouble};
use crate::rights::names::Scope;
use crate::snapshot::Snapshot;
use bincode::{Decode, Encode};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Instant;
use vexfs_index::{FileId, Index, IndexError, SEARCH_LIMIT, Slot};

/// How many neighbours are looked for.
const NEIGHBOURS: usize = 10;
/// Widths that [`widths`] tries.
const WIDTHS: [u32; 9] = [10, 20, 40, 80, 160, 320, 640, 1280, 2560];
/// How often another row is taken because one is a hole or cannot be compared.
const SPARE: u64 = 4;

/// One vector file of an index.
#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub struct FileStatus {
    /// Its inode.
    pub ino: u64,
    /// One of its paths.
    pub path: Vec<u8>,
    /// Rows that can be found.
    pub rows: u64,
    /// Dimensions; 0 if it is left out.
    pub dimensions: u32,
    /// Element type; empty if it is left out.
    pub element: String,
    /// Metric; empty if it is left out.
    pub metric: String,
    /// Immutable segments.
    pub segments: u64,
    /// Segments with a graph.
    pub graphs: u64,
    /// Rows that are gone, and that no merge has dropped yet.
    pub tombstones: u64,
    /// Rows that are in no graph.
    pub pending: u64,
    /// Rows that cannot be compared.
    pub skipped: u64,
    /// Bytes in memory.
    pub bytes: u64,
    /// Why it is not searched as expected.
    pub reason: Option<String>,
}

/// What a file's index is worth.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Recall {
    /// The width of the search; `None` for the index's default.
    pub ef: Option<u32>,
    /// Rows that were searched for.
    pub queries: u64,
    /// The part of their ten true neighbours that was found, from 0 to 1.
    pub recall: f64,
    /// Microseconds of a search.
    pub micros: f64,
    /// Microseconds of comparing with every vector.
    pub exact_micros: f64,
}

/// What was measured of a file, or one line that says why nothing was.
pub type Measured = Result<Vec<Recall>, String>;

/// The vector files in `scope`, by path.
#[must_use]
pub fn status(snapshot: &Snapshot, scope: &Scope) -> Vec<FileStatus> {
    let one = |(ino, path): (&u64, &Vec<u8>)| {
        let trouble = snapshot.files.get(ino)?;
        let reason = trouble.as_ref().map(|trouble| match trouble {
            Trouble::Text => TEXT.to_owned(),
            Trouble::Unusable(why) | Trouble::Partial(why) | Trouble::Unreadable(why) => {
                why.clone()
            }
        });
        let index = snapshot.index.as_ref();
        let space = index.and_then(|index| index.space(FileId(*ino)));
        let counts = index.and_then(|index| index.file_stats(FileId(*ino))).unwrap_or_default();
        Some(FileStatus {
            ino: *ino,
            path: path.clone(),
            rows: counts.vectors,
            dimensions: space.map_or(0, |space| space.dim),
            element: space.map_or_else(String::new, |space| space.element.to_string()),
            metric: space.map_or_else(String::new, |space| space.metric.to_string()),
            segments: counts.segments,
            graphs: counts.graphs,
            tombstones: counts.tombstones,
            pending: counts.pending,
            skipped: counts.skipped,
            bytes: counts.bytes,
            reason,
        })
    };
    let mut files: Vec<FileStatus> = scope.files.iter().filter_map(one).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// What could be measured, or one line that says why nothing.
///
/// # Errors
/// The file has no row that can be searched for, or its index is damaged.
pub fn recall(
    index: &Index,
    file: u64,
    queries: u64,
    ef: &[Option<u32>],
) -> Result<Vec<Recall>, String> {
    let sample = sample(index, FileId(file), queries)?;
    let asked = |ef: Option<u32>, exact: bool| {
        let begun = Instant::now();
        let mut found = Vec::with_capacity(sample.len());
        for query in &sample {
            let ef = ef.map(|ef| ef as usize);
            let hits = index.search(&[FileId(file)], query, NEIGHBOURS, ef, exact);
            found.push(hits.map_err(|e| e.to_string())?);
        }
        let micros = begun.elapsed().as_secs_f64() * 1e6 / sample.len() as f64;
        Ok::<_, String>((found, micros))
    };
    let (truth, exact_micros) = asked(None, true)?;
    ef.iter()
        .map(|&ef| {
            let (found, micros) = asked(ef, false)?;
            // Of equally near rows any will do, so distances are compared.
            let (mut right, mut all) = (0, 0);
            for (found, truth) in found.iter().zip(&truth) {
                let furthest = truth.last().map_or(f32::INFINITY, |hit| hit.distance);
                right += found.iter().filter(|hit| hit.distance <= furthest).count();
                all += truth.len();
            }
            let recall = right as f64 / all.max(1) as f64;
            Ok(Recall { ef, queries: sample.len() as u64, recall, micros, exact_micros })
        })
        .collect()
}

/// Recall and time at growing widths, as far as a recall of 1.
///
/// # Errors
/// As [`recall`].
pub fn widths(index: &Index, file: u64, queries: u64) -> Result<Vec<Recall>, String> {
    let ef: Vec<Option<u32>> =
        WIDTHS.into_iter().filter(|ef| *ef as usize <= SEARCH_LIMIT).map(Some).collect();
    let mut all = recall(index, file, queries, &ef)?;
    let enough = all.iter().position(|one| one.recall >= 1.0).unwrap_or(all.len());
    all.truncate(enough + 1);
    Ok(all)
}

/// Rows of a file as queries, evenly spread.
fn sample(index: &Index, file: FileId, queries: u64) -> Result<Vec<Vec<f32>>, String> {
    let rows = index.file_stats(file).map_or(0, |counts| counts.vectors + counts.skipped);
    let mut sample = Vec::new();
    let step = (rows / queries.max(1)).max(1);
    let mut tried = 0;
    let mut slot = 0;
    while (sample.len() as u64) < queries && tried < queries.saturating_mul(SPARE) && slot < rows {
        match index.get(file, Slot(slot)) {
            Ok(row) => {
                sample.push(row);
                slot += step;
            }
            Err(IndexError::UnknownSlot { .. }) => slot += 1,
            Err(e) => return Err(e.to_string()),
        }
        tried += 1;
    }
    if sample.is_empty() {
        return Err("it has no rows that could be searched for".to_owned());
    }
    Ok(sample)
}

/// The files as a table, with totals.
#[must_use]
pub fn table(files: &[FileStatus]) -> String {
    let mut text = format!(
        "{:>10} {:>6} {:>5} {:>8} {:>5} {:>7} {:>8} {:>8} {:>12}  path\n",
        "rows", "dims", "type", "metric", "segs", "graphs", "tombs", "pending", "bytes"
    );
    let mut total = FileStatus::default();
    let mut line = |file: &FileStatus, name: &str| {
        let _ = writeln!(
            text,
            "{:>10} {:>6} {:>5} {:>8} {:>5} {:>7} {:>8} {:>8} {:>12}  {name}",
            file.rows,
            file.dimensions,
            file.element,
            file.metric,
            file.segments,
            file.graphs,
            file.tombstones,
            file.pending,
            file.bytes,
        );
    };
    for file in files {
        let path = String::from_utf8_lossy(&file.path);
        let name: String = path.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let reason = file.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        line(file, &format!("{name}{reason}"));
        total.rows += file.rows;
        total.segments += file.segments;
        total.graphs += file.graphs;
        total.tombstones += file.tombstones;
        total.pending += file.pending;
        total.bytes += file.bytes;
    }
    line(&total, &format!("total of {} files", files.len()));
    text
}

/// The files as JSON.
#[must_use]
pub fn to_json(files: &[FileStatus]) -> Value {
    let one = |file: &FileStatus| {
        json!({
            "path": String::from_utf8_lossy(&file.path),
            "rows": file.rows,
            "dimensions": file.dimensions,
            "type": file.element,
            "metric": file.metric,
            "segments": file.segments,
            "graphs": file.graphs,
            "tombstones": file.tombstones,
            "pending": file.pending,
            "skipped": file.skipped,
            "bytes": file.bytes,
            "reason": file.reason,
        })
    };
    Value::Array(files.iter().map(one).collect())
}

/// What was measured of one file, as JSON.
#[must_use]
pub fn recall_json(path: &[u8], measured: &Measured) -> Value {
    let one = |one: &Recall| {
        json!({
            "ef": one.ef,
            "queries": one.queries,
            "recall": one.recall,
            "us": one.micros,
            "exact_us": one.exact_micros,
        })
    };
    let path = String::from_utf8_lossy(path);
    match measured {
        Ok(all) => json!({ "path": path, "measured": all.iter().map(one).collect::<Vec<_>>() }),
        Err(why) => json!({ "path": path, "reason": why }),
    }
}

/// What was measured of one file, as lines.
#[must_use]
pub fn recall_text(path: &[u8], measured: &Measured) -> String {
    let path = String::from_utf8_lossy(path);
    let mut text = String::new();
    match measured {
        Err(why) => {
            let _ = writeln!(text, "{path}: {why}");
        }
        Ok(all) => {
            for one in all {
                let ef = one.ef.map_or_else(|| "default".to_owned(), |ef| ef.to_string());
                let _ = writeln!(
                    text,
                    "{path}: ef {ef:>7}  recall@10 {:.4}  {:>9.1} us  (exact {:>9.1} us, {} queries)",
                    one.recall, one.micros, one.exact_micros, one.queries
                );
            }
        }
    }
    text
}

/// The smallest width that reaches a recall.
#[must_use]
pub fn smallest(measured: &[Recall], wished: f64) -> Option<&Recall> {
    measured.iter().find(|one| one.recall >= wished)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use vexfs_index::{Element, Metric, Options, Params, Space};

    fn index(rows: u64) -> Index {
        let (index, _) = Index::open(None, Options { nice: 0, ..Options::default() }).unwrap();
        let space = Space::new(Element::F32, Metric::L2, 8);
        index.declare(FileId(5), space, Params::default()).unwrap();
        for slot in 0..rows {
            let numbers = (0..8).map(|i| ((slot * 31 + i * 7) as f32 * 0.37).sin());
            let row: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
            index.upsert(FileId(5), Slot(slot), &row).unwrap();
        }
        index.settle();
        index
    }

    #[test]
    fn recall_is_one_where_all_is_scanned_and_grows_with_the_width() {
        let small = index(100);
        let one = recall(&small, 5, 20, &[None]).unwrap().remove(0);
        assert_eq!((one.recall, one.queries), (1.0, 20));
        let large = index(6000);
        let all = widths(&large, 5, 40).unwrap();
        assert!(all.iter().is_sorted_by(|a, b| a.ef < b.ef));
        let last = all.last().unwrap();
        assert!(last.recall > 0.99, "{all:?}");
        assert_eq!(smallest(&all, 0.0).unwrap().ef, Some(10));
        assert!(smallest(&all, 1.1).is_none());
        assert!(recall(&large, 6, 5, &[None]).unwrap_err().contains("no rows"));
    }

    #[test]
    fn a_file_that_is_left_out_is_in_the_table_with_its_reason() {
        let files = BTreeMap::from([(5, None), (6, Some(Trouble::Unusable("odd".into())))]);
        let snapshot = Snapshot {
            index: Some(Arc::new(index(10))),
            files: Arc::new(files),
            ..Snapshot::default()
        };
        let scope = Scope {
            files: [(5, b"b".to_vec()), (6, b"a\n".to_vec()), (7, b"none".to_vec())].into(),
            ..Scope::default()
        };
        let status = status(&snapshot, &scope);
        let paths: Vec<_> = status.iter().map(|file| file.path.as_slice()).collect();
        assert_eq!(paths, [&b"a\n"[..], b"b"]);
        assert_eq!((status[1].rows, status[1].dimensions), (10, 8));
        let text = table(&status);
        assert!(text.contains("a?: odd") && text.contains("total of 2 files"), "{text}");
        assert_eq!(to_json(&status)[0]["reason"], "odd");
    }
}
