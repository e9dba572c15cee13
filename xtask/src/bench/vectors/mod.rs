// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask bench vectors`: the index beside the libraries that people use, on this machine.
//!
//! Every engine is a process that obeys lines; this is their conductor. All build one after the other, then
//! they search in turns, width by width, so that what else the machine does meets all alike. An engine that
//! cannot run here is left out by name, with its reason. A slow result is a result.

mod chart;
mod conductor;
mod curve;
mod engines;
mod report;
mod scale;
mod sets;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::shell::Cmd;
use crate::ui::{Step, Ui};
use crate::workspace::Workspace;
use conductor::Engine;
use engines::{ENGINES, Engines, OURS, Ready, short};
use report::{Cell, Results, Row};
use sets::{K, Metric, Set};

/// Candidates that a search considers: the points of a curve.
const EFS: [usize; 6] = [10, 20, 40, 80, 160, 320];
/// How many search at once.
const THREADS: [usize; 2] = [1, 2];
/// Where the real embeddings lie that are used if they are there, beside the repository.
const NEIGHBOURS: [&str; 2] = ["../shared/data/packages-20k.npy", "../shared/data/queries-200.npy"];

/// What to compare, on what.
///
/// Queries a second are by the clock; beside them stands the same by the processors' time of the engine's
/// process, which a busy machine distorts less: trust its ratios when the two disagree.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "they are the flags of a command")]
pub struct VectorArgs {
    /// Search these embeddings instead of the usual sets: an .npy file of float32 (with --queries)
    #[arg(long, value_name = "X.npy", requires = "queries")]
    corpus: Option<PathBuf>,
    /// The queries, of as many elements as the corpus
    #[arg(long, value_name = "Q.npy", requires = "corpus")]
    queries: Option<PathBuf>,
    /// How --corpus is compared
    #[arg(long, value_name = "METRIC", default_value = "cosine")]
    metric: Metric,
    /// Search only this set; may be repeated: clustered, packages-20k, million
    #[arg(long = "set", value_name = "SET", conflicts_with = "corpus")]
    sets: Vec<String>,
    /// Search a million generated vectors too: an hour, and 12 GB of memory
    #[arg(long, conflicts_with = "corpus")]
    million: bool,
    /// Instead: our index alone on sets from ten thousand rows to a million, and on little memory
    #[arg(long, conflicts_with_all = ["corpus", "sets", "million", "engines", "json"])]
    scale: bool,
    /// Run only this engine; may be repeated
    #[arg(long = "engine", value_name = "ENGINE",
          value_parser = ENGINES.map(|(name, _)| name))]
    engines: Vec<String>,
    /// How often each width of each engine is measured
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Milliseconds of a processor's time of each measurement
    #[arg(long, value_name = "MS", default_value = "200", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    millis: u64,
    /// Also write the figures here: a list with a record for every engine, set, threads and ef
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also search each set filtered, at 50 to 0.1 % of rows that pass, beside both baselines
    #[arg(long)]
    filtered: bool,
    /// Also write table, JSON and pictures into docs/bench
    #[arg(long)]
    save: bool,
}

/// Compares, and writes the results into target/bench.
pub fn run(workspace: &Workspace, args: &VectorArgs) -> Result<()> {
    let ui = Ui::new();
    if args.scale {
        return scale::run(workspace, ui, args);
    }
    let (wanted, missing) = wanted_sets(workspace, args)?;
    let asked = |name: &str| args.engines.is_empty() || args.engines.iter().any(|n| n == name);
    let engines = engines::prepare(workspace, ui, asked)?;
    ensure!(!engines.ready.is_empty(), "no engine can run here: {:?}", engines.left_out);

    let mut all = Vec::new();
    for want in wanted {
        let step = ui.step(&format!("{}: rows, and what is true of them", want.name()));
        let dir = workspace.target.join("bench/vectors/sets");
        let mut set = want.make(&dir)?;
        let scratch = tempfile::tempdir_in(workspace.target.join("bench/vectors"))
            .context("cannot make a directory for saved indexes")?;
        set.find_truth(&mut engines.exact.start(&set, &scratch.path().join("exact"))?)?;
        step.done();
        let results = measure(ui, &set, &engines, args, scratch.path());
        println!("{}", results.table());
        if args.filtered {
            println!("{}", engines::filtered(workspace, ui, &set)?);
        }
        all.push(results);
    }
    for set in &missing {
        println!("{set}");
    }
    write(workspace, args, &all, &missing)
}

/// A set that is to be searched.
enum Wanted {
    Generated(&'static str, usize),
    Given { corpus: PathBuf, queries: PathBuf, metric: Metric },
}

impl Wanted {
    fn name(&self) -> String {
        match self {
            Self::Generated(name, _) => (*name).to_owned(),
            Self::Given { corpus, .. } => {
                corpus.file_stem().unwrap_or_default().to_string_lossy().into_owned()
            }
        }
    }

    fn make(self, dir: &Path) -> Result<Set> {
        match self {
            Self::Generated(name, rows) => Set::clustered(dir, name, rows),
            Self::Given { corpus, queries, metric } => Set::given(dir, &corpus, &queries, metric),
        }
    }
}

/// The sets to search, and a line for each that is not there.
fn wanted_sets(workspace: &Workspace, args: &VectorArgs) -> Result<(Vec<Wanted>, Vec<String>)> {
    if let (Some(corpus), Some(queries)) = (args.corpus.clone(), args.queries.clone()) {
        return Ok((vec![Wanted::Given { corpus, queries, metric: args.metric }], Vec::new()));
    }
    let [corpus, queries] = NEIGHBOURS.map(|name| workspace.root.join(name));
    let real = Wanted::Given { corpus, queries, metric: Metric::Cosine };
    let known = [
        (Wanted::Generated("clustered", 100_000), true),
        (real, true),
        (Wanted::Generated("million", 1_000_000), args.million),
    ];
    let names: Vec<String> = known.iter().map(|(set, _)| set.name()).collect();
    if let Some(name) = args.sets.iter().find(|name| !names.contains(name)) {
        bail!("there is no set '{name}', but {}", names.join(", "));
    }
    let (mut wanted, mut missing) = (Vec::new(), Vec::new());
    for (set, usual) in known {
        let name = set.name();
        let asked = args.sets.contains(&name);
        match &set {
            // --million adds to what is named.
            _ if !(asked || usual && (args.sets.is_empty() || name == "million")) => {}
            Wanted::Given { corpus, queries, .. } if !corpus.is_file() || !queries.is_file() => {
                missing.push(format!(
                    "{name}: left out: {} are not there; give others with --corpus and --queries",
                    NEIGHBOURS.join(" and ")
                ));
            }
            _ => wanted.push(set),
        }
    }
    ensure!(!wanted.is_empty(), "nothing to search: {}", missing.join("; "));
    Ok((wanted, missing))
}

/// An engine that has built its index.
struct Running {
    engine: Engine,
    row: Row,
}

/// Builds with every engine, then lets them search in turns.
fn measure(ui: Ui, set: &Set, engines: &Engines, args: &VectorArgs, scratch: &Path) -> Results {
    let mut left_out = engines.left_out.clone();
    let mut running = Vec::new();
    for one in &engines.ready {
        let step = ui.step(&format!("{}: {} builds", set.name, one.name));
        match build(one, set, &scratch.join(one.name)) {
            Ok(built) => {
                step.done();
                running.push(built);
            }
            Err(error) => left_out.push((one.name, short(&error))),
        }
    }
    let step = ui.step(&format!("{}: {} rounds of searches", set.name, args.rounds));
    for round in 0..args.rounds as usize {
        for (at, (threads, ef)) in
            THREADS.iter().flat_map(|threads| EFS.map(|ef| (*threads, ef))).enumerate()
        {
            // Another one begins each time.
            let first = (round + at) % running.len().max(1);
            running.rotate_left(first);
            let turn = Turn { round, threads, ef, millis: args.millis };
            running.retain_mut(|one| match turn.take(one, set, &step) {
                Ok(()) => true,
                Err(error) => {
                    left_out.push((one.row.engine, format!("in a search: {}", short(&error))));
                    false
                }
            });
        }
    }
    step.done();
    let place = |name: &str| ENGINES.iter().position(|(engine, _)| *engine == name);
    running.sort_by_key(|one| place(one.row.engine));
    let rows = running.into_iter().map(|one| one.row).collect();
    Results { set: set.name.clone(), about: set.describe(), rows, left_out }
}

fn build(ready: &Ready, set: &Set, scratch: &Path) -> Result<Running> {
    let mut engine = ready.start(set, scratch)?;
    let built = engine.build()?;
    // A process of its own: nothing of the building is resident in it.
    let opened = if built.saved { Some(ready.start(set, scratch)?.open()?) } else { None };
    let grown = opened.map_or(built.grown, |opened| opened.grown);
    let vectors = opened.map_or(0.0, |opened| opened.vectors) / set.rows() as f64;
    let version = if vectors > 0.0 {
        format!("{}; beside B/vector {vectors:.0} of mapped vectors", engine.version)
    } else {
        engine.version.clone()
    };
    let row = Row {
        engine: ready.name,
        version,
        build_cpu_s: built.cpu_s,
        bytes_per_vector: grown / set.rows() as f64,
        while_building: opened.is_none(),
        open_ms: opened.map(|opened| opened.ms),
        cells: Vec::new(),
    };
    Ok(Running { engine, row })
}

/// One measurement that every engine takes.
#[derive(Clone, Copy)]
struct Turn {
    round: usize,
    threads: usize,
    ef: usize,
    millis: u64,
}

impl Turn {
    fn take(self, one: &mut Running, set: &Set, step: &Step) -> Result<()> {
        let Self { round, threads, ef, millis } = self;
        let name = one.row.engine;
        step.message(&format!("round {}, {threads} searching, ef {ef}: {name}", round + 1));
        let ids = round == 0 && threads == 1;
        let searched = one.engine.search((ef, K, threads), millis, ids)?;
        let cells = &mut one.row.cells;
        let known = cells.iter().position(|cell| cell.ef == ef && cell.threads == threads);
        let at = if let Some(at) = known {
            at
        } else {
            // What is found does not depend on how many search.
            let recall = if ids {
                set.recall(&searched.found)?
            } else {
                cells.iter().find(|cell| cell.ef == ef).map_or(0.0, |cell| cell.recall)
            };
            cells.push(Cell { ef, threads, recall, qps: Vec::new(), qps_cpu: Vec::new() });
            cells.len() - 1
        };
        cells[at].qps.push(searched.qps);
        cells[at].qps_cpu.push(searched.qps_cpu);
        Ok(())
    }
}

fn write(
    workspace: &Workspace,
    args: &VectorArgs,
    all: &[Results],
    missing: &[String],
) -> Result<()> {
    let records: Vec<_> = all.iter().flat_map(Results::records).collect();
    let json = serde_json::to_string_pretty(&records)? + "\n";
    let mut parts = vec![setting(args)?];
    parts.extend(all.iter().map(Results::table));
    parts.extend(missing.iter().map(|line| format!("{line}\n")));
    let text = parts.join("\n");
    let mut dirs = vec![workspace.target.join("bench")];
    if args.save {
        dirs.push(workspace.root.join("docs/bench"));
    }
    let put = |path: PathBuf, content: &str| {
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    for dir in &dirs {
        put(dir.join("vectors.txt"), &text)?;
        put(dir.join("vectors.json"), &json)?;
        for results in all {
            put(dir.join(format!("vectors-{}.svg", results.set)), &chart::draw(results))?;
        }
        println!("{}", dir.join("vectors.{txt,json}, vectors-SET.svg").display());
    }
    match &args.json {
        Some(path) => put(path.clone(), &json),
        None => Ok(()),
    }
}

/// What a reader has to know about how the figures were measured.
fn setting(args: &VectorArgs) -> Result<String> {
    let cpus = std::thread::available_parallelism().context("cannot count the processors")?;
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, name)| name);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let commit = Cmd::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = commit.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned());
    Ok(format!(
        "machine: {cpus} x {model}, load {load} at the end\n rounds: {}, engines in turns at every \
         width; {} ms of a processor's time each\n  build: one thread; {OURS} by upserts of 1000 rows \
         until nothing is left to merge\n source: {commit}\n",
        args.rounds, args.millis
    ))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::Parser;

    use super::conductor::Engine;
    use super::report::Row;
    use super::{Running, Set, Step, Turn, VectorArgs, wanted_sets};
    use crate::ui::Ui;
    use crate::workspace::Workspace;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: VectorArgs,
    }

    fn sets(words: &[&str]) -> Result<(Vec<String>, usize), String> {
        let dir = tempfile::tempdir().unwrap();
        let places = || dir.path().to_owned();
        let workspace =
            Workspace { root: places(), target: places(), dist: places(), vm: places() };
        let line = Line::try_parse_from([&["bench"], words].concat()).map_err(|e| e.to_string())?;
        let (wanted, missing) =
            wanted_sets(&workspace, &line.args).map_err(|error| error.to_string())?;
        Ok((wanted.iter().map(super::Wanted::name).collect(), missing.len()))
    }

    #[test]
    fn a_set_that_is_not_there_is_left_out_by_name() {
        assert_eq!(sets(&[]), Ok((vec!["clustered".into()], 1)));
        assert_eq!(sets(&["--million"]), Ok((vec!["clustered".into(), "million".into()], 1)));
        assert_eq!(sets(&["--set", "million"]), Ok((vec!["million".into()], 0)));
        let given = ["--corpus", "a/x.npy", "--queries", "q.npy"];
        assert_eq!(sets(&given), Ok((vec!["x".into()], 0)));
        assert!(sets(&["--set", "packages-20k"]).unwrap_err().contains("left out"));
        assert!(sets(&["--set", "other"]).unwrap_err().contains("no set 'other'"));
        assert!(sets(&["--corpus", "x.npy"]).is_err() && sets(&["--engine", "other"]).is_err());
    }

    #[test]
    fn rounds_fill_the_cells_and_recall_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // It is asked for what it found in the first round of one searcher only.
        command.args([
            "-c",
            r#"echo '{"ready": "fake"}'; while read word ef k threads millis ids; do
            test $ids = 1 && found='[[0,1,2,3,4,5,6,7,8,11]]' || found=null
            echo '{"queries": '$ef', "wall_s": 1, "cpu_s": '$threads', "ids": '$found'}'; done"#,
        ]);
        let engine = Engine::start(command, &dir.path().join("log")).unwrap();
        let row = Row {
            engine: "fake",
            version: String::new(),
            build_cpu_s: 1.0,
            bytes_per_vector: 1.0,
            while_building: false,
            open_ms: None,
            cells: Vec::new(),
        };
        let mut one = Running { engine, row };
        let set = Set::line_of_twelve();
        let step: Step = Ui::new().step("a fake engine");
        for round in 0..2 {
            for threads in [1, 2] {
                let turn = Turn { round, threads, ef: 40, millis: 5 };
                turn.take(&mut one, &set, &step).unwrap();
            }
        }
        step.done();
        assert_eq!(one.row.cells.len(), 2);
        for cell in &one.row.cells {
            assert!((cell.recall - 0.9).abs() < 1e-9, "{cell:?}");
            assert_eq!((cell.qps.len(), cell.qps_cpu.len()), (2, 2));
            assert!((cell.qps_cpu[1] - 40.0).abs() < 1e-9, "{cell:?}");
        }
    }
}
