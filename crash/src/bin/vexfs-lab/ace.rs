// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-lab ace`: many small workloads on all processors.

use crate::report::{bar, quote, rate, table, threads};
use indicatif::ProgressBar;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use vexfs_crash::Rng;
use vexfs_crash::explore::{Explored, Limits, PointTally, picture};
use vexfs_crash::workload::{Fixture, Script, pairs, singles, triple};

/// What to explore.
#[derive(clap::Args)]
pub struct Args {
    /// Operations in each workload, not counting the synchronisations
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    ops: u8,
    /// Explore only that many workloads, chosen by the seed [default with 3 operations: 1000]
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Stop after that many distinct states
    #[arg(long, value_name = "N")]
    states: Option<usize>,
    /// Decides samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// States of each point in which every sector is kept or lost at random
    #[arg(long, default_value_t = Limits::default().torn)]
    torn: u64,
    /// Run the engine on every state, even if it agrees with another in all that is read
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
    /// Draw a picture of the states explored
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

/// At most this many failures are made short; the others are only counted.
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
    // In random order, so that a run that stops early has seen some of everything.
    let mut rng = Rng::new(args.seed);
    for place in (1..all.len()).rev() {
        all.swap(place, rng.below(place as u64 + 1) as usize);
    }
    all.truncate(args.sample.unwrap_or(usize::MAX));
    all
}

/// Runs the command; false if a state was wrong.
pub fn run(args: &Args) -> Result<bool, String> {
    let fixture = Fixture::new(args.image_bytes)?;
    let threads = threads(args.threads);
    let began = Instant::now();
    let shared = explore_all(args, &fixture, &scripts(args), threads)?;
    let took = began.elapsed();
    if let Some(file) = &args.svg {
        let svg = picture::draw(&shared.points);
        std::fs::write(file, svg).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    print(&shared, took, threads, args.json);
    Ok(shared.explored.failed == 0)
}

/// Explores scripts, each on one of the threads.
fn explore_all(
    args: &Args,
    fixture: &Fixture,
    scripts: &[Script],
    threads: usize,
) -> Result<Shared, String> {
    let limits =
        Limits { torn: args.torn, seed: args.seed, no_memo: args.no_memo, ..Limits::default() };
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
                    let one = explore_one(fixture, script, &limits, &shared);
                    let Ok(mut shared) = shared.lock() else { return };
                    shared.add(one, args.svg.is_some(), &bar);
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
    bar.finish_and_clear();
    shared.into_inner().map_err(|_| "a thread of the explorer died".to_owned())
}

/// What one script came to.
struct One {
    explored: Explored,
    points: Vec<PointTally>,
    found: Option<Found>,
}

/// Explores one script and makes it short if it fails, unless enough are short already.
fn explore_one(fixture: &Fixture, script: &Script, limits: &Limits, shared: &Mutex<Shared>) -> One {
    let (mut explored, mut points) = (Explored::default(), Vec::new());
    let ran = fixture.explore(script, limits, &mut explored, &mut |point| {
        points.push(point.clone());
        true
    });
    let failed = explored.failed > 0 || ran.is_err();
    if ran.is_err() {
        explored.failed += 1;
    }
    let shorten = failed && shared.lock().is_ok_and(|shared| shared.found.len() < SHORTENED);
    let found =
        shorten.then(|| fixture.shortest(script, limits)).flatten().map(|(script, failure)| {
            Found {
                script: script.to_string(),
                event: failure.event,
                keep: failure.chosen.to_string(),
                what: failure.what,
            }
        });
    One { explored, points, found }
}

impl Shared {
    fn add(&mut self, mut one: One, keep_points: bool, bar: &ProgressBar) {
        self.explored.merge(one.explored);
        self.scripts += 1;
        if keep_points {
            self.points.append(&mut one.points);
        }
        if let Some(found) = one.found
            && !self.found.iter().any(|known| known.script == found.script)
        {
            bar.suspend(|| show(&found));
            self.found.push(found);
        }
    }
}

fn print(shared: &Shared, took: Duration, threads: usize, json: bool) {
    let all = &shared.explored;
    let rate = rate(all.states, took, threads);
    if !json {
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
        return;
    }
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
