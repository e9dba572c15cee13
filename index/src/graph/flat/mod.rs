// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The project's own graph: one flat layer of links, walked on short codes.
//!
//! Every node has up to [`DEGREE`] links in two cache lines. A walk starts at the nearest of a few
//! sampled nodes and goes by the distances of codes, one byte a dimension (one bit for bits); whoever
//! asks ranks what it finds exactly. Nodes are the distinct rows in a shuffled order. Where this project
//! says HNSW without naming a library it means a graph of this kind, which has no hierarchy.
//!
//! Invariant: links lead to nodes that exist, and a build depends on the rows alone, not on timing.
//! Nothing here locks or calls through a pointer during a walk.

mod blob;
mod build;
mod codes;
mod column;
mod kernel;
mod rotation;
mod separation;
mod walk;

use std::{
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
    store::pages::Pages,
    sync::lock,
    types::Metric,
    vector::{Params, Row},
    vector_array::VectorArray,
};
use blob::FlatDump;
pub(super) use blob::{MAGIC, open};
use codes::{Codec, Codes};
use column::Column;
use kernel::Isa;
use walk::{Scratch, View};

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
    /// Builds a graph on this thread; `stop` abandons it between two batches.
    pub(super) fn build(rows: &VectorArray, params: Params, stop: &AtomicBool) -> Result<Self> {
        let (mut row_of, duplicates) = distinct(rows);
        permute(&mut row_of);
        if rows.metric == Metric::Dot {
            longest_first(rows, &mut row_of);
        }
        let isa = Isa::detect();
        let mut codec = Codec::fit(rows, &row_of);
        let mut codes = codec.encode_rows(rows, &row_of);
        if !separation::tells_apart(isa, &codes, rows, &row_of) {
            codec = Codec::floats(rows, &row_of);
            codes = codec.encode_rows(rows, &row_of);
        }
        let links = build::build(isa, &codes, usize::from(params.ef_construction) / 2, stop)?;
        let mut pairs: Vec<[u32; 2]> = duplicates
            .into_iter()
            .flat_map(|(first, later)| later.into_iter().map(move |row| [first, row]))
            .collect();
        pairs.sort_unstable();
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
        let mut scratch = lock(&self.scratches).pop().unwrap_or_default();
        let mut code = std::mem::take(&mut scratch.code);
        self.codec.encode_query(query, &mut scratch.buffer, &mut code);
        let view = View { links: &self.links, codes: &self.codes };
        view.walk(self.isa, &code, ef, &mut scratch);
        let mut rows = Vec::with_capacity(scratch.found().len());
        for near in scratch.found() {
            let row = self.row_of[near.node() as usize];
            rows.push(row);
            rows.extend(self.equal_to(row));
        }
        scratch.code = code;
        let mut scratches = lock(&self.scratches);
        if scratches.len() < SCRATCHES_MAX {
            scratches.push(scratch);
        }
        rows
    }

    fn dump<'a>(&'a self, _: &Path, vectors: u32) -> Result<Box<dyn Dump + 'a>> {
        Ok(Box::new(FlatDump::of(self, vectors)))
    }

    fn intact(&self) -> bool {
        self.pages.as_ref().is_none_or(|(pages, epoch)| pages.epoch() == *epoch)
    }

    fn bytes(&self) -> usize {
        let memory = self.links.len() * (size_of::<Links>() + self.codes.width() + 4)
            + self.duplicates.len() * 8;
        self.pages.as_ref().map_or(memory, |(pages, _)| pages.bytes())
            + lock(&self.scratches).iter().map(Scratch::bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
