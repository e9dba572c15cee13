// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Helpers of the engine's tests: small filesystems on devices in memory, and damage with right checksums.

#![allow(dead_code, reason = "each test uses its part")]

use vexfs::*;
use vexfs_crash::{CacheDevice, Image, Keep};
use vexfs_format::node::{InnerEntry, LeafSlot, NodeHeader, RawPointer};
use vexfs_format::{Key, ROOT_RING_START, ROOT_SLOTS, RootRecord, crc32c};
use zerocopy::{FromBytes, IntoBytes};

pub const BLOCK: usize = 4096;
pub const FILE: NewInode<'_> =
    NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, target: b"", now: NOW };
pub const DIR: NewInode<'_> = NewInode { mode: 0o040_755, ..FILE };
pub const LINK: NewInode<'_> = NewInode { mode: 0o120_777, target: &[b't'; 2000], ..FILE };
pub const NOW: Time = Time { seconds: 1_700_000_000, nanos: 0 };

/// A device of `bytes` with a new filesystem in blocks of `block_bytes`.
pub fn formatted_in(bytes: u64, block_bytes: u32) -> CacheDevice {
    let device = CacheDevice::new(Image::new(bytes));
    let options = MkfsOptions { block_bytes, ..MkfsOptions::new(bytes, [1; 16], [2; 16], NOW) };
    mkfs(&device, &options).unwrap();
    device
}

/// A device of `bytes` with a new filesystem in blocks of 4096 bytes.
pub fn formatted(bytes: u64) -> CacheDevice {
    formatted_in(bytes, BLOCK as u32)
}

/// Opens `device` for writing.
pub fn open<D: Device>(device: D) -> Result<Volume<D>> {
    Volume::open(device, &OpenOptions::default())
}

/// Fails if a full check of `device` finds anything.
#[track_caller]
pub fn assert_clean(device: &impl Device) {
    let mut findings = Vec::new();
    let summary = check(device, &mut |report| {
        if let Report::Finding(finding) = report {
            findings.push(finding.to_string());
        }
    })
    .unwrap();
    assert!(findings.is_empty(), "{findings:#?}");
    assert_eq!(summary.findings, 0);
}

/// A filesystem with one of every kind of item and a tree of two levels.
pub fn populated() -> Image {
    let mut v = open(formatted(4 << 20)).unwrap();
    let d = v.run(NOW, |v| v.create(Ino::ROOT, b"dir", &DIR)).unwrap().ino;
    let f = v.run(NOW, |v| v.create(Ino::ROOT, b"file", &FILE)).unwrap().ino;
    v.run(NOW, |v| v.create(Ino::ROOT, b"link", &LINK)).unwrap();
    for i in 0..20 {
        v.write_at(f, i * 8192, &[i as u8 + 1; 4096], NOW).unwrap();
        if i % 5 == 0 {
            v.commit(NOW).unwrap();
        }
    }
    for i in 0..60 {
        let name = format!("entry {i}");
        v.run(NOW, |v| v.create(d, name.as_bytes(), &FILE)).unwrap();
    }
    v.run(NOW, |v| v.xattr_set(f, b"user.x", &[5; 3000], XattrMode::Set, NOW)).unwrap();
    let layout = VectorLayout::parse("type=f32,dim=8,metric=l2").unwrap();
    v.run(NOW, |v| v.set_vector(d, Some(&layout), NOW)).unwrap();
    v.run(NOW, |v| v.create_unnamed(&FILE)).unwrap();
    v.commit(NOW).unwrap();
    v.device().cut(Keep::None)
}

/// The newest root record and where it is.
pub fn root(image: &Image) -> (u64, RootRecord) {
    (0..ROOT_SLOTS)
        .filter_map(|slot| {
            let at = (ROOT_RING_START + slot) * BLOCK as u64;
            RootRecord::parse(&image.bytes(at, 512), &[1; 16]).map(|record| (at, record))
        })
        .max_by_key(|(_, record)| record.generation.get())
        .unwrap()
}

/// Calls `edit` with each node, parents before children, until it returns true because it changed one.
/// That node and those above it are written with right checksums.
pub fn craft(image: &Image, mut edit: impl FnMut(&mut [u8]) -> bool) -> Image {
    fn walk(
        image: &mut Image,
        pointer: &mut RawPointer,
        edit: &mut dyn FnMut(&mut [u8]) -> bool,
    ) -> bool {
        let at = pointer.block.get() * BLOCK as u64;
        let mut data = image.bytes(at, BLOCK);
        let mut done = edit(&mut data);
        let (header, _) = NodeHeader::read_from_prefix(&data).unwrap();
        if !done && header.level > 0 {
            for index in 0..usize::from(header.count.get()) {
                let place = 64 + index * 40;
                let mut entry = InnerEntry::read_from_bytes(&data[place..place + 40]).unwrap();
                if walk(image, &mut entry.child, edit) {
                    data[place..place + 40].copy_from_slice(entry.as_bytes());
                    done = true;
                    break;
                }
            }
        }
        if done {
            image.put(at, &data);
            pointer.crc.set(crc32c(&data));
        }
        done
    }
    let mut image = image.clone();
    let (at, mut record) = root(&image);
    assert!(walk(&mut image, &mut record.tree, &mut edit), "there is no such item");
    image.put(at, record.sealed().as_bytes());
    image
}

/// Changes the payload of the first item whose key `pick` accepts.
pub fn craft_item(image: &Image, pick: impl Fn(Key) -> bool, edit: impl Fn(&mut Vec<u8>)) -> Image {
    craft(image, |data| {
        let (header, _) = NodeHeader::read_from_prefix(data).unwrap();
        if header.level > 0 {
            return false;
        }
        for index in 0..usize::from(header.count.get()) {
            let at = 64 + index * 24;
            let mut slot = LeafSlot::read_from_bytes(&data[at..at + 24]).unwrap();
            if !pick(slot.key.into()) {
                continue;
            }
            let (offset, len) = (slot.offset.get() as usize, slot.len.get() as usize);
            let mut payload = data[offset..offset + len].to_vec();
            edit(&mut payload);
            assert!(payload.len() <= len, "crafted items only shrink");
            data[offset..offset + payload.len()].copy_from_slice(&payload);
            slot.len.set(payload.len() as u32);
            data[at..at + 24].copy_from_slice(slot.as_bytes());
            let live = header.heap_live.get() as usize - len + payload.len();
            let (mut header, _) = NodeHeader::read_from_prefix(data).unwrap();
            header.heap_live.set(live as u32);
            data[..64].copy_from_slice(header.as_bytes());
            return true;
        }
        false
    })
}

/// An edit of a payload that begins with the structure `T`.
pub fn structure<T: FromBytes + IntoBytes + zerocopy::Immutable>(
    edit: impl Fn(&mut T),
) -> impl Fn(&mut Vec<u8>) {
    move |payload| {
        let len = size_of::<T>();
        let mut value = T::read_from_bytes(&payload[..len]).unwrap();
        edit(&mut value);
        payload[..len].copy_from_slice(value.as_bytes());
    }
}

/// Changes the newest root record.
pub fn with_record(image: &Image, edit: impl Fn(&mut RootRecord)) -> Image {
    let (at, mut record) = root(image);
    edit(&mut record);
    let mut image = image.clone();
    image.put(at, record.sealed().as_bytes());
    image
}
