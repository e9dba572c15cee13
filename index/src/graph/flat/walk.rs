// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The walk: from the nearest sampled nodes along links to ever nearer ones.
//!
//! It keeps the `ef` nearest nodes that it met and follows the links of the nearest one whose links it has not
//! followed, until there is none. Written once and compiled for each kind of code and of
//! instructions, so that the distance is part of the loop.

mod filtered;

use super::{
    Links,
    codes::{Codes, Kind},
    entries_of,
    kernel::{self, Isa, prefetch},
};

/// Sampled nodes that a walk begins with.
const BEGIN: usize = 4;

/// A node, its distance, and whether its links were followed; ordered by distance, then node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Near(u64);

impl Near {
    const FARTHEST: Self = Self(u64::MAX);

    #[inline]
    pub(super) fn new(distance: u32, node: u32) -> Self {
        Self(u64::from(distance) << 32 | u64::from(node) << 1)
    }

    #[inline]
    pub(super) const fn node(self) -> u32 {
        (self.0 as u32) >> 1
    }

    /// In the unit of the codes' kind.
    #[inline]
    pub(super) const fn distance(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    const fn is_followed(self) -> bool {
        self.0 & 1 == 1
    }

    #[inline]
    const fn followed(self) -> Self {
        Self(self.0 | 1)
    }
}

/// Memory of a walk, used again by the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The walk in which each node was met, modulo 256.
    met: Vec<u8>,
    walk: u8,
    nearest: Vec<Near>,
    fresh: Vec<u32>,
    way: filtered::Way,
    /// The query, as numbers and as a code.
    pub(super) buffer: Vec<f32>,
    pub(super) code: Vec<u8>,
}

impl Scratch {
    fn begin(&mut self, nodes: usize) {
        if self.met.len() < nodes {
            self.met.resize(nodes, 0);
        }
        self.walk = self.walk.wrapping_add(1);
        if self.walk == 0 {
            self.met.fill(0);
            self.walk = 1;
        }
        self.nearest.clear();
    }

    /// What the last walk found, the nearest first.
    pub(super) fn found(&self) -> &[Near] {
        &self.nearest
    }

    /// Resident bytes.
    pub(super) fn bytes(&self) -> usize {
        self.met.capacity()
            + (self.nearest.capacity() + self.way.capacity()) * 8
            + self.buffer.capacity() * 4
    }
}

/// A graph that is walked, or the part of it that is built: as many nodes as `links`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) links: &'a [Links],
    pub(super) codes: &'a Codes,
    /// The first and the one past the last of further nodes that a walk looks at first.
    pub(super) extra: (u32, u32),
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn walk(
    view: View<'_>,
    query: &[u8],
    ef: usize,
    scratch: &mut Scratch,
    distance: impl Fn(&[u8], &[u8]) -> u32,
) {
    let (nodes, codes) = (view.links.len(), view.codes);
    scratch.begin(nodes);
    let Scratch { met, walk, nearest, fresh, .. } = scratch;
    // The sampled nodes are the first ones: they lie side by side.
    let mut best = [Near::FARTHEST; BEGIN];
    let sample = entries_of(nodes) as u32;
    for node in (0..sample).chain(view.extra.0.max(sample)..view.extra.1) {
        let near = Near::new(distance(query, codes.get(node)), node);
        if near < best[BEGIN - 1] {
            best[BEGIN - 1] = near;
            best.sort_unstable();
        }
    }
    for near in best.into_iter().filter(|near| *near != Near::FARTHEST) {
        met[near.node() as usize] = *walk;
        nearest.push(near);
    }
    let mut at = 0;
    while let Some(near) = nearest.get(at).copied() {
        if near.is_followed() {
            at += 1;
            continue;
        }
        nearest[at] = near.followed();
        fresh.clear();
        for link in view.links[near.node() as usize].iter() {
            let met = &mut met[link as usize];
            if *met != *walk {
                *met = *walk;
                prefetch(codes.get(link));
                fresh.push(link);
            }
        }
        // The most likely next node, while the codes are on their way.
        if let Some(next) = nearest.get(at + 1) {
            prefetch(&view.links[next.node() as usize].0);
        }
        for &node in &*fresh {
            let near = Near::new(distance(query, codes.get(node)), node);
            if nearest.len() >= ef {
                if nearest.last().is_some_and(|last| near >= *last) {
                    continue;
                }
                nearest.pop();
            }
            let place = nearest.partition_point(|other| *other < near);
            nearest.insert(place, near);
            at = at.min(place);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,popcnt")]
fn walk_avx512(view: View<'_>, query: &[u8], ef: usize, scratch: &mut Scratch) {
    match view.codes.kind() {
        Kind::Squares => {
            walk(view, query, ef, scratch, |a, b| kernel::x86::squares_avx512(a, b));
        }
        Kind::Bits => walk(view, query, ef, scratch, kernel::bits),
        Kind::Floats => walk(view, query, ef, scratch, kernel::floats),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
fn walk_avx2(view: View<'_>, query: &[u8], ef: usize, scratch: &mut Scratch) {
    match view.codes.kind() {
        Kind::Squares => walk(view, query, ef, scratch, |a, b| kernel::x86::squares_avx2(a, b)),
        Kind::Bits => walk(view, query, ef, scratch, kernel::bits),
        Kind::Floats => walk(view, query, ef, scratch, kernel::floats),
    }
}

impl View<'_> {
    /// Finds about `ef` nodes near the code `query`: [`Scratch::found`]. Of at least one node.
    pub(super) fn walk(&self, isa: Isa, query: &[u8], ef: usize, scratch: &mut Scratch) {
        let ef = ef.max(BEGIN);
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` gives this value only where the processor has the features.
            Isa::Avx512 => unsafe { walk_avx512(*self, query, ef, scratch) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { walk_avx2(*self, query, ef, scratch) },
            Isa::Portable => match self.codes.kind() {
                Kind::Squares => walk(*self, query, ef, scratch, kernel::squares),
                Kind::Bits => walk(*self, query, ef, scratch, kernel::bits),
                Kind::Floats => walk(*self, query, ef, scratch, kernel::floats),
            },
        }
    }
}

impl Codes {
    /// The distance of two codes of this kind.
    pub(super) fn distance(&self, isa: Isa, a: &[u8], b: &[u8]) -> u32 {
        match (self.kind(), isa) {
            (Kind::Bits, _) => kernel::bits(a, b),
            (Kind::Floats, _) => kernel::floats(a, b),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` gives this value only where the processor has the features.
            (Kind::Squares, Isa::Avx512) => unsafe { kernel::x86::squares_avx512(a, b) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Kind::Squares, Isa::Avx2) => unsafe { kernel::x86::squares_avx2(a, b) },
            (Kind::Squares, Isa::Portable) => kernel::squares(a, b),
        }
    }
}
