// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Faults that are set while a device runs: for which requests, how often, and what happens then.

use super::millis;
use crate::request::{Op, Request};
use bincode::{Decode, Encode};
use std::time::Duration;
use vexfs_crash::Rng;

/// Which requests a fault is for.
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

/// What happens to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FaultKind {
    /// It fails with this errno and does nothing.
    Eio {
        /// The errno.
        errno: i32,
    },
    /// A write claims to have been done.
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
    /// A flush claims to have been done.
    IgnoreFlush,
    /// It takes longer.
    Latency {
        /// Milliseconds.
        ms: u64,
    },
    /// The device dies: as a cut that keeps nothing.
    Die,
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// To which requests.
    pub on: On,
    /// First byte of the range it is for.
    pub from: u64,
    /// The byte after it.
    pub to: u64,
    /// Requests that pass first.
    pub skip: u64,
    /// Requests it hits; [`None`] for all.
    pub times: Option<u64>,
    /// The part of the requests it hits, from 0 to 1.
    pub rate: f64,
    /// Decides which, and which bit.
    pub seed: u64,
}

/// A fault and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct FaultState {
    /// Its number.
    pub number: u32,
    /// The fault.
    pub fault: Fault,
    /// Requests it was for.
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

    /// How long a request is held up, and what else happens to it: the kind and a number by chance.
    pub(super) fn meet(&mut self, request: &Request) -> (Duration, Option<(FaultKind, u64)>) {
        let mut delay = Duration::ZERO;
        let mut kind = None;
        for (state, rng) in &mut self.list {
            let fault = &state.fault;
            let concerned = match fault.on {
                On::Any => true,
                On::Read => request.op == Op::Read,
                On::Write => request.op.changes(),
                On::Flush => request.op == Op::Flush,
            };
            let end = request.offset.saturating_add(request.len);
            let ranged = request.op == Op::Flush || (request.offset < fault.to && end > fault.from);
            if !concerned || !ranged || fault.times.is_some_and(|times| state.hit >= times) {
                continue;
            }
            state.met += 1;
            let chance = rng.next();
            let drawn = (chance >> 11) as f64 / (1u64 << 53) as f64;
            if state.met <= fault.skip || drawn >= fault.rate {
                continue;
            }
            state.hit += 1;
            match fault.kind {
                FaultKind::Latency { ms } => delay += millis(ms),
                other => kind = kind.or(Some((other, rng.next()))),
            }
        }
        (delay, kind)
    }
}
