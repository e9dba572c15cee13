// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where checkpoints lie: blobs that are written once, and a manifest that is replaced atomically.
//!
//! The contract that makes a crash harmless: a blob is never changed and never reused while a
//! durable manifest names it; a manifest becomes durable only after every blob it names. What a
//! store returns is not believed: a blob's checksum is in the manifest, the manifest's in itself.

mod dir;
#[cfg(any(test, feature = "mutants"))]
pub(crate) mod forgetful;
mod medium;
mod tail;

use std::io::{self, Read, Write};

pub use dir::DirStore;
pub use medium::Medium;
pub use tail::TailStore;

use crate::error::{IndexError, Result};
use crate::mutants::{self, Mutant};

/// A manifest is read into memory whole: longer than the longest that is written it is not believed.
pub(crate) const MANIFEST_MAX: u64 = crate::codec::SEALED_MAX as u64;

/// A stored run of bytes: where it is, how long, and its CRC32C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct Blob {
    /// The store's name for it: a number or an offset.
    pub at: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC32C of its bytes.
    pub crc: u32,
}

/// Produces a blob's bytes.
pub type Fill<'a> = dyn FnMut(&mut dyn Write) -> Result<()> + 'a;
/// Consumes a blob's bytes.
pub type Take<'a> = dyn FnMut(&mut dyn Read) -> Result<()> + 'a;

/// A place for checkpoints.
pub trait Store: Send {
    /// Stores exactly `bytes` bytes from `fill`. They need not be durable yet.
    fn write_blob(&mut self, bytes: u64, fill: &mut Fill<'_>) -> Result<Blob>;
    /// Hands a blob's bytes to `take`; they are not verified here.
    fn read_blob(&mut self, blob: &Blob, take: &mut Take<'_>) -> Result<()>;
    /// Makes all blobs durable, then replaces the manifest by these bytes, durably.
    fn publish(&mut self, manifest: &[u8]) -> Result<()>;
    /// The current manifest's bytes, if there ever was one.
    fn manifest(&mut self) -> Result<Option<Vec<u8>>>;
    /// Frees every blob but these.
    fn retain(&mut self, live: &[Blob]) -> Result<()>;
}

/// Reads a blob and verifies length and checksum: what `take` made of it is void on an error.
pub(crate) fn read_verified(
    store: &mut dyn Store,
    blob: &Blob,
    what: &str,
    take: &mut Take<'_>,
) -> Result<()> {
    let mut crc = 0;
    let mut seen = 0;
    let read = store.read_blob(blob, &mut |from| {
        let mut summed = Summed { from, crc: 0, bytes: 0 };
        take(&mut summed)?;
        // Also what `take` did not want belongs to the checksum.
        let rest = io::copy(&mut summed, &mut io::sink());
        (crc, seen) = (summed.crc, summed.bytes);
        rest.map(drop).map_err(IndexError::storage(format!("reading {what}")))
    });
    if let Err(error) = read {
        // A read error is the device's news; anything else follows from wrong bytes.
        return Err(match error {
            IndexError::Storage { ref source, .. }
                if source.kind() == io::ErrorKind::UnexpectedEof
                    || source.kind() == io::ErrorKind::NotFound =>
            {
                IndexError::Damaged(format!("{what} is missing or truncated"))
            }
            other => other,
        });
    }
    if seen != blob.bytes || crc != blob.crc && !mutants::is(Mutant::BlobChecksum) {
        return Err(IndexError::Damaged(format!("{what} has a wrong checksum")));
    }
    Ok(())
}

/// Sums what passes on its way out of a store.
struct Summed<'a> {
    from: &'a mut dyn Read,
    crc: u32,
    bytes: u64,
}

impl Read for Summed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.crc = crc32c::crc32c_append(self.crc, &buffer[..got]);
        self.bytes += got as u64;
        Ok(got)
    }
}

/// Sums what passes on its way into a store, and refuses more than was announced.
pub(crate) struct Summing<W> {
    pub to: W,
    pub crc: u32,
    pub left: u64,
}

impl<W: Write> Summing<W> {
    pub(crate) fn new(to: W, bytes: u64) -> Self {
        Self { to, crc: 0, left: bytes }
    }

    /// The checksum, if exactly what was announced was written.
    pub(crate) fn finish(mut self) -> io::Result<u32> {
        self.to.flush()?;
        if self.left > 0 {
            return Err(io::Error::other(format!("{} bytes fewer than announced", self.left)));
        }
        Ok(self.crc)
    }
}

impl<W: Write> Write for Summing<W> {
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
