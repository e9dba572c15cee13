// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The index in numbers.
//!
//! Segments, files and the whole index are counted in one type, [`Counts`]; a larger thing's
//! counts are the sum of its parts'.

use std::{iter::Sum, ops::AddAssign};

/// Vectors and segments: of one segment, of a file, or of the whole index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Vectors that can be found.
    pub vectors: u64,
    /// Sealed segments.
    pub segments: u64,
    /// Sealed segments with a graph.
    pub graphs: u64,
    /// Vectors that were removed or overwritten and that no merge has dropped yet.
    pub tombstones: u64,
    /// Vectors in no graph yet: only scanning finds them.
    pub pending: u64,
    /// Vectors that cannot be compared and are therefore not indexed.
    pub skipped: u64,
    /// Bytes in memory of its own, estimated; what is mapped from a store is not among them.
    pub bytes: u64,
    /// Those of them that the next checkpoint moves into the store.
    pub unsaved: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.vectors += other.vectors;
        self.segments += other.segments;
        self.graphs += other.graphs;
        self.tombstones += other.tombstones;
        self.pending += other.pending;
        self.skipped += other.skipped;
        self.bytes += other.bytes;
        self.unsaved += other.unsaved;
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

/// The state of an [`Index`](crate::Index).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Files declared.
    pub files: u64,
    /// All files together.
    pub counts: Counts,
    /// The generation of the newest checkpoint.
    pub generation: Option<u64>,
    /// Whether a graph is being built, or will be if nothing happens.
    pub building: bool,
    /// Why the last build that failed did.
    pub problem: Option<String>,
}
