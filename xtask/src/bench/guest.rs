// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What runs in the guest: rounds of everything, interleaved, one line per figure.
//!
//! Only ever started by the host's side of the bench, in a guest: it loads modules and
//! formats disks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{Part, device, facts, files};
use crate::shell::Cmd;

/// What the host tells its guest.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// How often each thing is measured
    #[arg(long)]
    pub rounds: u32,
    /// Milliseconds of each timed job
    #[arg(long)]
    pub millis: u64,
    /// Files of each loop over small files
    #[arg(long)]
    pub files: usize,
    /// Bytes of the image and of the file, in MiB
    #[arg(long)]
    pub mib: u64,
    /// The program to compare with
    #[arg(long)]
    pub rublk: PathBuf,
    /// Only this part
    #[arg(long)]
    pub only: Option<Part>,
}

/// What the parts of the bench need to know.
pub struct Guest {
    /// Milliseconds of each timed job.
    pub millis: u64,
    /// Files of each loop over small files.
    pub files: usize,
    /// The program to compare with.
    pub rublk: PathBuf,
    mib: u64,
    image_dir: PathBuf,
}

impl Guest {
    /// The image that all block devices serve.
    pub fn image(&self) -> PathBuf {
        self.image_dir.join("bench-image")
    }

    /// Its length.
    pub fn image_bytes(&self) -> u64 {
        self.mib << 20
    }

    /// Length of the file on each filesystem.
    pub fn file_bytes(&self) -> u64 {
        self.mib << 19
    }
}

/// Measures; every figure is on standard output as soon as it is known.
pub fn run(args: &GuestArgs) -> Result<()> {
    ensure!(
        std::env::var_os("VEXFS_VM").is_some(),
        "this runs in the guest of 'cargo xtask bench' only"
    );
    let guest = Guest {
        millis: args.millis,
        files: args.files,
        rublk: args.rublk.clone(),
        mib: args.mib,
        image_dir: PathBuf::from("/run/bench-images"),
    };
    let wants = |part| args.only.is_none_or(|only| only == part);
    prepare_kernel(wants(Part::Fs))?;
    if wants(Part::Device) {
        // Room for ext4's own structures and journal beside the image.
        let disk = device::null_blk("benchimages", guest.mib + 192, true)?;
        fs::create_dir_all(&guest.image_dir).context("cannot create the images' mount point")?;
        Cmd::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk).output()?;
        Cmd::new("mount").arg(&disk).arg(&guest.image_dir).output()?;
        device::make_image(&guest.image(), guest.image_bytes())?;
        // What a buffered image holds back is written between two devices, not under one's jobs.
        for (name, value) in [
            ("dirty_writeback_centisecs", "0"),
            ("dirty_background_ratio", "60"),
            ("dirty_ratio", "80"),
        ] {
            let file = Path::new("/proc/sys/vm").join(name);
            fs::write(&file, value).with_context(|| format!("cannot set {name}"))?;
        }
    }
    for round in (0..args.rounds).filter(|_| wants(Part::Device)) {
        println!("round {}: block devices", round + 1);
        device::round(&guest, round)?;
    }
    if wants(Part::Fs) {
        for round in 0..args.rounds {
            println!("round {}: mount and mkfs", round + 1);
            facts::round(&guest, round)?;
        }
        let stage = files::Stage::set_up(guest.mib * 4)?;
        for round in 0..args.rounds {
            println!("round {}: filesystems", round + 1);
            stage.round(&guest, round)?;
            facts::daemon_memory(round)?;
        }
        stage.tear_down()?;
    }
    Ok(())
}

fn prepare_kernel(vexfs: bool) -> Result<()> {
    Cmd::new("modprobe").args(["null_blk", "nr_devices=0"]).output()?;
    Cmd::new("modprobe").args(["-a", "configfs", "loop", "xfs", "btrfs"]).output()?;
    if !Path::new("/sys/kernel/config/nullb").exists() {
        Cmd::new("mount").args(["-t", "configfs", "none", "/sys/kernel/config"]).output()?;
    }
    if !vexfs {
        return Ok(());
    }
    let module = std::env::var_os("VEXFS_MODULE").context("no VEXFS_MODULE")?;
    Cmd::new("insmod").arg(module).output().map(drop)
}
