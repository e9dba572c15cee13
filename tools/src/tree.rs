// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Paths and trees inside an image.
//!
//! The contents of an image are not trusted: names are checked before they reach the host, and a walk
//! ends even where directories contain each other. Symbolic links are not followed.

use crate::failure::{Failure, Result};
use std::collections::HashSet;
use std::path::Path;
use vexfs::{Corruption, Error, FileType, Ino, Inode, Volume};
use vexfs_image::FileDevice;

/// Bytes of a file that are copied at a time.
pub const PIECE_BYTES: u64 = 1 << 20;

/// A directory entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// The inode that it names.
    pub ino: Ino,
    /// The inode's type according to the directory.
    pub file_type: FileType,
}

/// Name and value of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What [`Tree::visit`] calls, with the parent's index, the path and the inode.
pub type Visitor<'a> = dyn FnMut(&mut Tree, Option<usize>, &[u8], &Inode) -> Result<()> + 'a;

/// An open image, with its name on the host for messages.
#[derive(Debug)]
pub struct Tree {
    /// The filesystem.
    pub volume: Volume<FileDevice>,
    /// The image's name.
    pub image: String,
    /// `None` if damage is a failure. Otherwise what is damaged is left out and counted here.
    pub lost: Option<u64>,
}

impl Tree {
    /// A tree where damage is a failure.
    pub fn new(volume: Volume<FileDevice>, image: &Path) -> Self {
        Self { volume, image: image.display().to_string(), lost: None }
    }
}

/// A path inside an image as text, without control characters.
pub fn text(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The names in a path, without `.` and empty ones.
///
/// # Errors
/// If the path contains `..`: inside an image every path starts at the root.
pub fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(Error::Invalid("a path inside an image must not contain '..'"));
    }
    Ok(parts)
}

/// `dir/name`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.ends_with(b"/") || dir.is_empty() { b"" } else { b"/" };
    [dir, slash, name].concat()
}

fn damaged(ino: Ino, what: &'static str) -> Error {
    Error::Corrupt(Corruption { block: None, ino: Some(ino), what })
}

impl Tree {
    /// For `map_err` on the engine's results about `path`.
    pub fn at(&self, path: &[u8]) -> impl FnOnce(Error) -> Failure + use<> {
        let slash = if path.starts_with(b"/") { "" } else { "/" };
        Failure::engine(format!("{}:{slash}{}", self.image, text(path)))
    }

    /// The inode `ino`.
    ///
    /// # Errors
    /// The engine's.
    pub fn inode(&mut self, ino: Ino) -> Result<Inode, Error> {
        self.volume.resolve(|volume| volume.inode(ino))
    }

    /// The inode at `path`.
    ///
    /// # Errors
    /// The engine's, with the path.
    pub fn find(&mut self, path: &[u8]) -> Result<Inode> {
        self.walk(path).map_err(self.at(path))
    }

    /// The inode at `path`, or `None` if there is no such file.
    ///
    /// # Errors
    /// The engine's.
    pub fn find_if_there(&mut self, path: &[u8]) -> Result<Option<Inode>> {
        match self.walk(path) {
            Ok(inode) => Ok(Some(inode)),
            Err(Error::NotFound) => Ok(None),
            Err(other) => Err(self.at(path)(other)),
        }
    }

    fn walk(&mut self, path: &[u8]) -> Result<Inode, Error> {
        let mut ino = Ino::ROOT;
        for part in parts(path)? {
            ino = self.volume.resolve(|volume| volume.lookup(ino, part))?.0;
        }
        let inode = self.inode(ino)?;
        if path.ends_with(b"/") && !inode.is_dir() {
            return Err(Error::NotDirectory);
        }
        Ok(inode)
    }

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// The engine's; damage, if a name is impossible or occurs twice.
    pub fn entries(&mut self, dir: Ino) -> Result<Vec<Entry>, Error> {
        match self.readable_entries(dir) {
            (entries, None) => Ok(entries),
            (_, Some(error)) => Err(error),
        }
    }

    /// The entries that can be read and are possible, and the error if these are not all.
    fn readable_entries(&mut self, dir: Ino) -> (Vec<Entry>, Option<Error>) {
        let mut entries: Vec<Entry> = Vec::new();
        let mut wrong = None;
        let mut cookie = 0;
        while wrong.is_none() {
            let (before, from) = (entries.len(), cookie);
            let read = self.volume.resolve(|volume| {
                volume.readdir(dir, from, &mut |entry| {
                    entries.push(Entry {
                        name: entry.name.to_vec(),
                        ino: entry.ino,
                        file_type: entry.file_type,
                    });
                    cookie = entry.cookie;
                    true
                })
            });
            wrong = read.err();
            if entries.len() == before {
                break;
            }
        }
        let count = entries.len();
        entries.retain(|entry| {
            !matches!(entry.name.as_slice(), b"." | b"..")
                && !entry.name.iter().any(|byte| matches!(byte, 0 | b'/'))
        });
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|a, b| a.name == b.name);
        if entries.len() < count && wrong.is_none() {
            wrong = Some(damaged(dir, "the directory has a name twice, or one that is impossible"));
        }
        (entries, wrong)
    }

    /// Reports and counts damage if it is to be left out; any other failure is returned.
    ///
    /// # Errors
    /// The failure.
    pub fn skip_damage(&mut self, failure: Failure) -> Result<()> {
        match (&mut self.lost, &failure) {
            (Some(lost), Failure::Engine { error: Error::Corrupt(_), .. }) => {
                *lost += 1;
                eprintln!("vexfs: {failure}");
                Ok(())
            }
            _ => Err(failure),
        }
    }

    /// Visits `top` and everything below it, parents first. Visits are numbered from 0; `visit` gets the
    /// number of the parent's visit (`None` for the top), the path and the inode.
    ///
    /// # Errors
    /// The engine's, with the path; the visitor's.
    pub fn visit(&mut self, path: &[u8], top: Inode, visit: &mut Visitor<'_>) -> Result<()> {
        let mut stack = vec![(None, path.to_vec(), top)];
        let mut directories = HashSet::new();
        let mut count = 0;
        while let Some((parent, path, inode)) = stack.pop() {
            visit(self, parent, &path, &inode)?;
            let index = count;
            count += 1;
            if !inode.is_dir() {
                continue;
            }
            if !directories.insert(inode.ino.0) {
                let twice = damaged(inode.ino, "the directory is reached twice");
                self.skip_damage(self.at(&path)(twice))?;
                continue;
            }
            let (entries, wrong) = self.readable_entries(inode.ino);
            if let Some(error) = wrong {
                self.skip_damage(self.at(&path)(error))?;
            }
            for entry in entries.into_iter().rev() {
                let below = join(&path, &entry.name);
                match self.inode(entry.ino).map_err(self.at(&below)) {
                    Ok(inode) => stack.push((Some(index), below, inode)),
                    Err(failure) => self.skip_damage(failure)?,
                }
            }
        }
        Ok(())
    }

    /// Names and values of an inode's extended attributes.
    ///
    /// # Errors
    /// The engine's.
    pub fn xattrs(&mut self, ino: Ino) -> Result<Vec<Xattr>, Error> {
        let names = self.volume.resolve(|volume| {
            let mut names: Vec<Vec<u8>> = Vec::new();
            volume.xattr_list(ino, &mut |name| {
                names.push(name.to_vec());
                true
            })?;
            Ok(names)
        })?;
        let mut pairs = Vec::new();
        for name in names {
            let value = self.volume.resolve(|volume| volume.xattr_get(ino, &name))?;
            pairs.push((name, value));
        }
        pairs.sort();
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(parts(b"/a//b/./c/").unwrap(), [b"a", b"b", b"c"]);
        assert!(parts(b"/").unwrap().is_empty());
        assert!(parts(b"/a/../b").is_err());
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"/a", b"b"), b"/a/b");
        assert_eq!(text(b"a\x1b[2J"), "a?[2J");
    }
}
