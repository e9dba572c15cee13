// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! For tests: a filesystem in a file, written by the engine as a kernel would write it through a
//! device, so that every completed write is marked.

use super::reader::ImageReader;
use crate::observe::DirtyLog;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vexfs::{
    Device, DeviceError, Ino, MkfsOptions, NewInode, OpenOptions, Time, VectorLayout, Volume, mkfs,
};

/// The device that a mount would write to.
pub struct Marked {
    file: File,
    bytes: u64,
    observer: Arc<DirtyLog>,
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
        self.observer.mark(at, data.len() as u64, false);
        Ok(())
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write(at, data)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.observer.flushed();
        Ok(())
    }
}

static KEYS: AtomicU64 = AtomicU64::new(0);

/// The time of every change.
pub const NOW: Time = Time { seconds: 1_800_000_000, nanos: 0 };

/// A mounted filesystem.
pub struct Mounted {
    /// The engine.
    pub volume: Volume<Marked>,
    /// What it marks.
    pub observer: Arc<DirtyLog>,
}

impl Mounted {
    /// Formats the file and mounts it.
    pub fn format(path: &Path, bytes: u64, observer: Arc<DirtyLog>) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let device = Marked { file, bytes, observer: observer.clone() };
        let options = MkfsOptions {
            bytes,
            block_bytes: 4096,
            label: b"test",
            uuid: [7; 16],
            // Another one each time, as from mkfs.vexfs.
            hash_key: KEYS.fetch_add(1, Relaxed).to_le_bytes().repeat(2).try_into().unwrap(),
            now: NOW,
            root_uid: 0,
            root_gid: 0,
        };
        mkfs(&device, &options).unwrap();
        Self::mount(device, observer)
    }

    fn mount(device: Marked, observer: Arc<DirtyLog>) -> Self {
        let volume = Volume::open(device, &OpenOptions::default()).unwrap();
        Self { volume, observer }
    }

    /// Mounts what is in the file.
    pub fn open(path: &Path, bytes: u64, observer: Arc<DirtyLog>) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        Self::mount(Marked { file, bytes, observer: observer.clone() }, observer)
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

    /// Removes a file and what it held.
    pub fn unlink(&mut self, dir: Ino, name: &str) {
        self.volume.resolve(|v| v.unlink(dir, name.as_bytes(), NOW)).unwrap();
        self.volume.evict_orphans(NOW).unwrap();
    }
}

/// The same file as a follower reads it.
pub fn reader(path: &Path, bytes: u64) -> ImageReader {
    ImageReader::new(File::open(path).unwrap(), bytes)
}

/// `f32` rows as bytes.
pub fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}
