// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs put`: copies files and trees of the host into an image.
//!
//! Like `cp -a`, it keeps modes, owners, times, links, holes and attributes. It lists everything before
//! it changes anything. One commit at the end makes all of it appear at once, unless it is too much
//! for one commit.

use crate::cli;
use crate::failure::{Failure, Result, host_errno};
use crate::image::now;
use crate::show::encode_device;
use crate::size;
use crate::tree::{PIECE_BYTES, Tree, Xattr, join, parts};
use indicatif::ProgressBar;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use vexfs::{
    Device, Error, FileType, Ino, Inode, NewInode, SetAttr, Time, VectorLayout, XattrMode,
};

/// Name of the vector attribute on a mounted VexFS.
pub const VECTOR_NAME: &str = "vexfs.vector";
/// The name under which it is kept on other filesystems, which do not know that one.
pub const VECTOR_NAME_ELSEWHERE: &str = "user.vexfs.vector";

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copied {
    /// Inodes of every type.
    pub inodes: u64,
    /// Bytes of file contents.
    pub bytes: u64,
}

/// A file of the host that is to be copied.
struct Source {
    path: PathBuf,
    metadata: Metadata,
    /// Index of its directory among the sources, or else the directory in the image.
    parent: Result<usize, Ino>,
    /// Its name in the image; empty if only the contents of the directory are copied.
    name: Vec<u8>,
    /// Its path in the image, for messages.
    to: Vec<u8>,
}

/// Copies `from` (files and directories of the host) to `to` in the image.
///
/// # Errors
/// The host's and the engine's; what was not committed until then is not in the image.
pub fn put(tree: &mut Tree, from: &[PathBuf], to: &[u8]) -> Result<Copied> {
    let sources = plan(tree, from, to)?;
    check_room(tree, &sources)?;
    let total = sources.iter().filter(|s| s.metadata.is_file()).map(|s| s.metadata.len()).sum();
    let bar = cli::progress(total, "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
    let before = tree.volume.generation();
    let copied = copy(tree, &sources, &bar).and_then(|copied| {
        tree.volume.commit(now()).map_err(Failure::engine(tree.image.as_str()))?;
        // Contents that were overwritten in place need no commit, but they need this.
        let flushed = tree.volume.device().flush().map_err(Error::from);
        flushed.map_err(Failure::engine(tree.image.as_str()))?;
        Ok(copied)
    });
    bar.finish_and_clear();
    copied.map_err(|failure| {
        if tree.volume.generation() == before {
            return failure;
        }
        Failure::Other(format!("{failure} (part of it was copied)"))
    })
}

/// Lists everything that is to be copied, parents first.
fn plan(tree: &mut Tree, from: &[PathBuf], to: &[u8]) -> Result<Vec<Source>> {
    let target = tree.find_if_there(to)?;
    if let Some(target) = &target
        && from.len() > 1
        && !target.is_dir()
    {
        return Err(tree.at(to)(Error::NotDirectory));
    }
    let image = tree.volume.device().file().metadata().ok();
    let mut sources = Vec::new();
    for path in from {
        let metadata = path.symlink_metadata().map_err(Failure::host(path, "cannot be read"))?;
        let raw = path.as_os_str().as_bytes();
        let contents_only = metadata.is_dir()
            && (path.file_name().is_none() || raw.ends_with(b"/.") || raw.ends_with(b"/./"));
        let (parent, name) = match &target {
            Some(dir) if dir.is_dir() && contents_only => (dir.ino, Vec::new()),
            Some(dir) if dir.is_dir() => (dir.ino, file_name(path)),
            // The name of a file that is created or replaced.
            _ if from.len() == 1 => new_name(tree, to, metadata.is_dir())?,
            _ => return Err(tree.at(to)(Error::NotFound)),
        };
        let to = if target.is_some_and(|dir| dir.is_dir()) { join(to, &name) } else { to.to_vec() };
        let first = Source { path: path.clone(), metadata, parent: Err(parent), name, to };
        walk(first, image.as_ref(), &mut sources)?;
    }
    Ok(sources)
}

/// Refuses contents that cannot fit, before anything is changed. Files that are replaced make room.
fn check_room(tree: &mut Tree, sources: &[Source]) -> Result<()> {
    let figures = tree.volume.statfs();
    let block_bytes = u64::from(figures.block_bytes);
    let (mut need, mut room) = (0u64, figures.blocks_available);
    let mut seen = HashSet::new();
    for source in sources.iter().filter(|source| source.metadata.is_file()) {
        let metadata = &source.metadata;
        if let Ok(Some(old)) = tree.find_if_there(&source.to) {
            room = room.saturating_add(old.blocks);
        }
        if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
            // Holes take no room.
            let bytes = metadata.len().min(metadata.blocks().saturating_mul(512));
            need = need.saturating_add(bytes.div_ceil(block_bytes));
        }
    }
    if need <= room {
        return Ok(());
    }
    let human = |blocks: u64| size::human(blocks.saturating_mul(block_bytes));
    Err(Failure::Other(format!(
        "{}: no space left: {} are needed, {} are free; make a larger image",
        tree.image,
        human(need),
        human(room)
    )))
}

fn file_name(path: &Path) -> Vec<u8> {
    path.file_name().unwrap_or_default().as_bytes().to_vec()
}

/// The directory and the name in a path that does not exist yet.
fn new_name(tree: &mut Tree, to: &[u8], dir: bool) -> Result<(Ino, Vec<u8>)> {
    let names = parts(to).map_err(tree.at(to))?;
    let Some((last, above)) = names.split_last() else { return Err(tree.at(to)(Error::NotFound)) };
    if to.ends_with(b"/") && !dir {
        return Err(tree.at(to)(Error::NotFound));
    }
    let parent = above.join(&b'/');
    let inode = tree.find(&parent)?;
    if !inode.is_dir() {
        return Err(tree.at(&parent)(Error::NotDirectory));
    }
    Ok((inode.ino, last.to_vec()))
}

fn walk(first: Source, image: Option<&Metadata>, sources: &mut Vec<Source>) -> Result<()> {
    let mut stack = vec![first];
    while let Some(source) = stack.pop() {
        let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        if image.is_some_and(|image| identity(image) == identity(&source.metadata)) {
            eprintln!("vexfs: {}: skipped: it is the image itself", source.path.display());
            continue;
        }
        if source.metadata.is_dir() {
            let index = sources.len();
            let unreadable = || Failure::host(&source.path, "cannot be read");
            let mut below = Vec::new();
            for entry in source.path.read_dir().map_err(unreadable())? {
                let path = entry.map_err(unreadable())?.path();
                let metadata =
                    path.symlink_metadata().map_err(Failure::host(&path, "cannot be read"))?;
                let name = file_name(&path);
                let to = join(&source.to, &name);
                below.push(Source { path, metadata, parent: Ok(index), name, to });
            }
            below.sort_by(|a, b| b.name.cmp(&a.name));
            stack.extend(below);
        }
        sources.push(source);
    }
    Ok(())
}

fn copy(tree: &mut Tree, sources: &[Source], bar: &ProgressBar) -> Result<Copied> {
    let mut copied = Copied::default();
    let mut made: Vec<Ino> = Vec::with_capacity(sources.len());
    let mut links: HashMap<(u64, u64), Ino> = HashMap::new();
    for source in sources {
        let parent = match source.parent {
            Ok(index) => made.get(index).copied().unwrap_or(Ino::ROOT),
            Err(ino) => ino,
        };
        let identity = (source.metadata.dev(), source.metadata.ino());
        let twin = links.get(&identity).copied();
        let (ino, fresh) = place(tree, source, parent, twin)?;
        made.push(ino);
        copied.inodes += u64::from(fresh);
        if twin.is_some() {
            continue;
        }
        if !source.metadata.is_dir() && source.metadata.nlink() > 1 {
            links.insert(identity, ino);
        }
        attributes(tree, source, ino)?;
        if source.metadata.is_file() {
            copied.bytes += contents(tree, source, ino, bar)?;
        }
        if !source.metadata.is_dir() {
            set_status(tree, source, ino)?;
        }
    }
    // Last, because creating files in a directory changes its times.
    for (source, ino) in sources.iter().zip(&made).filter(|(source, _)| source.metadata.is_dir()) {
        set_status(tree, source, *ino)?;
    }
    Ok(copied)
}

/// Gives `source` its place in the image: a new inode, another name of `twin`, or a directory that
/// exists. True if an inode was created.
fn place(tree: &mut Tree, source: &Source, parent: Ino, twin: Option<Ino>) -> Result<(Ino, bool)> {
    let name = source.name.as_slice();
    if name.is_empty() {
        return Ok((parent, false));
    }
    let failed = tree.at(&source.to);
    let make = |tree: &mut Tree| -> Result<(Ino, bool), Error> {
        let old = match tree.volume.resolve(|volume| volume.lookup(parent, name)) {
            Ok((ino, _)) => Some(tree.inode(ino)?),
            Err(Error::NotFound) => None,
            Err(other) => return Err(other),
        };
        let dir = source.metadata.is_dir();
        match old {
            Some(old) if old.is_dir() && dir => return Ok((old.ino, false)),
            Some(old) if old.is_dir() => return Err(Error::IsDirectory),
            Some(_) if dir => return Err(Error::NotDirectory),
            Some(old) if Some(old.ino) == twin => return Ok((old.ino, false)),
            _ => {}
        }
        let layout = match old {
            Some(old) => replace(tree, parent, name, &old)?,
            None => None,
        };
        let now = now();
        if let Some(twin) = twin {
            tree.volume.run(now, |volume| volume.link(twin, parent, name, now))?;
            return Ok((twin, false));
        }
        let inode = create(tree, source, parent, now)?;
        if let Some(layout) = layout.filter(|_| inode.is_file()) {
            tree.volume.run(now, |volume| volume.set_vector(inode.ino, Some(&layout), now))?;
        }
        Ok((inode.ino, true))
    };
    make(tree).map_err(failed)
}

/// Removes the old file. Returns its vector layout, which the file that replaces it keeps.
fn replace(
    tree: &mut Tree,
    parent: Ino,
    name: &[u8],
    old: &Inode,
) -> Result<Option<VectorLayout>, Error> {
    let layout = tree.volume.resolve(|volume| volume.vector(old.ino))?;
    let now = now();
    let removed = tree.volume.run(now, |volume| volume.unlink(parent, name, now))?;
    if removed.nlink == 0 {
        tree.volume.steps(now, |volume| volume.evict(removed.ino))?;
    }
    Ok(layout)
}

fn create(tree: &mut Tree, source: &Source, parent: Ino, now: Time) -> Result<Inode, Error> {
    let metadata = &source.metadata;
    let target = if metadata.is_symlink() {
        let target = std::fs::read_link(&source.path)
            .map_err(|_| Error::Invalid("its target on the host cannot be read"))?;
        target.into_os_string().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let rdev = match FileType::from_mode(metadata.mode()) {
        Some(FileType::CharDevice | FileType::BlockDevice) => {
            let device = metadata.rdev();
            encode_device(rustix::fs::major(device), rustix::fs::minor(device))
        }
        _ => 0,
    };
    let new = NewInode {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev,
        target: &target,
        now,
    };
    tree.volume.run(now, |volume| volume.create(parent, &source.name, &new))
}

/// Sets mode, owner and times.
fn set_status(tree: &mut Tree, source: &Source, ino: Ino) -> Result<()> {
    let metadata = &source.metadata;
    let time = |seconds, nanos: i64| Some(Time { seconds, nanos: nanos as u32 });
    let attr = SetAttr {
        // A symbolic link's mode means nothing and is the same for all.
        mode: (!metadata.is_symlink()).then(|| metadata.mode()),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: now(),
    };
    let set = tree.volume.run(attr.ctime, |volume| volume.set_attr(ino, &attr));
    set.map(drop).map_err(tree.at(&source.to))
}

/// The extended attributes of a file of the host; none if its filesystem does not support them.
///
/// # Errors
/// The host's.
pub fn host_xattrs(path: &Path) -> Result<Vec<Xattr>> {
    let unreadable = || host_errno(path, "its attributes cannot be read");
    // As large as the kernel's limit, so that one call is enough.
    let mut buffer = vec![0; 65_536];
    let names = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(len) => buffer.get(..len).unwrap_or_default().to_vec(),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(other) => return Err(unreadable()(other)),
    };
    let mut pairs = Vec::new();
    let listed = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    for name in listed.chain([VECTOR_NAME.as_bytes()]) {
        match rustix::fs::lgetxattr(path, name, &mut buffer[..]) {
            Ok(len) => {
                pairs.push((name.to_vec(), buffer.get(..len).unwrap_or_default().to_vec()));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(_) if name == VECTOR_NAME.as_bytes() => {}
            Err(other) => return Err(unreadable()(other)),
        }
    }
    pairs.sort();
    pairs.dedup();
    Ok(pairs)
}

fn attributes(tree: &mut Tree, source: &Source, ino: Ino) -> Result<()> {
    let now = now();
    for (name, value) in host_xattrs(&source.path)? {
        let mark = [VECTOR_NAME, VECTOR_NAME_ELSEWHERE].iter().any(|n| name == n.as_bytes());
        let set = if mark {
            match VectorLayout::parse(&String::from_utf8_lossy(&value)) {
                Ok(layout) => tree.volume.run(now, |v| v.set_vector(ino, Some(&layout), now)),
                Err(error) => Err(error),
            }
        } else {
            let set = XattrMode::Set;
            tree.volume.run(now, |v| v.xattr_set(ino, &name, &value, set, now))
        };
        set.map_err(tree.at(&source.to))?;
    }
    Ok(())
}

/// Copies the contents and keeps holes. Returns the bytes that were copied.
fn contents(tree: &mut Tree, source: &Source, ino: Ino, bar: &ProgressBar) -> Result<u64> {
    let path = source.path.as_path();
    let unreadable = || Failure::host(path, "cannot be read");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(host_errno(path, "cannot be read"))?;
    let found = file.metadata().map_err(unreadable())?;
    if (found.dev(), found.ino()) != (source.metadata.dev(), source.metadata.ino()) {
        return Err(changed(path));
    }
    let size = source.metadata.len();
    let mut piece = vec![0; PIECE_BYTES.min(size) as usize];
    let (mut at, mut copied) = (0, 0);
    while at < size {
        let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            // Only a hole is left.
            Err(Errno::NXIO) => size,
            Err(other) => return Err(host_errno(path, "cannot be read")(other)),
        };
        bar.inc(data - at);
        at = data;
        if at == size {
            break;
        }
        let end = rustix::fs::seek(&file, SeekFrom::Hole(at))
            .map_err(host_errno(path, "cannot be read"))?
            .min(size);
        while at < end {
            // Pieces end at multiples of their size, so that each block is written once.
            let want = (PIECE_BYTES - at % PIECE_BYTES).min(end - at) as usize;
            let buffer = piece.get_mut(..want).unwrap_or_default();
            let read = file.read_at(buffer, at).map_err(unreadable())?;
            if read == 0 {
                return Err(changed(path));
            }
            let data = piece.get(..read).unwrap_or_default();
            tree.volume.write_at(ino, at, data, now()).map_err(tree.at(&source.to))?;
            at += read as u64;
            copied += read as u64;
            bar.inc(read as u64);
        }
    }
    let inode = tree.inode(ino).map_err(tree.at(&source.to))?;
    if inode.size != size {
        tree.volume.truncate(ino, size, now()).map_err(tree.at(&source.to))?;
    }
    Ok(copied)
}

fn changed(path: &Path) -> Failure {
    Failure::Other(format!("{}: changed while it was copied; run it again", path.display()))
}
