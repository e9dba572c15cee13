// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The figures that a root record carries beside the tree.
//!
//! Invariant: `inodes` and `orphans` are as many as the running tree has items of that kind, and no
//! inode has a number of `next_ino` or above. Only a change advances them.

/// Counts of the running transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// The number of the next inode that is made.
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
