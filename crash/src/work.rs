// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A volume and its model, driven side by side as the kernel drives the engine: data is written
//! between `allocate` and `mark_written`, commits overlap with operations, steps are repeated.
//!
//! It knows which commits a cut may bring back, and hands each to the oracle.

use crate::cache::Keep;
use crate::device::{CacheDevice, Effect, Fault, On};
use crate::image::{Image, SECTOR, Sector};
use crate::model::{BLOCK, Block, Model};
use crate::oracle::{assert_clean, compare};
use crate::recording::Event;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use vexfs::{
    Commit, Device, Error, FileBlock, Ino, MappingKind, OpenOptions, Progress, Time, Volume,
};

/// Why a run stops where it is.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The power is off, as was planned.
    Power,
    /// The engine and the model disagree.
    Wrong(String),
    /// The engine says what is wrong with the medium.
    Found(String),
}

impl Stop {
    /// An error of the engine where there should be none.
    pub(crate) fn error(what: &str, error: &Error) -> Self {
        let text = format!("{what}: {error}");
        match error {
            Error::Corrupt(_) | Error::NoRoot | Error::NotVexfs | Error::Truncated { .. } => {
                Self::Found(text)
            }
            _ => Self::Wrong(text),
        }
    }

    /// What there is to say.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Power => "the power went at the wrong time".into(),
            Self::Wrong(text) | Self::Found(text) => text,
        }
    }
}

pub(crate) type Run<T> = Result<T, Stop>;

/// A finding with its place in the sentence.
pub(crate) fn wrong<T>(text: impl Into<String>) -> Run<T> {
    Err(Stop::Wrong(text.into()))
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return crate::work::wrong(format!($($message)*));
        }
    };
}
pub(crate) use ensure;

/// A version of a sector that a file's data had.
pub(crate) struct Version {
    /// Number of the write.
    pub(crate) at: u64,
    /// Events recorded before it.
    pub(crate) event: usize,
    pub(crate) ino: u64,
    pub(crate) block: u64,
    pub(crate) data: Sector,
}

/// A commit that may be recovered: the model at its freeze, and how many writes there were before.
struct Committed {
    model: Model,
    writes: u64,
}

/// A commit as the explorer holds states against it.
pub(crate) struct Past {
    pub(crate) generation: u64,
    /// Events recorded before it could be recovered in this form.
    pub(crate) event: usize,
    pub(crate) model: Model,
    pub(crate) writes: u64,
}

/// Versions by sector.
pub(crate) type Versions = HashMap<u64, Vec<Version>>;

/// All that a [`World`] knew at any time, by the number of events recorded until then.
pub(crate) struct History {
    /// What the device held when it began, all of it durable.
    pub(crate) base: Image,
    pub(crate) commits: Vec<Past>,
    /// From this event on this generation is the oldest that may come back.
    pub(crate) promises: Vec<(usize, u64)>,
}

struct InFlight {
    commit: Commit,
    written: Option<Result<(), Error>>,
}

pub(crate) struct World {
    pub(crate) volume: Volume<CacheDevice>,
    pub(crate) model: Model,
    pub(crate) clock: i64,
    cache_bytes: usize,
    lies: bool,
    committed: BTreeMap<u64, Committed>,
    /// The newest generation whose root record is known to be durable.
    promised: u64,
    in_flight: Option<InFlight>,
    /// Versions of each sector since the oldest commit that may be recovered.
    versions: Versions,
    writes: u64,
    /// Nothing is forgotten while there is one.
    history: Option<History>,
}

pub(crate) const fn sector_of(block: u64, index: usize) -> u64 {
    block * (BLOCK / SECTOR) as u64 + index as u64
}

impl World {
    pub(crate) fn open(image: Image, cache_bytes: usize, lies: bool) -> Run<Self> {
        let mut volume = open(image, cache_bytes, lies)?;
        let root = volume.resolve(|v| v.inode(Ino::ROOT));
        let root = root.map_err(|e| Stop::Wrong(format!("no root directory: {e}")))?;
        Ok(Self::new(volume, Model::new(root), cache_bytes, lies))
    }

    /// Opens an image that holds what `model` says, and records from here on.
    pub(crate) fn recorded(image: Image, model: Model) -> Run<Self> {
        let mut world = Self::new(open(image, 0, false)?, model, 0, false);
        world.begin_history();
        Ok(world)
    }

    /// Remembers everything from here on. Nothing may be uncommitted.
    pub(crate) fn begin_history(&mut self) {
        let device = self.volume.device();
        let _ = device.take_record();
        device.record();
        let (model, generation) = (self.model.clone(), self.promised);
        self.history = Some(History {
            base: device.cut(Keep::All),
            commits: vec![Past { generation, event: 0, model, writes: self.writes }],
            promises: vec![(0, self.promised)],
        });
    }

    /// Everything in place since the history began.
    pub(crate) const fn versions(&self) -> &Versions {
        &self.versions
    }

    /// What happened since, so far.
    pub(crate) const fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }

    /// Ends the recording.
    pub(crate) fn into_history(mut self) -> Option<(Vec<Event>, History, Versions)> {
        let history = self.history.take()?;
        Some((self.volume.device().take_record(), history, self.versions))
    }

    fn new(volume: Volume<CacheDevice>, model: Model, cache_bytes: usize, lies: bool) -> Self {
        let promised = volume.generation().0;
        let committed = Committed { model: model.clone(), writes: 0 };
        Self {
            volume,
            model,
            clock: 1_700_000_000,
            cache_bytes,
            lies,
            committed: BTreeMap::from([(promised, committed)]),
            promised,
            in_flight: None,
            versions: HashMap::new(),
            writes: 0,
            history: None,
        }
    }

    /// Takes note, for the explorer, of a commit that may come back from here on.
    fn remember(&mut self, generation: u64) {
        let event = self.volume.device().recorded();
        if let Some(history) = &mut self.history {
            let (model, writes) = (self.model.clone(), self.writes);
            history.commits.push(Past { generation, event, model, writes });
        }
    }

    pub(crate) fn now(&self) -> Time {
        Time { seconds: self.clock, nanos: (self.clock % 1000) as u32 }
    }

    /// An error that a planned fault explains, or a finding.
    fn device_error<T>(&self, what: &str, error: &Error) -> Run<T> {
        if self.volume.device().is_off() || self.volume.device().has_failed() {
            return Err(Stop::Power);
        }
        Err(Stop::error(what, error))
    }

    /// Runs an operation as a host does; the outer error ends the run.
    pub(crate) fn run<T>(
        &mut self,
        mut op: impl FnMut(&mut Volume<CacheDevice>) -> Result<T, Error>,
    ) -> Run<Result<T, Error>> {
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

    /// The same for what must always work.
    pub(crate) fn must<T>(
        &mut self,
        what: &str,
        op: impl FnMut(&mut Volume<CacheDevice>) -> Result<T, Error>,
    ) -> Run<T> {
        match self.run(op)? {
            Ok(value) => Ok(value),
            Err(error) => {
                let s = self.volume.statfs();
                wrong(format!(
                    "{what} failed: {error} ({} of {} blocks free)",
                    s.blocks_free, s.blocks
                ))
            }
        }
    }

    // --- commits ---

    /// Freezes, if nothing is in flight and something was changed.
    pub(crate) fn freeze(&mut self) -> Run<()> {
        if self.in_flight.is_some() {
            return Ok(());
        }
        let now = self.now();
        let commit = match self.volume.resolve(|v| v.freeze(now)) {
            Ok(Some(commit)) => commit,
            Ok(None) => return Ok(()),
            Err(error) => return self.device_error("a freeze failed", &error),
        };
        let committed = Committed { model: self.model.clone(), writes: self.writes };
        self.committed.insert(commit.generation().0, committed);
        self.remember(commit.generation().0);
        self.in_flight = Some(InFlight { commit, written: None });
        Ok(())
    }

    /// Writes the commit in flight.
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

    pub(crate) fn finish(&mut self) -> Run<()> {
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

    fn forget_versions(&mut self) {
        if self.history.is_some() {
            return;
        }
        let oldest = self.committed.values().map(|c| c.writes).min().unwrap_or(self.writes);
        self.versions.retain(|_, versions| {
            versions.retain(|version| version.at >= oldest);
            !versions.is_empty()
        });
    }

    /// A whole commit; the one in flight first.
    pub(crate) fn commit(&mut self) -> Run<()> {
        self.finish()?;
        self.freeze()?;
        self.finish()
    }

    /// `fsync` of data that needs no transaction: after it the data itself is promised.
    pub(crate) fn flush(&mut self) -> Run<()> {
        if self.volume.is_dirty() || self.in_flight.is_some() {
            return self.commit();
        }
        if let Err(error) = self.volume.device().flush() {
            return self.device_error("a flush failed", &error.into());
        }
        let committed = Committed { model: self.model.clone(), writes: self.writes };
        self.committed.insert(self.promised, committed);
        self.remember(self.promised);
        self.forget_versions();
        Ok(())
    }

    // --- data ---

    fn write_sectors(
        &mut self,
        ino: u64,
        block: u64,
        at: u64,
        data: &Block,
        sectors: std::ops::Range<usize>,
    ) -> Run<()> {
        for index in sectors.clone() {
            let mut sector = [0; SECTOR];
            sector.copy_from_slice(Model::sector(data, index));
            let event = self.volume.device().recorded();
            let version = Version { at: self.writes, event, ino, block, data: sector };
            self.versions.entry(sector_of(at, index)).or_default().push(version);
        }
        self.writes += 1;
        let bytes = &data[sectors.start * SECTOR..sectors.end * SECTOR];
        let byte = sector_of(at, sectors.start) * SECTOR as u64;
        match self.volume.device().write(byte, bytes) {
            Ok(()) => Ok(()),
            Err(error) => self.device_error("a write failed", &error.into()),
        }
    }

    /// Zeroes on the device what lies behind byte `from` of its block: a cut may have left there what
    /// was written but never committed, or a shrinking file's old data.
    pub(crate) fn zero_tail(&mut self, ino: u64, from: u64) -> Run<()> {
        let (block, within) = (from / BLOCK as u64, (from % BLOCK as u64) as usize);
        if within == 0 {
            return Ok(());
        }
        let mapping = self.must("map", |v| v.map(Ino(ino), FileBlock(block), 1))?;
        let MappingKind::Written(at) = mapping.kind else { return Ok(()) };
        let mut data = self.model.block(ino, block);
        data[within..].fill(0);
        self.write_sectors(ino, block, at.0, &data, within / SECTOR..BLOCK / SECTOR)?;
        if let Some(old) = self.model.get_mut(ino).ok().and_then(|n| n.data.get_mut(&block)) {
            *Arc::make_mut(old) = data;
        }
        Ok(())
    }

    /// Writes `data` at byte `offset`, each mapping marked by itself or, with `batch`, all at the end.
    /// Returns false if the space ran out on the way.
    pub(crate) fn write(&mut self, ino: u64, offset: u64, data: &[u8], batch: bool) -> Run<bool> {
        let size = self.model.get(ino).map_or(0, |n| n.attr.size);
        let end = offset + data.len() as u64;
        if end > size {
            self.zero_tail(ino, size)?;
        }
        let (first, last) = (offset / BLOCK as u64, end.div_ceil(BLOCK as u64));
        let mut at = first;
        let mut fresh: BTreeMap<u64, Block> = BTreeMap::new();
        while at < last {
            let mapping = match self.run(|v| v.allocate(Ino(ino), FileBlock(at), last - at))? {
                Ok(mapping) => mapping,
                Err(Error::NoSpace) => {
                    self.mark(ino, first, at, &mut fresh, None)?;
                    return Ok(false);
                }
                Err(error) => return wrong(format!("allocate: {error}")),
            };
            let (start, written) = match mapping.kind {
                MappingKind::Written(start) => (start.0, true),
                MappingKind::Unwritten(start) => (start.0, false),
                MappingKind::Hole => return wrong("allocate left a hole"),
            };
            ensure!(mapping.count > 0, "allocate gave an empty mapping");
            let until = (at + mapping.count).min(last);
            if let Ok(node) = self.model.get_mut(ino) {
                ensure!(
                    written == node.data.contains_key(&at),
                    "inode {ino} block {at}: written is {written}, the model says otherwise"
                );
                node.held.extend(at..until);
            }
            for block in at..until {
                let mut contents = fresh.get(&block).copied();
                let mut contents = *contents.get_or_insert_with(|| self.model.block(ino, block));
                let base = block * BLOCK as u64;
                let from = offset.max(base) - base;
                let to = end.min(base + BLOCK as u64) - base;
                let source = (base + from - offset) as usize;
                let len = (to - from) as usize;
                contents[from as usize..to as usize].copy_from_slice(&data[source..source + len]);
                let sectors = if written {
                    from as usize / SECTOR..(to as usize).div_ceil(SECTOR)
                } else {
                    0..BLOCK / SECTOR
                };
                self.write_sectors(ino, block, start + (block - at), &contents, sectors)?;
                if written {
                    if let Ok(node) = self.model.get_mut(ino) {
                        node.data.insert(block, Arc::new(contents));
                    }
                } else {
                    fresh.insert(block, contents);
                }
            }
            if !batch {
                let size = end.min(until * BLOCK as u64);
                self.mark(ino, at, until, &mut fresh, Some(size))?;
            }
            at = until;
        }
        if batch {
            self.mark(ino, first, last, &mut fresh, Some(end))?;
        }
        Ok(true)
    }

    /// Allocates blocks and writes nothing. Returns false if the space ran out on the way.
    pub(crate) fn preallocate(&mut self, ino: u64, from: u64, count: u64) -> Run<bool> {
        let (mut at, end) = (from, from + count);
        while at < end {
            let mapping = match self.run(|v| v.allocate(Ino(ino), FileBlock(at), end - at))? {
                Ok(mapping) => mapping,
                Err(Error::NoSpace) => return Ok(false),
                Err(error) => return wrong(format!("allocate: {error}")),
            };
            ensure!(mapping.kind != MappingKind::Hole, "allocate left a hole");
            ensure!((1..=end - at).contains(&mapping.count), "allocate gave {mapping:?}");
            if let Ok(node) = self.model.get_mut(ino) {
                node.held.extend(at..at + mapping.count);
            }
            at += mapping.count;
        }
        Ok(true)
    }

    fn mark(
        &mut self,
        ino: u64,
        from: u64,
        to: u64,
        fresh: &mut BTreeMap<u64, Block>,
        size: Option<u64>,
    ) -> Run<()> {
        if from == to {
            return Ok(());
        }
        let now = self.now();
        // What fitted of a write that failed: its blocks count, the file ends where they do.
        let size = size.unwrap_or(to * BLOCK as u64);
        loop {
            let progress = self.must("mark_written", |v| {
                v.mark_written(Ino(ino), FileBlock(from), to - from, Some(size), Some(now))
            })?;
            let mut pending = std::mem::take(fresh);
            if progress == Progress::More {
                let blocks: Vec<u64> = pending.keys().copied().collect();
                for block in blocks {
                    let mapping = self.must("map", |v| v.map(Ino(ino), FileBlock(block), 1))?;
                    if !matches!(mapping.kind, MappingKind::Written(_))
                        && let Some(contents) = pending.remove(&block)
                    {
                        fresh.insert(block, contents);
                    }
                }
            }
            let Ok(node) = self.model.get_mut(ino) else { return wrong("mark of nothing") };
            let reached = pending.keys().last().map_or(0, |last| (last + 1) * BLOCK as u64);
            node.data.extend(pending.into_iter().map(|(block, data)| (block, Arc::new(data))));
            node.attr.mtime = now;
            node.attr.ctime = now;
            if progress == Progress::Done {
                node.attr.size = node.attr.size.max(size);
                return Ok(());
            }
            node.attr.size = node.attr.size.max(size.min(reached));
        }
    }

    /// Changes a file's size as a host does.
    pub(crate) fn truncate(&mut self, ino: u64, size: u64) -> Run<()> {
        let old = self.model.get(ino).map_or(0, |n| n.attr.size);
        self.zero_tail(ino, size.min(old))?;
        let now = self.now();
        let mut first = true;
        loop {
            let progress = self.must("set_size", |v| v.set_size(Ino(ino), size, now))?;
            if first && let Err(error) = self.model.set_size(ino, size, now) {
                return wrong(format!("set_size worked where the model says {error}"));
            }
            first = false;
            if let Ok(node) = self.model.get_mut(ino) {
                node.dying = progress == Progress::More;
            }
            if progress == Progress::Done {
                return Ok(());
            }
        }
    }

    pub(crate) fn punch(&mut self, ino: u64, from: u64, count: u64) -> Run<()> {
        let now = self.now();
        for _ in 0..100_000 {
            let progress =
                self.must("punch", |v| v.punch(Ino(ino), FileBlock(from), count, Some(now)))?;
            let left = self.held(ino, from, from + count)?;
            let Ok(node) = self.model.get_mut(ino) else { return wrong("punch of nothing") };
            let before = node.held.range(from..from + count).count();
            node.held.retain(|b| !(from..from + count).contains(b) || left.contains(b));
            let held = &node.held;
            node.data.retain(|b, _| held.contains(b));
            if before > 0 {
                node.attr.mtime = now;
                node.attr.ctime = now;
            }
            if progress == Progress::Done {
                ensure!(left.is_empty(), "a punched range holds {} blocks", left.len());
                return Ok(());
            }
        }
        wrong("a punch does not end")
    }

    /// Blocks of a range that are not holes.
    fn held(&mut self, ino: u64, from: u64, to: u64) -> Run<BTreeSet<u64>> {
        let mut held = BTreeSet::new();
        let mut at = from;
        while at < to {
            let part = self.must("map", |v| v.map(Ino(ino), FileBlock(at), to - at))?;
            if part.kind != MappingKind::Hole {
                held.extend(at..at + part.count);
            }
            at += part.count.max(1);
        }
        Ok(held)
    }

    /// Removes an inode without a name.
    pub(crate) fn evict(&mut self, ino: u64) -> Run<()> {
        for _ in 0..100_000 {
            // Whatever a step does, a commit from here on may hold it half done.
            if let Ok(node) = self.model.get_mut(ino) {
                node.dying = true;
            }
            if self.must("evict", |v| v.evict(Ino(ino)))? == Progress::Done {
                self.model.nodes.remove(&ino);
                return Ok(());
            }
        }
        wrong("an eviction does not end")
    }

    // --- cuts ---

    /// Plans the power to go in the midst of the `nth` request from now.
    pub(crate) fn plan_power_off(&self, nth: u64) {
        self.volume.device().fault(Fault::nth(On::Any, nth, Effect::PowerOff));
    }

    /// Cuts the power, holds every image that `keeps` leave against the oracle, goes on with the last.
    pub(crate) fn cut(&mut self, keeps: &[Keep]) -> Run<()> {
        for (index, keep) in keeps.iter().enumerate() {
            let image = self.volume.device().cut(*keep);
            let (volume, model) = self.recover(image).map_err(|stop| {
                Stop::Wrong(format!("after a cut with {keep:?}: {}", stop.text()))
            })?;
            if index + 1 == keeps.len() {
                self.volume = volume;
                self.model = model;
            }
        }
        self.in_flight = None;
        self.versions.clear();
        self.promised = self.volume.generation().0;
        let committed = Committed { model: self.model.clone(), writes: self.writes };
        self.committed = BTreeMap::from([(self.promised, committed)]);
        if self.history.is_some() {
            self.begin_history();
        }
        Ok(())
    }

    /// Whether a sector may hold a version written since a commit with so many writes before it.
    pub(crate) fn may_hold(&self, since: u64, at: u64, ino: u64, block: u64, data: &[u8]) -> bool {
        self.versions.get(&at).is_some_and(|versions| {
            let since = versions.iter().filter(|v| v.at >= since);
            since.into_iter().any(|v| v.ino == ino && v.block == block && v.data == *data)
        })
    }

    fn recover(&self, image: Image) -> Run<(Volume<CacheDevice>, Model)> {
        assert_clean(&image)?;
        let mut volume = open(image, self.cache_bytes, self.lies)?;
        let generation = volume.generation().0;
        ensure!(
            generation >= self.promised,
            "generation {generation} came back, {} was promised",
            self.promised
        );
        let Some(committed) = self.committed.get(&generation) else {
            return wrong(format!("generation {generation} was never committed"));
        };
        let mut model = committed.model.clone();
        let allowed = |at: u64, ino: u64, block: u64, data: &[u8]| {
            self.may_hold(committed.writes, at, ino, block, data)
        };
        compare(&mut volume, &mut model, &allowed)?;
        let now = self.now();
        volume.evict_orphans(now).map_err(|e| Stop::Wrong(format!("evicting orphans: {e}")))?;
        model.settle();
        compare(&mut volume, &mut model, &|_, _, _, _| false)?;
        volume.commit(now).map_err(|e| Stop::Wrong(format!("the first commit: {e}")))?;
        assert_clean(&volume.device().cut(Keep::None))?;
        Ok((volume, model))
    }

    /// Holds the running state against the model.
    pub(crate) fn compare(&mut self) -> Run<()> {
        let result = compare(&mut self.volume, &mut self.model, &|_, _, _, _| false);
        let device = self.volume.device();
        if result.is_err() && (device.is_off() || device.has_failed()) {
            return Err(Stop::Power);
        }
        result
    }
}

fn open(image: Image, cache_bytes: usize, lies: bool) -> Run<Volume<CacheDevice>> {
    let options = OpenOptions { cache_bytes, ..OpenOptions::default() };
    let device = CacheDevice::new(image);
    device.ignore_flushes(lies);
    Volume::open(device, &options)
        .map_err(|e| Stop::Wrong(format!("the filesystem does not open: {e}")))
}
