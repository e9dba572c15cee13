// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The crash lab under a real device: a volatile cache, faults on command, power cuts, a recording.
//!
//! Invariant: what a cut may leave is what `crash/FAULTS.md` says; the cache is that of the crate
//! `vexfs_crash`. Until a flush completes, every version of every sector written since the last one
//! is kept in memory and the image is not touched, up to the bound below. All queues share one
//! cache and take turns, because an experiment has to be exact, not fast. The lab writes to the
//! image through this machine's page cache and never syncs it: the cuts are the lab's own, and a
//! power failure of the machine itself is not covered.

mod fault;
mod layer;
mod medium;

pub use fault::{Fault, FaultKind, FaultState, On};
pub use layer::LabLayer;
pub use vexfs_crash::cache::Cut;

use crate::request::{Op, Request};
use fault::Faults;
use medium::ImageFile;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vexfs_crash::cache::VolatileCache;
use vexfs_crash::image::{SECTOR, flip_bit};
use vexfs_crash::{Event, Keep, Request as Recorded, recording::Writer};
use vexfs_search::dirty_log::DirtyLog;
use vexfs_search::log_line;

const EIO: i32 = libc::EIO;
/// Bytes of versions in memory beyond which the cache flushes itself. A cut no longer loses those.
const CACHED_BYTES_MAX: u64 = 1 << 30;
/// Zeroing of more bytes than this is durable at once.
const CACHED_ZEROES_MAX: u64 = 1 << 20;

/// The lab of one device, shared by its queues and its control service.
pub struct Lab(Mutex<State>);

struct State {
    cache: VolatileCache<ImageFile>,
    faults: Faults,
    recorder: Option<Writer>,
    off: bool,
    /// The number of the next request that is recorded.
    requests: u64,
}

impl Lab {
    /// A lab on `image`, a file of `bytes` bytes opened for reading and writing. Everything is
    /// recorded in the file `record`, if there is one. `observer` is told what reaches the image.
    ///
    /// # Errors
    /// If the recording cannot be created, or the image not be read for it.
    pub fn new(
        image: File,
        bytes: u64,
        record: Option<&Path>,
        observer: Arc<DirtyLog>,
    ) -> io::Result<Self> {
        let recorder = match record {
            Some(path) => {
                let mut from = io::BufReader::new(&image);
                io::Seek::rewind(&mut from)?;
                Some(Writer::create(path, bytes, &mut from)?)
            }
            None => None,
        };
        Ok(Self(Mutex::new(State {
            cache: VolatileCache::new(ImageFile { file: image, bytes, observer }, CACHED_BYTES_MAX),
            faults: Faults::default(),
            recorder,
            off: false,
            requests: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked with the lock held did so in a request of its own: the cache holds
        // whole sectors at any moment, so the others can go on.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a request out and returns what the driver is told: bytes, 0, or a negative errno.
    pub fn request(&self, request: &Request, buffer: &mut [u8]) -> i32 {
        let (delay, kind) = {
            let mut state = self.state();
            if state.off {
                return -EIO;
            }
            state.faults.inject(request)
        };
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut state = self.state();
        if state.off {
            return -EIO;
        }
        match state.carry_out(request, buffer, kind) {
            Ok(()) if matches!(request.op, Op::Read | Op::Write { .. }) => request.len as i32,
            Ok(()) => 0,
            Err(errno) => -errno,
        }
    }

    /// Cuts the power: `keep` decides what is left of what was not durable, and every request fails
    /// until [`power_on`](Self::power_on). The recording ends here.
    ///
    /// # Errors
    /// If the power is off already, or the image cannot be written.
    pub fn crash(&self, keep: Keep) -> Result<Cut, String> {
        let mut state = self.state();
        if state.off {
            return Err("the power is off already: `vexfs-ublk recover` turns it on".into());
        }
        state.cut(keep).map_err(|e| format!("the image cannot be written: {e}"))
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Turns the power on again and clears all faults; false if it was on.
    pub fn power_on(&self) -> bool {
        let mut state = self.state();
        state.faults.clear(None);
        std::mem::take(&mut state.off)
    }

    /// Sets a fault and returns its number.
    pub fn set(&self, fault: Fault) -> u32 {
        self.state().faults.add(fault)
    }

    /// Clears the fault with that number, or all; returns how many there were.
    pub fn clear(&self, number: Option<u32>) -> usize {
        self.state().faults.clear(number)
    }

    /// All faults.
    pub fn faults(&self) -> Vec<FaultState> {
        self.state().faults.list()
    }

    /// Puts a mark into the recording; false if there is none.
    pub fn mark(&self, text: &str) -> bool {
        let mut state = self.state();
        let recording = state.recorder.is_some();
        state.record(&Event::Mark(text.to_owned()));
        recording
    }

    /// Ends the lab when the device is removed in good order: what is cached goes to the image.
    pub fn finish(&self) {
        let mut state = self.state();
        if !state.off
            && let Err(e) = state.cache.flush()
        {
            log_line!(
                "the cache could not be written to the image, what was not flushed is lost: {e}"
            );
        }
        state.end_recording();
    }
}

impl State {
    /// Records a request that changes something, before it is done.
    fn submit(&mut self, request: impl FnOnce() -> Recorded) {
        if self.recorder.is_some() {
            self.record(&Event::Submit { id: self.requests, request: request() });
        }
    }

    fn record(&mut self, event: &Event) {
        if let Some(recorder) = &mut self.recorder
            && let Err(e) = recorder.event(event)
        {
            log_line!("the recording cannot be written and ends here: {e}");
            self.recorder = None;
        }
    }

    fn end_recording(&mut self) {
        if let Some(recorder) = self.recorder.take()
            && let Err(e) = recorder.finish()
        {
            log_line!("the recording cannot be written, its end is missing: {e}");
        }
    }

    fn cut(&mut self, keep: Keep) -> io::Result<Cut> {
        self.off = true;
        self.end_recording();
        self.cache.cut(keep)
    }

    /// Does a request, or what the fault `kind` makes of it. The number beside the kind is random.
    fn carry_out(
        &mut self,
        request: &Request,
        buffer: &mut [u8],
        kind: Option<(FaultKind, u64)>,
    ) -> Result<(), i32> {
        let errno = |e: io::Error| e.raw_os_error().unwrap_or(EIO);
        let Request { op, mut offset, len } = *request;
        let mut flipped_bit = None;
        match kind {
            Some((FaultKind::Eio { errno }, _)) => return Err(errno),
            Some((FaultKind::Die, _)) => {
                log_line!("a fault with --set die: the device is dead until `vexfs-ublk recover`");
                self.cut(Keep::None).map_err(errno)?;
                return Err(EIO);
            }
            Some((FaultKind::Lost, _)) if op.changes() => return Ok(()),
            Some((FaultKind::IgnoreFlush, _)) if op == Op::Flush => return Ok(()),
            Some((FaultKind::Misdirect { to }, _)) if matches!(op, Op::Write { .. }) => {
                let last = self.cache.medium().bytes.saturating_sub(len);
                offset = to.min(last) / SECTOR as u64 * SECTOR as u64;
            }
            Some((FaultKind::Stale, _)) if op == Op::Read => {
                return self.cache.read_stale(offset, buffer).map_err(errno);
            }
            Some((FaultKind::Flip, random)) => flipped_bit = Some(random),
            _ => {}
        }
        match op {
            Op::Read => {
                self.cache.read(offset, buffer).map_err(errno)?;
                if let Some(random) = flipped_bit {
                    flip(buffer, random);
                }
                return Ok(());
            }
            // A hint, which this device does not take.
            Op::Discard => return Ok(()),
            Op::Write { fua } => {
                if let Some(random) = flipped_bit {
                    flip(buffer, random);
                }
                self.submit(|| Recorded::Write { at: offset, data: (&*buffer).into(), fua });
                if fua {
                    self.cache.write_fua(offset, buffer)
                } else {
                    self.cache.write(offset, buffer)
                }
            }
            Op::WriteZeroes { fua, .. } => {
                self.submit(|| Recorded::Zeroes { at: offset, len, fua });
                self.zero(offset, len, fua)
            }
            Op::Flush => {
                self.submit(|| Recorded::Flush);
                self.cache.flush()
            }
        }
        .map_err(errno)?;
        self.record(&Event::Complete { id: self.requests, ok: true });
        self.requests += 1;
        Ok(())
    }

    fn zero(&mut self, at: u64, len: u64, fua: bool) -> io::Result<()> {
        let part = vec![0; len.min(CACHED_ZEROES_MAX) as usize];
        let durable = fua || len > CACHED_ZEROES_MAX;
        let mut done = 0;
        while done < len {
            let left = (len - done).min(part.len() as u64) as usize;
            let part = part.get(..left).unwrap_or_default();
            if durable {
                self.cache.write_fua(at + done, part)?;
            } else {
                self.cache.write(at + done, part)?;
            }
            done += left as u64;
        }
        Ok(())
    }
}

/// Inverts one bit, chosen by a random number.
fn flip(buffer: &mut [u8], random: u64) {
    flip_bit(buffer, random % (buffer.len() as u64 * 8).max(1));
}

#[cfg(test)]
mod tests;
