// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Small workloads, all of them: bounded black-box testing after ACE (Mohan et al., "Finding
//! Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018).
//!
//! A [`Script`] is a few operations on a small tree, with a synchronisation of some kind after each.
//! It runs on the engine and the model at once, is recorded, and the recording is explored. A
//! script is its text: what is printed runs again.

mod damage;
mod follow;
mod format;
mod ops;
mod script;
mod space;
mod steps;

pub use script::{Fixture, Ran, Script};
pub use space::{long, pairs, singles, triple};
