// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The image: opened, locked, measured and recognised before a device is made of it.
//!
//! An image that was opened for writing carries an open-file-description lock until the last
//! descriptor is closed, so no two servers ever write one image. Nothing here changes a byte
//! of the image. What the bytes mean beyond the superblock is the engine's business.

use crate::error::{Error, Result};
use crate::layer::Durability;
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vexfs_format::superblock::{SUPER_MAGIC, SUPER_OFFSET, Superblock};
use vexfs_tools::usage;
use zerocopy::FromBytes;

const LOGICAL_SHIFT_MIN: u8 = 9;
const LOGICAL_SHIFT_MAX: u8 = 12;

/// Memory aligned for direct I/O.
#[repr(C, align(4096))]
pub struct Page(pub [u8; 4096]);

/// How an image is to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageOptions {
    /// Serve it without looking into it.
    pub raw: bool,
    /// Never write it.
    pub read_only: bool,
    /// Never use direct I/O.
    pub buffered: bool,
}

/// What the superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recognised {
    /// Identity of the filesystem.
    pub uuid: [u8; 16],
    /// Its length in bytes.
    pub bytes: u64,
}

/// An open, locked image.
// Each is a fact of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct Image {
    file: File,
    path: PathBuf,
    bytes: u64,
    exposed_bytes: u64,
    logical_shift: u8,
    direct: bool,
    block_device: bool,
    read_only: bool,
    raw: bool,
    punch_hole: bool,
    identity: (u64, u64),
    lost: AtomicBool,
    durability: Arc<Durability>,
}

impl Image {
    /// Opens, locks and measures the image.
    pub fn open(path: &Path, options: ImageOptions) -> Result<Self> {
        let failed = |source| Error::Image { path: path.to_owned(), source };
        let path = std::fs::canonicalize(path).map_err(failed)?;
        let path = path.as_path();
        let failed = |source: std::io::Error| Error::Image { path: path.to_owned(), source };
        let probe = std::fs::metadata(path).map_err(failed)?;
        let block_device = match FileType::from_raw_mode(probe.mode()) {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            _ => return Err(Error::ImageKind(path.to_owned())),
        };
        if let Some(by) = usage::user_of(&probe, !options.read_only) {
            return Err(Error::ImageInUse { path: path.to_owned(), by });
        }
        let opened = open(path, options.read_only, block_device, OFlags::empty());
        let plain = opened.map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) if block_device => locked(path),
            _ => failed(source),
        })?;
        let bytes = length(&plain).map_err(failed)?;
        if bytes == 0 {
            return Err(Error::ImageEmpty(path.to_owned()));
        }
        lock(&plain, path, options.read_only)?;

        // What lies past a filesystem is not exposed and may have any length.
        let exposed_bytes = if options.raw {
            bytes
        } else {
            recognise(&plain, bytes)
                .map_err(|why| Error::NotVexfs { path: path.to_owned(), why })?
                .bytes
        };
        let device_shift =
            if block_device { block_device_shift(&plain) } else { LOGICAL_SHIFT_MIN };
        let direct_shift = if options.buffered { None } else { direct_shift(path, exposed_bytes) };
        let (logical_shift, direct) = match direct_shift {
            Some(shift) => (shift.max(device_shift), true),
            None => (device_shift, false),
        };
        if exposed_bytes % (1 << logical_shift) != 0 {
            let block = 1 << logical_shift;
            return Err(Error::ImageLength { path: path.to_owned(), bytes, block });
        }
        let file = if direct { set_direct(plain).map_err(failed)? } else { plain };
        let punch_hole = !options.read_only && can_punch(&file, bytes, block_device);
        Ok(Self {
            identity: (probe.dev(), probe.ino()),
            path: path.to_owned(),
            file,
            bytes,
            exposed_bytes,
            logical_shift,
            direct,
            block_device,
            read_only: options.read_only,
            raw: options.raw,
            punch_hole,
            lost: AtomicBool::new(false),
            durability: Arc::default(),
        })
    }

    /// The descriptor requests go to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the device made of it.
    pub fn exposed_bytes(&self) -> u64 {
        self.exposed_bytes
    }

    /// `log2` of the device's logical block.
    pub fn logical_shift(&self) -> u8 {
        self.logical_shift
    }

    /// Whether requests bypass the page cache.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether it is served without looking into it, so that the device is the whole image.
    pub fn raw(&self) -> bool {
        self.raw
    }

    /// Whether blocks can be given back.
    pub fn punch_hole(&self) -> bool {
        self.punch_hole
    }

    /// Whether the image was found shrunk or replaced; every request fails from then on.
    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// What its queues share of how flushes went.
    pub fn durability(&self) -> &Arc<Durability> {
        &self.durability
    }

    /// Looks whether the image is still what was opened; says once what is wrong.
    pub fn check_identity(&self) -> Option<String> {
        if self.lost() || self.block_device {
            return None;
        }
        // What lies past the device is checkpoints, which come and go.
        let now = length(&self.file).unwrap_or(self.bytes);
        let wrong = if now < self.exposed_bytes {
            format!("shrunk from {} to {now} bytes", self.bytes)
        } else {
            match std::fs::metadata(&self.path) {
                Ok(at) if (at.dev(), at.ino()) != self.identity => {
                    "replaced by another file".to_owned()
                }
                _ => return None,
            }
        };
        self.lost.store(true, Ordering::Relaxed);
        Some(format!("{}: {wrong}: every request fails with EIO", self.path.display()))
    }

    /// Length of the image, with what lies past the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the image is a block device.
    pub fn block_device(&self) -> bool {
        self.block_device
    }

    /// Opens the same image once more, buffered and for reading, for those who look at its
    /// contents. Never by its name, which may stand for another file by now.
    pub fn open_reader(&self) -> std::io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Opens the same image once more, buffered and for writing, for what lies past the device.
    pub fn open_writer(&self) -> std::io::Result<File> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        File::options().read(true).write(true).open(path)
    }

    /// What the superblock says at this moment.
    pub fn recognise(&self) -> std::result::Result<Recognised, String> {
        let reader = self.open_reader().map_err(|e| e.to_string())?;
        recognise(&reader, self.bytes)
    }
}

fn open(path: &Path, read_only: bool, block: bool, extra: OFlags) -> std::io::Result<File> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    // O_EXCL without O_CREAT refuses a block device that is mounted or held.
    let exclusive = if block && !read_only { OFlags::EXCL } else { OFlags::empty() };
    let flags = access | exclusive | extra | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd: OwnedFd = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(File::from(fd))
}

/// Sets `O_DIRECT` on the open description, so that the lock taken on it stays.
fn set_direct(file: File) -> std::io::Result<File> {
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags | OFlags::DIRECT)?;
    Ok(file)
}

fn length(file: &File) -> std::io::Result<u64> {
    Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?)
}

fn block_device_shift(file: &File) -> u8 {
    let size = rustix::fs::ioctl_blksszget(file).unwrap_or(512).max(512);
    (size.trailing_zeros() as u8).clamp(LOGICAL_SHIFT_MIN, LOGICAL_SHIFT_MAX)
}

/// The smallest alignment with which a direct read works, found by reading.
fn direct_shift(path: &Path, bytes: u64) -> Option<u8> {
    let file = open(path, true, false, OFlags::DIRECT).ok()?;
    let mut page = Box::new(Page([0; 4096]));
    [LOGICAL_SHIFT_MIN, LOGICAL_SHIFT_MAX].into_iter().find(|shift| {
        let size = 1usize << shift;
        let offset = size as u64;
        let fits = offset + size as u64 <= bytes && bytes.is_multiple_of(size as u64);
        fits && file.read_at(&mut page.0[..size], offset).is_ok_and(|n| n == size)
    })
}

/// Whether the filesystem takes a hole punched past the end, which changes nothing.
fn can_punch(file: &File, bytes: u64, block_device: bool) -> bool {
    use rustix::fs::FallocateFlags;
    if block_device {
        return true;
    }
    let past = bytes.next_multiple_of(4096);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, past, 4096).is_ok()
}

fn recognise(file: &File, bytes: u64) -> std::result::Result<Recognised, String> {
    let mut sector = [0u8; 512];
    file.read_exact_at(&mut sector, SUPER_OFFSET).map_err(|e| format!("superblock: {e}"))?;
    let block = Superblock::read_from_bytes(&sector).map_err(|_| "superblock".to_owned())?;
    if block.magic != SUPER_MAGIC {
        return Err("no superblock at byte 1024".to_owned());
    }
    if block.crc.get() != block.checksum() {
        return Err(
            "its superblock at byte 1024 has a wrong checksum; fsck.vexfs can tell more".into()
        );
    }
    let shift = block.block_shift.get();
    let length = block.blocks.get().checked_mul(1u64.checked_shl(shift).unwrap_or(0)).unwrap_or(0);
    if length == 0 || length > bytes {
        return Err(format!("truncated: {bytes} bytes of a filesystem of {length}"));
    }
    Ok(Recognised { uuid: block.uuid, bytes: length })
}

/// Locks the whole image, shared for a reader.
fn lock(file: &File, path: &Path, read_only: bool) -> Result<()> {
    let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
    // SAFETY: `flock` is a plain C struct for which all-zero bytes are a valid value.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: F_OFD_SETLK reads a `flock` from the pointer, which outlives the call, and
    // `file` keeps the descriptor open.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if done == 0 {
        return Ok(());
    }
    let source = std::io::Error::last_os_error();
    match source.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(locked(path)),
        _ => Err(Error::Image { path: path.to_owned(), source }),
    }
}

/// Somebody else has it, and who.
fn locked(path: &Path) -> Error {
    Error::ImageLocked { path: path.to_owned(), holder: usage::lock_holder(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;
    use zerocopy::little_endian::{U32, U64};

    const RAW: ImageOptions = ImageOptions { raw: true, read_only: false, buffered: false };

    fn image(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    fn superblock(blocks: u64) -> Superblock {
        let mut block = Superblock::read_from_bytes(&[0u8; 512]).unwrap();
        block.magic = SUPER_MAGIC;
        block.block_shift = U32::new(12);
        block.blocks = U64::new(blocks);
        block.uuid = [7; 16];
        block.sealed()
    }

    #[test]
    fn a_second_writer_is_refused_and_told_who_has_it() {
        let file = image(1 << 20);
        let first = Image::open(file.path(), RAW).unwrap();
        let error = Image::open(file.path(), RAW).err().unwrap();
        assert!(matches!(error, Error::ImageLocked { .. }), "{error}");
        drop(first);
        Image::open(file.path(), RAW).unwrap();
    }

    #[test]
    fn two_readers_share_an_image() {
        let file = image(1 << 20);
        let options = ImageOptions { read_only: true, ..RAW };
        let _first = Image::open(file.path(), options).unwrap();
        Image::open(file.path(), options).unwrap();
        assert!(matches!(Image::open(file.path(), RAW), Err(Error::ImageLocked { .. })));
    }

    #[test]
    fn lengths_and_kinds_that_cannot_be_served_are_refused_by_name() {
        let odd = image((1 << 20) + 100);
        let error = Image::open(odd.path(), RAW).err().unwrap().to_string();
        assert!(error.contains("1048676 bytes") && error.contains("512"), "{error}");
        let empty = image(0);
        assert!(matches!(Image::open(empty.path(), RAW), Err(Error::ImageEmpty(_))));
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Image::open(directory.path(), RAW), Err(Error::ImageKind(_))));
        let missing = directory.path().join("none");
        assert!(matches!(Image::open(&missing, RAW), Err(Error::Image { .. })));
    }

    #[test]
    fn an_image_that_is_not_vexfs_needs_raw_until_it_is_formatted() {
        let file = image(1 << 20);
        let strict = ImageOptions { raw: false, ..RAW };
        let error = Image::open(file.path(), strict).err().unwrap().to_string();
        assert!(error.contains("not a VexFS image") && error.contains("--raw"), "{error}");
        let raw = Image::open(file.path(), RAW).unwrap();
        assert!(raw.recognise().is_err());
        file.as_file().write_all_at(superblock(200).as_bytes(), SUPER_OFFSET).unwrap();
        assert_eq!(raw.recognise().unwrap().uuid, [7; 16]);
        drop(raw);
        assert_eq!(Image::open(file.path(), strict).unwrap().exposed_bytes(), 200 * 4096);
    }

    #[test]
    fn damaged_and_truncated_filesystems_are_named() {
        let file = image(1 << 20);
        let strict = ImageOptions { raw: false, ..RAW };
        let mut bytes = superblock(256).as_bytes().to_vec();
        bytes[100] ^= 1;
        file.as_file().write_all_at(&bytes, SUPER_OFFSET).unwrap();
        let error = Image::open(file.path(), strict).err().unwrap().to_string();
        assert!(error.contains("wrong checksum"), "{error}");
        file.as_file().write_all_at(superblock(257).as_bytes(), SUPER_OFFSET).unwrap();
        let error = Image::open(file.path(), strict).err().unwrap().to_string();
        assert!(error.contains("truncated"), "{error}");
    }

    #[test]
    fn a_shrunk_or_replaced_image_is_noticed_once() {
        let file = image(1 << 20);
        let open = Image::open(file.path(), RAW).unwrap();
        assert_eq!(open.check_identity(), None);
        file.as_file().set_len(4096).unwrap();
        assert!(open.check_identity().unwrap().contains("shrunk"));
        assert!(open.lost() && open.check_identity().is_none());

        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a"), directory.path().join("b"));
        for path in [&path, &other] {
            File::create(path).unwrap().set_len(1 << 20).unwrap();
        }
        let open = Image::open(&path, RAW).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(open.check_identity().unwrap().contains("replaced"));
    }

    // A smaller checkpoint shortens the image's tail, of which the device knows nothing; the image
    // was taken for a shrunk one, and every request failed.
    #[test]
    fn an_image_whose_tail_of_checkpoints_becomes_shorter_is_not_lost() {
        let file = image(1 << 20);
        file.as_file().write_all_at(superblock(200).as_bytes(), SUPER_OFFSET).unwrap();
        let open = Image::open(file.path(), ImageOptions { raw: false, ..RAW }).unwrap();
        file.as_file().set_len(200 * 4096 + 8192).unwrap();
        assert_eq!(open.check_identity(), None);
        file.as_file().set_len(200 * 4096 - 1).unwrap();
        assert!(open.check_identity().unwrap().contains("shrunk"));
    }
}
