// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Renaming: a name moves, replaces another one, or two are exchanged, in one change.
//!
//! Invariant: no directory is below itself, and `parent` of a directory is the directory that names it.

use super::directory::{Entry, check_name};
use super::inode::{Inode, orphan_key};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::types::Time;
use crate::volume::{Change, Need, Volume};
use vexfs_format::{Ino, Key};

/// Most parents that are followed upwards; more are taken for a loop.
const DEPTH_MAX: usize = 1 << 20;

/// How `rename` treats a name that exists.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenameFlags {
    /// Fail with [`Error::Exists`].
    pub no_replace: bool,
    /// Exchange the two names.
    pub exchange: bool,
}

/// What a rename did.
#[derive(Clone, Copy, Debug)]
pub struct Renamed {
    /// The inode that got the new name.
    pub moved: Ino,
    /// The inode that had the name: replaced (with `nlink` 0 it is to be evicted) or exchanged.
    pub other: Option<Inode>,
}

/// A name of a rename: the directory, the entry in it, and the inode it names.
struct Side<'a> {
    dir: Inode,
    name: &'a [u8],
    key: Key,
    inode: Inode,
}

impl<D: Device> Volume<D> {
    /// Renames `from_name` of `from` to `to_name` of `to`, atomically.
    ///
    /// # Errors
    /// As `rename(2)`: [`Error::NotFound`], [`Error::Exists`], [`Error::NotEmpty`], [`Error::IsDirectory`],
    /// [`Error::NotDirectory`], [`Error::Invalid`] into itself; and those of every change.
    pub fn rename(
        &mut self,
        from: Ino,
        from_name: &[u8],
        to: Ino,
        to_name: &[u8],
        flags: RenameFlags,
        now: Time,
    ) -> Result<Renamed> {
        check_name(to_name)?;
        if flags.no_replace && flags.exchange {
            return Err(Error::Invalid("a rename cannot both exchange and not replace"));
        }
        let need = if flags.exchange { Need::upkeep() } else { Need::growth() };
        let plan = self.begin(need)?;
        let from_dir = plan.directory(from)?;
        let to_dir = plan.live_directory(to)?;
        let source = plan.find_entry(from, from_name)?.ok_or(Error::NotFound)?;
        let inode = plan.entry_inode(&source)?;
        let target = plan.find_entry(to, to_name)?;
        if target.is_some() && flags.no_replace {
            return Err(Error::Exists);
        }
        let other = match &target {
            Some(entry) => Some(plan.entry_inode(entry)?),
            None if flags.exchange => return Err(Error::NotFound),
            None => None,
        };
        if other.is_some_and(|other| other.ino == inode.ino) {
            // Two names of one inode: POSIX asks for nothing to happen.
            return Ok(Renamed { moved: inode.ino, other: None });
        }
        plan.check_not_below(&inode, from, to)?;
        let source = Side { dir: from_dir, name: from_name, key: source.key, inode };
        if flags.exchange
            && let (Some(target), Some(other)) = (target, other)
        {
            plan.check_not_below(&other, to, from)?;
            let target = Side { dir: to_dir, name: to_name, key: target.key, inode: other };
            return plan.change(|change| change.exchange(&source, &target, now));
        }
        let key = match (target, &other) {
            (Some(Entry { key, .. }), Some(other)) => {
                check_replaceable(&source.inode, other)?;
                plan.tree()?.touch(orphan_key(other.ino))?;
                key
            }
            _ => plan.vacant_entry(to, to_name)?,
        };
        plan.change(|change| change.move_name(&source, to_dir, to_name, key, other, now))
    }

    /// Fails if `inode`, which moves from `from` to `to`, is a directory and `to` is in it.
    fn check_not_below(&self, inode: &Inode, from: Ino, to: Ino) -> Result<()> {
        if from != to && inode.is_dir() && self.is_above(inode.ino, to)? {
            return Err(Error::Invalid("a directory cannot be moved into itself"));
        }
        Ok(())
    }

    /// True if `ino` is `dir` or above it.
    fn is_above(&self, ino: Ino, dir: Ino) -> Result<bool> {
        let mut at = dir;
        for _ in 0..DEPTH_MAX {
            if at == ino {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            at = self.inode(at)?.parent;
        }
        Err(Error::inode(dir, "the directory's parents form a loop"))
    }
}

/// Fails if `other` may not be replaced by `moved`.
fn check_replaceable(moved: &Inode, other: &Inode) -> Result<()> {
    match (moved.is_dir(), other.is_dir()) {
        (true, false) => Err(Error::NotDirectory),
        (false, true) => Err(Error::IsDirectory),
        (true, true) if other.size != 0 => Err(Error::NotEmpty),
        _ => Ok(()),
    }
}

impl<D: Device> Change<'_, D> {
    /// Moves a name to `key` of `to_dir`, where it replaces `other`.
    fn move_name(
        &mut self,
        source: &Side<'_>,
        mut to_dir: Inode,
        to_name: &[u8],
        key: Key,
        mut other: Option<Inode>,
        now: Time,
    ) -> Result<Renamed> {
        let (mut from_dir, mut moved) = (source.dir, source.inode);
        let same = from_dir.ino == to_dir.ino;
        self.remove(source.key)?;
        self.put_entry(key, to_name, moved.ino, moved.file_type())?;
        from_dir.size = from_dir.size.saturating_sub(1);
        from_dir.modified(now);
        if same {
            to_dir = from_dir;
        }
        to_dir.modified(now);
        match &mut other {
            Some(other) => {
                if other.is_dir() {
                    to_dir.nlink = to_dir.nlink.saturating_sub(1);
                }
                self.drop_name(other, now)?;
            }
            None => to_dir.size = to_dir.size.saturating_add(1),
        }
        if moved.is_dir() && !same {
            from_dir.nlink = from_dir.nlink.saturating_sub(1);
            to_dir.nlink = to_dir.nlink.saturating_add(1);
            moved.parent = to_dir.ino;
        }
        moved.changed(now);
        self.put_inode(&moved)?;
        if !same {
            self.put_inode(&from_dir)?;
        }
        self.put_inode(&to_dir)?;
        Ok(Renamed { moved: moved.ino, other })
    }

    /// Exchanges two names.
    fn exchange(&mut self, source: &Side<'_>, target: &Side<'_>, now: Time) -> Result<Renamed> {
        let (mut from_dir, mut moved) = (source.dir, source.inode);
        let (mut to_dir, mut other) = (target.dir, target.inode);
        self.put_entry(target.key, target.name, moved.ino, moved.file_type())?;
        self.put_entry(source.key, source.name, other.ino, other.file_type())?;
        moved.changed(now);
        other.changed(now);
        if from_dir.ino != to_dir.ino {
            match (moved.is_dir(), other.is_dir()) {
                (true, false) => {
                    from_dir.nlink = from_dir.nlink.saturating_sub(1);
                    to_dir.nlink = to_dir.nlink.saturating_add(1);
                }
                (false, true) => {
                    to_dir.nlink = to_dir.nlink.saturating_sub(1);
                    from_dir.nlink = from_dir.nlink.saturating_add(1);
                }
                _ => {}
            }
            if moved.is_dir() {
                moved.parent = to_dir.ino;
            }
            if other.is_dir() {
                other.parent = from_dir.ino;
            }
            to_dir.modified(now);
            self.put_inode(&to_dir)?;
        }
        from_dir.modified(now);
        self.put_inode(&from_dir)?;
        self.put_inode(&moved)?;
        self.put_inode(&other)?;
        Ok(Renamed { moved: moved.ino, other: Some(other) })
    }
}
