// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Finds the moments of a recording at which a cut is worth exploring: what was durable then, and which
//! writes were not.
//!
//! Invariant: every state that a cut could leave at any moment of the recording is a state of one of
//! these points. Between two of them the set of unflushed writes only grows, so the last moment
//! before something becomes durable covers those before it. Rules: `FAULTS.md`.

use crate::image::{Image, SECTOR};
use crate::recording::{Event, Recording, Request};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A write, or a part of one, whose sectors a cut may keep or lose.
#[derive(Clone, Debug)]
pub struct Unflushed {
    /// The request's number in the recording.
    pub id: u64,
    /// Its first sector.
    pub first: u64,
    /// Its data.
    pub data: Arc<[u8]>,
    completed: Option<usize>,
}

impl Unflushed {
    /// Sectors it writes.
    #[must_use]
    pub fn sectors(&self) -> usize {
        self.data.len() / SECTOR
    }

    /// One of them.
    #[must_use]
    pub fn sector(&self, index: usize) -> &[u8] {
        self.data.get(index * SECTOR..(index + 1) * SECTOR).unwrap_or(&[])
    }
}

/// A sector that may hold one of several versions.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its number.
    pub sector: u64,
    /// Its versions, oldest first, except the durable one. Equal contents are one version.
    pub versions: Vec<Version>,
    /// The writes that wrote it, in the order of submission.
    pub covers: Vec<Cover>,
}

/// A write's part in a choice.
#[derive(Clone, Copy, Debug)]
pub struct Cover {
    /// Index of the write among the point's.
    pub write: u32,
    /// Index of the sector within the write.
    pub index: u32,
    /// The version that it makes: 0 if its contents are those that were durable already.
    pub version: u16,
}

/// A version of a sector.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// Index of the write among the point's.
    pub write: u32,
    /// Index of the sector within the write.
    pub index: u32,
    /// What it contributes to the hash of the image.
    pub hash: u64,
}

/// A moment at which the power may go.
#[derive(Clone, Debug)]
pub struct Point {
    /// Events before it.
    pub event: usize,
    /// What is durable.
    pub medium: Image,
    /// Hash of what is durable.
    pub hash: u64,
    /// Writes that are not durable, in the order of submission.
    pub writes: Vec<Unflushed>,
    /// Sectors with more than one possible content, by number.
    pub choices: Vec<Choice>,
}

/// Hash of one sector at its place. 0 for zeroes, so that an untouched sector contributes nothing.
fn hash_of(sector: u64, data: &[u8]) -> u64 {
    let mut any = 0;
    let mut hash = sector.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD6E8_FEB8_6659_FD93;
    for chunk in data.chunks_exact(8) {
        let word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        any |= word;
        hash = (hash ^ word).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        hash ^= hash >> 32;
    }
    if any == 0 { 0 } else { hash }
}

/// Walks a recording and calls `each` with every point, in order, until it returns false.
pub fn walk(recording: &Recording, each: &mut dyn FnMut(&Point) -> bool) {
    let mut walker = Walker {
        medium: recording.base.clone(),
        hash: 0,
        writes: Vec::new(),
        flushes: HashMap::new(),
        grown: false,
    };
    for (event, happened) in recording.events.iter().enumerate() {
        match happened {
            Event::Submit { id, request } => walker.submit(*id, request, event),
            Event::Complete { id, ok } => {
                if walker.makes_durable(*id, *ok) && walker.grown && !each(&walker.point(event)) {
                    return;
                }
                walker.complete(*id, *ok, event);
            }
            Event::Mark(_) => {}
        }
    }
    if walker.grown {
        each(&walker.point(recording.events.len()));
    }
}

struct Walker {
    medium: Image,
    hash: u64,
    writes: Vec<(Unflushed, bool)>,
    /// Flushes under way, and when they were submitted.
    flushes: HashMap<u64, usize>,
    /// There are writes that no point had yet.
    grown: bool,
}

impl Walker {
    fn submit(&mut self, id: u64, request: &Request, event: usize) {
        let (at, data, fua) = match request {
            Request::Flush => {
                self.flushes.insert(id, event);
                return;
            }
            Request::Write { at, data, fua } => (*at, data.clone(), *fua),
            Request::Zeroes { at, len, fua } => {
                let len = (*len).min(self.medium.len_bytes().saturating_sub(*at));
                (*at, vec![0; len as usize].into(), *fua)
            }
        };
        let write = Unflushed { id, first: at / SECTOR as u64, data, completed: None };
        self.writes.push((write, fua));
        self.grown = true;
    }

    /// Whether this completion makes something durable.
    fn makes_durable(&self, id: u64, ok: bool) -> bool {
        let fua = self.writes.iter().any(|(write, fua)| write.id == id && *fua);
        ok && (self.flushes.contains_key(&id) || fua)
    }

    fn put(&mut self, sector: u64, data: &[u8]) {
        let at = sector * SECTOR as u64;
        self.hash ^= hash_of(sector, &self.medium.bytes(at, SECTOR)) ^ hash_of(sector, data);
        self.medium.put(at, data);
    }

    fn complete(&mut self, id: u64, ok: bool, event: usize) {
        if let Some(since) = self.flushes.remove(&id) {
            if ok {
                self.flushed(since);
            }
            return;
        }
        let Some(place) = self.writes.iter().position(|(write, _)| write.id == id) else { return };
        let Some((write, fua)) = self.writes.get_mut(place) else { return };
        // A write that failed may have been done in part, and no flush makes it certain.
        write.completed = ok.then_some(event);
        if ok && *fua {
            let (write, _) = self.writes.remove(place);
            for index in 0..write.sectors() {
                self.put(write.first + index as u64, write.sector(index));
            }
            self.supersede(&write, place);
        }
    }

    /// Takes from older writes the sectors that a durable one has overwritten.
    fn supersede(&mut self, by: &Unflushed, before: usize) {
        let (from, to) = (by.first, by.first + by.sectors() as u64);
        let older: Vec<_> = self.writes.drain(..before).collect();
        let mut kept = Vec::new();
        for (write, fua) in older {
            let end = write.first + write.sectors() as u64;
            let mut keep = |first: u64, last: u64| {
                if first < last {
                    let data = &write.data[(first - write.first) as usize * SECTOR
                        ..(last - write.first) as usize * SECTOR];
                    kept.push((Unflushed { first, data: data.into(), ..write.clone() }, fua));
                }
            };
            keep(write.first, end.min(from.max(write.first)));
            keep(write.first.max(to.min(end)), end);
        }
        kept.append(&mut self.writes);
        self.writes = kept;
    }

    /// Completes a flush that was submitted at event `since`.
    fn flushed(&mut self, since: usize) {
        let all = std::mem::take(&mut self.writes);
        for (place, (write, fua)) in all.into_iter().enumerate() {
            if write.completed.is_some_and(|at| at < since) {
                for index in 0..write.sectors() {
                    self.put(write.first + index as u64, write.sector(index));
                }
                let before = place.min(self.writes.len());
                self.supersede(&write, before);
            } else {
                self.writes.push((write, fua));
            }
        }
    }

    fn point(&mut self, event: usize) -> Point {
        self.grown = false;
        let writes: Vec<Unflushed> = self.writes.iter().map(|(write, _)| write.clone()).collect();
        let mut sectors: BTreeMap<u64, Choice> = BTreeMap::new();
        for (place, write) in writes.iter().enumerate() {
            for index in 0..write.sectors() {
                let sector = write.first + index as u64;
                let durable = self.medium.bytes(sector * SECTOR as u64, SECTOR);
                let hash = hash_of(sector, write.sector(index)) ^ hash_of(sector, &durable);
                let (write, index) = (place as u32, index as u32);
                let choice = sectors.entry(sector).or_insert_with(|| Choice {
                    sector,
                    versions: Vec::new(),
                    covers: Vec::new(),
                });
                let known = choice.versions.iter().position(|v| v.hash == hash);
                // The same contents again are no new version.
                let version = match known {
                    Some(known) => known as u16 + 1,
                    None if hash == 0 => 0,
                    None => {
                        choice.versions.push(Version { write, index, hash });
                        choice.versions.len() as u16
                    }
                };
                choice.covers.push(Cover { write, index, version });
            }
        }
        let choices = sectors.into_values().filter(|c| !c.versions.is_empty()).collect();
        Point { event, medium: self.medium.clone(), hash: self.hash, writes, choices }
    }
}

impl Point {
    /// The state if those sectors of each write are kept that `keep` says: for each choice 0 for the
    /// durable version, or 1 + the index of another.
    pub fn apply(&self, keep: &dyn Fn(u32, u32) -> bool, state: &mut Vec<u16>) {
        state.clear();
        state.extend(self.choices.iter().map(|choice| {
            let newest = choice.covers.iter().rev().find(|cover| keep(cover.write, cover.index));
            newest.map_or(0, |cover| cover.version)
        }));
    }

    /// The contents of a version.
    #[must_use]
    pub fn data(&self, version: &Version) -> &[u8] {
        let write = self.writes.get(version.write as usize);
        write.map_or(&[], |write| write.sector(version.index as usize))
    }

    /// Hash of the image of a state.
    #[must_use]
    pub fn hash_of(&self, state: &[u16]) -> u64 {
        self.choices.iter().zip(state).fold(self.hash, |hash, (choice, version)| {
            let chosen = usize::from(*version).checked_sub(1).and_then(|i| choice.versions.get(i));
            hash ^ chosen.map_or(0, |v| v.hash)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u64, at: u64, byte: u8, len: usize, fua: bool) -> [Event; 2] {
        let data = vec![byte; len].into();
        let request = Request::Write { at, data, fua };
        [Event::Submit { id, request }, Event::Complete { id, ok: true }]
    }

    fn flush(id: u64) -> [Event; 2] {
        [Event::Submit { id, request: Request::Flush }, Event::Complete { id, ok: true }]
    }

    fn points(events: Vec<Event>) -> Vec<Point> {
        let mut points = Vec::new();
        walk(&Recording { base: Image::new(1 << 16), events }, &mut |point| {
            points.push(point.clone());
            true
        });
        points
    }

    #[test]
    fn a_point_stands_before_whatever_makes_something_durable() {
        let mut events = Vec::new();
        events.extend(write(0, 0, 1, 1024, false));
        events.extend(write(1, 512, 2, 1024, false));
        events.extend(flush(2));
        events.extend(write(3, 0, 3, 512, false));
        events.extend(write(4, 0, 4, 1024, true));
        events.extend(write(5, 4096, 0, 512, false));
        let points = points(events);
        let shape: Vec<_> = points
            .iter()
            .map(|p| {
                (p.event, p.writes.len(), p.choices.iter().map(|c| c.versions.len()).collect())
            })
            .collect();
        let expected: [(usize, usize, Vec<usize>); 3] =
            [(5, 2, vec![1, 2, 1]), (9, 2, vec![2, 1]), (12, 1, vec![])];
        assert_eq!(shape, expected);
        assert_eq!(points[1].medium.bytes(0, 1), [1]);
        assert_eq!(points[2].medium.bytes(0, 1), [4], "an older write does not come back");
    }

    #[test]
    fn a_flush_covers_only_what_completed_before_it_was_submitted() {
        let [submit, complete] = write(1, 512, 2, 512, false);
        let [flush_submit, flush_complete] = flush(2);
        let mut events: Vec<Event> = write(0, 0, 1, 512, false).into();
        events.extend([submit, flush_submit, complete, flush_complete]);
        let points = points(events);
        assert_eq!(points.len(), 1, "no new write after the flush");
        let mut events: Vec<Event> = write(0, 0, 1, 512, false).into();
        let [submit, complete] = write(1, 512, 2, 512, false);
        let [flush_submit, flush_complete] = flush(2);
        events.extend([submit, flush_submit, complete, flush_complete]);
        events.extend(write(3, 1024, 3, 512, false));
        let points = self::points(events);
        let last = points.last().unwrap();
        assert_eq!(last.writes.iter().map(|w| w.id).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(last.medium.bytes(0, 1), [1]);
    }

    #[test]
    fn a_state_is_the_newest_kept_version_of_each_sector() {
        let mut events: Vec<Event> = write(0, 0, 1, 1024, false).into();
        events.extend(write(1, 512, 2, 1024, false));
        let points = points(events);
        let point = &points[0];
        let mut state = Vec::new();
        point.apply(&|_, _| true, &mut state);
        assert_eq!(state, [1, 2, 1]);
        point.apply(&|place, _| place == 0, &mut state);
        assert_eq!(state, [1, 1, 0]);
        point.apply(&|place, index| place == 1 && index == 1, &mut state);
        assert_eq!(state, [0, 0, 1]);
        let none = point.hash_of(&[0, 0, 0]);
        assert!(none != point.hash_of(&state) && none == point.hash);
    }
}
