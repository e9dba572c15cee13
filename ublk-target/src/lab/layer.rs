// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The lab in place of the plain image: it carries out every request itself, at once, and submits
//! nothing to the ring. That blocks the queue, which an experiment can afford.

use super::Lab;
use crate::backend::{Backend, Step};
use crate::request::Request;
use std::sync::Arc;

/// Hands one queue's requests to the lab.
pub struct LabLayer(pub Arc<Lab>);

impl Backend for LabLayer {
    fn begin(&mut self, _tag: u16, request: &Request, buffer: &mut [u8]) -> Step {
        Step::Done(self.0.request(request, buffer))
    }

    fn advance(&mut self, _tag: u16, _result: i32, _buffer: &mut [u8]) -> Step {
        // Nothing was submitted to the ring, so nothing completes.
        Step::Done(-libc::EIO)
    }
}
