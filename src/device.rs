// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The block device, the engine's only access to a medium.
//!
//! The engine assumes: a completed write is read back; it is durable once a later `flush` returned
//! or, with `write_fua`, at once; a sector is written whole or not at all; nothing else is ordered.

use vexfs_format::BlockNr;

/// Why a request failed: a Linux error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// The request failed with this (positive) error number.
    Io(i32),
}

/// One block-aligned write of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// First block.
    pub block: BlockNr,
    /// Contents; a multiple of the block size.
    pub data: &'a [u8],
}

/// A block device. All methods take `&self`: a host serialises inside where it must.
///
/// A device in memory, on which a filesystem is made:
///
/// ```
/// use std::cell::RefCell;
/// use vexfs::{Device, DeviceError, MkfsOptions, Time, mkfs, read_superblock};
///
/// struct Memory(RefCell<Vec<u8>>);
///
/// impl Device for Memory {
///     fn len_bytes(&self) -> u64 {
///         self.0.borrow().len() as u64
///     }
///     fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
///         let (memory, at) = (self.0.borrow(), at as usize);
///         buf.copy_from_slice(memory.get(at..at + buf.len()).ok_or(DeviceError::Io(5))?);
///         Ok(())
///     }
///     fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
///         let (mut memory, at) = (self.0.borrow_mut(), at as usize);
///         memory.get_mut(at..at + data.len()).ok_or(DeviceError::Io(5))?.copy_from_slice(data);
///         Ok(())
///     }
///     // In memory a write is as durable as it will ever be.
///     fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
///         self.write(at, data)
///     }
///     fn flush(&self) -> Result<(), DeviceError> {
///         Ok(())
///     }
/// }
///
/// let device = Memory(RefCell::new(vec![0; 1 << 20]));
/// mkfs(&device, &MkfsOptions::new(1 << 20, [1; 16], [2; 16], Time::default()))?;
/// assert_eq!(read_superblock(&device)?.blocks.get(), 256);
/// # Ok::<(), vexfs::Error>(())
/// ```
pub trait Device {
    /// Length in bytes.
    fn len_bytes(&self) -> u64;
    /// Fills `buf` from byte `at`; both are multiples of 512.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError>;
    /// Writes `data` at byte `at`; both are multiples of 512. Durable after the next [`flush`](Self::flush).
    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError>;
    /// Writes that may complete in any order and side by side; returns when all have completed.
    fn write_many(&self, block_bytes: u32, writes: &[Write<'_>]) -> Result<(), DeviceError> {
        for write in writes {
            self.write(write.block.0.saturating_mul(u64::from(block_bytes)), write.data)?;
        }
        Ok(())
    }
    /// Writes `data` at byte `at`; durable on return.
    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError>;
    /// Makes every completed write durable.
    fn flush(&self) -> Result<(), DeviceError>;
}

impl<D: Device + ?Sized> Device for &D {
    fn len_bytes(&self) -> u64 {
        (**self).len_bytes()
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        (**self).read(at, buf)
    }
    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        (**self).write(at, data)
    }
    fn write_many(&self, block_bytes: u32, writes: &[Write<'_>]) -> Result<(), DeviceError> {
        (**self).write_many(block_bytes, writes)
    }
    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        (**self).write_fua(at, data)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        (**self).flush()
    }
}
