// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The `k` nearest of a stream of candidates.
//!
//! Invariant: the result does not depend on the order of arrival: candidates are ordered by rank,
//! then file, then slot.

use std::{cmp::Ordering, collections::BinaryHeap};

/// A vector and its rank; a smaller rank is nearer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub rank: f32,
    pub file: u64,
    pub slot: u64,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank
            .total_cmp(&other.rank)
            .then(self.file.cmp(&other.file))
            .then(self.slot.cmp(&other.slot))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// The best candidates so far; the top of the heap is the worst of them.
pub(crate) struct TopK {
    k: usize,
    heap: BinaryHeap<Candidate>,
}

impl TopK {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k.min(1024) + 1) }
    }

    /// A candidate with a larger rank than this is not kept.
    pub(crate) fn worst(&self) -> f32 {
        match self.heap.peek() {
            Some(top) if self.heap.len() >= self.k => top.rank,
            _ => f32::INFINITY,
        }
    }

    pub(crate) fn push(&mut self, candidate: Candidate) {
        if self.heap.len() < self.k {
            self.heap.push(candidate);
        } else if let Some(mut top) = self.heap.peek_mut()
            && candidate < *top
        {
            *top = candidate;
        }
    }

    /// Nearest first.
    pub(crate) fn into_sorted(self) -> Vec<Candidate> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_arrival_does_not_matter_and_ties_go_to_the_lower_slot() {
        let mut all: Vec<Candidate> =
            (0..60u64).map(|i| Candidate { rank: (i % 7) as f32, file: i % 3, slot: i }).collect();
        let mut forward = TopK::new(11);
        for c in &all {
            forward.push(*c);
        }
        let mut backward = TopK::new(11);
        for c in all.iter().rev() {
            backward.push(*c);
        }
        all.sort();
        all.truncate(11);
        assert_eq!(forward.into_sorted(), all);
        assert_eq!(backward.into_sorted(), all);
    }

    #[test]
    fn worst_admits_everything_until_full() {
        let mut top = TopK::new(2);
        top.push(Candidate { rank: 1.0, file: 0, slot: 0 });
        assert!(top.worst() > f32::MAX);
        top.push(Candidate { rank: 3.0, file: 0, slot: 1 });
        assert!((top.worst() - 3.0).abs() < 1e-9);
    }
}
