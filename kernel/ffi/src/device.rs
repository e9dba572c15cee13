// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The host's device behind the engine's [`Device`] trait.

use crate::abi::{Answer, FAULT, HostDevice, INVALID, WriteRequest};
use alloc::vec::Vec;
use vexfs::{Device, DeviceError, Write};

/// A device that C provides.
#[derive(Clone, Copy)]
pub struct KernelDevice {
    host: HostDevice,
}

// SAFETY: rule 7: any task may call the functions. The context pointer is only handed back to them.
unsafe impl Send for KernelDevice {}
// SAFETY: rule 7: several tasks may call the functions at a time.
unsafe impl Sync for KernelDevice {}

impl core::fmt::Debug for KernelDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "device of {} bytes", self.host.len_bytes)
    }
}

fn outcome(code: i32) -> Result<(), DeviceError> {
    match code {
        0 => Ok(()),
        // `-EAGAIN` (11) means 'missed' to the engine's host, and a positive code means nothing.
        code if code > 0 || code == -11 => Err(DeviceError::Io(5)),
        code => Err(DeviceError::Io(code.saturating_neg())),
    }
}

impl KernelDevice {
    /// Checks that the host provides everything.
    pub(crate) fn new(host: HostDevice) -> Answer<Self> {
        if host.read.is_none() || host.write.is_none() || host.flush.is_none() {
            return Err(FAULT);
        }
        if host.len_bytes > i64::MAX as u64 {
            return Err(INVALID);
        }
        Ok(Self { host })
    }

    fn send(&self, requests: &[WriteRequest], fua: bool) -> Result<(), DeviceError> {
        let Some(write) = self.host.write else { return Err(DeviceError::Io(5)) };
        // SAFETY: rule 7, with the context that belongs to the function; the requests and their data outlive the call.
        outcome(unsafe { write(self.host.ctx, requests.as_ptr(), requests.len(), fua) })
    }

    /// True if `len` bytes at `at` lie on the device and are whole sectors.
    fn covers(&self, at: u64, len: usize) -> bool {
        at.is_multiple_of(512)
            && len.is_multiple_of(512)
            && at.checked_add(len as u64).is_some_and(|end| end <= self.host.len_bytes)
    }
}

impl Device for KernelDevice {
    fn len_bytes(&self) -> u64 {
        self.host.len_bytes
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        let Some(read) = self.host.read else { return Err(DeviceError::Io(5)) };
        if !self.covers(at, buf.len()) {
            return Err(DeviceError::Io(22));
        }
        // SAFETY: rule 7, with the context that belongs to the function; the buffer is exclusively borrowed for the call.
        outcome(unsafe { read(self.host.ctx, at, buf.as_mut_ptr(), buf.len()) })
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        if !self.covers(at, data.len()) {
            return Err(DeviceError::Io(22));
        }
        self.send(&[WriteRequest { at, data: data.as_ptr(), len: data.len() }], false)
    }

    fn write_many(&self, block_bytes: u32, writes: &[Write<'_>]) -> Result<(), DeviceError> {
        let mut requests = Vec::new();
        if requests.try_reserve_exact(writes.len()).is_err() {
            // Without memory for the batch: one by one.
            for write in writes {
                self.write(write.block.0.saturating_mul(u64::from(block_bytes)), write.data)?;
            }
            return Ok(());
        }
        for write in writes {
            let at = write.block.0.saturating_mul(u64::from(block_bytes));
            if !self.covers(at, write.data.len()) {
                return Err(DeviceError::Io(22));
            }
            requests.push(WriteRequest { at, data: write.data.as_ptr(), len: write.data.len() });
        }
        if requests.is_empty() { Ok(()) } else { self.send(&requests, false) }
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        if !self.covers(at, data.len()) {
            return Err(DeviceError::Io(22));
        }
        self.send(&[WriteRequest { at, data: data.as_ptr(), len: data.len() }], true)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let Some(flush) = self.host.flush else { return Err(DeviceError::Io(5)) };
        // SAFETY: rule 7, with the context that belongs to the function.
        outcome(unsafe { flush(self.host.ctx) })
    }
}
