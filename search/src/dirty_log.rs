// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which parts of the image were written: marked by the queues, drained by the indexer.
//!
//! A queue marks a write after the image has it and before the driver is told, so whoever sees a write
//! completed finds it marked. Marks are bits for chunks of a fixed size; a write that is repeated after
//! a recovery changes nothing. The log's size depends only on the device's length. It never blocks,
//! does not know the order of writes, and does not survive the daemon.
//!
//! It wakes the indexer after a write to the root ring, and after a flush that follows a write to a
//! watched region, which is where vectors are.

use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, fence};
use std::time::{Duration, Instant};

/// `log2` of the smallest chunk: a block.
const CHUNK_SHIFT_MIN: u32 = 12;
/// Most chunks of a log: 1 MiB of bits.
const CHUNKS_MAX: u64 = 8 << 20;
/// `log2` of the chunks in a region: the bits of one word.
const REGION_SHIFT: u32 = 6;
/// End of the superblock's block, if blocks have the smallest size. As long as no filesystem is
/// recognised, only a write before it counts: `mkfs` writes the superblock last.
const SUPERBLOCK_END: u64 = 1 << vexfs_format::BLOCK_SHIFT_MIN;

/// A range of bytes of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyRange {
    /// First byte.
    pub start: u64,
    /// First byte past it.
    pub end: u64,
}

/// The log of written chunks.
pub struct DirtyLog {
    chunk_shift: u32,
    device_bytes: u64,
    /// One bit per chunk.
    words: Box<[AtomicU64]>,
    /// One bit per region: a flush after a write to it wakes the indexer.
    watched: Box<[AtomicU64]>,
    /// First byte past the superblock and the root ring.
    root_ring_end: AtomicU64,
    /// A watched region was written since the last flush.
    overwritten: AtomicBool,
    root_writes: AtomicU64,
    begun: Instant,
    /// Milliseconds after `begun` of the newest write to the root ring.
    root_time: AtomicU64,
    woken: AtomicBool,
    wake: OwnedFd,
}

/// The bits from `first` to `last` of a word, both included.
fn mask(first: u64, last: u64) -> u64 {
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

impl DirtyLog {
    /// An empty log for a device of this length.
    pub fn new(device_bytes: u64) -> std::io::Result<Self> {
        let mut chunk_shift = CHUNK_SHIFT_MIN;
        while (device_bytes >> chunk_shift) >= CHUNKS_MAX {
            chunk_shift += 1;
        }
        let words = ((device_bytes >> chunk_shift) + 1).div_ceil(64);
        let zeroed = |n: u64| (0..n).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            chunk_shift,
            device_bytes,
            words: zeroed(words),
            watched: zeroed(words.div_ceil(64)),
            root_ring_end: AtomicU64::new(SUPERBLOCK_END),
            overwritten: AtomicBool::new(false),
            root_writes: AtomicU64::new(0),
            begun: Instant::now(),
            root_time: AtomicU64::new(0),
            woken: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Sets where the root ring ends, once the filesystem is known. The superblock lies before it.
    pub fn set_root_ring_end(&self, end: u64) {
        self.root_ring_end.store(end, Relaxed);
    }

    /// Marks a completed write, discard or zeroing. Called by queues before they complete it.
    pub fn mark(&self, offset: u64, len: u64, durable: bool) {
        let Some(last) = len.checked_sub(1).and_then(|n| offset.checked_add(n)) else { return };
        let (first, last) = (offset >> self.chunk_shift, last >> self.chunk_shift);
        // Either the loads below see a concurrent `drain`, or whoever drained sees the data of this
        // write; likewise for `watch`.
        fence(SeqCst);
        let mut watched = false;
        for index in first / 64..=last / 64 {
            let Some(word) = self.words.get(index as usize) else { break };
            let from = if index == first / 64 { first % 64 } else { 0 };
            let to = if index == last / 64 { last % 64 } else { 63 };
            let bits = mask(from, to);
            if word.load(Relaxed) & bits != bits {
                word.fetch_or(bits, SeqCst);
            }
            watched |= self
                .watched
                .get((index >> REGION_SHIFT) as usize)
                .is_some_and(|w| w.load(SeqCst) >> (index % 64) & 1 == 1);
        }
        if watched {
            self.overwritten.store(true, SeqCst);
            if durable {
                self.flushed();
            }
        }
        // A write to the superblock counts, too: `mkfs` writes it last.
        if offset < self.root_ring_end.load(Relaxed) {
            self.root_time.store(self.begun.elapsed().as_millis() as u64, Relaxed);
            self.root_writes.fetch_add(1, SeqCst);
            self.wake();
        }
    }

    /// A flush completed: overwrites before it are durable and can be read.
    pub fn flushed(&self) {
        if self.overwritten.load(Relaxed) && self.overwritten.swap(false, SeqCst) {
            self.wake();
        }
    }

    /// Makes [`Self::wake_fd`] readable, unless it is.
    pub fn wake(&self) {
        if !self.woken.swap(true, SeqCst) {
            // It fails only if the counter is full, and then the descriptor is readable.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Readable if there was something to read since the last [`Self::rearm`].
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes [`Self::wake_fd`] unreadable. Call it before reading the image, so that a later write wakes
    /// again.
    pub fn rearm(&self) {
        let mut counter = [0u8; 8];
        let _ = rustix::io::read(&self.wake, &mut counter);
        self.woken.store(false, SeqCst);
    }

    /// How many writes touched the root ring or the superblock so far.
    #[must_use]
    pub fn root_writes(&self) -> u64 {
        self.root_writes.load(SeqCst)
    }

    /// How long ago the root ring or the superblock was last written, or the log was made.
    #[must_use]
    pub fn since_root_write(&self) -> Duration {
        let then = Duration::from_millis(self.root_time.load(Relaxed));
        self.begun.elapsed().saturating_sub(then)
    }

    /// Sets which byte ranges hold vectors. Call [`Self::drain`] afterwards: earlier writes are marked,
    /// but did not wake anybody.
    pub fn watch(&self, ranges: impl Iterator<Item = DirtyRange>) {
        let mut regions = vec![0u64; self.watched.len()];
        let shift = self.chunk_shift + REGION_SHIFT;
        for range in ranges.filter(|r| r.start < r.end) {
            for region in range.start >> shift..=(range.end - 1) >> shift {
                if let Some(word) = regions.get_mut((region / 64) as usize) {
                    *word |= 1 << (region % 64);
                }
            }
        }
        for (word, bits) in self.watched.iter().zip(regions) {
            word.store(bits, SeqCst);
        }
        fence(SeqCst);
    }

    /// Takes all marks, as merged ranges in order. A chunk that is written while it is read is marked again
    /// and comes with the next call.
    pub fn drain(&self) -> Vec<DirtyRange> {
        let mut ranges: Vec<DirtyRange> = Vec::new();
        fence(SeqCst);
        for (index, word) in self.words.iter().enumerate() {
            if word.load(Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, SeqCst);
            while bits != 0 {
                let chunk = index as u64 * 64 + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                let start = chunk << self.chunk_shift;
                let end = (start + (1 << self.chunk_shift)).min(self.device_bytes);
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => ranges.push(DirtyRange { start, end }),
                }
            }
        }
        ranges
    }

    /// Marks ranges again that were drained but could not be read.
    pub fn put_back(&self, ranges: &[DirtyRange]) {
        for range in ranges {
            self.mark(range.start, range.end - range.start, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn ready(log: &DirtyLog) -> bool {
        let mut counter = [0u8; 8];
        let readable = rustix::io::read(log.wake_fd(), &mut counter).is_ok();
        log.rearm();
        readable
    }

    #[test]
    fn marks_merge_are_idempotent_and_are_taken_once() {
        let log = DirtyLog::new(64 * MIB).unwrap();
        for _ in 0..3 {
            log.mark(5 * MIB, 4096, false);
            log.mark(5 * MIB + 4096 - 512, 1024, false);
            log.mark(63 * MIB, MIB, false);
        }
        let expected = [
            DirtyRange { start: 5 * MIB, end: 5 * MIB + 8 * KIB },
            DirtyRange { start: 63 * MIB, end: 64 * MIB },
        ];
        assert_eq!(log.drain(), expected);
        assert!(log.drain().is_empty());
        log.put_back(&expected);
        assert_eq!(log.drain(), expected);
    }

    #[test]
    fn every_start_and_length_marks_exactly_its_chunks() {
        let log = DirtyLog::new(4 * MIB).unwrap();
        for first in [0, 1, 62, 63, 64, 65, 127, 128, 1000] {
            for count in [1, 2, 63, 64, 65, 129] {
                if first + count > 1024 {
                    continue;
                }
                log.mark(first * 4096, count * 4096, false);
                let range = DirtyRange { start: first * 4096, end: (first + count) * 4096 };
                assert_eq!(log.drain(), [range], "{first} {count}");
            }
        }
    }

    #[test]
    fn an_empty_mark_and_one_past_the_end_do_nothing() {
        let log = DirtyLog::new(4 * MIB).unwrap();
        log.mark(MIB, 0, false);
        log.mark(4096 * MIB, 4096, false);
        log.mark(u64::MAX, 4096, false);
        assert!(log.drain().is_empty());
    }

    #[test]
    fn a_root_ring_write_wakes_the_indexer() {
        let log = DirtyLog::new(64 * MIB).unwrap();
        let end = (vexfs_format::ROOT_RING_START + vexfs_format::ROOT_SLOTS) << 12;
        log.set_root_ring_end(end);
        log.mark(end, 4096, false);
        assert!(!ready(&log));
        log.mark(end - 512, 512, false);
        log.mark(0, 512, false);
        assert!(ready(&log) && !ready(&log));
        assert_eq!(log.root_writes(), 2);
        log.mark(0, MIB, false);
        assert!(ready(&log), "armed again");
    }

    #[test]
    fn a_flush_wakes_only_after_a_write_to_a_watched_region() {
        let log = DirtyLog::new(64 * MIB).unwrap();
        log.watch([DirtyRange { start: 8 * MIB, end: 9 * MIB }].into_iter());
        log.mark(10 * MIB, MIB, false);
        log.flushed();
        assert!(!ready(&log));
        log.mark(9 * MIB - 4096, 4096, false);
        assert!(!ready(&log), "not before the flush");
        log.flushed();
        assert!(ready(&log));
        log.flushed();
        assert!(!ready(&log), "nothing new");
        log.mark(8 * MIB, 4096, true);
        assert!(ready(&log), "FUA needs no flush");
    }

    #[test]
    fn the_log_of_a_huge_device_stays_small() {
        let log = DirtyLog::new(1 << 56).unwrap();
        assert!(log.words.len() <= (CHUNKS_MAX / 64 + 1) as usize);
        log.mark((1 << 56) - 4096, 4096, false);
        assert_eq!(log.drain().len(), 1);
        log.mark(0, 1 << 56, false);
        assert_eq!(log.drain(), [DirtyRange { start: 0, end: 1 << 56 }]);
    }
}
