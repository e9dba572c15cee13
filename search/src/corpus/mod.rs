// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The vector files of a filesystem, and how their rows come into the index.
//!
//! `content` says what a file is, `header` how its rows are laid out, `slots` and `intervals` where they
//! lie and which of them are meant, `vector_file` what of one file still has to be read, and `tracker`
//! reads it for all of them, commit by commit.

pub mod content;
pub mod header;
pub mod intervals;
pub mod slots;
pub mod tracker;
mod vector_file;

#[cfg(test)]
mod crash_tests;
