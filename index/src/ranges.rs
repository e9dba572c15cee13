// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A set of slots as disjoint ranges: a hole of a million zero rows costs one entry.
//!
//! Invariant: ranges are sorted, not empty, and neither overlap nor touch.

use std::collections::BTreeMap;

/// Slots whose rows cannot be compared with anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    // First slot to last slot, inclusive: slot u64::MAX can be a member.
    spans: BTreeMap<u64, u64>,
    count: u64,
}

impl Ranges {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn contains(&self, slot: u64) -> bool {
        self.spans.range(..=slot).next_back().is_some_and(|(_, &last)| slot <= last)
    }

    pub(crate) fn insert(&mut self, slot: u64) {
        if self.contains(slot) {
            return;
        }
        let (mut first, mut last) = (slot, slot);
        if let Some((&before, &end)) = self.spans.range(..slot).next_back()
            && end.checked_add(1) == Some(slot)
        {
            first = before;
        }
        if let Some(next) = slot.checked_add(1)
            && let Some(end) = self.spans.remove(&next)
        {
            last = end;
        }
        self.spans.insert(first, last);
        self.count += 1;
    }

    /// Takes out `first..=last`.
    pub(crate) fn remove(&mut self, first: u64, last: u64) {
        if self.spans.is_empty() || first > last {
            return;
        }
        let from = self.spans.range(..=first).next_back().map_or(first, |(&start, _)| start);
        let touched: Vec<(u64, u64)> = self
            .spans
            .range(from..=last)
            .filter(|&(_, &end)| end >= first)
            .map(|(&start, &end)| (start, end))
            .collect();
        for (start, end) in touched {
            self.spans.remove(&start);
            if let Some(before) = first.checked_sub(1)
                && start <= before
            {
                self.spans.insert(start, before);
            }
            if let Some(after) = last.checked_add(1)
                && after <= end
            {
                self.spans.insert(after, end);
            }
            self.count -= end.min(last) - start.max(first) + 1;
        }
    }

    pub(crate) fn to_pairs(&self) -> Vec<(u64, u64)> {
        self.spans.iter().map(|(&first, &last)| (first, last)).collect()
    }

    /// `None` if the pairs break the invariant.
    pub(crate) fn from_pairs(pairs: &[(u64, u64)]) -> Option<Self> {
        let mut ranges = Self::default();
        let mut floor = Some(0u64);
        for &(first, last) in pairs {
            if first > last || first < floor? {
                return None;
            }
            floor = last.checked_add(2);
            ranges.count = ranges.count.checked_add((last - first).checked_add(1)?)?;
            ranges.spans.insert(first, last);
        }
        Some(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(ops in prop::collection::vec((0u8..3, 0u64..40, 0u64..12), 1..80)) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (what, slot, span) in ops {
                if what < 2 {
                    ranges.insert(slot);
                    model.insert(slot);
                } else {
                    ranges.remove(slot, slot + span);
                    model.retain(|x| !(slot..=slot + span).contains(x));
                }
                prop_assert_eq!(ranges.count(), model.len() as u64);
                for x in 0..60 {
                    prop_assert_eq!(ranges.contains(x), model.contains(&x));
                }
                let pairs = ranges.to_pairs();
                prop_assert_eq!(Ranges::from_pairs(&pairs), Some(ranges.clone()));
            }
        }
    }

    #[test]
    fn the_last_slot_is_a_slot_and_bad_pairs_are_refused() {
        let mut ranges = Ranges::default();
        ranges.insert(u64::MAX);
        ranges.insert(u64::MAX - 1);
        assert_eq!(ranges.to_pairs(), [(u64::MAX - 1, u64::MAX)]);
        ranges.remove(0, u64::MAX);
        assert_eq!(ranges.count(), 0);
        for bad in [&[(5, 4)][..], &[(0, 4), (5, 6)], &[(0, u64::MAX)], &[(7, 9), (1, 2)]] {
            assert!(Ranges::from_pairs(bad).is_none(), "{bad:?}");
        }
    }
}
