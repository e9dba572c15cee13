// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Following a filesystem while it is written: every change of a commit is reported, and a follower
//! whose tree is overwritten answers that it is behind, never that there is damage.

use super::fixture::Fixture;
use super::ops::{self, OPS};
use crate::cache::Keep;
use crate::halt::{Halt, ensure};
use crate::image::Image;
use crate::rng::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use vexfs::follow::{Change, Follower};
use vexfs::{Device, DeviceError, Error, Generation, Ino, Inode, OpenOptions, Volume};

/// The medium that a follower reads: what is durable at the moment.
#[derive(Clone)]
struct Medium(Rc<RefCell<Image>>);

impl Device for Medium {
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

/// All inodes of a filesystem, each looked up by its number.
fn inodes(medium: &Medium) -> Result<BTreeMap<u64, Inode>, Halt> {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let mut volume = Volume::open(medium.clone(), &options).map_err(|e| Halt::error("open", &e))?;
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
            Err(error) => return Err(Halt::error("an inode", &error)),
        }
    }
    Ok(all)
}

impl Fixture {
    /// Follows so many commits of random operations; returns how often a follower was behind.
    ///
    /// # Errors
    /// A change that was not reported, or an error that is not true.
    pub fn follow(&self, seed: u64, commits: u64) -> Result<u64, String> {
        follow(self, seed, commits).map_err(Halt::text)
    }
}

fn open(medium: &Medium) -> Result<Follower<Medium>, Halt> {
    Follower::open(medium.clone(), 0).map_err(|e| Halt::error("opening a follower", &e))
}

fn follow(fixture: &Fixture, seed: u64, commits: u64) -> Result<u64, Halt> {
    let mut rng = Rng::new(seed);
    let mut lockstep = fixture.begin()?;
    let medium = Medium(Rc::new(RefCell::new(fixture.image.clone())));
    let (mut follower, mut behind) = (open(&medium)?, open(&medium)?);
    let mut known = inodes(&medium)?;
    let mut stale = 0;
    for number in 0..commits {
        for _ in 0..=rng.below(3) {
            if let Some((_, op)) = OPS.get(rng.below(OPS.len() as u64) as usize) {
                ops::run(&mut lockstep, *op, number)?;
            }
        }
        lockstep.commit()?;
        *medium.0.borrow_mut() = lockstep.volume.device().cut(Keep::None);
        let current = inodes(&medium)?;
        let told = changed_inodes(&mut follower)?;
        for (ino, inode) in &current {
            let changed = known.get(ino) != Some(inode);
            ensure!(!changed || told.contains(ino), "a change of inode {ino} is not reported");
        }
        known = current;
        // This one has read the root and no node yet, so it walks what is left of an old tree.
        if rng.below(4) == 0 {
            match behind.changes(Generation(0), &mut |_| Ok(())) {
                Ok(()) => {}
                Err(Error::Stale) => stale += 1,
                Err(error) => return Err(Halt::error("a follower that is behind", &error)),
            }
            behind = open(&medium)?;
        }
    }
    ensure!(stale > 0, "no follower was ever behind");
    Ok(stale)
}

/// Moves a follower to the newest commit; returns the inodes that it reports as changed.
fn changed_inodes(follower: &mut Follower<Medium>) -> Result<BTreeSet<u64>, Halt> {
    let since = follower.generation();
    follower.poll().map_err(|e| Halt::error("moving a follower on", &e))?;
    let mut told = BTreeSet::new();
    let walked = follower.changes(since, &mut |change| {
        if let Change::Inode(inode) = change {
            told.insert(inode.ino.0);
        }
        Ok(())
    });
    walked.map_err(|e| Halt::error("a follower of the newest commit", &e))?;
    Ok(told)
}
