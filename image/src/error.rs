// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Why an image cannot be opened, and what can be done about one that the engine refuses.

use std::io;
use std::path::PathBuf;

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is neither a regular file nor a block device.
    #[error("{path}: is {kind}; name an image file or a block device")]
    Kind {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The host refused.
    #[error("{path}: {failed}: {source}")]
    Host {
        /// The path.
        path: PathBuf,
        /// What could not be done, such as `cannot be opened`.
        failed: &'static str,
        /// The host's reason.
        source: io::Error,
    },
}

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the user can do about an image that the engine refuses; empty where its message says it all.
///
/// It never advises to format: an image that is not recognised may hold data.
#[must_use]
pub const fn advice(error: &vexfs::Error) -> &'static str {
    match error {
        vexfs::Error::NotVexfs => "check the name",
        vexfs::Error::Corrupt(_) => {
            "fsck.vexfs shows all that is wrong, and vexfs get copies out what can be read"
        }
        vexfs::Error::NoRoot => "restore it from a copy",
        vexfs::Error::Truncated { .. } => "the image was cut off: copy it again",
        _ => "",
    }
}
