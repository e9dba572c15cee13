// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An image as the tools open it: only while nobody else uses it.

use crate::failure::{Failure, Result};
use std::path::Path;
use vexfs::{OpenOptions, Volume};
use vexfs_image::{Access, FileDevice};

/// Opens and locks an image that nobody uses.
///
/// # Errors
/// [`Failure::InUse`], and the host's.
pub fn device(path: &Path, access: Access) -> Result<FileDevice> {
    vexfs_image::open(path, access)?.unused().map_err(|user| Failure::in_use(path, &user))
}

/// Opens the filesystem on an image that nobody uses. For writing, what a crash left behind is cleared first.
///
/// # Errors
/// As [`device`], and what the engine finds.
pub fn volume(path: &Path, access: Access) -> Result<Volume<FileDevice>> {
    let device = device(path, access)?;
    let subject = path.display().to_string();
    let read_only = access == Access::Read;
    let options = OpenOptions { read_only, ..OpenOptions::default() };
    let mut volume = Volume::open(device, &options).map_err(Failure::engine(subject.as_str()))?;
    if !read_only {
        volume.evict_orphans(now()).map_err(Failure::engine(subject))?;
    }
    Ok(volume)
}

/// Opens the filesystem on an open image, to be read.
///
/// # Errors
/// What the engine finds.
pub fn volume_on(device: &FileDevice, name: &str) -> Result<Volume<FileDevice>> {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    Volume::open(device.clone(), &options).map_err(Failure::engine(name))
}

/// The current time.
pub fn now() -> vexfs::Time {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => vexfs::Time { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(before) => vexfs::Time { seconds: -(before.duration().as_secs() as i64), nanos: 0 },
    }
}
