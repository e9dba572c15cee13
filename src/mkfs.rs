// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Making a filesystem.
//!
//! The cost does not depend on the size: only the superblocks, the root ring and the first commit are
//! written. The superblocks are written last, so after a power cut there is either no filesystem or a
//! complete one.

use crate::buffer::zeroed;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::fs::Inode;
use crate::mutants::{self, Mutant};
use crate::superblock::Geometry;
use crate::types::{FileType, Time};
use crate::volume::{Need, Volume};
use vexfs_format::superblock::{SUPER_MAGIC, SUPER_OFFSET, VERSION};
use vexfs_format::{
    BACKUP_FIRST, BLOCK_BYTES_DEFAULT, BLOCK_SHIFT_MAX, BLOCK_SHIFT_MIN, BLOCKS_MAX, BLOCKS_MIN,
    BlockNr, FIRST_FREE, Ino, ROOT_RING_START, ROOT_SLOTS, Superblock, features,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Options of a new filesystem.
#[derive(Clone, Copy, Debug)]
pub struct MkfsOptions<'a> {
    /// Length in bytes; an incomplete block at the end stays unused.
    pub bytes: u64,
    /// Bytes of a block: 4096, 8192, ... 65536.
    pub block_bytes: u32,
    /// Label, up to 64 bytes of UTF-8.
    pub label: &'a [u8],
    /// UUID.
    pub uuid: [u8; 16],
    /// Key of the hash of names; random, so that nobody can make names collide.
    pub hash_key: [u8; 16],
    /// Birth of the filesystem and of its root directory.
    pub now: Time,
    /// Owner of the root directory.
    pub root_uid: u32,
    /// Group of the root directory.
    pub root_gid: u32,
}

impl MkfsOptions<'_> {
    /// A filesystem of `bytes` with blocks of 4096 bytes, without a label, whose root directory
    /// belongs to user and group 0.
    #[must_use]
    pub const fn new(bytes: u64, uuid: [u8; 16], hash_key: [u8; 16], now: Time) -> Self {
        let block_bytes = BLOCK_BYTES_DEFAULT;
        Self { bytes, block_bytes, label: b"", uuid, hash_key, now, root_uid: 0, root_gid: 0 }
    }
}

/// Makes a filesystem on `device` and returns its superblock.
///
/// # Errors
/// [`Error::Invalid`] for an impossible size, block size or label, [`Error::Truncated`] if the device
/// is shorter than the filesystem, and the device's.
pub fn mkfs<D: Device>(device: &D, options: &MkfsOptions<'_>) -> Result<Superblock> {
    let superblock = superblock_of(options)?;
    let geometry = Geometry::of(&superblock);
    if device.len_bytes() < geometry.len_bytes() {
        return Err(Error::Truncated {
            expected_bytes: geometry.len_bytes(),
            actual_bytes: device.len_bytes(),
        });
    }
    let block_bytes = geometry.block_bytes();
    // Wipes the superblocks and the root ring of an old filesystem.
    let blank = zeroed(block_bytes)?;
    if !mutants::is(Mutant::MkfsWipe) {
        for block in 0..FIRST_FREE {
            device.write(geometry.byte_of(BlockNr(block)), &blank)?;
        }
        device.write(geometry.byte_of(geometry.backup_last()), &blank)?;
    }
    if !mutants::is(Mutant::MkfsWipeFlush) {
        device.flush()?;
    }
    first_commit(device, geometry, options)?;
    let mut block = zeroed(block_bytes)?;
    write_at(&mut block, 0, superblock.as_bytes())?;
    for backup in [BlockNr(BACKUP_FIRST), geometry.backup_last()] {
        device.write(geometry.byte_of(backup), &block)?;
    }
    if !mutants::is(Mutant::MkfsFlush) {
        device.flush()?;
    }
    let mut block = zeroed(block_bytes)?;
    write_at(&mut block, SUPER_OFFSET as usize, superblock.as_bytes())?;
    if mutants::is(Mutant::MkfsFua) {
        device.write(0, &block)?;
    } else {
        device.write_fua(0, &block)?;
    }
    Ok(superblock)
}

fn write_at(block: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    block
        .get_mut(at..at.saturating_add(bytes.len()))
        .ok_or(Error::Bug("a superblock does not fit into a block"))?
        .copy_from_slice(bytes);
    Ok(())
}

// Never inlined, like those below: their frames would add up, and a kernel's stack is small.
#[inline(never)]
fn superblock_of(options: &MkfsOptions<'_>) -> Result<Superblock> {
    let shift = options.block_bytes.trailing_zeros();
    if !options.block_bytes.is_power_of_two()
        || !(BLOCK_SHIFT_MIN..=BLOCK_SHIFT_MAX).contains(&shift)
    {
        return Err(Error::Invalid("a block has 4096, 8192, 16384, 32768 or 65536 bytes"));
    }
    let blocks = options.bytes >> shift;
    if blocks < BLOCKS_MIN {
        return Err(Error::Invalid(
            "too small: a filesystem has at least 256 blocks (1 MiB of 4096-byte ones)",
        ));
    }
    if blocks > BLOCKS_MAX {
        return Err(Error::Invalid("too large: a filesystem has at most 2^46 blocks"));
    }
    let mut label = [0u8; 64];
    match label.get_mut(..options.label.len()) {
        Some(used) if !options.label.contains(&0) => used.copy_from_slice(options.label),
        _ => return Err(Error::Invalid("a label has at most 64 bytes, none of them zero")),
    }
    Ok(Superblock {
        magic: SUPER_MAGIC,
        version: U32::new(VERSION),
        block_shift: U32::new(shift),
        uuid: options.uuid,
        label,
        blocks: U64::new(blocks),
        compat: U64::ZERO,
        ro_compat: U64::ZERO,
        incompat: U64::new(features::INCOMPAT_VECTORS | features::INCOMPAT_VECTOR_U8),
        ring_start: U64::new(ROOT_RING_START),
        ring_slots: U64::new(ROOT_SLOTS),
        backup_first: U64::new(BACKUP_FIRST),
        backup_last: U64::new(blocks - 1),
        hash_key: options.hash_key,
        created_ns: U64::new(options.now.as_nanos() as u64),
        reserved: [0; 324],
        crc: U32::ZERO,
    }
    .sealed())
}

/// Commits generation 1: a tree of one leaf with the root directory.
// Not inlined: a volume by value takes much of a kernel's stack.
#[inline(never)]
fn first_commit<D: Device>(
    device: &D,
    geometry: Geometry,
    options: &MkfsOptions<'_>,
) -> Result<()> {
    let mut volume = Volume::empty(device, geometry)?;
    commit_root(&mut volume, options)
}

#[inline(never)]
fn commit_root<D: Device>(volume: &mut Volume<D>, options: &MkfsOptions<'_>) -> Result<()> {
    let root = Inode {
        ino: Ino::ROOT,
        mode: FileType::Directory.mode_bits() | 0o755,
        nlink: 2,
        uid: options.root_uid,
        gid: options.root_gid,
        size: 0,
        blocks: 0,
        atime: options.now,
        mtime: options.now,
        ctime: options.now,
        btime: options.now,
        rdev: 0,
        parent: Ino::ROOT,
        project: 0,
        version: 1,
        vector: false,
    };
    volume.begin(Need::upkeep())?.change(|change| {
        change.put_inode(&root)?;
        change.inode_made();
        Ok(())
    })?;
    volume.commit(options.now)?;
    Ok(())
}
