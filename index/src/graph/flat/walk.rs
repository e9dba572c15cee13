// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The walk: from the nearest sampled nodes along links to ever nearer ones.
//!
//! It keeps the `ef` nearest nodes that it met and follows the links of the nearest one whose links it has not
//! followed, until there is none. Written once and compiled for each kind of code and of
//! instructions, so that the distance is part of the loop.

mod filtered;

use super::{
    DEGREE, Links, NONE,
    codes::{Codes, Kind},
    entries_of,
    kernel::{self, Isa},
    nibbles,
};
use crate::distance::prefetch;

/// Sampled nodes that a walk begins with.
const BEGIN: usize = 4;
/// Among more nodes than this a place is looked for by halves.
const STEPWISE_MAX: usize = 96;

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
        self.met.capacity() + self.nearest.capacity() * 8 + self.buffer.capacity() * 4
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

/// Puts a node in its place among the nearest, of which there are at most `ef`; its place.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn keep(nearest: &mut Vec<Near>, near: Near, ef: usize) -> Option<usize> {
    if nearest.len() < ef {
        nearest.push(near);
    } else {
        match nearest.last_mut() {
            Some(last) if near < *last => *last = near,
            _ => return None,
        }
    }
    let mut place = nearest.len() - 1;
    if place < STEPWISE_MAX {
        while place > 0 && nearest[place - 1] > near {
            nearest[place] = nearest[place - 1];
            place -= 1;
        }
    } else {
        let to = nearest[..place].partition_point(|other| *other < near);
        nearest.copy_within(to..place, to + 1);
        place = to;
    }
    nearest[place] = near;
    Some(place)
}

/// Calls `each` for the distance of every one of these nodes, in their order.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn measure(nodes: &[u32], four: &impl Fn([u32; 4]) -> [u32; 4], mut each: impl FnMut(Near)) {
    let (fours, rest) = nodes.as_chunks::<4>();
    for nodes in fours {
        for (distance, node) in four(*nodes).into_iter().zip(*nodes) {
            each(Near::new(distance, node));
        }
    }
    if let Some(&last) = rest.last() {
        let mut nodes = [last; 4];
        nodes[..rest.len()].copy_from_slice(rest);
        for (distance, &node) in four(nodes).into_iter().zip(rest) {
            each(Near::new(distance, node));
        }
    }
}

/// The nearest of the nodes that a walk looks at first.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn begin(view: View<'_>, four: &impl Fn([u32; 4]) -> [u32; 4]) -> [Near; BEGIN] {
    let mut best = [Near::FARTHEST; BEGIN];
    // The sampled nodes are the first ones: they lie side by side.
    let sample = entries_of(view.links.len()) as u32;
    let (from, to) = view.extra;
    for range in [0..sample, from.max(sample)..to] {
        for first in range.clone().step_by(DEGREE) {
            let mut nodes = [0; DEGREE];
            let count = (range.end - first).min(DEGREE as u32) as usize;
            for (node, number) in nodes.iter_mut().zip(first..) {
                *node = number;
            }
            measure(&nodes[..count], four, |near| {
                if near < best[BEGIN - 1] {
                    best[BEGIN - 1] = near;
                    best.sort_unstable();
                }
            });
        }
    }
    best
}

/// A walk: its body is compiled for each kind of code and of instructions.
trait Walk {
    /// What it says when it ends.
    type Said;

    /// `four` tells the distances of four nodes: side by side they take little more time than one.
    fn go(self, four: impl Fn([u32; 4]) -> [u32; 4]) -> Self::Said;
}

/// The walk that looks for the `ef` nearest nodes.
struct Nearest<'a> {
    view: View<'a>,
    ef: usize,
    scratch: &'a mut Scratch,
}

impl Walk for Nearest<'_> {
    type Said = ();

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
    fn go(self, four: impl Fn([u32; 4]) -> [u32; 4]) {
        let Self { view, ef, scratch } = self;
        let (links, codes) = (view.links, view.codes);
        scratch.begin(links.len());
        let Scratch { met, walk, nearest, .. } = scratch;
        let (met, walk) = (&mut met[..links.len()], *walk);
        for near in begin(view, &four).into_iter().filter(|near| *near != Near::FARTHEST) {
            met[near.node() as usize] = walk;
            nearest.push(near);
        }
        let mut fresh = [0; DEGREE];
        let mut at = 0;
        while let Some(near) = nearest.get(at).copied() {
            if near.is_followed() {
                at += 1;
                continue;
            }
            nearest[at] = near.followed();
            let mut count = 0;
            for &link in &links[near.node() as usize].0 {
                if link == NONE {
                    break;
                }
                // Written whether it is new or not: which it is cannot be foretold.
                let before = std::mem::replace(&mut met[link as usize], walk);
                fresh[count % DEGREE] = link;
                if before != walk {
                    prefetch(codes.get(link));
                    count += 1;
                }
            }
            // The most likely next node, while the codes are on their way.
            if let Some(next) = nearest.get(at + 1) {
                prefetch(&links[next.node() as usize].0);
            }
            measure(&fresh[..count], &four, |near| {
                if let Some(place) = keep(nearest, near, ef) {
                    at = at.min(place);
                }
            });
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,popcnt")]
fn walk_avx512<W: Walk>(codes: &Codes, query: &[u8], walk: W) -> W::Said {
    match codes.kind() {
        Kind::Squares => walk.go(|[a, b, c, d]| {
            let four = [codes.get(a), codes.get(b), codes.get(c), codes.get(d)];
            kernel::x86::four_squares_avx512(query, four)
        }),
        Kind::Nibbles => {
            let (numbers, own) = nibbles::parts(query);
            walk.go(|[a, b, c, d]| {
                let four = [codes.get(a), codes.get(b), codes.get(c), codes.get(d)];
                let [e, f, g, h] = nibbles::x86::four_products_avx512(numbers, four);
                let one = |node, products| nibbles::distance(codes.norm(node), own, products);
                [one(a, e), one(b, f), one(c, g), one(d, h)]
            })
        }
        Kind::Bits => walk.go(one_by_one(codes, query, kernel::bits)),
        Kind::Floats => walk.go(one_by_one(codes, query, kernel::floats)),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
fn walk_avx2<W: Walk>(codes: &Codes, query: &[u8], walk: W) -> W::Said {
    match codes.kind() {
        Kind::Squares => {
            let one = |node| kernel::x86::squares_avx2(query, codes.get(node));
            walk.go(|[a, b, c, d]| [one(a), one(b), one(c), one(d)])
        }
        Kind::Nibbles => {
            let (numbers, own) = nibbles::parts(query);
            let one = |node| {
                let products = nibbles::x86::products_avx2(numbers, codes.get(node));
                nibbles::distance(codes.norm(node), own, products)
            };
            walk.go(|[a, b, c, d]| [one(a), one(b), one(c), one(d)])
        }
        Kind::Bits => walk.go(one_by_one(codes, query, kernel::bits)),
        Kind::Floats => walk.go(one_by_one(codes, query, kernel::floats)),
    }
}

fn walk_portable<W: Walk>(codes: &Codes, query: &[u8], walk: W) -> W::Said {
    match codes.kind() {
        Kind::Squares => walk.go(one_by_one(codes, query, kernel::squares)),
        Kind::Nibbles => walk.go(|[a, b, c, d]| {
            let one = |node| codes.distance_to(Isa::Portable, query, node);
            [one(a), one(b), one(c), one(d)]
        }),
        Kind::Bits => walk.go(one_by_one(codes, query, kernel::bits)),
        Kind::Floats => walk.go(one_by_one(codes, query, kernel::floats)),
    }
}

/// The distances of four nodes, one after the other.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn one_by_one<'a>(
    codes: &'a Codes,
    query: &'a [u8],
    distance: impl Fn(&[u8], &[u8]) -> u32 + 'a,
) -> impl Fn([u32; 4]) -> [u32; 4] + 'a {
    // Not by `map`: what is called by a function without the target features is not inlined.
    move |[a, b, c, d]: [u32; 4]| {
        let (a, b) = (distance(query, codes.get(a)), distance(query, codes.get(b)));
        [a, b, distance(query, codes.get(c)), distance(query, codes.get(d))]
    }
}

impl View<'_> {
    /// Finds about `ef` nodes near the code `query`: [`Scratch::found`]. Of at least one node.
    pub(super) fn walk(&self, isa: Isa, query: &[u8], ef: usize, scratch: &mut Scratch) {
        self.run(isa, query, Nearest { view: *self, ef: ef.max(BEGIN), scratch });
    }

    fn run<W: Walk>(&self, isa: Isa, query: &[u8], walk: W) -> W::Said {
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` gives this value only where the processor has the features.
            Isa::Avx512 => unsafe { walk_avx512(self.codes, query, walk) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { walk_avx2(self.codes, query, walk) },
            Isa::Portable => walk_portable(self.codes, query, walk),
        }
    }
}

impl Codes {
    /// The part of every distance to a node that is the node's, for nibbles.
    #[inline]
    fn norm(&self, node: u32) -> u32 {
        self.norms()[node as usize]
    }

    /// The distance from a query that was [prepared](Self::prepare) to a node.
    pub(super) fn distance_to(&self, isa: Isa, query: &[u8], node: u32) -> u32 {
        let code = self.get(node);
        if self.kind() != Kind::Nibbles {
            return self.distance(isa, query, code);
        }
        let (numbers, own) = nibbles::parts(query);
        let products = match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` gives these values only where the processor has the features, and
            // who has AVX-512 has AVX2.
            Isa::Avx512 | Isa::Avx2 => unsafe { nibbles::x86::products_avx2(numbers, code) },
            Isa::Portable => nibbles::products(numbers, code),
        };
        nibbles::distance(self.norm(node), own, products)
    }

    /// The distances of a code and the codes of four nodes, which are not nibbles.
    #[inline]
    pub(super) fn four_distances(&self, isa: Isa, code: &[u8], nodes: [u32; 4]) -> [u32; 4] {
        let others = nodes.map(|node| self.get(node));
        match (self.kind(), isa) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` gives this value only where the processor has the features.
            (Kind::Squares, Isa::Avx512) => unsafe {
                kernel::x86::four_squares_avx512(code, others)
            },
            _ => others.map(|other| self.distance(isa, code, other)),
        }
    }

    /// The distance of two codes of this kind, which is not nibbles.
    pub(super) fn distance(&self, isa: Isa, a: &[u8], b: &[u8]) -> u32 {
        match (self.kind(), isa) {
            (Kind::Bits, _) => kernel::bits(a, b),
            (Kind::Nibbles, _) => {
                debug_assert!(false, "a graph is built over codes of bytes");
                0
            }
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
