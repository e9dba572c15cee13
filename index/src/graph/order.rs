// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which rows of a segment become nodes, and in which order.
//!
//! Equal rows would link to each other alone, and sorted ones ruin a graph: each content is one node, and the
//! nodes are shuffled. Both depend on the rows alone, so that builds are repeatable.

use std::collections::HashMap;

use crate::vector_array::VectorArray;

/// The first row of each content, and for a first row the later ones equal to it.
pub(super) fn distinct(rows: &VectorArray) -> (Vec<u32>, HashMap<u32, Vec<u32>>) {
    let mut first: HashMap<u64, Vec<u32>> = HashMap::with_capacity(rows.len());
    let mut duplicates: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut order = Vec::with_capacity(rows.len());
    for row in 0..rows.len() {
        let known = first.entry(rows.fingerprint(row)).or_default();
        if let Some(&equal) = known.iter().find(|&&other| rows.same_rows(other as usize, row)) {
            duplicates.entry(equal).or_default().push(row as u32);
        } else {
            known.push(row as u32);
            order.push(row as u32);
        }
    }
    (order, duplicates)
}

/// Shuffles the rows: files are written topic by topic, and sorted insertion ruins a graph. The
/// seed is fixed, so that builds are repeatable.
pub(super) fn permute(order: &mut [u32]) {
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
