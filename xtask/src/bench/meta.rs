// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Operations on many small files, counted per second.
//!
//! Each function works through all files once and returns the rate. Only system calls happen
//! between the two readings of the clock.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// Files in one directory.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    old: Vec<PathBuf>,
    new: Vec<PathBuf>,
}

/// Operations per second.
pub type Rate = f64;

fn rate(count: usize, began: Instant) -> Rate {
    count as f64 / began.elapsed().as_secs_f64()
}

impl Files {
    /// Makes a directory, and the names of `count` files that are made later.
    pub fn new(dir: &Path, count: usize) -> Result<Self> {
        fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let names = |prefix: &str| {
            (0..count).map(|number| dir.join(format!("{prefix}-{number:06}.dat"))).collect()
        };
        Ok(Self { dir: dir.to_owned(), old: names("file"), new: names("renamed") })
    }

    /// Creates empty files.
    pub fn create(&self) -> Result<Rate> {
        let began = Instant::now();
        for path in &self.old {
            File::create_new(path)?;
        }
        Ok(rate(self.old.len(), began))
    }

    /// Creates files of 4 KiB.
    pub fn create_written(&self) -> Result<Rate> {
        let data = [0x42_u8; 4096];
        let began = Instant::now();
        for path in &self.old {
            File::create_new(path)?.write_all(&data)?;
        }
        Ok(rate(self.old.len(), began))
    }

    /// Calls `stat` on every file, in another order than they were made in.
    pub fn stat(&self) -> Result<Rate> {
        let count = self.old.len();
        // Visits every file once, as long as the count is not a multiple of it.
        let step = 1_009;
        ensure!(!count.is_multiple_of(step), "a count of files that the step divides");
        let began = Instant::now();
        let mut at = 0;
        for _ in 0..count {
            at = (at + step) % count;
            black_box(fs::symlink_metadata(&self.old[at])?);
        }
        Ok(rate(count, began))
    }

    /// Lists the directory.
    pub fn list(&self) -> Result<Rate> {
        let began = Instant::now();
        let mut seen = 0;
        for entry in fs::read_dir(&self.dir)? {
            black_box(entry?.file_name());
            seen += 1;
        }
        ensure!(seen == self.old.len(), "{seen} of {} files are listed", self.old.len());
        Ok(rate(seen, began))
    }

    /// Renames each file within the directory.
    pub fn rename(&self) -> Result<Rate> {
        let began = Instant::now();
        for (old, new) in self.old.iter().zip(&self.new) {
            fs::rename(old, new)?;
        }
        Ok(rate(self.old.len(), began))
    }

    /// Removes all files, after [`Files::rename`].
    pub fn unlink(&self) -> Result<Rate> {
        let began = Instant::now();
        for path in &self.new {
            fs::remove_file(path)?;
        }
        Ok(rate(self.new.len(), began))
    }
}

/// Makes directories of a hundred files of 8 KiB each, then syncs once.
pub fn tree_and_sync(dir: &Path, files: usize) -> Result<Rate> {
    let data = [0x17_u8; 8192];
    let began = Instant::now();
    fs::create_dir(dir)?;
    for number in 0..files {
        let folder = dir.join(format!("folder-{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir(&folder)?;
        }
        File::create_new(folder.join(format!("file-{number}")))?.write_all(&data)?;
    }
    rustix::fs::syncfs(File::open(dir)?)?;
    Ok(rate(files, began))
}

/// Appends 4 KiB to one file again and again, each time with an fsync.
pub fn append_and_fsync(path: &Path, times: usize) -> Result<Rate> {
    let mut file = OpenOptions::new().create_new(true).append(true).open(path)?;
    let data = [0x33_u8; 4096];
    let began = Instant::now();
    for _ in 0..times {
        file.write_all(&data)?;
        file.sync_all()?;
    }
    Ok(rate(times, began))
}

#[cfg(test)]
mod tests {
    use super::{Files, append_and_fsync, tree_and_sync};

    #[test]
    fn every_file_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(&dir.path().join("files"), 300).unwrap();
        for step in [Files::create, Files::stat, Files::list, Files::rename, Files::unlink] {
            assert!(step(&files).unwrap() > 0.0);
        }
        assert!(files.stat().is_err());
        files.create_written().unwrap();
        assert_eq!(files.old[299].metadata().unwrap().len(), 4096);
        tree_and_sync(&dir.path().join("tree"), 250).unwrap();
        assert_eq!(dir.path().join("tree/folder-2").read_dir().unwrap().count(), 50);
        append_and_fsync(&dir.path().join("log"), 3).unwrap();
        assert_eq!(dir.path().join("log").metadata().unwrap().len(), 3 * 4096);
    }
}
