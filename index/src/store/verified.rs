// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A whole blob, verified by its checksum: how the tests of the stores read. The index reads pages.

use std::io::{self, Read};

use super::{Blob, Store, Take};
use crate::{
    error::{IndexError, Result},
    mutants::{self, Mutant},
};

/// Reads a blob as [`Store::write_blob`] wrote it and verifies its length and checksum. On an error, discard what `take` made of it.
pub(crate) fn read_verified(
    store: &mut dyn Store,
    blob: &Blob,
    what: &str,
    take: &mut Take<'_>,
) -> Result<()> {
    let mut crc = 0;
    let mut seen = 0;
    let read = store.read_blob(blob, &mut |from| {
        let mut reader = ChecksumReader { from, crc: 0, bytes: 0 };
        take(&mut reader)?;
        // The checksum includes what `take` did not read.
        let rest = io::copy(&mut reader, &mut io::sink());
        (crc, seen) = (reader.crc, reader.bytes);
        rest.map(drop).map_err(IndexError::storage(format!("reading {what}")))
    });
    if let Err(error) = read {
        // Bytes that are not there are damage; any other error of the storage is reported as it is.
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

/// Computes the checksum of what is read from a store.
struct ChecksumReader<'a> {
    from: &'a mut dyn Read,
    crc: u32,
    bytes: u64,
}

impl Read for ChecksumReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.crc = crc32c::crc32c_append(self.crc, &buffer[..got]);
        self.bytes += got as u64;
        Ok(got)
    }
}
