// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One vector file in the index: its parts, its tail, and what builds and merges do to them.
//!
//! Invariant: a slot is alive in at most one place, the tail or one part, and then it is not
//! among the skipped. Everything here is short; graphs are built elsewhere and only put in.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    error::{IndexError, Result},
    graph::{GraphIndex, HnswGraph},
    ranges::Ranges,
    rows::Rows,
    segment::{Dead, Part, Request, Segment},
    store::Blob,
    tail::Tail,
    topk::{Candidate, TopK},
    vector::{Params, Row, Space},
};

/// As many parts of about one size are merged.
const TIER_WIDTH: usize = 4;
/// Segments without a graph are gathered into one build of at most so many tails.
const GATHER: usize = 8;

/// What became of a batch of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows that can be found now.
    pub indexed: u64,
    /// Rows that cannot be compared: NaN, infinity, too large, or zero under cosine.
    pub skipped: u64,
}

/// Sizes that decide when a segment is sealed and which are merged.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub graph_rows: usize,
    pub merge_rows: usize,
}

/// A vector file.
pub(crate) struct File {
    pub space: Space,
    pub params: Params,
    pub parts: Vec<Part>,
    pub tail: Tail,
    pub skipped: Ranges,
    /// Where the tail of which version lies in the store.
    pub tail_stored: Option<(u64, Blob)>,
}

/// What the build thread may do for a file; a snapshot, nothing is locked.
pub(crate) struct Job {
    space: Space,
    params: Params,
    parts: Vec<Part>,
}

impl File {
    pub(crate) fn new(space: Space, params: Params) -> Self {
        Self {
            space,
            params,
            parts: Vec::new(),
            tail: Tail::new(space),
            skipped: Ranges::default(),
            tail_stored: None,
        }
    }

    /// Decodes and stores one row; false if it cannot be compared and is skipped.
    pub(crate) fn upsert(&mut self, slot: u64, raw: &[u8], limits: Limits) -> Result<bool> {
        let row = match self.space.decode(raw) {
            Ok(Some(row)) => row,
            Ok(None) | Err(IndexError::NotFinite { .. } | IndexError::TooLarge { .. }) => {
                self.forget(slot);
                self.skipped.insert(slot);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if let Some((part, at)) = self.locate(slot) {
            if self.parts[part].segment.rows.same(at, &row) {
                return Ok(true);
            }
            self.parts[part].kill(slot);
        }
        self.skipped.remove(slot, slot);
        self.tail.put(slot, &row);
        if self.tail.len() >= limits.graph_rows {
            let (slots, rows) = self.tail.take_sorted(self.space);
            self.parts.retain(|part| part.live() > 0);
            self.parts.push(Part::new(Segment::new(slots, rows)));
        }
        Ok(true)
    }

    fn locate(&self, slot: u64) -> Option<(usize, usize)> {
        self.parts.iter().enumerate().find_map(|(i, part)| Some((i, part.find(slot)?)))
    }

    fn forget(&mut self, slot: u64) {
        if !self.tail.remove(slot) {
            let _ = self.parts.iter_mut().any(|part| part.kill(slot));
        }
    }

    /// Removes the slots `first..=last`; how many vectors went.
    pub(crate) fn remove(&mut self, first: u64, last: u64) -> u64 {
        if first > last {
            return 0;
        }
        self.skipped.remove(first, last);
        let parts: u64 = self.parts.iter_mut().map(|part| part.kill_range(first, last)).sum();
        self.parts.retain(|part| part.live() > 0);
        parts + self.tail.remove_range(first, last)
    }

    pub(crate) fn get(&self, slot: u64) -> Option<Row> {
        if let Some(row) = self.tail.find(slot) {
            return Some(self.tail.rows.get(row));
        }
        let (part, row) = self.locate(slot)?;
        Some(self.parts[part].segment.rows.get(row))
    }

    /// Scans the tail; the parts are searched by the caller, after it let go of the lock.
    pub(crate) fn search_tail(&self, request: &Request<'_>, file: u64, top: &mut TopK) {
        self.tail.rows.scan(request.query, |row, rank| {
            if rank <= top.worst() {
                top.push(Candidate { rank, file, slot: self.tail.slots[row] });
            }
        });
    }

    pub(crate) fn vectors(&self) -> usize {
        self.tail.len() + self.parts.iter().map(Part::live).sum::<usize>()
    }

    /// Vectors that only a scan finds.
    pub(crate) fn pending(&self) -> usize {
        let bare = self.parts.iter().filter(|part| part.segment.graph.get().is_none());
        self.tail.len() + bare.map(Part::live).sum::<usize>()
    }

    /// Resident bytes.
    pub(crate) fn bytes(&self) -> usize {
        let parts: usize =
            self.parts.iter().map(|part| part.segment.bytes() + part.dead.words().len() * 8).sum();
        self.tail.bytes() + parts
    }

    /// What is worth building now, if anything.
    pub(crate) fn plan(&self, limits: Limits) -> Option<Job> {
        let usable: Vec<&Part> = self
            .parts
            .iter()
            .filter(|part| part.live() > 0 && !part.segment.hopeless.load(Ordering::Relaxed))
            .collect();
        let bare = usable.iter().copied().filter(|part| part.segment.graph.get().is_none());
        let gathered = gather(bare, (GATHER * limits.graph_rows).min(limits.merge_rows));
        if !gathered.is_empty() {
            return Some(self.job(gathered));
        }
        let mut tiers: Vec<Vec<&Part>> = Vec::new();
        for part in &usable {
            let ratio = part.live() / limits.graph_rows.max(1);
            let tier = ratio.max(1).ilog(TIER_WIDTH) as usize;
            tiers.resize_with(tiers.len().max(tier + 1), Vec::new);
            tiers[tier].push(*part);
        }
        for mut tier in tiers {
            tier.sort_by_key(|part| part.live());
            let merged = gather(tier.into_iter(), limits.merge_rows);
            if merged.len() >= TIER_WIDTH {
                return Some(self.job(merged));
            }
        }
        // A third of a part dead: its searches ask for half as many candidates again.
        let stale = usable.iter().copied().find(|part| part.dead.count() * 3 > part.segment.len());
        stale.map(|part| self.job(vec![part]))
    }

    fn job(&self, parts: Vec<&Part>) -> Job {
        Job { space: self.space, params: self.params, parts: parts.into_iter().cloned().collect() }
    }

    /// Puts a merged part in the place of its sources; false if they are no longer all here.
    pub(crate) fn replace(&mut self, job: &Job, segment: Segment) -> bool {
        let now: Vec<Option<&Part>> = job
            .parts
            .iter()
            .map(|old| self.parts.iter().find(|part| Arc::ptr_eq(&part.segment, &old.segment)))
            .collect();
        // A source that went is one whose rows all died meanwhile, unless the file began anew.
        if self.space != job.space || now.iter().all(Option::is_none) {
            return false;
        }
        let mut merged = Part::new(segment);
        for (old, now) in job.parts.iter().zip(now) {
            for row in (0..old.segment.len()).filter(|&row| !old.dead.contains(row)) {
                if now.is_none_or(|now| now.dead.contains(row)) {
                    merged.kill(old.segment.slots[row]);
                }
            }
        }
        self.parts
            .retain(|part| !job.parts.iter().any(|old| Arc::ptr_eq(&part.segment, &old.segment)));
        if merged.live() > 0 {
            self.parts.push(merged);
        }
        true
    }
}

/// As many parts as fit a limit of rows, at least one if there is any.
fn gather<'a>(parts: impl Iterator<Item = &'a Part>, limit: usize) -> Vec<&'a Part> {
    let mut rows = 0;
    parts
        .take_while(|part| {
            let first = rows == 0;
            rows += part.live();
            first || rows <= limit
        })
        .collect()
}

impl Job {
    /// Builds what the job asks for: a graph for its only part, or `Some` merged segment.
    pub(crate) fn run(&self, stop: &AtomicBool) -> Result<Option<Segment>> {
        if let [only] = self.parts.as_slice()
            && only.segment.graph.get().is_none()
        {
            let graph = HnswGraph::build(&only.segment.rows, self.params, stop)?;
            // Only the build thread sets graphs, and only once.
            let _ = only.segment.graph.set(Arc::new(graph) as Arc<dyn GraphIndex>);
            return Ok(None);
        }
        let segment = merge(self.space, &self.parts);
        let graph = HnswGraph::build(&segment.rows, self.params, stop)?;
        let _ = segment.graph.set(Arc::new(graph) as Arc<dyn GraphIndex>);
        Ok(Some(segment))
    }

    /// The library failed on these: they are searched exactly from now on.
    pub(crate) fn give_up(&self) {
        self.parts.iter().for_each(|part| part.segment.hopeless.store(true, Ordering::Relaxed));
    }
}

/// The live rows of several parts, by slot.
fn merge(space: Space, parts: &[Part]) -> Segment {
    let live = |dead: &Dead, len: usize| -> Vec<usize> {
        (0..len).filter(|&row| !dead.contains(row)).collect()
    };
    let mut order: Vec<(u64, usize, usize)> = Vec::new();
    for (which, part) in parts.iter().enumerate() {
        for row in live(&part.dead, part.segment.len()) {
            order.push((part.segment.slots[row], which, row));
        }
    }
    order.sort_unstable();
    let mut rows = Rows::new(space);
    rows.reserve_exact(order.len());
    for &(_, which, row) in &order {
        rows.push_from(&parts[which].segment.rows, row);
    }
    Segment::new(order.into_iter().map(|(slot, ..)| slot).collect(), rows)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
