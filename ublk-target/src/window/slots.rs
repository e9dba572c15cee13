// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the command window holds at any moment: its header, echoes, and slots with requests and answers.
//!
//! Invariant: whatever is written and read, in whatever pieces and order, memory is bounded by the window's length,
//! and a request is only worked on if it is whole. A slot whose caller does not come back is emptied.
//!
//! Nothing here waits, and the time is given. The messages are those of [`vexfs_format::window`].

use std::time::{Duration, Instant};
use vexfs_format::window::{
    BAD, BYTES, ECHO_END, EMPTY, Echo, Header, PAGE_BYTES, PAGES_AT, PENDING, REQUEST_MAGIC,
    Request, SLOT_BYTES, SLOTS, status,
};
use zerocopy::IntoBytes;

/// A caller that does not ask for its answer for so long has gone.
pub const LEASE: Duration = Duration::from_secs(5);

/// What is to be done with a request: its slot, which of the slot's requests it is, and its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Job {
    /// The slot.
    pub slot: usize,
    /// Counts the requests of the slot.
    pub number: u64,
    /// The request, whole.
    pub request: Vec<u8>,
}

/// What a read finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The buffer is filled.
    Filled,
    /// The answer to the slot's request is not there yet. A job has to be begun, if there is one.
    Pending(usize, Option<Job>),
}

#[derive(Debug)]
enum Slot {
    Empty,
    /// A request is being written; it is worked on once somebody asks for the answer.
    Written(Vec<u8>),
    Running {
        token: u64,
        asked: Instant,
    },
    Answered {
        bytes: Vec<u8>,
        asked: Instant,
    },
}

/// The window's contents.
#[derive(Debug)]
pub struct Slots {
    session: u64,
    uuid: [u8; 16],
    /// The page of the last echo, and how many there were.
    echo: (u32, u64),
    /// Each with the number of its requests so far.
    all: [(Slot, u64); SLOTS],
}

/// The slot and the byte in it at an offset in the window.
fn place(offset: u64) -> Option<(usize, usize)> {
    let slot = usize::try_from(offset / SLOT_BYTES as u64).ok().filter(|slot| *slot < SLOTS)?;
    Some((slot, (offset % SLOT_BYTES as u64) as usize))
}

/// Fills the buffer with what lies at `at` in `bytes`, and zeroes behind them.
fn fill(buffer: &mut [u8], bytes: &[u8], at: usize) {
    buffer.fill(0);
    let from = bytes.get(at..).unwrap_or_default();
    let len = from.len().min(buffer.len());
    if let (Some(to), Some(from)) = (buffer.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
}

impl Slots {
    /// An empty window. `session` is not zero.
    #[must_use]
    pub fn new(session: u64, uuid: [u8; 16]) -> Self {
        Self { session, uuid, echo: (0, 0), all: std::array::from_fn(|_| (Slot::Empty, 0)) }
    }

    /// The session's number.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Sets the UUID of the filesystem on the image; zeroes if there is none.
    pub fn set_uuid(&mut self, uuid: [u8; 16]) {
        self.uuid = uuid;
    }

    /// Takes a part of a request; false if it is none. The parts behind the first come in any order.
    #[must_use]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        let Some((slot, at)) = place(offset) else { return false };
        let end = at + data.len();
        let Some((slot, number)) = self.all.get_mut(slot).filter(|_| end <= SLOT_BYTES) else {
            return false;
        };
        if at == 0 {
            if !data.starts_with(&REQUEST_MAGIC) {
                return false;
            }
            *slot = Slot::Written(Vec::new());
            *number += 1;
        }
        let Slot::Written(bytes) = slot else { return false };
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(to) = bytes.get_mut(at..end) {
            to.copy_from_slice(data);
        }
        true
    }

    /// Answers a read. Only one that begins at a slot and lies in it asks for an answer, and only one of exactly one
    /// page counts as an echo; anything else just sees what is there.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8], now: Instant) -> Found {
        if let Some((slot, 0)) = place(offset)
            && buffer.len() <= SLOT_BYTES
        {
            return self.ask(slot, buffer, now);
        }
        let page = offset.saturating_sub(PAGES_AT) / PAGE_BYTES as u64;
        let whole = offset.is_multiple_of(PAGE_BYTES as u64) && buffer.len() == PAGE_BYTES;
        if whole && (1..u64::from(ECHO_END)).contains(&page) {
            fill(buffer, self.echo(page as u32).as_bytes(), 0);
            self.echo = (page as u32, self.echo.1 + 1);
            return Found::Filled;
        }
        self.look(offset, buffer);
        Found::Filled
    }

    fn echo(&self, page: u32) -> Echo {
        Echo::new(page, self.echo.0, self.echo.1, self.session)
    }

    fn ask(&mut self, index: usize, buffer: &mut [u8], now: Instant) -> Found {
        let session = self.session;
        let Some((slot, number)) = self.all.get_mut(index) else { return Found::Filled };
        match slot {
            Slot::Empty => fill(buffer, status(EMPTY, 0, session).as_bytes(), 0),
            Slot::Written(bytes) => {
                let request = std::mem::take(bytes);
                let head = Request::parse(&request).map(|request| request.head);
                let Some(head) = head.filter(|head| head.session.get() == session) else {
                    // Of another session: the daemon that began with it is gone.
                    let found = if head.is_some() { EMPTY } else { BAD };
                    let token = head.map_or(0, |head| head.token.get());
                    let said = status(found, token, session).as_bytes().to_vec();
                    fill(buffer, &said, 0);
                    *slot = Slot::Answered { bytes: said, asked: now };
                    return Found::Filled;
                };
                *slot = Slot::Running { token: head.token.get(), asked: now };
                return Found::Pending(index, Some(Job { slot: index, number: *number, request }));
            }
            Slot::Running { asked, .. } => {
                *asked = now;
                return Found::Pending(index, None);
            }
            Slot::Answered { bytes, asked } => {
                *asked = now;
                fill(buffer, bytes, 0);
            }
        }
        Found::Filled
    }

    /// Fills the buffer with what the window holds there, without asking for anything.
    pub fn look(&self, mut offset: u64, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let (at, end, bytes) = match place(offset) {
                Some((slot, at)) => (at, SLOT_BYTES, self.said(slot)),
                None if offset < BYTES => {
                    let page = ((offset - PAGES_AT) / PAGE_BYTES as u64) as u32;
                    let bytes = if page == 0 {
                        Header::new(self.uuid, self.session).as_bytes().to_vec()
                    } else {
                        self.echo(page).as_bytes().to_vec()
                    };
                    (offset as usize % PAGE_BYTES, PAGE_BYTES, bytes)
                }
                None => return buffer.fill(0),
            };
            let len = buffer.len().min(end - at);
            let (part, rest) = buffer.split_at_mut(len);
            fill(part, &bytes, at);
            offset += len as u64;
            buffer = rest;
        }
    }

    /// What a slot says now.
    fn said(&self, slot: usize) -> Vec<u8> {
        let head = match self.all.get(slot) {
            Some((Slot::Answered { bytes, .. }, _)) => return bytes.clone(),
            Some((Slot::Running { token, .. }, _)) => status(PENDING, *token, self.session),
            _ => status(EMPTY, 0, self.session),
        };
        head.as_bytes().to_vec()
    }

    /// Ends a read that waited: with the answer, or that it is not there yet.
    pub fn answer(&self, slot: usize, buffer: &mut [u8]) {
        fill(buffer, &self.said(slot), 0);
    }

    /// Whether a job's request is still wanted.
    #[must_use]
    pub fn wanted(&self, slot: usize, number: u64) -> bool {
        matches!(self.all.get(slot), Some((Slot::Running { .. }, n)) if *n == number)
    }

    /// Puts the answer to a request into its slot; false if nobody wants it any more.
    pub fn put(&mut self, slot: usize, number: u64, bytes: Vec<u8>, now: Instant) -> bool {
        if !self.wanted(slot, number) {
            return false;
        }
        if let Some((slot, _)) = self.all.get_mut(slot) {
            *slot = Slot::Answered { bytes, asked: now };
        }
        true
    }

    /// Empties slots whose callers have gone.
    pub fn expire(&mut self, now: Instant) {
        for (slot, _) in &mut self.all {
            if let Slot::Running { asked, .. } | Slot::Answered { asked, .. } = slot
                && now.saturating_duration_since(*asked) >= LEASE
            {
                *slot = Slot::Empty;
            }
        }
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
