// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Why a tool failed, in one line: what, about what, and what to do.

use std::io;
use std::path::Path;
use vexfs::{DeviceError, Error};

/// A tool's result.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failure, worded for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The engine refused.
    #[error("{subject}: {}", explain(.error))]
    Engine {
        /// The image, or `image:/path` in it.
        subject: String,
        /// What it said.
        error: Error,
    },
    /// The host refused.
    #[error("{subject}: {doing}: {}", reason(.source))]
    Host {
        /// The file.
        subject: String,
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Somebody uses the image.
    #[error("{subject}: in use: {by}; unmount it or stop what serves it first")]
    InUse {
        /// The image.
        subject: String,
        /// By whom.
        by: String,
    },
    /// Something else; already in words.
    #[error("{0}")]
    Said(String),
    /// The words on the command line make no sense together.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    /// For `map_err` on the engine's results.
    pub fn engine(subject: impl Into<String>) -> impl FnOnce(Error) -> Self {
        let subject = subject.into();
        move |error| Self::Engine { subject, error }
    }

    /// For `map_err` on the host's results about a file.
    pub fn host(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let subject = path.display().to_string();
        move |source| Self::Host { subject, doing, source }
    }

    /// The exit code of `mkfs.vexfs` and `vexfs`: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

/// For `map_err` on rustix's results about a file.
pub fn host_errno(path: &Path, doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> Failure {
    let make = Failure::host(path, doing);
    move |errno| make(errno.into())
}

/// The host's reason, without the number that Rust puts behind it.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
    let advice = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "; make room on the disk and run it again",
        Some(libc::EACCES | libc::EPERM) => "; run it as the owner or as root",
        Some(libc::EFBIG) => "; this filesystem cannot hold a file that long",
        Some(libc::EROFS) => "; choose a place that can be written to",
        _ => "",
    };
    format!("{text}{advice}")
}

/// The engine's error, and what to do about it.
pub fn explain(error: &Error) -> String {
    match error {
        Error::Device(DeviceError::Io(errno)) => {
            format!("the medium failed: {}", reason(&io::Error::from_raw_os_error(*errno)))
        }
        Error::NotVexfs => {
            "no VexFS filesystem here; check the name, or format it with mkfs.vexfs".to_owned()
        }
        Error::Corrupt(_) => format!("{error}; fsck.vexfs tells all of what is wrong"),
        Error::NoRoot => format!("{error}; restore it from a copy"),
        Error::Truncated { .. } => format!("{error}; the image was cut off: copy it again"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_what_and_what_to_do() {
        let full = Failure::Engine {
            subject: "a.img".into(),
            error: Error::Device(DeviceError::Io(libc::ENOSPC)),
        };
        assert_eq!(
            full.to_string(),
            "a.img: the medium failed: no space left on device; make room on the disk and run it again"
        );
        assert_eq!(full.exit_code(), 1);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
    }
}
