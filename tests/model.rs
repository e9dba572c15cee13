// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The engine compared with a model, without power cuts: every answer, every tree, full filesystems,
//! small caches. A failure prints the seed that repeats it.

mod common;

use common::{FILE, NOW, assert_clean, formatted, open};
use vexfs::*;
use vexfs_crash::{CacheDevice, Keep, Options, simulate};

fn all(seeds: std::ops::Range<u64>, shape: impl Fn(u64) -> Options) -> vexfs_crash::sim::Outcome {
    let mut sum = vexfs_crash::sim::Outcome::default();
    let mut failures = Vec::new();
    for seed in seeds {
        match simulate(&Options { cut_every: 0, ..shape(seed) }) {
            Ok(outcome) => {
                sum.steps += outcome.steps;
                sum.full += outcome.full;
                sum.generations += outcome.generations;
            }
            Err(text) => failures.push(text),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    sum
}

#[test]
fn a_tiny_filesystem_is_full_most_of_the_time() {
    let sum =
        all(0..60, |seed| Options { steps: 1500, write_bytes: 300_000, ..Options::new(seed) });
    assert!(sum.full > 2000, "only {} operations found no space", sum.full);
}

#[test]
fn a_small_filesystem_agrees_with_the_model() {
    all(1000..1030, |seed| Options {
        image_bytes: 4 << 20,
        inodes: 300,
        steps: 2000,
        ..Options::new(seed)
    });
}

#[test]
fn a_larger_filesystem_agrees_with_the_model() {
    let sum = all(2000..2008, |seed| Options {
        image_bytes: 64 << 20,
        inodes: 5000,
        steps: 6000,
        write_bytes: 400_000,
        ..Options::new(seed)
    });
    assert!(sum.generations > 500, "only {} commits", sum.generations);
}

/// A file without a name is an orphan, like one with an interrupted truncation, but may grow.
#[test]
fn a_file_without_a_name_can_grow() {
    let mut v = open(formatted(1 << 20)).unwrap();
    let f = v.run(NOW, |v| v.create_unnamed(&FILE)).unwrap();
    v.write_at(f.ino, 0, &[7; 5000], NOW).unwrap();
    assert_eq!(v.run(NOW, |v| v.set_size(f.ino, 100_000, NOW)).unwrap(), Progress::Done);
    assert_eq!(v.resolve(|v| v.inode(f.ino)).unwrap().size, 100_000);
    // Blocks that were allocated for a page cache and not written yet stay.
    let held = v.run(NOW, |v| v.allocate(f.ino, FileBlock(30), 9)).unwrap();
    assert_eq!(v.run(NOW, |v| v.set_size(f.ino, 200_000, NOW)).unwrap(), Progress::Done);
    assert_eq!(v.resolve(|v| v.map(f.ino, FileBlock(30), 9)).unwrap(), held);
}

/// After each step the size covers what is marked as written, so a cut leaves nothing beyond it.
#[test]
fn a_file_grows_with_each_step_of_marking() {
    let mut v = open(formatted(4 << 20)).unwrap();
    let f = v.run(NOW, |v| v.create(Ino::ROOT, b"f", &FILE)).unwrap().ino;
    for i in 0..40 {
        v.run(NOW, |v| v.allocate(f, FileBlock(i * 2), 1)).unwrap();
    }
    let size = Some(40 * 8192);
    let mut steps = 0;
    while v.run(NOW, |v| v.mark_written(f, FileBlock(0), 80, size, None)).unwrap() == Progress::More
    {
        steps += 1;
        let inode = v.resolve(|v| v.inode(f)).unwrap();
        let end = FileBlock(inode.size.div_ceil(4096));
        assert!(inode.size > 0 && inode.size < 40 * 8192);
        let mut at = end.0;
        while at < 80 {
            let part = v.resolve(|v| v.map(f, FileBlock(at), 80 - at)).unwrap();
            assert!(!matches!(part.kind, MappingKind::Written(_)), "{part:?}");
            at += part.count;
        }
    }
    assert!(steps > 0);
    assert_eq!(v.resolve(|v| v.inode(f)).unwrap().size, 40 * 8192);
}

/// Data that a cut left beyond a file's end must not become visible when the file grows.
#[test]
fn growing_shows_zeroes_where_uncommitted_data_was() {
    for grow_by_writing in [false, true] {
        let mut v = open(formatted(1 << 20)).unwrap();
        let f = v.run(NOW, |v| v.create(Ino::ROOT, b"f", &FILE)).unwrap();
        v.write_at(f.ino, 0, &[1; 100], NOW).unwrap();
        v.commit(NOW).unwrap();
        v.write_at(f.ino, 100, &[2; 1000], NOW).unwrap();
        let image = v.device().cut(Keep::All);
        let mut v = open(CacheDevice::new(image)).unwrap();
        assert_eq!(v.resolve(|v| v.inode(f.ino)).unwrap().size, 100);
        if grow_by_writing {
            v.write_at(f.ino, 2000, &[3; 1], NOW).unwrap();
        } else {
            v.truncate(f.ino, 2000, NOW).unwrap();
        }
        let mut body = [9; 2000];
        assert_eq!(v.read_at(f.ino, 0, &mut body).unwrap(), 2000);
        assert!(body[..100].iter().all(|b| *b == 1) && body[100..].iter().all(|b| *b == 0));
    }
}

/// Long extents are freed in steps, for which their groups are loaded again, and nothing is left.
#[test]
fn gigabytes_are_freed_in_steps() {
    let mut v = open(formatted(8 << 30)).unwrap();
    let f = v.run(NOW, |v| v.create(Ino::ROOT, b"f", &FILE)).unwrap().ino;
    let fresh = v.statfs().blocks_free;
    let blocks = 1_500_000;
    let mut at = 0;
    while at < blocks {
        at += v.run(NOW, |v| v.allocate(f, FileBlock(at), blocks - at)).unwrap().count;
    }
    v.commit(NOW).unwrap();
    assert_eq!(v.resolve(|v| v.inode(f)).unwrap().blocks, blocks);
    let image = v.device().cut(Keep::None);
    let mut v = open(CacheDevice::new(image)).unwrap();
    let mut steps = 0;
    while v.run(NOW, |v| v.set_size(f, 0, NOW)).unwrap() == Progress::More {
        steps += 1;
        if steps == 2 {
            // After a crash the mount finishes it.
            v.commit(NOW).unwrap();
            let image = v.device().cut(Keep::None);
            let mut v = open(CacheDevice::new(image)).unwrap();
            assert!(v.resolve(|v| v.inode(f)).unwrap().blocks > 0);
            v.evict_orphans(NOW).unwrap();
            assert_eq!(v.resolve(|v| v.inode(f)).unwrap().blocks, 0);
        }
    }
    assert!(steps > 2);
    v.commit(NOW).unwrap();
    assert_clean(v.device());
    // One bitmap of each group stays in use.
    assert!(fresh - v.statfs().blocks_free <= 8 << 30 >> 27);
}
