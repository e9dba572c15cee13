// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Between a queue and what serves the filesystem: requests past its end go to the command window.
//!
//! Invariant: what is below sees only requests within the filesystem. A request over its end, as a program makes one
//! that reads the whole device, is cut in two: the window's part of it never waits, and asks for nothing. A write that
//! is no part of a request fails, whatever filesystem wants to store it there.

use super::{Held, Read, Window};
use crate::backend::{Backend, ImageOp, Step};
use crate::lab::Lab;
use crate::request::{Op, Request};
use std::sync::Arc;

/// A queue's view of the window, in front of `below`.
pub struct WindowLayer {
    below: Box<dyn Backend>,
    window: Arc<Window>,
    /// Length of the filesystem.
    end: u64,
    /// Its power may be off, and then nobody answers.
    lab: Option<Arc<Lab>>,
    tags: Box<[Tag]>,
}

#[derive(Default)]
enum Tag {
    /// Within the filesystem.
    #[default]
    Below,
    /// Over its end.
    Both(Request),
    Held(Held, i32),
}

impl WindowLayer {
    /// A layer for `depth` requests at once, in front of a filesystem of `end` bytes.
    #[must_use]
    pub fn new(
        below: Box<dyn Backend>,
        window: Arc<Window>,
        end: u64,
        depth: u16,
        lab: Option<Arc<Lab>>,
    ) -> Self {
        let tags = (0..depth).map(|_| Tag::default()).collect();
        Self { below, window, end, lab, tags }
    }

    /// A request that is the window's alone.
    fn windowed(&mut self, tag: u16, request: &Request, buffer: &mut [u8]) -> Step {
        if self.lab.as_ref().is_some_and(|lab| lab.is_off()) {
            return Step::Done(-libc::EIO);
        }
        let at = request.offset - self.end;
        let len = request.len as i32;
        match request.op {
            Op::Read => match self.window.read(at, buffer) {
                Read::Filled => Step::Done(len),
                Read::Held(held) => {
                    let fd = held.fd();
                    let Some(place) = self.tags.get_mut(usize::from(tag)) else {
                        self.window.answer(&held, buffer);
                        return Step::Done(len);
                    };
                    *place = Tag::Held(held, len);
                    Step::Image(ImageOp::Await { fd })
                }
            },
            Op::Write { .. } if self.window.write(at, buffer) => Step::Done(len),
            Op::Write { .. } => Step::Done(-libc::EIO),
            // There is nothing to give back and nothing to zero.
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => Step::Done(0),
        }
    }

    /// The part of a buffer that the filesystem has.
    fn part<'a>(&self, request: &Request, buffer: &'a mut [u8]) -> &'a mut [u8] {
        let len = (self.end - request.offset) as usize;
        if buffer.is_empty() { buffer } else { buffer.get_mut(..len).unwrap_or_default() }
    }

    /// Ends a request over the filesystem's end when its part of the filesystem is done.
    fn both(&self, request: &Request, step: Step, buffer: &mut [u8]) -> Step {
        match step {
            Step::Done(result) if result >= 0 => {
                let len = (self.end - request.offset) as usize;
                let rest = buffer.get_mut(len..).unwrap_or_default();
                match request.op {
                    Op::Read => self.window.look(0, rest),
                    Op::Write { .. } => return Step::Done(-libc::EIO),
                    _ => return Step::Done(0),
                }
                Step::Done(request.len as i32)
            }
            other => other,
        }
    }
}

impl Backend for WindowLayer {
    fn begin(&mut self, tag: u16, request: &Request, buffer: &mut [u8]) -> Step {
        let past = request.offset.saturating_add(request.len) > self.end;
        if !past || request.op == Op::Flush {
            if let Some(place) = self.tags.get_mut(usize::from(tag)) {
                *place = Tag::Below;
            }
            return self.below.begin(tag, request, buffer);
        }
        if request.offset >= self.end {
            return self.windowed(tag, request, buffer);
        }
        if let Some(place) = self.tags.get_mut(usize::from(tag)) {
            *place = Tag::Both(*request);
        }
        let inside = Request { len: self.end - request.offset, ..*request };
        let own = self.part(request, buffer);
        let step = self.below.begin(tag, &inside, own);
        self.both(request, step, buffer)
    }

    fn advance(&mut self, tag: u16, result: i32, buffer: &mut [u8]) -> Step {
        match self.tags.get_mut(usize::from(tag)).map(std::mem::take) {
            Some(Tag::Held(held, len)) => {
                // Whatever became of the waiting: there is an answer, or there is none yet.
                self.window.answer(&held, buffer);
                Step::Done(len)
            }
            Some(Tag::Both(request)) => {
                let own = self.part(&request, buffer);
                let step = self.below.advance(tag, result, own);
                if let Some(place) = self.tags.get_mut(usize::from(tag)) {
                    *place = Tag::Both(request);
                }
                self.both(&request, step, buffer)
            }
            _ => self.below.advance(tag, result, buffer),
        }
    }
}
