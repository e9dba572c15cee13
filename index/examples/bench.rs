// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Build time, queries a second and recall, on a `.npy` corpus or on generated clusters. Seconds and
//! queries a second are by processor time, so that other work on the machine counts little.
//!
//!     cargo run --release -p vexfs-index --example bench [CORPUS.npy [QUERIES.npy]]
//!
//! With `VEXFS_GRAPH=hnsw_rs` in the environment, graphs are those of that library. With `VEXFS_STREAM=ROWS`
//! the index settles after every so many rows.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use vexfs_index::{
    DirStore, Element, FileId, GraphKind, Hit, Index, Metric, Options, Params, Result, Slot, Space,
    npy::{self, Matrix},
};

const FILE: FileId = FileId(1);
const K: usize = 10;

/// Memory that is not the page cache's.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    number.unwrap_or(f64::NAN) / 1024.0
}

/// Rows around random centres, deterministic.
fn clusters(rows: usize, dim: usize) -> Matrix {
    let mut state = 42u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let centres: Vec<Vec<f32>> =
        (0..=rows / 50).map(|_| (0..dim).map(|_| next() * 2.0).collect()).collect();
    let data = (0..rows)
        .flat_map(|row| centres[row % centres.len()].iter().map(|x| x + next()).collect::<Vec<_>>())
        .collect();
    Matrix { rows, dim, data }
}

/// Seconds of processor time of this thread, where the system says so.
fn thread_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) / 1e9
}

/// The same of all threads that there are and were.
fn process_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks =
        after_name.split_whitespace().skip(11).take(2).filter_map(|x| x.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

fn search(
    index: &Index,
    queries: &Matrix,
    ef: Option<usize>,
    exact: bool,
) -> Result<(f64, Vec<Vec<Hit>>)> {
    let start = thread_seconds();
    let mut rounds = 0.0;
    loop {
        let hits = (0..queries.rows)
            .map(|row| index.search(&[FILE], queries.row(row), K, ef, exact))
            .collect::<Result<Vec<_>>>()?;
        rounds += 1.0;
        // The system counts in steps of milliseconds.
        let seconds = thread_seconds() - start;
        if seconds.is_nan() || seconds >= 0.3 {
            return Ok((queries.rows as f64 * rounds / seconds, hits));
        }
    }
}

fn recall(exact: &[Vec<Hit>], found: &[Vec<Hit>]) -> f64 {
    let good: usize = exact
        .iter()
        .zip(found)
        .map(|(exact, found)| {
            let worst = exact.last().map_or(0.0, |hit| hit.distance) + 1e-6;
            found.iter().filter(|hit| hit.distance <= worst).count()
        })
        .sum();
    good as f64 / exact.iter().map(Vec::len).sum::<usize>().max(1) as f64
}

/// The vectors to index, and those to search for.
fn input() -> Result<(Matrix, Matrix)> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let corpus = match paths.next() {
        Some(path) => npy::read_matrix(&path)?,
        None => clusters(20_000, 384),
    };
    let queries = if let Some(path) = paths.next() {
        npy::read_matrix(&path)?
    } else {
        let step = (corpus.rows / 200).max(1);
        let rows = (0..corpus.rows).step_by(step);
        let data: Vec<f32> = rows.flat_map(|row| corpus.row(row).to_vec()).collect();
        Matrix { rows: data.len() / corpus.dim, dim: corpus.dim, data }
    };
    Ok((corpus, queries))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Inserts the corpus, and searches while graphs are built.
fn build(index: &Index, corpus: &Matrix, queries: &Matrix) -> Result<f64> {
    let space = Space::new(Element::F32, Metric::Cosine, corpus.dim as u32);
    index.declare(FILE, space, Params::default())?;
    let bytes: Vec<u8> = corpus.data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let base = resident_mib();
    let (start, cpu) = (Instant::now(), process_seconds());
    let streamed = std::env::var("VEXFS_STREAM").ok().and_then(|rows| rows.parse::<usize>().ok());
    let batch_rows = streamed.unwrap_or(1000).max(1);
    for (i, batch) in bytes.chunks(batch_rows * corpus.dim * 4).enumerate() {
        index.upsert_rows(FILE, Slot((i * batch_rows) as u64), batch, corpus.dim * 4, 0)?;
        if streamed.is_some() {
            index.settle();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("upsert     {seconds:8.2} s  {:8.0} vectors/s", corpus.rows as f64 / seconds);
    let (qps, _) = search(index, queries, None, false)?;
    println!("while building      {qps:8.0} queries/s");
    index.settle();
    let (wall, cpu) = (start.elapsed().as_secs_f64(), process_seconds() - cpu);
    println!("all built  {wall:8.2} s, {cpu:.2} s of processors, with the searches meanwhile");
    let counts = index.stats().counts;
    println!(
        "resident   {:8.1} MiB more ({} segments, {} graphs, {} pending; estimate {:.1} MiB)",
        resident_mib() - base,
        counts.segments,
        counts.graphs,
        counts.pending,
        mib(counts.bytes)
    );
    Ok(base)
}

/// Recall and queries a second by the width of the search.
fn measure(index: &Index, queries: &Matrix) -> Result<()> {
    let (qps, exact) = search(index, queries, None, true)?;
    println!("exact               {qps:8.0} queries/s  recall 1");
    for ef in [10, 20, 30, 40, 60, 80, 160, 320] {
        let (qps, found) = search(index, queries, Some(ef), false)?;
        println!("ef {ef:4}             {qps:8.0} queries/s  recall {:.4}", recall(&exact, &found));
    }
    Ok(())
}

/// Saves the index, closes it and opens it again.
fn reopen(index: Index, dir: &Path, base: f64, queries: &Matrix) -> Result<()> {
    let start = Instant::now();
    let written = index.checkpoint(1, b"", &[(FILE, Vec::new())])?;
    let seconds = start.elapsed().as_secs_f64();
    println!("checkpoint {seconds:8.2} s  {:8.1} MiB", mib(written.bytes));
    println!("resident   {:8.1} MiB more, after it", resident_mib() - base);
    let start = Instant::now();
    drop(index);
    println!("close      {:8.2} s", start.elapsed().as_secs_f64());
    let base = resident_mib();
    let start = Instant::now();
    let (index, recovered) = Index::open(Some(Box::new(DirStore::open(dir)?)), options())?;
    let graphs = index.stats().counts.graphs;
    println!(
        "reopen     {:8.4} s  generation {:?}, {graphs} graphs, problems: {:?}",
        start.elapsed().as_secs_f64(),
        recovered.covered.map(|covered| covered.generation),
        recovered.problems
    );
    index.settle();
    println!("verified   {:8.4} s", start.elapsed().as_secs_f64());
    measure(&index, queries)?;
    println!("resident   {:8.1} MiB more, and what the page cache has", resident_mib() - base);
    Ok(())
}

fn options() -> Options {
    let graph = match std::env::var("VEXFS_GRAPH").as_deref() {
        Ok("hnsw_rs") => GraphKind::HnswRs,
        _ => GraphKind::Flat,
    };
    Options { nice: 0, scan_factor: 1, graph, ..Options::default() }
}

fn main() -> Result<()> {
    let (corpus, queries) = input()?;
    println!("{} x {} f32, cosine, {} queries, k={K}", corpus.rows, corpus.dim, queries.rows);
    let dir = std::env::temp_dir().join(format!("vexfs-bench-{}", std::process::id()));
    let store = DirStore::open(&dir)?;
    let (index, _) = Index::open(Some(Box::new(store)), options())?;
    let base = build(&index, &corpus, &queries)?;
    measure(&index, &queries)?;
    reopen(index, &dir, base, &queries)?;
    // If it cannot be removed, it stays in the temporary directory.
    let _ = std::fs::remove_dir_all(&dir);
    Ok(())
}
