// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which images are served, and what is said of those that are not.

use super::*;
use vexfs_format::superblock::SUPER_OFFSET;
use vexfs_format::{BACKUP_FIRST, Superblock};
use vexfs_search::testing::mkfs_options;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

const MIB: u64 = 1 << 20;
/// Blocks of a filesystem that does not fill its image.
const BLOCKS: u64 = 300;

fn image(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

/// A filesystem of `blocks` blocks at the start of the image.
fn format(image: &tempfile::NamedTempFile, blocks: u64) {
    let device = FileDevice::new(image.reopen().unwrap()).unwrap();
    vexfs::mkfs(&device, &mkfs_options(blocks * 4096)).unwrap();
}

/// The bytes at which the copies of the superblock of a filesystem of `blocks` blocks lie.
fn copies(blocks: u64) -> [u64; 3] {
    [SUPER_OFFSET, BACKUP_FIRST * 4096, (blocks - 1) * 4096]
}

/// Inverts a bit in the middle of a superblock.
fn damage(image: &tempfile::NamedTempFile, superblock: u64) {
    let mut byte = [0];
    image.as_file().read_exact_at(&mut byte, superblock + 100).unwrap();
    image.as_file().write_all_at(&[byte[0] ^ 1], superblock + 100).unwrap();
}

/// Changes every copy of the superblock.
fn patch(image: &tempfile::NamedTempFile, blocks: u64, change: impl Fn(&mut Superblock)) {
    for at in copies(blocks) {
        let mut sector = [0; 512];
        image.as_file().read_exact_at(&mut sector, at).unwrap();
        let mut superblock = Superblock::read_from_bytes(&sector).unwrap();
        change(&mut superblock);
        image.as_file().write_all_at(superblock.sealed().as_bytes(), at).unwrap();
    }
}

fn options(path: &Path) -> ImageOptions {
    ImageOptions { path: path.to_owned(), ..ImageOptions::default() }
}

fn raw(path: &Path) -> ImageOptions {
    ImageOptions { raw: true, ..options(path) }
}

fn read_only(path: &Path) -> ImageOptions {
    ImageOptions { read_only: true, ..options(path) }
}

/// The message with which an image is refused. None of them may advise to format it.
fn refusal(options: &ImageOptions) -> String {
    let message = Image::open(options).err().unwrap().to_string();
    assert!(!message.contains("mkfs") && !message.contains("format it"), "{message}");
    message
}

#[test]
fn a_second_writer_is_refused_and_told_who_has_it() {
    let file = image(MIB);
    let first = Image::open(&raw(file.path())).unwrap();
    let error = Image::open(&raw(file.path())).err().unwrap();
    assert!(matches!(error, Error::ImageLocked { .. }), "{error}");
    drop(first);
    Image::open(&raw(file.path())).unwrap();
}

#[test]
fn two_readers_share_an_image() {
    let file = image(MIB);
    let reader = ImageOptions { read_only: true, ..raw(file.path()) };
    let _first = Image::open(&reader).unwrap();
    Image::open(&reader).unwrap();
    assert!(matches!(Image::open(&raw(file.path())), Err(Error::ImageLocked { .. })));
}

#[test]
fn lengths_and_kinds_that_cannot_be_served_are_refused_by_name() {
    let odd = image(MIB + 100);
    let error = refusal(&raw(odd.path()));
    assert!(error.contains("1048676 bytes") && error.contains("512"), "{error}");
    let empty = image(0);
    assert!(matches!(Image::open(&raw(empty.path())), Err(Error::ImageEmpty(_))));
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(Image::open(&raw(directory.path())), Err(Error::ImageKind(_))));
    let missing = directory.path().join("none");
    assert!(matches!(Image::open(&raw(&missing)), Err(Error::Image { .. })));
}

#[test]
fn an_image_that_is_not_vexfs_needs_raw_until_it_is_formatted() {
    let file = image(2 * MIB);
    let error = refusal(&options(file.path()));
    assert!(error.contains("not a VexFS image") && error.contains("--raw"), "{error}");
    assert_eq!(Image::open(&raw(file.path())).unwrap().exposed_bytes(), 2 * MIB);
    format(&file, BLOCKS);
    assert_eq!(Image::open(&options(file.path())).unwrap().exposed_bytes(), BLOCKS * 4096);
    assert_eq!(Image::open(&raw(file.path())).unwrap().exposed_bytes(), 2 * MIB);
}

// One damaged byte, and the user was told to format a filesystem that every other part of VexFS opens
// from its backup.
#[test]
fn an_image_with_a_damaged_superblock_is_served_from_its_backup() {
    let file = image(2 * MIB);
    format(&file, BLOCKS);
    damage(&file, SUPER_OFFSET);
    assert_eq!(Image::open(&options(file.path())).unwrap().exposed_bytes(), BLOCKS * 4096);
    // Erased, as by a partitioning tool.
    file.as_file().write_all_at(&[0; 512], SUPER_OFFSET).unwrap();
    assert_eq!(Image::open(&options(file.path())).unwrap().exposed_bytes(), BLOCKS * 4096);
}

#[test]
fn an_image_without_a_whole_superblock_is_called_damaged() {
    let file = image(2 * MIB);
    format(&file, BLOCKS);
    for at in copies(BLOCKS) {
        damage(&file, at);
    }
    let error = refusal(&options(file.path()));
    for words in ["damaged", "checksum is wrong", "fsck.vexfs", "vexfs get"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    Image::open(&raw(file.path())).unwrap();
}

#[test]
fn a_truncated_filesystem_is_named() {
    let file = image(2 * MIB);
    format(&file, 512);
    file.as_file().set_len(511 * 4096).unwrap();
    let error = refusal(&options(file.path()));
    assert!(error.contains("truncated") && error.contains("copy it again"), "{error}");
}

// They were served, and only the mount was refused.
#[test]
fn unknown_versions_and_features_are_refused_by_name() {
    let file = image(2 * MIB);
    format(&file, BLOCKS);
    patch(&file, BLOCKS, |s| s.version = U32::new(2));
    for options in [options(file.path()), read_only(file.path())] {
        assert!(refusal(&options).contains("format version 2"));
    }
    patch(&file, BLOCKS, |s| s.version = U32::new(1));
    patch(&file, BLOCKS, |s| s.incompat = U64::new(1 | 1 << 40));
    for options in [options(file.path()), read_only(file.path())] {
        assert!(refusal(&options).contains("unknown incompat feature bit 40"));
    }
    Image::open(&raw(file.path())).unwrap();
}

// As a mount does.
#[test]
fn an_unknown_ro_compat_feature_is_served_read_only() {
    let file = image(2 * MIB);
    format(&file, BLOCKS);
    patch(&file, BLOCKS, |s| s.ro_compat = U64::new(1 << 7));
    let error = refusal(&options(file.path()));
    assert!(error.contains("unknown ro_compat feature bit 7"), "{error}");
    assert!(error.contains("--read-only"), "{error}");
    Image::open(&read_only(file.path())).unwrap();
}

/// The daemon of a device on which a `mkfs.vexfs` is under way may die, and must come back.
#[test]
fn an_image_without_a_root_is_served() {
    let file = image(2 * MIB);
    format(&file, BLOCKS);
    file.as_file().write_all_at(&vec![0; 32 * 4096], 4096).unwrap();
    assert_eq!(Image::open(&options(file.path())).unwrap().exposed_bytes(), BLOCKS * 4096);
}

#[test]
fn a_shrunk_or_replaced_image_is_noticed_once() {
    let file = image(MIB);
    let open = Image::open(&raw(file.path())).unwrap();
    assert_eq!(open.check_identity(), None);
    file.as_file().set_len(4096).unwrap();
    assert!(open.check_identity().unwrap().contains("shrunk"));
    assert!(open.lost() && open.check_identity().is_none());

    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("a"), directory.path().join("b"));
    for path in [&path, &other] {
        File::create(path).unwrap().set_len(MIB).unwrap();
    }
    let open = Image::open(&raw(&path)).unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert!(open.check_identity().unwrap().contains("replaced"));
}

// A smaller checkpoint shortens the image behind the device. The image was taken for a shrunk one, and
// every request failed.
#[test]
fn an_image_whose_tail_of_checkpoints_becomes_shorter_is_not_lost() {
    let file = image(2 * MIB);
    format(&file, BLOCKS);
    let open = Image::open(&options(file.path())).unwrap();
    file.as_file().set_len(BLOCKS * 4096 + 8192).unwrap();
    assert_eq!(open.check_identity(), None);
    file.as_file().set_len(BLOCKS * 4096 - 1).unwrap();
    assert!(open.check_identity().unwrap().contains("shrunk"));
}
