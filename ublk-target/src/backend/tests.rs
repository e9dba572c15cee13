// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The backend over a real file, with injected results such as a medium may return.

use super::*;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Carries out image operations as a queue does, but can change their results.
struct Medium {
    file: File,
    /// At most so many bytes per transfer.
    most: usize,
    /// Results of the next operations, which are then not carried out.
    refuse: Vec<i32>,
    seen: Vec<ImageOp>,
}

impl Medium {
    fn new(bytes: u64) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        Self { file, most: usize::MAX, refuse: Vec::new(), seen: Vec::new() }
    }

    fn execute(&mut self, op: ImageOp, buffer: &mut [u8]) -> i32 {
        use rustix::fs::{FallocateFlags as F, fallocate};
        self.seen.push(op);
        if !self.refuse.is_empty() {
            return self.refuse.remove(0);
        }
        let cut = |len: u32| (len as usize).min(self.most);
        let errno = |e: rustix::io::Errno| -e.raw_os_error();
        match op {
            ImageOp::Read { offset, len, at } => {
                let at = at as usize;
                self.file.read_at(&mut buffer[at..at + cut(len)], offset).unwrap() as i32
            }
            ImageOp::Write { offset, len, at, .. } => {
                let at = at as usize;
                self.file.write_at(&buffer[at..at + cut(len)], offset).unwrap() as i32
            }
            ImageOp::Zeroes { offset, len } => {
                self.file.write_at(&vec![0; cut(len)], offset).unwrap() as i32
            }
            ImageOp::Await { .. } => unreachable!("only the command window waits"),
            ImageOp::Datasync => self.file.sync_data().map_or(-libc::EIO, |()| 0),
            ImageOp::Punch { offset, len } => {
                fallocate(&self.file, F::PUNCH_HOLE | F::KEEP_SIZE, offset, len)
                    .map_or_else(errno, |()| 0)
            }
            ImageOp::ZeroRange { offset, len } => {
                fallocate(&self.file, F::ZERO_RANGE | F::KEEP_SIZE, offset, len)
                    .map_or_else(errno, |()| 0)
            }
        }
    }

    fn run(&mut self, backend: &mut Passthrough, request: Request, buffer: &mut [u8]) -> i32 {
        let mut step = backend.begin(3, &request, buffer);
        for _ in 0..10_000 {
            match step {
                Step::Done(result) => return result,
                Step::Image(op) => {
                    let result = self.execute(op, buffer);
                    step = backend.advance(3, result, buffer);
                }
            }
        }
        panic!("no end after 10000 steps");
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8 + 1).collect()
}

fn request(op: Op, offset: u64, len: u64) -> Request {
    Request { op, offset, len }
}

const MIB: u64 = 1 << 20;
const ZERO: Op = Op::WriteZeroes { keep_allocated: false, fua: false };
const ZERO_KEEP: Op = Op::WriteZeroes { keep_allocated: true, fua: false };

#[test]
fn short_transfers_are_continued_to_the_end() {
    for most in [usize::MAX, 4096, 5000, 512, 700] {
        let (mut medium, mut backend) =
            (Medium::new(MIB), Passthrough::new(4, 512, true, Arc::default()));
        medium.most = most;
        let mut data = pattern(65536);
        let write = request(Op::Write { fua: false }, 8192, 65536);
        assert_eq!(medium.run(&mut backend, write, &mut data), 65536, "{most}");
        let mut back = vec![0; 65536];
        let read = request(Op::Read, 8192, 65536);
        assert_eq!(medium.run(&mut backend, read, &mut back), 65536, "{most}");
        assert!(back == pattern(65536), "{most}");
        let aligned = |op: &ImageOp| match *op {
            ImageOp::Read { offset, at, .. } | ImageOp::Write { offset, at, .. } => {
                offset % 512 == 0 && at % 512 == 0
            }
            _ => false,
        };
        assert!(medium.seen.iter().all(aligned), "{most}");
    }
}

#[test]
fn a_transfer_that_stands_still_fails_instead_of_spinning() {
    let (mut medium, mut backend) =
        (Medium::new(4096), Passthrough::new(4, 512, true, Arc::default()));
    let mut buffer = vec![0; 8192];
    // Past the end of a file that shrank.
    assert_eq!(medium.run(&mut backend, request(Op::Read, 0, 8192), &mut buffer), -libc::EIO);
    medium.most = 100;
    assert_eq!(medium.run(&mut backend, request(Op::Read, 0, 4096), &mut buffer), -libc::EIO);
}

#[test]
fn errors_reach_the_submitter_as_they_are_and_are_not_retried() {
    let (mut medium, mut backend) =
        (Medium::new(MIB), Passthrough::new(4, 512, true, Arc::default()));
    for op in [Op::Read, Op::Write { fua: true }, Op::Flush, ZERO, ZERO_KEEP, Op::Discard] {
        for errno in [libc::ENOSPC, libc::EIO, libc::EDQUOT] {
            medium.refuse = vec![-errno];
            medium.seen.clear();
            let result = medium.run(&mut backend, request(op, 0, 4096), &mut [0; 4096]);
            assert_eq!((result, medium.seen.len()), (-errno, 1), "{op:?}");
        }
    }
    let mut backend = Passthrough::new(4, 512, true, Arc::default());
    medium.refuse = vec![-libc::EINTR, -libc::EINTR];
    assert_eq!(medium.run(&mut backend, request(Op::Flush, 0, 0), &mut []), 0);
}

#[test]
fn fua_and_flush_reach_the_image() {
    let (mut medium, mut backend) =
        (Medium::new(MIB), Passthrough::new(4, 512, true, Arc::default()));
    medium.run(&mut backend, request(Op::Write { fua: true }, 0, 512), &mut [1; 512]);
    medium.run(&mut backend, request(Op::Flush, 0, 0), &mut []);
    let zero = Op::WriteZeroes { keep_allocated: false, fua: true };
    assert_eq!(medium.run(&mut backend, request(zero, 0, 4096), &mut []), 0);
    assert_eq!(
        medium.seen,
        [
            ImageOp::Write { offset: 0, len: 512, at: 0, durable: true },
            ImageOp::Datasync,
            ImageOp::Punch { offset: 0, len: 4096 },
            ImageOp::Datasync,
        ]
    );
}

#[test]
fn range_operations_complete_with_zero_and_leave_zeroes() {
    for op in [ZERO, ZERO_KEEP, Op::Discard] {
        let (mut medium, mut backend) =
            (Medium::new(4 * MIB), Passthrough::new(4, 512, true, Arc::default()));
        medium.file.write_all_at(&pattern(4 << 20), 0).unwrap();
        let before = medium.file.metadata().unwrap().blocks();
        assert_eq!(medium.run(&mut backend, request(op, MIB, 2 * MIB), &mut []), 0, "{op:?}");
        let mut all = vec![0; 4 << 20];
        medium.file.read_exact_at(&mut all, 0).unwrap();
        assert!(all[1 << 20..3 << 20].iter().all(|b| *b == 0), "{op:?}");
        assert!(all[..1 << 20] == pattern(4 << 20)[..1 << 20], "{op:?}");
        assert!(all[3 << 20..] == pattern(4 << 20)[3 << 20..], "{op:?}");
        let after = medium.file.metadata().unwrap().blocks();
        if op == ZERO_KEEP {
            assert_eq!(after, before, "NOUNMAP keeps the range allocated");
        } else {
            assert!(after < before, "{op:?} gives blocks back");
        }
    }
}

#[test]
fn what_the_image_cannot_do_is_done_by_writing() {
    let (mut medium, mut backend) =
        (Medium::new(MIB), Passthrough::new(4, 512, true, Arc::default()));
    medium.file.write_all_at(&pattern(1 << 20), 0).unwrap();
    medium.refuse = vec![-libc::EOPNOTSUPP, -libc::EOPNOTSUPP];
    assert_eq!(medium.run(&mut backend, request(ZERO, 4096, 300 << 10), &mut []), 0);
    let kinds = |seen: &[ImageOp]| seen.iter().map(std::mem::discriminant).collect::<Vec<_>>();
    let zeroes = ImageOp::Zeroes { offset: 4096, len: ZEROES_MAX };
    assert_eq!(
        kinds(&medium.seen),
        kinds(&[
            ImageOp::Punch { offset: 0, len: 0 },
            ImageOp::ZeroRange { offset: 0, len: 0 },
            zeroes,
            zeroes,
            zeroes
        ])
    );
    let mut back = vec![1; 300 << 10];
    medium.file.read_exact_at(&mut back, 4096).unwrap();
    assert!(back.iter().all(|b| *b == 0));
    // It is not asked again, and a discard becomes the hint that it is.
    medium.seen.clear();
    assert_eq!(medium.run(&mut backend, request(ZERO_KEEP, 0, 4096), &mut []), 0);
    assert_eq!(medium.run(&mut backend, request(Op::Discard, 0, 4096), &mut []), 0);
    assert_eq!(medium.seen, [ImageOp::Zeroes { offset: 0, len: 4096 }]);
}

#[test]
fn an_unknown_tag_or_a_stray_completion_fails() {
    let mut backend = Passthrough::new(1, 512, true, Arc::default());
    assert_eq!(backend.begin(1, &request(Op::Flush, 0, 0), &mut []), Step::Done(-libc::EIO));
    assert_eq!(backend.advance(0, 0, &mut []), Step::Done(-libc::EIO));
}

/// The system reports a lost write once: the first flush failed, and all later ones promised data that
/// was gone.
#[test]
fn after_a_flush_that_failed_nothing_is_promised_any_more() {
    const FLUSH: Request = Request { op: Op::Flush, offset: 0, len: 0 };
    for asked in [FLUSH, request(Op::Write { fua: true }, 0, 512)] {
        let durability = Arc::<Durability>::default();
        let mut medium = Medium::new(MIB);
        let mut backend = Passthrough::new(4, 512, true, durability.clone());
        let mut data = pattern(512);
        medium.refuse = vec![-libc::EIO];
        assert_eq!(medium.run(&mut backend, asked, &mut data), -libc::EIO);
        // On every queue, and for every request that makes data durable.
        let mut other = Passthrough::new(4, 512, true, durability);
        for backend in [&mut backend, &mut other] {
            assert_eq!(medium.run(backend, FLUSH, &mut []), -libc::EIO);
            let fua = request(Op::Write { fua: true }, 512, 512);
            assert_eq!(medium.run(backend, fua, &mut data), -libc::EIO);
            let zeroes = Op::WriteZeroes { keep_allocated: true, fua: true };
            assert_eq!(medium.run(backend, request(zeroes, 0, 512), &mut []), -libc::EIO);
            // Other requests still succeed.
            let plain = request(Op::Write { fua: false }, 1024, 512);
            assert_eq!(medium.run(backend, plain, &mut data), 512);
            assert_eq!(medium.run(backend, request(Op::Read, 1024, 512), &mut data), 512);
        }
        let mut anew = Passthrough::new(4, 512, true, Arc::default());
        assert_eq!(medium.run(&mut anew, FLUSH, &mut []), 0, "an image that was opened anew");
    }
}

/// It was not written at all, and its sender knows; earlier writes are as safe as before.
#[test]
fn a_durable_write_without_room_breaks_no_promise() {
    let (mut medium, mut backend) =
        (Medium::new(MIB), Passthrough::new(4, 512, true, Arc::default()));
    for errno in [libc::ENOSPC, libc::EDQUOT] {
        medium.refuse = vec![-errno];
        let fua = request(Op::Write { fua: true }, 0, 512);
        assert_eq!(medium.run(&mut backend, fua, &mut pattern(512)), -errno);
        assert_eq!(medium.run(&mut backend, request(Op::Flush, 0, 0), &mut []), 0);
    }
}
