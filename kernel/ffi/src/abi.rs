// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The structures that Rust and C share, and how a result of the engine becomes an errno and a report.

use core::ffi::c_void;
use core::fmt::{self, Write as _};
use core::mem::{align_of, size_of};
use vexfs::{Error, Inode, Mapping, MappingKind, Missing, Time};

/// Version of this interface; [`crate::volume::vexfs_rust_init`] refuses another one.
pub const ABI_VERSION: u32 = 5;

/// Nothing: the call succeeded, or its error is final.
pub const WANT_NOTHING: u32 = 0;
/// Fetch a block (`vexfs_rust_fetch_begin`), then call again.
pub const WANT_NODE: u32 = 1;
/// Commit the running transaction, then call again.
pub const WANT_COMMIT: u32 = 2;
/// Stop writing to the filesystem: it is damaged, or the engine has a bug. The message says which.
pub const WANT_READ_ONLY: u32 = 3;

/// A range that is stored nowhere and reads as zeroes.
pub const MAP_HOLE: u32 = 0;
/// Allocated blocks that read as zeroes until they are marked as written.
pub const MAP_UNWRITTEN: u32 = 1;
/// Allocated blocks that hold data.
pub const MAP_WRITTEN: u32 = 2;

/// `mark_written`: leave the size as it is.
pub const KEEP_SIZE: u64 = u64::MAX;

/// Bit of `vexfs_set_attrs.valid` for `mode`.
pub const ATTR_MODE: u32 = 1;
/// Bit for `uid`.
pub const ATTR_UID: u32 = 2;
/// Bit for `gid`.
pub const ATTR_GID: u32 = 4;
/// Bit for `atime`.
pub const ATTR_ATIME: u32 = 8;
/// Bit for `mtime`.
pub const ATTR_MTIME: u32 = 16;

/// `rename`: fail with `-EEXIST` if the new name is taken.
pub const RENAME_NOREPLACE: u32 = 1;
/// `rename`: exchange the two names.
pub const RENAME_EXCHANGE: u32 = 2;

/// `xattr_set`: fail with `-EEXIST` if the attribute exists.
pub const XATTR_CREATE: u32 = 1;
/// `xattr_set`: fail with `-ENODATA` if it does not.
pub const XATTR_REPLACE: u32 = 2;

/// What the host has to do after a call, and why the call failed. The library fills it in; its first contents do not matter.
#[repr(C)]
pub struct Report {
    /// One of the `VEXFS_WANT_*`.
    pub want: u32,
    /// Bytes of `message`, not counting the zero behind it; 0 unless there is something to say.
    pub message_len: u32,
    /// For `vexfs_rust_fetch_begin` alone.
    pub missing: [u64; 6],
    /// Text that ends in a zero.
    pub message: [u8; 160],
}

const _: () = assert!(
    size_of::<Missing>() <= size_of::<[u64; 6]>() && align_of::<Missing>() <= align_of::<u64>()
);

/// A point in time.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanos: u32,
    /// Zero.
    pub reserved: u32,
}

/// An inode's attributes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Attr {
    /// Its number.
    pub ino: u64,
    /// Of a directory: the one it is in.
    pub parent: u64,
    /// Bytes; of a directory, entries.
    pub size: u64,
    /// Blocks of the filesystem that it holds.
    pub blocks: u64,
    /// Grows with every change.
    pub version: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file, as `new_encode_dev`.
    pub rdev: u32,
    /// 1 if it has a vector attribute.
    pub vector: u32,
}

/// A name in a directory: bytes, 1 to 255 of them, without a slash or a zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NameAt {
    /// The directory.
    pub dir: u64,
    /// The name.
    pub name: *const u8,
    /// Its bytes.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
}

/// What a new inode is to be.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NewAttrs {
    /// Its four times.
    pub now: Timestamp,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file, as `new_encode_dev`.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: *const u8,
    /// Its bytes, 1 to 4095; 0 for everything else.
    pub target_len: u32,
    /// Zero.
    pub reserved: u32,
}

/// Attributes to change.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SetAttrs {
    /// Which of the fields below count, as `VEXFS_ATTR_*`. `ctime` always does.
    pub valid: u32,
    /// Type and permissions; the type must be the inode's.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
}

/// A range of a file and where it lives.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Extent {
    /// First block of the file.
    pub start: u64,
    /// Blocks, at least 1.
    pub count: u64,
    /// First block of the device, unless it is a hole.
    pub block: u64,
    /// One of the `VEXFS_MAP_*`.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

/// The head of one record that `readdir` packs into its buffer; the name follows, and then zeroes
/// up to a multiple of 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct DirRecord {
    /// The inode.
    pub ino: u64,
    /// Where to go on after this entry.
    pub cookie: u64,
    /// Bytes of this record, padding included.
    pub record_len: u16,
    /// Bytes of the name.
    pub name_len: u16,
    /// Its `DT_*`.
    pub file_type: u32,
}

/// Figures of the filesystem.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Figures {
    /// Blocks of the filesystem.
    pub blocks: u64,
    /// Blocks nothing uses.
    pub blocks_free: u64,
    /// Blocks that file data may take.
    pub blocks_available: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Longest name of an entry in bytes.
    pub name_max: u32,
    /// UUID.
    pub uuid: [u8; 16],
    /// Label, padded with zeroes.
    pub label: [u8; 64],
}

/// Where a volume stands.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct State {
    /// Newest generation that is durable.
    pub durable: u64,
    /// Generation that is being built.
    pub running: u64,
    /// Tree nodes in memory.
    pub cached_nodes: u64,
    /// Inodes without a name and truncations that were cut short.
    pub orphans: u64,
    /// Number of the next inode that is made; none is used twice.
    pub next_ino: u64,
    /// 1 if something changed since the last commit was begun.
    pub dirty: u32,
    /// 1 once a failure stopped the volume.
    pub dead: u32,
    /// 1 if changes are refused.
    pub read_only: u32,
    /// Zero.
    pub reserved: u32,
}

/// One write of a batch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WriteRequest {
    /// Byte of the device.
    pub at: u64,
    /// The data.
    pub data: *const u8,
    /// Bytes, a multiple of 512.
    pub len: usize,
}

/// A device, as a host hands it over: three functions that may sleep, answer 0 or a negative errno, and may be
/// called side by side. Offsets and lengths are multiples of 512.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostDevice {
    /// Handed to every function.
    pub ctx: *mut c_void,
    /// Bytes of the device.
    pub len_bytes: u64,
    /// `read(ctx, at, buf, len)`
    pub read: Option<unsafe extern "C" fn(*mut c_void, u64, *mut u8, usize) -> i32>,
    /// `write(ctx, requests, count, fua)`: all of them, in any order; if `fua`, durable on return.
    pub write: Option<unsafe extern "C" fn(*mut c_void, *const WriteRequest, usize, bool) -> i32>,
    /// `flush(ctx)`: makes every completed write durable.
    pub flush: Option<unsafe extern "C" fn(*mut c_void) -> i32>,
}

/// How to format a device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FormatOptions {
    /// Bytes of the filesystem, at most the device's.
    pub bytes: u64,
    /// When it is made.
    pub now: Timestamp,
    /// Bytes of a block: a power of two from 4096 to 65536.
    pub block_bytes: u32,
    /// Owner of the root directory.
    pub root_uid: u32,
    /// Group of the root directory.
    pub root_gid: u32,
    /// Bytes of `label` that count, at most 64.
    pub label_len: u32,
    /// UUID.
    pub uuid: [u8; 16],
    /// Secret key of the hash of names.
    pub hash_key: [u8; 16],
    /// Label.
    pub label: [u8; 64],
}

/// Shape of a vector file.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct VectorShape {
    /// Whole vectors in the file.
    pub slots: u64,
    /// Bytes before the first record.
    pub header: u64,
    /// Bytes from one record to the next.
    pub stride: u32,
    /// Bytes from a record's start to its vector.
    pub offset: u32,
    /// Bytes of a vector.
    pub vector_bytes: u32,
    /// Numbers in a vector.
    pub dim: u32,
}

/// One result of a search.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct VectorHit {
    /// Ordinal of the vector in its file.
    pub slot: u64,
    /// The distance as the bits of an IEEE single; the kernel has no floating point.
    pub distance_bits: u32,
    /// Zero.
    pub reserved: u32,
}

/// Why a call failed: an argument, or an error of the engine.
pub(crate) enum Refusal {
    Errno(i32),
    Engine(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

/// `EFAULT`
pub(crate) const FAULT: Refusal = Refusal::Errno(14);
/// `EINVAL`
pub(crate) const INVALID: Refusal = Refusal::Errno(22);
/// `ERANGE`
pub(crate) const RANGE: Refusal = Refusal::Errno(34);

pub(crate) type Answer<T = ()> = Result<T, Refusal>;

/// A line of text in a buffer, which it does not outgrow.
pub(crate) struct Line<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) len: usize,
}

impl fmt::Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Cut where it is full; the last byte stays zero.
        let room = self.bytes.len().saturating_sub(1).saturating_sub(self.len);
        let text = text.as_bytes();
        let text = text.get(..room.min(text.len())).unwrap_or_default();
        if let Some(target) = self.bytes.get_mut(self.len..self.len + text.len()) {
            target.copy_from_slice(text);
            self.len += text.len();
        }
        Ok(())
    }
}

/// What the host has to do about an error, and whether the log gets its text. Ordinary errors are told by their number
/// alone: formatting takes time.
const fn reaction(error: &Error) -> (u32, bool) {
    match error {
        Error::Miss(_) => (WANT_NODE, false),
        Error::NeedCommit => (WANT_COMMIT, false),
        Error::Corrupt(_) | Error::NoRoot | Error::Bug(_) => (WANT_READ_ONLY, true),
        Error::Device(_)
        | Error::NotVexfs
        | Error::Truncated { .. }
        | Error::UnknownIncompat(_)
        | Error::UnknownRoCompat(_)
        | Error::UnknownVersion(_)
        | Error::BlockSize(_)
        | Error::Invalid(_) => (WANT_NOTHING, true),
        _ => (WANT_NOTHING, false),
    }
}

impl Report {
    fn fill(&mut self, error: &Error) {
        let (want, tell) = reaction(error);
        self.want = want;
        if let Error::Miss(missing) = error {
            let place: *mut Missing = self.missing.as_mut_ptr().cast();
            // SAFETY: the words are large and aligned enough (asserted above), and exclusively borrowed.
            unsafe { place.write(*missing) };
        }
        if tell {
            self.message = [0; 160];
            let mut line = Line { bytes: &mut self.message, len: 0 };
            // Cannot fail: what does not fit is cut off.
            let _ = write!(line, "{error}");
            self.message_len = line.len as u32;
        }
    }

    /// What the call before missed.
    pub(crate) fn missing(&self) -> Option<Missing> {
        if self.want != WANT_NODE {
            return None;
        }
        let place: *const Missing = self.missing.as_ptr().cast();
        // SAFETY: `want` says that `fill` wrote a value here, and rule 6 that it is still there.
        Some(unsafe { place.read() })
    }
}

/// Runs a call and turns its outcome into an errno and a report. Only for the report of an exported function's caller.
pub(crate) fn answer(report: *mut Report, call: impl FnOnce() -> Answer) -> i32 {
    // SAFETY: rule 2 for `report`, which its exported function hands on and does not touch meanwhile.
    let Some(report) = (unsafe { report.as_mut() }) else { return -14 };
    match call() {
        Ok(()) => {
            report.want = WANT_NOTHING;
            report.message_len = 0;
            0
        }
        Err(Refusal::Errno(errno)) => {
            report.want = WANT_NOTHING;
            report.message_len = 0;
            -errno
        }
        Err(Refusal::Engine(error)) => {
            report.message_len = 0;
            report.fill(&error);
            -error.errno()
        }
    }
}

/// As [`answer`], for calls that have nothing to report.
pub(crate) fn plain(call: impl FnOnce() -> Answer) -> i32 {
    match call() {
        Ok(()) => 0,
        Err(Refusal::Errno(errno)) => -errno,
        Err(Refusal::Engine(error)) => -error.errno(),
    }
}

impl From<Timestamp> for Time {
    fn from(time: Timestamp) -> Self {
        Self { seconds: time.seconds, nanos: time.nanos.min(999_999_999) }
    }
}

impl From<Time> for Timestamp {
    fn from(time: Time) -> Self {
        Self { seconds: time.seconds, nanos: time.nanos.min(999_999_999), reserved: 0 }
    }
}

impl From<&Inode> for Attr {
    fn from(inode: &Inode) -> Self {
        Self {
            ino: inode.ino.0,
            parent: inode.parent.0,
            size: inode.size,
            blocks: inode.blocks,
            version: inode.version,
            atime: inode.atime.into(),
            mtime: inode.mtime.into(),
            ctime: inode.ctime.into(),
            btime: inode.btime.into(),
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            vector: u32::from(inode.vector),
        }
    }
}

impl From<Mapping> for Extent {
    fn from(mapping: Mapping) -> Self {
        let (kind, block) = match mapping.kind {
            MappingKind::Hole => (MAP_HOLE, 0),
            MappingKind::Unwritten(block) => (MAP_UNWRITTEN, block.0),
            MappingKind::Written(block) => (MAP_WRITTEN, block.0),
        };
        Self { start: mapping.start.0, count: mapping.count, block, kind, reserved: 0 }
    }
}
