// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Small workloads, all of them: bounded black-box testing after ACE (Mohan et al., "Finding
//! Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018).
//!
//! A [`Script`] is a few operations on a small tree, with a synchronisation of some kind after each.
//! It runs on the engine and the model in lockstep, is recorded, and the recording is explored. A
//! script that is printed can be run again.
//!
//! What scripts cannot reach is here too, from the same [`Fixture`]: damage of known structures,
//! `mkfs` over an old filesystem, operations of many steps, followers.

mod damage;
mod enumerate;
mod fixture;
mod follower;
mod mkfs;
mod multistep;
mod ops;
mod script;

pub use enumerate::{long, pairs, singles, triple};
pub use fixture::{Fixture, RecordedRun};
pub use script::Script;
