// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! All small scripts: every operation, every pair, each with every synchronisation after it; and
//! triples by number.

use super::ops::{OPS, SYNCS, named};
use super::script::Script;
use crate::rng::Rng;

/// Ways to synchronise, none at all included.
const WAYS: usize = SYNCS.len() + 1;

fn script(parts: &[(usize, usize)]) -> Script {
    let mut script = Script::default();
    for (op, sync) in parts {
        script.steps.extend(OPS.get(*op));
        script.steps.extend(sync.checked_sub(1).and_then(|sync| SYNCS.get(sync)));
    }
    script
}

/// One operation, and a synchronisation of each kind.
pub fn singles() -> impl Iterator<Item = Script> {
    (0..OPS.len() * WAYS).map(|i| script(&[(i / WAYS, i % WAYS)]))
}

/// Two operations, and synchronisations of each kind after both.
pub fn pairs() -> impl Iterator<Item = Script> {
    let one = OPS.len() * WAYS;
    (0..one * one).map(move |i| {
        let (a, b) = (i / one, i % one);
        script(&[(a / WAYS, a % WAYS), (b / WAYS, b % WAYS)])
    })
}

/// A script of three operations, by its number.
#[must_use]
pub fn triple(number: u64) -> Script {
    let mut rng = Rng::new(number);
    let mut part = || (rng.below(OPS.len() as u64) as usize, rng.below(WAYS as u64) as usize);
    script(&[part(), part(), part()])
}

/// A script of many operations, by its seed; the last step is a whole commit.
#[must_use]
pub fn long(seed: u64, ops: u64) -> Script {
    let mut rng = Rng::new(seed);
    let mut part = || (rng.below(OPS.len() as u64) as usize, rng.below(WAYS as u64) as usize);
    let parts: Vec<_> = (0..ops).map(|_| part()).collect();
    let mut script = script(&parts);
    script.steps.extend(named("finish").into_iter().chain(named("fsync")));
    script
}
