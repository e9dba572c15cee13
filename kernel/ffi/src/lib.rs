// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The engine as a kernel object: the functions `vexfs_rust_*` that C calls.
//!
//! Every function returns 0 or a negative errno. It checks what can be checked: a null pointer is `-EFAULT`, an
//! impossible length or flag `-EINVAL`.
//!
//! # Contract
//! The caller keeps what cannot be checked. Each `unsafe` block names the rules it relies on by their numbers.
//!
//! 1. **Input.** A `const` pointer that is not null points at an aligned, initialised value of its type; with a
//!    length beside it, at that many initialised bytes. Nobody changes them during the call.
//! 2. **Output.** A pointer without `const` that is not null, and is no handle, points at aligned, writable memory
//!    for its type; with a length beside it, at that many initialised bytes. During the call nobody else reads or
//!    writes that memory, and it overlaps no other argument.
//! 3. **Handle.** A volume, commit or node that is not null was handed out by this library and has not been given
//!    back. A function that takes one back says so; nobody uses the handle during that call or after it.
//! 4. **Lock.** The host has one lock for each volume. A function whose volume is `const` runs while the lock is
//!    held, shared or exclusively; one whose volume is not `const` runs while it is held exclusively. A volume that
//!    no other task can reach needs no lock.
//! 5. **One task.** A commit or a node is used by one task at a time.
//! 6. **Report.** Between a call that missed and the `fetch_begin` for it, nobody changes the report.
//! 7. **Device.** The functions of a [`abi::HostDevice`] may be called by any task, several at a time, from the call
//!    that opens the volume until the volume and its commits are given back. They touch only the bytes
//!    they are told to, and `read` writes all of them if it returns 0.
//! 8. **Host.** `vexfs_host_alloc` returns null or memory of the size and alignment asked for, which nobody else
//!    uses until `vexfs_host_free`. `vexfs_host_panic` does not return.
//!
//! # Calls that have to be made again
//! Most functions fill in a [`abi::Report`]: what the host has to do before it makes a failed call again, and a line
//! for the log. Nothing was changed by a call that returns `-EAGAIN`:
//! - with [`abi::WANT_NODE`], call [`volume::vexfs_rust_fetch_begin`] under the same hold of the lock, then
//!   [`volume::vexfs_rust_fetch`] without a lock, then [`volume::vexfs_rust_install`] under the lock held exclusively;
//! - with [`abi::WANT_COMMIT`], commit.
//!
//! # What is linked where
//! The kernel's object has what the module calls. The cargo feature `userspace` (on by default) adds what only hosts
//! in userspace call: whole reads and writes, commits in one call, mkfs, exact search. The tests in [`selftest`] are
//! in the library, but only in an object that was linked with test hooks.
//!
//! The crate keeps no state of its own and decides nothing about the format. It calls into C only for memory, for
//! the device, and to end a panic.

#![cfg_attr(any(target_os = "none", feature = "object"), no_std)]
#![deny(missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(
    clippy::missing_safety_doc,
    reason = "the crate's contract above holds for every function"
)]

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
#[cfg(feature = "userspace")]
pub mod userspace;
#[cfg(feature = "userspace")]
pub mod vector;
pub mod volume;
pub mod window;
pub mod xattr;
