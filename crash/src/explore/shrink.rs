// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Makes a wrong state small: it keeps as few writes as still fail, and no torn one without need.

use super::chosen::Chosen;
use super::judge::{Judge, evaluate};
use super::points::Point;

/// Leaves out writes, then makes torn ones whole, as long as the state still fails. Returns the state and
/// what is wrong with it.
pub fn state(
    point: &Point,
    judge: &dyn Judge,
    state: Vec<u16>,
    what: String,
) -> (Vec<u16>, String) {
    let mut best = (state, what);
    let attempt = |best: &mut (Vec<u16>, String), state: Vec<u16>| {
        if state != best.0
            && let (Err(what), _) = evaluate(point, &state, judge)
        {
            *best = (state, what);
        }
    };
    for id in point.writes.iter().map(|write| write.id) {
        let mut fewer = Chosen::of(point, &best.0);
        fewer.0.retain(|(named, _)| *named != id);
        attempt(&mut best, fewer.state(point));
    }
    for id in point.writes.iter().map(|write| write.id) {
        let mut whole = Chosen::of(point, &best.0);
        for (named, sectors) in &mut whole.0 {
            if *named == id {
                *sectors = None;
            }
        }
        attempt(&mut best, whole.state(point));
    }
    best
}
