// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The vector index of VexFS: exact and graph segments, search, checkpoints.
//!
//! It knows vectors, files as opaque numbers and slots as ordinals; it knows neither filesystems
//! nor devices. What it holds is derived: every vector can be read again from its file, so damage
//! costs time and is answered by rebuilding, never by trusting.
//!
//! * [`Index`] is the whole interface: declare a file, upsert and remove slots, search, checkpoint.
//! * [`Store`] is where checkpoints live: [`DirStore`] beside an image, [`TailStore`] in its tail.
//! * [`npy`] reads the headers and matrices that numpy writes.

mod checkpoint;
mod codec;
mod distance;
mod error;
mod file;
mod graph;
mod index;
#[cfg(any(test, feature = "mutants"))]
pub mod lab;
pub mod mutants;
pub mod npy;
mod ranges;
mod rows;
mod scratch;
mod segment;
mod store;
mod tail;
mod topk;
mod vector;
mod worker;

pub use checkpoint::{Covered, Recovered, Written};
pub use error::{IndexError, Result};
pub use file::Batch;
pub use index::{FileStats, Hit, Index, Options, SEARCH_LIMIT, Stats};
pub use store::{Blob, DirStore, Medium, Store, TailStore};
pub use vector::{DIM_MAX, Element, FileId, Metric, Params, Slot, Space};

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

// A panic under a lock is a defect of its own; the index behind it is derived data and every
// update keeps it searchable at each step, so the other threads go on.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
