// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Figures of what was explored, and the wrong states found.

use super::chosen::Chosen;
use std::collections::{BTreeMap, HashSet};

/// What was explored at one point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PointTally {
    /// Events before it.
    pub event: usize,
    /// How many writes were not durable.
    pub writes: usize,
    /// How many different states were judged.
    pub states: u64,
    /// How many of them no earlier point had.
    pub distinct: u64,
    /// States for which the engine was run. The others agree with one of them in all that it read.
    pub evaluations: u64,
    /// How many states brought back each generation.
    pub generations: BTreeMap<u64, u64>,
    /// States that are wrong.
    pub failed: u64,
}

/// A wrong state, made as small as possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Events before the cut.
    pub event: usize,
    /// What was kept of the writes that were not durable.
    pub chosen: Chosen,
    /// What is wrong.
    pub what: String,
}

/// What was explored in all.
#[derive(Debug, Default)]
pub struct Explored {
    /// Moments at which the power may have gone.
    pub points: u64,
    /// States judged.
    pub states: u64,
    /// States for which the engine was run.
    pub evaluations: u64,
    /// Wrong states.
    pub failed: u64,
    /// A hash of each different state.
    pub distinct: HashSet<u64>,
    /// The first wrong state of each point.
    pub failures: Vec<Failure>,
}

impl Explored {
    /// Adds a point.
    pub(super) const fn add_point(&mut self, tally: &PointTally) {
        self.points += 1;
        self.states += tally.states;
        self.evaluations += tally.evaluations;
        self.failed += tally.failed;
    }

    /// Adds what was explored elsewhere.
    pub fn merge(&mut self, other: Self) {
        self.points += other.points;
        self.states += other.states;
        self.evaluations += other.evaluations;
        self.failed += other.failed;
        self.distinct.extend(other.distinct);
        self.failures.extend(other.failures);
    }
}
