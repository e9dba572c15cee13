// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Whether codes tell rows apart that lie close together.
//!
//! One scale serves all rows. If most of them lie in a crowd that is small beside the whole, or have
//! very few dimensions, their codes are alike and a walk cannot find its way among them. This is measured
//! before a graph is built: how many of the nearest rows are among the nearest codes, for a few rows.

use super::{
    codes::{Codec, Codes},
    kernel::Isa,
    walk::Near,
};
use crate::vector_array::VectorArray;

/// Nodes that are asked for, and nodes among which their nearest are looked for, at most.
const ASKED: usize = 48;
const AMONG: usize = 1 << 16;
/// The nearest rows, and the nearest codes that they should be among.
const ROWS: usize = 10;
const CODES: usize = 40;
/// The part of the nearest rows that has to be found.
const ENOUGH: f64 = 0.99;

/// A few nodes and the nearest of all nodes to each, by their rows.
pub(super) struct Sample {
    nearest: Vec<(u32, Vec<u32>)>,
    among: u32,
}

impl Sample {
    /// Of nodes that are these rows, in a shuffled order.
    pub(super) fn of(rows: &VectorArray, nodes: &[u32]) -> Self {
        let among = &nodes[..nodes.len().min(AMONG)];
        let mut nearest = Vec::new();
        // Fewer nodes are all found.
        if nodes.len() > CODES {
            for node in (0..nodes.len()).step_by(nodes.len().div_ceil(ASKED)) {
                let ranker = rows.ranker(&rows.get(nodes[node] as usize));
                let mut by_row: Vec<(f32, u32)> =
                    among.iter().map(|&row| rows.rank_by(row as usize, &ranker)).zip(0..).collect();
                by_row.select_nth_unstable_by(ROWS - 1, |a, b| a.0.total_cmp(&b.0));
                nearest.push((node as u32, by_row[..ROWS].iter().map(|near| near.1).collect()));
            }
        }
        Self { nearest, among: among.len() as u32 }
    }

    /// Whether the nearest codes are those of the nearest rows. `queries` are the codes that the codec gave the
    /// nodes, and `codes` those that they are compared with.
    pub(super) fn is_told_apart(
        &self,
        isa: Isa,
        codec: &Codec,
        (queries, codes): (&Codes, &Codes),
    ) -> bool {
        let (mut asked, mut found) = (0, 0);
        for (node, rows) in &self.nearest {
            let mut query = queries.get(*node).to_vec();
            codes.prepare(&mut query, codec);
            let mut by_code: Vec<Near> = (0..self.among)
                .map(|other| Near::new(codes.distance_to(isa, &query, other), other))
                .collect();
            by_code.select_nth_unstable(CODES - 1);
            let near = &by_code[..CODES];
            asked += ROWS;
            found += rows.iter().filter(|row| near.iter().any(|near| near.node() == **row)).count();
        }
        found as f64 >= ENOUGH * f64::from(asked as u32)
    }
}
