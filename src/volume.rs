// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An open filesystem: what is in memory of it, and how blocks get into memory.
//!
//! Invariant: the tree under `root` is complete; every node of it that no durable root reaches is
//! in the cache. The volume reads blocks, and writes none outside a [`crate::Commit`].

use crate::buffer::zeroed;
use crate::cache::{LoadedNode, NodeCache, NodeId};
use crate::device::Device;
use crate::error::{Error, Missing, Result};
use crate::inode::Inode;
use crate::node;
use crate::space::Space;
use crate::superblock::{Geometry, newest_root, read_superblock};
use crate::types::StatFs;
use alloc::vec::Vec;
use vexfs_format::mutants::{self, Mutant};
use vexfs_format::node::Pointer;
use vexfs_format::{Generation, Ino, LEVELS_MAX, RootRecord, crc32c, features};

/// How to open a volume.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Refuse every operation that changes something.
    pub read_only: bool,
    /// About how many bytes of clean tree nodes to keep.
    pub cache_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { read_only: false, cache_bytes: 32 << 20 }
    }
}

/// An open filesystem on device `D`.
#[derive(Debug)]
pub struct Volume<D> {
    pub(crate) device: D,
    pub(crate) geometry: Geometry,
    pub(crate) cache: NodeCache,
    pub(crate) space: Space,
    /// The running transaction's tree.
    pub(crate) root: Pointer,
    pub(crate) level: u8,
    /// The newest generation whose root record is on the medium.
    pub(crate) durable: Generation,
    /// The generation that is being built.
    pub(crate) running: Generation,
    /// The generation whose commit is being written.
    pub(crate) in_flight: Option<Generation>,
    pub(crate) next_ino: u64,
    pub(crate) inodes: u64,
    pub(crate) orphans: u64,
    /// Something changed since the last freeze.
    pub(crate) dirty: bool,
    /// Nodes of the running generation.
    pub(crate) dirty_nodes: usize,
    /// Nodes of the commit in flight.
    pub(crate) frozen_nodes: usize,
    /// Grows with each change of the tree, so that a failure can tell whether one was made.
    pub(crate) changes: u64,
    /// Node buffers set aside before an operation, so that it cannot run out of memory halfway.
    pub(crate) spares: Vec<Vec<u8>>,
    /// As long as a node: where a leaf's items are moved together.
    pub(crate) scratch: Vec<u8>,
    pub(crate) read_only: bool,
    pub(crate) dead: bool,
}

impl<D: Device> Volume<D> {
    /// Opens the filesystem on `device` at its newest committed generation.
    ///
    /// # Errors
    /// As [`read_superblock`]; [`Error::NoRoot`] without a valid root record;
    /// [`Error::UnknownRoCompat`] if it may only be opened read-only.
    pub fn open(device: D, options: &OpenOptions) -> Result<Self> {
        let superblock = read_superblock(&device)?;
        let unknown = superblock.ro_compat.get() & !features::RO_COMPAT_KNOWN;
        if unknown != 0 && !options.read_only {
            return Err(Error::UnknownRoCompat(unknown));
        }
        let geometry = Geometry::of(&superblock);
        let record = newest_root(&device, &geometry)?;
        let mut volume = Self {
            cache: NodeCache::new(options.cache_bytes >> geometry.block_shift)?,
            space: Space::new(&geometry),
            device,
            geometry,
            root: Pointer::default(),
            level: 0,
            durable: Generation(0),
            running: Generation(1),
            in_flight: None,
            next_ino: 0,
            inodes: 0,
            orphans: 0,
            dirty: false,
            dirty_nodes: 0,
            frozen_nodes: 0,
            changes: 0,
            spares: Vec::new(),
            scratch: zeroed(geometry.block_bytes())?,
            read_only: options.read_only,
            dead: false,
        };
        volume.adopt(&record);
        Ok(volume)
    }

    /// Makes the record's tree the current one.
    pub(crate) fn adopt(&mut self, record: &RootRecord) {
        self.root = record.tree.into();
        self.level = record.level.get() as u8;
        self.durable = Generation(record.generation.get());
        self.running = Generation(record.generation.get().saturating_add(1));
        self.next_ino = record.next_ino.get();
        self.inodes = record.inodes.get();
        self.orphans = record.orphans.get();
        self.space.set_free(record.free_blocks.get());
    }

    /// The device.
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// The shape of the filesystem.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The newest generation that is on the medium.
    pub const fn generation(&self) -> Generation {
        self.durable
    }

    /// The generation that the next commit makes.
    pub const fn running(&self) -> Generation {
        self.running
    }

    /// Orphans in the tree, see [`next_orphan`](Self::next_orphan).
    pub const fn orphans(&self) -> u64 {
        self.orphans
    }

    /// The number of the next inode that is made. Numbers are not used again.
    pub const fn next_ino(&self) -> Ino {
        Ino(self.next_ino)
    }

    /// True if something was changed since the last [`freeze`](Self::freeze).
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// True once a failure stopped the volume: every operation fails with [`Error::Dead`].
    pub const fn is_dead(&self) -> bool {
        self.dead
    }

    /// Stops the volume for good; what was not committed is lost.
    pub const fn kill(&mut self) {
        self.dead = true;
    }

    /// True if changes are refused.
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Refuses changes from now on, or allows them again. Commit before refusing.
    pub const fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// Tree nodes in memory.
    pub const fn cached_nodes(&self) -> usize {
        self.cache.len()
    }

    /// Evicts clean nodes until about `limit` are left; returns how many went.
    pub fn trim(&mut self, limit: usize) -> usize {
        let before = self.cache.len();
        self.cache.trim_to(limit, self.durable);
        before.saturating_sub(self.cache.len())
    }

    /// Reads and verifies a block an operation missed. Call it under the same hold of the host's
    /// lock as the operation (shared is enough): later the block may have been used for something else.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::NoMemory`], and [`Error::Corrupt`] if the block is not what its pointer says.
    pub fn fetch(&self, missing: &Missing) -> Result<LoadedNode> {
        let pointer = &missing.pointer;
        if pointer.block.0 >= self.geometry.blocks {
            return Err(Error::block(pointer.block, "a pointer leads outside the filesystem"));
        }
        let mut data = zeroed(self.geometry.block_bytes())?;
        self.device.read(self.geometry.byte_of(pointer.block), &mut data)?;
        if missing.group.is_none() {
            node::verify(&data, pointer, &self.geometry.uuid, self.geometry.blocks)?;
        } else if crc32c(&data) != pointer.crc && !mutants::is(Mutant::BitmapChecksum) {
            return Err(Error::block(pointer.block, "the checksum of a group's bitmap is wrong"));
        }
        Ok(LoadedNode { missing: *missing, data })
    }

    /// Takes in what [`fetch`](Self::fetch) read. What became stale in between is dropped.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn install(&mut self, loaded: LoadedNode) -> Result<()> {
        let LoadedNode { missing: Missing { pointer, group }, data } = loaded;
        match group {
            None => {
                if self.cache.find(&pointer).is_none()
                    && !self.cache.has_newer(pointer.block, pointer.generation)
                {
                    self.cache.insert(pointer, data)?;
                }
                Ok(())
            }
            Some(index) => match self.group_item(index) {
                Ok(Some((current, _))) if current == pointer => {
                    self.space.insert(index, pointer, &data)
                }
                _ => Ok(()),
            },
        }
    }

    /// Runs `operation` again and again, reading what it misses in between. For hosts without a lock to give up.
    ///
    /// # Errors
    /// Those of the operation and of [`fetch`](Self::fetch).
    pub fn resolve<T>(&mut self, mut operation: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        // Every round brings in a block the operation needs, and nothing needs more than all there are.
        for _ in 0..self.geometry.blocks.saturating_add(1) {
            match operation(self) {
                Err(Error::Miss(missing)) => {
                    let loaded = self.fetch(&missing)?;
                    self.install(loaded)?;
                }
                other => return other,
            }
        }
        Err(Error::internal("an operation keeps missing blocks that were read"))
    }

    /// Figures of the filesystem.
    pub fn statfs(&self) -> StatFs {
        let free = self.space.free();
        StatFs {
            block_bytes: self.geometry.block_bytes() as u32,
            blocks: self.geometry.blocks,
            blocks_free: free,
            blocks_available: free.saturating_sub(self.reserve()),
            inodes: self.inodes,
            uuid: self.geometry.uuid,
            label: self.geometry.label,
        }
    }

    /// Fails on a volume that stopped.
    pub(crate) const fn check_alive(&self) -> Result<()> {
        if self.dead { Err(Error::Dead) } else { Ok(()) }
    }

    /// The cached node of `pointer`, which must be on `level`.
    pub(crate) fn node(&self, pointer: &Pointer, level: u8) -> Result<NodeId> {
        let id = self.cache.find(pointer).ok_or(Error::Miss(Missing::node(*pointer)))?;
        if node::header(&self.cache.get(id)?.data)?.level != level {
            return Err(Error::block(pointer.block, "a node is not on the level its parent says"));
        }
        Ok(id)
    }

    /// Levels of the tree.
    pub(crate) fn levels(&self) -> u64 {
        u64::from(self.level).saturating_add(1).min(LEVELS_MAX as u64)
    }

    /// The inode, which must be a directory.
    pub(crate) fn directory(&self, ino: Ino) -> Result<Inode> {
        let inode = self.inode(ino)?;
        if inode.is_dir() { Ok(inode) } else { Err(Error::NotDirectory) }
    }
}
