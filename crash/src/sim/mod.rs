// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The simulator: random operations on the engine and the model in lockstep, with commits that overlap
//! them, full filesystems, faults, power cuts in the midst of any request, and reopenings.
//!
//! A run follows from its seed; a failure names it and the step.

mod options;
mod random;

pub use options::{Options, Outcome};

use crate::cache::Keep;
use crate::device::{Effect, Fault, On};
use crate::explore::model_judge::ModelJudge;
use crate::explore::{Explored, Limits, explore};
use crate::formatted::{formatted, mkfs_options};
use crate::halt::{Halt, mismatch};
use crate::lockstep::{Lockstep, Setup};
use crate::recording::Recording;
use crate::rng::Rng;
use crate::silent::SilentFault;
use random::RandomOps;
use vexfs::MkfsOptions;

/// Runs a simulation.
///
/// # Errors
/// What the engine did wrong, with the seed and the step that show it.
pub fn simulate(options: &Options) -> Result<Outcome, String> {
    simulate_each(options, &mut |_| {})
}

/// Runs a simulation and calls `each` with a hash of every state.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_each(options: &Options, each: &mut dyn FnMut(u64)) -> Result<Outcome, String> {
    let mut sim = match Sim::new(options, each) {
        Ok(sim) => sim,
        Err(halt) => return Err(format!("seed {}: {}", options.seed, halt.text())),
    };
    for step in 0..options.steps {
        if let Err(halt) = sim.step() {
            let did = sim.ops.doing;
            return Err(format!(
                "seed {} step {step} ({did}): {} [{options:?}]",
                options.seed,
                halt.text()
            ));
        }
        sim.outcome.steps += 1;
    }
    sim.end().map_err(|halt| {
        format!(
            "seed {} at the end ({}): {} [{options:?}]",
            options.seed,
            sim.ops.doing,
            halt.text()
        )
    })?;
    let (full, generations) = (sim.ops.refused, sim.ops.generations);
    Ok(Outcome { full, generations, ..sim.outcome })
}

struct Sim<'a> {
    ops: RandomOps,
    options: Options,
    outcome: Outcome,
    each: &'a mut dyn FnMut(u64),
}

/// Larger images are cut but not explored, because every point copies a list of all pages.
const EXPLORED_BYTES: u64 = 4 << 20;
/// How much of each point is explored. A random run has many points, each much like the one before.
const EXPLORED: Limits = Limits { writes: 10, samples: 512, torn: 128, seed: 0, no_memo: false };

impl<'a> Sim<'a> {
    fn new(options: &Options, each: &'a mut dyn FnMut(u64)) -> Result<Self, Halt> {
        let hash_key = options.seed.to_le_bytes().repeat(2).try_into().unwrap_or([0; 16]);
        let image = formatted(&MkfsOptions { hash_key, ..mkfs_options(options.image_bytes) });
        let image = image.map_err(|e| Halt::Mismatch(format!("mkfs: {e}")))?;
        let setup =
            Setup { cache_bytes: options.cache_bytes, ignore_flushes: options.ignore_flushes };
        let mut lockstep = Lockstep::open(image, setup)?;
        // The history is explored at every cut, and begins anew.
        if options.faults && options.cut_every > 0 {
            lockstep.begin_history();
        }
        let ops = RandomOps::new(lockstep, options);
        Ok(Self { ops, options: *options, outcome: Outcome::default(), each })
    }

    fn step(&mut self) -> Result<(), Halt> {
        self.ops.lockstep.clock += 1;
        let o = self.options;
        let device = self.ops.lockstep.volume.device();
        if device.is_off() || device.has_failed() {
            return self.cut();
        }
        if o.cut_every > 0 && self.ops.rng.one_in(o.cut_every) {
            // Half of them at once, half in the midst of some later request.
            if self.ops.rng.one_in(2) {
                return self.cut();
            }
            self.ops.lockstep.volume.device().mend();
            let nth = self.ops.rng.below(60);
            if o.faults && self.ops.rng.one_in(3) {
                self.plan_failure(nth);
            } else {
                self.ops.lockstep.plan_power_off(nth);
            }
        }
        match self.ops.run_one() {
            Err(Halt::Planned) => self.cut(),
            other => other,
        }
    }

    /// Explores every moment since the last cut at which the power could have gone as well.
    fn explore(&mut self) -> Result<(), Halt> {
        let o = &self.options;
        let Some(history) = self.ops.lockstep.history().filter(|_| o.image_bytes <= EXPLORED_BYTES)
        else {
            return Ok(());
        };
        let events = self.ops.lockstep.volume.device().events();
        let recording = Recording { base: history.base.clone(), events };
        let judge = ModelJudge::new(history, self.ops.lockstep.versions(), self.ops.lockstep.now());
        let limits = Limits { seed: self.ops.rng.next(), ..EXPLORED };
        let mut explored = Explored::default();
        explore(&recording, &judge, &limits, &mut explored, &mut |point| point.failed == 0);
        self.outcome.states += explored.states;
        self.outcome.evaluations += explored.evaluations;
        // States of different beginnings are different states, even if what was kept is the same.
        let salt = Rng::new(o.seed ^ self.outcome.cuts.rotate_left(32)).next();
        explored.distinct.iter().for_each(|hash| (self.each)(hash ^ salt));
        match explored.failures.first() {
            None => Ok(()),
            Some(f) => {
                mismatch(format!("after {} events with {} kept: {}", f.event, f.chosen, f.what))
            }
        }
    }

    /// Makes a silent fault and judges what comes of it; true if the engine detected it.
    fn silent_fault(&mut self) -> Result<bool, Halt> {
        let lockstep = &self.ops.lockstep;
        let Some(history) = lockstep.history() else { return Ok(false) };
        let events = lockstep.volume.device().events();
        let fault = SilentFault::new(&history.base, &events, &mut self.ops.rng);
        fault.judge(history, lockstep.versions(), &events)
    }

    /// Plans a later request to fail with an error.
    fn plan_failure(&mut self, nth: u64) {
        self.outcome.faults += 1;
        let on = [On::Read, On::Write, On::Flush, On::Any];
        let on = self.ops.rng.pick(&on).copied().unwrap_or(On::Any);
        let errno = if self.ops.rng.one_in(2) { 5 } else { 28 };
        let times = if self.ops.rng.one_in(2) { 1 } else { u64::MAX };
        let fault = Fault { times, ..Fault::nth(on, nth, Effect::Fail(errno)) };
        self.ops.lockstep.volume.device().fault(fault);
    }

    fn end(&mut self) -> Result<(), Halt> {
        if self.ops.lockstep.volume.device().has_failed() {
            self.cut()?;
        }
        self.ops.lockstep.volume.device().mend();
        self.ops.doing = "compare";
        self.ops.lockstep.compare()?;
        self.ops.doing = "commit";
        self.ops.lockstep.commit()?;
        self.cut()?;
        self.ops.remove_everything()
    }

    fn cut(&mut self) -> Result<(), Halt> {
        self.ops.doing = "cut";
        let mut keeps = vec![Keep::None, Keep::All];
        keeps.extend((0..self.options.images_per_cut).map(|_| Keep::Random(self.ops.rng.next())));
        if self.options.images_per_cut < 2 {
            keeps = vec![Keep::Random(self.ops.rng.next())];
        }
        self.outcome.cuts += 1;
        self.outcome.states += keeps.len() as u64;
        self.outcome.evaluations += keeps.len() as u64;
        if self.options.faults {
            for _ in 0..self.options.images_per_cut.min(2) {
                self.outcome.faults += 1;
                self.outcome.states += 1;
                self.outcome.evaluations += 1;
                self.outcome.detected += u64::from(self.silent_fault()?);
            }
        }
        self.explore()?;
        let device = self.ops.lockstep.volume.device();
        for keep in &keeps {
            (self.each)(device.hash_of_cut(*keep) ^ Rng::new(self.options.seed).next());
        }
        self.ops.lockstep.cut(&keeps)
    }
}
