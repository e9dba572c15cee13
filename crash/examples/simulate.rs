// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Simulates seed after seed: `simulate [FIRST_SEED [SEEDS [STEPS]]]`. Prints the seed of each failure.

use vexfs_crash::{Options, simulate};

fn main() -> std::process::ExitCode {
    let mut numbers = std::env::args().skip(1).map_while(|a| a.parse::<u64>().ok());
    let first = numbers.next().unwrap_or(1);
    let seeds = numbers.next().unwrap_or(100);
    let steps = numbers.next().unwrap_or(1000);
    let (mut states, mut full, mut failures) = (0, 0, 0);
    for seed in first..first.saturating_add(seeds) {
        let image_bytes = [1 << 20, 4 << 20, 64 << 20, 1 << 20, 1 << 30][(seed % 5) as usize];
        let inodes = [60, 60, 2000, 15, 100][(seed % 5) as usize];
        let options = Options { steps, image_bytes, inodes, ..Options::new(seed) };
        match simulate(&options) {
            Ok(outcome) => {
                states += outcome.states;
                full += outcome.full;
            }
            Err(text) => {
                failures += 1;
                println!("{text}");
            }
        }
        if seed % 100 == 0 {
            println!("seed {seed}: {states} states, {full} times full, {failures} failures");
        }
    }
    println!("{seeds} seeds: {states} states, {full} times full, {failures} failures");
    std::process::ExitCode::from(u8::from(failures > 0))
}
