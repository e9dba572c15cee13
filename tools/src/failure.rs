// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Why a tool failed, in one line: what happened, to what, and what the user can do.

use std::io;
use std::path::Path;
use vexfs::{DeviceError, Error};
use vexfs_image::User;

/// A tool's result.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failure; its message is for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The engine refused.
    #[error("{subject}: {}", explain(.error))]
    Engine {
        /// The image, or `image:/path` in it.
        subject: String,
        /// Its reason.
        error: Error,
    },
    /// The host refused.
    #[error("{subject}: {failed}: {}", reason(.source))]
    Host {
        /// The file.
        subject: String,
        /// What could not be done, such as `cannot be read`.
        failed: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// Somebody uses the image.
    #[error("{subject}: in use: {by}; unmount it or stop what serves it first")]
    InUse {
        /// The image.
        subject: String,
        /// Who uses it.
        by: User,
    },
    /// Something else; the whole message.
    #[error("{0}")]
    Other(String),
    /// The arguments on the command line make no sense together.
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
    pub fn host(path: &Path, failed: &'static str) -> impl FnOnce(io::Error) -> Self {
        let subject = path.display().to_string();
        move |source| Self::Host { subject, failed, source }
    }

    /// For `map_err` on a write to standard output.
    pub fn output(source: io::Error) -> Self {
        Self::host(Path::new("standard output"), "cannot be written")(source)
    }

    /// Somebody uses the image at `path`.
    pub fn in_use(path: &Path, by: &User) -> Self {
        Self::InUse { subject: path.display().to_string(), by: by.clone() }
    }

    /// The exit code of `mkfs.vexfs` and `vexfs`: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

impl From<vexfs_image::Error> for Failure {
    fn from(error: vexfs_image::Error) -> Self {
        match error {
            vexfs_image::Error::Host { path, failed, source } => Self::host(&path, failed)(source),
            kind @ vexfs_image::Error::Kind { .. } => Self::Other(kind.to_string()),
        }
    }
}

/// For `map_err` on rustix's results about a file.
pub fn host_errno(path: &Path, failed: &'static str) -> impl FnOnce(rustix::io::Errno) -> Failure {
    let make = Failure::host(path, failed);
    move |errno| make(errno.into())
}

/// The host's reason without the number that Rust appends, and what can be done about it.
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

/// The engine's error, and what can be done about it.
fn explain(error: &Error) -> String {
    let what = match error {
        Error::Device(DeviceError::Io(errno)) => {
            format!("the medium failed: {}", reason(&io::Error::from_raw_os_error(*errno)))
        }
        Error::NotVexfs => "no VexFS filesystem here".to_owned(),
        other => other.to_string(),
    };
    match vexfs_image::advice(error) {
        "" => what,
        advice => format!("{what}; {advice}"),
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
