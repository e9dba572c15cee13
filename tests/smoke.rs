// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The engine's operations, one after the other, on a device in memory that takes only whole blocks.

mod common;

use common::{assert_clean, open};
use std::cell::RefCell;
use vexfs::*;

struct Memory(RefCell<Vec<u8>>);

impl Device for Memory {
    fn len_bytes(&self) -> u64 {
        self.0.borrow().len() as u64
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        // As a device with sectors of 4096 bytes demands.
        assert!(at.is_multiple_of(4096) && buf.len().is_multiple_of(4096));
        buf.copy_from_slice(&self.0.borrow()[at as usize..at as usize + buf.len()]);
        Ok(())
    }
    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        assert!(at.is_multiple_of(4096) && data.len().is_multiple_of(4096));
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

const NOW: Time = Time { seconds: 1_700_000_000, nanos: 5 };

fn options(bytes: u64) -> MkfsOptions<'static> {
    MkfsOptions { label: b"smoke", ..MkfsOptions::new(bytes, [7; 16], [9; 16], NOW) }
}

fn file(mode: u32) -> NewInode<'static> {
    NewInode { mode, uid: 1, gid: 2, rdev: 0, target: b"", now: NOW }
}

fn volume(bytes: usize) -> Volume<Memory> {
    let device = Memory(RefCell::new(vec![0; bytes]));
    mkfs(&device, &options(bytes as u64)).unwrap();
    open(device).unwrap()
}

fn reopen(volume: &Volume<Memory>) -> Volume<Memory> {
    assert_clean(volume.device());
    let device = Memory(RefCell::new(volume.device().0.borrow().clone()));
    open(device).unwrap()
}

#[test]
fn a_new_filesystem_is_an_empty_directory() {
    let mut v = volume(1 << 20);
    let root = v.resolve(|v| v.inode(Ino::ROOT)).unwrap();
    assert!(root.is_dir() && root.nlink == 2 && root.size == 0);
    let mut seen = 0;
    v.resolve(|v| {
        v.readdir(Ino::ROOT, 0, &mut |_| {
            seen += 1;
            true
        })
    })
    .unwrap();
    assert_eq!(seen, 0);
}

#[test]
fn thousands_of_files_come_back() {
    let mut v = volume(64 << 20);
    let mut dirs = vec![Ino::ROOT];
    for i in 0..40 {
        let name = format!("dir{i}");
        let d = v.run(NOW, |v| v.create(Ino::ROOT, name.as_bytes(), &file(0o040_755))).unwrap();
        dirs.push(d.ino);
    }
    for i in 0..4000u32 {
        let dir = dirs[i as usize % dirs.len()];
        let name = format!("file number {i}");
        let f = v.run(NOW, |v| v.create(dir, name.as_bytes(), &file(0o100_644))).unwrap();
        let body = vec![i as u8; (i as usize * 37) % 9000];
        v.write_at(f.ino, 0, &body, NOW).unwrap();
    }
    v.commit(NOW).unwrap();
    let mut v = reopen(&v);
    for i in 0..4000u32 {
        let dir = dirs[i as usize % dirs.len()];
        let name = format!("file number {i}");
        let (ino, _) = v.resolve(|v| v.lookup(dir, name.as_bytes())).unwrap();
        let mut body = vec![0; 10_000];
        let n = v.read_at(ino, 0, &mut body).unwrap();
        assert_eq!(n, (i as usize * 37) % 9000);
        assert!(body[..n].iter().all(|b| *b == i as u8));
    }
    for i in 0..4000u32 {
        let dir = dirs[i as usize % dirs.len()];
        let name = format!("file number {i}");
        let gone = v.run(NOW, |v| v.unlink(dir, name.as_bytes(), NOW)).unwrap();
        v.steps(NOW, |v| v.evict(gone.ino)).unwrap();
    }
    for i in 0..40 {
        let name = format!("dir{i}");
        let gone = v.run(NOW, |v| v.rmdir(Ino::ROOT, name.as_bytes(), NOW)).unwrap();
        v.steps(NOW, |v| v.evict(gone.ino)).unwrap();
    }
    v.commit(NOW).unwrap();
    v.commit(NOW).unwrap();
    let s = v.statfs();
    assert_eq!(s.inodes, 1);
    assert_clean(v.device());
    // 34 blocks at the front and the last backup, a bitmap, a leaf.
    assert_eq!(s.blocks - s.blocks_free, 35 + 2);
}

#[test]
fn a_full_filesystem_can_be_emptied() {
    for megabytes in [1usize, 2, 8, 32] {
        let mut v = volume(megabytes << 20);
        for round in 0..3 {
            let mut names = Vec::new();
            loop {
                let name = format!("f{round}-{}", names.len());
                let made = v
                    .run(NOW, |v| v.create(Ino::ROOT, name.as_bytes(), &file(0o100_644)))
                    .and_then(|f| v.write_at(f.ino, 0, &vec![3; 100_000], NOW));
                names.push(name);
                match made {
                    Ok(()) => {}
                    Err(Error::NoSpace) => break,
                    Err(e) => panic!("{e}"),
                }
            }
            assert!(names.len() > 1, "{megabytes} MiB held nothing");
            for name in names {
                match v.run(NOW, |v| v.unlink(Ino::ROOT, name.as_bytes(), NOW)) {
                    Ok(gone) => v.steps(NOW, |v| v.evict(gone.ino)).unwrap(),
                    Err(Error::NotFound) => {}
                    Err(e) => panic!("{e} in {megabytes} MiB"),
                }
            }
            v.commit(NOW).unwrap();
            assert_clean(v.device());
            assert_eq!(v.statfs().inodes, 1);
        }
    }
}

#[test]
#[allow(clippy::many_single_char_names)]
fn attributes_links_and_renames_are_there_after_reopening() {
    let mut v = volume(8 << 20);
    let a = v.run(NOW, |v| v.create(Ino::ROOT, b"a", &file(0o100_644))).unwrap();
    for len in [0usize, 1, 600, 5000, 65_536] {
        let value: Vec<u8> = (0..len).map(|i| i as u8).collect();
        v.run(NOW, |v| v.xattr_set(a.ino, b"user.x", &value, XattrMode::Set, NOW)).unwrap();
        assert_eq!(v.resolve(|v| v.xattr_get(a.ino, b"user.x")).unwrap(), value);
    }
    v.run(NOW, |v| v.xattr_remove(a.ino, b"user.x", NOW)).unwrap();
    assert_eq!(v.resolve(|v| v.xattr_get(a.ino, b"user.x")), Err(Error::NoAttr));
    let target = vec![b't'; 4000];
    let link = NewInode { target: &target, ..file(0o120_777) };
    let l = v.run(NOW, |v| v.create(Ino::ROOT, b"l", &link)).unwrap();
    assert_eq!(v.resolve(|v| v.readlink(l.ino)).unwrap(), target);
    v.run(NOW, |v| v.link(a.ino, Ino::ROOT, b"b", NOW)).unwrap();
    let d = v.run(NOW, |v| v.create(Ino::ROOT, b"d", &file(0o040_755))).unwrap();
    let e = v.run(NOW, |v| v.create(d.ino, b"e", &file(0o040_755))).unwrap();
    let none = RenameFlags::default();
    assert!(matches!(
        v.run(NOW, |v| v.rename(Ino::ROOT, b"d", e.ino, b"x", none, NOW)),
        Err(Error::Invalid(_))
    ));
    let moved = v.run(NOW, |v| v.rename(Ino::ROOT, b"l", e.ino, b"l2", none, NOW)).unwrap();
    assert_eq!(moved.moved, l.ino);
    let exchange = RenameFlags { exchange: true, ..none };
    v.run(NOW, |v| v.rename(Ino::ROOT, b"a", e.ino, b"l2", exchange, NOW)).unwrap();
    assert_eq!(v.resolve(|v| v.lookup(Ino::ROOT, b"a")).unwrap().0, l.ino);
    assert_eq!(v.resolve(|v| v.lookup(e.ino, b"l2")).unwrap().0, a.ino);
    v.commit(NOW).unwrap();
    let v2 = &mut reopen(&v);
    assert_eq!(v2.resolve(|v| v.inode(a.ino)).unwrap().nlink, 2);
}

#[test]
fn sparse_files_read_as_zeroes() {
    let mut v = volume(16 << 20);
    let f = v.run(NOW, |v| v.create(Ino::ROOT, b"f", &file(0o100_644))).unwrap();
    v.write_at(f.ino, 1_000_000, b"hello", NOW).unwrap();
    v.write_at(f.ino, 10, b"start", NOW).unwrap();
    let mut buf = vec![1; 1_000_010];
    assert_eq!(v.read_at(f.ino, 0, &mut buf).unwrap(), 1_000_005);
    assert_eq!(&buf[10..15], b"start");
    assert_eq!(&buf[1_000_000..1_000_005], b"hello");
    assert_eq!(buf[..1_000_005].iter().filter(|b| **b != 0).count(), 10);
    v.truncate(f.ino, 12, NOW).unwrap();
    v.truncate(f.ino, 100, NOW).unwrap();
    let mut buf = vec![1; 100];
    assert_eq!(v.read_at(f.ino, 0, &mut buf).unwrap(), 100);
    assert_eq!(buf.iter().filter(|b| **b != 0).count(), 2);
    assert_eq!(v.resolve(|v| v.inode(f.ino)).unwrap().blocks, 1);
    v.commit(NOW).unwrap();
    assert_clean(v.device());
}

#[test]
fn a_truncation_given_up_halfway_shows_nothing_old() {
    let mut v = volume(32 << 20);
    let f = v.run(NOW, |v| v.create(Ino::ROOT, b"f", &file(0o100_644))).unwrap();
    for i in 0..200 {
        v.write_at(f.ino, i * 8192, &[9; 4096], NOW).unwrap();
    }
    let step = v.run(NOW, |v| v.set_size(f.ino, 0, NOW)).unwrap();
    assert_eq!(step, Progress::More);
    v.steps(NOW, |v| v.set_size(f.ino, 200 * 8192, NOW)).unwrap();
    let mut body = vec![1; 200 * 8192];
    assert_eq!(v.read_at(f.ino, 0, &mut body).unwrap(), body.len());
    assert!(body.iter().all(|b| *b == 0));
    let again = v.run(NOW, |v| v.set_size(f.ino, 0, NOW)).unwrap();
    assert_eq!(again, Progress::Done);
    v.write_at(f.ino, 0, &vec![9; 400_000], NOW).unwrap();
    v.commit(NOW).unwrap();
    assert_clean(v.device());
}

#[test]
fn a_half_truncated_file_can_be_unlinked() {
    let mut v = volume(32 << 20);
    let f = v.run(NOW, |v| v.create(Ino::ROOT, b"f", &file(0o100_644))).unwrap();
    for i in 0..200 {
        v.write_at(f.ino, i * 8192, &[9; 4096], NOW).unwrap();
    }
    assert_eq!(v.run(NOW, |v| v.set_size(f.ino, 0, NOW)).unwrap(), Progress::More);
    v.commit(NOW).unwrap();
    assert_clean(v.device());
    v.run(NOW, |v| v.unlink(Ino::ROOT, b"f", NOW)).unwrap();
    v.commit(NOW).unwrap();
    let mut v = reopen(&v);
    v.evict_orphans(NOW).unwrap();
    v.commit(NOW).unwrap();
    assert_clean(v.device());
    assert_eq!(v.statfs().inodes, 1);
}

#[test]
fn a_follower_sees_what_changed() {
    let mut v = volume(32 << 20);
    let mut made = Vec::new();
    for i in 0..500 {
        let name = format!("f{i}");
        made.push(v.run(NOW, |v| v.create(Ino::ROOT, name.as_bytes(), &file(0o100_644))).unwrap());
    }
    v.commit(NOW).unwrap();
    let snapshot = Memory(RefCell::new(v.device().0.borrow().clone()));
    let mut follower = Follower::open(&snapshot, 1 << 20).unwrap();
    let mut seen = Vec::new();
    follower
        .changes(Generation(0), &mut |change| {
            if let Change::Inode(inode) = change {
                seen.push(inode.ino);
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(seen.len(), 501);
    let before = follower.generation();
    v.write_at(made[250].ino, 0, b"new", NOW).unwrap();
    v.commit(NOW).unwrap();
    snapshot.0.borrow_mut().copy_from_slice(&v.device().0.borrow());
    assert_eq!(follower.poll().unwrap(), Some(v.generation()));
    let mut seen = Vec::new();
    follower
        .changes(before, &mut |change| {
            if let Change::Inode(inode) = change {
                seen.push(inode.ino);
            }
            Ok(())
        })
        .unwrap();
    assert!(seen.contains(&made[250].ino) && seen.len() < 100);
    let parts = follower.written(made[250].ino).unwrap();
    assert!(matches!(parts[..], [Mapping { count: 1, kind: MappingKind::Written(_), .. }]));
    assert_eq!(follower.poll().unwrap(), None);
}

#[test]
fn vector_files_start_aligned() {
    let mut v = volume(400 << 20);
    let odd = v.run(NOW, |v| v.create(Ino::ROOT, b"odd", &file(0o100_644))).unwrap();
    v.write_at(odd.ino, 0, &vec![1; 37 * 4096], NOW).unwrap();
    let f = v.run(NOW, |v| v.create(Ino::ROOT, b"f", &file(0o100_644))).unwrap();
    let layout = VectorLayout::parse("type=f32,dim=384,metric=cosine").unwrap();
    v.run(NOW, |v| v.set_vector(f.ino, Some(&layout), NOW)).unwrap();
    for piece in 0..8 {
        v.write_at(f.ino, piece << 18, &vec![2; 1 << 18], NOW).unwrap();
    }
    let first = v.resolve(|v| v.map(f.ino, FileBlock(0), 10_000)).unwrap();
    let MappingKind::Written(block) = first.kind else { panic!("{first:?}") };
    assert_eq!((block.0 % 512, first.count), (0, 512));
}

/// Blocks of a file that lie in a row.
fn pieces(v: &mut Volume<Memory>, ino: Ino) -> u64 {
    let (mut at, mut count) = (0, 0);
    let blocks = v.resolve(|v| v.inode(ino)).unwrap().size / 4096;
    while at < blocks {
        at += v.resolve(|v| v.map(ino, FileBlock(at), blocks)).unwrap().count;
        count += 1;
    }
    count
}

// A copy sets a file's attributes after its contents: EINVAL left the file without its mark.
#[test]
fn a_file_with_contents_takes_the_mark_and_gives_it_back() {
    let mut v = volume(64 << 20);
    let names: [&[u8]; 2] = [b"a", b"b"];
    let [a, b] =
        names.map(|n| v.run(NOW, |v| v.create(Ino::ROOT, n, &file(0o100_644))).unwrap().ino);
    for at in 0..40u64 {
        v.write_at(a, at << 12, &[3; 4096], NOW).unwrap();
        v.write_at(b, at << 12, &[4; 4096], NOW).unwrap();
        v.commit(NOW).unwrap();
    }
    assert!(pieces(&mut v, a) > 8, "the files lie between each other");
    v.run(NOW, |v| v.allocate(a, FileBlock(50), 5).map(drop)).unwrap();
    let one = VectorLayout::parse("type=u8,dim=128,metric=l2").unwrap();
    let other = VectorLayout::parse("type=f32,dim=32,metric=cosine").unwrap();
    for layout in [Some(one), Some(one), Some(other), None, Some(one)] {
        v.run(NOW, |v| v.set_vector(a, layout.as_ref(), NOW)).unwrap();
        v.commit(NOW).unwrap();
        v = reopen(&v);
        assert_eq!(v.resolve(|v| v.vector(a)).unwrap(), layout);
        let mut byte = [0];
        v.read_at(a, 39 << 12, &mut byte).unwrap();
        assert_eq!(byte, [3]);
    }
    // What it writes afterwards joins what it had.
    v.write_at(a, 40 << 12, &[5; 8192], NOW).unwrap();
    v.commit(NOW).unwrap();
    reopen(&v);
}

#[test]
fn a_file_in_too_many_pieces_says_what_to_do_and_stays_as_it_is() {
    let mut v = volume(64 << 20);
    let f = v.run(NOW, |v| v.create(Ino::ROOT, b"f", &file(0o100_644))).unwrap().ino;
    for at in 0..257u64 {
        v.write_at(f, at << 13, &[3; 4096], NOW).unwrap();
    }
    let layout = VectorLayout::parse("type=f32,dim=32,metric=cosine").unwrap();
    let refused = v.run(NOW, |v| v.set_vector(f, Some(&layout), NOW)).unwrap_err();
    assert!(refused.to_string().contains("copy it"), "{refused}");
    assert_eq!(v.resolve(|v| v.vector(f)).unwrap(), None);
    v.truncate(f, 256 << 13, NOW).unwrap();
    v.run(NOW, |v| v.set_vector(f, Some(&layout), NOW)).unwrap();
    v.commit(NOW).unwrap();
    reopen(&v);
}

#[test]
fn a_filesystem_without_the_feature_refuses_vectors_of_bytes() {
    let v = volume(1 << 20);
    for at in [1024, 33 * 4096, (1 << 20) - 4096] {
        let mut bytes = v.device().0.borrow_mut();
        let (mut superblock, _) =
            <vexfs_format::Superblock as zerocopy::FromBytes>::read_from_prefix(&bytes[at..])
                .unwrap();
        superblock.incompat.set(1);
        let sealed = superblock.sealed();
        let sealed = zerocopy::IntoBytes::as_bytes(&sealed);
        bytes[at..at + sealed.len()].copy_from_slice(sealed);
    }
    let mut v = reopen(&v);
    let layout = VectorLayout::parse("type=u8,dim=32,metric=cosine").unwrap();
    let refused = v.run(NOW, |v| v.set_vector(Ino::ROOT, Some(&layout), NOW)).unwrap_err();
    assert!(refused.to_string().contains("feature vector_u8"), "{refused}");
}

/// Counts the requests for a commit's nodes and bitmaps: contiguous blocks are one request.
struct Requests(Memory, std::cell::Cell<usize>);

impl Device for Requests {
    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(at, buf)
    }
    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.0.write(at, data)
    }
    fn write_many(&self, block_bytes: u32, writes: &[Write<'_>]) -> Result<(), DeviceError> {
        let breaks = writes.windows(2).filter(|pair| pair[0].block.0 + 1 != pair[1].block.0);
        self.1.set(self.1.get() + breaks.count() + 1);
        self.0.write_many(block_bytes, writes)
    }
    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.0.write(at, data)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// An fsync of a growing file writes a few blocks. If each were allocated wherever one is free, among the
/// holes that older commits leave, they would be about five requests.
#[test]
fn the_blocks_of_a_small_commit_are_contiguous() {
    let device = Memory(RefCell::new(vec![0; 64 << 20]));
    mkfs(&device, &options(64 << 20)).unwrap();
    let mut v = open(Requests(device, std::cell::Cell::new(0))).unwrap();
    for i in 0..3000 {
        let name = format!("file {i}");
        let ino = v.run(NOW, |v| v.create(Ino::ROOT, name.as_bytes(), &file(0o100_644))).unwrap();
        v.write_at(ino.ino, 0, &[1; 4096], NOW).unwrap();
        if i % 500 == 0 {
            v.commit(NOW).unwrap();
        }
    }
    let log = v.run(NOW, |v| v.create(Ino::ROOT, b"log", &file(0o100_644))).unwrap().ino;
    v.commit(NOW).unwrap();
    v.device().1.set(0);
    for i in 0..200 {
        v.write_at(log, i * 4096, &[2; 4096], NOW).unwrap();
        v.commit(NOW).unwrap();
    }
    let requests = v.device().1.get();
    assert!(requests <= 300, "{requests} requests for 200 commits");
}

/// If they were two changes, a crash or a lack of memory could separate a mode from its ACL.
#[test]
fn an_acl_and_its_mode_are_one_change() {
    const NAME: &[u8] = b"system.posix_acl_access";
    let mut v = volume(4 << 20);
    let ino = v.run(NOW, |v| v.create(Ino::ROOT, b"f", &file(0o100_644))).unwrap().ino;
    let mode = |mode| SetAttr { mode: Some(mode), ctime: NOW, ..SetAttr::default() };
    v.run(NOW, |v| v.acl_set(ino, NAME, Some(b"rules"), &mode(0o750))).unwrap();
    assert_eq!(v.xattr_get(ino, NAME).unwrap(), b"rules");
    assert_eq!(v.inode(ino).unwrap().mode, 0o100_750);
    // If one half is refused, nothing is changed.
    let long = vec![0; 70_000];
    let refused = v.run(NOW, |v| v.acl_set(ino, NAME, Some(&long), &mode(0o700)));
    assert_eq!(refused, Err(Error::AttrTooBig));
    assert_eq!(v.inode(ino).unwrap().mode, 0o100_750);
    for bits in [0o600, 0o640] {
        v.run(NOW, |v| v.acl_set(ino, NAME, None, &mode(bits))).unwrap();
        assert_eq!(v.xattr_get(ino, NAME), Err(Error::NoAttr));
        assert_eq!(v.inode(ino).unwrap().mode, 0o100_000 | bits);
    }
    v.commit(NOW).unwrap();
    reopen(&v);
}
