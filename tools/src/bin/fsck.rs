// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `fsck.vexfs`: checks a filesystem, and never writes.
//!
//! The check is the engine's. This prints it, with the exit codes that `fsck(8)` and boot scripts expect.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use vexfs::{CheckSummary, Error, Report, check};
use vexfs_image::Access;
use vexfs_tools::cli;
use vexfs_tools::failure::{Failure, Result};

/// The filesystem has errors; they are left as they are.
const UNCORRECTED: u8 = 4;
/// It could not be checked.
const OPERATIONAL: u8 = 8;
/// Wrong usage.
const USAGE: u8 = 16;

/// Checks a VexFS filesystem; it never writes
///
/// Reads every structure that the newest commit reaches and compares them: checksums, the tree, names
/// and links, extents, attributes, and the map of free space. File contents have no checksum and are
/// not read. Each error is printed on a line of its own: where it is and what is wrong.
#[derive(Debug, Parser)]
#[command(
    name = "fsck.vexfs",
    bin_name = "fsck.vexfs",
    version,
    after_help = "Examples:
  fsck.vexfs vexfs.img            check an image that nobody uses
  fsck.vexfs -n /dev/ublkb0       check one in use: changes under way may look like damage

A filesystem needs no repair after a crash: it is at its last commit. Errors come from the medium,
the memory or a defect: copy out what can be read with `vexfs get`.

Exit code: 0 clean, 4 errors found, 8 could not check, 16 wrong usage."
)]
// Each is a flag of the command line.
#[allow(clippy::struct_excessive_bools)]
struct Args {
    /// Check even an image in use (nothing is ever changed)
    #[arg(short = 'n')]
    no_change: bool,
    /// Check fully even if it seems clean (always done)
    #[arg(short = 'f')]
    force: bool,
    /// Options that fsck(8) passes on at boot; there is nothing to repair or to ask
    #[arg(short = 'a', short_alias = 'p', short_aliases = ['y'], hide = true)]
    automatic: bool,
    /// The image file or block device
    #[arg(value_name = "IMAGE|DEVICE")]
    image: PathBuf,
}

fn main() -> ExitCode {
    let args: Args = match cli::parse("8", USAGE) {
        Ok(args) => args,
        Err(code) => return code,
    };
    match run(&args) {
        Ok(summary) if summary.findings == 0 => {
            println!(
                "clean: {} inodes, {} blocks used of {}, generation {}",
                summary.inodes, summary.blocks_used, summary.blocks, summary.generation
            );
            ExitCode::SUCCESS
        }
        Ok(summary) => {
            let name = args.image.display();
            let (n, s) = (summary.findings, if summary.findings == 1 { "" } else { "s" });
            eprintln!(
                "fsck.vexfs: {name}: {n} error{s} in generation {}, left as {}; copy out what can be read with vexfs get",
                summary.generation,
                if n == 1 { "it is" } else { "they are" }
            );
            ExitCode::from(UNCORRECTED)
        }
        Err(failure) => {
            eprintln!("fsck.vexfs: {failure}");
            ExitCode::from(match failure {
                Failure::Engine {
                    error: Error::Corrupt(_) | Error::NoRoot | Error::Truncated { .. },
                    ..
                } => UNCORRECTED,
                Failure::Usage(_) => USAGE,
                _ => OPERATIONAL,
            })
        }
    }
}

fn run(args: &Args) -> Result<CheckSummary> {
    let name = args.image.display().to_string();
    let opened = vexfs_image::open(&args.image, Access::Read)?;
    match &opened.user {
        None => {}
        Some(by) if args.no_change => eprintln!(
            "fsck.vexfs: {name}: warning: in use: {by}; changes under way may look like damage"
        ),
        Some(by) => return Err(Failure::in_use(&args.image, by)),
    }
    let device = opened.device;
    let bar = cli::progress(0, "{wide_bar} {percent}% {pos}/{len} blocks, {eta} left");
    let summary = check(&device, &mut |report| match report {
        Report::Progress { done, total } => {
            bar.set_length(total);
            bar.set_position(done);
        }
        Report::Finding(finding) => bar.suspend(|| println!("{finding}")),
    });
    bar.finish_and_clear();
    summary.map_err(Failure::engine(name))
}
