// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A vector index: the nearest vectors of many files, searchable as soon as they are in.
//!
//! It knows neither filesystems nor devices. A file is a number, a vector is a *slot* of a file,
//! and what a file's vectors are is a [`Space`]: element type, metric, dimensions. What the index
//! holds is derived: every vector can be read again from its file, so damage costs time, and is
//! answered by rebuilding and never by trusting.
//!
//! ```
//! use vexfs_index::{DirStore, Element, FileId, Index, Metric, Options, Params, Slot, Space};
//!
//! # fn main() -> vexfs_index::Result<()> {
//! let directory = std::env::temp_dir().join(format!("example-of-vexfs-index-{}", std::process::id()));
//! let open = || Index::open(Some(Box::new(DirStore::open(&directory)?)), Options::default());
//!
//! // Make an index, and say what the vectors of file 7 are.
//! let (index, _) = open()?;
//! let file = FileId(7);
//! index.declare(file, Space::new(Element::F32, Metric::L2, 2), Params::default())?;
//!
//! // Insert three vectors: little-endian bytes, as they are in the file.
//! let rows: Vec<u8> = [0.0_f32, 0.0, 1.0, 0.0, 5.0, 5.0].iter().flat_map(|x| x.to_le_bytes()).collect();
//! index.upsert_rows(file, Slot(0), &rows, 8, 0)?;
//!
//! // Search: the two nearest to (0.9, 0.0).
//! let hits = index.search(&[file], &[0.9, 0.0], 2, None, false)?;
//! assert_eq!((hits[0].slot, hits[1].slot), (Slot(1), Slot(0)));
//!
//! // Save it as generation 1, with a state for the file, and open it again.
//! index.checkpoint(1, b"", &[(file, b"as of today".to_vec())])?;
//! drop(index);
//! let (index, recovered) = open()?;
//! assert_eq!(recovered.covered.map(|covered| covered.generation), Some(1));
//! assert_eq!(index.stats().counts.vectors, 3);
//! # drop(index);
//! # let _ = std::fs::remove_dir_all(&directory);
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! A vector first enters the file's *growing segment*, in memory, which is searched by scanning.
//! When the growing segment is full it is *sealed*: it becomes immutable, and a background thread
//! builds a graph over it and merges it with others, so that a file which is left alone has one graph and a
//! handful of vectors that are scanned. A removed or overwritten
//! vector of a sealed segment gets a *tombstone* until the next merge. A search asks every segment
//! and keeps the best.
//!
//! A checkpoint writes what is not in the [`Store`] yet, then replaces the *manifest*, which names
//! everything the checkpoint consists of. After a crash the store has the checkpoint before it or
//! the one that was being written, whole.
//!
//! # What is where
//!
//! * [`Index`] is the whole interface. [`Options`] say how it behaves, [`Stats`] what it holds.
//! * [`Store`] is where checkpoints are: [`DirStore`] in a directory, [`TailStore`] in the tail of
//!   an image.
//! * [`IndexError`] has a variant for every cause. A checkpoint that cannot be used is no error: it
//!   is told in [`Recovered`].
//! * [`npy`] is about the files that NumPy writes.

mod build_queue;
mod checkpoint;
mod distance;
mod dump_dir;
mod error;
mod graph;
mod growing;
mod index;
mod manifest;
mod merge_policy;
pub mod mutants;
pub mod npy;
mod segment;
#[cfg(any(test, feature = "mutants"))]
pub mod simulator;
mod slot_set;
mod slots;
mod stats;
mod store;
mod sync;
mod topk;
mod types;
mod vector;
mod vector_array;
mod vector_file;
mod vectors_blob;
mod verifier;

pub use checkpoint::{Covered, Recovered, Written};
pub use error::{IndexError, Result};
pub use graph::GraphKind;
pub use index::{Hit, Index, Options, SEARCH_LIMIT};
pub use stats::{Counts, Stats};
pub use store::{Blob, DirStore, Medium, ReadOnly, Store, TailStore};
pub use types::{Element, FileId, Metric, Slot};
pub use vector::{DIM_MAX, Params, Space};
pub use vector_file::Batch;
