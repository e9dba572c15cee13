// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Graphs against scans: real sentence embeddings, sorted input, searches beside a build.

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use common::{corpus, feed, mean_recall, open, raw};
use vexfs_index::{Element, FileId, Index, Metric, Options, Params, Slot, Space, npy::Matrix};

const FILE: FileId = FileId(7);

#[test]
fn real_embeddings_are_found_through_graphs() {
    let (rows, queries) = (corpus("packages-2k.npy"), corpus("queries-200.npy"));
    let index = open(500);
    index.declare(FILE, Space::new(Element::F32, Metric::Cosine, 384), Params::default()).unwrap();
    feed(&index, FILE, 0, &rows);
    index.settle();
    let stats = index.file_stats(FILE).unwrap();
    assert_eq!((stats.vectors, stats.pending), (2000, 0), "{stats:?}");
    assert!(stats.graphs >= 1 && stats.graphs == stats.segments, "{stats:?}");
    let mean = mean_recall(&index, &[FILE], &queries, None);
    assert!(mean >= 0.95, "recall {mean}");
    // A narrow search misses some neighbours; if it missed none, the graph was not used.
    let narrow = mean_recall(&index, &[FILE], &queries, Some(10));
    assert!(narrow < 1.0, "ef=10 answered exactly: the graph was not used");
    // The scan agrees with the definition of the metric.
    let query = queries.row(3);
    let hits = index.search(&[FILE], query, 5, None, true).unwrap();
    for hit in &hits {
        let row = rows.row(hit.slot.0 as usize);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        let cosine = dot(row, query) / (dot(row, row) * dot(query, query)).sqrt();
        assert!((f64::from(hit.distance) - (1.0 - cosine)).abs() < 1e-5);
    }
    // Its own row comes first.
    let own = index.get(FILE, Slot(1234)).unwrap();
    let hits = index.search(&[FILE], &own, 1, None, false).unwrap();
    assert!(hits[0].distance < 1e-5, "{hits:?}");
}

/// Clusters far apart, written one after the other.
fn sorted_clusters(clusters: usize, each: usize, dim: usize) -> Matrix {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let mut data = Vec::new();
    for _ in 0..clusters {
        let centre: Vec<f32> = (0..dim).map(|_| next() * 20.0).collect();
        for _ in 0..each {
            data.extend(centre.iter().map(|x| x + next()));
        }
    }
    Matrix { rows: clusters * each, dim, data }
}

#[test]
fn input_sorted_by_topic_does_not_ruin_the_graph() {
    let rows = sorted_clusters(100, 40, 16);
    let index = open(4000);
    index.declare(FILE, Space::new(Element::F32, Metric::L2, 16), Params::default()).unwrap();
    feed(&index, FILE, 0, &rows);
    index.settle();
    assert_eq!(index.stats().counts.graphs, 1);
    let every = Matrix {
        rows: 400,
        dim: 16,
        data: (0..400).flat_map(|i| rows.row(i * 10).to_vec()).collect(),
    };
    let mean = mean_recall(&index, &[FILE], &every, Some(40));
    assert!(mean >= 0.95, "recall {mean}");
}

#[test]
fn tombstones_do_not_starve_a_search() {
    let rows = corpus("packages-2k.npy");
    let index = open(2000);
    index.declare(FILE, Space::new(Element::F32, Metric::Cosine, 384), Params::default()).unwrap();
    feed(&index, FILE, 0, &rows);
    index.settle();
    // All neighbours of one row are removed.
    let query = index.get(FILE, Slot(50)).unwrap();
    let near = index.search(&[FILE], &query, 200, None, true).unwrap();
    for hit in near.iter().filter(|hit| hit.slot != Slot(50)) {
        assert_eq!(index.remove(FILE, hit.slot.0..hit.slot.0 + 1), 1);
    }
    let exact = index.search(&[FILE], &query, 10, None, true).unwrap();
    let found = index.search(&[FILE], &query, 10, Some(10), false).unwrap();
    assert_eq!((exact.len(), found.len()), (10, 10));
    assert!(exact[0].slot == Slot(50) && found[0].slot == Slot(50));
    assert!(found.iter().all(|hit| near.iter().all(|n| n.slot == Slot(50) || n.slot != hit.slot)));
}

#[test]
fn searches_answer_while_a_graph_is_built_and_closing_does_not_wait_for_it() {
    let rows = corpus("packages-2k.npy");
    let index = open(1000);
    let space = Space::new(Element::F32, Metric::Cosine, 384);
    // These parameters make a build take seconds, hundreds of times longer than a search.
    index.declare(FILE, space, Params { m: 64, ef_construction: 2000 }).unwrap();
    feed(&index, FILE, 0, &rows);
    assert!(!index.settle_for(Duration::ZERO));
    let done = AtomicBool::new(false);
    let searcher = &|thread: usize| {
        let mut answered = 0;
        while answered < 20 && index.stats().counts.graphs == 0 {
            let slot = (answered * 37 + thread) % 1000;
            let hits = index.search(&[FILE], rows.row(slot), 3, None, false).unwrap();
            assert!(hits[0].distance < 1e-5, "{slot}: {hits:?}");
            answered += usize::from(index.stats().building);
        }
        answered
    };
    std::thread::scope(|scope| {
        let searchers: Vec<_> =
            (0..3).map(|thread| scope.spawn(move || searcher(thread))).collect();
        // Meanwhile other slots are removed and overwritten.
        let churn = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for slot in 1000..1100 {
                    index.remove(FILE, slot..slot + 1);
                    let other = raw(rows.row(slot as usize - 1));
                    assert!(index.upsert(FILE, Slot(slot), &other).unwrap());
                }
            }
        });
        let answered: Vec<usize> =
            searchers.into_iter().map(|thread| thread.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        churn.join().unwrap();
        assert_eq!(answered, [20; 3]);
    });
    let stats = index.stats();
    assert!(stats.building && stats.counts.vectors == 2000, "{stats:?}");
    drop(index);
}

// Rows that came later stayed in a graph of their own for ever.
#[test]
fn a_file_that_is_left_alone_becomes_one_graph_by_itself() {
    for (idle, wanted) in [(Duration::from_secs(3600), 2), (Duration::from_millis(1), 1)] {
        let options = Options { graph_rows: 16, idle, ..Options::default() };
        let (index, _) = Index::open(None, options).unwrap();
        index.declare(FILE, Space::new(Element::I8, Metric::L2, 4), Params::default()).unwrap();
        for slots in [0..640u64, 640..660, 660..680] {
            for slot in slots {
                index.upsert(FILE, Slot(slot), &[slot as u8, (slot >> 8) as u8, 1, 2]).unwrap();
            }
            index.settle();
        }
        let segments = || index.file_stats(FILE).unwrap().segments;
        let begun = Instant::now();
        while segments() > wanted && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let stats = index.file_stats(FILE).unwrap();
        assert_eq!((stats.segments, stats.vectors), (wanted, 680), "{idle:?}: {stats:?}");
    }
}
