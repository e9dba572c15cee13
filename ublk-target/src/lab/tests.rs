// SPDX-License-Identifier: GPL-2.0-only OR MIT

use super::*;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use vexfs_crash::Recording;
use vexfs_search::dirty_log::DirtyRange;

const BYTES: u64 = 1 << 20;

struct TestLab {
    _directory: tempfile::TempDir,
    image: File,
    record: std::path::PathBuf,
    observer: Arc<DirtyLog>,
    lab: Lab,
}

fn test_lab() -> TestLab {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let image = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    image.set_len(BYTES).unwrap();
    let record = directory.path().join("record");
    let observer = Arc::new(DirtyLog::new(BYTES).unwrap());
    let file = image.try_clone().unwrap();
    let lab = Lab::new(file, BYTES, Some(&record), observer.clone()).unwrap();
    TestLab { _directory: directory, image, record, observer, lab }
}

impl TestLab {
    fn write(&self, at: u64, byte: u8, fua: bool) -> i32 {
        let request = Request { op: Op::Write { fua }, offset: at, len: 1024 };
        self.lab.request(&request, &mut [byte; 1024])
    }

    fn flush(&self) -> i32 {
        self.lab.request(&Request { op: Op::Flush, offset: 0, len: 0 }, &mut [])
    }

    fn read(&self, at: u64) -> Result<[u8; 1024], i32> {
        let mut buffer = [0xee; 1024];
        let request = Request { op: Op::Read, offset: at, len: 1024 };
        match self.lab.request(&request, &mut buffer) {
            1024 => Ok(buffer),
            other => Err(other),
        }
    }

    fn medium(&self, at: u64) -> u8 {
        let mut byte = [0];
        self.image.read_exact_at(&mut byte, at).unwrap();
        byte[0]
    }

    fn fault(&self, kind: FaultKind, on: On) -> u32 {
        self.lab.set(Fault {
            kind,
            on,
            from: 0,
            to: u64::MAX,
            skip: 0,
            times: Some(1),
            rate: 1.0,
            seed: 1,
        })
    }
}

/// Found by the soak test: a row was overwritten, the follower looked before the flush and saw the old
/// row on the medium, and nothing told it to look again when a flush or a cut brought the new one there.
#[test]
fn what_reaches_the_image_is_marked_when_it_does() {
    let b = test_lab();
    let block = |at| DirtyRange { start: at, end: at + 4096 };
    for cut in [false, true] {
        b.write(256 << 10, 1, false);
        assert_eq!(b.observer.drain(), [], "the image is as it was");
        if cut {
            b.lab.crash(Keep::All).unwrap();
        } else {
            b.flush();
        }
        assert_eq!(b.observer.drain(), [block(256 << 10)]);
    }
    b.lab.power_on();
    b.write(512 << 10, 1, true);
    assert_eq!(b.observer.drain(), [block(512 << 10)]);
    // A root record that a cut keeps is a newer generation for the follower.
    b.write(0, 1, false);
    let roots = b.observer.root_writes();
    b.lab.crash(Keep::All).unwrap();
    assert!(b.observer.root_writes() > roots);
}

#[test]
fn nothing_reaches_the_image_before_a_flush_but_what_is_durable_at_once() {
    let b = test_lab();
    assert_eq!(b.write(0, 1, false), 1024);
    assert_eq!((b.medium(0), b.read(0).unwrap()[0]), (0, 1));
    assert_eq!(b.write(4096, 2, true), 1024);
    assert_eq!((b.medium(4096), b.medium(0)), (2, 0));
    assert_eq!(b.flush(), 0);
    assert_eq!(b.medium(0), 1);
    // What a write with FUA has overwritten does not come back.
    b.write(8192, 3, false);
    b.write(8192, 4, true);
    assert_eq!(b.lab.crash(Keep::All).unwrap(), Cut { unflushed: 0, kept: 0 });
    assert_eq!(b.medium(8192), 4);
}

#[test]
fn a_cut_keeps_what_its_policy_says_and_everything_fails_until_the_power_is_on() {
    for (keep, left) in [(Keep::None, 1), (Keep::All, 3)] {
        let b = test_lab();
        b.write(0, 1, false);
        b.flush();
        b.write(0, 2, false);
        b.write(0, 3, false);
        assert_eq!(b.lab.crash(keep).unwrap().unflushed, 2);
        assert_eq!(b.medium(0), left);
        assert_eq!((b.write(0, 9, false), b.flush(), b.read(0)), (-EIO, -EIO, Err(-EIO)));
        assert!(b.lab.crash(keep).unwrap_err().contains("off already"));
        assert!(b.lab.power_on() && !b.lab.power_on());
        assert_eq!(b.read(0).unwrap()[0], left);
    }
    let mut met = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let b = test_lab();
        b.write(0, 1, false);
        b.write(0, 2, false);
        b.lab.crash(Keep::Random(seed)).unwrap();
        met.insert((b.medium(0), b.medium(512)));
    }
    assert_eq!(met.len(), 9, "each sector alone, any version");
}

#[test]
fn every_kind_of_fault_does_what_it_says() {
    let b = test_lab();
    b.write(0, 1, false);
    b.fault(FaultKind::Eio { errno: 28 }, On::Write);
    assert_eq!((b.write(0, 2, false), b.read(0).unwrap()[0]), (-28, 1));
    b.fault(FaultKind::Lost, On::Write);
    assert_eq!((b.write(0, 2, false), b.read(0).unwrap()[0]), (1024, 1));
    b.fault(FaultKind::Misdirect { to: 65_536 }, On::Write);
    assert_eq!((b.write(0, 2, false), b.read(0).unwrap()[0]), (1024, 1));
    assert_eq!(b.read(65_536).unwrap()[0], 2);
    b.write(0, 3, false);
    b.fault(FaultKind::Stale, On::Read);
    assert_eq!((b.read(0).unwrap()[0], b.read(0).unwrap()[0]), (1, 3));
    b.fault(FaultKind::Flip, On::Read);
    let wrong = b.read(0).unwrap().iter().map(|byte| (byte ^ 3).count_ones()).sum::<u32>();
    assert_eq!((wrong, b.read(0).unwrap()), (1, [3; 1024]));
    b.fault(FaultKind::Flip, On::Write);
    b.write(0, 3, false);
    assert_ne!(b.read(0).unwrap(), [3; 1024], "it stays");
    b.fault(FaultKind::IgnoreFlush, On::Flush);
    assert_eq!((b.flush(), b.medium(65_536)), (0, 0));
    assert_eq!((b.flush(), b.medium(65_536)), (0, 2));
    b.fault(FaultKind::Latency { ms: 30 }, On::Any);
    let began = std::time::Instant::now();
    assert_eq!(b.flush(), 0);
    assert!(began.elapsed() >= Duration::from_millis(30), "a wait may last longer, never shorter");
    b.write(0, 7, false);
    b.fault(FaultKind::Die, On::Read);
    assert_eq!((b.read(0), b.flush()), (Err(-EIO), -EIO));
    assert!(b.lab.power_on());
    assert_ne!(b.read(0).unwrap()[0], 7, "its cache is gone");
}

#[test]
fn a_fault_is_for_a_range_an_nth_request_or_a_part_of_them() {
    let b = test_lab();
    let fault = Fault {
        kind: FaultKind::Eio { errno: 5 },
        on: On::Read,
        from: 4096,
        to: 8192,
        skip: 1,
        times: Some(2),
        rate: 1.0,
        seed: 1,
    };
    let number = b.lab.set(fault);
    assert!(b.read(0).is_ok() && b.read(8192).is_ok(), "outside");
    let hits: Vec<bool> = (0..5).map(|_| b.read(7168).is_err()).collect();
    assert_eq!(hits, [false, true, true, false, false]);
    let state = b.lab.faults()[0];
    assert_eq!((state.number, state.met, state.hit), (number, 3, 2));
    assert_eq!((b.lab.clear(Some(number)), b.lab.clear(None)), (1, 0));
    b.lab.set(Fault { from: 0, skip: 0, times: None, rate: 0.3, ..fault });
    let hits = (0..1000).filter(|_| b.read(0).is_err()).count();
    assert!((200..400).contains(&hits), "{hits} of 1000");
    assert_eq!(b.lab.clear(None), 1);
    assert!(b.read(0).is_ok());
}

#[test]
fn the_recording_rebuilds_the_image_at_any_mark() {
    let b = test_lab();
    b.write(0, 1, false);
    b.flush();
    assert!(b.lab.mark("one"));
    b.write(0, 2, true);
    b.write(4096, 3, false);
    let zeroes = Op::WriteZeroes { keep_allocated: false, fua: false };
    b.lab.request(&Request { op: zeroes, offset: 0, len: 512 }, &mut []);
    b.lab.mark("two");
    b.lab.crash(Keep::None).unwrap();
    assert!(!b.lab.mark("too late"));
    let recording = Recording::read(&b.record).unwrap();
    let one = recording.image_at(recording.mark("one").unwrap(), Keep::None);
    assert_eq!(one.bytes(0, 1024), [1; 1024]);
    let two = recording.mark("two").unwrap();
    let bytes = |keep| {
        let image = recording.image_at(two, keep);
        (image.bytes(0, 1)[0], image.bytes(512, 1)[0], image.bytes(4096, 1)[0])
    };
    assert_eq!((bytes(Keep::None), bytes(Keep::All)), ((2, 2, 0), (0, 2, 3)));
}

#[test]
fn a_device_in_good_order_loses_nothing() {
    let b = test_lab();
    b.write(0, 5, false);
    b.lab.finish();
    assert_eq!(b.medium(0), 5);
}
