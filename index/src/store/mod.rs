// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where checkpoints are stored: blobs that are written once, and a manifest that is replaced
//! atomically.
//!
//! A crash is harmless because every store keeps two rules: a blob is neither changed nor reused
//! while a durable manifest names it or somebody has it mapped, and a manifest becomes durable only after
//! every blob that it names. A store does not verify what it reads: the manifest has the checksum of every
//! blob's table of checksums ([`pages`]) and of itself. What is in a manifest, a store does not know.

mod dir;
mod mapping;
mod medium;
pub(crate) mod pages;
mod read_only;
mod tail;
#[cfg(test)]
mod verified;
#[cfg(any(test, feature = "mutants"))]
pub(crate) mod volatile;

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

pub use dir::DirStore;
pub use mapping::Mapping;
pub use medium::Medium;
pub use read_only::ReadOnly;
pub use tail::TailStore;
#[cfg(test)]
pub(crate) use verified::read_verified;

use crate::error::Result;

/// Bytes of the longest manifest: that of a million files with their states fits. It is read into
/// memory whole, so a longer one is neither written nor believed.
pub(crate) const MANIFEST_MAX: usize = (1 << 29) + 20;

/// Stored bytes: where they are, how many, and a CRC32C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct Blob {
    /// Its name in the store: a number, or an offset in bytes.
    pub at: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC32C of its bytes; in a manifest, of the checksums of its pages.
    pub crc: u32,
}

/// Produces a blob's bytes.
pub type Fill<'a> = dyn FnMut(&mut dyn Write) -> Result<()> + 'a;
/// Consumes a blob's bytes.
pub type Take<'a> = dyn FnMut(&mut dyn Read) -> Result<()> + 'a;

/// A place for checkpoints.
pub trait Store: Send {
    /// `write_blob(bytes, fill)` - stores exactly `bytes` bytes from `fill`. They need not be
    /// durable yet.
    fn write_blob(&mut self, bytes: u64, fill: &mut Fill<'_>) -> Result<Blob>;
    /// `read_blob(blob, take)` - hands a blob's bytes to `take`, not verified.
    fn read_blob(&mut self, blob: &Blob, take: &mut Take<'_>) -> Result<()>;
    /// `map_blob(blob)` - a blob's bytes mapped into memory, not verified; `None` if the store cannot.
    /// Until the mapping is dropped, the bytes are not written to and the file is not cut off there.
    fn map_blob(&mut self, _blob: &Blob) -> Result<Option<Arc<Mapping>>> {
        Ok(None)
    }
    /// `publish(manifest)` - makes all blobs durable, then replaces the manifest, durably.
    fn publish(&mut self, manifest: &[u8]) -> Result<()>;
    /// `manifest()` - the current manifest, if there is one.
    fn manifest(&mut self) -> Result<Option<Vec<u8>>>;
    /// `retain(live)` - frees every blob but these and those that are mapped.
    fn retain(&mut self, live: &[Blob]) -> Result<()>;
}

/// Computes the checksum of what is written to a store, and refuses more bytes than announced.
pub(crate) struct ChecksumWriter<W> {
    pub to: W,
    pub crc: u32,
    pub left: u64,
}

impl<W: Write> ChecksumWriter<W> {
    pub(crate) fn new(to: W, bytes: u64) -> Self {
        Self { to, crc: 0, left: bytes }
    }

    /// The checksum, if exactly the announced bytes were written.
    pub(crate) fn finish(mut self) -> io::Result<u32> {
        self.to.flush()?;
        if self.left > 0 {
            return Err(io::Error::other(format!("{} bytes fewer than announced", self.left)));
        }
        Ok(self.crc)
    }
}

impl<W: Write> Write for ChecksumWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if buffer.len() as u64 > self.left {
            return Err(io::Error::other("more bytes than announced"));
        }
        let put = self.to.write(buffer)?;
        self.crc = crc32c::crc32c_append(self.crc, &buffer[..put]);
        self.left -= put as u64;
        Ok(put)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
