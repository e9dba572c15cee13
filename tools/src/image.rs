// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Opening an image: its kind, its lock, its users.
//!
//! `vexfs-ublk` holds a lock on the open description of the image it serves; so does every tool
//! here, alone to write and shared to read. Opening changes nothing.

use crate::device::FileDevice;
use crate::failure::{Failure, Result, host_errno};
use crate::{sys, usage};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use vexfs::{OpenOptions, Volume};

/// What an image is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To look.
    Read,
    /// To change.
    Write,
}

/// An open image.
#[derive(Debug)]
pub struct Opened {
    /// The image.
    pub device: FileDevice,
    /// Who uses it, if anybody does.
    pub user: Option<String>,
    subject: String,
}

impl Opened {
    /// The image, if nobody uses it.
    ///
    /// # Errors
    /// [`Failure::InUse`].
    pub fn unused(self) -> Result<FileDevice> {
        match self.user {
            None => Ok(self.device),
            Some(by) => Err(Failure::InUse { subject: self.subject, by }),
        }
    }
}

/// Opens and locks the file or block device at `path`, and finds out who uses it.
///
/// # Errors
/// Where it does not exist, is of another kind, or may not be opened.
pub fn open(path: &Path, access: Access) -> Result<Opened> {
    let writing = access == Access::Write;
    let metadata = std::fs::metadata(path).map_err(Failure::host(path, "cannot be opened"))?;
    let block_device = metadata.file_type().is_block_device();
    if !block_device && !metadata.is_file() {
        let kind = if metadata.is_dir() { "a directory" } else { "a special file" };
        let path = path.display();
        return Err(Failure::Said(format!(
            "{path}: is {kind}; name an image file or a block device"
        )));
    }
    let flags = if writing { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    let mut user = usage::user_of(&metadata, writing);
    let mut held = false;
    // O_EXCL without O_CREAT refuses a block device that is mounted or held, by whomever.
    let exclusive = if block_device && writing { OFlags::EXCL } else { OFlags::empty() };
    let descriptor = match rustix::fs::open(path, flags | exclusive, Mode::empty()) {
        Err(Errno::BUSY) if block_device => {
            held = true;
            rustix::fs::open(path, flags, Mode::empty())
        }
        other => other,
    };
    let file = File::from(descriptor.map_err(host_errno(path, "cannot be opened"))?);
    if !sys::lock(&file, writing).map_err(Failure::host(path, "cannot be locked"))? {
        user = user.or_else(|| Some(usage::lock_holder(path)));
    }
    if held {
        let by = "the kernel or another program holds the device for itself";
        user = user.or_else(|| Some(by.to_owned()));
    }
    let device = FileDevice::new(file).map_err(Failure::host(path, "cannot be measured"))?;
    Ok(Opened { device, user, subject: path.display().to_string() })
}

/// Opens the filesystem of an unused image. For writing, what a crash left behind is cleared first.
///
/// # Errors
/// As [`open`]; [`Failure::InUse`]; and what the engine finds.
pub fn volume(path: &Path, access: Access) -> Result<Volume<FileDevice>> {
    let device = open(path, access)?.unused()?;
    let subject = path.display().to_string();
    let read_only = access == Access::Read;
    let options = OpenOptions { read_only, ..OpenOptions::default() };
    let mut volume = Volume::open(device, &options).map_err(Failure::engine(subject.as_str()))?;
    if !read_only {
        volume.evict_orphans(now()).map_err(Failure::engine(subject))?;
    }
    Ok(volume)
}

/// The time.
pub fn now() -> vexfs::Time {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => vexfs::Time { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(before) => vexfs::Time { seconds: -(before.duration().as_secs() as i64), nanos: 0 },
    }
}
