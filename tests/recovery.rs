// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Opening after a cut, loading blocks, orphans, and a follower of a tree that changes: the rare
//! branches and their results. The branches that have to be covered are listed in `xtask/src/coverage`.

mod common;

use common::{BLOCK, FILE, NOW, assert_clean, formatted, formatted_in, open, populated};
use std::collections::BTreeSet;
use vexfs::*;
use vexfs_crash::{CacheDevice, Effect, Event, Fault, Keep, On, Request};
use vexfs_format::node::{LeafSlot, NODE_MAGIC, NodeHeader};
use vexfs_format::{BACKUP_FIRST, BLOCK_SHIFT_MAX, ITEM_BYTES_MAX, Key, Kind};
use zerocopy::{FromBytes, IntoBytes};

const EIO: Error = Error::Device(DeviceError::Io(5));

fn unreadable(from: u64, bytes: u64) -> Fault {
    let to = from + bytes;
    Fault { on: On::Read, from, to, skip: 0, times: u64::MAX, effect: Effect::Fail(5) }
}

/// The larger the blocks, the further back is the backup.
#[test]
fn a_backup_is_found_at_every_block_size() {
    for shift in 12..=BLOCK_SHIFT_MAX {
        let mut image = formatted_in(64 << 20, 1 << shift).cut(Keep::None);
        assert!(open(&image).is_ok());
        image.flip(1024 * 8 + 1000);
        let volume = open(&image).unwrap();
        assert_eq!(volume.geometry().block_shift, shift);
    }
}

#[test]
fn a_place_that_cannot_be_read_does_not_end_the_search_for_a_backup() {
    let mut image = formatted_in(4 << 20, 8192).cut(Keep::None);
    image.flip(1024 * 8 + 1000);
    let device = CacheDevice::new(image);
    // Only once: part of the root ring is read from there later.
    device.fault(Fault { times: 1, ..unreadable(BACKUP_FIRST << 12, 4096) });
    assert_eq!(open(&device).unwrap().geometry().block_shift, 13);
    assert!(device.has_failed());
    device.fault(unreadable(BACKUP_FIRST << 13, 4096));
    assert!(matches!(open(&device).map(drop), Err(Error::Corrupt(_))));
    // A primary that cannot be read may be valid, so no backup is used.
    device.mend();
    device.fault(unreadable(0, 4096));
    assert_eq!(open(&device).map(drop), Err(EIO));
}

/// A copy of a superblock, perhaps a file's contents, where a filesystem of larger blocks has its backup.
#[test]
fn a_backup_of_another_block_size_is_not_believed() {
    let mut image = formatted_in(4 << 20, 4096).cut(Keep::None);
    let backup = image.bytes(BACKUP_FIRST << 12, 512);
    image.flip(1024 * 8 + 1000);
    image.flip((BACKUP_FIRST << 12) * 8 + 1000);
    image.put(BACKUP_FIRST << 13, &backup);
    assert!(matches!(open(&image).map(drop), Err(Error::Corrupt(_))));
    image.put(BACKUP_FIRST << 12, &backup);
    assert!(open(&image).is_ok());
}

#[test]
fn a_device_shorter_than_any_superblock_is_not_ours() {
    struct Short;
    impl Device for Short {
        fn len_bytes(&self) -> u64 {
            4095
        }
        fn read(&self, _: u64, _: &mut [u8]) -> std::result::Result<(), DeviceError> {
            panic!("nothing of it is read")
        }
        fn write(&self, _: u64, _: &[u8]) -> std::result::Result<(), DeviceError> {
            panic!("nor written")
        }
        fn write_fua(&self, _: u64, _: &[u8]) -> std::result::Result<(), DeviceError> {
            panic!("nor written")
        }
        fn flush(&self) -> std::result::Result<(), DeviceError> {
            panic!("nor flushed")
        }
    }
    assert_eq!(open(&Short).map(drop), Err(Error::NotVexfs));
}

#[test]
fn unknown_features_that_only_readers_may_ignore_refuse_a_mount_for_writing() {
    let mut image = populated();
    for at in [1024, BACKUP_FIRST << 12, (1 << 10 << 12) - 4096] {
        let mut superblock = Superblock::read_from_bytes(&image.bytes(at, 512)).unwrap();
        superblock.ro_compat.set(1 << 9);
        image.put(at, superblock.sealed().as_bytes());
    }
    assert_eq!(open(&image).map(drop), Err(Error::UnknownRoCompat(1 << 9)));
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let mut volume = Volume::open(&image, &options).unwrap();
    assert!(volume.resolve(|v| v.lookup(Ino::ROOT, b"file")).is_ok());
}

// --- loading blocks ---

fn miss<T>(result: &Result<T>) -> Missing {
    match result {
        Err(Error::Miss(missing)) => *missing,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nothing was missing"),
    }
}

/// Two threads of a host read the same block: the second copy is dropped.
#[test]
fn a_block_that_was_read_twice_is_cached_once() {
    let mut v = open(CacheDevice::new(populated())).unwrap();
    let missing = miss(&v.inode(Ino::ROOT));
    let (one, other) = (v.fetch(&missing).unwrap(), v.fetch(&missing).unwrap());
    v.install(one).unwrap();
    v.install(other).unwrap();
    assert_eq!(v.cached_nodes(), 1);
    v.run(NOW, |v| v.create(Ino::ROOT, b"after", &FILE)).unwrap();
    v.commit(NOW).unwrap();
    assert!(v.resolve(|v| v.lookup(Ino::ROOT, b"after")).is_ok());
    assert_clean(v.device());
}

/// A host read a block long ago, and it holds a newer node by now, perhaps one that is not durable. The
/// old node must not displace it.
#[test]
fn a_block_that_was_read_too_early_does_not_displace_a_newer_node() {
    let image = populated();
    let (_, record) = common::root(&image);
    let block = record.tree.block.get();
    let mut v = open(CacheDevice::new(image)).unwrap();
    let missing = miss(&v.inode(Ino::ROOT));
    assert_eq!(missing.block(), BlockNr(block));
    let early = v.fetch(&missing).unwrap();
    v.device().record();
    let mut names = Vec::new();
    let again = |v: &Volume<CacheDevice>| {
        v.device().events().iter().any(|event| {
            // By a node: a bitmap there would do no harm.
            matches!(event, Event::Submit { request: Request::Write { at, data, .. }, .. }
                if *at == block * BLOCK as u64 && data.starts_with(&NODE_MAGIC.to_le_bytes()))
        })
    };
    while !again(&v) {
        let name = format!("new {}", names.len()).into_bytes();
        v.run(NOW, |v| v.create(Ino::ROOT, &name, &FILE)).unwrap();
        v.commit(NOW).unwrap();
        names.push(name);
        assert!(names.len() < 500, "the block is never used again");
    }
    let known = v.resolve(|v| v.lookup(Ino::ROOT, b"file")).unwrap();
    v.install(early).unwrap();
    // Nothing is missed: what was cached still is.
    assert_eq!(v.lookup(Ino::ROOT, b"file"), Ok(known));
    for name in &names {
        assert!(v.resolve(|v| v.lookup(Ino::ROOT, name)).is_ok());
    }
    v.commit(NOW).unwrap();
    assert_clean(v.device());
}

/// The same for a group's bitmap, which got a new block meanwhile.
#[test]
fn a_bitmap_that_was_read_too_early_is_dropped() {
    let image = populated();
    let mut v = open(CacheDevice::new(image.clone())).unwrap();
    let early = loop {
        let missing = miss(&v.create(Ino::ROOT, b"new", &FILE));
        let loaded = v.fetch(&missing).unwrap();
        let data = image.bytes(missing.block().0 * BLOCK as u64, 64);
        if NodeHeader::read_from_bytes(&data).unwrap().magic.get() != NODE_MAGIC {
            break loaded;
        }
        v.install(loaded).unwrap();
    };
    for i in 0..3 {
        let name = format!("new {i}");
        v.run(NOW, |v| v.create(Ino::ROOT, name.as_bytes(), &FILE)).unwrap();
        v.commit(NOW).unwrap();
    }
    let free = v.statfs().blocks_free;
    v.install(early).unwrap();
    assert_eq!(v.statfs().blocks_free, free);
    v.run(NOW, |v| v.create(Ino::ROOT, b"after", &FILE)).unwrap();
    v.commit(NOW).unwrap();
    assert_clean(v.device());
}

/// An operation that misses for ever is stopped and reported as a bug.
#[test]
fn an_operation_that_always_misses_ends() {
    let mut v = open(CacheDevice::new(populated())).unwrap();
    let missing = miss(&v.inode(Ino::ROOT));
    let mut rounds = 0u64;
    let result = v.resolve(|_| -> Result<()> {
        rounds += 1;
        Err(Error::Miss(missing))
    });
    assert!(matches!(result, Err(Error::Bug(_))), "{result:?}");
    assert_eq!(rounds, v.geometry().blocks + 1);
}

// --- orphans ---

fn unlinked(v: &mut Volume<CacheDevice>, name: &[u8]) -> Ino {
    let ino = v.run(NOW, |v| v.create(Ino::ROOT, name, &FILE)).unwrap().ino;
    v.write_at(ino, 0, &vec![7; 20_000], NOW).unwrap();
    v.run(NOW, |v| v.unlink(Ino::ROOT, name, NOW)).unwrap();
    ino
}

#[test]
fn what_was_removed_before_a_cut_is_gone_after_it_and_its_blocks_are_free() {
    let mut v = open(formatted(4 << 20)).unwrap();
    let free = v.statfs().blocks_free;
    let first = unlinked(&mut v, b"a");
    // More attributes than one step removes.
    let second = v.run(NOW, |v| v.create(Ino::ROOT, b"b", &FILE)).unwrap().ino;
    for i in 0..200 {
        let name = format!("user.{i}");
        v.run(NOW, |v| v.xattr_set(second, name.as_bytes(), b"value", XattrMode::Set, NOW))
            .unwrap();
    }
    v.run(NOW, |v| v.unlink(Ino::ROOT, b"b", NOW)).unwrap();
    v.commit(NOW).unwrap();
    let mut v = open(CacheDevice::new(v.device().cut(Keep::None))).unwrap();
    let inodes = v.statfs().inodes;
    assert!(v.resolve(|v| v.next_orphan(Ino::ROOT)).unwrap().is_some());
    v.evict_orphans(NOW).unwrap();
    assert_eq!(v.resolve(|v| v.next_orphan(Ino::ROOT)), Ok(None));
    for ino in [first, second] {
        assert_eq!(v.resolve(|v| v.inode(ino)), Err(Error::NotFound));
    }
    assert_eq!(v.statfs().inodes, inodes - 2);
    v.commit(NOW).unwrap();
    assert_clean(v.device());
    let left = v.statfs().blocks_free;
    assert!(left + 4 >= free, "{left} of {free} blocks are free again");
}

/// The power is cut halfway through a long truncation: the mount finishes it, and the file stays.
#[test]
fn a_truncation_that_was_cut_short_is_finished_by_the_mount() {
    let mut v = open(formatted(4 << 20)).unwrap();
    let ino = v.run(NOW, |v| v.create(Ino::ROOT, b"long", &FILE)).unwrap().ino;
    for i in 0..100 {
        v.write_at(ino, i * 8192, &[9; 4096], NOW).unwrap();
    }
    assert_eq!(v.run(NOW, |v| v.set_size(ino, 4096, NOW)), Ok(Progress::More));
    v.commit(NOW).unwrap();
    let mut v = open(CacheDevice::new(v.device().cut(Keep::None))).unwrap();
    assert!(v.resolve(|v| v.inode(ino)).unwrap().blocks > 1);
    v.evict_orphans(NOW).unwrap();
    v.commit(NOW).unwrap();
    let inode = v.resolve(|v| v.inode(ino)).unwrap();
    assert_eq!((inode.nlink, inode.size, inode.blocks), (1, 4096, 1));
    assert_eq!(v.resolve(|v| v.lookup(Ino::ROOT, b"long")).unwrap().0, ino);
    // Evicting a file that is no orphan changes nothing.
    v.steps(NOW, |v| v.evict(ino)).unwrap();
    assert!(!v.is_dirty());
    assert_eq!(v.resolve(|v| v.next_orphan(Ino::ROOT)), Ok(None));
    assert_clean(v.device());
}

/// A thread of a host may evict an inode that another thread evicted already.
#[test]
fn evicting_what_is_gone_changes_no_count() {
    let mut v = open(formatted(4 << 20)).unwrap();
    let (first, second) = (unlinked(&mut v, b"a"), unlinked(&mut v, b"b"));
    v.steps(NOW, |v| v.evict(first)).unwrap();
    v.steps(NOW, |v| v.evict(first)).unwrap();
    assert_eq!(v.resolve(|v| v.next_orphan(Ino::ROOT)), Ok(Some(second)));
    assert_eq!(v.resolve(|v| v.next_orphan(second)), Ok(Some(second)));
    assert_eq!(v.resolve(|v| v.next_orphan(Ino(second.0 + 1))), Ok(None));
    v.commit(NOW).unwrap();
    assert_clean(v.device());
}

/// A damaged tree may have an orphan item without an inode: it is removed and the mount succeeds.
#[test]
fn an_orphan_item_without_an_inode_is_removed() {
    let mut v = open(formatted(4 << 20)).unwrap();
    unlinked(&mut v, b"a");
    v.commit(NOW).unwrap();
    let image = v.device().cut(Keep::None);
    let bad = common::craft(&image, |data| {
        let (header, _) = NodeHeader::read_from_prefix(&*data).unwrap();
        for index in 0..usize::from(header.count.get()) {
            let at = 64 + index * 24;
            let mut slot = LeafSlot::read_from_bytes(&data[at..at + 24]).unwrap();
            if Key::from(slot.key).kind() == Some(Kind::Orphan) {
                slot.key = Key::new(Ino::SYSTEM, Kind::Orphan, 4_000_000).into();
                data[at..at + 24].copy_from_slice(slot.as_bytes());
                return true;
            }
        }
        false
    });
    let mut v = open(CacheDevice::new(bad)).unwrap();
    v.evict_orphans(NOW).unwrap();
    assert_eq!(v.resolve(|v| v.next_orphan(Ino::ROOT)), Ok(None));
}

#[test]
fn a_number_that_no_inode_can_have_is_not_found() {
    let mut v = open(CacheDevice::new(populated())).unwrap();
    for ino in [Ino::SYSTEM, Ino(Ino::MAX.0 + 1), Ino(u64::MAX)] {
        assert_eq!(v.resolve(|v| v.inode(ino)), Err(Error::NotFound));
    }
    // Only the given attributes change.
    let before = v.resolve(|v| v.inode(Ino::ROOT)).unwrap();
    let set = SetAttr { uid: Some(7), ctime: NOW, ..SetAttr::default() };
    let after = v.run(NOW, |v| v.set_attr(Ino::ROOT, &set)).unwrap();
    assert_eq!((after.uid, after.mode), (7, before.mode));
}

/// Leaves with right checksums: one without items whose heap begins behind its end, and one whose items
/// share bytes and are together longer than the heap.
#[test]
fn a_leaf_whose_heap_cannot_be_is_refused() {
    let image = populated();
    let leaf = |edit: &dyn Fn(&mut NodeHeader, &mut [u8])| {
        let bad = common::craft(&image, |data| {
            let (mut header, _) = NodeHeader::read_from_prefix(&*data).unwrap();
            if header.level == 0 {
                edit(&mut header, data);
                data[..64].copy_from_slice(header.as_bytes());
            }
            header.level == 0
        });
        let mut v = open(&bad).unwrap();
        let refused = v.resolve(|v| v.next_orphan(Ino::ROOT));
        assert!(matches!(refused, Err(Error::Corrupt(_))), "{refused:?}");
    };
    leaf(&|header, _| {
        header.count.set(0);
        header.heap_live.set(0);
        header.heap_start.set(BLOCK as u32 + 1);
    });
    leaf(&|header, data| {
        // All at the end, as long as possible.
        let count = usize::from(header.count.get());
        let room = BLOCK as u32 - header.heap_start.get();
        let len = room.min(ITEM_BYTES_MAX as u32);
        assert!(len * count as u32 > room);
        for index in 0..count {
            let at = 64 + index * 24;
            let mut slot = LeafSlot::read_from_bytes(&data[at..at + 24]).unwrap();
            slot.offset.set(BLOCK as u32 - len);
            slot.len.set(len);
            data[at..at + 24].copy_from_slice(slot.as_bytes());
        }
        header.heap_live.set(len * count as u32);
    });
}

// --- following ---

struct Seen {
    ranges: usize,
    inodes: BTreeSet<u64>,
}

fn changes<D: Device>(follower: &mut Follower<D>, since: Generation) -> Result<Seen> {
    let mut seen = Seen { ranges: 0, inodes: BTreeSet::new() };
    follower.changes(since, &mut |change| {
        match change {
            Change::Range { .. } => seen.ranges += 1,
            Change::Inode(inode) => {
                seen.inodes.insert(inode.ino.0);
            }
        }
        Ok(())
    })?;
    Ok(seen)
}

#[test]
fn a_follower_without_anything_new_is_told_so() {
    let device = CacheDevice::new(populated());
    let mut follower = Follower::open(&device, 1 << 20).unwrap();
    assert_eq!(follower.poll(), Ok(None));
    let here = follower.generation();
    let seen = changes(&mut follower, here).unwrap();
    assert_eq!((seen.ranges, seen.inodes.len()), (0, 0));
    let all = changes(&mut follower, Generation(0)).unwrap();
    assert!(all.ranges == 1 && all.inodes.len() > 60, "{:?}", all.inodes);
    // Again, from the cache.
    assert_eq!(changes(&mut follower, Generation(0)).unwrap().inodes, all.inodes);
    device.fault(Fault { times: u64::MAX, ..Fault::nth(On::Read, 0, Effect::Fail(5)) });
    assert_eq!(follower.poll(), Err(EIO));
}

/// The writer reuses blocks of the tree that is being followed. That is not damage; without a newer
/// root, or if none can be read, it is.
#[test]
fn a_mismatch_is_stale_with_a_newer_root_and_damage_without_one() {
    let device = CacheDevice::new(populated());
    let mut follower = Follower::open(&device, 1 << 20).unwrap();
    let began = follower.generation();
    let mut v = open(&device).unwrap();
    let mut stale = false;
    for i in 0..500 {
        let name = format!("new {i}");
        v.run(NOW, |v| v.create(Ino::ROOT, name.as_bytes(), &FILE)).unwrap();
        v.commit(NOW).unwrap();
        let mut late = Follower::open(&device, 1 << 20).unwrap();
        assert_eq!(late.generation(), v.generation());
        assert!(changes(&mut late, Generation(0)).unwrap().inodes.len() > i);
        match changes(&mut follower, Generation(0)) {
            Err(Error::Stale) => {
                stale = true;
                break;
            }
            other => assert!(other.is_ok()),
        }
        follower.volume().trim(0);
    }
    assert!(stale, "no block of the old tree was used again");
    assert_eq!(follower.generation(), began);
    assert_eq!(follower.judge(Error::NotFound), Error::Stale);
    // Other errors stay as they are.
    assert_eq!(follower.judge(EIO), EIO);
    assert_eq!(follower.judge(Error::IsDirectory), Error::IsDirectory);
    assert_eq!(follower.poll(), Ok(Some(v.generation())));
    assert_eq!(follower.judge(Error::NotFound), Error::NotFound);
    assert!(changes(&mut follower, began).unwrap().inodes.len() > 1);
    // If the ring cannot be read, there is no newer root to excuse it.
    device.fault(Fault { times: u64::MAX, ..Fault::nth(On::Read, 0, Effect::Fail(5)) });
    assert_eq!(follower.judge(Error::NotFound), Error::NotFound);
}

#[test]
fn an_error_of_the_visitor_ends_the_walk_and_is_returned() {
    let device = CacheDevice::new(populated());
    let mut follower = Follower::open(&device, 1 << 20).unwrap();
    let result = follower.changes(Generation(0), &mut |change| match change {
        Change::Inode(_) => Err(Error::NoSpace),
        Change::Range { .. } => Ok(()),
    });
    assert_eq!(result, Err(Error::NoSpace));
}

/// Number 0 is no inode's: an inode item under it is damage and not reported as an inode.
#[test]
fn a_follower_passes_over_an_inode_of_the_system() {
    let image = populated();
    let bad = common::craft(&image, |data| {
        let (header, _) = NodeHeader::read_from_prefix(&*data).unwrap();
        if header.level == 0 {
            let mut slot = LeafSlot::read_from_bytes(&data[64..64 + 24]).unwrap();
            assert_eq!(Key::from(slot.key).ino(), Ino::SYSTEM);
            slot.key = Key::inode(Ino::SYSTEM).into();
            data[64..64 + 24].copy_from_slice(slot.as_bytes());
        }
        header.level == 0
    });
    let mut follower = Follower::open(&bad, 1 << 20).unwrap();
    let seen = changes(&mut follower, Generation(0)).unwrap();
    let mut whole = Follower::open(&image, 1 << 20).unwrap();
    assert_eq!(seen.inodes, changes(&mut whole, Generation(0)).unwrap().inodes);
}

#[test]
fn written_parts_of_a_file_are_those_that_hold_data() {
    let device = CacheDevice::new(populated());
    let mut v = open(&device).unwrap();
    let ino = v.run(NOW, |v| v.create(Ino::ROOT, b"holes", &FILE)).unwrap().ino;
    v.write_at(ino, 0, &[1; 4096], NOW).unwrap();
    v.write_at(ino, 8 * 4096, &[2; 4096], NOW).unwrap();
    v.run(NOW, |v| v.allocate(ino, FileBlock(4), 2)).unwrap();
    v.commit(NOW).unwrap();
    let mut follower = Follower::open(&device, 1 << 20).unwrap();
    let parts = follower.written(ino).unwrap();
    let blocks: Vec<_> = parts.iter().map(|part| (part.start.0, part.count)).collect();
    assert_eq!(blocks, [(0, 1), (8, 1)]);
    assert_eq!(follower.written(Ino(4_000_000)).map(drop), Err(Error::NotFound));
    let empty = v.run(NOW, |v| v.create(Ino::ROOT, b"empty", &FILE)).unwrap().ino;
    v.commit(NOW).unwrap();
    // The follower's tree does not have it, but there is a newer one.
    assert_eq!(follower.written(empty).map(drop), Err(Error::Stale));
    follower.poll().unwrap();
    assert!(follower.written(empty).unwrap().is_empty());
}
