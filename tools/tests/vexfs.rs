// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs`: files that go into an image come out again with the same bytes and attributes.

mod common;

use common::{FSCK, Lab, MKFS, VEXFS, allocated};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use vexfs::{Ino, OpenOptions, VectorLayout, Volume};
use vexfs_image::Access;
use vexfs_tools::image;
use vexfs_tools::put::host_xattrs;

/// Describes everything at and below `top`, by path. Hard links are described by the first of their
/// names.
fn portrait(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    let mut stack = vec![top.to_path_buf()];
    while let Some(path) = stack.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(top).unwrap().display().to_string();
        let contents = if metadata.is_dir() {
            stack.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            stack.sort_by(|a, b| b.cmp(a));
            String::new()
        } else if metadata.is_symlink() {
            path.read_link().unwrap().display().to_string()
        } else if metadata.is_file() {
            let data = std::fs::read(&path).unwrap();
            format!("{} bytes, crc {:08x}", data.len(), vexfs_format::crc32c(&data))
        } else {
            format!("device {}", metadata.rdev())
        };
        let twin = names.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
        let text = format!(
            "{:o} {}:{} {}.{:09} {contents} {:?} {}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            host_xattrs(&path).unwrap(),
            if metadata.is_dir() { String::new() } else { twin }
        );
        found.insert(name, text);
    }
    found
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with some of everything.
fn make_tree(lab: &Lab) {
    let top = lab.path("tree");
    std::fs::create_dir_all(top.join("sub/deep")).unwrap();
    std::fs::create_dir(top.join("empty")).unwrap();
    let mut seed = 1u32;
    for (name, len) in
        [("zero", 0), ("one", 1), ("block", 4096), ("odd", 70_001), ("sub/big", 3_500_000)]
    {
        let data: Vec<u8> = (0..len)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        std::fs::write(top.join(name), data).unwrap();
    }
    for n in 0..500 {
        std::fs::write(top.join(format!("sub/deep/file {n}")), vec![n as u8; n * 13]).unwrap();
    }
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 20_000_001).unwrap();
    std::fs::hard_link(top.join("odd"), top.join("sub/odd too")).unwrap();
    symlink("../odd", top.join("sub/link")).unwrap();
    symlink("x".repeat(3000), top.join("long link")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    std::fs::hard_link(top.join("dangling"), top.join("dangling too")).unwrap();
    std::fs::write(top.join("sub/\u{fc}ml\u{e4}ut \u{1F600}"), "name").unwrap();
    std::fs::write(top.join("n".repeat(255)), "long name").unwrap();
    rustix::fs::mknodat(
        CWD,
        top.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    for (name, value) in [("user.small", vec![1u8, 2, 3]), ("user.text", b"words".repeat(100))] {
        rustix::fs::lsetxattr(top.join("odd"), name, &value, XattrFlags::empty()).unwrap();
        rustix::fs::lsetxattr(top.join("sub"), name, &value, XattrFlags::empty()).unwrap();
    }
    set_mode(&top.join("one"), 0o4751);
    set_mode(&top.join("block"), 0o400);
    set_mode(&top.join("empty"), 0o1777);
    set_mode(&top.join("sub/deep"), 0o2700);
    for (name, seconds, nanos) in
        [("odd", -5, 7), ("dangling", 1_000_000_000, 999_999_999), ("sub", 5_000_000_000, 1)]
    {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, top.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

#[test]
fn a_tree_goes_in_and_comes_out_the_same() {
    let lab = Lab::with_image("256M");
    make_tree(&lab);
    lab.vexfs("put a.img tree").ok();
    lab.fsck("a.img").ok();
    lab.vexfs("get a.img tree out").ok();
    let (before, after) = (portrait(&lab.path("tree")), portrait(&lab.path("out")));
    assert!(before.len() > 515, "{}", before.len());
    for (name, text) in &before {
        assert_eq!(after.get(name), Some(text), "{name}");
    }
    assert_eq!(before.len(), after.len());
    // The hole stays a hole, in the image and in the copy.
    assert!(allocated(&lab.path("a.img")) < 32 << 20);
    assert!(allocated(&lab.path("out/sparse")) < 1 << 20);
    // Copying it again over itself, in both directions, changes nothing.
    lab.vexfs("put a.img tree").ok();
    lab.fsck("a.img").ok();
    lab.vexfs("get a.img tree/. out").ok();
    assert_eq!(portrait(&lab.path("out/sub")), portrait(&lab.path("tree/sub")));
    lab.vexfs("get a.img / all").ok();
    assert_eq!(portrait(&lab.path("all/tree")), before);
}

#[test]
fn destinations_are_chosen_as_cp_does() {
    let lab = Lab::with_image("16M");
    std::fs::create_dir_all(lab.path("d/e")).unwrap();
    lab.write("d/e/f", b"f");
    lab.write("x", b"x");
    lab.vexfs("put a.img d").ok();
    lab.vexfs("put a.img d/. /").ok();
    lab.vexfs("put a.img d /new").ok();
    lab.vexfs("put a.img x y").ok();
    lab.vexfs("put a.img x d x new").ok();
    let listing = lab.vexfs("ls -R a.img").ok().out;
    assert_eq!(
        listing,
        "/:\nd\ne\nnew\ny\n\n/d:\ne\n\n/d/e:\nf\n\n/e:\nf\n\n/new:\nd\ne\nx\n\n/new/d:\ne\n\n/new/d/e:\nf\n\n/new/e:\nf\n"
    );
    lab.vexfs("put a.img x d y").refused(1, &["a.img:/y: not a directory"]);
    lab.vexfs("put a.img x missing/x").refused(1, &["a.img:/missing: no such file"]);
    lab.vexfs("put a.img x d missing").refused(1, &["a.img:/missing: no such file"]);
    lab.vexfs("put a.img x missing/").refused(1, &["a.img:/missing/: no such file"]);
    lab.vexfs("put a.img x ../up").refused(1, &["'..'"]);
    lab.vexfs("put a.img d y").refused(1, &["a.img:/y: not a directory"]);
    lab.vexfs("put a.img nothing y").refused(1, &["nothing: cannot be read: no such file"]);
    lab.write("e", b"a file where the image has a directory");
    lab.vexfs("put a.img e /").refused(1, &["a.img:/e: is a directory"]);
    assert_eq!(lab.vexfs("ls -R a.img").ok().out, listing);
    lab.vexfs("get a.img y z").ok();
    assert_eq!(lab.bytes("z"), b"x");
    lab.vexfs("get a.img /new/e").ok_or_exists(&lab);
    lab.vexfs("get a.img y new nowhere").refused(1, &["nowhere: is no directory"]);
    lab.vexfs("get a.img gone z").refused(1, &["a.img:/gone: no such file"]);
    assert_eq!(lab.bytes("z"), b"x");
    lab.fsck("a.img").ok();
}

trait OrExists {
    fn ok_or_exists(self, lab: &Lab);
}

impl OrExists for common::Run {
    /// There is a file with the name of the directory `e`; it is not overwritten.
    fn ok_or_exists(self, lab: &Lab) {
        self.refused(1, &["e: exists and is no directory"]);
        assert!(lab.path("e").is_file());
    }
}

#[test]
fn nothing_is_written_through_a_link_of_the_image() {
    let lab = Lab::with_image("4M");
    std::fs::create_dir_all(lab.path("outside")).unwrap();
    std::fs::create_dir_all(lab.path("tree/dir")).unwrap();
    lab.write("tree/dir/file", b"new");
    lab.vexfs("put a.img tree").ok();
    std::fs::create_dir(lab.path("out")).unwrap();
    symlink("../outside", lab.path("out/dir")).unwrap();
    lab.vexfs("get a.img tree/. out").refused(1, &["out/dir: exists and is no directory"]);
    assert_eq!(lab.path("outside").read_dir().unwrap().count(), 0);
}

#[test]
fn ls_stat_and_cat_tell_what_is_there() {
    let lab = Lab::with_image("16M");
    lab.write("f", b"hello\n");
    rustix::fs::lsetxattr(lab.path("f"), "user.k", b"v", XattrFlags::empty()).unwrap();
    symlink("target", lab.path("l")).unwrap();
    set_mode(&lab.path("f"), 0o2640);
    lab.vexfs("put a.img f l /").ok();
    assert_eq!(lab.vexfs("ls a.img").ok().out, "f\nl\n");
    let long = lab.vexfs("ls -l a.img").ok().out;
    assert!(long.starts_with("-rw-r-S--- 1 ") && long.contains(" 6 20"), "{long}");
    assert!(long.contains("lrwxrwxrwx 1 ") && long.ends_with(" l -> target\n"), "{long}");
    let stat = lab.vexfs("stat a.img f l /").ok().out;
    for words in [
        "path:      f\n",
        "mode:      2640 (-rw-r-S---)",
        "size:      6 bytes",
        "blocks:    1 of 4096 bytes in 1 pieces",
        "attribute: user.k=\"v\"",
        "target:    target\n",
        "type:      directory",
        "entries:   2",
    ] {
        assert!(stat.contains(words), "'{words}' is missing: {stat}");
    }
    assert_eq!(lab.vexfs("cat a.img f /f").ok().out, "hello\nhello\n");
    lab.vexfs("cat a.img /").refused(1, &["a.img:/: is a directory"]);
    lab.vexfs("cat a.img l").refused(1, &["a.img:/l: not a regular file"]);
    lab.vexfs("cat a.img no").refused(1, &["a.img:/no: no such file"]);
    lab.vexfs("ls a.img f/x").refused(1, &["a.img:/f/x: not a directory"]);
    lab.vexfs("stat a.img f/").refused(1, &["a.img:/f/: not a directory"]);
    for wrong in ["cat a.img", "put a.img", "get a.img", "frob a.img", "dump", ""] {
        let run = lab.run(VEXFS, wrong.split_whitespace());
        assert_eq!(run.code, 2, "{wrong}: {run:?}");
    }
}

#[test]
fn a_vector_layout_is_shown_inherited_and_kept() {
    let lab = Lab::with_image("16M");
    std::fs::create_dir(lab.path("corpus")).unwrap();
    lab.vexfs("put a.img corpus").ok();
    let text = "type=f32,dim=4,metric=cosine";
    lab.with_volume("a.img", |volume| {
        let layout = VectorLayout::parse(text).unwrap();
        let dir = volume.resolve(|v| v.lookup(Ino::ROOT, b"corpus")).unwrap().0;
        let now = image::now();
        volume.run(now, |v| v.set_vector(dir, Some(&layout), now)).unwrap();
        volume.commit(now).unwrap();
    });
    lab.write("v", &[0; 160]);
    lab.vexfs("put a.img v /corpus").ok();
    let line = format!("vector:    {text}\n");
    assert!(lab.vexfs("stat a.img /corpus").ok().out.contains(&line));
    assert!(lab.vexfs("stat a.img /corpus/v").ok().out.contains(&line));
    // A file that is replaced keeps its own layout, where none is inherited.
    lab.vexfs("put a.img v /v").ok();
    assert!(!lab.vexfs("stat a.img /v").ok().out.contains("vector:"));
    lab.with_volume("a.img", |volume| {
        let now = image::now();
        volume
            .run(now, |v| {
                v.rename(Ino::ROOT, b"v", Ino::ROOT, b"w", vexfs::RenameFlags::default(), now)
            })
            .unwrap();
        let dir = volume.resolve(|v| v.lookup(Ino::ROOT, b"corpus")).unwrap().0;
        volume
            .run(now, |v| v.rename(dir, b"v", Ino::ROOT, b"v", vexfs::RenameFlags::default(), now))
            .unwrap();
        volume.commit(now).unwrap();
    });
    lab.vexfs("put a.img v /v").ok();
    assert!(lab.vexfs("stat a.img /v").ok().out.contains(&line));
    // Out of the image and in again, under the name that other filesystems take.
    for path in ["v", "corpus"] {
        lab.vexfs(&format!("get a.img /{path} out-{path}")).ok();
        let mut value = [0; 64];
        let copy = lab.path(format!("out-{path}"));
        let len = rustix::fs::lgetxattr(copy, "user.vexfs.vector", &mut value).unwrap();
        assert_eq!(&value[..len], text.as_bytes());
        lab.vexfs(&format!("put a.img out-{path} /")).ok();
        assert!(lab.vexfs(&format!("stat a.img /out-{path}")).ok().out.contains(&line));
    }
    lab.fsck("a.img").ok();
}

#[test]
fn a_full_image_says_so_and_stays_whole() {
    let lab = Lab::with_image("4M");
    lab.write("keep", b"kept");
    lab.vexfs("put a.img keep").ok();
    lab.write("large", &vec![7; 8 << 20]);
    let before = lab.bytes("a.img");
    lab.vexfs("put a.img large").refused(1, &["a.img: no space left: 8 MiB are needed, 3."]);
    assert!(lab.bytes("a.img") == before, "a refusal changed the image");
    assert_eq!(lab.vexfs("cat a.img keep").ok().out, "kept");
    lab.write("small", &vec![7; 1 << 20]);
    lab.vexfs("put a.img small").ok();
    // The contents would fit, but not so many files.
    std::fs::create_dir(lab.path("many")).unwrap();
    for n in 0..6000 {
        lab.write(&format!("many/{n:0>200}"), b"");
    }
    lab.vexfs("put a.img many").refused(1, &["no space left"]);
    lab.fsck("a.img").ok();
    lab.vexfs("put a.img small").ok();
    assert_eq!(lab.vexfs("cat a.img keep").ok().out, "kept");
    lab.fsck("a.img").ok();
}

#[test]
fn what_a_crash_left_behind_is_cleared_by_the_next_writer() {
    let lab = Lab::with_image("4M");
    lab.write("f", &vec![7; 1 << 20]);
    lab.vexfs("put a.img f").ok();
    lab.with_volume("a.img", |volume| {
        let now = image::now();
        volume.run(now, |v| v.unlink(Ino::ROOT, b"f", now)).unwrap();
        volume.commit(now).unwrap();
        assert!(volume.resolve(|v| v.next_orphan(Ino::ROOT)).unwrap().is_some());
    });
    lab.write("g", b"g");
    lab.vexfs("put a.img g").ok();
    let device = image::device(&lab.path("a.img"), Access::Read).unwrap();
    let volume = Volume::open(device, &OpenOptions::default()).unwrap();
    assert_eq!(volume.statfs().inodes, 2);
}

#[test]
fn dump_speaks_text_and_json() {
    let lab = Lab::with_image("16M");
    lab.write("f", b"hello");
    lab.vexfs("put a.img f").ok();
    let text = lab.vexfs("dump a.img").ok().out;
    for words in ["label:          test", "root ring: 2 of 32", "generation 2", "dirent: 1 items"] {
        assert!(text.contains(words), "'{words}' is missing: {text}");
    }
    let tree = lab.vexfs("dump --tree a.img").ok().out;
    assert!(tree.contains("ino 2, name f, type 8"), "{tree}");
    let json: serde_json::Value =
        serde_json::from_str(&lab.vexfs("dump --json a.img").ok().out).unwrap();
    assert_eq!(json["superblock"]["label"], "test");
    assert_eq!(json["roots"].as_array().unwrap().len(), 2);
    assert_eq!(json["tree"]["items"]["inode"]["items"], 2);
    let lines = lab.vexfs("dump --tree --json a.img").ok().out;
    let objects: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(objects.iter().any(|o| o["kind"] == "dirent" && o["item"]["name"] == "f"));
    assert!(objects.iter().any(|o| o["kind"] == "extent" && o["item"]["len"] == 1));
}

#[test]
fn help_teaches_and_the_manual_and_completions_are_made() {
    let lab = Lab::new();
    for (program, name) in [(MKFS, "mkfs.vexfs"), (FSCK, "fsck.vexfs"), (VEXFS, "vexfs")] {
        let help = lab.run(program, ["--help"]).ok();
        assert!(help.out.contains("Example") && help.out.contains("Exit code"), "{help:?}");
        assert!(!help.out.contains("--generate"), "{help:?}");
        assert_eq!(lab.run(program, ["--version"]).ok().out.split(' ').next(), Some(name));
        let page = lab.run(program, ["--generate", "man"]).ok().out;
        assert!(page.contains(".TH ") && page.contains(".SH EXAMPLES\n"), "{page}");
        assert!(help.out.contains(&format!("Usage: {name} ")), "{help:?}");
        for shell in ["bash", "zsh", "fish"] {
            let script = lab.run(program, ["--generate", shell]).ok().out;
            assert!(script.contains(name), "{script}");
        }
        assert_ne!(lab.run(program, ["--generate", "tea"]).code, 0);
        assert_ne!(lab.run(program, ["--generate", "man", "x"]).code, 0);
    }
}
