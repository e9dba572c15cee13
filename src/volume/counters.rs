// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The counters that a root record holds beside the pointer to its tree.
//!
//! Invariant: `inodes` and `orphans` are the numbers of such items in the running tree, and every inode's
//! number is below `next_ino`. Only a [`Change`](super::Change) counts.

/// Counters of the running transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// The number that the next new inode gets.
    pub(super) next_ino: u64,
    /// Inodes in the tree, orphans included.
    pub(super) inodes: u64,
    /// Items in the list of orphans.
    pub(super) orphans: u64,
}

impl Counters {
    pub(super) const fn inode_made(&mut self) {
        self.next_ino = self.next_ino.saturating_add(1);
        self.inodes = self.inodes.saturating_add(1);
    }

    pub(super) const fn inode_gone(&mut self) {
        self.inodes = self.inodes.saturating_sub(1);
    }

    pub(super) const fn orphan_listed(&mut self) {
        self.orphans = self.orphans.saturating_add(1);
    }

    pub(super) const fn orphan_unlisted(&mut self) {
        self.orphans = self.orphans.saturating_sub(1);
    }
}
