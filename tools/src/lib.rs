// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What `mkfs.vexfs`, `fsck.vexfs` and `vexfs` share: images as devices, and the host around them.
//!
//! Every decision about the format is the engine's; here are files, locks, words and progress.
//! Nothing is written before the image is known to be free and to be what it should be.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
pub mod device;
pub mod dump;
pub mod failure;
pub mod get;
pub mod image;
pub mod names;
pub mod put;
pub mod show;
pub mod signature;
pub mod size;
pub mod sys;
pub mod usage;

pub use device::FileDevice;
pub use failure::{Failure, Result};
pub use image::{Access, Opened};
