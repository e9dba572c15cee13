// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Log lines for requests that the image failed.
//!
//! The submitter only gets an errno; the log says what is wrong with the image. The lines are rate
//! limited, because an image on a full disk fails thousands of requests, and the log may be on that
//! disk: the first failure with an errno is logged at once, later ones at most every [`PAUSE`], with
//! their number.

use crate::request::{Kind, Op, Request};
use std::path::Path;
use std::time::{Duration, Instant};

/// Shortest time between two lines about the same errno.
pub const PAUSE: Duration = Duration::from_secs(10);

/// The failures with one errno.
struct Failures {
    errno: i32,
    /// When a line was last logged.
    logged: Instant,
    /// How many came since then.
    since: u64,
}

/// The failures of one queue.
#[derive(Default)]
pub struct FailureLog(Vec<Failures>);

impl FailureLog {
    /// Counts a request that failed with this (positive) errno. Returns a line to be logged, if it is time
    /// for one.
    pub fn report(
        &mut self,
        now: Instant,
        image: &Path,
        request: &Request,
        errno: i32,
    ) -> Option<String> {
        let since = match self.0.iter_mut().find(|failures| failures.errno == errno) {
            Some(failures) if now.duration_since(failures.logged) < PAUSE => {
                failures.since += 1;
                return None;
            }
            Some(failures) => {
                failures.logged = now;
                std::mem::take(&mut failures.since)
            }
            None => {
                self.0.push(Failures { errno, logged: now, since: 0 });
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
     device, repair the medium of the image, then 'vexfs-ublk del' and 'add' it again";

/// What can be done about it, if that is known.
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
    fn the_first_failure_of_an_errno_is_logged_at_once_and_later_ones_seldom() {
        let mut failures = FailureLog::default();
        let image = Path::new("/data/vexfs.img");
        let write = Request { op: Op::Write { fua: false }, offset: 8192, len: 4096 };
        let flush = Request { op: Op::Flush, offset: 0, len: 0 };
        let start = Instant::now();
        let line = failures.report(start, image, &write, libc::ENOSPC).unwrap();
        assert_eq!(
            line,
            "/data/vexfs.img: a write of 4096 bytes at byte 8192 failed: No space left on device (os error 28): \
             what the image lies on is full: make room there, then unmount the device and mount it again"
        );
        for second in 1..10 {
            let now = start + Duration::from_secs(second);
            assert_eq!(failures.report(now, image, &write, libc::ENOSPC), None);
        }
        let line = failures.report(start, image, &flush, libc::EIO).unwrap();
        assert!(line.contains(": a flush failed: Input/output error"), "{line}");
        assert!(line.contains("'vexfs-ublk del' and 'add'"), "{line}");
        let line = failures.report(start + PAUSE, image, &write, libc::ENOSPC).unwrap();
        assert!(line.contains(" (9 more before it): what"), "{line}");
        assert_eq!(failures.report(start + PAUSE, image, &write, libc::ENOSPC), None);
    }
}
