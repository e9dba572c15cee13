// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's answers to requests on the control socket.

use super::query;
use super::wire::{
    IndexReply, IndexRequest, IndexStats, KeepPolicy, LabReply, LabRequest, Reply, Request, Stats,
};
use crate::indexer::view::View;
use crate::lab::Lab;
use crate::request::Kind;
use crate::stats::{QueueStats, merge};
use rustix::fs::{AtFlags, OFlags, StatxFlags, fcntl_getfl, makedev, statx};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;
use vexfs_crash::Keep;
use vexfs_search::answer::no_index;
use vexfs_search::ask::{Found, Search};
use vexfs_search::dirty_log::DirtyLog;
use vexfs_search::rights::caller::Caller;
use vexfs_search::rights::names::Top;
use vexfs_search::upkeep;

/// The parts of the daemon that answers come from.
pub struct Sources {
    /// The indexer's state.
    pub view: Arc<View>,
    /// What the queues have written.
    pub dirty_log: Arc<DirtyLog>,
    /// The numbers of each queue.
    pub queues: Vec<Arc<QueueStats>>,
    /// When serving began.
    pub started: Instant,
    /// The crash lab, if the device was added with it.
    pub lab: Option<Arc<Lab>>,
    /// The image's owner, who may ask everything, as root may.
    pub owner: u32,
    /// The number of the block device whose mounts are searched, once it has one.
    pub device: Box<dyn Fn() -> Option<u64> + Send + Sync>,
}

/// Answers a request; may wait for the indexer. `file` is the descriptor that came with it.
pub fn answer(
    request: &Request,
    file: Option<OwnedFd>,
    caller: &Caller,
    sources: &Sources,
) -> Reply {
    let privileged = caller.is_root() || caller.uid == sources.owner;
    match request {
        Request::Search(search) => match found(search, file, caller, sources) {
            Ok(found) => Reply::Found(found),
            Err(why) => Reply::Failed(why),
        },
        _ if !privileged => {
            Reply::Failed("only root and the owner of the image may ask for this".into())
        }
        Request::Stats => Reply::Stats(Box::new(stats(sources))),
        Request::Index(request) => match upkeep(request, file, sources) {
            Ok(reply) => Reply::Index(reply),
            Err(why) => Reply::Failed(why),
        },
        Request::Lab(request) => match &sources.lab {
            Some(lab) => lab_answer(lab, request).map_or_else(Reply::Failed, Reply::Lab),
            None => Reply::Failed(
                "the device was added without the crash lab: add it with --crash-model".into(),
            ),
        },
    }
}

fn found(
    search: &Search,
    file: Option<OwnedFd>,
    caller: &Caller,
    sources: &Sources,
) -> Result<Found, String> {
    let Some(file) = file else {
        return Err("a search comes with an open file or directory".into());
    };
    let top = top(file.as_fd(), (sources.device)())?;
    // A descriptor that is kept keeps the filesystem mounted.
    drop(file);
    query::search(&sources.view, caller, top, search)
}

/// What the descriptor says. Its filesystem is not asked: it may be one of the caller's own that never answers.
fn top(file: BorrowedFd<'_>, device: Option<u64>) -> Result<Top, String> {
    let said = |e| format!("the descriptor cannot be used: {e}");
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, c"", flags, StatxFlags::INO).map_err(said)?;
    if Some(makedev(stat.stx_dev_major, stat.stx_dev_minor)) != device {
        return Err("not on a filesystem that is mounted from this device".into());
    }
    let flags = fcntl_getfl(file).map_err(said)?;
    let readable = !flags.intersects(OFlags::PATH | OFlags::WRONLY);
    Ok(Top { ino: stat.stx_ino, readable })
}

/// Answers about the index, of the files under the descriptor or, without one, of all.
fn upkeep(
    request: &IndexRequest,
    file: Option<OwnedFd>,
    sources: &Sources,
) -> Result<IndexReply, String> {
    let snapshot = sources.view.now();
    let (Some(index), Some(names)) = (&snapshot.index, &snapshot.names) else {
        return Err(no_index(&snapshot));
    };
    let root = Top { ino: vexfs::Ino::ROOT.0, readable: true };
    let top = file.map_or(Ok(root), |file| top(file.as_fd(), (sources.device)()))?;
    let scope = || {
        // The image's owner may read the image, and so all of it.
        let all = Caller::root();
        names.scope(top, &all, |ino| snapshot.files.contains_key(&ino))
    };
    Ok(match *request {
        IndexRequest::Status => {
            IndexReply::Status(upkeep::status(&snapshot, &scope()?), snapshot.pending)
        }
        IndexRequest::Rebuild => {
            let files: BTreeSet<u64> = scope()?.files.into_keys().collect();
            let count = files.len() as u64;
            sources.view.rebuild(files);
            IndexReply::Rebuilding(count)
        }
        IndexRequest::Verify => {
            IndexReply::Damage(index.verify().iter().map(ToString::to_string).collect())
        }
        IndexRequest::Recall { ino, queries, widths } => {
            let queries = queries.min(QUERIES_MAX);
            IndexReply::Recall(if widths {
                upkeep::widths(index, ino, queries)
            } else {
                upkeep::recall(index, ino, queries, &[None])
            })
        }
    })
}

/// Most rows that one request searches for.
const QUERIES_MAX: u64 = 10_000;

fn lab_answer(lab: &Lab, request: &LabRequest) -> Result<LabReply, String> {
    Ok(match request {
        LabRequest::Crash(keep) => LabReply::Cut(lab.crash(match keep {
            KeepPolicy::None => Keep::None,
            KeepPolicy::All => Keep::All,
            KeepPolicy::Random(seed) => Keep::Random(*seed),
        })?),
        LabRequest::PowerOn => LabReply::Done(lab.power_on()),
        LabRequest::Mark(text) => LabReply::Done(lab.mark(text)),
        LabRequest::Set(fault) => LabReply::Number(lab.set(*fault)),
        LabRequest::Clear(number) => LabReply::Number(lab.clear(*number) as u32),
        LabRequest::Faults => LabReply::Faults(lab.faults()),
    })
}

fn stats(sources: &Sources) -> Stats {
    let snapshot = sources.view.now();
    let lag = sources.dirty_log.root_writes().saturating_sub(snapshot.roots);
    let since = sources.dirty_log.since_root_write();
    let index = snapshot.index.map(|index| index.stats());
    let problem = snapshot.problem.or(snapshot.unwritten);
    let problem = problem.or_else(|| index.as_ref().and_then(|index| index.problem.clone()));
    let queues = || sources.queues.iter().map(|queue| &**queue);
    Stats {
        uptime_seconds: sources.started.elapsed().as_secs(),
        kinds: Kind::ALL.map(|kind| (kind, merge(queues(), kind))).into(),
        index: index.map(|index| IndexStats {
            files: index.files,
            vectors: index.counts.vectors,
            segments: index.counts.segments,
            graphs: index.counts.graphs,
            tombstones: index.counts.tombstones,
            pending: index.counts.pending,
            skipped: index.counts.skipped,
            bytes: index.counts.bytes,
            generation: snapshot.generation,
            lag,
            lag_generations: lag,
            lag_ms: if lag > 0 || snapshot.pending > 0 { since.as_millis() as u64 } else { 0 },
            unread: snapshot.pending,
            checkpoint: index.generation,
        }),
        problem,
    }
}
