// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Metadata of rows: `NAME.tsv` or `NAME.jsonl` beside `NAME.npy` (or whatever the vectors' file ends with), a
//! line for each row, in their order.
//!
//! A sidecar is read when a search needs it, in the tree in which the caller's rights were judged, and kept
//! while it is the same file with the same contents: its version and its place say so for what was committed,
//! and [`Watch`] for what was written in place since. What was read counts only if no commit moved the file
//! meanwhile, because its old blocks may belong to another file by then.
//!
//! Memory is bounded: sidecars that are too long or have too many cells are not read, nor more of them for one
//! search than so many bytes, and the tables that were not used for the
//! longest time go first.

mod read;
mod table;

pub use read::{Form, has_header, read};
pub use table::{Cell, Column, Table, Values};

use crate::corpus::slots::DataExtent;
use crate::dirty_log::DirtyRange;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest sidecar that is read.
pub const BYTES_MAX: u64 = 128 << 20;
/// Bytes of all sidecars that one search may need.
pub const ALL_BYTES_MAX: u64 = 256 << 20;
/// Bytes of all tables that are kept; beyond that only the newest one is.
const KEPT_BYTES_MAX: usize = 256 << 20;

/// Which of the sidecars that were read were written in place since.
///
/// Whoever drains the log of writes tells it; a sidecar is registered before it is read, so that a write is
/// either seen by the read or told afterwards.
#[derive(Default)]
pub struct Watch(Mutex<HashMap<u64, Place>>);

struct Place {
    ranges: Vec<Range<u64>>,
    written: bool,
}

impl Watch {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<u64, Place>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ranges of the device were written.
    pub fn overwritten(&self, dirty: &[DirtyRange]) {
        self.with(|places| {
            for place in places.values_mut().filter(|place| !place.written) {
                let hit = |range: &Range<u64>| {
                    let from = dirty.partition_point(|dirty| dirty.end <= range.start);
                    dirty.get(from).is_some_and(|dirty| dirty.start < range.end)
                };
                place.written = place.ranges.iter().any(hit);
            }
        });
    }

    fn register(&self, ino: u64, ranges: Vec<Range<u64>>) {
        self.with(|places| places.insert(ino, Place { ranges, written: false }));
    }

    fn forget(&self, ino: u64) {
        self.with(|places| places.remove(&ino));
    }

    fn is_written(&self, ino: u64) -> bool {
        self.with(|places| places.get(&ino).is_none_or(|place| place.written))
    }
}

/// A sidecar's contents, as the tree says where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The inode.
    pub ino: u64,
    /// The version of the inode.
    pub version: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Where its data lies.
    pub extents: Vec<DataExtent>,
    /// What its name says that it is.
    pub form: Form,
}

/// The tables that were read.
#[derive(Default)]
pub struct Tables {
    watch: Arc<Watch>,
    known: HashMap<u64, (Contents, Arc<Table>, u64)>,
    uses: u64,
}

impl Tables {
    /// None yet; `watch` is told of what is written in place.
    #[must_use]
    pub fn new(watch: Arc<Watch>) -> Self {
        Self { watch, ..Self::default() }
    }

    /// The table of a sidecar, if it was read and is the same still.
    pub fn get(&mut self, contents: &Contents) -> Option<Arc<Table>> {
        self.uses += 1;
        let (own, table, used) = self.known.get_mut(&contents.ino)?;
        if own != contents || self.watch.is_written(contents.ino) {
            return None;
        }
        *used = self.uses;
        Some(table.clone())
    }

    /// A sidecar is about to be read.
    pub fn begin(&self, contents: &Contents, block_shift: u32) {
        let range = |extent: &DataExtent| {
            extent.block << block_shift..(extent.block + extent.count) << block_shift
        };
        self.watch.register(contents.ino, contents.extents.iter().map(range).collect());
    }

    /// It was read.
    pub fn put(&mut self, contents: Contents, table: Arc<Table>) {
        self.known.insert(contents.ino, (contents, table, self.uses));
        let bytes = |known: &HashMap<_, (_, Arc<Table>, _)>| {
            known.values().map(|(_, table, _)| table.bytes()).sum::<usize>()
        };
        while self.known.len() > 1 && bytes(&self.known) > KEPT_BYTES_MAX {
            let oldest = self.known.iter().min_by_key(|(_, (.., used))| *used).map(|(ino, _)| *ino);
            let Some(oldest) = oldest else { return };
            self.known.remove(&oldest);
            self.watch.forget(oldest);
        }
    }
}

#[cfg(test)]
mod tests;
