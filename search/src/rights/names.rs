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
use crate::corpus::slots::DataExtent;
use crate::corpus::tracker::read_extents;
use crate::sidecar::{self, Contents, Form, Table, Tables, Watch};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use vexfs::follow::Follower;
use vexfs::{Error, FileType, Ino, Inode, Time};
use vexfs_image::FileDevice;

/// Bytes of tree nodes that are kept in memory.
const CACHE_BYTES: usize = 4 << 20;
/// Names that are kept in memory; beyond that the listings are dropped.
const NAMES_MAX: usize = 1 << 20;
/// How often a walk is repeated because the tree moved on.
const WALKS: usize = 64;

/// What a search covers.
#[derive(Debug, Default, PartialEq)]
pub struct Scope {
    /// The generation of the names and permissions.
    pub generation: u64,
    /// Whether the top is a single file.
    pub single: bool,
    /// The files by their inodes, with one of their paths below the top.
    pub files: BTreeMap<u64, Vec<u8>>,
    /// Vector files and directories that the caller may not read.
    pub denied: usize,
    /// What a filter asks of the files, if that was wanted.
    pub facts: BTreeMap<u64, FileFacts>,
}

/// What a filter asks of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileFacts {
    /// Its owner.
    pub uid: u32,
    /// When its contents changed last.
    pub mtime: Time,
    /// Its attributes that were wanted, without the `user.` of their names.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// The metadata of its rows, or why there is none.
    pub table: Result<Arc<Table>, String>,
}

/// What is wanted beside paths.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only the file of this name in the top, which is a directory.
    pub only: Option<Vec<u8>>,
    /// The owner, the time and these attributes, without the `user.` of their names.
    pub facts: Option<Vec<String>>,
    /// The metadata of rows.
    pub tables: bool,
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
    /// The same device, to read sidecars.
    device: FileDevice,
    tables: Tables,
    /// Bytes of sidecars that the search may need still.
    metadata: u64,
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
        let follower = Follower::open(device.clone(), CACHE_BYTES)?;
        let (tables, listings) = (Tables::default(), HashMap::new());
        Ok(Self(Mutex::new(Walker { follower, device, tables, metadata: 0, listings, kept: 0 })))
    }

    /// The same, told by `watch` of sidecars that are written in place.
    #[must_use]
    pub fn watching(self, watch: Arc<Watch>) -> Self {
        let mut walker = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        walker.tables = Tables::new(watch);
        Self(Mutex::new(walker))
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
        self.scope_with(top, caller, wanted, &Wanted::default())
    }

    /// The same, with what else is wanted of the files, all in one generation.
    ///
    /// # Errors
    /// As [`scope`](Self::scope); and the top has no file of the name that alone is wanted.
    pub fn scope_with(
        &self,
        top: Top,
        caller: &Caller,
        wanted: impl Fn(u64) -> bool,
        more: &Wanted,
    ) -> Result<Scope, String> {
        // Whoever panicked left listings that are whole.
        let mut walker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..WALKS {
            let found =
                walker.scope(top, caller, &wanted, more).map_err(|e| walker.follower.judge(e));
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
        more: &Wanted,
    ) -> Result<Result<Scope, String>, Error> {
        self.follower.poll()?;
        self.metadata = sidecar::ALL_BYTES_MAX;
        let mut scope = Scope { generation: self.follower.generation().0, ..Scope::default() };
        let inode = self.inode(Ino(top.ino))?;
        let needed = match inode.file_type() {
            FileType::Regular if top.readable => 0,
            FileType::Regular => READ,
            FileType::Directory if top.readable || more.only.is_some() => SEARCH,
            FileType::Directory => READ | SEARCH,
            _ => return Ok(Err("neither a file nor a directory".to_owned())),
        };
        if needed != 0 && !self.may(caller, &inode, needed)? {
            return Ok(Err("you may not read it".to_owned()));
        }
        if inode.is_file() {
            scope.single = true;
            scope.files.insert(top.ino, Vec::new());
            self.facts(caller, &inode, None, more, &mut scope)?;
            return Ok(Ok(scope));
        }
        if let Some(name) = &more.only {
            return Ok(self.only(caller, &inode, name, more, &mut scope)?.map(|()| scope));
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
                    self.facts(caller, &inode, Some((directory.ino, name)), more, &mut scope)?;
                } else if seen.insert(ino.0) {
                    directories.push((inode, below));
                }
            }
        }
        Ok(Ok(scope))
    }

    /// The scope of one file in a directory that the caller may pass.
    fn only(
        &mut self,
        caller: &Caller,
        directory: &Inode,
        name: &[u8],
        more: &Wanted,
        scope: &mut Scope,
    ) -> Result<Result<(), String>, Error> {
        scope.single = true;
        let Some(inode) = self.entry(directory.ino, name)? else {
            return Ok(Err("it is not committed yet: sync it and search again".to_owned()));
        };
        if !inode.is_file() {
            return Ok(Err("neither a file nor a directory".to_owned()));
        }
        if !self.may(caller, &inode, READ)? {
            return Ok(Err("you may not read it".to_owned()));
        }
        scope.files.insert(inode.ino.0, name.to_vec());
        self.facts(caller, &inode, Some((directory.ino, name)), more, scope)?;
        Ok(Ok(()))
    }

    /// The inode of a name in a directory.
    fn entry(&mut self, directory: Ino, name: &[u8]) -> Result<Option<Inode>, Error> {
        let found = self.follower.volume().resolve(|volume| {
            let (ino, _) = volume.lookup(directory, name)?;
            volume.inode(ino)
        });
        match found.map_err(|e| self.follower.judge(e)) {
            Ok(inode) => Ok(Some(inode)),
            Err(Error::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Adds what a filter asks of a file, which lies in a directory under a name.
    fn facts(
        &mut self,
        caller: &Caller,
        inode: &Inode,
        place: Option<(Ino, &[u8])>,
        more: &Wanted,
        scope: &mut Scope,
    ) -> Result<(), Error> {
        let Some(names) = &more.facts else { return Ok(()) };
        let mut attributes = Vec::new();
        for name in names {
            let full = [b"user.", name.as_bytes()].concat();
            match self.follower.volume().resolve(|volume| volume.xattr_get(inode.ino, &full)) {
                Ok(value) => attributes.push((name.clone(), value)),
                Err(Error::NoAttr) => {}
                Err(e) => return Err(e),
            }
        }
        let table = match place {
            _ if !more.tables => Err(String::new()),
            None => Err("its directory is not known, and so not where its metadata is".to_owned()),
            Some((directory, name)) => self.table(caller, directory, name)?,
        };
        let (uid, mtime) = (inode.uid, inode.mtime);
        scope.facts.insert(inode.ino.0, FileFacts { uid, mtime, attributes, table });
        Ok(())
    }

    /// The metadata of the rows of a file.
    fn table(
        &mut self,
        caller: &Caller,
        directory: Ino,
        name: &[u8],
    ) -> Result<Result<Arc<Table>, String>, Error> {
        let end = name.iter().rposition(|byte| *byte == b'.').unwrap_or(name.len());
        let stem = name.get(..end).unwrap_or(name);
        for (form, extension) in Form::ALL {
            let beside = [stem, b".", extension.as_bytes()].concat();
            if beside == name {
                continue;
            }
            let Some(inode) = self.entry(directory, &beside)?.filter(Inode::is_file) else {
                continue;
            };
            let shown = String::from_utf8_lossy(&beside).into_owned();
            // Nothing of what it holds may show, so nothing of it is used.
            if !self.may(caller, &inode, READ)? {
                return Ok(Err(format!(
                    "you may not read {shown}: its rows have no metadata for you"
                )));
            }
            if inode.size > sidecar::BYTES_MAX {
                let most = sidecar::BYTES_MAX >> 20;
                return Ok(Err(format!(
                    "{shown} is longer than {most} MiB, and not read: its rows have no metadata"
                )));
            }
            let Some(left) = self.metadata.checked_sub(inode.size) else {
                let most = sidecar::ALL_BYTES_MAX >> 20;
                return Ok(Err(format!(
                    "more than {most} MiB of metadata are needed: its rows have none; search fewer files"
                )));
            };
            self.metadata = left;
            return Ok(Ok(self.read_table(&inode, form)?));
        }
        let names = String::from_utf8_lossy(stem);
        Ok(Err(format!(
            "there is no {names}.tsv or {names}.jsonl beside it: its rows have no metadata"
        )))
    }

    /// The table of a sidecar in the tree that is followed.
    fn read_table(&mut self, inode: &Inode, form: Form) -> Result<Arc<Table>, Error> {
        let contents = self.contents(inode, form)?;
        if let Some(table) = self.tables.get(&contents) {
            return Ok(table);
        }
        let block_shift = self.follower.volume().geometry().block_shift;
        self.tables.begin(&contents, block_shift);
        let bytes =
            read_extents(&self.device, &contents.extents, block_shift, &(0..contents.size))?;
        let table = Arc::new(sidecar::read(form, &bytes));
        // If a commit moved it meanwhile, its old blocks may have held another file's bytes.
        let before = self.follower.generation();
        self.follower.poll()?;
        if self.follower.generation() != before {
            let same = match self.follower.volume().resolve(|volume| volume.inode(inode.ino)) {
                Ok(now) => self.contents(&now, form)? == contents,
                Err(_) => false,
            };
            if same {
                self.tables.put(contents, table);
            }
            // The rights were judged in the tree before.
            return Err(Error::Stale);
        }
        self.tables.put(contents, table.clone());
        Ok(table)
    }

    fn contents(&mut self, inode: &Inode, form: Form) -> Result<Contents, Error> {
        let extents = DataExtent::all(&self.follower.written(inode.ino)?);
        let (ino, version, size) = (inode.ino.0, inode.version, inode.size);
        Ok(Contents { ino, version, size, extents, form })
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
