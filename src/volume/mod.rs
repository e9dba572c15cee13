// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An open filesystem: its parts, and how the blocks that it misses are loaded.
//!
//! Invariant: the parts describe one generation that is being built. They are changed by a
//! [`Change`] and by nothing else, which is why their fields are private to this module. The volume
//! reads blocks, and writes metadata only in a [`Commit`].

mod change;
mod commit;
mod counters;
mod generations;
mod room;
#[cfg(test)]
mod tests;

pub(crate) use change::{Change, Plan};
pub use commit::Commit;
pub(crate) use room::{GROUPS, Need};

use crate::buffer::zeroed;
use crate::device::Device;
use crate::error::{Error, Missing, Result};
use crate::mutants::{self, Mutant};
use crate::space::Space;
use crate::superblock::{Geometry, newest_root, read_superblock};
use crate::tree::{LoadedNode, Tree, node};
use crate::types::StatFs;
use counters::Counters;
use generations::Generations;
use vexfs_format::{FIRST_FREE, Generation, Ino, RootRecord, crc32c, features};

/// How to open a volume.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Refuse every operation that changes something.
    pub read_only: bool,
    /// About how many bytes of clean tree nodes to keep in memory.
    pub cache_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { read_only: false, cache_bytes: 32 << 20 }
    }
}

/// Reads blocks that operations missed, without the volume and its lock: [`Volume::node_reader`].
#[derive(Clone, Copy, Debug)]
pub struct NodeReader<D> {
    device: D,
    geometry: Geometry,
}

impl<D: Device> NodeReader<D> {
    /// As [`Volume::fetch`], but the block may have been used for something else since the
    /// operation missed it. So [`Error::Corrupt`] is not yet damage: make the operation again, and
    /// if it misses the same block, fetch that under the lock. [`Volume::install`] drops what is stale.
    ///
    /// # Errors
    /// Those of [`Volume::fetch`].
    pub fn fetch(&self, missing: &Missing) -> Result<LoadedNode> {
        read_missing(&self.device, &self.geometry, missing)
    }
}

fn read_missing(
    device: &impl Device,
    geometry: &Geometry,
    missing: &Missing,
) -> Result<LoadedNode> {
    let pointer = &missing.pointer;
    if pointer.block.0 >= geometry.blocks {
        return Err(Error::block(pointer.block, "a pointer leads outside the filesystem"));
    }
    let mut data = zeroed(geometry.block_bytes())?;
    device.read(geometry.byte_of(pointer.block), &mut data)?;
    if missing.group.is_none() {
        node::verify(&data, pointer, &geometry.uuid, geometry.blocks)?;
    } else if crc32c(&data) != pointer.crc && !mutants::is(Mutant::BitmapChecksum) {
        return Err(Error::block(pointer.block, "the checksum of a group's bitmap is wrong"));
    }
    Ok(LoadedNode { missing: *missing, data })
}

/// An open filesystem on device `D`.
///
/// `&self` operations may run concurrently, `&mut self` operations need exclusive access; the lock is
/// the host's.
///
/// An operation fails with [`Error::Miss`] if a block is not in memory, and with [`Error::NeedCommit`]
/// if there is no room before the next commit; neither changed anything. [`resolve`](Self::resolve)
/// reads the block and repeats the operation, [`run`](Self::run) commits as well. Changes are durable
/// after a [`commit`](Self::commit).
///
/// ```
/// use vexfs::{Ino, MkfsOptions, NewInode, OpenOptions, Time, Volume, check, mkfs};
/// use vexfs_crash::{CacheDevice, Image};
///
/// let now = Time { seconds: 1_700_000_000, nanos: 0 };
/// let device = CacheDevice::new(Image::new(16 << 20));
/// mkfs(&device, &MkfsOptions::new(16 << 20, [1; 16], [2; 16], now))?;
/// let mut volume = Volume::open(device, &OpenOptions::default())?;
///
/// let new = NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, target: b"", now };
/// let file = volume.run(now, |volume| volume.create(Ino::ROOT, b"greeting", &new))?;
/// volume.write_at(file.ino, 0, b"hello", now)?;
/// volume.commit(now)?;
///
/// let (ino, _) = volume.resolve(|volume| volume.lookup(Ino::ROOT, b"greeting"))?;
/// let mut text = [0; 16];
/// assert_eq!(volume.read_at(ino, 0, &mut text)?, 5);
/// assert_eq!(&text[..5], b"hello");
/// assert_eq!(check(volume.device(), &mut |_| {})?.findings, 0);
/// # Ok::<(), vexfs::Error>(())
/// ```
#[derive(Debug)]
pub struct Volume<D> {
    device: D,
    geometry: Geometry,
    tree: Tree,
    space: Space,
    generations: Generations,
    counters: Counters,
    /// Something changed since the last freeze.
    dirty: bool,
    read_only: bool,
    dead: bool,
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
        let cache_nodes = options.cache_bytes >> geometry.block_shift;
        let mut volume = Self::blank(device, geometry, cache_nodes)?;
        volume.read_only = options.read_only;
        volume.adopt(&record);
        Ok(volume)
    }

    /// A volume of this geometry without a tree.
    fn blank(device: D, geometry: Geometry, cache_nodes: usize) -> Result<Self> {
        Ok(Self {
            device,
            geometry,
            tree: Tree::new(geometry, cache_nodes)?,
            space: Space::new(&geometry),
            generations: Generations::after(Generation(0)),
            counters: Counters::default(),
            dirty: false,
            read_only: false,
            dead: false,
        })
    }

    /// A volume of generation 0: nothing is in it, not even the root directory, and all blocks that
    /// the format does not reserve are free. The commit of generation 1 makes it a filesystem.
    #[inline(never)]
    pub(crate) fn empty(device: D, geometry: Geometry) -> Result<Self> {
        let mut volume = Self::blank(device, geometry, 0)?;
        volume.space.set_free(geometry.blocks.saturating_sub(FIRST_FREE + 1));
        volume.space.insert_fresh(0)?;
        volume.counters.next_ino = Ino::ROOT.0;
        volume.tree.reserve(1, 1)?;
        Change::run(&mut volume, |change| change.tree_mut().plant())?;
        Ok(volume)
    }

    /// Makes the tree of `record` the current one.
    pub(crate) fn adopt(&mut self, record: &RootRecord) {
        self.tree.adopt(record.tree.into(), record.level.get() as u8);
        self.generations = Generations::after(Generation(record.generation.get()));
        self.counters = Counters {
            next_ino: record.next_ino.get(),
            inodes: record.inodes.get(),
            orphans: record.orphans.get(),
        };
        self.space.set_free(record.free_blocks.get());
    }

    /// The device.
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// Block size, length and identity of the filesystem.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The newest durable generation.
    pub const fn generation(&self) -> Generation {
        self.generations.durable()
    }

    /// The generation that the next commit makes.
    pub const fn running(&self) -> Generation {
        self.generations.running()
    }

    /// Orphans in the tree, see [`next_orphan`](Self::next_orphan).
    pub const fn orphans(&self) -> u64 {
        self.counters.orphans
    }

    /// The number that the next new inode gets. Numbers are never reused.
    pub const fn next_ino(&self) -> Ino {
        Ino(self.counters.next_ino)
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
        self.tree.cached_nodes()
    }

    /// Evicts clean nodes until about `limit` nodes are left; returns how many were evicted.
    pub fn trim(&mut self, limit: usize) -> usize {
        let before = self.tree.cached_nodes();
        self.tree.trim_to(limit, self.generations.durable());
        before.saturating_sub(self.tree.cached_nodes())
    }

    /// Reads and verifies a block that an operation missed. Do not release the host's lock (shared is
    /// enough) between the operation and this: the block might be reused in between.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::NoMemory`], and [`Error::Corrupt`] if the block is not what its pointer says.
    pub fn fetch(&self, missing: &Missing) -> Result<LoadedNode> {
        read_missing(&self.device, &self.geometry, missing)
    }

    /// What reads missed blocks without the volume, so that a host may give up its lock meanwhile.
    pub fn node_reader(&self) -> NodeReader<D>
    where
        D: Clone,
    {
        NodeReader { device: self.device.clone(), geometry: self.geometry }
    }

    /// Puts what [`fetch`](Self::fetch) read into the cache, unless it became stale in between.
    ///
    /// # Errors
    /// [`Error::NoMemory`], and [`Error::Corrupt`] if a bitmap marks blocks free that the format reserves.
    pub fn install(&mut self, loaded: LoadedNode) -> Result<()> {
        let LoadedNode { missing: Missing { pointer, group }, data } = loaded;
        match group {
            None => self.tree.install(pointer, data),
            Some(index) => match self.group_item(index) {
                Ok(Some((current, _))) if current == pointer => {
                    self.space.insert(index, pointer, &data)
                }
                _ => Ok(()),
            },
        }
    }

    /// Repeats `operation`, reading the blocks that it misses, until it misses none. For hosts that need
    /// not release a lock meanwhile.
    ///
    /// # Errors
    /// Those of the operation and of [`fetch`](Self::fetch).
    pub fn resolve<T>(&mut self, mut operation: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        // Every round loads a block that the operation needs, and it cannot need more than there are.
        for _ in 0..self.geometry.blocks.saturating_add(1) {
            match operation(self) {
                Err(Error::Miss(missing)) => {
                    let loaded = self.fetch(&missing)?;
                    self.install(loaded)?;
                }
                other => return other,
            }
        }
        Err(Error::Bug("an operation keeps missing blocks that were read"))
    }

    /// Sizes and counts of the filesystem.
    pub fn statfs(&self) -> StatFs {
        let free = self.space.free();
        StatFs {
            block_bytes: self.geometry.block_bytes() as u32,
            blocks: self.geometry.blocks,
            blocks_free: free,
            blocks_available: free.saturating_sub(self.reserve()),
            inodes: self.counters.inodes,
            uuid: self.geometry.uuid,
            label: self.geometry.label,
        }
    }

    const fn check_alive(&self) -> Result<()> {
        if self.dead { Err(Error::Dead) } else { Ok(()) }
    }

    /// The running transaction's tree.
    ///
    /// # Errors
    /// [`Error::Dead`] on a volume that stopped.
    pub(crate) fn tree(&self) -> Result<&Tree> {
        self.check_alive()?;
        Ok(&self.tree)
    }

    /// The allocator.
    pub(crate) const fn space(&self) -> &Space {
        &self.space
    }

    /// Lengths that the lists have memory for; a change leaves them as they are.
    #[cfg(test)]
    fn memory(&self) -> [usize; 6] {
        let ([nodes, table, vacant], spares) = self.tree.memory();
        let (groups, deferred) = self.space.memory();
        [nodes, table, vacant, spares, groups, deferred]
    }

    /// Evicts clean nodes until the cache is within its limit.
    pub(crate) fn trim_to_limit(&mut self) {
        self.tree.trim(self.generations.durable());
    }
}
