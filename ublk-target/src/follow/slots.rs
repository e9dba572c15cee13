// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Ranges of numbers, and how a file's bytes, extents and slots relate. Pure arithmetic.
//!
//! Invariant of [`Ranges`]: sorted, not empty, not touching.

use std::ops::Range;
use vexfs::{Mapping, MappingKind, VectorLayout};

/// A set of numbers, as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds a range.
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

    /// Takes at most `most` numbers off the front.
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

    /// Forgets what is not below `end`.
    pub fn truncate(&mut self, end: u64) {
        self.0.retain_mut(|r| {
            r.end = r.end.min(end);
            !r.is_empty()
        });
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().cloned()
    }

    /// The part of `range` that starts at its start and is either wholly in the set, or wholly
    /// not: its end, and which.
    #[must_use]
    pub fn run(&self, range: &Range<u64>) -> (u64, bool) {
        let at = self.0.partition_point(|r| r.end <= range.start);
        match self.0.get(at) {
            Some(r) if r.start <= range.start => (r.end.min(range.end), true),
            Some(r) => (r.start.min(range.end), false),
            None => (range.end, false),
        }
    }
}

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
}

impl Rows {
    /// As the attribute says, with the header that was found.
    #[must_use]
    pub fn new(layout: &VectorLayout, header: u64) -> Self {
        Self {
            header,
            stride: u64::from(layout.stride).max(1),
            offset: u64::from(layout.offset),
            vector: u64::from(layout.vector_bytes()),
        }
    }

    /// Whole records of a file of that many bytes, and the bytes after them.
    #[must_use]
    pub fn count(&self, size: u64) -> (u64, u64) {
        let data = size.saturating_sub(self.header);
        (data / self.stride, data % self.stride)
    }

    /// First byte of a record.
    #[must_use]
    pub fn start(&self, slot: u64) -> u64 {
        self.header.saturating_add(slot.saturating_mul(self.stride))
    }

    /// Slots whose vector has a byte in the range.
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

    /// Slots whose vector lies wholly in the range.
    #[must_use]
    pub fn within(&self, bytes: &Range<u64>) -> Range<u64> {
        let vectors = self.header + self.offset;
        let first = bytes.start.saturating_sub(vectors).div_ceil(self.stride);
        let Some(room) = bytes.end.checked_sub(vectors + self.vector) else { return 0..0 };
        let end = room / self.stride + 1;
        first..end.max(first)
    }
}

/// Blocks of a file that hold data, and where: at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block of the file.
    pub start: u64,
    /// Blocks.
    pub count: u64,
    /// First block on the device.
    pub block: u64,
}

impl Extent {
    /// The written parts of a file, in order.
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

    /// The file's block after it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start + self.count
    }
}

/// Written bytes of a file, cut at its size.
#[must_use]
pub fn written(extents: &[Extent], block_shift: u32, size: u64) -> Ranges {
    let mut ranges = Ranges::default();
    for extent in extents {
        ranges.insert(extent.start << block_shift..extent.end() << block_shift);
    }
    ranges.truncate(size);
    ranges
}

/// A file's block `at` on the device, and how many lie there from it on.
fn find(extents: &[Extent], at: u64) -> Option<(u64, u64)> {
    let index = extents.partition_point(|e| e.end() <= at);
    let extent = extents.get(index).filter(|e| e.start <= at)?;
    Some((extent.block + (at - extent.start), extent.end() - at))
}

/// Bytes of the file that lie elsewhere than before, or are new.
#[must_use]
pub fn moved(old: &[Extent], new: &[Extent], block_shift: u32) -> Ranges {
    let mut ranges = Ranges::default();
    for extent in new {
        let mut at = extent.start;
        while at < extent.end() {
            let (now, left) = (extent.block + (at - extent.start), extent.end() - at);
            let index = old.partition_point(|e| e.end() <= at);
            let (same, count) = match (find(old, at), old.get(index)) {
                (Some((before, count)), _) => (before == now, count),
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

/// A run of a file's bytes on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Byte of the device; `None` in a hole.
    pub at: Option<u64>,
    /// Bytes.
    pub len: u64,
}

/// The first run of a file's bytes `range`, which has some; holes are runs as well. Never empty.
#[must_use]
pub fn first_run(extents: &[Extent], block_shift: u32, range: &Range<u64>) -> Run {
    let block = range.start >> block_shift;
    let skip = range.start - (block << block_shift);
    let left = range.end.saturating_sub(range.start);
    if let Some((at, count)) = find(extents, block) {
        let len = ((count << block_shift) - skip).min(left);
        return Run { at: Some((at << block_shift) + skip), len };
    }
    let index = extents.partition_point(|e| e.end() <= block);
    let next = extents.get(index).map_or(u64::MAX, |e| e.start << block_shift);
    Run { at: None, len: next.saturating_sub(range.start).min(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vexfs::{BlockNr, FileBlock};

    fn extent(start: u64, count: u64, block: u64) -> Extent {
        Extent { start, count, block }
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
        assert_eq!(Extent::all(&mappings), [extent(0, 2, 100), extent(8, 1, 103)]);
    }

    fn list(ranges: &Ranges) -> Vec<Range<u64>> {
        ranges.iter().collect()
    }

    #[test]
    fn ranges_merge_and_are_taken_from_the_front() {
        let mut ranges = Ranges::default();
        for range in [10..20, 30..40, 20..25, 5..8, 39..50, 60..60, 8..10] {
            ranges.insert(range);
        }
        assert_eq!(list(&ranges), [5..25, 30..50]);
        ranges.insert(0..100);
        assert_eq!(list(&ranges), std::slice::from_ref(&(0..100)));
        assert_eq!((ranges.take(30), ranges.take(1000)), (Some(0..30), Some(30..100)));
        assert_eq!(ranges.take(1), None);
        ranges.insert(3..9);
        ranges.insert(20..30);
        ranges.truncate(7);
        assert_eq!((list(&ranges).as_slice(), ranges.count()), (std::slice::from_ref(&(3..7)), 4));
        assert_eq!(ranges.run(&(0..10)), (3, false));
        assert_eq!(ranges.run(&(4..10)), (7, true));
        assert_eq!(ranges.run(&(7..10)), (10, false));
    }

    #[test]
    fn slots_and_bytes_agree_with_counting_them_one_by_one() {
        for (header, stride, offset, vector) in
            [(0, 8, 0, 8), (128, 8, 0, 8), (80, 12, 4, 8), (7, 20, 3, 11), (0, 4, 1, 1)]
        {
            let rows = Rows { header, stride, offset, vector };
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
    fn runs_follow_extents_and_holes() {
        let extents = [extent(1, 2, 100), extent(3, 1, 50)];
        let run = |range| first_run(&extents, 12, &range);
        assert_eq!(run(0..9000), Run { at: None, len: 4096 });
        assert_eq!(run(5000..20000), Run { at: Some((100 << 12) + 904), len: 8192 - 904 });
        assert_eq!(run(3 << 12..(3 << 12) + 10), Run { at: Some(50 << 12), len: 10 });
        assert_eq!(run(4 << 12..(4 << 12) + 10), Run { at: None, len: 10 });
        assert_eq!(list(&written(&extents, 12, 9000)), std::slice::from_ref(&(4096..9000)));
    }
}
