// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `stats`: what a device's daemon says of its requests and its index.

use crate::cli::StatsArgs;
use crate::control::client;
use crate::control::wire::{IndexStats, KindStats, Reply, Request, Stats};
use crate::error::{Error, Result};
use crate::state::RunDir;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Names of the latencies that are kept.
const PERCENTILES: [&str; 5] = ["p50", "p90", "p99", "p999", "max"];

pub fn run(args: &StatsArgs) -> Result<()> {
    let run_dir = RunDir::default_path();
    let Some(state) = run_dir.load(args.id)? else { return Err(Error::NoDevice(args.id)) };
    let Reply::Stats(stats) = client::ask(&state.socket, &Request::Stats)? else {
        return Err(Error::Protocol("an answer to another question".into()));
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
    let kind = |kind: &KindStats| {
        let latency: Map<_, _> = PERCENTILES
            .iter()
            .zip(kind.latency_ns)
            .map(|(name, nanos)| ((*name).to_owned(), json!(microseconds(nanos))))
            .collect();
        let value = json!({
            "requests": kind.requests,
            "bytes": kind.bytes,
            "errors": kind.errors,
            "latency_us": latency,
        });
        (kind.kind.clone(), value)
    };
    let index = |index: &IndexStats| {
        json!({
            "files": index.files,
            "vectors": index.vectors,
            "segments": index.segments,
            "graphs": index.graphs,
            "tombstones": index.tombstones,
            "pending": index.pending,
            "skipped": index.skipped,
            "bytes": index.bytes,
            "generation": index.generation,
            "lag": index.lag,
            "unread": index.unread,
            "checkpoint": index.checkpoint,
        })
    };
    json!({
        "id": id,
        "uptime_seconds": stats.uptime_seconds,
        "requests": stats.kinds.iter().map(kind).collect::<Map<_, _>>(),
        "index": stats.index.as_ref().map(index),
        "problem": stats.problem,
    })
}

fn to_text(stats: &Stats) -> String {
    let mut text = format!(
        "{:<13}{:>12}{:>16}{:>8}{:>11}{:>11}{:>11}{:>11}{:>11}\n",
        "", "requests", "bytes", "errors", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us"
    );
    for kind in &stats.kinds {
        let _ = write!(
            text,
            "{:<13}{:>12}{:>16}{:>8}",
            kind.kind, kind.requests, kind.bytes, kind.errors
        );
        for nanos in kind.latency_ns {
            let _ = write!(text, "{:>11.1}", microseconds(nanos));
        }
        text.push('\n');
    }
    let _ = match &stats.index {
        Some(index) => writeln!(
            text,
            "index: {} files, {} vectors, {} segments ({} with a graph, {} vectors outside), {} tombstones, {} skipped, {} bytes, generation {}, lag {}, unread {}",
            index.files,
            index.vectors,
            index.segments,
            index.graphs,
            index.pending,
            index.tombstones,
            index.skipped,
            index.bytes,
            index.generation,
            index.lag,
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

    #[test]
    fn both_forms_say_the_same() {
        let stats = Stats {
            uptime_seconds: 5,
            kinds: vec![KindStats {
                kind: "read".into(),
                requests: 7,
                bytes: 4096,
                errors: 1,
                latency_ns: [1500, 2000, 3000, 4000, 5000],
            }],
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
