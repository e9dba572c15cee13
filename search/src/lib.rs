// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From the files of a VexFS image to an index of their vectors, and from a question to an answer.
//!
//! `corpus` follows the filesystem's commits and feeds the index with the rows of its vector files;
//! `dirty_log` says which of them were written in place. `rights` says which files a caller may search,
//! `ask` what a search can say, and `answer` answers it for one [`Snapshot`](snapshot::Snapshot).
//!
//! Invariant: an answer holds rows of files that the caller may read in the committed tree, and no others.
//! Nothing here knows of block devices, sockets or threads: whoever has an image and an index may ask, the
//! daemon as well as a command line. Nothing here writes to the filesystem.

pub mod answer;
pub mod ask;
pub mod client;
pub mod corpus;
pub mod dirty_log;
pub mod log;
pub mod rights;
pub mod size;
pub mod snapshot;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::missing_panics_doc, reason = "it is for tests, which fail by panics")]
pub mod testing;
pub mod unmounted;
pub mod upkeep;
