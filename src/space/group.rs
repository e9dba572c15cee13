// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One group of blocks in memory: its bitmap, and which of its free blocks are pinned.
//!
//! Invariant: a pinned block is clear in `used` and is not handed out. Who pins and unpins is
//! [`super::Space`].

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

    /// Sets or clears `count` bits; returns how many changed.
    pub(super) fn fill(&mut self, from: usize, count: usize, value: bool) -> usize {
        let mut changed = 0;
        let (mut bit, end) = (from, from.saturating_add(count));
        while bit < end {
            let (low, high) = (bit % WORD, (end - bit).saturating_add(bit % WORD).min(WORD));
            let mask = (u64::MAX << low) & (u64::MAX >> (WORD - high));
            let Some(word) = self.0.get_mut(bit / WORD) else { break };
            let before = *word;
            *word = if value { before | mask } else { before & !mask };
            changed += (before ^ *word).count_ones() as usize;
            bit += high - low;
        }
        changed
    }
}

/// A group in memory.
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
    /// Set bits of the two above.
    pub(super) pinned: u64,
    /// Where the bitmap is, or will be; `None` if it was never written.
    pub(crate) pointer: Option<Pointer>,
    /// `used` differs from what the last freeze wrote.
    pub(crate) dirty: bool,
    /// The running generation, once the bitmap has a new place in it.
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

    /// Blocks that may be handed out.
    pub(crate) const fn available(&self) -> u64 {
        self.free.saturating_sub(self.pinned)
    }
}
