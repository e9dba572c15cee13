// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! DiskANN's in-memory index as an engine of `cargo xtask bench vectors`: full vectors, one graph.
//!
//! The crate cannot save this index, so there is nothing to open, and its memory is told as growth while
//! building. Its functions are asynchronous only in form: they never wait for anything.

#[allow(dead_code, reason = "what only the index's example asks for")]
#[path = "../../../../index/examples/engine/protocol.rs"]
mod protocol;

use std::future::Future;
use std::pin::pin;
use std::task::{Poll, Waker};

use diskann::graph::{DiskANNIndex, config, search::Knn};
use diskann::neighbor::Neighbor;
use diskann_inmem::num::{Capacity, MaxDegree};
use diskann_inmem::repr::Full;
use diskann_inmem::{Context, Provider, Strategy};
use diskann_utils::views::rowmajor::Owned;
use diskann_vector::distance::Metric;
use protocol::{Engine, Job, Outcome, Rows};

/// Links of a row after pruning: as many as hnswlib's lowest layer has with M 16.
const DEGREE: usize = 32;
/// Links of a row between two prunings.
const SLACK_DEGREE: usize = 42;
const L_BUILD: usize = 200;
const ALPHA: f32 = 1.2;

#[derive(Default)]
struct Diskann {
    index: Option<DiskANNIndex<Provider<Full<f32>, u64>>>,
}

impl Engine for Diskann {
    fn build(&mut self, _: &Job, rows: &Rows) -> Outcome<()> {
        let metric = Metric::L2;
        let config = config::Builder::new_with(
            DEGREE,
            config::MaxDegree::new(SLACK_DEGREE),
            L_BUILD,
            metric.into(),
            |builder| {
                builder.alpha(ALPHA);
            },
        )
        .build()?;
        let start = Owned::row_vector(Box::<[f32]>::from(middle(rows)));
        let degree = MaxDegree::new(config.max_degree().get());
        let provider =
            Provider::new(Full::config(Capacity::new(rows.len()), degree, metric, start)?)?;
        let index = DiskANNIndex::new(config, provider, None);
        for (row, id) in rows.iter().zip(0_u64..) {
            at_once(index.insert(&Strategy, &Context, &id, row))??;
        }
        self.index = Some(index);
        Ok(())
    }

    fn save(&mut self, _: &Job) -> Outcome<bool> {
        Ok(false)
    }

    fn open(&mut self, _: &Job) -> Outcome<()> {
        Err("this index cannot be saved".into())
    }

    fn search(&self, query: &[f32], k: usize, ef: usize, found: &mut Vec<u64>) -> Outcome<()> {
        let index = self.index.as_ref().ok_or("it is not built yet")?;
        let mut nearest: Vec<Neighbor<u64>> = Vec::with_capacity(ef);
        let knn = Knn::new(ef.max(k), None)?;
        at_once(index.search(knn, &Strategy, &Context, query, &mut nearest))??;
        found.extend(nearest.iter().take(k).map(|neighbour| neighbour.as_tuple().0));
        Ok(())
    }
}

/// The row nearest to the mean of all, where searches begin.
fn middle(rows: &Rows) -> &[f32] {
    let mut mean = vec![0.0_f64; rows.dim];
    for row in rows.iter() {
        for (sum, x) in mean.iter_mut().zip(row) {
            *sum += f64::from(*x) / rows.len() as f64;
        }
    }
    let far = |row: &[f32]| -> f64 {
        row.iter().zip(&mean).map(|(x, mean)| (f64::from(*x) - mean).powi(2)).sum()
    };
    rows.iter().min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or_default()
}

fn at_once<T>(future: impl Future<Output = T>) -> Outcome<T> {
    match pin!(future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => Err("it waits for something".into()),
    }
}

fn main() -> Outcome<()> {
    let job = Job::from_args()?;
    let version =
        format!("diskann-inmem 0.61.0, full vectors, degree {DEGREE}, L {L_BUILD}, alpha {ALPHA}");
    protocol::serve(&job, &version, Diskann::default())
}
