// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who asks, and which files of the filesystem on the image they may read.
//!
//! `caller` knows identities, modes and ACLs, `names` the directories. Nothing here reads a file's
//! contents or writes anything.

pub mod caller;
pub mod names;
