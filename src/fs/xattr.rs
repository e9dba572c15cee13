// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Extended attributes: each in one or several chunks under the hash of its name.
//!
//! A chunk's offset is `hash48 << 16 | index << 8 | chunk`; names of the same hash get different
//! indices. The first chunk holds head, name and the start of the value. The host checks permissions.

use super::directory::name_hash;
use super::inode::SetAttr;
use crate::buffer::push;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::types::{Time, XattrMode};
use crate::volume::{Need, Volume};
use alloc::vec::Vec;
use core::ops::ControlFlow;
use vexfs_format::{CHUNK_BYTES, Ino, Key, Kind, NAME_MAX, XATTR_VALUE_MAX, XattrHead};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

const HEAD: usize = size_of::<XattrHead>();

/// The place of an attribute.
struct Found {
    /// Key of its first chunk.
    key: Key,
    chunks: u64,
}

/// True of an attribute's first chunk.
pub(crate) const fn is_first(key: Key) -> bool {
    key.offset() as u8 == 0
}

/// Head, name and the value's start of a first chunk.
pub(crate) fn parse_first(payload: &[u8]) -> Result<(XattrHead, &[u8], &[u8])> {
    const WRONG: Error = Error::damaged("an extended attribute is malformed");
    let (head, rest) = XattrHead::read_from_prefix(payload).map_err(|_| WRONG)?;
    let (name, value) = rest.split_at_checked(usize::from(head.name_len)).ok_or(WRONG)?;
    let impossible = head.value_len.get() as usize > XATTR_VALUE_MAX
        || head.chunks.get() == 0
        || head.chunks.get() > 0xff
        || name.is_empty();
    if impossible { Err(WRONG) } else { Ok((head, name, value)) }
}

impl<D: Device> Volume<D> {
    fn xattr_base(&self, ino: Ino, name: &[u8]) -> Key {
        Key::new(ino, Kind::Xattr, name_hash(self.geometry(), name) << 16)
    }

    fn find_xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Found>> {
        let base = self.xattr_base(ino, name);
        let to = Key::new(ino, Kind::Xattr, base.offset() | 0xffff);
        let mut found = None;
        self.tree()?.scan(base, to, &mut |key, payload| {
            if is_first(key) {
                let (head, other, _) = parse_first(payload)?;
                if other == name {
                    found = Some(Found { key, chunks: u64::from(head.chunks.get()) });
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// The value of attribute `name` (prefix included).
    ///
    /// # Errors
    /// [`Error::NoAttr`], [`Error::Miss`].
    pub fn xattr_get(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.inode(ino)?;
        let found = self.find_xattr(ino, name)?.ok_or(Error::NoAttr)?;
        let to = Key::new(ino, Kind::Xattr, found.key.offset() + (found.chunks - 1));
        let mut value = Vec::new();
        let (mut len, mut next) = (0, found.key.offset());
        self.tree()?.scan(found.key, to, &mut |key, payload| {
            let part = if key == found.key {
                let (head, _, start) = parse_first(payload)?;
                len = head.value_len.get() as usize;
                value.try_reserve_exact(len).map_err(|_| Error::NoMemory)?;
                start
            } else {
                payload
            };
            if key.offset() != next {
                return Err(Error::inode(ino, "an extended attribute lacks a chunk"));
            }
            next += 1;
            value.try_reserve(part.len()).map_err(|_| Error::NoMemory)?;
            value.extend_from_slice(part);
            Ok(ControlFlow::Continue(()))
        })?;
        if value.len() != len {
            return Err(Error::inode(ino, "an extended attribute has the wrong length"));
        }
        Ok(value)
    }

    /// Calls `emit` with the name of each attribute until it returns false.
    ///
    /// # Errors
    /// [`Error::Miss`], perhaps after some names were emitted: start again from the first.
    pub fn xattr_list(&self, ino: Ino, emit: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
        self.inode(ino)?;
        let (from, to) = (Key::new(ino, Kind::Xattr, 0), Key::new(ino, Kind::Xattr, u64::MAX));
        self.tree()?.scan(from, to, &mut |key, payload| {
            if is_first(key) && !emit(parse_first(payload)?.1) {
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Sets attribute `name`.
    ///
    /// # Errors
    /// [`Error::AttrTooBig`], [`Error::Exists`] and [`Error::NoAttr`] by `mode`, and those of every change.
    pub fn xattr_set(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        now: Time,
    ) -> Result<()> {
        self.xattr_put(ino, name, value, mode, &SetAttr::at(now))
    }

    /// Sets attribute `name` to `value`, or removes it if that is `None` (it need not exist), and changes
    /// the inode's attributes, all in one change: an ACL and the mode that goes with it always agree.
    ///
    /// # Errors
    /// Those of [`xattr_set`](Self::xattr_set).
    pub fn acl_set(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: Option<&[u8]>,
        attr: &SetAttr,
    ) -> Result<()> {
        match value {
            Some(value) => self.xattr_put(ino, name, value, XattrMode::Set, attr),
            None => match self.xattr_take(ino, name, attr) {
                Err(Error::NoAttr) => self.set_attr(ino, attr).map(|_| ()),
                other => other,
            },
        }
    }

    fn xattr_put(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        attr: &SetAttr,
    ) -> Result<()> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Error::RangeTooSmall);
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(Error::AttrTooBig);
        }
        let first_len = CHUNK_BYTES.saturating_sub(HEAD + name.len()).min(value.len());
        let (start, rest) = value.split_at_checked(first_len).unwrap_or((value, &[]));
        let chunks = 1 + rest.len().div_ceil(CHUNK_BYTES);
        // Six chunks to a leaf, and every new leaf may split one more node.
        let plan = self.begin(Need::growth().with_leaves(chunks as u64))?;
        let mut inode = plan.inode(ino)?;
        let old = plan.find_xattr(ino, name)?;
        match (&old, mode) {
            (Some(_), XattrMode::Create) => return Err(Error::Exists),
            (None, XattrMode::Replace) => return Err(Error::NoAttr),
            _ => {}
        }
        let key = match &old {
            Some(old) => old.key,
            None => plan.vacant_xattr(ino, name)?,
        };
        let old_chunks = old.as_ref().map_or(0, |old| old.chunks);
        let keys = |count: u64| {
            (0..count).map(move |chunk| Key::new(ino, Kind::Xattr, key.offset() + chunk))
        };
        for key in keys(old_chunks.max(chunks as u64)) {
            plan.tree()?.touch(key)?;
        }
        let head = XattrHead {
            value_len: U32::new(value.len() as u32),
            chunks: U16::new(chunks as u16),
            name_len: name.len() as u8,
            reserved: 0,
        };
        let mut first = Vec::new();
        first.try_reserve_exact(HEAD + name.len() + start.len()).map_err(|_| Error::NoMemory)?;
        first.extend_from_slice(head.as_bytes());
        first.extend_from_slice(name);
        first.extend_from_slice(start);
        plan.change(|change| {
            for key in keys(old_chunks).skip(chunks) {
                change.remove(key)?;
            }
            change.put(key, &first)?;
            for (key, chunk) in keys(chunks as u64).skip(1).zip(rest.chunks(CHUNK_BYTES)) {
                change.put(key, chunk)?;
            }
            attr.apply(&mut inode);
            change.put_inode(&inode)
        })
    }

    fn vacant_xattr(&self, ino: Ino, name: &[u8]) -> Result<Key> {
        let base = self.xattr_base(ino, name);
        for index in 0..=0xff_u64 {
            let key = Key::new(ino, Kind::Xattr, base.offset() | index << 8);
            if self.tree()?.get(key)?.is_none() {
                return Ok(key);
            }
        }
        Err(Error::NoSpace)
    }

    /// Removes attribute `name`.
    ///
    /// # Errors
    /// [`Error::NoAttr`], and those of every change.
    pub fn xattr_remove(&mut self, ino: Ino, name: &[u8], now: Time) -> Result<()> {
        self.xattr_take(ino, name, &SetAttr::at(now))
    }

    fn xattr_take(&mut self, ino: Ino, name: &[u8], attr: &SetAttr) -> Result<()> {
        let plan = self.begin(Need::upkeep().with_leaves(24))?;
        let mut inode = plan.inode(ino)?;
        let found = plan.find_xattr(ino, name)?.ok_or(Error::NoAttr)?;
        let mut keys: Vec<Key> = Vec::new();
        let to = Key::new(ino, Kind::Xattr, found.key.offset() + (found.chunks - 1));
        plan.tree()?.scan(found.key, to, &mut |key, _| {
            push(&mut keys, key)?;
            Ok(ControlFlow::Continue(()))
        })?;
        plan.change(|change| {
            for key in &keys {
                change.remove(*key)?;
            }
            attr.apply(&mut inode);
            change.put_inode(&inode)
        })
    }
}
