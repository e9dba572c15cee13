// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What `mkfs.vexfs`, `fsck.vexfs` and `vexfs` share: command lines, messages, progress, and copying
//! between an image and the host.
//!
//! Every decision about the format is the engine's. Nothing is written before it is known that nobody
//! uses the image and that it holds what the command needs.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
pub mod dump;
pub mod failure;
pub mod get;
pub mod image;
pub mod put;
pub mod search;
pub mod show;
pub mod signature;
pub mod size;
pub mod sys;
pub mod tree;

pub use failure::{Failure, Result};
