// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Filtered search beside its two baselines, at 50, 10, 1 and 0.1 % of rows that pass.
//!
//! The baselines are scanning what passes, and the walk as without a filter, as much wider as fewer pass,
//! of whose candidates those that pass are kept. Beside them the walk that keeps what passes, wherever it does not
//! give up, and the index, which chooses; then how many of its queries were walked. All answer the queries as one
//! batch, in turns, by processor time of this thread.
//!
//!     cargo run --release -p vexfs-index --example filtered CORPUS.npy QUERIES.npy [cosine|l2]

use std::path::PathBuf;

use vexfs_index::{
    Answer, Ask, Element, FileId, Filter, Index, Metric, Options, Params, Result, Slot, Space,
    Width,
    npy::{self, Matrix},
};

const FILE: FileId = FileId(1);
const K: usize = 10;
/// Of 1,000 rows, those that pass.
const PASSING: [u64; 6] = [500, 200, 100, 50, 10, 1];
const EFS: [usize; 3] = [20, 40, 96];
const ROUNDS: usize = 3;
const QUERIES: usize = 200;

/// Seconds of processor time of this thread.
fn thread_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) / 1e9
}

/// A number that has nothing to do with the slot.
fn mixed(slot: u64) -> u64 {
    let z = (slot + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

struct Bench<'a> {
    index: &'a Index,
    queries: Vec<&'a [f32]>,
}

impl Bench<'_> {
    /// The answers to all queries.
    fn ask(&self, filter: &dyn Filter, k: usize, width: Width) -> Result<Vec<Answer>> {
        let ask = Ask { k, width, filter: Some(filter), within: None };
        self.index.search_all(&[FILE], &self.queries, &ask)
    }

    /// The same by the walk without a filter, of which what passes is kept.
    fn widened(&self, passes: impl Fn(u64) -> bool, ef: usize, part: f64) -> Result<Vec<Answer>> {
        let wide = ((ef as f64 / part) as usize).min(vexfs_index::SEARCH_LIMIT);
        let ask = Ask { k: wide, width: Width::Ef(wide), ..Ask::default() };
        let mut answers = self.index.search_all(&[FILE], &self.queries, &ask)?;
        for answer in &mut answers {
            answer.hits.retain(|hit| passes(hit.slot.0));
            answer.hits.truncate(K);
        }
        Ok(answers)
    }
}

fn recall(exact: &[Answer], found: &[Answer]) -> f64 {
    let good = exact.iter().zip(found).map(|(exact, found)| {
        let worst = exact.hits.last().map_or(0.0, |hit| hit.distance) + 1e-6;
        found.hits.iter().filter(|hit| hit.distance <= worst).count()
    });
    let all: usize = exact.iter().map(|answer| answer.hits.len()).sum();
    good.sum::<usize>() as f64 / all.max(1) as f64
}

fn build(corpus: &Matrix, metric: Metric, scan_factor: usize) -> Result<Index> {
    let options = Options { nice: 0, scan_factor, ..Options::default() };
    let (index, _) = Index::open(None, options)?;
    index.declare(FILE, Space::new(Element::F32, metric, corpus.dim as u32), Params::default())?;
    let bytes: Vec<u8> = corpus.data.iter().flat_map(|x| x.to_le_bytes()).collect();
    index.upsert_rows(FILE, Slot(0), &bytes, corpus.dim * 4, 0)?;
    index.settle();
    Ok(index)
}

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (Some(corpus), Some(queries)) = (args.next(), args.next()) else {
        eprintln!("filtered: give CORPUS.npy and QUERIES.npy");
        std::process::exit(2);
    };
    let metric =
        if args.next().is_some_and(|arg| arg == "l2") { Metric::L2 } else { Metric::Cosine };
    let (corpus, queries) =
        (npy::read_matrix(&PathBuf::from(corpus))?, npy::read_matrix(&PathBuf::from(queries))?);
    let index = build(&corpus, metric, Options::default().scan_factor)?;
    // Walks wherever it can.
    let walker = build(&corpus, metric, 1)?;
    let counts = index.stats().counts;
    println!(
        "{} x {} f32, {metric}, {} queries, k={K}, {} graphs over all but {} rows",
        corpus.rows, corpus.dim, queries.rows, counts.graphs, counts.pending
    );
    let titles = [
        "scan: q/s, recall",
        "wide walk: q/s, recall",
        "this walk: q/s, recall",
        "index: q/s, recall",
    ];
    let [scan, wide, walk, own] = titles.map(|title| format!("{title:>26}"));
    println!("passing   ef {scan} {wide} {walk} {own}  walked");
    let bench = Bench {
        index: &index,
        queries: (0..queries.rows.min(QUERIES)).map(|row| queries.row(row)).collect(),
    };
    let forced = Bench { index: &walker, queries: bench.queries.clone() };
    for per_mille in PASSING {
        let passes = |slot: u64| mixed(slot) % 1000 < per_mille;
        let filter = |_: FileId, slot: Slot| passes(slot.0);
        let exact = bench.ask(&filter, K, Width::Exact)?;
        for ef in EFS {
            let mut seconds = [0.0; 4];
            let mut runs = [0.0; 4];
            let mut answers = [const { Vec::new() }; 4];
            for _ in 0..ROUNDS {
                let ways: [&dyn Fn() -> Result<Vec<Answer>>; 4] = [
                    &|| bench.ask(&filter, K, Width::Exact),
                    &|| bench.widened(passes, ef, per_mille as f64 / 1000.0),
                    &|| forced.ask(&filter, K, Width::Ef(ef)),
                    &|| bench.ask(&filter, K, Width::Ef(ef)),
                ];
                for (at, way) in ways.iter().enumerate() {
                    let start = thread_seconds();
                    // The system counts in steps of milliseconds.
                    loop {
                        answers[at] = way()?;
                        runs[at] += 1.0;
                        let passed = thread_seconds() - start;
                        if passed.is_nan() || passed >= 0.1 {
                            seconds[at] += passed;
                            break;
                        }
                    }
                }
            }
            let column = |at: usize| {
                let per_second = bench.queries.len() as f64 * runs[at] / seconds[at];
                format!("{per_second:>10.0} {:>7.4}", recall(&exact, &answers[at]))
            };
            let walked = answers[3].iter().filter(|answer| answer.ef.is_some()).count();
            println!(
                "{:>6.1}% {ef:>4} {:>26} {:>26} {:>26} {:>26}  {walked}",
                per_mille as f64 / 10.0,
                column(0),
                column(1),
                column(2),
                column(3)
            );
        }
    }
    Ok(())
}
