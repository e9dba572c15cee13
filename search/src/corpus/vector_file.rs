// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One vector file: where its rows lie, and which of them the index still has to read.
//!
//! It changes only this bookkeeping; the tracker reads the rows and feeds the index.

use super::header::{Layout, Trouble};
use super::intervals::IntervalSet;
use super::slots::{DataExtent, Rows};
use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes of rows that are read at once.
const BATCH_BYTES: u64 = 1 << 20;

/// A vector file.
#[derive(Debug)]
pub struct VectorFile {
    /// Its length in bytes.
    pub size: u64,
    /// Where its data lies.
    pub extents: Vec<DataExtent>,
    /// The bytes of the file that its layout was found by.
    pub looked: Vec<Range<u64>>,
    /// Its slots, or why it is not indexed.
    pub slots: Result<Slots, Trouble>,
    /// Changes whenever the file's place or layout does, so that rows that were read before are not used.
    pub epoch: u64,
}

/// The slots of a file that is indexed.
#[derive(Debug)]
pub struct Slots {
    /// Where the rows lie and what they are.
    pub layout: Layout,
    /// The slots whose vector is written; the others lie in holes.
    pub present: IntervalSet,
    /// The slots that have to be read.
    pub todo: IntervalSet,
    /// The slots that could not be read from the medium.
    pub unreadable: BTreeSet<u64>,
}

/// Slots on their way into the index.
pub struct Batch {
    /// Their file.
    pub ino: u64,
    /// The file's epoch when they were taken.
    pub epoch: u64,
    /// Where the rows lie.
    pub rows: Rows,
    /// The slots.
    pub slots: Range<u64>,
    /// Whether all of them are present; otherwise none is.
    pub present: bool,
    /// Bits are packed into signed bytes.
    pub signed_bits: bool,
}

impl VectorFile {
    /// Takes the next slots that have to be read.
    pub fn next_batch(&mut self, ino: u64) -> Option<Batch> {
        let Slots { layout: Layout { rows, signed_bits, .. }, present, todo, unreadable } =
            self.slots.as_mut().ok()?;
        let first = todo.first()?;
        let (end, present) = present.prefix(&first);
        // A hole is handled at once, however long it is.
        let most = if present { (BATCH_BYTES / rows.stride).max(1) } else { u64::MAX };
        let slots = todo.take(most.min(end - first.start))?;
        unreadable.retain(|slot| !slots.contains(slot));
        let signed_bits = *signed_bits;
        Some(Batch { ino, epoch: self.epoch, rows: *rows, slots, present, signed_bits })
    }

    /// Records a slot that cannot be read; returns how many there are.
    pub fn leave_out(&mut self, slot: u64) -> usize {
        self.slots.as_mut().map_or(0, |slots| {
            slots.unreadable.insert(slot);
            slots.unreadable.len()
        })
    }

    /// Marks slots to be read.
    pub fn put_back(&mut self, again: Range<u64>) {
        if let Ok(slots) = &mut self.slots {
            let (count, _) = slots.layout.rows.count(self.size);
            slots.todo.insert(again.start..again.end.min(count));
        }
    }

    /// Whether any of its slots still has to be read.
    pub fn is_read(&self) -> bool {
        self.slots.as_ref().is_ok_and(|slots| slots.todo.count() > 0)
    }

    /// Whether all of its slots were read.
    pub fn is_whole(&self) -> bool {
        self.slots.as_ref().is_ok_and(|slots| slots.todo.is_empty() && slots.unreadable.is_empty())
    }

    /// Marks the slots to be read whose vector has one of these bytes of the file.
    pub fn mark(&mut self, bytes: &Range<u64>) {
        if let Ok(slots) = &mut self.slots {
            let touched = slots.layout.rows.touching(bytes);
            self.put_back(touched);
        }
    }

    /// Why the file is not searched as expected.
    pub fn trouble(&self) -> Option<Trouble> {
        match &self.slots {
            Err(why) => Some(why.clone()),
            Ok(Slots { layout, unreadable, .. }) => match layout.rows.count(self.size) {
                (_, 0) if !unreadable.is_empty() => unreadable.first().map(|first| {
                    let count = unreadable.len();
                    Trouble::Unreadable(format!(
                        "{count} of its rows cannot be read, the first is {first}: they are not searched; write them again"
                    ))
                }),
                (count, 0) => layout.odd_end(count, self.size).map(Trouble::Partial),
                (count, rest) => Some(Trouble::Partial(format!(
                    "its {} bytes are not a multiple of its stride: after a header of {} and {count} records of {} bytes, {rest} are left and not searched: complete or truncate it",
                    self.size, layout.rows.header, layout.rows.stride
                ))),
            },
        }
    }
}
