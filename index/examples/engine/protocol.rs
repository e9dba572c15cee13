// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How an engine of `cargo xtask bench vectors` is spoken to: one process an engine, a line of words in,
//! a line of JSON out.
//!
//! `build` indexes the corpus and saves it, `open` opens what was saved, `search EF K THREADS MILLIS IDS`
//! asks all queries again and again until each thread has used so much of a processor's time, `truth K`
//! answers without an index, `quit` ends. An error is an answer too, `{"error": "..."}`; only a broken
//! pipe or an unknown word ends the process. Times are this process's own: by the clock, and by the
//! processors' time of all its threads.

use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What every step may fail with: it ends as text in an answer.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Rows of `f32`.
pub struct Rows {
    /// Elements of a row.
    pub dim: usize,
    /// Row after row.
    pub data: Vec<f32>,
}

impl Rows {
    fn read(path: &str, dim: usize) -> Outcome<Self> {
        let bytes = std::fs::read(path)?;
        // The conductor writes version 1.0 headers only: magic, version, length of the rest.
        let length = bytes.get(8..10).ok_or("the file has no .npy header")?;
        let start = 10 + usize::from(u16::from_le_bytes([length[0], length[1]]));
        let body = bytes.get(start..).ok_or("the file ends in its .npy header")?;
        let (numbers, _) = body.as_chunks::<4>();
        Ok(Self { dim, data: numbers.iter().map(|x| f32::from_le_bytes(*x)).collect() })
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.dim)
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.dim
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.dim..][..self.dim]
    }
}

/// What the process was started with.
pub struct Job {
    /// Which engine.
    pub engine: String,
    /// Whether rows are compared by their angle (they have unit length then) and not by distance.
    pub cosine: bool,
    /// Where the index is saved: an empty directory at first.
    pub scratch: PathBuf,
    corpus: String,
    queries: String,
    dim: usize,
}

impl Job {
    /// `ENGINE CORPUS.npy QUERIES.npy DIM l2|cosine SCRATCH`.
    pub fn from_args() -> Outcome<Self> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let [engine, corpus, queries, dim, metric, scratch] = <[String; 6]>::try_from(words)
            .map_err(|_| "started by 'cargo xtask bench vectors' only")?;
        Ok(Self {
            engine,
            cosine: metric == "cosine",
            scratch: scratch.into(),
            corpus,
            queries,
            dim: dim.parse()?,
        })
    }

    /// One that has no files, for tests.
    #[cfg(test)]
    pub fn of(engine: &str, cosine: bool, scratch: &std::path::Path) -> Self {
        let (corpus, queries, dim) = (String::new(), String::new(), 1);
        Self { engine: engine.into(), cosine, scratch: scratch.into(), corpus, queries, dim }
    }

    /// Reads the rows to index.
    pub fn corpus(&self) -> Outcome<Rows> {
        Rows::read(&self.corpus, self.dim)
    }
}

/// An engine, between being started and being told to end.
pub trait Engine: Sync {
    /// Indexes the rows.
    fn build(&mut self, job: &Job, rows: &Rows) -> Outcome<()>;
    /// What was built, in a few words.
    fn note(&self) -> String {
        String::new()
    }
    /// Saves the index; false if the engine cannot.
    fn save(&mut self, job: &Job) -> Outcome<bool>;
    /// Opens what was saved.
    fn open(&mut self, job: &Job) -> Outcome<()>;
    /// Resident bytes of mapped files that hold the vectors and nothing else.
    fn mapped_vectors(&self, job: &Job) -> u64 {
        let _ = job;
        0
    }
    /// The numbers of the `k` nearest rows; appended.
    fn search(&self, query: &[f32], k: usize, ef: usize, found: &mut Vec<u64>) -> Outcome<()>;
}

/// Obeys standard input until it ends.
pub fn serve(job: &Job, version: &str, mut engine: impl Engine) -> Outcome<()> {
    let queries = Rows::read(&job.queries, job.dim)?;
    say(&format!("{{\"ready\": {version:?}}}"))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["build"] => build(job, &mut engine),
            ["open"] => open(job, &mut engine, &queries),
            ["search", ef, k, threads, millis, ids] => {
                let numbers = (ef.parse()?, k.parse()?, threads.parse()?, millis.parse()?);
                search(&engine, &queries, numbers, ids == "1")
            }
            ["truth", k] => truth(&job.corpus()?, &queries, k.parse()?),
            ["quit"] => return Ok(()),
            _ => return Err(format!("not understood: {line}").into()),
        };
        say(&answer.unwrap_or_else(|error| format!("{{\"error\": {:?}}}", error.to_string())))?;
    }
    Ok(())
}

fn say(answer: &str) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

fn build(job: &Job, engine: &mut impl Engine) -> Outcome<String> {
    let rows = job.corpus()?;
    let (resident, cpu, start) = (resident(), cpu_time(), Instant::now());
    engine.build(job, &rows)?;
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_time().saturating_sub(cpu).as_secs_f64());
    let grown = self::resident().saturating_sub(resident);
    let (note, saved) = (engine.note(), engine.save(job)?);
    Ok(format!(
        "{{\"build_s\": {wall}, \"build_cpu_s\": {cpu}, \"grown\": {grown}, \"saved\": {saved}, \
         \"note\": {note:?}}}"
    ))
}

/// Opens and asks every query once, so that what a search needs is resident.
fn open(job: &Job, engine: &mut impl Engine, queries: &Rows) -> Outcome<String> {
    let (resident, start) = (resident(), Instant::now());
    engine.open(job)?;
    let millis = start.elapsed().as_secs_f64() * 1e3;
    let mut found = Vec::new();
    for query in queries.iter() {
        found.clear();
        engine.search(query, 10, 80, &mut found)?;
    }
    // Pages of the vectors can go at any time: they are told apart.
    let vectors = engine.mapped_vectors(job);
    let grown = self::resident().saturating_sub(resident).saturating_sub(vectors);
    Ok(format!("{{\"open_ms\": {millis}, \"grown\": {grown}, \"vectors\": {vectors}}}"))
}

fn search(
    engine: &impl Engine,
    queries: &Rows,
    (ef, k, threads, millis): (usize, usize, usize, u64),
    with_ids: bool,
) -> Outcome<String> {
    let mut ids = String::from("null");
    if with_ids {
        let mut lists = Vec::new();
        for query in queries.iter() {
            let mut found = Vec::with_capacity(k);
            engine.search(query, k, ef, &mut found)?;
            lists.push(format!("{found:?}"));
        }
        ids = format!("[{}]", lists.join(","));
    }
    // By the clock a busy machine would leave room for one pass only.
    let limit = Duration::from_millis(millis * threads as u64);
    let (cpu, start) = (cpu_time(), Instant::now());
    let asked: Outcome<Vec<usize>> = std::thread::scope(|scope| {
        let searcher = || -> Outcome<usize> {
            let (mut asked, mut found) = (0, Vec::with_capacity(k));
            while cpu_time().saturating_sub(cpu) < limit {
                for query in queries.iter() {
                    found.clear();
                    engine.search(query, k, ef, &mut found)?;
                    std::hint::black_box(&found);
                }
                asked += queries.len();
            }
            Ok(asked)
        };
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(searcher)).collect();
        let mut all = vec![searcher()?];
        for other in others {
            all.push(other.join().map_err(|_| "a searcher panicked")??);
        }
        Ok(all)
    });
    let asked: usize = asked?.iter().sum();
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_time().saturating_sub(cpu).as_secs_f64());
    Ok(format!("{{\"queries\": {asked}, \"wall_s\": {wall}, \"cpu_s\": {cpu}, \"ids\": {ids}}}"))
}

/// The squared distance of every query's `k`-th nearest row, by looking at all rows.
fn truth(rows: &Rows, queries: &Rows, k: usize) -> Outcome<String> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = queries.len().div_ceil(threads).max(1) * queries.dim;
    let parts: Outcome<Vec<Vec<f64>>> = std::thread::scope(|scope| {
        let part = |part: &[f32]| -> Vec<f64> {
            part.chunks_exact(rows.dim).map(|query| kth(rows, query, k)).collect()
        };
        let all: Vec<_> =
            queries.data.chunks(share).map(|share| scope.spawn(move || part(share))).collect();
        all.into_iter()
            .map(|one| one.join().map_err(|_| "the exact search panicked".into()))
            .collect()
    });
    let mut text = String::new();
    for distance in parts?.into_iter().flatten() {
        let _ = write!(text, "{}{distance:e}", if text.is_empty() { "" } else { "," });
    }
    Ok(format!("{{\"kth\": [{text}]}}"))
}

fn kth(rows: &Rows, query: &[f32], k: usize) -> f64 {
    let mut all: Vec<(f32, usize)> = rows.iter().map(|row| squared(row, query)).zip(0..).collect();
    let Some(last) = all.len().checked_sub(1) else { return f64::MAX };
    let k = k.saturating_sub(1).min(last);
    // Sums of singles choose with room to spare; sums of doubles rank.
    let wide = (k + 50).min(last);
    all.select_nth_unstable_by(wide, |a, b| a.0.total_cmp(&b.0));
    let mut exact: Vec<f64> = all[..=wide]
        .iter()
        .map(|&(_, row)| {
            let pairs = rows.row(row).iter().zip(query);
            pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
        })
        .collect();
    exact.sort_by(f64::total_cmp);
    exact.get(k).copied().unwrap_or(f64::MAX)
}

/// Sixteen sums side by side, which the compiler keeps in vector registers.
fn squared(a: &[f32], b: &[f32]) -> f32 {
    let (mut sums, mut rest) = ([0.0_f32; 16], 0.0);
    let (left, left_rest) = a.as_chunks::<16>();
    let (right, right_rest) = b.as_chunks::<16>();
    for (x, y) in left.iter().zip(right) {
        for at in 0..16 {
            sums[at] += (x[at] - y[at]) * (x[at] - y[at]);
        }
    }
    for (x, y) in left_rest.iter().zip(right_rest) {
        rest += (x - y) * (x - y);
    }
    sums.iter().sum::<f32>() + rest
}

/// Resident bytes of this process, mapped files included.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Resident bytes of those mappings of this process whose file `counts`.
pub fn resident_of(counts: impl Fn(&str) -> bool) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    resident_in(&maps, counts)
}

fn resident_in(maps: &str, counts: impl Fn(&str) -> bool) -> u64 {
    let (mut is_counted, mut kib) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if is_counted => {
                kib += words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            }
            // The line of a mapping: addresses, rights, offset, device, inode, and its file.
            Some(first) if !first.ends_with(':') => {
                is_counted = words.nth(4).is_some_and(&counts);
            }
            _ => {}
        }
    }
    kib << 10
}

/// The processor's time of all threads of this process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::{Rows, kth, resident_in, truth};

    #[test]
    fn mappings_are_told_apart_by_their_files() {
        let maps = "7f00-7f10 r--s 00000000 fe:00 12   /a/blob-0\nSize: 64 kB\nRss: 40 kB\n\
                    VmFlags: rd\n7f20-7f30 r--s 00000000 fe:00 13 /a/blob-1\nRss: 8 kB\n\
                    7f40-7f50 rw-p 00000000 00:00 0\nRss: 4 kB\n";
        assert_eq!(resident_in(maps, |file| file == "/a/blob-0"), 40 << 10);
        assert_eq!(resident_in(maps, |_| true), 48 << 10);
    }

    #[test]
    fn the_exact_search_ranks_by_distance() {
        // Rows 0 to 399 on a line of 17 dimensions, so that a remainder is summed too.
        let line = |from: usize, to: usize| Rows {
            dim: 17,
            data: (from..to).flat_map(|x| [x as f32; 17]).collect(),
        };
        let (rows, queries) = (line(0, 400), line(398, 401));
        assert!((kth(&rows, rows.row(100), 1) - 0.0).abs() < 1e-9);
        // One on each side, then two, and so on: the fifth is two away.
        assert!((kth(&rows, rows.row(100), 5) - 4.0 * 17.0).abs() < 1e-9);
        // More than there are: the farthest.
        assert!((kth(&rows, rows.row(0), 1000) - 399.0 * 399.0 * 17.0).abs() < 1e-3);
        // Queries of all threads, in order: 398, 399 and 400.
        let answer = truth(&rows, &queries, 2).unwrap();
        assert_eq!(answer, "{\"kth\": [1.7e1,1.7e1,6.8e1]}");
    }
}
