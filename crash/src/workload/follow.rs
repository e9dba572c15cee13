// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Following a filesystem while it is written: every change of a commit is told, and a follower whose
//! tree is overwritten under it says that it is behind, never that there is damage.

use super::ops::{self, OPS};
use super::script::Fixture;
use crate::cache::Keep;
use crate::image::Image;
use crate::rng::Rng;
use crate::work::{Run, Stop, World, ensure};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use vexfs::follow::{Change, Follower};
use vexfs::{Device, DeviceError, Error, Generation, Ino, Inode, OpenOptions, Volume};

/// The medium as a follower sees it: what is durable at the moment.
#[derive(Clone)]
struct Window(Rc<RefCell<Image>>);

impl Device for Window {
    fn len_bytes(&self) -> u64 {
        self.0.borrow().len_bytes()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        Device::read(&*self.0.borrow(), at, buf)
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        Device::write(&*self.0.borrow(), at, data)
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        Device::write_fua(&*self.0.borrow(), at, data)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Device::flush(&*self.0.borrow())
    }
}

/// All inodes of a filesystem, one by one.
fn inodes(window: &Window) -> Run<BTreeMap<u64, Inode>> {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let mut volume = Volume::open(window.clone(), &options).map_err(|e| Stop::error("open", &e))?;
    let mut all = BTreeMap::new();
    let mut left = volume.statfs().inodes;
    for ino in 1.. {
        if left == 0 {
            break;
        }
        match volume.resolve(|v| v.inode(Ino(ino))) {
            Ok(inode) => {
                all.insert(ino, inode);
                left -= 1;
            }
            Err(Error::NotFound) => {}
            Err(error) => return Err(Stop::error("an inode", &error)),
        }
    }
    Ok(all)
}

/// Follows so many commits of random operations; returns how often a follower was behind.
pub(super) fn run(fixture: &Fixture, seed: u64, commits: u64) -> Run<u64> {
    let mut rng = Rng::new(seed);
    let mut world = World::recorded(fixture.image.clone(), fixture.model.clone())?;
    let window = Window(Rc::new(RefCell::new(fixture.image.clone())));
    let open =
        || Follower::open(window.clone(), 0).map_err(|e| Stop::error("a follower is opened", &e));
    let (mut follower, mut behind) = (open()?, open()?);
    let mut known = inodes(&window)?;
    let mut stale = 0;
    for number in 0..commits {
        for _ in 0..=rng.below(3) {
            if let Some((_, op)) = OPS.get(rng.below(OPS.len() as u64) as usize) {
                ops::run(&mut world, *op, number)?;
            }
        }
        world.commit()?;
        *window.0.borrow_mut() = world.volume.device().cut(Keep::None);
        let now = inodes(&window)?;
        let since = follower.generation();
        follower.poll().map_err(|e| Stop::error("a follower moves on", &e))?;
        let mut told = BTreeSet::new();
        let walked = follower.changes(since, &mut |change| {
            if let Change::Inode(inode) = change {
                told.insert(inode.ino.0);
            }
            Ok(())
        });
        walked.map_err(|e| Stop::error("a follower of the newest commit", &e))?;
        for (ino, inode) in &now {
            let changed = known.get(ino) != Some(inode);
            ensure!(!changed || told.contains(ino), "a change of inode {ino} is not told");
        }
        known = now;
        // It has read the root and no node yet: what it finds of its tree is what is left of it.
        if rng.below(4) == 0 {
            match behind.changes(Generation(0), &mut |_| Ok(())) {
                Ok(()) => {}
                Err(Error::Stale) => stale += 1,
                Err(error) => return Err(Stop::error("a follower that is behind", &error)),
            }
            behind = open()?;
        }
    }
    ensure!(stale > 0, "no follower was ever behind");
    Ok(stale)
}
