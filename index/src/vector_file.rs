// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One vector file in the index: its segments, and how they are sealed, built and merged.
//!
//! Invariant: a slot is alive in at most one place, the growing segment or one sealed segment; if
//! it is, it is not among the skipped slots. Every function on [`VectorFile`] is short and called
//! under its lock; a [`Job`] runs without it.

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    error::{IndexError, Result},
    graph::{self, GraphKind},
    growing::GrowingSegment,
    manifest::VectorsBlob,
    segment::{Segment, SegmentView},
    slot_set::SlotSet,
    stats::Counts,
    vector::{Params, Row, Space},
    vector_array::VectorArray,
};

/// So many segments of about one size are merged into one.
const TIER_WIDTH: usize = 4;
/// Segments without a graph are built as one graph: at most so many full growing segments.
const GATHER: usize = 8;

/// What became of a batch of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows that can be found.
    pub indexed: u64,
    /// Rows that cannot be compared: NaN, infinity, too large, or zero under cosine.
    pub skipped: u64,
}

/// Sizes that decide when a segment is sealed and which segments are merged.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub graph_rows: usize,
    pub merge_rows: usize,
    /// Which implementation builds graphs.
    pub graph: GraphKind,
}

/// All files of an index, by the number in their [`FileId`](crate::FileId).
pub(crate) type Files = HashMap<u64, Arc<RwLock<VectorFile>>>;

/// A vector file.
pub(crate) struct VectorFile {
    pub space: Space,
    pub params: Params,
    /// The sealed ones.
    pub segments: Vec<SegmentView>,
    pub growing: GrowingSegment,
    /// Slots whose vectors cannot be compared.
    pub skipped: SlotSet,
    /// The version of the growing segment that is in the store, and where.
    pub growing_stored: Option<(u64, VectorsBlob)>,
}

/// Work for the build thread: segments of a file, as they were when it was planned.
pub(crate) struct Job {
    space: Space,
    params: Params,
    graph: GraphKind,
    segments: Vec<SegmentView>,
}

impl VectorFile {
    pub(crate) fn new(space: Space, params: Params) -> Self {
        Self {
            space,
            params,
            segments: Vec::new(),
            growing: GrowingSegment::new(space),
            skipped: SlotSet::default(),
            growing_stored: None,
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
        if let Some((at, old)) = self.locate(slot) {
            if self.segments[at].segment.rows().same(old, &row) {
                return Ok(true);
            }
            self.segments[at].remove(slot);
        }
        self.skipped.remove(slot, slot);
        self.growing.put(slot, &row);
        if self.growing.len() >= limits.graph_rows {
            self.seal();
        }
        Ok(true)
    }

    fn seal(&mut self) {
        let (slots, rows) = self.growing.take_sorted(self.space);
        self.segments.retain(|view| view.live() > 0);
        self.segments.push(SegmentView::new(Segment::new(slots, rows)));
    }

    /// The sealed segment with a live vector of this slot, and the vector's row.
    fn locate(&self, slot: u64) -> Option<(usize, usize)> {
        self.segments.iter().enumerate().find_map(|(i, view)| Some((i, view.find(slot)?)))
    }

    fn forget(&mut self, slot: u64) {
        if !self.growing.remove(slot) {
            let _ = self.segments.iter_mut().any(|view| view.remove(slot));
        }
    }

    /// Removes the slots `first..=last`; how many vectors went.
    pub(crate) fn remove(&mut self, first: u64, last: u64) -> u64 {
        if first > last {
            return 0;
        }
        self.skipped.remove(first, last);
        let sealed: u64 = self.segments.iter_mut().map(|view| view.remove_range(first, last)).sum();
        self.segments.retain(|view| view.live() > 0);
        sealed + self.growing.remove_range(first, last)
    }

    pub(crate) fn get(&self, slot: u64) -> Option<Row> {
        if let Some(row) = self.growing.find(slot) {
            return Some(self.growing.rows.get(row));
        }
        let (at, row) = self.locate(slot)?;
        self.segments[at].segment.rows().get_checked(row)
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts: Counts = self.segments.iter().map(SegmentView::counts).sum();
        counts += self.growing.counts();
        counts.skipped = self.skipped.count();
        counts
    }

    /// The next job that is worth doing, if any: graphs that are missing, then merges.
    pub(crate) fn plan(&self, limits: Limits) -> Option<Job> {
        let usable: Vec<&SegmentView> = self
            .segments
            .iter()
            .filter(|view| view.live() > 0 && !view.segment.build_failed.load(Ordering::Relaxed))
            .collect();
        let without_graph = usable.iter().copied().filter(|view| !view.segment.has_graph());
        let gathered = gather(without_graph, (GATHER * limits.graph_rows).min(limits.merge_rows));
        if !gathered.is_empty() {
            return Some(self.job(&gathered, limits));
        }
        if let Some(full) = full_tier(&usable, limits) {
            return Some(self.job(&full, limits));
        }
        // With tombstones on a third of its rows a segment is asked for half as many candidates again.
        let stale = |view: &&SegmentView| view.tombstones.count() * 3 > view.segment.len();
        usable.into_iter().find(stale).map(|view| self.job(&[view], limits))
    }

    fn job(&self, segments: &[&SegmentView], limits: Limits) -> Job {
        let segments = segments.iter().map(|&view| view.clone()).collect();
        Job { space: self.space, params: self.params, graph: limits.graph, segments }
    }

    /// Puts a merged segment in the place of its sources; false if the file no longer has them.
    pub(crate) fn replace(&mut self, job: &Job, segment: Segment) -> bool {
        let same = |a: &SegmentView, b: &SegmentView| Arc::ptr_eq(&a.segment, &b.segment);
        let sources: Vec<Option<&SegmentView>> = job
            .segments
            .iter()
            .map(|old| self.segments.iter().find(|view| same(view, old)))
            .collect();
        // A single source can be gone because all its rows were removed meanwhile.
        if self.space != job.space || sources.iter().all(Option::is_none) {
            return false;
        }
        let mut merged = SegmentView::new(segment);
        for (old, source) in job.segments.iter().zip(sources) {
            for row in (0..old.segment.len()).filter(|&row| !old.tombstones.contains(row)) {
                if source.is_none_or(|source| source.tombstones.contains(row)) {
                    merged.remove(old.segment.slots.at(row));
                }
            }
        }
        self.segments.retain(|view| !job.segments.iter().any(|old| same(view, old)));
        if merged.live() > 0 {
            self.segments.push(merged);
        }
        true
    }
}

/// Segments of about one size, if there are enough of them to be merged. The sizes of a tier lie
/// within a factor of [`TIER_WIDTH`].
fn full_tier<'a>(usable: &[&'a SegmentView], limits: Limits) -> Option<Vec<&'a SegmentView>> {
    let mut tiers: Vec<Vec<&SegmentView>> = Vec::new();
    for &view in usable {
        let ratio = view.live() / limits.graph_rows.max(1);
        let tier = ratio.max(1).ilog(TIER_WIDTH) as usize;
        tiers.resize_with(tiers.len().max(tier + 1), Vec::new);
        tiers[tier].push(view);
    }
    tiers.into_iter().find_map(|mut tier| {
        tier.sort_by_key(|view| view.live());
        let merged = gather(tier.into_iter(), limits.merge_rows);
        (merged.len() >= TIER_WIDTH).then_some(merged)
    })
}

/// The first segments that together have at most `limit` live rows; at least one, if there is any.
fn gather<'a>(
    segments: impl Iterator<Item = &'a SegmentView>,
    limit: usize,
) -> Vec<&'a SegmentView> {
    let mut rows = 0;
    segments
        .take_while(|view| {
            let first = rows == 0;
            rows += view.live();
            first || rows <= limit
        })
        .collect()
}

impl Job {
    /// Does the job: adds a graph to its only segment, or returns the segments merged into one.
    pub(crate) fn run(&self, stop: &AtomicBool) -> Result<Option<Segment>> {
        if let [only] = self.segments.as_slice()
            && !only.segment.has_graph()
        {
            only.segment.set_graph(graph::build(
                self.graph,
                &only.segment.rows(),
                self.params,
                stop,
            )?);
            return Ok(None);
        }
        let segment = merge(self.space, &self.segments)?;
        segment.set_graph(graph::build(self.graph, &segment.rows(), self.params, stop)?);
        Ok(Some(segment))
    }

    /// No graph can be built over these: they are searched by scanning, and not tried again.
    pub(crate) fn give_up(&self) {
        for view in &self.segments {
            view.segment.build_failed.store(true, Ordering::Relaxed);
        }
    }
}

/// The live rows of several segments, by slot.
fn merge(space: Space, segments: &[SegmentView]) -> Result<Segment> {
    let mut order: Vec<(u64, usize, usize)> = Vec::new();
    for (from, view) in segments.iter().enumerate() {
        for row in (0..view.segment.len()).filter(|&row| !view.tombstones.contains(row)) {
            order.push((view.segment.slots.at(row), from, row));
        }
    }
    order.sort_unstable();
    let mut rows = VectorArray::new(space);
    rows.reserve_exact(order.len());
    let sources: Vec<Arc<VectorArray>> = segments.iter().map(|view| view.segment.rows()).collect();
    for &(_, from, row) in &order {
        rows.push_checked(&sources[from], row)?;
    }
    Ok(Segment::new(order.into_iter().map(|(slot, ..)| slot).collect(), rows))
}

#[cfg(test)]
#[path = "vector_file_tests.rs"]
mod tests;
