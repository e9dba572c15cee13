// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A change that fails, and what is left of the volume then.

use super::{Need, OpenOptions, Volume};
use crate::device::{Device, DeviceError};
use crate::error::{Error, Result};
use crate::mkfs::{MkfsOptions, mkfs};
use crate::types::Time;
use std::cell::RefCell;
use std::vec;
use std::vec::Vec;
use vexfs_format::{BlockNr, Ino, Key, Kind};

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
fn a_plan_that_is_given_up_changes_nothing() {
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
                // Blocks that nothing uses: that is damage, and was noticed after the change began.
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
