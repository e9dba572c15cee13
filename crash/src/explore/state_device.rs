// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One state as a device: the durable image, over it the versions that were chosen, and over both
//! what the engine writes when it goes on from there. Nothing is copied.
//!
//! It also keeps the trace: which choices were read, in which order. The engine and the judge are
//! deterministic, so a state that agrees with this one on every choice in the trace has the same
//! verdict.

use super::points::Point;
use crate::image::SECTOR;
use std::cell::RefCell;
use std::collections::BTreeMap;
use vexfs::{Device, DeviceError};

const EIO: DeviceError = DeviceError::Io(5);

/// The device of one state of a point.
pub struct StateDevice<'a> {
    point: &'a Point,
    state: &'a [u16],
    trace: RefCell<Trace>,
    written: RefCell<BTreeMap<u64, [u8; SECTOR]>>,
}

#[derive(Default)]
struct Trace {
    order: Vec<u32>,
    met: Vec<bool>,
}

impl<'a> StateDevice<'a> {
    /// A device of the point, with the version of each choice that `state` says.
    #[must_use]
    pub fn new(point: &'a Point, state: &'a [u16]) -> Self {
        let trace = Trace { order: Vec::new(), met: vec![false; state.len()] };
        Self { point, state, trace: RefCell::new(trace), written: RefCell::default() }
    }

    /// The choices that were read, in that order.
    #[must_use]
    pub fn into_trace(self) -> Vec<u32> {
        self.trace.into_inner().order
    }

    fn in_range(&self, at: u64, len: usize) -> bool {
        let sector = SECTOR as u64;
        let end = at.checked_add(len as u64);
        at.is_multiple_of(sector)
            && (len as u64).is_multiple_of(sector)
            && end.is_some_and(|end| end <= self.len_bytes())
    }
}

impl Device for StateDevice<'_> {
    fn len_bytes(&self) -> u64 {
        self.point.medium.len_bytes()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        if !self.in_range(at, buf.len()) || !self.point.medium.get(at, buf) {
            return Err(EIO);
        }
        let (first, end) = (at / SECTOR as u64, at / SECTOR as u64 + (buf.len() / SECTOR) as u64);
        let written = self.written.borrow();
        let choices = &self.point.choices;
        let from = choices.partition_point(|choice| choice.sector < first);
        let mut trace = self.trace.borrow_mut();
        for (place, choice) in choices.iter().enumerate().skip(from) {
            if choice.sector >= end {
                break;
            }
            if written.contains_key(&choice.sector) {
                continue;
            }
            if let Some(met) = trace.met.get_mut(place).filter(|met| !**met) {
                *met = true;
                trace.order.push(place as u32);
            }
            let version = self.state.get(place).copied().unwrap_or(0);
            let Some(version) = usize::from(version).checked_sub(1) else { continue };
            let Some(version) = choice.versions.get(version) else { return Err(EIO) };
            let within = (choice.sector - first) as usize * SECTOR;
            if let Some(to) = buf.get_mut(within..within + SECTOR) {
                to.copy_from_slice(self.point.data(version));
            }
        }
        for (sector, data) in written.range(first..end) {
            let within = (sector - first) as usize * SECTOR;
            if let Some(to) = buf.get_mut(within..within + SECTOR) {
                to.copy_from_slice(data);
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        if !self.in_range(at, data.len()) {
            return Err(EIO);
        }
        let mut written = self.written.borrow_mut();
        for (index, sector) in data.as_chunks::<SECTOR>().0.iter().enumerate() {
            written.insert(at / SECTOR as u64 + index as u64, *sector);
        }
        Ok(())
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write(at, data)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
