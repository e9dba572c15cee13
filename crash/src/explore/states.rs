// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Lists the states of a point: which of its unflushed writes are kept, and which sectors of them.
//!
//! Every subset of up to [`Limits::writes`] writes, and seeded samples of more; each write torn at each
//! of its sectors, with the others kept or lost; and samples in which each sector is chosen alone.

use super::points::Point;
use crate::rng::Rng;

/// How much of a point to explore.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Up to how many writes every subset is explored.
    pub writes: usize,
    /// How many subsets are sampled where there are more writes.
    pub samples: u64,
    /// How many states are sampled in which every sector is chosen alone.
    pub torn: u64,
    /// Decides the samples.
    pub seed: u64,
    /// Run the engine on every state, and compare the memo with it.
    pub no_memo: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { writes: 12, samples: 4096, torn: 64, seed: 1, no_memo: false }
    }
}

/// At most how many places of one write it is torn at.
const TORN_PLACES: usize = 64;

/// Calls `each` with every state: the version of each of the point's choices. Some states come twice.
pub fn each(point: &Point, limits: &Limits, rng: &mut Rng, each: &mut dyn FnMut(&[u16])) {
    let mut state = Vec::with_capacity(point.choices.len());
    let mut tell = |keep: &dyn Fn(u32, u32) -> bool| {
        point.apply(keep, &mut state);
        each(&state);
    };
    let count = point.writes.len();
    if count <= limits.writes.min(63) {
        for mask in 0..1u64 << count {
            tell(&|write, _| mask >> write & 1 == 1);
        }
    } else {
        tell(&|_, _| false);
        tell(&|_, _| true);
        for one in 0..count as u32 {
            tell(&|write, _| write <= one);
            tell(&|write, _| write == one);
            tell(&|write, _| write != one);
        }
        for _ in 0..limits.samples {
            // Some samples keep few writes, others most of them.
            let (salt, odds) = (rng.next(), rng.below(15) + 1);
            tell(&|write, _| Rng::new(salt ^ u64::from(write)).next() % 16 < odds);
        }
    }
    for (torn, write) in point.writes.iter().enumerate() {
        let (torn, sectors) = (torn as u32, write.sectors());
        let step = sectors.div_ceil(TORN_PLACES).max(1);
        for at in (1..sectors as u32).step_by(step) {
            for others in [false, true] {
                tell(&|write, index| if write == torn { index < at } else { others });
                tell(&|write, index| if write == torn { index >= at } else { others });
            }
        }
    }
    if point.choices.len() > 1 {
        for _ in 0..limits.torn {
            let salt = rng.next();
            let odds = rng.below(15) + 1;
            tell(&|write, index| {
                let place = u64::from(write) << 32 | u64::from(index);
                Rng::new(salt ^ place.wrapping_mul(0xA24B_AED4_963E_E407)).next() % 16 < odds
            });
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::explore::points;
    use crate::image::Image;
    use crate::recording::{Event, Recording, Request};
    use std::collections::BTreeSet;

    /// The point after writes at these places, of these lengths.
    pub(in crate::explore) fn point(writes: &[(u64, usize)]) -> Point {
        let events = writes
            .iter()
            .enumerate()
            .map(|(id, (at, len))| {
                let data = vec![id as u8 + 1; *len].into();
                Event::Submit {
                    id: id as u64,
                    request: Request::Write { at: *at, data, fua: false },
                }
            })
            .collect();
        let mut found = None;
        points::walk(&Recording { base: Image::new(1 << 20), events }, &mut |point| {
            found = Some(point.clone());
            true
        });
        found.unwrap()
    }

    pub(in crate::explore) fn states(point: &Point, limits: &Limits) -> BTreeSet<Vec<u16>> {
        let mut met = BTreeSet::new();
        each(point, limits, &mut Rng::new(1), &mut |state| {
            met.insert(state.to_vec());
        });
        met
    }

    #[test]
    fn every_subset_and_every_tear_is_met() {
        let point = point(&[(0, 1024), (1024, 512), (512, 512)]);
        let limits = Limits { torn: 200, ..Limits::default() };
        let met = states(&point, &limits);
        // Sector 0 has two versions, sector 1 three, sector 2 two: all of them.
        assert_eq!(met.len(), 2 * 3 * 2);
        let whole = states(&point, &Limits { torn: 0, ..limits });
        assert!(whole.contains([1, 0, 0].as_slice()), "torn");
        assert!(whole.contains([1, 2, 1].as_slice()) && whole.contains([0, 0, 0].as_slice()));
    }

    #[test]
    fn many_writes_are_sampled() {
        let writes: Vec<_> = (0..20).map(|i| (i * 512, 512)).collect();
        let point = point(&writes);
        let met = states(&point, &Limits { samples: 500, ..Limits::default() });
        assert!(met.len() > 400 && met.contains(&vec![0; 20]) && met.contains(&vec![1; 20]));
    }
}
