// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The crash lab: a device that forgets, a model that remembers, and a simulator that holds the
//! engine against both.
//!
//! `FAULTS.md` beside this crate says in prose what a cut may do. Everything here is determined by
//! one seed: no clock, no thread, no address reaches a decision. The lab drives the engine only
//! through its public interface, as the kernel does, and never repairs what it finds.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cache;
pub mod device;
pub mod explore;
pub mod image;
mod lies;
pub mod model;
mod oracle;
pub mod recording;
pub mod rng;
pub mod sim;
mod work;
pub mod workload;

pub use cache::Keep;
pub use device::{CacheDevice, Effect, Fault, On};
pub use image::Image;
pub use model::Model;
pub use recording::{Event, Recording, Request};
pub use rng::Rng;
pub use sim::{Options, Outcome, simulate, simulate_each};
