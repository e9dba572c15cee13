// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A volume and its model in lockstep: every operation is done on both and their answers compared.
//!
//! The volume is driven as the kernel drives it: data is written between `allocate` and
//! `mark_written`, commits overlap with operations, and what works in steps is repeated. It keeps
//! account of the commits that a cut may bring back; [`oracle`](crate::oracle) compares.

mod commit;
mod cut;
mod data;

use crate::cache::Keep;
use crate::device::CacheDevice;
use crate::halt::{Halt, ensure, mismatch};
use crate::history::{Committed, DataVersions, History, Snapshot};
use crate::image::Image;
use crate::model::Model;
use crate::oracle::compare;
use crate::recording::Event;
use std::collections::BTreeMap;
use vexfs::{Commit, Error, Ino, OpenOptions, Time, Volume};

/// How a volume is opened, at first and after every cut.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup {
    /// Bytes of the engine's cache of nodes.
    pub(crate) cache_bytes: usize,
    /// The device ignores every flush.
    pub(crate) ignore_flushes: bool,
}

struct InFlight {
    commit: Commit,
    written: Option<Result<(), Error>>,
}

pub(crate) struct Lockstep {
    pub(crate) volume: Volume<CacheDevice>,
    pub(crate) model: Model,
    /// Seconds of the time that the next operation is given.
    pub(crate) clock: i64,
    setup: Setup,
    /// The commits that a cut may bring back, by generation.
    committed: BTreeMap<u64, Snapshot>,
    /// The newest generation whose root record is known to be durable.
    promised: u64,
    in_flight: Option<InFlight>,
    /// File data since the oldest of these commits; with a history, since that began.
    versions: DataVersions,
    /// Data writes so far.
    writes: u64,
    history: Option<History>,
}

impl Lockstep {
    /// Opens a filesystem as `mkfs` made it.
    pub(crate) fn open(image: Image, setup: Setup) -> Result<Self, Halt> {
        let mut volume = open(image, setup)?;
        let root = volume.resolve(|v| v.inode(Ino::ROOT));
        let root = root.map_err(|e| Halt::Mismatch(format!("no root directory: {e}")))?;
        Ok(Self::new(volume, Model::new(root), setup))
    }

    /// Opens an image that holds what `model` says, and records from here on.
    pub(crate) fn recorded(image: Image, model: Model) -> Result<Self, Halt> {
        let setup = Setup::default();
        let mut lockstep = Self::new(open(image, setup)?, model, setup);
        lockstep.begin_history();
        Ok(lockstep)
    }

    fn new(volume: Volume<CacheDevice>, model: Model, setup: Setup) -> Self {
        let promised = volume.generation().0;
        let snapshot = Snapshot { model: model.clone(), writes: 0 };
        Self {
            volume,
            model,
            clock: 1_700_000_000,
            setup,
            committed: BTreeMap::from([(promised, snapshot)]),
            promised,
            in_flight: None,
            versions: DataVersions::default(),
            writes: 0,
            history: None,
        }
    }

    /// Begins a recording and a history from here on. Nothing may be uncommitted.
    pub(crate) fn begin_history(&mut self) {
        let device = self.volume.device();
        let _ = device.take_record();
        device.record();
        let (generation, snapshot) = (self.promised, self.snapshot());
        self.history = Some(History {
            base: device.cut(Keep::All),
            commits: vec![Committed { generation, event: 0, snapshot }],
            promises: vec![(0, self.promised)],
        });
    }

    /// The history so far, if one was begun.
    pub(crate) const fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }

    /// The file data that belongs to the history.
    pub(crate) const fn versions(&self) -> &DataVersions {
        &self.versions
    }

    /// Ends the recording and the history.
    pub(crate) fn into_history(mut self) -> Option<(Vec<Event>, History, DataVersions)> {
        let history = self.history.take()?;
        Some((self.volume.device().take_record(), history, self.versions))
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { model: self.model.clone(), writes: self.writes }
    }

    pub(crate) fn now(&self) -> Time {
        Time { seconds: self.clock, nanos: (self.clock % 1000) as u32 }
    }

    /// Ends the run with an error of the engine, unless a planned fault explains it.
    fn device_error<T>(&self, what: &str, error: &Error) -> Result<T, Halt> {
        if self.volume.device().is_off() || self.volume.device().has_failed() {
            return Err(Halt::Planned);
        }
        Err(Halt::error(what, error))
    }

    /// Runs an operation as a host does. The inner error is the operation's answer.
    pub(crate) fn run<T>(
        &mut self,
        mut op: impl FnMut(&mut Volume<CacheDevice>) -> Result<T, Error>,
    ) -> Result<Result<T, Error>, Halt> {
        for _ in 0..3 {
            let generation = self.volume.running();
            let before = (self.volume.is_dirty(), self.volume.statfs().blocks_free);
            match self.volume.resolve(&mut op) {
                Err(Error::NeedCommit) => {
                    let after = (self.volume.is_dirty(), self.volume.statfs().blocks_free);
                    ensure!(
                        generation == self.volume.running() && before == after,
                        "an operation that needs a commit changed something"
                    );
                    self.commit()?;
                }
                Err(e @ (Error::Device(_) | Error::Dead | Error::Corrupt(_) | Error::Miss(_))) => {
                    return self.device_error("an operation failed", &e);
                }
                other => return Ok(other),
            }
        }
        Ok(Err(Error::NoSpace))
    }

    /// Runs an operation that must succeed, even on a full filesystem.
    pub(crate) fn must<T>(
        &mut self,
        what: &str,
        op: impl FnMut(&mut Volume<CacheDevice>) -> Result<T, Error>,
    ) -> Result<T, Halt> {
        match self.run(op)? {
            Ok(value) => Ok(value),
            Err(error) => {
                let s = self.volume.statfs();
                mismatch(format!(
                    "{what} failed: {error} ({} of {} blocks free)",
                    s.blocks_free, s.blocks
                ))
            }
        }
    }

    /// Compares the running state with the model.
    pub(crate) fn compare(&mut self) -> Result<(), Halt> {
        let result = compare(&mut self.volume, &mut self.model, &|_| false);
        let device = self.volume.device();
        if result.is_err() && (device.is_off() || device.has_failed()) {
            return Err(Halt::Planned);
        }
        result
    }
}

fn open(image: Image, setup: Setup) -> Result<Volume<CacheDevice>, Halt> {
    let options = OpenOptions { cache_bytes: setup.cache_bytes, ..OpenOptions::default() };
    let device = CacheDevice::new(image);
    device.ignore_flushes(setup.ignore_flushes);
    Volume::open(device, &options)
        .map_err(|e| Halt::Mismatch(format!("the filesystem does not open: {e}")))
}
