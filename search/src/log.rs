// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's log: one line per event on standard error, which is the log file once the process is a
//! daemon. A line that cannot be written is dropped.

use std::fmt::Arguments;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes one line: seconds since 1970, then the message.
pub fn line(message: Arguments<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = format!("{}.{:03} {message}\n", now.as_secs(), now.subsec_millis());
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes one line to the daemon's log.
#[macro_export]
macro_rules! log_line {
    ($($arg:tt)*) => { $crate::log::line(format_args!($($arg)*)) };
}
