// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The operations of small workloads, by the names they are written with.
//!
//! The tree they find (see [`SETUP`]): directories `d`, `e` (empty) and `v` (vectors); files `f`
//! (three and a half blocks), `g` (one block, a second name `d/g`), `p` (unwritten blocks), `v/x`
//! (vectors); a symbolic link `s`. An operation on what is not there does nothing.

use crate::model::{BLOCK, Model};
use crate::rng::Rng;
use crate::work::{Run, World, ensure, wrong};
use vexfs::{Error, Ino, NewInode, RenameFlags, SetAttr, VectorLayout, XattrMode};

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Create(&'static str, u32),
    Unnamed,
    Link(&'static str, &'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    /// From, to: refusing to replace, exchanging.
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
    /// `fsync` of data that was overwritten in place, if that is all there is.
    Fdatasync,
    /// A commit is begun and not written yet: what follows runs beside it.
    Freeze,
    /// The commit that was begun is written.
    Finish,
}

const REG: u32 = 0o100_644;
const DIR: u32 = 0o040_755;
const LNK: u32 = 0o120_777;
const FIFO: u32 = 0o010_600;

/// What every workload begins with, committed.
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

/// The kinds of synchronisation that may follow an operation. The first is none at all.
pub(super) const SYNCS: &[(&str, Op)] =
    &[("fsync", Op::Fsync), ("fdatasync", Op::Fdatasync), ("freeze", Op::Freeze)];

/// The operation of that name.
pub(super) fn named(name: &str) -> Option<(&'static str, Op)> {
    let finish = [("finish", Op::Finish)];
    OPS.iter().chain(SYNCS).chain(&finish).find(|(known, _)| *known == name).copied()
}

/// Directory, name, and what is there.
fn place(model: &Model, path: &'static str) -> Option<(u64, &'static [u8], Option<u64>)> {
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

/// Does to the model what was done to the engine, and holds their answers against each other.
fn both<T, U>(
    world: &mut World,
    got: Result<T, Error>,
    model: impl FnOnce(&mut Model) -> Result<U, Error>,
) -> Run<Option<T>> {
    let expected = model(&mut world.model).map(|_| ());
    match (got, expected) {
        (Ok(value), Ok(())) => Ok(Some(value)),
        (Err(a), Err(b)) if crate::model::same_error(&a, &b) => Ok(None),
        (got, expected) => {
            let got = got.map(|_| ());
            wrong(format!("the engine says {got:?}, the model {expected:?}"))
        }
    }
}

/// Does an operation. `number` is its place in the script: what it writes follows from it.
pub(super) fn run(world: &mut World, op: Op, number: u64) -> Run<()> {
    world.clock += 1;
    let now = world.now();
    let find = |world: &World, path| place(&world.model, path).and_then(|(_, _, there)| there);
    let file = |world: &World, path| {
        find(world, path).filter(|i| world.model.get(*i).is_ok_and(|n| n.attr.is_file()))
    };
    match op {
        Op::Fsync => world.commit(),
        Op::Fdatasync => world.flush(),
        Op::Freeze => world.freeze(),
        Op::Finish => world.finish(),
        Op::Unnamed => {
            let new = NewInode { mode: REG, uid: 0, gid: 0, rdev: 0, target: b"", now };
            let got = world.run(|v| v.create_unnamed(&new))?;
            let ino = got.as_ref().map_or(Ino(0), |inode| inode.ino);
            both(world, got, |m| m.create_unnamed(ino, &new)).map(drop)
        }
        Op::Create(path, mode) => {
            let Some((dir, name, _)) = place(&world.model, path) else { return Ok(()) };
            let target: &[u8] = if mode == LNK { b"somewhere/else" } else { b"" };
            let new = NewInode { mode, uid: 1, gid: 2, rdev: 0, target, now };
            let got = world.run(|v| v.create(Ino(dir), name, &new))?;
            let ino = got.as_ref().map_or(Ino(0), |inode| inode.ino);
            both(world, got, |m| m.create(ino, dir, name, &new)).map(drop)
        }
        Op::Link(from, to) => {
            let (Some(ino), Some((dir, name, _))) = (find(world, from), place(&world.model, to))
            else {
                return Ok(());
            };
            let got = world.run(|v| v.link(Ino(ino), Ino(dir), name, now))?;
            both(world, got, |m| m.link(ino, dir, name, now)).map(drop)
        }
        Op::Unlink(path) | Op::Rmdir(path) => {
            let Some((dir, name, _)) = place(&world.model, path) else { return Ok(()) };
            let rmdir = matches!(op, Op::Rmdir(_));
            let got = world.run(|v| {
                let dir = Ino(dir);
                if rmdir { v.rmdir(dir, name, now) } else { v.unlink(dir, name, now) }
            })?;
            let gone = both(world, got, |m| m.remove(dir, name, rmdir, now))?;
            evict(world, gone)
        }
        Op::Rename(from, to, no_replace, exchange) => {
            let (Some((from, a, _)), Some((to, b, _))) =
                (place(&world.model, from), place(&world.model, to))
            else {
                return Ok(());
            };
            let flags = RenameFlags { no_replace, exchange };
            let got = world.run(|v| v.rename(Ino(from), a, Ino(to), b, flags, now))?;
            let done = both(world, got, |m| m.rename(from, a, to, b, flags, now))?;
            evict(world, done.and_then(|done| done.other))
        }
        Op::Write(path, at, len) => match file(world, path) {
            Some(ino) => write(world, ino, at, len, number),
            None => Ok(()),
        },
        Op::Append(path, len) => match file(world, path) {
            Some(ino) => {
                let at = world.model.get(ino).map_or(0, |node| node.attr.size);
                write(world, ino, at, len, number)
            }
            None => Ok(()),
        },
        Op::Truncate(path, size) => {
            file(world, path).map_or(Ok(()), |ino| world.truncate(ino, size))
        }
        Op::Punch(path, from, count) => {
            file(world, path).map_or(Ok(()), |ino| world.punch(ino, from, count))
        }
        Op::Preallocate(path, from, count) => {
            let Some(ino) = file(world, path) else { return Ok(()) };
            world.preallocate(ino, from, count).map(drop)
        }
        Op::Chmod(path) => {
            let Some(ino) = find(world, path) else { return Ok(()) };
            let set = SetAttr { mode: Some(0o711), uid: Some(7), ctime: now, ..SetAttr::default() };
            let got = world.run(|v| v.set_attr(Ino(ino), &set))?;
            both(world, got, |m| m.set_attr(ino, &set)).map(drop)
        }
        Op::Xattr(path, name, len) => {
            let Some(ino) = find(world, path) else { return Ok(()) };
            let value = bytes(number, len);
            let name = name.as_bytes();
            let got = world.run(|v| v.xattr_set(Ino(ino), name, &value, XattrMode::Set, now))?;
            both(world, got, |m| m.xattr_set(ino, name, &value, XattrMode::Set, now)).map(drop)
        }
        Op::XattrRemove(path, name) => {
            let Some(ino) = find(world, path) else { return Ok(()) };
            let name = name.as_bytes();
            let got = world.run(|v| v.xattr_remove(Ino(ino), name, now))?;
            both(world, got, |m| m.xattr_remove(ino, name, now)).map(drop)
        }
        Op::Vector(path, on) => {
            let Some(ino) = find(world, path) else { return Ok(()) };
            let layout = VectorLayout::parse("type=f32,dim=384,metric=cosine");
            let Ok(layout) = layout else { return wrong("a vector attribute is refused") };
            let layout = on.then_some(layout);
            let got = world.run(|v| v.set_vector(Ino(ino), layout.as_ref(), now))?;
            both(world, got, |m| m.set_vector(ino, layout, now)).map(drop)
        }
    }
}

/// Bytes that say which operation wrote them.
fn bytes(number: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    Rng::new(number + 1).fill(&mut data);
    data
}

fn write(world: &mut World, ino: u64, at: u64, len: usize, number: u64) -> Run<()> {
    let fits = world.write(ino, at, &bytes(number, len), true)?;
    ensure!(fits, "the image of a small workload is full");
    Ok(())
}

/// Removes what lost its last name.
fn evict(world: &mut World, gone: Option<vexfs::Inode>) -> Run<()> {
    match gone.filter(|inode| inode.nlink == 0) {
        Some(inode) => world.evict(inode.ino.0),
        None => Ok(()),
    }
}
