// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Faults that are set while a device runs: which requests they hit, how often, and what they do.
//!
//! Chance is decided by each fault's own seed, so the same requests meet the same faults.

use crate::request::{Op, Request};
use bincode::{Decode, Encode};
use std::time::Duration;
use vexfs_crash::Rng;

/// Which kind of request a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, clap::ValueEnum)]
pub enum On {
    /// Reads.
    Read,
    /// Writes, zeroing and discards.
    Write,
    /// Flushes.
    Flush,
    /// Everything.
    Any,
}

/// What a fault does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FaultKind {
    /// It fails with this errno and does nothing.
    Eio {
        /// The errno.
        errno: i32,
    },
    /// A write reports success and does nothing.
    Lost,
    /// A write goes to this byte instead.
    Misdirect {
        /// The byte.
        to: u64,
    },
    /// A read returns what was there before the newest write, if that is not durable yet.
    Stale,
    /// One bit is inverted, of what a read returns or of what a write stores.
    Flip,
    /// A flush reports success and does nothing.
    IgnoreFlush,
    /// It takes longer.
    Latency {
        /// Milliseconds.
        ms: u64,
    },
    /// The device dies, as at a cut that keeps nothing.
    Die,
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// To which kind of request.
    pub on: On,
    /// First byte of the range it is for.
    pub from: u64,
    /// The byte after the range.
    pub to: u64,
    /// How many such requests pass unharmed first.
    pub skip: u64,
    /// How many it hits then; [`None`] for all.
    pub times: Option<u64>,
    /// The share of these that it hits, from 0 to 1.
    pub rate: f64,
    /// Decides which ones it hits, and which bit it inverts.
    pub seed: u64,
}

/// A fault and how often it was met.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct FaultState {
    /// Its number.
    pub number: u32,
    /// The fault.
    pub fault: Fault,
    /// Requests of its kind and range.
    pub met: u64,
    /// Requests it hit.
    pub hit: u64,
}

#[derive(Default)]
pub(super) struct Faults {
    list: Vec<(FaultState, Rng)>,
    next: u32,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) -> u32 {
        let number = self.next;
        self.next += 1;
        let state = FaultState { number, fault, met: 0, hit: 0 };
        self.list.push((state, Rng::new(fault.seed)));
        number
    }

    pub(super) fn clear(&mut self, number: Option<u32>) -> usize {
        let before = self.list.len();
        self.list.retain(|(state, _)| number.is_some_and(|number| state.number != number));
        before - self.list.len()
    }

    pub(super) fn list(&self) -> Vec<FaultState> {
        self.list.iter().map(|(state, _)| *state).collect()
    }

    /// How long a request is delayed, and what else happens to it, with a random number for it.
    pub(super) fn inject(&mut self, request: &Request) -> (Duration, Option<(FaultKind, u64)>) {
        let mut delay = Duration::ZERO;
        let mut kind = None;
        for (state, rng) in &mut self.list {
            let fault = &state.fault;
            let of_kind = match fault.on {
                On::Any => true,
                On::Read => request.op == Op::Read,
                On::Write => request.op.changes(),
                On::Flush => request.op == Op::Flush,
            };
            let end = request.offset.saturating_add(request.len);
            let ranged = request.op == Op::Flush || (request.offset < fault.to && end > fault.from);
            if !of_kind || !ranged || fault.times.is_some_and(|times| state.hit >= times) {
                continue;
            }
            state.met += 1;
            let drawn = (rng.next() >> 11) as f64 / (1u64 << 53) as f64;
            if state.met <= fault.skip || drawn >= fault.rate {
                continue;
            }
            state.hit += 1;
            match fault.kind {
                FaultKind::Latency { ms } => delay += Duration::from_millis(ms),
                other => kind = kind.or(Some((other, rng.next()))),
            }
        }
        (delay, kind)
    }
}
