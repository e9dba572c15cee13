// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the log says of requests that the image failed.
//!
//! The submitter is told an errno and nothing of the image; the log has the rest. The first failure of
//! a kind is told at once, more of the same kind at most every [`PAUSE`], with their number: an image on a full
//! disk fails thousands of requests, and the log may lie on that disk.

use crate::request::{Kind, Op, Request};
use std::path::Path;
use std::time::{Duration, Instant};

/// Shortest time between two lines about the same kind of failure.
pub const PAUSE: Duration = Duration::from_secs(10);

/// Failures of one kind: the errno, when it was last told, how many came since.
struct Told {
    errno: i32,
    at: Instant,
    since: u64,
}

/// One queue's failures.
#[derive(Default)]
pub struct Complaints(Vec<Told>);

impl Complaints {
    /// A request failed with this (positive) errno; the line to be logged, if it is time for one.
    pub fn hear(
        &mut self,
        now: Instant,
        image: &Path,
        request: &Request,
        errno: i32,
    ) -> Option<String> {
        let since = match self.0.iter_mut().find(|told| told.errno == errno) {
            Some(told) if now.duration_since(told.at) < PAUSE => {
                told.since += 1;
                return None;
            }
            Some(told) => {
                told.at = now;
                std::mem::take(&mut told.since)
            }
            None => {
                self.0.push(Told { errno, at: now, since: 0 });
                0
            }
        };
        let Request { op, offset, len } = *request;
        let what = match op.kind() {
            Kind::Flush => "a flush".to_owned(),
            kind => format!("a {} of {len} bytes at byte {offset}", kind.name()),
        };
        let error = std::io::Error::from_raw_os_error(errno);
        let more = if since > 0 { format!(" ({since} more before it)") } else { String::new() };
        let advice = if op == Op::Flush { FLUSH_FAILED } else { advice(errno) };
        Some(format!("{}: {what} failed: {error}{more}{advice}", image.display()))
    }
}

/// What a failed flush means, whatever its errno.
const FLUSH_FAILED: &str = ": what was written before it may be lost, so every flush fails from now on: unmount the \
     device, see to what the image lies on, then 'vexfs-ublk del' and 'add' it again";

/// What can be done about it, where that is known.
const fn advice(errno: i32) -> &'static str {
    match errno {
        libc::ENOSPC => {
            ": what the image lies on is full: make room there, then unmount the device and mount it again"
        }
        libc::EDQUOT => {
            ": the owner of the image is over quota: make room, then unmount the device and mount it again"
        }
        libc::EIO => {
            ": what the image lies on is failing: see the kernel log, and copy what can still be read"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_at_once_and_then_seldom_each_kind_for_itself() {
        let mut complaints = Complaints::default();
        let image = Path::new("/data/vexfs.img");
        let write = Request { op: Op::Write { fua: false }, offset: 8192, len: 4096 };
        let flush = Request { op: Op::Flush, offset: 0, len: 0 };
        let start = Instant::now();
        let line = complaints.hear(start, image, &write, libc::ENOSPC).unwrap();
        assert_eq!(
            line,
            "/data/vexfs.img: a write of 4096 bytes at byte 8192 failed: No space left on device (os error 28): \
             what the image lies on is full: make room there, then unmount the device and mount it again"
        );
        for second in 1..10 {
            let now = start + Duration::from_secs(second);
            assert_eq!(complaints.hear(now, image, &write, libc::ENOSPC), None);
        }
        let line = complaints.hear(start, image, &flush, libc::EIO).unwrap();
        assert!(line.contains(": a flush failed: Input/output error"), "{line}");
        assert!(line.contains("'vexfs-ublk del' and 'add'"), "{line}");
        let line = complaints.hear(start + PAUSE, image, &write, libc::ENOSPC).unwrap();
        assert!(line.contains(" (9 more before it): what"), "{line}");
        assert_eq!(complaints.hear(start + PAUSE, image, &write, libc::ENOSPC), None);
    }
}
