// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-index-lab`: the index's mutants, for `vexfs-lab mutants --with` to run.
//!
//! `list` prints a line for each mutant: its name, a tab, its mistake. `be NAME` simulates as that
//! mutant, or without a mistake as `none`. If something is wrong, the part of the simulation that
//! found it is printed, a tab, and what it is; the exit code is 1.

use std::process::ExitCode;

use vexfs_index::{mutants, simulator};

/// Seeds that are simulated without a mistake.
const CONTROL_SEEDS: u64 = 60;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let seeds = match words[..] {
        ["list"] => {
            for (_, name, about) in mutants::ALL {
                println!("{name}\t{about}");
            }
            return ExitCode::SUCCESS;
        }
        ["be", "none"] => CONTROL_SEEDS,
        ["be", name] => {
            let Some((mutant, ..)) = mutants::ALL.iter().find(|(_, known, _)| *known == name)
            else {
                eprintln!(
                    "vexfs-index-lab: there is no mutant '{name}'; 'list' prints all of them"
                );
                return ExitCode::from(2);
            };
            mutants::choose(*mutant);
            u64::MAX
        }
        _ => {
            eprintln!("usage: vexfs-index-lab list | be NAME");
            return ExitCode::from(2);
        }
    };
    match simulator::simulate(seeds) {
        Ok(()) => ExitCode::SUCCESS,
        Err((by, what)) => {
            println!("{by}\t{what}");
            ExitCode::FAILURE
        }
    }
}
