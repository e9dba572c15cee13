// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Random operations: which one, on what and with which arguments follows from the seed alone.

use super::options::Options;
use crate::halt::{Halt, ensure, mismatch};
use crate::lockstep::Lockstep;
use crate::model::{BLOCK, Model, Node, same_error};
use crate::rng::Rng;
use vexfs::{Error, Ino, NewInode, RenameFlags, SetAttr, Time, VectorLayout, XattrMode};

const NAMES: u64 = 40;
const XATTR_SIZES: [usize; 12] = [0, 1, 20, 500, 600, 640, 641, 1000, 1300, 5000, 20_000, 65_536];

/// A volume and its model under random operations.
pub(super) struct RandomOps {
    pub(super) lockstep: Lockstep,
    pub(super) rng: Rng,
    options: Options,
    /// What it does at the moment, for a message.
    pub(super) doing: &'static str,
    /// Operations that were refused for want of space.
    pub(super) refused: u64,
    /// The running generation after the last commit, or part of one.
    pub(super) generations: u64,
}

impl RandomOps {
    pub(super) fn new(lockstep: Lockstep, options: &Options) -> Self {
        let rng = Rng::new(options.seed);
        Self { lockstep, rng, options: *options, doing: "mkfs", refused: 0, generations: 0 }
    }

    /// Removes everything. The space in use must then be what it was at first.
    pub(super) fn remove_everything(&mut self) -> Result<(), Halt> {
        self.doing = "remove everything";
        while self.lockstep.model.nodes.len() > 1 {
            self.lockstep.clock += 1;
            let found = self.lockstep.model.nodes.iter().find_map(|(dir, node)| {
                let nodes = &self.lockstep.model.nodes;
                let leaf = |ino: &u64| nodes.get(ino).is_some_and(|n| n.entries.is_empty());
                let (name, ino) = node.entries.iter().find(|(_, ino)| leaf(ino))?;
                Some((*dir, name.clone(), *ino))
            });
            let Some((dir, name, ino)) = found else { break };
            let rmdir = self.lockstep.model.get(ino).is_ok_and(|n| n.attr.is_dir());
            self.remove(dir, &name, rmdir, true)?;
        }
        let names: Vec<Vec<u8>> = self.nodes_xattrs(Ino::ROOT.0);
        for name in names {
            let now = self.lockstep.now();
            let got = self.lockstep.run(|v| v.xattr_remove(Ino::ROOT, &name, now))?;
            self.apply(&got, |m| m.xattr_remove(Ino::ROOT.0, &name, now))?;
        }
        self.lockstep.commit()?;
        self.lockstep.commit()?;
        self.lockstep.compare()?;
        let s = self.lockstep.volume.statfs();
        let used = s.blocks - s.blocks_free;
        // Superblocks and root ring, one leaf, and the bitmaps that were written.
        let least = 35 + 1 + s.blocks.div_ceil(8 * BLOCK as u64);
        ensure!(
            used <= least,
            "{used} blocks are in use after everything was removed, {least} would do"
        );
        Ok(())
    }

    fn nodes_xattrs(&self, ino: u64) -> Vec<Vec<u8>> {
        self.lockstep.model.get(ino).map_or(Vec::new(), |n| n.xattrs.keys().cloned().collect())
    }

    fn some_dir(&mut self) -> u64 {
        let dirs: Vec<u64> = self.nodes(|n| n.attr.is_dir() && n.attr.nlink > 0);
        self.rng.pick(&dirs).copied().unwrap_or(1)
    }

    fn nodes(&self, filter: impl Fn(&Node) -> bool) -> Vec<u64> {
        let nodes = self.lockstep.model.nodes.iter();
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

    /// A directory and a name, mostly one that exists.
    fn entry(&mut self) -> (u64, Vec<u8>) {
        let dir = self.some_dir();
        let names: Vec<Vec<u8>> = self
            .lockstep
            .model
            .get(dir)
            .map_or(Vec::new(), |n| n.entries.keys().cloned().collect());
        match self.rng.pick(&names) {
            Some(name) if !self.rng.one_in(8) => (dir, name.clone()),
            _ => (dir, self.name()),
        }
    }

    /// Compares an answer with the model's; true if the operation was done.
    fn agree<T>(
        &mut self,
        got: &Result<T, Error>,
        model: &Result<(), Error>,
    ) -> Result<bool, Halt> {
        match (got, model) {
            (Ok(_), Ok(())) => Ok(true),
            (Err(Error::NoSpace), _) => {
                self.refused += 1;
                Ok(false)
            }
            (Err(a), Err(b)) if same_error(a, b) => Ok(false),
            (got, model) => mismatch(format!(
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
            now: self.lockstep.now(),
        }
    }

    /// Does one operation.
    pub(super) fn run_one(&mut self) -> Result<(), Halt> {
        let crowded = self.lockstep.model.nodes.len() > self.options.inodes;
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
            86 => self.lockstep.compare(),
            87..90 => self.commit_part("freeze", Lockstep::freeze),
            90..92 => self.commit_part("commit: write", |lockstep| {
                lockstep.write_commit();
                Ok(())
            }),
            92..95 => self.commit_part("commit: finish", Lockstep::finish),
            95..97 => self.commit_part("commit", Lockstep::commit),
            97 | 98 => self.commit_part("flush", Lockstep::flush),
            _ => {
                self.doing = "trim";
                self.lockstep.volume.trim(0);
                Ok(())
            }
        }
    }

    /// Does a part of a commit.
    fn commit_part(
        &mut self,
        what: &'static str,
        act: impl FnOnce(&mut Lockstep) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        self.doing = what;
        act(&mut self.lockstep)?;
        self.generations = self.lockstep.volume.running().0;
        Ok(())
    }

    fn create(&mut self, kind: u32) -> Result<(), Halt> {
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
        let got = self.lockstep.run(|v| v.create(Ino(dir), &name, &new))?;
        let may = self.lockstep.model.may_create(dir, &name);
        if self.agree(&got, &may)?
            && let Ok(inode) = got
        {
            let known = self.lockstep.model.get(inode.ino.0).is_ok();
            ensure!(!known, "inode {} was given twice", inode.ino.0);
            let made = self.lockstep.model.create(inode.ino, dir, &name, &new);
            ensure!(made.is_ok(), "the model cannot create: {made:?}");
        }
        Ok(())
    }

    fn create_unnamed(&mut self) -> Result<(), Halt> {
        self.doing = "create without a name";
        let new = self.new_inode(0o100_000);
        let got = self.lockstep.run(|v| v.create_unnamed(&new))?;
        if self.agree(&got, &Ok(()))?
            && let Ok(inode) = got
        {
            let _ = self.lockstep.model.create_unnamed(inode.ino, &new);
        }
        Ok(())
    }

    fn link(&mut self) -> Result<(), Halt> {
        self.doing = "link";
        let (ino, dir, name, now) =
            (self.some_node(), self.some_dir(), self.name(), self.lockstep.now());
        let got = self.lockstep.run(|v| v.link(Ino(ino), Ino(dir), &name, now))?;
        self.apply(&got, |m| m.link(ino, dir, &name, now))
    }

    /// Does to the model what was done to the engine, unless that was refused for want of space.
    fn apply<T>(
        &mut self,
        got: &Result<T, Error>,
        act: impl FnOnce(&mut Model) -> Result<(), Error>,
    ) -> Result<(), Halt> {
        if *got.as_ref().err().unwrap_or(&Error::NotFound) == Error::NoSpace {
            self.refused += 1;
            return Ok(());
        }
        let model = act(&mut self.lockstep.model);
        self.agree(got, &model).map(|_| ())
    }

    fn remove(&mut self, dir: u64, name: &[u8], rmdir: bool, evict: bool) -> Result<(), Halt> {
        self.doing = if rmdir { "rmdir" } else { "unlink" };
        let now = self.lockstep.now();
        let got = self.lockstep.run(|v| {
            let dir = Ino(dir);
            if rmdir { v.rmdir(dir, name, now) } else { v.unlink(dir, name, now) }
        })?;
        ensure!(!matches!(got, Err(Error::NoSpace)), "a full filesystem refuses to delete");
        let model = self.lockstep.model.remove(dir, name, rmdir, now);
        if self.agree(&got, &model.map(|_| ()))?
            && let Ok(inode) = got
            && inode.nlink == 0
            && evict
        {
            self.doing = "evict";
            self.lockstep.evict(inode.ino.0)?;
        }
        Ok(())
    }

    fn rename(&mut self) -> Result<(), Halt> {
        self.doing = "rename";
        let ((from, a), now) = (self.entry(), self.lockstep.now());
        let (to, b) =
            if self.rng.one_in(2) { self.entry() } else { (self.some_dir(), self.name()) };
        let flags = RenameFlags { no_replace: self.rng.one_in(6), exchange: self.rng.one_in(4) };
        let got = self.lockstep.run(|v| v.rename(Ino(from), &a, Ino(to), &b, flags, now))?;
        self.apply(&got, |m| m.rename(from, &a, to, &b, flags, now).map(|_| ()))?;
        if let Ok(renamed) = got
            && let Some(other) = renamed.other
            && !flags.exchange
            && other.nlink == 0
            && self.rng.one_in(2)
        {
            self.doing = "evict";
            self.lockstep.evict(other.ino.0)?;
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

    fn write(&mut self) -> Result<(), Halt> {
        self.doing = "write";
        let Some(ino) = self.some_file() else { return Ok(()) };
        let size = self.lockstep.model.get(ino).map_or(0, |n| n.attr.size);
        let offset = self.offset(size);
        if self.rng.one_in(12) {
            self.doing = "preallocate";
            let most = self.options.image_bytes / BLOCK as u64 / 8;
            let count = 1 + self.rng.below(most.min(20_000));
            if !self.lockstep.preallocate(ino, offset / BLOCK as u64, count)? {
                self.refused += 1;
            }
            return Ok(());
        }
        let most = if self.rng.one_in(4) { self.options.write_bytes } else { 9000 };
        let mut data = vec![0; 1 + self.rng.below(most) as usize];
        self.rng.fill(&mut data);
        let batch = self.rng.one_in(2);
        if !self.lockstep.write(ino, offset, &data, batch)? {
            self.refused += 1;
        }
        Ok(())
    }

    fn truncate(&mut self) -> Result<(), Halt> {
        self.doing = "truncate";
        let Some(ino) = self.some_file() else { return Ok(()) };
        let size = self.lockstep.model.get(ino).map_or(0, |n| n.attr.size);
        let to = match self.rng.below(4) {
            0 => 0,
            1 => self.offset(size),
            _ => self.rng.below(size + 1),
        };
        self.lockstep.truncate(ino, to)
    }

    fn punch(&mut self) -> Result<(), Halt> {
        self.doing = "punch";
        let Some(ino) = self.some_file() else { return Ok(()) };
        let from = self.rng.below(40);
        let count = 1 + self.rng.below(30);
        self.lockstep.punch(ino, from, count)
    }

    fn set_attr(&mut self) -> Result<(), Halt> {
        self.doing = "set_attr";
        let ino = self.some_node();
        let now = self.lockstep.now();
        let set = SetAttr {
            mode: self.rng.one_in(2).then(|| self.rng.next() as u32),
            uid: self.rng.one_in(2).then(|| self.rng.next() as u32),
            gid: self.rng.one_in(2).then(|| self.rng.next() as u32),
            atime: self.rng.one_in(2).then_some(Time { seconds: -5, nanos: 999_999_999 }),
            mtime: self.rng.one_in(2).then_some(now),
            ctime: now,
        };
        let got = self.lockstep.run(|v| v.set_attr(Ino(ino), &set))?;
        ensure!(!matches!(got, Err(Error::NoSpace)), "a full filesystem refuses attributes");
        self.apply(&got, |m| m.set_attr(ino, &set))
    }

    fn xattr(&mut self) -> Result<(), Halt> {
        let (ino, now) = (self.some_node(), self.lockstep.now());
        let name = match self.rng.below(8) {
            0 => vec![b'u'; 255],
            n => format!("user.{n}").into(),
        };
        if self.rng.one_in(3) {
            self.doing = "xattr_remove";
            let got = self.lockstep.run(|v| v.xattr_remove(Ino(ino), &name, now))?;
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
        let got = self.lockstep.run(|v| v.xattr_set(Ino(ino), &name, &value, mode, now))?;
        self.apply(&got, |m| m.xattr_set(ino, &name, &value, mode, now))
    }

    fn set_vector(&mut self) -> Result<(), Halt> {
        self.doing = "set_vector";
        let (ino, now) = (self.some_node(), self.lockstep.now());
        let dim = 1 + self.rng.below(1000);
        let layout = VectorLayout::parse(&format!("type=f32,dim={dim},metric=l2"));
        let Ok(layout) = layout else { return mismatch("a vector attribute is refused") };
        let layout = Some(layout).filter(|_| !self.rng.one_in(4));
        let got = self.lockstep.run(|v| v.set_vector(Ino(ino), layout.as_ref(), now))?;
        self.apply(&got, |m| m.set_vector(ino, layout, now))
    }

    fn evict_one(&mut self) -> Result<(), Halt> {
        self.doing = "evict";
        let orphans = self.nodes(|n| n.attr.nlink == 0);
        match self.rng.pick(&orphans).copied() {
            Some(ino) => self.lockstep.evict(ino),
            None => Ok(()),
        }
    }
}
