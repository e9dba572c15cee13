// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Reading the superblock and the root ring: which of their copies an open filesystem starts from.
//!
//! Invariant: nothing is used whose checksum is wrong. The primary superblock is preferred, a backup is
//! used where it is damaged. The newest valid root record wins.

use crate::buffer::zeroed;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::mutants::{self, Mutant};
use vexfs_format::superblock::{SUPER_MAGIC, SUPER_OFFSET, VERSION};
use vexfs_format::{
    BACKUP_FIRST, BLOCK_SHIFT_MAX, BLOCK_SHIFT_MIN, BLOCKS_MAX, BLOCKS_MIN, BlockNr,
    ROOT_RING_START, ROOT_SLOTS, RootRecord, SECTOR_BYTES, Superblock, features,
};
use zerocopy::FromBytes;

/// Bytes that are read at a place where a superblock may be.
const PROBE_BYTES: usize = 1 << BLOCK_SHIFT_MIN;

/// What the superblock says of a filesystem: block size, length and identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// UUID.
    pub uuid: [u8; 16],
    /// Key of the hash of names.
    pub hash_key: [u8; 16],
    /// Label, padded with zeroes.
    pub label: [u8; 64],
    /// `log2` of the block size.
    pub block_shift: u32,
    /// Length in blocks.
    pub blocks: u64,
    /// Its `incompat` features, all of them known.
    pub incompat: u64,
}

impl Geometry {
    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(&self) -> usize {
        1 << self.block_shift
    }

    /// `log2` of the blocks of a group, which are as many as a block has bits.
    #[must_use]
    pub const fn group_shift(&self) -> u32 {
        self.block_shift + 3
    }

    /// Blocks of a group.
    #[must_use]
    pub const fn group_blocks(&self) -> u64 {
        1 << self.group_shift()
    }

    /// Groups of the filesystem; the last one may be short.
    #[must_use]
    pub const fn groups(&self) -> u64 {
        self.blocks.saturating_add(self.group_blocks() - 1) >> self.group_shift()
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        self.blocks << self.block_shift
    }

    /// Byte offset of a block.
    #[must_use]
    pub const fn byte_of(&self, block: BlockNr) -> u64 {
        block.0 << self.block_shift
    }

    /// Block of the second backup superblock.
    #[must_use]
    pub const fn backup_last(&self) -> BlockNr {
        BlockNr(self.blocks.saturating_sub(1))
    }

    /// The geometry that a valid superblock describes.
    #[must_use]
    pub fn of(superblock: &Superblock) -> Self {
        Self {
            uuid: superblock.uuid,
            hash_key: superblock.hash_key,
            label: superblock.label,
            block_shift: superblock.block_shift.get(),
            blocks: superblock.blocks.get(),
            incompat: superblock.incompat.get(),
        }
    }
}

/// True if `sector` begins with the magic of a superblock, valid or not.
fn has_magic(sector: &[u8]) -> bool {
    sector.starts_with(&SUPER_MAGIC)
}

fn parse(sector: &[u8]) -> Result<Superblock> {
    let (superblock, _) = Superblock::read_from_prefix(sector).map_err(|_| Error::NotVexfs)?;
    if superblock.magic != SUPER_MAGIC {
        return Err(Error::NotVexfs);
    }
    if superblock.crc.get() != superblock.checksum() && !mutants::is(Mutant::SuperChecksum) {
        return Err(Error::block(BlockNr(0), "the superblock's checksum is wrong"));
    }
    if superblock.version.get() != VERSION {
        return Err(Error::UnknownVersion(superblock.version.get()));
    }
    let shift = superblock.block_shift.get();
    let blocks = superblock.blocks.get();
    let sane = (BLOCK_SHIFT_MIN..=BLOCK_SHIFT_MAX).contains(&shift)
        && (BLOCKS_MIN..=BLOCKS_MAX).contains(&blocks)
        && superblock.ring_start.get() == ROOT_RING_START
        && superblock.ring_slots.get() == ROOT_SLOTS
        && superblock.backup_first.get() == BACKUP_FIRST
        && superblock.backup_last.get() == blocks.saturating_sub(1);
    if !sane {
        return Err(Error::block(BlockNr(0), "the superblock's geometry is impossible"));
    }
    let unknown = superblock.incompat.get() & !features::INCOMPAT_KNOWN;
    if unknown != 0 {
        return Err(Error::UnknownIncompat(unknown));
    }
    Ok(superblock)
}

/// Reads and verifies the superblock of `device`: the primary one, or a backup where that is damaged.
///
/// # Errors
/// [`Error::NotVexfs`] if there is none, [`Error::Truncated`] if the device is too short,
/// [`Error::Corrupt`] if both the primary and the backup are damaged, [`Error::UnknownVersion`] and
/// [`Error::UnknownIncompat`].
pub fn read_superblock(device: &impl Device) -> Result<Superblock> {
    // Reads are as long as the smallest block, because some devices read nothing shorter.
    let mut block = zeroed(PROBE_BYTES)?;
    if device.len_bytes() < PROBE_BYTES as u64 {
        return Err(Error::NotVexfs);
    }
    device.read(0, &mut block)?;
    let sector = block.get(SUPER_OFFSET as usize..).unwrap_or(&[]);
    let found = match parse(sector) {
        Ok(superblock) => Ok(superblock),
        Err(first @ (Error::NotVexfs | Error::Corrupt(_))) => {
            let blank = sector.iter().take(SECTOR_BYTES).all(|byte| *byte == 0);
            // A sector that holds something else is not a damaged superblock but another filesystem.
            let ours = (has_magic(sector) || blank) && !mutants::is(Mutant::SuperBackup);
            ours.then(|| backup(device, &mut block)).flatten().ok_or(first)
        }
        Err(other) => Err(other),
    }?;
    let expected_bytes = Geometry::of(&found).len_bytes();
    let actual_bytes = device.len_bytes();
    if actual_bytes < expected_bytes {
        return Err(Error::Truncated { expected_bytes, actual_bytes });
    }
    Ok(found)
}

/// The first backup superblock. The primary one being damaged, every block size is tried.
fn backup(device: &impl Device, block: &mut [u8]) -> Option<Superblock> {
    for shift in BLOCK_SHIFT_MIN..=BLOCK_SHIFT_MAX {
        let at = BACKUP_FIRST << shift;
        if at + block.len() as u64 > device.len_bytes() || device.read(at, block).is_err() {
            continue;
        }
        if let Ok(superblock) = parse(block)
            && superblock.block_shift.get() == shift
        {
            return Some(superblock);
        }
    }
    None
}

/// What the root ring holds.
pub struct Ring {
    /// The newest valid record that is in its own slot.
    pub newest: RootRecord,
    /// Slots with a valid record.
    pub valid: u64,
}

/// Reads the root ring.
///
/// # Errors
/// [`Error::NoRoot`] if it holds no valid record.
pub fn read_ring(device: &impl Device, geometry: &Geometry) -> Result<Ring> {
    let block_bytes = geometry.block_bytes();
    let mut ring = zeroed(block_bytes.saturating_mul(ROOT_SLOTS as usize))?;
    device.read(geometry.byte_of(BlockNr(ROOT_RING_START)), &mut ring)?;
    let mut newest: Option<RootRecord> = None;
    let mut valid = 0;
    for (slot, block) in ring.chunks_exact(block_bytes).enumerate() {
        let Some(record) = parse_root(block, &geometry.uuid) else { continue };
        valid += 1;
        let generation = record.generation.get();
        let plausible = generation % ROOT_SLOTS == slot as u64
            && record.tree.block.get() < geometry.blocks
            && record.tree.generation.get() <= generation
            && (record.level.get() as usize) < vexfs_format::LEVELS_MAX;
        let newer = |best: RootRecord| {
            (best.generation.get() < generation) != mutants::is(Mutant::RootOldest)
        };
        if plausible && newest.is_none_or(newer) {
            newest = Some(record);
        }
    }
    newest.map(|newest| Ring { newest, valid }).ok_or(Error::NoRoot)
}

fn parse_root(block: &[u8], uuid: &[u8; 16]) -> Option<RootRecord> {
    if mutants::is(Mutant::RootChecksum) {
        return RootRecord::parse_unsealed(block, uuid);
    }
    RootRecord::parse(block, uuid)
}

/// The newest valid record of the root ring.
///
/// # Errors
/// [`Error::NoRoot`] if the ring holds none.
pub fn newest_root(device: &impl Device, geometry: &Geometry) -> Result<RootRecord> {
    read_ring(device, geometry).map(|ring| ring.newest)
}
