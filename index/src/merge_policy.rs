// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which parts of a file become one: a choice by their sizes alone.
//!
//! A merge inserts the rows of the smaller parts into the graph of the largest and copies the latter, which
//! costs a small part of inserting it. So a part is merged with all smaller ones once these have a
//! [`RATIO`]th of its rows, and every row is copied some [`RATIO`] times and inserted once for each level
//! of sizes, of which there are `log(n) / log(RATIO)`.
//!
//! Invariant: if nothing is chosen, each part that is not full has more than [`RATIO`] times the rows of all
//! smaller ones that are not full. If nothing is chosen at rest, and as many rows came since as a [`RATIO`]th
//! of the largest part, there is one part and a handful of rows, or parts that do not fit into one. If nothing is
//! chosen of an idle file, that is so however many came.

use std::cmp::Reverse;

/// See above.
pub(crate) const RATIO: usize = 16;
/// Tombstones on a larger part than this of a segment are worth a merge of it alone: a third.
const STALE_PART: usize = 3;

/// A segment, or the growing one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// That can be found.
    pub rows: usize,
    pub tombstones: usize,
    /// Whether it is to have a graph and has none.
    pub lacks_graph: bool,
}

/// When a choice is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Rows are coming.
    Busy,
    /// No file has anything else to do.
    Rest,
    /// Nothing has happened to the file for so long that a merge of all of it costs little beside that time.
    Idle,
}

/// What a choice depends on besides the parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Rows that a merge makes, at most.
    pub bound: usize,
    /// Rows that cost a search next to nothing when they are scanned.
    pub handful: usize,
    /// Rows that came since `by_credit` was last true; 0 while the file is busy, without end when it is idle.
    pub credit: usize,
}

/// Parts that are to become one with a graph.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The largest first.
    pub parts: Vec<usize>,
    /// It is made because many rows came, not because the parts are of such sizes.
    pub by_credit: bool,
}

/// What is worth doing next.
pub(crate) fn choose(parts: &[Part], terms: Terms) -> Option<Choice> {
    let mut by_size: Vec<usize> = (0..parts.len()).collect();
    by_size.sort_by_key(|&at| (Reverse(parts[at].rows), at));
    for (place, &large) in by_size.iter().enumerate() {
        let (mut chosen, mut more) = (vec![large], 0);
        let rows = parts[large].rows;
        for &small in &by_size[place + 1..] {
            if rows + more + parts[small].rows <= terms.bound {
                chosen.push(small);
                more += parts[small].rows;
            }
        }
        let by_size = more.saturating_mul(RATIO) >= rows;
        let by_credit = more > terms.handful && terms.credit.saturating_mul(RATIO) >= rows;
        if chosen.len() > 1 && (by_size || by_credit) {
            return Some(Choice { parts: chosen, by_credit: !by_size });
        }
    }
    let alone = |part: &Part| {
        part.lacks_graph || part.tombstones * STALE_PART > part.rows + part.tombstones
    };
    let at = parts.iter().position(alone)?;
    Some(Choice { parts: vec![at], by_credit: false })
}

#[cfg(test)]
#[path = "merge_policy_tests.rs"]
mod tests;
