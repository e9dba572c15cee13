// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What runs in the guest: interleaved rounds of everything, one line of output per figure.
//!
//! Only the host's side of the bench starts it, in a guest: it loads modules and formats disks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::plan::{Part, Plan};
use super::{device, facts, files, indexing};
use crate::shell::Cmd;

/// Measures; every figure is on standard output as soon as it is known.
pub fn run(plan: &Plan) -> Result<()> {
    ensure!(
        std::env::var_os("VEXFS_VM").is_some(),
        "this runs in the guest of 'cargo xtask bench' only"
    );
    load_modules(plan.wants(Part::Fs) || plan.wants(Part::Indexing))?;
    if plan.wants(Part::Device) {
        make_image(plan)?;
        for round in 0..plan.rounds {
            println!("round {}: block devices", round + 1);
            device::round(plan, round)?;
        }
    }
    if plan.wants(Part::Fs) {
        for round in 0..plan.rounds {
            println!("round {}: mount and mkfs", round + 1);
            facts::round(plan, round)?;
        }
        let stage = files::Stage::set_up(plan.mib * 4)?;
        for round in 0..plan.rounds {
            println!("round {}: filesystems", round + 1);
            stage.round(plan, round)?;
            facts::daemon_memory(round)?;
        }
        stage.tear_down()?;
    }
    if plan.wants(Part::Indexing) {
        indexing::rounds(plan)?;
    }
    Ok(())
}

fn load_modules(vexfs: bool) -> Result<()> {
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

/// The image of the block devices, on ext4 on a disk of memory.
fn make_image(plan: &Plan) -> Result<()> {
    // Room for ext4's own structures and journal beside the image.
    let disk = device::null_blk("benchimages", plan.mib + 192, true)?;
    let dir = Plan::image_dir();
    fs::create_dir_all(dir).context("cannot create the image's mount point")?;
    Cmd::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk).output()?;
    Cmd::new("mount").arg(&disk).arg(dir).output()?;
    device::make_image(&Plan::image(), plan.image_bytes())?;
    // Dirty pages of a buffered image are written between two devices, not while one is measured.
    for (name, value) in [
        ("dirty_writeback_centisecs", "0"),
        ("dirty_background_ratio", "60"),
        ("dirty_ratio", "80"),
    ] {
        let file = Path::new("/proc/sys/vm").join(name);
        fs::write(&file, value).with_context(|| format!("cannot set {name}"))?;
    }
    Ok(())
}
