// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `mkfs.vexfs`: what it makes, and what it refuses.

mod common;

use common::{Lab, allocated, hold};
use std::fs::File;
use std::os::unix::fs::FileExt;

const UUID: &str = "0d7fc6f2-9bd5-4f5e-8a3d-0123456789ab";

#[test]
fn a_new_image_is_sparse_and_clean_and_is_described() {
    let lab = Lab::new();
    let made = lab.mkfs(&format!("-L corpus -U {UUID} big.img 1T")).ok();
    assert_eq!(
        made.out,
        format!(
            "label:       corpus\nUUID:        {UUID}\nsize:        1 TiB (1099511627776 bytes)\n\
             block size:  4096\nblocks:      268435456\n"
        )
    );
    assert_eq!(made.err, "");
    let path = lab.path("big.img");
    assert_eq!(path.metadata().unwrap().len(), 1 << 40);
    assert!(allocated(&path) < 2 << 20, "{}", allocated(&path));
    let checked = lab.fsck("big.img").ok();
    assert_eq!(checked.out, "clean: 1 inodes, 37 blocks used of 268435456, generation 1\n");
}

#[test]
fn every_block_size_makes_a_filesystem_that_works() {
    for bytes in ["4096", "8192", "16384", "32768", "65536"] {
        let lab = Lab::new();
        let made = lab.mkfs(&format!("-b {bytes} a.img 64M")).ok();
        assert_eq!(made.err.contains("mounts only blocks of 4096"), bytes != "4096", "{made:?}");
        lab.write("file", &vec![7; 100_000]);
        lab.vexfs("put a.img file").ok();
        assert_eq!(lab.vexfs("cat a.img file").ok().out, "\u{7}".repeat(100_000));
        lab.fsck("a.img").ok();
    }
}

#[test]
fn what_exists_is_formatted_as_a_whole_in_part_or_grows() {
    let lab = Lab::new();
    File::create(lab.path("a.img")).unwrap().set_len(8 << 20).unwrap();
    assert!(lab.mkfs("a.img").ok().out.contains("blocks:      2048"));
    assert!(lab.mkfs("--force a.img 4M").ok().out.contains("blocks:      1024"));
    assert_eq!(lab.path("a.img").metadata().unwrap().len(), 8 << 20);
    assert!(lab.mkfs("--force a.img 32M").ok().out.contains("blocks:      8192"));
    assert_eq!(lab.path("a.img").metadata().unwrap().len(), 32 << 20);
    lab.fsck("a.img").ok();
}

#[test]
fn a_filesystem_is_overwritten_by_force_only_and_gives_its_blocks_back() {
    let lab = Lab::new();
    lab.mkfs(&format!("-L old -U {UUID} a.img 32M")).ok();
    lab.write("file", &vec![7; 8 << 20]);
    lab.vexfs("put a.img file").ok();
    let before = lab.bytes("a.img");
    lab.mkfs("-L new a.img").refused(1, &["mkfs.vexfs: a.img: ", "'old'", UUID, "--force"]);
    assert!(lab.bytes("a.img") == before, "a refusal changed the image");
    lab.mkfs("-L new --force a.img").ok();
    assert!(allocated(&lab.path("a.img")) < 1 << 20);
    assert_eq!(lab.vexfs("ls a.img").ok().out, "");
}

#[test]
fn other_signatures_are_named_and_do_not_survive_force() {
    let magics: [(u64, &[u8], &str); 8] = [
        (1080, b"\x53\xef", "ext2/3/4"),
        (0, b"XFSB", "XFS"),
        (65_600, b"_BHRfS_M", "btrfs"),
        (4086, b"SWAPSPACE2", "swap"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (512, b"EFI PART", "GPT"),
        (135_168, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0], "ZFS"),
        ((8 << 20) - 512, b"EFI PART", "GPT"),
    ];
    for (at, magic, name) in magics {
        let lab = Lab::new();
        let file = File::create_new(lab.path("disk")).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(magic, at).unwrap();
        let before = lab.bytes("disk");
        lab.mkfs("disk").refused(1, &["disk: holds", name, "--force"]);
        assert!(lab.bytes("disk") == before, "a refusal changed the image");
        lab.mkfs("--force disk").ok();
        lab.mkfs("disk").refused(1, &["holds a VexFS filesystem with UUID"]);
        let again = lab.mkfs("disk");
        assert!(!again.err.contains(name), "{again:?}");
        lab.fsck("disk").ok();
    }
}

#[test]
fn an_image_in_use_is_refused_by_name() {
    let lab = Lab::with_image("4M");
    let before = lab.bytes("a.img");
    for alone in [true, false] {
        let held = hold(&lab.path("a.img"), alone);
        lab.mkfs("--force b.img 4M").ok();
        let own = format!("process {}", std::process::id());
        // --force overwrites contents, but not an image in use: a mounted filesystem would be destroyed.
        for force in ["", "--force "] {
            let made = lab.mkfs(&format!("{force}a.img"));
            made.refused(1, &["a.img: in use", &own, "stop what serves it"]);
        }
        drop(held);
    }
    assert!(lab.bytes("a.img") == before);
    lab.mkfs("--force a.img").ok();
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing_behind() {
    let lab = Lab::new();
    lab.write("empty", b"");
    std::fs::create_dir(lab.path("dir")).unwrap();
    let long = "x".repeat(65);
    for (args, code, words) in [
        ("a.img", 2, &["a.img: does not exist", "mkfs.vexfs a.img 1G"][..]),
        ("empty", 2, &["empty: is empty", "give a size"]),
        ("a.img 1M1", 2, &[]),
        ("a.img 9999999999T", 2, &[]),
        ("-b 512 a.img 1M", 2, &[]),
        ("-b 5000 a.img 1M", 2, &[]),
        ("-U nonsense a.img 1M", 2, &[]),
        ("--frobnicate a.img 1M", 2, &[]),
        ("a.img 512K", 1, &["512 KiB is too small", "1 MiB"]),
        ("-b 65536 a.img 8M", 1, &["8 MiB is too small", "16 MiB"]),
        ("a.img 9E", 1, &["too large"]),
        ("dir 1G", 1, &["dir: is a directory", "image file"]),
        ("/dev/null 1G", 1, &["/dev/null: is a special file"]),
        ("nowhere/a.img 1G", 1, &["nowhere/a.img: cannot be created"]),
        (&format!("-L {long} a.img 1M"), 2, &["at most 64 bytes"]),
    ] {
        let run = lab.mkfs(args);
        if words.is_empty() {
            assert_eq!(run.code, code, "{args}: {run:?}");
        } else {
            run.refused(code, words);
        }
        assert!(!lab.path("a.img").exists(), "{args} left a file behind");
    }
    assert_eq!(lab.path("empty").metadata().unwrap().len(), 0);
    lab.mkfs("empty 100K").refused(1, &["too small"]);
    assert_eq!(lab.path("empty").metadata().unwrap().len(), 0);
}
