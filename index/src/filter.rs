// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which rows may be found: a caller's filter, and the set of rows that pass it, one bit for each.
//!
//! A filter knows slots; rows of segments are numbered otherwise. It is asked for windows of neighbouring
//! slots, which are bounded, so that a file with a slot at 2^60 costs no more memory than its rows.
//!
//! Invariant: the bits behind the last row are zero.

use std::ops::Range;

use crate::types::{FileId, Slot};

/// Slots of the largest window that a filter is asked for.
pub const WINDOW: usize = 1 << 16;

/// Rows, one bit for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    len: usize,
}

impl Bitmap {
    /// So many rows; none of them is in it.
    #[must_use]
    pub fn none(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    /// So many rows, all of which are in it.
    #[must_use]
    pub fn all(len: usize) -> Self {
        let mut this = Self { words: vec![u64::MAX; len.div_ceil(64)], len };
        this.clear_end();
        this
    }

    /// So many rows, those for which `is` says so.
    #[must_use]
    pub fn of(len: usize, mut is: impl FnMut(usize) -> bool) -> Self {
        let word = |at: usize, is: &mut dyn FnMut(usize) -> bool| {
            (at..len.min(at + 64)).fold(0, |word, row| word | u64::from(is(row)) << (row - at))
        };
        Self { words: (0..len).step_by(64).map(|at| word(at, &mut is)).collect(), len }
    }

    fn clear_end(&mut self) {
        if !self.len.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << (self.len % 64)) - 1;
        }
    }

    /// How many rows there are, in it or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many rows are in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether a row is in it; one past the end is not.
    #[inline]
    #[must_use]
    pub fn contains(&self, row: usize) -> bool {
        self.words.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Adds rows; those past the end are ignored.
    pub fn insert_range(&mut self, rows: Range<usize>) {
        let end = rows.end.min(self.len);
        let mut row = rows.start;
        while row < end {
            let upto = end.min((row / 64 + 1) * 64);
            let bits =
                if upto - row == 64 { u64::MAX } else { ((1 << (upto - row)) - 1) << (row % 64) };
            self.words[row / 64] |= bits;
            row = upto;
        }
    }

    /// Keeps what is in the other one too, which has as many rows.
    pub fn and(&mut self, other: &Self) {
        debug_assert_eq!(self.len, other.len);
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
    }

    /// Adds what is in the other one, which has as many rows.
    pub fn or(&mut self, other: &Self) {
        debug_assert_eq!(self.len, other.len);
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    /// Exchanges the rows that are in it and those that are not.
    pub fn not(&mut self) {
        self.words.iter_mut().for_each(|word| *word = !*word);
        self.clear_end();
    }

    /// The rows in it, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit)
            })
        })
    }

    /// Removes the rows whose bits are set in these words.
    pub(crate) fn remove_words(&mut self, words: &[u64]) {
        self.words.iter_mut().zip(words).for_each(|(word, gone)| *word &= !gone);
    }

    /// Adds the rows of another one as rows from `first` on.
    fn append(&mut self, first: usize, rows: &Self) {
        if first.is_multiple_of(64) && rows.len <= self.len.saturating_sub(first) {
            let at = first / 64;
            self.words[at..].iter_mut().zip(&rows.words).for_each(|(to, from)| *to |= from);
        } else {
            rows.iter().for_each(|row| self.insert_range(first + row..first + row + 1));
        }
    }
}

/// What a search may find. It is asked once for every row of a search, not once for every query.
pub trait Filter: Sync {
    /// The slots of `slots`, at most [`WINDOW`], that may be found: as many rows as there are slots.
    fn passing(&self, file: FileId, slots: Range<u64>) -> Bitmap;
}

/// The rows with these slots that pass; slots that ascend are the fastest.
pub(crate) fn passing(
    filter: &dyn Filter,
    file: u64,
    rows: usize,
    slot: impl Fn(usize) -> u64,
) -> Bitmap {
    let mut all = Bitmap::none(rows);
    let mut first = 0;
    while first < rows {
        let start = slot(first);
        let within = |row: usize| {
            let at = slot(row).checked_sub(start)?;
            usize::try_from(at).ok().filter(|at| *at < WINDOW)
        };
        // As many as lie in one window, and whether they lie side by side in it.
        let mut end = first + 1;
        let (mut width, mut dense) = (1, true);
        while end < rows
            && end - first < WINDOW
            && let Some(at) = within(end)
        {
            dense &= at == end - first;
            width = width.max(at + 1);
            end += 1;
        }
        let Some(last) = start.checked_add(width as u64 - 1) else { break };
        // A window that ends with the last slot there is has no end that is a number.
        let passed = filter.passing(FileId(file), start..last.saturating_add(1));
        if dense {
            all.append(first, &passed);
        } else {
            let one = Bitmap::of(end - first, |row| {
                within(first + row).is_some_and(|at| passed.contains(at))
            });
            all.append(first, &one);
        }
        first = end;
    }
    all
}

/// A filter for tests and examples: the slots that a function says pass.
impl<F: Fn(FileId, Slot) -> bool + Sync> Filter for F {
    fn passing(&self, file: FileId, slots: Range<u64>) -> Bitmap {
        Bitmap::of((slots.end - slots.start) as usize, |at| {
            self(file, Slot(slots.start + at as u64))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bitmap_is_a_set_of_rows(bits in prop::collection::vec(any::<bool>(), 0..200), at in 0usize..200, n in 0usize..200) {
            let map = Bitmap::of(bits.len(), |row| bits[row]);
            let rows: Vec<usize> = (0..bits.len()).filter(|row| bits[*row]).collect();
            prop_assert_eq!(map.iter().collect::<Vec<_>>(), rows.clone());
            prop_assert_eq!(map.count(), rows.len());
            prop_assert!((0..300).all(|row| map.contains(row) == rows.contains(&row)));
            let mut other = map.clone();
            other.not();
            prop_assert_eq!(other.count(), bits.len() - rows.len());
            let mut both = map.clone();
            both.and(&other);
            prop_assert_eq!(both, Bitmap::none(bits.len()));
            other.or(&map);
            prop_assert_eq!(other, Bitmap::all(bits.len()));
            let mut ranged = map.clone();
            ranged.insert_range(at..at + n);
            let expected = Bitmap::of(bits.len(), |row| bits[row] || (at..at + n).contains(&row));
            prop_assert_eq!(ranged, expected);
        }

        #[test]
        fn windows_do_not_change_which_rows_pass(
            slots in prop::collection::vec(prop_oneof![0u64..300, 60_000u64..140_000, Just(u64::MAX - 1), Just(1 << 60)], 0..200),
            sorted: bool, part in 1u64..5,
        ) {
            let mut slots = slots;
            if sorted {
                slots.sort_unstable();
                slots.dedup();
            }
            let is = |_: FileId, slot: Slot| slot.0 % 5 < part;
            let found = passing(&is, 1, slots.len(), |row| slots[row]);
            prop_assert_eq!(found, Bitmap::of(slots.len(), |row| slots[row] % 5 < part));
        }
    }
}
