// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A sealed segment: immutable vectors, a graph over them once it is built, and the search of both.
//!
//! Invariant: slots ascend strictly and the `i`th row is the vector of the `i`th slot. What is in a
//! segment never changes, but a graph appears, or goes because it was damaged, and the rows move from memory
//! into the store's pages. Which rows are removed is kept outside of the segment, in [`Tombstones`], which
//! are copied on write so that a search sees one state.
//!
//! A row in the store can turn out to be lost. A search that needs it says so and finds nothing.

use std::sync::{Arc, Mutex, RwLock, atomic::AtomicBool};

use crate::{
    graph::Graph,
    slots::Slots,
    stats::Counts,
    store::Blob,
    sync::{lock, read, write},
    topk::{Candidate, TopK},
    vector::Row,
    vector_array::VectorArray,
};

/// The most candidates that a graph is asked for; a search that needs more scans.
pub(crate) const EF_MAX: usize = 16_384;

/// Candidates of a graph whose exact distance is computed, at least; equal ones count once.
const RERANKED_MIN: usize = 20;

/// The blobs of a segment that are in the store.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stored {
    pub vectors: Option<Blob>,
    pub graph: Option<Blob>,
}

/// Immutable vectors.
pub(crate) struct Segment {
    pub slots: Slots,
    rows: RwLock<Arc<VectorArray>>,
    graph: RwLock<GraphState>,
    /// A build failed and is not tried again: the segment stays without a graph.
    pub build_failed: AtomicBool,
    pub stored: Mutex<Stored>,
}

/// What there is of a segment's graph.
enum GraphState {
    None,
    /// One is in the store, and not verified yet: until it is, the segment is scanned.
    Pending,
    Ready(Arc<dyn Graph>),
}

impl Segment {
    /// The slots ascend; that is the caller's to see to.
    pub(crate) fn new(slots: Vec<u64>, rows: VectorArray) -> Self {
        let slots = Slots::new(slots).unwrap_or_else(|| {
            debug_assert!(false, "slots out of order");
            Slots::List(Vec::new())
        });
        Self::of(slots, rows)
    }

    pub(crate) fn of(slots: Slots, rows: VectorArray) -> Self {
        Self {
            slots,
            rows: RwLock::new(Arc::new(rows)),
            graph: RwLock::new(GraphState::None),
            build_failed: AtomicBool::new(false),
            stored: Mutex::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The rows, where they are now.
    pub(crate) fn rows(&self) -> Arc<VectorArray> {
        Arc::clone(&read(&self.rows))
    }

    /// Puts the same rows in the place of those that are in memory.
    pub(crate) fn move_rows(&self, rows: VectorArray) {
        debug_assert_eq!(rows.len(), self.len());
        *write(&self.rows) = Arc::new(rows);
    }

    /// The graph, if there is one that can be walked.
    pub(crate) fn graph(&self) -> Option<Arc<dyn Graph>> {
        match &*read(&self.graph) {
            GraphState::Ready(graph) if graph.intact() => Some(Arc::clone(graph)),
            _ => None,
        }
    }

    /// Whether there is a graph, or will be without being built.
    pub(crate) fn has_graph(&self) -> bool {
        match &*read(&self.graph) {
            GraphState::None => false,
            GraphState::Pending => true,
            GraphState::Ready(graph) => graph.intact(),
        }
    }

    /// Adds a graph that was built. One that is in the store is not this one.
    pub(crate) fn set_graph(&self, graph: Arc<dyn Graph>) {
        lock(&self.stored).graph = None;
        self.admit_graph(graph);
    }

    /// Adds the graph that is in the store.
    pub(crate) fn admit_graph(&self, graph: Arc<dyn Graph>) {
        *write(&self.graph) = GraphState::Ready(graph);
    }

    /// Whether there was a graph that cannot be read any more.
    pub(crate) fn graph_is_broken(&self) -> bool {
        matches!(&*read(&self.graph), GraphState::Ready(graph) if !graph.intact())
    }

    /// A graph is in the store and being verified.
    pub(crate) fn expect_graph(&self) {
        *write(&self.graph) = GraphState::Pending;
    }

    /// The graph that was being verified is not there after all.
    pub(crate) fn give_up_graph(&self) {
        lock(&self.stored).graph = None;
        let mut graph = write(&self.graph);
        if matches!(*graph, GraphState::Pending) {
            *graph = GraphState::None;
        }
    }

    fn find(&self, slot: u64) -> Option<usize> {
        self.slots.find(slot)
    }

    /// Resident bytes.
    fn bytes(&self) -> usize {
        let graph = self.graph().map_or(0, |graph| graph.bytes());
        self.rows().bytes() + self.slots.bytes() + graph
    }
}

/// The rows of a segment that were removed or overwritten: one bit for each row.
#[derive(Clone)]
pub(crate) struct Tombstones {
    words: Vec<u64>,
    count: usize,
}

impl Tombstones {
    pub(crate) fn none(rows: usize) -> Self {
        Self { words: vec![0; rows.div_ceil(64)], count: 0 }
    }

    /// `None` if the words are not those of so many rows.
    pub(crate) fn from_words(words: Vec<u64>, rows: usize) -> Option<Self> {
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        let past_end =
            !rows.is_multiple_of(64) && words.last().is_some_and(|last| last >> (rows % 64) != 0);
        (words.len() == rows.div_ceil(64) && !past_end).then_some(Self { words, count })
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn contains(&self, row: usize) -> bool {
        self.words[row / 64] >> (row % 64) & 1 == 1
    }

    /// False if the row had a tombstone already.
    pub(crate) fn insert(&mut self, row: usize) -> bool {
        let fresh = !self.contains(row);
        self.words[row / 64] |= 1 << (row % 64);
        self.count += usize::from(fresh);
        fresh
    }
}

/// A segment with its tombstones, as one file or one search sees it.
#[derive(Clone)]
pub(crate) struct SegmentView {
    pub segment: Arc<Segment>,
    pub tombstones: Arc<Tombstones>,
}

/// What a search asks of every segment.
pub(crate) struct Request<'a> {
    pub query: &'a Row,
    pub k: usize,
    pub ef: usize,
    pub exact: bool,
    pub scan_factor: usize,
}

/// Why a search of a segment has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A vector that it needs is not what was written. It has to be supplied again.
    Lost,
    /// A page could not be read meanwhile. The search has to be repeated; its candidates count for nothing.
    Changed,
}

impl SegmentView {
    pub(crate) fn new(segment: Segment) -> Self {
        let tombstones = Arc::new(Tombstones::none(segment.len()));
        Self { segment: Arc::new(segment), tombstones }
    }

    /// Rows without a tombstone.
    pub(crate) fn live(&self) -> usize {
        self.segment.len() - self.tombstones.count()
    }

    pub(crate) fn find(&self, slot: u64) -> Option<usize> {
        self.segment.find(slot).filter(|&row| !self.tombstones.contains(row))
    }

    /// Removes a slot; false if it is not here.
    pub(crate) fn remove(&mut self, slot: u64) -> bool {
        let Some(row) = self.find(slot) else { return false };
        Arc::make_mut(&mut self.tombstones).insert(row)
    }

    /// Removes `first..=last`; how many vectors went.
    pub(crate) fn remove_range(&mut self, first: u64, last: u64) -> u64 {
        let from = self.segment.slots.before(first);
        let to = match last.checked_add(1) {
            Some(next) => self.segment.slots.before(next),
            None => self.segment.len(),
        };
        if (from..to).all(|row| self.tombstones.contains(row)) {
            return 0;
        }
        let tombstones = Arc::make_mut(&mut self.tombstones);
        (from..to).filter(|&row| tombstones.insert(row)).count() as u64
    }

    /// Adds what is near. On an error nothing of what was added may be used.
    pub(crate) fn search(
        &self,
        request: &Request<'_>,
        file: u64,
        top: &mut TopK,
    ) -> Result<(), Broken> {
        if self.live() == 0 {
            return Ok(());
        }
        let rows = self.segment.rows();
        let epoch = rows.epoch();
        let searched = match self.search_graph(&rows, epoch, request, file, top) {
            Ok(false) => self.scan(&rows, epoch, request, file, top),
            other => other.map(drop),
        };
        if rows.epoch() == epoch { searched } else { Err(Broken::Changed) }
    }

    fn scan(
        &self,
        rows: &VectorArray,
        epoch: u32,
        request: &Request<'_>,
        file: u64,
        top: &mut TopK,
    ) -> Result<(), Broken> {
        let slots = &self.segment.slots;
        let all_live = self.tombstones.count() == 0;
        let ranker = rows.ranker(request.query);
        for row in 0..rows.len() {
            let live = || all_live || !self.tombstones.contains(row);
            match rows.rank_checked(row, &ranker, epoch) {
                Some(rank) if rank <= top.worst() && live() => {
                    top.push(Candidate { rank, file, slot: slots.at(row) });
                }
                None if live() => return Err(Broken::Lost),
                _ => {}
            }
        }
        Ok(())
    }

    /// False if there is no graph, a scan is cheaper, or the graph found too little.
    fn search_graph(
        &self,
        rows: &VectorArray,
        epoch: u32,
        request: &Request<'_>,
        file: u64,
        top: &mut TopK,
    ) -> Result<bool, Broken> {
        let (live, len) = (self.live(), self.segment.len());
        if request.exact {
            return Ok(false);
        }
        let Some(graph) = self.segment.graph() else { return Ok(false) };
        // Removed rows are among the candidates: as many more are asked for.
        let ef = request.ef.max(request.k).saturating_mul(len).div_ceil(live);
        if ef > EF_MAX || ef.saturating_mul(request.scan_factor) > len {
            return Ok(false);
        }
        let mut found = graph.search(request.query, ef);
        found.retain(|&row| !self.tombstones.contains(row as usize));
        // A walk in the course of which a page could not be read counts for nothing.
        if found.len() < request.k.min(live) || !graph.intact() {
            return Ok(false);
        }
        // The nearest come first: what lies far behind the k-th is not worth its exact distance. Equal
        // rows stand side by side and count once, or a crowd of them would hide a nearer row.
        let ranker = rows.ranker(request.query);
        let mut left = (request.k * 2).max(RERANKED_MIN);
        let mut last = None;
        for &row in found.iter().take(left) {
            rows.prefetch(row as usize);
        }
        for row in found {
            let row = row as usize;
            let rank = rows.rank_checked(row, &ranker, epoch).ok_or(Broken::Lost)?;
            if last != Some(rank.to_bits()) {
                if left == 0 {
                    break;
                }
                left -= 1;
                last = Some(rank.to_bits());
            }
            top.push(Candidate { rank, file, slot: self.segment.slots.at(row) });
        }
        Ok(true)
    }

    /// Whether a vector that is not removed is lost.
    pub(crate) fn has_lost(&self) -> bool {
        let live = (0..self.segment.len()).filter(|&row| !self.tombstones.contains(row));
        self.segment.rows().first_lost(live).is_some()
    }

    pub(crate) fn counts(&self) -> Counts {
        let has_graph = self.segment.has_graph();
        let live = self.live() as u64;
        Counts {
            vectors: live,
            segments: 1,
            graphs: u64::from(has_graph),
            tombstones: self.tombstones.count() as u64,
            pending: if has_graph { 0 } else { live },
            skipped: 0,
            bytes: (self.segment.bytes() + self.tombstones.words().len() * 8) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Element, Metric};
    use crate::vector::Space;

    /// A graph that records each `ef`, and finds the first rows.
    struct Fake(Mutex<Vec<usize>>);

    impl Graph for Fake {
        fn search(&self, _: &Row, ef: usize) -> Vec<u32> {
            crate::sync::lock(&self.0).push(ef);
            (0..ef as u32).collect()
        }

        fn dump<'a>(
            &'a self,
            _: &std::path::Path,
            _: u32,
        ) -> crate::Result<Box<dyn crate::graph::Dump + 'a>> {
            Err(crate::IndexError::Stopped)
        }

        fn bytes(&self) -> usize {
            0
        }
    }

    #[test]
    fn tombstones_widen_the_search_until_a_scan_is_cheaper() {
        let space = Space::new(Element::I8, Metric::L2, 1);
        let mut rows = VectorArray::new(space);
        for row in 0..100u8 {
            rows.push(&space.decode(&[row]).unwrap().unwrap());
        }
        let mut view = SegmentView::new(Segment::new((0..100).collect(), rows));
        let fake = Arc::new(Fake(Mutex::default()));
        view.segment.set_graph(Arc::clone(&fake) as Arc<dyn Graph>);
        let query = space.decode_query(&[0.0]).unwrap();
        let found = |view: &SegmentView, k, exact| {
            let request = Request { query: &query, k, ef: 10, exact, scan_factor: 4 };
            let mut top = TopK::new(k);
            view.search(&request, 1, &mut top).unwrap();
            top.into_sorted().iter().map(|hit| hit.slot).collect::<Vec<u64>>()
        };
        assert_eq!(found(&view, 3, false), [0, 1, 2]);
        view.remove_range(50, 99);
        assert_eq!(found(&view, 3, false), [0, 1, 2]);
        // 10 candidates, then 20 to have as many live ones; none for a search that is exact or too wide.
        assert_eq!(found(&view, 3, true), [0, 1, 2]);
        assert_eq!(found(&view, 20, false).len(), 20);
        assert_eq!(*crate::sync::lock(&fake.0), [10, 20]);
        // All candidates have tombstones: the scan finds what the graph did not.
        view.remove_range(0, 19);
        assert_eq!(found(&view, 3, false), [20, 21, 22]);
    }

    #[test]
    fn a_crowd_of_equal_rows_does_not_hide_a_nearer_one() {
        let space = Space::new(Element::I8, Metric::L2, 1);
        let mut rows = VectorArray::new(space);
        for row in 0..40u8 {
            rows.push(&space.decode(&[u8::from(row != 39)]).unwrap().unwrap());
        }
        let view = SegmentView::new(Segment::new((0..40).collect(), rows));
        view.segment.set_graph(Arc::new(Fake(Mutex::default())));
        let query = space.decode_query(&[0.0]).unwrap();
        let request = Request { query: &query, k: 1, ef: 40, exact: false, scan_factor: 1 };
        let mut top = TopK::new(1);
        view.search(&request, 1, &mut top).unwrap();
        assert_eq!(top.into_sorted().first().map(|hit| hit.slot), Some(39));
    }

    #[test]
    fn tombstones_must_fit_their_rows() {
        let mut tombstones = Tombstones::none(70);
        assert!(tombstones.insert(69) && !tombstones.insert(69) && tombstones.insert(0));
        let back = Tombstones::from_words(tombstones.words().to_vec(), 70).unwrap();
        assert!(back.count() == 2 && back.contains(69) && !back.contains(68));
        assert!(Tombstones::from_words(tombstones.words().to_vec(), 69).is_none());
        assert!(Tombstones::from_words(vec![0], 70).is_none());
    }
}
