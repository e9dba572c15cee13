// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A medium whose checkpoint is used and never changed, for whoever may only read the image.
//!
//! Invariant: nothing here writes. A store on it opens as on any medium; what a crash left behind in it is
//! left there, and a checkpoint is refused with `EROFS`.

use std::io;

use super::{Mapping, Medium};

/// Another medium, only to be read.
pub struct ReadOnly<M>(pub M);

fn refused() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl<M: Medium> Medium for ReadOnly<M> {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, at)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(refused())
    }

    fn sync(&self) -> io::Result<()> {
        Err(refused())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    /// What is past the end of the newest checkpoint is left there: it harms nobody.
    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn map(&self, at: u64, bytes: usize) -> Option<Mapping> {
        self.0.map(at, bytes)
    }
}
