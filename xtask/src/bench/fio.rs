// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Runs fio and takes one figure from each job. The jobs of a run come one after the other.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::shell::Cmd;

/// One job: what it is called in the results, and fio's own options.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Name of the cell.
    pub cell: &'static str,
    /// fio's options, separated by blanks.
    pub options: &'static str,
    /// Whether the figure is bandwidth in MiB/s; operations per second otherwise.
    pub bandwidth: bool,
}

/// A job's figure.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// MiB/s or operations per second.
    pub value: f64,
    /// Unit of the value.
    pub unit: &'static str,
}

/// How long a job runs.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// This many milliseconds, after a warm-up of a fifth of that.
    Millis(u64),
    /// Once through the file.
    Whole,
}

/// Runs the jobs on a file or a device, in their order.
pub fn run(file: &Path, size: Option<u64>, length: Length, jobs: &[Job]) -> Result<Vec<Figure>> {
    let mut fio = Cmd::new("fio").args([
        "--output-format=json",
        "--thread",
        "--gtod_reduce=1",
        "--randrepeat=0",
        "--norandommap",
        "--allow_mounted_write=0",
    ]);
    fio = fio.arg(format!("--filename={}", file.display()));
    if let Some(size) = size {
        fio = fio.arg(format!("--size={size}"));
    }
    if let Length::Millis(millis) = length {
        fio = fio.args([
            "--time_based".to_owned(),
            format!("--runtime={millis}ms"),
            format!("--ramp_time={}ms", millis / 5),
        ]);
    }
    for job in jobs {
        fio = fio.arg(format!("--name={}", job.cell)).arg("--stonewall");
        fio = fio.args(job.options.split_whitespace().map(|option| format!("--{option}")));
    }
    let text = fio.output()?;
    // fio writes warnings before its JSON.
    let start = text.find('{').context("fio printed no JSON")?;
    let value: Value = serde_json::from_str(&text[start..]).context("fio's JSON")?;
    let results = value["jobs"].as_array().context("fio's JSON has no jobs")?;
    ensure!(results.len() == jobs.len(), "fio reports {} of {} jobs", results.len(), jobs.len());
    jobs.iter().zip(results).map(|(job, result)| figure(job, result)).collect()
}

fn figure(job: &Job, result: &Value) -> Result<Figure> {
    let error = result["error"].as_i64().unwrap_or(0);
    if error != 0 {
        bail!("fio's job '{}' failed with error {error}", job.cell);
    }
    let (key, unit) = if job.bandwidth { ("bw_bytes", "MiB/s") } else { ("iops", "IOPS") };
    let sum: f64 = ["read", "write"].iter().filter_map(|way| result[way][key].as_f64()).sum();
    ensure!(sum > 0.0, "fio's job '{}' did nothing", job.cell);
    let value = if job.bandwidth { sum / f64::from(1 << 20) } else { sum };
    Ok(Figure { value, unit })
}

#[cfg(test)]
mod tests {
    use super::{Job, figure};
    use serde_json::json;

    #[test]
    fn figures_come_from_the_side_that_worked() {
        let job = Job { cell: "x", options: "", bandwidth: true };
        let result = json!({"error": 0, "read": {"bw_bytes": 0, "iops": 0.0},
                            "write": {"bw_bytes": 3_145_728, "iops": 7.5}});
        assert!(figure(&job, &result).is_ok_and(|f| (f.value - 3.0).abs() < 1e-9));
        let job = Job { bandwidth: false, ..job };
        assert!(figure(&job, &result).is_ok_and(|f| (f.value - 7.5).abs() < 1e-9));
        assert!(figure(&job, &json!({"error": 5, "read": {"iops": 1.0}})).is_err());
        assert!(figure(&job, &json!({"error": 0, "read": {"iops": 0.0}})).is_err());
    }
}
