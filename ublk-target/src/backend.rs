// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Between a queue and the image: how one request becomes operations on the image.
//!
//! A backend decides and a queue executes: for each request the queue calls [`Backend::begin`], carries
//! out the image operation that it returns, calls [`Backend::advance`] with the result, and so on until
//! that returns [`Step::Done`]. [`Passthrough`] does no I/O itself and never waits, so the same code
//! runs on a ring and, in tests, on plain system calls. The crash lab takes its place under a device
//! that holds writes back.

use crate::request::{Op, Request};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// One operation on the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageOp {
    /// Image to the request's buffer, `at` bytes into it.
    Read {
        /// First byte of the image.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Where in the buffer.
        at: u32,
    },
    /// The request's buffer to the image.
    Write {
        /// First byte of the image.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Where in the buffer.
        at: u32,
        /// Durable when it completes.
        durable: bool,
    },
    /// Zeroes to the image, at most [`ZEROES_MAX`] bytes.
    Zeroes {
        /// First byte of the image.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Makes completed writes durable.
    Datasync,
    /// Gives the range back; it reads as zeroes.
    Punch {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Zeroes the range and keeps it allocated.
    ZeroRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Nothing of the image: waits until the descriptor, which stays open until then, can be read.
    Await {
        /// The descriptor.
        fd: RawFd,
    },
}

/// What to do next for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Carry this out, then call [`Backend::advance`].
    Image(ImageOp),
    /// The request is finished: its result for the driver, a byte count or a negative errno.
    Done(i32),
}

/// Turns requests into operations on the image. One per queue.
pub trait Backend: Send {
    /// A request arrived. `buffer` holds its data and has its length; it is empty if there is no data.
    fn begin(&mut self, tag: u16, request: &Request, buffer: &mut [u8]) -> Step;
    /// The image operation ended with a byte count or a negative errno.
    fn advance(&mut self, tag: u16, result: i32, buffer: &mut [u8]) -> Step;
}

/// Most bytes of one [`ImageOp::Zeroes`].
pub const ZEROES_MAX: u32 = 128 << 10;

const EIO: i32 = -libc::EIO;

/// Whether a flush of the image has ever failed.
///
/// The system reports a failed `fdatasync` once, and may have dropped any of the data. A later success
/// says nothing about it: from the first failure on every flush fails, until the image is opened again.
/// If several queues flush at the same time, one that succeeded before the failure was reported has
/// succeeded.
#[derive(Debug, Default)]
pub struct Durability(AtomicI32);

impl Durability {
    /// Records the negative errno of an operation that should have made writes durable.
    fn record_failure(&self, result: i32) {
        let _ = self.0.compare_exchange(0, result, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The first failure, as a negative errno.
    fn failure(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Acquire)).filter(|result| *result != 0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Transfer,
    Flush,
    Punch,
    ZeroRange,
    WriteZeroes,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    request: Option<Request>,
    stage: Stage,
    done: u64,
}

/// Passes requests on to the image.
pub struct Passthrough {
    slots: Box<[Slot]>,
    align: u64,
    punch: bool,
    zero_range: bool,
    durability: Arc<Durability>,
}

impl Passthrough {
    /// A backend for `depth` requests at once. `align`: a short transfer is continued at a multiple of
    /// it. `punch`: whether the image can give blocks back. `durability`: the image's.
    #[must_use]
    pub fn new(depth: u16, align: u64, punch: bool, durability: Arc<Durability>) -> Self {
        let slots = vec![Slot::default(); usize::from(depth)].into();
        Self { slots, align, punch, zero_range: true, durability }
    }

    fn enter(&mut self, tag: u16, stage: Stage) -> Step {
        let (zero_range, align) = (self.zero_range, self.align);
        let Some(slot) = self.slots.get_mut(usize::from(tag)) else { return Step::Done(EIO) };
        let Some(request) = slot.request else { return Step::Done(EIO) };
        let stage = match stage {
            Stage::ZeroRange if !zero_range => Stage::WriteZeroes,
            other => other,
        };
        slot.stage = stage;
        let offset = request.offset + slot.done;
        let left = request.len - slot.done;
        let at = slot.done as u32;
        Step::Image(match (stage, request.op) {
            (Stage::Transfer, Op::Read) => ImageOp::Read { offset, len: left as u32, at },
            (Stage::Transfer, Op::Write { fua }) => {
                ImageOp::Write { offset, len: left as u32, at, durable: fua }
            }
            (Stage::Flush, _) => ImageOp::Datasync,
            (Stage::Punch, _) => ImageOp::Punch { offset, len: left },
            (Stage::ZeroRange, _) => ImageOp::ZeroRange { offset, len: left },
            (Stage::WriteZeroes, _) => {
                debug_assert!(u64::from(ZEROES_MAX).is_multiple_of(align));
                ImageOp::Zeroes { offset, len: left.min(u64::from(ZEROES_MAX)) as u32 }
            }
            (Stage::Idle | Stage::Transfer, _) => return Step::Done(EIO),
        })
    }

    fn finish(&mut self, tag: u16, result: i32) -> Step {
        if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
            *slot = Slot::default();
        }
        Step::Done(result)
    }

    /// A range was zeroed; with FUA it must become durable, too.
    fn zeroed(&mut self, tag: u16, request: &Request) -> Step {
        match request.op {
            Op::WriteZeroes { fua: true, .. } => self.enter(tag, Stage::Flush),
            _ => self.finish(tag, 0),
        }
    }

    /// Data was made durable. That can be promised only if no flush failed before.
    fn made_durable(&mut self, tag: u16, result: i32) -> Step {
        let result = self.durability.failure().unwrap_or(result);
        self.finish(tag, result)
    }

    /// An operation failed. If it should have made data durable, that data may be lost; but a durable write
    /// without room was not written at all, and earlier writes are as safe as before.
    fn failed(&mut self, tag: u16, request: &Request, stage: Stage, result: i32) -> Step {
        let no_room = matches!(-result, libc::ENOSPC | libc::EDQUOT);
        let durable = stage == Stage::Transfer && request.op == Op::Write { fua: true };
        if stage == Stage::Flush || (durable && !no_room) {
            self.durability.record_failure(result);
        }
        self.finish(tag, result)
    }

    /// Counts the bytes that a transfer moved; true if nothing is left to move.
    fn moved(&mut self, tag: u16, result: i32) -> Result<bool, i32> {
        let align = self.align;
        let slot = self.slots.get_mut(usize::from(tag)).ok_or(EIO)?;
        let len = slot.request.map_or(0, |r| r.len);
        let reached = slot.done + u64::from(result.unsigned_abs());
        if reached >= len {
            return Ok(true);
        }
        // The next transfer must be aligned, even if that moves some bytes twice.
        let kept = reached - reached % align;
        // No progress: past the end of the image, or the medium takes nothing.
        if kept <= slot.done {
            return Err(EIO);
        }
        slot.done = kept;
        Ok(false)
    }
}

impl Backend for Passthrough {
    fn begin(&mut self, tag: u16, request: &Request, _buffer: &mut [u8]) -> Step {
        let Some(slot) = self.slots.get_mut(usize::from(tag)) else { return Step::Done(EIO) };
        *slot = Slot { request: Some(*request), stage: Stage::Idle, done: 0 };
        match request.op {
            Op::Read | Op::Write { .. } => self.enter(tag, Stage::Transfer),
            Op::Flush => self.enter(tag, Stage::Flush),
            // A discard is a hint, so it is no error if the image cannot follow it.
            Op::Discard if !self.punch => self.finish(tag, 0),
            Op::Discard => self.enter(tag, Stage::Punch),
            Op::WriteZeroes { keep_allocated: false, .. } if self.punch => {
                self.enter(tag, Stage::Punch)
            }
            Op::WriteZeroes { .. } => self.enter(tag, Stage::ZeroRange),
        }
    }

    fn advance(&mut self, tag: u16, result: i32, _buffer: &mut [u8]) -> Step {
        let Some(&Slot { request: Some(request), stage, .. }) = self.slots.get(usize::from(tag))
        else {
            return Step::Done(EIO);
        };
        if result == -libc::EINTR {
            return self.enter(tag, stage);
        }
        let unsupported = result == -libc::EOPNOTSUPP;
        match stage {
            Stage::Punch if unsupported && request.op == Op::Discard => {
                self.punch = false;
                self.finish(tag, 0)
            }
            Stage::Punch if unsupported => {
                self.punch = false;
                self.enter(tag, Stage::ZeroRange)
            }
            Stage::ZeroRange if unsupported => {
                self.zero_range = false;
                self.enter(tag, Stage::WriteZeroes)
            }
            _ if result < 0 => self.failed(tag, &request, stage, result),
            Stage::Transfer => match self.moved(tag, result) {
                Ok(true) if request.op == Op::Write { fua: true } => {
                    self.made_durable(tag, request.len as i32)
                }
                Ok(true) => self.finish(tag, request.len as i32),
                Ok(false) => self.enter(tag, Stage::Transfer),
                Err(errno) => self.finish(tag, errno),
            },
            Stage::WriteZeroes => match self.moved(tag, result) {
                Ok(true) => self.zeroed(tag, &request),
                Ok(false) => self.enter(tag, Stage::WriteZeroes),
                Err(errno) => self.finish(tag, errno),
            },
            Stage::Punch | Stage::ZeroRange => self.zeroed(tag, &request),
            Stage::Flush => self.made_durable(tag, 0),
            Stage::Idle => self.finish(tag, EIO),
        }
    }
}

#[cfg(test)]
mod tests;
