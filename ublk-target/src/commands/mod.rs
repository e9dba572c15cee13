// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What each command does, in the process that was started. Output goes to standard output,
//! one clear line per failure to standard error, and nothing else.

mod add;
mod del;
mod explore;
mod help;
mod lab;
mod list;
mod search;
mod stats;

use crate::cli::Command;
use crate::error::{Error, Result};
use std::io::Write;

/// Runs a command.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Add(args) => add::add(&args),
        Command::Recover(args) => add::recover(args.id),
        Command::Del(args) => del::run(&args),
        Command::List(args) => list::devices(args.json),
        Command::Stats(args) => stats::run(&args),
        Command::Search(args) => search::run(&args),
        Command::Crash(args) => lab::crash(&args),
        Command::Fault(args) => lab::fault(&args),
        Command::Mark(args) => lab::mark(&args),
        Command::Replay(args) => explore::replay(&args),
        Command::Explore(args) => explore::run(&args),
        Command::Features(args) => list::features(args.json),
        Command::Completions { shell } => help::completions(shell),
        Command::Man { directory } => help::man(&directory),
    }
}

/// Prints text; a reader that went away is no failure.
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
