// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The crash lab under a real device: a volatile cache, faults on command, power cuts, a recording.
//!
//! Invariant: what a cut may leave is what `crash/FAULTS.md` says. Until a flush completes, every
//! version of every sector written since the last one is kept in memory and the image is not
//! touched. All queues share one cache and take turns: an experiment is to be exact, not fast. The
//! medium is the image as this machine sees it; nothing here waits for a real disk.

mod cache;
mod fault;
mod layer;

pub use fault::{Fault, FaultKind, FaultState, On};
pub use layer::LabLayer;

use crate::dirty_log::DirtyLog;
use crate::log_line;
use crate::request::{Op, Request};
use cache::Cache;
use fault::Faults;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vexfs_crash::{Event, Keep, Request as Recorded, recording::Writer};

const EIO: i32 = libc::EIO;

/// The lab of one device, shared by its queues and its control service.
pub struct Lab(Mutex<State>);

struct State {
    cache: Cache,
    faults: Faults,
    recorder: Option<Writer>,
    off: bool,
    requests: u64,
}

/// What a cut left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Cut {
    /// Sectors that were not durable.
    pub unflushed: u64,
    /// Those of them of which a version was kept.
    pub kept: u64,
}

impl Lab {
    /// A lab on `image`, opened for reading and writing, of `bytes` bytes; `record` is a file that
    /// everything is written to. `observer` hears what reaches the image.
    ///
    /// # Errors
    /// If the recording cannot be begun.
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
            cache: Cache::new(image, bytes, observer),
            faults: Faults::default(),
            recorder,
            off: false,
            requests: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that died holding it died between two requests' steps; each step is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a request out; what the driver is told.
    pub fn request(&self, request: &Request, buffer: &mut [u8]) -> i32 {
        let (delay, kind) = {
            let mut state = self.state();
            if state.off {
                return -EIO;
            }
            state.faults.meet(request)
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

    /// Cuts the power: what was not durable is resolved, everything fails until
    /// [`power_on`](Self::power_on). The recording ends here.
    ///
    /// # Errors
    /// The image's, and if the power is off already.
    pub fn crash(&self, keep: Keep) -> Result<Cut, String> {
        let mut state = self.state();
        if state.off {
            return Err("the power is off already: `vexfs-ublk recover` turns it on".into());
        }
        state.cut(keep).map_err(|e| format!("the image: {e}"))
    }

    /// Turns the power on again; false if it was on. Faults are gone.
    pub fn power_on(&self) -> bool {
        let mut state = self.state();
        state.faults.clear(None);
        std::mem::take(&mut state.off)
    }

    /// Sets a fault and returns its number.
    pub fn set(&self, fault: Fault) -> u32 {
        self.state().faults.add(fault)
    }

    /// Clears a fault, or all; how many there were.
    pub fn clear(&self, number: Option<u32>) -> usize {
        self.state().faults.clear(number)
    }

    /// All faults.
    pub fn faults(&self) -> Vec<FaultState> {
        self.state().faults.list()
    }

    /// Puts a remark into the recording; false if there is none.
    pub fn mark(&self, text: &str) -> bool {
        let mut state = self.state();
        let recording = state.recorder.is_some();
        state.record(&Event::Mark(text.to_owned()));
        recording
    }

    /// The device is taken down in good order: what is cached goes to the image.
    pub fn finish(&self) {
        let mut state = self.state();
        if !state.off
            && let Err(e) = state.cache.flush()
        {
            log_line!("the cache could not be written to the image: {e}");
        }
        if let Some(recorder) = state.recorder.take()
            && let Err(e) = recorder.finish()
        {
            log_line!("the end of the recording is lost: {e}");
        }
    }
}

impl State {
    fn record(&mut self, event: &Event) {
        if let Some(recorder) = &mut self.recorder
            && let Err(e) = recorder.event(event)
        {
            log_line!("the recording ends here: {e}");
            self.recorder = None;
        }
    }

    fn cut(&mut self, keep: Keep) -> io::Result<Cut> {
        self.off = true;
        if let Some(recorder) = self.recorder.take()
            && let Err(e) = recorder.finish()
        {
            log_line!("the end of the recording is lost: {e}");
        }
        self.cache.cut(keep)
    }

    fn carry_out(
        &mut self,
        request: &Request,
        buffer: &mut [u8],
        kind: Option<(FaultKind, u64)>,
    ) -> Result<(), i32> {
        let errno = |e: io::Error| e.raw_os_error().unwrap_or(EIO);
        let Request { op, mut offset, len } = *request;
        let mut altered = None;
        match kind {
            Some((FaultKind::Eio { errno }, _)) => return Err(errno),
            Some((FaultKind::Die, _)) => {
                log_line!("the device died, as a fault asked for");
                self.cut(Keep::None).map_err(errno)?;
                return Err(EIO);
            }
            Some((FaultKind::Lost, _)) if op.changes() => return Ok(()),
            Some((FaultKind::IgnoreFlush, _)) if op == Op::Flush => return Ok(()),
            Some((FaultKind::Misdirect { to }, _)) if matches!(op, Op::Write { .. }) => {
                offset = to.min(self.cache.bytes().saturating_sub(len)) / 512 * 512;
            }
            Some((FaultKind::Stale, _)) if op == Op::Read => {
                return self.cache.read(offset, buffer, true).map_err(errno);
            }
            Some((FaultKind::Flip, chance)) => altered = Some(chance),
            _ => {}
        }
        let id = self.requests;
        let fua = match op {
            Op::Write { fua } | Op::WriteZeroes { fua, .. } => fua,
            _ => false,
        };
        match op {
            Op::Read => {
                self.cache.read(offset, buffer, false).map_err(errno)?;
                if let Some(chance) = altered {
                    flip(buffer, chance);
                }
                return Ok(());
            }
            // A hint that this device does not take.
            Op::Discard => return Ok(()),
            Op::Write { .. } => {
                if let Some(chance) = altered {
                    flip(buffer, chance);
                }
                if self.recorder.is_some() {
                    let request = Recorded::Write { at: offset, data: (&*buffer).into(), fua };
                    self.record(&Event::Submit { id, request });
                }
                self.cache.write(offset, buffer, fua).map_err(errno)?;
            }
            Op::WriteZeroes { .. } => {
                let request = Recorded::Zeroes { at: offset, len, fua };
                self.record(&Event::Submit { id, request });
                self.cache.zero(offset, len, fua).map_err(errno)?;
            }
            Op::Flush => {
                self.record(&Event::Submit { id, request: Recorded::Flush });
                self.cache.flush().map_err(errno)?;
            }
        }
        self.requests += 1;
        self.record(&Event::Complete { id, ok: true });
        Ok(())
    }
}

/// Inverts one bit.
fn flip(buffer: &mut [u8], chance: u64) {
    let bit = chance % (buffer.len() as u64 * 8).max(1);
    if let Some(byte) = buffer.get_mut((bit / 8) as usize) {
        *byte ^= 1 << (bit % 8);
    }
}

/// A fault's delay.
const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[cfg(test)]
mod tests;
