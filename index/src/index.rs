// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The index as its user sees it.
//!
//! Invariant: a vector is findable from the moment its upsert returns, and a removed or
//! overwritten one is not. Locks: the map of files, then one file; neither is ever held while a
//! graph is built or searched. The store has a lock of its own, held while a checkpoint is
//! written. Every call can be repeated without changing the outcome.

use std::{
    collections::HashMap,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    checkpoint::{self, Files, Recovered, Written},
    distance,
    error::{IndexError, Result},
    file::{Batch, File, Limits},
    graph::GRAPH_ROWS_MAX,
    lock, read,
    scratch::Scratch,
    segment::{EF_MAX, Part, Request},
    store::{Blob, Store},
    topk::TopK,
    vector::{FileId, Params, Row, Slot, Space},
    worker::Worker,
    write,
};

/// The largest `k` and `ef` of a search.
pub const SEARCH_LIMIT: usize = EF_MAX;

/// How an index behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose vectors these are (a filesystem's UUID): a checkpoint of another is not used.
    pub owner: [u8; 16],
    /// So many new vectors of a file become a segment with a graph.
    pub graph_rows: usize,
    /// Merging makes no segment larger than this, in vectors.
    pub merge_rows: usize,
    /// Candidates considered in each graph when a search does not say.
    pub default_ef: usize,
    /// A segment of fewer vectors than this times the candidates is scanned though it has a
    /// graph: following a link costs as much as scanning about a hundred rows.
    pub scan_factor: usize,
    /// Where a private directory for graph dumps is made.
    pub scratch: PathBuf,
    /// Added to the build thread's niceness.
    pub nice: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            owner: [0; 16],
            graph_rows: 8192,
            merge_rows: 1 << 18,
            default_ef: 96,
            scan_factor: 100,
            scratch: std::env::temp_dir(),
            nice: 10,
        }
    }
}

/// A vector that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The file.
    pub file: FileId,
    /// The slot in it.
    pub slot: Slot,
    /// The metric's distance; smaller is nearer.
    pub distance: f32,
}

/// The index in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Files declared.
    pub files: u64,
    /// Vectors that can be found.
    pub vectors: u64,
    /// Immutable segments.
    pub segments: u64,
    /// Segments that have a graph.
    pub graphs: u64,
    /// Removed or overwritten vectors that a merge has not dropped yet.
    pub tombstones: u64,
    /// Vectors that only a scan finds, so far.
    pub pending: u64,
    /// Rows that cannot be compared and are not indexed.
    pub skipped: u64,
    /// Resident bytes, estimated.
    pub bytes: u64,
    /// The generation of the newest checkpoint.
    pub generation: Option<u64>,
    /// Whether a graph is being built.
    pub building: bool,
    /// Why the last failed build failed.
    pub problem: Option<String>,
}

/// A file in numbers, as in [`Stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStats {
    /// Vectors that can be found.
    pub vectors: u64,
    /// Immutable segments.
    pub segments: u64,
    /// Segments that have a graph.
    pub graphs: u64,
    /// Removed or overwritten vectors that a merge has not dropped yet.
    pub tombstones: u64,
    /// Vectors that only a scan finds, so far.
    pub pending: u64,
    /// Rows that cannot be compared and are not indexed.
    pub skipped: u64,
    /// Resident bytes, estimated.
    pub bytes: u64,
}

/// The store, and what the newest checkpoint in it names.
struct Checkpoints {
    store: Option<Box<dyn Store>>,
    live: Vec<Blob>,
}

/// Vectors of many files, searchable as soon as they are in.
pub struct Index {
    files: Arc<RwLock<Files>>,
    worker: Arc<Worker>,
    thread: Option<JoinHandle<()>>,
    checkpoints: Mutex<Checkpoints>,
    // u64::MAX: none yet.
    generation: AtomicU64,
    options: Options,
}

impl Index {
    /// `open(store, options)` - loads the newest checkpoint, if there is one that can be believed,
    /// and starts the build thread.
    ///
    /// A missing, damaged or foreign checkpoint gives an empty index and says so in
    /// [`Recovered`]; errors are of options, the scratch directory and the thread.
    pub fn open(store: Option<Box<dyn Store>>, options: Options) -> Result<(Self, Recovered)> {
        for (what, given, limit) in [
            ("graph_rows", options.graph_rows, GRAPH_ROWS_MAX),
            ("merge_rows", options.merge_rows, GRAPH_ROWS_MAX),
            ("default_ef", options.default_ef, SEARCH_LIMIT),
            ("scan_factor", options.scan_factor, GRAPH_ROWS_MAX),
        ] {
            within(what, given, limit)?;
        }
        let scratch = Scratch::create(&options.scratch)?;
        let mut checkpoints = Checkpoints { store, live: Vec::new() };
        let mut recovered = Recovered { covered: None, problems: Vec::new() };
        let mut files = HashMap::new();
        if let Some(store) = checkpoints.store.as_deref_mut() {
            match checkpoint::load(store, scratch.path(), options.owner) {
                Ok(Some(loaded)) => {
                    // Whatever a crash left beside it goes.
                    if let Err(error) = store.retain(&loaded.live) {
                        recovered.problems.push(error);
                    }
                    files = loaded.files;
                    checkpoints.live = loaded.live;
                    recovered.covered = Some(loaded.covered);
                    recovered.problems.extend(loaded.problems);
                }
                Ok(None) => {}
                Err(error) => recovered.problems.push(error),
            }
        }
        let limits = Limits { graph_rows: options.graph_rows, merge_rows: options.merge_rows };
        let worker = Arc::new(Worker::new(limits));
        for &file in files.keys() {
            worker.wake(file);
        }
        let files = Arc::new(RwLock::new(files));
        let thread = std::thread::Builder::new()
            .name("vexfs-index".into())
            .spawn({
                let (files, worker, nice) = (Arc::clone(&files), Arc::clone(&worker), options.nice);
                move || worker.run(&files, nice)
            })
            .map_err(IndexError::Thread)?;
        let generation = recovered.covered.as_ref().map_or(u64::MAX, |covered| covered.generation);
        let index = Self {
            files,
            worker,
            thread: Some(thread),
            checkpoints: Mutex::new(checkpoints),
            generation: AtomicU64::new(generation),
            options,
        };
        Ok((index, recovered))
    }

    fn file(&self, file: FileId) -> Option<Arc<RwLock<File>>> {
        read(&self.files).get(&file.0).map(Arc::clone)
    }

    fn known(&self, file: FileId) -> Result<Arc<RwLock<File>>> {
        self.file(file).ok_or(IndexError::UnknownFile(file))
    }

    /// `declare(file, space, params)` - makes a file known; true if it is new or its space
    /// changed, in which case none of its old vectors are left.
    pub fn declare(&self, file: FileId, space: Space, params: Params) -> Result<bool> {
        space.validate()?;
        params.validate()?;
        let fresh = Arc::new(RwLock::new(File::new(space, params)));
        loop {
            let known = self.file(file);
            if let Some(known) = known.as_ref().filter(|known| read(known).space == space) {
                if read(known).params != params {
                    // Graphs that exist are as good as they were; it is for the next ones.
                    write(known).params = params;
                }
                return Ok(false);
            }
            let mut files = write(&self.files);
            let same = match (files.get(&file.0), &known) {
                (Some(now), Some(known)) => Arc::ptr_eq(now, known),
                (now, known) => now.is_none() && known.is_none(),
            };
            if same {
                // A new object, never the old one emptied: a checkpoint may be writing that.
                files.insert(file.0, fresh);
                return Ok(true);
            }
            // Somebody else declared it in between: look again.
        }
    }

    /// `upsert(file, slot, raw)` - stores a vector given as `space.vector_bytes()` little-endian
    /// bytes; false if it cannot be compared with anything and is skipped.
    pub fn upsert(&self, file: FileId, slot: Slot, raw: &[u8]) -> Result<bool> {
        Ok(self.upsert_batch(file, &[(slot, raw)])?.indexed == 1)
    }

    /// `upsert_batch(file, rows)` - many at once; stops at the first that has a wrong length.
    pub fn upsert_batch(&self, file: FileId, rows: &[(Slot, &[u8])]) -> Result<Batch> {
        self.feed(file, rows.iter().copied())
    }

    /// `upsert_rows(file, first, bytes, stride, offset)` - consecutive records of `stride` bytes,
    /// each with its vector `offset` bytes in. A last record that is cut short is ignored.
    pub fn upsert_rows(
        &self,
        file: FileId,
        first: Slot,
        bytes: &[u8],
        stride: usize,
        offset: usize,
    ) -> Result<Batch> {
        let width = self.known(file).map(|known| read(&known).space.vector_bytes())?;
        if stride == 0 || offset.checked_add(width).is_none_or(|end| end > stride) {
            return Err(IndexError::BadSpec(format!(
                "a stride of {stride} bytes cannot hold a vector of {width} bytes at offset {offset}"
            )));
        }
        let records = bytes.chunks(stride).filter_map(|record| record.get(offset..offset + width));
        self.feed(file, (first.0..=u64::MAX).map(Slot).zip(records))
    }

    fn feed<'a>(
        &self,
        file: FileId,
        rows: impl Iterator<Item = (Slot, &'a [u8])>,
    ) -> Result<Batch> {
        let known = self.known(file)?;
        let mut batch = Batch::default();
        let mut locked = write(&known);
        let fed = (|| {
            for (slot, raw) in rows {
                if locked.upsert(slot.0, raw, self.worker.limits)? {
                    batch.indexed += 1;
                } else {
                    batch.skipped += 1;
                }
            }
            Ok(batch)
        })();
        let work = locked.plan(self.worker.limits).is_some();
        drop(locked);
        if work {
            self.worker.wake(file.0);
        }
        fed
    }

    /// `remove(file, slots)` - forgets these slots; how many vectors went.
    pub fn remove(&self, file: FileId, slots: Range<u64>) -> u64 {
        match slots.end.checked_sub(1) {
            Some(last) => self.remove_inclusive(file, slots.start, last),
            None => 0,
        }
    }

    /// `truncate(file, slots)` - keeps the slots below `slots`; how many vectors went.
    pub fn truncate(&self, file: FileId, slots: u64) -> u64 {
        self.remove_inclusive(file, slots, u64::MAX)
    }

    fn remove_inclusive(&self, file: FileId, first: u64, last: u64) -> u64 {
        let Some(known) = self.file(file) else { return 0 };
        let mut locked = write(&known);
        let gone = locked.remove(first, last);
        let work = gone > 0 && locked.plan(self.worker.limits).is_some();
        drop(locked);
        if work {
            self.worker.wake(file.0);
        }
        gone
    }

    /// `drop_file(file)` - forgets a file; false if it was not known.
    pub fn drop_file(&self, file: FileId) -> bool {
        // Bound first, so that the vectors are freed after the lock is let go.
        let gone = write(&self.files).remove(&file.0);
        gone.is_some()
    }

    /// `search(files, query, k, ef, exact)` - the `k` nearest vectors of these files, nearest
    /// first, ties by file and slot. `ef` is how many candidates each graph considers; with
    /// `exact` no graph is used. Files that are not declared contribute nothing.
    pub fn search(
        &self,
        files: &[FileId],
        query: &[f32],
        k: usize,
        ef: Option<usize>,
        exact: bool,
    ) -> Result<Vec<Hit>> {
        within("k", k, SEARCH_LIMIT)?;
        let ef = ef.unwrap_or(self.options.default_ef);
        within("ef", ef, SEARCH_LIMIT)?;
        let scan_factor = self.options.scan_factor;
        let mut ids = files.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut top = TopK::new(k);
        let mut parts: Vec<(u64, Part)> = Vec::new();
        let mut asked: Option<(FileId, Space, Row)> = None;
        for id in ids {
            let Some(known) = self.file(id) else { continue };
            let file = read(&known);
            if let Some(asked) = &asked {
                agree(asked, id, file.space, query.len())?;
            } else {
                dimension(id, file.space, query.len())?;
            }
            let (_, _, row) = match &asked {
                Some(asked) => asked,
                None => asked.insert((id, file.space, file.space.decode_query(query)?)),
            };
            file.search_tail(&Request { query: row, k, ef, exact, scan_factor }, id.0, &mut top);
            parts.extend(file.parts.iter().map(|part| (id.0, part.clone())));
        }
        let Some((_, space, row)) = asked else { return Ok(Vec::new()) };
        let request = Request { query: &row, k, ef, exact, scan_factor };
        for (id, part) in &parts {
            part.search(&request, *id, &mut top);
        }
        let hit = |found: crate::topk::Candidate| Hit {
            file: FileId(found.file),
            slot: Slot(found.slot),
            distance: distance::distance(space.metric, found.rank),
        };
        Ok(top.into_sorted().into_iter().map(hit).collect())
    }

    /// `get(file, slot)` - a vector in the form of a query; under cosine it is normalised.
    pub fn get(&self, file: FileId, slot: Slot) -> Result<Vec<f32>> {
        let known = self.known(file)?;
        let locked = read(&known);
        let row = locked.get(slot.0).ok_or(IndexError::UnknownSlot { file, slot })?;
        Ok(row.to_query(locked.space.dim as usize))
    }

    /// `space(file)` - what a file was declared as.
    pub fn space(&self, file: FileId) -> Option<Space> {
        self.file(file).map(|known| read(&known).space)
    }

    /// `files()` - every declared file, in ascending order.
    pub fn files(&self) -> Vec<FileId> {
        let mut ids: Vec<FileId> = read(&self.files).keys().map(|&id| FileId(id)).collect();
        ids.sort_unstable();
        ids
    }

    /// `file_stats(file)` - a file in numbers.
    pub fn file_stats(&self, file: FileId) -> Option<FileStats> {
        self.file(file).map(|known| count(&read(&known)))
    }

    /// `stats()` - the index in numbers.
    pub fn stats(&self) -> Stats {
        let files: Vec<Arc<RwLock<File>>> = read(&self.files).values().map(Arc::clone).collect();
        let generation = self.generation.load(Ordering::Relaxed);
        let mut stats = Stats {
            files: files.len() as u64,
            generation: (generation != u64::MAX).then_some(generation),
            building: self.worker.building(),
            problem: self.worker.problem(),
            ..Stats::default()
        };
        for file in files {
            let one = count(&read(&file));
            stats.vectors += one.vectors;
            stats.segments += one.segments;
            stats.graphs += one.graphs;
            stats.tombstones += one.tombstones;
            stats.pending += one.pending;
            stats.skipped += one.skipped;
            stats.bytes += one.bytes;
        }
        stats
    }

    /// `checkpoint(generation, note, files)` - writes what is not in the store yet, then a manifest
    /// that covers everything upserted before the call. Only the files given, with their state,
    /// are in it. If it fails, the previous checkpoint stays.
    pub fn checkpoint(
        &self,
        generation: u64,
        note: &[u8],
        files: &[(FileId, Vec<u8>)],
    ) -> Result<Written> {
        let mut checkpoints = lock(&self.checkpoints);
        let Checkpoints { store, live } = &mut *checkpoints;
        let store = store.as_deref_mut().ok_or(IndexError::NoStore)?;
        let known = read(&self.files).clone();
        let source = checkpoint::Source {
            owner: self.options.owner,
            generation,
            note,
            states: files,
            files: &known,
        };
        // Only while it is needed: a process that is killed leaves nothing behind otherwise.
        let scratch = Scratch::create(&self.options.scratch)?;
        let written = checkpoint::save(store, scratch.path(), live, &source)?;
        self.generation.store(generation, Ordering::Relaxed);
        Ok(written)
    }

    /// `settle()` - waits until nothing is left to build.
    pub fn settle(&self) {
        self.worker.settle(None);
    }

    /// `settle_for(limit)` - waits at most so long; whether nothing is left to build.
    pub fn settle_for(&self, limit: Duration) -> bool {
        self.worker.settle(Some(limit))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.worker.stop();
        if let Some(thread) = self.thread.take() {
            // It has no result; a panic in it was reported where it happened.
            let _ = thread.join();
        }
    }
}

fn within(what: &'static str, given: usize, limit: usize) -> Result<()> {
    if (1..=limit).contains(&given) {
        return Ok(());
    }
    Err(IndexError::SearchLimit { what, given, limit })
}

fn dimension(file: FileId, space: Space, given: usize) -> Result<()> {
    if given == space.dim as usize {
        return Ok(());
    }
    Err(IndexError::QueryDimension { expected: space.dim, given, file })
}

/// Whether one query can be asked of a further file: its own elements may differ, not how rows
/// are held and compared.
fn agree(asked: &(FileId, Space, Row), file: FileId, space: Space, given: usize) -> Result<()> {
    dimension(file, space, given)?;
    let (first, other, _) = asked;
    if other.metric == space.metric {
        return Ok(());
    }
    Err(IndexError::MixedMetrics {
        first: *first,
        first_metric: other.metric,
        second: file,
        second_metric: space.metric,
    })
}

fn count(file: &File) -> FileStats {
    let graphs = file.parts.iter().filter(|part| part.segment.graph.get().is_some()).count();
    let tombstones: usize = file.parts.iter().map(|part| part.dead.count()).sum();
    FileStats {
        vectors: file.vectors() as u64,
        segments: file.parts.len() as u64,
        graphs: graphs as u64,
        tombstones: tombstones as u64,
        pending: file.pending() as u64,
        skipped: file.skipped.count(),
        bytes: file.bytes() as u64,
    }
}

const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Index>();
};
