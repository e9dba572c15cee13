// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-ublk`: serves an image as a ublk block device, and keeps the index of its vectors.
//!
//! `device` talks to the driver and runs the queues, `backend` turns their requests into operations on
//! the `image`, and a dirty log records what they wrote. `indexer` keeps the index up to date in a thread;
//! `control` answers searches and other questions. What is indexed and how a search is answered is the
//! business of `vexfs-search`. `window` is how the kernel module asks. `serve` is the daemon's life, `commands`
//! is what people type.

pub mod backend;
pub mod cli;
pub mod commands;
pub mod control;
pub mod daemon;
pub mod device;
pub mod error;
pub mod failure_log;
pub mod image;
pub mod indexer;
pub mod lab;
pub mod options;
pub mod request;
pub mod serve;
pub mod state;
pub mod stats;
pub mod window;
