// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! For tests: a filesystem in a file, written by the engine as the kernel would write it through a
//! device, so that every completed write is marked.

use crate::dirty_log::DirtyLog;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vexfs::{
    Device, DeviceError, Ino, MkfsOptions, NewInode, OpenOptions, Time, VectorLayout, Volume, mkfs,
};
use vexfs_image::FileDevice;

/// A device that marks what is written to it.
pub struct Marked {
    file: File,
    bytes: u64,
    dirty_log: Arc<DirtyLog>,
}

impl Device for Marked {
    fn len_bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.file.read_exact_at(buf, at).map_err(|_| DeviceError::Io(libc::EIO))
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.file.write_all_at(data, at).map_err(|_| DeviceError::Io(libc::EIO))?;
        self.dirty_log.mark(at, data.len() as u64, false);
        Ok(())
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write(at, data)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.dirty_log.flushed();
        Ok(())
    }
}

static KEYS: AtomicU64 = AtomicU64::new(0);

/// The time of every change.
pub const NOW: Time = Time { seconds: 1_800_000_000, nanos: 0 };

/// For a filesystem of that length with blocks of 4096 bytes.
pub const fn mkfs_options(bytes: u64) -> MkfsOptions<'static> {
    MkfsOptions::new(bytes, [7; 16], [1; 16], NOW)
}

/// A mounted filesystem.
pub struct Mounted {
    /// The engine.
    pub volume: Volume<Marked>,
    /// What it has written.
    pub dirty_log: Arc<DirtyLog>,
}

impl Mounted {
    /// Formats the file and mounts it.
    pub fn format(path: &Path, bytes: u64, dirty_log: Arc<DirtyLog>) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let device = Marked { file, bytes, dirty_log: dirty_log.clone() };
        // A different key each time, as from mkfs.vexfs.
        let key = KEYS.fetch_add(1, Relaxed).to_le_bytes().repeat(2).try_into().unwrap();
        mkfs(&device, &MkfsOptions { hash_key: key, ..mkfs_options(bytes) }).unwrap();
        Self::mount(device, dirty_log)
    }

    fn mount(device: Marked, dirty_log: Arc<DirtyLog>) -> Self {
        let volume = Volume::open(device, &OpenOptions::default()).unwrap();
        Self { volume, dirty_log }
    }

    /// Mounts the filesystem in the file.
    pub fn open(path: &Path, bytes: u64, dirty_log: Arc<DirtyLog>) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        Self::mount(Marked { file, bytes, dirty_log: dirty_log.clone() }, dirty_log)
    }

    /// Makes a directory or a file.
    pub fn create(&mut self, dir: Ino, name: &str, mode: u32) -> Ino {
        let new = NewInode { mode, uid: 0, gid: 0, rdev: 0, target: &[], now: NOW };
        self.volume.resolve(|v| v.create(dir, name.as_bytes(), &new)).unwrap().ino
    }

    /// Makes a directory whose files are vector files.
    pub fn corpus(&mut self, name: &str, attribute: &str) -> Ino {
        let dir = self.create(Ino::ROOT, name, 0o040_755);
        let layout = VectorLayout::parse(attribute).unwrap();
        self.volume.resolve(|v| v.set_vector(dir, Some(&layout), NOW)).unwrap();
        dir
    }

    /// Writes into a file.
    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) {
        self.volume.write_at(ino, offset, data, NOW).unwrap();
    }

    /// Commits.
    pub fn commit(&mut self) {
        self.volume.commit(NOW).unwrap();
    }

    /// Removes a file and its contents.
    pub fn unlink(&mut self, dir: Ino, name: &str) {
        self.volume.resolve(|v| v.unlink(dir, name.as_bytes(), NOW)).unwrap();
        self.volume.evict_orphans(NOW).unwrap();
    }
}

/// The same file as the indexer reads it.
pub fn reader(path: &Path, bytes: u64) -> FileDevice {
    FileDevice::first_bytes(File::open(path).unwrap(), bytes).unwrap()
}

/// `f32` rows as bytes.
pub fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}
