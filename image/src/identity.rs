// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which file an image is, whatever name it was opened by.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Which file of the host this is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    filesystem: u64,
    inode: u64,
}

impl Identity {
    /// The identity of the file that the metadata is of.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self { filesystem: metadata.dev(), inode: metadata.ino() }
    }

    /// The identity of the file at `path`.
    ///
    /// # Errors
    /// The host's.
    pub fn at(path: impl AsRef<Path>) -> io::Result<Self> {
        path.as_ref().metadata().map(|metadata| Self::of(&metadata))
    }
}
