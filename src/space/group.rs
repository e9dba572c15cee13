// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A loaded group of blocks: its bitmap, and which of its free blocks are pinned.
//!
//! Invariant: a pinned block is clear in `used` and is not allocated. [`super::Space`] pins and unpins.

use crate::error::{Error, Result};
use alloc::vec::Vec;
use vexfs_format::Generation;
use vexfs_format::node::Pointer;

const WORD: usize = 64;

/// A bitmap in words of 64.
#[derive(Debug, Default)]
pub(super) struct Bits(pub(super) Vec<u64>);

impl Bits {
    pub(super) fn new(len: usize) -> Result<Self> {
        let mut words = Vec::new();
        words.try_reserve_exact(len / WORD).map_err(|_| Error::NoMemory)?;
        words.resize(len / WORD, 0);
        Ok(Self(words))
    }

    fn word(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// True if every bit that is set in `other` is set.
    pub(super) fn includes(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, others)| others & !mine == 0)
    }

    /// How many of `count` bits are set.
    pub(super) fn count(&self, from: usize, count: usize) -> usize {
        let end = from.saturating_add(count);
        spans(from, end).map(|(index, mask)| (self.word(index) & mask).count_ones() as usize).sum()
    }

    /// Sets or clears `count` bits; returns how many changed.
    pub(super) fn fill(&mut self, from: usize, count: usize, value: bool) -> usize {
        let mut changed = 0;
        for (index, mask) in spans(from, from.saturating_add(count)) {
            let Some(word) = self.0.get_mut(index) else { break };
            let before = *word;
            *word = if value { before | mask } else { before & !mask };
            changed += (before ^ *word).count_ones() as usize;
        }
        changed
    }
}

/// The words that the bits `from..end` lie in, each with the mask of those bits.
fn spans(from: usize, end: usize) -> impl Iterator<Item = (usize, u64)> {
    (from / WORD..end.div_ceil(WORD)).map(move |index| {
        let first = index * WORD;
        let (low, high) = (from.saturating_sub(first), end.saturating_sub(first).min(WORD));
        (index, (u64::MAX << low) & (u64::MAX >> (WORD - high)))
    })
}

/// A loaded group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) index: u64,
    pub(super) used: Bits,
    /// Freed by the running transaction.
    pub(super) pinned_running: Bits,
    /// Freed by the commit in flight.
    pub(super) pinned_commit: Bits,
    /// Clear bits of `used`.
    pub(crate) free: u64,
    /// Set bits of `pinned_running` and `pinned_commit`.
    pub(super) pinned: u64,
    /// The bitmap's block, or the one it will be written to; `None` if it has none yet.
    pub(crate) pointer: Option<Pointer>,
    /// `used` changed since the last freeze.
    pub(crate) dirty: bool,
    /// The generation in which the bitmap got its last new block.
    pub(crate) placed: Generation,
}

impl Group {
    fn blocked(&self, word: usize) -> u64 {
        self.used.word(word) | self.pinned_running.word(word) | self.pinned_commit.word(word)
    }

    /// The first run of free blocks at or after `from`: (start, length up to `count`).
    pub(super) fn find(&self, from: usize, count: usize) -> Option<(usize, usize)> {
        let words = self.used.0.len();
        let mut index = from / WORD;
        let mut masked = u64::MAX << (from % WORD);
        while index < words {
            let free = !self.blocked(index) & masked;
            if free != 0 {
                let start = index * WORD + free.trailing_zeros() as usize;
                return Some((start, self.run(start, count)));
            }
            masked = u64::MAX;
            index += 1;
        }
        None
    }

    /// Free blocks from `start` on, up to `count`.
    pub(super) fn run(&self, start: usize, count: usize) -> usize {
        let mut len = 0;
        while len < count {
            let bit = start + len;
            if bit / WORD >= self.used.0.len() {
                break;
            }
            let rest = WORD - bit % WORD;
            let clear =
                ((self.blocked(bit / WORD) >> (bit % WORD)).trailing_zeros() as usize).min(rest);
            len += clear;
            if clear < rest {
                break;
            }
        }
        len.min(count)
    }

    /// Blocks that may be allocated.
    pub(crate) const fn available(&self) -> u64 {
        self.free.saturating_sub(self.pinned)
    }
}
