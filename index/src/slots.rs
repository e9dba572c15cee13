// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The slots of a segment's rows, in ascending order: as runs of neighbours where that is smaller.
//!
//! A file that was written from its beginning to its end has one run, whatever its length.
//!
//! Invariant: the slots ascend strictly, and there are less than 2^32.

/// The slots of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slots {
    /// The first slot of each run and its row, and the number of all rows.
    Runs { runs: Vec<(u64, u32)>, rows: usize },
    /// Every slot.
    List(Vec<u64>),
}

impl Slots {
    /// `None` if the slots do not ascend.
    pub(crate) fn new(slots: Vec<u64>) -> Option<Self> {
        if !slots.is_sorted_by(|a, b| a < b) {
            return None;
        }
        let mut runs: Vec<(u64, u32)> = Vec::new();
        for (row, &slot) in slots.iter().enumerate() {
            let next = runs.last().map(|&(first, start)| first + (row as u64 - u64::from(start)));
            if next != Some(slot) {
                runs.push((slot, row as u32));
                // A run takes as much room as two slots.
                if runs.len() * 2 > slots.len().max(2) {
                    return Some(Self::List(slots));
                }
            }
        }
        runs.shrink_to_fit();
        Some(Self::Runs { runs, rows: slots.len() })
    }

    /// `None` if these are not the runs of so many rows.
    pub(crate) fn from_runs(runs: Vec<(u64, u32)>, rows: usize) -> Option<Self> {
        let ends = runs.iter().skip(1).map(|&(_, row)| row).chain([u32::try_from(rows).ok()?]);
        let mut row = 0;
        // The least slot that the next run may begin with.
        let mut least = Some(0u64);
        for (&(slot, start), end) in runs.iter().zip(ends) {
            if start != row || end <= start || slot < least? {
                return None;
            }
            let last = slot.checked_add(u64::from(end - start - 1))?;
            least = last.checked_add(1);
            row = end;
        }
        (row as usize == rows).then_some(Self::Runs { runs, rows })
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Runs { rows, .. } => *rows,
            Self::List(slots) => slots.len(),
        }
    }

    /// The slot of a row.
    pub(crate) fn at(&self, row: usize) -> u64 {
        match self {
            Self::Runs { runs, .. } => {
                let run = runs.partition_point(|&(_, start)| start as usize <= row);
                let (slot, start) = runs[run - 1];
                slot + (row as u64 - u64::from(start))
            }
            Self::List(slots) => slots[row],
        }
    }

    /// How many rows have a smaller slot.
    pub(crate) fn before(&self, slot: u64) -> usize {
        match self {
            Self::Runs { runs, rows } => {
                let run = runs.partition_point(|&(first, _)| first < slot);
                let Some(&(first, start)) = run.checked_sub(1).and_then(|run| runs.get(run)) else {
                    return 0;
                };
                let end = runs.get(run).map_or(*rows, |&(_, next)| next as usize);
                let inside = usize::try_from(slot - first).unwrap_or(usize::MAX);
                end.min((start as usize).saturating_add(inside))
            }
            Self::List(slots) => slots.partition_point(|&other| other < slot),
        }
    }

    /// The row of a slot.
    pub(crate) fn find(&self, slot: u64) -> Option<usize> {
        let row = self.before(slot);
        (row < self.len() && self.at(row) == slot).then_some(row)
    }

    /// Resident bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Runs { runs, .. } => runs.capacity() * 16,
            Self::List(slots) => slots.capacity() * 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(gaps in prop::collection::vec(
            prop_oneof![8 => Just(1u64), 1 => 2u64..9, 1 => Just(1u64 << 60)], 0..60))
        {
            let mut next = 0u64;
            let list: Vec<u64> = gaps.iter().map_while(|gap| {
                next = next.checked_add(*gap)?;
                Some(next)
            }).collect();
            let slots = Slots::new(list.clone()).unwrap();
            prop_assert_eq!(slots.len(), list.len());
            for (row, &slot) in list.iter().enumerate() {
                prop_assert_eq!(slots.at(row), slot);
                for near in [slot - 1, slot, slot.saturating_add(1), u64::MAX] {
                    let before = list.partition_point(|&other| other < near);
                    prop_assert_eq!(slots.before(near), before);
                    prop_assert_eq!(slots.find(near), list.binary_search(&near).ok());
                }
            }
            if let Slots::Runs { runs, rows } = &slots {
                prop_assert_eq!(Slots::from_runs(runs.clone(), *rows), Some(slots.clone()));
            }
        }
    }

    #[test]
    fn what_does_not_ascend_is_refused_and_a_whole_file_is_one_run() {
        assert!(Slots::new(vec![1, 1]).is_none() && Slots::new(vec![2, 1]).is_none());
        let whole = Slots::new((0..10_000).collect()).unwrap();
        assert!(whole.bytes() <= 64, "{whole:?}");
        assert!(matches!(Slots::new(vec![1, 5, 9, 12]).unwrap(), Slots::List(_)));
        for (runs, rows) in [
            (vec![(0, 0), (3, 4)], 6),
            (vec![(0, 1)], 2),
            (vec![(5, 0), (5, 1)], 2),
            (vec![(0, 0), (9, 2), (12, 2)], 4),
            (vec![(u64::MAX, 0)], 2),
            (vec![], 1),
            (vec![(0, 0)], 0),
        ] {
            assert!(Slots::from_runs(runs.clone(), rows).is_none(), "{runs:?} {rows}");
        }
        assert!(Slots::from_runs(vec![(u64::MAX, 0)], 1).is_some());
    }
}
