// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The walk that looks for nodes which pass a filter.
//!
//! It goes over all nodes, as the other walk does, but keeps the nearest that pass beside the way: it ends when
//! the next node is farther than the `ef`-th that passes. So it is as wide as the filter needs, where the
//! query is, and does not have to know how many pass. Where nodes that pass lie far from the query it
//! would go through most of the graph: it gives up after a number of distances.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{BEGIN, DEGREE, Isa, NONE, Near, Scratch, View, Walk, begin, keep, measure, prefetch};

/// The walk, and what it is bounded by.
struct Passing<'a, P> {
    view: View<'a>,
    /// Nodes that pass and are kept.
    ef: usize,
    /// Distances, at most.
    most: usize,
    scratch: &'a mut Scratch,
    passes: P,
}

impl<P: Fn(u32) -> bool> Walk for Passing<'_, P> {
    /// Whether it came to its end.
    type Said = bool;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
    fn go(self, four: impl Fn([u32; 4]) -> [u32; 4]) -> bool {
        let Self { view, ef, most, scratch, passes } = self;
        let (links, codes) = (view.links, view.codes);
        scratch.begin(links.len());
        let Scratch { met, walk, nearest, way, .. } = scratch;
        way.clear();
        for near in begin(view, &four).into_iter().filter(|near| *near != Near::FARTHEST) {
            met[near.node() as usize] = *walk;
            way.push(Reverse(near));
            if passes(near.node()) {
                keep(nearest, near, ef);
            }
        }
        let mut fresh = [0; DEGREE];
        let mut distances = 0;
        while let Some(Reverse(at)) = way.pop() {
            if nearest.len() >= ef && nearest.last().is_some_and(|last| at > *last) {
                break;
            }
            let mut count = 0;
            for &link in links[at.node() as usize].0.iter().take_while(|link| **link != NONE) {
                let met = &mut met[link as usize];
                if *met != *walk {
                    *met = *walk;
                    prefetch(codes.get(link));
                    fresh[count] = link;
                    count += 1;
                }
            }
            if let Some(Reverse(next)) = way.peek() {
                prefetch(&links[next.node() as usize].0);
            }
            distances += count;
            if distances > most {
                return false;
            }
            measure(&fresh[..count], &four, |near| {
                if nearest.len() >= ef && nearest.last().is_some_and(|last| near >= *last) {
                    return;
                }
                way.push(Reverse(near));
                if passes(near.node()) {
                    keep(nearest, near, ef);
                }
            });
        }
        true
    }
}

impl View<'_> {
    /// Finds about `ef` nodes that pass near the code `query`: [`Scratch::found`]. False if that would take
    /// more than `most` distances.
    pub(in super::super) fn walk_passing(
        &self,
        isa: Isa,
        query: &[u8],
        (ef, most): (usize, usize),
        scratch: &mut Scratch,
        passes: impl Fn(u32) -> bool,
    ) -> bool {
        self.run(isa, query, Passing { view: *self, ef: ef.max(BEGIN), most, scratch, passes })
    }
}

/// The nodes on a walk whose links were not followed yet.
pub(super) type Way = BinaryHeap<Reverse<Near>>;
