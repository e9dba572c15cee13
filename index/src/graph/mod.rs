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
    io::{Read, Write},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    error::{IndexError, Result},
    vector::{Params, Row},
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
    /// The graph as bytes. An implementation may use fresh files in `dir`, a private directory.
    fn dump(&self, dir: &Path) -> Result<Box<dyn Dump>>;
    /// Resident bytes, estimated; without the rows.
    fn bytes(&self) -> usize;
}

/// A graph as bytes, on its way into a checkpoint or out of one. Its temporary files go with it.
pub(crate) trait Dump {
    /// Bytes that [`write_to`](Self::write_to) writes.
    fn bytes(&self) -> u64;
    /// Writes the graph.
    fn write_to(&self, out: &mut dyn Write) -> Result<()>;
    /// The graph over these rows. The bytes must be those of a graph that was written: call it
    /// only once their checksum has matched.
    fn load(&self, rows: &Arc<VectorArray>) -> Result<Arc<dyn Graph>>;
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
    if let (GraphKind::Flat, Some(base)) = (kind, base)
        && let Some(graph) = base.graph.extended(rows, &base.moved, params, stop)?
    {
        return Ok(graph);
    }
    Ok(match kind {
        GraphKind::Flat => Arc::new(flat::FlatGraph::build(rows, params, stop)?),
        GraphKind::HnswRs => Arc::new(hnsw::HnswGraph::build(rows, params, stop)?),
    })
}

/// Reads the `bytes` bytes that [`Dump::write_to`] wrote, and interprets nothing of them but which
/// graph they are.
pub(crate) fn receive(dir: &Path, bytes: u64, from: &mut dyn Read) -> Result<Box<dyn Dump>> {
    let mut magic = [0u8; 8];
    from.read_exact(&mut magic).map_err(IndexError::storage("reading a graph"))?;
    if magic == flat::MAGIC {
        return Ok(Box::new(flat::FlatDump::receive(bytes, &magic, from)?));
    }
    Ok(Box::new(hnsw::HnswDump::receive(dir, bytes, &mut magic.chain(from))?))
}
