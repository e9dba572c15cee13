// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Answers a search: from a state of the index, the files that the caller may read, and a query to hits, or
//! to one line that says why there are none.

use crate::ask::{Found, Hit, Query, Search};
use crate::corpus::header::{TEXT, Trouble};
use crate::rights::names::Scope;
use crate::snapshot::Snapshot;
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use vexfs_index::{Element, FileId, Index, IndexError, Slot, Space};

/// The paths of these files.
fn paths_of(scope: &Scope, files: impl Iterator<Item = u64>) -> Vec<(u64, Vec<u8>)> {
    let files: BTreeSet<u64> = files.collect();
    files.into_iter().filter_map(|ino| Some((ino, scope.files.get(&ino)?.clone()))).collect()
}

/// Whether a file of text holds the names of another file's rows: `NAME.tsv` beside `NAME.npy`.
fn names_rows(path: &[u8], paths: &BTreeSet<&[u8]>) -> bool {
    let Some(stem) = path.strip_suffix(b"tsv").filter(|stem| stem.ends_with(b".")) else {
        return false;
    };
    let beside = paths.range(stem..).map_while(|other| Some((*other, other.strip_prefix(stem)?)));
    beside.filter(|(other, _)| *other != path).any(|(_, end)| !end.contains(&b'/'))
}

/// Why a state has no index.
#[must_use]
pub fn no_index(snapshot: &Snapshot) -> String {
    let none = || "there is no VexFS on the device".to_owned();
    snapshot.problem.clone().unwrap_or_else(none)
}

/// The message about a generation that is waited for in vain.
#[must_use]
pub fn too_early(snapshot: &Snapshot, wanted: u64) -> String {
    let generation = snapshot.generation;
    match &snapshot.problem {
        Some(problem) => {
            format!("the index is at generation {generation}, not {wanted}: {problem}")
        }
        None => format!(
            "the index is at generation {generation}, not {wanted}: is that committed? sync the filesystem, or ask for less"
        ),
    }
}

/// Answers a search of the files in `scope`.
///
/// # Errors
/// One line that says why nothing could be searched, and what to do.
pub fn search_in(snapshot: &Snapshot, scope: &Scope, search: &Search) -> Result<Found, String> {
    let Some(index) = &snapshot.index else { return Err(no_index(snapshot)) };
    let mut notes = Vec::new();
    let mut files = Vec::new();
    let paths = LazyCell::new(|| scope.files.values().map(Vec::as_slice).collect());
    for (ino, path) in &scope.files {
        match snapshot.files.get(ino) {
            None if scope.single => return Err(NOT_A_VECTOR_FILE.to_owned()),
            Some(Some(Trouble::Text)) if scope.single => return Err(TEXT.to_owned()),
            // Most files of a filesystem are none; the client knows which were meant to be.
            None => {}
            Some(Some(Trouble::Text)) if names_rows(path, &paths) => {}
            Some(Some(Trouble::Text)) => notes.push((*ino, format!("left out: {TEXT}"))),
            Some(Some(Trouble::Unusable(why))) if scope.single => return Err(why.clone()),
            Some(Some(Trouble::Unusable(why))) => notes.push((*ino, format!("left out: {why}"))),
            Some(Some(Trouble::Partial(why) | Trouble::Unreadable(why))) => {
                notes.push((*ino, why.clone()));
                files.push(FileId(*ino));
            }
            Some(None) => files.push(FileId(*ino)),
        }
    }
    if files.is_empty() && !notes.is_empty() {
        return Ok(Found {
            generation: snapshot.generation,
            searched: 0,
            denied: scope.denied as u64,
            caught_up: false,
            hits: Vec::new(),
            paths: paths_of(scope, notes.iter().map(|(ino, _)| *ino)),
            notes,
            problem: snapshot.problem.clone(),
        });
    }
    let query = query_vector(index, scope, search, &files)?;
    let (files, others) =
        of_one_space(index, files, query.len()).map_err(|why| match scope.denied {
            0 => why,
            denied => format!("{why} ({denied} files or directories there you may not read)"),
        })?;
    notes.extend(others.iter().take(OTHERS_MAX).map(|(file, dim)| {
        let dims = query.len();
        (file.0, format!("left out: its vectors have {dim} dimensions, the query {dims}"))
    }));
    if let Some((file, _)) = others.get(OTHERS_MAX) {
        let more = others.len() - OTHERS_MAX;
        notes.push((file.0, format!("left out with {} more of other dimensions", more - 1)));
    }
    let ef = search.ef.map(|ef| ef as usize);
    let hits = index
        .search(&files, &query, search.k as usize, ef, search.exact)
        .map_err(|e| e.to_string())?;
    let named = hits.iter().map(|hit| hit.file.0).chain(notes.iter().map(|(ino, _)| *ino));
    let paths = paths_of(scope, named);
    Ok(Found {
        generation: snapshot.generation,
        searched: files.len() as u64,
        denied: scope.denied as u64,
        caught_up: false,
        hits: hits
            .into_iter()
            .map(|hit| Hit { file: hit.file.0, slot: hit.slot.0, distance: hit.distance })
            .collect(),
        notes,
        paths,
        problem: snapshot.problem.clone(),
    })
}

const NOT_A_VECTOR_FILE: &str = "not a vector file: set vexfs.vector on it with setfattr";

fn query_vector(
    index: &Index,
    scope: &Scope,
    search: &Search,
    files: &[FileId],
) -> Result<Vec<f32>, String> {
    match (&search.query, scope.files.keys().next()) {
        (Query::Vector(vector), _) => Ok(vector.clone()),
        (Query::Bytes { bytes, signed }, _) => {
            let spaces = files.iter().filter_map(|file| index.space(*file));
            Ok(numbers(bytes, *signed, spaces))
        }
        (Query::Like(slot), Some(file)) if scope.single => {
            index.get(FileId(*file), Slot(*slot)).map_err(|e| match e {
                IndexError::UnknownSlot { .. } => {
                    format!("there is no vector in slot {slot}: choose another slot for --like")
                }
                other => other.to_string(),
            })
        }
        (Query::Like(_), _) => Err("--like needs one vector file, not a directory".to_owned()),
    }
}

/// Bytes as the files take them: as numbers where there are files of so many dimensions, and otherwise as
/// packed bits where there are files of so many bytes of bits.
fn numbers(
    bytes: &[u8],
    signed: bool,
    mut spaces: impl Iterator<Item = Space> + Clone,
) -> Vec<f32> {
    let plain = spaces.clone().any(|space| space.dim as usize == bytes.len());
    let packed = |space: &Space| {
        space.element == Element::Bit && space.dim.div_ceil(8) as usize == bytes.len()
    };
    match spaces.find(packed).filter(|_| !plain) {
        Some(space) => {
            let flip = if signed { 0x80 } else { 0 };
            let bit = |i: usize| (bytes[i / 8] ^ flip) >> (7 - i % 8) & 1;
            (0..space.dim as usize).map(|i| f32::from(bit(i))).collect()
        }
        None if signed => bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
        None => bytes.iter().map(|byte| f32::from(*byte)).collect(),
    }
}

/// How many files of other dimensions are named one by one.
const OTHERS_MAX: usize = 8;

/// Files whose vectors the query can be compared with, and the others with their dimensions.
type OneSpace = (Vec<FileId>, Vec<(FileId, u32)>);

/// Separates the files whose vectors the query can be compared with from the others. A directory may hold
/// files of several spaces, but distances of different metrics cannot be ranked together.
fn of_one_space(index: &Index, files: Vec<FileId>, dim: usize) -> Result<OneSpace, String> {
    let spaces: BTreeMap<FileId, Space> =
        files.iter().filter_map(|file| Some((*file, index.space(*file)?))).collect();
    if files.is_empty() {
        return Err(
            "no vector files there: set vexfs.vector on them, or on a directory before they are written"
                .to_owned(),
        );
    }
    let fits = |file: &FileId| spaces.get(file).is_none_or(|space| space.dim as usize == dim);
    let (same, other): (Vec<_>, Vec<_>) = files.into_iter().partition(fits);
    if same.is_empty() {
        let dims: BTreeSet<u32> =
            other.iter().filter_map(|file| spaces.get(file)).map(|space| space.dim).collect();
        let dims: Vec<String> = dims.iter().map(u32::to_string).collect();
        return Err(format!(
            "the query has {dim} dimensions, the vectors there have {}",
            dims.join(" or ")
        ));
    }
    let metrics: BTreeSet<String> =
        same.iter().filter_map(|file| spaces.get(file)).map(|s| s.metric.to_string()).collect();
    if metrics.len() > 1 {
        let metrics: Vec<String> = metrics.into_iter().collect();
        return Err(format!(
            "the vectors there are of different metrics ({}), whose distances cannot be ranked together: search them one by one",
            metrics.join(", ")
        ));
    }
    let others = other.into_iter().filter_map(|file| Some((file, spaces.get(&file)?.dim)));
    Ok((same, others.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vexfs_index::{Metric, Options, Params};

    fn snapshot() -> Snapshot {
        let (index, _) = Index::open(None, Options::default()).unwrap();
        let space = |dim| Space { element: Element::F32, metric: Metric::L2, dim };
        for (file, dim) in [(10, 2), (11, 2), (12, 3)] {
            index.declare(FileId(file), space(dim), Params::default()).unwrap();
            for slot in 0..5u8 {
                let row: Vec<u8> =
                    (0..dim).flat_map(|_| (f32::from(slot) + file as f32).to_le_bytes()).collect();
                index.upsert(FileId(file), Slot(slot.into()), &row).unwrap();
            }
        }
        let files = BTreeMap::from([
            (10, None),
            (11, Some(Trouble::Partial("3 bytes over".into()))),
            (12, None),
            (13, Some(Trouble::Unusable("odd".into()))),
            (14, Some(Trouble::Text)),
        ]);
        let index = Some(Arc::new(index));
        Snapshot { index, generation: 7, files: Arc::new(files), ..Snapshot::default() }
    }

    fn scope(files: impl IntoIterator<Item = u64>, single: bool) -> Scope {
        let files = files.into_iter().map(|ino| (ino, format!("file-{ino}").into())).collect();
        Scope { single, files, ..Scope::default() }
    }

    const fn search(query: Query, k: u32) -> Search {
        Search { query, k, ef: None, exact: true, at_least: None }
    }

    fn ask(files: &[u64], single: bool, query: Query) -> Result<Found, String> {
        search_in(&snapshot(), &scope(files.iter().copied(), single), &search(query, 3))
    }

    #[test]
    fn hits_of_several_files_are_ranked_together() {
        let found = ask(&[10, 11, 14, 99], false, Query::Vector(vec![12.4, 12.4])).unwrap();
        let hits: Vec<_> = found.hits.iter().map(|h| (h.file, h.slot)).collect();
        assert_eq!(hits, [(10, 2), (11, 1), (10, 3)]);
        assert_eq!(
            (found.generation, found.notes.as_slice()),
            (7, &[(11, "3 bytes over".into()), (14, format!("left out: {TEXT}"))][..])
        );
        let paths = [10u64, 11, 14].map(|ino| (ino, format!("file-{ino}").into_bytes()));
        assert_eq!(found.paths, paths, "of the files that are named, and no others");
        assert_eq!(found.searched, 2);
        let like = ask(&[10], true, Query::Like(4)).unwrap();
        assert_eq!((like.hits[0].slot, like.hits[0].distance), (4, 0.0));
    }

    #[test]
    fn names_of_rows_lie_beside_their_vectors() {
        let paths: [&[u8]; 6] = [b"a.npy", b"a.tsv", b"b.tsv", b"c.tsv", b"sub/c.npy", b"c./d.npy"];
        let all = paths.into_iter().collect();
        let named = paths.map(|path| names_rows(path, &all));
        assert_eq!(named, [false, true, false, false, false, false]);
    }

    // Files of another dimension were left out silently.
    #[test]
    fn files_of_another_dimension_are_named() {
        let found = ask(&[10, 12], false, Query::Vector(vec![12.4, 12.4])).unwrap();
        assert_eq!(found.hits.iter().map(|hit| hit.file).collect::<Vec<_>>(), [10, 10, 10]);
        let note = "left out: its vectors have 3 dimensions, the query 2".to_owned();
        assert_eq!(found.notes, [(12, note)]);

        let snapshot = snapshot();
        let index = snapshot.index.as_ref().unwrap();
        let space = Space { element: Element::F32, metric: Metric::L2, dim: 5 };
        let many: Vec<_> = (100..120).map(FileId).collect();
        for file in &many {
            index.declare(*file, space, Params::default()).unwrap();
        }
        let files = many.into_iter().chain([FileId(10)]).collect();
        let (same, others) = of_one_space(index, files, 2).unwrap();
        assert_eq!((same.len(), others.len()), (1, 20));
        let mut all = snapshot;
        let listed = (100..120).map(|ino| (ino, None));
        all.files =
            Arc::new(all.files.iter().map(|(i, t)| (*i, t.clone())).chain(listed).collect());
        let files = (100..120).chain([10]);
        let search = search(Query::Vector(vec![0.0; 2]), 1);
        let notes = search_in(&all, &scope(files, false), &search).unwrap().notes;
        assert_eq!(notes.len(), OTHERS_MAX + 1);
        assert_eq!(notes[OTHERS_MAX].1, "left out with 11 more of other dimensions");
    }

    // The message named inodes, which no user knows.
    #[test]
    fn files_of_different_metrics_are_refused_with_the_names_of_the_metrics() {
        let snapshot = snapshot();
        let index = snapshot.index.as_ref().unwrap();
        let space = Space { element: Element::F32, metric: Metric::Dot, dim: 2 };
        index.declare(FileId(11), space, Params::default()).unwrap();
        let search = search(Query::Vector(vec![0.0; 2]), 3);
        let error = search_in(&snapshot, &scope([10, 11], false), &search).unwrap_err();
        assert!(error.contains("different metrics (dot, l2)"), "{error}");
    }

    // A file's own search failed while its last row was incomplete, that of its directory answered.
    #[test]
    fn an_incomplete_last_row_is_a_note_for_the_file_and_for_its_directory() {
        for single in [true, false] {
            let found = ask(&[11], single, Query::Vector(vec![11.0, 11.0])).unwrap();
            assert_eq!((found.hits[0].slot, found.searched), (0, 1));
            assert_eq!(found.notes, [(11, "3 bytes over".to_owned())]);
        }
    }

    // 'No vector files there' was said where the file's own search said why.
    #[test]
    fn a_directory_of_files_that_are_left_out_says_the_reason_of_each() {
        let found = ask(&[13, 14, 99], false, Query::Vector(vec![0.0; 2])).unwrap();
        assert_eq!((found.hits.len(), found.searched), (0, 0));
        let own = |file| ask(&[file], true, Query::Vector(vec![0.0; 2])).unwrap_err();
        let reasons = [13, 14].map(|file| (file, format!("left out: {}", own(file))));
        assert_eq!(found.notes, reasons);
    }

    #[test]
    fn a_query_of_bytes_is_numbers_or_packed_bits_as_the_files_are() {
        let space = |element, metric, dim| Space { element, metric, dim };
        let bits = space(Element::Bit, Metric::Hamming, 12);
        let wide = space(Element::F32, Metric::L2, 2);
        let unpacked = [1., 0., 1., 0., 0., 0., 0., 0., 0., 1., 1., 0.];
        assert_eq!(numbers(&[0xa0, 0x60], false, [bits].into_iter()), unpacked);
        assert_eq!(numbers(&[0x20, 0xe0], true, [bits].into_iter()), unpacked);
        assert_eq!(numbers(&[0xa0, 0x60], false, [bits, wide].into_iter()), [160.0, 96.0]);
        assert_eq!(numbers(&[0xa0, 0x60], true, [wide].into_iter()), [-96.0, 96.0]);
        assert_eq!(numbers(&[1; 12], true, [bits].into_iter()), [1.0; 12]);
        assert_eq!(numbers(&[3; 5], false, [bits].into_iter()), [3.0; 5]);
    }

    // When the indexer could not go on, searches silently answered from an old index.
    #[test]
    fn an_indexer_with_a_problem_says_so_in_every_answer() {
        let snapshot = Snapshot { problem: Some("the medium failed".into()), ..snapshot() };
        let search = search(Query::Vector(vec![0.0; 2]), 1);
        let found = search_in(&snapshot, &scope([10], true), &search).unwrap();
        assert_eq!(found.problem.as_deref(), Some("the medium failed"));
    }

    #[test]
    fn every_reason_is_one_line() {
        let vector = |n| Query::Vector(vec![0.0; n]);
        for (files, single, query, words) in [
            (&[99][..], true, vector(2), "not a vector file"),
            (&[99], false, vector(2), "no vector files"),
            (&[13], true, vector(2), "odd"),
            (&[14], true, vector(2), "it holds text"),
            (&[10, 11, 12], false, vector(5), "5 dimensions, the vectors there have 2 or 3"),
            (&[12], true, vector(2), "2 dimensions"),
            (&[10], true, Query::Vector(vec![f32::NAN, 0.0]), "NaN"),
            (&[10], true, Query::Like(99), "99"),
            (&[10, 11], false, Query::Like(0), "--like"),
        ] {
            let error = ask(files, single, query).unwrap_err();
            assert!(error.contains(words) && !error.contains('\n'), "{words}: {error}");
        }
        let none = search_in(&Snapshot::default(), &scope([], true), &search(vector(1), 1));
        assert!(none.unwrap_err().contains("no VexFS"));
        let denied = Scope { denied: 2, ..scope([], false) };
        let none = search_in(&snapshot(), &denied, &search(vector(2), 1)).unwrap_err();
        assert!(none.contains("no vector files") && none.contains("2 files or dir"), "{none}");
    }
}
