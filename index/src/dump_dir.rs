// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A private temporary directory, for graphs that are dumped or loaded as files.
//!
//! Invariant: the directory is locked while it is used. One that is not locked was left by a
//! process that was killed, and the next process of the same user removes it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{FlockOperation, flock};

use crate::error::{IndexError, Result};

const PREFIX: &str = "vexfs-index-";
/// How often a new directory may be gone or locked before that is an error. A filesystem without
/// locks, or one that decides who owns a file, never gives a directory that can be locked.
const LOCKS_MAX: usize = 16;

/// A directory that only this user can open. It is removed with this value.
pub(crate) struct DumpDir {
    path: PathBuf,
    _lock: File,
}

impl DumpDir {
    /// Makes a directory in `parent`, and removes those that were left behind there.
    pub(crate) fn create(parent: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut refused = 0;
        loop {
            let nonce = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PREFIX}{}-{nonce}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                // Left by a killed process with the same process number: take the next name.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => {
                    return Err(IndexError::storage(format!("creating {}", path.display()))(error));
                }
            }
            // Before it is locked, another process may take it for one that was left behind.
            if let Some(lock) = try_lock(&path) {
                sweep(parent);
                return Ok(Self { path, _lock: lock });
            }
            let _ = fs::remove_dir(&path);
            refused += 1;
            if refused == LOCKS_MAX {
                let error = io::Error::from(io::ErrorKind::ResourceBusy);
                return Err(IndexError::storage(format!("locking {}", path.display()))(error));
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DumpDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Locks a directory of this user; `None` if it is locked, somebody else's, or gone.
fn try_lock(path: &Path) -> Option<File> {
    let directory = File::open(path).ok()?;
    let opened = directory.metadata().ok()?;
    if !opened.is_dir() || opened.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    let named = fs::symlink_metadata(path).ok()?;
    (named.ino() == opened.ino() && named.dev() == opened.dev()).then_some(directory)
}

/// Whether a directory of this name was made here: two numbers after the prefix.
fn is_ours(name: &OsStr) -> bool {
    let numbers = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(process, count)| digits(process) && digits(count))
}

/// Removes the directories that were left behind. What cannot be removed stays and does no harm.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if is_ours(&entry.file_name())
            && let Some(_lock) = try_lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dumps of a daemon that was killed were never removed.
    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_used_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let used = DumpDir::create(parent.path()).unwrap();
        fs::write(used.path().join("dump"), "x").unwrap();
        let left = parent.path().join(format!("{PREFIX}1-0"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("dump"), "x").unwrap();
        let other = parent.path().join("another-thing");
        fs::create_dir(&other).unwrap();

        let second = DumpDir::create(parent.path()).unwrap();
        assert!(!left.exists() && other.exists());
        assert!(used.path().join("dump").exists() && used.path() != second.path());
        drop((used, second));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    /// A user's directory whose name began like ours was removed with all that was in it.
    #[test]
    fn a_directory_that_only_begins_with_our_name_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["backup", "", "1", "1-", "-1", "1-x", "x-1", "1-0-2"] {
            fs::create_dir(parent.path().join(format!("{PREFIX}{name}"))).unwrap();
        }
        drop(DumpDir::create(parent.path()).unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 8);
    }
}
