// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The search of one segment: which rows are scanned and when the graph is walked.
//!
//! Invariant: only rows without a tombstone that pass the filter are added, by their exact rank. A graph
//! decides which of them are looked at, and a scan does its work where it found too few or would take
//! longer.
//!
//! How a filtered search is done depends on how many rows pass, which is counted. With `p` of `n` rows
//! passing, a walk that keeps `ef` of them looks at about `ef * n / p` candidates, each of which costs as much as
//! scanning a part of `scan_factor` rows that lie apart; a scan looks at `p` rows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use super::{Broken, EF_MAX, Request, SegmentView};
use crate::{
    calibration::Curve,
    distance,
    filter::{self, Bitmap, Filter},
    graph::Graph,
    sync::lock,
    topk::{Candidate, TopK},
    vector_array::VectorArray,
};

/// Candidates of a graph whose exact distance is computed, at least; equal ones count once.
const RERANKED_MIN: usize = 20;
/// Vectors within a radius that are looked for first.
const WITHIN: usize = 64;

/// The rows of a segment as a search has them, and the epoch in which it believes them.
#[derive(Clone, Copy)]
struct Rows<'a> {
    array: &'a VectorArray,
    epoch: u32,
    /// The rows that may be found and how many there are; if there is no filter, all without a tombstone.
    passing: Option<&'a Bitmap>,
    count: usize,
}

impl SegmentView {
    /// The rows without a tombstone that pass.
    pub(crate) fn passing(&self, filter: &dyn Filter, file: u64) -> Bitmap {
        let slots = &self.segment.slots;
        let mut rows = filter::passing(filter, file, slots.len(), |row| slots.at(row));
        rows.remove_words(self.tombstones.words());
        rows
    }

    /// Adds what is near, of the rows in `passing` if it is given; the width of the walk, if there was one.
    /// On an error nothing of what was added may be used.
    pub(crate) fn search(
        &self,
        request: &Request<'_>,
        passing: Option<&Bitmap>,
        file: u64,
        top: &mut TopK,
    ) -> Result<Option<usize>, Broken> {
        let count = passing.map_or_else(|| self.live(), Bitmap::count);
        if count == 0 {
            return Ok(None);
        }
        let array = self.segment.rows();
        let rows = Rows { array: &array, epoch: array.epoch(), passing, count };
        let searched = match request.within {
            Some(radius) if !request.exact => self.search_within(rows, request, radius, file, top),
            _ => self.search_nearest(rows, request, file, top),
        };
        if array.epoch() == rows.epoch { searched } else { Err(Broken::Changed) }
    }

    fn search_nearest(
        &self,
        rows: Rows<'_>,
        request: &Request<'_>,
        file: u64,
        top: &mut TopK,
    ) -> Result<Option<usize>, Broken> {
        let walked = self.search_graph(rows, request, file, top)?;
        if walked.is_none() {
            self.scan(rows, request, file, top)?;
        }
        Ok(walked)
    }

    /// Looks for ever more of the nearest, until one is outside of the radius.
    fn search_within(
        &self,
        rows: Rows<'_>,
        request: &Request<'_>,
        radius: f32,
        file: u64,
        top: &mut TopK,
    ) -> Result<Option<usize>, Broken> {
        let mut k = WITHIN;
        loop {
            let k_now = k.min(request.k);
            let request = Request { k: k_now, ..*request };
            let mut near = TopK::new(k_now);
            let walked = self.search_nearest(rows, &request, file, &mut near)?;
            let found = near.into_sorted();
            let inside =
                |found: &Candidate| distance::distance(request.space.metric, found.rank) <= radius;
            if k_now < k || k_now >= rows.count || !found.last().is_some_and(inside) {
                found.into_iter().filter(inside).for_each(|found| top.push(found));
                return Ok(walked);
            }
            k = k.saturating_mul(4);
        }
    }

    fn scan(
        &self,
        rows: Rows<'_>,
        request: &Request<'_>,
        file: u64,
        top: &mut TopK,
    ) -> Result<(), Broken> {
        let slots = &self.segment.slots;
        let ranker = rows.array.ranker(request.query);
        if let Some(passing) = rows.passing {
            for row in passing.iter() {
                let rank = rows.array.rank_checked(row, &ranker, rows.epoch).ok_or(Broken::Lost)?;
                if rank <= top.worst() {
                    top.push(Candidate { rank, file, slot: slots.at(row) });
                }
            }
            return Ok(());
        }
        let all_live = self.tombstones.count() == 0;
        for row in 0..rows.array.len() {
            let live = || all_live || !self.tombstones.contains(row);
            match rows.array.rank_checked(row, &ranker, rows.epoch) {
                Some(rank) if rank <= top.worst() && live() => {
                    top.push(Candidate { rank, file, slot: slots.at(row) });
                }
                None if live() => return Err(Broken::Lost),
                _ => {}
            }
        }
        Ok(())
    }

    /// The width of the walk; `None` if there is no graph, a scan is cheaper, or the graph found too little.
    fn search_graph(
        &self,
        rows: Rows<'_>,
        request: &Request<'_>,
        file: u64,
        top: &mut TopK,
    ) -> Result<Option<usize>, Broken> {
        if request.exact {
            return Ok(None);
        }
        let Some(graph) = self.segment.graph() else { return Ok(None) };
        let width = match request.recall {
            None => request.ef.max(request.k),
            Some(recall) => match self.width_of(rows, &graph, request, recall)? {
                Some(width) => width,
                None => return Ok(None),
            },
        };
        let Some(found) = self.candidates(rows, &*graph, request, width) else { return Ok(None) };
        // A walk in the course of which a page could not be read counts for nothing.
        if found.len() < request.k.min(rows.count) || !graph.intact() {
            return Ok(None);
        }
        let slots = &self.segment.slots;
        rerank(rows, request, found, |row, rank| {
            top.push(Candidate { rank, file, slot: slots.at(row) });
        })?;
        Ok(Some(width))
    }

    /// Rows that may be found and are probably near; `None` if a scan is cheaper.
    fn candidates(
        &self,
        rows: Rows<'_>,
        graph: &dyn Graph,
        request: &Request<'_>,
        width: usize,
    ) -> Option<Vec<u32>> {
        let len = self.segment.len();
        // Others are among the candidates: as many more are looked at.
        let ef = width.saturating_mul(len).div_ceil(rows.count);
        let Some(passing) = rows.passing else {
            if ef > EF_MAX || ef.saturating_mul(request.scan_factor) > len {
                return None;
            }
            let mut found = graph.search(request.query, ef);
            found.retain(|&row| !self.tombstones.contains(row as usize));
            return Some(found);
        };
        if ef > EF_MAX
            || ef.saturating_mul(request.scan_factor) * PASSING.0 > rows.count * PASSING.1
        {
            return None;
        }
        graph.search_passing(request.query, width, passing, rows.count.saturating_mul(MOST))
    }

    /// The least width that finds this part of the neighbours; measured if it was not before.
    fn width_of(
        &self,
        rows: Rows<'_>,
        graph: &Arc<dyn Graph>,
        request: &Request<'_>,
        recall: f64,
    ) -> Result<Option<usize>, Broken> {
        // One curve serves all numbers of neighbours up to its own.
        let k = request.k.next_power_of_two().max(LEAST_K);
        let mut known = lock(&self.segment.curves);
        // A segment may get another graph.
        let of_this = |of: &Weak<dyn Graph>| Weak::ptr_eq(of, &Arc::downgrade(graph));
        if !known.as_ref().is_some_and(|(of, _)| of_this(of)) {
            *known = Some((Arc::downgrade(graph), BTreeMap::new()));
        }
        let Some((_, curves)) = &mut *known else { return Ok(None) };
        if let Some(curve) = curves.get(&k) {
            return Ok(curve.width(recall));
        }
        let len = self.segment.len();
        let live: Vec<u32> =
            (0..len).filter(|&row| !self.tombstones.contains(row)).map(|row| row as u32).collect();
        let all = k.min(live.len().saturating_sub(1)).max(1);
        let most = EF_MAX.min(live.len() / request.scan_factor.max(1));
        let mut exact: BTreeMap<usize, f32> = BTreeMap::new();
        let curve = Curve::measure(live.len(), (k, most), |at, width| {
            let row = live[at] as usize;
            let dim = request.space.dim as usize;
            let Ok(query) = request.space.decode_query(&rows.array.get(row).to_query(dim)) else {
                return Ok(1.0);
            };
            // One more than asked for, because the row itself is among them.
            let request = Request { query: &query, k: k + 1, ..*request };
            let worst = match exact.get(&row) {
                Some(worst) => *worst,
                None => *exact.entry(row).or_insert(kth(rows, &live, &request)?),
            };
            let mut found = graph.search(&query, width.saturating_mul(len).div_ceil(live.len()));
            found.retain(|&row| !self.tombstones.contains(row as usize));
            let mut good = 0;
            rerank(rows, &request, found, |found, rank| {
                good += usize::from(found != row && rank <= worst);
            })?;
            Ok(good.min(all) as f64 / all as f64)
        })?;
        let width = curve.width(recall);
        curves.insert(k, Arc::new(curve));
        Ok(width)
    }
}

/// The least number of neighbours that is measured.
const LEAST_K: usize = 16;

/// Rows that pass lie apart, and cost more than their neighbours in a scan of all: the part of `scan_factor` of
/// them that costs as much as a candidate. Measured on both sets of the bench: decision 0027.
const PASSING: (usize, usize) = (3, 10);

/// Distances of a filtered walk for each row that a scan would look at; then it gives up.
const MOST: usize = 4;

/// The rank of the `k`th of these rows, or that of the last.
fn kth(rows: Rows<'_>, live: &[u32], request: &Request<'_>) -> Result<f32, Broken> {
    let ranker = rows.array.ranker(request.query);
    let mut top = TopK::new(request.k);
    for &row in live {
        let rank =
            rows.array.rank_checked(row as usize, &ranker, rows.epoch).ok_or(Broken::Lost)?;
        if rank <= top.worst() {
            top.push(Candidate { rank, file: 0, slot: row.into() });
        }
    }
    Ok(top.into_sorted().last().map_or(f32::INFINITY, |last| last.rank))
}

/// Hands on the rows that are worth it with their exact rank.
///
/// The nearest come first: what lies far behind the k-th is not worth its exact distance. Equal
/// rows stand side by side and count once, or a crowd of them would hide a nearer row.
fn rerank(
    rows: Rows<'_>,
    request: &Request<'_>,
    found: Vec<u32>,
    mut add: impl FnMut(usize, f32),
) -> Result<(), Broken> {
    let ranker = rows.array.ranker(request.query);
    let mut left = (request.k * 2).max(RERANKED_MIN);
    let mut last = None;
    for &row in found.iter().take(left) {
        rows.array.prefetch(row as usize);
    }
    for row in found {
        let row = row as usize;
        let rank = rows.array.rank_checked(row, &ranker, rows.epoch).ok_or(Broken::Lost)?;
        if last != Some(rank.to_bits()) {
            if left == 0 {
                break;
            }
            left -= 1;
            last = Some(rank.to_bits());
        }
        add(row, rank);
    }
    Ok(())
}
