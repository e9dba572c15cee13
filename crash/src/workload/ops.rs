// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The operations of small workloads, and their names in scripts.
//!
//! Each begins with the same tree (see [`SETUP`]): directories `d`, `e` (empty) and `v` (vectors);
//! files `f` (three and a half blocks), `g` (one block, a second name `d/g`), `p` (unwritten blocks)
//! and `v/x` (vectors); a symbolic link `s`. An operation on a path that does not exist does nothing.

use crate::halt::{Halt, ensure, mismatch};
use crate::lockstep::Lockstep;
use crate::model::{BLOCK, Model};
use crate::rng::Rng;
use vexfs::{Error, Ino, NewInode, RenameFlags, SetAttr, VectorLayout, XattrMode};

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Create(&'static str, u32),
    Unnamed,
    Link(&'static str, &'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    /// From, to, whether it refuses to replace, whether it exchanges.
    Rename(&'static str, &'static str, bool, bool),
    /// Path, first byte, bytes.
    Write(&'static str, u64, usize),
    Append(&'static str, usize),
    Truncate(&'static str, u64),
    /// Path, first block, blocks.
    Punch(&'static str, u64, u64),
    Preallocate(&'static str, u64, u64),
    Chmod(&'static str),
    /// Path, name, bytes.
    Xattr(&'static str, &'static str, usize),
    XattrRemove(&'static str, &'static str),
    Vector(&'static str, bool),
    /// `fsync`: a whole commit.
    Fsync,
    /// `fsync` that only flushes, if nothing but data in place was changed.
    Fdatasync,
    /// A commit is begun and not written yet: later operations run beside it.
    Freeze,
    /// The commit that was begun is written.
    Finish,
}

const REG: u32 = 0o100_644;
const DIR: u32 = 0o040_755;
const LNK: u32 = 0o120_777;
const FIFO: u32 = 0o010_600;

/// Makes what every workload begins with.
pub(super) const SETUP: &[Op] = &[
    Op::Create("d", DIR),
    Op::Create("e", DIR),
    Op::Create("v", DIR),
    Op::Vector("v", true),
    Op::Create("v/x", REG),
    Op::Write("v/x", 0, 2 * BLOCK),
    Op::Create("f", REG),
    Op::Write("f", 0, 3 * BLOCK + 1700),
    Op::Create("g", REG),
    Op::Write("g", 0, BLOCK),
    Op::Link("g", "d/g"),
    Op::Create("p", REG),
    Op::Preallocate("p", 0, 4),
    Op::Create("s", LNK),
    Op::Xattr("f", "user.old", 30),
    Op::Fsync,
];

/// The operations that are combined, by name.
pub(super) const OPS: &[(&str, Op)] = &[
    ("create a", Op::Create("a", REG)),
    ("create d/a", Op::Create("d/a", REG)),
    ("create v/y", Op::Create("v/y", REG)),
    ("tmpfile", Op::Unnamed),
    ("mkdir b", Op::Create("b", DIR)),
    ("mkdir d/b", Op::Create("d/b", DIR)),
    ("symlink t", Op::Create("t", LNK)),
    ("mkfifo d/q", Op::Create("d/q", FIFO)),
    ("link f l", Op::Link("f", "l")),
    ("link f d/l", Op::Link("f", "d/l")),
    ("unlink f", Op::Unlink("f")),
    ("unlink g", Op::Unlink("g")),
    ("unlink d/g", Op::Unlink("d/g")),
    ("unlink s", Op::Unlink("s")),
    ("unlink v/x", Op::Unlink("v/x")),
    ("rmdir e", Op::Rmdir("e")),
    ("rename f a", Op::Rename("f", "a", false, false)),
    ("rename f d/f", Op::Rename("f", "d/f", false, false)),
    ("rename f g", Op::Rename("f", "g", false, false)),
    ("rename d/g f", Op::Rename("d/g", "f", false, false)),
    ("rename d e", Op::Rename("d", "e", false, false)),
    ("rename e d/e", Op::Rename("e", "d/e", false, false)),
    ("rename -n g a", Op::Rename("g", "a", true, false)),
    ("exchange f g", Op::Rename("f", "g", false, true)),
    ("exchange f d", Op::Rename("f", "d", false, true)),
    ("write f 0 4096", Op::Write("f", 0, BLOCK)),
    ("write f 700 100", Op::Write("f", 700, 100)),
    ("write f 3000 6000", Op::Write("f", 3000, 6000)),
    ("write f 40960 4096", Op::Write("f", 10 * BLOCK as u64, BLOCK)),
    ("write g 0 4096", Op::Write("g", 0, BLOCK)),
    ("write p 4096 4096", Op::Write("p", BLOCK as u64, BLOCK)),
    ("write a 0 9000", Op::Write("a", 0, 9000)),
    ("append f 100", Op::Append("f", 100)),
    ("append f 8192", Op::Append("f", 2 * BLOCK)),
    ("write v/x 1536 1536", Op::Write("v/x", 1536, 1536)),
    ("append v/x 3072", Op::Append("v/x", 3072)),
    ("truncate f 0", Op::Truncate("f", 0)),
    ("truncate f 5000", Op::Truncate("f", 5000)),
    ("truncate f 30000", Op::Truncate("f", 30_000)),
    ("punch f 1 1", Op::Punch("f", 1, 1)),
    ("punch f 0 9", Op::Punch("f", 0, 9)),
    ("fallocate f 8 3", Op::Preallocate("f", 8, 3)),
    ("fallocate a 0 2", Op::Preallocate("a", 0, 2)),
    ("chmod f", Op::Chmod("f")),
    ("chmod d", Op::Chmod("d")),
    ("setfattr f user.new 20", Op::Xattr("f", "user.new", 20)),
    ("setfattr f user.old 3000", Op::Xattr("f", "user.old", 3000)),
    ("setfattr d user.new 700", Op::Xattr("d", "user.new", 700)),
    ("setfattr -x f user.old", Op::XattrRemove("f", "user.old")),
    ("vector e", Op::Vector("e", true)),
    ("vector -x v", Op::Vector("v", false)),
];

/// The synchronisations that may follow an operation, beside none at all.
pub(super) const SYNCS: &[(&str, Op)] =
    &[("fsync", Op::Fsync), ("fdatasync", Op::Fdatasync), ("freeze", Op::Freeze)];

/// The operation of that name.
pub(super) fn by_name(name: &str) -> Option<(&'static str, Op)> {
    let finish = [("finish", Op::Finish)];
    OPS.iter().chain(SYNCS).chain(&finish).find(|(known, _)| *known == name).copied()
}

/// The directory and name that a path stands for, and the inode that has it.
fn resolve(model: &Model, path: &'static str) -> Option<(u64, &'static [u8], Option<u64>)> {
    let (dir, name) = match path.split_once('/') {
        None => (Ino::ROOT.0, path),
        Some((dir, name)) => {
            let root = model.get(Ino::ROOT.0).ok()?;
            (*root.entries.get(dir.as_bytes())?, name)
        }
    };
    let name = name.as_bytes();
    let there = model.get(dir).ok()?.entries.get(name).copied();
    Some((dir, name, there))
}

/// Does to the model what was done to the engine, and compares their answers. [`None`] if both
/// refused it.
fn compare_answers<T, U>(
    lockstep: &mut Lockstep,
    got: Result<T, Error>,
    model: impl FnOnce(&mut Model) -> Result<U, Error>,
) -> Result<Option<T>, Halt> {
    let expected = model(&mut lockstep.model).map(|_| ());
    match (got, expected) {
        (Ok(value), Ok(())) => Ok(Some(value)),
        (Err(a), Err(b)) if crate::model::same_error(&a, &b) => Ok(None),
        (got, expected) => {
            let got = got.map(|_| ());
            mismatch(format!("the engine says {got:?}, the model {expected:?}"))
        }
    }
}

/// The inode at a path.
fn find(lockstep: &Lockstep, path: &'static str) -> Option<u64> {
    resolve(&lockstep.model, path).and_then(|(_, _, ino)| ino)
}

/// The regular file at a path.
fn find_file(lockstep: &Lockstep, path: &'static str) -> Option<u64> {
    find(lockstep, path)
        .filter(|ino| lockstep.model.get(*ino).is_ok_and(|node| node.attr.is_file()))
}

/// Does an operation. `number` is its place in the script and decides what it writes.
pub(super) fn run(lockstep: &mut Lockstep, op: Op, number: u64) -> Result<(), Halt> {
    lockstep.clock += 1;
    match op {
        Op::Fsync => lockstep.commit(),
        Op::Fdatasync => lockstep.flush(),
        Op::Freeze => lockstep.freeze(),
        Op::Finish => lockstep.finish(),
        Op::Unnamed
        | Op::Create(..)
        | Op::Link(..)
        | Op::Unlink(_)
        | Op::Rmdir(_)
        | Op::Rename(..) => run_on_names(lockstep, op),
        Op::Write(path, at, len) => match find_file(lockstep, path) {
            Some(ino) => write(lockstep, ino, at, len, number),
            None => Ok(()),
        },
        Op::Append(path, len) => match find_file(lockstep, path) {
            Some(ino) => {
                let at = lockstep.model.get(ino).map_or(0, |node| node.attr.size);
                write(lockstep, ino, at, len, number)
            }
            None => Ok(()),
        },
        Op::Truncate(path, size) => {
            find_file(lockstep, path).map_or(Ok(()), |ino| lockstep.truncate(ino, size))
        }
        Op::Punch(path, from, count) => {
            find_file(lockstep, path).map_or(Ok(()), |ino| lockstep.punch(ino, from, count))
        }
        Op::Preallocate(path, from, count) => match find_file(lockstep, path) {
            Some(ino) => lockstep.preallocate(ino, from, count).map(drop),
            None => Ok(()),
        },
        Op::Chmod(path) | Op::Xattr(path, ..) | Op::XattrRemove(path, _) | Op::Vector(path, _) => {
            match find(lockstep, path) {
                Some(ino) => run_on_attributes(lockstep, op, ino, number),
                None => Ok(()),
            }
        }
    }
}

/// The operations that change directories.
fn run_on_names(lockstep: &mut Lockstep, op: Op) -> Result<(), Halt> {
    let now = lockstep.now();
    match op {
        Op::Unnamed => {
            let new = NewInode { mode: REG, uid: 0, gid: 0, rdev: 0, target: b"", now };
            let got = lockstep.run(|v| v.create_unnamed(&new))?;
            let ino = got.as_ref().map_or(Ino(0), |inode| inode.ino);
            compare_answers(lockstep, got, |m| m.create_unnamed(ino, &new)).map(drop)
        }
        Op::Create(path, mode) => {
            let Some((dir, name, _)) = resolve(&lockstep.model, path) else { return Ok(()) };
            let target: &[u8] = if mode == LNK { b"somewhere/else" } else { b"" };
            let new = NewInode { mode, uid: 1, gid: 2, rdev: 0, target, now };
            let got = lockstep.run(|v| v.create(Ino(dir), name, &new))?;
            let ino = got.as_ref().map_or(Ino(0), |inode| inode.ino);
            compare_answers(lockstep, got, |m| m.create(ino, dir, name, &new)).map(drop)
        }
        Op::Link(from, to) => {
            let (Some(ino), Some((dir, name, _))) =
                (find(lockstep, from), resolve(&lockstep.model, to))
            else {
                return Ok(());
            };
            let got = lockstep.run(|v| v.link(Ino(ino), Ino(dir), name, now))?;
            compare_answers(lockstep, got, |m| m.link(ino, dir, name, now)).map(drop)
        }
        Op::Unlink(path) | Op::Rmdir(path) => {
            let Some((dir, name, _)) = resolve(&lockstep.model, path) else { return Ok(()) };
            let rmdir = matches!(op, Op::Rmdir(_));
            let got = lockstep.run(|v| {
                let dir = Ino(dir);
                if rmdir { v.rmdir(dir, name, now) } else { v.unlink(dir, name, now) }
            })?;
            let gone = compare_answers(lockstep, got, |m| m.remove(dir, name, rmdir, now))?;
            evict(lockstep, gone)
        }
        Op::Rename(from, to, no_replace, exchange) => {
            let (Some((from, a, _)), Some((to, b, _))) =
                (resolve(&lockstep.model, from), resolve(&lockstep.model, to))
            else {
                return Ok(());
            };
            let flags = RenameFlags { no_replace, exchange };
            let got = lockstep.run(|v| v.rename(Ino(from), a, Ino(to), b, flags, now))?;
            let done = compare_answers(lockstep, got, |m| m.rename(from, a, to, b, flags, now))?;
            evict(lockstep, done.and_then(|done| done.other))
        }
        _ => Ok(()),
    }
}

/// The operations that change one inode's attributes.
fn run_on_attributes(lockstep: &mut Lockstep, op: Op, ino: u64, number: u64) -> Result<(), Halt> {
    let now = lockstep.now();
    match op {
        Op::Chmod(_) => {
            let set = SetAttr { mode: Some(0o711), uid: Some(7), ctime: now, ..SetAttr::default() };
            let got = lockstep.run(|v| v.set_attr(Ino(ino), &set))?;
            compare_answers(lockstep, got, |m| m.set_attr(ino, &set)).map(drop)
        }
        Op::Xattr(_, name, len) => {
            let (name, value, mode) = (name.as_bytes(), bytes(number, len), XattrMode::Set);
            let got = lockstep.run(|v| v.xattr_set(Ino(ino), name, &value, mode, now))?;
            compare_answers(lockstep, got, |m| m.xattr_set(ino, name, &value, mode, now)).map(drop)
        }
        Op::XattrRemove(_, name) => {
            let name = name.as_bytes();
            let got = lockstep.run(|v| v.xattr_remove(Ino(ino), name, now))?;
            compare_answers(lockstep, got, |m| m.xattr_remove(ino, name, now)).map(drop)
        }
        Op::Vector(_, on) => {
            let layout = VectorLayout::parse("type=f32,dim=384,metric=cosine");
            let Ok(layout) = layout else { return mismatch("a vector attribute is refused") };
            let layout = on.then_some(layout);
            let got = lockstep.run(|v| v.set_vector(Ino(ino), layout.as_ref(), now))?;
            compare_answers(lockstep, got, |m| m.set_vector(ino, layout, now)).map(drop)
        }
        _ => Ok(()),
    }
}

/// Bytes that differ from those of every other operation.
fn bytes(number: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    Rng::new(number + 1).fill(&mut data);
    data
}

fn write(lockstep: &mut Lockstep, ino: u64, at: u64, len: usize, number: u64) -> Result<(), Halt> {
    let fits = lockstep.write(ino, at, &bytes(number, len), true)?;
    ensure!(fits, "a small workload ran out of space: the image is too small for it");
    Ok(())
}

/// Removes an inode that lost its last name.
fn evict(lockstep: &mut Lockstep, gone: Option<vexfs::Inode>) -> Result<(), Halt> {
    match gone.filter(|inode| inode.nlink == 0) {
        Some(inode) => lockstep.evict(inode.ino.0),
        None => Ok(()),
    }
}
