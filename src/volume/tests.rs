// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Changes: what a failed one leaves of the volume, and the room and memory that one needs.

use super::{Need, OpenOptions, Volume};
use crate::device::{Device, DeviceError};
use crate::error::{Error, Result};
use crate::fs::NewInode;
use crate::mkfs::{MkfsOptions, mkfs};
use crate::types::{MappingKind, Time, XattrMode};
use std::cell::RefCell;
use std::vec;
use std::vec::Vec;
use vexfs_format::{BlockNr, FileBlock, Ino, Key, Kind};

#[derive(Debug)]
struct Memory(RefCell<Vec<u8>>);

impl Device for Memory {
    fn len_bytes(&self) -> u64 {
        self.0.borrow().len() as u64
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        buf.copy_from_slice(&self.0.borrow()[at as usize..at as usize + buf.len()]);
        Ok(())
    }
    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.0.borrow_mut()[at as usize..at as usize + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write(at, data)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

const NOW: Time = Time { seconds: 1_700_000_000, nanos: 0 };
const FILE: NewInode<'_> =
    NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, target: b"", now: NOW };

fn volume() -> Volume<Memory> {
    let device = Memory(RefCell::new(vec![0; 4 << 20]));
    let options = MkfsOptions::new(4 << 20, [1; 16], [2; 16], NOW);
    mkfs(&device, &options).unwrap();
    let mut volume = Volume::open(device, &OpenOptions::default()).unwrap();
    volume.resolve(|volume| volume.begin(Need::growth()).map(drop)).unwrap();
    volume.resolve(|volume| volume.inode(Ino::ROOT)).unwrap();
    volume
}

fn item() -> Key {
    Key::new(Ino(9), Kind::Orphan, 0)
}

#[test]
fn a_plan_that_is_dropped_changes_nothing() {
    let mut volume = volume();
    let _ = volume.begin(Need::growth()).unwrap();
    assert!(!volume.is_dirty() && !volume.is_dead());
}

#[test]
fn a_change_that_fails_before_it_modifies_leaves_the_volume_alive() {
    let mut volume = volume();
    let result: Result<()> =
        volume.begin(Need::growth()).unwrap().change(|_| Err(Error::NotSupported));
    assert_eq!(result, Err(Error::NotSupported));
    assert!(!volume.is_dirty() && !volume.is_dead());
}

#[test]
fn a_change_that_fails_after_it_modified_stops_the_volume() {
    for modified in 0..4 {
        let mut volume = volume();
        let result: Result<()> = volume.begin(Need::growth()).unwrap().change(|change| {
            match modified {
                0 => change.put(item(), &[])?,
                1 => drop(change.remove(Key::inode(Ino::ROOT))?),
                2 => change.take(BlockNr(600), 1)?,
                // Freeing a free block is damage, which is noticed after the change began.
                _ => change.release(BlockNr(600), 1)?,
            }
            Err(Error::NotSupported)
        });
        assert!(result.is_err() && volume.is_dead(), "{modified}");
        assert_eq!(volume.inode(Ino::ROOT), Err(Error::Dead));
        assert!(matches!(volume.commit(NOW), Err(Error::Dead)));
    }
}

#[test]
fn a_change_that_succeeds_is_in_the_next_commit() {
    let mut volume = volume();
    let before = volume.generation();
    volume.begin(Need::growth()).unwrap().change(|change| change.put(item(), &[])).unwrap();
    assert!(volume.is_dirty());
    assert_eq!(volume.commit(NOW).unwrap().0, before.0 + 1);
    assert!(!volume.is_dirty());
    assert_eq!(volume.commit(NOW).unwrap().0, before.0 + 1, "nothing to commit");
}

/// A volume of three groups, of which only the first is loaded, and a file. The first group has `left`
/// free blocks, all behind the file's data.
fn first_group_nearly_full(device: &Memory, left: u64) -> (Volume<&Memory>, Ino) {
    let mut volume = Volume::open(device, &OpenOptions::default()).unwrap();
    let ino = volume.run(NOW, |v| v.create(Ino::ROOT, b"f", &FILE)).unwrap().ino;
    let mapping = volume.run(NOW, |v| v.allocate(ino, FileBlock(0), 1)).unwrap();
    let MappingKind::Unwritten(block) = mapping.kind else { panic!("{mapping:?}") };
    volume.commit(NOW).unwrap();
    let behind = block.0 + 1..block.0 + 1 + left;
    let mut plan = volume.begin(Need::growth()).unwrap();
    plan.load_group(1).unwrap();
    plan.change(|change| {
        for block in (0..change.space().group_blocks()).filter(|block| !behind.contains(block)) {
            if change.space().run_at(BlockNr(block), 1) == 1 {
                change.take(BlockNr(block), 1)?;
            }
        }
        change.put(item(), &[])
    })
    .unwrap();
    volume.commit(NOW).unwrap();
    // The nodes went to the second group; this moves them to the blocks that they left in the first.
    volume.begin(Need::growth()).unwrap().change(|change| change.put(item(), &[1])).unwrap();
    volume.commit(NOW).unwrap();
    (Volume::open(device, &OpenOptions::default()).unwrap(), ino)
}

#[test]
fn data_leaves_room_for_the_nodes_of_its_own_change() {
    let device = Memory(RefCell::new(vec![0; 3 << 27]));
    mkfs(&device, &MkfsOptions::new(3 << 27, [1; 16], [2; 16], NOW)).unwrap();
    let (mut volume, ino) = first_group_nearly_full(&device, 100);
    let mapping = volume.run(NOW, |v| v.allocate(ino, FileBlock(1), 200));
    assert!(mapping.is_ok(), "{mapping:?}");
    volume.commit(NOW).unwrap();
}

/// `Change::run` compares the lists' memory in every unit test. The changes of this test are long ones:
/// values of many chunks, splits and merges, frees in groups that are not loaded.
#[test]
fn no_change_takes_memory() {
    let device = Memory(RefCell::new(vec![0; 3 << 27]));
    mkfs(&device, &MkfsOptions::new(3 << 27, [1; 16], [2; 16], NOW)).unwrap();
    let mut volume = Volume::open(&device, &OpenOptions::default()).unwrap();
    let mut files = Vec::new();
    for i in 0..200u64 {
        let name = std::format!("a name that fills a leaf sooner {i:0200}");
        let ino = volume.run(NOW, |v| v.create(Ino::ROOT, name.as_bytes(), &FILE)).unwrap().ino;
        let value = vec![7; (i as usize * 997) % 65_536];
        volume.run(NOW, |v| v.xattr_set(ino, b"user.x", &value, XattrMode::Set, NOW)).unwrap();
        for part in 0..20 {
            let at = FileBlock(part * 1_000);
            volume.run(NOW, |v| v.allocate(ino, at, 10 + i / 10)).unwrap();
        }
        files.push((ino, name));
    }
    volume.commit(NOW).unwrap();
    // Opened anew, so that no group is loaded.
    let mut volume = Volume::open(&device, &OpenOptions::default()).unwrap();
    let mut deferred = 0;
    for (at, (ino, name)) in files.iter().enumerate() {
        let ino = *ino;
        volume
            .steps(NOW, |v| v.mark_written(ino, FileBlock(3), 9_000, Some(1 << 25), None))
            .unwrap();
        volume.run(NOW, |v| v.xattr_set(ino, b"user.x", b"short", XattrMode::Set, NOW)).unwrap();
        if at % 2 == 0 {
            volume.run(NOW, |v| v.unlink(Ino::ROOT, name.as_bytes(), NOW)).unwrap();
            volume.steps(NOW, |v| v.evict(ino)).unwrap();
        } else {
            volume.steps(NOW, |v| v.punch(ino, FileBlock(0), 5_000, None)).unwrap();
        }
        deferred += usize::from(volume.space.next_deferred().is_some());
    }
    volume.commit(NOW).unwrap();
    assert!(deferred > 0, "every group was loaded");
}
