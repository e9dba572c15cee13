// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The generations that are durable, in flight (being written) and running (being built).
//!
//! Invariant: `durable` < `in_flight` < `running`; there is a gap only after a commit failed.

use vexfs_format::Generation;

/// The generations of an open volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generations {
    durable: Generation,
    in_flight: Option<Generation>,
    running: Generation,
}

impl Generations {
    /// Those after the commit of `durable`.
    pub(super) const fn after(durable: Generation) -> Self {
        Self { durable, in_flight: None, running: Generation(durable.0.saturating_add(1)) }
    }

    pub(super) const fn durable(&self) -> Generation {
        self.durable
    }

    pub(super) const fn running(&self) -> Generation {
        self.running
    }

    pub(super) const fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Puts the running generation in flight and starts the next one.
    pub(super) const fn freeze(&mut self) {
        self.in_flight = Some(self.running);
        self.running = Generation(self.running.0.saturating_add(1));
    }

    /// Ends the commit in flight; `durable` is its generation if it succeeded.
    pub(super) const fn finish(&mut self, durable: Option<Generation>) {
        self.in_flight = None;
        if let Some(generation) = durable {
            self.durable = generation;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_becomes_durable_only_when_it_succeeds() {
        let mut generations = Generations::after(Generation(7));
        assert_eq!((generations.durable().0, generations.running().0), (7, 8));
        generations.freeze();
        assert!(generations.is_in_flight());
        assert_eq!((generations.durable().0, generations.running().0), (7, 9));
        generations.finish(Some(Generation(8)));
        assert_eq!((generations.durable().0, generations.running().0), (8, 9));
        generations.freeze();
        generations.finish(None);
        assert!(!generations.is_in_flight());
        assert_eq!((generations.durable().0, generations.running().0), (8, 10));
    }
}
