// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Searching: what can be asked, and the way from files and queries to hits.
//!
//! Invariant: whatever is asked, a hit passes the filter, is within the radius, and was neither removed nor
//! overwritten when the search began; approximate is only which of those that qualify are missing.
//!
//! Files are locked one after the other while their growing segments are scanned; sealed segments are
//! searched without a lock. All queries of one search see the same rows.

use std::sync::Arc;

use crate::{
    distance,
    error::{IndexError, Result},
    filter::{self, Bitmap, Filter},
    index::{Hit, Index, SEARCH_LIMIT},
    segment::{Broken, Request, SegmentView},
    sync::{lock, read},
    topk::{Candidate, TopK},
    types::{FileId, Slot},
    vector::{Row, Space},
};

/// How often a search is repeated because pages could not be read; each time there is one page less.
const ATTEMPTS: usize = 16;

/// How much of the true answer is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Width {
    /// What the index's options say.
    #[default]
    Default,
    /// So many candidates in each graph: more find more of the true neighbours and take longer.
    Ef(usize),
    /// As many candidates as find this part of the true neighbours, above 0 and up to 1. Measured once for
    /// each graph, which can take seconds; where graphs cannot do it, rows are scanned.
    Recall(f64),
    /// All of it: every row is compared.
    Exact,
}

/// What a search asks for.
#[derive(Clone, Copy, Default)]
pub struct Ask<'a> {
    /// How many vectors, at most; for a radius the limit.
    pub k: usize,
    /// How much of the true answer.
    pub width: Width,
    /// Which rows may be found; all, if there is none.
    pub filter: Option<&'a dyn Filter>,
    /// Only vectors of up to this distance, in the metric's unit.
    pub within: Option<f32>,
}

/// The answer to one query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The nearest first, ties by file and slot.
    pub hits: Vec<Hit>,
    /// The widest search of a graph; `None` if all rows that pass were compared.
    pub ef: Option<usize>,
    /// More than `k` vectors are within the radius; these are the nearest.
    pub cut: bool,
}

impl Index {
    /// `search(files, query, k, ef, exact)` - the `k` nearest vectors of these files, nearest
    /// first, ties by file and slot.
    ///
    /// `ef` is how many candidates each graph considers: more find more of the true neighbours and
    /// take longer. With `exact` no graph is used. A file that is not declared has no vectors. If a vector that
    /// is needed is lost, the error is [`IndexError::Lost`].
    pub fn search(
        &self,
        files: &[FileId],
        query: &[f32],
        k: usize,
        ef: Option<usize>,
        exact: bool,
    ) -> Result<Vec<Hit>> {
        let width = match ef {
            _ if exact => Width::Exact,
            Some(ef) => Width::Ef(ef),
            None => Width::Default,
        };
        // A width that is not used is refused all the same.
        within_limit("ef", ef.unwrap_or(1))?;
        let ask = Ask { k, width, ..Ask::default() };
        let answers = self.search_all(files, &[query], &ask)?;
        Ok(answers.into_iter().next().unwrap_or_default().hits)
    }

    /// `search_all(files, queries, ask)` - the answer to each query, all of the same files as they are now.
    ///
    /// Errors are those of [`search`](Self::search), and [`IndexError::BadSpec`] about a recall or radius
    /// that is no such number.
    pub fn search_all(
        &self,
        files: &[FileId],
        queries: &[&[f32]],
        ask: &Ask<'_>,
    ) -> Result<Vec<Answer>> {
        within_limit("k", ask.k)?;
        match ask.width {
            Width::Ef(ef) => within_limit("ef", ef)?,
            Width::Recall(recall) if !(recall > 0.0 && recall <= 1.0) => {
                return Err(IndexError::BadSpec(format!(
                    "a recall of {recall}: give a part above 0 and up to 1"
                )));
            }
            _ => {}
        }
        if ask.within.is_some_and(f32::is_nan) {
            return Err(IndexError::BadSpec("a radius that is not a number".into()));
        }
        let mut ids = files.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut broken = FileId(0);
        for _ in 0..ATTEMPTS {
            match self.attempt(&ids, queries, ask)? {
                Ok(answers) => return Ok(answers),
                Err((file, Broken::Changed)) => broken = file,
                Err((file, Broken::Lost)) => {
                    broken = file;
                    break;
                }
            }
        }
        lock(&self.queue.lost).insert(broken.0);
        Err(IndexError::Lost(broken))
    }

    /// A search, unless stored vectors of a file cannot be read.
    fn attempt(
        &self,
        ids: &[FileId],
        queries: &[&[f32]],
        ask: &Ask<'_>,
    ) -> Result<std::result::Result<Vec<Answer>, (FileId, Broken)>> {
        let mut sealed: Vec<(u64, SegmentView)> = Vec::new();
        let mut decoded: Option<DecodedQueries> = None;
        // One more than is asked for says whether a radius holds more.
        let room = ask.k + usize::from(ask.within.is_some());
        let mut tops: Vec<TopK> = queries.iter().map(|_| TopK::new(room)).collect();
        for &id in ids {
            let Some(known) = self.file(id) else { continue };
            let file = read(&known);
            let decoded = match &mut decoded {
                Some(decoded) => {
                    decoded.check(id, file.space)?;
                    decoded
                }
                none => none.insert(DecodedQueries::new(id, file.space, queries)?),
            };
            let slots = &file.growing.slots;
            let passing = ask
                .filter
                .map(|filter| filter::passing(filter, id.0, slots.len(), |row| slots[row]));
            for (row, top) in decoded.rows.iter().zip(&mut tops) {
                file.growing.search(row, passing.as_ref(), id.0, top);
            }
            // Searched below, after the lock is released.
            sealed.extend(file.segments.iter().map(|view| (id.0, view.clone())));
        }
        let Some(DecodedQueries { space, rows, .. }) = decoded else {
            return Ok(Ok(vec![Answer::default(); queries.len()]));
        };
        let sealed: Vec<(u64, SegmentView, Option<Bitmap>)> = sealed
            .into_iter()
            .map(|(id, view)| {
                let passing = ask.filter.map(|filter| view.passing(filter, id));
                (id, view, passing)
            })
            .collect();
        let mut answers = Vec::with_capacity(rows.len());
        for (row, mut top) in rows.iter().zip(tops) {
            let request = self.request(row, ask, room, space);
            let mut ef = None;
            for (id, view, passing) in &sealed {
                match view.search(&request, passing.as_ref(), *id, &mut top) {
                    Ok(taken) => ef = ef.max(taken),
                    Err(broken) => return Ok(Err((FileId(*id), broken))),
                }
            }
            answers.push(answer(space, ask, top, ef));
        }
        for (id, view, _) in &sealed {
            if view.segment.graph_is_broken() {
                self.queue.push(*id);
            }
        }
        Ok(Ok(answers))
    }

    fn request<'a>(&self, query: &'a Row, ask: &Ask<'_>, k: usize, space: Space) -> Request<'a> {
        let (ef, recall) = match ask.width {
            Width::Ef(ef) => (ef, None),
            Width::Recall(recall) => (self.options.default_ef, Some(recall)),
            Width::Default | Width::Exact => (self.options.default_ef, None),
        };
        Request {
            query,
            k,
            ef,
            recall,
            exact: ask.width == Width::Exact,
            scan_factor: self.options.scan_factor,
            within: ask.within,
            space,
        }
    }
}

/// The answer out of candidates.
fn answer(space: Space, ask: &Ask<'_>, top: TopK, ef: Option<usize>) -> Answer {
    let hit = |found: Candidate| Hit {
        file: FileId(found.file),
        slot: Slot(found.slot),
        distance: distance::distance(space.metric, found.rank),
    };
    let mut hits: Vec<Hit> = top.into_sorted().into_iter().map(hit).collect();
    if let Some(radius) = ask.within {
        hits.retain(|hit| hit.distance <= radius);
    }
    let cut = hits.len() > ask.k;
    hits.truncate(ask.k);
    Answer { hits, ef, cut }
}

pub(crate) fn within_limit(what: &'static str, given: usize) -> Result<()> {
    if (1..=SEARCH_LIMIT).contains(&given) {
        return Ok(());
    }
    Err(IndexError::SearchLimit { what, given, limit: SEARCH_LIMIT })
}

fn dimension(file: FileId, space: Space, given: usize) -> Result<()> {
    if given == space.dim as usize {
        return Ok(());
    }
    Err(IndexError::QueryDimension { expected: space.dim, given, file })
}

/// The queries as rows of the first file that is searched.
struct DecodedQueries {
    file: FileId,
    space: Space,
    rows: Arc<[Row]>,
}

impl DecodedQueries {
    fn new(file: FileId, space: Space, queries: &[&[f32]]) -> Result<Self> {
        let decode = |query: &&[f32]| {
            dimension(file, space, query.len())?;
            space.decode_query(query)
        };
        let rows = queries.iter().map(decode).collect::<Result<Arc<[Row]>>>()?;
        Ok(Self { file, space, rows })
    }

    /// Whether the queries can be compared with another file's rows too: it depends on the dimension
    /// and the metric, not on the element type.
    fn check(&self, file: FileId, space: Space) -> Result<()> {
        dimension(file, space, self.space.dim as usize)?;
        if self.space.metric == space.metric {
            return Ok(());
        }
        Err(IndexError::MixedMetrics {
            first: self.file,
            first_metric: self.space.metric,
            second: file,
            second_metric: space.metric,
        })
    }
}
