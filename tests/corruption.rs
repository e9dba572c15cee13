// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Damage: flipped bits everywhere, stale and misplaced blocks, and structures with right checksums and
//! impossible contents. Every operation returns, with the truth or an error.

mod common;

use common::{
    BLOCK, DIR, FILE, LINK, NOW, craft, craft_item, open, populated, root, structure, with_record,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use vexfs::*;
use vexfs_crash::{CacheDevice, Image, Rng};
use vexfs_format::item::{InodeItem, RawTime};
use vexfs_format::node::{InnerEntry, LeafSlot, NodeHeader, Pointer};
use vexfs_format::{
    DirentHead, ExtentItem, GroupItem, Key, Kind, ROOT_RING_START, ROOT_SLOTS, RootRecord,
    Superblock, VectorItem, XattrHead, crc32c,
};
use zerocopy::{FromBytes, IntoBytes};

/// All that a reader sees, by path; an error in place of what cannot be read.
fn read_all(image: &Image) -> Result<BTreeMap<String, String>> {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let mut v = Volume::open(image, &options)?;
    let mut seen = BTreeMap::new();
    let mut dirs = vec![(Ino::ROOT, String::new())];
    let mut budget = 3000;
    while let Some((dir, path)) = dirs.pop() {
        let mut cookie = 0;
        loop {
            let mut batch = Vec::new();
            let result = v.resolve(|v| {
                batch.clear();
                v.readdir(dir, cookie, &mut |e| {
                    batch.push((e.name.to_vec(), e.ino, e.cookie));
                    batch.len() < 50
                })
            });
            if let Err(e) = no_bug(result) {
                seen.insert(format!("{path}/"), format!("error {}", e.errno()));
                break;
            }
            if batch.is_empty() {
                break;
            }
            for (name, ino, next) in batch {
                budget -= 1;
                assert!(budget > 0, "readdir does not end");
                assert!(next > cookie, "a cookie does not grow");
                cookie = next;
                let path = format!("{path}/{}", String::from_utf8_lossy(&name));
                let text = describe(&mut v, ino);
                if text.contains("Directory") {
                    dirs.push((ino, path.clone()));
                }
                seen.insert(path, text);
            }
        }
    }
    Ok(seen)
}

fn describe(v: &mut Volume<&Image>, ino: Ino) -> String {
    fn part<T: std::fmt::Debug>(result: Result<T>) -> String {
        no_bug(result).map_or_else(|e| format!("error {}", e.errno()), |value| format!("{value:?}"))
    }
    let inode = v.resolve(|v| v.inode(ino));
    let mut text = part(inode);
    let Ok(inode) = inode else { return text };
    let mut names = Vec::new();
    let listed = v.resolve(|v| {
        names.clear();
        v.xattr_list(ino, &mut |name| {
            names.push(name.to_vec());
            names.len() < 1000
        })
    });
    text += &part(listed.map(|()| names.clone()));
    for name in names {
        text += &part(v.resolve(|v| v.xattr_get(ino, &name)).map(|value| crc32c(&value)));
    }
    text += &part(v.resolve(|v| v.vector(ino)));
    if inode.file_type() == FileType::Symlink {
        text += &part(v.resolve(|v| v.readlink(ino)));
    }
    if inode.is_file() {
        // File data has no checksum, so only its place is compared.
        let mut at = 0;
        while at < 64 {
            let mapping = v.resolve(|v| v.map(ino, FileBlock(at), 64 - at));
            text += &part(mapping);
            match mapping {
                Ok(mapping) => {
                    assert!(mapping.count > 0 && mapping.count <= 64 - at);
                    at += mapping.count;
                }
                Err(_) => break,
            }
        }
    }
    text
}

/// Fails on [`Error::Bug`]: damage leads to `Corrupt` or an ordinary error, never to a bug.
fn no_bug<T: std::fmt::Debug>(result: Result<T>) -> Result<T> {
    assert!(!matches!(result, Err(Error::Bug(_))), "{result:?}");
    result
}

/// Calls every operation that changes something; each has to end and none may panic.
fn change_all(image: &Image) {
    let Ok(mut v) = open(CacheDevice::new(image.clone())) else {
        return;
    };
    let mut inos: Vec<Ino> = (0..12).map(Ino).collect();
    if let Ok((ino, _)) = v.resolve(|v| v.lookup(Ino::ROOT, b"file")) {
        inos.push(ino);
    }
    let layout = VectorLayout::parse("type=f32,dim=8,metric=l2").unwrap();
    let _ = no_bug(v.evict_orphans(NOW));
    for ino in inos {
        let _ = no_bug(v.run(NOW, |v| v.create(ino, b"new", &FILE)));
        let _ = no_bug(v.run(NOW, |v| v.create(ino, b"new dir", &DIR)));
        let _ = no_bug(v.run(NOW, |v| v.create(ino, b"new link", &LINK)));
        let _ = no_bug(v.run(NOW, |v| v.link(ino, Ino::ROOT, b"linked", NOW)));
        let _ = no_bug(v.run(NOW, |v| v.unlink(Ino::ROOT, b"linked", NOW)));
        for flags in [
            RenameFlags::default(),
            RenameFlags { exchange: true, no_replace: false },
            RenameFlags { exchange: false, no_replace: true },
        ] {
            let _ = no_bug(v.run(NOW, |v| v.rename(Ino::ROOT, b"dir", ino, b"x", flags, NOW)));
            let _ = no_bug(v.run(NOW, |v| v.rename(ino, b"x", Ino::ROOT, b"file", flags, NOW)));
        }
        let _ = no_bug(v.write_at(ino, 5000, &[7; 9000], NOW));
        let _ = no_bug(v.run(NOW, |v| v.allocate(ino, FileBlock(100), 40)));
        let _ = no_bug(v.run(NOW, |v| v.mark_written(ino, FileBlock(0), 200, None, Some(NOW))));
        let _ = no_bug(v.run(NOW, |v| v.punch(ino, FileBlock(1), 3, Some(NOW))));
        let _ = no_bug(v.truncate(ino, 10_000, NOW));
        let _ =
            no_bug(v.run(NOW, |v| v.xattr_set(ino, b"user.x", &[1; 2000], XattrMode::Set, NOW)));
        let _ = no_bug(v.run(NOW, |v| v.xattr_set(ino, b"user.y", &[1; 90], XattrMode::Set, NOW)));
        let _ = no_bug(v.run(NOW, |v| v.xattr_remove(ino, b"user.x", NOW)));
        let _ = no_bug(v.run(NOW, |v| v.set_vector(ino, Some(&layout), NOW)));
        let _ =
            no_bug(v.run(NOW, |v| {
                v.set_attr(ino, &SetAttr { mode: Some(0o600), ..SetAttr::default() })
            }));
        let _ = no_bug(v.run(NOW, |v| v.rmdir(ino, b"new dir", NOW)));
        let _ = no_bug(v.commit(NOW));
        let _ = no_bug(v.truncate(ino, 0, NOW));
    }
    let _ = no_bug(v.commit(NOW));
    let mut follower = Follower::open(v.device(), 1 << 20).ok();
    if let Some(follower) = &mut follower {
        let _ = no_bug(follower.changes(Generation(0), &mut |_| Ok(())));
    }
}

fn findings(image: &Image) -> Result<u64> {
    no_bug(check(image, &mut |_| {})).map(|summary| summary.findings)
}

#[test]
fn flipped_bits_are_found_or_change_nothing() {
    let image = populated();
    let truth = read_all(&image).unwrap();
    let mut rng = Rng::new(1);
    let (mut harmed, mut used) = (0, Vec::new());
    for block in 0..1024u64 {
        if image.bytes(block * BLOCK as u64, BLOCK).iter().any(|b| *b != 0) {
            used.push(block);
        }
    }
    for round in 0..1500 {
        let mut image = image.clone();
        let block = used[rng.below(used.len() as u64) as usize];
        for _ in 0..=rng.below(3) {
            image.flip(block * BLOCK as u64 * 8 + rng.below(BLOCK as u64 * 8));
        }
        match read_all(&image) {
            Err(_) => harmed += 1,
            Ok(seen) => {
                // An older root may have been opened, or a part is an error; all else is as it was.
                for (path, text) in &seen {
                    let same = truth.get(path) == Some(text);
                    let error = text.contains("error 117");
                    let older = seen.len() < truth.len() || block < 34;
                    harmed += u64::from(error);
                    assert!(same || error || older, "block {block}: {path} is {text}");
                }
            }
        }
        let _ = findings(&image);
        if round % 5 == 0 {
            change_all(&image);
        }
    }
    assert!(harmed > 50, "only {harmed} flips did harm");
}

type Edit = Box<dyn Fn(&mut Vec<u8>)>;

fn impossible_items() -> Vec<(&'static str, Kind, Edit)> {
    let mut list: Vec<(&'static str, Kind, Edit)> = Vec::new();
    for kind in [
        Kind::Inode,
        Kind::Vector,
        Kind::Xattr,
        Kind::Inline,
        Kind::Dirent,
        Kind::Extent,
        Kind::Group,
    ] {
        list.push(("shorter", kind, Box::new(|p| p.truncate(p.len().saturating_sub(1)))));
        list.push(("empty", kind, Box::new(Vec::clear)));
        list.push(("all ones", kind, Box::new(|p| p.fill(0xff))));
        list.push(("zeroes", kind, Box::new(|p| p.fill(0))));
    }
    let inode = |edit: fn(&mut InodeItem)| Box::new(structure(edit)) as Edit;
    list.push(("no type", Kind::Inode, inode(|i| i.mode.set(0o644))));
    list.push(("unknown flag", Kind::Inode, inode(|i| i.flags.set(1 << 9))));
    list.push(("links", Kind::Inode, inode(|i| i.nlink.set(77))));
    list.push(("no links", Kind::Inode, inode(|i| i.nlink.set(0))));
    list.push(("size", Kind::Inode, inode(|i| i.size.set(u64::MAX))));
    list.push(("blocks", Kind::Inode, inode(|i| i.blocks.set(u64::MAX))));
    list.push(("vector flag", Kind::Inode, inode(|i| i.flags.set(i.flags.get() ^ 1))));
    list.push(("parent", Kind::Inode, inode(|i| i.parent.set(999))));
    list.push((
        "time",
        Kind::Inode,
        inode(|i| i.mtime = RawTime { nanos: u32::MAX.into(), ..i.mtime }),
    ));
    let extent = |edit: fn(&mut ExtentItem)| Box::new(structure(edit)) as Edit;
    list.push(("outside", Kind::Extent, extent(|e| e.block.set(u64::MAX))));
    list.push(("past the end", Kind::Extent, extent(|e| e.block.set(1023))));
    list.push(("at the superblock", Kind::Extent, extent(|e| e.block.set(0))));
    list.push(("at the root ring", Kind::Extent, extent(|e| e.block.set(3))));
    list.push(("no length", Kind::Extent, extent(|e| e.len.set(0))));
    list.push(("long", Kind::Extent, extent(|e| e.len.set(u32::MAX))));
    list.push(("too long", Kind::Extent, extent(|e| e.len.set(9))));
    list.push(("unknown flag", Kind::Extent, extent(|e| e.flags.set(1 << 20))));
    let group = |edit: fn(&mut GroupItem)| Box::new(structure(edit)) as Edit;
    list.push(("free", Kind::Group, group(|g| g.free.set(u32::MAX))));
    list.push(("none free", Kind::Group, group(|g| g.free.set(0))));
    list.push(("bitmap outside", Kind::Group, group(|g| g.bitmap.block.set(u64::MAX))));
    list.push(("bitmap elsewhere", Kind::Group, group(|g| g.bitmap.block.set(40))));
    list.push(("bitmap's checksum", Kind::Group, group(|g| g.bitmap.crc.set(1))));
    let dirent = |edit: fn(&mut DirentHead)| Box::new(structure(edit)) as Edit;
    list.push(("nobody", Kind::Dirent, dirent(|d| d.ino.set(5_000_000))));
    list.push(("the system", Kind::Dirent, dirent(|d| d.ino.set(0))));
    list.push(("itself", Kind::Dirent, dirent(|d| d.ino.set(1))));
    list.push(("type", Kind::Dirent, dirent(|d| d.file_type = 3)));
    list.push(("name's length", Kind::Dirent, dirent(|d| d.name_len = 200)));
    let xattr = |edit: fn(&mut XattrHead)| Box::new(structure(edit)) as Edit;
    list.push(("chunks", Kind::Xattr, xattr(|x| x.chunks.set(255))));
    list.push(("no chunks", Kind::Xattr, xattr(|x| x.chunks.set(0))));
    list.push(("value", Kind::Xattr, xattr(|x| x.value_len.set(65_536))));
    list.push(("name", Kind::Xattr, xattr(|x| x.name_len = 0)));
    let vector = |edit: fn(&mut VectorItem)| Box::new(structure(edit)) as Edit;
    list.push(("element", Kind::Vector, vector(|v| v.element = 99)));
    list.push(("metric", Kind::Vector, vector(|v| v.metric = 99)));
    list.push(("flags", Kind::Vector, vector(|v| v.flags.set(0x8000))));
    list.push(("dimension", Kind::Vector, vector(|v| v.dim.set(0))));
    list.push(("stride", Kind::Vector, vector(|v| v.stride.set(1))));
    list
}

#[test]
fn impossible_items_with_right_checksums_end_in_errors() {
    let image = populated();
    for (what, kind, edit) in impossible_items() {
        for target in 0..8 {
            let mut left = target;
            let left = std::cell::RefCell::new(&mut left);
            let pick = |key: Key| {
                let right = key.kind() == Some(kind);
                let mut left = left.borrow_mut();
                if right && **left > 0 {
                    **left -= 1;
                    return false;
                }
                right
            };
            let exists = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                craft_item(&image, pick, &edit)
            }));
            let Ok(bad) = exists else {
                assert!(target > 0, "there is no {kind:?}");
                break;
            };
            let _ = read_all(&bad);
            let found = findings(&bad);
            if target == 0 && what != "time" && !(kind == Kind::Inline && what != "empty") {
                assert!(found != Ok(0), "{kind:?}, {what}: the check finds nothing");
            }
            change_all(&bad);
        }
    }
}

#[test]
fn a_wrong_root_record_ends_in_an_older_commit_or_an_error() {
    let image = populated();
    let generation = root(&image).1.generation.get();
    let opened = |image: &Image| open(image).map(|v| v.generation().0);
    assert_eq!(opened(&image), Ok(generation));
    let (at, record) = root(&image);
    let pointer = Pointer::from(record.tree);
    // An impossible record is ignored: the commit before it is opened.
    for edit in [
        (|r| r.tree.block.set(5000)) as fn(&mut RootRecord),
        |r| r.tree.generation.set(r.generation.get() + 1),
        |r| r.level.set(16),
        |r| r.generation.set(r.generation.get() + 1),
        |r| r.uuid = [9; 16],
        |r| r.magic.set(1),
    ] {
        assert_eq!(opened(&with_record(&image, edit)), Ok(generation - 1));
    }
    let mut torn = image.clone();
    torn.flip(at * 8 + 999);
    assert_eq!(opened(&torn), Ok(generation - 1));
    // A possible record that is wrong is noticed when it is used.
    for edit in [
        (|r| r.tree.block.set(40)) as fn(&mut RootRecord),
        |r| r.tree.crc.set(1),
        |r| r.level.set(r.level.get() + 1),
        |r| r.level.set(0),
        |r| r.level.set(15),
        |r| r.tree.generation.set(1),
    ] {
        let bad = with_record(&image, edit);
        let seen = read_all(&bad).unwrap();
        assert!(seen.values().all(|text| text == "error 117"), "{seen:?}");
        assert_ne!(findings(&bad), Ok(0));
        change_all(&bad);
    }
    for edit in [
        (|r| r.free_blocks.set(u64::MAX)) as fn(&mut RootRecord),
        |r| r.free_blocks.set(0),
        |r| r.inodes.set(0),
        |r| r.orphans.set(u64::MAX),
        |r| r.orphans.set(0),
        |r| r.next_ino.set(2),
    ] {
        let bad = with_record(&image, edit);
        assert_eq!(read_all(&bad), read_all(&image));
        assert_ne!(findings(&bad), Ok(0));
        change_all(&bad);
    }
    // A number in use is not given to a new inode.
    let bad = with_record(&image, |r| r.next_ino.set(2));
    let mut v = open(CacheDevice::new(bad)).unwrap();
    let made = v.run(NOW, |v| v.create(Ino::ROOT, b"another", &FILE));
    assert!(matches!(made, Err(Error::Corrupt(_))), "{made:?}");
    let bad = with_record(&image, |r| r.next_ino.set(u64::MAX));
    let mut v = open(CacheDevice::new(bad)).unwrap();
    let made = v.run(NOW, |v| v.create(Ino::ROOT, b"another", &FILE));
    assert_eq!(made.map(|inode| inode.ino), Err(Error::NoSpace));
    // A ring without any record.
    let mut bare = image.clone();
    for slot in 0..ROOT_SLOTS {
        bare.put((ROOT_RING_START + slot) * BLOCK as u64, &[0; 512]);
    }
    assert_eq!(opened(&bare), Err(Error::NoRoot));
    assert_ne!(pointer.block, BlockNr(0));
}

#[test]
fn a_stale_or_misplaced_node_is_not_believed() {
    let image = populated();
    let (_, record) = root(&image);
    let at = record.tree.block.get() * BLOCK as u64;
    let good = image.bytes(at, BLOCK);
    let change = |edit: fn(&mut NodeHeader)| {
        let (mut header, _) = NodeHeader::read_from_prefix(&good).unwrap();
        edit(&mut header);
        let mut data = good.clone();
        data[..64].copy_from_slice(header.as_bytes());
        data
    };
    for (what, edit) in [
        ("magic", (|h| h.magic.set(7)) as fn(&mut NodeHeader)),
        ("filesystem", |h| h.uuid = [3; 16]),
        ("address", |h| h.address.set(h.address.get() + 1)),
        ("generation", |h| h.generation.set(h.generation.get() - 1)),
        ("level", |h| h.level = 200),
        ("other level", |h| h.level ^= 1),
        ("no entries", |h| h.count.set(0)),
        ("many entries", |h| h.count.set(u16::MAX)),
        ("heap", |h| h.heap_start.set(u32::MAX)),
    ] {
        let data = change(edit);
        let mut bad = with_record(&image, |r| r.tree.crc.set(crc32c(&data)));
        bad.put(at, &data);
        if read_all(&bad) == read_all(&image) {
            assert_eq!(what, "heap", "an inner node has no heap; anything else counts");
        }
        change_all(&bad);
        let _ = findings(&bad);
    }
    for (what, edit) in [
        ("order", (|d: &mut [u8]| d[64..144].rotate_left(40)) as fn(&mut [u8])),
        ("child outside", |d| d[64 + 16 + 6] = 0xff),
        ("child of the future", |d| d[64 + 16 + 8 + 6] = 0xff),
        ("child's checksum", |d| d[64 + 16 + 16] ^= 1),
    ] {
        let bad = craft(&image, |data| {
            edit(data);
            true
        });
        assert_ne!(read_all(&bad), read_all(&image), "{what}");
        assert_ne!(findings(&bad), Ok(0), "{what}");
        change_all(&bad);
    }
    for (what, edit) in [
        ("order", (|d: &mut [u8]| d[64..112].rotate_left(24)) as fn(&mut [u8])),
        ("item outside", |d| d[64 + 18] = 0xff),
        ("item in the header", |d| d[64 + 16..64 + 20].fill(0)),
        ("item too long", |d| d[64 + 21] = 0xff),
        ("live bytes", |d| d[44] ^= 1),
        ("heap start", |d| d[41] = 0),
        ("count", |d| d[7] = 0xff),
    ] {
        let bad = craft(&image, |data| {
            let leaf = data[4] == 0;
            if leaf {
                edit(data);
            }
            leaf
        });
        assert_ne!(findings(&bad), Ok(0), "{what}");
        change_all(&bad);
        let _ = read_all(&bad);
    }
}

#[test]
fn the_primary_superblock_is_preferred_and_a_backup_used_where_it_is_damaged() {
    let image = populated();
    let at = [1024, 33 * BLOCK as u64, 1023 * BLOCK as u64];
    let copy = |image: &Image| Superblock::read_from_bytes(&image.bytes(1024, 512)).unwrap();
    let mut one = image.clone();
    one.flip(1024 * 8 + 77 * 8);
    assert_eq!(read_all(&one), read_all(&image));
    assert_ne!(findings(&one), Ok(0));
    let mut blank = image.clone();
    blank.put(0, &[0; BLOCK]);
    assert_eq!(read_all(&blank), read_all(&image));
    for which in at {
        let mut bad = image.clone();
        bad.flip(which * 8 + 1000);
        assert!(read_all(&bad).is_ok());
        assert_ne!(findings(&bad), Ok(0), "copy at {which}");
    }
    let all_changed = |edit: fn(&mut Superblock)| {
        let mut superblock = copy(&image);
        edit(&mut superblock);
        let mut bad = image.clone();
        for at in at {
            bad.put(at, superblock.sealed().as_bytes());
        }
        read_all(&bad)
    };
    assert_eq!(all_changed(|s| s.version.set(9)), Err(Error::UnknownVersion(9)));
    assert_eq!(all_changed(|s| s.incompat.set(1 << 40)), Err(Error::UnknownIncompat(1 << 40)));
    assert!(all_changed(|s| s.ro_compat.set(1 << 40)).is_ok());
    assert!(all_changed(|s| s.compat.set(1 << 40)).is_ok());
    let longer = all_changed(|s| {
        s.blocks.set(1 << 40);
        s.backup_last.set((1 << 40) - 1);
    });
    assert!(matches!(longer, Err(Error::Truncated { .. })));
    for edit in [
        (|s| s.blocks.set(100)) as fn(&mut Superblock),
        |s| s.block_shift.set(60),
        |s| s.ring_start.set(2),
        |s| s.ring_slots.set(0),
        |s| s.backup_first.set(7),
        |s| s.backup_last.set(7),
    ] {
        assert!(matches!(all_changed(edit), Err(Error::Corrupt(_))));
    }
    let mut none = image.clone();
    for at in at {
        none.flip(at * 8 + 1000);
    }
    assert!(matches!(read_all(&none), Err(Error::Corrupt(_))));
    let mut foreign = image.clone();
    foreign.put(1024, b"something else");
    assert_eq!(read_all(&foreign), Err(Error::NotVexfs));
    let short = Image::new(4096);
    assert_eq!(read_all(&short), Err(Error::NotVexfs));
}

/// Its cookie would not advance, and a host would read the directory for ever.
#[test]
fn an_entry_beyond_every_cookie_is_refused() {
    let image = populated();
    let bad = craft(&image, |data| {
        let (header, _) = NodeHeader::read_from_prefix(&*data).unwrap();
        let count = usize::from(header.count.get());
        let last = (0..count).rev().find(|index| {
            let at = 64 + index * 24;
            let slot = LeafSlot::read_from_bytes(&data[at..at + 24]).unwrap();
            let key = Key::from(slot.key);
            header.level == 0 && key.kind() == Some(Kind::Dirent) && key.ino() == Ino::ROOT
        });
        if let Some(last) = last {
            data[64 + last * 24 + 8..64 + last * 24 + 16].fill(0xff);
        }
        last.is_some()
    });
    let seen = read_all(&bad).unwrap();
    assert_eq!(seen.get("/").map(String::as_str), Some("error 117"));
    assert_ne!(findings(&bad), Ok(0));
    change_all(&bad);
}

/// Changes the bits of the first group's bitmap, with a right checksum.
fn craft_bitmap(image: &Image, edit: impl Fn(&mut [u8])) -> Image {
    let is_group = |key: Key| key.kind() == Some(Kind::Group);
    let block = Cell::new(0);
    craft_item(
        image,
        is_group,
        structure(|group: &mut GroupItem| block.set(group.bitmap.block.get())),
    );
    let at = block.get() * BLOCK as u64;
    let mut bitmap = image.bytes(at, BLOCK);
    edit(&mut bitmap);
    let mut bad = image.clone();
    bad.put(at, &bitmap);
    let crc = crc32c(&bitmap);
    craft_item(&bad, is_group, structure(|group: &mut GroupItem| group.bitmap.crc.set(crc)))
}

/// The blocks of all nodes of the tree.
fn node_blocks(image: &Image) -> Vec<usize> {
    let mut blocks = Vec::new();
    let record = root(image).1;
    let mut left = vec![record.tree.block.get()];
    while let Some(block) = left.pop() {
        let data = image.bytes(block * BLOCK as u64, BLOCK);
        let (header, _) = NodeHeader::read_from_prefix(&data).unwrap();
        for index in (0..usize::from(header.count.get())).filter(|_| header.level > 0) {
            let entry = &data[64 + index * 40..][..40];
            left.push(InnerEntry::read_from_bytes(entry).unwrap().child.block.get());
        }
        blocks.push(block as usize);
    }
    blocks
}

/// The node's block is allocated again while the tree still reaches it. That is reported as damage, and
/// no operation reads the same block again and again.
#[test]
fn a_node_that_the_bitmap_marks_free_is_damage() {
    let image = populated();
    let nodes = node_blocks(&image);
    assert!(nodes.len() > 5);
    let mut noticed = 0;
    for node in nodes {
        let bad = craft_bitmap(&image, |bitmap| bitmap[node / 8] &= !(1 << (node % 8)));
        assert_ne!(findings(&bad), Ok(0));
        change_all(&bad);
        let mut v = open(CacheDevice::new(bad)).unwrap();
        let (dir, _) = v.resolve(|v| v.lookup(Ino::ROOT, b"dir")).unwrap();
        let mut failed = false;
        for i in 0..100 {
            let (new, known) = (format!("new {i}"), format!("entry {}", i % 60));
            let made = no_bug(v.run(NOW, |v| v.create(Ino::ROOT, new.as_bytes(), &FILE)));
            let seen = no_bug(v.resolve(|v| v.lookup(dir, known.as_bytes())));
            failed |= made.is_err() || seen.is_err();
        }
        noticed += u64::from(failed);
    }
    // Those that a creation changes, and those that hold the names that were looked up.
    assert!(noticed >= 3, "only {noticed} nodes marked free were noticed");
}

#[test]
fn a_bitmap_that_marks_reserved_blocks_free_is_refused() {
    let image = populated();
    for edit in [
        (|bitmap| bitmap[0] = 0) as fn(&mut [u8]),
        |bitmap| bitmap[4] &= !0b10,
        |bitmap| bitmap[127] = 0,
        |bitmap| bitmap[128] = 0,
    ] {
        let bad = craft_bitmap(&image, edit);
        assert_ne!(findings(&bad), Ok(0));
        let mut v = open(CacheDevice::new(bad.clone())).unwrap();
        let made = v.run(NOW, |v| v.create(Ino::ROOT, b"new", &FILE));
        assert!(matches!(made, Err(Error::Corrupt(_))), "{made:?}");
        assert!(!v.is_dead() && !v.is_dirty());
        change_all(&bad);
    }
}
