// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-ublk`: serves an image as a ublk block device.
//!
//! `device` talks to the driver, `layer` stands between a queue and the image, `observe` tells
//! the rest of the daemon what was written. `serve` is the daemon's life, `commands` are what
//! people type.

pub mod cli;
pub mod commands;
pub mod complaint;
pub mod control;
pub mod daemon;
pub mod device;
pub mod error;
pub mod follow;
pub mod image;
pub mod lab;
pub mod latency;
pub mod layer;
pub mod log;
pub mod observe;
pub mod request;
pub mod serve;
pub mod state;
