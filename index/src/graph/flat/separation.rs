// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Whether codes tell rows apart that lie close together.
//!
//! One scale serves all rows. If most of them lie in a crowd that is small beside the whole, or have
//! very few dimensions, their codes are alike and a walk cannot find its way among them. This is measured
//! before a graph is built: how many of the nearest rows are among the nearest codes, for a few rows.

use super::{
    codes::{Codec, Codes, Kind},
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

/// Whether the nearest codes are those of the nearest rows. `nodes` are in a shuffled order; `queries` are the
/// codes that the codec gave them, and `codes` those that they are compared with.
pub(super) fn tells_apart(
    isa: Isa,
    codec: &Codec,
    (queries, codes): (&Codes, &Codes),
    rows: &VectorArray,
    nodes: &[u32],
) -> bool {
    // Fewer nodes are all found; bits and numbers as they are are exact.
    if !matches!(codes.kind(), Kind::Squares | Kind::Nibbles) || nodes.len() <= CODES {
        return true;
    }
    let among = &nodes[..nodes.len().min(AMONG)];
    let step = nodes.len().div_ceil(ASKED);
    let (mut asked, mut found) = (0, 0);
    for node in (0..nodes.len()).step_by(step) {
        let ranker = rows.ranker(&rows.get(nodes[node] as usize));
        let mut query = queries.get(node as u32).to_vec();
        codes.prepare(&mut query, codec);
        let mut by_code: Vec<Near> = (0..among.len() as u32)
            .map(|other| Near::new(codes.distance_to(isa, &query, other), other))
            .collect();
        let mut by_row: Vec<(f32, u32)> =
            among.iter().map(|&row| rows.rank_by(row as usize, &ranker)).zip(0..).collect();
        by_code.select_nth_unstable(CODES - 1);
        by_row.select_nth_unstable_by(ROWS - 1, |a, b| a.0.total_cmp(&b.0));
        let near = &by_code[..CODES];
        asked += ROWS;
        found += by_row[..ROWS]
            .iter()
            .filter(|(_, node)| near.iter().any(|near| near.node() == *node))
            .count();
    }
    found as f64 >= ENOUGH * f64::from(asked as u32)
}
