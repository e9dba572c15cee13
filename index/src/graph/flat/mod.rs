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
mod kernel;
mod rotation;
mod separation;
mod walk;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, atomic::AtomicBool},
};

use super::{
    Dump, Graph,
    order::{distinct, permute},
};
use crate::{
    distance,
    error::Result,
    sync::lock,
    types::Metric,
    vector::{Params, Row},
    vector_array::VectorArray,
};
pub(super) use blob::{FlatDump, MAGIC};
use codes::{Codec, Codes};
use kernel::Isa;
use walk::{Scratch, View};

/// Links of a node, at most.
const DEGREE: usize = 32;
/// No link.
const NONE: u32 = u32::MAX;
/// Scratch memory that is kept for the next walks, at most.
const SCRATCHES_MAX: usize = 64;

/// The links of one node: node numbers, then [`NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    links: Vec<Links>,
    /// The row of each node.
    row_of: Vec<u32>,
    /// A row in the graph, and the later ones equal to it.
    duplicates: HashMap<u32, Vec<u32>>,
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
        Ok(Self::new(codec, codes, links, row_of, duplicates))
    }

    fn new(
        codec: Codec,
        codes: Codes,
        links: Vec<Links>,
        row_of: Vec<u32>,
        duplicates: HashMap<u32, Vec<u32>>,
    ) -> Self {
        let (isa, scratches) = (Isa::detect(), Mutex::default());
        Self { codec, codes, links, row_of, duplicates, isa, scratches }
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
            if let Some(duplicates) = self.duplicates.get(&row) {
                rows.extend_from_slice(duplicates);
            }
        }
        scratch.code = code;
        let mut scratches = lock(&self.scratches);
        if scratches.len() < SCRATCHES_MAX {
            scratches.push(scratch);
        }
        rows
    }

    fn dump(&self, _: &Path) -> Result<Box<dyn Dump>> {
        Ok(Box::new(FlatDump::of(self)))
    }

    fn bytes(&self) -> usize {
        self.links.len() * (size_of::<Links>() + self.codes.width() + 4)
            + self.duplicates.values().map(|rows| rows.len() * 4 + 64).sum::<usize>()
            + lock(&self.scratches).iter().map(Scratch::bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
