// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-lab simulate`: one seed after another, for a given time.

use crate::report::{bar, rate, table, threads};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use vexfs_crash::{Options, Outcome, simulate_each};

/// What to simulate.
#[derive(clap::Args)]
pub struct Args {
    /// The first seed; each run takes the next one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to go on; 0 for one run of the first seed
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Operations in each run
    #[arg(long, default_value_t = 1000)]
    steps: u64,
    /// Stop at the first failure
    #[arg(long)]
    first: bool,
    /// Threads [default: one for each processor]
    #[arg(long)]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Shared {
    total: Outcome,
    runs: u64,
    distinct: HashSet<u64>,
    failures: Vec<(u64, String)>,
}

/// Runs the command; false if anything was wrong.
pub fn run(args: &Args) -> bool {
    let threads = if args.seconds == 0 { 1 } else { threads(args.threads) };
    let shared = Mutex::new(Shared::default());
    let next = AtomicU64::new(args.seed);
    let (began, long) = (Instant::now(), Duration::from_secs(args.seconds));
    let bar = bar(None, "");
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    let mut distinct = HashSet::new();
                    let options = Options::of_seed(seed, args.steps);
                    let result = simulate_each(&options, &mut |state| {
                        distinct.insert(state);
                    });
                    let Ok(mut shared) = shared.lock() else { return };
                    shared.runs += 1;
                    shared.distinct.extend(distinct);
                    match result {
                        Ok(outcome) => shared.total.add(&outcome),
                        Err(what) => {
                            bar.suspend(|| eprintln!("WRONG: {what}"));
                            shared.failures.push((seed, what));
                        }
                    }
                    bar.set_message(format!(
                        "{} runs, {} states, {} distinct, {} a second a core, {} wrong",
                        shared.runs,
                        shared.total.states,
                        shared.distinct.len(),
                        rate(shared.total.states, began.elapsed(), threads),
                        shared.failures.len()
                    ));
                    let stop = args.first && !shared.failures.is_empty();
                    if stop || began.elapsed() >= long {
                        return;
                    }
                }
            });
        }
    });
    let took = began.elapsed();
    bar.finish_and_clear();
    let Ok(shared) = shared.into_inner() else { return false };
    print(&shared, took, threads, args);
    shared.failures.is_empty()
}

fn print(shared: &Shared, took: Duration, threads: usize, args: &Args) {
    let total = &shared.total;
    let rate = rate(total.states, took, threads);
    if args.json {
        let failures: Vec<_> = shared
            .failures
            .iter()
            .map(|(seed, what)| json!({"seed": seed, "what": what}))
            .collect();
        println!(
            "{}",
            json!({
                "runs": shared.runs,
                "operations": total.steps,
                "cuts": total.cuts,
                "faults": total.faults,
                "detected": total.detected,
                "full": total.full,
                "commits": total.generations,
                "states": total.states,
                "evaluations": total.evaluations,
                "distinct_states": shared.distinct.len(),
                "states_per_second_per_core": rate,
                "seconds": took.as_secs_f64(),
                "threads": threads,
                "failures": failures,
            })
        );
    } else {
        table(&[
            ("runs", shared.runs),
            ("operations", total.steps),
            ("commits", total.generations),
            ("refused for want of space", total.full),
            ("cuts", total.cuts),
            ("faults", total.faults),
            ("faults detected", total.detected),
            ("states", total.states),
            ("distinct states", shared.distinct.len() as u64),
            ("runs of the engine", total.evaluations),
            ("states a second a core", rate),
            ("seconds", took.as_secs()),
            ("failures", shared.failures.len() as u64),
        ]);
        for (seed, _) in &shared.failures {
            println!("again: vexfs-lab simulate --seed {seed} --seconds 0 --steps {}", args.steps);
        }
    }
}
