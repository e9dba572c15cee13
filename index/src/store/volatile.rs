// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A simulated medium with a volatile cache: a power cut loses what was not synced.
//!
//! A write can be read back at once. A power cut keeps or loses every piece of every write that
//! was not synced. The medium asserts that nothing is written before the store's region.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

use super::Medium;
use crate::sync::lock;

// Smaller than the sector that any device writes whole: slots must not depend on that.
const TEAR: usize = 8;

/// The durable bytes, and the writes that a power cut may lose in any combination.
#[derive(Default)]
pub(crate) struct Disk {
    durable: Vec<u8>,
    /// What a read returns.
    pub seen: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    /// First byte that may be written.
    pub lowest: u64,
    /// Writes, syncs and truncations until the power is cut; later ones fail.
    pub calls_left: Option<u64>,
    /// Reads that touch these bytes fail.
    pub unreadable: Range<u64>,
}

/// The medium; a clone is the same medium.
#[derive(Clone, Default)]
pub(crate) struct VolatileMedium(Arc<Mutex<Disk>>);

impl VolatileMedium {
    /// The disk itself.
    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.0)
    }
}

/// Puts `data` at byte `at`, and grows the medium if it must.
fn place(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl Disk {
    fn use_power(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.calls_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("power is off"))?;
        }
        Ok(())
    }

    /// Cuts the power. Each piece of a write that was not synced is kept if `keep` says so of the
    /// write's number; it is asked once for each piece.
    pub(crate) fn crash(&mut self, mut keep: impl FnMut(usize) -> bool) {
        for (number, (at, data)) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            for (i, piece) in data.chunks(TEAR).enumerate() {
                if keep(number) {
                    place(&mut self.durable, at + i * TEAR, piece);
                }
            }
        }
        self.seen.clone_from(&self.durable);
        self.calls_left = None;
    }
}

impl Medium for VolatileMedium {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let disk = self.disk();
        if at < disk.unreadable.end && at + buffer.len() as u64 > disk.unreadable.start {
            return Err(io::Error::other("bad sector"));
        }
        let from = at as usize;
        let bytes = disk.seen.get(from..from + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.use_power()?;
        assert!(at >= disk.lowest, "a write below the region, at {at}");
        place(&mut disk.seen, at as usize, data);
        disk.pending.push((at as usize, data.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.use_power()?;
        let Disk { durable, pending, .. } = &mut *disk;
        pending.drain(..).for_each(|(at, data)| place(durable, at, &data));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().seen.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.use_power()?;
        assert!(bytes >= disk.lowest, "cut below the region, at {bytes}");
        disk.seen.truncate(bytes as usize);
        disk.durable.truncate(bytes as usize);
        for (at, data) in &mut disk.pending {
            data.truncate((bytes as usize).saturating_sub(*at));
        }
        Ok(())
    }
}
