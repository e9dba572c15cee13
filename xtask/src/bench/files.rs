// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Measures filesystems: each is made anew in each round, all on the same vexfs-ublk device.
//!
//! The device's image is a disk of memory, written in full beforehand, so that only the filesystem
//! differs. Mount options are the defaults.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::device::{null_blk, remove_vexfs};
use super::fio::{self, Job, Length};
use super::meta::{self, Files, Rate};
use super::plan::Plan;
use super::sample::{self, FILES};
use crate::shell::Cmd;

/// The filesystem of this project.
pub const OURS: &str = "vexfs";
/// It is compared with the best of these.
pub const REFERENCES: [&str; 2] = ["ext4", "xfs"];
/// All filesystems, in the order of the tables.
pub const SUBJECTS: [&str; 4] = ["ext4", "xfs", "btrfs", OURS];
/// Begins the name of a cell that measures the medium's flushes more than the filesystem.
pub const DURABLE: &str = "durable: ";

const WRITE_NEW: [Job; 1] = [Job {
    cell: "1 MiB sequential write, new file",
    options: "rw=write bs=1m ioengine=psync direct=0 fallocate=none",
    bandwidth: true,
}];

const DIRECT: [Job; 5] = [
    Job {
        cell: "1 MiB sequential write, direct",
        options: "rw=write bs=1m iodepth=4 ioengine=io_uring direct=1",
        bandwidth: true,
    },
    Job {
        cell: "1 MiB sequential read, direct",
        options: "rw=read bs=1m iodepth=4 ioengine=io_uring direct=1",
        bandwidth: true,
    },
    Job {
        cell: "4 KiB random read QD1, direct",
        options: "rw=randread bs=4k iodepth=1 ioengine=io_uring direct=1",
        bandwidth: false,
    },
    Job {
        cell: "4 KiB random read QD32, direct",
        options: "rw=randread bs=4k iodepth=32 ioengine=io_uring direct=1",
        bandwidth: false,
    },
    Job {
        cell: "4 KiB random write QD32, direct",
        options: "rw=randwrite bs=4k iodepth=32 ioengine=io_uring direct=1",
        bandwidth: false,
    },
];

const COLD: [Job; 1] = [Job {
    cell: "1 MiB sequential read, cold cache",
    options: "rw=read bs=1m ioengine=psync direct=0",
    bandwidth: true,
}];

const WARM: [Job; 2] = [
    Job {
        cell: "4 KiB random read, warm cache",
        options: "rw=randread bs=4k ioengine=psync direct=0 invalidate=0",
        bandwidth: false,
    },
    Job {
        cell: "4 KiB random write, warm cache",
        options: "rw=randwrite bs=4k ioengine=psync direct=0 invalidate=0",
        bandwidth: false,
    },
];

/// The device that all filesystems are made on.
pub struct Stage {
    device: PathBuf,
    mount: PathBuf,
}

impl Stage {
    /// Makes the disk of memory and the device on it.
    pub fn set_up(mib: u64) -> Result<Self> {
        let disk = null_blk("benchdisk", mib, true)?;
        let mut file = File::options().write(true).open(&disk).context("cannot open the disk")?;
        let chunk = vec![0x5a_u8; 1 << 20];
        for _ in 0..mib {
            std::io::Write::write_all(&mut file, &chunk).context("cannot fill the disk")?;
        }
        file.sync_all().context("cannot sync the disk")?;
        drop(file);
        let device =
            Cmd::new("vexfs-ublk").args(["add", "--raw", "--image"]).arg(&disk).output()?;
        let mount = PathBuf::from("/run/bench-mount");
        fs::create_dir_all(&mount).context("cannot create the mount point")?;
        Ok(Self { device: PathBuf::from(device.trim()), mount })
    }

    /// One round: measures every filesystem once, in an order that rotates from round to round.
    pub fn round(&self, plan: &Plan, round: u32) -> Result<()> {
        let mut order = SUBJECTS;
        order.rotate_left(round as usize % SUBJECTS.len());
        for subject in order {
            self.make(subject).with_context(|| format!("cannot make {subject}"))?;
            Cmd::new("mount")
                .args(["-t", subject])
                .args([&self.device, &self.mount])
                .output()
                .with_context(|| format!("cannot mount {subject}"))?;
            let measured = self.measure(plan, subject, round);
            let unmounted = Cmd::new("umount").arg(&self.mount).output();
            measured.with_context(|| format!("on {subject}"))?;
            unmounted.with_context(|| format!("cannot unmount {subject}"))?;
        }
        Ok(())
    }

    fn make(&self, subject: &str) -> Result<()> {
        let (program, options): (&str, &[&str]) = match subject {
            "ext4" => {
                let now = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
                ("mkfs.ext4", &["-q", "-F", "-E", now])
            }
            "xfs" => ("mkfs.xfs", &["-q", "-f", "-K"]),
            "btrfs" => ("mkfs.btrfs", &["-q", "-f", "-K"]),
            _ => ("mkfs.vexfs", &["--force"]),
        };
        Cmd::new(program).args(options).arg(&self.device).output().map(drop)
    }

    fn measure(&self, plan: &Plan, subject: &str, round: u32) -> Result<()> {
        let give = |cell: &str, value: f64, unit: &str| {
            sample::give(FILES, cell, subject, round, value, unit);
        };
        let mut metadata = Vec::new();
        self.metadata(plan, &mut |cell, rate| metadata.push((cell, rate)))?;
        for (cell, rate) in metadata {
            give(cell, rate, "ops/s");
        }

        let file = self.mount.join("data");
        let size = plan.file_bytes();
        let timed = Length::Millis(plan.millis);
        let jobs = |length, jobs: &[Job]| -> Result<()> {
            let figures = fio::run(&file, Some(size), length, jobs)?;
            for (job, figure) in jobs.iter().zip(figures) {
                give(job.cell, figure.value, figure.unit);
            }
            Ok(())
        };
        jobs(Length::Whole, &WRITE_NEW)?;
        rustix::fs::sync();
        jobs(timed, &DIRECT)?;
        rustix::fs::sync();
        drop_caches()?;
        jobs(Length::Whole, &COLD)?;
        jobs(timed, &WARM)
    }

    fn metadata(&self, plan: &Plan, give: &mut dyn FnMut(&'static str, Rate)) -> Result<()> {
        let count = plan.files;
        let files = Files::new(&self.mount.join("empty"), count)?;
        give("create", files.create()?);
        rustix::fs::sync();
        drop_caches()?;
        give("stat, cold cache", files.stat()?);
        give("list", files.list()?);
        give("rename", files.rename()?);
        give("unlink", files.unlink()?);
        rustix::fs::sync();
        let files = Files::new(&self.mount.join("small"), count)?;
        give("create and write 4 KiB", files.create_written()?);
        rustix::fs::sync();
        let rate = meta::tree_and_sync(&self.mount.join("tree"), count / 2)?;
        give("durable: tree of 8 KiB files, sync", rate);
        let rate = meta::append_and_fsync(&self.mount.join("log"), count / 20)?;
        give("durable: append 4 KiB, fsync", rate);
        Ok(())
    }

    /// Removes the device.
    pub fn tear_down(self) -> Result<()> {
        remove_vexfs(&self.device)
    }
}

/// Drops clean pages, dentries and inodes from memory.
fn drop_caches() -> Result<()> {
    let file = Path::new("/proc/sys/vm/drop_caches");
    fs::write(file, "3").context("cannot drop the caches")
}
