// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What each command does in the process that the user started. It prints its result to standard output,
//! and one line to standard error if it fails.

mod add;
mod del;
mod explore;
mod help;
mod index;
mod lab;
mod list;
mod replay;
mod search;
mod stats;

use crate::cli::Command;
use crate::error::{Error, Result};
use std::io::Write;

/// Runs a command.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Add(args) => add::add(args),
        Command::Recover(args) => add::recover(args.id, args.index_memory),
        Command::Del(args) => del::run(&args),
        Command::List(args) => list::devices(args.json),
        Command::Stats(args) => stats::run(&args),
        Command::Search(args) => search::run(&args),
        Command::Index(args) => index::run(&args),
        Command::Crash(args) => lab::crash(&args),
        Command::Fault(args) => lab::fault(&args),
        Command::Mark(args) => lab::mark(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Explore(args) => explore::run(&args),
        Command::Features(args) => list::features(args.json),
        Command::Completions { shell } => help::completions(shell),
        Command::Man { directory } => help::man(&directory),
    }
}

/// Prints text. A closed pipe is not an error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::System { what: "standard output", source: e })
        }
        _ => Ok(()),
    }
}

fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}
