// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Work on many items, split among threads.
//!
//! Invariant: the outcome does not depend on the number of threads. Each item is worked on alone, and the
//! results are in the order of the items.

use std::{panic, thread};

/// A thread is not worth starting for fewer items.
const ITEMS_MIN: usize = 32;

/// `work` on consecutive parts of the items, one part a thread; the results in the order of the parts.
/// The threads inherit the priority of the caller.
pub(super) fn split<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&[T]) -> R + Sync,
) -> Vec<R> {
    let parts = threads.min(items.len() / ITEMS_MIN).max(1);
    let mut chunks = items.chunks(items.len().div_ceil(parts).max(1));
    let Some(first) = chunks.next() else { return Vec::new() };
    thread::scope(|scope| {
        let work = &work;
        // Without a thread for it, a part is worked on here.
        let others: Vec<_> = chunks
            .map(|chunk| {
                let started = thread::Builder::new()
                    .name("vexfs-build".into())
                    .spawn_scoped(scope, move || work(chunk));
                started.map_err(|_| chunk)
            })
            .collect();
        let mut results = vec![work(first)];
        for other in others {
            results.push(match other {
                Ok(thread) => thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)),
                Err(chunk) => work(chunk),
            });
        }
        results
    })
}
