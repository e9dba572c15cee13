// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A medium for tests and the crash lab: it forgets what was not synced, and tears it finely.
//!
//! What is written is read back at once. At a power cut each piece of each unsynced write arrived
//! or did not. It asserts that nothing is written below where the store's region begins.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Medium;
use crate::lock;

// Finer than any device tears: the slots must not lean on a sector being written whole.
const TEAR: usize = 8;

/// Durable bytes, and writes that a power cut may lose in any combination.
#[derive(Default)]
pub(crate) struct Disk {
    durable: Vec<u8>,
    /// What a read returns.
    pub seen: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    /// First byte that may be written.
    pub lowest: u64,
    /// Calls until the power goes; later calls fail.
    pub fuse: Option<u64>,
    /// Reads that touch these bytes fail.
    pub unreadable: Range<u64>,
}

/// Such a medium; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Forgetful(Arc<Mutex<Disk>>);

impl Forgetful {
    /// The disk itself.
    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.0)
    }
}

fn place(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl Disk {
    fn burn(&mut self) -> io::Result<()> {
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.checked_sub(1).ok_or_else(|| io::Error::other("power is off"))?;
        }
        Ok(())
    }

    /// The power goes: each piece of each unsynced write arrived or did not, as `luck` says of a piece
    /// of the write of that number.
    pub(crate) fn crash(&mut self, mut luck: impl FnMut(usize) -> bool) {
        for (number, (at, data)) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            for (i, piece) in data.chunks(TEAR).enumerate() {
                if luck(number) {
                    place(&mut self.durable, at + i * TEAR, piece);
                }
            }
        }
        self.seen.clone_from(&self.durable);
        self.fuse = None;
    }
}

impl Medium for Forgetful {
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
        disk.burn()?;
        assert!(at >= disk.lowest, "a write below the region, at {at}");
        place(&mut disk.seen, at as usize, data);
        disk.pending.push((at as usize, data.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.burn()?;
        let Disk { durable, pending, .. } = &mut *disk;
        pending.drain(..).for_each(|(at, data)| place(durable, at, &data));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().seen.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.burn()?;
        assert!(bytes >= disk.lowest, "cut below the region, at {bytes}");
        disk.seen.truncate(bytes as usize);
        disk.durable.truncate(bytes as usize);
        for (at, data) in &mut disk.pending {
            data.truncate((bytes as usize).saturating_sub(*at));
        }
        Ok(())
    }
}
