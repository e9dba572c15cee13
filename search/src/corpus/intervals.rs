// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A set of numbers as disjoint ranges.
//!
//! Invariant: the ranges are sorted, none is empty, and no two of them touch.

use std::ops::Range;

/// A set of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntervalSet(Vec<Range<u64>>);

impl IntervalSet {
    /// Adds a range of numbers.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|r| r.end < range.start);
        let last = self.0.partition_point(|r| r.start <= range.end);
        let merged = match self.0.get(first..last) {
            Some([low, .., high]) => low.start.min(range.start)..high.end.max(range.end),
            Some([only]) => only.start.min(range.start)..only.end.max(range.end),
            _ => range,
        };
        self.0.splice(first..last, [merged]);
    }

    /// The first range.
    #[must_use]
    pub fn first(&self) -> Option<Range<u64>> {
        self.0.first().cloned()
    }

    /// Removes at most `most` numbers from the front and returns them.
    pub fn take(&mut self, most: u64) -> Option<Range<u64>> {
        let first = self.0.first_mut()?;
        let end = first.end.min(first.start.saturating_add(most));
        let taken = first.start..end;
        first.start = end;
        if first.is_empty() {
            self.0.remove(0);
        }
        Some(taken)
    }

    /// Removes all numbers from `end` on.
    pub fn truncate(&mut self, end: u64) {
        self.0.retain_mut(|r| {
            r.end = r.end.min(end);
            !r.is_empty()
        });
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().cloned()
    }

    /// The longest prefix of `range` that lies entirely in the set or entirely outside it: its end, and
    /// whether it is in the set.
    #[must_use]
    pub fn prefix(&self, range: &Range<u64>) -> (u64, bool) {
        let at = self.0.partition_point(|r| r.end <= range.start);
        match self.0.get(at) {
            Some(r) if r.start <= range.start => (r.end.min(range.end), true),
            Some(r) => (r.start.min(range.end), false),
            None => (range.end, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(set: &IntervalSet) -> Vec<Range<u64>> {
        set.iter().collect()
    }

    #[test]
    fn ranges_merge_and_are_taken_from_the_front() {
        let mut set = IntervalSet::default();
        for range in [10..20, 30..40, 20..25, 5..8, 39..50, 60..60, 8..10] {
            set.insert(range);
        }
        assert_eq!(list(&set), [5..25, 30..50]);
        set.insert(0..100);
        assert_eq!(list(&set), std::slice::from_ref(&(0..100)));
        assert_eq!((set.take(30), set.take(1000)), (Some(0..30), Some(30..100)));
        assert_eq!(set.take(1), None);
        set.insert(3..9);
        set.insert(20..30);
        set.truncate(7);
        assert_eq!((list(&set).as_slice(), set.count()), (std::slice::from_ref(&(3..7)), 4));
        assert_eq!(set.prefix(&(0..10)), (3, false));
        assert_eq!(set.prefix(&(4..10)), (7, true));
        assert_eq!(set.prefix(&(7..10)), (10, false));
    }
}
