// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where every small workload begins: running it from there, exploring it, and making it shorter while
//! it still fails.

use super::ops::{self, SETUP};
use super::script::Script;
use crate::cache::Keep;
use crate::explore::model_judge::ModelJudge;
use crate::explore::{Chosen, Explored, Failure, Limits, PointTally, Verdict, explore, replay};
use crate::formatted::{formatted, mkfs_options};
use crate::halt::Halt;
use crate::history::{DataVersions, History};
use crate::image::Image;
use crate::lockstep::{Lockstep, Setup};
use crate::model::Model;
use crate::recording::Recording;
use vexfs::Time;

/// An image with a small tree, and the model of it.
pub struct Fixture {
    pub(super) image: Image,
    pub(super) model: Model,
}

/// A workload that ran: its recording, and all that is needed to judge its states.
pub struct RecordedRun {
    recording: Recording,
    history: History,
    versions: DataVersions,
}

impl Fixture {
    /// Makes one of `bytes` bytes.
    ///
    /// # Errors
    /// What the engine did wrong.
    pub fn new(bytes: u64) -> Result<Self, String> {
        let image = formatted(&mkfs_options(bytes)).map_err(|e| format!("mkfs: {e}"))?;
        let mut lockstep = Lockstep::open(image, Setup::default()).map_err(Halt::text)?;
        for (number, op) in SETUP.iter().enumerate() {
            ops::run(&mut lockstep, *op, 1000 + number as u64).map_err(Halt::text)?;
        }
        Ok(Self { image: lockstep.volume.device().cut(Keep::None), model: lockstep.model })
    }

    /// The fixture's filesystem, recorded from here on.
    pub(super) fn begin(&self) -> Result<Lockstep, Halt> {
        Lockstep::recorded(self.image.clone(), self.model.clone())
    }

    /// Runs a script and records it.
    ///
    /// # Errors
    /// If the engine and the model disagree even without a cut.
    pub fn run(&self, script: &Script) -> Result<RecordedRun, String> {
        let mut lockstep = self.begin().map_err(Halt::text)?;
        for (number, (name, op)) in script.steps.iter().enumerate() {
            let done = ops::run(&mut lockstep, *op, number as u64);
            done.map_err(|halt| format!("{name}: {}", halt.text()))?;
        }
        let (events, history, versions) = lockstep.into_history().ok_or("nothing was recorded")?;
        let recording = Recording { base: self.image.clone(), events };
        Ok(RecordedRun { recording, history, versions })
    }

    /// Runs a script and explores it. Wrong states are counted in `explored`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn explore(
        &self,
        script: &Script,
        limits: &Limits,
        explored: &mut Explored,
        each: &mut dyn FnMut(&PointTally) -> bool,
    ) -> Result<(), String> {
        self.run(script)?.explore(limits, explored, each);
        Ok(())
    }

    /// The shortest part of a script that still fails, and a failure of it; [`None`] if it does not
    /// fail. Steps are taken away one at a time until each one left is needed.
    #[must_use]
    pub fn shortest(&self, script: &Script, limits: &Limits) -> Option<(Script, Failure)> {
        let failing = |script: &Script| -> Option<Failure> {
            let mut explored = Explored::default();
            match self.explore(script, limits, &mut explored, &mut |tally| tally.failed == 0) {
                Ok(()) => explored.failures.into_iter().next(),
                Err(what) => Some(Failure { event: 0, chosen: Chosen::default(), what }),
            }
        };
        let mut best = (script.clone(), failing(script)?);
        let mut at = best.0.steps.len();
        while at > 0 {
            at -= 1;
            let mut shorter = best.0.clone();
            shorter.steps.remove(at);
            if let Some(failure) = failing(&shorter) {
                best = (shorter, failure);
                at = best.0.steps.len();
            }
        }
        Some(best)
    }
}

impl RecordedRun {
    fn judge(&self) -> ModelJudge<'_> {
        ModelJudge::new(&self.history, &self.versions, Time { seconds: 1_800_000_000, nanos: 0 })
    }

    /// The recording.
    #[must_use]
    pub const fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Explores every state that a cut may leave of it.
    pub fn explore(
        &self,
        limits: &Limits,
        explored: &mut Explored,
        each: &mut dyn FnMut(&PointTally) -> bool,
    ) {
        explore(&self.recording, &self.judge(), limits, explored, each);
    }

    /// Judges one state; [`None`] if power cannot go after `event` events.
    #[must_use]
    pub fn replay(&self, event: usize, chosen: &Chosen) -> Option<Verdict> {
        replay(&self.recording, &self.judge(), event, chosen)
    }
}
