// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What [`TailStore`](super::TailStore) needs of a file, so that tests can use a simulated one.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::Mapping;

/// Bytes at offsets. A write is durable after `sync`; before, any part of it may be.
pub trait Medium: Send {
    /// Reads exactly `buffer.len()` bytes.
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of `data`, growing the medium if it must.
    fn write_all_at(&self, data: &[u8], at: u64) -> io::Result<()>;
    /// Makes all writes so far durable.
    fn sync(&self) -> io::Result<()>;
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|bytes| bytes == 0)
    }
    /// Cuts the medium off at this length.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Maps a range into memory; `None` if that is not possible.
    fn map(&self, _at: u64, _bytes: usize) -> Option<Mapping> {
        None
    }
}

impl Medium for File {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, at)
    }

    fn write_all_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, data, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        // Seeking also tells the length of a block device, for which the metadata says 0.
        rustix::fs::seek(self, rustix::fs::SeekFrom::End(0)).map_err(Into::into)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn map(&self, at: u64, bytes: usize) -> Option<Mapping> {
        // What cannot be mapped, for example because pages are larger here, is read.
        Mapping::of(self, at, bytes).ok()
    }
}
