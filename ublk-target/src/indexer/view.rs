// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The indexer's state as the rest of the daemon sees it, and how others ask it to catch up.
//!
//! Whoever wants to find everything that was committed or flushed so far takes a ticket: once the
//! ticket is served, it is in the index. Nobody waits for the indexer without a time limit, and the
//! indexer waits for nobody.

use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vexfs_search::snapshot::Snapshot;

/// What the indexer shares with those who ask it.
pub struct View {
    /// The newest state, and the newest ticket that is served.
    snapshot: Mutex<(Snapshot, u64)>,
    served: Condvar,
    /// How many tickets were taken.
    tickets: AtomicU64,
    stopping: AtomicBool,
    urgent: OwnedFd,
    /// Files that are to be read and built again.
    rebuilt: Mutex<BTreeSet<u64>>,
}

impl View {
    /// A view of an indexer that has not read anything yet.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            snapshot: Mutex::default(),
            served: Condvar::new(),
            tickets: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            rebuilt: Mutex::default(),
            urgent: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, (Snapshot, u64)> {
        // A thread that panicked left a whole snapshot, because it is replaced in one assignment.
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest state.
    #[must_use]
    pub fn now(&self) -> Snapshot {
        self.lock().0.clone()
    }

    /// Asks the indexer for everything so far, and waits until it has caught up; false if that takes longer
    /// than the limit.
    #[must_use]
    pub fn catch_up(&self, limit: Duration) -> (Snapshot, bool) {
        let ticket = self.tickets.fetch_add(1, SeqCst) + 1;
        self.call();
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while state.1 < ticket {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stopping() {
                return (state.0.clone(), false);
            }
            let waited = self.served.wait_timeout(state, left.min(Duration::from_secs(1)));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        (state.0.clone(), true)
    }

    /// The newest ticket. An update that begins after this call serves it.
    #[must_use]
    pub fn newest_ticket(&self) -> u64 {
        self.tickets.load(SeqCst)
    }

    /// Whether somebody waits for a ticket to be served.
    #[must_use]
    pub fn awaited(&self) -> bool {
        self.lock().1 < self.newest_ticket()
    }

    /// Publishes a state; with `ticket`, it serves all tickets up to that one.
    pub fn show(&self, snapshot: Snapshot, ticket: Option<u64>) {
        let mut state = self.lock();
        state.0 = snapshot;
        if let Some(ticket) = ticket {
            state.1 = state.1.max(ticket);
            self.served.notify_all();
        }
    }

    /// Asks the indexer to read and build these files again.
    pub fn rebuild(&self, files: BTreeSet<u64>) {
        self.rebuilt.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
        self.tickets.fetch_add(1, SeqCst);
        self.call();
    }

    /// The files that are to be built again, once.
    pub fn take_rebuilt(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.rebuilt.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the indexer to finish.
    pub fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.call();
    }

    /// Whether the indexer was asked to finish.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    fn call(&self) {
        let _ = rustix::io::write(&self.urgent, &1u64.to_ne_bytes());
    }

    /// Readable after somebody took a ticket or asked to finish, until [`Self::rearm`].
    pub fn urgent_fd(&self) -> BorrowedFd<'_> {
        self.urgent.as_fd()
    }

    /// Makes [`Self::urgent_fd`] unreadable. Call it before [`Self::newest_ticket`].
    pub fn rearm(&self) {
        let _ = rustix::io::read(&self.urgent, &mut [0u8; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_ticket_is_served_by_an_update_that_began_after_it_was_taken() {
        let view = Arc::new(View::new().unwrap());
        let (_, served) = view.catch_up(Duration::from_millis(1));
        assert!(!served && view.awaited());
        let asking = view.clone();
        let waiter = std::thread::spawn(move || asking.catch_up(Duration::from_secs(60)));
        while view.newest_ticket() < 2 {
            std::thread::yield_now();
        }
        view.show(Snapshot::default(), Some(1));
        assert!(view.awaited(), "the second came after that update");
        let ticket = view.newest_ticket();
        view.show(Snapshot { generation: 9, ..Default::default() }, Some(ticket));
        let (snapshot, served) = waiter.join().unwrap();
        assert!(served && snapshot.generation == 9 && !view.awaited());
    }
}
