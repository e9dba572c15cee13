// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What must be known of a run to judge a state of its device: which commits a cut may bring back, from
//! when on each was promised, and what was written into files in place.
//!
//! Moments are counted in events of the recording.

use crate::image::{Image, Sector};
use crate::model::Model;
use crate::oracle::FoundSector;
use std::collections::HashMap;

/// The model at a commit.
pub(crate) struct Snapshot {
    pub(crate) model: Model,
    /// How many data writes there were before it.
    pub(crate) writes: u64,
}

/// A commit that a cut may bring back.
pub(crate) struct Committed {
    pub(crate) generation: u64,
    /// How many events there were before it could come back.
    pub(crate) event: usize,
    pub(crate) snapshot: Snapshot,
}

/// All commits since a recording began.
pub(crate) struct History {
    /// What the device held when the recording began, all of it durable.
    pub(crate) base: Image,
    /// In the order in which they were made.
    pub(crate) commits: Vec<Committed>,
    /// From so many events on, this generation or a newer one must come back.
    pub(crate) promises: Vec<(usize, u64)>,
}

impl History {
    /// The commit of a generation that a cut after `events` events may bring back. A flush without a
    /// commit adds an entry for the same generation with newer data; the last one counts.
    pub(crate) fn committed(&self, generation: u64, events: usize) -> Option<&Committed> {
        self.commits.iter().rev().find(|c| c.generation == generation && c.event <= events)
    }

    /// The oldest generation that may come back after `events` events.
    pub(crate) fn promised(&self, events: usize) -> u64 {
        let promise = self.promises.iter().rev().find(|(from, _)| *from <= events);
        promise.map_or(0, |(_, generation)| *generation)
    }
}

/// A version of a sector of file data.
pub(crate) struct DataVersion {
    /// Number of the write.
    pub(crate) write: u64,
    /// Events recorded before it.
    pub(crate) event: usize,
    pub(crate) ino: u64,
    pub(crate) block: u64,
    pub(crate) data: Sector,
}

/// The versions that sectors of file data had, by number of the sector on the device.
#[derive(Default)]
pub(crate) struct DataVersions(HashMap<u64, Vec<DataVersion>>);

impl DataVersions {
    pub(crate) fn push(&mut self, sector: u64, version: DataVersion) {
        self.0.entry(sector).or_default().push(version);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets the writes before number `oldest`.
    pub(crate) fn forget_before(&mut self, oldest: u64) {
        self.0.retain(|_, versions| {
            versions.retain(|version| version.write >= oldest);
            !versions.is_empty()
        });
    }

    /// Whether this sector may be found after a cut that came after `events` events and brought back a
    /// commit with `writes` data writes before it. That is so if it was written since that commit, at
    /// this place of this file.
    pub(crate) fn may_hold(&self, found: &FoundSector<'_>, writes: u64, events: usize) -> bool {
        self.0.get(&found.sector).is_some_and(|versions| {
            versions.iter().any(|v| {
                v.write >= writes
                    && v.event < events
                    && (v.ino, v.block) == (found.ino, found.block)
                    && v.data == *found.data
            })
        })
    }
}
