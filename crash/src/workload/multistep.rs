// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Operations of many steps, cut after each step: removing and truncating a file of many extents.
//! Scripts are too small for that, and the simulator commits between two steps only by chance.

use super::fixture::Fixture;
use crate::cache::Keep;
use crate::device::CacheDevice;
use crate::halt::{Halt, ensure};
use crate::image::Image;
use crate::model::BLOCK;
use crate::oracle::assert_clean;
use vexfs::{Ino, NewInode, OpenOptions, Progress, Time, Volume};

const NOW: Time = Time { seconds: 1_900_000_000, nanos: 0 };
/// Far more extents than a step frees.
const EXTENTS: u64 = 100;

fn open(image: Image) -> Result<Volume<CacheDevice>, Halt> {
    let options = OpenOptions { cache_bytes: 0, ..OpenOptions::default() };
    Volume::open(CacheDevice::new(image), &options).map_err(|e| Halt::error("open", &e))
}

fn must<T>(what: &str, result: vexfs::Result<T>) -> Result<T, Halt> {
    result.map_err(|e| Halt::error(what, &e))
}

/// Removes a file, or truncates it, and cuts the power after each step; returns the number of cuts.
fn cut_each_step(fixture: &Fixture, remove: bool) -> Result<u64, Halt> {
    let mut volume = open(fixture.image.clone())?;
    let new = NewInode { mode: 0o100_600, uid: 0, gid: 0, rdev: 0, target: b"", now: NOW };
    let made = volume.run(NOW, |v| v.create(Ino::ROOT, b"long", &new));
    let ino = must("create", made)?.ino;
    for extent in 0..EXTENTS {
        // Every other block, so that no two of them make one extent.
        must("write", volume.write_at(ino, extent * 2 * BLOCK as u64, &[7; BLOCK], NOW))?;
    }
    must("commit", volume.commit(NOW))?;
    if remove {
        must("unlink", volume.run(NOW, |v| v.unlink(Ino::ROOT, b"long", NOW)))?;
    }
    for cuts in 1.. {
        let step = volume.run(NOW, |v| if remove { v.evict(ino) } else { v.set_size(ino, 1, NOW) });
        let done = must("a step", step)? == Progress::Done;
        must("commit", volume.commit(NOW))?;
        let mut after = open(volume.device().cut(Keep::None))?;
        must("the mount's work", after.evict_orphans(NOW))?;
        must("commit", after.commit(NOW))?;
        assert_clean(&CacheDevice::new(after.device().cut(Keep::None)))?;
        match after.resolve(|v| v.inode(ino)) {
            Err(vexfs::Error::NotFound) => ensure!(remove, "a truncated file is gone"),
            Ok(inode) => {
                let blocks = inode.blocks;
                ensure!(!remove && blocks == 1, "a file of {blocks} blocks is left");
            }
            Err(error) => return Err(Halt::error("the file", &error)),
        }
        if done {
            ensure!(cuts > 2, "{EXTENTS} extents were freed in {cuts} steps");
            return Ok(cuts);
        }
    }
    Ok(0)
}

impl Fixture {
    /// Removes and truncates a file of many extents, and cuts the power after each step; returns the
    /// number of cuts.
    ///
    /// # Errors
    /// What was left half done.
    pub fn cut_between_steps(&self) -> Result<u64, String> {
        let cuts = |remove| cut_each_step(self, remove).map_err(Halt::text);
        Ok(cuts(true)? + cuts(false)?)
    }
}
