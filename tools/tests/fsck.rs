// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `fsck.vexfs` and its exit codes, and what every tool says of a damaged image. Each kind of block is
//! damaged in turn. Nothing is ever written.

mod common;

use common::{Lab, hold};
use std::fs::File;
use std::os::unix::fs::FileExt;
use vexfs_format::{RootRecord, Superblock};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// An image with a tree of two levels in it.
fn filled() -> Lab {
    let lab = Lab::with_image("16M");
    std::fs::create_dir(lab.path("tree")).unwrap();
    for n in 0..200 {
        lab.write(&format!("tree/file{n}"), format!("contents of {n}").as_bytes());
    }
    lab.vexfs("put a.img tree").ok();
    lab
}

/// The numbers that follow `"field":` in JSON lines.
fn numbers(text: &str, field: &str) -> Vec<u64> {
    let marker = format!("\"{field}\":");
    text.split(&marker)
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .collect()
}

#[test]
fn clean_is_0() {
    let lab = filled();
    let run = lab.fsck("a.img").ok();
    assert!(run.out.starts_with("clean: 202 inodes, "), "{run:?}");
    assert!(run.out.ends_with(" blocks used of 4096, generation 2\n"), "{run:?}");
    assert_eq!(run.err, "");
    for flags in ["-n", "-f", "-nf", "-a", "-p", "-y"] {
        lab.fsck(&format!("{flags} a.img")).ok();
    }
}

#[test]
fn every_damaged_node_is_4_and_named() {
    let lab = filled();
    let dump = lab.vexfs("dump --tree --json a.img").ok().out;
    let nodes = numbers(&dump, "node");
    assert!(nodes.len() > 5, "{nodes:?}");
    for block in &nodes {
        for at in [0, 13, 4095] {
            lab.flip("a.img", block * 4096 + at);
            let before = lab.bytes("a.img");
            let run = lab.fsck("a.img");
            assert_eq!(run.code, 4, "block {block}: {run:?}");
            assert!(run.out.contains(&format!("block {block}: ")), "{run:?}");
            assert!(run.err.contains("copy out what can be read"), "{run:?}");
            assert!(lab.bytes("a.img") == before, "a check changed the image");
            let dump = lab.vexfs("dump a.img").refused(1, &["1 blocks of the tree"]);
            assert!(dump.out.contains(&format!("block {block}: has a wrong checksum")));
            lab.vexfs("ls -lR a.img")
                .refused(1, &["damaged", &format!("block {block}"), "fsck.vexfs"]);
            lab.flip("a.img", block * 4096 + at);
        }
    }
    lab.fsck("a.img").ok();
}

#[test]
fn what_can_be_read_of_a_damaged_image_is_copied_out() {
    let lab = filled();
    let dump = lab.vexfs("dump --tree --json a.img").ok().out;
    let mut best = 0;
    for block in numbers(&dump, "node") {
        lab.flip("a.img", block * 4096 + 200);
        let out = format!("out{block}");
        let run = lab.vexfs(&format!("get a.img / {out}"));
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.err.contains("damaged"), "{run:?}");
        let found = lab.path(&out).join("tree").read_dir().into_iter().flatten();
        let mut count = 0;
        for entry in found.map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let expected = format!("contents of {}", &name["file".len()..]);
            assert_eq!(std::fs::read_to_string(entry.path()).unwrap(), expected);
            count += 1;
        }
        assert!(count < 200, "block {block} was damaged in vain");
        best = best.max(count);
        lab.flip("a.img", block * 4096 + 200);
    }
    assert!(best > 100, "at most {best} files were copied out");
}

#[test]
fn a_damaged_bitmap_is_4_and_stops_writing() {
    let lab = filled();
    let dump = lab.vexfs("dump --tree --json a.img").ok().out;
    let bitmaps = numbers(&dump, "bitmap");
    assert_eq!(bitmaps.len(), 1);
    lab.flip("a.img", bitmaps[0] * 4096 + 4095);
    let run = lab.fsck("a.img");
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.out.contains("bitmap"), "{run:?}");
    let before = lab.bytes("a.img");
    lab.vexfs("put a.img tree again").refused(1, &["a.img:", "bitmap"]);
    assert!(lab.bytes("a.img") == before);
    assert_eq!(lab.vexfs("cat a.img tree/file7").ok().out, "contents of 7");
}

#[test]
fn a_damaged_superblock_is_served_by_its_backup() {
    for at in [1024 + 100, 33 * 4096 + 100, 4095 * 4096 + 100] {
        let lab = filled();
        lab.flip("a.img", at);
        let run = lab.fsck("a.img");
        assert_eq!(run.code, 4, "{run:?}");
        assert!(run.out.contains(&format!("block {}: this copy", at / 4096)), "{run:?}");
        assert_eq!(lab.vexfs("cat a.img tree/file7").ok().out, "contents of 7");
        assert_eq!(lab.vexfs("ls a.img").ok().out, "tree\n");
        assert!(lab.vexfs("dump a.img").ok().out.contains("label:          test"));
    }
    let lab = filled();
    for at in [1024 + 100, 33 * 4096 + 100, 4095 * 4096 + 100] {
        lab.flip("a.img", at);
    }
    let words = ["a.img: damaged", "superblock", "fsck.vexfs", "vexfs get"];
    lab.fsck("a.img").refused(4, &words);
    for command in ["ls a.img", "dump a.img", "put a.img tree again"] {
        let run = lab.vexfs(command).refused(1, &words);
        assert!(!run.err.contains("mkfs") && !run.err.contains("format"), "{run:?}");
    }
    lab.mkfs("a.img").refused(1, &["damaged VexFS", "--force"]);
}

/// The dump chose the record with the highest generation by itself, even one that no mount uses.
#[test]
fn a_dump_shows_the_tree_that_a_mount_would_show() {
    let lab = filled();
    let file = File::options().read(true).write(true).open(lab.path("a.img")).unwrap();
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 3 * 4096).unwrap();
    let mut record = RootRecord::read_from_bytes(&sector).unwrap();
    assert_eq!(record.generation.get(), 2);
    record.generation = U64::new(30);
    record.tree.block = U64::new(40);
    // Generation 30 belongs into another slot.
    file.write_all_at(record.sealed().as_bytes(), 10 * 4096).unwrap();
    let dump = lab.vexfs("dump --tree a.img").ok().out;
    assert!(dump.contains("root ring: 3 of 32") && dump.contains("generation 30"), "{dump}");
    assert!(dump.contains("tree of generation 2\n"), "{dump}");
}

#[test]
fn without_the_newest_root_the_one_before_counts() {
    let lab = filled();
    lab.flip("a.img", (1 + 2) * 4096 + 40);
    assert!(lab.fsck("a.img").ok().out.ends_with("generation 1\n"));
    assert_eq!(lab.vexfs("ls a.img").ok().out, "");
    lab.flip("a.img", (1 + 1) * 4096 + 40);
    lab.fsck("a.img").refused(4, &["no valid root record", "restore it from a copy"]);
    lab.vexfs("ls a.img").refused(1, &["no valid root record"]);
}

#[test]
fn what_is_no_vexfs_is_8() {
    let lab = Lab::new();
    lab.write("text", "only words\n".repeat(10_000).as_bytes());
    lab.write("empty", b"");
    for name in ["text", "empty"] {
        let run = lab.fsck(name).refused(8, &[name, "no VexFS filesystem", "check the name"]);
        assert!(!run.err.contains("mkfs") && !run.err.contains("format"), "{run:?}");
        for command in ["ls", "stat", "dump"] {
            lab.vexfs(&format!("{command} {name}")).refused(1, &[name, "no VexFS filesystem"]);
        }
        lab.vexfs(&format!("put {name} text /")).refused(1, &[name, "no VexFS filesystem"]);
    }
    lab.fsck("missing").refused(8, &["missing: cannot be opened: no such file"]);
    lab.fsck(".").refused(8, &["is a directory"]);
    for wrong in ["", "-x a.img", "a.img b.img"] {
        let run = lab.run(common::FSCK, wrong.split_whitespace());
        assert_eq!(run.code, 16, "{run:?}");
    }
    lab.fsck("--help").ok();
}

#[test]
fn a_truncated_image_says_what_is_missing() {
    let lab = filled();
    let file = File::options().write(true).open(lab.path("a.img")).unwrap();
    file.set_len(10_000_000).unwrap();
    let words = ["a.img: truncated", "16777216 bytes", "10000000", "copy it again"];
    lab.fsck("a.img").refused(4, &words);
    lab.vexfs("ls a.img").refused(1, &words);
    lab.vexfs("put a.img tree").refused(1, &words);
    lab.mkfs("a.img").refused(1, &["cut off", "--force"]);
    assert_eq!(lab.path("a.img").metadata().unwrap().len(), 10_000_000);
}

/// Changes every copy of the superblock.
fn patch(lab: &Lab, change: impl Fn(&mut Superblock)) {
    let file = File::options().read(true).write(true).open(lab.path("a.img")).unwrap();
    for at in [1024, 33 * 4096, 4095 * 4096] {
        let mut sector = [0; 512];
        file.read_exact_at(&mut sector, at).unwrap();
        let mut superblock = Superblock::read_from_bytes(&sector).unwrap();
        change(&mut superblock);
        file.write_all_at(superblock.sealed().as_bytes(), at).unwrap();
    }
}

#[test]
fn unknown_features_and_versions_are_refused_by_name() {
    let lab = filled();
    patch(&lab, |s| s.incompat = U64::new(1 | 1 << 40));
    lab.fsck("a.img").refused(8, &["a.img: unknown incompat feature bit 40", "later version"]);
    lab.vexfs("ls a.img").refused(1, &["unknown incompat feature bit 40"]);
    lab.mkfs("a.img").refused(1, &["later version", "--force"]);
    patch(&lab, |s| s.incompat = U64::new(1));
    patch(&lab, |s| s.ro_compat = U64::new(1 << 7));
    assert_eq!(lab.vexfs("ls a.img").ok().out, "tree\n");
    lab.vexfs("put a.img tree again")
        .refused(1, &["unknown ro_compat feature bit 7", "written to"]);
    lab.fsck("a.img").ok();
    patch(&lab, |s| s.ro_compat = U64::new(0));
    patch(&lab, |s| s.compat = U64::new(1 << 9));
    lab.vexfs("put a.img tree again").ok();
    patch(&lab, |s| s.version = U32::new(2));
    lab.fsck("a.img").refused(8, &["format version 2", "update"]);
}

#[test]
fn an_image_in_use_is_refused_and_with_n_looked_at() {
    let lab = filled();
    let held = hold(&lab.path("a.img"), true);
    lab.fsck("a.img").refused(8, &["a.img: in use", "has it locked", "stop what serves it"]);
    let run = lab.fsck("-n a.img").ok();
    assert!(run.err.contains("warning: in use") && run.out.starts_with("clean: "), "{run:?}");
    for command in ["ls a.img", "stat a.img", "cat a.img tree/file1", "get a.img /", "dump a.img"] {
        lab.vexfs(command).refused(1, &["a.img: in use"]);
    }
    let before = lab.bytes("a.img");
    lab.vexfs("put a.img tree again").refused(1, &["a.img: in use"]);
    assert!(lab.bytes("a.img") == before);
    drop(held);
    // A reader is in the way of a writer only.
    let _held = hold(&lab.path("a.img"), false);
    lab.fsck("a.img").ok();
    lab.vexfs("ls a.img").ok();
    lab.vexfs("put a.img tree again").refused(1, &["a.img: in use"]);
}
