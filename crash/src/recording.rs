// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a device was asked to do, in order: the contents it began with, and every request since.
//!
//! Invariant: the events say all that decides what a power cut may leave. A request is submitted
//! once and completed at most once; what was submitted and not completed was under way at the end.
//! It says nothing of what the requests were for: that is the marks' and the explorer's business.

mod file;

pub use file::{FileError, Writer};

use crate::device::{CacheDevice, Keep};
use crate::image::Image;
use std::sync::Arc;
use vexfs::Device;

/// What a request asks for. Reads change nothing and are not recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bytes, whole sectors, for byte `at`.
    Write {
        /// First byte, a multiple of 512.
        at: u64,
        /// What is written, a multiple of 512 bytes.
        data: Arc<[u8]>,
        /// Durable when it completes.
        fua: bool,
    },
    /// Zeroes for `len` bytes from `at` on (write zeroes; a discard, which reads as zeroes here).
    Zeroes {
        /// First byte, a multiple of 512.
        at: u64,
        /// Bytes, a multiple of 512.
        len: u64,
        /// Durable when it completes.
        fua: bool,
    },
    /// Makes durable what completed before this was submitted.
    Flush,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request arrived; `id` is its number, counted from 0.
    Submit {
        /// Its number.
        id: u64,
        /// What it asks for.
        request: Request,
    },
    /// A request was answered.
    Complete {
        /// Its number.
        id: u64,
        /// The answer was no error.
        ok: bool,
    },
    /// Somebody's remark.
    Mark(String),
}

/// A recording.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The device's contents when it began, all of it durable.
    pub base: Image,
    /// What happened since.
    pub events: Vec<Event>,
}

impl Recording {
    /// An empty recording on `base`.
    #[must_use]
    pub const fn new(base: Image) -> Self {
        Self { base, events: Vec::new() }
    }

    /// The device's contents after so many events, if power went then: `keep` decides what is left
    /// of what was not durable. Requests count from the moment they arrived.
    #[must_use]
    pub fn image_at(&self, events: usize, keep: Keep) -> Image {
        let device = CacheDevice::new(self.base.clone());
        for event in self.events.iter().take(events) {
            // A request that failed or reached past the end changed nothing that is known.
            let Event::Submit { request, .. } = event else { continue };
            let _ = match request {
                Request::Write { at, data, fua: false } => device.write(*at, data),
                Request::Write { at, data, fua: true } => device.write_fua(*at, data),
                Request::Zeroes { at, len, fua } => {
                    let len = (*len).min(self.base.len_bytes().saturating_sub(*at));
                    let zeroes = vec![0; len as usize];
                    if *fua { device.write_fua(*at, &zeroes) } else { device.write(*at, &zeroes) }
                }
                Request::Flush => device.flush(),
            };
        }
        device.cut(keep)
    }

    /// Events before the first mark with that text.
    #[must_use]
    pub fn mark(&self, text: &str) -> Option<usize> {
        self.events.iter().position(|event| matches!(event, Event::Mark(mark) if mark == text))
    }
}
