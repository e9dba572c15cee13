// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The vectors of an image that nobody serves: searched, and indexed, by whoever can read or write the image.
//!
//! A search uses the checkpoint in the image's tail, caught up in memory with what was committed since. Where
//! there is none that helps, the rows of the files are read and compared, a part at a time, so that a file of
//! any length is searched in [`Unmounted::memory`].
//!
//! Invariant: a search writes nothing. Nothing here locks the image, or asks who may read a file in it: whoever
//! can read the image can read all of it.

use crate::answer::{search_in, too_early};
use crate::ask::{Found, Hit, Query, Search};
use crate::choice::Question;
use crate::corpus::tracker::Tracker;
use crate::dirty_log::DirtyLog;
use crate::rights::caller::Caller;
use crate::rights::names::{Names, Scope, Top, Wanted};
use crate::snapshot::Snapshot;
use crate::upkeep::{self, FileStatus, Measured};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use vexfs::follow::Follower;
use vexfs::{Geometry, Ino};
use vexfs_image::FileDevice;
use vexfs_index::{
    Counts, FileId, Index, IndexError, Options, ReadOnly, Recovered, Slot, Store, TailStore,
};

/// Alignment of the checkpoints in the image.
pub const TAIL_ALIGN: u64 = 4096;
/// Bytes of rows that are compared at once by a search without an index; no more is faster.
const PART_BYTES: u64 = 64 << 20;
/// How often progress is told while graphs are built.
const TICK: Duration = Duration::from_millis(100);
/// Time for the graphs of a checkpoint to be verified; until they are, their vectors are scanned.
const VERIFY_LIMIT: Duration = Duration::from_secs(600);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The filesystem cannot be read.
    #[error(transparent)]
    Filesystem(#[from] vexfs::Error),
    /// The index cannot be read or written.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] io::Error),
    /// The question has no answer; the whole message.
    #[error("{0}")]
    Refused(String),
}

/// An answer, and what should be said beside it.
#[derive(Debug)]
pub struct Answer {
    /// What was found.
    pub found: Found,
    /// Why it was searched otherwise than asked for.
    pub remarks: Vec<String>,
}

/// How far building an index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Rows are read: how many are left.
    Reading(u64),
    /// Graphs are built: how many vectors are in none yet.
    Building(u64),
}

/// An index that was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// The generation that it covers.
    pub generation: u64,
    /// Its vector files.
    pub files: u64,
    /// Its vectors and segments.
    pub counts: Counts,
    /// Bytes of the image behind the filesystem.
    pub tail_bytes: u64,
}

/// What verifying an index found.
#[derive(Debug)]
pub struct Verified {
    /// What is damaged.
    pub damage: Vec<String>,
    /// The recall of each file by its path, or why it was not measured.
    pub recall: Vec<(Vec<u8>, Measured)>,
}

/// An image that nobody serves.
pub struct Unmounted {
    device: FileDevice,
    names: Arc<Names>,
    uuid: [u8; 16],
    /// Where the filesystem ends.
    end: u64,
    /// Bytes of memory for vectors.
    pub memory: u64,
}

/// An index with what feeds it.
struct Opened {
    index: Arc<Index>,
    tracker: Tracker<FileDevice>,
    recovered: Recovered,
}

impl Unmounted {
    /// Opens the filesystem on an image.
    ///
    /// # Errors
    /// The engine's.
    pub fn open(device: FileDevice, memory: u64) -> Result<Self, Problem> {
        let superblock = vexfs::read_superblock(&device)?;
        let end = Geometry::of(&superblock).len_bytes();
        let names = Arc::new(Names::open(device.clone())?);
        Ok(Self { device, names, uuid: superblock.uuid, end, memory })
    }

    fn options(&self) -> Options {
        Options { owner: self.uuid, memory: self.memory, ..Options::default() }
    }

    /// Opens an index; with `trust`, what it says of files that no commit touched since is believed.
    fn opened(
        &self,
        store: Option<Box<dyn Store>>,
        builds: bool,
        trust: bool,
    ) -> Result<Opened, Problem> {
        // Nobody writes meanwhile: what is left alone need not be waited for.
        let idle = Duration::ZERO;
        let (index, recovered) = Index::open(store, Options { builds, idle, ..self.options() })?;
        let index = Arc::new(index);
        // Nobody writes: there is nothing to mark.
        let dirty_log = Arc::new(DirtyLog::new(self.end)?);
        let device = self.device.clone();
        let tracker = match recovered.covered.as_ref().filter(|_| trust) {
            Some(covered) => Tracker::trusting(device, index.clone(), dirty_log, covered)?,
            None => Tracker::open(device, index.clone(), dirty_log)?,
        };
        Ok(Opened { index, tracker, recovered })
    }

    /// The place of the checkpoints, to be read.
    fn tail(&self) -> Result<Box<dyn Store>, Problem> {
        let file = ReadOnly(self.device.file().try_clone()?);
        Ok(Box::new(TailStore::open(file, self.end.next_multiple_of(TAIL_ALIGN), None)?))
    }

    /// Whether there is room for checkpoints behind the filesystem.
    fn has_tail(&self) -> bool {
        !self.device.is_block_device()
    }

    fn scope(
        &self,
        top: Ino,
        tracker: &Tracker<FileDevice>,
        wanted: &Wanted,
    ) -> Result<Scope, Problem> {
        let all = Caller::root();
        let known: BTreeSet<u64> = tracker.files().map(|(ino, _)| ino).collect();
        let top = Top { ino: top.0, readable: true };
        let known = |ino| known.contains(&ino);
        self.names.scope_with(top, &all, known, wanted).map_err(Problem::Refused)
    }

    fn snapshot(&self, opened: &Opened) -> Snapshot {
        Snapshot {
            index: Some(opened.index.clone()),
            names: Some(self.names.clone()),
            generation: opened.tracker.generation(),
            roots: opened.tracker.roots(),
            pending: opened.tracker.pending(),
            files: Arc::new(opened.tracker.files().collect()),
            problem: None,
            unwritten: None,
        }
    }

    /// Answers a search at or under an inode: by the index in the tail or, if the search is exact or there is
    /// no index that helps, by comparing the rows of the files.
    ///
    /// # Errors
    /// Why nothing could be searched, and what to do.
    pub fn search(&self, top: Ino, search: &Search) -> Result<Answer, Problem> {
        let mut remarks = Vec::new();
        if let Some(wanted) = search.at_least {
            let generation = Follower::open(self.device.clone(), 1 << 20)?.generation().0;
            if generation < wanted {
                let snapshot = Snapshot { generation, ..Snapshot::default() };
                return Err(Problem::Refused(too_early(&snapshot, wanted)));
            }
        }
        let found = if search.exact { None } else { self.by_index(top, search, &mut remarks)? };
        let found = found.map_or_else(|| self.by_rows(top, search), Ok)?;
        Ok(Answer { found: Found { caught_up: true, ..found }, remarks })
    }

    /// `None` if the index is of no help; then a remark says why, unless there is none.
    fn by_index(
        &self,
        top: Ino,
        search: &Search,
        remarks: &mut Vec<String>,
    ) -> Result<Option<Found>, Problem> {
        if !self.has_tail() {
            return Ok(None);
        }
        let mut opened = self.opened(Some(self.tail()?), false, true)?;
        if opened.recovered.covered.is_none() {
            let told = |why: &IndexError| format!("{why}; until then every row is compared");
            remarks.extend(opened.recovered.problems.iter().map(told));
            return Ok(None);
        }
        opened.tracker.follow()?;
        let wanted = Question::of(search).map_err(Problem::Refused)?.wanted;
        let scope = self.scope(top, &opened.tracker, &wanted)?;
        opened.tracker.leave(|ino| scope.files.contains_key(&ino));
        if opened.tracker.pending_bytes() > self.memory / 2 {
            remarks.push(
                "the index is too far behind its files, so every row is compared: `vexfs index` brings it up to date"
                    .to_owned(),
            );
            return Ok(None);
        }
        while opened.tracker.cycle()? {}
        opened.index.verified(VERIFY_LIMIT);
        let found = search_in(&self.snapshot(&opened), &scope, search);
        if opened.index.lost().is_empty() {
            return found.map(Some).map_err(Problem::Refused);
        }
        remarks.push(
            "the index is damaged, so every row is compared: `vexfs index` builds it again"
                .to_owned(),
        );
        Ok(None)
    }

    /// Compares the query with every row, a part at a time.
    fn by_rows(&self, top: Ino, search: &Search) -> Result<Found, Problem> {
        let mut opened = self.opened(None, false, false)?;
        opened.tracker.follow()?;
        let wanted = Question::of(search).map_err(Problem::Refused)?.wanted;
        let scope = self.scope(top, &opened.tracker, &wanted)?;
        opened.tracker.leave(|_| false);
        let mut search = Search { exact: true, recall: None, ..search.clone() };
        for query in std::iter::once(&mut search.query).chain(&mut search.more) {
            *query = resolved(&mut opened, &scope, query)?;
        }
        for ino in scope.files.keys() {
            opened.tracker.ask(*ino, 0..u64::MAX);
        }
        let part = PART_BYTES.min(self.memory / 4);
        let mut best: Option<Found> = None;
        loop {
            let more = opened.tracker.cycle()?;
            if more && opened.index.stats().counts.bytes < part {
                continue;
            }
            let found =
                search_in(&self.snapshot(&opened), &scope, &search).map_err(Problem::Refused)?;
            best = Some(match best {
                Some(best) => merged(&best, found, &search),
                None => found,
            });
            if !more {
                break;
            }
            for file in opened.index.files() {
                opened.index.truncate(file, 0);
            }
        }
        best.ok_or_else(|| Problem::Refused("nothing was searched".to_owned()))
    }

    /// What the index in the tail is like, as far as it covers the files; nothing is read of them.
    ///
    /// # Errors
    /// There is no index; as [`search`](Self::search).
    pub fn status(&self) -> Result<Vec<FileStatus>, Problem> {
        let (opened, scope) = self.looked_at()?;
        Ok(upkeep::status(&self.snapshot(&opened), &scope))
    }

    /// Compares all checksums of the index in the tail, and measures the recall of each file: what is damaged,
    /// and what was measured by path.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn verify(
        &self,
        queries: u64,
        told: &mut dyn FnMut(u64, u64),
    ) -> Result<Verified, Problem> {
        let (opened, scope) = self.looked_at()?;
        let mut damage: Vec<String> =
            opened.recovered.problems.iter().map(ToString::to_string).collect();
        damage.extend(opened.index.verify().iter().map(ToString::to_string));
        let files = upkeep::status(&self.snapshot(&opened), &scope);
        let total = files.len() as u64;
        let mut recall = Vec::new();
        for file in files {
            told(recall.len() as u64, total);
            let measured = match file.reason {
                Some(why) if file.rows == 0 => Err(why),
                _ => upkeep::recall(&opened.index, file.ino, queries, &[None]),
            };
            recall.push((file.path, measured));
        }
        Ok(Verified { damage, recall })
    }

    /// The index in the tail, with the files that there are now.
    fn looked_at(&self) -> Result<(Opened, Scope), Problem> {
        let none = || Problem::Refused("there is no index: `vexfs index` builds one".to_owned());
        if !self.has_tail() {
            return Err(none());
        }
        let mut opened = self.opened(Some(self.tail()?), false, true)?;
        if opened.recovered.covered.is_none() {
            return Err(match opened.recovered.problems.pop() {
                Some(why) => Problem::Index(why),
                None => none(),
            });
        }
        opened.tracker.follow()?;
        let scope = self.scope(Ino::ROOT, &opened.tracker, &Wanted::default())?;
        Ok((opened, scope))
    }

    /// Builds the index in the image's tail, or brings it up to date, and closes it.
    ///
    /// # Errors
    /// The engine's, the index's and the host's; the checkpoint before stays.
    pub fn build(&self, told: &mut dyn FnMut(Progress)) -> Result<Built, Problem> {
        if !self.has_tail() {
            return Err(Problem::Refused(
                "a block device has no room behind its filesystem: serve it with vexfs-ublk, which keeps the index in /var/lib/vexfs"
                    .to_owned(),
            ));
        }
        let start = self.end.next_multiple_of(TAIL_ALIGN);
        let store = TailStore::open(self.device.file().try_clone()?, start, None)?;
        // Every row is compared: whoever builds an index wants it to be right.
        let mut opened = self.opened(Some(Box::new(store)), true, false)?;
        while opened.tracker.cycle()? {
            told(Progress::Reading(opened.tracker.pending()));
            if opened.index.wants_checkpoint() {
                opened.tracker.checkpoint()?;
            }
        }
        loop {
            let settled = opened.index.settle_for(TICK);
            told(Progress::Building(opened.index.stats().counts.pending));
            if opened.index.wants_checkpoint() {
                opened.tracker.checkpoint()?;
            } else if settled {
                break;
            }
        }
        opened.tracker.close()?;
        let stats = opened.index.stats();
        let bytes = self.device.file().metadata()?.len();
        Ok(Built {
            generation: opened.tracker.generation(),
            files: stats.files,
            counts: stats.counts,
            tail_bytes: bytes.saturating_sub(self.end),
        })
    }
}

/// The query as a vector, if it is one of the rows.
fn resolved(opened: &mut Opened, scope: &Scope, query: &Query) -> Result<Query, Problem> {
    let (Query::Like(slot), true, Some(file)) = (query, scope.single, scope.files.keys().next())
    else {
        return Ok(query.clone());
    };
    opened.tracker.ask(*file, *slot..slot.saturating_add(1));
    while opened.tracker.cycle()? {}
    let vector = opened.index.get(FileId(*file), Slot(*slot));
    opened.index.truncate(FileId(*file), 0);
    // Why there is none, the search says.
    Ok(vector.map_or_else(|_| query.clone(), Query::Vector))
}

/// The nearest to each query of two parts of the same files.
fn merged(best: &Found, other: Found, search: &Search) -> Found {
    let (k, within) = (search.k as usize, search.within.is_some());
    let mut merged = Found { hits: Vec::new(), ..best.clone() };
    let both = best.each().zip(other.each());
    for (answer, ((mine, some), (theirs, more))) in merged.answers.iter_mut().zip(both) {
        let mut hits: Vec<Hit> = some.iter().chain(more).cloned().collect();
        hits.sort_by(|a, b| {
            a.distance.total_cmp(&b.distance).then((a.file, a.slot).cmp(&(b.file, b.slot)))
        });
        answer.cut = mine.cut || theirs.cut || within && hits.len() > k;
        hits.truncate(k);
        answer.hits = hits.len() as u32;
        merged.hits.extend(hits);
    }
    for path in other.paths {
        if !merged.paths.contains(&path) {
            merged.paths.push(path);
        }
    }
    merged.notes = other.notes;
    merged
}

#[cfg(test)]
#[path = "unmounted_tests.rs"]
mod tests;
