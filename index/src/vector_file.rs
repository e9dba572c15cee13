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
    graph::{self, Base, GONE, GraphKind},
    growing::GrowingSegment,
    manifest::VectorsBlob,
    merge_policy::{self, Choice, Moment, Part, Terms},
    segment::{Segment, SegmentView},
    slot_set::SlotSet,
    stats::Counts,
    vector::{Params, Row, Space},
    vector_array::VectorArray,
};

/// While builds are behind, a growing segment gets so many times as large before it is sealed: a search
/// and an upsert go through all segments.
const BEHIND: usize = 8;
/// The part of a full growing segment that is scanned at no cost to speak of.
const HANDFUL_PART: usize = 8;

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
    pub merge_bytes: u64,
    /// Bytes of memory for everything.
    pub memory: u64,
    /// Which implementation builds graphs.
    pub graph: GraphKind,
}

impl Limits {
    /// Rows of the largest segment that merging makes.
    fn bound(self, space: Space) -> usize {
        // As if its numbers were of four bytes, at most.
        let row = u64::from(space.dim) * 4 + graph_bytes(space);
        let rows = usize::try_from(self.merge_bytes / row).unwrap_or(usize::MAX);
        self.merge_rows.min(rows).max(1)
    }

    /// Bytes of a growing segment after which it is sealed, whatever is behind.
    fn seal_bytes(self) -> u64 {
        self.memory / 16
    }

    /// Rows that are scanned at no cost to speak of.
    fn handful(self) -> usize {
        self.graph_rows / HANDFUL_PART
    }
}

/// Bytes of a row in a graph, at most: code, links, slot, and the numbers of node and row.
fn graph_bytes(space: Space) -> u64 {
    u64::from(space.dim) + 64 + 128 + 16
}

/// Bytes in memory below which sealing a growing segment early is not worth its while.
const SPARED_BYTES: usize = 16 << 10;

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
    /// Vectors that came since all was last merged for that reason.
    arrived: usize,
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
            arrived: 0,
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
        self.arrived += 1;
        let len = self.growing.len();
        let full = limits.graph_rows;
        let heavy = len as u64 * raw.len() as u64 >= limits.seal_bytes();
        if heavy
            || (len >= full
                && (len >= full.saturating_mul(BEHIND) || !self.segments.iter().any(lacks_graph)))
        {
            self.seal();
        }
        Ok(true)
    }

    /// Seals the growing segment if it holds much: a checkpoint moves only what is sealed out of memory.
    pub(crate) fn relieve(&mut self) {
        if self.growing.bytes() > SPARED_BYTES {
            self.seal();
        }
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

    /// The parts that may be merged, and the segment that each is; the growing one is none.
    fn parts(&self, limits: Limits, moment: Moment) -> (Vec<Part>, Vec<Option<usize>>) {
        let usable = |view: &SegmentView| {
            view.live() > 0 && !view.segment.build_failed.load(Ordering::Relaxed)
        };
        let usable = self.segments.iter().enumerate().filter(|(_, view)| usable(view));
        let (mut parts, mut places): (Vec<Part>, Vec<Option<usize>>) = usable
            .map(|(at, view)| {
                let (rows, tombstones) = (view.live(), view.tombstones.count());
                (Part { rows, tombstones, lacks_graph: lacks_graph(view) }, Some(at))
            })
            .unzip();
        let rows = self.growing.len();
        let is_full = rows >= limits.graph_rows;
        // A small file is scanned as fast as a graph is walked.
        if is_full || (moment != Moment::Busy && rows > limits.handful() && !parts.is_empty()) {
            parts.push(Part { rows, tombstones: 0, lacks_graph: is_full });
            places.push(None);
        }
        (parts, places)
    }

    fn choose(&self, limits: Limits, moment: Moment) -> Option<(Choice, Vec<Option<usize>>)> {
        let (parts, places) = self.parts(limits, moment);
        let credit = match moment {
            Moment::Busy => 0,
            Moment::Rest => self.arrived,
            Moment::Idle => usize::MAX,
        };
        let terms = Terms { bound: limits.bound(self.space), handful: limits.handful(), credit };
        Some((merge_policy::choose(&parts, terms)?, places))
    }

    /// Whether there is a job for it, now or later.
    pub(crate) fn has_work(&self, limits: Limits) -> bool {
        [Moment::Busy, Moment::Idle].into_iter().any(|at| self.choose(limits, at).is_some())
    }

    /// The next job that is worth doing, if any. At rest, which is when no file has another, what is left
    /// is merged too if it is much, and in an idle file whatever it is.
    pub(crate) fn plan(&mut self, limits: Limits, moment: Moment) -> Option<Job> {
        let (choice, places) = self.choose(limits, moment)?;
        if choice.by_credit {
            self.arrived = 0;
        }
        let chosen: Vec<Option<usize>> = choice.parts.iter().map(|&part| places[part]).collect();
        let mut segments: Vec<SegmentView> =
            chosen.iter().flatten().map(|&at| self.segments[at].clone()).collect();
        if chosen.contains(&None) {
            self.seal();
            segments.extend(self.segments.last().cloned());
        }
        Some(Job { space: self.space, params: self.params, graph: limits.graph, segments })
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

/// Whether a segment is to get a graph.
fn lacks_graph(view: &SegmentView) -> bool {
    let segment = &view.segment;
    view.live() > 0 && !segment.has_graph() && !segment.build_failed.load(Ordering::Relaxed)
}

impl Job {
    /// Bytes of memory that doing it takes, beside the segments that are there.
    pub(crate) fn cost(&self) -> u64 {
        let rows: u64 = self.segments.iter().map(|view| view.live() as u64).sum();
        let copied = if self.copies() { self.space.vector_bytes() as u64 } else { 0 };
        rows.saturating_mul(copied + graph_bytes(self.space))
    }

    /// Whether the rows are copied into a new segment.
    fn copies(&self) -> bool {
        !matches!(self.segments.as_slice(), [only] if !only.segment.has_graph())
    }

    /// Does the job: adds a graph to its only segment, or returns the segments merged into one.
    pub(crate) fn run(&self, stop: &AtomicBool) -> Result<Option<Segment>> {
        if let [only] = self.segments.as_slice()
            && !only.segment.has_graph()
        {
            let rows = only.segment.rows();
            match graph::build(self.graph, &rows, None, self.params, stop) {
                Ok(graph) => {
                    only.segment.set_graph(graph);
                    return Ok(None);
                }
                // A page of the vectors is damaged: those that count may all be elsewhere.
                Err(IndexError::Damaged(_)) => {}
                Err(other) => return Err(other),
            }
        }
        let (segment, base) = merge(self.space, &self.segments)?;
        let graph = graph::build(self.graph, &segment.rows(), base.as_ref(), self.params, stop)?;
        segment.set_graph(graph);
        Ok(Some(segment))
    }

    /// No graph can be built over these: they are searched by scanning, and not tried again.
    pub(crate) fn give_up(&self) {
        for view in &self.segments {
            view.segment.build_failed.store(true, Ordering::Relaxed);
        }
    }
}

/// The live rows of several segments, by slot, and the largest graph among theirs.
fn merge(space: Space, segments: &[SegmentView]) -> Result<(Segment, Option<Base>)> {
    let mut order: Vec<(u64, usize, usize)> = Vec::new();
    for (from, view) in segments.iter().enumerate() {
        for row in (0..view.segment.len()).filter(|&row| !view.tombstones.contains(row)) {
            order.push((view.segment.slots.at(row), from, row));
        }
    }
    order.sort_unstable();
    let with_graph = segments.iter().enumerate().filter(|(_, view)| view.segment.graph().is_some());
    let largest = with_graph.max_by_key(|(_, view)| view.live());
    let base = largest.and_then(|(largest, view)| {
        let mut moved = vec![GONE; view.segment.len()];
        for (to, &(_, from, row)) in order.iter().enumerate() {
            if from == largest {
                moved[row] = to as u32;
            }
        }
        Some(Base { graph: view.segment.graph()?, moved })
    });
    let mut rows = VectorArray::new(space);
    rows.reserve_exact(order.len());
    let sources: Vec<Arc<VectorArray>> = segments.iter().map(|view| view.segment.rows()).collect();
    for &(_, from, row) in &order {
        rows.push_checked(&sources[from], row)?;
    }
    Ok((Segment::new(order.into_iter().map(|(slot, ..)| slot).collect(), rows), base))
}

#[cfg(test)]
#[path = "vector_file_tests.rs"]
mod tests;
