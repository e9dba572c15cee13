// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Writing the index to a store, and reading it back.
//!
//! Invariant: what is loaded is what was written, or nothing. One damaged vector refuses the whole
//! checkpoint, because a caller that skips unchanged files would never supply it again. A damaged
//! graph costs only itself: its rows are verified, and it is built again.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, RwLock},
};

use crate::{
    error::{IndexError, Result},
    graph::{self, GRAPH_ROWS_MAX, Graph},
    growing::GrowingSegment,
    manifest::{self, FileRecord, Manifest, SegmentRecord, VectorsBlob, VectorsRecord},
    mutants::{self, Mutant},
    segment::{Segment, SegmentView, Stored, Tombstones},
    slot_set::SlotSet,
    store::{Blob, Store, read_verified},
    sync::{lock, read, write},
    types::FileId,
    vector::Space,
    vector_array::{VectorArray, read_words, write_words},
    vector_file::{Files, VectorFile},
};

/// What a checkpoint covers, as it was given to [`Index::checkpoint`](crate::Index::checkpoint).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The generation.
    pub generation: u64,
    /// The note.
    pub note: Vec<u8>,
    /// The files and their states, in the order given.
    pub files: Vec<(FileId, Vec<u8>)>,
}

/// What [`Index::open`](crate::Index::open) found.
#[derive(Debug)]
pub struct Recovered {
    /// The checkpoint that was loaded; `None` if the index is empty.
    pub covered: Option<Covered>,
    /// What could not be used, and why. With no problem and nothing covered, there was no checkpoint.
    pub problems: Vec<IndexError>,
}

/// What a checkpoint cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Blobs that were not there before.
    pub blobs: u64,
    /// Bytes of those blobs and of the manifest.
    pub bytes: u64,
}

/// Bytes of a blob of slots and rows.
fn vectors_bytes(space: Space, count: u64) -> Option<u64> {
    count.checked_mul(8)?.checked_add(VectorArray::stored_bytes(space, count)?)
}

/// The vectors in a blob of so many bytes.
fn vectors_in(space: Space, bytes: u64) -> Option<u64> {
    Some(bytes / vectors_bytes(space, 1)?)
}

/// A checkpoint being written.
struct Saving<'a> {
    store: &'a mut dyn Store,
    dump_dir: &'a Path,
    written: Written,
    // What to remember once the manifest is durable.
    segments: Vec<(Arc<Segment>, Stored)>,
    growing: Vec<(Arc<RwLock<VectorFile>>, u64, Blob)>,
}

impl Saving<'_> {
    fn count(&mut self, blob: Blob) -> Blob {
        self.written.blobs += 1;
        self.written.bytes += blob.bytes;
        blob
    }

    fn vectors(&mut self, space: Space, slots: &[u64], rows: &VectorArray) -> Result<Blob> {
        let bytes = vectors_bytes(space, slots.len() as u64).unwrap_or(u64::MAX);
        let blob = self.store.write_blob(bytes, &mut |out| {
            write_words(out, slots, u64::to_le_bytes)
                .and_then(|()| rows.write(out))
                .map_err(IndexError::storage("writing vectors"))
        })?;
        Ok(self.count(blob))
    }

    fn graph(&mut self, graph: &dyn Graph) -> Result<Blob> {
        let dump = graph.dump(self.dump_dir)?;
        let blob = self.store.write_blob(dump.bytes(), &mut |out| dump.write_to(out))?;
        Ok(self.count(blob))
    }

    fn segment(&mut self, space: Space, view: &SegmentView) -> Result<SegmentRecord> {
        let segment = &view.segment;
        let before = *lock(&segment.stored);
        let vectors = match before.vectors {
            Some(blob) => blob,
            None => self.vectors(space, &segment.slots, &segment.rows)?,
        };
        let graph = match (before.graph, segment.graph.get()) {
            (Some(blob), _) => Some(blob),
            (None, None) => None,
            (None, Some(graph)) => Some(self.graph(&**graph)?),
        };
        self.segments.push((Arc::clone(segment), Stored { vectors: Some(vectors), graph }));
        let tombstones = match view.tombstones.count() {
            0 => Vec::new(),
            _ => view.tombstones.words().to_vec(),
        };
        let vectors = VectorsBlob { count: segment.len() as u64, blob: vectors };
        Ok(SegmentRecord { vectors, graph, tombstones })
    }

    fn file(&mut self, file: &Arc<RwLock<VectorFile>>) -> Result<VectorsRecord> {
        // All is taken under one lock, and written after it; the growing segment is copied only
        // if it has to be written.
        let (space, params, views, skipped, stored, version, growing) = {
            let file = read(file);
            let stored = file.growing_stored.filter(|(version, _)| {
                *version == file.growing.version || mutants::is(Mutant::StaleRows)
            });
            let growing = stored.is_none().then(|| file.growing.clone());
            let skipped = file.skipped.to_pairs();
            let version = file.growing.version;
            (file.space, file.params, file.segments.clone(), skipped, stored, version, growing)
        };
        let len = growing.as_ref().map_or(0, GrowingSegment::len);
        let growing = match (stored, growing) {
            (Some((_, blob)), _) => {
                vectors_in(space, blob.bytes).map(|count| VectorsBlob { count, blob })
            }
            (None, Some(growing)) if len > 0 => {
                let blob = self.vectors(space, &growing.slots, &growing.rows)?;
                self.growing.push((Arc::clone(file), version, blob));
                Some(VectorsBlob { count: len as u64, blob })
            }
            _ => None,
        };
        let live = views.iter().filter(|view| view.live() > 0);
        let segments = live.map(|view| self.segment(space, view)).collect::<Result<_>>()?;
        Ok(VectorsRecord { space, params, skipped, growing, segments })
    }

    /// Writes all blobs that the manifest names and that are not stored yet.
    fn manifest(&mut self, snapshot: &Snapshot<'_>) -> Result<Manifest> {
        let mut files = Vec::with_capacity(snapshot.states.len());
        for (id, state) in snapshot.states {
            let vectors = snapshot.files.get(&id.0).map(|file| self.file(file)).transpose()?;
            files.push(FileRecord { file: id.0, state: state.clone(), vectors });
        }
        Ok(Manifest {
            owner: snapshot.owner,
            generation: snapshot.generation,
            note: snapshot.note.to_vec(),
            files,
        })
    }

    /// The manifest is durable: what it names is not written again.
    fn remember(self) {
        for (segment, stored) in self.segments {
            *lock(&segment.stored) = stored;
        }
        for (file, version, blob) in self.growing {
            write(&file).growing_stored = Some((version, blob));
        }
    }
}

/// What is to be checkpointed.
pub(crate) struct Snapshot<'a> {
    pub owner: [u8; 16],
    pub generation: u64,
    pub note: &'a [u8],
    pub states: &'a [(FileId, Vec<u8>)],
    pub files: &'a Files,
}

/// Writes a checkpoint. `live` is what the previous one names, and becomes what this one names.
pub(crate) fn save(
    store: &mut dyn Store,
    dump_dir: &Path,
    live: &mut Vec<Blob>,
    snapshot: &Snapshot<'_>,
) -> Result<Written> {
    let mut saving = Saving {
        store: &mut *store,
        dump_dir,
        written: Written::default(),
        segments: Vec::new(),
        growing: Vec::new(),
    };
    let prepared = saving
        .manifest(snapshot)
        .and_then(|manifest| Ok((manifest.blobs(), manifest::encode(&manifest)?)));
    let (blobs, bytes) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // The blobs written so far are freed; the error to report is the first one.
            let _ = store.retain(live);
            return Err(error);
        }
    };
    if mutants::is(Mutant::FreedEarly) {
        saving.store.retain(&blobs)?;
    }
    // If this fails, either manifest may be the durable one: the blobs of both stay.
    saving.store.publish(&bytes)?;
    let mut written = saving.written;
    written.bytes += bytes.len() as u64;
    saving.remember();
    *live = blobs;
    store.retain(live)?;
    Ok(written)
}

/// What was loaded.
pub(crate) struct Loaded {
    pub covered: Covered,
    pub files: Files,
    /// Every blob of the checkpoint.
    pub live: Vec<Blob>,
    /// Graphs that have to be built again, and why.
    pub problems: Vec<IndexError>,
}

/// Reads the checkpoint of `owner`; `None` if there is none.
pub(crate) fn load(
    store: &mut dyn Store,
    dump_dir: &Path,
    owner: [u8; 16],
) -> Result<Option<Loaded>> {
    let Some(bytes) = store.manifest()? else { return Ok(None) };
    let manifest = manifest::decode(&bytes)?;
    drop(bytes);
    if manifest.owner != owner {
        return Err(IndexError::Foreign("it belongs to another filesystem".into()));
    }
    let live = manifest.blobs();
    // Otherwise a small store could be loaded into any amount of memory.
    let mut places: Vec<u64> = live.iter().map(|blob| blob.at).collect();
    places.sort_unstable();
    if !places.is_sorted_by(|a, b| a < b) {
        return Err(IndexError::Damaged("two of its blobs are in one place".into()));
    }
    let mut loading = Loading { store, dump_dir, problems: Vec::new() };
    let mut files = HashMap::new();
    let mut states = Vec::with_capacity(manifest.files.len());
    for record in manifest.files {
        if let Some(vectors) = record.vectors {
            let file = loading.file(record.file, vectors)?;
            files.insert(record.file, Arc::new(RwLock::new(file)));
        }
        states.push((FileId(record.file), record.state));
    }
    let covered = Covered { generation: manifest.generation, note: manifest.note, files: states };
    Ok(Some(Loaded { covered, files, live, problems: loading.problems }))
}

/// A checkpoint being read.
struct Loading<'a> {
    store: &'a mut dyn Store,
    dump_dir: &'a Path,
    problems: Vec<IndexError>,
}

fn damaged(id: u64, what: &str) -> IndexError {
    IndexError::Damaged(format!("file {id}: {what}"))
}

impl Loading<'_> {
    fn file(&mut self, id: u64, record: VectorsRecord) -> Result<VectorFile> {
        let VectorsRecord { space, params, skipped, growing, segments } = record;
        space
            .validate()
            .and_then(|()| params.validate())
            .map_err(|_| damaged(id, "its space or its parameters cannot be used"))?;
        let mut file = VectorFile::new(space, params);
        file.skipped = SlotSet::from_pairs(&skipped)
            .ok_or_else(|| damaged(id, "its skipped slots are out of order"))?;
        if let Some(stored) = growing {
            let (slots, rows) = self.vectors(id, space, &stored)?;
            file.growing = GrowingSegment::from_rows(slots, rows)
                .ok_or_else(|| damaged(id, "a slot occurs twice"))?;
            file.growing_stored = Some((file.growing.version, stored.blob));
        }
        for segment in segments {
            file.segments.push(self.segment(id, space, segment)?);
        }
        Ok(file)
    }

    fn segment(&mut self, id: u64, space: Space, record: SegmentRecord) -> Result<SegmentView> {
        let (slots, rows) = self.vectors(id, space, &record.vectors)?;
        if !slots.is_sorted_by(|a, b| a < b) {
            return Err(damaged(id, "slots out of order"));
        }
        let len = slots.len();
        let tombstones = if record.tombstones.is_empty() {
            Tombstones::none(len)
        } else {
            Tombstones::from_words(record.tombstones, len)
                .ok_or_else(|| damaged(id, "its tombstones are not those of its rows"))?
        };
        let segment = Segment::new(slots, rows);
        let mut stored = Stored { vectors: Some(record.vectors.blob), graph: record.graph };
        if let Some(blob) = record.graph {
            match self.graph(id, &blob, &segment.rows) {
                Ok(graph) => segment.set_graph(graph),
                Err(error) => {
                    stored.graph = None;
                    self.problems.push(error);
                }
            }
        }
        *lock(&segment.stored) = stored;
        Ok(SegmentView { segment: Arc::new(segment), tombstones: Arc::new(tombstones) })
    }

    fn vectors(
        &mut self,
        id: u64,
        space: Space,
        stored: &VectorsBlob,
    ) -> Result<(Vec<u64>, VectorArray)> {
        let what = format!("a blob of {} vectors of file {id}", stored.count);
        // Checked before memory is taken for it.
        if stored.count > GRAPH_ROWS_MAX as u64
            || vectors_bytes(space, stored.count) != Some(stored.blob.bytes)
        {
            return Err(IndexError::Damaged(format!("{what} has a wrong length")));
        }
        let count = stored.count as usize;
        let mut slots = Vec::new();
        let mut rows = VectorArray::new(space);
        read_verified(self.store, &stored.blob, &what, &mut |from| {
            read_words(from, &mut slots, count, u64::from_le_bytes)
                .and_then(|()| VectorArray::read(space, count, from).map(|read| rows = read))
                .map_err(IndexError::storage(format!("reading {what}")))
        })?;
        Ok((slots, rows))
    }

    fn graph(&mut self, id: u64, blob: &Blob, rows: &Arc<VectorArray>) -> Result<Arc<dyn Graph>> {
        let what = format!("the graph over {} vectors of file {id}", rows.len());
        let mut dump = None;
        read_verified(self.store, blob, &what, &mut |from| {
            dump = Some(graph::receive(self.dump_dir, blob.bytes, from)?);
            Ok(())
        })?;
        // Only a graph whose checksum has matched is loaded.
        match dump {
            Some(dump) => dump.load(rows),
            None => Err(IndexError::Damaged(format!("{what} was not read"))),
        }
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
