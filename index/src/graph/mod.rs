// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Graphs over the rows of a sealed segment: what the rest of the index asks of any of them.
//!
//! A graph finds rows that are probably near; their distances are computed by the caller, so a
//! graph can miss a row but cannot return a wrong distance. It refers to rows by number and reads
//! them from the segment's array. It never changes.
//!
//! [`flat`] is the project's own, over short codes. [`hnsw`] is the library `hnsw_rs`, which nothing outside
//! that file knows. Which one a blob holds, its first bytes say.

mod flat;
mod hnsw;
mod order;

use std::{
    io::Write,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    error::{IndexError, Result},
    store::pages::Pages,
    vector::{Params, Row, Space},
    vector_array::VectorArray,
};

/// The most rows of a graph, and so of a segment.
pub(crate) const GRAPH_ROWS_MAX: usize = 1 << 24;

/// In the place of a row: it was removed.
pub(crate) const GONE: u32 = u32::MAX;

/// An approximate index over the rows of one segment.
pub(crate) trait Graph: Send + Sync {
    /// About `ef` row numbers near the query, each at most once, the nearest by the graph's own
    /// estimate first.
    fn search(&self, query: &Row, ef: usize) -> Vec<u32>;
    /// A graph over `rows` that keeps what it can of this one's links. `moved` says where the rows of this
    /// graph are among `rows`, or [`GONE`]. `None` if building a graph anew is better.
    fn extended(
        &self,
        rows: &Arc<VectorArray>,
        moved: &[u32],
        params: Params,
        stop: &AtomicBool,
    ) -> Result<Option<Arc<dyn Graph>>> {
        let _ = (rows, moved, params, stop);
        Ok(None)
    }
    /// The graph as bytes, over vectors whose blob has the checksum `vectors`. An implementation may use
    /// fresh files in `dir`, a private directory.
    fn dump<'a>(&'a self, dir: &Path, vectors: u32) -> Result<Box<dyn Dump + 'a>>;
    /// Whether all that it was made of can be read still. If not, what a search found counts for nothing.
    fn intact(&self) -> bool {
        true
    }
    /// Resident bytes, estimated; without the rows.
    fn bytes(&self) -> usize;
    /// Whether it is in memory now and will be mapped once it is in a checkpoint.
    fn leaves_memory(&self) -> bool {
        false
    }
}

/// A graph as bytes, on its way into a checkpoint. Its temporary files go with it.
pub(crate) trait Dump {
    /// Bytes that [`write_to`](Self::write_to) writes.
    fn bytes(&self) -> u64;
    /// Writes the graph.
    fn write_to(&self, out: &mut dyn Write) -> Result<()>;
}

/// Which vectors a graph is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub space: Space,
    pub rows: usize,
    /// The checksum of their blob.
    pub crc: u32,
}

/// Which implementation builds the graphs of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GraphKind {
    /// The flat graph over short codes.
    #[default]
    Flat,
    /// The library `hnsw_rs`.
    HnswRs,
}

/// A graph over some of the rows of another that is to be built, and where its rows are among these.
pub(crate) struct Base {
    pub graph: Arc<dyn Graph>,
    pub moved: Vec<u32>,
}

/// Builds a graph, out of `base` if there is one and that is better; `stop` abandons it.
pub(crate) fn build(
    kind: GraphKind,
    rows: &Arc<VectorArray>,
    base: Option<&Base>,
    params: Params,
    stop: &AtomicBool,
) -> Result<Arc<dyn Graph>> {
    if rows.len() > GRAPH_ROWS_MAX {
        return Err(IndexError::Build {
            rows: rows.len(),
            why: format!("a graph holds at most {GRAPH_ROWS_MAX} vectors"),
        });
    }
    // What is read below has to be what was written, from the first row to the last.
    let epoch = rows.verify()?;
    let extended = match (kind, base) {
        (GraphKind::Flat, Some(base)) => {
            base.graph.extended(rows, &base.moved, params, stop)?.filter(|_| base.graph.intact())
        }
        _ => None,
    };
    let graph: Arc<dyn Graph> = match (extended, kind) {
        (Some(graph), _) => graph,
        (None, GraphKind::Flat) => Arc::new(flat::FlatGraph::build(rows, params, stop)?),
        (None, GraphKind::HnswRs) => Arc::new(hnsw::HnswGraph::build(rows, params, stop)?),
    };
    if rows.epoch() == epoch {
        return Ok(graph);
    }
    Err(IndexError::Build { rows: rows.len(), why: "a stored vector cannot be read".into() })
}

/// The graph in these pages, over the vectors given, all of it verified first.
pub(crate) fn load(
    pages: &Arc<Pages>,
    vectors: &Identity,
    rows: &Arc<VectorArray>,
    dir: &Path,
) -> Result<Arc<dyn Graph>> {
    if is_flat(pages)? {
        return load_flat(pages, vectors);
    }
    Ok(Arc::new(hnsw::open(pages, vectors, rows, dir)?))
}

/// The flat graph in these pages, all of it verified first.
pub(crate) fn load_flat(pages: &Arc<Pages>, vectors: &Identity) -> Result<Arc<dyn Graph>> {
    Ok(Arc::new(flat::open(pages, vectors)?))
}

/// Whether the pages have a flat graph, which needs neither the rows nor a directory.
pub(crate) fn is_flat(pages: &Pages) -> Result<bool> {
    let epoch = pages.epoch();
    let magic = pages.contents().first_chunk::<8>().copied();
    if !pages.check(0, 8, epoch) || pages.epoch() != epoch {
        return Err(IndexError::Damaged("a graph has a wrong checksum".into()));
    }
    match magic {
        Some(flat::MAGIC) => Ok(true),
        Some(hnsw::MAGIC) => Ok(false),
        _ => Err(IndexError::Damaged("a graph of another version".into())),
    }
}
