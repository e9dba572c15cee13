// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which files two users may search, in a filesystem that the engine writes.

use super::*;
use crate::dirty_log::DirtyLog;
use crate::testing::{Mounted, NOW};
use std::collections::BTreeSet;
use vexfs::{RenameFlags, SetAttr, XattrMode};

const BYTES: u64 = 16 << 20;
const OWNER: u32 = 1000;

struct Fixture {
    mounted: Mounted,
    names: Names,
    _image: tempfile::NamedTempFile,
}

fn fixture() -> Fixture {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(BYTES).unwrap();
    let dirty_log = Arc::new(DirtyLog::new(BYTES).unwrap());
    let mut mounted = Mounted::format(image.path(), BYTES, dirty_log);
    mounted.commit();
    let device = FileDevice::new(image.reopen().unwrap()).unwrap();
    Fixture { mounted, names: Names::open(device).unwrap(), _image: image }
}

impl Fixture {
    fn directory(&mut self, parent: Ino, name: &str, mode: u32) -> Ino {
        self.made(parent, name, 0o040_000 | mode)
    }

    fn file(&mut self, parent: Ino, name: &str, mode: u32) -> Ino {
        self.made(parent, name, 0o100_000 | mode)
    }

    fn made(&mut self, parent: Ino, name: &str, mode: u32) -> Ino {
        let ino = self.mounted.create(parent, name, mode);
        self.set(ino, SetAttr { uid: Some(OWNER), gid: Some(OWNER), ..SetAttr::default() });
        ino
    }

    fn set(&mut self, ino: Ino, attr: SetAttr) {
        self.mounted.volume.run(NOW, |volume| volume.set_attr(ino, &attr)).unwrap();
    }

    fn chmod(&mut self, ino: Ino, mode: u32) {
        let inode = self.mounted.volume.resolve(|volume| volume.inode(ino)).unwrap();
        self.set(ino, SetAttr { mode: Some(inode.mode & !0o7777 | mode), ..SetAttr::default() });
    }

    fn rename(&mut self, from: (Ino, &str), to: (Ino, &str)) {
        let renamed = self.mounted.volume.run(NOW, |volume| {
            let (from, to) = ((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()));
            volume.rename(from.0, from.1, to.0, to.1, RenameFlags::default(), NOW)
        });
        renamed.unwrap();
    }

    fn ask(&mut self, uid: u32, top: Ino, readable: bool) -> Result<Scope, String> {
        self.mounted.commit();
        let caller = Caller { uid, gid: uid, groups: vec![] };
        self.names.scope(Top { ino: top.0, readable }, &caller, |_| true)
    }

    /// The paths below `top` that the user may search.
    fn found(&mut self, uid: u32, top: Ino) -> BTreeSet<String> {
        let scope = self.ask(uid, top, true).unwrap();
        scope.files.into_values().map(|path| String::from_utf8(path).unwrap()).collect()
    }
}

fn set<const N: usize>(paths: [&str; N]) -> BTreeSet<String> {
    paths.into_iter().map(str::to_owned).collect()
}

#[test]
fn a_user_finds_what_he_may_read_and_nothing_else() {
    let mut fs = fixture();
    let top = fs.directory(Ino::ROOT, "top", 0o755);
    fs.file(top, "open", 0o644);
    fs.file(top, "own", 0o600);
    let closed = fs.directory(top, "closed", 0o700);
    fs.file(closed, "in", 0o644);
    let pass = fs.directory(top, "pass", 0o711);
    fs.file(pass, "in", 0o644);
    let list = fs.directory(top, "list", 0o744);
    fs.file(list, "in", 0o644);
    let deep = fs.directory(top, "deep", 0o755);
    let deep = fs.directory(deep, "er", 0o755);
    fs.file(deep, "in", 0o644);
    let all = set(["open", "own", "closed/in", "pass/in", "list/in", "deep/er/in"]);
    assert_eq!(fs.found(0, top), all, "root");
    assert_eq!(fs.found(OWNER, top), all, "the owner");
    // Passing without listing shows no names, and listing without passing opens nothing.
    assert_eq!(fs.found(2000, top), set(["open", "deep/er/in"]));
    assert_eq!(fs.ask(2000, top, true).unwrap().denied, 4);
}

#[test]
fn a_chmod_is_honoured_by_the_next_search() {
    let mut fs = fixture();
    let top = fs.directory(Ino::ROOT, "top", 0o755);
    let sub = fs.directory(top, "sub", 0o755);
    let file = fs.file(sub, "a", 0o644);
    assert_eq!(fs.found(2000, top), set(["sub/a"]));
    fs.chmod(file, 0o600);
    assert_eq!(fs.found(2000, top), set([]));
    fs.chmod(file, 0o604);
    assert_eq!(fs.found(2000, top), set(["sub/a"]));
    fs.chmod(sub, 0o700);
    assert_eq!(fs.found(2000, top), set([]));
    fs.set(sub, SetAttr { uid: Some(2000), ..SetAttr::default() });
    assert_eq!(fs.found(2000, top), set(["sub/a"]));
}

#[test]
fn acls_are_honoured_on_files_and_directories() {
    let mut fs = fixture();
    let top = fs.directory(Ino::ROOT, "top", 0o755);
    let sub = fs.directory(top, "sub", 0o750);
    let file = fs.file(sub, "a", 0o640);
    assert_eq!(fs.found(2000, top), set([]));
    // user::rwx user:2000:r-x group::--- mask::r-x other::---
    let entries = [
        (1u16, 7u16, u32::MAX),
        (2, 5, 2000),
        (4, 0, u32::MAX),
        (16, 5, u32::MAX),
        (32, 0, u32::MAX),
    ];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(bits.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    for (ino, expected) in [(sub, set([])), (file, set(["sub/a"]))] {
        let volume = &mut fs.mounted.volume;
        volume.run(NOW, |v| v.xattr_set(ino, ACL, &acl, XattrMode::Set, NOW)).unwrap();
        assert_eq!(fs.found(2000, top), expected);
    }
    assert_eq!(fs.found(2001, top), set([]), "the entry is another user's");
}

#[test]
fn files_and_trees_that_move_are_where_they_are_now() {
    let mut fs = fixture();
    let open = fs.directory(Ino::ROOT, "open", 0o755);
    let closed = fs.directory(Ino::ROOT, "closed", 0o700);
    fs.file(open, "a", 0o644);
    let tree = fs.directory(open, "tree", 0o755);
    fs.file(tree, "b", 0o644);
    assert_eq!(fs.found(2000, Ino::ROOT), set(["open/a", "open/tree/b"]));
    fs.rename((open, "a"), (closed, "a"));
    assert_eq!(fs.found(2000, Ino::ROOT), set(["open/tree/b"]));
    fs.rename((Ino::ROOT, "open"), (Ino::ROOT, "renamed"));
    assert_eq!(fs.found(2000, Ino::ROOT), set(["renamed/tree/b"]));
    fs.rename((open, "tree"), (closed, "tree"));
    assert_eq!(fs.found(2000, Ino::ROOT), set([]));
    assert_eq!(fs.found(OWNER, Ino::ROOT), set(["closed/a", "closed/tree/b"]));
}

#[test]
fn a_file_with_a_name_in_a_readable_directory_is_found_there() {
    let mut fs = fixture();
    let closed = fs.directory(Ino::ROOT, "closed", 0o700);
    let open = fs.directory(Ino::ROOT, "open", 0o755);
    let file = fs.file(closed, "a", 0o644);
    fs.mounted.volume.run(NOW, |volume| volume.link(file, open, b"b", NOW)).unwrap();
    assert_eq!(fs.found(2000, Ino::ROOT), set(["open/b"]));
}

#[test]
fn the_top_needs_what_the_kernel_has_not_checked() {
    let mut fs = fixture();
    let sub = fs.directory(Ino::ROOT, "sub", 0o744);
    let file = fs.file(sub, "a", 0o600);
    let no = |scope: Result<Scope, String>| scope.unwrap_err();
    // Opened for reading by whoever could; listing a directory does not mean passing it.
    let opened = fs.ask(2000, file, true).unwrap();
    assert!(opened.single && opened.files == BTreeMap::from([(file.0, Vec::new())]));
    assert!(no(fs.ask(2000, sub, true)).contains("may not read"));
    // A bare descriptor (O_PATH) means nothing.
    assert!(no(fs.ask(2000, file, false)).contains("may not read"));
    fs.chmod(sub, 0o711);
    assert!(no(fs.ask(2000, sub, false)).contains("may not read"));
    assert!(fs.ask(2000, sub, true).is_ok());
    assert!(no(fs.ask(2000, Ino(file.0 + 1), true)).contains("not committed"));
    let fifo = fs.made(Ino::ROOT, "fifo", 0o010_666);
    assert!(no(fs.ask(2000, fifo, true)).contains("neither a file nor a directory"));
}

#[test]
fn only_what_is_wanted_is_listed() {
    let mut fs = fixture();
    let one = fs.file(Ino::ROOT, "one", 0o644);
    fs.file(Ino::ROOT, "two", 0o644);
    fs.mounted.commit();
    let caller = Caller { uid: 2000, gid: 2000, groups: vec![] };
    let top = Top { ino: Ino::ROOT.0, readable: true };
    let scope = fs.names.scope(top, &caller, |ino| ino == one.0).unwrap();
    assert_eq!(scope.files, BTreeMap::from([(one.0, b"one".to_vec())]));
}
