// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A file or a block device of the host as the engine's [`Device`].
//!
//! Reads and writes are positional, so clones may be used side by side. A flush is `fdatasync`;
//! durable writes are `RWF_DSYNC` where the kernel has it. It neither opens nor locks: a file that
//! was opened for reading refuses writes with the kernel's `EBADF`.

use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;
use vexfs::{Device, DeviceError, Write};

/// Most pieces that one `pwritev` takes: the kernel's `UIO_MAXIOV`.
const PIECES_MAX: usize = 1024;

/// An open file or block device. Clones share the descriptor.
#[derive(Clone, Debug)]
pub struct FileDevice {
    file: Arc<File>,
    bytes: u64,
    block_device: bool,
}

impl FileDevice {
    /// All of an open file.
    ///
    /// # Errors
    /// The host's, where it cannot measure the file.
    pub fn new(file: File) -> io::Result<Self> {
        let bytes = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        let device = Self::first_bytes(file, bytes)?;
        if device.block_device {
            // A mounted filesystem writes past the block device's page cache, whose pages may be stale.
            let _ = rustix::fs::fadvise(&device.file, 0, None, rustix::fs::Advice::DontNeed);
        }
        Ok(device)
    }

    /// The first `bytes` bytes of an open file.
    ///
    /// # Errors
    /// The host's.
    pub fn first_bytes(file: File, bytes: u64) -> io::Result<Self> {
        let block_device = file.metadata()?.file_type().is_block_device();
        Ok(Self { file: Arc::new(file), bytes, block_device })
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is a block device.
    #[must_use]
    pub const fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// Makes a regular file `bytes` long.
    ///
    /// # Errors
    /// The host's.
    pub fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        self.bytes = bytes;
        Ok(())
    }
}

fn device_error(error: &io::Error) -> DeviceError {
    DeviceError::Io(error.raw_os_error().unwrap_or(libc::EIO))
}

fn errno(error: Errno) -> DeviceError {
    DeviceError::Io(error.raw_os_error())
}

/// Writes all of `pieces`, one after the other, from byte `at` on.
fn write_pieces(file: &File, mut at: u64, pieces: &[&[u8]]) -> Result<(), DeviceError> {
    for batch in pieces.chunks(PIECES_MAX) {
        let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            match rustix::io::pwritev(file, rest, at) {
                Ok(0) => return Err(DeviceError::Io(libc::EIO)),
                Ok(done) => {
                    at += done as u64;
                    IoSlice::advance_slices(&mut rest, done);
                }
                Err(Errno::INTR) => {}
                Err(other) => return Err(errno(other)),
            }
        }
    }
    Ok(())
}

impl Device for FileDevice {
    fn len_bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.file.read_exact_at(buf, at).map_err(|error| device_error(&error))
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.file.write_all_at(data, at).map_err(|error| device_error(&error))
    }

    fn write_many(&self, block_bytes: u32, writes: &[Write<'_>]) -> Result<(), DeviceError> {
        let mut order: Vec<&Write<'_>> = writes.iter().collect();
        order.sort_by_key(|write| write.block);
        let at = |write: &Write<'_>| write.block.0.saturating_mul(u64::from(block_bytes));
        let adjacent = |a: &&Write<'_>, b: &&Write<'_>| at(a) + a.data.len() as u64 == at(b);
        for run in order.chunk_by(adjacent) {
            let pieces: Vec<&[u8]> = run.iter().map(|write| write.data).collect();
            if let Some(first) = run.first() {
                write_pieces(&self.file, at(first), &pieces)?;
            }
        }
        Ok(())
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        match rustix::io::pwritev2(&self.file, &[IoSlice::new(data)], at, ReadWriteFlags::DSYNC) {
            Ok(done) if done == data.len() => return Ok(()),
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {}
            Err(other) => return Err(errno(other)),
        }
        self.write(at, data)?;
        self.flush()
    }

    fn flush(&self) -> Result<(), DeviceError> {
        rustix::fs::fdatasync(&self.file).map_err(errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vexfs::BlockNr;

    #[test]
    fn what_was_written_in_any_order_is_read_back() {
        let mut device = FileDevice::new(tempfile::tempfile().unwrap()).unwrap();
        device.set_len(64 * 4096).unwrap();
        let blocks: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n + 1; 4096]).collect();
        // Two runs, mixed up, one of which a single call cannot hold in one piece.
        let order = [7u64, 3, 4, 5, 39, 38, 6, 20];
        let writes: Vec<Write<'_>> = order
            .iter()
            .map(|n| Write { block: BlockNr(*n), data: &blocks[*n as usize] })
            .collect();
        device.write_many(4096, &writes).unwrap();
        device.write_fua(50 * 4096, &blocks[9]).unwrap();
        device.flush().unwrap();
        let mut block = vec![0; 4096];
        for n in 0..64u64 {
            device.read(n * 4096, &mut block).unwrap();
            let expected = if order.contains(&n) { n as u8 + 1 } else { u8::from(n == 50) * 10 };
            assert!(block.iter().all(|byte| *byte == expected), "block {n}");
        }
    }

    #[test]
    fn a_read_past_the_end_fails() {
        let device = FileDevice::new(tempfile::tempfile().unwrap()).unwrap();
        assert_eq!(device.read(0, &mut [0; 512]), Err(DeviceError::Io(libc::EIO)));
    }
}
