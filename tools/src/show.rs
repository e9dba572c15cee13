// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs ls`, `stat` and `cat`: prints what an image holds. They only read.

use crate::cli::shown;
use crate::failure::{Failure, Result};
use crate::size;
use crate::tree::{PIECE_BYTES, Tree, join};
use std::io::Write;
use vexfs::{FileBlock, FileType, Inode, MappingKind};

/// How `ls` lists.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// With mode, links, owner, size and time.
    pub long: bool,
    /// With everything below.
    pub recursive: bool,
}

/// Type and mode as `ls` prints them, such as `drwxr-xr-x`.
fn mode_text(inode: &Inode) -> String {
    let kind = match inode.file_type() {
        FileType::Fifo => 'p',
        FileType::CharDevice => 'c',
        FileType::Directory => 'd',
        FileType::BlockDevice => 'b',
        FileType::Regular => '-',
        FileType::Symlink => 'l',
        FileType::Socket => 's',
    };
    let bit = |bit: u32, letter: char| if inode.mode & bit != 0 { letter } else { '-' };
    let execute = |execute: u32, special: u32, both: char, alone: char| match (
        inode.mode & execute != 0,
        inode.mode & special != 0,
    ) {
        (true, true) => both,
        (false, true) => alone,
        (true, false) => 'x',
        (false, false) => '-',
    };
    [
        kind,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        execute(0o100, 0o4000, 's', 'S'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        execute(0o010, 0o2000, 's', 'S'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        execute(0o001, 0o1000, 't', 'T'),
    ]
    .iter()
    .collect()
}

/// Major and minor number of a special file. Its inode holds them as the kernel's `new_encode_dev` does.
pub const fn device_numbers(rdev: u32) -> (u32, u32) {
    ((rdev & 0x000f_ff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0x000f_ff00))
}

/// The inverse of [`device_numbers`].
pub const fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn kind_text(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Fifo => "named pipe",
        FileType::CharDevice => "character device",
        FileType::Directory => "directory",
        FileType::BlockDevice => "block device",
        FileType::Regular => "regular file",
        FileType::Symlink => "symbolic link",
        FileType::Socket => "socket",
    }
}

fn is_device(inode: &Inode) -> bool {
    matches!(inode.file_type(), FileType::CharDevice | FileType::BlockDevice)
}

/// Lists files and the contents of directories.
///
/// # Errors
/// The engine's, and those of standard output.
pub fn ls(tree: &mut Tree, paths: &[Vec<u8>], how: Listing, out: &mut dyn Write) -> Result<()> {
    let mut directories = Vec::new();
    for path in paths {
        let inode = tree.find(path)?;
        if inode.is_dir() {
            directories.push((path.clone(), inode));
        } else {
            lines(tree, &[(path.clone(), path.clone(), inode)], how, out)?;
        }
    }
    let headings = paths.len() > 1 || how.recursive;
    let mut first = directories.len() == paths.len();
    for (path, inode) in directories {
        if how.recursive {
            tree.visit(&path, inode, &mut |tree, _, path, inode| {
                if inode.is_dir() { list(tree, path, inode, how, &mut first, out) } else { Ok(()) }
            })?;
        } else if headings {
            list(tree, &path, &inode, how, &mut first, out)?;
        } else {
            contents(tree, &path, &inode, how, out)?;
        }
    }
    Ok(())
}

fn list(
    tree: &mut Tree,
    path: &[u8],
    dir: &Inode,
    how: Listing,
    first: &mut bool,
    out: &mut dyn Write,
) -> Result<()> {
    let gap: &[u8] = if *first { b"" } else { b"\n" };
    *first = false;
    out.write_all(&[gap, &shown(path), b":\n"].concat()).map_err(Failure::output)?;
    contents(tree, path, dir, how, out)
}

fn contents(
    tree: &mut Tree,
    path: &[u8],
    dir: &Inode,
    how: Listing,
    out: &mut dyn Write,
) -> Result<()> {
    let mut rows = Vec::new();
    for entry in tree.entries(dir.ino).map_err(tree.at(path))? {
        let full = join(path, &entry.name);
        let inode = tree.inode(entry.ino).map_err(tree.at(&full))?;
        rows.push((entry.name, full, inode));
    }
    lines(tree, &rows, how, out)
}

/// Prints one line for each row: the name to show, the path, the inode.
fn lines(
    tree: &mut Tree,
    rows: &[(Vec<u8>, Vec<u8>, Inode)],
    how: Listing,
    out: &mut dyn Write,
) -> Result<()> {
    let size_of = |inode: &Inode| {
        if is_device(inode) {
            let (major, minor) = device_numbers(inode.rdev);
            format!("{major}, {minor}")
        } else {
            inode.size.to_string()
        }
    };
    let width = |text: &dyn Fn(&Inode) -> String| {
        rows.iter().map(|(_, _, inode)| text(inode).len()).max().unwrap_or(0)
    };
    let links = width(&|inode| inode.nlink.to_string());
    let (users, groups) =
        (width(&|inode| inode.uid.to_string()), width(&|inode| inode.gid.to_string()));
    let sizes = width(&size_of);
    for (name, path, inode) in rows {
        let mut line = Vec::new();
        if how.long {
            let time = size::time(inode.mtime);
            let time = time.get(..time.rfind(':').unwrap_or(time.len())).unwrap_or(&time);
            line = format!(
                "{} {:>links$} {:>users$} {:>groups$} {:>sizes$} {time} ",
                mode_text(inode),
                inode.nlink,
                inode.uid,
                inode.gid,
                size_of(inode),
            )
            .into_bytes();
        }
        line.extend(shown(name));
        if how.long && inode.file_type() == FileType::Symlink {
            let target = tree.volume.resolve(|volume| volume.readlink(inode.ino));
            line.extend(b" -> ");
            line.extend(shown(&target.map_err(tree.at(path))?));
        }
        line.push(b'\n');
        out.write_all(&line).map_err(Failure::output)?;
    }
    Ok(())
}

/// Prints everything that is known of each inode.
///
/// # Errors
/// The engine's, and those of standard output.
pub fn stat(tree: &mut Tree, paths: &[Vec<u8>], out: &mut dyn Write) -> Result<()> {
    for (index, path) in paths.iter().enumerate() {
        if index > 0 {
            out.write_all(b"\n").map_err(Failure::output)?;
        }
        let inode = tree.find(path)?;
        let text = describe(tree, path, &inode)?;
        out.write_all(&text).map_err(Failure::output)?;
    }
    Ok(())
}

fn describe(tree: &mut Tree, path: &[u8], inode: &Inode) -> Result<Vec<u8>> {
    let mut text = [b"path:      ", shown(path).as_slice(), b"\n"].concat();
    if inode.file_type() == FileType::Symlink {
        let target = tree.volume.resolve(|volume| volume.readlink(inode.ino));
        text.extend(b"target:    ");
        text.extend(shown(&target.map_err(tree.at(path))?));
        text.push(b'\n');
    }
    let block_bytes = tree.volume.geometry().block_bytes();
    let mut line = |name: &str, value: String| {
        text.extend(format!("{:<10} {value}\n", format!("{name}:")).into_bytes());
    };
    line("type", kind_text(inode.file_type()).to_owned());
    line("inode", inode.ino.to_string());
    line("mode", format!("{:04o} ({})", inode.mode & 0o7777, mode_text(inode)));
    line("links", inode.nlink.to_string());
    line("owner", format!("{}:{}", inode.uid, inode.gid));
    if is_device(inode) {
        let (major, minor) = device_numbers(inode.rdev);
        line("device", format!("{major}, {minor}"));
    } else if inode.is_dir() {
        line("entries", inode.size.to_string());
    } else {
        line("size", format!("{} bytes", inode.size));
    }
    if inode.is_file() {
        let pieces = count_pieces(tree, inode).map_err(tree.at(path))?;
        line("blocks", format!("{} of {block_bytes} bytes in {pieces} pieces", inode.blocks));
    }
    line("accessed", size::time(inode.atime));
    line("modified", size::time(inode.mtime));
    line("changed", size::time(inode.ctime));
    line("born", size::time(inode.btime));
    if let Some(layout) =
        tree.volume.resolve(|volume| volume.vector(inode.ino)).map_err(tree.at(path))?
    {
        line("vector", layout.to_string());
    }
    for (name, value) in tree.xattrs(inode.ino).map_err(tree.at(path))? {
        line("attribute", format!("{}={}", quoted(&name, false), quoted(&value, true)));
    }
    Ok(text)
}

/// An attribute's name, or its value: in quotes, or in hexadecimal if it is not text.
fn quoted(bytes: &[u8], value: bool) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control()) => {
            if value {
                format!("{text:?}")
            } else {
                text.to_owned()
            }
        }
        _ if value => bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
        _ => crate::tree::text(bytes),
    }
}

/// The number of pieces in which a file's blocks lie on the device.
fn count_pieces(tree: &mut Tree, inode: &Inode) -> Result<u64, vexfs::Error> {
    let end = inode.size.div_ceil(tree.volume.geometry().block_bytes() as u64);
    let (mut at, mut pieces) = (0, 0);
    while at < end {
        let mapping = tree.volume.resolve(|v| v.map(inode.ino, FileBlock(at), end - at))?;
        pieces += u64::from(mapping.kind != MappingKind::Hole);
        at += mapping.count.max(1);
    }
    Ok(pieces)
}

/// Writes the contents of files to `out`.
///
/// # Errors
/// The engine's, and those of standard output.
pub fn cat(tree: &mut Tree, paths: &[Vec<u8>], out: &mut dyn Write) -> Result<()> {
    let mut piece = vec![0; PIECE_BYTES as usize];
    for path in paths {
        let inode = tree.find(path)?;
        let refusal = match inode.file_type() {
            FileType::Regular => None,
            FileType::Directory => Some(vexfs::Error::IsDirectory),
            _ => Some(vexfs::Error::Invalid("not a regular file; vexfs stat shows what it is")),
        };
        if let Some(error) = refusal {
            return Err(tree.at(path)(error));
        }
        let mut at = 0;
        while at < inode.size {
            let read = tree.volume.read_at(inode.ino, at, &mut piece).map_err(tree.at(path))?;
            out.write_all(piece.get(..read).unwrap_or_default()).map_err(Failure::output)?;
            at += read.max(1) as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [(0, 0), (8, 17), (259, 300), (4095, 0x000f_ffff)] {
            assert_eq!(device_numbers(encode_device(major, minor)), (major, minor));
        }
    }

    #[test]
    fn values_are_readable() {
        assert_eq!(quoted(b"a\"b", true), "\"a\\\"b\"");
        assert_eq!(quoted(b"\x00\xff", true), "0x00ff");
        assert_eq!(quoted(b"user.x", false), "user.x");
    }
}
