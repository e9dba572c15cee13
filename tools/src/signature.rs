// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What else may be on a device: the signatures of filesystems, partition tables and containers.
//!
//! Only both ends are searched, as `wipefs` does. A signature is a reason to refuse until the user
//! insists, not a proof. Whether it is VexFS is the engine's to say.

use uuid::Uuid;
use vexfs::{Device, DeviceError, Error, read_superblock};
use vexfs_image::FileDevice;

/// Bytes that are searched at either end.
pub const END_BYTES: u64 = 1 << 20;

/// Byte offset from the start, magic, name.
const MAGICS: &[(usize, &[u8], &str)] = &[
    (0, b"XFSB", "an XFS filesystem"),
    (0, b"LUKS\xba\xbe", "a LUKS container"),
    (0x4000, b"SKUL\xba\xbe", "a LUKS container"),
    (0, b"hsqs", "a squashfs filesystem"),
    (0, b"-FVE-FS-", "a BitLocker container"),
    (3, b"NTFS    ", "an NTFS filesystem"),
    (3, b"EXFAT   ", "an exFAT filesystem"),
    (54, b"FAT", "a FAT filesystem"),
    (82, b"FAT32", "a FAT filesystem"),
    (24, b"LVM2 001", "an LVM physical volume"),
    (536, b"LVM2 001", "an LVM physical volume"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS filesystem"),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS filesystem"),
    (4096, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "a bcachefs filesystem"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "a bcache or bcachefs device"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of an MD RAID"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of an MD RAID"),
    (4086, b"SWAPSPACE2", "swap space"),
    (8182, b"SWAPSPACE2", "swap space"),
    (16_374, b"SWAPSPACE2", "swap space"),
    (65_526, b"SWAPSPACE2", "swap space"),
    (32_769, b"CD001", "an ISO 9660 filesystem"),
    (32_768, b"JFS1", "a JFS filesystem"),
    (65_588, b"ReIsEr", "a reiserfs filesystem"),
];

/// Byte offset from the end, magic, name.
const MAGICS_AT_END: &[(usize, &[u8], &str)] =
    &[(512, b"EFI PART", "a GPT partition table"), (4096, b"EFI PART", "a GPT partition table")];

const ZFS_MAGIC: u64 = 0x00ba_b10c;
/// Where the uberblocks lie in a ZFS label.
const ZFS_UBERBLOCKS: std::ops::Range<usize> = 131_072..262_144;
const ZFS_LABEL_BYTES: usize = 262_144;

/// What was found on `device`: each a phrase such as `an ext2/3/4 filesystem 'home'`.
///
/// # Errors
/// The device's.
pub fn find(device: &FileDevice) -> Result<Vec<String>, DeviceError> {
    let mut found = Vec::new();
    let bytes = device.len_bytes();
    let mut start = vec![0; END_BYTES.min(bytes) as usize];
    device.read(0, &mut start)?;
    let mut end = vec![0; END_BYTES.min(bytes) as usize];
    device.read(bytes - end.len() as u64, &mut end)?;
    found.extend(vexfs(device)?);
    found.extend(with_names(&start));
    let has = |at: usize, magic: &[u8]| start.get(at..at + magic.len()) == Some(magic);
    for (at, magic, name) in MAGICS {
        if has(*at, magic) {
            found.push((*name).to_owned());
        }
    }
    for (from_end, magic, name) in MAGICS_AT_END {
        let at = end.len().checked_sub(*from_end);
        if at.is_some_and(|at| end.get(at..at + magic.len()) == Some(magic)) {
            found.push((*name).to_owned());
        }
    }
    let from_end = |labels: usize| end.len().saturating_sub(labels * ZFS_LABEL_BYTES);
    let labels = [(0, &start), (ZFS_LABEL_BYTES, &start), (from_end(2), &end), (from_end(1), &end)];
    if labels.into_iter().any(|(base, data)| zfs(data.get(base..).unwrap_or_default())) {
        found.push("a ZFS pool member".to_owned());
    }
    if found.is_empty() && mbr(&start) {
        found.push("an MBR partition table".to_owned());
    }
    found.dedup();
    Ok(found)
}

fn vexfs(device: &FileDevice) -> Result<Option<String>, DeviceError> {
    Ok(Some(match read_superblock(device) {
        Ok(superblock) => {
            let name = named(&superblock.label);
            let uuid = Uuid::from_bytes(superblock.uuid);
            format!("a VexFS filesystem{name} with UUID {uuid}")
        }
        Err(Error::NotVexfs) => return Ok(None),
        Err(Error::Device(error)) => return Err(error),
        Err(Error::Truncated { .. }) => "a VexFS filesystem that was cut off".to_owned(),
        Err(Error::UnknownIncompat(_) | Error::UnknownVersion(_)) => {
            "a VexFS filesystem of a later version".to_owned()
        }
        Err(_) => "a damaged VexFS filesystem".to_owned(),
    }))
}

/// ` 'label'`, or nothing for an empty one.
fn named(label: &[u8]) -> String {
    let len = label.iter().position(|byte| *byte == 0).unwrap_or(label.len());
    match label.get(..len) {
        Some([]) | None => String::new(),
        Some(label) => format!(" '{}'", String::from_utf8_lossy(label).escape_debug()),
    }
}

/// The filesystems whose label is shown.
fn with_names(start: &[u8]) -> Vec<String> {
    let label = |at: usize, len: usize| named(start.get(at..at + len).unwrap_or_default());
    let has = |at: usize, magic: &[u8]| start.get(at..at + magic.len()) == Some(magic);
    let mut found = Vec::new();
    if has(1080, b"\x53\xef") {
        found.push(format!("an ext2/3/4 filesystem{}", label(1144, 16)));
    }
    if has(65_600, b"_BHRfS_M") {
        found.push(format!("a btrfs filesystem{}", label(65_835, 256)));
    }
    found
}

fn zfs(label: &[u8]) -> bool {
    let Some(uberblocks) = label.get(ZFS_UBERBLOCKS) else { return false };
    uberblocks.chunks(1024).any(|block| {
        block.first_chunk::<8>().is_some_and(|magic| {
            u64::from_le_bytes(*magic) == ZFS_MAGIC || u64::from_be_bytes(*magic) == ZFS_MAGIC
        })
    })
}

/// Whether it begins with a boot sector whose partition entries are all possible and not all unused.
fn mbr(start: &[u8]) -> bool {
    if start.get(510..512) != Some(b"\x55\xaa") {
        return false;
    }
    let entries = start.get(446..510).unwrap_or_default().chunks(16);
    let possible = |entry: &[u8]| matches!(entry.first(), Some(0 | 0x80));
    let used = |entry: &[u8]| entry.get(4).is_some_and(|kind| *kind != 0);
    entries.clone().all(possible) && entries.clone().any(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn found(bytes: u64, pieces: &[(u64, &[u8])]) -> Vec<String> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        for (at, data) in pieces {
            file.write_all_at(data, *at).unwrap();
        }
        find(&FileDevice::new(file).unwrap()).unwrap()
    }

    #[test]
    fn each_signature_is_recognised() {
        assert!(found(4 << 20, &[]).is_empty());
        assert!(found(0, &[]).is_empty());
        for (at, magic, name) in MAGICS {
            assert_eq!(found(4 << 20, &[(*at as u64, magic)]), [*name], "{at}");
        }
        for (from_end, magic, name) in MAGICS_AT_END {
            assert_eq!(found(4 << 20, &[((4 << 20) - *from_end as u64, magic)]), [*name]);
        }
        let ext = [(1080, &b"\x53\xef"[..]), (1144, b"home")];
        assert_eq!(found(4 << 20, &ext), ["an ext2/3/4 filesystem 'home'"]);
        assert_eq!(found(4 << 20, &[(65_600, b"_BHRfS_M")]), ["a btrfs filesystem"]);
        let magic = ZFS_MAGIC.to_be_bytes();
        for label in [0, 262_144, (4 << 20) - 524_288, (4 << 20) - 262_144] {
            assert_eq!(found(4 << 20, &[(label + 135_168, &magic)]), ["a ZFS pool member"]);
        }
        let mbr = [(450, &b"\x83"[..]), (510, b"\x55\xaa")];
        assert_eq!(found(4 << 20, &mbr), ["an MBR partition table"]);
        // A boot sector without a partition is just a boot sector.
        assert!(found(4 << 20, &[(510, b"\x55\xaa")]).is_empty());
    }
}
