// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The crash lab: a device that loses power and fails on command, a model of what the filesystem must
//! hold, an explorer of every state that a cut may leave, and a simulator.
//!
//! `FAULTS.md` beside this crate says what a device may do and what VexFS promises then, `EXPLORE.md`
//! how states are explored. A run follows from its seed: no clock, thread or address decides
//! anything. The lab uses the engine only through its public interface, as the kernel does, and never
//! repairs what it finds.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cache;
pub mod device;
pub mod explore;
mod formatted;
mod halt;
mod history;
pub mod image;
mod lockstep;
pub mod model;
mod oracle;
pub mod recording;
pub mod rng;
mod silent;
pub mod sim;
pub mod workload;

pub use cache::Keep;
pub use device::{CacheDevice, Effect, Fault, On};
pub use formatted::{formatted, mkfs_options};
pub use image::Image;
pub use model::Model;
pub use recording::{Event, Recording, Request};
pub use rng::Rng;
pub use sim::{Options, Outcome, simulate, simulate_each};
