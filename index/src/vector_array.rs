// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Rows of one space, as the bytes of their element type, and the exact scan over them.
//!
//! Invariant: every row comes from [`Space::decode`], so no rank is NaN. Rows of `f32` are normalised
//! under cosine; those of narrower types are as in the file, with the inverse of their length beside them.
//! Bits are filled up with zeroes to whole words. Slots are not known here.
//!
//! Rows are in memory, or in the pages of a blob. What is in pages may turn out not to be what was
//! written. Functions that tell it take an epoch or return an option or a result; the others are for rows in
//! memory, and for whoever has called [`VectorArray::verify`].

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    sync::Arc,
};

use zerocopy::{FromBytes, IntoBytes};

use crate::{
    distance::Ranker,
    error::{IndexError, Result},
    store::pages::Pages,
    types::{Element, Metric},
    vector::{Row, Space, decode_numbers},
};

// Numbers are used where they lie, in memory as in the store.
const _: () = assert!(cfg!(target_endian = "little"), "the index needs a little-endian machine");

/// Rows of `width` bytes each.
#[derive(Clone)]
pub(crate) struct VectorArray {
    pub metric: Metric,
    element: Element,
    width: usize,
    data: Vec<u8>,
    /// The inverse of each row's length; empty unless the space needs it.
    inverse: Vec<f32>,
    /// Where the rows are instead of in memory.
    stored: Option<Stored>,
}

/// Rows in a blob: from byte `at` on, and then the inverses of their lengths.
#[derive(Clone)]
struct Stored {
    pages: Arc<Pages>,
    rows: usize,
    at: usize,
}

/// Bytes of a row in an array.
fn row_bytes(space: Space) -> usize {
    match space.element {
        Element::Bit => space.vector_bytes().next_multiple_of(8),
        _ => space.vector_bytes(),
    }
}

/// Whether the inverse of each row's length is kept.
fn has_lengths(space: Space) -> bool {
    space.metric == Metric::Cosine && space.element != Element::F32
}

impl VectorArray {
    pub(crate) fn new(space: Space) -> Self {
        Self {
            metric: space.metric,
            element: space.element,
            width: row_bytes(space),
            data: Vec::new(),
            inverse: Vec::new(),
            stored: None,
        }
    }

    /// Rows in pages, which reach as far as [`Self::stored_bytes`] says.
    pub(crate) fn stored(space: Space, rows: usize, pages: Arc<Pages>, at: usize) -> Self {
        Self { stored: Some(Stored { pages, rows, at }), ..Self::new(space) }
    }

    pub(crate) fn len(&self) -> usize {
        self.stored.as_ref().map_or(self.data.len() / self.width, |stored| stored.rows)
    }

    /// See [`Pages::epoch`].
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        self.stored.as_ref().map_or(1, |stored| stored.pages.epoch())
    }

    /// Whether a row may be believed, in this epoch.
    #[inline]
    fn check(&self, row: usize, epoch: u32) -> bool {
        let Some(Stored { pages, rows, at }) = &self.stored else { return true };
        let from = at + row * self.width;
        let lengths = at + rows * self.width + row * 4;
        pages.check(from, from + self.width, epoch)
            && (!self.has_lengths() || pages.check(lengths, lengths + 4, epoch))
    }

    /// Verifies all rows; the epoch in which they may be believed.
    pub(crate) fn verify(&self) -> Result<u32> {
        let what = || format!("the vectors of a segment of {}", self.len());
        self.stored.as_ref().map_or(Ok(1), |stored| stored.pages.verify(&what()))
    }

    /// The first of these rows that cannot be read as it was written.
    pub(crate) fn first_lost(&self, mut rows: impl Iterator<Item = usize>) -> Option<usize> {
        let epoch = self.epoch();
        // After a fault, pages are verified again when they are used.
        rows.find(|&row| !self.check(row, epoch))
    }

    pub(crate) fn is_bits(&self) -> bool {
        self.element == Element::Bit
    }

    /// A row's bytes.
    #[inline]
    pub(crate) fn raw(&self, row: usize) -> &[u8] {
        if let Some(Stored { pages, at, .. }) = &self.stored {
            return &pages.contents()[at + row * self.width..][..self.width];
        }
        &self.data[row * self.width..][..self.width]
    }

    /// Asks for a row's bytes, so that reading them a little later does not wait.
    #[inline]
    pub(crate) fn prefetch(&self, row: usize) {
        crate::distance::prefetch(self.raw(row));
    }

    /// The inverse of a row's length, or 1.
    #[inline]
    fn inverse(&self, row: usize) -> f32 {
        if !self.has_lengths() {
            return 1.0;
        }
        if let Some(Stored { pages, rows, at }) = &self.stored {
            let at = at + rows * self.width + row * 4;
            let bytes = pages.contents().get(at..).and_then(|bytes| bytes.first_chunk::<4>());
            return bytes.map_or(1.0, |bytes| f32::from_le_bytes(*bytes));
        }
        self.inverse.get(row).copied().unwrap_or(1.0)
    }

    /// A row as numbers, normalised under cosine; empty if it is bits.
    pub(crate) fn numbers(&self, row: usize) -> Cow<'_, [f32]> {
        let raw = self.raw(row);
        if self.element == Element::F32
            && let Ok(numbers) = <[f32]>::ref_from_bytes(raw)
        {
            return Cow::Borrowed(numbers);
        }
        let mut numbers = decode_numbers(self.element, raw);
        if self.has_lengths() {
            let inverse = self.inverse(row);
            for x in &mut numbers {
                *x *= inverse;
            }
        }
        Cow::Owned(numbers)
    }

    /// A row as words of bits; of bits only.
    pub(crate) fn bits(&self, row: usize) -> Vec<u64> {
        let words = self.raw(row).as_chunks::<8>().0;
        words.iter().map(|word| u64::from_le_bytes(*word)).collect()
    }

    /// A row as a query.
    pub(crate) fn get(&self, row: usize) -> Row {
        if self.is_bits() {
            Row::Bits(self.bits(row))
        } else {
            Row::Numbers(self.numbers(row).into_owned())
        }
    }

    /// A row as a query, if it can be read as it was written.
    pub(crate) fn get_checked(&self, row: usize) -> Option<Row> {
        let epoch = self.epoch();
        let content = self.check(row, epoch).then(|| self.get(row))?;
        (self.epoch() == epoch).then_some(content)
    }

    /// Whether a row is this one, bit for bit: a write that is repeated changes nothing, and -0.0 is not 0.0. A
    /// row that cannot be read is not the same: it is replaced by what is written.
    pub(crate) fn same(&self, row: usize, other: &Row) -> bool {
        let epoch = self.epoch();
        let own = self.raw(row);
        let same = match other {
            Row::Numbers(other) => own == other.as_bytes(),
            Row::Bits(other) => own == other.as_bytes(),
            Row::Narrow { bytes, .. } => own == bytes.as_slice(),
        };
        same && self.check(row, epoch) && self.epoch() == epoch
    }

    /// Whether two rows are the same, bit for bit.
    pub(crate) fn same_rows(&self, a: usize, b: usize) -> bool {
        self.raw(a) == self.raw(b)
    }

    /// Equal rows have equal fingerprints.
    pub(crate) fn fingerprint(&self, row: usize) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.raw(row).hash(&mut hasher);
        hasher.finish()
    }

    /// The bytes of a row of this array's space, and the inverse of its length.
    fn parts<'a>(&self, row: &'a Row) -> (&'a [u8], f32) {
        let (bytes, inverse) = match row {
            Row::Numbers(numbers) => (numbers.as_bytes(), 1.0),
            Row::Bits(words) => (words.as_bytes(), 1.0),
            Row::Narrow { bytes, inverse } => (bytes.as_slice(), *inverse),
        };
        debug_assert_eq!(bytes.len(), self.width, "a row of another space");
        (bytes, inverse)
    }

    fn has_lengths(&self) -> bool {
        self.metric == Metric::Cosine && self.element != Element::F32
    }

    /// Adds a row; to rows in memory, as everything that changes them.
    pub(crate) fn push(&mut self, row: &Row) {
        debug_assert!(self.stored.is_none(), "rows in a blob do not change");
        let (bytes, inverse) = self.parts(row);
        self.data.extend_from_slice(bytes);
        if self.has_lengths() {
            self.inverse.push(inverse);
        }
    }

    pub(crate) fn push_from(&mut self, other: &Self, row: usize) {
        self.data.extend_from_slice(other.raw(row));
        if self.has_lengths() {
            self.inverse.push(other.inverse(row));
        }
    }

    /// The same, if the row can be read as it was written.
    pub(crate) fn push_checked(&mut self, other: &Self, row: usize) -> Result<()> {
        let epoch = other.epoch();
        if other.check(row, epoch) {
            let before = self.len();
            self.push_from(other, row);
            if other.epoch() == epoch {
                return Ok(());
            }
            self.data.truncate(before * self.width);
            self.inverse.truncate(before);
        }
        Err(IndexError::Damaged("a stored vector is not what was written".into()))
    }

    pub(crate) fn set(&mut self, at: usize, row: &Row) {
        let (bytes, inverse) = self.parts(row);
        self.data[at * self.width..][..self.width].copy_from_slice(bytes);
        if let Some(own) = self.inverse.get_mut(at) {
            *own = inverse;
        }
    }

    /// Removes a row and puts the last one in its place.
    pub(crate) fn swap_remove(&mut self, row: usize) {
        let last = self.data.len() - self.width;
        self.data.copy_within(last.., row * self.width);
        self.data.truncate(last);
        if self.has_lengths() {
            self.inverse.swap_remove(row);
        }
    }

    pub(crate) fn reserve_exact(&mut self, rows: usize) {
        self.data.reserve_exact(rows * self.width);
        if self.has_lengths() {
            self.inverse.reserve_exact(rows);
        }
    }

    /// Resident bytes.
    pub(crate) fn bytes(&self) -> usize {
        let pages = self.stored.as_ref().map_or(0, |stored| stored.pages.bytes());
        pages + self.data.capacity() + self.inverse.capacity() * 4
    }

    /// Whether the rows are in pages of a file, and not in memory.
    pub(crate) fn is_mapped(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.pages.is_mapped())
    }

    /// What compares the rows with a query.
    pub(crate) fn ranker(&self, query: &Row) -> Ranker {
        match query {
            Row::Numbers(query) => Ranker::numbers(self.metric, self.element, query),
            Row::Bits(query) => Ranker::bits(query),
            Row::Narrow { bytes, inverse } => {
                let mut query = decode_numbers(self.element, bytes);
                for x in &mut query {
                    *x *= inverse;
                }
                Ranker::numbers(self.metric, self.element, &query)
            }
        }
    }

    /// The rank of a row.
    #[inline]
    pub(crate) fn rank_by(&self, row: usize, ranker: &Ranker) -> f32 {
        ranker.rank(self.raw(row), self.inverse(row))
    }

    /// The rank of a row, if it may be believed in this epoch.
    #[inline]
    pub(crate) fn rank_checked(&self, row: usize, ranker: &Ranker, epoch: u32) -> Option<f32> {
        self.check(row, epoch).then(|| self.rank_by(row, ranker))
    }

    /// The rank of a row and a query of the same space; for many rows, make a [`Self::ranker`].
    #[cfg(test)]
    pub(crate) fn rank(&self, row: usize, query: &Row) -> f32 {
        self.rank_by(row, &self.ranker(query))
    }

    /// Calls `each(row, rank)` for every row, in order.
    pub(crate) fn scan(&self, query: &Row, mut each: impl FnMut(usize, f32)) {
        let ranker = self.ranker(query);
        for row in 0..self.len() {
            each(row, self.rank_by(row, &ranker));
        }
    }

    /// Bytes that [`Self::write`] produces for `rows` rows of a space.
    pub(crate) fn stored_bytes(space: Space, rows: u64) -> Option<u64> {
        let row = row_bytes(space) + if has_lengths(space) { 4 } else { 0 };
        rows.checked_mul(row as u64)
    }

    /// Writes the rows, which are in memory, and the inverses of their lengths.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        debug_assert!(self.stored.is_none(), "rows in a blob are not written again");
        out.write_all(&self.data)?;
        out.write_all(self.inverse.as_bytes())
    }
}
