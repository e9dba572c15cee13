// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The engine as a kernel object: the functions `vexfs_rust_*` that C calls.
//!
//! # Contract
//! Every function answers 0 or a negative errno and checks what it is given: a null pointer is
//! `-EFAULT`, an impossible length or flag `-EINVAL`. What it cannot check is the caller's to keep:
//! - a pointer that is not null points at a live value of its type, or at as many bytes as the length beside it says;
//! - a volume, commit or node came from this library and was not given back yet;
//! - a function that takes `const struct vexfs_volume *` runs under the host's lock of that volume, shared is
//!   enough; one that takes it without `const` runs under the lock held exclusively.
//!
//! Most functions fill in a [`abi::Report`]: what a failed call wants before it is made again, and a line for the log.
//! `-EAGAIN` with [`abi::WANT_NODE`]: call [`volume::vexfs_rust_fetch`] under the same hold of the lock (shared is
//! enough), then [`volume::vexfs_rust_install`] under the lock held exclusively. `-EAGAIN` with [`abi::WANT_COMMIT`]:
//! commit. Then call again; nothing was changed.
//!
//! This crate keeps no state of its own and decides nothing about the format. It is the only place of the project
//! that needs `unsafe` to talk to C, and it never calls back into C while it holds anything but a device request.

#![cfg_attr(any(target_os = "none", feature = "object"), no_std)]
#![deny(missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::missing_safety_doc, reason = "the contract is the crate's, stated once above")]

extern crate alloc;

pub mod abi;
pub mod commit;
pub mod data;
pub mod device;
mod handle;
pub mod inode;
pub mod names;
mod pointer;
#[cfg(any(target_os = "none", feature = "object"))]
mod runtime;
pub mod selftest;
pub mod vector;
pub mod volume;
pub mod xattr;
