// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Answers a search once the indexer has caught up.
//!
//! The answer covers everything that was committed before the request, unless the indexer needs longer
//! than a client should wait; it says whether it does. It covers only what the caller may read in the tree
//! of that generation or, if the filesystem is committed faster than it is listed, of a later one.

use crate::indexer::view::View;
use std::time::{Duration, Instant};
use vexfs_search::answer::{no_index, search_in, too_early};
use vexfs_search::ask::{Found, Search};
use vexfs_search::rights::caller::Caller;
use vexfs_search::rights::names::Top;

/// Time for the indexer to catch up; after that the answer is given without it.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked whether a generation is there that is waited for.
const GENERATION_POLL: Duration = Duration::from_millis(20);

/// How often the names are listed again because the index is of another generation.
const LISTINGS: usize = 8;

/// Answers a search of `caller` at or under `top`.
pub fn search(view: &View, caller: &Caller, top: Top, search: &Search) -> Result<Found, String> {
    let mut listings = 0;
    let deadline = Instant::now() + CATCH_UP_LIMIT;
    loop {
        let (snapshot, caught_up) = view.catch_up(CATCH_UP_LIMIT);
        if let Some(wanted) = search.at_least.filter(|wanted| snapshot.generation < *wanted) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || view.stopping() {
                return Err(too_early(&snapshot, wanted));
            }
            std::thread::sleep(GENERATION_POLL.min(left));
            continue;
        }
        let Some(names) = &snapshot.names else { return Err(no_index(&snapshot)) };
        let scope = names.scope(top, caller, |ino| snapshot.files.contains_key(&ino))?;
        listings += 1;
        if caught_up && scope.generation > snapshot.generation && listings < LISTINGS {
            continue;
        }
        let found = search_in(&snapshot, &scope, search)?;
        return Ok(Found { caught_up, ..found });
    }
}
