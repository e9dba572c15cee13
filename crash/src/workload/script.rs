// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A small workload: its text, running it, exploring it, and making it shorter while it still fails.

use super::ops::{self, Op, SETUP};
use super::{damage, follow, format, steps};
use crate::cache::Keep;
use crate::device::CacheDevice;
use crate::explore::judge::ModelJudge;
use crate::explore::{Chosen, Explored, Failure, Limits, PointTally, Verdict, explore, replay};
use crate::image::Image;
use crate::model::{BLOCK, Model};
use crate::recording::Recording;
use crate::work::{History, Stop, Versions, World};
use std::fmt;
use std::str::FromStr;
use vexfs::{MkfsOptions, Time, mkfs};

/// Operations and synchronisations, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub(super) steps: Vec<(&'static str, Op)>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.steps.iter().map(|(name, _)| *name).collect();
        f.write_str(&names.join("; "))
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        let steps: Result<_, _> = parts
            .map(|part| ops::named(part).ok_or_else(|| format!("'{part}' is no operation here")))
            .collect();
        Ok(Self { steps: steps? })
    }
}

/// Where every script begins: an image with a small tree, and the model of it.
pub struct Fixture {
    pub(super) image: Image,
    pub(super) model: Model,
}

/// A script that ran, and all that is known of it.
pub struct Ran {
    recording: Recording,
    history: History,
    versions: Versions,
}

impl Fixture {
    /// Makes one of `bytes` bytes.
    ///
    /// # Errors
    /// What the engine did wrong.
    pub fn new(bytes: u64) -> Result<Self, String> {
        let device = CacheDevice::new(Image::new(bytes));
        let options = MkfsOptions {
            bytes,
            block_bytes: BLOCK as u32,
            label: b"explored",
            uuid: [7; 16],
            hash_key: [9; 16],
            now: Time { seconds: 1_600_000_000, nanos: 1 },
            root_uid: 0,
            root_gid: 0,
        };
        mkfs(&device, &options).map_err(|e| format!("mkfs: {e}"))?;
        let mut world = World::open(device.cut(Keep::None), 0, false).map_err(Stop::text)?;
        for (number, op) in SETUP.iter().enumerate() {
            ops::run(&mut world, *op, 1000 + number as u64).map_err(Stop::text)?;
        }
        Ok(Self { image: world.volume.device().cut(Keep::None), model: world.model })
    }

    /// Runs a script and records it.
    ///
    /// # Errors
    /// Where the engine and the model disagree already without a cut.
    pub fn run(&self, script: &Script) -> Result<Ran, String> {
        let mut world =
            World::recorded(self.image.clone(), self.model.clone()).map_err(Stop::text)?;
        for (number, (name, op)) in script.steps.iter().enumerate() {
            let done = ops::run(&mut world, *op, number as u64);
            done.map_err(|stop| format!("{name}: {}", stop.text()))?;
        }
        let (events, history, versions) = world.into_history().ok_or("nothing was recorded")?;
        Ok(Ran { recording: Recording { base: self.image.clone(), events }, history, versions })
    }

    /// Runs a script and explores it.
    ///
    /// # Errors
    /// As [`run`](Self::run). Wrong states are counted in `explored`.
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

    /// Explores what a cut leaves while a new filesystem is made over this one.
    pub fn explore_mkfs(&self, limits: &Limits, explored: &mut Explored) -> Result<(), String> {
        format::run(self, limits, explored)
    }

    /// Flips `times` bits in each structure of a commit; returns the states judged.
    ///
    /// # Errors
    /// What the engine did not notice.
    pub fn damage(&self, seed: u64, times: u64) -> Result<u64, String> {
        damage::run(self, seed, times).map_err(Stop::text)
    }

    /// Cuts the power after each step of what works in steps; returns the cuts.
    ///
    /// # Errors
    /// What was left half done.
    pub fn steps(&self) -> Result<u64, String> {
        steps::run(self).map_err(Stop::text)
    }

    /// Follows so many commits of random operations; returns how often a follower was behind.
    ///
    /// # Errors
    /// What a follower was not told, or wrongly.
    pub fn follow(&self, seed: u64, commits: u64) -> Result<u64, String> {
        follow::run(self, seed, commits).map_err(Stop::text)
    }

    /// The shortest part of a script that still fails, and a failure of it.
    ///
    /// Steps are taken away one at a time until none can be missed.
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

impl Ran {
    fn judge(&self) -> ModelJudge<'_> {
        ModelJudge::new(&self.history, &self.versions, Time { seconds: 1_800_000_000, nanos: 0 })
    }

    /// What the device was asked to do.
    #[must_use]
    pub const fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Explores it.
    pub fn explore(
        &self,
        limits: &Limits,
        explored: &mut Explored,
        each: &mut dyn FnMut(&PointTally) -> bool,
    ) {
        explore(&self.recording, &self.judge(), limits, explored, each);
    }

    /// Judges one state; [`None`] if there is no point after `event` events.
    #[must_use]
    pub fn replay(&self, event: usize, chosen: &Chosen) -> Option<Verdict> {
        replay(&self.recording, &self.judge(), event, chosen)
    }
}
