// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Opening an image: its kind, its lock, its users.
//!
//! An image in use is opened all the same and its user is named, because `fsck.vexfs -n` may look at
//! it; everybody else takes it only through [`Opened::unused`].

use crate::device::FileDevice;
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::lock::lock;
use crate::usage::{self, User};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// What an image is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only to read.
    Read,
    /// To read and write.
    Write,
}

/// An open image.
#[derive(Debug)]
pub struct Opened {
    /// The image. It is locked if nobody uses it.
    pub device: FileDevice,
    /// Who uses it, if anybody does.
    pub user: Option<User>,
    /// Which file it is.
    pub identity: Identity,
}

impl Opened {
    /// The image, if nobody uses it.
    ///
    /// # Errors
    /// Who uses it.
    pub fn unused(self) -> Result<FileDevice, User> {
        self.user.map_or(Ok(self.device), Err)
    }
}

/// Opens and locks the file or block device at `path`, and finds out who uses it.
///
/// # Errors
/// Where it does not exist, is of another kind, or cannot be opened, locked or measured.
pub fn open(path: &Path, access: Access) -> Result<Opened> {
    let failed = |failed| move |source| Error::Host { path: path.to_owned(), failed, source };
    let writing = access == Access::Write;
    let metadata = std::fs::metadata(path).map_err(failed("cannot be opened"))?;
    let block_device = metadata.file_type().is_block_device();
    if !block_device && !metadata.is_file() {
        let kind = if metadata.is_dir() { "a directory" } else { "a special file" };
        return Err(Error::Kind { path: path.to_owned(), kind });
    }
    let mut user = usage::kernel_user(&metadata, writing);
    let (file, held) = open_file(path, access, block_device).map_err(failed("cannot be opened"))?;
    if !lock(&file, writing).map_err(failed("cannot be locked"))? {
        user = user.or_else(|| Some(usage::lock_holder(path)));
    }
    if held {
        user = user.or_else(|| Some(User::exclusive()));
    }
    let device = FileDevice::new(file).map_err(failed("cannot be measured"))?;
    Ok(Opened { device, user, identity: Identity::of(&metadata) })
}

/// Opens the file. True if a block device was to be opened exclusively but is held by somebody else; it is
/// then open, but not exclusively.
fn open_file(path: &Path, access: Access, block_device: bool) -> io::Result<(File, bool)> {
    let mode = if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = mode | OFlags::CLOEXEC | OFlags::NOCTTY;
    let open = |flags| rustix::fs::open(path, flags, Mode::empty()).map(File::from);
    if block_device && access == Access::Write {
        // O_EXCL without O_CREAT refuses a block device that is mounted or held.
        match open(flags | OFlags::EXCL) {
            Err(Errno::BUSY) => return Ok((open(flags)?, true)),
            other => return Ok((other?, false)),
        }
    }
    Ok((open(flags)?, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_an_image_and_a_writer_is_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = |access| open(file.path(), access).unwrap();
        let reader = open(Access::Read).unused().unwrap();
        open(Access::Read).unused().unwrap();
        assert!(matches!(open(Access::Write).unused(), Err(User::Process(_))));
        drop(reader);
        let writer = open(Access::Write).unused().unwrap();
        let user = open(Access::Read).user.unwrap().to_string();
        assert!(user.ends_with("has it locked"), "{user}");
        drop(writer);
        open(Access::Write).unused().unwrap();
    }

    #[test]
    fn what_cannot_be_an_image_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let refused = |path: &Path| open(path, Access::Read).unwrap_err().to_string();
        assert!(refused(directory.path()).contains("is a directory"));
        assert!(refused(Path::new("/dev/null")).contains("is a special file"));
        assert!(refused(&directory.path().join("none")).contains("cannot be opened"));
    }
}
