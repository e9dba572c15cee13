// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A scratch directory and the three programs, for the tests of all of them.

// Each test program uses a part of this.
#![allow(dead_code, missing_docs)]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;
use vexfs::Volume;
use vexfs_image::{Access, FileDevice};

pub const MKFS: &str = env!("CARGO_BIN_EXE_mkfs-vexfs");
pub const FSCK: &str = env!("CARGO_BIN_EXE_fsck-vexfs");
pub const VEXFS: &str = env!("CARGO_BIN_EXE_vexfs");

/// Held from a program's fork to its exec, and while a lock on an image is given up: until it execs, a new
/// process has this one's descriptors, those of other tests too, and a lock ends with the last of them.
static STARTING: Mutex<()> = Mutex::new(());

/// Drops what holds a lock on an image, so that the lock ends now.
pub fn give_up<T>(held: T) {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    drop(held);
}

/// What a program did.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Asserts that it failed with `code` and printed one line with all of `words`.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        let mut lines = self.err.lines();
        let last = lines.next_back().unwrap_or_default();
        for word in words {
            assert!(last.contains(word), "'{word}' is missing: {self:#?}");
        }
        assert_eq!(lines.count(), 0, "more than one line: {self:#?}");
        self
    }
}

pub struct Lab(pub TempDir);

impl Lab {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A directory with a new filesystem `a.img`.
    pub fn with_image(size: &str) -> Self {
        let lab = Self::new();
        lab.run(MKFS, ["-L", "test", "a.img", size]).ok();
        lab
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn run<S: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Run {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = {
            let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
            command.spawn().unwrap()
        };
        let done = child.wait_with_output().unwrap();
        Run {
            code: done.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&done.stdout).into_owned(),
            err: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    pub fn vexfs(&self, args: &str) -> Run {
        self.run(VEXFS, args.split(' '))
    }

    pub fn mkfs(&self, args: &str) -> Run {
        self.run(MKFS, args.split(' '))
    }

    pub fn fsck(&self, args: &str) -> Run {
        self.run(FSCK, args.split(' '))
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Changes one byte of a file.
    pub fn flip(&self, name: &str, at: u64) {
        let file = File::options().read(true).write(true).open(self.path(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    }

    /// Changes an image with the engine.
    pub fn with_volume(&self, name: &str, change: impl FnOnce(&mut Volume<FileDevice>)) {
        let mut volume = vexfs_tools::image::volume(&self.path(name), Access::Write).unwrap();
        change(&mut volume);
        give_up(volume);
    }

    pub fn write(&self, name: &str, data: &[u8]) {
        std::fs::write(self.path(name), data).unwrap();
    }
}

/// A lock on an image.
pub struct Held(Option<File>);

impl Drop for Held {
    fn drop(&mut self) {
        give_up(self.0.take());
    }
}

/// Locks a file as the daemon that serves it does, until the result is dropped.
pub fn hold(path: &Path, alone: bool) -> Held {
    let file = File::options().read(true).write(true).open(path).unwrap();
    assert!(vexfs_image::lock(&file, alone).unwrap());
    Held(Some(file))
}

/// Bytes that are allocated for a file.
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.metadata().unwrap().blocks() * 512
}
