// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Checkpoints in an image's own tail, so that an image stays one file.
//!
//! The region begins with two 4 KiB slots; after them lie blobs and manifests in extents of
//! 512-byte units. A slot holds (sequence, where the manifest lies, its length, its CRC32C) and
//! its own CRC32C. Publishing: sync the blobs and the new manifest, write the slot that is *not*
//! current, sync. Whichever write is lost or torn, one slot stays valid, and everything it
//! names is left alone until the other one is durable. Never touches a byte before the region.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
};

use super::{Blob, Fill, MANIFEST_MAX, Medium, Store, Summing, Take};
use crate::error::{IndexError, Result};
use crate::mutants::{self, Mutant};

const SLOT_BYTES: u64 = 4096;
const DATA_AT: u64 = 2 * SLOT_BYTES;
const UNIT: u64 = 512;
const MAGIC: [u8; 8] = *b"VXTAIL01";
const RECORD: usize = 40;
const BUFFER: usize = 1 << 18;

/// Checkpoints in `[start, end)` of a file.
pub struct TailStore<M: Medium = File> {
    medium: M,
    start: u64,
    end: Option<u64>,
    // First byte to first byte past it; what a durable manifest or a fresh blob occupies.
    used: BTreeMap<u64, u64>,
    current: Option<Current>,
    sequence: u64,
}

/// The valid manifest: its slot and its extent.
#[derive(Clone, Copy)]
struct Current {
    slot: u64,
    blob: Blob,
}

impl<M: Medium> TailStore<M> {
    /// `open(medium, start, end)` - `start` is a multiple of 4096 past everything else in the file;
    /// without `end` the file grows and shrinks as needed.
    pub fn open(medium: M, start: u64, end: Option<u64>) -> Result<Self> {
        let room = end.map_or(u64::MAX, |end| end.saturating_sub(start));
        if !start.is_multiple_of(SLOT_BYTES) || room < DATA_AT + UNIT {
            return Err(IndexError::BadSpec(format!(
                "no room for checkpoints: the region starts at {start} and holds {room} bytes, \
                 it must start at a multiple of {SLOT_BYTES} and hold {}",
                DATA_AT + UNIT
            )));
        }
        let mut this =
            Self { medium, start, end, used: BTreeMap::new(), current: None, sequence: 0 };
        let mut found = [this.read_slot(0)?, this.read_slot(1)?];
        found.sort_by_key(|slot| std::cmp::Reverse(slot.map(|(sequence, _)| sequence)));
        this.sequence = found[0].map_or(0, |(sequence, _)| sequence);
        if mutants::is(Mutant::SlotOlder) {
            found.reverse();
        }
        for (_, candidate) in found.into_iter().flatten() {
            if this.read_manifest(&candidate.blob)?.is_some() {
                this.current = Some(candidate);
                this.occupy(&candidate.blob);
                break;
            }
        }
        Ok(this)
    }

    fn read_slot(&self, slot: u64) -> Result<Option<(u64, Current)>> {
        let mut record = [0u8; RECORD];
        let at = self.start + slot * SLOT_BYTES;
        match self.medium.read_exact_at(&mut record, at) {
            Ok(()) => {}
            // The file ends here: there never was a checkpoint.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => {
                return Err(IndexError::storage(format!("reading slot {slot} at byte {at}"))(
                    error,
                ));
            }
        }
        let word = |from: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&record[from..from + 8]);
            u64::from_le_bytes(bytes)
        };
        let sums = word(32);
        let (crc, own) = (sums as u32, (sums >> 32) as u32);
        if record[..8] != MAGIC || crc32c::crc32c(&record[..36]) != own {
            return Ok(None);
        }
        let blob = Blob { at: word(16), bytes: word(24), crc };
        let inside = blob.at >= self.start + DATA_AT
            && blob.bytes <= MANIFEST_MAX
            && blob.at.checked_add(blob.bytes).is_some_and(|to| self.end.is_none_or(|e| to <= e));
        Ok(inside.then_some((word(8), Current { slot, blob })))
    }

    /// Whether the medium is long enough for it: asked before memory is taken.
    fn reaches(&self, blob: &Blob) -> Result<bool> {
        let len = self.medium.len().map_err(IndexError::storage("measuring the image's tail"))?;
        Ok(blob.at.checked_add(blob.bytes).is_some_and(|to| to <= len))
    }

    fn read_manifest(&self, blob: &Blob) -> Result<Option<Vec<u8>>> {
        if !self.reaches(blob)? {
            return Ok(None);
        }
        let mut bytes = vec![0; blob.bytes as usize];
        match self.medium.read_exact_at(&mut bytes, blob.at) {
            Ok(()) => {
                let right = crc32c::crc32c(&bytes) == blob.crc;
                Ok((right || mutants::is(Mutant::ManifestChecksum)).then_some(bytes))
            }
            Err(error) => {
                Err(IndexError::storage(format!("reading the manifest at byte {}", blob.at))(error))
            }
        }
    }

    fn occupy(&mut self, blob: &Blob) {
        self.used.insert(blob.at, blob.at + blob.bytes.max(1).next_multiple_of(UNIT));
    }

    /// The first gap that is large enough.
    fn allocate(&mut self, bytes: u64) -> Result<u64> {
        let length = bytes
            .max(1)
            .checked_next_multiple_of(UNIT)
            .ok_or(IndexError::Full { needed: bytes, available: 0 })?;
        let mut at = self.start + DATA_AT;
        let mut largest = 0;
        for (&from, &to) in &self.used {
            let gap = from.saturating_sub(at);
            if gap >= length {
                break;
            }
            largest = largest.max(gap);
            at = at.max(to);
        }
        let beyond = self.used.range(at..).next().is_none();
        if let Some(end) = self.end.filter(|_| beyond)
            && at.checked_add(length).is_none_or(|to| to > end)
        {
            let available = largest.max(end.saturating_sub(at));
            return Err(IndexError::Full { needed: bytes, available });
        }
        self.used.insert(at, at + length);
        Ok(at)
    }

    fn put(&mut self, bytes: u64, fill: &mut Fill<'_>) -> Result<Blob> {
        let at = self.allocate(bytes)?;
        let written = (|| {
            let sink = BufWriter::with_capacity(BUFFER, Sink { medium: &self.medium, at });
            let mut summing = Summing::new(sink, bytes);
            fill(&mut summing)?;
            let crc = summing
                .finish()
                .map_err(IndexError::storage(format!("writing {bytes} bytes at byte {at}")))?;
            Ok(Blob { at, bytes, crc })
        })();
        if written.is_err() {
            self.used.remove(&at);
        }
        written
    }

    fn sync(&self) -> Result<()> {
        self.medium.sync().map_err(IndexError::storage("syncing the image's tail"))
    }
}

impl<M: Medium> Store for TailStore<M> {
    fn write_blob(&mut self, bytes: u64, fill: &mut Fill<'_>) -> Result<Blob> {
        self.put(bytes, fill)
    }

    fn read_blob(&mut self, blob: &Blob, take: &mut Take<'_>) -> Result<()> {
        if blob.at < self.start + DATA_AT || !self.reaches(blob)? {
            return Err(IndexError::Damaged(format!("a blob at byte {} of the image", blob.at)));
        }
        let source = Source { medium: &self.medium, at: blob.at, left: blob.bytes };
        take(&mut BufReader::with_capacity(BUFFER, source))
    }

    fn publish(&mut self, manifest: &[u8]) -> Result<()> {
        let blob = self.put(manifest.len() as u64, &mut |out| {
            out.write_all(manifest).map_err(IndexError::storage("writing the manifest"))
        })?;
        if !mutants::is(Mutant::BlobSync) {
            self.sync()?;
        }
        let sequence = self.sequence + 1;
        let other = u64::from(!mutants::is(Mutant::SlotCurrent));
        let slot = self.current.map_or(0, |current| current.slot ^ other);
        let mut block = [0u8; SLOT_BYTES as usize];
        block[..8].copy_from_slice(&MAGIC);
        block[8..16].copy_from_slice(&sequence.to_le_bytes());
        block[16..24].copy_from_slice(&blob.at.to_le_bytes());
        block[24..32].copy_from_slice(&blob.bytes.to_le_bytes());
        block[32..36].copy_from_slice(&blob.crc.to_le_bytes());
        let own = crc32c::crc32c(&block[..36]);
        block[36..RECORD].copy_from_slice(&own.to_le_bytes());
        let at = self.start + slot * SLOT_BYTES;
        // From here on the slot may hold either record: the number is spent.
        self.sequence = sequence;
        self.medium
            .write_all_at(&block, at)
            .map_err(IndexError::storage(format!("writing the slot at byte {at}")))?;
        if !mutants::is(Mutant::SlotSync) {
            self.sync()?;
        }
        self.current = Some(Current { slot, blob });
        Ok(())
    }

    fn manifest(&mut self) -> Result<Option<Vec<u8>>> {
        match self.current {
            Some(current) => self.read_manifest(&current.blob),
            None => Ok(None),
        }
    }

    fn retain(&mut self, live: &[Blob]) -> Result<()> {
        self.used.clear();
        if let Some(current) = self.current {
            self.occupy(&current.blob);
        }
        for blob in live {
            self.occupy(blob);
        }
        if self.end.is_none() {
            let needed = self.used.values().max().copied().unwrap_or(self.start + DATA_AT);
            let failed = || IndexError::storage("shrinking the image's tail");
            if self.medium.len().map_err(failed())? > needed {
                self.medium.truncate(needed).map_err(failed())?;
            }
        }
        Ok(())
    }
}

struct Sink<'a, M> {
    medium: &'a M,
    at: u64,
}

impl<M: Medium> Write for Sink<'_, M> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.medium.write_all_at(buffer, self.at)?;
        self.at += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Source<'a, M> {
    medium: &'a M,
    at: u64,
    left: u64,
}

impl<M: Medium> Read for Source<'_, M> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        self.medium.read_exact_at(&mut buffer[..take], self.at)?;
        self.at += take as u64;
        self.left -= take as u64;
        Ok(take)
    }
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
