// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The image as the daemon serves it: opened, locked and measured before a device is made of it.
//!
//! Opening it changes no byte of it. Whether it holds VexFS, and how long the filesystem is, is for the
//! engine to say. Nobody else uses the image as long as it is open: see [`vexfs_image`].

use crate::backend::Durability;
use crate::error::{Error, Result};
use crate::options::ImageOptions;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vexfs::{Device, Geometry, OpenOptions, Superblock, Volume};
use vexfs_image::{Access, FileDevice, Identity, User};

const LOGICAL_SHIFT_MIN: u8 = 9;
const LOGICAL_SHIFT_MAX: u8 = 12;

/// Memory aligned for direct I/O.
#[repr(C, align(4096))]
pub struct Page(pub [u8; 4096]);

/// An open, locked image.
pub struct Image {
    device: FileDevice,
    options: ImageOptions,
    exposed_bytes: u64,
    uuid: [u8; 16],
    logical_shift: u8,
    direct: bool,
    punch_hole: bool,
    identity: Identity,
    lost: AtomicBool,
    durability: Arc<Durability>,
}

impl Image {
    /// Opens, locks and measures the image.
    pub fn open(options: &ImageOptions) -> Result<Self> {
        let failed = |source| Error::Image { path: options.path.clone(), source };
        let path = std::fs::canonicalize(&options.path).map_err(failed)?;
        let failed = |source| Error::Image { path: path.clone(), source };
        let access = if options.read_only { Access::Read } else { Access::Write };
        let opened = vexfs_image::open(&path, access)?;
        let identity = opened.identity;
        let device = opened.unused().map_err(|user| in_use(&path, user))?;
        let bytes = device.len_bytes();
        if bytes == 0 {
            return Err(Error::ImageEmpty(path));
        }
        // Checkpoints may lie behind a filesystem; they are not part of the device.
        let (exposed_bytes, uuid) = if options.raw {
            (bytes, [0; 16])
        } else {
            let found = recognise(&device, options.read_only);
            let geometry = Geometry::of(&found.map_err(|error| Error::refused(&path, error))?);
            (geometry.len_bytes(), geometry.uuid)
        };
        let device_shift = if device.is_block_device() {
            block_device_shift(device.file())
        } else {
            LOGICAL_SHIFT_MIN
        };
        let direct_shift = if options.buffered { None } else { direct_shift(&path, exposed_bytes) };
        let logical_shift = device_shift.max(direct_shift.unwrap_or(0));
        let block = 1 << logical_shift;
        if !exposed_bytes.is_multiple_of(u64::from(block)) {
            return Err(Error::ImageLength { path, bytes, block });
        }
        if direct_shift.is_some() {
            set_direct(device.file()).map_err(failed)?;
        }
        let punch_hole = !options.read_only && can_punch(&device);
        Ok(Self {
            device,
            options: ImageOptions { path, ..options.clone() },
            exposed_bytes,
            uuid,
            logical_shift,
            direct: direct_shift.is_some(),
            punch_hole,
            identity,
            lost: AtomicBool::new(false),
            durability: Arc::default(),
        })
    }

    /// The descriptor that requests go to.
    pub fn file(&self) -> &File {
        self.device.file()
    }

    /// The canonical path.
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// Length of the part of it that a device exposes: the filesystem, or all of a raw image.
    pub fn exposed_bytes(&self) -> u64 {
        self.exposed_bytes
    }

    /// UUID of the filesystem when it was opened; zeroes of a raw image.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// `log2` of the device's logical block size.
    pub fn logical_shift(&self) -> u8 {
        self.logical_shift
    }

    /// Whether requests bypass the page cache.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.options.read_only
    }

    /// Whether it is served whatever it holds, so that the device is the whole image.
    pub fn raw(&self) -> bool {
        self.options.raw
    }

    /// Whether blocks can be given back.
    pub fn punch_hole(&self) -> bool {
        self.punch_hole
    }

    /// Whether the image is a block device.
    pub fn block_device(&self) -> bool {
        self.device.is_block_device()
    }

    /// Whether the image was found shrunk or replaced; every request fails from then on.
    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// What all queues must know of failed flushes.
    pub fn durability(&self) -> &Arc<Durability> {
        &self.durability
    }

    /// Checks that the image is still the file that was opened. Says what is wrong, and only once.
    pub fn check_identity(&self) -> Option<String> {
        if self.lost() || self.block_device() {
            return None;
        }
        // Only the device's part must stay: behind it are checkpoints, whose length changes.
        let opened_bytes = self.device.len_bytes();
        let bytes = self.file().metadata().map_or(opened_bytes, |metadata| metadata.len());
        let wrong = if bytes < self.exposed_bytes {
            format!("shrunk from {opened_bytes} to {bytes} bytes")
        } else {
            match Identity::at(self.path()) {
                Ok(identity) if identity != self.identity => "replaced by another file".to_owned(),
                _ => return None,
            }
        };
        self.lost.store(true, Ordering::Relaxed);
        Some(format!("{}: {wrong}: every request fails with EIO", self.path().display()))
    }

    /// The part that the device exposes, to be read by the engine.
    ///
    /// It reads through the page cache, which the queues' direct writes invalidate before they
    /// complete, so it sees every completed write.
    pub fn reader(&self) -> io::Result<FileDevice> {
        FileDevice::first_bytes(self.reopen(Access::Read)?, self.exposed_bytes)
    }

    /// Opens the same file once more, buffered. Not by its name, which may belong to another file by now.
    pub fn reopen(&self, access: Access) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", self.file().as_raw_fd());
        File::options().read(true).write(access == Access::Write).open(path)
    }
}

/// What the engine says of the filesystem on the image.
fn recognise(device: &FileDevice, read_only: bool) -> vexfs::Result<Superblock> {
    let superblock = vexfs::read_superblock(device)?;
    match Volume::open(device, &OpenOptions { read_only, cache_bytes: 0 }) {
        Err(error @ vexfs::Error::UnknownRoCompat(_)) => Err(error),
        // A missing root is no reason to refuse: a mkfs.vexfs on the device may be under way, and its
        // daemon must be able to come back.
        _ => Ok(superblock),
    }
}

fn in_use(path: &Path, user: User) -> Error {
    let path = path.to_owned();
    match user {
        User::Kernel(by) => Error::ImageInUse { path, by },
        User::Process(holder) => Error::ImageLocked { path, holder },
    }
}

/// Sets `O_DIRECT` on the open file description, so that the lock taken on it stays.
fn set_direct(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT)?)
}

fn block_device_shift(file: &File) -> u8 {
    let size = rustix::fs::ioctl_blksszget(file).unwrap_or(512).max(512);
    (size.trailing_zeros() as u8).clamp(LOGICAL_SHIFT_MIN, LOGICAL_SHIFT_MAX)
}

/// The smallest alignment with which a direct read works, found by reading.
fn direct_shift(path: &Path, bytes: u64) -> Option<u8> {
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let mut page = Box::new(Page([0; 4096]));
    [LOGICAL_SHIFT_MIN, LOGICAL_SHIFT_MAX].into_iter().find(|shift| {
        let size = 1usize << shift;
        let offset = size as u64;
        let fits = offset + size as u64 <= bytes && bytes.is_multiple_of(size as u64);
        fits && file.read_at(&mut page.0[..size], offset).is_ok_and(|n| n == size)
    })
}

/// Whether blocks can be given back; tried by punching a hole past the end, which changes nothing.
fn can_punch(device: &FileDevice) -> bool {
    use rustix::fs::FallocateFlags;
    if device.is_block_device() {
        return true;
    }
    let past = device.len_bytes().next_multiple_of(4096);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(device.file(), flags, past, 4096).is_ok()
}

#[cfg(test)]
mod tests;
