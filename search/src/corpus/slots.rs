// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How a vector file's bytes, extents and slots relate. Pure arithmetic.

use super::intervals::IntervalSet;
use std::ops::Range;
use vexfs::{Mapping, MappingKind, VectorLayout};

/// Where the rows of a file lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Bytes before the first record.
    pub header: u64,
    /// Bytes from one record to the next; not 0.
    pub stride: u64,
    /// Bytes from a record's start to its vector.
    pub offset: u64,
    /// Bytes of a vector.
    pub vector: u64,
    /// Most rows: what follows them is something else.
    pub limit: u64,
    /// What the first four bytes of every record are, little-endian, if that is known.
    pub word: Option<u32>,
}

impl Rows {
    /// The rows that the attribute describes, after a header of that many bytes.
    #[must_use]
    pub fn new(layout: &VectorLayout, header: u64) -> Self {
        Self {
            header,
            stride: u64::from(layout.stride).max(1),
            offset: u64::from(layout.offset),
            vector: u64::from(layout.vector_bytes()),
            limit: u64::MAX,
            word: None,
        }
    }

    /// The number of whole records in a file of `size` bytes, and the bytes of the incomplete one after
    /// them.
    #[must_use]
    pub fn count(&self, size: u64) -> (u64, u64) {
        let data = size.saturating_sub(self.header);
        let whole = data / self.stride;
        if whole >= self.limit { (self.limit, 0) } else { (whole, data % self.stride) }
    }

    /// The first of `records`, which begin with record `slot`, that does not begin with the word.
    #[must_use]
    pub fn wrong_word(&self, slot: u64, records: &[u8]) -> Option<u64> {
        let word = self.word?.to_le_bytes();
        let wrong =
            records.chunks_exact(self.stride as usize).position(|r| !r.starts_with(&word))?;
        Some(slot + wrong as u64)
    }

    /// First byte of a record.
    #[must_use]
    pub fn start(&self, slot: u64) -> u64 {
        self.header.saturating_add(slot.saturating_mul(self.stride))
    }

    /// The slots whose vector has a byte in the range.
    #[must_use]
    pub fn touching(&self, bytes: &Range<u64>) -> Range<u64> {
        if bytes.is_empty() || bytes.end <= self.header + self.offset {
            return 0..0;
        }
        // The first whose vector ends past the start.
        let before = self.header + self.offset + self.vector;
        let first = (bytes.start + 1).saturating_sub(before).div_ceil(self.stride);
        let end = (bytes.end - self.header - self.offset).div_ceil(self.stride);
        first..end.max(first)
    }

    /// The slots whose vector lies entirely in the range.
    #[must_use]
    pub fn within(&self, bytes: &Range<u64>) -> Range<u64> {
        let vectors = self.header + self.offset;
        let first = bytes.start.saturating_sub(vectors).div_ceil(self.stride);
        let Some(room) = bytes.end.checked_sub(vectors + self.vector) else { return 0..0 };
        let end = room / self.stride + 1;
        first..end.max(first)
    }
}

/// Consecutive blocks of a file that hold data and lie consecutively on the device; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataExtent {
    /// First block of the file.
    pub start: u64,
    /// Blocks.
    pub count: u64,
    /// First block on the device.
    pub block: u64,
}

impl DataExtent {
    /// The extents among a file's mappings, in order.
    #[must_use]
    pub fn all(mappings: &[Mapping]) -> Vec<Self> {
        let written = |mapping: &Mapping| match mapping.kind {
            MappingKind::Written(block) => {
                Some(Self { start: mapping.start.0, count: mapping.count, block: block.0 })
            }
            MappingKind::Unwritten(_) | MappingKind::Hole => None,
        };
        mappings.iter().filter_map(written).collect()
    }

    /// The block of the file after it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start + self.count
    }
}

/// The bytes of a file that are written, up to its size.
#[must_use]
pub fn written(extents: &[DataExtent], block_shift: u32, size: u64) -> IntervalSet {
    let mut ranges = IntervalSet::default();
    for extent in extents {
        ranges.insert(extent.start << block_shift..extent.end() << block_shift);
    }
    ranges.truncate(size);
    ranges
}

/// Where block `at` of a file lies on the device, and how many blocks its extent has from there on.
fn find(extents: &[DataExtent], at: u64) -> Option<(u64, u64)> {
    let index = extents.partition_point(|e| e.end() <= at);
    let extent = extents.get(index).filter(|e| e.start <= at)?;
    Some((extent.block + (at - extent.start), extent.end() - at))
}

/// The bytes of the file that lie at another place than before, or are new.
#[must_use]
pub fn moved(old: &[DataExtent], new: &[DataExtent], block_shift: u32) -> IntervalSet {
    let mut ranges = IntervalSet::default();
    for extent in new {
        let mut at = extent.start;
        while at < extent.end() {
            let (block, left) = (extent.block + (at - extent.start), extent.end() - at);
            let index = old.partition_point(|e| e.end() <= at);
            let (same, count) = match (find(old, at), old.get(index)) {
                (Some((before, count)), _) => (before == block, count),
                (None, Some(next)) => (false, next.start - at),
                (None, None) => (false, left),
            };
            let count = count.min(left);
            if !same {
                ranges.insert(at << block_shift..(at + count) << block_shift);
            }
            at += count;
        }
    }
    ranges
}

/// Consecutive bytes of a file that lie consecutively on the device, or in a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte on the device; `None` in a hole.
    pub at: Option<u64>,
    /// Bytes.
    pub len: u64,
}

/// The first span of the bytes `range` of a file. It is not empty if the range is not.
#[must_use]
pub fn first_span(extents: &[DataExtent], block_shift: u32, range: &Range<u64>) -> Span {
    let block = range.start >> block_shift;
    let skip = range.start - (block << block_shift);
    let left = range.end.saturating_sub(range.start);
    if let Some((at, count)) = find(extents, block) {
        let len = ((count << block_shift) - skip).min(left);
        return Span { at: Some((at << block_shift) + skip), len };
    }
    let index = extents.partition_point(|e| e.end() <= block);
    let next = extents.get(index).map_or(u64::MAX, |e| e.start << block_shift);
    Span { at: None, len: next.saturating_sub(range.start).min(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vexfs::{BlockNr, FileBlock};

    fn extent(start: u64, count: u64, block: u64) -> DataExtent {
        DataExtent { start, count, block }
    }

    #[test]
    fn only_what_is_written_is_an_extent() {
        let mapping = |start, count, kind| Mapping { start: FileBlock(start), count, kind };
        let mappings = [
            mapping(0, 2, MappingKind::Written(BlockNr(100))),
            mapping(2, 1, MappingKind::Unwritten(BlockNr(102))),
            mapping(3, 5, MappingKind::Hole),
            mapping(8, 1, MappingKind::Written(BlockNr(103))),
        ];
        assert_eq!(DataExtent::all(&mappings), [extent(0, 2, 100), extent(8, 1, 103)]);
    }

    fn list(ranges: &IntervalSet) -> Vec<Range<u64>> {
        ranges.iter().collect()
    }

    #[test]
    fn slots_and_bytes_agree_with_counting_them_one_by_one() {
        for (header, stride, offset, vector) in
            [(0, 8, 0, 8), (128, 8, 0, 8), (80, 12, 4, 8), (7, 20, 3, 11), (0, 4, 1, 1)]
        {
            let rows = Rows { header, stride, offset, vector, limit: u64::MAX, word: None };
            for start in 0..220u64 {
                for end in start..start + 60 {
                    let of = |slot: u64| {
                        let at = header + slot * stride + offset;
                        at..at + vector
                    };
                    let touched: Vec<u64> = (0..100)
                        .filter(|s| of(*s).start < end && of(*s).end > start && start < end)
                        .collect();
                    let inside: Vec<u64> =
                        (0..100).filter(|s| of(*s).start >= start && of(*s).end <= end).collect();
                    let bytes = start..end;
                    assert_eq!(
                        rows.touching(&bytes).collect::<Vec<_>>(),
                        touched,
                        "{rows:?} {bytes:?}"
                    );
                    assert_eq!(
                        rows.within(&bytes).collect::<Vec<_>>(),
                        inside,
                        "{rows:?} {bytes:?}"
                    );
                }
            }
            assert_eq!(rows.count(header + 5 * stride + 3), (5, 3));
            assert_eq!(rows.count(header / 2), (0, 0));
            let limited = Rows { limit: 3, ..rows };
            assert_eq!(limited.count(header + 5 * stride + 3), (3, 0));
            assert_eq!(limited.count(header + 3 * stride), (3, 0));
            assert_eq!(limited.count(header + 2 * stride + 1).0, 2);
        }
    }

    #[test]
    fn moved_bytes_are_those_whose_block_is_another_one() {
        let old = [extent(0, 4, 100), extent(6, 2, 200)];
        assert!(moved(&old, &old, 12).is_empty());
        // Split and extended, but in place.
        let split = [extent(0, 1, 100), extent(1, 3, 101), extent(6, 4, 200)];
        assert_eq!(list(&moved(&old, &split, 0)), std::slice::from_ref(&(8..10)));
        let new = [extent(0, 2, 100), extent(2, 6, 300)];
        assert_eq!(list(&moved(&old, &new, 0)), std::slice::from_ref(&(2..8)));
        assert_eq!(list(&moved(&[], &old, 12)), [0..4 << 12, 6 << 12..8 << 12]);
        assert!(moved(&old, &[], 12).is_empty());
    }

    #[test]
    fn spans_follow_extents_and_holes() {
        let extents = [extent(1, 2, 100), extent(3, 1, 50)];
        let span = |range| first_span(&extents, 12, &range);
        assert_eq!(span(0..9000), Span { at: None, len: 4096 });
        assert_eq!(span(5000..20000), Span { at: Some((100 << 12) + 904), len: 8192 - 904 });
        assert_eq!(span(3 << 12..(3 << 12) + 10), Span { at: Some(50 << 12), len: 10 });
        assert_eq!(span(4 << 12..(4 << 12) + 10), Span { at: None, len: 10 });
        assert_eq!(list(&written(&extents, 12, 9000)), std::slice::from_ref(&(4096..9000)));
    }
}
