// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! All small scripts: every operation and every pair of operations, with every synchronisation after
//! each; triples by number, longer ones by seed.

use super::ops::{OPS, SYNCS, by_name};
use super::script::Script;
use crate::rng::Rng;

/// Ways to synchronise after an operation, none at all included.
const WAYS: usize = SYNCS.len() + 1;

/// A script of operations and what follows each, by their places in the lists.
fn script(parts: &[(usize, usize)]) -> Script {
    let mut script = Script::default();
    for (op, sync) in parts {
        script.steps.extend(OPS.get(*op));
        script.steps.extend(sync.checked_sub(1).and_then(|sync| SYNCS.get(sync)));
    }
    script
}

/// Every operation, with every synchronisation after it.
pub fn singles() -> impl Iterator<Item = Script> {
    (0..OPS.len() * WAYS).map(|i| script(&[(i / WAYS, i % WAYS)]))
}

/// Every two operations, with every synchronisation after each.
pub fn pairs() -> impl Iterator<Item = Script> {
    let one = OPS.len() * WAYS;
    (0..one * one).map(move |i| {
        let (a, b) = (i / one, i % one);
        script(&[(a / WAYS, a % WAYS), (b / WAYS, b % WAYS)])
    })
}

/// A random script of three operations, by its number.
#[must_use]
pub fn triple(number: u64) -> Script {
    let mut rng = Rng::new(number);
    let mut part = || (rng.below(OPS.len() as u64) as usize, rng.below(WAYS as u64) as usize);
    script(&[part(), part(), part()])
}

/// A random script of many operations, by its seed. It ends with a whole commit.
#[must_use]
pub fn long(seed: u64, ops: u64) -> Script {
    let mut rng = Rng::new(seed);
    let mut part = || (rng.below(OPS.len() as u64) as usize, rng.below(WAYS as u64) as usize);
    let parts: Vec<_> = (0..ops).map(|_| part()).collect();
    let mut script = script(&parts);
    script.steps.extend(by_name("finish").into_iter().chain(by_name("fsync")));
    script
}
