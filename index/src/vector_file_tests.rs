// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What happens between the start of a build and its end, step by step and without a thread.

use super::*;
use crate::types::{Element, Metric};

const LIMITS: Limits = Limits {
    graph_rows: 16,
    merge_rows: 1000,
    merge_bytes: u64::MAX,
    memory: u64::MAX,
    graph: GraphKind::Flat,
};

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
        // As if builds were not behind.
        if file.growing.len() >= LIMITS.graph_rows {
            file.seal();
        }
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
    let job = file.plan(LIMITS, Moment::Busy).unwrap();
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
    assert!(file.plan(LIMITS, Moment::Busy).is_none_or(|job| job.segments.len() == 1));
}

#[test]
fn a_merge_for_a_file_that_is_gone_is_thrown_away() {
    let mut file = filled(48);
    let job = file.plan(LIMITS, Moment::Busy).unwrap();
    let merged = job.run(&go()).unwrap().unwrap();
    let mut fresh = filled(48);
    assert!(!fresh.replace(&job, merged));
    assert_eq!((fresh.segments.len(), fresh.counts().vectors), (3, 48));
    file.remove(0, u64::MAX);
    assert!(file.segments.is_empty() && file.plan(LIMITS, Moment::Busy).is_none());
}

/// Does all that there is to do at these moments.
fn work(file: &mut VectorFile, limits: Limits, moments: &[Moment]) {
    let mut jobs = 0;
    while let Some(job) = moments.iter().find_map(|&moment| file.plan(limits, moment)) {
        if let Some(merged) = job.run(&go()).unwrap() {
            assert!(merged.len() <= limits.merge_rows);
            assert!(file.replace(&job, merged));
        }
        jobs += 1;
        assert!(jobs < 1000, "{jobs} jobs and no end");
    }
}

/// Does all that there is to do before the file is idle.
fn settle(file: &mut VectorFile, limits: Limits) {
    work(file, limits, &[Moment::Busy, Moment::Rest]);
}

#[test]
fn rows_that_came_later_are_merged_into_the_graph_once_the_file_is_idle() {
    let mut file = filled(640);
    settle(&mut file, LIMITS);
    file.arrived = 0;
    // A 32nd part of it: at rest that is not worth a copy of the whole.
    for slot in 640..660 {
        file.upsert(slot, &row(slot), LIMITS).unwrap();
    }
    settle(&mut file, LIMITS);
    assert_eq!(file.segments.len(), 2, "{:?}", file.counts());
    assert!(file.has_work(LIMITS), "nobody would look at it again");
    work(&mut file, LIMITS, &[Moment::Busy, Moment::Rest, Moment::Idle]);
    let counts = file.counts();
    assert_eq!((counts.segments, counts.graphs, counts.vectors), (1, 1, 660), "{counts:?}");
    assert!(!file.has_work(LIMITS));
}

#[test]
fn a_settled_file_has_one_graph_and_a_handful_of_rows() {
    for slots in [16, 17, 40, 100, 500, 999] {
        let mut file = filled(slots);
        settle(&mut file, LIMITS);
        let counts = file.counts();
        assert_eq!((counts.segments, counts.graphs, counts.vectors), (1, 1, slots), "{slots}");
        assert!(counts.pending <= LIMITS.graph_rows as u64 / 8, "{slots}: {counts:?}");
    }
}

#[test]
fn a_segment_is_bounded_by_rows_and_by_bytes() {
    let row = 5 * 4 + 64 + 128 + 16;
    for limits in
        [Limits { merge_rows: 200, ..LIMITS }, Limits { merge_bytes: 200 * row, ..LIMITS }]
    {
        let mut file = filled(1_000);
        settle(&mut file, limits);
        assert!(file.segments.iter().all(|view| view.segment.len() <= 200));
        assert!(file.segments.len() <= 6 && file.counts().pending <= 2, "{:?}", file.counts());
    }
}

#[test]
fn plans_end() {
    let mut file = filled(16 * 70);
    settle(&mut file, LIMITS);
    assert!(file.segments.len() < 4 && file.counts().pending <= 2, "{:?}", file.counts());
    // A segment with tombstones on a third of its rows is worth one job.
    let (from, len) = (file.segments[0].segment.slots.at(0), file.segments[0].segment.len());
    let slots: Vec<u64> = (0..=len / 3).map(|row| file.segments[0].segment.slots.at(row)).collect();
    for slot in slots {
        file.remove(slot, slot);
    }
    let job = file.plan(LIMITS, Moment::Busy).unwrap();
    let merged = job.run(&go()).unwrap().unwrap();
    assert!(file.replace(&job, merged) && file.get(from).is_none());
    assert!(file.segments.iter().all(|view| view.tombstones.count() == 0));
}

#[test]
fn a_graph_that_cannot_be_built_is_not_tried_again() {
    let mut file = filled(16);
    let job = file.plan(LIMITS, Moment::Busy).unwrap();
    job.give_up();
    assert!(file.plan(LIMITS, Moment::Busy).is_none());
    assert_eq!((file.counts().vectors, file.counts().pending), (16, 16));
}
