// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who uses a file or device: mounts, loop devices, and processes that hold a lock on it.
//!
//! This is what the host shows at one moment. It lets a refusal name the user; the guard is the lock.

use crate::identity::Identity;
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Who uses an image, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// The kernel: it is mounted or attached to a loop device.
    Kernel(String),
    /// Another process: it has the image locked, or holds the device exclusively.
    Process(String),
}

impl User {
    /// Whoever holds a block device exclusively: the kernel does not say who.
    pub(crate) fn exclusive() -> Self {
        Self::Process("the kernel or another program holds the device exclusively".to_owned())
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Kernel(words) | Self::Process(words)) = self;
        f.write_str(words)
    }
}

/// A mount of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The directory.
    on: String,
    /// Nothing can be written through it.
    read_only: bool,
}

/// The mount of device `major:minor` in the text of `/proc/self/mountinfo`; of several, a writable one.
fn find_mount(mountinfo: &str, device: &str) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let found = fields.nth(2)?;
        let on = fields.nth(1)?;
        // After the dash: type, source, and the options of the filesystem, not of this one mount.
        let super_options = line.split_once(" - ")?.1.rsplit(' ').next()?;
        (found == device).then(|| Mount {
            on: on.replace("\\040", " "),
            read_only: super_options.split(',').any(|option| option == "ro"),
        })
    });
    mounts.min_by_key(|mount| mount.read_only)
}

fn mount_of(major: u32, minor: u32) -> Option<Mount> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_mount(&mountinfo, &format!("{major}:{minor}"))
}

/// The mount or loop device that uses the file or block device. A reader does not mind one that only reads.
pub fn kernel_user(metadata: &Metadata, writing: bool) -> Option<User> {
    let in_the_way = |mount: &Mount| writing || !mount.read_only;
    if metadata.file_type().is_block_device() {
        let device = metadata.rdev();
        let mount = mount_of(rustix::fs::major(device), rustix::fs::minor(device))?;
        let words = format!("it is mounted on {}", mount.on);
        return in_the_way(&mount).then_some(User::Kernel(words));
    }
    let identity = Identity::of(metadata);
    for block in fs::read_dir("/sys/block").ok()?.flatten() {
        let Ok(backing) = fs::read_to_string(block.path().join("loop/backing_file")) else {
            continue;
        };
        if Identity::at(backing.trim_end_matches('\n')).ok() != Some(identity) {
            continue;
        }
        let name = block.file_name().to_string_lossy().into_owned();
        let read_only = fs::read_to_string(block.path().join("ro")).is_ok_and(|ro| ro == "1\n");
        let numbers = fs::read_to_string(block.path().join("dev")).unwrap_or_default();
        let mount = numbers
            .trim()
            .split_once(':')
            .and_then(|(major, minor)| mount_of(major.parse().ok()?, minor.parse().ok()?));
        match mount {
            Some(mount) if in_the_way(&mount) => {
                let words = format!("it is mounted on {} through /dev/{name}", mount.on);
                return Some(User::Kernel(words));
            }
            None if writing || !read_only => {
                return Some(User::Kernel(format!("it is attached to /dev/{name}")));
            }
            _ => {}
        }
    }
    None
}

/// The process that holds a lock on the file. The lock itself does not tell whose it is.
pub fn lock_holder(path: &Path) -> User {
    let unknown = || User::Process("another process has it locked".to_owned());
    let Ok(identity) = Identity::at(path) else { return unknown() };
    let Ok(processes) = fs::read_dir("/proc") else { return unknown() };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        // The fdinfo of a descriptor through which a lock is held has a line for it.
        let holds = descriptors.flatten().any(|fd| {
            Identity::at(fd.path()).is_ok_and(|at| at == identity)
                && fs::read_to_string(process.path().join("fdinfo").join(fd.file_name()))
                    .is_ok_and(|info| info.contains("\nlock:"))
        });
        if holds {
            let program = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let program = program.trim_end();
            return User::Process(format!("process {pid} ({program}) has it locked"));
        }
    }
    unknown()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
40 22 7:3 / /mnt/a\\040b ro,relatime - vexfs /dev/loop3 rw
41 22 259:7 / /srv ro,nosuid shared:3 - vexfs /dev/ublkb0 ro
";

    #[test]
    fn mounts_are_found_by_number() {
        let mount = |device| find_mount(MOUNTINFO, device);
        assert_eq!(mount("254:0").unwrap(), Mount { on: "/".into(), read_only: false });
        // The mount is read-only, the filesystem beneath is not.
        assert_eq!(mount("7:3").unwrap(), Mount { on: "/mnt/a b".into(), read_only: false });
        assert_eq!(mount("259:7").unwrap(), Mount { on: "/srv".into(), read_only: true });
        assert_eq!(mount("259:0"), None);
        assert_eq!(find_mount("nonsense\n1 2\n", "7:3"), None);
    }
}
