// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-lab replay`: runs one workload again, or judges one state of it.

use crate::report::table;
use std::path::PathBuf;
use vexfs_crash::Keep;
use vexfs_crash::explore::{Chosen, Explored, Limits};
use vexfs_crash::workload::{Fixture, Script};

/// What to run again.
#[derive(clap::Args)]
pub struct Args {
    /// The workload, as it was printed
    #[arg(long)]
    script: Script,
    /// Events before the cut
    #[arg(long, requires = "keep")]
    event: Option<usize>,
    /// Which writes were kept: 'none' or numbers as in '3,5[0+1]'
    #[arg(long, requires = "event")]
    keep: Option<Chosen>,
    /// Write the image that the workload leaves, all of it durable
    #[arg(long, value_name = "FILE", conflicts_with = "event")]
    image: Option<PathBuf>,
    /// Size of the image in bytes
    #[arg(long, default_value_t = 4 << 20)]
    image_bytes: u64,
}

/// Runs the command; false if a state was wrong.
pub fn run(args: &Args) -> Result<bool, String> {
    let ran = Fixture::new(args.image_bytes)?.run(&args.script)?;
    if let (Some(event), Some(keep)) = (args.event, &args.keep) {
        let verdict = ran.replay(event, keep);
        return match verdict {
            None => Err(format!(
                "--event {event}: the workload has no point there; without --event all points are listed"
            )),
            Some(Ok(generation)) => {
                println!("right: generation {generation} comes back");
                Ok(true)
            }
            Some(Err(what)) => {
                println!("WRONG: {what}");
                Ok(false)
            }
        };
    }
    if let Some(path) = &args.image {
        let recording = ran.recording();
        let image = recording.image_at(recording.events.len(), Keep::All);
        let bytes = image.bytes(0, image.len_bytes() as usize);
        return std::fs::write(path, bytes)
            .map(|()| true)
            .map_err(|e| format!("cannot write {}: {e}", path.display()));
    }
    let mut explored = Explored::default();
    println!("{:>6} {:>7} {:>8} {:>8}  generations", "events", "writes", "states", "wrong");
    ran.explore(&Limits::default(), &mut explored, &mut |point| {
        let generations: Vec<_> =
            point.generations.iter().map(|(g, count)| format!("{g}: {count}")).collect();
        println!(
            "{:>6} {:>7} {:>8} {:>8}  {}",
            point.event,
            point.writes,
            point.states,
            point.failed,
            generations.join(", ")
        );
        true
    });
    for failure in &explored.failures {
        println!("WRONG at {} with {}: {}", failure.event, failure.chosen, failure.what);
    }
    table(&[("states", explored.states), ("wrong states", explored.failed)]);
    Ok(explored.failed == 0)
}
