// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is known of each device between commands: one JSON file per device.
//!
//! The files are in `/run/vexfs` (or `$VEXFS_RUN_DIR`), beside the daemon's log and socket, and are
//! always replaced whole. A file outlives a killed daemon, because `recover` needs it, and is removed
//! with the device. `list` removes the file of a device that is gone.

use crate::error::{Error, Result};
use crate::options::Options;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Its number.
    pub id: u32,
    /// Process id of the daemon.
    pub pid: u32,
    /// When the daemon started, in clock ticks since boot: tells it from a later process with that id.
    pub started: u64,
    /// Length of the image's part of the device in bytes.
    pub bytes: u64,
    /// The daemon's log.
    pub log: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Perhaps not all of several queues are served yet. If the daemon dies meanwhile, its successor must
    /// not send `START_USER_RECOVERY`: Linux 6.12 panics if a queue has no server.
    #[serde(default)]
    pub fetching: bool,
    /// How it is served.
    #[serde(flatten)]
    pub options: Options,
}

impl DeviceState {
    /// Whether the daemon still runs.
    #[must_use]
    pub fn daemon_runs(&self) -> bool {
        process_start(self.pid) == Some(self.started)
    }
}

/// Start time of a running process; `None` if it is gone, or dead and not waited for.
#[must_use]
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The process's name, in parentheses, may contain anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether a process was sent SIGKILL and is not dead yet.
#[must_use]
pub fn is_killed(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    pending.fold(0, |all, mask| all | mask) >> (libc::SIGKILL - 1) & 1 == 1
}

/// The directory of all files.
pub struct RunDir(PathBuf);

impl RunDir {
    /// `$VEXFS_RUN_DIR`, or `/run/vexfs`.
    #[must_use]
    pub fn default_path() -> Self {
        Self(std::env::var_os("VEXFS_RUN_DIR").map_or_else(|| "/run/vexfs".into(), PathBuf::from))
    }

    /// Another directory.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Creates the directory if it is missing.
    pub fn create(&self) -> Result<()> {
        let failed = |source| Error::Runtime { path: self.0.clone(), source };
        fs::create_dir_all(&self.0).map_err(failed)
    }

    /// The log of a device's daemon.
    #[must_use]
    pub fn log(&self, id: u32) -> PathBuf {
        self.0.join(format!("ublk{id}.log"))
    }

    /// The control socket of a device's daemon.
    #[must_use]
    pub fn socket(&self, id: u32) -> PathBuf {
        self.0.join(format!("ublk{id}.sock"))
    }

    /// The directory for scratch files of a device's daemon.
    #[must_use]
    pub fn scratch(&self, id: u32) -> PathBuf {
        self.0.join(format!("ublk{id}.tmp"))
    }

    fn file(&self, id: u32) -> PathBuf {
        self.0.join(format!("ublk{id}.json"))
    }

    /// Writes a device's file, whole or not at all.
    pub fn save(&self, state: &DeviceState) -> Result<()> {
        let path = self.file(state.id);
        let failed = |source| Error::Runtime { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(state).map_err(|e| failed(e.into()))?;
        let written = path.with_extension("json.new");
        let mut file = fs::File::create(&written).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        fs::rename(&written, &path).map_err(failed)
    }

    /// Reads a device's file; `None` if there is none.
    pub fn load(&self, id: u32) -> Result<Option<DeviceState>> {
        let path = self.file(id);
        let failed = |source| Error::Runtime { path: path.clone(), source };
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| failed(e.into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// All devices, by number. A file that cannot be read is an error.
    pub fn all(&self) -> Result<Vec<DeviceState>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::Runtime { path: self.0.clone(), source }),
        };
        let mut ids: Vec<u32> = entries
            .flatten()
            .filter_map(|e| {
                e.file_name().to_str()?.strip_prefix("ublk")?.strip_suffix(".json")?.parse().ok()
            })
            .collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.load(id).transpose()).collect()
    }

    /// Removes a device's files, except its log, which stays until a device gets that number again.
    pub fn remove(&self, id: u32) {
        for path in [self.file(id), self.socket(id)] {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_dir_all(self.scratch(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ImageOptions;
    use crate::options::Recovery;

    fn state(id: u32) -> DeviceState {
        DeviceState {
            id,
            pid: std::process::id(),
            started: process_start(std::process::id()).unwrap(),
            bytes: 1 << 30,
            log: "/l".into(),
            socket: "/s".into(),
            fetching: false,
            options: Options {
                image: ImageOptions { path: "/i".into(), raw: true, ..Default::default() },
                queues: 1,
                depth: 64,
                recovery: Recovery::Reissue,
                crash_model: false,
                record: None,
                index_memory: None,
                window: false,
            },
        }
    }

    #[test]
    fn states_are_kept_listed_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(&directory.path().join("deep/er"));
        assert!(run.all().unwrap().is_empty());
        run.create().unwrap();
        for id in [10, 2] {
            run.save(&state(id)).unwrap();
        }
        assert_eq!(run.all().unwrap(), [state(2), state(10)]);
        assert_eq!(run.load(3).unwrap(), None);
        run.remove(2);
        assert_eq!(run.all().unwrap(), [state(10)]);
        fs::write(run.file(10), "{").unwrap();
        assert!(run.all().unwrap_err().to_string().contains("ublk10.json"));
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_the_same_number() {
        assert!(state(0).daemon_runs());
        assert!(!DeviceState { started: 1, ..state(0) }.daemon_runs());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        // Neither a dead process that is not waited for nor a process that is gone is running.
        while process_start(pid).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(process_start(pid), None);
        assert!(!is_killed(std::process::id()) && !is_killed(pid));
    }
}
