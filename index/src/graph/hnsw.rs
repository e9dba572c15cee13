// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Graphs built by the library `hnsw_rs`; this is the only file that knows it.
//!
//! The library holds row *numbers*; its distance looks the rows up in the segment's array, so that
//! a vector is in memory once.
//!
//! What the library is known to do wrong is kept from happening here:
//! - it can deadlock with two writers: one thread inserts;
//! - sorted input ruins a graph: rows are inserted in a permuted order;
//! - equal rows link only to each other: each content is inserted once;
//! - it panics: every call that can is caught;
//! - it trusts the files it loads: their checksums are verified before;
//! - it overwrites or renames files of an old dump: each dump has a fresh name.

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

use super::{
    Dump, GRAPH_ROWS_MAX, Graph, Identity,
    order::{distinct, permute},
};
use crate::{
    distance,
    error::{IndexError, Result},
    store::pages::Pages,
    types::Metric,
    vector::{Params, Row},
    vector_array::VectorArray,
};

/// First bytes of such a graph in a blob; the last one is the version.
pub(super) const MAGIC: [u8; 8] = *b"VXHNSW\0\x02";
const HEADER: usize = 24;

// A row number is an `f32` in the library: larger ones would be rounded.
const _: () = assert!(GRAPH_ROWS_MAX <= 1 << f32::MANTISSA_DIGITS);
/// The library refuses to dump a graph with another number of layers.
const LAYERS: usize = 16;
/// Where a dump keeps the level scale, which the library squares at each reload.
const LEVEL_SCALE_AT: u64 = 6;
/// Resident bytes of a point and its links, measured at M=16 and M=32 after a build. A graph that
/// was loaded takes about 1,000 more for each point.
const NODE_BYTES: usize = 2600;

/// A graph in the two files that the library writes and reads. They are removed with this value.
pub(super) struct HnswDump {
    graph: PathBuf,
    data: PathBuf,
    graph_bytes: u64,
    data_bytes: u64,
    /// The checksum of the vectors that it is over.
    vectors: u32,
}

impl HnswDump {
    /// Unpacks what [`Dump::write_to`] wrote; a blob has `bytes` bytes of it.
    pub(super) fn receive(dir: &Path, bytes: u64, from: &mut dyn Read) -> Result<Self> {
        let failed = || IndexError::storage(format!("unpacking a graph in {}", dir.display()));
        let mut length = [0u8; 8];
        from.read_exact(&mut length).map_err(failed())?;
        // What lies behind it fills up the last page.
        let graph_bytes = u64::from_le_bytes(length);
        let data_bytes = bytes
            .checked_sub(8)
            .and_then(|left| left.checked_sub(graph_bytes))
            .ok_or_else(|| IndexError::Damaged("a graph longer than its blob".into()))?;
        let dump = Self::named(dir, &fresh_name(), graph_bytes, data_bytes, 0);
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

    fn named(dir: &Path, name: &str, graph_bytes: u64, data_bytes: u64, vectors: u32) -> Self {
        Self {
            graph: dir.join(format!("{name}.hnsw.graph")),
            data: dir.join(format!("{name}.hnsw.data")),
            graph_bytes,
            data_bytes,
            vectors,
        }
    }
}

impl Dump for HnswDump {
    fn bytes(&self) -> u64 {
        HEADER as u64 + 8 + self.graph_bytes + self.data_bytes
    }

    /// A header, the graph file's length, the graph file, the data file.
    fn write_to(&self, out: &mut dyn Write) -> Result<()> {
        let failed = || IndexError::storage("copying a dumped graph");
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&(8 + self.graph_bytes + self.data_bytes).to_le_bytes());
        header[16..20].copy_from_slice(&self.vectors.to_le_bytes());
        out.write_all(&header).map_err(failed())?;
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
}

/// Opens the graph in these pages, over the vectors given. Both are verified first: the library believes
/// what it reads.
pub(super) fn open(
    pages: &Pages,
    vectors: &Identity,
    rows: &Arc<VectorArray>,
    dir: &Path,
) -> Result<HnswGraph> {
    let damaged = || IndexError::Damaged("a graph that is not of its rows".into());
    let (epoch, rows_epoch) = (pages.verify("a graph")?, rows.verify()?);
    let (header, rest) = pages.contents().split_at_checked(HEADER).ok_or_else(damaged)?;
    let word = |at: usize| {
        let bytes = header.get(at..).and_then(|bytes| bytes.first_chunk::<8>());
        u64::from_le_bytes(bytes.copied().unwrap_or_default())
    };
    let mut body = usize::try_from(word(8)).ok().and_then(|n| rest.get(..n)).ok_or_else(damaged)?;
    if word(16) as u32 != vectors.crc {
        return Err(damaged());
    }
    let dump = HnswDump::receive(dir, body.len() as u64, &mut body)?;
    if pages.epoch() != epoch {
        return Err(damaged());
    }
    let graph = HnswGraph::load(&dump, rows)?;
    if rows.epoch() == rows_epoch { Ok(graph) } else { Err(damaged()) }
}

impl Drop for HnswDump {
    fn drop(&mut self) {
        // The directory is private and goes with the index: a file that stays is removed then.
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
/// A point is one number. A query is its elements and one more, so that it is never taken for a
/// point. No distance is negative: the library asserts that.
struct RowDistance {
    rows: Arc<VectorArray>,
    // Under dot, each row has one more element that gives all of them the length of the longest;
    // then the nearest row in the Euclidean sense is the one with the largest product (Bachrach
    // et al., RecSys 2014). Empty under the other metrics.
    lift: Vec<f32>,
}

impl RowDistance {
    fn new(rows: &Arc<VectorArray>) -> Self {
        let mut lift = Vec::new();
        if rows.metric == Metric::Dot {
            let square = |row| {
                let row = rows.numbers(row);
                distance::dot(&row, &row)
            };
            let longest = (0..rows.len()).map(square).fold(0.0f32, f32::max);
            lift = (0..rows.len()).map(|row| (longest - square(row)).max(0.0).sqrt()).collect();
        }
        Self { rows: Arc::clone(rows), lift }
    }

    fn between(&self, a: usize, b: usize) -> f32 {
        let rows = &self.rows;
        if rows.is_bits() {
            return distance::hamming(&rows.bits(a), &rows.bits(b)) as f32;
        }
        let (x, y) = (rows.numbers(a), rows.numbers(b));
        if rows.metric == Metric::Dot {
            let up = self.lift[a] - self.lift[b];
            return distance::l2_squared(&x, &y) + up * up;
        }
        distance::rank_numbers(rows.metric, &x, &y)
    }

    fn to_numbers(&self, row: usize, query: &[f32]) -> f32 {
        let values = self.rows.numbers(row);
        if self.rows.metric == Metric::Dot {
            return distance::l2_squared(&values, query) + self.lift[row] * self.lift[row];
        }
        distance::rank_numbers(self.rows.metric, &values, query)
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
                distance::hamming(&self.rows.bits(row as usize), query) as f32
            }
            _ => f32::MAX,
        }
    }
}

enum Library {
    Numbers(Hnsw<'static, f32, RowDistance>),
    Bits(Hnsw<'static, u64, RowDistance>),
}

/// The library's graph over the distinct rows of a segment.
pub(super) struct HnswGraph {
    library: Library,
    rows: usize,
    /// A row in the graph, and the later ones equal to it.
    duplicates: HashMap<u32, Vec<u32>>,
}

impl HnswGraph {
    /// Builds a graph of at most [`GRAPH_ROWS_MAX`] rows; `stop` abandons it between two insertions.
    pub(super) fn build(
        rows: &Arc<VectorArray>,
        params: Params,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let (mut order, duplicates) = distinct(rows);
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
        Ok(Self { library, rows: rows.len(), duplicates })
    }

    /// Loads what a graph over these rows was dumped as; see [`Dump::load`].
    fn load(dump: &HnswDump, rows: &Arc<VectorArray>) -> Result<Self> {
        let (order, duplicates) = distinct(rows);
        restore_level_scale(&dump.graph)?;
        let failed = |why: String| IndexError::Damaged(format!("a graph was not loaded: {why}"));
        let (Some(dir), Some(name)) = (dump.graph.parent(), base_name(&dump.graph)) else {
            return Err(failed("its dump has no name".into()));
        };
        // The library makes a graph borrow its loader, for memory maps, which are not used. The
        // loader is leaked: two short strings for each graph that is loaded.
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
        let this = Self { library, rows: rows.len(), duplicates };
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

impl Graph for HnswGraph {
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
            if let Some(duplicates) = self.duplicates.get(&row) {
                rows.extend_from_slice(duplicates);
            }
        }
        rows.retain(|&row| (row as usize) < self.rows);
        rows
    }

    fn dump<'a>(&'a self, dir: &Path, vectors: u32) -> Result<Box<dyn Dump + 'a>> {
        let name = fresh_name();
        // Made before the library writes, so that what it leaves behind is removed if it fails.
        let mut dump = HnswDump::named(dir, &name, 0, 0, vectors);
        let dumped = catch_unwind(AssertUnwindSafe(|| {
            let dumped = match &self.library {
                Library::Numbers(graph) => graph.file_dump(dir, &name),
                Library::Bits(graph) => graph.file_dump(dir, &name),
            };
            dumped.map_err(|error| error.to_string())
        }));
        let failed = |why: String| {
            IndexError::storage(format!("dumping a graph in {}", dir.display()))(io::Error::other(
                why,
            ))
        };
        let used = dumped.map_err(|panic| failed(panic_message(&*panic)))?.map_err(failed)?;
        if used != name {
            return Err(failed(format!("the library chose the name {used}")));
        }
        let length = |path: &Path| fs::metadata(path).map(|meta| meta.len());
        let measured = IndexError::storage("measuring a dumped graph");
        (dump.graph_bytes, dump.data_bytes) = length(&dump.graph)
            .and_then(|graph| Ok((graph, length(&dump.data)?)))
            .map_err(measured)?;
        Ok(Box::new(dump))
    }

    fn bytes(&self) -> usize {
        self.points() * NODE_BYTES
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

/// Sets the level scale back to 1: see [`LEVEL_SCALE_AT`].
fn restore_level_scale(graph: &Path) -> Result<()> {
    let failed = || IndexError::storage("preparing a graph for loading");
    let file = OpenOptions::new().write(true).open(graph).map_err(failed())?;
    file.write_all_at(&1.0f64.to_le_bytes(), LEVEL_SCALE_AT).map_err(failed())
}

fn base_name(graph: &Path) -> Option<&str> {
    graph.file_name()?.to_str()?.strip_suffix(".hnsw.graph")
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".into())
}

fn build_panic(rows: usize, panic: &(dyn std::any::Any + Send)) -> IndexError {
    IndexError::Build { rows, why: panic_message(panic) }
}

#[cfg(test)]
#[path = "hnsw_tests.rs"]
mod tests;
