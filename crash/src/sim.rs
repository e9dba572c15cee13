// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The simulator: random operations on the engine and on the model at once, with commits that overlap
//! them, full filesystems, power cuts in the midst of any request, and reopenings.
//!
//! Everything follows from the seed; a failure names it and the step.

use crate::cache::Keep;
use crate::device::{Effect, Fault, On};
use crate::explore::judge::ModelJudge;
use crate::explore::{Explored, Limits, explore};
use crate::image::Image;
use crate::lies;
use crate::model::{BLOCK, same_error};
use crate::recording::Recording;
use crate::rng::Rng;
use crate::work::{Run, Stop, World, ensure, wrong};
use vexfs::{
    Error, Ino, MkfsOptions, NewInode, RenameFlags, SetAttr, Time, VectorLayout, XattrMode, mkfs,
};

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Operations.
    pub steps: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes of the engine's cache of nodes (it keeps at least 64 nodes).
    pub cache_bytes: usize,
    /// One cut in about so many operations; 0 for none.
    pub cut_every: u64,
    /// Images that each cut is resolved to.
    pub images_per_cut: u64,
    /// Longest write in bytes.
    pub write_bytes: u64,
    /// Inodes above which the workload removes more than it makes.
    pub inodes: usize,
    /// The device ignores every flush: the simulator then has to find something wrong.
    pub ignore_flushes: bool,
    /// Devices fail and lie, too: see `lies`.
    pub faults: bool,
}

impl Options {
    /// A small image, cut often.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            steps: 1000,
            image_bytes: 1 << 20,
            cache_bytes: 0,
            cut_every: 20,
            images_per_cut: 3,
            write_bytes: 40_000,
            inodes: 60,
            ignore_flushes: false,
            faults: true,
        }
    }

    /// Small and large images, crowded ones and roomy ones, by the seed.
    #[must_use]
    pub const fn of_seed(seed: u64, steps: u64) -> Self {
        let (image_bytes, inodes) = match seed % 6 {
            0 => (1 << 20, 60),
            1 | 2 => (4 << 20, 60),
            3 => (64 << 20, 2000),
            4 => (1 << 20, 15),
            _ => (1 << 30, 100),
        };
        Self { steps, image_bytes, inodes, ..Self::new(seed) }
    }
}

/// What was simulated.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Operations.
    pub steps: u64,
    /// Cuts.
    pub cuts: u64,
    /// Images opened, checked and compared.
    pub states: u64,
    /// Operations that found no space.
    pub full: u64,
    /// States for which the engine was run; the others agree with one of them on all it read.
    pub evaluations: u64,
    /// Commits begun.
    pub generations: u64,
    /// Requests that failed and devices that lied.
    pub faults: u64,
    /// Lies that the engine found out; the others did no harm.
    pub detected: u64,
}

impl Outcome {
    /// Adds another's.
    pub const fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.cuts += other.cuts;
        self.states += other.states;
        self.full += other.full;
        self.evaluations += other.evaluations;
        self.generations += other.generations;
        self.faults += other.faults;
        self.detected += other.detected;
    }
}

/// Runs a simulation.
///
/// # Errors
/// What the engine did wrong, with the seed and the step that show it.
pub fn simulate(options: &Options) -> Result<Outcome, String> {
    simulate_each(options, &mut |_| {})
}

/// The same; `each` hears a hash of every state.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_each(options: &Options, each: &mut dyn FnMut(u64)) -> Result<Outcome, String> {
    let mut sim = match Sim::new(options, each) {
        Ok(sim) => sim,
        Err(stop) => return Err(format!("seed {}: {}", options.seed, stop.text())),
    };
    for step in 0..options.steps {
        if let Err(stop) = sim.step() {
            let did = sim.doing;
            return Err(format!(
                "seed {} step {step} ({did}): {} [{options:?}]",
                options.seed,
                stop.text()
            ));
        }
        sim.outcome.steps += 1;
    }
    sim.end().map_err(|stop| {
        format!("seed {} at the end ({}): {} [{options:?}]", options.seed, sim.doing, stop.text())
    })?;
    Ok(sim.outcome)
}

struct Sim<'a> {
    world: World,
    rng: Rng,
    options: Options,
    outcome: Outcome,
    doing: &'static str,
    each: &'a mut dyn FnMut(u64),
}

/// Larger images are only cut, for every point of a cut copies a list of all pages.
const EXPLORED_BYTES: u64 = 4 << 20;
/// How much of each point: a workload at random has many, and each is much like the one before.
const EXPLORED: Limits = Limits { writes: 10, samples: 512, torn: 128, seed: 0, no_memo: false };

const NAMES: u64 = 40;
const XATTR_SIZES: [usize; 12] = [0, 1, 20, 500, 600, 640, 641, 1000, 1300, 5000, 20_000, 65_536];

impl<'a> Sim<'a> {
    fn new(options: &Options, each: &'a mut dyn FnMut(u64)) -> Run<Self> {
        let device = crate::CacheDevice::new(Image::new(options.image_bytes));
        let made = mkfs(
            &device,
            &MkfsOptions {
                bytes: options.image_bytes,
                block_bytes: BLOCK as u32,
                label: b"simulated",
                uuid: [7; 16],
                hash_key: options.seed.to_le_bytes().repeat(2).try_into().unwrap_or([0; 16]),
                now: Time { seconds: 1_600_000_000, nanos: 1 },
                root_uid: 0,
                root_gid: 0,
            },
        );
        ensure!(made.is_ok(), "mkfs: {made:?}", made = made.as_ref().err());
        let mut world =
            World::open(device.cut(Keep::None), options.cache_bytes, options.ignore_flushes)?;
        // A history is explored, and forgotten, at every cut.
        if options.faults && options.cut_every > 0 {
            world.begin_history();
        }
        let rng = Rng::new(options.seed);
        let outcome = Outcome::default();
        Ok(Self { world, rng, options: *options, outcome, doing: "mkfs", each })
    }

    fn step(&mut self) -> Run<()> {
        self.world.clock += 1;
        let o = self.options;
        let device = self.world.volume.device();
        if device.is_off() || device.has_failed() {
            return self.cut();
        }
        if o.cut_every > 0 && self.rng.one_in(o.cut_every) {
            // Half of them now, half in the midst of some request to come.
            if self.rng.one_in(2) {
                return self.cut();
            }
            self.world.volume.device().mend();
            let nth = self.rng.below(60);
            if o.faults && self.rng.one_in(3) {
                self.plan_failure(nth);
            } else {
                self.world.plan_power_off(nth);
            }
        }
        match self.operation() {
            Err(Stop::Power) => self.cut(),
            other => other,
        }
    }

    /// Explores every moment since the last cut at which power could have gone instead.
    fn explore(&mut self) -> Run<()> {
        let o = &self.options;
        let Some(history) = self.world.history().filter(|_| o.image_bytes <= EXPLORED_BYTES) else {
            return Ok(());
        };
        let events = self.world.volume.device().events();
        let recording = Recording { base: history.base.clone(), events };
        let judge = ModelJudge::new(history, self.world.versions(), self.world.now());
        let limits = Limits { seed: self.rng.next(), ..EXPLORED };
        let mut explored = Explored::default();
        explore(&recording, &judge, &limits, &mut explored, &mut |point| point.failed == 0);
        self.outcome.states += explored.states;
        self.outcome.evaluations += explored.evaluations;
        // The same difference from another beginning is another state.
        let salt = Rng::new(o.seed ^ self.outcome.cuts.rotate_left(32)).next();
        explored.distinct.iter().for_each(|hash| (self.each)(hash ^ salt));
        match explored.failures.first() {
            None => Ok(()),
            Some(f) => {
                wrong(format!("after {} events with {} kept: {}", f.event, f.chosen, f.what))
            }
        }
    }

    /// A request to come will fail, and whoever asked hears of it.
    fn plan_failure(&mut self, nth: u64) {
        self.outcome.faults += 1;
        let on = [On::Read, On::Write, On::Flush, On::Any];
        let on = self.rng.pick(&on).copied().unwrap_or(On::Any);
        let errno = if self.rng.one_in(2) { 5 } else { 28 };
        let times = if self.rng.one_in(2) { 1 } else { u64::MAX };
        let fault = Fault { times, ..Fault::nth(on, nth, Effect::Fail(errno)) };
        self.world.volume.device().fault(fault);
    }

    fn end(&mut self) -> Run<()> {
        if self.world.volume.device().has_failed() {
            self.cut()?;
        }
        self.world.volume.device().mend();
        self.doing = "compare";
        self.world.compare()?;
        self.doing = "commit";
        self.world.commit()?;
        self.cut()?;
        self.remove_everything()
    }

    fn cut(&mut self) -> Run<()> {
        self.doing = "cut";
        let mut keeps = vec![Keep::None, Keep::All];
        keeps.extend((0..self.options.images_per_cut).map(|_| Keep::Random(self.rng.next())));
        if self.options.images_per_cut < 2 {
            keeps = vec![Keep::Random(self.rng.next())];
        }
        self.outcome.cuts += 1;
        self.outcome.states += keeps.len() as u64;
        self.outcome.evaluations += keeps.len() as u64;
        if self.options.faults {
            for _ in 0..self.options.images_per_cut.min(2) {
                self.outcome.faults += 1;
                self.outcome.states += 1;
                self.outcome.evaluations += 1;
                let found = lies::judge(&self.world, &mut self.rng)?;
                self.outcome.detected += u64::from(found);
            }
        }
        self.explore()?;
        let device = self.world.volume.device();
        for keep in &keeps {
            (self.each)(device.hash_of_cut(*keep) ^ Rng::new(self.options.seed).next());
        }
        self.world.cut(&keeps)
    }

    /// Everything can be removed, and then the space is what it was at first.
    fn remove_everything(&mut self) -> Run<()> {
        self.doing = "remove everything";
        while self.world.model.nodes.len() > 1 {
            self.world.clock += 1;
            let found = self.world.model.nodes.iter().find_map(|(dir, node)| {
                let nodes = &self.world.model.nodes;
                let leaf = |ino: &u64| nodes.get(ino).is_some_and(|n| n.entries.is_empty());
                let (name, ino) = node.entries.iter().find(|(_, ino)| leaf(ino))?;
                Some((*dir, name.clone(), *ino))
            });
            let Some((dir, name, ino)) = found else { break };
            let rmdir = self.world.model.get(ino).is_ok_and(|n| n.attr.is_dir());
            self.remove(dir, &name, rmdir, true)?;
        }
        let names: Vec<Vec<u8>> = self.nodes_xattrs(Ino::ROOT.0);
        for name in names {
            let now = self.world.now();
            let got = self.world.run(|v| v.xattr_remove(Ino::ROOT, &name, now))?;
            self.apply(&got, |m| m.xattr_remove(Ino::ROOT.0, &name, now))?;
        }
        self.world.commit()?;
        self.world.commit()?;
        self.world.compare()?;
        let s = self.world.volume.statfs();
        let used = s.blocks - s.blocks_free;
        // Superblocks and ring, one leaf, and the bitmaps that were ever written.
        let least = 35 + 1 + s.blocks.div_ceil(8 * BLOCK as u64);
        ensure!(used <= least, "{used} blocks are in use by nothing, {least} would do");
        Ok(())
    }

    fn nodes_xattrs(&self, ino: u64) -> Vec<Vec<u8>> {
        self.world.model.get(ino).map_or(Vec::new(), |n| n.xattrs.keys().cloned().collect())
    }

    fn some_dir(&mut self) -> u64 {
        let dirs: Vec<u64> = self.nodes(|n| n.attr.is_dir() && n.attr.nlink > 0);
        self.rng.pick(&dirs).copied().unwrap_or(1)
    }

    fn nodes(&self, filter: impl Fn(&crate::model::Node) -> bool) -> Vec<u64> {
        let nodes = self.world.model.nodes.iter();
        nodes.filter(|(_, n)| !n.dying && filter(n)).map(|(ino, _)| *ino).collect()
    }

    fn some_file(&mut self) -> Option<u64> {
        let files = self.nodes(|n| n.attr.is_file());
        self.rng.pick(&files).copied()
    }

    fn some_node(&mut self) -> u64 {
        let all = self.nodes(|_| true);
        self.rng.pick(&all).copied().unwrap_or(1)
    }

    fn name(&mut self) -> Vec<u8> {
        let number = self.rng.below(NAMES);
        match self.rng.below(20) {
            0 => vec![b'a' + (number % 26) as u8; 255],
            1 => vec![b'x'; 256],
            2 => b"..".to_vec(),
            3 | 4 => format!("a rather long name that fills leaves quickly {number:0100}").into(),
            _ => format!("n{number}").into(),
        }
    }

    /// A directory and a name, mostly one that is there.
    fn entry(&mut self) -> (u64, Vec<u8>) {
        let dir = self.some_dir();
        let names: Vec<Vec<u8>> =
            self.world.model.get(dir).map_or(Vec::new(), |n| n.entries.keys().cloned().collect());
        match self.rng.pick(&names) {
            Some(name) if !self.rng.one_in(8) => (dir, name.clone()),
            _ => (dir, self.name()),
        }
    }

    /// Holds an answer against the model's; true if the operation was done.
    fn agree<T>(&mut self, got: &Result<T, Error>, model: &Result<(), Error>) -> Run<bool> {
        match (got, model) {
            (Ok(_), Ok(())) => Ok(true),
            (Err(Error::NoSpace), _) => {
                self.outcome.full += 1;
                Ok(false)
            }
            (Err(a), Err(b)) if same_error(a, b) => Ok(false),
            (got, model) => wrong(format!(
                "the engine says {:?}, the model {model:?}",
                got.as_ref().map(|_| ()).map_err(Clone::clone)
            )),
        }
    }

    fn new_inode(&mut self, kind: u32) -> NewInode<'static> {
        NewInode {
            mode: kind | self.rng.below(0o1000) as u32,
            uid: self.rng.below(3) as u32,
            gid: self.rng.below(3) as u32,
            rdev: if matches!(kind, 0o020_000 | 0o060_000) { 259 } else { 0 },
            target: b"",
            now: self.world.now(),
        }
    }

    fn operation(&mut self) -> Run<()> {
        let crowded = self.world.model.nodes.len() > self.options.inodes;
        let roll = self.rng.below(100);
        match roll {
            0..14 if !crowded => self.create(0o100_000),
            14..19 if !crowded => self.create(0o040_000),
            19..22 if !crowded => self.create(0o120_000),
            22 if !crowded => {
                let kind = [0o010_000, 0o020_000, 0o060_000, 0o140_000];
                let kind = self.rng.pick(&kind).copied().unwrap_or(0o010_000);
                self.create(kind)
            }
            23 | 24 if !crowded => self.create_unnamed(),
            25..29 => self.link(),
            0..19 | 29..35 => {
                let (dir, name) = self.entry();
                let now = self.rng.one_in(2);
                self.remove(dir, &name, false, now)
            }
            19..25 | 35..37 => {
                let (dir, name) = self.entry();
                let now = self.rng.one_in(2);
                self.remove(dir, &name, true, now)
            }
            37..45 => self.rename(),
            45..62 => self.write(),
            62..68 => self.truncate(),
            68..71 => self.punch(),
            71..74 => self.set_attr(),
            74..81 => self.xattr(),
            81..83 => self.set_vector(),
            83..86 => self.evict_one(),
            86 => self.world.compare(),
            87..90 => self.at("freeze", World::freeze),
            90..92 => self.at("commit: write", |world| {
                world.write_commit();
                Ok(())
            }),
            92..95 => self.at("commit: finish", World::finish),
            95..97 => self.at("commit", World::commit),
            97 | 98 => self.at("flush", World::flush),
            _ => {
                self.doing = "trim";
                self.world.volume.trim(0);
                Ok(())
            }
        }
    }

    fn at(&mut self, what: &'static str, act: impl FnOnce(&mut World) -> Run<()>) -> Run<()> {
        self.doing = what;
        act(&mut self.world)?;
        self.outcome.generations = self.world.volume.running().0;
        Ok(())
    }

    fn create(&mut self, kind: u32) -> Run<()> {
        self.doing = "create";
        let (dir, name) = if self.rng.one_in(30) {
            (self.some_node(), self.name())
        } else {
            (self.some_dir(), self.name())
        };
        let target = vec![b't'; 1 + self.rng.below(4095) as usize];
        let mut new = NewInode { target: b"", ..self.new_inode(kind) };
        if kind == 0o120_000 {
            new.target = &target;
        }
        let got = self.world.run(|v| v.create(Ino(dir), &name, &new))?;
        let may = self.world.model.may_create(dir, &name);
        if self.agree(&got, &may)?
            && let Ok(inode) = got
        {
            let known = self.world.model.get(inode.ino.0).is_ok();
            ensure!(!known, "inode {} was given twice", inode.ino.0);
            let made = self.world.model.create(inode.ino, dir, &name, &new);
            ensure!(made.is_ok(), "the model cannot create: {made:?}");
        }
        Ok(())
    }

    fn create_unnamed(&mut self) -> Run<()> {
        self.doing = "create without a name";
        let new = self.new_inode(0o100_000);
        let got = self.world.run(|v| v.create_unnamed(&new))?;
        if self.agree(&got, &Ok(()))?
            && let Ok(inode) = got
        {
            let _ = self.world.model.create_unnamed(inode.ino, &new);
        }
        Ok(())
    }

    fn link(&mut self) -> Run<()> {
        self.doing = "link";
        let (ino, dir, name, now) =
            (self.some_node(), self.some_dir(), self.name(), self.world.now());
        let got = self.world.run(|v| v.link(Ino(ino), Ino(dir), &name, now))?;
        self.apply(&got, |m| m.link(ino, dir, &name, now))
    }

    /// Does to the model what was done to the engine, if it was.
    fn apply<T>(
        &mut self,
        got: &Result<T, Error>,
        act: impl FnOnce(&mut crate::Model) -> Result<(), Error>,
    ) -> Run<()> {
        if *got.as_ref().err().unwrap_or(&Error::NotFound) == Error::NoSpace {
            self.outcome.full += 1;
            return Ok(());
        }
        let model = act(&mut self.world.model);
        self.agree(got, &model).map(|_| ())
    }

    fn remove(&mut self, dir: u64, name: &[u8], rmdir: bool, evict: bool) -> Run<()> {
        self.doing = if rmdir { "rmdir" } else { "unlink" };
        let now = self.world.now();
        let got = self.world.run(|v| {
            let dir = Ino(dir);
            if rmdir { v.rmdir(dir, name, now) } else { v.unlink(dir, name, now) }
        })?;
        ensure!(!matches!(got, Err(Error::NoSpace)), "a full filesystem refuses to delete");
        let model = self.world.model.remove(dir, name, rmdir, now);
        if self.agree(&got, &model.map(|_| ()))?
            && let Ok(inode) = got
            && inode.nlink == 0
            && evict
        {
            self.doing = "evict";
            self.world.evict(inode.ino.0)?;
        }
        Ok(())
    }

    fn rename(&mut self) -> Run<()> {
        self.doing = "rename";
        let ((from, a), now) = (self.entry(), self.world.now());
        let (to, b) =
            if self.rng.one_in(2) { self.entry() } else { (self.some_dir(), self.name()) };
        let flags = RenameFlags { no_replace: self.rng.one_in(6), exchange: self.rng.one_in(4) };
        let got = self.world.run(|v| v.rename(Ino(from), &a, Ino(to), &b, flags, now))?;
        self.apply(&got, |m| m.rename(from, &a, to, &b, flags, now).map(|_| ()))?;
        if let Ok(renamed) = got
            && let Some(other) = renamed.other
            && !flags.exchange
            && other.nlink == 0
            && self.rng.one_in(2)
        {
            self.doing = "evict";
            self.world.evict(other.ino.0)?;
        }
        Ok(())
    }

    fn offset(&mut self, size: u64) -> u64 {
        match self.rng.below(10) {
            0 => size,
            1 => self.rng.below(1 << 40),
            2 | 3 => self.rng.below(64) * BLOCK as u64,
            _ => self.rng.below(size + 20_000),
        }
    }

    fn write(&mut self) -> Run<()> {
        self.doing = "write";
        let Some(ino) = self.some_file() else { return Ok(()) };
        let size = self.world.model.get(ino).map_or(0, |n| n.attr.size);
        let offset = self.offset(size);
        if self.rng.one_in(12) {
            self.doing = "preallocate";
            let most = self.options.image_bytes / BLOCK as u64 / 8;
            let count = 1 + self.rng.below(most.min(20_000));
            if !self.world.preallocate(ino, offset / BLOCK as u64, count)? {
                self.outcome.full += 1;
            }
            return Ok(());
        }
        let most = if self.rng.one_in(4) { self.options.write_bytes } else { 9000 };
        let mut data = vec![0; 1 + self.rng.below(most) as usize];
        self.rng.fill(&mut data);
        let batch = self.rng.one_in(2);
        if !self.world.write(ino, offset, &data, batch)? {
            self.outcome.full += 1;
        }
        Ok(())
    }

    fn truncate(&mut self) -> Run<()> {
        self.doing = "truncate";
        let Some(ino) = self.some_file() else { return Ok(()) };
        let size = self.world.model.get(ino).map_or(0, |n| n.attr.size);
        let to = match self.rng.below(4) {
            0 => 0,
            1 => self.offset(size),
            _ => self.rng.below(size + 1),
        };
        self.world.truncate(ino, to)
    }

    fn punch(&mut self) -> Run<()> {
        self.doing = "punch";
        let Some(ino) = self.some_file() else { return Ok(()) };
        let from = self.rng.below(40);
        let count = 1 + self.rng.below(30);
        self.world.punch(ino, from, count)
    }

    fn set_attr(&mut self) -> Run<()> {
        self.doing = "set_attr";
        let ino = self.some_node();
        let now = self.world.now();
        let set = SetAttr {
            mode: self.rng.one_in(2).then(|| self.rng.next() as u32),
            uid: self.rng.one_in(2).then(|| self.rng.next() as u32),
            gid: self.rng.one_in(2).then(|| self.rng.next() as u32),
            atime: self.rng.one_in(2).then_some(Time { seconds: -5, nanos: 999_999_999 }),
            mtime: self.rng.one_in(2).then_some(now),
            ctime: now,
        };
        let got = self.world.run(|v| v.set_attr(Ino(ino), &set))?;
        ensure!(!matches!(got, Err(Error::NoSpace)), "a full filesystem refuses attributes");
        self.apply(&got, |m| m.set_attr(ino, &set))
    }

    fn xattr(&mut self) -> Run<()> {
        let (ino, now) = (self.some_node(), self.world.now());
        let name = match self.rng.below(8) {
            0 => vec![b'u'; 255],
            n => format!("user.{n}").into(),
        };
        if self.rng.one_in(3) {
            self.doing = "xattr_remove";
            let got = self.world.run(|v| v.xattr_remove(Ino(ino), &name, now))?;
            ensure!(!matches!(got, Err(Error::NoSpace)), "a full filesystem keeps an attribute");
            return self.apply(&got, |m| m.xattr_remove(ino, &name, now));
        }
        self.doing = "xattr_set";
        let sizes = if self.options.image_bytes < 2 << 20 && !self.rng.one_in(10) {
            &XATTR_SIZES[..9]
        } else {
            &XATTR_SIZES[..]
        };
        let mut value = vec![0; self.rng.pick(sizes).copied().unwrap_or(0)];
        self.rng.fill(&mut value);
        let modes = [XattrMode::Set, XattrMode::Set, XattrMode::Create, XattrMode::Replace];
        let mode = self.rng.pick(&modes).copied().unwrap_or(XattrMode::Set);
        let got = self.world.run(|v| v.xattr_set(Ino(ino), &name, &value, mode, now))?;
        self.apply(&got, |m| m.xattr_set(ino, &name, &value, mode, now))
    }

    fn set_vector(&mut self) -> Run<()> {
        self.doing = "set_vector";
        let (ino, now) = (self.some_node(), self.world.now());
        let dim = 1 + self.rng.below(1000);
        let layout = VectorLayout::parse(&format!("type=f32,dim={dim},metric=l2"));
        let Ok(layout) = layout else { return wrong("a vector attribute is refused") };
        let layout = Some(layout).filter(|_| !self.rng.one_in(4));
        let got = self.world.run(|v| v.set_vector(Ino(ino), layout.as_ref(), now))?;
        self.apply(&got, |m| m.set_vector(ino, layout, now))
    }

    fn evict_one(&mut self) -> Run<()> {
        self.doing = "evict";
        let orphans = self.nodes(|n| n.attr.nlink == 0);
        match self.rng.pick(&orphans).copied() {
            Some(ino) => self.world.evict(ino),
            None => Ok(()),
        }
    }
}
