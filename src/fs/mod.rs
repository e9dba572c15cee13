// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the tree's items mean: inodes and names, extents and attributes, and the operations on them.
//!
//! Invariant: an operation reads, checks and reserves first, which may miss and fails cleanly, and then
//! modifies, in one [`Change`](crate::volume::Change). The host checks permissions; nothing here does.

mod contents;
pub(crate) mod directory;
pub(crate) mod extents;
mod inode;
mod namespace;
mod rename;
mod symlink;
mod truncate;
mod vector;
pub(crate) mod xattr;

pub use inode::{Inode, NewInode, SetAttr};
pub use rename::{RenameFlags, Renamed};
pub use vector::{Element, Metric, VectorLayout};
