// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A set of slots, kept as ranges: a million neighbouring slots cost one entry.
//!
//! Invariant: the ranges are not empty, and neither overlap nor touch.

use std::collections::BTreeMap;

/// A set of slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotSet {
    // First slot of a range to its last one, so that u64::MAX can be a member.
    ranges: BTreeMap<u64, u64>,
    count: u64,
}

impl SlotSet {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn contains(&self, slot: u64) -> bool {
        self.ranges.range(..=slot).next_back().is_some_and(|(_, &last)| slot <= last)
    }

    pub(crate) fn insert(&mut self, slot: u64) {
        if self.contains(slot) {
            return;
        }
        let (mut first, mut last) = (slot, slot);
        if let Some((&before, &end)) = self.ranges.range(..slot).next_back()
            && end.checked_add(1) == Some(slot)
        {
            first = before;
        }
        if let Some(next) = slot.checked_add(1)
            && let Some(end) = self.ranges.remove(&next)
        {
            last = end;
        }
        self.ranges.insert(first, last);
        self.count += 1;
    }

    /// Removes `first..=last`.
    pub(crate) fn remove(&mut self, first: u64, last: u64) {
        if self.ranges.is_empty() || first > last {
            return;
        }
        let from = self.ranges.range(..=first).next_back().map_or(first, |(&start, _)| start);
        let touched: Vec<(u64, u64)> = self
            .ranges
            .range(from..=last)
            .filter(|&(_, &end)| end >= first)
            .map(|(&start, &end)| (start, end))
            .collect();
        for (start, end) in touched {
            self.ranges.remove(&start);
            if let Some(before) = first.checked_sub(1)
                && start <= before
            {
                self.ranges.insert(start, before);
            }
            if let Some(after) = last.checked_add(1)
                && after <= end
            {
                self.ranges.insert(after, end);
            }
            self.count -= end.min(last) - start.max(first) + 1;
        }
    }

    pub(crate) fn to_pairs(&self) -> Vec<(u64, u64)> {
        self.ranges.iter().map(|(&first, &last)| (first, last)).collect()
    }

    /// `None` if the pairs break the invariant.
    pub(crate) fn from_pairs(pairs: &[(u64, u64)]) -> Option<Self> {
        let mut slots = Self::default();
        // The least slot that the next range may begin with.
        let mut least = Some(0u64);
        for &(first, last) in pairs {
            if first > last || first < least? {
                return None;
            }
            least = last.checked_add(2);
            slots.count = slots.count.checked_add((last - first).checked_add(1)?)?;
            slots.ranges.insert(first, last);
        }
        Some(slots)
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
            let mut slots = SlotSet::default();
            let mut model = BTreeSet::new();
            for (what, slot, more) in ops {
                if what < 2 {
                    slots.insert(slot);
                    model.insert(slot);
                } else {
                    slots.remove(slot, slot + more);
                    model.retain(|x| !(slot..=slot + more).contains(x));
                }
                prop_assert_eq!(slots.count(), model.len() as u64);
                for x in 0..60 {
                    prop_assert_eq!(slots.contains(x), model.contains(&x));
                }
                let pairs = slots.to_pairs();
                prop_assert_eq!(SlotSet::from_pairs(&pairs), Some(slots.clone()));
            }
        }
    }

    #[test]
    fn the_last_slot_is_a_slot_and_bad_pairs_are_refused() {
        let mut slots = SlotSet::default();
        slots.insert(u64::MAX);
        slots.insert(u64::MAX - 1);
        assert_eq!(slots.to_pairs(), [(u64::MAX - 1, u64::MAX)]);
        slots.remove(0, u64::MAX);
        assert_eq!(slots.count(), 0);
        for bad in [&[(5, 4)][..], &[(0, 4), (5, 6)], &[(0, u64::MAX)], &[(7, 9), (1, 2)]] {
            assert!(SlotSet::from_pairs(bad).is_none(), "{bad:?}");
        }
    }
}
