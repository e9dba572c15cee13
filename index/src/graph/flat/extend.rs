// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A graph made out of another one: rows that are gone leave it, new ones are linked in.
//!
//! What remains keeps its links, its code and its codec, so that the work is that of the new rows and a
//! copy. Neighbours of a row that is gone get its links instead (Singh et al., 2021, arXiv 2105.09613).
//!
//! Invariant: a graph that was extended is as good as one that is built anew: the nodes that a walk looks
//! at first are a sample of all nodes, the codec fits the new rows, and walks find the nodes. Where that is
//! not so there is no extended graph, and the caller builds.

use std::sync::atomic::AtomicBool;

use super::{
    FlatGraph, Links, NONE,
    build::Builder,
    candidates,
    codes::{Codec, Codes, Kind},
    encode, encode_apart, entries_of, halves, longest_first, pairs,
    separation::Sample,
    team,
    walk::{Near, Scratch},
};
use crate::{
    error::Result,
    graph::{
        GONE,
        order::{distinct, permute},
    },
    types::Metric,
    vector::Params,
    vector_array::VectorArray,
};

/// If more than this part of the nodes is gone, too little is left to be repaired.
const GONE_PART: usize = 3;
/// The part of the bytes of new codes that may be at the ends of their range; a codec is fitted so that
/// a third of it is.
const CLIPPED: f64 = 3e-4;
/// So many such bytes are chance, however few the rows.
const CLIPPED_MIN: f64 = 8.0;
/// New rows may be longer than the longest row that the codec knows by this factor, under dot.
const LONGER: f32 = 1.01;
/// Nodes that are looked for when a graph was extended, the width of the walk, and the part to be found.
const LOOKED_FOR: usize = 256;
const LOOK_EF: usize = 32;
const TO_BE_FOUND: f64 = 0.98;

/// Nodes of the old graph and new rows, on their way into one.
struct Plan {
    /// The node that each old one becomes, or [`NONE`].
    to: Vec<u32>,
    /// The row of each node: of the old ones that are left, then of the new ones.
    row_of: Vec<u32>,
    /// Old nodes that are left.
    left: usize,
}

impl FlatGraph {
    /// This graph over other rows, on so many threads: see [`Graph::extended`](super::Graph::extended).
    pub(super) fn extend_on(
        &self,
        threads: usize,
        rows: &VectorArray,
        moved: &[u32],
        params: Params,
        stop: &AtomicBool,
    ) -> Result<Option<Self>> {
        let (order, duplicates) = distinct(rows);
        // The row that stands for each content.
        let mut stands: Vec<u32> = (0..rows.len() as u32).collect();
        for (&first, later) in &duplicates {
            for &row in later {
                stands[row as usize] = first;
            }
        }
        let plan = self.plan(rows, &order, &stands, moved);
        let nodes = self.links.len();
        if plan.left == 0 || (nodes - plan.left) * GONE_PART > nodes {
            return Ok(None);
        }
        let Some(codes) = self.codes_of(threads, rows, &plan) else { return Ok(None) };
        let (isa, ef) = (self.isa, candidates(params));
        let builder = Builder { isa, codes: &codes, ef, threads, stop };
        let kept = self.links_left(&builder, &plan);
        let links = builder.link(kept)?;
        let order = sample_first(rows, &plan);
        let links = renumbered(&links, &order);
        let bytes = codes.picked(&order);
        let row_of: Vec<u32> = order.iter().map(|&node| plan.row_of[node as usize]).collect();
        let duplicates = pairs(duplicates);
        // Whether half a byte tells the new rows apart was asked with their codes.
        let walks_bytes = self.codes.kind() != Kind::Nibbles;
        let halves = if walks_bytes { None } else { halves(&self.codec, &bytes) };
        let (codes, bytes) = match halves {
            Some(halves) => (halves, Some(bytes)),
            None => (bytes, None),
        };
        let graph = Self::new(
            self.codec.clone(),
            codes,
            links.into(),
            row_of.into(),
            duplicates.into(),
            None,
        );
        let finds = graph.finds_its_nodes(threads, bytes.as_ref().unwrap_or(&graph.codes));
        Ok(finds.then_some(graph))
    }

    /// Which nodes are left, and which rows are new.
    fn plan(&self, rows: &VectorArray, order: &[u32], stands: &[u32], moved: &[u32]) -> Plan {
        let mut is_new = vec![false; rows.len()];
        for &row in order {
            is_new[row as usize] = true;
        }
        let mut plan = Plan { to: Vec::new(), row_of: Vec::with_capacity(order.len()), left: 0 };
        for &row in self.row_of.iter() {
            let left = std::iter::once(row).chain(self.equal_to(row));
            // Equal rows that are left all have one that stands for them.
            let left = left.map(|row| moved[row as usize]).find(|&row| row != GONE);
            let row = left.map(|row| stands[row as usize]);
            plan.to.push(row.map_or(NONE, |_| plan.row_of.len() as u32));
            if let Some(row) = row {
                is_new[row as usize] = false;
                plan.row_of.push(row);
            }
        }
        plan.left = plan.row_of.len();
        let mut fresh: Vec<u32> =
            order.iter().copied().filter(|&row| is_new[row as usize]).collect();
        permute(&mut fresh);
        if rows.metric == Metric::Dot {
            longest_first(rows, &mut fresh);
        }
        plan.row_of.append(&mut fresh);
        plan
    }

    /// The codes of all nodes of the plan; `None` if the codec does not suit them.
    fn codes_of(&self, threads: usize, rows: &VectorArray, plan: &Plan) -> Option<Codes> {
        let fresh = &plan.row_of[plan.left..];
        if !self.is_long_enough(rows, fresh) {
            return None;
        }
        if self.codes.kind() == Kind::Floats {
            // Most rows may be such by now that short codes suffice.
            let mut all = plan.row_of.clone();
            permute(&mut all);
            if encode_apart(self.isa, threads, rows, &all).codec.kind() != Kind::Floats {
                return None;
            }
        }
        let new = encode(threads, &self.codec, rows, fresh);
        if let Codec::Numbers(quantizer) = &self.codec {
            let dim = quantizer.mean.len();
            let of_numbers = new.bytes().chunks(new.width()).flat_map(|code| &code[..dim]);
            let clipped = of_numbers.filter(|&&byte| byte == 0 || byte == 127).count();
            if clipped as f64 > CLIPPED_MIN + CLIPPED * (fresh.len() * dim) as f64 {
                return None;
            }
        }
        let sample = matches!(self.codec, Codec::Numbers(_)).then(|| Sample::of(rows, fresh));
        let is_told_apart = |codes: &Codes| {
            sample
                .as_ref()
                .is_none_or(|sample| sample.is_told_apart(self.isa, &self.codec, (&new, codes)))
        };
        if !is_told_apart(&new) {
            return None;
        }
        let width = self.codec.width();
        let mut bytes = Vec::with_capacity(plan.row_of.len() * width);
        if self.codes.kind() == Kind::Nibbles {
            if !is_told_apart(&halves(&self.codec, &new)?) {
                return None;
            }
            // The bytes were not kept.
            let old = encode(threads, &self.codec, rows, &plan.row_of[..plan.left]);
            bytes.extend_from_slice(old.bytes());
        } else {
            for node in (0..plan.to.len()).filter(|&node| plan.to[node] != NONE) {
                bytes.extend_from_slice(self.codes.get(node as u32));
            }
        }
        bytes.extend_from_slice(new.bytes());
        Some(Codes::new(self.codec.kind(), width, bytes))
    }

    /// Whether all rows are as short as the codec expects them under dot.
    fn is_long_enough(&self, rows: &VectorArray, fresh: &[u32]) -> bool {
        let longest = match &self.codec {
            Codec::Numbers(quantizer) => quantizer.longest(),
            Codec::Floats(lift) => lift.longest,
            Codec::Bits { .. } => return true,
        };
        let limit = longest * longest * LONGER * LONGER;
        rows.metric != Metric::Dot || fresh.iter().all(|&row| square(rows, row) <= limit)
    }

    /// The links among the nodes that are left, by their new numbers.
    fn links_left(&self, builder: &Builder<'_>, plan: &Plan) -> Vec<Links> {
        let to = |node: u32| plan.to[node as usize];
        let old: Vec<u32> = (0..plan.to.len() as u32).filter(|&node| to(node) != NONE).collect();
        let parts = team::split(builder.threads, &old, |part| {
            let one = |&node: &u32| {
                let links = &self.links[node as usize];
                if links.iter().all(|link| to(link) != NONE) {
                    return Links::of(links.iter().map(to));
                }
                let mut near: Vec<u32> = Vec::new();
                for link in links.iter() {
                    if to(link) == NONE {
                        near.extend(self.links[link as usize].iter().map(to));
                    } else {
                        near.push(to(link));
                    }
                }
                near.sort_unstable();
                near.dedup();
                near.retain(|&other| other != NONE && other != to(node));
                builder.repaired(to(node), &near)
            };
            part.iter().map(one).collect::<Vec<_>>()
        });
        parts.into_iter().flatten().collect()
    }

    /// Whether walks find the nodes, or others with the same code. `bytes` are what the codec gives them.
    fn finds_its_nodes(&self, threads: usize, bytes: &Codes) -> bool {
        let step = self.links.len().div_ceil(LOOKED_FOR);
        let nodes: Vec<u32> = (0..self.links.len()).step_by(step).map(|node| node as u32).collect();
        let found = team::split(threads, &nodes, |part| {
            let (mut scratch, mut query) = (Scratch::default(), Vec::new());
            let is_found = |&node: &u32| {
                query.clear();
                query.extend_from_slice(bytes.get(node));
                self.codes.prepare(&mut query, &self.codec);
                self.view().walk(self.isa, &query, LOOK_EF, &mut scratch);
                let same = |near: &Near| bytes.get(near.node()) == bytes.get(node);
                scratch.found().iter().any(same)
            };
            part.iter().map(is_found).filter(|found| *found).count()
        });
        found.iter().sum::<usize>() as f64 >= TO_BE_FOUND * nodes.len() as f64
    }
}

/// The nodes of the plan in their final order: a sample of all comes first, with as large a part of old
/// nodes as there is among all; under dot it is the longest rows.
fn sample_first(rows: &VectorArray, plan: &Plan) -> Vec<u32> {
    let (nodes, left) = (plan.row_of.len(), plan.left);
    let count = entries_of(nodes);
    let mut sample: Vec<u32> = if rows.metric == Metric::Dot {
        let longest = |node: &u32| -square(rows, plan.row_of[*node as usize]);
        let mut all: Vec<u32> = (0..nodes as u32).collect();
        all.select_nth_unstable_by(count - 1, |a, b| longest(a).total_cmp(&longest(b)));
        all.truncate(count);
        all
    } else {
        let old = (count * left).div_ceil(nodes).min(left);
        let new = left..(left + count - old).min(nodes);
        (0..old).chain(new).map(|node| node as u32).collect()
    };
    permute(&mut sample);
    // Node numbers by their places, and the places of nodes.
    let mut node_at: Vec<u32> = (0..nodes as u32).collect();
    let mut place_of = node_at.clone();
    for (place, &node) in sample.iter().enumerate() {
        let from = place_of[node as usize] as usize;
        let other = node_at[place];
        node_at.swap(place, from);
        (place_of[node as usize], place_of[other as usize]) = (place as u32, from as u32);
    }
    node_at
}

/// The links of the nodes in this order, by their new numbers.
fn renumbered(links: &[Links], order: &[u32]) -> Vec<Links> {
    let mut place_of = vec![NONE; order.len()];
    for (place, &node) in order.iter().enumerate() {
        place_of[node as usize] = place as u32;
    }
    let moved =
        |node: &u32| Links::of(links[*node as usize].iter().map(|link| place_of[link as usize]));
    order.iter().map(moved).collect()
}

fn square(rows: &VectorArray, row: u32) -> f32 {
    rows.numbers(row as usize).iter().map(|x| x * x).sum()
}

impl Codes {
    /// The codes of the nodes in this order.
    fn picked(&self, order: &[u32]) -> Self {
        let mut bytes = Vec::with_capacity(order.len() * self.width());
        for &node in order {
            bytes.extend_from_slice(self.get(node));
        }
        Self::new(self.kind(), self.width(), bytes)
    }
}
