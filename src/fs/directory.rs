// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Directories: entries found by the hash of their name.
//!
//! An entry's offset is `hash55 << 8 | index`, so names of the same hash are next to each other, and a
//! lookup compares them. An entry keeps its offset, from which the `readdir` cookie is made, as long as
//! it exists.

use super::inode::Inode;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::superblock::Geometry;
use crate::types::{Dirent, FileType};
use crate::volume::{Change, Volume};
use core::hash::Hasher;
use core::ops::ControlFlow;
use siphasher::sip::SipHasher24;
use vexfs_format::{DirentHead, Ino, Key, Kind, NAME_MAX};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

/// Smaller cookies are the host's (`.` and `..`).
pub(crate) const FIRST_COOKIE: u64 = 3;

/// An entry that was found: its key and what it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) ino: Ino,
    pub(crate) file_type: FileType,
}

/// Splits an entry's payload into head and name.
pub(crate) fn parse_entry(payload: &[u8]) -> Result<(Ino, FileType, &[u8])> {
    const WRONG: Error = Error::damaged("a directory entry is malformed");
    let (head, name) = DirentHead::read_from_prefix(payload).map_err(|_| WRONG)?;
    let file_type = FileType::from_dt(head.file_type).ok_or(WRONG)?;
    let ino = Ino(head.ino.get());
    if name.len() != usize::from(head.name_len)
        || name.is_empty()
        || ino == Ino::SYSTEM
        || ino > Ino::MAX
    {
        return Err(WRONG);
    }
    Ok((ino, file_type, name))
}

/// Checks a name that the host passes.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        return Err(Error::Invalid("a name is empty, '.', '..', or has '/' or a zero byte in it"));
    }
    Ok(())
}

/// The hash of a name: SipHash-2-4 with the filesystem's own key, so that nobody can make names collide.
pub(crate) fn name_hash(geometry: &Geometry, name: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&geometry.hash_key);
    hasher.write(name);
    hasher.finish()
}

/// The first offset of names of this hash; the last one is 255 further on and below 2^63.
pub(crate) fn hash_base(hash: u64) -> u64 {
    (hash >> 9) << 8
}

impl<D: Device> Volume<D> {
    /// The inode, which must be a directory.
    pub(super) fn directory(&self, ino: Ino) -> Result<Inode> {
        let inode = self.inode(ino)?;
        if inode.is_dir() { Ok(inode) } else { Err(Error::NotDirectory) }
    }

    /// First and last key that an entry `name` of `dir` may have.
    fn entry_range(&self, dir: Ino, name: &[u8]) -> (Key, Key) {
        let base = hash_base(name_hash(self.geometry(), name));
        (
            Key::new(dir, Kind::Dirent, base.max(FIRST_COOKIE)),
            Key::new(dir, Kind::Dirent, base | 0xff),
        )
    }

    /// The entry `name` of `dir`.
    pub(super) fn find_entry(&self, dir: Ino, name: &[u8]) -> Result<Option<Entry>> {
        let (from, to) = self.entry_range(dir, name);
        let mut found = None;
        self.tree()?.scan(from, to, &mut |key, payload| {
            let (ino, file_type, other) = parse_entry(payload)?;
            if other == name {
                found = Some(Entry { key, ino, file_type });
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// A free key for a new entry `name` of `dir`; fails if the name exists.
    pub(super) fn vacant_entry(&self, dir: Ino, name: &[u8]) -> Result<Key> {
        let (from, to) = self.entry_range(dir, name);
        let mut vacant = Some(from);
        let mut exists = false;
        self.tree()?.scan(from, to, &mut |key, payload| {
            exists |= parse_entry(payload)?.2 == name;
            if vacant == Some(key) {
                vacant = key.next().filter(|next| *next <= to);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if exists {
            return Err(Error::Exists);
        }
        let key = vacant.ok_or(Error::NoSpace)?;
        self.tree()?.touch(key)?;
        Ok(key)
    }

    /// The inode `name` of `dir` and its type.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NameTooLong`], [`Error::Miss`].
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<(Ino, FileType)> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        self.directory(dir)?;
        match self.find_entry(dir, name)? {
            Some(entry) => Ok((entry.ino, entry.file_type)),
            None => Err(Error::NotFound),
        }
    }

    /// Calls `emit` with the entries of `dir` from `cookie` on (0 from the start) until it returns
    /// false. The host adds `.` and `..`. A miss after something was emitted ends the call early: call
    /// again from the last cookie until a call emits nothing.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], [`Error::Miss`] if nothing was emitted.
    pub fn readdir(
        &self,
        dir: Ino,
        cookie: u64,
        emit: &mut dyn FnMut(&Dirent<'_>) -> bool,
    ) -> Result<()> {
        self.directory(dir)?;
        let from = Key::new(dir, Kind::Dirent, cookie.max(FIRST_COOKIE));
        let to = Key::new(dir, Kind::Dirent, u64::MAX);
        let mut emitted = false;
        let result = self.tree()?.scan(from, to, &mut |key, payload| {
            let (ino, file_type, name) = parse_entry(payload)?;
            // No cookie can follow it: the caller would read the same entry again and again.
            if key.offset() >> 63 != 0 {
                return Err(Error::inode(
                    dir,
                    "a directory entry is at an offset beyond every hash",
                ));
            }
            emitted = true;
            let cookie = key.offset().saturating_add(1);
            Ok(if emit(&Dirent { ino, file_type, name, cookie }) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        });
        match result {
            Err(Error::Miss(_)) if emitted => Ok(()),
            other => other,
        }
    }
}

impl<D: Device> Change<'_, D> {
    /// Puts the entry `name` at `key`, which [`Volume::vacant_entry`] or [`Volume::find_entry`] found.
    pub(super) fn put_entry(
        &mut self,
        key: Key,
        name: &[u8],
        ino: Ino,
        file_type: FileType,
    ) -> Result<()> {
        let head = DirentHead {
            ino: U64::new(ino.0),
            file_type: file_type.dt(),
            name_len: name.len() as u8,
        };
        let mut payload = [0u8; size_of::<DirentHead>() + NAME_MAX];
        let len = size_of::<DirentHead>() + name.len();
        let used = payload.get_mut(..len).ok_or(Error::NameTooLong)?;
        let (front, back) = used.split_at_mut(size_of::<DirentHead>());
        front.copy_from_slice(head.as_bytes());
        back.copy_from_slice(name);
        self.put(key, used)
    }
}
