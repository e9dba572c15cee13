// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The guest's initramfs, which mounts an overlay in memory over the host's root.
//!
//! It holds busybox, the overlay module and one script. What the guest writes outside its disks and
//! its share is in its memory only.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::kernel::Kernel;
use crate::shell::{Cmd, which};

/// `vexfs.run=` on the kernel command line names the run directory with the second script.
const STAGE_ONE: &str = r#"#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-only OR MIT
b=/bin/busybox
fail() { echo "vexfs-vm: boot failed: $1" >/dev/console; $b sleep 1; $b poweroff -f; }
$b mkdir -p /proc /lower /rw /newroot
$b mount -t proc proc /proc
for word in $($b cat /proc/cmdline); do
  case "$word" in vexfs.run=*) run=${word#vexfs.run=} ;; esac
done
[ ! -e /overlay.ko ] || $b insmod /overlay.ko || fail "the overlay module does not load"
$b mount -t virtiofs -o ro hostroot /lower || fail "the host's root does not mount"
$b mount -t tmpfs -o mode=0755,size=75% tmpfs /rw || fail "no tmpfs"
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /newroot \
  || fail "the overlay does not mount"
$b umount /proc
exec $b switch_root /newroot /bin/sh "$run/init.sh"
fail "the run directory is missing"
"#;

/// Writes the archive for `kernel` to `to`.
pub fn build(kernel: &Kernel, to: &Path) -> Result<()> {
    let busybox = which("busybox").context("busybox is missing: run 'cargo xtask setup'")?;
    let busybox = fs::read(&busybox)
        .with_context(|| format!("cannot read the program {}", busybox.display()))?;
    let mut archive = Archive::default();
    archive.directory("bin");
    archive.directory("dev");
    archive.device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &busybox);
    archive.file("init", 0o755, STAGE_ONE.as_bytes());
    if let Some(module) = overlay_module(kernel) {
        archive.file("overlay.ko", 0o644, &unpacked(&module)?);
    }
    let mut file = fs::File::create(to)
        .with_context(|| format!("cannot create the initramfs {}", to.display()))?;
    file.write_all(&archive.finish()).context("cannot write the initramfs")
}

fn overlay_module(kernel: &Kernel) -> Option<PathBuf> {
    let dir = kernel.modules.join(&kernel.release).join("kernel/fs/overlayfs");
    ["overlay.ko", "overlay.ko.xz"].map(|name| dir.join(name)).into_iter().find(|p| p.is_file())
}

fn unpacked(module: &Path) -> Result<Vec<u8>> {
    if module.extension().is_none_or(|ext| ext != "xz") {
        return fs::read(module).with_context(|| format!("cannot read {}", module.display()));
    }
    Cmd::new("xz").arg("-dc").arg(module).bytes()
}

/// A cpio archive in the "newc" format the kernel unpacks.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o40755, (0, 0), &[]);
    }

    fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, 0o20600, (major, minor), &[]);
    }

    fn file(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entry(name, 0o100_000 | mode, (0, 0), data);
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            data.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn archive_entries_are_aligned_and_end_with_a_trailer() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(bytes.len() % 4, 0);
        // Header 110 bytes, the name and its NUL padded to 112, then the data.
        assert_eq!(&bytes[112..117], b"hello");
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
