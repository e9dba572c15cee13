// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which vector files a search covers: those under an open file or directory that the caller may read, by the
//! newest committed tree.
//!
//! Invariant: a file is in a [`Scope`] only if every directory between it and the top lets the caller list and
//! pass it, and the file lets the caller read it, all in one generation. The top itself was opened by the
//! caller; what the kernel checked then is not asked again.
//!
//! Listings are kept as long as their directory's version is the same. Names are only found here; contents
//! are the indexer's.

use super::caller::{ACL, Caller, READ, SEARCH};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use vexfs::follow::Follower;
use vexfs::{Error, FileType, Ino, Inode};
use vexfs_image::FileDevice;

/// Bytes of tree nodes that are kept in memory.
const CACHE_BYTES: usize = 4 << 20;
/// Names that are kept in memory; beyond that the listings are dropped.
const NAMES_MAX: usize = 1 << 20;
/// How often a walk is repeated because the tree moved on.
const WALKS: usize = 64;

/// What a search covers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The generation of the names and permissions.
    pub generation: u64,
    /// Whether the top is a single file.
    pub single: bool,
    /// The files by their inodes, with one of their paths below the top.
    pub files: BTreeMap<u64, Vec<u8>>,
    /// Vector files and directories that the caller may not read.
    pub denied: usize,
}

/// What the caller's descriptor says.
#[derive(Debug, Clone, Copy)]
pub struct Top {
    /// Inode of the file or directory.
    pub ino: u64,
    /// It was opened for reading, which the kernel allowed.
    pub readable: bool,
}

/// The names of one filesystem. Any thread may ask; one is answered at a time.
pub struct Names(Mutex<Walker>);

struct Walker {
    follower: Follower<FileDevice>,
    listings: HashMap<u64, Arc<Listing>>,
    /// Names in all listings.
    kept: usize,
}

/// The subdirectories and regular files of a directory.
struct Listing {
    version: u64,
    entries: Vec<(Ino, FileType, Box<[u8]>)>,
}

impl Names {
    /// Opens the filesystem on the device.
    ///
    /// # Errors
    /// As [`Follower::open`].
    pub fn open(device: FileDevice) -> Result<Self, Error> {
        let follower = Follower::open(device, CACHE_BYTES)?;
        Ok(Self(Mutex::new(Walker { follower, listings: HashMap::new(), kept: 0 })))
    }

    /// The files of `wanted` that are at or under `top` and that `caller` may read.
    ///
    /// # Errors
    /// One line: `top` is not committed yet or is neither a file nor a directory, the caller may not use it,
    /// or the tree cannot be read.
    pub fn scope(
        &self,
        top: Top,
        caller: &Caller,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<Scope, String> {
        // Whoever panicked left listings that are whole.
        let mut walker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..WALKS {
            let found = walker.scope(top, caller, &wanted).map_err(|e| walker.follower.judge(e));
            match found {
                Err(Error::Stale) => {}
                Err(Error::NotFound) => {
                    return Err("it is not committed yet: sync it and search again".to_owned());
                }
                Err(e) => return Err(e.to_string()),
                Ok(scope) => return scope,
            }
        }
        Err("the filesystem changes too fast to list it: search again".to_owned())
    }
}

impl Walker {
    /// The scope in the newest tree, or one line that says why there is none.
    fn scope(
        &mut self,
        top: Top,
        caller: &Caller,
        wanted: &impl Fn(u64) -> bool,
    ) -> Result<Result<Scope, String>, Error> {
        self.follower.poll()?;
        let mut scope = Scope { generation: self.follower.generation().0, ..Scope::default() };
        let inode = self.inode(Ino(top.ino))?;
        let needed = match inode.file_type() {
            FileType::Regular if top.readable => 0,
            FileType::Regular => READ,
            FileType::Directory if top.readable => SEARCH,
            FileType::Directory => READ | SEARCH,
            _ => return Ok(Err("neither a file nor a directory".to_owned())),
        };
        if needed != 0 && !self.may(caller, &inode, needed)? {
            return Ok(Err("you may not read it".to_owned()));
        }
        if inode.is_file() {
            scope.single = true;
            scope.files.insert(top.ino, Vec::new());
            return Ok(Ok(scope));
        }
        let mut seen: HashSet<u64> = HashSet::from([top.ino]);
        let mut directories = vec![(inode, Vec::new())];
        while let Some((directory, path)) = directories.pop() {
            let listing = self.listing(&directory)?;
            for (ino, file_type, name) in &listing.entries {
                let is_directory = matches!(file_type, FileType::Directory);
                // A file with several names is judged by each until one of them lets it be read.
                if scope.files.contains_key(&ino.0) || (!is_directory && !wanted(ino.0)) {
                    continue;
                }
                let inode = self.inode(*ino)?;
                let needed = if is_directory { READ | SEARCH } else { READ };
                if !self.may(caller, &inode, needed)? {
                    scope.denied += 1;
                    continue;
                }
                let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                let below = [path.as_slice(), separator, name].concat();
                if !is_directory {
                    scope.files.insert(ino.0, below);
                } else if seen.insert(ino.0) {
                    directories.push((inode, below));
                }
            }
        }
        Ok(Ok(scope))
    }

    fn inode(&mut self, ino: Ino) -> Result<Inode, Error> {
        self.follower.volume().resolve(|volume| volume.inode(ino))
    }

    fn may(&mut self, caller: &Caller, inode: &Inode, want: u8) -> Result<bool, Error> {
        if caller.is_root() || caller.uid == inode.uid {
            return Ok(caller.may(inode, None, want));
        }
        let found = self.follower.volume().resolve(|volume| volume.xattr_get(inode.ino, ACL));
        match found {
            Ok(acl) => Ok(caller.may(inode, Some(&acl), want)),
            Err(Error::NoAttr) => Ok(caller.may(inode, None, want)),
            Err(e) => Err(e),
        }
    }

    /// The listing of a directory, as it is in the tree that is followed.
    fn listing(&mut self, directory: &Inode) -> Result<Arc<Listing>, Error> {
        let known = self.listings.get(&directory.ino.0);
        if let Some(known) = known.filter(|known| known.version == directory.version) {
            return Ok(known.clone());
        }
        let mut entries = Vec::new();
        let mut cookie = 0;
        loop {
            let before = cookie;
            self.follower.volume().resolve(|volume| {
                volume.readdir(directory.ino, cookie, &mut |entry| {
                    cookie = entry.cookie;
                    if matches!(entry.file_type, FileType::Regular | FileType::Directory) {
                        entries.push((entry.ino, entry.file_type, entry.name.into()));
                    }
                    true
                })
            })?;
            if cookie == before {
                break;
            }
        }
        if self.kept + entries.len() > NAMES_MAX {
            self.listings.clear();
            self.kept = 0;
        }
        let listing = Arc::new(Listing { version: directory.version, entries });
        self.kept += listing.entries.len();
        if let Some(old) = self.listings.insert(directory.ino.0, listing.clone()) {
            self.kept -= old.entries.len();
        }
        Ok(listing)
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
