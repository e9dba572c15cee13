// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-lab ace`: many small workloads on all processors.

use crate::report::{bar, quote, rate, table};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use vexfs_crash::Rng;
use vexfs_crash::explore::{Explored, Limits, PointTally, picture};
use vexfs_crash::workload::{Fixture, Script, pairs, singles, triple};

/// What to explore.
#[derive(clap::Args)]
pub struct Args {
    /// Operations of each workload, beside the synchronisations
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    ops: u8,
    /// Only so many of the workloads, taken by the seed (3 operations: 1000)
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Stop after so many distinct states
    #[arg(long, value_name = "N")]
    states: Option<usize>,
    /// Decides samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// States a point in which every sector is kept or lost by chance
    #[arg(long, default_value_t = Limits::default().torn)]
    torn: u64,
    /// Run the engine on every state, even one that agrees with another on all that is read
    #[arg(long)]
    no_memo: bool,
    /// Size of the image in bytes
    #[arg(long, default_value_t = 4 << 20)]
    image_bytes: u64,
    /// Threads [default: one for each processor]
    #[arg(long)]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw the states explored
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// A workload that failed, made short.
struct Found {
    script: String,
    event: usize,
    keep: String,
    what: String,
}

#[derive(Default)]
struct Shared {
    explored: Explored,
    found: Vec<Found>,
    scripts: usize,
    points: Vec<PointTally>,
}

/// Failures that are made short; the others are counted.
const SHORTENED: usize = 8;

fn scripts(args: &Args) -> Vec<Script> {
    let mut all: Vec<Script> = match args.ops {
        1 => singles().collect(),
        2 => pairs().collect(),
        _ => {
            let count = args.sample.unwrap_or(1000) as u64;
            return (0..count).map(|i| triple(args.seed.wrapping_mul(1 << 32) + i)).collect();
        }
    };
    // In an order of the seed's, so that a run that stops early has seen a bit of everything.
    let mut rng = Rng::new(args.seed);
    for place in (1..all.len()).rev() {
        all.swap(place, rng.below(place as u64 + 1) as usize);
    }
    all.truncate(args.sample.unwrap_or(usize::MAX));
    all
}

/// Runs it; false if a state was wrong.
pub fn run(args: &Args) -> Result<bool, String> {
    let fixture = Fixture::new(args.image_bytes)?;
    let scripts = scripts(args);
    let limits =
        Limits { torn: args.torn, seed: args.seed, no_memo: args.no_memo, ..Limits::default() };
    let threads = args
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
        .max(1);
    let shared = Mutex::new(Shared::default());
    let (next, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    let bar = bar(Some(scripts.len() as u64), "workloads");
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !enough.load(Relaxed)
                    && let Some(script) = scripts.get(next.fetch_add(1, Relaxed))
                {
                    let mut own = Explored::default();
                    let mut points = Vec::new();
                    let ran = fixture.explore(script, &limits, &mut own, &mut |point| {
                        points.push(point.clone());
                        true
                    });
                    let failed = own.failed > 0 || ran.is_err();
                    let short = failed && {
                        let shared = shared.lock();
                        shared.is_ok_and(|shared| shared.found.len() < SHORTENED)
                    };
                    let short = short.then(|| fixture.shortest(script, &limits)).flatten();
                    let Ok(mut shared) = shared.lock() else { return };
                    if ran.is_err() {
                        shared.explored.failed += 1;
                    }
                    shared.explored.merge(own);
                    shared.scripts += 1;
                    if args.svg.is_some() {
                        shared.points.append(&mut points);
                    }
                    if let Some((script, failure)) = short {
                        let found = Found {
                            script: script.to_string(),
                            event: failure.event,
                            keep: failure.chosen.to_string(),
                            what: failure.what,
                        };
                        if !shared.found.iter().any(|f| f.script == found.script) {
                            bar.suspend(|| show(&found));
                            shared.found.push(found);
                        }
                    }
                    bar.inc(1);
                    let distinct = shared.explored.distinct.len();
                    bar.set_message(format!(
                        "{} states, {distinct} distinct, {} a second a core, {} wrong",
                        shared.explored.states,
                        rate(shared.explored.states, began.elapsed(), threads),
                        shared.explored.failed
                    ));
                    if args.states.is_some_and(|wanted| distinct >= wanted) {
                        enough.store(true, Relaxed);
                    }
                }
            });
        }
    });
    let took = began.elapsed();
    bar.finish_and_clear();
    let shared = shared.into_inner().map_err(|_| "a thread of the explorer died".to_owned())?;
    if let Some(file) = &args.svg {
        let svg = picture::draw(&shared.points);
        std::fs::write(file, svg).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    let all = &shared.explored;
    let rate = rate(all.states, took, threads);
    if args.json {
        let failures: Vec<_> = shared
            .found
            .iter()
            .map(|f| json!({"script": f.script, "event": f.event, "keep": f.keep, "what": f.what}))
            .collect();
        println!(
            "{}",
            json!({
                "workloads": shared.scripts,
                "points": all.points,
                "states": all.states,
                "distinct_states": all.distinct.len(),
                "evaluations": all.evaluations,
                "states_per_second_per_core": rate,
                "seconds": took.as_secs_f64(),
                "threads": threads,
                "wrong_states": all.failed,
                "failures": failures,
            })
        );
    } else {
        table(&[
            ("workloads", shared.scripts as u64),
            ("points of a cut", all.points),
            ("states", all.states),
            ("distinct states", all.distinct.len() as u64),
            ("runs of the engine", all.evaluations),
            ("states a second a core", rate),
            ("seconds", took.as_secs()),
            ("wrong states", all.failed),
        ]);
    }
    Ok(all.failed == 0)
}

fn show(found: &Found) {
    eprintln!("WRONG: {}", found.what);
    eprintln!("  shortest workload: {}", found.script);
    eprintln!(
        "  again: vexfs-lab replay --script {} --event {} --keep {}",
        quote(&found.script),
        found.event,
        quote(&found.keep)
    );
}
