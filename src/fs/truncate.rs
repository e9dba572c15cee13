// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Freeing blocks of a file: truncation, holes, and the eviction of inodes without a name.
//!
//! Invariant: as long as written blocks are left beyond the inode's size, the inode is on the list of
//! orphans, so that the next mount continues after a crash. Each call does a bounded step, and a commit
//! may follow any step.

use super::extents::{Extent, STEP_EXTENTS, STEP_LEAVES};
use super::inode::{Inode, orphan_key};
use crate::buffer::push;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::mutants::{self, Mutant};
use crate::types::{Progress, Time};
use crate::volume::{Change, GROUPS, Need, Plan, Volume};
use alloc::vec::Vec;
use core::ops::ControlFlow;
use vexfs_format::{FILE_BYTES_MAX, FileBlock, Ino, Key, Kind};

/// Most items other than extents that one step of an eviction removes.
const STEP_ITEMS: usize = 64;

impl<D: Device> Volume<D> {
    /// Chooses the extents in `from..to` that one step frees; true if there are more.
    fn plan_free(
        &self,
        ino: Ino,
        from: u64,
        to: u64,
        wanted: fn(&Extent) -> bool,
    ) -> Result<(Vec<Extent>, bool)> {
        let (mut extents, mut more) = self.overlapping(ino, from, to, STEP_EXTENTS, wanted)?;
        // A long extent may lie in many groups, each of which the commit has to write.
        let mut room = 4 * self.geometry().group_blocks();
        let mut kept = 0;
        for extent in &extents {
            let len = extent.cut(from, to).map_or(0, |part| part.len);
            if kept > 0 && len > room {
                more = true;
                break;
            }
            room = room.saturating_sub(len);
            kept += 1;
        }
        extents.truncate(kept);
        for extent in &extents {
            self.touch_neighbours(ino, extent.start, extent.end())?;
        }
        Ok((extents, more))
    }

    /// Changes the size, in steps: call it until it is done. Growing leaves a hole; shrinking frees whole
    /// blocks. After a crash between two steps the next mount finishes it. Before it shrinks a file, the
    /// host zeroes the rest of the last block.
    ///
    /// # Errors
    /// [`Error::FileTooBig`], and those of every change.
    pub fn set_size(&mut self, ino: Ino, size: u64, now: Time) -> Result<Progress> {
        if size > FILE_BYTES_MAX {
            return Err(Error::FileTooBig);
        }
        let plan = self.begin(Need::upkeep().with_leaves(STEP_LEAVES))?;
        let mut inode = plan.file(ino)?;
        let block_bytes = plan.geometry().block_bytes() as u64;
        if size > inode.size && plan.tree()?.get(orphan_key(ino))?.is_some() {
            // An earlier truncation was given up halfway, and what it left must not become visible. A
            // file without a name is listed too; its unwritten extents may wait for data of a page cache.
            let from = inode.size.div_ceil(block_bytes);
            let (extents, _) =
                plan.plan_free(ino, from, u64::MAX, |extent| !extent.is_unwritten())?;
            if !extents.is_empty() {
                return plan.change(|change| {
                    let _ = change.free_extents(&mut inode, &extents, from, u64::MAX)?;
                    change.put_inode(&inode)?;
                    Ok(Progress::More)
                });
            }
        }
        inode.size = size;
        inode.modified(now);
        plan.free_step(inode, size.div_ceil(block_bytes))
    }

    /// Makes a hole of whole blocks, in steps: call it until it is done. `now` becomes the modification
    /// time; without it the times stay, for hosts that only free blocks beyond the file's size.
    ///
    /// # Errors
    /// Those of every change.
    pub fn punch(
        &mut self,
        ino: Ino,
        block: FileBlock,
        count: u64,
        now: Option<Time>,
    ) -> Result<Progress> {
        let plan = self.begin(Need::upkeep().with_leaves(STEP_LEAVES))?;
        let mut inode = plan.file(ino)?;
        let (from, to) = (block.0, block.0.saturating_add(count));
        let (extents, mut more) = plan.plan_free(ino, from, to, |_| true)?;
        if extents.is_empty() {
            return Ok(Progress::Done);
        }
        plan.change(|change| {
            more |= change.free_extents(&mut inode, &extents, from, to)?;
            if let Some(now) = now {
                inode.modified(now);
            }
            change.put_inode(&inode)
        })?;
        Ok(if more { Progress::More } else { Progress::Done })
    }

    /// Removes an orphan that nobody uses, or finishes an interrupted truncation, in steps: call it until
    /// it is done. An inode that is no orphan stays as it is.
    ///
    /// # Errors
    /// Those of every change.
    pub fn evict(&mut self, ino: Ino) -> Result<Progress> {
        let plan = self.begin(Need::upkeep().with_leaves(STEP_LEAVES))?;
        let inode = match plan.inode(ino) {
            Ok(inode) => inode,
            Err(Error::NotFound) => {
                plan.tree()?.touch(orphan_key(ino))?;
                return plan.change(|change| {
                    change.remove_orphan(ino)?;
                    Ok(Progress::Done)
                });
            }
            Err(other) => return Err(other),
        };
        if inode.nlink > 0 {
            if plan.tree()?.get(orphan_key(ino))?.is_none() {
                return Ok(Progress::Done);
            }
            let from = inode.size.div_ceil(plan.geometry().block_bytes() as u64);
            return plan.free_step(inode, from);
        }
        let (extents, _) = plan.plan_free(ino, 0, u64::MAX, |_| true)?;
        if !extents.is_empty() && mutants::is(Mutant::OrphanOrder) {
            return plan.change(|change| {
                change.remove(Key::inode(ino))?;
                change.inode_gone();
                Ok(Progress::More)
            });
        }
        if !extents.is_empty() {
            return plan.change(|change| {
                let mut inode = inode;
                let _ = change.free_extents(&mut inode, &extents, 0, u64::MAX)?;
                change.put_inode(&inode)?;
                if mutants::is(Mutant::OrphanEarly) {
                    change.remove_orphan(ino)?;
                }
                Ok(Progress::More)
            });
        }
        // Then its other items, and the inode item last, though its key is the smallest.
        let mut keys: Vec<Key> = Vec::new();
        let from = Key::inode(ino).next().ok_or(Error::NotFound)?;
        let to = Key::new(ino, Kind::Group, u64::MAX);
        plan.tree()?.scan(from, to, &mut |key, _| {
            if keys.len() == STEP_ITEMS {
                return Ok(ControlFlow::Break(()));
            }
            push(&mut keys, key)?;
            Ok(ControlFlow::Continue(()))
        })?;
        plan.tree()?.touch(orphan_key(ino))?;
        let last = keys.len() < STEP_ITEMS;
        plan.change(|change| {
            for key in &keys {
                change.remove(*key)?;
            }
            if last {
                change.remove(Key::inode(ino))?;
                change.remove_orphan(ino)?;
                change.inode_gone();
            }
            Ok(if last { Progress::Done } else { Progress::More })
        })
    }
}

impl<D: Device> Plan<'_, D> {
    /// Frees a step's worth of the blocks from `from` on. The inode is an orphan until none are left.
    fn free_step(self, mut inode: Inode, from: u64) -> Result<Progress> {
        let ino = inode.ino;
        let (extents, mut more) = self.plan_free(ino, from, u64::MAX, |_| true)?;
        self.tree()?.touch(orphan_key(ino))?;
        let listed = self.tree()?.get(orphan_key(ino))?.is_some();
        self.change(|change| {
            more |= change.free_extents(&mut inode, &extents, from, u64::MAX)?;
            change.put_inode(&inode)?;
            if more && !listed {
                change.put_orphan(ino)?;
            } else if !more && listed && inode.nlink > 0 {
                change.remove_orphan(ino)?;
            }
            Ok(if more { Progress::More } else { Progress::Done })
        })
    }
}

impl<D: Device> Change<'_, D> {
    /// Frees the parts of `extents` in `from..to`, but only the end of a very long one. Returns whether
    /// a part is left.
    fn free_extents(
        &mut self,
        inode: &mut Inode,
        extents: &[Extent],
        from: u64,
        to: u64,
    ) -> Result<bool> {
        let limit = (GROUPS / 4) * self.geometry().group_blocks();
        let mut left_over = false;
        for extent in extents {
            let Some(whole) = extent.cut(from, to) else { continue };
            let from = if whole.len > limit { whole.end() - limit } else { from };
            left_over |= whole.len > limit;
            let Some(part) = extent.cut(from, to) else { continue };
            match extent.cut(0, from) {
                Some(left) => self.put_extent(inode.ino, &left)?,
                None => {
                    self.remove(Key::new(inode.ino, Kind::Extent, extent.start))?;
                }
            }
            if let Some(right) = extent.cut(to, u64::MAX) {
                self.put_extent(inode.ino, &right)?;
            }
            self.release(part.block, part.len)?;
            inode.blocks = inode.blocks.saturating_sub(part.len);
        }
        Ok(left_over)
    }
}
