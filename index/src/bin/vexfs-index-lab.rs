// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-index-lab`: the index's mutants, for `vexfs-lab mutants --with` to run.
//!
//! `list` prints a line for each, its name and its mistake, apart by a tab. `be NAME` hunts as that
//! mutant, or as `none`: what was found is printed, who found it before it, and the exit code is 1.

use std::process::ExitCode;

use vexfs_index::{lab, mutants};

/// Seeds that the index without a mistake is held against.
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
                eprintln!("vexfs-index-lab: there is no mutant '{name}': 'list' prints them all");
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
    match lab::hunt(seeds) {
        Ok(()) => ExitCode::SUCCESS,
        Err((by, what)) => {
            println!("{by}\t{what}");
            ExitCode::FAILURE
        }
    }
}
