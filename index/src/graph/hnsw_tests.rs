// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Graphs under every metric, with duplicates, and after a dump.

use super::*;
use crate::{types::Element, vector::Space};

fn rows(space: Space, count: usize, distinct: usize) -> Arc<VectorArray> {
    let mut rows = VectorArray::new(space);
    let mut state = 1u64;
    let mut bytes = Vec::new();
    for row in 0..count {
        if row < distinct {
            bytes.push(Vec::new());
            for _ in 0..space.vector_bytes() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bytes[row].push((state >> 40) as u8);
            }
        }
        rows.push(&space.decode(&bytes[row % distinct]).unwrap().unwrap());
    }
    Arc::new(rows)
}

fn nearest(rows: &VectorArray, query: &Row, k: usize) -> Vec<f32> {
    let mut ranks: Vec<f32> = (0..rows.len()).map(|row| rows.rank(row, query)).collect();
    ranks.sort_by(f32::total_cmp);
    ranks.truncate(k);
    ranks
}

fn found(graph: &HnswGraph, rows: &VectorArray, query: &Row, k: usize) -> Vec<f32> {
    let mut near = graph.search(query, 64);
    near.sort_unstable();
    assert!(near.windows(2).all(|pair| pair[0] < pair[1]), "a row was found twice");
    let mut ranks: Vec<f32> = near.iter().map(|&row| rows.rank(row as usize, query)).collect();
    ranks.sort_by(f32::total_cmp);
    ranks.truncate(k);
    ranks
}

fn recall(graph: &HnswGraph, rows: &VectorArray) -> f64 {
    let (mut hits, mut asked) = (0, 0);
    for row in (0..rows.len()).step_by(17) {
        let query = rows.get(row);
        let truth = nearest(rows, &query, 10);
        let got = found(graph, rows, &query, 10);
        asked += truth.len();
        hits += truth.iter().zip(&got).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
    }
    hits as f64 / asked as f64
}

#[test]
fn every_metric_finds_what_a_scan_finds_also_after_a_dump() {
    let scratch = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    for (element, metric, dim) in [
        (Element::I8, Metric::L2, 12),
        (Element::I8, Metric::Cosine, 12),
        (Element::I8, Metric::Dot, 12),
        (Element::Bit, Metric::Hamming, 100),
    ] {
        let rows = rows(Space::new(element, metric, dim), 1500, 1500);
        let graph = HnswGraph::build(&rows, Params::default(), &stop).unwrap();
        let before = recall(&graph, &rows);
        assert!(before >= 0.9, "{metric}: recall {before}");
        let dump = graph.dump(scratch.path(), 7).unwrap();
        let mut blob = Vec::new();
        dump.write_to(&mut blob).unwrap();
        assert_eq!(blob.len() as u64, dump.bytes());
        let copy = HnswDump::receive(
            scratch.path(),
            blob.len() as u64 - HEADER as u64,
            &mut &blob[HEADER..],
        )
        .unwrap();
        let loaded = HnswGraph::load(&copy, &rows).unwrap();
        for row in (0..rows.len()).step_by(31) {
            let query = rows.get(row);
            let (mut a, mut b) = (graph.search(&query, 40), loaded.search(&query, 40));
            a.sort_unstable();
            b.sort_unstable();
            assert_eq!(a, b, "{metric}: row {row}");
        }
        drop((dump, copy));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[test]
fn the_level_scale_is_restored_where_the_library_keeps_it() {
    let scratch = tempfile::tempdir().unwrap();
    let rows = rows(Space::new(Element::I8, Metric::L2, 4), 50, 50);
    let graph = HnswGraph::build(&rows, Params::default(), &AtomicBool::new(false)).unwrap();
    let fresh = match &graph.library {
        Library::Numbers(library) => library.get_point_indexation().get_level_scale(),
        Library::Bits(_) => unreachable!(),
    };
    let mut blob = Vec::new();
    graph.dump(scratch.path(), 7).unwrap().write_to(&mut blob).unwrap();
    let body = &mut &blob[HEADER..];
    let dump = HnswDump::receive(scratch.path(), body.len() as u64, body).unwrap();
    let HnswGraph { library: Library::Numbers(library), .. } =
        HnswGraph::load(&dump, &rows).unwrap()
    else {
        panic!("numbers became bits")
    };
    assert_eq!(library.get_point_indexation().get_level_scale().to_bits(), fresh.to_bits());
}

#[test]
fn crowds_of_equal_rows_do_not_hide_the_others() {
    let rows = rows(Space::new(Element::I8, Metric::L2, 8), 3000, 30);
    let graph = HnswGraph::build(&rows, Params::default(), &AtomicBool::new(false)).unwrap();
    assert_eq!((graph.points(), graph.duplicates.len()), (30, 30));
    for row in 0..30 {
        let query = rows.get(row);
        assert_eq!(found(&graph, &rows, &query, 250), nearest(&rows, &query, 250));
    }
}

#[test]
fn a_build_can_be_stopped_and_a_permutation_loses_nothing() {
    let rows = rows(Space::new(Element::I8, Metric::L2, 4), 10, 10);
    let stopped = HnswGraph::build(&rows, Params::default(), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(IndexError::Stopped)));
    let mut order: Vec<u32> = (0..1000).collect();
    permute(&mut order);
    assert!(!order.is_sorted());
    order.sort_unstable();
    assert!(order.iter().enumerate().all(|(i, &row)| i as u32 == row));
}

#[test]
fn under_dot_rows_are_lifted_to_one_length() {
    let rows = rows(Space::new(Element::I8, Metric::Dot, 6), 60, 60);
    let distance = RowDistance::new(&rows);
    let lifted = |row: usize| {
        let mut long = rows.numbers(row).to_vec();
        long.push(distance.lift[row]);
        long
    };
    let longest = (0..60).map(|row| distance::dot(&rows.numbers(row), &rows.numbers(row)));
    let longest = longest.fold(0.0, f32::max);
    for a in 0..60 {
        let own = lifted(a);
        assert!((distance::dot(&own, &own) / longest - 1.0).abs() < 1e-4);
        let direct = |b: usize| distance::l2_squared(&own, &lifted(b));
        for b in 0..60 {
            assert!((distance.between(a, b) - direct(b)).abs() <= longest * 1e-5, "{a} {b}");
        }
        // A query is not lifted: the order is that of the product.
        let query = rows.numbers(a);
        let mut order: Vec<usize> = (0..60).collect();
        order.sort_by(|&x, &y| {
            distance.to_numbers(x, &query).total_cmp(&distance.to_numbers(y, &query))
        });
        let products: Vec<f32> =
            order.iter().map(|&row| distance::dot(&rows.numbers(row), &query)).collect();
        assert!(products.is_sorted_by(|x, y| x + longest * 1e-5 >= *y), "{products:?}");
    }
}
