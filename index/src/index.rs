// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The index as its user sees it.
//!
//! Invariant: a vector can be found from the moment its upsert returns, and a vector that was
//! removed or overwritten cannot.
//!
//! Locks, in the order in which they are taken: the store's, held while a checkpoint is written;
//! the map of files; one file. The last two are never held while a graph is built or searched.

use std::{
    collections::{BTreeSet, HashMap},
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
    build_queue::BuildQueue,
    checkpoint::{self, Recovered, Written},
    distance,
    dump_dir::DumpDir,
    error::{IndexError, Result},
    graph::{GRAPH_ROWS_MAX, GraphKind},
    segment::{Broken, EF_MAX, Request, SegmentView},
    stats::{Counts, Stats},
    store::{Blob, Store},
    sync::{lock, read, write},
    topk::{Candidate, TopK},
    types::{FileId, Slot},
    vector::{Params, Row, Space},
    vector_file::{Batch, Files, Limits, VectorFile},
    verifier::{PendingGraph, Verifier},
};

/// The largest `k` and `ef` of a search.
pub const SEARCH_LIMIT: usize = EF_MAX;

/// How often a search is repeated because pages could not be read; each time there is one page less.
const ATTEMPTS: usize = 16;

/// The part of its memory that may be in no checkpoint before one is asked for.
const UNSAVED_PART: u64 = 8;

/// How an index behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose vectors these are, for example a filesystem's UUID. A checkpoint of another owner is not
    /// used.
    pub owner: [u8; 16],
    /// Vectors of a file after which its growing segment is sealed and gets a graph.
    pub graph_rows: usize,
    /// Vectors of the largest segment that merging makes.
    pub merge_rows: usize,
    /// Bytes of the largest segment that merging makes, in memory. While it is made, its sources are there too.
    pub merge_bytes: u64,
    /// Bytes that the index may hold in memory of its own; mapped pages are not. See
    /// [`Index::wants_checkpoint`].
    pub memory: u64,
    /// Candidates considered in each graph by a search that does not give `ef`.
    pub default_ef: usize,
    /// A segment is scanned, although it has a graph, if it has fewer vectors than this times the
    /// candidates: considering one costs as much as scanning some twenty rows.
    pub scan_factor: usize,
    /// Which implementation builds graphs; those that exist are kept.
    pub graph: GraphKind,
    /// Where the index makes its temporary directory, for graphs that are saved or loaded.
    pub scratch: PathBuf,
    /// How long a file is left alone before its last parts are merged into one, whatever their sizes. Merges that
    /// take long wait longer.
    pub idle: Duration,
    /// Added to the build thread's niceness.
    pub nice: i32,
    /// Whether graphs are built and segments merged. Without, what comes is scanned: for an index that
    /// answers a question and is closed.
    pub builds: bool,
}

impl Options {
    fn validate(&self) -> Result<()> {
        within("graph_rows", self.graph_rows, GRAPH_ROWS_MAX)?;
        within("merge_rows", self.merge_rows, GRAPH_ROWS_MAX)?;
        within("default_ef", self.default_ef, SEARCH_LIMIT)?;
        within("scan_factor", self.scan_factor, GRAPH_ROWS_MAX)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            owner: [0; 16],
            graph_rows: 1024,
            merge_rows: 1 << 22,
            merge_bytes: u64::MAX,
            memory: memory() / 4,
            default_ef: 96,
            scan_factor: 20,
            graph: GraphKind::default(),
            scratch: std::env::temp_dir(),
            idle: Duration::from_secs(10),
            nice: 19,
            builds: true,
        }
    }
}

/// Bytes of memory that the machine has.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
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

/// The store, and what the newest checkpoint in it names.
struct Checkpoints {
    store: Option<Box<dyn Store>>,
    live: Vec<Blob>,
}

/// The vectors of many files. Each can be found as soon as it is in.
///
/// All methods take `&self` and may be called from any thread. Each may be repeated: the outcome
/// is the same. The [crate's page](crate) has an example.
pub struct Index {
    files: Arc<RwLock<Files>>,
    queue: Arc<BuildQueue>,
    build_thread: Option<JoinHandle<()>>,
    verifier: Arc<Verifier>,
    verify_thread: Option<JoinHandle<()>>,
    checkpoints: Mutex<Checkpoints>,
    // u64::MAX stands for none.
    generation: AtomicU64,
    /// Bytes that the newest checkpoint could not move out of memory.
    kept: AtomicU64,
    has_store: bool,
    options: Options,
}

impl Index {
    /// `open(store, options)` - loads the newest checkpoint, if there is one that can be believed,
    /// and starts the build thread.
    ///
    /// With a missing, damaged or foreign checkpoint the index is empty, and [`Recovered`] says
    /// why. Errors are about the options, the temporary directory and the thread.
    pub fn open(store: Option<Box<dyn Store>>, options: Options) -> Result<(Self, Recovered)> {
        options.validate()?;
        let dump_dir = DumpDir::create(&options.scratch)?;
        let mut checkpoints = Checkpoints { store, live: Vec::new() };
        let mut recovered = Recovered { covered: None, problems: Vec::new() };
        let mut files = HashMap::new();
        let mut pending = Vec::new();
        if let Some(store) = checkpoints.store.as_deref_mut() {
            match checkpoint::load(store, dump_dir.path(), options.owner) {
                Ok(Some(loaded)) => {
                    // Frees what a crash left in the store.
                    if let Err(error) = store.retain(&loaded.live) {
                        recovered.problems.push(error);
                    }
                    files = loaded.files;
                    pending = loaded.pending;
                    checkpoints.live = loaded.live;
                    recovered.covered = Some(loaded.covered);
                    recovered.problems.extend(loaded.problems);
                }
                Ok(None) => {}
                Err(error) => recovered.problems.push(error),
            }
        }
        let generation = recovered.covered.as_ref().map_or(u64::MAX, |covered| covered.generation);
        let index = Self::start(files, pending, checkpoints, generation, options)?;
        Ok((index, recovered))
    }

    fn start(
        files: Files,
        pending: Vec<PendingGraph>,
        checkpoints: Checkpoints,
        generation: u64,
        options: Options,
    ) -> Result<Self> {
        let limits = Limits {
            graph_rows: options.graph_rows,
            merge_rows: options.merge_rows,
            merge_bytes: options.merge_bytes.min(options.memory / 2),
            memory: options.memory,
            graph: options.graph,
        };
        let queue = Arc::new(BuildQueue::new(limits, options.idle));
        for &file in files.keys() {
            queue.push(file);
        }
        let files = Arc::new(RwLock::new(files));
        let build_thread = options.builds.then(|| {
            let (files, queue, nice) = (Arc::clone(&files), Arc::clone(&queue), options.nice);
            std::thread::Builder::new()
                .name("vexfs-index".into())
                .spawn(move || queue.run(&files, nice))
                .map_err(IndexError::Thread)
        });
        let has_store = checkpoints.store.is_some();
        let mut this = Self {
            kept: AtomicU64::new(0),
            has_store,
            files,
            queue,
            build_thread: build_thread.transpose()?,
            verifier: Arc::default(),
            verify_thread: None,
            checkpoints: Mutex::new(checkpoints),
            generation: AtomicU64::new(generation),
            options,
        };
        if !pending.is_empty() {
            this.verifier = Arc::new(Verifier::busy());
            let (verifier, queue) = (Arc::clone(&this.verifier), Arc::clone(&this.queue));
            let nice = this.options.nice;
            let thread = std::thread::Builder::new()
                .name("vexfs-verify".into())
                .spawn(move || verifier.run(pending, &queue, nice))
                .map_err(IndexError::Thread)?;
            this.verify_thread = Some(thread);
        }
        Ok(this)
    }

    fn file(&self, file: FileId) -> Option<Arc<RwLock<VectorFile>>> {
        read(&self.files).get(&file.0).map(Arc::clone)
    }

    fn known(&self, file: FileId) -> Result<Arc<RwLock<VectorFile>>> {
        self.file(file).ok_or(IndexError::UnknownFile(file))
    }

    /// `declare(file, space, params)` - says what a file's vectors are, before any is upserted. True
    /// if the file is new or its space has changed; then it has no vectors.
    pub fn declare(&self, file: FileId, space: Space, params: Params) -> Result<bool> {
        space.validate()?;
        params.validate()?;
        let fresh = Arc::new(RwLock::new(VectorFile::new(space, params)));
        loop {
            let known = self.file(file);
            if let Some(known) = known.as_ref().filter(|known| read(known).space == space) {
                if read(known).params != params {
                    // For the next graphs; those that exist are kept.
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
                // A checkpoint may be writing the old object, so that one is not changed.
                files.insert(file.0, fresh);
                return Ok(true);
            }
            // Another thread has declared it in between: look again.
        }
    }

    /// `upsert(file, slot, raw)` - stores a vector, given as `space.vector_bytes()` little-endian
    /// bytes. False if it cannot be compared with any other and is skipped: it has a NaN, an
    /// infinity or too large a number, or is zero under cosine.
    pub fn upsert(&self, file: FileId, slot: Slot, raw: &[u8]) -> Result<bool> {
        Ok(self.upsert_batch(file, &[(slot, raw)])?.indexed == 1)
    }

    /// `upsert_batch(file, rows)` - many vectors; stops at the first that has a wrong length.
    pub fn upsert_batch(&self, file: FileId, rows: &[(Slot, &[u8])]) -> Result<Batch> {
        self.upsert_all(file, rows.iter().copied())
    }

    /// `upsert_rows(file, first, bytes, stride, offset)` - the vectors of consecutive slots: record
    /// after record of `stride` bytes, with the vector `offset` bytes after a record's start. A
    /// last record that is cut short is ignored.
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
        self.upsert_all(file, (first.0..=u64::MAX).map(Slot).zip(records))
    }

    fn upsert_all<'a>(
        &self,
        file: FileId,
        rows: impl Iterator<Item = (Slot, &'a [u8])>,
    ) -> Result<Batch> {
        let known = self.known(file)?;
        let mut batch = Batch::default();
        let mut locked = write(&known);
        // The rows before one that fails are in: there may be something to build.
        let upserted = (|| {
            for (slot, raw) in rows {
                if locked.upsert(slot.0, raw, self.queue.limits)? {
                    batch.indexed += 1;
                } else {
                    batch.skipped += 1;
                }
            }
            Ok(batch)
        })();
        let work = locked.has_work(self.queue.limits);
        drop(locked);
        if work {
            self.queue.push(file.0);
        }
        upserted
    }

    /// `remove(file, slots)` - removes these slots; how many vectors went.
    pub fn remove(&self, file: FileId, slots: Range<u64>) -> u64 {
        match slots.end.checked_sub(1) {
            Some(last) => self.remove_inclusive(file, slots.start, last),
            None => 0,
        }
    }

    /// `truncate(file, slots)` - keeps the first `slots` slots; how many vectors went.
    pub fn truncate(&self, file: FileId, slots: u64) -> u64 {
        self.remove_inclusive(file, slots, u64::MAX)
    }

    fn remove_inclusive(&self, file: FileId, first: u64, last: u64) -> u64 {
        let Some(known) = self.file(file) else { return 0 };
        let mut locked = write(&known);
        let gone = locked.remove(first, last);
        let work = gone > 0 && locked.has_work(self.queue.limits);
        drop(locked);
        if work {
            self.queue.push(file.0);
        }
        gone
    }

    /// `drop_file(file)` - removes a file; false if it was not declared.
    pub fn drop_file(&self, file: FileId) -> bool {
        // The vectors are freed after the lock is released.
        let gone = write(&self.files).remove(&file.0);
        gone.is_some()
    }

    /// `search(files, query, k, ef, exact)` - the `k` nearest vectors of these files, nearest
    /// first, ties by file and slot.
    ///
    /// `ef` is how many candidates each graph considers: more find more of the true neighbours and
    /// take longer. With `exact` no graph is used. A file that is not declared has no vectors. If a vector that
    /// is needed is lost, the error is [`IndexError::Lost`].
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
        let mut ids = files.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut broken = FileId(0);
        for _ in 0..ATTEMPTS {
            match self.attempt(&ids, query, (k, ef, exact))? {
                Ok(hits) => return Ok(hits),
                Err((file, Broken::Changed)) => broken = file,
                Err((file, Broken::Lost)) => {
                    broken = file;
                    break;
                }
            }
        }
        lock(&self.queue.lost).insert(broken.0);
        Err(IndexError::Lost(broken))
    }

    /// A search, unless stored vectors of a file cannot be read.
    fn attempt(
        &self,
        ids: &[FileId],
        query: &[f32],
        (k, ef, exact): (usize, usize, bool),
    ) -> Result<std::result::Result<Vec<Hit>, (FileId, Broken)>> {
        let scan_factor = self.options.scan_factor;
        let mut top = TopK::new(k);
        let mut sealed: Vec<(u64, SegmentView)> = Vec::new();
        let mut decoded: Option<DecodedQuery> = None;
        for &id in ids {
            let Some(known) = self.file(id) else { continue };
            let file = read(&known);
            let decoded = match &mut decoded {
                Some(decoded) => {
                    decoded.check(id, file.space, query.len())?;
                    decoded
                }
                none => none.insert(DecodedQuery::new(id, file.space, query)?),
            };
            let request = Request { query: &decoded.row, k, ef, exact, scan_factor };
            file.growing.search(&request, id.0, &mut top);
            // Searched below, after the lock is released.
            sealed.extend(file.segments.iter().map(|view| (id.0, view.clone())));
        }
        let Some(DecodedQuery { space, row, .. }) = decoded else { return Ok(Ok(Vec::new())) };
        let request = Request { query: &row, k, ef, exact, scan_factor };
        for (id, view) in &sealed {
            if let Err(broken) = view.search(&request, *id, &mut top) {
                return Ok(Err((FileId(*id), broken)));
            }
            if view.segment.graph_is_broken() {
                self.queue.push(*id);
            }
        }
        let hit = |found: Candidate| Hit {
            file: FileId(found.file),
            slot: Slot(found.slot),
            distance: distance::distance(space.metric, found.rank),
        };
        Ok(Ok(top.into_sorted().into_iter().map(hit).collect()))
    }

    /// `get(file, slot)` - a vector as numbers, which can be a query; under cosine it is normalised.
    pub fn get(&self, file: FileId, slot: Slot) -> Result<Vec<f32>> {
        let known = self.known(file)?;
        let locked = read(&known);
        if let Some(row) = locked.get(slot.0) {
            return Ok(row.to_query(locked.space.dim as usize));
        }
        if locked.segments.iter().any(|view| view.find(slot.0).is_some()) {
            lock(&self.queue.lost).insert(file.0);
            return Err(IndexError::Lost(file));
        }
        Err(IndexError::UnknownSlot { file, slot })
    }

    /// `verify()` - verifies everything that came from the store: reads all of it. What is damaged: graphs,
    /// which are built again, and files with lost vectors, which are then in [`lost`](Self::lost).
    pub fn verify(&self) -> Vec<IndexError> {
        self.verifier.wait(None);
        let mut problems = self.verifier.take_problems();
        let files: Vec<u64> = read(&self.files).keys().copied().collect();
        lock(&self.queue.lost).extend(files);
        problems.extend(self.lost().into_iter().map(IndexError::Lost));
        problems
    }

    /// `lost()` - files with vectors that are not what was written, of those in which a search or
    /// [`verify`](Self::verify) met one. Upsert their vectors again, or drop them and do so.
    pub fn lost(&self) -> Vec<FileId> {
        let suspects = lock(&self.queue.lost).clone();
        let has_lost = |id: &u64| {
            let views = self.file(FileId(*id)).map(|file| read(&file).segments.clone());
            views.is_some_and(|views| views.iter().any(SegmentView::has_lost))
        };
        let found: BTreeSet<u64> = suspects.iter().copied().filter(has_lost).collect();
        lock(&self.queue.lost).retain(|id| !suspects.contains(id) || found.contains(id));
        found.into_iter().map(FileId).collect()
    }

    /// `problems()` - what was found to be damaged since the last call, in the background.
    pub fn problems(&self) -> Vec<IndexError> {
        self.verifier.take_problems()
    }

    /// `space(file)` - what a file's vectors are, if it is declared.
    pub fn space(&self, file: FileId) -> Option<Space> {
        self.file(file).map(|known| read(&known).space)
    }

    /// `files()` - all declared files, in ascending order.
    pub fn files(&self) -> Vec<FileId> {
        let mut ids: Vec<FileId> = read(&self.files).keys().map(|&id| FileId(id)).collect();
        ids.sort_unstable();
        ids
    }

    /// `file_stats(file)` - one file in numbers, if it is declared.
    pub fn file_stats(&self, file: FileId) -> Option<Counts> {
        self.file(file).map(|known| read(&known).counts())
    }

    fn all_files(&self) -> Vec<Arc<RwLock<VectorFile>>> {
        read(&self.files).values().map(Arc::clone).collect()
    }

    fn counts(&self) -> Counts {
        self.all_files().iter().map(|file| read(file).counts()).sum()
    }

    /// `wants_checkpoint()` - whether so much is in memory and in no checkpoint that one should be written now:
    /// after it, rows and graphs are mapped from the store, and [`Options::memory`] is kept. False without a
    /// store.
    ///
    /// If none can be written, the vectors stay in memory, beyond the bound if need be, and no graph is built
    /// that does not fit: what was written is found, more slowly.
    pub fn wants_checkpoint(&self) -> bool {
        let movable = || self.counts().unsaved.saturating_sub(self.kept.load(Ordering::Relaxed));
        self.has_store
            && (self.queue.is_starved() || movable() > self.options.memory / UNSAVED_PART)
    }

    /// Why memory is not bounded, or graphs are not built for lack of it.
    fn shortage(&self) -> Option<String> {
        let (used, memory) = (self.counts().bytes, self.options.memory);
        let without = if self.has_store { "" } else { ", as there is no place for checkpoints" };
        (used > memory).then(|| {
            format!(
                "the index holds {used} bytes in memory, more than the {memory} of --index-memory, until a checkpoint is written{without}; vectors in no graph are scanned"
            )
        })
    }

    /// `stats()` - the index in numbers.
    pub fn stats(&self) -> Stats {
        let files = self.all_files();
        let generation = self.generation.load(Ordering::Relaxed);
        Stats {
            files: files.len() as u64,
            counts: files.iter().map(|file| read(file).counts()).sum(),
            generation: (generation != u64::MAX).then_some(generation),
            building: self.queue.building(),
            problem: self.shortage().or_else(|| self.queue.problem()),
        }
    }

    /// `checkpoint(generation, note, files)` - writes what is not in the store yet, then a manifest
    /// that covers everything upserted before the call.
    ///
    /// Only the files given are in it, each with a state: bytes that are handed back when the
    /// checkpoint is loaded, as are the generation and the note. If it fails, the previous
    /// checkpoint stays.
    pub fn checkpoint(
        &self,
        generation: u64,
        note: &[u8],
        files: &[(FileId, Vec<u8>)],
    ) -> Result<Written> {
        if self.counts().unsaved > self.options.memory / UNSAVED_PART {
            let files: Vec<_> = read(&self.files).iter().map(|(id, f)| (*id, f.clone())).collect();
            for (id, file) in files {
                write(&file).relieve();
                self.queue.push(id);
            }
        }
        let mut checkpoints = lock(&self.checkpoints);
        let Checkpoints { store, live } = &mut *checkpoints;
        let store = store.as_deref_mut().ok_or(IndexError::NoStore)?;
        let known = read(&self.files).clone();
        let snapshot = checkpoint::Snapshot {
            owner: self.options.owner,
            generation,
            note,
            states: files,
            files: &known,
        };
        // Made only while it is needed: a process that is killed at another time leaves none behind.
        let dump_dir = DumpDir::create(&self.options.scratch)?;
        let written = checkpoint::save(store, dump_dir.path(), live, &snapshot)?;
        self.generation.store(generation, Ordering::Relaxed);
        // What came meanwhile is among it; so the next is asked for later at the most.
        self.kept.store(self.counts().unsaved, Ordering::Relaxed);
        self.queue.resume();
        Ok(written)
    }

    /// `rebuild(file)` - drops the graphs of a file and builds them again; meanwhile its vectors are scanned.
    /// False if it is not declared.
    pub fn rebuild(&self, file: FileId) -> bool {
        let Some(known) = self.file(file) else { return false };
        for view in &read(&known).segments {
            view.segment.drop_graph();
        }
        self.queue.push(file.0);
        true
    }

    /// `verified(limit)` - waits until the graphs of the checkpoint are verified, before which they are not
    /// walked; false if the time was up.
    pub fn verified(&self, limit: Duration) -> bool {
        self.verifier.wait(Some(limit))
    }

    /// `settle()` - waits until no graph is left to verify or to build and nothing to merge.
    pub fn settle(&self) {
        self.verifier.wait(None);
        if self.options.builds {
            self.queue.settle(None);
        }
    }

    /// `settle_for(limit)` - the same for at most this long; false if the time was up.
    pub fn settle_for(&self, limit: Duration) -> bool {
        let begun = std::time::Instant::now();
        self.verifier.wait(Some(limit))
            && (!self.options.builds
                || self.queue.settle(Some(limit.saturating_sub(begun.elapsed()))))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.queue.stop();
        self.verifier.stop();
        if let Some(thread) = self.verify_thread.take() {
            let _ = thread.join();
        }
        if let Some(thread) = self.build_thread.take() {
            // It returns nothing, and a panic in it was reported when it happened.
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

/// The query as a row of the first file that is searched.
struct DecodedQuery {
    file: FileId,
    space: Space,
    row: Row,
}

impl DecodedQuery {
    fn new(file: FileId, space: Space, query: &[f32]) -> Result<Self> {
        dimension(file, space, query.len())?;
        Ok(Self { file, space, row: space.decode_query(query)? })
    }

    /// Whether the query can be compared with another file's rows too: it depends on the dimension
    /// and the metric, not on the element type.
    fn check(&self, file: FileId, space: Space, dim: usize) -> Result<()> {
        dimension(file, space, dim)?;
        if self.space.metric == space.metric {
            return Ok(());
        }
        Err(IndexError::MixedMetrics {
            first: self.file,
            first_metric: self.space.metric,
            second: file,
            second_metric: space.metric,
        })
    }
}

const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Index>();
};
