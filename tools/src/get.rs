// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs get`: copies files and trees of an image to the host.
//!
//! Like `cp -a`, it keeps modes, times, links, holes and attributes, and owners where the host allows it.
//! An image is not trusted: nothing is written through a symbolic link below the destination.

use crate::cli;
use crate::failure::{Failure, Result, host_errno};
use crate::put::{Copied, VECTOR_NAME, VECTOR_NAME_ELSEWHERE};
use crate::show::device_numbers;
use crate::tree::{PIECE_BYTES, Tree, parts};
use indicatif::ProgressBar;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use vexfs::{FileBlock, FileType, Inode, MappingKind, Time};

/// An inode of the image that is to be copied.
struct Item {
    /// Its path in the image, for messages.
    from: Vec<u8>,
    inode: Inode,
    to: PathBuf,
    /// A directory of the host that existed before; its attributes are left as they are.
    keep: bool,
}

/// Copies `from` (paths in the image) to `to` on the host.
///
/// # Errors
/// The engine's and the host's; what was copied before stays. Damage is an error only at the end, after
/// everything that can be read was copied.
pub fn get(tree: &mut Tree, from: &[Vec<u8>], to: &Path) -> Result<Copied> {
    tree.lost = Some(0);
    let items = plan(tree, from, to)?;
    let total = items.iter().filter(|item| item.inode.is_file()).map(|item| item.inode.size).sum();
    let bar = cli::progress(total, "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
    let copied = copy(tree, &items, &bar);
    bar.finish_and_clear();
    let copied = copied?;
    match tree.lost.take() {
        None | Some(0) => Ok(copied),
        Some(lost) => Err(Failure::Other(format!(
            "{}: {lost} damaged files or directories were left out or are incomplete; the other {} were copied",
            tree.image, copied.inodes
        ))),
    }
}

/// Lists everything that is to be copied, parents first.
fn plan(tree: &mut Tree, from: &[Vec<u8>], to: &Path) -> Result<Vec<Item>> {
    let into = to.is_dir();
    if !into && from.len() > 1 {
        return Err(Failure::Other(format!(
            "{}: is no directory; several files can only be copied into one",
            to.display()
        )));
    }
    let mut items: Vec<Item> = Vec::new();
    for path in from {
        let top = tree.find(path)?;
        let last = parts(path).map_err(tree.at(path))?.last().map(|name| name.to_vec());
        let contents_only = top.is_dir() && (last.is_none() || path.ends_with(b"/."));
        let first = items.len();
        let place = match last {
            Some(name) if into && !contents_only => to.join(OsStr::from_bytes(&name)),
            _ => to.to_owned(),
        };
        tree.visit(path, top, &mut |_, parent, path, inode| {
            let to = match parent.and_then(|index| items.get(first + index)) {
                Some(parent) => {
                    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                    parent.to.join(OsStr::from_bytes(name))
                }
                None => place.clone(),
            };
            let keep = parent.is_none() && to.is_dir();
            items.push(Item { from: path.to_vec(), inode: *inode, to, keep });
            Ok(())
        })?;
    }
    Ok(items)
}

/// What the host did not allow to be set; reported once, at the end.
#[derive(Default)]
struct Refused {
    count: u64,
    first: Option<(PathBuf, String)>,
}

impl Refused {
    fn add(&mut self, path: &Path, what: String) {
        self.count += 1;
        self.first.get_or_insert_with(|| (path.to_owned(), what));
    }

    fn report(&self) {
        if let Some((path, what)) = &self.first {
            let others = match self.count - 1 {
                0 => String::new(),
                n => format!(", and {n} more"),
            };
            eprintln!("vexfs: {}: warning: {what} cannot be set here{others}", path.display());
        }
    }
}

fn copy(tree: &mut Tree, items: &[Item], bar: &ProgressBar) -> Result<Copied> {
    let mut copied = Copied::default();
    let mut refused = Refused::default();
    let mut links: HashMap<u64, &Path> = HashMap::new();
    for item in items {
        let inode = &item.inode;
        if inode.is_dir() {
            make_directory(item)?;
            copied.inodes += 1;
            continue;
        }
        remove_old(&item.to)?;
        if let Some(twin) = links.get(&inode.ino.0) {
            let made = std::fs::hard_link(twin, &item.to);
            made.map_err(Failure::host(&item.to, "cannot be linked"))?;
            copied.inodes += 1;
            continue;
        }
        let made = if inode.is_file() {
            file(tree, item, bar, &mut refused)
        } else {
            special(tree, item).and_then(|()| finish(tree, item, &mut refused)).map(|()| 0)
        };
        match made {
            Ok(bytes) => {
                copied.inodes += 1;
                copied.bytes += bytes;
                if inode.nlink > 1 {
                    links.insert(inode.ino.0, &item.to);
                }
            }
            Err(failure) => {
                tree.skip_damage(failure)?;
                remove_old(&item.to)?;
            }
        }
    }
    // Last, because creating files in a directory changes its times and may need its write permission.
    for item in items.iter().rev().filter(|item| item.inode.is_dir() && !item.keep) {
        if let Err(failure) = finish(tree, item, &mut refused) {
            tree.skip_damage(failure)?;
        }
    }
    refused.report();
    Ok(copied)
}

fn make_directory(item: &Item) -> Result<()> {
    let path = item.to.as_path();
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // Only the destination itself may be a symbolic link.
            let is_dir = item.keep || path.symlink_metadata().is_ok_and(|found| found.is_dir());
            if is_dir {
                return Ok(());
            }
            let path = path.display();
            Err(Failure::Other(format!("{path}: exists and is no directory; move it away first")))
        }
        other => other.map_err(Failure::host(path, "cannot be created")),
    }
}

/// Removes what has the name of a file that is to be created. A directory is not removed.
fn remove_old(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::host(path, "cannot be replaced")(error))
        }
        _ => Ok(()),
    }
}

/// Creates a symbolic link, pipe, socket or device.
fn special(tree: &mut Tree, item: &Item) -> Result<()> {
    let inode = &item.inode;
    let kind = match inode.file_type() {
        FileType::Symlink => {
            let target = tree.volume.resolve(|volume| volume.readlink(inode.ino));
            let target = target.map_err(tree.at(&item.from))?;
            return std::os::unix::fs::symlink(OsStr::from_bytes(&target), &item.to)
                .map_err(Failure::host(&item.to, "cannot be created"));
        }
        FileType::Fifo => rustix::fs::FileType::Fifo,
        FileType::Socket => rustix::fs::FileType::Socket,
        FileType::CharDevice => rustix::fs::FileType::CharacterDevice,
        FileType::BlockDevice => rustix::fs::FileType::BlockDevice,
        FileType::Regular | FileType::Directory => return Ok(()),
    };
    let (major, minor) = device_numbers(inode.rdev);
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, &item.to, kind, Mode::from_raw_mode(0o600), device)
        .map_err(host_errno(&item.to, "cannot be created"))
}

/// Copies a file and keeps its holes. Returns the bytes that were copied.
fn file(tree: &mut Tree, item: &Item, bar: &ProgressBar, refused: &mut Refused) -> Result<u64> {
    let path = item.to.as_path();
    let inode = &item.inode;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .map(File::from)
        .map_err(host_errno(path, "cannot be created"))?;
    file.set_len(inode.size).map_err(Failure::host(path, "cannot be made that long"))?;
    let block_bytes = tree.volume.geometry().block_bytes() as u64;
    let mut piece = vec![0; PIECE_BYTES.min(inode.size) as usize];
    let (mut at, mut copied) = (0, 0);
    while at < inode.size {
        let block = FileBlock(at / block_bytes);
        let count = (inode.size - at).div_ceil(block_bytes);
        let mapping = tree.volume.resolve(|volume| volume.map(inode.ino, block, count));
        let mapping = mapping.map_err(tree.at(&item.from))?;
        let end = (at + mapping.count.max(1) * block_bytes).min(inode.size);
        if matches!(mapping.kind, MappingKind::Written(_)) {
            while at < end {
                let want = piece.len().min((end - at) as usize);
                let buffer = piece.get_mut(..want).unwrap_or_default();
                let read = tree.volume.read_at(inode.ino, at, buffer);
                let read = read.map_err(tree.at(&item.from))?.max(1);
                let data = piece.get(..read).unwrap_or_default();
                file.write_all_at(data, at).map_err(Failure::host(path, "cannot be written"))?;
                at += read as u64;
                copied += read as u64;
                bar.inc(read as u64);
            }
        } else {
            bar.inc(end - at);
            at = end;
        }
    }
    finish(tree, item, refused)?;
    Ok(copied)
}

fn attributes(tree: &mut Tree, item: &Item, refused: &mut Refused) -> Result<()> {
    let ino = item.inode.ino;
    let mut pairs = tree.xattrs(ino).map_err(tree.at(&item.from))?;
    let layout = tree.volume.resolve(|volume| volume.vector(ino));
    let layout = layout.map_err(tree.at(&item.from))?;
    let set = |name: &[u8], value: &[u8]| {
        rustix::fs::lsetxattr(&item.to, name, value, XattrFlags::empty())
    };
    if let Some(layout) = layout {
        let text = layout.to_string().into_bytes();
        if set(VECTOR_NAME.as_bytes(), &text).is_err() {
            pairs.push((VECTOR_NAME_ELSEWHERE.into(), text));
        }
    }
    for (name, value) in pairs {
        match set(&name, &value) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::RANGE) => {
                refused.add(&item.to, format!("attribute {}", crate::tree::text(&name)));
            }
            Err(other) => return Err(host_errno(&item.to, "an attribute cannot be set")(other)),
        }
    }
    Ok(())
}

/// Sets owner, attributes, mode and times, in this order: a change of the owner drops capabilities and
/// mode bits, and a mode may forbid to set attributes.
fn finish(tree: &mut Tree, item: &Item, refused: &mut Refused) -> Result<()> {
    let (inode, path) = (&item.inode, item.to.as_path());
    let owner = (Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid)));
    let mut mode = inode.mode & 0o7777;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::chownat(CWD, path, owner.0, owner.1, flags) {
        Ok(()) => {}
        Err(Errno::PERM) => {
            // As cp does: a set-user-ID program must not run as somebody else.
            mode &= 0o1777;
            if rustix::process::geteuid().is_root() {
                refused.add(path, format!("owner {}:{}", inode.uid, inode.gid));
            }
        }
        Err(other) => return Err(host_errno(path, "its owner cannot be set")(other)),
    }
    attributes(tree, item, refused)?;
    if inode.file_type() != FileType::Symlink {
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(host_errno(path, "its mode cannot be set"))?;
    }
    let time = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    let times = Timestamps { last_access: time(inode.atime), last_modification: time(inode.mtime) };
    rustix::fs::utimensat(CWD, path, &times, flags)
        .map_err(host_errno(path, "its times cannot be set"))
}
