// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Devices that lie: a write lost, gone elsewhere or altered on the way, a flush ignored, a bit that
//! flips on the medium. The image that such a device leaves is made from what was recorded.
//!
//! Promise: either the engine says that something is wrong, or everything is as some commit made it.
//! Only file data, which carry no checksum, may be what the device made of them; see `FAULTS.md`.

use crate::device::CacheDevice;
use crate::image::{Image, SECTOR};
use crate::oracle::{assert_clean, compare};
use crate::recording::{Event, Request};
use crate::rng::Rng;
use crate::work::{Past, Run, Stop, World};
use std::collections::BTreeSet;
use vexfs::{OpenOptions, Volume};

/// What a lie left.
struct Lie {
    image: Image,
    /// Sectors that may hold anything.
    touched: BTreeSet<u64>,
    what: String,
}

/// Lies about something that happened, and judges what comes of it; true if it was found out.
pub(crate) fn judge(world: &World, rng: &mut Rng) -> Run<bool> {
    let Some(history) = world.history() else { return Ok(false) };
    let events = world.volume.device().events();
    let lie = tell(&history.base, &events, rng);
    let promised = history.promises.last().map_or(0, |(_, generation)| *generation);
    let fail = |what: String| Stop::Wrong(format!("{}: {what}", lie.what));

    let device = CacheDevice::new(lie.image.clone());
    if let Err(stop) = assert_clean(&device) {
        return found(stop).map_err(|stop| fail(stop.text()));
    }
    let options = OpenOptions { cache_bytes: 0, ..OpenOptions::default() };
    let mut volume = match Volume::open(device, &options) {
        Ok(volume) => volume,
        Err(error) => return found(Stop::error("open", &error)).map_err(|s| fail(s.text())),
    };
    let generation = volume.generation().0;
    let past = |past: &&Past| past.generation == generation;
    let Some(past) = history.commits.iter().rev().find(past) else {
        // Older than what is remembered: no later record can be trusted to have been there.
        let oldest = history.commits.first().map_or(0, |past| past.generation);
        return if generation < oldest {
            Ok(true)
        } else {
            Err(fail(format!("generation {generation} was never committed")))
        };
    };
    // Once an older commit is back, its freed blocks may have been given to others.
    let since: BTreeSet<u64> = if generation < promised {
        sectors(events.get(past.event..).unwrap_or(&[])).collect()
    } else {
        BTreeSet::new()
    };
    let mut model = past.model.clone();
    let allowed = |sector: u64, ino: u64, block: u64, data: &[u8]| {
        lie.touched.contains(&sector)
            || since.contains(&sector)
            || world.may_hold(past.writes, sector, ino, block, data)
    };
    match compare(&mut volume, &mut model, &allowed) {
        Ok(()) => Ok(generation < promised),
        Err(stop) => found(stop).map_err(|stop| fail(stop.text())),
    }
}

/// An answer that says something is wrong is a right one.
fn found(stop: Stop) -> Run<bool> {
    match stop {
        Stop::Found(_) => Ok(true),
        other => Err(other),
    }
}

fn writes(events: &[Event]) -> impl Iterator<Item = (u64, &[u8])> {
    events.iter().filter_map(|event| match event {
        Event::Submit { request: Request::Write { at, data, .. }, .. } => Some((*at, &**data)),
        _ => None,
    })
}

fn sectors(events: &[Event]) -> impl Iterator<Item = u64> {
    writes(events).flat_map(|(at, data)| range(at, data.len()))
}

fn range(at: u64, len: usize) -> std::ops::Range<u64> {
    let first = at / SECTOR as u64;
    first..first + (len / SECTOR) as u64
}

/// What becomes of a write: a place and data, or nothing.
type Change<'a> = dyn FnMut(u64, &[u8]) -> Option<(u64, Vec<u8>)> + 'a;

/// The image after all writes, the one at place `nth` as `change` has it.
fn replay(base: &Image, events: &[Event], nth: usize, change: &mut Change<'_>) -> Image {
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

fn tell(base: &Image, events: &[Event], rng: &mut Rng) -> Lie {
    let count = writes(events).count();
    // Mostly something recent: what came before was written over since.
    let nth = if count > 0 && rng.one_in(2) {
        count - 1 - rng.below(count.min(12) as u64) as usize
    } else {
        rng.below(count as u64) as usize
    };
    let mut touched = BTreeSet::new();
    let kind = if count == 0 { 0 } else { rng.below(6) };
    let (image, what) = match kind {
        1 => {
            let image = replay(base, events, nth, &mut |at, data| {
                touched.extend(range(at, data.len()));
                None
            });
            (image, format!("write {nth} lost"))
        }
        2 => {
            let blocks = base.len_bytes() / 4096;
            let other = writes(events).nth(rng.below(count as u64) as usize).map_or(0, |w| w.0);
            let to = if rng.one_in(2) { other } else { rng.below(blocks) * 4096 };
            let image = replay(base, events, nth, &mut |at, data| {
                touched.extend(range(at, data.len()));
                touched.extend(range(to, data.len()));
                Some((to, data.to_vec()))
            });
            (image, format!("write {nth} went to byte {to}"))
        }
        3 => {
            let salt = rng.next();
            let image = replay(base, events, nth, &mut |at, data| {
                touched.extend(range(at, data.len()));
                let mut data = data.to_vec();
                let bit = Rng::new(salt).below(data.len() as u64 * 8);
                if let Some(byte) = data.get_mut((bit / 8) as usize) {
                    *byte ^= 1 << (bit % 8);
                }
                Some((at, data))
            });
            (image, format!("write {nth} altered on the way"))
        }
        4 => {
            let mut image = base.clone();
            let salt = rng.next();
            for (place, (at, data)) in writes(events).enumerate() {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    let at = at + (index * SECTOR) as u64;
                    let kept = place < nth || Rng::new(salt ^ at ^ place as u64).one_in(2);
                    if kept {
                        image.put(at, sector);
                    }
                    if place >= nth {
                        touched.insert(at / SECTOR as u64);
                    }
                }
            }
            (image, format!("flushes ignored since write {nth}"))
        }
        _ => {
            let mut image = replay(base, events, usize::MAX, &mut |_, _| None);
            let place = writes(events).nth(nth);
            let (at, len) = match place {
                Some((at, data)) if !rng.one_in(4) => (at, data.len() as u64),
                // The superblocks and the root ring.
                _ => (0, 35 * 4096),
            };
            let bit = at * 8 + rng.below(len * 8);
            image.flip(bit);
            touched.insert(bit / 8 / SECTOR as u64);
            (image, format!("bit {bit} flipped on the medium"))
        }
    };
    Lie { image, touched, what }
}

/// The image of a device that did all it was asked, for comparison.
#[cfg(test)]
fn honest(base: &Image, events: &[Event]) -> Image {
    let device = CacheDevice::new(base.clone());
    for (at, data) in writes(events) {
        let _ = vexfs::Device::write(&device, at, data);
    }
    device.cut(crate::cache::Keep::All)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_lie_is_told_and_changes_only_what_it_touches() {
        let events: Vec<Event> = (0..20u64)
            .map(|id| {
                let data = vec![id as u8 + 1; 1024].into();
                let request =
                    Request::Write { at: 200_000 / 4096 * 4096 + id * 512, data, fua: false };
                Event::Submit { id, request }
            })
            .collect();
        let base = Image::new(1 << 20);
        let right = honest(&base, &events);
        let mut kinds = BTreeSet::new();
        for seed in 0..200 {
            let lie = tell(&base, &events, &mut Rng::new(seed));
            let words = ["lost", "went", "altered", "ignored", "flipped"];
            kinds.extend(words.into_iter().find(|word| lie.what.contains(word)));
            for sector in 0..lie.image.len_bytes() / SECTOR as u64 {
                let at = sector * SECTOR as u64;
                let same = lie.image.bytes(at, SECTOR) == right.bytes(at, SECTOR);
                assert!(same || lie.touched.contains(&sector), "{}: sector {sector}", lie.what);
            }
        }
        assert_eq!(kinds.len(), 5, "{kinds:?}");
    }
}
