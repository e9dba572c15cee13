// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Compares states with the model of the workload that made them.
//!
//! It only reads, except for what a mount does first, which must work as well.

use super::judge::{Judge, Verdict, open};
use super::state_device::StateDevice;
use crate::halt::{Halt, ensure, mismatch};
use crate::history::{DataVersions, History};
use crate::oracle::{assert_clean, compare};
use vexfs::Time;

pub(crate) struct ModelJudge<'a> {
    history: &'a History,
    versions: &'a DataVersions,
    now: Time,
}

impl<'a> ModelJudge<'a> {
    pub(crate) const fn new(history: &'a History, versions: &'a DataVersions, now: Time) -> Self {
        Self { history, versions, now }
    }

    /// The generation that comes back.
    fn recover(&self, event: usize, device: &StateDevice<'_>) -> Result<u64, Halt> {
        assert_clean(device)?;
        let mut volume = open(device).map_err(Halt::Mismatch)?;
        let generation = volume.generation().0;
        let promised = self.history.promised(event);
        ensure!(
            generation >= promised,
            "generation {generation} came back, {promised} was promised"
        );
        let Some(committed) = self.history.committed(generation, event) else {
            return mismatch(format!("generation {generation} was never committed"));
        };
        let snapshot = &committed.snapshot;
        let mut model = snapshot.model.clone();
        compare(&mut volume, &mut model, &|found| {
            self.versions.may_hold(found, snapshot.writes, event)
        })?;
        // What a mount does first must work, and change nothing that can be seen.
        volume.evict_orphans(self.now).map_err(|e| Halt::error("evicting orphans", &e))?;
        model.finish_removals();
        compare(&mut volume, &mut model, &|_| false)?;
        volume.commit(self.now).map_err(|e| Halt::error("the first commit", &e))?;
        assert_clean(device)?;
        Ok(generation)
    }
}

impl Judge for ModelJudge<'_> {
    fn judge(&self, event: usize, device: &StateDevice<'_>) -> Verdict {
        self.recover(event, device).map_err(Halt::text)
    }
}
