// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-lab`: the crash lab on the command line, natively.
//!
//! Results go to standard output, as a table or JSON; progress and failures to standard error. The exit
//! code is 1 if anything was wrong; each failure is printed with a command that shows it again.

#![forbid(unsafe_code)]

mod ace;
#[cfg(feature = "mutants")]
mod mutants;
mod replay;
mod report;
mod simulate;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Cuts the power at every moment, and proves that nothing that was promised is lost.
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
    /// Explore all small workloads: every cut, every subset of what was not flushed, torn writes
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
    /// Run random operations with commits, faults, full filesystems and cuts
    Simulate(simulate::Args),
    /// Build one mistake after another into the engine, and find each
    #[cfg(feature = "mutants")]
    Mutants(mutants::Args),
}

fn main() -> ExitCode {
    // Every command can be run on an engine that makes a mistake, to see what it prints then.
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("VEXFS_MUTANT") {
        let Some(mutant) = mutants::by_name(&name) else {
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
