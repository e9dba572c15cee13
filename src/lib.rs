// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The VexFS storage engine: one implementation of the filesystem's logic for every host.
//!
//! A host hands a [`Device`] to [`Volume::open`] and calls operations; the engine knows nothing of
//! kernels, threads or clocks. Metadata is one copy-on-write B+tree; a commit is one root record.
//! It does not cache file data and takes no lock: `&self` operations may run side by side,
//! `&mut self` operations alone.
//!
//! Nothing here panics, recurses or loops without a bound, and every allocation can fail cleanly.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod buffer;
mod cache;
pub mod check;
mod data;
pub mod device;
mod dir;
pub mod error;
mod file;
pub mod follow;
mod inode;
mod mkfs;
mod namespace;
mod node;
mod space;
mod superblock;
mod tree;
mod txn;
mod types;
mod vector;
mod volume;
mod xattr;

pub use cache::LoadedNode;
pub use check::{CheckSummary, Finding, Report, check};
pub use device::{Device, DeviceError, Write};
pub use error::{Corruption, Error, Missing, Result};
pub use follow::{Change, Follower};
pub use inode::{Inode, NewInode, SetAttr};
pub use mkfs::{MkfsOptions, mkfs};
pub use namespace::{RenameFlags, Renamed};
pub use superblock::{Geometry, newest_root, read_superblock};
pub use txn::Commit;
pub use types::{Dirent, FileType, Mapping, MappingKind, Progress, StatFs, Time, XattrMode};
pub use vector::{Element, Metric, VectorLayout};
#[cfg(feature = "mutants")]
pub use vexfs_format::mutants;
pub use vexfs_format::{BlockNr, FileBlock, Generation, Ino, Superblock};
pub use volume::{OpenOptions, Volume};
