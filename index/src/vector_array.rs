// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Rows of one space in one piece of memory, and the exact scan over them.
//!
//! Invariant: every row comes from [`Space::decode`], so no rank is NaN. Rows are held as `f32`,
//! normalised under cosine, or as `u64` words of bits. Slots are not known here.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
};

use crate::{
    distance,
    types::{Element, Metric},
    vector::{Row, Space},
};

/// Bytes converted at a time when rows are written or read.
const CHUNK: usize = 1 << 16;

/// Rows of `width` elements each.
#[derive(Clone)]
pub(crate) struct VectorArray {
    pub metric: Metric,
    width: usize,
    data: Data,
}

#[derive(Clone)]
enum Data {
    Numbers(Vec<f32>),
    Bits(Vec<u64>),
}

impl VectorArray {
    pub(crate) fn new(space: Space) -> Self {
        let dim = space.dim as usize;
        let (width, data) = match space.element {
            Element::Bit => (dim.div_ceil(64), Data::Bits(Vec::new())),
            _ => (dim, Data::Numbers(Vec::new())),
        };
        Self { metric: space.metric, width, data }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.data {
            Data::Numbers(data) => data.len() / self.width,
            Data::Bits(data) => data.len() / self.width,
        }
    }

    pub(crate) fn is_bits(&self) -> bool {
        matches!(self.data, Data::Bits(_))
    }

    pub(crate) fn numbers(&self, row: usize) -> &[f32] {
        match &self.data {
            Data::Numbers(data) => &data[row * self.width..][..self.width],
            Data::Bits(_) => &[],
        }
    }

    pub(crate) fn bits(&self, row: usize) -> &[u64] {
        match &self.data {
            Data::Bits(data) => &data[row * self.width..][..self.width],
            Data::Numbers(_) => &[],
        }
    }

    pub(crate) fn get(&self, row: usize) -> Row {
        match &self.data {
            Data::Numbers(_) => Row::Numbers(self.numbers(row).to_vec()),
            Data::Bits(_) => Row::Bits(self.bits(row).to_vec()),
        }
    }

    /// Whether a row is this one, bit for bit: a write that is repeated changes nothing, and -0.0 is not 0.0.
    pub(crate) fn same(&self, row: usize, other: &Row) -> bool {
        match other {
            Row::Numbers(other) => {
                let own = self.numbers(row);
                own.len() == other.len()
                    && own.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            Row::Bits(other) => self.bits(row) == other.as_slice(),
        }
    }

    /// Equal rows have equal fingerprints.
    pub(crate) fn fingerprint(&self, row: usize) -> u64 {
        let mut hasher = DefaultHasher::new();
        match &self.data {
            Data::Numbers(_) => {
                self.numbers(row).iter().for_each(|x| x.to_bits().hash(&mut hasher));
            }
            Data::Bits(_) => self.bits(row).hash(&mut hasher),
        }
        hasher.finish()
    }

    pub(crate) fn push(&mut self, row: &Row) {
        match (&mut self.data, row) {
            (Data::Numbers(data), Row::Numbers(row)) => data.extend_from_slice(row),
            (Data::Bits(data), Row::Bits(row)) => data.extend_from_slice(row),
            _ => debug_assert!(false, "a row of another space"),
        }
    }

    pub(crate) fn push_from(&mut self, other: &Self, row: usize) {
        match &mut self.data {
            Data::Numbers(data) => data.extend_from_slice(other.numbers(row)),
            Data::Bits(data) => data.extend_from_slice(other.bits(row)),
        }
    }

    pub(crate) fn set(&mut self, at: usize, row: &Row) {
        let range = at * self.width..(at + 1) * self.width;
        match (&mut self.data, row) {
            (Data::Numbers(data), Row::Numbers(row)) => data[range].copy_from_slice(row),
            (Data::Bits(data), Row::Bits(row)) => data[range].copy_from_slice(row),
            _ => debug_assert!(false, "a row of another space"),
        }
    }

    /// Removes a row and puts the last one in its place.
    pub(crate) fn swap_remove(&mut self, row: usize) {
        fn cut<T: Copy>(data: &mut Vec<T>, row: usize, width: usize) {
            let last = data.len() - width;
            data.copy_within(last.., row * width);
            data.truncate(last);
        }
        match &mut self.data {
            Data::Numbers(data) => cut(data, row, self.width),
            Data::Bits(data) => cut(data, row, self.width),
        }
    }

    pub(crate) fn reserve_exact(&mut self, rows: usize) {
        match &mut self.data {
            Data::Numbers(data) => data.reserve_exact(rows * self.width),
            Data::Bits(data) => data.reserve_exact(rows * self.width),
        }
    }

    /// Resident bytes.
    pub(crate) fn bytes(&self) -> usize {
        match &self.data {
            Data::Numbers(data) => data.capacity() * 4,
            Data::Bits(data) => data.capacity() * 8,
        }
    }

    /// The rank of a row and a query of the same space.
    pub(crate) fn rank(&self, row: usize, query: &Row) -> f32 {
        match query {
            Row::Numbers(query) => distance::rank_numbers(self.metric, self.numbers(row), query),
            Row::Bits(query) => distance::hamming(self.bits(row), query) as f32,
        }
    }

    /// Calls `each(row, rank)` for every row, in order.
    pub(crate) fn scan(&self, query: &Row, mut each: impl FnMut(usize, f32)) {
        match (&self.data, query) {
            (Data::Numbers(data), Row::Numbers(query)) => {
                for (row, values) in data.chunks_exact(self.width).enumerate() {
                    each(row, distance::rank_numbers(self.metric, values, query));
                }
            }
            (Data::Bits(data), Row::Bits(query)) => {
                for (row, words) in data.chunks_exact(self.width).enumerate() {
                    each(row, distance::hamming(words, query) as f32);
                }
            }
            _ => debug_assert!(false, "a query of another space"),
        }
    }

    /// Bytes that [`Self::write`] produces for `rows` rows of a space.
    pub(crate) fn stored_bytes(space: Space, rows: u64) -> Option<u64> {
        let dim = u64::from(space.dim);
        let row = if space.element == Element::Bit { dim.div_ceil(64) * 8 } else { dim * 4 };
        row.checked_mul(rows)
    }

    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.data {
            Data::Numbers(data) => write_words(out, data, f32::to_le_bytes),
            Data::Bits(data) => write_words(out, data, u64::to_le_bytes),
        }
    }

    pub(crate) fn read(space: Space, rows: usize, from: &mut dyn Read) -> io::Result<Self> {
        let mut this = Self::new(space);
        let words = rows.saturating_mul(this.width);
        match &mut this.data {
            Data::Numbers(data) => read_words(from, data, words, f32::from_le_bytes)?,
            Data::Bits(data) => read_words(from, data, words, u64::from_le_bytes)?,
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
