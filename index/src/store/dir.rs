// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Checkpoints in a directory: a file for each blob, and the file `manifest`.
//!
//! A blob's name is a number that no other file in the directory has. A manifest is written under
//! another name and synced, then renamed over the old one, and the directory is synced.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Blob, ChecksumWriter, Fill, MANIFEST_MAX, Mapping, Store, Take};
use crate::error::{IndexError, Result};

const MANIFEST: &str = "manifest";
const FRESH: &str = "manifest.new";
const BUFFER: usize = 1 << 18;

/// Checkpoints in a directory.
pub struct DirStore {
    path: PathBuf,
    next: u64,
}

impl DirStore {
    /// `open(path)` - makes the directory, readable by its owner only, if it does not exist.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let failed = || IndexError::storage(format!("opening directory {}", path.display()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed()(error));
            }
            _ => {}
        }
        let highest = blobs(&path).map_err(failed())?.into_iter().max();
        Ok(Self { path, next: highest.map_or(0, |at| at + 1) })
    }

    fn blob(&self, at: u64) -> PathBuf {
        self.path.join(format!("blob-{at}"))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// The numbers of the blobs in a directory.
fn blobs(path: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("blob-"));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(found)
}

impl Store for DirStore {
    fn write_blob(&mut self, bytes: u64, fill: &mut Fill<'_>) -> Result<Blob> {
        let at = self.next;
        self.next += 1;
        let path = self.blob(at);
        let failed = || IndexError::storage(format!("writing {}", path.display()));
        let written = (|| {
            let file = File::create_new(&path).map_err(failed())?;
            let synced = file.try_clone().map_err(failed())?;
            let mut writer = ChecksumWriter::new(BufWriter::with_capacity(BUFFER, file), bytes);
            fill(&mut writer)?;
            let crc = writer.finish().map_err(failed())?;
            synced.sync_data().map_err(failed())?;
            Ok(Blob { at, bytes, crc })
        })();
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written
    }

    fn read_blob(&mut self, blob: &Blob, take: &mut Take<'_>) -> Result<()> {
        let path = self.blob(blob.at);
        let file = File::open(&path)
            .map_err(IndexError::storage(format!("opening {}", path.display())))?;
        take(&mut BufReader::with_capacity(BUFFER, file))
    }

    fn map_blob(&mut self, blob: &Blob) -> Result<Option<Arc<Mapping>>> {
        let path = self.blob(blob.at);
        let failed = || IndexError::storage(format!("opening {}", path.display()));
        let file = File::open(&path).map_err(failed())?;
        let length = file.metadata().map_err(failed())?.len();
        if length != blob.bytes {
            return Err(failed()(io::ErrorKind::UnexpectedEof.into()));
        }
        // The file lives as long as the mapping, whatever becomes of its name.
        let mapping = usize::try_from(length).ok().and_then(|n| Mapping::of(&file, 0, n).ok());
        Ok(mapping.map(Arc::new))
    }

    fn publish(&mut self, manifest: &[u8]) -> Result<()> {
        let fresh = self.path.join(FRESH);
        let replace = || -> io::Result<()> {
            // The blobs are synced already. Their names have to be durable before the manifest is.
            self.sync_dir()?;
            let mut file = File::create(&fresh)?;
            file.write_all(manifest)?;
            file.sync_data()?;
            fs::rename(&fresh, self.path.join(MANIFEST))?;
            self.sync_dir()
        };
        replace()
            .map_err(IndexError::storage(format!("replacing manifest in {}", self.path.display())))
    }

    fn manifest(&mut self) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(MANIFEST);
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(&path)?.take(MANIFEST_MAX as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(IndexError::storage(format!("reading {}", path.display()))(error)),
        }
    }

    fn retain(&mut self, live: &[Blob]) -> Result<()> {
        let failed = || IndexError::storage(format!("cleaning {}", self.path.display()));
        let live: HashSet<u64> = live.iter().map(|blob| blob.at).collect();
        for at in blobs(&self.path).map_err(failed())? {
            if !live.contains(&at) {
                fs::remove_file(self.blob(at)).map_err(failed())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &mut DirStore, data: &[u8]) -> Result<Blob> {
        store.write_blob(data.len() as u64, &mut |out| {
            out.write_all(data).map_err(IndexError::storage("test"))
        })
    }

    #[test]
    fn names_are_not_reused_and_leftovers_of_a_crash_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        let mut store = DirStore::open(&path).unwrap();
        assert!(store.manifest().unwrap().is_none());
        let (old, new) = (put(&mut store, b"old").unwrap(), put(&mut store, b"newer").unwrap());
        store.publish(b"first").unwrap();
        // The process dies here: a blob and a manifest that were not published stay behind.
        fs::write(path.join(FRESH), b"half").unwrap();
        drop(store);
        let mut store = DirStore::open(&path).unwrap();
        assert_eq!(store.manifest().unwrap().unwrap(), b"first");
        assert!(put(&mut store, b"third").unwrap().at > new.at);
        store.retain(&[old]).unwrap();
        assert_eq!(blobs(&path).unwrap(), [old.at]);
        let mut seen = Vec::new();
        let read = |from: &mut dyn io::Read| {
            from.read_to_end(&mut seen).map(drop).map_err(IndexError::storage("test"))
        };
        store.read_blob(&old, &mut { read }).unwrap();
        assert_eq!(seen, b"old");
    }

    #[test]
    fn a_blob_of_another_length_than_announced_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DirStore::open(dir.path()).unwrap();
        for announced in [2, 5] {
            let result = store.write_blob(announced, &mut |out| {
                out.write_all(b"abc").map_err(IndexError::storage("test"))
            });
            assert!(result.is_err(), "{announced}");
        }
        assert!(blobs(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_no_empty_store() {
        let dir = tempfile::tempdir().unwrap();
        let storage = |result: Result<()>, words: &str| {
            let error = result.unwrap_err();
            assert!(matches!(error, IndexError::Storage { .. }), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        };
        let nowhere = dir.path().join("not there").join("checkpoints");
        storage(DirStore::open(nowhere).map(drop), "opening directory");
        let mut store = DirStore::open(dir.path()).unwrap();
        let blob = put(&mut store, b"abc").unwrap();
        // A directory where a file is expected can be opened, but not read.
        fs::create_dir(dir.path().join(MANIFEST)).unwrap();
        storage(store.manifest().map(drop), "reading");
        fs::remove_file(store.blob(blob.at)).unwrap();
        fs::create_dir(store.blob(blob.at)).unwrap();
        let read = super::super::read_verified(&mut store, &blob, "a test blob", &mut |from| {
            io::copy(from, &mut io::sink()).map(drop).map_err(IndexError::storage("test"))
        });
        storage(read, "test");
        storage(store.retain(&[]), "cleaning");
    }

    #[test]
    fn a_blob_that_grew_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DirStore::open(dir.path()).unwrap();
        let blob = put(&mut store, b"abc").unwrap();
        fs::write(store.blob(blob.at), b"abcd").unwrap();
        let read = super::super::read_verified(&mut store, &blob, "a test blob", &mut |_| Ok(()));
        assert!(matches!(read, Err(IndexError::Damaged(_))), "{read:?}");
    }
}
