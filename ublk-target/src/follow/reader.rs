// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The image as the engine sees it: a device that can only be read.
//!
//! It reads through the page cache, which direct writes of the queues invalidate before they
//! complete, so what a completed write left is what is read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vexfs::{Device, DeviceError};

/// A read-only device over an open file.
#[derive(Clone, Debug)]
pub struct ImageReader {
    file: Arc<File>,
    bytes: u64,
}

impl ImageReader {
    /// The first `bytes` bytes of the file.
    #[must_use]
    pub fn new(file: File, bytes: u64) -> Self {
        Self { file: Arc::new(file), bytes }
    }
}

fn errno(error: &std::io::Error) -> DeviceError {
    DeviceError::Io(error.raw_os_error().unwrap_or(libc::EIO))
}

impl Device for ImageReader {
    fn len_bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.file.read_exact_at(buf, at).map_err(|e| errno(&e))
    }

    fn write(&self, _at: u64, _data: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Io(libc::EROFS))
    }

    fn write_fua(&self, _at: u64, _data: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Io(libc::EROFS))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Err(DeviceError::Io(libc::EROFS))
    }
}
