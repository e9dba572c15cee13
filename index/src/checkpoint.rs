// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Writing the index to a store, and reading it back.
//!
//! Invariant: what is found in a loaded checkpoint is what was written. A manifest, a growing segment or slots
//! that are damaged refuse the whole checkpoint, because a caller that skips unchanged files would never
//! supply them again; so do vectors, where the store cannot map. Where it can, nothing else is read when a
//! checkpoint is opened: vectors are verified when they are first used, and [`crate::Index::lost`] names
//! the files that have to be supplied again. A damaged graph costs only itself: it is built again.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, RwLock},
};

use crate::{
    error::{IndexError, Result},
    graph::{self, Graph, Identity},
    growing::GrowingSegment,
    manifest::{self, FileRecord, Manifest, SegmentRecord, VectorsBlob, VectorsRecord},
    mutants::{self, Mutant},
    segment::{Segment, SegmentView, Stored, Tombstones},
    slot_set::SlotSet,
    store::{Blob, Store, pages, pages::Pages},
    sync::{lock, read, write},
    types::FileId,
    vector::Space,
    vector_array::VectorArray,
    vector_file::{Files, VectorFile},
    vectors_blob::{self, SlotsOf},
    verifier::PendingGraph,
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

/// A checkpoint being written.
struct Saving<'a> {
    store: &'a mut dyn Store,
    dump_dir: &'a Path,
    /// What the previous checkpoint names: what a file that was left out of it had stored is freed.
    live: HashSet<Blob>,
    written: Written,
    // What to remember once the manifest is durable.
    segments: Vec<SavedSegment>,
    growing: Vec<(Arc<RwLock<VectorFile>>, u64, VectorsBlob)>,
}

/// A segment whose blobs the manifest names.
struct SavedSegment {
    segment: Arc<Segment>,
    space: Space,
    vectors: Blob,
    graph: Option<Blob>,
    /// The vectors were not in the store before.
    fresh: bool,
    /// The graph that was written just now.
    built: Option<Arc<dyn Graph>>,
}

impl Saving<'_> {
    fn count(&mut self, blob: Blob) -> Blob {
        self.written.blobs += 1;
        self.written.bytes += blob.bytes;
        blob
    }

    fn vectors(&mut self, space: Space, slots: SlotsOf<'_>, rows: &VectorArray) -> Result<Blob> {
        let blob = vectors_blob::write(self.store, space, slots, rows)?;
        Ok(self.count(blob))
    }

    fn graph(&mut self, graph: &dyn Graph, vectors: &Blob) -> Result<Blob> {
        let dump = graph.dump(self.dump_dir, vectors.crc)?;
        let blob = pages::write(self.store, dump.bytes(), &mut |out| dump.write_to(out))?;
        Ok(self.count(blob))
    }

    fn segment(&mut self, space: Space, view: &SegmentView) -> Result<SegmentRecord> {
        let segment = &view.segment;
        let Stored { vectors, graph } = *lock(&segment.stored);
        // What is mapped is there, whether it was named or not.
        let mapped = segment.rows().is_mapped();
        let vectors = vectors.filter(|blob| mapped || self.live.contains(blob));
        // A graph is named with its vectors, or neither is.
        let before = graph.filter(|blob| self.live.contains(blob));
        let fresh = vectors.is_none();
        let vectors = match vectors {
            Some(blob) => blob,
            None => self.vectors(space, SlotsOf::Sealed(&segment.slots), &segment.rows())?,
        };
        let built = segment.graph().filter(|_| before.is_none());
        let graph = match &built {
            None => before,
            Some(graph) => Some(self.graph(&**graph, &vectors)?),
        };
        self.segments.push(SavedSegment {
            segment: Arc::clone(segment),
            space,
            vectors,
            graph,
            fresh,
            built,
        });
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
            let stored = file.growing_stored.filter(|(version, stored)| {
                let same = *version == file.growing.version || mutants::is(Mutant::StaleRows);
                same && self.live.contains(&stored.blob)
            });
            let growing = stored.is_none().then(|| file.growing.clone());
            let skipped = file.skipped.to_pairs();
            let version = file.growing.version;
            (file.space, file.params, file.segments.clone(), skipped, stored, version, growing)
        };
        let len = growing.as_ref().map_or(0, GrowingSegment::len);
        let growing = match (stored, growing) {
            (Some((_, stored)), _) => Some(stored),
            (None, Some(growing)) if len > 0 => {
                let blob = self.vectors(space, SlotsOf::Growing(&growing.slots), &growing.rows)?;
                let stored = VectorsBlob { count: len as u64, blob };
                self.growing.push((Arc::clone(file), version, stored));
                Some(stored)
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

    /// The manifest is durable: what it names is not written again, and need not be in memory.
    fn remember(self) {
        for saved in self.segments {
            saved.remember(self.store);
        }
        for (file, version, stored) in self.growing {
            write(&file).growing_stored = Some((version, stored));
        }
    }
}

impl SavedSegment {
    fn remember(self, store: &mut dyn Store) {
        let Self { segment, space, vectors, graph, fresh, built } = self;
        // If a graph was built meanwhile, it is not the one that was written.
        let same = match (&built, segment.graph()) {
            (Some(written), Some(now)) => Arc::ptr_eq(written, &now),
            (None, _) => true,
            (Some(_), None) => false,
        };
        let graph = graph.filter(|_| same);
        *lock(&segment.stored) = Stored { vectors: Some(vectors), graph };
        let count = segment.len() as u64;
        if fresh && let Some(rows) = vectors_blob::map_rows(store, space, count, &vectors) {
            segment.move_rows(rows);
        }
        // The graph too, once it is verified: then all of the segment may leave memory.
        if let Some(blob) = graph.filter(|_| built.is_some()) {
            let identity = Identity { space, rows: segment.len(), crc: vectors.crc };
            let pages = Pages::map(store, &blob, "a graph").ok().flatten().map(Arc::new);
            let mapped = pages.filter(|pages| graph::is_flat(pages).unwrap_or(false));
            if let Some(Ok(graph)) = mapped.map(|pages| graph::load_flat(&pages, &identity)) {
                segment.admit_graph(graph);
            }
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
        live: live.iter().copied().collect(),
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
    /// Graphs that nobody may walk before they are verified.
    pub pending: Vec<PendingGraph>,
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
    let mut loading = Loading { store, dump_dir, pending: Vec::new(), problems: Vec::new() };
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
    let Loading { pending, problems, .. } = loading;
    Ok(Some(Loaded { covered, files, live, pending, problems }))
}

/// A checkpoint being read.
struct Loading<'a> {
    store: &'a mut dyn Store,
    dump_dir: &'a Path,
    pending: Vec<PendingGraph>,
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
            let (slots, rows) = self
                .vectors(id, space, &stored)?
                .growing(space)
                .ok_or_else(|| damaged(id, "a growing segment has a wrong checksum"))?;
            file.growing = GrowingSegment::from_rows(slots, rows)
                .ok_or_else(|| damaged(id, "a slot occurs twice"))?;
            file.growing_stored = Some((file.growing.version, stored));
        }
        for segment in segments {
            file.segments.push(self.segment(id, space, segment)?);
        }
        Ok(file)
    }

    fn segment(&mut self, id: u64, space: Space, record: SegmentRecord) -> Result<SegmentView> {
        let vectors = self.vectors(id, space, &record.vectors)?;
        let (slots, rows) = vectors.sealed().ok_or_else(|| damaged(id, "slots out of order"))?;
        let len = slots.len();
        let tombstones = if record.tombstones.is_empty() {
            Tombstones::none(len)
        } else {
            Tombstones::from_words(record.tombstones, len)
                .ok_or_else(|| damaged(id, "its tombstones are not those of its rows"))?
        };
        let segment = Arc::new(Segment::of(slots, rows));
        *lock(&segment.stored) = Stored { vectors: Some(record.vectors.blob), graph: record.graph };
        if let Some(blob) = record.graph {
            let identity = Identity { space, rows: len, crc: record.vectors.blob.crc };
            if let Err(error) = self.graph(id, &blob, identity, &segment) {
                lock(&segment.stored).graph = None;
                self.problems.push(error);
            }
        }
        Ok(SegmentView { segment, tombstones: Arc::new(tombstones) })
    }

    fn vectors(
        &mut self,
        id: u64,
        space: Space,
        stored: &VectorsBlob,
    ) -> Result<vectors_blob::VectorsBlob> {
        let what = format!("a blob of {} vectors of file {id}", stored.count);
        vectors_blob::open(self.store, space, stored.count, &stored.blob, &what)
    }

    /// Loads a graph, or has it verified later if nothing of it has to be read now.
    fn graph(
        &mut self,
        id: u64,
        blob: &Blob,
        vectors: Identity,
        segment: &Arc<Segment>,
    ) -> Result<()> {
        let what = format!("the graph over {} vectors of file {id}", segment.len());
        let pages = Arc::new(Pages::open(self.store, blob, &what)?);
        if pages.is_mapped() && graph::is_flat(&pages)? {
            segment.expect_graph();
            let segment = Arc::clone(segment);
            self.pending.push(PendingGraph { file: id, segment, pages, vectors });
        } else {
            let graph = graph::load(&pages, &vectors, &segment.rows(), self.dump_dir)?;
            segment.admit_graph(graph);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
