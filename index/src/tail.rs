// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The mutable exact segment of a file: what was written last, searched by scanning.
//!
//! Invariant: `slots`, `rows` and `at` describe the same vectors; a slot occurs once. `version`
//! grows with every change of content, so an unchanged tail is not written twice.

use std::collections::HashMap;

use crate::{
    rows::Rows,
    vector::{Row, Space},
};

/// Vectors that are in no segment yet.
#[derive(Clone)]
pub(crate) struct Tail {
    pub rows: Rows,
    pub slots: Vec<u64>,
    at: HashMap<u64, u32>,
    pub version: u64,
}

impl Tail {
    pub(crate) fn new(space: Space) -> Self {
        Self { rows: Rows::new(space), slots: Vec::new(), at: HashMap::new(), version: 0 }
    }

    /// `None` if a slot occurs twice.
    pub(crate) fn from_parts(slots: Vec<u64>, rows: Rows) -> Option<Self> {
        let at: HashMap<u64, u32> =
            slots.iter().enumerate().map(|(row, &slot)| (slot, row as u32)).collect();
        (at.len() == slots.len() && rows.len() == slots.len()).then_some(Self {
            rows,
            slots,
            at,
            version: 0,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn find(&self, slot: u64) -> Option<usize> {
        self.at.get(&slot).map(|&row| row as usize)
    }

    pub(crate) fn put(&mut self, slot: u64, row: &Row) {
        match self.find(slot) {
            Some(at) if self.rows.same(at, row) => return,
            Some(at) => self.rows.set(at, row),
            None => {
                self.at.insert(slot, self.slots.len() as u32);
                self.slots.push(slot);
                self.rows.push(row);
            }
        }
        self.version += 1;
    }

    pub(crate) fn remove(&mut self, slot: u64) -> bool {
        let Some(at) = self.at.remove(&slot) else { return false };
        let at = at as usize;
        self.slots.swap_remove(at);
        self.rows.swap_remove(at);
        if let Some(&moved) = self.slots.get(at) {
            self.at.insert(moved, at as u32);
        }
        self.version += 1;
        true
    }

    /// Removes `first..=last`; how many there were.
    pub(crate) fn remove_range(&mut self, first: u64, last: u64) -> u64 {
        let doomed: Vec<u64> =
            self.slots.iter().copied().filter(|slot| (first..=last).contains(slot)).collect();
        doomed.iter().filter(|&&slot| self.remove(slot)).count() as u64
    }

    /// Empties the tail into slots in ascending order and their rows.
    pub(crate) fn take_sorted(&mut self, space: Space) -> (Vec<u64>, Rows) {
        let version = self.version + 1;
        let full = std::mem::replace(self, Self { version, ..Self::new(space) });
        let mut order: Vec<u32> = (0..full.slots.len() as u32).collect();
        order.sort_unstable_by_key(|&row| full.slots[row as usize]);
        let mut rows = Rows::new(space);
        rows.reserve_exact(order.len());
        for &row in &order {
            rows.push_from(&full.rows, row as usize);
        }
        (order.iter().map(|&row| full.slots[row as usize]).collect(), rows)
    }

    /// Resident bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.rows.bytes() + self.slots.capacity() * 8 + self.at.capacity() * 17
    }
}
