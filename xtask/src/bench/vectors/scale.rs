// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a search and a build cost as the set grows, and what becomes of a set that does not fit into memory.
//!
//! Our index alone, on generated sets from ten thousand rows to a million; the largest once more in a process
//! that is given [`LIMIT`] bytes of memory, page cache included, where the system lets us set that limit.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::chart::line;
use super::curve;
use super::engines::{self, OURS, Ready};
use super::report::{Clock, RECALLS};
use super::sets::Set;
use super::{EFS, Running, Turn, VectorArgs};
use crate::bench::report::short;
use crate::bench::svg::text;
use crate::ui::{Step, Ui};
use crate::workspace::Workspace;

const SIZES: [usize; 5] = [10_000, 30_000, 100_000, 300_000, 1_000_000];
/// Memory of the process that is given little.
const LIMIT: u64 = 256 << 20;

/// The index at one size.
struct Measured {
    rows: usize,
    limited: bool,
    /// Queries a second at each of [`RECALLS`], by the clock.
    qps: [Option<f64>; 2],
    /// The same by the processor's time.
    qps_cpu: [Option<f64>; 2],
    build_cpu_s: f64,
    bytes_per_vector: f64,
    open_ms: f64,
}

/// Measures, and writes table, JSON and picture.
pub fn run(workspace: &Workspace, ui: Ui, args: &VectorArgs) -> Result<()> {
    let engines = engines::prepare(workspace, ui, |name| name == OURS)?;
    let ready = engines.ready.first().context("the index cannot run here")?;
    let dir = workspace.target.join("bench/vectors");
    let mut all = Vec::new();
    for rows in SIZES {
        let step = ui.step(&format!("{rows} rows, and what is true of them"));
        let mut set = Set::clustered(&dir.join("sets"), &format!("clustered-{rows}"), rows)?;
        let scratch = tempfile::tempdir_in(&dir).context("cannot make a directory")?;
        set.find_truth(&mut engines.exact.start(&set, &scratch.path().join("exact"))?)?;
        step.done();
        let step = ui.step(&format!("{rows} rows: built and searched"));
        let saved = scratch.path().join("saved");
        let mut running = super::build(ready, &set, &saved)?;
        all.push(measure(&mut running, &set, false, args, &step)?);
        step.done();
        drop(running.engine);
        if rows == SIZES[SIZES.len() - 1] {
            match Limit::new() {
                Ok(limit) => {
                    let step = ui.step(&format!("{rows} rows within {} MiB", LIMIT >> 20));
                    forget(&saved)?;
                    running.engine = limit.wrap(ready).start(&set, &saved)?;
                    running.row.open_ms = Some(running.engine.open()?.ms);
                    running.row.cells.clear();
                    all.push(measure(&mut running, &set, true, args, &step)?);
                    step.done();
                }
                Err(why) => println!("not measured within little memory: {why:#}"),
            }
        }
    }
    let table = table(&all);
    println!("{table}");
    let mut dirs = vec![workspace.target.join("bench")];
    if args.save {
        dirs.push(workspace.root.join("docs/bench"));
    }
    let json = serde_json::to_string_pretty(&records(&all))? + "\n";
    for dir in dirs {
        for (end, content) in [("txt", &table), ("json", &json), ("svg", &draw(&all))] {
            let path = dir.join(format!("vectors-scale.{end}"));
            fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        println!("{}", dir.join("vectors-scale.{txt,json,svg}").display());
    }
    Ok(())
}

/// Drops files from the page cache: what another process has read does not count against a limit.
fn forget(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).context("nothing was saved")? {
        let path = entry.context("nothing was saved")?.path();
        let file =
            fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        file.sync_all().context("cannot sync the index")?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .context("the page cache cannot be told")?;
    }
    Ok(())
}

fn measure(
    running: &mut Running,
    set: &Set,
    limited: bool,
    args: &VectorArgs,
    step: &Step,
) -> Result<Measured> {
    for round in 0..args.rounds as usize {
        for ef in EFS {
            let turn = Turn { round, threads: 1, ef, millis: args.millis };
            turn.take(running, set, step)?;
        }
    }
    let row = &running.row;
    let at = |clock| {
        let points = row.curve(1, clock);
        RECALLS.map(|recall| curve::at(&points, recall).map(|speed| speed.qps))
    };
    Ok(Measured {
        rows: set.rows(),
        limited,
        qps: at(Clock::Wall),
        qps_cpu: at(Clock::Cpu),
        build_cpu_s: row.build_cpu_s,
        bytes_per_vector: row.bytes_per_vector,
        open_ms: row.open_ms.unwrap_or(f64::NAN),
    })
}

/// A group of processes with little memory; gone once this is dropped and they have ended.
struct Limit {
    dir: PathBuf,
}

impl Limit {
    fn new() -> Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").context("no control groups")?;
        let own = groups.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path));
        let (root, file, path) = match own {
            Some(path) => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", path),
            None => ("/sys/fs/cgroup", "memory.max", "/"),
        };
        let name = format!("vexfs-bench-{}", std::process::id());
        let dir = Path::new(root).join(path.trim_start_matches('/')).join(name);
        fs::create_dir(&dir).context("no group of processes can be made")?;
        let limit = Self { dir };
        fs::write(limit.dir.join(file), LIMIT.to_string())
            .context("the memory of a group cannot be limited")?;
        Ok(limit)
    }

    /// The same engine, started in the group.
    fn wrap(&self, ready: &Ready) -> Ready {
        let enter = format!("echo $$ > '{}/cgroup.procs' && exec \"$@\"", self.dir.display());
        ready.behind(["sh", "-c", &enter, "sh"].map(PathBuf::from))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // A process that is just ending may still be in it: then it stays, empty.
        let _ = fs::remove_dir(&self.dir);
    }
}

fn table(all: &[Measured]) -> String {
    let mut out = format!(
        "{OURS} alone, clustered rows of 128 dimensions, one thread; queries a second (and by CPU time)\n\n\
         {:>10}  {:>18}  {:>18}  {:>12}  {:>12}  {:>9}  {:>8}\n",
        "rows", "at recall .95", "at recall .99", "build CPU s", "us a row", "B/vector", "open ms"
    );
    for one in all {
        let cell = |at: usize| match (one.qps[at], one.qps_cpu[at]) {
            (Some(wall), Some(cpu)) => format!("{} ({})", short(wall), short(cpu)),
            _ => "-".to_owned(),
        };
        let _ = writeln!(
            out,
            "{:>10}  {:>18}  {:>18}  {:>12.1}  {:>12.1}  {:>9.0}  {:>8.1}{}",
            one.rows,
            cell(0),
            cell(1),
            one.build_cpu_s,
            one.build_cpu_s * 1e6 / one.rows as f64,
            one.bytes_per_vector,
            one.open_ms,
            if one.limited { format!("  within {} MiB", LIMIT >> 20) } else { String::new() },
        );
    }
    out
}

fn records(all: &[Measured]) -> Vec<serde_json::Value> {
    all.iter()
        .map(|one| {
            json!({
                "engine": OURS, "rows": one.rows,
                "memory_bytes": one.limited.then_some(LIMIT),
                "qps_95": one.qps[0], "qps_99": one.qps[1],
                "qps_cpu_95": one.qps_cpu[0], "qps_cpu_99": one.qps_cpu[1],
                "build_cpu_s": one.build_cpu_s, "bytes_per_vector": one.bytes_per_vector,
                "open_ms": one.open_ms,
            })
        })
        .collect()
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 56.0;

/// Microseconds of a processor for a search and for a row that is indexed, against rows; both axes logarithmic.
fn draw(all: &[Measured]) -> String {
    let whole: Vec<&Measured> = all.iter().filter(|one| !one.limited).collect();
    let search = |at: usize| -> Vec<(f64, f64)> {
        let cost = |one: &&Measured| Some((one.rows as f64, 1e6 / one.qps_cpu[at]?));
        whole.iter().filter_map(cost).collect()
    };
    let build: Vec<(f64, f64)> = whole
        .iter()
        .map(|one| (one.rows as f64, one.build_cpu_s * 1e6 / one.rows as f64))
        .collect();
    let curves = [
        ("search, recall .95", "#1f9d8a", search(0)),
        ("search, recall .99", "#2f6690", search(1)),
        ("a row indexed", "#c9a35b", build),
    ];
    let costs = || curves.iter().flat_map(|(_, _, points)| points).map(|(_, cost)| *cost);
    let (least, most) = (costs().fold(f64::MAX, f64::min), costs().fold(1.0, f64::max));
    let (low, high) = ((least.min(most) / 1.3).ln(), (most * 1.3).ln());
    let (first, last) = (SIZES[0] as f64, SIZES[SIZES.len() - 1] as f64);
    let across =
        |rows: f64| LEFT + (rows / first).ln() / (last / first).ln() * (WIDTH - LEFT - RIGHT);
    let up =
        |cost: f64| HEIGHT - BOTTOM - (cost.ln() - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut body = String::new();
    let title = "what a search and a row cost, as the set grows";
    text(&mut body, 12.0, 26.0, "start", 16, "bold", title);
    let unit = "microseconds of one processor; 128 dimensions, clustered";
    text(&mut body, 12.0, 45.0, "start", 12, "normal", unit);
    for rows in SIZES {
        let x = across(rows as f64);
        line(&mut body, (x, TOP), (x, HEIGHT - BOTTOM));
        text(&mut body, x, HEIGHT - BOTTOM + 18.0, "middle", 11, "normal", &rows.to_string());
    }
    for cost in (0..6).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power))) {
        if (low..=high).contains(&cost.ln()) {
            line(&mut body, (LEFT, up(cost)), (WIDTH - RIGHT, up(cost)));
            text(&mut body, LEFT - 6.0, up(cost) + 4.0, "end", 11, "normal", &short(cost));
        }
    }
    text(&mut body, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0, "middle", 12, "normal", "rows");
    for (number, (name, colour, points)) in curves.iter().enumerate() {
        let mut path = String::new();
        for (rows, cost) in points {
            let (x, y) = (across(*rows), up(*cost));
            let _ = write!(path, "{x:.1},{y:.1} ");
            let _ =
                writeln!(body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let _ = writeln!(
            body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
            path.trim_end()
        );
        let y = TOP + 14.0 + 20.0 * number as f64;
        let _ = writeln!(
            body,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            WIDTH - RIGHT + 14.0,
            y - 9.0
        );
        text(&mut body, WIDTH - RIGHT + 30.0, y, "start", 12, "normal", name);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\">\n{body}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::{Measured, SIZES, draw, records, table};

    fn measured(rows: usize, limited: bool) -> Measured {
        Measured {
            rows,
            limited,
            qps: [Some(20_000.0), None],
            qps_cpu: [Some(21_000.0), None],
            build_cpu_s: rows as f64 / 20_000.0,
            bytes_per_vector: 270.0,
            open_ms: 0.5,
        }
    }

    #[test]
    fn every_size_has_a_line_and_a_place_in_the_picture() {
        let mut all: Vec<_> = SIZES.into_iter().map(|rows| measured(rows, false)).collect();
        all.push(measured(1_000_000, true));
        let text = table(&all);
        assert_eq!(text.lines().count(), 3 + all.len());
        assert!(text.contains("20.0k (21.0k)") && text.contains("within 256 MiB"), "{text}");
        let picture = draw(&all);
        // Two curves of five; what was never reached, and what had little memory, is not drawn.
        assert_eq!(picture.matches("<circle").count(), 10);
        assert!(!picture.contains("NaN"));
        assert_eq!(records(&all)[5]["memory_bytes"], 256 << 20);
        assert!(records(&all)[0]["memory_bytes"].is_null());
    }
}
