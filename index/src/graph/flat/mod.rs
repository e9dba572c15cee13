// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The project's own graph: one flat layer of links, walked on short codes.
//!
//! Every node has up to [`DEGREE`] links in two cache lines. A walk starts at the nearest of a few
//! sampled nodes and goes by the distances of codes, a byte or half a byte a dimension (one bit for bits);
//! whoever asks ranks what it finds exactly. Nodes are the distinct rows in a shuffled order. Where this project
//! says HNSW without naming a library it means a graph of this kind, which has no hierarchy.
//!
//! Invariant: links lead to nodes that exist, and a build depends on the rows alone (and on the graph that it
//! extends), neither on timing nor on the number of threads.
//! Nothing here locks or calls through a pointer during a walk.

mod blob;
mod build;
mod codes;
mod column;
mod extend;
mod kernel;
mod nibbles;
mod rotation;
mod separation;
mod team;
mod walk;

use std::{
    collections::HashMap,
    num::NonZero,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Dump, Graph,
    order::{distinct, permute},
};
use crate::{
    distance,
    error::Result,
    filter::Bitmap,
    store::pages::Pages,
    sync::lock,
    types::Metric,
    vector::{Params, Row},
    vector_array::VectorArray,
};
use blob::FlatDump;
pub(super) use blob::{MAGIC, open};
use build::Builder;
use codes::{Codec, Codes, Kind};
use column::Column;
use kernel::Isa;
use walk::{Near, Scratch, View};

/// Links of a node, at most.
const DEGREE: usize = 32;
/// No link.
const NONE: u32 = u32::MAX;
/// Scratch memory that is kept for the next walks, at most.
const SCRATCHES_MAX: usize = 64;

/// The links of one node: node numbers, then [`NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(128))]
struct Links([u32; DEGREE]);

impl Links {
    const EMPTY: Self = Self([NONE; DEGREE]);

    fn of(links: impl Iterator<Item = u32>) -> Self {
        let mut this = Self::EMPTY;
        for (to, from) in this.0.iter_mut().zip(links) {
            *to = from;
        }
        this
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied().take_while(|&link| link != NONE)
    }
}

/// Nodes that a walk over so many looks at first.
fn entries_of(nodes: usize) -> usize {
    nodes.isqrt().clamp(1, 1024).min(nodes)
}

/// A flat graph over the distinct rows of a segment.
pub(super) struct FlatGraph {
    codec: Codec,
    codes: Codes,
    links: Column<Links>,
    /// The row of each node.
    row_of: Column<u32>,
    /// A row in the graph and a later one equal to it, in ascending order.
    duplicates: Column<[u32; 2]>,
    /// What all this is in, if it is not in memory, and the epoch in which it was verified.
    pages: Option<(Arc<Pages>, u32)>,
    isa: Isa,
    scratches: Mutex<Vec<Scratch>>,
}

impl FlatGraph {
    /// Builds a graph on all processors; `stop` abandons it between two batches.
    pub(super) fn build(rows: &VectorArray, params: Params, stop: &AtomicBool) -> Result<Self> {
        Self::build_on(threads(), rows, params, stop)
    }

    fn build_on(
        threads: usize,
        rows: &VectorArray,
        params: Params,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let (mut row_of, duplicates) = distinct(rows);
        permute(&mut row_of);
        if rows.metric == Metric::Dot {
            longest_first(rows, &mut row_of);
        }
        let isa = Isa::detect();
        let Encoded { codec, codes, halves } = encode_apart(isa, threads, rows, &row_of);
        let ef = candidates(params);
        let builder = Builder { isa, codes: &codes, ef, threads, stop };
        let links = builder.link(Vec::new())?;
        let pairs = pairs(duplicates);
        let codes = halves.unwrap_or(codes);
        Ok(Self::new(codec, codes, links.into(), row_of.into(), pairs.into(), None))
    }

    fn new(
        codec: Codec,
        codes: Codes,
        links: Column<Links>,
        row_of: Column<u32>,
        duplicates: Column<[u32; 2]>,
        pages: Option<(Arc<Pages>, u32)>,
    ) -> Self {
        let (isa, scratches) = (Isa::detect(), Mutex::default());
        Self { codec, codes, links, row_of, duplicates, pages, isa, scratches }
    }

    /// The rows that are equal to one in the graph.
    fn equal_to(&self, row: u32) -> impl Iterator<Item = u32> + '_ {
        let from = self.duplicates.partition_point(|pair| pair[0] < row);
        let equal = self.duplicates[from..].iter().take_while(move |pair| pair[0] == row);
        equal.map(|pair| pair[1])
    }

    /// Walks with the code of a query, in memory that is used again.
    fn with_scratch<T>(&self, query: &Row, walk: impl FnOnce(&[u8], &mut Scratch) -> T) -> T {
        let mut scratch = lock(&self.scratches).pop().unwrap_or_default();
        let mut code = std::mem::take(&mut scratch.code);
        self.codec.encode_query(query, &mut scratch.buffer, &mut code);
        self.codes.prepare(&mut code, &self.codec);
        let found = walk(&code, &mut scratch);
        scratch.code = code;
        let mut scratches = lock(&self.scratches);
        if scratches.len() < SCRATCHES_MAX {
            scratches.push(scratch);
        }
        found
    }

    /// The rows of nodes, and those that are equal to them, of those that are wanted.
    fn rows_of(&self, nodes: &[Near], wanted: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut rows = Vec::with_capacity(nodes.len());
        for near in nodes {
            let row = self.row_of[near.node() as usize];
            rows.extend(std::iter::once(row).chain(self.equal_to(row)).filter(|&row| wanted(row)));
        }
        rows
    }

    fn view(&self) -> View<'_> {
        View { links: &self.links, codes: &self.codes, extra: (0, 0) }
    }
}

/// Threads that build a graph.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// A row in the graph and a later one equal to it, in ascending order.
fn pairs(duplicates: HashMap<u32, Vec<u32>>) -> Vec<[u32; 2]> {
    let mut pairs: Vec<[u32; 2]> = duplicates
        .into_iter()
        .flat_map(|(first, later)| later.into_iter().map(move |row| [first, row]))
        .collect();
    pairs.sort_unstable();
    pairs
}

/// Candidates that are considered when a node is linked.
fn candidates(params: Params) -> usize {
    usize::from(params.ef_construction) / 2
}

/// The codes of `nodes`, encoded on so many threads.
fn encode(threads: usize, codec: &Codec, rows: &VectorArray, nodes: &[u32]) -> Codes {
    let mut parts = team::split(threads, nodes, |part| codec.encode_rows(rows, part)).into_iter();
    let first = parts.next().unwrap_or_else(|| Codes::new(codec.kind(), codec.width(), Vec::new()));
    if parts.len() == 0 {
        return first;
    }
    let mut bytes = Vec::with_capacity(nodes.len() * codec.width());
    bytes.extend_from_slice(first.bytes());
    drop(first);
    for part in parts {
        bytes.extend_from_slice(part.bytes());
    }
    Codes::new(codec.kind(), codec.width(), bytes)
}

/// How nodes are told apart: the codec, the codes that a graph is built on, and those of half a byte that
/// it is walked on instead, if they suffice.
struct Encoded {
    codec: Codec,
    codes: Codes,
    halves: Option<Codes>,
}

/// Encodes the rows `nodes`, which are in a shuffled order, so that their codes tell them apart.
fn encode_apart(isa: Isa, threads: usize, rows: &VectorArray, nodes: &[u32]) -> Encoded {
    let codec = Codec::fit(rows, nodes);
    let codes = encode(threads, &codec, rows, nodes);
    if codec.kind() != Kind::Squares {
        return Encoded { codec, codes, halves: None };
    }
    let sample = separation::Sample::of(rows, nodes);
    if sample.is_told_apart(isa, &codec, (&codes, &codes)) {
        let halves = halves(&codec, &codes)
            .filter(|halves| sample.is_told_apart(isa, &codec, (&codes, halves)));
        return Encoded { codec, codes, halves };
    }
    drop(codes);
    let codec = Codec::floats(rows, nodes);
    let codes = encode(threads, &codec, rows, nodes);
    Encoded { codec, codes, halves: None }
}

/// Codes of half a byte, where they are worth it.
fn halves(codec: &Codec, bytes: &Codes) -> Option<Codes> {
    match codec {
        Codec::Numbers(quantizer) if quantizer.mean.len() >= nibbles::DIM_MIN => {
            Some(nibbles::of(bytes, quantizer.mean.len()))
        }
        _ => None,
    }
}

/// Puts the longest rows among those that a walk looks at first: the largest products are with them.
fn longest_first(rows: &VectorArray, nodes: &mut [u32]) {
    let count = entries_of(nodes.len());
    let square = |row: &u32| {
        let row = rows.numbers(*row as usize);
        -distance::dot(&row, &row)
    };
    if count < nodes.len() {
        nodes.select_nth_unstable_by(count, |a, b| square(a).total_cmp(&square(b)));
    }
}

impl Graph for FlatGraph {
    fn search(&self, query: &Row, ef: usize) -> Vec<u32> {
        self.with_scratch(query, |code, scratch| {
            self.view().walk(self.isa, code, ef, scratch);
            self.rows_of(scratch.found(), |_| true)
        })
    }

    fn search_passing(
        &self,
        query: &Row,
        ef: usize,
        passing: &Bitmap,
        most: usize,
    ) -> Option<Vec<u32>> {
        let alone = self.duplicates.is_empty();
        let passes = |node: u32| {
            let row = self.row_of[node as usize];
            passing.contains(row as usize)
                || !alone && self.equal_to(row).any(|row| passing.contains(row as usize))
        };
        self.with_scratch(query, |code, scratch| {
            let found = self.view().walk_passing(self.isa, code, (ef, most), scratch, passes);
            found.then(|| self.rows_of(scratch.found(), |row| passing.contains(row as usize)))
        })
    }

    fn extended(
        &self,
        rows: &Arc<VectorArray>,
        moved: &[u32],
        params: Params,
        stop: &AtomicBool,
    ) -> Result<Option<Arc<dyn Graph>>> {
        let extended = self.extend_on(threads(), rows, moved, params, stop)?;
        Ok(extended.map(|graph| Arc::new(graph) as Arc<dyn Graph>))
    }

    fn dump<'a>(&'a self, _: &Path, vectors: u32) -> Result<Box<dyn Dump + 'a>> {
        Ok(Box::new(FlatDump::of(self, vectors)))
    }

    fn intact(&self) -> bool {
        self.pages.as_ref().is_none_or(|(pages, epoch)| pages.epoch() == *epoch)
    }

    fn bytes(&self) -> usize {
        let memory = self.links.len() * (size_of::<Links>() + self.codes.width() + 4)
            + self.codes.norms().len() * 4
            + self.duplicates.len() * 8;
        self.pages.as_ref().map_or(memory, |(pages, _)| pages.bytes())
            + lock(&self.scratches).iter().map(Scratch::bytes).sum::<usize>()
    }

    fn leaves_memory(&self) -> bool {
        self.pages.is_none()
    }
}

#[cfg(test)]
mod tests;
