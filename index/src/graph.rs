// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The graph over an immutable segment's rows, and the only place that knows `hnsw_rs`.
//!
//! The library stores row *numbers*; its distance looks the rows up in the segment, so a vector
//! is in memory once. What the library is known to do wrong is kept from happening here:
//! one thread inserts, in a permuted order, rows that are finite; equal rows are inserted once
//! (a crowd of duplicates links only to itself); dumps go to fresh names in a private directory;
//! a loaded dump was verified before, byte for byte, by the caller.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use hnsw_rs::{anndists::dist::distances::Distance, api::AnnT, hnsw::Hnsw, hnswio::HnswIo};

use crate::{
    distance,
    error::{IndexError, Result},
    rows::Rows,
    vector::{Metric, Params, Row},
};

/// A row number must survive as an `f32`.
pub(crate) const GRAPH_ROWS_MAX: usize = 1 << 24;
/// The library refuses to dump a graph of another height.
const LAYERS: usize = 16;
/// Where a dump keeps the level scale, which the library squares at each reload.
const LEVEL_SCALE_AT: u64 = 6;
/// Resident bytes of a point and its links in the library, measured at M=16 and M=32 after a
/// build; loading a dump leaves about 1,000 more in the allocator.
const NODE_BYTES: usize = 2600;

/// An approximate index over the rows of one segment.
pub(crate) trait GraphIndex: Send + Sync {
    /// About `ef` row numbers near the query, each once, in no order. The caller ranks them.
    fn search(&self, query: &Row, ef: usize) -> Vec<u32>;
    /// Writes the graph to fresh files in `scratch`.
    fn dump(&self, scratch: &Path) -> Result<Dump>;
    /// Resident bytes, estimated.
    fn bytes(&self) -> usize;
}

/// A dumped graph; its files go with it.
pub(crate) struct Dump {
    graph: PathBuf,
    data: PathBuf,
    graph_bytes: u64,
    data_bytes: u64,
}

impl Dump {
    /// Bytes that [`Self::copy_to`] writes.
    pub(crate) fn bytes(&self) -> u64 {
        8 + self.graph_bytes + self.data_bytes
    }

    /// The graph file's length, the graph file, the data file.
    pub(crate) fn copy_to(&self, out: &mut dyn Write) -> Result<()> {
        let failed = || IndexError::storage("copying a dumped graph");
        out.write_all(&self.graph_bytes.to_le_bytes()).map_err(failed())?;
        for (path, bytes) in [(&self.graph, self.graph_bytes), (&self.data, self.data_bytes)] {
            let file = File::open(path).map_err(failed())?;
            let copied = io::copy(&mut file.take(bytes), out).map_err(failed())?;
            if copied != bytes {
                return Err(failed()(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }

    /// Takes what [`Self::copy_to`] wrote out of a blob of `bytes` bytes. Nothing is interpreted.
    pub(crate) fn receive(scratch: &Path, bytes: u64, from: &mut dyn Read) -> Result<Self> {
        let failed = || IndexError::storage(format!("unpacking a graph in {}", scratch.display()));
        let mut length = [0u8; 8];
        from.read_exact(&mut length).map_err(failed())?;
        let graph_bytes = u64::from_le_bytes(length);
        let data_bytes = bytes
            .checked_sub(8)
            .and_then(|left| left.checked_sub(graph_bytes))
            .ok_or_else(|| IndexError::Damaged("a graph longer than its blob".into()))?;
        let dump = Self::named(scratch, &fresh_name(), graph_bytes, data_bytes);
        for (path, bytes) in [(&dump.graph, graph_bytes), (&dump.data, data_bytes)] {
            let mut file = File::create_new(path).map_err(failed())?;
            let copied =
                io::copy(&mut Read::take(&mut *from, bytes), &mut file).map_err(failed())?;
            if copied != bytes {
                return Err(failed()(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(dump)
    }

    fn named(scratch: &Path, name: &str, graph_bytes: u64, data_bytes: u64) -> Self {
        Self {
            graph: scratch.join(format!("{name}.hnsw.graph")),
            data: scratch.join(format!("{name}.hnsw.data")),
            graph_bytes,
            data_bytes,
        }
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        // The directory is private and goes with the index: a file left behind is only late.
        let _ = fs::remove_file(&self.graph);
        let _ = fs::remove_file(&self.data);
    }
}

fn fresh_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("graph-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The distance between row numbers, or between a row number and a query.
///
/// A point is one number. A query is its elements and one more, so that it is never mistaken
/// for a point. Distances are not negative: the library asserts it.
struct RowDistance {
    rows: Arc<Rows>,
    // Under dot: what lifts every row to the longest one's length, so that the nearest row in
    // the plain sense is the one with the largest product. Empty otherwise.
    lift: Vec<f32>,
}

impl RowDistance {
    fn new(rows: &Arc<Rows>) -> Self {
        let mut lift = Vec::new();
        if rows.metric == Metric::Dot {
            let square = |row| {
                let row = rows.numbers(row);
                distance::dot(row, row)
            };
            let longest = (0..rows.len()).map(square).fold(0.0f32, f32::max);
            lift = (0..rows.len()).map(|row| (longest - square(row)).max(0.0).sqrt()).collect();
        }
        Self { rows: Arc::clone(rows), lift }
    }

    fn between(&self, a: usize, b: usize) -> f32 {
        let rows = &self.rows;
        if rows.is_bits() {
            return distance::hamming(rows.bits(a), rows.bits(b)) as f32;
        }
        let (x, y) = (rows.numbers(a), rows.numbers(b));
        if rows.metric == Metric::Dot {
            let up = self.lift[a] - self.lift[b];
            return distance::l2_squared(x, y) + up * up;
        }
        distance::rank_numbers(rows.metric, x, y)
    }

    fn to_numbers(&self, row: usize, query: &[f32]) -> f32 {
        let values = self.rows.numbers(row);
        if self.rows.metric == Metric::Dot {
            return distance::l2_squared(values, query) + self.lift[row] * self.lift[row];
        }
        distance::rank_numbers(self.rows.metric, values, query)
    }
}

impl Distance<f32> for RowDistance {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        match (a, b) {
            (&[a], &[b]) => self.between(a as usize, b as usize),
            (&[row], [query @ .., _]) | ([query @ .., _], &[row]) => {
                self.to_numbers(row as usize, query)
            }
            _ => f32::MAX,
        }
    }
}

impl Distance<u64> for RowDistance {
    fn eval(&self, a: &[u64], b: &[u64]) -> f32 {
        match (a, b) {
            (&[a], &[b]) => self.between(a as usize, b as usize),
            (&[row], [query @ .., _]) | ([query @ .., _], &[row]) => {
                distance::hamming(self.rows.bits(row as usize), query) as f32
            }
            _ => f32::MAX,
        }
    }
}

enum Library {
    Numbers(Hnsw<'static, f32, RowDistance>),
    Bits(Hnsw<'static, u64, RowDistance>),
}

/// `hnsw_rs` over the distinct rows of a segment.
pub(crate) struct HnswGraph {
    library: Library,
    rows: usize,
    twins: HashMap<u32, Vec<u32>>,
}

impl HnswGraph {
    /// Builds a graph; `stop` abandons it between two insertions.
    pub(crate) fn build(rows: &Arc<Rows>, params: Params, stop: &AtomicBool) -> Result<Self> {
        if rows.len() > GRAPH_ROWS_MAX {
            return Err(IndexError::Build {
                rows: rows.len(),
                why: format!("a graph holds at most {GRAPH_ROWS_MAX} vectors"),
            });
        }
        let (mut order, twins) = distinct(rows);
        permute(&mut order);
        let built = catch_unwind(AssertUnwindSafe(|| {
            let (m, ef) = (usize::from(params.m), usize::from(params.ef_construction));
            let distance = RowDistance::new(rows);
            if rows.is_bits() {
                let graph = Hnsw::new(m, order.len(), LAYERS, ef, distance);
                insert(&order, stop, |row| graph.insert_slice((&[u64::from(row)], row as usize)))?;
                Ok(Library::Bits(graph))
            } else {
                let graph = Hnsw::new(m, order.len(), LAYERS, ef, distance);
                insert(&order, stop, |row| graph.insert_slice((&[row as f32], row as usize)))?;
                Ok(Library::Numbers(graph))
            }
        }));
        let library = built.map_err(|panic| build_panic(rows.len(), &*panic))??;
        Ok(Self { library, rows: rows.len(), twins })
    }

    /// Loads a dump whose bytes are known to be those of [`GraphIndex::dump`].
    pub(crate) fn load(dump: &Dump, rows: &Arc<Rows>) -> Result<Self> {
        let (order, twins) = distinct(rows);
        restore_level_scale(&dump.graph)?;
        let failed = |why: String| IndexError::Damaged(format!("a graph was not loaded: {why}"));
        let (Some(dir), Some(name)) = (dump.graph.parent(), base_name(&dump.graph)) else {
            return Err(failed("its dump has no name".into()));
        };
        // The library ties a graph to the life of its loader for the sake of memory maps, which
        // are not used: two short strings stay behind for each graph loaded.
        let loader: &'static HnswIo = Box::leak(Box::new(HnswIo::new(dir, name)));
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            let distance = RowDistance::new(rows);
            let library = if rows.is_bits() {
                loader.load_hnsw_with_dist(distance).map(Library::Bits)
            } else {
                loader.load_hnsw_with_dist(distance).map(Library::Numbers)
            };
            library.map_err(|error| error.to_string())
        }));
        let library = loaded.map_err(|panic| build_panic(rows.len(), &*panic))?.map_err(failed)?;
        let this = Self { library, rows: rows.len(), twins };
        if this.points() != order.len() {
            return Err(failed(format!("{} points for {} rows", this.points(), order.len())));
        }
        Ok(this)
    }

    fn points(&self) -> usize {
        match &self.library {
            Library::Numbers(graph) => graph.get_nb_point(),
            Library::Bits(graph) => graph.get_nb_point(),
        }
    }
}

impl GraphIndex for HnswGraph {
    fn search(&self, query: &Row, ef: usize) -> Vec<u32> {
        let found = match (&self.library, query) {
            (Library::Numbers(graph), Row::Numbers(query)) => {
                let mut padded = query.clone();
                padded.push(0.0);
                graph.search(&padded, ef, ef)
            }
            (Library::Bits(graph), Row::Bits(query)) => {
                let mut padded = query.clone();
                padded.push(0);
                graph.search(&padded, ef, ef)
            }
            _ => Vec::new(),
        };
        let mut rows = Vec::with_capacity(found.len());
        for near in found {
            let row = near.d_id as u32;
            rows.push(row);
            if let Some(twins) = self.twins.get(&row) {
                rows.extend_from_slice(twins);
            }
        }
        rows.retain(|&row| (row as usize) < self.rows);
        rows
    }

    fn dump(&self, scratch: &Path) -> Result<Dump> {
        let name = fresh_name();
        // Armed before the library writes: whatever it leaves behind is removed.
        let mut dump = Dump::named(scratch, &name, 0, 0);
        let dumped = catch_unwind(AssertUnwindSafe(|| {
            let dumped = match &self.library {
                Library::Numbers(graph) => graph.file_dump(scratch, &name),
                Library::Bits(graph) => graph.file_dump(scratch, &name),
            };
            dumped.map_err(|error| error.to_string())
        }));
        let failed = |why: String| {
            IndexError::storage(format!("dumping a graph in {}", scratch.display()))(
                io::Error::other(why),
            )
        };
        let used = dumped.map_err(|panic| failed(panic_words(&*panic)))?.map_err(failed)?;
        if used != name {
            return Err(failed(format!("the library chose the name {used}")));
        }
        let length = |path: &Path| fs::metadata(path).map(|meta| meta.len());
        let measured = IndexError::storage("measuring a dumped graph");
        (dump.graph_bytes, dump.data_bytes) = length(&dump.graph)
            .and_then(|graph| Ok((graph, length(&dump.data)?)))
            .map_err(measured)?;
        Ok(dump)
    }

    fn bytes(&self) -> usize {
        self.points() * NODE_BYTES
    }
}

/// The first row of each content, and the others by the first.
fn distinct(rows: &Rows) -> (Vec<u32>, HashMap<u32, Vec<u32>>) {
    let mut first: HashMap<u64, Vec<u32>> = HashMap::with_capacity(rows.len());
    let mut twins: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut order = Vec::with_capacity(rows.len());
    for row in 0..rows.len() {
        let known = first.entry(rows.fingerprint(row)).or_default();
        let content = rows.get(row);
        if let Some(&twin) = known.iter().find(|&&other| rows.same(other as usize, &content)) {
            twins.entry(twin).or_default().push(row as u32);
        } else {
            known.push(row as u32);
            order.push(row as u32);
        }
    }
    (order, twins)
}

/// Files are written topic by topic, and sorted insertion ruins a graph. A fixed seed keeps
/// builds repeatable.
fn permute(order: &mut [u32]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..order.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        order.swap(i, (z % (i as u64 + 1)) as usize);
    }
}

fn insert(order: &[u32], stop: &AtomicBool, put: impl Fn(u32)) -> Result<()> {
    for &row in order {
        if stop.load(Ordering::Relaxed) {
            return Err(IndexError::Stopped);
        }
        put(row);
    }
    Ok(())
}

fn restore_level_scale(graph: &Path) -> Result<()> {
    let failed = || IndexError::storage("preparing a graph for loading");
    let file = OpenOptions::new().write(true).open(graph).map_err(failed())?;
    file.write_all_at(&1.0f64.to_le_bytes(), LEVEL_SCALE_AT).map_err(failed())
}

fn base_name(graph: &Path) -> Option<&str> {
    graph.file_name()?.to_str()?.strip_suffix(".hnsw.graph")
}

fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".into())
}

fn build_panic(rows: usize, panic: &(dyn std::any::Any + Send)) -> IndexError {
    IndexError::Build { rows, why: panic_words(panic) }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
