// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The explorer: judges every state that a cut may leave of a recording.
//!
//! `points` finds the moments at which power may go, `states` lists what may be left at each,
//! [`StateDevice`] makes a device of one state, a [`Judge`] gives verdicts, `memo` remembers them,
//! `shrink` makes a failure small. In prose: `EXPLORE.md`. It changes nothing and knows no time; a run
//! follows from the recording and the seed.

mod chosen;
mod judge;
mod memo;
pub(crate) mod model_judge;
pub mod picture;
mod points;
mod root_judge;
mod shrink;
mod state_device;
mod states;
mod tally;

pub use chosen::Chosen;
pub use judge::{Judge, Verdict, evaluate};
pub use points::{Point, Unflushed};
pub use root_judge::RootJudge;
pub use state_device::StateDevice;
pub use states::Limits;
pub use tally::{Explored, Failure, PointTally};

use crate::recording::Recording;
use crate::rng::Rng;
use memo::Memo;
use std::collections::HashSet;

/// Explores a recording. `each` is called after every point and says whether to go on.
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

/// Judges one state: what `chosen` leaves at the point after `event` events. [`None`] if there is no
/// such point.
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
        let (state, what) = shrink::state(point, judge, state, what);
        let chosen = Chosen::of(point, &state);
        explored.failures.push(Failure { event: point.event, chosen, what });
    }
    explored.add_point(&tally);
    tally
}
