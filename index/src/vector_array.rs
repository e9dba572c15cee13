// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Rows of one space, as the bytes of their element type, and the exact scan over them.
//!
//! Invariant: every row comes from [`Space::decode`], so no rank is NaN. Rows of `f32` are normalised
//! under cosine; those of narrower types are as in the file, with the inverse of their length beside them.
//! Bits are filled up with zeroes to whole words. Slots are not known here.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
};

use zerocopy::{FromBytes, IntoBytes};

use crate::{
    distance::Ranker,
    types::{Element, Metric},
    vector::{Row, Space, decode_numbers},
};

/// Bytes converted at a time when rows are written or read.
const CHUNK: usize = 1 << 16;

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
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len() / self.width
    }

    pub(crate) fn is_bits(&self) -> bool {
        self.element == Element::Bit
    }

    /// A row's bytes.
    #[inline]
    pub(crate) fn raw(&self, row: usize) -> &[u8] {
        &self.data[row * self.width..][..self.width]
    }

    /// The inverse of a row's length, or 1.
    #[inline]
    fn inverse(&self, row: usize) -> f32 {
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
        if let Some(&inverse) = self.inverse.get(row) {
            numbers.iter_mut().for_each(|x| *x *= inverse);
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

    /// Whether a row is this one, bit for bit: a write that is repeated changes nothing, and -0.0 is not 0.0.
    pub(crate) fn same(&self, row: usize, other: &Row) -> bool {
        let own = self.raw(row);
        match other {
            Row::Numbers(other) => own == other.as_bytes(),
            Row::Bits(other) => own == other.as_bytes(),
            Row::Narrow { bytes, .. } => own == bytes.as_slice(),
        }
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

    pub(crate) fn push(&mut self, row: &Row) {
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
        self.data.capacity() + self.inverse.capacity() * 4
    }

    /// What compares the rows with a query.
    pub(crate) fn ranker(&self, query: &Row) -> Ranker {
        match query {
            Row::Numbers(query) => Ranker::numbers(self.metric, self.element, query),
            Row::Bits(query) => Ranker::bits(query),
            Row::Narrow { bytes, inverse } => {
                let mut query = decode_numbers(self.element, bytes);
                query.iter_mut().for_each(|x| *x *= inverse);
                Ranker::numbers(self.metric, self.element, &query)
            }
        }
    }

    /// The rank of a row.
    #[inline]
    pub(crate) fn rank_by(&self, row: usize, ranker: &Ranker) -> f32 {
        ranker.rank(self.raw(row), self.inverse(row))
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

    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.data)?;
        out.write_all(self.inverse.as_bytes())
    }

    pub(crate) fn read(space: Space, rows: usize, from: &mut dyn Read) -> io::Result<Self> {
        let mut this = Self::new(space);
        let no_memory = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        let bytes = rows.checked_mul(this.width).ok_or(io::ErrorKind::OutOfMemory)?;
        this.data.try_reserve_exact(bytes).map_err(no_memory)?;
        this.data.resize(bytes, 0);
        from.read_exact(&mut this.data)?;
        if this.has_lengths() {
            read_words(from, &mut this.inverse, rows, f32::from_le_bytes)?;
        }
        Ok(this)
    }
}

/// Writes words in little-endian order, a chunk at a time.
pub(crate) fn write_words<T: Copy, const N: usize>(
    out: &mut dyn Write,
    words: &[T],
    encode: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK);
    for chunk in words.chunks(CHUNK / N) {
        buffer.clear();
        for &word in chunk {
            buffer.extend_from_slice(&encode(word));
        }
        out.write_all(&buffer)?;
    }
    Ok(())
}

/// Reads exactly `count` words of what [`write_words`] wrote.
pub(crate) fn read_words<T, const N: usize>(
    from: &mut dyn Read,
    words: &mut Vec<T>,
    count: usize,
    decode: impl Fn([u8; N]) -> T,
) -> io::Result<()> {
    words.try_reserve_exact(count).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mut buffer = vec![0u8; CHUNK];
    let mut left = count;
    while left > 0 {
        let take = left.min(CHUNK / N);
        let bytes = &mut buffer[..take * N];
        from.read_exact(bytes)?;
        let (whole, _) = bytes.as_chunks::<N>();
        words.extend(whole.iter().map(|&word| decode(word)));
        left -= take;
    }
    Ok(())
}
