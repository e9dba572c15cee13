// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The thread that verifies the graphs of a checkpoint after it was opened.
//!
//! Until a graph is verified, from its first page to its last, its segment is scanned. One that is damaged
//! goes, and its file is put in the queue of the build thread. Vectors are not verified here: each page of
//! them is when it is first read.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    build_queue::BuildQueue,
    error::{IndexError, Result},
    graph::{self, Identity},
    segment::Segment,
    store::pages::Pages,
    sync::lock,
};

/// A graph in the store that nobody may walk yet.
pub(crate) struct PendingGraph {
    pub file: u64,
    pub segment: Arc<Segment>,
    pub pages: Arc<Pages>,
    pub vectors: Identity,
}

impl PendingGraph {
    fn verify(&self) -> Result<()> {
        let graph = graph::load_flat(&self.pages, &self.vectors)?;
        self.segment.admit_graph(graph);
        Ok(())
    }
}

#[derive(Default)]
struct State {
    busy: bool,
    problems: Vec<IndexError>,
}

/// What the index and the thread share.
#[derive(Default)]
pub(crate) struct Verifier {
    stop: AtomicBool,
    state: Mutex<State>,
    done: Condvar,
}

impl Verifier {
    /// Of an index that has such a thread.
    pub(crate) fn busy() -> Self {
        Self { state: Mutex::new(State { busy: true, ..State::default() }), ..Self::default() }
    }

    /// What the thread runs.
    pub(crate) fn run(&self, pending: Vec<PendingGraph>, queue: &BuildQueue, nice: i32) {
        if nice != 0 {
            // If it is refused, the work is done at the normal priority.
            let _ = rustix::process::nice(nice);
        }
        for graph in pending {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = graph.verify() {
                let why = match error {
                    IndexError::Damaged(why) => why,
                    other => other.to_string(),
                };
                let rows = graph.vectors.rows;
                graph.segment.give_up_graph();
                lock(&self.state).problems.push(IndexError::Damaged(format!(
                    "the graph over {rows} vectors of file {}: {why}",
                    graph.file
                )));
                queue.push(graph.file);
            }
        }
        lock(&self.state).busy = false;
        self.done.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until all graphs are verified; false if the time is up.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> bool {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = lock(&self.state);
        while state.busy {
            let left = match deadline {
                None => Duration::from_secs(3600),
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return false;
            }
            (state, _) =
                self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// What was found since the last call.
    pub(crate) fn take_problems(&self) -> Vec<IndexError> {
        std::mem::take(&mut lock(&self.state).problems)
    }
}
