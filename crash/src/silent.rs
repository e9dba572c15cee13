// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Silent faults: a write that is lost, goes elsewhere or is altered on the way, a flush that is
//! ignored, a bit that flips on the medium. The device reports no error; the image that it leaves is
//! made from what was recorded.
//!
//! Promise: either the engine detects it, or everything is as some commit made it. Only file data,
//! which carry no checksum, may be what the device made of them; see `FAULTS.md`.

use crate::device::CacheDevice;
use crate::halt::Halt;
use crate::history::{DataVersions, History};
use crate::image::{Image, SECTOR, flip_bit};
use crate::oracle::{assert_clean, compare};
use crate::recording::{Event, Request};
use crate::rng::Rng;
use std::collections::BTreeSet;
use std::ops::Range;
use vexfs::{OpenOptions, Volume};

/// A silent fault of some recorded write, flush or place of the medium.
pub(crate) struct SilentFault {
    /// What the device holds in the end.
    image: Image,
    /// Sectors that may hold anything.
    touched: BTreeSet<u64>,
    what: String,
}

impl SilentFault {
    /// A random one, on a device that began with the contents `base` and had these events.
    pub(crate) fn new(base: &Image, events: &[Event], rng: &mut Rng) -> Self {
        let count = writes(events).count();
        // Mostly a recent write: the older ones were overwritten since.
        let nth = if count > 0 && rng.one_in(2) {
            count - 1 - rng.below(count.min(12) as u64) as usize
        } else {
            rng.below(count as u64) as usize
        };
        match if count == 0 { 0 } else { rng.below(6) } {
            1 => Self::lost_write(base, events, nth),
            2 => Self::misdirected_write(base, events, nth, rng),
            3 => Self::altered_write(base, events, nth, rng),
            4 => Self::ignored_flushes(base, events, nth, rng),
            _ => Self::flipped_bit(base, events, nth, rng),
        }
    }

    fn lost_write(base: &Image, events: &[Event], nth: usize) -> Self {
        let mut touched = BTreeSet::new();
        let image = image_with(base, events, nth, &mut |at, data| {
            touched.extend(sectors_of(at, data.len()));
            None
        });
        Self { image, touched, what: format!("write {nth} lost") }
    }

    fn misdirected_write(base: &Image, events: &[Event], nth: usize, rng: &mut Rng) -> Self {
        let count = writes(events).count();
        let blocks = base.len_bytes() / 4096;
        let other = writes(events).nth(rng.below(count as u64) as usize).map_or(0, |w| w.0);
        let to = if rng.one_in(2) { other } else { rng.below(blocks) * 4096 };
        let mut touched = BTreeSet::new();
        let image = image_with(base, events, nth, &mut |at, data| {
            touched.extend(sectors_of(at, data.len()));
            touched.extend(sectors_of(to, data.len()));
            Some((to, data.to_vec()))
        });
        Self { image, touched, what: format!("write {nth} went to byte {to}") }
    }

    fn altered_write(base: &Image, events: &[Event], nth: usize, rng: &mut Rng) -> Self {
        let salt = rng.next();
        let mut touched = BTreeSet::new();
        let image = image_with(base, events, nth, &mut |at, data| {
            touched.extend(sectors_of(at, data.len()));
            let mut data = data.to_vec();
            let bit = Rng::new(salt).below(data.len() as u64 * 8);
            flip_bit(&mut data, bit);
            Some((at, data))
        });
        Self { image, touched, what: format!("write {nth} altered on the way") }
    }

    /// Of the writes from the `nth` on, each sector is kept or lost.
    fn ignored_flushes(base: &Image, events: &[Event], nth: usize, rng: &mut Rng) -> Self {
        let (mut image, mut touched) = (base.clone(), BTreeSet::new());
        let salt = rng.next();
        for (place, (at, data)) in writes(events).enumerate() {
            for (index, sector) in data.chunks(SECTOR).enumerate() {
                let at = at + (index * SECTOR) as u64;
                if place < nth || Rng::new(salt ^ at ^ place as u64).one_in(2) {
                    image.put(at, sector);
                }
                if place >= nth {
                    touched.insert(at / SECTOR as u64);
                }
            }
        }
        Self { image, touched, what: format!("flushes ignored since write {nth}") }
    }

    /// A bit that the `nth` write wrote, or one of the superblock or the root ring.
    fn flipped_bit(base: &Image, events: &[Event], nth: usize, rng: &mut Rng) -> Self {
        let mut image = image_with(base, events, usize::MAX, &mut |_, _| None);
        let (at, len) = match writes(events).nth(nth) {
            Some((at, data)) if !rng.one_in(4) => (at, data.len() as u64),
            _ => (0, 35 * 4096),
        };
        let bit = at * 8 + rng.below(len * 8);
        image.flip(bit);
        let touched = BTreeSet::from([bit / 8 / SECTOR as u64]);
        Self { image, touched, what: format!("bit {bit} flipped on the medium") }
    }

    /// Judges what the engine makes of the image; true if it detected the fault.
    pub(crate) fn judge(
        &self,
        history: &History,
        versions: &DataVersions,
        events: &[Event],
    ) -> Result<bool, Halt> {
        match self.open_and_compare(history, versions, events) {
            Err(Halt::Detected(_)) => Ok(true),
            Err(halt) => Err(Halt::Mismatch(format!("{}: {}", self.what, halt.text()))),
            detected => detected,
        }
    }

    fn open_and_compare(
        &self,
        history: &History,
        versions: &DataVersions,
        events: &[Event],
    ) -> Result<bool, Halt> {
        let promised = history.promised(usize::MAX);
        let device = CacheDevice::new(self.image.clone());
        assert_clean(&device)?;
        let options = OpenOptions { cache_bytes: 0, ..OpenOptions::default() };
        let mut volume = Volume::open(device, &options).map_err(|e| Halt::error("open", &e))?;
        let generation = volume.generation().0;
        let Some(committed) = history.committed(generation, usize::MAX) else {
            // Older than the history, so it cannot be compared. A loss of that many commits counts
            // as detected.
            let oldest = history.commits.first().map_or(0, |first| first.generation);
            if generation < oldest {
                return Ok(true);
            }
            let what = format!("generation {generation} was never committed");
            return Err(Halt::Mismatch(what));
        };
        // If an older commit is back, the blocks that were freed since may hold others' data.
        let since: BTreeSet<u64> = if generation < promised {
            sectors_written(events.get(committed.event..).unwrap_or(&[])).collect()
        } else {
            BTreeSet::new()
        };
        let snapshot = &committed.snapshot;
        compare(&mut volume, &mut snapshot.model.clone(), &|found| {
            self.touched.contains(&found.sector)
                || since.contains(&found.sector)
                || versions.may_hold(found, snapshot.writes, usize::MAX)
        })?;
        Ok(generation < promised)
    }
}

fn writes(events: &[Event]) -> impl Iterator<Item = (u64, &[u8])> {
    events.iter().filter_map(|event| match event {
        Event::Submit { request: Request::Write { at, data, .. }, .. } => Some((*at, &**data)),
        _ => None,
    })
}

fn sectors_written(events: &[Event]) -> impl Iterator<Item = u64> {
    writes(events).flat_map(|(at, data)| sectors_of(at, data.len()))
}

fn sectors_of(at: u64, len: usize) -> Range<u64> {
    let first = at / SECTOR as u64;
    first..first + (len / SECTOR) as u64
}

/// What becomes of a write: another place or other data, or nothing.
type Change<'a> = dyn FnMut(u64, &[u8]) -> Option<(u64, Vec<u8>)> + 'a;

/// The image after all writes, of which the one at place `nth` is changed.
fn image_with(base: &Image, events: &[Event], nth: usize, change: &mut Change<'_>) -> Image {
    let mut image = base.clone();
    for (place, (at, data)) in writes(events).enumerate() {
        if place != nth {
            image.put(at, data);
        } else if let Some((at, data)) = change(at, data) {
            image.put(at, &data);
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_is_made_and_changes_only_what_it_touches() {
        let events: Vec<Event> = (0..20u64)
            .map(|id| {
                let data = vec![id as u8 + 1; 1024].into();
                let request =
                    Request::Write { at: 200_000 / 4096 * 4096 + id * 512, data, fua: false };
                Event::Submit { id, request }
            })
            .collect();
        let base = Image::new(1 << 20);
        let device = CacheDevice::new(base.clone());
        for (at, data) in writes(&events) {
            vexfs::Device::write(&device, at, data).unwrap();
        }
        let right = device.cut(crate::cache::Keep::All);
        let mut kinds = BTreeSet::new();
        for seed in 0..200 {
            let fault = SilentFault::new(&base, &events, &mut Rng::new(seed));
            let words = ["lost", "went", "altered", "ignored", "flipped"];
            kinds.extend(words.into_iter().find(|word| fault.what.contains(word)));
            for sector in 0..fault.image.len_bytes() / SECTOR as u64 {
                let at = sector * SECTOR as u64;
                let same = fault.image.bytes(at, SECTOR) == right.bytes(at, SECTOR);
                assert!(same || fault.touched.contains(&sector), "{}: sector {sector}", fault.what);
            }
        }
        assert_eq!(kinds.len(), 5, "{kinds:?}");
    }
}
