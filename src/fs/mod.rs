// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The meaning of the tree's items: inodes and names, extents and attributes, and operations on them.
//!
//! Invariant: an operation first reserves, reads and checks, which may miss or fail and changes nothing.
//! Then it modifies, in one [`Change`](crate::volume::Change). The host checks permissions.

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
