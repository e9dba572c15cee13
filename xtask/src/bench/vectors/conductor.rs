// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One engine as a process: a line of words to it, a line of JSON from it.
//!
//! The protocol is that of `index/examples/engine/protocol.rs`. A process that ends, is refused by the
//! processor or answers with an error is told as a reason, in which the last of what it wrote to standard
//! error is repeated. Dropping an [`Engine`] ends its process.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::shell::describe;

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
    /// The library, its version and its parameters, in its own words.
    pub version: String,
}

/// What a build took.
#[derive(Debug, Clone, Copy)]
pub struct Built {
    /// Seconds of all processors.
    pub cpu_s: f64,
    /// By how much the process grew beyond the rows it was given, in bytes.
    pub grown: f64,
    /// Whether there is something to open.
    pub saved: bool,
}

/// What opening a saved index took.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Until it could be asked.
    pub ms: f64,
    /// By how much the process grew until all queries were answered once, in bytes.
    pub grown: f64,
    /// Resident bytes beside these of mapped files that hold the vectors and nothing else.
    pub vectors: f64,
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Searched {
    /// Queries a second by the clock.
    pub qps: f64,
    /// Queries for every second of a processor's time, times the threads.
    pub qps_cpu: f64,
    /// The rows found for every query, if they were asked for.
    pub found: Vec<Vec<usize>>,
}

impl Engine {
    /// Starts the program and waits until it says that it is ready.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .env_remove("LD_LIBRARY_PATH")
            .spawn()
            .context("it could not be started")?;
        let requests = child.stdin.take().context("its standard input is not a pipe")?;
        let answers = child.stdout.take().context("its standard output is not a pipe")?;
        let answers = BufReader::new(answers);
        let log = log.to_owned();
        let mut engine = Self { child, requests, answers, log, version: String::new() };
        let hello = engine.listen()?;
        if let Some(why) = hello["refused"].as_str() {
            bail!("{why}");
        }
        hello["ready"]
            .as_str()
            .context("its first line is not 'ready'")?
            .clone_into(&mut engine.version);
        Ok(engine)
    }

    /// Indexes the corpus and saves the index.
    pub fn build(&mut self) -> Result<Built> {
        let answer = self.ask("build")?;
        let saved = answer["saved"].as_bool().unwrap_or(false);
        if let Some(note) = answer["note"].as_str().filter(|note| !note.is_empty()) {
            self.version = format!("{}, {note}", self.version);
        }
        Ok(Built {
            cpu_s: number(&answer, "build_cpu_s")?,
            grown: number(&answer, "grown")?,
            saved,
        })
    }

    /// Opens the index that another process has saved.
    pub fn open(&mut self) -> Result<Opened> {
        let answer = self.ask("open")?;
        Ok(Opened {
            ms: number(&answer, "open_ms")?,
            grown: number(&answer, "grown")?,
            vectors: answer["vectors"].as_f64().unwrap_or_default(),
        })
    }

    /// Asks all queries until every thread has worked for so long.
    pub fn search(
        &mut self,
        (ef, k, threads): (usize, usize, usize),
        millis: u64,
        ids: bool,
    ) -> Result<Searched> {
        let request = format!("search {ef} {k} {threads} {millis} {}", u8::from(ids));
        let answer = self.ask(&request)?;
        let (queries, wall, cpu) =
            (number(&answer, "queries")?, number(&answer, "wall_s")?, number(&answer, "cpu_s")?);
        ensure!(queries > 0.0 && wall > 0.0 && cpu > 0.0, "it measured nothing: {answer}");
        let found = if ids {
            serde_json::from_value(answer["ids"].clone())
                .context("it did not tell what it found")?
        } else {
            Vec::new()
        };
        Ok(Searched { qps: queries / wall, qps_cpu: queries / cpu * threads as f64, found })
    }

    /// The squared distance of each query's `k`-th nearest row.
    pub fn truth(&mut self, k: usize) -> Result<Vec<f64>> {
        let answer = self.ask(&format!("truth {k}"))?;
        serde_json::from_value(answer["kth"].clone()).context("the exact search told no distances")
    }

    fn ask(&mut self, request: &str) -> Result<Value> {
        if writeln!(self.requests, "{request}").and_then(|()| self.requests.flush()).is_err() {
            return Err(self.ended());
        }
        self.listen()
    }

    fn listen(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line).context("its answer cannot be read")? == 0 {
            return Err(self.ended());
        }
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("it answered: {}", line.trim()))?;
        match answer["error"].as_str() {
            Some(why) => Err(anyhow!("{why}")),
            None => Ok(answer),
        }
    }

    /// Why a process that says nothing any more has ended.
    fn ended(&mut self) -> anyhow::Error {
        let how = self.child.wait().map_or_else(|error| error.to_string(), describe);
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        match log.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) => anyhow!("it ended ({how}): {}", last.trim()),
            None => anyhow!("it ended ({how})"),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Whether it had ended by itself is of no interest any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(answer: &Value, name: &str) -> Result<f64> {
    answer[name].as_f64().with_context(|| format!("its answer has no {name}: {answer}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::Engine;

    /// An engine in four lines of shell.
    fn fake(answers: &str) -> (tempfile::TempDir, anyhow::Result<Engine>) {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", answers]);
        let engine = Engine::start(command, &dir.path().join("log"));
        (dir, engine)
    }

    #[test]
    fn an_engine_is_conducted() {
        let (_dir, engine) = fake(
            r#"echo '{"ready": "fake 1"}'
            while read word rest; do case $word in
            build) echo '{"build_s": 9, "build_cpu_s": 2.5, "grown": 4096, "saved": true, "note": "2 graphs"}';;
            open) echo '{"open_ms": 1.5, "grown": 100, "vectors": 64}';;
            truth) echo '{"kth": [0.5, 1e-3]}';;
            search) test "$rest" = "40 10 2 250 1" || exit 9
                echo '{"queries": 100, "wall_s": 2.0, "cpu_s": 1.0, "ids": [[3, 4], [5]]}';;
            esac; done"#,
        );
        let mut engine = engine.unwrap();
        assert_eq!(engine.version, "fake 1");
        let built = engine.build().unwrap();
        assert_eq!(engine.version, "fake 1, 2 graphs");
        assert!(built.saved && built.cpu_s > 2.4 && built.grown > 4095.0, "{built:?}");
        let opened = engine.open().unwrap();
        assert!((opened.ms - 1.5).abs() < 1e-9 && (opened.vectors - 64.0).abs() < 1e-9);
        assert_eq!(engine.truth(10).unwrap(), [0.5, 0.001]);
        let searched = engine.search((40, 10, 2), 250, true).unwrap();
        assert_eq!(searched.found, [vec![3, 4], vec![5]]);
        assert!((searched.qps - 50.0).abs() < 1e-9 && (searched.qps_cpu - 200.0).abs() < 1e-9);
    }

    #[test]
    fn an_engine_that_cannot_run_says_why() {
        let why = |script| format!("{:#}", fake(script).1.unwrap_err());
        assert_eq!(why(r#"echo '{"refused": "no such module"}'"#), "no such module");
        assert_eq!(why("echo 'bad luck' >&2; exit 3"), "it ended (exit status 3): bad luck");
        assert_eq!(why("kill -ILL $$"), "it ended (killed by signal 4)");
        assert!(why("echo no JSON").contains("no JSON"));
    }

    #[test]
    fn an_error_is_an_answer_and_the_engine_lives_on() {
        let (_dir, engine) = fake(
            r#"echo '{"ready": "fake"}'; read x; echo '{"error": "too few rows"}'
            read x; echo '{"kth": []}'; read x; echo '{"queries": 0, "wall_s": 1, "cpu_s": 1}'"#,
        );
        let mut engine = engine.unwrap();
        assert_eq!(engine.build().unwrap_err().to_string(), "too few rows");
        assert_eq!(engine.truth(1).unwrap(), Vec::<f64>::new());
        assert!(engine.search((1, 1, 1), 1, false).is_err());
        assert!(engine.open().unwrap_err().to_string().starts_with("it ended"));
    }
}
