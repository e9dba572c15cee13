// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Power cuts: a reopened filesystem is exactly the last durable commit, or a later one. What a cut may
//! do is in `crash/FAULTS.md`.

mod common;

use common::{FILE, NOW, assert_clean, formatted, open};
use vexfs::*;
use vexfs_crash::{CacheDevice, Effect, Fault, Image, Keep, On, Options, simulate};

fn all(seeds: std::ops::Range<u64>, shape: impl Fn(u64) -> Options) {
    let mut failures = Vec::new();
    let mut states = 0;
    for seed in seeds {
        match simulate(&shape(seed)) {
            Ok(outcome) => states += outcome.states,
            Err(text) => failures.push(text),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(states > 1000, "only {states} images were opened");
}

#[test]
fn cuts_of_a_tiny_filesystem() {
    all(0..20, |seed| Options { inodes: 25, ..Options::new(seed) });
}

#[test]
fn cuts_of_a_small_filesystem() {
    all(1000..1010, |seed| Options { image_bytes: 4 << 20, ..Options::new(seed) });
}

#[test]
fn rare_cuts_of_a_larger_filesystem() {
    all(2000..2004, |seed| Options {
        image_bytes: 64 << 20,
        cut_every: 60,
        images_per_cut: 10,
        steps: 3000,
        inodes: 1000,
        ..Options::new(seed)
    });
}

/// The oracle notices what an ignored flush does, with every seed.
#[test]
fn a_device_that_ignores_flushes_is_found_out() {
    for seed in 0..20 {
        let result = simulate(&Options { ignore_flushes: true, ..Options::new(seed) });
        assert!(result.is_err(), "seed {seed}: {result:?}");
    }
}

fn reopened(image: Image) -> Volume<CacheDevice> {
    open(CacheDevice::new(image)).unwrap()
}

fn try_names(v: &mut Volume<CacheDevice>) -> Result<Vec<Vec<u8>>> {
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let before = names.len();
        v.resolve(|v| {
            v.readdir(Ino::ROOT, cookie, &mut |e| {
                names.push(e.name.to_vec());
                cookie = e.cookie;
                true
            })
        })?;
        if names.len() == before {
            return Ok(names);
        }
    }
}

/// A commit, with the power cut at, or a failure of, each of its requests in turn.
#[test]
fn a_commit_dies_at_every_request() {
    let mut base = open(formatted(4 << 20)).unwrap();
    for i in 0..200 {
        let name = format!("file {i}");
        base.run(NOW, |v| v.create(Ino::ROOT, name.as_bytes(), &FILE)).unwrap();
    }
    base.commit(NOW).unwrap();
    let before = base.device().cut(Keep::None);
    for effect in [Effect::PowerOff, Effect::Fail(5)] {
        let mut outcomes = [0, 0];
        for nth in 0..200 {
            let mut v = reopened(before.clone());
            v.run(NOW, |v| v.create(Ino::ROOT, b"new", &FILE)).unwrap();
            v.run(NOW, |v| v.unlink(Ino::ROOT, b"file 7", NOW)).unwrap();
            let commit = v.resolve(|v| v.freeze(NOW)).unwrap().unwrap();
            v.device().fault(Fault::nth(On::Any, nth, effect));
            let result = commit.write(v.device());
            let failed = result.is_err();
            let finished = v.finish(&commit, result);
            assert_eq!(finished.is_err(), failed);
            if !failed {
                assert!(nth >= 3, "a commit has nodes, a flush and a root record");
                break;
            }
            assert!(v.is_dead());
            assert_eq!(v.inode(Ino::ROOT), Err(Error::Dead));
            assert_eq!(v.commit(NOW), Err(Error::Dead));
            assert_eq!(
                v.create(Ino::ROOT, b"more", &FILE).map(|inode| inode.ino),
                Err(Error::Dead)
            );
            for seed in 0..20 {
                let keep = [Keep::None, Keep::All, Keep::Random(seed)][seed.min(2) as usize];
                let mut v = reopened(v.device().cut(keep));
                let names = try_names(&mut v).unwrap();
                let new = names.iter().any(|n| n == b"new");
                let old = names.iter().any(|n| n == b"file 7");
                assert_ne!(new, old, "half a commit came back");
                assert_eq!(names.len(), 200);
                outcomes[usize::from(new)] += 1;
            }
        }
        // A request that fails with EIO writes nothing, so the new root is never there.
        assert!(outcomes[0] > 0);
        assert_eq!(outcomes[1] > 0, effect == Effect::PowerOff);
    }
}

/// With a device that loses, misdirects or changes writes, a reopened filesystem is still a commit, or
/// opening or reading it fails.
#[test]
fn lying_devices_are_noticed_or_harmless() {
    let mut noticed = 0;
    for seed in 0..600u64 {
        let mut v = open(formatted(1 << 20)).unwrap();
        let effect = [Effect::Ignore, Effect::Misdirect(200 * 4096), Effect::Flip(seed * 37)];
        let on = if seed % 4 == 0 { On::Flush } else { On::Write };
        let effect = if on == On::Flush { Effect::Ignore } else { effect[seed as usize % 3] };
        let nth = if on == On::Flush { seed % 10 } else { seed % 30 };
        v.device().fault(Fault::nth(on, nth, effect));
        let mut model = Vec::new();
        for i in 0..10 {
            let name = format!("{i}").into_bytes();
            let made = v.run(NOW, |v| v.create(Ino::ROOT, &name, &FILE));
            if made.and_then(|_| v.commit(NOW)).is_err() {
                break;
            }
            model.push(name);
        }
        let image = v.device().cut(Keep::Random(seed));
        let Ok(mut v) = open(CacheDevice::new(image)) else {
            noticed += 1;
            continue;
        };
        match try_names(&mut v) {
            Ok(mut found) => {
                found.sort();
                model.truncate(found.len());
                assert_eq!(found, model, "seed {seed}: something that was never committed");
            }
            Err(Error::Corrupt(_)) => noticed += 1,
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(noticed > 10, "only {noticed} lies were noticed");
}

type Operation = fn(&mut Volume<CacheDevice>, Ino) -> Result<()>;

/// Each operation with an empty cache and each of its reads failing in turn: nothing is half done, and
/// the next try succeeds.
#[test]
fn a_failed_read_changes_nothing() {
    let mut base = open(formatted(4 << 20)).unwrap();
    for i in 0..300 {
        let name = format!("file {i}");
        base.run(NOW, |v| v.create(Ino::ROOT, name.as_bytes(), &FILE)).unwrap();
    }
    let (f, _) = base.resolve(|v| v.lookup(Ino::ROOT, b"file 150")).unwrap();
    for i in 0..60 {
        base.write_at(f, i * 8192, &[1; 4096], NOW).unwrap();
    }
    base.run(NOW, |v| v.xattr_set(f, b"user.x", &[2; 9000], XattrMode::Set, NOW)).unwrap();
    base.run(NOW, |v| v.unlink(Ino::ROOT, b"file 8", NOW)).unwrap();
    base.commit(NOW).unwrap();
    let image = base.device().cut(Keep::None);
    let operations: [(&str, Operation); 10] = [
        ("create", |v, _| v.run(NOW, |v| v.create(Ino::ROOT, b"new", &FILE)).map(drop)),
        ("unlink", |v, _| v.run(NOW, |v| v.unlink(Ino::ROOT, b"file 9", NOW)).map(drop)),
        ("link", |v, f| v.run(NOW, |v| v.link(f, Ino::ROOT, b"new", NOW)).map(drop)),
        ("rename", |v, _| {
            let flags = RenameFlags::default();
            v.run(NOW, |v| v.rename(Ino::ROOT, b"file 3", Ino::ROOT, b"file 4", flags, NOW))
                .map(drop)
        }),
        ("xattr_set", |v, f| {
            v.run(NOW, |v| v.xattr_set(f, b"user.x", &[3; 12_000], XattrMode::Set, NOW))
        }),
        ("xattr_remove", |v, f| v.run(NOW, |v| v.xattr_remove(f, b"user.x", NOW))),
        ("write", |v, f| v.write_at(f, 4096, &[9; 12_000], NOW)),
        ("truncate", |v, f| v.truncate(f, 10_000, NOW)),
        ("evict", |v, _| v.evict_orphans(NOW)),
        ("set_attr", |v, f| {
            let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
            v.run(NOW, |v| v.set_attr(f, &set)).map(drop)
        }),
    ];
    for (what, operation) in operations {
        let mut failed = 0;
        for nth in 0..1000 {
            let mut v = reopened(image.clone());
            v.device().fault(Fault::nth(On::Read, nth, Effect::Fail(5)));
            let result = operation(&mut v, f).and_then(|()| v.commit(NOW));
            v.device().mend();
            assert!(!v.is_dead(), "{what}: a failed read stopped the volume");
            match result {
                Err(Error::Device(DeviceError::Io(5))) => {
                    failed += 1;
                    // If only its commit failed, the operation is done already.
                    match operation(&mut v, f) {
                        Ok(()) | Err(Error::Exists | Error::NotFound | Error::NoAttr) => {}
                        Err(other) => panic!("{what}, read {nth}: {other}"),
                    }
                    v.commit(NOW).unwrap();
                }
                Ok(_) => break,
                Err(other) => panic!("{what}, read {nth}: {other}"),
            }
            assert_clean(v.device());
        }
        assert!(failed > 2, "{what} read {failed} blocks");
    }
}
