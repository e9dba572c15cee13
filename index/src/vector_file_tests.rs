// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What happens between the start of a build and its end, step by step and without a thread.

use super::*;
use crate::types::{Element, Metric};

const LIMITS: Limits = Limits { graph_rows: 16, merge_rows: 1000, graph: GraphKind::Flat };

fn row(x: u64) -> [u8; 4] {
    [x as u8 & 0x7f, (x >> 7) as u8 & 0x7f, 1, 1]
}

fn filled(slots: u64) -> VectorFile {
    let mut file = VectorFile::new(
        Space::new(Element::I8, Metric::L2, 4),
        Params { m: 4, ef_construction: 16 },
    );
    for slot in 0..slots {
        assert!(file.upsert(slot, &row(slot), LIMITS).unwrap());
    }
    file
}

fn go() -> AtomicBool {
    AtomicBool::new(false)
}

#[test]
fn what_is_removed_while_a_merge_is_built_stays_removed() {
    let mut file = filled(48);
    assert_eq!((file.segments.len(), file.growing.len()), (3, 0));
    file.remove(1, 1);
    let job = file.plan(LIMITS).unwrap();
    let merged = job.run(&go()).unwrap().unwrap();
    assert_eq!(merged.len(), 47);
    // Meanwhile: a removal, an overwrite, an overwrite with the same vector, and a segment that is
    // removed altogether.
    file.remove(2, 2);
    file.upsert(3, &row(99), LIMITS).unwrap();
    file.upsert(4, &row(4), LIMITS).unwrap();
    file.remove(16, 31);
    assert_eq!(file.segments.len(), 2);
    assert!(file.replace(&job, merged));
    assert_eq!((file.segments.len(), file.counts().vectors), (1, 48 - 2 - 16));
    for slot in 0..48 {
        let wanted = match slot {
            1 | 2 | 16..32 => None,
            3 => Some(row(99)),
            _ => Some(row(slot)),
        };
        let wanted = wanted.map(|raw| Row::Numbers(raw.map(f32::from).to_vec()));
        assert_eq!(file.get(slot), wanted, "slot {slot}");
    }
    assert!(file.plan(LIMITS).is_none_or(|job| job.segments.len() == 1));
}

#[test]
fn a_merge_for_a_file_that_is_gone_is_thrown_away() {
    let mut file = filled(48);
    let job = file.plan(LIMITS).unwrap();
    let merged = job.run(&go()).unwrap().unwrap();
    let mut fresh = filled(48);
    assert!(!fresh.replace(&job, merged));
    assert_eq!((fresh.segments.len(), fresh.counts().vectors), (3, 48));
    file.remove(0, u64::MAX);
    assert!(file.segments.is_empty() && file.plan(LIMITS).is_none());
}

#[test]
fn plans_end() {
    let mut file = filled(16 * 70);
    let mut jobs = 0;
    while let Some(job) = file.plan(LIMITS) {
        if let Some(merged) = job.run(&go()).unwrap() {
            assert!(merged.len() <= LIMITS.merge_rows);
            assert!(file.replace(&job, merged));
        }
        jobs += 1;
        assert!(jobs < 100, "{jobs} jobs and no end");
    }
    assert!(
        file.segments.len() < 8 && file.counts().pending == 0,
        "{} segments",
        file.segments.len()
    );
    // A segment with tombstones on a third of its rows is worth one job.
    let (from, len) = (file.segments[0].segment.slots.at(0), file.segments[0].segment.len());
    let slots: Vec<u64> = (0..=len / 3).map(|row| file.segments[0].segment.slots.at(row)).collect();
    for slot in slots {
        file.remove(slot, slot);
    }
    let job = file.plan(LIMITS).unwrap();
    let merged = job.run(&go()).unwrap().unwrap();
    assert!(file.replace(&job, merged) && file.get(from).is_none());
    assert!(file.segments.iter().all(|view| view.tombstones.count() == 0));
}

#[test]
fn a_graph_that_cannot_be_built_is_not_tried_again() {
    let file = filled(16);
    let job = file.plan(LIMITS).unwrap();
    job.give_up();
    assert!(file.plan(LIMITS).is_none());
    assert_eq!((file.counts().vectors, file.counts().pending), (16, 16));
}
