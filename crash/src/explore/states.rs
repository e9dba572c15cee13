// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What may be left at a point: which of its unflushed writes, and which sectors of them.
//!
//! Every subset of up to [`Limits::writes`] writes, seeded samples of more; each write torn at each
//! of its sectors, the others kept or lost; and sectors by chance, each alone.

use super::points::Point;
use crate::rng::Rng;
use std::fmt;
use std::str::FromStr;

/// How much of a point to explore.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Up to so many writes every subset is explored.
    pub writes: usize,
    /// Subsets sampled where there are more.
    pub samples: u64,
    /// States in which every sector is chosen alone.
    pub torn: u64,
    /// Decides the samples.
    pub seed: u64,
    /// Run the engine on every state, and hold the memo against it.
    pub no_memo: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { writes: 12, samples: 4096, torn: 64, seed: 1, no_memo: false }
    }
}

/// Sectors of one write beyond which it is torn at some places only.
const TORN_PLACES: usize = 64;

/// Calls `each` with every state, the versions of the point's choices. Some come twice.
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
            // Some samples keep few writes, some most of them.
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

/// What was kept of a point's writes, by their numbers: `none`, or `3,5[0+1+7]`, where the brackets
/// hold sectors of a write that was torn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen(pub Vec<(u64, Option<Vec<u32>>)>);

impl Chosen {
    /// What a state is, written down.
    #[must_use]
    pub fn of(point: &Point, state: &[u16]) -> Self {
        let mut chosen = Vec::new();
        for (place, write) in point.writes.iter().enumerate() {
            let place = place as u32;
            let mut kept = Vec::new();
            let mut own = 0;
            for (choice, version) in point.choices.iter().zip(state) {
                for cover in choice.covers.iter().filter(|c| c.write == place && c.version > 0) {
                    own += 1;
                    // The first write of a content stands for it.
                    let first = choice.covers.iter().find(|c| c.version == *version);
                    if first.is_some_and(|first| first.write == place) {
                        kept.push(cover.index);
                    }
                }
            }
            if !kept.is_empty() {
                chosen.push((write.id, (kept.len() < own).then_some(kept)));
            }
        }
        Self(chosen)
    }

    /// The state of a point that this describes. Writes it does not name are lost.
    #[must_use]
    pub fn state(&self, point: &Point) -> Vec<u16> {
        let mut state = Vec::new();
        let keep = |write: u32, index: u32| {
            let id = point.writes.get(write as usize).map(|write| write.id);
            self.0.iter().any(|(named, sectors)| {
                Some(*named) == id && sectors.as_ref().is_none_or(|s| s.contains(&index))
            })
        };
        point.apply(&keep, &mut state);
        state
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (place, (id, sectors)) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if place > 0 { "," } else { "" })?;
            if let Some(sectors) = sectors {
                let list: Vec<String> = sectors.iter().map(u32::to_string).collect();
                write!(f, "[{}]", list.join("+"))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Chosen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let wrong =
            |part: &str| format!("'{part}' is no write: give 'none' or numbers as in '3,5[0+1+2]'");
        text.split(',')
            .map(|part| {
                let (id, sectors) = match part.split_once('[') {
                    None => (part, None),
                    Some((id, rest)) => {
                        let rest = rest.strip_suffix(']').ok_or_else(|| wrong(part))?;
                        let sectors: Result<_, _> = rest.split('+').map(str::parse).collect();
                        (id, Some(sectors.map_err(|_| wrong(part))?))
                    }
                };
                Ok((id.parse().map_err(|_| wrong(part))?, sectors))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::points;
    use crate::image::Image;
    use crate::recording::{Event, Recording, Request};
    use std::collections::BTreeSet;

    fn point(writes: &[(u64, usize)]) -> Point {
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

    fn states(point: &Point, limits: &Limits) -> BTreeSet<Vec<u16>> {
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

    #[test]
    fn what_was_chosen_is_read_as_it_is_written() {
        let point = point(&[(0, 2048), (4096, 512), (512, 512)]);
        for state in states(&point, &Limits::default()) {
            let chosen = Chosen::of(&point, &state);
            assert_eq!(chosen.state(&point), state, "{chosen}");
            assert_eq!(chosen.to_string().parse(), Ok(chosen));
        }
        assert!("3,x".parse::<Chosen>().is_err() && "3[1".parse::<Chosen>().is_err());
    }
}
