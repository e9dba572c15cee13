// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's answers to requests on the control socket.

use super::query;
use super::wire::{IndexStats, KeepPolicy, LabReply, LabRequest, Reply, Request, Stats};
use crate::dirty_log::DirtyLog;
use crate::indexer::view::View;
use crate::lab::Lab;
use crate::request::Kind;
use crate::stats::{QueueStats, merge};
use std::sync::Arc;
use std::time::Instant;
use vexfs_crash::Keep;

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
}

/// Answers a request; may wait for the indexer.
pub fn answer(request: &Request, sources: &Sources) -> Reply {
    match request {
        Request::Stats => Reply::Stats(Box::new(stats(sources))),
        Request::Search(search) => match query::search(&sources.view, search) {
            Ok(found) => Reply::Found(found),
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
    let index = snapshot.index.map(|index| index.stats());
    let problem =
        snapshot.problem.or_else(|| index.as_ref().and_then(|index| index.problem.clone()));
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
            lag: sources.dirty_log.root_writes().saturating_sub(snapshot.roots),
            unread: snapshot.pending,
            checkpoint: index.generation,
        }),
        problem,
    }
}
