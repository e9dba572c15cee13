// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a device was asked to do, in order: the contents it began with, and every request since.
//!
//! Invariant: the events say all that decides what a power cut may leave. A request is submitted
//! once and completed at most once; one that was not completed was still under way at the end.
//! What the requests were for is not in it, except for marks that somebody set.

mod file;

pub use file::{FileError, Writer};

use crate::cache::{Keep, VolatileCache};
use crate::image::Image;
use std::sync::Arc;

/// What a request asks for. Reads change nothing and are not recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To write whole sectors at byte `at`.
    Write {
        /// First byte, a multiple of 512.
        at: u64,
        /// What is written, a multiple of 512 bytes.
        data: Arc<[u8]>,
        /// Durable when it completes.
        fua: bool,
    },
    /// To zero `len` bytes from byte `at` on.
    Zeroes {
        /// First byte, a multiple of 512.
        at: u64,
        /// Bytes, a multiple of 512.
        len: u64,
        /// Durable when it completes.
        fua: bool,
    },
    /// To make durable what completed before this was submitted.
    Flush,
}

/// One event of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request arrived.
    Submit {
        /// Its number, unlike that of any other request.
        id: u64,
        /// What it asks for.
        request: Request,
    },
    /// A request was answered.
    Complete {
        /// Its number.
        id: u64,
        /// Whether it succeeded.
        ok: bool,
    },
    /// A mark with a text, to find this place again.
    Mark(String),
}

/// The recording.
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

    /// What a cut after that many events leaves of the device; `keep` decides over what was not
    /// durable. A request counts from the moment it was submitted.
    #[must_use]
    pub fn image_at(&self, events: usize, keep: Keep) -> Image {
        let mut cache = VolatileCache::new(self.base.clone(), u64::MAX);
        for event in self.events.iter().take(events) {
            if let Event::Submit { request, .. } = event {
                self.carry_out(&mut cache, request);
            }
        }
        let Ok(image) = cache.after_cut(keep);
        image
    }

    /// Carries out a request; one that reaches past the end of the device changes nothing.
    fn carry_out(&self, cache: &mut VolatileCache<Image>, request: &Request) {
        let (at, data, fua) = match request {
            Request::Write { at, data, fua } => (*at, data.clone(), *fua),
            Request::Zeroes { at, len, fua } => {
                let len = (*len).min(self.base.len_bytes().saturating_sub(*at));
                (*at, vec![0; len as usize].into(), *fua)
            }
            Request::Flush => {
                let Ok(()) = cache.flush();
                return;
            }
        };
        if cache.accepts(at, data.len()) {
            let Ok(()) = if fua { cache.write_fua(at, &data) } else { cache.write(at, &data) };
        }
    }

    /// How many events there are before the first mark with that text.
    #[must_use]
    pub fn mark(&self, text: &str) -> Option<usize> {
        self.events.iter().position(|event| matches!(event, Event::Mark(mark) if mark == text))
    }
}
