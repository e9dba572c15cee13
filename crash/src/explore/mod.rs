// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The explorer: every state that a cut may leave of a recording, held against what it should be.
//!
//! `points` finds the moments, `states` lists what may be left at each, `state` makes a device of
//! one, `memo` remembers verdicts, a [`Judge`] gives them, `minimal` makes a failure small. Prose:
//! `EXPLORE.md`. It changes nothing and knows no clock; a run follows from the recording and the
//! seed.

pub mod judge;
mod memo;
mod minimal;
pub mod picture;
mod points;
mod state;
mod states;

pub use judge::{Judge, RootJudge};
pub use memo::Verdict;
pub use points::{Point, Unflushed};
pub use state::StateDevice;
pub use states::{Chosen, Limits};

use crate::recording::Recording;
use crate::rng::Rng;
use memo::Memo;
use std::collections::{BTreeMap, HashSet};

/// What was explored at one point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PointTally {
    /// Events before it.
    pub event: usize,
    /// Writes that were not durable.
    pub writes: usize,
    /// States that were held against the judge, no two of this point the same.
    pub states: u64,
    /// Those that were met at no point before.
    pub distinct: u64,
    /// States for which the engine was run; the others agreed with one of them on all it read.
    pub evaluations: u64,
    /// States by the generation that came back.
    pub generations: BTreeMap<u64, u64>,
    /// States that are wrong.
    pub failed: u64,
}

/// A state that is wrong, as small as it could be made.
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
    /// Points.
    pub points: u64,
    /// States.
    pub states: u64,
    /// States for which the engine was run.
    pub evaluations: u64,
    /// Wrong states.
    pub failed: u64,
    /// The hash of each state met.
    pub distinct: HashSet<u64>,
    /// The first failure of each point.
    pub failures: Vec<Failure>,
}

impl Explored {
    /// Adds what somebody else explored.
    pub fn merge(&mut self, other: Self) {
        self.points += other.points;
        self.states += other.states;
        self.evaluations += other.evaluations;
        self.failed += other.failed;
        self.distinct.extend(other.distinct);
        self.failures.extend(other.failures);
    }
}

/// Explores a recording. `each` hears of every point when it is done; it says whether to go on.
pub fn explore(
    recording: &Recording,
    judge: &dyn Judge,
    limits: &Limits,
    explored: &mut Explored,
    each: &mut dyn FnMut(&PointTally) -> bool,
) {
    points::walk(recording, &mut |point| {
        let tally = at_point(point, judge, limits, explored);
        each(&tally)
    });
}

/// Judges one state by running the engine on it; the verdict and what was looked at.
pub fn evaluate(point: &Point, state: &[u16], judge: &dyn Judge) -> (Verdict, Vec<u32>) {
    let device = StateDevice::new(point, state);
    let verdict = judge.judge(point.event, &device);
    (verdict, device.into_trace())
}

/// The verdict on what `chosen` leaves at the point after `event` events.
///
/// # Errors
/// What is wrong with that state; [`None`] if there is no such point.
#[must_use]
pub fn replay(
    recording: &Recording,
    judge: &dyn Judge,
    event: usize,
    chosen: &Chosen,
) -> Option<Verdict> {
    let mut verdict = None;
    points::walk(recording, &mut |point| {
        if point.event == event {
            verdict = Some(evaluate(point, &chosen.state(point), judge).0);
        }
        point.event < event
    });
    verdict
}

fn at_point(
    point: &Point,
    judge: &dyn Judge,
    limits: &Limits,
    explored: &mut Explored,
) -> PointTally {
    let mut tally =
        PointTally { event: point.event, writes: point.writes.len(), ..PointTally::default() };
    let mut memo = Memo::default();
    let mut first: Option<(Vec<u16>, String)> = None;
    let mut rng = Rng::new(limits.seed ^ point.event as u64);
    let versions = |choice: u32| {
        point.choices.get(choice as usize).map_or(1, |choice| choice.versions.len() + 1)
    };
    let mut met = HashSet::new();
    states::each(point, limits, &mut rng, &mut |state| {
        let hash = point.hash_of(state);
        if !met.insert(hash) {
            return;
        }
        tally.states += 1;
        tally.distinct += u64::from(explored.distinct.insert(hash));
        if limits.no_memo || memo.find(state).is_none() {
            let (verdict, trace) = evaluate(point, state, judge);
            tally.evaluations += 1;
            let known = memo.find(state).cloned();
            let agrees = match known {
                Some(known) if known == verdict => Ok(()),
                Some(known) => Err(format!("the memo says {known:?}, the engine {verdict:?}")),
                None => memo.insert(state, &trace, &versions, verdict),
            };
            if let Err(what) = agrees {
                tally.failed += 1;
                first.get_or_insert_with(|| (state.to_vec(), what));
                return;
            }
        }
        match memo.find(state) {
            Some(Ok(generation)) => *tally.generations.entry(*generation).or_default() += 1,
            Some(Err(what)) => {
                tally.failed += 1;
                first.get_or_insert_with(|| (state.to_vec(), what.clone()));
            }
            None => {}
        }
    });
    if let Some((state, what)) = first {
        let (state, what) = minimal::state(point, judge, state, what);
        let chosen = Chosen::of(point, &state);
        explored.failures.push(Failure { event: point.event, chosen, what });
    }
    explored.points += 1;
    explored.states += tally.states;
    explored.evaluations += tally.evaluations;
    explored.failed += tally.failed;
    tally
}
