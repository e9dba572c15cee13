// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Building the links, a batch of nodes at a time.
//!
//! The nodes of a batch are linked to those before it and to each other; then the links back to them are
//! added, grouped by target. A node keeps a link only if no shorter link of it leads nearer to the same
//! place (the pruning rule of Vamana, Subramanya et al., NeurIPS 2019).
//!
//! Invariant: the links depend on the codes and their order alone, not on the number of threads.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    DEGREE, Links,
    codes::Codes,
    entries_of,
    kernel::Isa,
    team,
    walk::{Scratch, View},
};
use crate::error::{IndexError, Result};

/// A batch is at most this part of the nodes that are linked.
const BATCH_PART: usize = 16;
/// Every node is compared with all of its batch.
const BATCH_MAX: usize = 256;
/// A link is left out if another one leads nearer by this factor, in squared distances.
const ALPHA: f32 = 1.1;

/// A node, by its distance from another.
type Neighbour = (u32, u32);

/// How nodes are linked.
#[derive(Clone, Copy)]
pub(super) struct Builder<'a> {
    pub(super) isa: Isa,
    pub(super) codes: &'a Codes,
    /// Candidates that are considered for each node.
    pub(super) ef: usize,
    pub(super) threads: usize,
    pub(super) stop: &'a AtomicBool,
}

impl Builder<'_> {
    /// Links the nodes of the codes that come after those of `links`. These nodes are in a shuffled order, and
    /// so are the first ones.
    pub(super) fn link(&self, mut links: Vec<Links>) -> Result<Vec<Links>> {
        let (nodes, known) = (self.codes.len(), links.len());
        links.resize(nodes, Links::EMPTY);
        let mut linked = known.max(1).min(nodes);
        while linked < nodes {
            self.go_on()?;
            let batch = (linked / BATCH_PART).clamp(1, BATCH_MAX).min(nodes - linked);
            // A walk begins with as many of the new nodes as is their part, or new topics are not found.
            let sample = entries_of(linked) * (linked - known) / linked;
            let extra = (known as u32, (known + sample) as u32);
            let view = View { links: &links[..linked], codes: self.codes, extra };
            let batch: Vec<u32> = (linked as u32..(linked + batch) as u32).collect();
            let kept: Vec<Vec<Neighbour>> = team::split(self.threads, &batch, |part| {
                let mut scratch = Scratch::default();
                let kept = part.iter().map(|&node| self.forward(view, node, &batch, &mut scratch));
                kept.collect::<Vec<_>>()
            })
            .into_iter()
            .flatten()
            .collect();
            // (target, distance, node), of every link of the batch.
            let mut back: Vec<(u32, u32, u32)> = Vec::new();
            for (&node, kept) in batch.iter().zip(kept) {
                back.extend(kept.iter().map(|&(distance, target)| (target, distance, node)));
                links[node as usize] = Links::of(kept.into_iter().map(|(_, target)| target));
            }
            self.link_back(&mut links, back);
            linked += batch.len();
        }
        Ok(links)
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(IndexError::Stopped) } else { Ok(()) }
    }

    /// What a node of a batch links to.
    fn forward(
        &self,
        view: View<'_>,
        node: u32,
        batch: &[u32],
        scratch: &mut Scratch,
    ) -> Vec<Neighbour> {
        let (code, ef) = (self.codes.get(node), self.ef.max(DEGREE));
        view.walk(self.isa, code, ef, scratch);
        let found = scratch.found();
        let far = found.get(ef - 1).map_or(u32::MAX, |near| near.distance());
        let mut near: Vec<Neighbour> =
            found.iter().map(|near| (near.distance(), near.node())).collect();
        self.measure(code, batch.iter().copied(), |distance, mate| {
            if distance < far && mate != node {
                near.push((distance, mate));
            }
        });
        near.sort_unstable();
        self.prune(near)
    }

    /// Adds the links back to the nodes of a batch.
    fn link_back(&self, links: &mut [Links], mut back: Vec<(u32, u32, u32)>) {
        back.sort_unstable();
        let groups: Vec<&[(u32, u32, u32)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
        let known = &*links;
        let changed = team::split(self.threads, &groups, |part| {
            let changed = part.iter().map(|group| {
                let target = group[0].0;
                (target, self.linked_back(target, &known[target as usize], group))
            });
            changed.collect::<Vec<_>>()
        });
        for (target, to) in changed.into_iter().flatten() {
            links[target as usize] = to;
        }
    }

    /// The links of `target` with those back to the nodes of a batch that link to it.
    fn linked_back(&self, target: u32, links: &Links, group: &[(u32, u32, u32)]) -> Links {
        let mut fresh: Vec<Neighbour> =
            group.iter().map(|&(_, distance, node)| (distance, node)).collect();
        // Two nodes of one batch may have chosen each other.
        fresh.retain(|(_, node)| links.iter().all(|link| link != *node));
        if links.iter().count() + fresh.len() <= DEGREE {
            return Links::of(links.iter().chain(fresh.into_iter().map(|(_, node)| node)));
        }
        let code = self.codes.get(target);
        self.measure(code, links.iter(), |distance, link| fresh.push((distance, link)));
        self.nearest(fresh)
    }

    /// The links to those of `candidates` that a node keeps.
    fn nearest(&self, mut candidates: Vec<Neighbour>) -> Links {
        candidates.sort_unstable();
        Links::of(self.prune(candidates).into_iter().map(|(_, node)| node))
    }

    /// The links of a node when some of its neighbours are gone: those left, and the neighbours of the lost.
    pub(super) fn repaired(&self, node: u32, candidates: &[u32]) -> Links {
        let (code, mut near) = (self.codes.get(node), Vec::with_capacity(candidates.len()));
        self.measure(code, candidates.iter().copied(), |distance, other| {
            near.push((distance, other));
        });
        self.nearest(near)
    }

    /// Calls `each` with the distance of a code and each of these nodes.
    fn measure(
        &self,
        code: &[u8],
        nodes: impl Iterator<Item = u32>,
        mut each: impl FnMut(u32, u32),
    ) {
        let (mut four, mut count) = ([0; 4], 0);
        for node in nodes {
            four[count] = node;
            count += 1;
            if count == 4 {
                let distances = self.codes.four_distances(self.isa, code, four);
                distances.into_iter().zip(four).for_each(|(distance, node)| each(distance, node));
                count = 0;
            }
        }
        for &node in &four[..count] {
            each(self.codes.distance(self.isa, code, self.codes.get(node)), node);
        }
    }

    /// Of candidates, the nearest first, those that a node links to.
    fn prune(&self, candidates: Vec<Neighbour>) -> Vec<Neighbour> {
        let mut kept: Vec<Neighbour> = Vec::with_capacity(DEGREE);
        // Their numbers, and after the last one that of another: they are compared four at a time.
        let mut nodes = [0; DEGREE];
        for (distance, node) in candidates {
            if self.is_led_to(node, distance, &nodes, kept.len()) {
                continue;
            }
            nodes[kept.len()] = node;
            kept.push((distance, node));
            if kept.len() == DEGREE {
                break;
            }
        }
        kept
    }

    /// Whether one of the first `count` nodes leads nearer to a node at this distance.
    fn is_led_to(&self, node: u32, distance: u32, nodes: &[u32; DEGREE], count: usize) -> bool {
        let (kind, code) = (self.codes.kind(), self.codes.get(node));
        let far = kind.number(distance);
        let leads_nearer = |apart: u32| kind.number(apart) * ALPHA < far;
        nodes.as_chunks::<4>().0.iter().enumerate().any(|(at, four)| {
            let count = count.saturating_sub(at * 4).min(4);
            count > 0
                && self.codes.four_distances(self.isa, code, *four)[..count]
                    .iter()
                    .any(|&apart| leads_nearer(apart))
        })
    }
}
