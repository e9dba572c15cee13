// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Following a filesystem that another host writes: which inodes changed since a commit, and where
//! their contents are.
//!
//! The follower reads the newest committed tree and skips every subtree whose pointer is not newer than
//! the commit it knows. It takes no lock, so the writer may reuse a block of the tree while it is read.
//! The pointer's checksum does not match then, and the follower returns [`Error::Stale`]: call
//! [`Follower::poll`] and start again.

use crate::buffer::push;
use crate::device::Device;
use crate::error::{Error, Missing, Result};
use crate::fs::Inode;
use crate::mutants::{self, Mutant};
use crate::superblock::newest_root;
use crate::tree::node;
use crate::types::{Mapping, MappingKind};
use crate::volume::{OpenOptions, Volume};
use alloc::vec::Vec;
use vexfs_format::node::Pointer;
use vexfs_format::{FileBlock, Generation, Ino, Kind};

/// A change that [`Follower::changes`] reports.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Inodes in `first..=last` may have been removed. A removed inode leaves nothing in the tree that
    /// could be reported, so a caller that knows some looks whether they still exist. Comes before the inodes.
    Range {
        /// First inode.
        first: Ino,
        /// Last inode.
        last: Ino,
    },
    /// An inode whose item is in a changed leaf. Every change of a file's extents, size or attributes
    /// changes its item, so every changed inode is reported, and some of their neighbours.
    Inode(Inode),
}

/// A subtree that is still to be read.
struct Subtree {
    pointer: Pointer,
    level: u8,
}

/// A reader of the newest committed tree.
#[derive(Debug)]
pub struct Follower<D> {
    volume: Volume<D>,
}

impl<D: Device> Follower<D> {
    /// Opens the filesystem on `device` and keeps about `cache_bytes` of its tree in memory.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open(device: D, cache_bytes: usize) -> Result<Self> {
        Ok(Self { volume: Volume::open(device, &OpenOptions { read_only: true, cache_bytes })? })
    }

    /// The generation that it reads.
    pub const fn generation(&self) -> Generation {
        self.volume.generation()
    }

    /// The volume at that generation, for reading. Pass its errors to [`judge`](Self::judge): they may
    /// come from a block that the writer reused.
    pub const fn volume(&mut self) -> &mut Volume<D> {
        &mut self.volume
    }

    /// Changes to the newest root; `None` if there is no newer one.
    ///
    /// # Errors
    /// [`Error::NoRoot`], the device's.
    pub fn poll(&mut self) -> Result<Option<Generation>> {
        let record = newest_root(self.volume.device(), self.volume.geometry())?;
        let generation = Generation(record.generation.get());
        if generation <= self.volume.generation() {
            return Ok(None);
        }
        self.volume.adopt(&record);
        self.volume.trim_to_limit();
        Ok(Some(generation))
    }

    /// [`Error::Stale`] in place of an error that looks like damage, if there is a newer root.
    pub fn judge(&self, error: Error) -> Error {
        if !matches!(error, Error::Corrupt(_) | Error::NotFound) || mutants::is(Mutant::FollowStale)
        {
            return error;
        }
        match newest_root(self.volume.device(), self.volume.geometry()) {
            Ok(record) if record.generation.get() > self.volume.generation().0 => Error::Stale,
            _ => error,
        }
    }

    /// Reports what changed after `since` (0 for everything), in the order of inode numbers.
    ///
    /// # Errors
    /// [`Error::Stale`] if the writer reused blocks of the tree, damage, the device's, and what `visit` returns.
    pub fn changes(
        &mut self,
        since: Generation,
        visit: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<()> {
        let result = self.walk(since, visit);
        result.map_err(|error| self.judge(error))
    }

    fn walk(
        &mut self,
        since: Generation,
        visit: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<()> {
        let since = Generation(since.0.saturating_add(u64::from(mutants::is(Mutant::FollowSince))));
        let mut stack: Vec<Subtree> = Vec::new();
        let tree = self.volume.tree()?;
        let root = Subtree { pointer: tree.root(), level: tree.level() };
        if root.pointer.generation > since {
            visit(Change::Range { first: Ino::ROOT, last: Ino::MAX })?;
        }
        push(&mut stack, root)?;
        // Children are one level lower than their parent, so the loop ends.
        while let Some(subtree) = stack.pop() {
            if subtree.pointer.generation <= since {
                continue;
            }
            if !self.volume.tree()?.is_cached(&subtree.pointer) {
                let loaded = self.volume.fetch(&Missing::node(subtree.pointer))?;
                self.volume.install(loaded)?;
            }
            let data = self.volume.tree()?.node_data(&subtree.pointer, subtree.level)?;
            if subtree.level > 0 {
                for entry in node::entries(data)?.iter().rev() {
                    let level = subtree.level - 1;
                    push(&mut stack, Subtree { pointer: entry.child.into(), level })?;
                }
                continue;
            }
            for item in (0..).map_while(|index| node::leaf_item(data, index).transpose()) {
                let (key, payload) = item?;
                if key.kind() == Some(Kind::Inode) && key.ino() != Ino::SYSTEM {
                    visit(Change::Inode(Inode::from_payload(key.ino(), payload)?))?;
                }
            }
            self.volume.trim_to_limit();
        }
        Ok(())
    }

    /// The written ranges of a file, in order.
    ///
    /// # Errors
    /// [`Error::Stale`] if the writer reused blocks of the tree, [`Error::NotFound`], damage, the device's.
    pub fn written(&mut self, ino: Ino) -> Result<Vec<Mapping>> {
        let result = self.list_written(ino);
        result.map_err(|error| self.judge(error))
    }

    fn list_written(&mut self, ino: Ino) -> Result<Vec<Mapping>> {
        let size = self.volume.resolve(|volume| volume.inode(ino))?.size;
        let end = size.div_ceil(self.volume.geometry().block_bytes() as u64);
        let mut parts = Vec::new();
        let mut at = 0;
        while at < end {
            let part = self.volume.resolve(|volume| volume.map(ino, FileBlock(at), end - at))?;
            at += part.count.max(1);
            if matches!(part.kind, MappingKind::Written(_)) {
                push(&mut parts, part)?;
            }
        }
        Ok(parts)
    }
}
