// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `stats`: a device's requests and its index in numbers.

use crate::cli::StatsArgs;
use crate::control::client;
use crate::control::wire::{Reply, Request, Stats};
use crate::error::{Error, Result};
use crate::request::Kind;
use crate::state::RunDir;
use crate::stats::{KindStats, PERCENTILES};
use serde_json::{Map, Value, json};
use std::fmt::Write;

pub fn run(args: &StatsArgs) -> Result<()> {
    let run_dir = RunDir::default_path();
    let Some(state) = run_dir.load(args.id)? else { return Err(Error::NoDevice(args.id)) };
    let Reply::Stats(stats) = client::ask(&state.socket, &Request::Stats)? else {
        return Err(client::unexpected());
    };
    if args.json {
        super::print_json(&to_json(args.id, &stats))
    } else {
        super::print(&to_text(&stats))
    }
}

fn microseconds(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

fn to_json(id: u32, stats: &Stats) -> Value {
    let kind = |(kind, stats): &(Kind, KindStats)| {
        let latency: Map<_, _> = PERCENTILES
            .iter()
            .zip(stats.latency_ns)
            .map(|(name, nanos)| ((*name).to_owned(), json!(microseconds(nanos))))
            .collect();
        let value = json!({
            "requests": stats.requests,
            "bytes": stats.bytes,
            "errors": stats.errors,
            "latency_us": latency,
        });
        (kind.name().to_owned(), value)
    };
    json!({
        "id": id,
        "uptime_seconds": stats.uptime_seconds,
        "requests": stats.kinds.iter().map(kind).collect::<Map<_, _>>(),
        "index": stats.index,
        "problem": stats.problem,
    })
}

fn to_text(stats: &Stats) -> String {
    let mut text = format!(
        "{:<13}{:>12}{:>16}{:>8}{:>11}{:>11}{:>11}{:>11}{:>11}\n",
        "", "requests", "bytes", "errors", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us"
    );
    for (kind, stats) in &stats.kinds {
        let KindStats { requests, bytes, errors, latency_ns } = stats;
        let _ = write!(text, "{:<13}{requests:>12}{bytes:>16}{errors:>8}", kind.name());
        for nanos in *latency_ns {
            let _ = write!(text, "{:>11.1}", microseconds(nanos));
        }
        text.push('\n');
    }
    let _ = match &stats.index {
        Some(index) => writeln!(
            text,
            "index: {} files, {} vectors, {} segments ({} with a graph, {} vectors outside), {} tombstones, {} skipped, {} bytes, generation {}, lag {} generations and {} ms, unread {}",
            index.files,
            index.vectors,
            index.segments,
            index.graphs,
            index.pending,
            index.tombstones,
            index.skipped,
            index.bytes,
            index.generation,
            index.lag_generations,
            index.lag_ms,
            index.unread
        ),
        None => writeln!(text, "index: no VexFS on the device"),
    };
    if let Some(problem) = &stats.problem {
        let _ = writeln!(text, "index: {problem}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::IndexStats;

    #[test]
    fn both_forms_say_the_same() {
        let stats = Stats {
            uptime_seconds: 5,
            kinds: vec![(
                Kind::Read,
                KindStats {
                    requests: 7,
                    bytes: 4096,
                    errors: 1,
                    latency_ns: [1500, 2000, 3000, 4000, 5000],
                },
            )],
            index: Some(IndexStats { files: 2, vectors: 30, generation: 9, ..Default::default() }),
            problem: None,
        };
        let json = to_json(3, &stats);
        assert_eq!(json["requests"]["read"]["latency_us"]["p50"], 1.5);
        assert_eq!(json["index"]["generation"], 9);
        let text = to_text(&stats);
        assert!(text.contains("2 files, 30 vectors") && text.contains("1.5"), "{text}");
    }
}
