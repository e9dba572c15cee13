// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-ublk`: serves an image as a ublk block device, and keeps the index of its vectors.
//!
//! `device` talks to the driver and runs the queues, `backend` turns their requests into operations on
//! the `image`, and `dirty_log` records what they wrote. `indexer` follows the filesystem's commits and
//! keeps the index up to date; `control` answers searches and other questions, and `rights` says which
//! files a caller may search. `serve` is the daemon's life, `commands` is what people type.

pub mod backend;
pub mod cli;
pub mod commands;
pub mod control;
pub mod daemon;
pub mod device;
pub mod dirty_log;
pub mod error;
pub mod failure_log;
pub mod image;
pub mod indexer;
pub mod lab;
pub mod log;
pub mod options;
pub mod request;
pub mod rights;
pub mod serve;
pub mod state;
pub mod stats;
#[cfg(test)]
mod testing;
