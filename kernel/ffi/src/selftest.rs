// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Self-tests that run wherever the object does: on a filesystem in memory, in the kernel too.

use crate::abi::{Answer, Refusal, plain};
use alloc::vec::Vec;
use vexfs::{
    Device, DeviceError, Generation, Ino, MkfsOptions, NewInode, OpenOptions, Time, VectorLayout,
    Volume, XattrMode,
};

/// Bytes of the memory the test filesystem lives in: the smallest there can be.
const BYTES: usize = 1 << 20;
const NOW: Time = Time { seconds: 1_700_000_000, nanos: 7 };

/// `EIO`: the self-test found something wrong.
const WRONG: Refusal = Refusal::Errno(5);

/// Memory as a device, for one task: a cell that refuses a second user is enough.
struct Memory {
    bytes: core::cell::RefCell<Vec<u8>>,
}

impl Memory {
    fn new() -> Answer<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(BYTES).map_err(|_| Refusal::Errno(12))?;
        bytes.resize(BYTES, 0);
        Ok(Self { bytes: core::cell::RefCell::new(bytes) })
    }
}

impl Device for Memory {
    fn len_bytes(&self) -> u64 {
        BYTES as u64
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        let bytes = self.bytes.try_borrow().map_err(|_| DeviceError::Io(5))?;
        let source = bytes.get(at as usize..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(source.ok_or(DeviceError::Io(5))?);
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        let mut bytes = self.bytes.try_borrow_mut().map_err(|_| DeviceError::Io(5))?;
        let target = bytes.get_mut(at as usize..).and_then(|rest| rest.get_mut(..data.len()));
        target.ok_or(DeviceError::Io(5))?.copy_from_slice(data);
        Ok(())
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write(at, data)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

fn format(device: &Memory) -> Answer {
    vexfs::mkfs(device, &MkfsOptions::new(BYTES as u64, [7; 16], [9; 16], NOW))?;
    Ok(())
}

fn file(mode: u32) -> NewInode<'static> {
    NewInode { mode, uid: 0, gid: 0, rdev: 0, target: &[], now: NOW }
}

fn check(truth: bool) -> Answer {
    if truth { Ok(()) } else { Err(WRONG) }
}

/// Formats a filesystem in 1 MiB of memory, works on it, commits, opens it again and compares.
///
/// 0, `-EIO` if something came out wrong, `-ENOMEM`, or the error of the step that failed.
#[unsafe(no_mangle)]
pub extern "C" fn vexfs_rust_test_basic() -> i32 {
    plain(|| {
        let device = Memory::new()?;
        format(&device)?;
        let data = b"sixteen bytes...";
        let generation = populate(&device, data)?;
        compare(&device, generation, data)
    })
}

/// Opens the filesystem and fills it. Not inlined, as the next ones: each has a large frame, and a kernel's stack is small.
#[inline(never)]
fn populate(device: &Memory, data: &[u8]) -> Answer<Generation> {
    let mut volume = Volume::open(device, &OpenOptions::default())?;
    make_files(&mut volume, data)?;
    Ok(volume.generation())
}

/// Makes files, commits, and makes one more that is not committed.
#[inline(never)]
fn make_files(volume: &mut Volume<&Memory>, data: &[u8]) -> Answer {
    let kept = volume.run(NOW, |v| v.create(Ino::ROOT, b"kept", &file(0o100_644)))?;
    volume.write_at(kept.ino, 5000, data, NOW)?;
    volume.run(NOW, |v| v.create(Ino::ROOT, b"dir", &file(0o040_755)))?;
    volume.run(NOW, |v| v.xattr_set(kept.ino, b"user.k", b"v", XattrMode::Create, NOW))?;
    volume.commit(NOW)?;
    volume.run(NOW, |v| v.create(Ino::ROOT, b"lost", &file(0o100_644)))?;
    Ok(())
}

/// Opens what [`populate`] left, and compares.
#[inline(never)]
fn compare(device: &Memory, generation: Generation, data: &[u8]) -> Answer {
    let mut again = Volume::open(device, &OpenOptions::default())?;
    check(again.generation() == generation)?;
    let (ino, _) = again.resolve(|v| v.lookup(Ino::ROOT, b"kept"))?;
    let mut buf = [1u8; 32];
    check(again.read_at(ino, 4990, &mut buf)? == 26)?;
    check(buf.get(..10) == Some(&[0; 10]) && buf.get(10..26) == Some(data))?;
    check(again.resolve(|v| v.xattr_get(ino, b"user.k"))? == b"v")?;
    check(again.resolve(|v| v.lookup(Ino::ROOT, b"lost")).is_err())
}

/// Panics if `really` is 1, so that tests can see a host survive it, which has to be prepared for that. 0 otherwise.
///
/// # Panics
/// If `really` is 1.
#[unsafe(no_mangle)]
#[allow(clippy::panic, reason = "it is what this function is for")]
pub extern "C" fn vexfs_rust_test_panic(really: u32) -> i32 {
    assert!(really != 1, "as a test asked for");
    0
}

/// Parses and prints vector attributes, and has one inherited by a new file.
///
/// 0, `-EIO` if something came out wrong, `-ENOMEM`, or the error of the step that failed.
#[unsafe(no_mangle)]
pub extern "C" fn vexfs_rust_test_vector_ops() -> i32 {
    plain(|| {
        let layout = VectorLayout::parse("type=f32,dim=3,metric=cosine")?;
        check(layout.element.vector_bytes(layout.dim) == 12)?;
        check(VectorLayout::parse("type=f32,metric=cosine").is_err())?;
        check(VectorLayout::parse("type=f32,dim=0,metric=l2").is_err())?;
        let device = Memory::new()?;
        format(&device)?;
        let mut volume = Volume::open(&device, &OpenOptions::default())?;
        let dir = volume.run(NOW, |v| v.create(Ino::ROOT, b"corpus", &file(0o040_755)))?;
        volume.run(NOW, |v| v.set_vector(dir.ino, Some(&layout), NOW))?;
        let made = volume.run(NOW, |v| v.create(dir.ino, b"rows", &file(0o100_644)))?;
        check(made.vector)?;
        check(volume.resolve(|v| v.vector(made.ino))? == Some(layout))
    })
}
