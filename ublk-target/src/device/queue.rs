// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One queue: one thread with one ring, for the driver's commands and the image's I/O.
//!
//! A request is decoded, translated by the [`Backend`], carried out on the same ring and completed;
//! nothing is passed to another thread, and the thread only waits for the ring. Each tag owns one
//! buffer and has at most one entry in the ring at any time. The buffers outlive every image
//! operation, even if the driver stops the queue in the meantime.

use crate::backend::{Backend, ImageOp, Step, ZEROES_MAX};
use crate::failure_log::FailureLog;
use crate::image::{Image, Page};
use crate::request::{Kind, Limits, Op, Request, decode};
use crate::stats::QueueStats;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use libublk::helpers::IoBuf;
use libublk::io::{UblkDev, UblkIOCtx, UblkQueue};
use libublk::{BufDesc, BufDescList, UblkError, UblkIORes, UblkUringData, sys};
use rustix::fs::FallocateFlags;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;
use vexfs_search::dirty_log::DirtyLog;
use vexfs_search::log_line;

/// Index of the image among the ring's registered files; the character device is 0.
const IMAGE: types::Fixed = types::Fixed(1);

/// Largest write that this thread does itself while no other request is in flight.
const INLINE_BYTES_MAX: u32 = 128 << 10;

/// Of so many requests of a kind, the latency of one is measured.
const MEASURED_ONE_IN: u32 = 8;

static ZEROES: [Page; ZEROES_MAX as usize / 4096] =
    [const { Page([0; 4096]) }; ZEROES_MAX as usize / 4096];

/// Everything a queue works with.
pub struct QueueParts {
    /// Number of the queue.
    pub id: u16,
    /// The image.
    pub image: Arc<Image>,
    /// Turns requests into image operations.
    pub backend: Box<dyn Backend>,
    /// Where it marks what was written.
    pub dirty_log: Arc<DirtyLog>,
    /// Its statistics.
    pub stats: Arc<QueueStats>,
    /// What the device accepts.
    pub limits: Limits,
    /// Logs failed requests; `None` if they are made to fail on purpose.
    pub failures: Option<FailureLog>,
}

#[derive(Clone, Copy)]
struct InFlight {
    request: Request,
    /// When it arrived, if its latency is measured.
    started: Option<Instant>,
}

struct Server<'a> {
    queue: &'a UblkQueue<'a>,
    buffers: Vec<IoBuf<u8>>,
    parts: QueueParts,
    requests: Box<[Option<InFlight>]>,
    /// Requests that are not completed.
    in_flight: usize,
    /// The buffers are registered with the ring.
    fixed: bool,
    /// Image operations that the ring has not completed.
    pending: usize,
    /// The time of this batch of completions, if it was read.
    now: Option<Instant>,
    /// Requests of each kind so far.
    arrivals: [u32; Kind::ALL.len()],
}

/// Creates the ring of this thread, which libublk uses, too.
pub fn make_ring(depth: u16) -> Result<(), UblkError> {
    let entries = (u32::from(depth) * 2).next_power_of_two();
    libublk::ublk_init_task_ring(|cell| {
        let ring = IoUring::builder()
            .setup_cqsize(entries * 2)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .build(entries)
            // For kernels before 6.1, which lack these flags.
            .or_else(|_| IoUring::builder().setup_cqsize(entries * 2).build(entries))
            .map_err(UblkError::IOError)?;
        cell.set(RefCell::new(ring)).map_err(|_| UblkError::OtherError(-libc::EEXIST))
    })
}

/// Registers the buffers with the ring, so that the kernel need not look up and pin their pages for every
/// request. They stay resident; `params` limits their size. False if that exceeds the limit on locked
/// memory.
fn fix_buffers(buffers: &[IoBuf<u8>]) -> bool {
    let known: Vec<libc::iovec> = buffers
        .iter()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
        .collect();
    libublk::with_task_io_ring_mut(|ring: &mut IoUring| {
        // SAFETY: the ranges lie in buffers that `serve` keeps until the ring has completed every
        // operation, and nothing unmaps them before.
        unsafe { ring.submitter().register_buffers(&known) }.is_ok()
    })
}

/// Serves a queue until the driver stops it. `ready` is called once requests are being fetched.
pub fn serve(device: &UblkDev, parts: QueueParts, ready: impl FnOnce()) -> Result<(), UblkError> {
    make_ring(device.dev_info.queue_depth)?;
    let buffers = device.alloc_queue_io_bufs();
    let queue = UblkQueue::new(parts.id, device)?;
    let queue = queue.submit_fetch_commands_unified(BufDescList::Slices(Some(&buffers)))?;
    let depth = usize::from(device.dev_info.queue_depth);
    let fixed = fix_buffers(&buffers);
    let mut server = Server {
        queue: &queue,
        buffers,
        parts,
        requests: vec![None; depth].into(),
        in_flight: 0,
        fixed,
        pending: 0,
        now: None,
        arrivals: [0; Kind::ALL.len()],
    };
    ready();
    let ended = server.run();
    server.drain();
    ended
}

impl Server<'_> {
    fn run(&mut self) -> Result<(), UblkError> {
        loop {
            let queue = self.queue;
            self.now = None;
            let served =
                queue.flush_and_wake_io_tasks(|data, entry, _last| self.completed(data, entry), 1);
            match served {
                Ok(_) => {}
                Err(UblkError::QueueIsDown) => return Ok(()),
                Err(UblkError::IOError(e)) if transient(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn completed(&mut self, data: u64, entry: &cqueue::Entry) {
        let tag = UblkIOCtx::user_data_to_tag(data) as u16;
        if data & UblkUringData::Target as u64 != 0 {
            self.pending = self.pending.saturating_sub(1);
            let len = self.data_len(tag);
            let buffer = buffer(&mut self.buffers, tag, len);
            let step = self.parts.backend.advance(tag, entry.result(), buffer);
            self.carry_out(tag, step);
        } else if entry.result() == sys::UBLK_IO_RES_OK as i32 {
            self.arrived(tag);
        }
    }

    /// Bytes in the buffer that are the request's data.
    fn data_len(&self, tag: u16) -> usize {
        match self.requests.get(usize::from(tag)) {
            Some(Some(InFlight {
                request: Request { op: Op::Read | Op::Write { .. }, len, .. },
                ..
            })) => *len as usize,
            _ => 0,
        }
    }

    /// The time, read once per batch: on some machines reading it costs as much as a request.
    fn clock(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// Whether a request lies in the command window, past the image's part of the device.
    fn is_windows(&self, request: &Request) -> bool {
        request.offset >= self.parts.image.exposed_bytes()
    }

    /// Counts a request that arrived; true if its latency is to be measured.
    fn count_arrival(&mut self, kind: Kind) -> bool {
        let Some(count) = self.arrivals.get_mut(kind as usize) else { return false };
        let measured = count.is_multiple_of(MEASURED_ONE_IN);
        *count = count.wrapping_add(1);
        measured
    }

    fn arrived(&mut self, tag: u16) {
        let descriptor = self.queue.get_iod(tag);
        let decoded = if self.parts.image.lost() {
            Err(libc::EIO)
        } else {
            decode(
                descriptor.op_flags,
                descriptor.nr_sectors,
                descriptor.start_sector,
                &self.parts.limits,
            )
        };
        match decoded {
            Ok(request) => {
                let counted = !self.is_windows(&request);
                let started =
                    (counted && self.count_arrival(request.op.kind())).then(|| self.clock());
                let in_flight = InFlight { request, started };
                if let Some(slot) = self.requests.get_mut(usize::from(tag)) {
                    *slot = Some(in_flight);
                    self.in_flight += 1;
                }
                let len = self.data_len(tag);
                let buffer = buffer(&mut self.buffers, tag, len);
                let step = self.parts.backend.begin(tag, &request, buffer);
                self.carry_out(tag, step);
            }
            Err(errno) => {
                if let Some(kind) = Kind::of(descriptor.op_flags) {
                    self.parts.stats.record(kind, 0, true);
                }
                self.commit(tag, -errno);
            }
        }
    }

    fn carry_out(&mut self, tag: u16, mut step: Step) {
        loop {
            match step {
                Step::Image(op) => {
                    let Some(result) = self.write_inline(tag, op) else {
                        return self.submit(tag, op);
                    };
                    let len = self.data_len(tag);
                    let buffer = buffer(&mut self.buffers, tag, len);
                    step = self.parts.backend.advance(tag, result, buffer);
                }
                Step::Done(result) => {
                    self.account(tag, result);
                    return self.commit(tag, result);
                }
            }
        }
    }

    /// Writes to the page cache at once if no other request has to wait for it: the ring would hand the
    /// write to another thread, which costs more than the write itself.
    fn write_inline(&self, tag: u16, op: ImageOp) -> Option<i32> {
        let ImageOp::Write { offset, len, at, durable: false } = op else { return None };
        if self.parts.image.direct() || self.in_flight > 1 || len > INLINE_BYTES_MAX {
            return None;
        }
        let own = self.buffers.get(usize::from(tag))?.as_slice();
        let data = own.get(at as usize..)?.get(..len as usize)?;
        Some(match rustix::io::pwrite(self.parts.image.file(), data, offset) {
            Ok(written) => written as i32,
            Err(errno) => -errno.raw_os_error(),
        })
    }

    /// Records a finished request in the dirty log, the statistics and, if it failed, the log.
    fn account(&mut self, tag: u16, result: i32) {
        let Some(done) = self.requests.get_mut(usize::from(tag)).and_then(Option::take) else {
            return;
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        // The command window is no part of the image.
        if self.is_windows(&done.request) {
            return;
        }
        let Request { op, offset, len } = done.request;
        let len = len.min(self.parts.image.exposed_bytes().saturating_sub(offset));
        let kind = op.kind();
        if op.changes() {
            // A failed write may have changed part of the range.
            let durable = matches!(op, Op::Write { fua: true });
            self.parts.dirty_log.mark(offset, len, durable);
        } else if kind == Kind::Flush && result >= 0 {
            self.parts.dirty_log.flushed();
        }
        if result < 0 {
            self.log_failure(&done.request, -result);
        }
        self.parts.stats.record(kind, len, result < 0);
        if let Some(started) = done.started {
            // The batch's time is too old for a request that arrived in the same batch.
            if self.now == Some(started) {
                self.now = None;
            }
            let nanos = self.clock().duration_since(started).as_nanos() as u64;
            self.parts.stats.record_latency(kind, nanos);
        }
    }

    /// Logs that the image failed a request, and why.
    fn log_failure(&mut self, request: &Request, errno: i32) {
        if let Some(why) = self.parts.image.check_identity() {
            return log_line!("{why}");
        }
        let now = self.clock();
        let QueueParts { failures, image, .. } = &mut self.parts;
        if let Some(failures) = failures
            && !image.lost()
            && let Some(line) = failures.report(now, image.path(), request, errno)
        {
            log_line!("{line}");
        }
    }

    fn commit(&self, tag: u16, result: i32) {
        let Some(own) = self.buffers.get(usize::from(tag)) else { return };
        let result = Ok(UblkIORes::Result(result));
        let done = self.queue.complete_io_cmd_unified(tag, BufDesc::from_io_buf(own), result);
        if let Err(e) = done {
            log_line!("queue {}: request {tag} could not be completed: {e}", self.parts.id);
        }
    }

    fn submit(&mut self, tag: u16, op: ImageOp) {
        let Some(own) = self.buffers.get(usize::from(tag)) else { return };
        let start = own.as_mut_ptr();
        let entry = match op {
            ImageOp::Read { offset, len, at } => {
                // In range: the backend stays within the request, which fits into its buffer.
                let to = start.wrapping_add(at as usize);
                if self.fixed {
                    opcode::ReadFixed::new(IMAGE, to, len, tag).offset(offset).build()
                } else {
                    opcode::Read::new(IMAGE, to, len).offset(offset).build()
                }
            }
            ImageOp::Write { offset, len, at, durable } => {
                let from = start.wrapping_add(at as usize);
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                if self.fixed {
                    let op = opcode::WriteFixed::new(IMAGE, from, len, tag);
                    op.offset(offset).rw_flags(flags).build()
                } else {
                    opcode::Write::new(IMAGE, from, len).offset(offset).rw_flags(flags).build()
                }
            }
            ImageOp::Zeroes { offset, len } => {
                let from = ZEROES.as_ptr().cast::<u8>();
                opcode::Write::new(IMAGE, from, len.min(ZEROES_MAX)).offset(offset).build()
            }
            ImageOp::Datasync => {
                opcode::Fsync::new(IMAGE).flags(types::FsyncFlags::DATASYNC).build()
            }
            ImageOp::Punch { offset, len } => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                opcode::Fallocate::new(IMAGE, len).offset(offset).mode(mode.bits() as i32).build()
            }
            ImageOp::Await { fd } => {
                opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).build()
            }
            ImageOp::ZeroRange { offset, len } => {
                let mode = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                opcode::Fallocate::new(IMAGE, len).offset(offset).mode(mode.bits() as i32).build()
            }
        };
        self.pending += 1;
        push(&entry.user_data(UblkIOCtx::build_user_data(tag, 0, 0, true)));
    }

    /// Waits until no image operation uses the buffers any more.
    fn drain(&mut self) {
        while self.pending > 0 {
            let waited = libublk::with_task_io_ring_mut(|ring: &mut IoUring| {
                let waited = ring.submit_and_wait(1);
                let ended = ring
                    .completion()
                    .filter(|e| e.user_data() & UblkUringData::Target as u64 != 0)
                    .count();
                waited.map(|_| ended)
            });
            match waited {
                Ok(ended) => self.pending = self.pending.saturating_sub(ended),
                Err(e) if transient(&e) => {}
                Err(e) => {
                    log_line!(
                        "queue {}: {} image operations did not complete: {e}",
                        self.parts.id,
                        self.pending
                    );
                    // The kernel may still write to the buffers, so they must not be freed.
                    std::process::exit(1);
                }
            }
        }
    }
}

/// Whether entering the ring can be tried again after this error.
fn transient(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// The first `len` bytes of a tag's buffer.
fn buffer(buffers: &mut [IoBuf<u8>], tag: u16, len: usize) -> &mut [u8] {
    let own = buffers.get_mut(usize::from(tag));
    own.and_then(|own| own.as_mut_slice().get_mut(..len)).unwrap_or_default()
}

fn push(entry: &squeue::Entry) {
    libublk::with_task_io_ring_mut(|ring: &mut IoUring| {
        loop {
            // SAFETY: the entry points into a buffer that `serve` keeps until the ring has completed the
            // operation, or into a static.
            if unsafe { ring.submission().push(entry) }.is_ok() {
                return;
            }
            // The ring has room for one entry per tag and a tag has at most one; were it full all the same,
            // this makes room.
            let _ = ring.submit();
        }
    });
}
