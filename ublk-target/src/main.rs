// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-ublk`: parses the command line and runs one command. Exit code: 0, 1 for a failure, 2 for
//! wrong usage.

use clap::Parser;
use std::process::ExitCode;
use vexfs_ublk::cli::Cli;
use vexfs_ublk::commands;

fn main() -> ExitCode {
    match commands::run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vexfs-ublk: {error}");
            ExitCode::FAILURE
        }
    }
}
