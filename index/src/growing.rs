// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The growing segment of a file: the vectors written last, in memory, searched by scanning.
//!
//! When it is full it is sealed: its rows, sorted by slot, become an immutable
//! [`Segment`](crate::segment::Segment) that gets a graph.
//!
//! Invariant: `slots`, `rows` and `row_of` describe the same vectors, and a slot occurs once.
//! `version` grows with every change, so that an unchanged growing segment is not written twice.

use std::collections::HashMap;

use crate::{
    segment::Request,
    stats::Counts,
    topk::{Candidate, TopK},
    vector::{Row, Space},
    vector_array::VectorArray,
};

/// Vectors that are in no sealed segment yet.
#[derive(Clone)]
pub(crate) struct GrowingSegment {
    pub rows: VectorArray,
    pub slots: Vec<u64>,
    row_of: HashMap<u64, u32>,
    pub version: u64,
}

impl GrowingSegment {
    pub(crate) fn new(space: Space) -> Self {
        Self {
            rows: VectorArray::new(space),
            slots: Vec::new(),
            row_of: HashMap::new(),
            version: 0,
        }
    }

    /// `None` if a slot occurs twice.
    pub(crate) fn from_rows(slots: Vec<u64>, rows: VectorArray) -> Option<Self> {
        let row_of: HashMap<u64, u32> =
            slots.iter().enumerate().map(|(row, &slot)| (slot, row as u32)).collect();
        (row_of.len() == slots.len() && rows.len() == slots.len()).then_some(Self {
            rows,
            slots,
            row_of,
            version: 0,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn find(&self, slot: u64) -> Option<usize> {
        self.row_of.get(&slot).map(|&row| row as usize)
    }

    pub(crate) fn put(&mut self, slot: u64, row: &Row) {
        match self.find(slot) {
            Some(at) if self.rows.same(at, row) => return,
            Some(at) => self.rows.set(at, row),
            None => {
                self.row_of.insert(slot, self.slots.len() as u32);
                self.slots.push(slot);
                self.rows.push(row);
            }
        }
        self.version += 1;
    }

    pub(crate) fn remove(&mut self, slot: u64) -> bool {
        let Some(row) = self.row_of.remove(&slot) else { return false };
        let at = row as usize;
        self.slots.swap_remove(at);
        self.rows.swap_remove(at);
        if let Some(&moved) = self.slots.get(at) {
            self.row_of.insert(moved, row);
        }
        self.version += 1;
        true
    }

    /// Removes `first..=last`; how many there were.
    pub(crate) fn remove_range(&mut self, first: u64, last: u64) -> u64 {
        let inside: Vec<u64> =
            self.slots.iter().copied().filter(|slot| (first..=last).contains(slot)).collect();
        inside.iter().filter(|&&slot| self.remove(slot)).count() as u64
    }

    /// Moves everything out: the slots in ascending order, and their rows.
    pub(crate) fn take_sorted(&mut self, space: Space) -> (Vec<u64>, VectorArray) {
        let version = self.version + 1;
        let full = std::mem::replace(self, Self { version, ..Self::new(space) });
        let mut order: Vec<u32> = (0..full.slots.len() as u32).collect();
        order.sort_unstable_by_key(|&row| full.slots[row as usize]);
        let mut rows = VectorArray::new(space);
        rows.reserve_exact(order.len());
        for &row in &order {
            rows.push_from(&full.rows, row as usize);
        }
        (order.iter().map(|&row| full.slots[row as usize]).collect(), rows)
    }

    pub(crate) fn search(&self, request: &Request<'_>, file: u64, top: &mut TopK) {
        self.rows.scan(request.query, |row, rank| {
            if rank <= top.worst() {
                top.push(Candidate { rank, file, slot: self.slots[row] });
            }
        });
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            vectors: self.len() as u64,
            pending: self.len() as u64,
            bytes: self.bytes() as u64,
            unsaved: self.bytes() as u64,
            ..Counts::default()
        }
    }

    /// Resident bytes.
    pub(crate) fn bytes(&self) -> usize {
        // 17: a key, a value, and the byte that the hash table keeps of each.
        self.rows.bytes() + self.slots.capacity() * 8 + self.row_of.capacity() * 17
    }
}
