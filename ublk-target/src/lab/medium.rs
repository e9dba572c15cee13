// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The image as the medium behind the lab's cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vexfs_crash::cache::Backing;
use vexfs_search::dirty_log::DirtyLog;

/// The image file. The follower reads this file and not the cache, so it is told of a write when the
/// file has it.
pub(super) struct ImageFile {
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) observer: Arc<DirtyLog>,
}

impl Backing for ImageFile {
    type Error = io::Error;

    fn len_bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, at)
    }

    fn write(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(data, at);
        // A write that failed may have changed a part.
        self.observer.mark(at, data.len() as u64, true);
        written
    }
}
