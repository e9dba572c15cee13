// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Building the links, a batch of nodes at a time.
//!
//! The nodes of a batch are linked to those before it; then the links back to them are added, grouped by
//! target. A node keeps a link only if no shorter link of it leads nearer to the same place (the
//! pruning rule of Vamana, Subramanya et al., NeurIPS 2019).

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    DEGREE, Links,
    codes::Codes,
    kernel::Isa,
    walk::{Scratch, View},
};
use crate::error::{IndexError, Result};

/// A batch is at most this part of the nodes that are linked, so that few of them miss each other.
const BATCH_PART: usize = 32;
const BATCH_MAX: usize = 2_000;
/// A link is left out if another one leads nearer by this factor, in squared distances.
const ALPHA: f32 = 1.1;

/// A node, by its distance from another.
type Neighbour = (u32, u32);

/// Links the nodes of `codes`, which are in a shuffled order. Each considers `ef` candidates.
pub(super) fn build(isa: Isa, codes: &Codes, ef: usize, stop: &AtomicBool) -> Result<Vec<Links>> {
    let nodes = codes.len();
    let mut links = vec![Links::EMPTY; nodes];
    let mut scratch = Scratch::default();
    let ef = ef.max(DEGREE);
    let mut linked = nodes.min(1);
    while linked < nodes {
        if stop.load(Ordering::Relaxed) {
            return Err(IndexError::Stopped);
        }
        let batch = (linked / BATCH_PART).clamp(1, BATCH_MAX).min(nodes - linked);
        let view = View { links: &links[..linked], codes };
        // (target, distance, node), of every link of the batch.
        let mut back: Vec<(u32, u32, u32)> = Vec::new();
        let mut forward = Vec::with_capacity(batch);
        for node in linked as u32..(linked + batch) as u32 {
            view.walk(isa, codes.get(node), ef, &mut scratch);
            let near = scratch.found().iter().map(|near| (near.distance(), near.node()));
            let kept = prune(isa, codes, near);
            back.extend(kept.iter().map(|&(distance, target)| (target, distance, node)));
            forward.push(Links::of(kept.into_iter().map(|(_, target)| target)));
        }
        links[linked..linked + batch].copy_from_slice(&forward);
        back.sort_unstable();
        for group in back.chunk_by(|a, b| a.0 == b.0) {
            let target = group[0].0;
            links[target as usize] =
                linked_back(isa, codes, target, &links[target as usize], group);
        }
        linked += batch;
    }
    Ok(links)
}

/// The links of `target` with those back to the nodes of a batch that link to it.
fn linked_back(
    isa: Isa,
    codes: &Codes,
    target: u32,
    links: &Links,
    group: &[(u32, u32, u32)],
) -> Links {
    let fresh = group.iter().map(|&(_, _, node)| node);
    if links.iter().count() + group.len() <= DEGREE {
        return Links::of(links.iter().chain(fresh));
    }
    let code = codes.get(target);
    let known = links.iter().map(|link| (codes.distance(isa, code, codes.get(link)), link));
    let mut all: Vec<Neighbour> =
        known.chain(group.iter().map(|&(_, distance, node)| (distance, node))).collect();
    all.sort_unstable();
    Links::of(prune(isa, codes, all.into_iter()).into_iter().map(|(_, node)| node))
}

/// Of candidates, the nearest first, those that a node links to.
fn prune(isa: Isa, codes: &Codes, candidates: impl Iterator<Item = Neighbour>) -> Vec<Neighbour> {
    let mut kept: Vec<Neighbour> = Vec::with_capacity(DEGREE);
    for (distance, node) in candidates {
        let (code, far) = (codes.get(node), codes.kind().number(distance));
        let leads_nearer = |&(_, other): &Neighbour| {
            let apart = codes.distance(isa, code, codes.get(other));
            codes.kind().number(apart) * ALPHA < far
        };
        if !kept.iter().any(leads_nearer) {
            kept.push((distance, node));
            if kept.len() == DEGREE {
                break;
            }
        }
    }
    kept
}
