// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Commits in their three parts, so that operations can run in between, and what each of them makes
//! possible or promises after a cut.

use super::{InFlight, Lockstep};
use crate::halt::{Halt, ensure};
use crate::history::Committed;
use vexfs::{Device, Error, Ino};

impl Lockstep {
    /// Freezes what was changed. Does nothing if a commit is in flight or nothing was changed.
    pub(crate) fn freeze(&mut self) -> Result<(), Halt> {
        if self.in_flight.is_some() {
            return Ok(());
        }
        let now = self.now();
        let commit = match self.volume.resolve(|v| v.freeze(now)) {
            Ok(Some(commit)) => commit,
            Ok(None) => return Ok(()),
            Err(error) => return self.device_error("a freeze failed", &error),
        };
        self.may_come_back(commit.generation().0);
        self.in_flight = Some(InFlight { commit, written: None });
        Ok(())
    }

    /// Writes the commit in flight. Its generation is promised from then on.
    pub(crate) fn write_commit(&mut self) {
        let Some(flight) = &mut self.in_flight else { return };
        if flight.written.is_none() {
            let result = flight.commit.write(self.volume.device());
            if result.is_ok() {
                self.promised = flight.commit.generation().0;
                let event = self.volume.device().recorded();
                if let Some(history) = &mut self.history {
                    history.promises.push((event, self.promised));
                }
            }
            flight.written = Some(result);
        }
    }

    /// Finishes the commit in flight, written or not.
    pub(crate) fn finish(&mut self) -> Result<(), Halt> {
        self.write_commit();
        let Some(flight) = self.in_flight.take() else { return Ok(()) };
        let result = self.volume.finish(&flight.commit, flight.written.unwrap_or(Ok(())));
        if let Err(error) = result {
            ensure!(self.volume.is_dead(), "a failed commit left the volume alive");
            let again = self.volume.inode(Ino::ROOT);
            ensure!(again == Err(Error::Dead), "a dead volume answered {again:?}");
            return self.device_error("a commit failed", &error);
        }
        let durable = flight.commit.generation().0;
        ensure!(self.volume.generation().0 == durable, "finish did not move the generation on");
        self.committed.retain(|generation, _| *generation >= durable);
        self.forget_versions();
        Ok(())
    }

    /// A whole commit; the one in flight first.
    pub(crate) fn commit(&mut self) -> Result<(), Halt> {
        self.finish()?;
        self.freeze()?;
        self.finish()
    }

    /// `fsync` where a flush is enough because only data was overwritten; else a commit.
    pub(crate) fn flush(&mut self) -> Result<(), Halt> {
        if self.volume.is_dirty() || self.in_flight.is_some() {
            return self.commit();
        }
        if let Err(error) = self.volume.device().flush() {
            return self.device_error("a flush failed", &error.into());
        }
        self.may_come_back(self.promised);
        self.forget_versions();
        Ok(())
    }

    /// From here on a cut may bring back this generation with the data of this moment.
    fn may_come_back(&mut self, generation: u64) {
        self.committed.insert(generation, self.snapshot());
        if self.history.is_none() {
            return;
        }
        let (event, snapshot) = (self.volume.device().recorded(), self.snapshot());
        if let Some(history) = &mut self.history {
            history.commits.push(Committed { generation, event, snapshot });
        }
    }

    /// Forgets the data that no commit needs any more. A history needs all of it.
    fn forget_versions(&mut self) {
        if self.history.is_none() {
            let oldest = self.committed.values().map(|c| c.writes).min().unwrap_or(self.writes);
            self.versions.forget_before(oldest);
        }
    }
}
