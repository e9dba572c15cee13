// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-lab`: the crash lab on the command line, natively.
//!
//! Results go to standard output, a table or JSON; progress to standard error. The exit code is 1 if
//! anything was wrong, and whatever was is printed with the command that shows it again.

#![forbid(unsafe_code)]

mod ace;
#[cfg(feature = "mutants")]
mod mutants;
mod replay;
mod report;
mod simulate;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Loses power, and proves that nothing was lost.
#[derive(Parser)]
#[command(
    name = "vexfs-lab",
    version,
    after_help = "Examples:
  vexfs-lab ace --ops 1
  vexfs-lab ace --ops 2 --states 1000000 --svg states.svg
  vexfs-lab ace --ops 3 --sample 5000 --seed 7
  vexfs-lab replay --script 'write f 0 4096; fsync' --event 7 --keep '3,5[0+1]'
  vexfs-lab simulate --seed 1 --seconds 60 --json"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Explore all small workloads: every cut, every subset of what was not flushed, torn sectors
    Ace(ace::Args),
    /// Run one workload again, or judge one state of it
    Replay(replay::Args),
    /// Print a workload of many operations, by its seed
    Script {
        /// Decides the operations
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Operations
        #[arg(long, default_value_t = 60)]
        ops: u64,
    },
    /// Operations, commits, faults, full filesystems and cuts at random
    Simulate(simulate::Args),
    /// Let the engine make one mistake after another, and see each
    #[cfg(feature = "mutants")]
    Mutants(mutants::Args),
}

fn main() -> ExitCode {
    // Any command can be run on an engine that makes a mistake, to see what it prints then.
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("VEXFS_MUTANT") {
        let Some(mutant) = mutants::named(&name) else {
            eprintln!("vexfs-lab: VEXFS_MUTANT={name}: there is no such mutant");
            return ExitCode::from(2);
        };
        vexfs::mutants::choose(mutant);
    }
    let right = match Cli::parse().command {
        Command::Ace(args) => ace::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Script { seed, ops } => {
            println!("{}", vexfs_crash::workload::long(seed, ops));
            Ok(true)
        }
        Command::Simulate(args) => Ok(simulate::run(&args)),
        #[cfg(feature = "mutants")]
        Command::Mutants(args) => mutants::run(&args),
    };
    match right {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(what) => {
            eprintln!("vexfs-lab: {what}");
            ExitCode::from(2)
        }
    }
}
