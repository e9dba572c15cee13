// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Deliberate mistakes in the engine: the crash lab makes one at a time and has to notice it.
//!
//! They exist only with the feature `mutants`, which no shipped build has; without it [`is`] is the
//! constant `false` and costs nothing. With it one mutant is chosen for the whole process.

macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// A promise that the engine can be made to break.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            $($(#[doc = $what])+ $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// A short description, and its name.
            #[must_use]
            pub const fn about(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$name => (concat!($($what),+), stringify!($name)),)+
                }
            }
        }
    };
}

mutants! {
    /// a commit: no flush between the nodes and the root record
    CommitFlush,
    /// a commit: the root record without FUA
    RootFua,
    /// a commit: the root record before the nodes
    RootFirst,
    /// a commit: its last block is not written
    BlockLost,
    /// a commit: always the same slot of the root ring
    RootSlot,
    /// mkfs: the old structures are not wiped
    MkfsWipe,
    /// mkfs: no flush after the old structures are wiped
    MkfsWipeFlush,
    /// mkfs: no flush before the primary superblock
    MkfsFlush,
    /// mkfs: the primary superblock without FUA
    MkfsFua,
    /// space: what a commit frees is used before the commit is durable
    PinCommit,
    /// space: what an operation frees is used at once
    PinRunning,
    /// tree: a durable node is changed in place
    InPlace,
    /// a freeze writes a bitmap over its last place
    BitmapInPlace,
    /// a freeze writes a bitmap as it was before
    BitmapStale,
    /// a mount believes the oldest root record
    RootOldest,
    /// a root record's checksum is not compared
    RootChecksum,
    /// a superblock's checksum is not compared
    SuperChecksum,
    /// a damaged primary superblock: the backup is not looked for
    SuperBackup,
    /// a node's checksum is not compared
    NodeChecksum,
    /// a node's checksum, magic, filesystem, address and generation are not compared
    NodeIdentity,
    /// a bitmap's checksum is not compared when it is loaded
    BitmapChecksum,
    /// a full check does not compare the copies of the superblock
    CheckCopies,
    /// a removed inode is not listed as an orphan
    OrphanForgotten,
    /// a removed inode goes before what it holds
    OrphanOrder,
    /// a removed inode is no orphan any more once its first blocks are freed
    OrphanEarly,
    /// a mount does not finish what was removed
    OrphanLeft,
    /// fresh blocks count as written at once
    Unwritten,
    /// a failed commit does not stop the volume
    CommitFailed,
    /// a follower skips what the commit after the one it knows has changed
    FollowSince,
    /// a follower takes a tree that moved on for a damaged one
    FollowStale,
}

#[cfg(feature = "mutants")]
static CHOSEN: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(u32::MAX);

/// Makes the engine break this promise from now on, in the whole process.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Mutant) {
    CHOSEN.store(mutant as u32, core::sync::atomic::Ordering::Relaxed);
}

/// Whether this promise is to be broken.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is(mutant: Mutant) -> bool {
    CHOSEN.load(core::sync::atomic::Ordering::Relaxed) == mutant as u32
}

/// Whether this promise is to be broken: never.
#[cfg(not(feature = "mutants"))]
#[inline]
#[must_use]
pub const fn is(_: Mutant) -> bool {
    false
}
