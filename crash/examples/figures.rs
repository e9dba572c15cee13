// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Measures the engine on a device in memory, and whether costs grow with size: `figures [FILES]`.

use std::time::Instant;
use vexfs::{
    Device, Error, FileBlock, Generation, Ino, NewInode, OpenOptions, Progress, Report, Result,
    Time, Volume, check,
};
use vexfs_crash::{CacheDevice, formatted, mkfs_options};

const NOW: Time = Time { seconds: 1_700_000_000, nanos: 0 };
const FILE: NewInode<'_> =
    NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, target: b"", now: NOW };

fn line(what: &str, count: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!("{what}: {count} in {seconds:.2} s, {:.0} a second", count as f64 / seconds);
}

fn nodes(volume: &Volume<CacheDevice>) -> Result<()> {
    let summary = check(volume.device(), &mut |report| {
        if let Report::Finding(finding) = report {
            println!("FINDING {finding}");
        }
    })?;
    let used = summary.blocks_used;
    println!("  tree: {} nodes on {} levels, {used} blocks in use", summary.nodes, summary.levels);
    Ok(())
}

fn main() -> Result<()> {
    let files: u64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(100_000);
    let device = CacheDevice::new(formatted(&mkfs_options(2 << 30))?);
    let mut v = Volume::open(device, &OpenOptions::default())?;
    names(&mut v, files)?;
    extents(&mut v)?;
    commits(&mut v)?;
    full(&mut v)?;
    println!("device: {} requests, {} bytes", v.device().requests(), v.device().len_bytes());
    Ok(())
}

fn name(i: u64) -> Vec<u8> {
    format!("file number {i}").into_bytes()
}

/// Many names in one directory.
fn names(v: &mut Volume<CacheDevice>, files: u64) -> Result<()> {
    for part in 0..4 {
        let since = Instant::now();
        for i in part * files / 4..(part + 1) * files / 4 {
            v.run(NOW, |v| v.create(Ino::ROOT, &name(i), &FILE))?;
        }
        line("create in one directory", files / 4, since);
    }
    v.commit(NOW)?;
    nodes(v)?;
    let since = Instant::now();
    for i in 0..files {
        v.resolve(|v| v.lookup(Ino::ROOT, &name(i)))?;
    }
    line("lookup", files, since);
    let since = Instant::now();
    for i in 0..files {
        let gone = v.run(NOW, |v| v.unlink(Ino::ROOT, &name(i), NOW))?;
        v.steps(NOW, |v| v.evict(gone.ino))?;
    }
    line("unlink and evict", files, since);
    v.commit(NOW)?;
    nodes(v)
}

/// Many extents in one file.
fn extents(v: &mut Volume<CacheDevice>) -> Result<()> {
    let f = v.run(NOW, |v| v.create(Ino::ROOT, b"sparse", &FILE))?.ino;
    let extents = 100_000u64;
    for part in 0..4 {
        let since = Instant::now();
        for i in part * extents / 4..(part + 1) * extents / 4 {
            // An odd stride visits the whole file in no order.
            let block = (i * 61_803) % extents * 2;
            v.run(NOW, |v| v.allocate(f, FileBlock(block), 1))?;
            v.steps(NOW, |v| {
                v.mark_written(f, FileBlock(block), 1, Some((block + 1) << 12), None)
            })?;
        }
        line("extents of one file, at random", extents / 4, since);
    }
    v.commit(NOW)?;
    nodes(v)?;
    let since = Instant::now();
    for i in 0..extents {
        v.resolve(|v| v.map(f, FileBlock((i * 61_803) % extents * 2), 1))?;
    }
    line("map", extents, since);
    let since = Instant::now();
    let mut steps = 0;
    while v.run(NOW, |v| v.set_size(f, 0, NOW))? == Progress::More {
        steps += 1;
    }
    line("extents freed", extents, since);
    println!("  {steps} steps");
    v.commit(NOW)?;
    nodes(v)
}

fn commits(v: &mut Volume<CacheDevice>) -> Result<()> {
    let since = Instant::now();
    let first = v.generation();
    for i in 0..10_000u64 {
        v.run(NOW, |v| v.create(Ino::ROOT, &name(i), &FILE))?;
        v.commit(NOW)?;
    }
    line("create and commit", 10_000, since);
    assert!(v.generation() > Generation(first.0 + 9_000), "commits are missing");
    Ok(())
}

/// A full filesystem, and how long a refusal takes.
fn full(v: &mut Volume<CacheDevice>) -> Result<()> {
    let big = v.run(NOW, |v| v.create(Ino::ROOT, b"big", &FILE))?.ino;
    let mut at = 0;
    let since = Instant::now();
    loop {
        match v.run(NOW, |v| v.allocate(big, FileBlock(at), 1 << 16)) {
            Ok(mapping) => at += mapping.count,
            Err(Error::NoSpace) => break,
            Err(other) => return Err(other),
        }
    }
    line("blocks allocated until full", at, since);
    let since = Instant::now();
    for _ in 0..1000 {
        let full = v.run(NOW, |v| v.allocate(big, FileBlock(at), 1));
        assert_eq!(full.err(), Some(Error::NoSpace));
    }
    line("refusals when full", 1000, since);
    Ok(())
}
