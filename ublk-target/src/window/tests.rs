// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The window as a queue uses it: held reads, requests over the filesystem's end, and answers.

use super::*;
use crate::backend::{Backend, ImageOp, Step};
use crate::request::{Op, Request};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::BorrowedFd;
use vexfs_format::window::{
    Answer, EMPTY, FOUND, Header, LIKE, NOTE_PATH, NOTE_REASON, NOTES_CUT, Note, PENDING, REFUSED,
    REQUEST_MAGIC, RequestHead, SLOT_BYTES, seal,
};
use vexfs_search::ask::{Answered, Found, Hit};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

const END: u64 = 1 << 20;

/// What is below the layer: it counts what reaches it, and takes one operation for each request.
#[derive(Default)]
struct Below(Arc<Mutex<Vec<Request>>>);

impl Backend for Below {
    fn begin(&mut self, _tag: u16, request: &Request, buffer: &mut [u8]) -> Step {
        self.0.lock().unwrap().push(*request);
        buffer.fill(b'f');
        Step::Image(ImageOp::Datasync)
    }

    fn advance(&mut self, _tag: u16, result: i32, buffer: &mut [u8]) -> Step {
        Step::Done(if result < 0 { result } else { buffer.len() as i32 })
    }
}

fn layer() -> (WindowLayer, Arc<Window>, Arc<Mutex<Vec<Request>>>) {
    let window = Window::new([4; 16]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let below = Box::new(Below(seen.clone()));
    (WindowLayer::new(below, window.clone(), END, 4, None), window, seen)
}

fn request(session: u64) -> Vec<u8> {
    let mut head = RequestHead::read_from_bytes(&[0; 128]).unwrap();
    head.magic = REQUEST_MAGIC;
    head.total = U32::new(128);
    (head.token, head.session, head.ino) = (U64::new(6), U64::new(session), U64::new(9));
    (head.flags, head.k, head.uid) = (U32::new(LIKE), U32::new(2), U32::new(1000));
    let mut bytes = head.as_bytes().to_vec();
    seal(&mut bytes);
    bytes
}

fn readable(fd: RawFd) -> bool {
    // SAFETY: the window holds the descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).unwrap() == 1
}

#[test]
fn requests_within_the_filesystem_pass_and_those_past_it_do_not() {
    let (mut layer, _, seen) = layer();
    let mut buffer = [0; 4096];
    for (op, past) in [(Op::Read, 4096), (Op::Write { fua: true }, -libc::EIO)] {
        let step = layer.begin(0, &Request { op, offset: END - 4096, len: 4096 }, &mut buffer);
        assert_eq!(step, Step::Image(ImageOp::Datasync));
        assert_eq!(layer.advance(0, 0, &mut buffer), Step::Done(4096));
        let step = layer.begin(0, &Request { op, offset: END + 8192, len: 4096 }, &mut buffer);
        assert_eq!(step, Step::Done(past));
    }
    let flush = Request { op: Op::Flush, offset: 0, len: 0 };
    assert_eq!(layer.begin(0, &flush, &mut []), Step::Image(ImageOp::Datasync));
    for op in [Op::Discard, Op::WriteZeroes { keep_allocated: false, fua: true }] {
        let past = Request { op, offset: END, len: BYTES };
        assert_eq!(layer.begin(0, &past, &mut []), Step::Done(0));
        let over = Request { op, offset: END - 8192, len: 8192 + BYTES };
        assert_eq!(layer.begin(0, &over, &mut []), Step::Image(ImageOp::Datasync));
        assert_eq!(layer.advance(0, 0, &mut []), Step::Done(0));
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|request| request.offset + request.len <= END), "{seen:?}");
}

#[test]
fn a_read_over_the_end_has_both_and_its_error_is_that_of_the_filesystem() {
    let (mut layer, _, _) = layer();
    let mut buffer = [0; 8192];
    let over = Request { op: Op::Read, offset: END - 4096, len: 8192 };
    assert_eq!(layer.begin(1, &over, &mut buffer), Step::Image(ImageOp::Datasync));
    assert_eq!(layer.advance(1, 0, &mut buffer), Step::Done(8192));
    assert!(buffer[..4096].iter().all(|byte| *byte == b'f'));
    assert_eq!(Answer::parse(&buffer[4096..]).unwrap().head.status.get(), EMPTY);
    let write = Request { op: Op::Write { fua: false }, ..over };
    layer.begin(1, &write, &mut buffer);
    assert_eq!(layer.advance(1, 0, &mut buffer), Step::Done(-libc::EIO));
    let header = Request { offset: END + PAGES_AT, len: 4096, ..over };
    assert_eq!(layer.begin(1, &header, &mut buffer[..4096]), Step::Done(4096));
    assert_eq!(Header::parse(&buffer[..4096]).unwrap().uuid, [4; 16]);
    layer.begin(1, &over, &mut buffer);
    assert_eq!(layer.advance(1, -5, &mut buffer), Step::Done(-5));
}

#[test]
fn a_held_read_goes_on_with_the_answer_or_when_its_time_is_up() {
    let (mut layer, window, _) = layer();
    let session = window.state().slots.session();
    let mut buffer = vec![0; 4096];
    let at = END;
    buffer[..128].copy_from_slice(&request(session));
    let write = Request { op: Op::Write { fua: false }, offset: at, len: 4096 };
    assert_eq!(layer.begin(0, &write, &mut buffer), Step::Done(4096));
    let read = Request { op: Op::Read, offset: at, len: 4096 };
    let fd = |step| match step {
        Step::Image(ImageOp::Await { fd }) => fd,
        other => panic!("{other:?}"),
    };
    let held = fd(layer.begin(0, &read, &mut buffer));
    let second = fd(layer.begin(1, &read, &mut buffer));
    assert!(!readable(held));
    // The time passes.
    {
        let mut state = window.state();
        for waiting in &mut state.waiting {
            waiting.until = Instant::now();
        }
    }
    let clock = window.clone();
    let clock = std::thread::spawn(move || clock.keep_time());
    while !readable(held) || !readable(second) {
        std::thread::yield_now();
    }
    assert_eq!(layer.advance(0, 1, &mut buffer), Step::Done(4096));
    assert_eq!(Answer::parse(&buffer).unwrap().head.status.get(), PENDING);
    layer.advance(1, 1, &mut buffer);
    // The answer comes.
    let held = fd(layer.begin(0, &read, &mut buffer));
    {
        let mut state = window.state();
        let job = state.jobs.pop_front().unwrap();
        assert!(state.jobs.is_empty(), "one search, however often it is asked for");
        let said = answer::answer(&job.request, session, |_| Err("no such luck".into()));
        assert!(state.slots.put(job.slot, job.number, said, Instant::now()));
        Window::release(&state, |waiting| waiting.slot == job.slot);
    }
    assert!(readable(held));
    assert_eq!(layer.advance(0, 1, &mut buffer), Step::Done(4096));
    let answer = Answer::parse(&buffer).unwrap();
    let note = Note::parse(answer.notes).unwrap();
    assert_eq!((answer.head.status.get(), note.kind), (REFUSED, NOTE_REASON));
    assert_eq!(note.text, b"no such luck");
    // Nobody is held by a window that ends.
    buffer[..128].copy_from_slice(&request(session));
    layer.begin(0, &write, &mut buffer);
    let held = fd(layer.begin(0, &read, &mut buffer));
    window.stop();
    clock.join().unwrap();
    assert!(readable(held));
    layer.advance(0, 1, &mut buffer);
    assert_eq!(layer.begin(0, &read, &mut buffer), Step::Done(4096), "at once, now");
    assert!(window.state().waiting.is_empty());
}

fn found(hits: usize, paths: usize) -> Found {
    Found {
        generation: 3,
        searched: 1,
        denied: 2,
        caught_up: true,
        answers: vec![Answered { hits: hits as u32, ef: None, cut: false }],
        hits: (0..hits)
            .map(|i| Hit { file: 9, slot: i as u64, distance: 0.5, shown: vec![] })
            .collect(),
        notes: vec![(9, "odd".into())],
        paths: (0..paths).map(|i| (i as u64, vec![b'p'; 5000])).collect(),
        problem: None,
    }
}

#[test]
fn an_answer_fits_into_its_slot_whatever_was_found() {
    let request = request(7);
    for (hits, paths, cut) in [(0, 0, false), (2, 3, false), (20_000, 3, false), (2, 200, true)] {
        let said = answer::answer(&request, 7, |_| Ok(found(hits, paths)));
        assert!(said.len() <= SLOT_BYTES);
        let answer = Answer::parse(&said).unwrap();
        let head = answer.head;
        assert_eq!((head.status.get(), head.token.get(), head.generation.get()), (FOUND, 6, 3));
        assert_eq!(answer.hits.len(), hits.min(16_384));
        assert_eq!(head.flags.get() & NOTES_CUT != 0, cut, "{paths} paths");
        let mut rest = answer.notes;
        let mut kinds = Vec::new();
        while let Some(note) = Note::parse(rest) {
            kinds.push(note.kind);
            rest = &rest[note.bytes..];
        }
        assert!(rest.is_empty());
        assert!(kinds.iter().filter(|kind| **kind == NOTE_PATH).count() >= paths.min(40));
    }
}

#[test]
fn who_asks_is_taken_as_the_kernel_says() {
    let mut other = request(7);
    let head = RequestHead::mut_from_bytes(&mut other).unwrap();
    (head.uid, head.rights) = (U32::ZERO, U32::ZERO);
    seal(&mut other);
    let said = answer::answer(&other, 7, |_| panic!("root without its capabilities is not root"));
    assert_eq!(Answer::parse(&said).unwrap().head.status.get(), REFUSED);
    let head = RequestHead::mut_from_bytes(&mut other).unwrap();
    head.rights = U32::new(1);
    seal(&mut other);
    let said = answer::answer(&other, 7, |_| Ok(found(1, 0)));
    assert_eq!(Answer::parse(&said).unwrap().head.status.get(), FOUND);
}
