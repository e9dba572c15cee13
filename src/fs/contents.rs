// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Reading and writing file contents, for hosts without a page cache (tools, tests, the follower).
//!
//! The kernel does not use this: it allocates, writes and marks by itself, in the same order.

use crate::buffer::zeroed;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::mutants::{self, Mutant};
use crate::types::{Mapping, MappingKind, Progress, Time};
use crate::volume::Volume;
use vexfs_format::{BlockNr, FILE_BYTES_MAX, FileBlock, Ino};

/// Longest piece that is read or written in one request, in bytes.
const PIECE_BYTES: u64 = 1 << 20;

impl<D: Device> Volume<D> {
    /// Reads from byte `offset` of a file; returns how many bytes it read.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], damage, and the device's.
    pub fn read_at(&mut self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let inode = self.resolve(|volume| volume.inode(ino))?;
        if inode.is_dir() {
            return Err(Error::IsDirectory);
        }
        let len = (buf.len() as u64).min(inode.size.saturating_sub(offset));
        let block_bytes = self.geometry().block_bytes() as u64;
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let (block, within) = (at / block_bytes, at % block_bytes);
            let want = (len - done).min(PIECE_BYTES);
            let count = (within + want).div_ceil(block_bytes);
            let mapping = self.resolve(|volume| volume.map(ino, FileBlock(block), count))?;
            let bytes = (mapping.count * block_bytes - within).min(want);
            let piece = buf
                .get_mut(done as usize..(done + bytes) as usize)
                .ok_or(Error::Bug("a read leaves its buffer"))?;
            match mapping.kind {
                MappingKind::Hole | MappingKind::Unwritten(_) => piece.fill(0),
                MappingKind::Written(start) => {
                    let mut blocks = zeroed((mapping.count * block_bytes) as usize)?;
                    self.device().read(self.geometry().byte_of(start), &mut blocks)?;
                    let from = within as usize;
                    let source = blocks
                        .get(from..from + piece.len())
                        .ok_or(Error::Bug("a read leaves its mapping"))?;
                    piece.copy_from_slice(source);
                }
            }
            done += bytes;
        }
        Ok(len as usize)
    }

    /// Writes at byte `offset` of a file, which grows as needed. Commits where it has to; the data is
    /// durable after the next [`commit`](Self::commit).
    ///
    /// # Errors
    /// [`Error::NoSpace`] (the data before that point is written), [`Error::FileTooBig`], and those of
    /// every change.
    #[inline(never)] // Its frame would be added to the caller's, and a kernel's stack is small.
    pub fn write_at(&mut self, ino: Ino, offset: u64, data: &[u8], now: Time) -> Result<()> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
        if end.is_none() {
            return Err(Error::FileTooBig);
        }
        let block_bytes = self.geometry().block_bytes() as u64;
        let size = self.resolve(|volume| volume.inode(ino))?.size;
        if offset > size {
            self.zero_tail(ino, size)?;
        }
        let mut done = 0u64;
        while done < data.len() as u64 {
            let at = offset + done;
            let (block, within) = (FileBlock(at / block_bytes), at % block_bytes);
            let want = (data.len() as u64 - done).min(PIECE_BYTES);
            let count = (within + want).div_ceil(block_bytes);
            let mapping = self.run(now, |volume| volume.allocate(ino, block, count))?;
            let bytes = (mapping.count * block_bytes - within).min(want);
            let piece = data
                .get(done as usize..(done + bytes) as usize)
                .ok_or(Error::Bug("a write leaves its buffer"))?;
            self.write_mapped(&mapping, within as usize, piece)?;
            done += bytes;
            let marked = mapping.count.min((within + bytes).div_ceil(block_bytes));
            let size = Some(at + bytes);
            self.steps(now, |v| v.mark_written(ino, block, marked, size, Some(now)))?;
        }
        Ok(())
    }

    /// Writes `piece` at byte `within` of the mapping. The other bytes of its first and last block stay
    /// as they are, or become zero where the block was never written.
    fn write_mapped(&self, mapping: &Mapping, within: usize, piece: &[u8]) -> Result<()> {
        const OUTSIDE: Error = Error::Bug("a write leaves its mapping");
        let block_bytes = self.geometry().block_bytes();
        let (start, written) = match mapping.kind {
            MappingKind::Written(start) => (start, true),
            MappingKind::Unwritten(start) => (start, false),
            MappingKind::Hole => return Err(Error::Bug("an allocation left a hole")),
        };
        let count = (within + piece.len()).div_ceil(block_bytes);
        let mut blocks = zeroed(count * block_bytes)?;
        if written {
            let tail = !(within + piece.len()).is_multiple_of(block_bytes);
            for (index, partial) in [(0, within != 0), (count - 1, tail)] {
                if partial {
                    let at = self.geometry().byte_of(BlockNr(start.0 + index as u64));
                    let from = index * block_bytes;
                    let edge = blocks.get_mut(from..from + block_bytes).ok_or(OUTSIDE)?;
                    self.device().read(at, edge)?;
                }
            }
        }
        blocks.get_mut(within..within + piece.len()).ok_or(OUTSIDE)?.copy_from_slice(piece);
        self.device().write(self.geometry().byte_of(start), &blocks)?;
        Ok(())
    }

    /// Zeroes the rest of the block from byte `end` on: data that a file loses, or that was written
    /// behind its end and never committed.
    fn zero_tail(&mut self, ino: Ino, end: u64) -> Result<()> {
        let block_bytes = self.geometry().block_bytes() as u64;
        let within = end % block_bytes;
        if within == 0 {
            return Ok(());
        }
        let block = FileBlock(end / block_bytes);
        let mapping = self.resolve(|volume| volume.map(ino, block, 1))?;
        if matches!(mapping.kind, MappingKind::Written(_)) {
            let zeroes = zeroed((block_bytes - within) as usize)?;
            self.write_mapped(&mapping, within as usize, &zeroes)?;
        }
        Ok(())
    }

    /// Changes a file's size. A part that it gains reads as zeroes.
    ///
    /// # Errors
    /// Those of [`set_size`](Self::set_size).
    pub fn truncate(&mut self, ino: Ino, size: u64, now: Time) -> Result<()> {
        let inode = self.resolve(|volume| volume.inode(ino))?;
        if inode.is_file() {
            self.zero_tail(ino, size.min(inode.size))?;
        }
        self.steps(now, |volume| volume.set_size(ino, size, now))
    }

    /// Removes every orphan without a name and finishes every interrupted truncation.
    ///
    /// # Errors
    /// Those of [`evict`](Self::evict).
    pub fn evict_orphans(&mut self, now: Time) -> Result<()> {
        if mutants::is(Mutant::OrphanLeft) {
            return Ok(());
        }
        for _ in 0..=self.orphans() {
            let first = self.resolve(|volume| volume.next_orphan(Ino::ROOT))?;
            let Some(ino) = first else { return Ok(()) };
            self.steps(now, |volume| volume.evict(ino))?;
        }
        Ok(())
    }

    /// Repeats `step` until it is done.
    ///
    /// # Errors
    /// The operation's.
    pub fn steps(
        &mut self,
        now: Time,
        mut step: impl FnMut(&mut Self) -> Result<Progress>,
    ) -> Result<()> {
        // Every step frees or converts blocks or items, of which there are not more than this.
        for _ in 0..=self.geometry().blocks.saturating_add(1 << 20) {
            if self.run(now, &mut step)? == Progress::Done {
                return Ok(());
            }
        }
        Err(Error::Bug("an operation in steps does not end"))
    }
}
