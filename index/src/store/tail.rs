// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Checkpoints in the tail of an image, past the filesystem's last block, so that an image stays
//! one file.
//!
//! The region begins with two slots of 4 KiB; blobs and manifests follow, in units of 512 bytes. Blobs
//! begin at multiples of 4 KiB, so that they can be mapped.
//! A slot holds a [`SlotRecord`]: which manifest is the current one. To publish a manifest, sync
//! it and its blobs, write the slot that is *not* current, and sync.
//!
//! Invariant: whichever write is lost or torn, one slot is valid, and everything it names is left
//! alone until the other slot is durable, and what is mapped until it is not any more. No byte before
//! the region is ever written.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    sync::{Arc, Weak},
};

use super::{Blob, ChecksumWriter, Fill, MANIFEST_MAX, Mapping, Medium, Store, Take};
use crate::{
    error::{IndexError, Result},
    mutants::{self, Mutant},
};

const SLOT_BYTES: u64 = 4096;
const DATA_AT: u64 = 2 * SLOT_BYTES;
const UNIT: u64 = 512;
/// Where a blob may begin.
const BLOB_ALIGN: u64 = 4096;
const MAGIC: [u8; 8] = *b"VXTAIL01";
const BUFFER: usize = 1 << 18;

/// What a slot says; FORMAT.md has its layout.
#[derive(Clone, Copy)]
struct SlotRecord {
    /// The valid record with the larger number is the current one.
    sequence: u64,
    manifest: Blob,
}

impl SlotRecord {
    const BYTES: usize = 40;
    /// The last field is the CRC32C of the bytes before it.
    const CRC_AT: usize = Self::BYTES - 4;

    fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.manifest.at.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.manifest.bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.manifest.crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..Self::CRC_AT]);
        bytes[Self::CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if magic number or checksum is wrong.
    fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(word)
        };
        let checksums = word(32);
        let (manifest_crc, crc) = (checksums as u32, (checksums >> 32) as u32);
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..Self::CRC_AT]) != crc {
            return None;
        }
        let manifest = Blob { at: word(16), bytes: word(24), crc: manifest_crc };
        Some(Self { sequence: word(8), manifest })
    }
}

/// Checkpoints in the bytes from `start` to `end` of a file.
pub struct TailStore<M: Medium = File> {
    medium: M,
    start: u64,
    end: Option<u64>,
    // What a durable manifest or a new blob occupies: its first byte, and the first byte past it.
    used: BTreeMap<u64, u64>,
    /// Blobs that may be mapped still, whether a manifest names them or not.
    mapped: Vec<(Weak<Mapping>, Blob)>,
    current: Option<Current>,
    sequence: u64,
}

/// The current manifest, and the slot that names it.
#[derive(Clone, Copy)]
struct Current {
    slot: u64,
    manifest: Blob,
}

impl<M: Medium> TailStore<M> {
    /// `open(medium, start, end)` - `start` is a multiple of 4096, past everything else in the file.
    /// Without an `end` the file grows and shrinks as needed.
    pub fn open(medium: M, start: u64, end: Option<u64>) -> Result<Self> {
        let room = end.map_or(u64::MAX, |end| end.saturating_sub(start));
        if !start.is_multiple_of(SLOT_BYTES) || room < DATA_AT + UNIT {
            return Err(IndexError::BadSpec(format!(
                "no room for checkpoints: the region starts at {start} and holds {room} bytes, \
                 it must start at a multiple of {SLOT_BYTES} and hold {}",
                DATA_AT + UNIT
            )));
        }
        let used = BTreeMap::new();
        let mut store =
            Self { medium, start, end, used, mapped: Vec::new(), current: None, sequence: 0 };
        let mut found = [store.read_slot(0)?, store.read_slot(1)?];
        found.sort_by_key(|slot| std::cmp::Reverse(slot.map(|(sequence, _)| sequence)));
        store.sequence = found[0].map_or(0, |(sequence, _)| sequence);
        if mutants::is(Mutant::SlotOlder) {
            found.reverse();
        }
        for (_, candidate) in found.into_iter().flatten() {
            if store.read_manifest(&candidate.manifest)?.is_some() {
                store.current = Some(candidate);
                store.occupy(&candidate.manifest);
                break;
            }
        }
        Ok(store)
    }

    /// A slot's sequence, and what it names, if that lies in the region.
    fn read_slot(&self, slot: u64) -> Result<Option<(u64, Current)>> {
        let mut record = [0u8; SlotRecord::BYTES];
        let at = self.start + slot * SLOT_BYTES;
        match self.medium.read_exact_at(&mut record, at) {
            Ok(()) => {}
            // The file ends here: no checkpoint was ever written.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => {
                return Err(IndexError::storage(format!("reading slot {slot} at byte {at}"))(
                    error,
                ));
            }
        }
        let Some(SlotRecord { sequence, manifest }) = SlotRecord::decode(&record) else {
            return Ok(None);
        };
        let end = manifest.at.checked_add(manifest.bytes);
        let inside = manifest.at >= self.start + DATA_AT
            && manifest.bytes <= MANIFEST_MAX as u64
            && end.is_some_and(|end| self.end.is_none_or(|limit| end <= limit));
        Ok(inside.then_some((sequence, Current { slot, manifest })))
    }

    /// Whether the medium is long enough for a blob; asked before memory is taken for it.
    fn reaches(&self, blob: &Blob) -> Result<bool> {
        let len =
            self.medium.len().map_err(IndexError::storage("reading the length of the image"))?;
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

    /// The first gap that is large enough, from a multiple of `align` on.
    fn allocate(&mut self, bytes: u64, align: u64) -> Result<u64> {
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
            at = at.max(to.checked_next_multiple_of(align).unwrap_or(u64::MAX));
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

    fn put(&mut self, bytes: u64, align: u64, fill: &mut Fill<'_>) -> Result<Blob> {
        let at = self.allocate(bytes, align)?;
        let written = (|| {
            let sink = BufWriter::with_capacity(BUFFER, MediumWriter { medium: &self.medium, at });
            let mut writer = ChecksumWriter::new(sink, bytes);
            fill(&mut writer)?;
            let crc = writer
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
        self.put(bytes, BLOB_ALIGN, fill)
    }

    fn read_blob(&mut self, blob: &Blob, take: &mut Take<'_>) -> Result<()> {
        if blob.at < self.start + DATA_AT || !self.reaches(blob)? {
            return Err(IndexError::Damaged(format!("a blob at byte {} of the image", blob.at)));
        }
        let reader = MediumReader { medium: &self.medium, at: blob.at, left: blob.bytes };
        take(&mut BufReader::with_capacity(BUFFER, reader))
    }

    fn map_blob(&mut self, blob: &Blob) -> Result<Option<Arc<Mapping>>> {
        if blob.at < self.start + DATA_AT || !self.reaches(blob)? {
            let what = format!("mapping {} bytes at byte {} of the image", blob.bytes, blob.at);
            return Err(IndexError::storage(what)(io::ErrorKind::UnexpectedEof.into()));
        }
        let length = usize::try_from(blob.bytes).ok();
        let mapping = length.and_then(|length| self.medium.map(blob.at, length)).map(Arc::new);
        self.mapped.extend(mapping.as_ref().map(|mapping| (Arc::downgrade(mapping), *blob)));
        Ok(mapping)
    }

    fn publish(&mut self, manifest: &[u8]) -> Result<()> {
        let blob = self.put(manifest.len() as u64, UNIT, &mut |out| {
            out.write_all(manifest).map_err(IndexError::storage("writing the manifest"))
        })?;
        if !mutants::is(Mutant::BlobSync) {
            self.sync()?;
        }
        let sequence = self.sequence + 1;
        let other = u64::from(!mutants::is(Mutant::SlotCurrent));
        let slot = self.current.map_or(0, |current| current.slot ^ other);
        let mut block = [0u8; SLOT_BYTES as usize];
        let record = SlotRecord { sequence, manifest: blob }.encode();
        block[..SlotRecord::BYTES].copy_from_slice(&record);
        let at = self.start + slot * SLOT_BYTES;
        // If the write fails, the slot may hold either record: the number is used up.
        self.sequence = sequence;
        self.medium
            .write_all_at(&block, at)
            .map_err(IndexError::storage(format!("writing the slot at byte {at}")))?;
        if !mutants::is(Mutant::SlotSync) {
            self.sync()?;
        }
        self.current = Some(Current { slot, manifest: blob });
        Ok(())
    }

    fn manifest(&mut self) -> Result<Option<Vec<u8>>> {
        match self.current {
            Some(current) => self.read_manifest(&current.manifest),
            None => Ok(None),
        }
    }

    fn retain(&mut self, live: &[Blob]) -> Result<()> {
        self.used.clear();
        if let Some(current) = self.current {
            self.occupy(&current.manifest);
        }
        for blob in live {
            self.occupy(blob);
        }
        self.mapped.retain(|(mapping, _)| mapping.strong_count() > 0);
        if !mutants::is(Mutant::MappedFreed) {
            let mapped: Vec<Blob> = self.mapped.iter().map(|(_, blob)| *blob).collect();
            for blob in &mapped {
                self.occupy(blob);
            }
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

struct MediumWriter<'a, M> {
    medium: &'a M,
    at: u64,
}

impl<M: Medium> Write for MediumWriter<'_, M> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.medium.write_all_at(buffer, self.at)?;
        self.at += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct MediumReader<'a, M> {
    medium: &'a M,
    at: u64,
    left: u64,
}

impl<M: Medium> Read for MediumReader<'_, M> {
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
