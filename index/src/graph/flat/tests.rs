// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The flat graph against scans: metrics, instructions, orders, crowds, and damaged bytes.

use super::*;
use crate::{
    graph::{GONE, Identity},
    store::pages::Pages,
    types::{Element, Metric},
    vector::Space,
};

/// Deterministic numbers from -1 to 1.
fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn array(space: Space, rows: impl Iterator<Item = Vec<f32>>) -> Arc<VectorArray> {
    let mut array = VectorArray::new(space);
    for row in rows {
        array.push(&space.decode_query(&row).unwrap());
    }
    Arc::new(array)
}

/// `count` rows around `centres` centres, topic by topic.
fn clusters(space: Space, count: usize, centres: usize, spread: f32) -> Arc<VectorArray> {
    let (dim, mut next) = (space.dim as usize, random(7));
    let centres: Vec<Vec<f32>> = (0..centres).map(|_| (0..dim).map(|_| next()).collect()).collect();
    let bits = space.element == Element::Bit;
    let number = |x: f32| if bits { f32::from(u8::from(x > 0.0)) } else { x };
    let row = |i: usize| -> Vec<f32> {
        let centre = &centres[i * centres.len() / count];
        centre.iter().map(|x| number(x + next() * spread)).collect()
    };
    array(space, (0..count).map(row))
}

fn build(rows: &VectorArray) -> FlatGraph {
    FlatGraph::build(rows, Params::default(), &AtomicBool::new(false)).unwrap()
}

fn nearest(rows: &VectorArray, query: &Row, k: usize) -> Vec<f32> {
    let mut ranks: Vec<f32> = (0..rows.len()).map(|row| rows.rank(row, query)).collect();
    ranks.sort_by(f32::total_cmp);
    ranks.truncate(k);
    ranks
}

/// The part of the 10 nearest of every `step`th row that is among what a walk finds.
fn recall(graph: &FlatGraph, rows: &VectorArray, ef: usize, step: usize) -> f64 {
    let (mut hits, mut asked) = (0, 0);
    for row in (0..rows.len()).step_by(step) {
        let query = rows.get(row);
        let truth = nearest(rows, &query, 10);
        let mut found = graph.search(&query, ef);
        let mut unique = found.clone();
        unique.sort_unstable();
        assert!(unique.windows(2).all(|pair| pair[0] < pair[1]), "a row was found twice");
        let mut ranks: Vec<f32> = found.drain(..).map(|r| rows.rank(r as usize, &query)).collect();
        ranks.sort_by(f32::total_cmp);
        asked += truth.len();
        hits += truth.iter().zip(&ranks).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
    }
    hits as f64 / asked as f64
}

#[test]
fn every_metric_finds_what_a_scan_finds() {
    for (element, metric, dim) in [
        (Element::F32, Metric::L2, 24),
        (Element::F32, Metric::Cosine, 100),
        (Element::F32, Metric::Cosine, 200),
        (Element::F32, Metric::Dot, 250),
        (Element::F32, Metric::Dot, 24),
        (Element::F32, Metric::L2, 1),
        (Element::Bit, Metric::Hamming, 256),
    ] {
        let rows = clusters(Space::new(element, metric, dim), 3_000, 60, 0.4);
        let recall = recall(&build(&rows), &rows, 64, 17);
        assert!(recall >= 0.95, "{element} {metric} {dim}: {recall}");
    }
}

/// All implementations return one number, so that a graph built on one machine is the same on another.
#[test]
fn all_instructions_rank_alike() {
    let mut next = random(3);
    for width in [64, 128, 192, 448, 1024] {
        for (kind, most) in [(Kind::Squares, 127), (Kind::Bits, 255)] {
            let mut code =
                || -> Vec<u8> { (0..width).map(|_| (next().abs() * 256.0) as u8 & most).collect() };
            let (a, b) = (code(), code());
            let codes = Codes::new(kind, width, Vec::new());
            let plain: u32 = match kind {
                Kind::Squares => {
                    a.iter().zip(&b).map(|(x, y)| u32::from(x.abs_diff(*y)).pow(2)).sum()
                }
                _ => a.iter().zip(&b).map(|(x, y)| (x ^ y).count_ones()).sum(),
            };
            for isa in Isa::available() {
                assert_eq!(codes.distance(isa, &a, &b), plain, "{isa:?} {kind:?} {width}");
            }
        }
    }
    // A query and codes of half a byte.
    for dim in [192usize, 200, 384, 1000] {
        let width = dim.next_multiple_of(64);
        let bytes: Vec<u8> = (0..width * 4)
            .map(|at| if at % width < dim { (next().abs() * 128.0) as u8 & 127 } else { 0 })
            .collect();
        let bytes = Codes::new(Kind::Squares, width, bytes);
        let halves = nibbles::of(&bytes, dim);
        let mut query = bytes.get(3).to_vec();
        nibbles::query(&mut query, dim, halves.ratio());
        let numbers = nibbles::parts(&query).0;
        for node in 0..4 {
            let plain: i64 = (0..dim)
                .map(|at| {
                    let group = halves.get(node)[at / 128 * 64 + at % 64];
                    let half = i64::from(group >> (at % 128 / 64 * 4) & 15);
                    let number = 2 * i64::from(bytes.get(3)[at]) - 127;
                    let apart = i64::from(halves.ratio()) * (2 * half - 15) - number;
                    apart * apart
                })
                .sum();
            let plain = u32::try_from(plain).unwrap().div_ceil(halves.ratio());
            for isa in Isa::available() {
                assert_eq!(halves.distance_to(isa, &query, node), plain, "{isa:?} {dim}");
            }
            #[cfg(target_arch = "x86_64")]
            if Isa::available().contains(&Isa::Avx512) {
                let code = halves.get(node);
                // SAFETY: the processor has the instructions.
                let four = unsafe { nibbles::x86::four_products_avx512(numbers, [code; 4]) };
                assert_eq!(four, [nibbles::products(numbers, code); 4]);
            }
        }
    }
    // The largest distance there can be.
    let (low, high) = (vec![0u8; 65_536], vec![127u8; 65_536]);
    for isa in Isa::available() {
        let codes = Codes::new(Kind::Squares, 65_536, Vec::new());
        assert_eq!(codes.distance(isa, &low, &high), 127 * 127 * 65_536, "{isa:?}");
    }
}

#[test]
fn walks_find_the_same_with_all_instructions() {
    for (element, metric, dim) in [
        (Element::F32, Metric::L2, 70),
        (Element::F32, Metric::Cosine, 300),
        (Element::Bit, Metric::Hamming, 70),
    ] {
        let rows = clusters(Space::new(element, metric, dim), 1_000, 20, 0.4);
        let mut graph = build(&rows);
        let query = rows.get(5);
        let found: Vec<Vec<u32>> = Isa::available()
            .into_iter()
            .map(|isa| {
                graph.isa = isa;
                graph.search(&query, 40)
            })
            .collect();
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn a_sorted_file_is_as_good_as_any() {
    let rows = clusters(Space::new(Element::F32, Metric::L2, 32), 8_000, 400, 0.2);
    let recall = recall(&build(&rows), &rows, 40, 37);
    assert!(recall >= 0.98, "{recall}");
}

/// One scale for all rows would give the crowd a handful of codes.
#[test]
fn a_crowd_beside_a_few_far_rows_is_told_apart() {
    let space = Space::new(Element::F32, Metric::L2, 16);
    let (crowd, mut next) = (clusters(space, 3_000, 3_000, 0.0), random(5));
    let row = |i: usize| -> Vec<f32> {
        let scale = if i.is_multiple_of(100) { 1.0 } else { 1e-4 };
        crowd.numbers(i).iter().map(|x| x * scale + next() * 1e-6).collect()
    };
    let rows = array(space, (0..3_000).map(row));
    let graph = build(&rows);
    assert_eq!(graph.codec.kind(), Kind::Floats);
    let recall = recall(&graph, &rows, 40, 13);
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn products_of_rows_whose_lengths_differ_a_thousandfold_are_found() {
    let space = Space::new(Element::F32, Metric::Dot, 32);
    let plain = clusters(space, 3_000, 100, 0.4);
    let row = |i: usize| -> Vec<f32> {
        let scale = 10f32.powf((i % 31) as f32 / 10.0);
        plain.numbers(i).iter().map(|x| x * scale).collect()
    };
    let rows = array(space, (0..3_000).map(row));
    let recall = recall(&build(&rows), &rows, 40, 13);
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn equal_rows_are_one_node_and_all_found() {
    let space = Space::new(Element::F32, Metric::L2, 8);
    let distinct = clusters(space, 30, 30, 0.4);
    let rows = array(space, (0..3_000).map(|i| distinct.numbers(i % 30).to_vec()));
    let graph = build(&rows);
    assert_eq!((graph.links.len(), graph.duplicates.len()), (30, 2_970));
    for row in 0..30 {
        let found = graph.search(&rows.get(row), 30);
        assert_eq!(found.len(), 3_000);
        assert_eq!(found[0] as usize, row);
    }
}

#[test]
fn few_rows_and_rows_of_zeroes_are_found() {
    let space = Space::new(Element::F32, Metric::Dot, 5);
    for count in 1..5 {
        let rows = array(space, (0..count).map(|i| vec![i as f32; 5]));
        let mut found = build(&rows).search(&rows.get(0), 10);
        found.sort_unstable();
        assert_eq!(found, (0..count as u32).collect::<Vec<_>>());
    }
}

#[test]
fn a_build_is_repeatable_and_can_be_stopped() {
    let rows = clusters(Space::new(Element::F32, Metric::Cosine, 16), 2_000, 40, 0.3);
    let bytes = |graph: &FlatGraph| {
        let mut bytes = Vec::new();
        FlatDump::of(graph, 7).write_to(&mut bytes).unwrap();
        bytes
    };
    assert!(bytes(&build(&rows)) == bytes(&build(&rows)));
    let stopped = FlatGraph::build(&rows, Params::default(), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(crate::IndexError::Stopped)));
}

#[test]
fn a_graph_is_the_same_after_a_dump() {
    for (element, metric, dim) in [
        (Element::F32, Metric::Dot, 20),
        (Element::F32, Metric::L2, 64),
        (Element::F32, Metric::L2, 200),
        (Element::Bit, Metric::Hamming, 90),
    ] {
        let rows = clusters(Space::new(element, metric, dim), 900, 20, 0.3);
        let graph = build(&rows);
        let mut blob = Vec::new();
        FlatDump::of(&graph, 7).write_to(&mut blob).unwrap();
        assert_eq!(blob.len() as u64, FlatDump::of(&graph, 7).bytes());
        let pages = Arc::new(Pages::of(&blob));
        let space = Space::new(element, metric, dim);
        let identity = Identity { space, rows: rows.len(), crc: 7 };
        let loaded = super::open(&pages, &identity).unwrap();
        for row in (0..rows.len()).step_by(31) {
            let query = rows.get(row);
            assert_eq!(graph.search(&query, 40), loaded.search(&query, 40), "{metric}");
        }
        // Vectors that are not those it was built over.
        for other in [
            Identity { crc: 8, ..identity },
            Identity { rows: rows.len() + 1, ..identity },
            Identity { space: Space::new(element, metric, dim + 64), ..identity },
        ] {
            assert!(super::open(&pages, &other).is_err(), "{other:?}");
        }
    }
}

/// The checksum is the caller's. Should it ever match damaged bytes, they are refused or searched
/// without a panic.
#[test]
fn damaged_bytes_never_lead_a_walk_astray() {
    damaged_bytes(6, 10_000);
    damaged_bytes(192, 2_000);
}

fn damaged_bytes(dim: u32, rounds: usize) {
    let space = Space::new(Element::F32, Metric::L2, dim);
    let rows = clusters(space, 120, 10, 0.3);
    let mut blob = Vec::new();
    let graph = build(&rows);
    assert_eq!(graph.codes.kind() == Kind::Nibbles, dim as usize >= nibbles::DIM_MIN);
    FlatDump::of(&graph, 7).write_to(&mut blob).unwrap();
    let mut next = random(9);
    let mut pick = |below: usize| ((next().abs() * below as f32) as usize).min(below - 1);
    let mut loaded = 0;
    for round in 0..rounds {
        let mut bad = blob.clone();
        match round % 3 {
            0 => bad.truncate(pick(blob.len())),
            1 => bad.push(0),
            _ => {}
        }
        if !bad.is_empty() {
            // Half of the faults in what decides about lengths.
            let range = if round % 2 == 0 { bad.len() } else { bad.len().min(700) };
            let at = pick(range);
            bad[at] ^= 1 << pick(8);
        }
        let identity = Identity { space, rows: rows.len(), crc: 7 };
        if let Ok(graph) = super::open(&Arc::new(Pages::of(&bad)), &identity) {
            loaded += 1;
            let found = graph.search(&rows.get(3), 20);
            assert!(found.iter().all(|&row| (row as usize) < rows.len()));
        }
    }
    assert!(loaded > 100, "most faults in codes cannot be seen: {loaded}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let rows = clusters(Space::new(Element::F32, Metric::L2, 16), 3_000, 60, 0.3);
    let first = {
        let mut first = VectorArray::new(Space::new(Element::F32, Metric::L2, 16));
        (0..2_600).for_each(|row| first.push_from(&rows, row));
        build(&first)
    };
    // A tenth of the first ones is gone.
    let moved: Vec<u32> =
        (0..2_600).map(|row| if row % 10 == 3 { GONE } else { row - (row + 6) / 10 }).collect();
    let mut left = VectorArray::new(Space::new(Element::F32, Metric::L2, 16));
    (0..3_000)
        .filter(|row| *row >= 2_600 || row % 10 != 3)
        .for_each(|row| left.push_from(&rows, row));
    let go = AtomicBool::new(false);
    let of = |threads: usize| {
        let built = FlatGraph::build_on(threads, &rows, Params::default(), &go).unwrap();
        let more = first.extend_on(threads, &left, &moved, Params::default(), &go).unwrap();
        let more = more.expect("the codec fits and the nodes are found");
        (
            built.links.to_vec(),
            more.links.to_vec(),
            more.row_of.to_vec(),
            more.codes.bytes().to_vec(),
        )
    };
    let one = of(1);
    assert_eq!(one.1.len(), left.len());
    for threads in [2, 3] {
        assert!(of(threads) == one, "{threads} threads");
    }
}

/// Deletes, duplicates and a topic that is new in every round, extended five times.
#[test]
fn an_extended_graph_finds_what_a_built_one_does() {
    for (element, metric, dim) in [
        (Element::F32, Metric::L2, 64),
        (Element::F32, Metric::Cosine, 192),
        (Element::F32, Metric::Dot, 64),
        (Element::Bit, Metric::Hamming, 64),
    ] {
        let space = Space::new(element, metric, dim);
        let all = clusters(space, 5_000, 50, 0.4);
        let (go, mut extended) = (AtomicBool::new(false), 0);
        let mut known: Vec<usize> = (0..2_500).collect();
        let array = |rows: &[usize]| {
            let mut array = VectorArray::new(space);
            for &row in rows {
                array.push_from(&all, row);
            }
            Arc::new(array)
        };
        let mut rows = array(&known);
        let mut graph = build(&rows);
        for round in 0..5 {
            // Some are gone, the next topics come, and some rows a second time.
            let mut next: Vec<usize> =
                known.iter().copied().filter(|row| (row + round) % 13 != 0).collect();
            let moved: Vec<u32> = (known.iter())
                .map(|row| next.iter().position(|other| other == row).map_or(GONE, |at| at as u32))
                .collect();
            next.extend(2_500 + round * 500..3_000 + round * 500);
            next.extend(known.iter().copied().filter(|row| row % 97 == round));
            rows = array(&next);
            let more = graph.extend_on(2, &rows, &moved, Params::default(), &go).unwrap();
            extended += usize::from(more.is_some());
            graph = more.unwrap_or_else(|| build(&rows));
            known = next;
            let (order, _) = distinct(&rows);
            let mut nodes = graph.row_of.to_vec();
            nodes.sort_unstable();
            assert_eq!(nodes, order, "{metric}: each content is one node");
        }
        assert!(extended >= 3, "{metric}: extended {extended} times");
        let recall = recall(&graph, &rows, 64, 37);
        assert!(recall >= 0.97, "{element} {metric}: {recall}");
    }
}

#[test]
fn a_graph_that_new_rows_do_not_fit_is_not_extended() {
    let go = AtomicBool::new(false);
    let moved: Vec<u32> = (0..1_000).collect();
    for (metric, factor) in [(Metric::L2, 30.0), (Metric::Dot, 2.0)] {
        let space = Space::new(Element::F32, metric, 16);
        let first = clusters(space, 1_000, 20, 0.3);
        let row = |i: usize| {
            first
                .numbers(i % 1_000)
                .iter()
                .map(|x| x * if i < 1_000 { 1.0 } else { factor })
                .collect()
        };
        let rows = array(space, (0..1_100).map(row));
        let more = build(&first).extend_on(1, &rows, &moved, Params::default(), &go).unwrap();
        assert!(more.is_none(), "{metric}");
        // Nor is one of which half is gone.
        let gone: Vec<u32> =
            (0..1_000).map(|row| if row < 500 { GONE } else { row - 500 }).collect();
        let left = array(space, (500..1_000).map(|i| first.numbers(i).to_vec()));
        let less = build(&first).extend_on(1, &left, &gone, Params::default(), &go).unwrap();
        assert!(less.is_none(), "{metric}");
    }
}
