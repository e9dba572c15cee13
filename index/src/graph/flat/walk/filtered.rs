// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The walk that looks for nodes which pass a filter.
//!
//! It goes over all nodes, as the other walk does, but keeps the nearest that pass beside the way: it ends when
//! the next node is farther than the `ef`-th that passes. So it is as wide as the filter needs, where the
//! query is, and does not have to know how many pass. Where nodes that pass lie far from the query it
//! would go through most of the graph: it gives up after a number of distances.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    super::{
        codes::Kind,
        entries_of,
        kernel::{self, Isa, prefetch},
    },
    BEGIN, Near, Scratch, View,
};

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn walk(
    view: View<'_>,
    query: &[u8],
    (ef, most): (usize, usize),
    scratch: &mut Scratch,
    passes: impl Fn(u32) -> bool,
    distance: impl Fn(&[u8], &[u8]) -> u32,
) -> bool {
    let (nodes, codes) = (view.links.len(), view.codes);
    scratch.begin(nodes);
    let Scratch { met, walk, nearest, fresh, way, .. } = scratch;
    way.clear();
    let mut best = [Near::FARTHEST; BEGIN];
    let sample = entries_of(nodes) as u32;
    for node in 0..sample {
        let near = Near::new(distance(query, codes.get(node)), node);
        if near < best[BEGIN - 1] {
            best[BEGIN - 1] = near;
            best.sort_unstable();
        }
    }
    let keep = |nearest: &mut Vec<Near>, near: Near| {
        if nearest.len() >= ef {
            nearest.pop();
        }
        let place = nearest.partition_point(|other| *other < near);
        nearest.insert(place, near);
    };
    for near in best.into_iter().filter(|near| *near != Near::FARTHEST) {
        met[near.node() as usize] = *walk;
        way.push(Reverse(near));
        if passes(near.node()) {
            keep(nearest, near);
        }
    }
    let mut distances = 0;
    while let Some(Reverse(at)) = way.pop() {
        let full = |nearest: &Vec<Near>| nearest.len() >= ef;
        if full(nearest) && nearest.last().is_some_and(|last| at > *last) {
            break;
        }
        fresh.clear();
        for link in view.links[at.node() as usize].iter() {
            let met = &mut met[link as usize];
            if *met != *walk {
                *met = *walk;
                prefetch(codes.get(link));
                fresh.push(link);
            }
        }
        if let Some(Reverse(next)) = way.peek() {
            prefetch(&view.links[next.node() as usize].0);
        }
        distances += fresh.len();
        if distances > most {
            return false;
        }
        for &node in &*fresh {
            let near = Near::new(distance(query, codes.get(node)), node);
            if full(nearest) && nearest.last().is_some_and(|last| near >= *last) {
                continue;
            }
            way.push(Reverse(near));
            if passes(node) {
                keep(nearest, near);
            }
        }
    }
    true
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,popcnt")]
fn walk_avx512(
    view: View<'_>,
    query: &[u8],
    bounds: (usize, usize),
    scratch: &mut Scratch,
    passes: impl Fn(u32) -> bool,
) -> bool {
    match view.codes.kind() {
        Kind::Squares => {
            walk(view, query, bounds, scratch, passes, |a, b| kernel::x86::squares_avx512(a, b))
        }
        Kind::Bits => walk(view, query, bounds, scratch, passes, kernel::bits),
        Kind::Floats => walk(view, query, bounds, scratch, passes, kernel::floats),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
fn walk_avx2(
    view: View<'_>,
    query: &[u8],
    bounds: (usize, usize),
    scratch: &mut Scratch,
    passes: impl Fn(u32) -> bool,
) -> bool {
    match view.codes.kind() {
        Kind::Squares => {
            walk(view, query, bounds, scratch, passes, |a, b| kernel::x86::squares_avx2(a, b))
        }
        Kind::Bits => walk(view, query, bounds, scratch, passes, kernel::bits),
        Kind::Floats => walk(view, query, bounds, scratch, passes, kernel::floats),
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
        let bounds = (ef.max(BEGIN), most);
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` gives this value only where the processor has the features.
            Isa::Avx512 => unsafe { walk_avx512(*self, query, bounds, scratch, passes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { walk_avx2(*self, query, bounds, scratch, passes) },
            Isa::Portable => match self.codes.kind() {
                Kind::Squares => walk(*self, query, bounds, scratch, passes, kernel::squares),
                Kind::Bits => walk(*self, query, bounds, scratch, passes, kernel::bits),
                Kind::Floats => walk(*self, query, bounds, scratch, passes, kernel::floats),
            },
        }
    }
}

/// The nodes on a walk whose links were not followed yet.
pub(super) type Way = BinaryHeap<Reverse<Near>>;
