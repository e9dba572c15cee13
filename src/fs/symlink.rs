// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Targets of symbolic links: consecutive items of the link's inode, each a chunk.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::types::FileType;
use crate::volume::{Change, Volume};
use alloc::vec::Vec;
use core::ops::ControlFlow;
use vexfs_format::{CHUNK_BYTES, Ino, Key, Kind, SYMLINK_MAX};

/// Most new leaves that the items of a target need.
pub(super) const TARGET_LEAVES: u64 = 4;

impl<D: Device> Volume<D> {
    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Invalid`] on anything else, [`Error::Miss`].
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.file_type() != FileType::Symlink {
            return Err(Error::Invalid("not a symbolic link"));
        }
        let mut target = Vec::new();
        target.try_reserve_exact(inode.size as usize & 0xffff).map_err(|_| Error::NoMemory)?;
        let from = Key::new(ino, Kind::Inline, 0);
        let to = Key::new(ino, Kind::Inline, u64::MAX);
        self.tree()?.scan(from, to, &mut |key, payload| {
            if key.offset() != target.len() as u64 {
                return Err(Error::inode(ino, "the symlink's target has a gap"));
            }
            target.try_reserve(payload.len()).map_err(|_| Error::NoMemory)?;
            target.extend_from_slice(payload);
            Ok(ControlFlow::Continue(()))
        })?;
        if target.len() as u64 != inode.size {
            return Err(Error::inode(ino, "the symlink's target has the wrong length"));
        }
        Ok(target)
    }
}

impl<D: Device> Change<'_, D> {
    /// Puts the target of a new link; no items for an empty one.
    pub(super) fn put_target(&mut self, ino: Ino, target: &[u8]) -> Result<()> {
        for (index, chunk) in target.chunks(CHUNK_BYTES).enumerate() {
            self.put(Key::new(ino, Kind::Inline, (index * CHUNK_BYTES) as u64), chunk)?;
        }
        Ok(())
    }
}

const _: () = assert!(SYMLINK_MAX <= 7 * CHUNK_BYTES);
