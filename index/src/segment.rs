// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An immutable run of vectors, its graph once it is built, and the search over both.
//!
//! Invariant: slots ascend strictly and `rows[i]` is the vector of `slots[i]`. Nothing of it ever
//! changes but that a graph appears; which rows are dead is kept outside, in [`Dead`], by whoever
//! owns the segment, copied on write so that a search sees one state.

use std::sync::{Arc, Mutex, OnceLock, atomic::AtomicBool};

use crate::{
    graph::GraphIndex,
    rows::Rows,
    store::Blob,
    topk::{Candidate, TopK},
    vector::Row,
};

/// The widest search of a graph; what would need more is scanned.
pub(crate) const EF_MAX: usize = 16_384;

/// Where a segment's parts lie in the store, once they are there.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stored {
    pub rows: Option<Blob>,
    pub graph: Option<Blob>,
}

/// Immutable vectors.
pub(crate) struct Segment {
    pub slots: Vec<u64>,
    pub rows: Arc<Rows>,
    pub graph: OnceLock<Arc<dyn GraphIndex>>,
    /// The library could not build this one's graph: it stays exact.
    pub hopeless: AtomicBool,
    pub stored: Mutex<Stored>,
}

impl Segment {
    pub(crate) fn new(slots: Vec<u64>, rows: Rows) -> Self {
        Self {
            slots,
            rows: Arc::new(rows),
            graph: OnceLock::new(),
            hopeless: AtomicBool::new(false),
            stored: Mutex::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn find(&self, slot: u64) -> Option<usize> {
        self.slots.binary_search(&slot).ok()
    }

    /// Resident bytes.
    pub(crate) fn bytes(&self) -> usize {
        let graph = self.graph.get().map_or(0, |graph| graph.bytes());
        self.rows.bytes() + self.slots.capacity() * 8 + graph
    }
}

/// The rows of a segment that were removed or overwritten.
#[derive(Clone)]
pub(crate) struct Dead {
    words: Vec<u64>,
    count: usize,
}

impl Dead {
    pub(crate) fn none(rows: usize) -> Self {
        Self { words: vec![0; rows.div_ceil(64)], count: 0 }
    }

    /// `None` if the words do not fit so many rows.
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

    /// False if it was dead before.
    pub(crate) fn insert(&mut self, row: usize) -> bool {
        let fresh = !self.contains(row);
        self.words[row / 64] |= 1 << (row % 64);
        self.count += usize::from(fresh);
        fresh
    }
}

/// A segment and its dead rows, as one search or one file sees them.
#[derive(Clone)]
pub(crate) struct Part {
    pub segment: Arc<Segment>,
    pub dead: Arc<Dead>,
}

/// What a search asks of every part.
pub(crate) struct Request<'a> {
    pub query: &'a Row,
    pub k: usize,
    pub ef: usize,
    pub exact: bool,
    pub scan_factor: usize,
}

impl Part {
    pub(crate) fn new(segment: Segment) -> Self {
        let dead = Arc::new(Dead::none(segment.len()));
        Self { segment: Arc::new(segment), dead }
    }

    pub(crate) fn live(&self) -> usize {
        self.segment.len() - self.dead.count()
    }

    pub(crate) fn find(&self, slot: u64) -> Option<usize> {
        self.segment.find(slot).filter(|&row| !self.dead.contains(row))
    }

    /// Marks a slot dead; false if it was not alive here.
    pub(crate) fn kill(&mut self, slot: u64) -> bool {
        let Some(row) = self.find(slot) else { return false };
        Arc::make_mut(&mut self.dead).insert(row)
    }

    /// Marks `first..=last` dead; how many were alive.
    pub(crate) fn kill_range(&mut self, first: u64, last: u64) -> u64 {
        let from = self.segment.slots.partition_point(|&slot| slot < first);
        let to = self.segment.slots.partition_point(|&slot| slot <= last);
        if (from..to).all(|row| self.dead.contains(row)) {
            return 0;
        }
        let dead = Arc::make_mut(&mut self.dead);
        (from..to).filter(|&row| dead.insert(row)).count() as u64
    }

    pub(crate) fn search(&self, request: &Request<'_>, file: u64, top: &mut TopK) {
        if self.live() == 0 || self.search_graph(request, file, top) {
            return;
        }
        let slots = &self.segment.slots;
        let none_dead = self.dead.count() == 0;
        self.segment.rows.scan(request.query, |row, rank| {
            if rank <= top.worst() && (none_dead || !self.dead.contains(row)) {
                top.push(Candidate { rank, file, slot: slots[row] });
            }
        });
    }

    /// False if the graph is not there, would be slower than a scan, or found too little.
    fn search_graph(&self, request: &Request<'_>, file: u64, top: &mut TopK) -> bool {
        let (live, len) = (self.live(), self.segment.len());
        let Some(graph) = self.segment.graph.get().filter(|_| !request.exact) else { return false };
        // Dead rows take places among the candidates: so many more are asked for.
        let ef = request.ef.max(request.k).saturating_mul(len).div_ceil(live);
        if ef > EF_MAX || ef.saturating_mul(request.scan_factor) > len {
            return false;
        }
        let mut found = graph.search(request.query, ef);
        found.retain(|&row| !self.dead.contains(row as usize));
        if found.len() < request.k.min(live) {
            return false;
        }
        for row in found {
            let row = row as usize;
            let rank = self.segment.rows.rank(row, request.query);
            top.push(Candidate { rank, file, slot: self.segment.slots[row] });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::{Element, Metric, Space};

    /// A graph that remembers how wide it was searched, and finds the first rows.
    struct Fake(Mutex<Vec<usize>>);

    impl GraphIndex for Fake {
        fn search(&self, _: &Row, ef: usize) -> Vec<u32> {
            crate::lock(&self.0).push(ef);
            (0..ef as u32).collect()
        }

        fn dump(&self, _: &std::path::Path) -> crate::Result<crate::graph::Dump> {
            Err(crate::IndexError::Stopped)
        }

        fn bytes(&self) -> usize {
            0
        }
    }

    #[test]
    fn dead_rows_widen_the_search_until_a_scan_is_cheaper() {
        let space = Space::new(Element::I8, Metric::L2, 1);
        let mut rows = Rows::new(space);
        for row in 0..100u8 {
            rows.push(&space.decode(&[row]).unwrap().unwrap());
        }
        let mut part = Part::new(Segment::new((0..100).collect(), rows));
        let fake = Arc::new(Fake(Mutex::default()));
        assert!(part.segment.graph.set(Arc::clone(&fake) as Arc<dyn GraphIndex>).is_ok());
        let query = space.decode_query(&[0.0]).unwrap();
        let found = |part: &Part, k, exact| {
            let request = Request { query: &query, k, ef: 10, exact, scan_factor: 4 };
            let mut top = TopK::new(k);
            part.search(&request, 1, &mut top);
            top.into_sorted().iter().map(|hit| hit.slot).collect::<Vec<u64>>()
        };
        assert_eq!(found(&part, 3, false), [0, 1, 2]);
        part.kill_range(50, 99);
        assert_eq!(found(&part, 3, false), [0, 1, 2]);
        // 10 candidates, then 20 for as many alive; nothing for what is exact or too wide.
        assert_eq!(found(&part, 3, true), [0, 1, 2]);
        assert_eq!(found(&part, 20, false).len(), 20);
        assert_eq!(*crate::lock(&fake.0), [10, 20]);
        // The candidates all dead: the scan finds what the graph did not.
        part.kill_range(0, 19);
        assert_eq!(found(&part, 3, false), [20, 21, 22]);
    }

    #[test]
    fn dead_words_must_fit_their_rows() {
        let mut dead = Dead::none(70);
        assert!(dead.insert(69) && !dead.insert(69) && dead.insert(0));
        let back = Dead::from_words(dead.words().to_vec(), 70).unwrap();
        assert!(back.count() == 2 && back.contains(69) && !back.contains(68));
        assert!(Dead::from_words(dead.words().to_vec(), 69).is_none());
        assert!(Dead::from_words(vec![0], 70).is_none());
    }
}
