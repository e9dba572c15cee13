// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The contents of a device in memory: sparse, and copied only where two copies differ.

use std::sync::Arc;
use vexfs::{Device, DeviceError};

const PAGE: usize = 4096;
/// Bytes that a medium writes whole or not at all.
pub const SECTOR: usize = 512;

/// One sector.
pub type Sector = [u8; SECTOR];

/// Inverts one bit, counted from the start; nothing if there is no such bit.
pub fn flip_bit(bytes: &mut [u8], bit: u64) {
    if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
        *byte ^= 1 << (bit % 8);
    }
}

/// An image. A clone costs a pointer for each page.
#[derive(Clone, Debug)]
pub struct Image {
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
}

impl Image {
    /// An image of `bytes` zeroes, rounded up to whole pages of 4096 bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { pages: vec![None; (bytes as usize).div_ceil(PAGE)] }
    }

    /// Its length.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }

    /// Copies from byte `at` on. False if that reaches past the end.
    #[must_use]
    pub fn get(&self, at: u64, buf: &mut [u8]) -> bool {
        if at.checked_add(buf.len() as u64).is_none_or(|end| end > self.len_bytes()) {
            return false;
        }
        let mut done = 0;
        while done < buf.len() {
            let (page, within) = Self::split(at + done as u64);
            let len = (PAGE - within).min(buf.len() - done);
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(data) => buf[done..done + len].copy_from_slice(&data[within..within + len]),
                None => buf[done..done + len].fill(0),
            }
            done += len;
        }
        true
    }

    /// Writes at byte `at`. False, and nothing is written, if that reaches past the end.
    pub fn put(&mut self, at: u64, data: &[u8]) -> bool {
        if at.checked_add(data.len() as u64).is_none_or(|end| end > self.len_bytes()) {
            return false;
        }
        let mut done = 0;
        while done < data.len() {
            let (page, within) = Self::split(at + done as u64);
            let len = (PAGE - within).min(data.len() - done);
            let slot = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(slot)[within..within + len].copy_from_slice(&data[done..done + len]);
            done += len;
        }
        true
    }

    /// Inverts one bit; none past the end.
    pub fn flip(&mut self, bit: u64) {
        let mut byte = [0];
        if self.get(bit / 8, &mut byte) {
            flip_bit(&mut byte, bit % 8);
            self.put(bit / 8, &byte);
        }
    }

    /// The bytes `at..at + len`; zeroes if that reaches past the end.
    #[must_use]
    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let _ = self.get(at, &mut bytes);
        bytes
    }

    const fn split(at: u64) -> (usize, usize) {
        ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize)
    }
}

/// An image is a device that can only be read.
impl Device for Image {
    fn len_bytes(&self) -> u64 {
        self.len_bytes()
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        if self.get(at, buf) { Ok(()) } else { Err(DeviceError::Io(5)) }
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Io(30))
    }
    fn write_fua(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Io(30))
    }
    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
