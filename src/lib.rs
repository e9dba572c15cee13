// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The VexFS storage engine: one implementation of the filesystem's logic for every host.
//!
//! A host passes a [`Device`] to [`Volume::open`] and calls operations; the engine knows nothing of
//! kernels, threads or clocks. All metadata is in one copy-on-write B+tree, and a commit is one root
//! record. The engine does not cache file data and takes no lock: `&self` operations may run
//! concurrently, `&mut self` operations need exclusive access.
//!
//! Nothing here panics, recurses or loops without a bound, and every failed allocation is an error.
//!
//! # Where to start
//!
//! | to | look at |
//! |---|---|
//! | make a filesystem, open it, write a file | the example of [`Volume`] |
//! | run it on another medium | [`Device`], with an example; what it has to guarantee is in [`device`] |
//! | understand a failure | [`Error`]: a variant per cause, with a message that says what to do |
//! | check an image | [`check()`] |
//! | read a filesystem that another host writes | [`Follower`] |
//! | cut the power | `examples/power_cut.rs`, and the crate `vexfs-crash` |
//!
//! # Rooms
//!
//! `superblock`, `tree` and `space` (the allocator) know nothing of files; `volume` holds them and lets
//! operations change them; `fs` gives the tree's items their meaning; [`check()`], [`follow`] and
//! [`mkfs()`] use all of these. Each module imports only from those before it.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod buffer;
pub mod check;
pub mod device;
pub mod error;
pub mod follow;
mod fs;
mod mkfs;
pub mod mutants;
mod space;
mod superblock;
mod tree;
mod types;
mod volume;

pub use check::{CheckSummary, Finding, Report, check};
pub use device::{Device, DeviceError, Write};
pub use error::{Corruption, Error, Missing, Result};
pub use follow::{Change, Follower};
pub use fs::{Element, Inode, Metric, NewInode, RenameFlags, Renamed, SetAttr, VectorLayout};
pub use mkfs::{MkfsOptions, mkfs};
pub use superblock::{Geometry, newest_root, read_superblock};
pub use tree::LoadedNode;
pub use types::{Dirent, FileType, Mapping, MappingKind, Progress, StatFs, Time, XattrMode};
pub use vexfs_format::{BlockNr, FileBlock, Generation, Ino, Superblock};
pub use volume::{Commit, NodeReader, OpenOptions, Volume};
