// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Writing the index to a store and reading it back.
//!
//! Invariant: what is loaded is what was written, or nothing: one damaged row anywhere refuses
//! the whole checkpoint, because a caller that skips unchanged files would never feed it again.
//! A damaged graph costs only itself: its rows are verified, and it is built again.

use std::{
    collections::HashMap,
    io::Read,
    path::Path,
    sync::{Arc, RwLock},
};

use crate::{
    codec::{self, FileRecord, Manifest, PartRecord, RunRecord, VectorsRecord},
    error::{IndexError, Result},
    file::File,
    graph::{Dump, GRAPH_ROWS_MAX, GraphIndex, HnswGraph},
    lock,
    mutants::{self, Mutant},
    ranges::Ranges,
    read,
    rows::{Rows, read_words, write_words},
    segment::{Dead, Part, Segment, Stored},
    store::{Blob, Store, read_verified},
    tail::Tail,
    vector::{FileId, Space},
    write,
};

pub(crate) type Files = HashMap<u64, Arc<RwLock<File>>>;

/// What a checkpoint covers, in the words of whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The generation given to [`Index::checkpoint`](crate::Index::checkpoint).
    pub generation: u64,
    /// The note given with it.
    pub note: Vec<u8>,
    /// The state given for every file, in the order given.
    pub files: Vec<(FileId, Vec<u8>)>,
}

/// What [`Index::open`](crate::Index::open) found.
#[derive(Debug)]
pub struct Recovered {
    /// The checkpoint that was loaded; without one the index is empty.
    pub covered: Option<Covered>,
    /// What could not be used, and why. Empty and nothing covered: there was no checkpoint.
    pub problems: Vec<IndexError>,
}

/// What a checkpoint cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Blobs that were not there before.
    pub blobs: u64,
    /// Their bytes and the manifest's.
    pub bytes: u64,
}

/// Bytes of slots and rows in a blob.
fn run_bytes(space: Space, rows: u64) -> Option<u64> {
    rows.checked_mul(8)?.checked_add(Rows::stored_bytes(space, rows)?)
}

/// A checkpoint being written.
struct Saving<'a> {
    store: &'a mut dyn Store,
    scratch: &'a Path,
    written: Written,
    // What to remember once the manifest is durable.
    segments: Vec<(Arc<Segment>, Stored)>,
    tails: Vec<(Arc<RwLock<File>>, u64, Blob)>,
}

impl Saving<'_> {
    fn count(&mut self, blob: Blob) -> Blob {
        self.written.blobs += 1;
        self.written.bytes += blob.bytes;
        blob
    }

    fn run(&mut self, space: Space, slots: &[u64], rows: &Rows) -> Result<Blob> {
        let bytes = run_bytes(space, slots.len() as u64).unwrap_or(u64::MAX);
        let blob = self.store.write_blob(bytes, &mut |out| {
            write_words(out, slots, u64::to_le_bytes)
                .and_then(|()| rows.write(out))
                .map_err(IndexError::storage("writing vectors"))
        })?;
        Ok(self.count(blob))
    }

    fn part(&mut self, space: Space, part: &Part) -> Result<PartRecord> {
        let segment = &part.segment;
        let before = *lock(&segment.stored);
        let rows = match before.rows {
            Some(blob) => blob,
            None => self.run(space, &segment.slots, &segment.rows)?,
        };
        let graph = match (before.graph, segment.graph.get()) {
            (Some(blob), _) => Some(blob),
            (None, None) => None,
            (None, Some(graph)) => {
                let dump = graph.dump(self.scratch)?;
                let blob = self.store.write_blob(dump.bytes(), &mut |out| dump.copy_to(out))?;
                Some(self.count(blob))
            }
        };
        let now = Stored { rows: Some(rows), graph };
        self.segments.push((Arc::clone(segment), now));
        let dead = if part.dead.count() == 0 { Vec::new() } else { part.dead.words().to_vec() };
        Ok(PartRecord { run: RunRecord { rows: segment.len() as u64, blob: rows }, graph, dead })
    }

    fn file(&mut self, file: &Arc<RwLock<File>>) -> Result<VectorsRecord> {
        // One look under the lock; the tail is copied only if it has to be written.
        let (space, params, parts, skipped, stored, version, tail) = {
            let file = read(file);
            let stored = file.tail_stored.filter(|(version, _)| {
                *version == file.tail.version || mutants::is(Mutant::TailStale)
            });
            let tail = stored.is_none().then(|| file.tail.clone());
            let skipped = file.skipped.to_pairs();
            let version = file.tail.version;
            (file.space, file.params, file.parts.clone(), skipped, stored, version, tail)
        };
        let len = tail.as_ref().map_or(0, Tail::len);
        let tail = match (stored, tail) {
            (Some((_, blob)), _) => {
                run_rows(space, blob.bytes).map(|rows| RunRecord { rows, blob })
            }
            (None, Some(tail)) if len > 0 => {
                let blob = self.run(space, &tail.slots, &tail.rows)?;
                self.tails.push((Arc::clone(file), version, blob));
                Some(RunRecord { rows: len as u64, blob })
            }
            _ => None,
        };
        let live = parts.iter().filter(|part| part.live() > 0);
        let parts = live.map(|part| self.part(space, part)).collect::<Result<_>>()?;
        Ok(VectorsRecord { space, params, skipped, tail, parts })
    }
}

/// How many rows a run of so many bytes holds.
fn run_rows(space: Space, bytes: u64) -> Option<u64> {
    Some(bytes / run_bytes(space, 1)?)
}

/// What is being checkpointed.
pub(crate) struct Source<'a> {
    pub owner: [u8; 16],
    pub generation: u64,
    pub note: &'a [u8],
    pub states: &'a [(FileId, Vec<u8>)],
    pub files: &'a Files,
}

/// Writes a checkpoint; `live` is what the last one named, and becomes what this one names.
pub(crate) fn save(
    store: &mut dyn Store,
    scratch: &Path,
    live: &mut Vec<Blob>,
    source: &Source<'_>,
) -> Result<Written> {
    let mut saving = Saving {
        store,
        scratch,
        written: Written::default(),
        segments: Vec::new(),
        tails: Vec::new(),
    };
    let prepared = (|| {
        let mut files = Vec::with_capacity(source.states.len());
        for (id, state) in source.states {
            let vectors = source.files.get(&id.0).map(|file| saving.file(file)).transpose()?;
            files.push(FileRecord { file: id.0, state: state.clone(), vectors });
        }
        let manifest = Manifest {
            owner: source.owner,
            generation: source.generation,
            note: source.note.to_vec(),
            files,
        };
        Ok((manifest.blobs(), codec::seal(&manifest)?))
    })();
    let (blobs, bytes) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // What was written in vain is given back; the error that matters is the first one.
            let _ = saving.store.retain(live);
            return Err(error);
        }
    };
    if mutants::is(Mutant::FreedEarly) {
        saving.store.retain(&blobs)?;
    }
    // If this fails, either manifest may be the durable one: the blobs of both stay.
    saving.store.publish(&bytes)?;
    saving.written.bytes += bytes.len() as u64;
    for (segment, stored) in saving.segments {
        *lock(&segment.stored) = stored;
    }
    for (file, version, blob) in saving.tails {
        write(&file).tail_stored = Some((version, blob));
    }
    *live = blobs;
    saving.store.retain(live)?;
    Ok(saving.written)
}

/// What was loaded.
pub(crate) struct Loaded {
    pub covered: Covered,
    pub files: Files,
    pub live: Vec<Blob>,
    /// Graphs that have to be built again.
    pub problems: Vec<IndexError>,
}

/// Reads the checkpoint of `owner`; `None` if there is none.
pub(crate) fn load(
    store: &mut dyn Store,
    scratch: &Path,
    owner: [u8; 16],
) -> Result<Option<Loaded>> {
    let Some(bytes) = store.manifest()? else { return Ok(None) };
    let manifest = codec::unseal(&bytes)?;
    drop(bytes);
    if manifest.owner != owner {
        return Err(IndexError::Foreign("it belongs to another filesystem".into()));
    }
    let live = manifest.blobs();
    // What is stored once must not be taken into memory a million times.
    let mut places: Vec<u64> = live.iter().map(|blob| blob.at).collect();
    places.sort_unstable();
    if !places.is_sorted_by(|a, b| a < b) {
        return Err(IndexError::Damaged("two runs of vectors lie in one place".into()));
    }
    let mut loaded = Loaded {
        covered: Covered {
            generation: manifest.generation,
            note: manifest.note,
            files: Vec::with_capacity(manifest.files.len()),
        },
        files: HashMap::new(),
        live,
        problems: Vec::new(),
    };
    for record in manifest.files {
        if let Some(vectors) = record.vectors {
            let file = load_file(store, scratch, record.file, vectors, &mut loaded.problems)?;
            loaded.files.insert(record.file, Arc::new(RwLock::new(file)));
        }
        loaded.covered.files.push((FileId(record.file), record.state));
    }
    Ok(Some(loaded))
}

fn load_file(
    store: &mut dyn Store,
    scratch: &Path,
    id: u64,
    record: VectorsRecord,
    problems: &mut Vec<IndexError>,
) -> Result<File> {
    let damaged = |what: &str| IndexError::Damaged(format!("file {id}: {what}"));
    let space = record.space;
    space.validate().and_then(|()| record.params.validate()).map_err(|_| damaged("its space"))?;
    let mut file = File::new(space, record.params);
    file.skipped =
        Ranges::from_pairs(&record.skipped).ok_or_else(|| damaged("its skipped slots"))?;
    if let Some(run) = record.tail {
        let (slots, rows) = load_run(store, id, space, &run)?;
        file.tail = Tail::from_parts(slots, rows).ok_or_else(|| damaged("a slot occurs twice"))?;
        file.tail_stored = Some((file.tail.version, run.blob));
    }
    for part in record.parts {
        let (slots, rows) = load_run(store, id, space, &part.run)?;
        if !slots.is_sorted_by(|a, b| a < b) {
            return Err(damaged("slots out of order"));
        }
        let len = slots.len();
        let dead = if part.dead.is_empty() {
            Dead::none(len)
        } else {
            Dead::from_words(part.dead, len).ok_or_else(|| damaged("its tombstones"))?
        };
        let segment = Segment::new(slots, rows);
        let mut stored = Stored { rows: Some(part.run.blob), graph: part.graph };
        if let Some(blob) = part.graph {
            match load_graph(store, scratch, id, &blob, &segment.rows) {
                Ok(graph) => {
                    let _ = segment.graph.set(Arc::new(graph) as Arc<dyn GraphIndex>);
                }
                Err(error) => {
                    stored.graph = None;
                    problems.push(error);
                }
            }
        }
        *lock(&segment.stored) = stored;
        file.parts.push(Part { segment: Arc::new(segment), dead: Arc::new(dead) });
    }
    Ok(file)
}

fn load_run(
    store: &mut dyn Store,
    id: u64,
    space: Space,
    run: &RunRecord,
) -> Result<(Vec<u64>, Rows)> {
    let what = format!("a run of {} vectors of file {id}", run.rows);
    // Checked before anything is allocated for it.
    if run.rows > GRAPH_ROWS_MAX as u64 || run_bytes(space, run.rows) != Some(run.blob.bytes) {
        return Err(IndexError::Damaged(format!("{what} has a wrong length")));
    }
    let count = run.rows as usize;
    let mut slots = Vec::new();
    let mut rows = Rows::new(space);
    read_verified(store, &run.blob, &what, &mut |from| {
        read_words(from, &mut slots, count, u64::from_le_bytes)
            .and_then(|()| Rows::read(space, count, from).map(|read| rows = read))
            .map_err(IndexError::storage(format!("reading {what}")))
    })?;
    Ok((slots, rows))
}

fn load_graph(
    store: &mut dyn Store,
    scratch: &Path,
    id: u64,
    blob: &Blob,
    rows: &Arc<Rows>,
) -> Result<HnswGraph> {
    let what = format!("the graph over {} vectors of file {id}", rows.len());
    let mut dump = None;
    read_verified(store, blob, &what, &mut |from: &mut dyn Read| {
        dump = Some(Dump::receive(scratch, blob.bytes, from)?);
        Ok(())
    })?;
    // Only now does the library see a byte of it.
    match dump {
        Some(dump) => HnswGraph::load(&dump, rows),
        None => Err(IndexError::Damaged(format!("{what} was not read"))),
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
