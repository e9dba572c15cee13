// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The contents of a blob, in pages that are verified when they are first used.
//!
//! A blob is written as its contents, filled up with zeroes to whole pages of [`PAGE`] bytes, and a table of the
//! pages' checksums. The table's checksum is that of the blob, which the manifest has.
//!
//! Invariant: [`Pages::check`] says yes only of pages whose checksum has matched, with no fault of the
//! mapping since that began. Whoever reads takes the [`Pages::epoch`] first, checks what it reads, and
//! compares the epoch at the end: if it has changed, what was read may have been zeroes.
//!
//! What is in the pages is not known here.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Blob, Fill, Mapping, Store};
use crate::{
    error::{IndexError, Result},
    mutants::{self, Mutant},
};

/// Bytes with one checksum.
pub(crate) const PAGE: usize = 4096;
/// What the contents of every blob begin with.
const FIRST: &[u8; 2] = b"VX";
/// Bytes of a page in a blob, with its checksum.
const STORED: u64 = PAGE as u64 + 4;

/// Memory at an address that suits every structure in a blob, as a page's does.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(128))]
struct Block([u8; 128]);

enum Bytes {
    Mapped(Arc<Mapping>),
    Memory(Vec<Block>),
}

/// A blob's contents.
pub(crate) struct Pages {
    bytes: Bytes,
    table: Vec<u32>,
    /// For each page the epoch in which it was verified, or 0.
    verified: Vec<AtomicU32>,
}

/// Writes a blob of `bytes` bytes of contents from `fill`, with the checksums of its pages.
pub(crate) fn write(store: &mut dyn Store, bytes: u64, fill: &mut Fill<'_>) -> Result<Blob> {
    let stored = bytes
        .div_ceil(PAGE as u64)
        .checked_mul(STORED)
        .ok_or(IndexError::Full { needed: bytes, available: 0 })?;
    let mut crc = 0;
    let blob = store.write_blob(stored, &mut |out| {
        let mut writer =
            PageWriter { out, left: bytes, page: Vec::with_capacity(PAGE), table: Vec::new() };
        fill(&mut writer)?;
        crc = writer.finish().map_err(IndexError::storage("writing a blob"))?;
        Ok(())
    })?;
    Ok(Blob { crc, ..blob })
}

struct PageWriter<'a> {
    out: &'a mut dyn Write,
    left: u64,
    /// What there is of the page that is not written yet.
    page: Vec<u8>,
    table: Vec<u32>,
}

impl PageWriter<'_> {
    fn write_page(&mut self) -> io::Result<()> {
        self.table.push(crc32c::crc32c(&self.page));
        self.out.write_all(&self.page)?;
        self.page.clear();
        Ok(())
    }

    /// Fills up the last page and writes the table; its checksum.
    fn finish(mut self) -> io::Result<u32> {
        if self.left > 0 {
            return Err(io::Error::other(format!("{} bytes fewer than announced", self.left)));
        }
        if !self.page.is_empty() {
            self.page.resize(PAGE, 0);
            self.write_page()?;
        }
        self.out.write_all(self.table.as_bytes())?;
        Ok(crc32c::crc32c(self.table.as_bytes()))
    }
}

impl Write for PageWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if buffer.len() as u64 > self.left {
            return Err(io::Error::other("more bytes than announced"));
        }
        let take = buffer.len().min(PAGE - self.page.len());
        self.page.extend_from_slice(&buffer[..take]);
        self.left -= take as u64;
        if self.page.len() == PAGE {
            self.write_page()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn damaged(what: &str, how: &str) -> IndexError {
    IndexError::Damaged(format!("{what} {how}"))
}

impl Pages {
    /// Opens a blob: maps it if the store can, and otherwise reads and verifies it.
    pub(crate) fn open(store: &mut dyn Store, blob: &Blob, what: &str) -> Result<Self> {
        if let Some(mapped) = Self::map(store, blob, what)? {
            return Ok(mapped);
        }
        let this = Self::new(Bytes::Memory(read(store, blob, what)?), blob, what)?;
        this.verify(what)?;
        Ok(this)
    }

    /// Maps a blob; `None` if the store cannot.
    pub(crate) fn map(store: &mut dyn Store, blob: &Blob, what: &str) -> Result<Option<Self>> {
        if !blob.bytes.is_multiple_of(STORED) || usize::try_from(blob.bytes).is_err() {
            return Err(damaged(what, "has a wrong length"));
        }
        let mapping = missing(store.map_blob(blob), what)?;
        mapping.map(|mapping| Self::new(Bytes::Mapped(mapping), blob, what)).transpose()
    }

    /// Pages in memory, with right checksums whatever the contents are.
    #[cfg(test)]
    pub(crate) fn of(contents: &[u8]) -> Self {
        let length = contents.len().next_multiple_of(PAGE);
        let mut blocks = vec![Block([0; 128]); length / size_of::<Block>()];
        blocks.as_mut_bytes()[..contents.len()].copy_from_slice(contents);
        let table: Vec<u32> = blocks.as_bytes().chunks(PAGE).map(crc32c::crc32c).collect();
        let mut verified = Vec::new();
        verified.resize_with(table.len(), AtomicU32::default);
        Self { bytes: Bytes::Memory(blocks), table, verified }
    }

    fn new(bytes: Bytes, blob: &Blob, what: &str) -> Result<Self> {
        let pages = (blob.bytes / STORED) as usize;
        let mut this = Self { bytes, table: Vec::new(), verified: Vec::new() };
        let raw = this.raw().get(pages * PAGE..).and_then(|table| table.get(..pages * 4));
        let raw = raw.ok_or_else(|| damaged(what, "is missing or truncated"))?;
        if this.raw().first_chunk() != Some(FIRST) {
            return Err(damaged(what, "is of another version"));
        }
        let wrong =
            |table: &[u8]| crc32c::crc32c(table) != blob.crc && !mutants::is(Mutant::BlobChecksum);
        // No memory is taken for a table that is wrong.
        if wrong(raw) {
            return Err(damaged(what, "has a wrong checksum"));
        }
        let mut table = Vec::with_capacity(pages);
        table.extend(raw.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
        // Of the copy, so that the numbers that are compared later are those whose checksum matched.
        if wrong(table.as_bytes()) {
            return Err(damaged(what, "cannot be read"));
        }
        this.table = table;
        this.verified.resize_with(pages, AtomicU32::default);
        Ok(this)
    }

    /// All bytes that are there, verified or not.
    fn raw(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapping) => mapping.bytes(),
            Bytes::Memory(blocks) => blocks.as_bytes(),
        }
    }

    /// The contents, verified or not: for places whose pages are checked.
    #[inline]
    pub(crate) fn contents(&self) -> &[u8] {
        &self.raw()[..self.table.len() * PAGE]
    }

    /// Changes when a page could not be read; never 0.
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        match &self.bytes {
            Bytes::Mapped(mapping) => mapping.faults() as u32 + 1,
            Bytes::Memory(_) => 1,
        }
    }

    /// Whether these bytes of the contents may be believed, in this epoch.
    #[inline]
    pub(crate) fn check(&self, from: usize, to: usize, epoch: u32) -> bool {
        let pages = from / PAGE..to.div_ceil(PAGE);
        let known = |verified: &AtomicU32| verified.load(Ordering::Acquire) == epoch;
        match self.verified.get(pages.clone()) {
            Some(range) if range.iter().all(known) => true,
            Some(_) => pages.into_iter().all(|page| self.check_page(page, epoch)),
            None => false,
        }
    }

    #[cold]
    fn check_page(&self, page: usize, epoch: u32) -> bool {
        if self.verified[page].load(Ordering::Acquire) == epoch || mutants::is(Mutant::PageEarly) {
            return true;
        }
        let bytes = &self.contents()[page * PAGE..][..PAGE];
        let right = crc32c::crc32c(bytes) == self.table[page] || mutants::is(Mutant::BlobChecksum);
        if right {
            // Of the epoch in which it began: after a fault it counts for nothing.
            self.verified[page].store(epoch, Ordering::Release);
        }
        right
    }

    /// Verifies all pages; the epoch in which they may be believed.
    pub(crate) fn verify(&self, what: &str) -> Result<u32> {
        let epoch = self.epoch();
        if !self.check(0, self.table.len() * PAGE, epoch) {
            return Err(damaged(what, "has a wrong checksum"));
        }
        if self.epoch() != epoch {
            return Err(damaged(what, "cannot be read"));
        }
        Ok(epoch)
    }

    /// Resident bytes.
    pub(crate) fn bytes(&self) -> usize {
        let memory = match &self.bytes {
            Bytes::Mapped(_) => 0,
            Bytes::Memory(blocks) => blocks.len() * size_of::<Block>(),
        };
        memory + self.table.len() * 8
    }

    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }
}

/// Bytes that are not there are damage; any other error of the storage is reported as it is.
fn missing<T>(result: Result<T>, what: &str) -> Result<T> {
    result.map_err(|error| match error {
        IndexError::Storage { ref source, .. }
            if source.kind() == io::ErrorKind::UnexpectedEof
                || source.kind() == io::ErrorKind::NotFound =>
        {
            damaged(what, "is missing or truncated")
        }
        other => other,
    })
}

fn read(store: &mut dyn Store, blob: &Blob, what: &str) -> Result<Vec<Block>> {
    let mut blocks: Vec<Block> = Vec::new();
    let taken = store.read_blob(blob, &mut |from| {
        let count = blob.bytes.div_ceil(size_of::<Block>() as u64) as usize;
        let failed = || IndexError::storage(format!("reading {what}"));
        blocks.try_reserve_exact(count).map_err(|_| failed()(io::ErrorKind::OutOfMemory.into()))?;
        blocks.resize(count, Block([0; 128]));
        from.read_exact(&mut blocks.as_mut_bytes()[..blob.bytes as usize]).map_err(failed())?;
        // One byte more is one too many.
        match from.read(&mut [0]).map_err(failed())? {
            0 => Ok(()),
            _ => Err(damaged(what, "is longer than it was")),
        }
    });
    missing(taken, what)?;
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DirStore;
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;

    fn put(store: &mut DirStore, data: &[u8]) -> Result<Blob> {
        write(store, data.len() as u64, &mut |out| {
            out.write_all(data).map_err(IndexError::storage("test"))
        })
    }

    #[test]
    fn a_page_is_believed_only_once_its_checksum_has_matched() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DirStore::open(dir.path()).unwrap();
        let data: Vec<u8> =
            (0..3 * PAGE + 100).map(|i| b"VX".get(i).map_or((i / 7) as u8, |x| *x)).collect();
        let blob = put(&mut store, &data).unwrap();
        assert_eq!(blob.bytes, 4 * STORED);
        let pages = Pages::open(&mut store, &blob, "a test").unwrap();
        assert!(pages.is_mapped());
        assert_eq!(&pages.contents()[..data.len()], data);
        let epoch = pages.verify("a test").unwrap();
        assert!(pages.check(0, data.len(), epoch) && !pages.check(0, 5 * PAGE, epoch));

        let file = OpenOptions::new().write(true).open(dir.path().join("blob-0")).unwrap();
        file.write_all_at(&[0xff], PAGE as u64 + 5).unwrap();
        let pages = Pages::open(&mut store, &blob, "a test").unwrap();
        let epoch = pages.epoch();
        let checked: Vec<bool> =
            (0..4).map(|page| pages.check(page * PAGE, (page + 1) * PAGE, epoch)).collect();
        assert_eq!(checked, [true, false, true, true]);
        assert!(!pages.check(PAGE - 1, PAGE + 1, epoch) && pages.verify("a test").is_err());
        // In the table it costs the blob.
        file.write_all_at(&[0xff; 4], 4 * PAGE as u64).unwrap();
        assert!(matches!(Pages::open(&mut store, &blob, "a test"), Err(IndexError::Damaged(_))));
        file.set_len(blob.bytes - 1).unwrap();
        let error = Pages::open(&mut store, &blob, "a test").err().unwrap().to_string();
        assert!(error.contains("truncated"), "{error}");
    }

    /// After a fault every page is verified again: no reader believes a page because it was right before.
    #[test]
    fn a_fault_takes_all_belief_away() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DirStore::open(dir.path()).unwrap();
        let blob = put(&mut store, &b"VX".repeat(3 * PAGE / 2)).unwrap();
        let pages = Pages::open(&mut store, &blob, "a test").unwrap();
        let before = pages.verify("a test").unwrap();
        let file = OpenOptions::new().write(true).open(dir.path().join("blob-0")).unwrap();
        file.set_len(2 * PAGE as u64).unwrap();
        // What the memory still has is gone with the file's length.
        assert_eq!(pages.contents()[2 * PAGE], 0);
        let after = pages.epoch();
        assert!(after > before, "whoever compares the epochs knows");
        assert!(pages.check(0, 2 * PAGE, after) && !pages.check(0, 3 * PAGE, after));
    }

    #[test]
    fn contents_of_another_length_than_announced_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DirStore::open(dir.path()).unwrap();
        for announced in [2, 5] {
            let wrong = write(&mut store, announced, &mut |out| {
                out.write_all(b"abc").map_err(IndexError::storage("test"))
            });
            assert!(wrong.is_err(), "{announced}");
        }
    }
}
