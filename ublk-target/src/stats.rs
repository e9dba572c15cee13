// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Statistics of a device's requests: counted by its queues, merged, and sent to whoever asks.
//!
//! Only a queue's thread updates its numbers, so an update is a plain load and store. A reader in
//! another thread may see a request counted in one number and not yet in another. A latency histogram
//! has four buckets per power of two of nanoseconds, so a percentile is at most 25% too high. Every
//! request is counted; latencies are those of a sample.

use crate::request::Kind;
use bincode::{Decode, Encode};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SUB_BITS: u32 = 2;
const BUCKETS: usize = 64 << SUB_BITS;
const KINDS: usize = Kind::ALL.len();

fn bucket_of(nanos: u64) -> usize {
    let nanos = nanos.max(1 << SUB_BITS);
    let log = nanos.ilog2();
    let sub = (nanos >> (log - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    ((log as usize) << SUB_BITS) | sub as usize
}

/// The largest number of nanoseconds in the bucket.
fn bucket_top(bucket: usize) -> u64 {
    let log = (bucket >> SUB_BITS) as u32;
    let sub = (bucket & ((1 << SUB_BITS) - 1)) as u64;
    if log < SUB_BITS {
        return 1 << SUB_BITS;
    }
    let step = 1u64 << (log - SUB_BITS);
    (1u64 << log) + step * sub + (step - 1)
}

struct KindCells {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    max_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl KindCells {
    fn zeroed() -> Self {
        Self {
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
}

/// The numbers of one queue.
pub struct QueueStats {
    kinds: [KindCells; KINDS],
}

impl Default for QueueStats {
    fn default() -> Self {
        Self { kinds: std::array::from_fn(|_| KindCells::zeroed()) }
    }
}

impl QueueStats {
    /// Counts a finished request. Only the queue's thread may call it.
    pub fn record(&self, kind: Kind, bytes: u64, failed: bool) {
        let cells = &self.kinds[kind as usize];
        bump(&cells.requests, 1);
        if failed {
            bump(&cells.errors, 1);
        } else {
            bump(&cells.bytes, bytes);
        }
    }

    /// Adds the latency of a request that was measured. Only the queue's thread may call it.
    pub fn record_latency(&self, kind: Kind, nanos: u64) {
        let cells = &self.kinds[kind as usize];
        if nanos > cells.max_ns.load(Relaxed) {
            cells.max_ns.store(nanos, Relaxed);
        }
        bump(&cells.buckets[bucket_of(nanos)], 1);
    }
}

/// The requests of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct KindStats {
    /// Finished requests, including failed ones.
    pub requests: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Latencies in nanoseconds, in the order of [`PERCENTILES`].
    pub latency_ns: [u64; PERCENTILES.len()],
}

/// Names of the latencies that are reported: percentiles, and the largest.
pub const PERCENTILES: [&str; 5] = ["p50", "p90", "p99", "p999", "max"];

/// Merges the numbers that the queues have for one kind.
pub fn merge<'a>(queues: impl Iterator<Item = &'a QueueStats>, kind: Kind) -> KindStats {
    let mut merged = KindStats::default();
    let mut buckets = [0u64; BUCKETS];
    let mut max_ns = 0;
    for queue in queues {
        let cells = &queue.kinds[kind as usize];
        merged.requests += cells.requests.load(Relaxed);
        merged.bytes += cells.bytes.load(Relaxed);
        merged.errors += cells.errors.load(Relaxed);
        max_ns = max_ns.max(cells.max_ns.load(Relaxed));
        for (sum, cell) in buckets.iter_mut().zip(&cells.buckets) {
            *sum += cell.load(Relaxed);
        }
    }
    let total: u64 = buckets.iter().sum();
    for (slot, permille) in [500, 900, 990, 999].into_iter().enumerate() {
        merged.latency_ns[slot] = percentile(&buckets, total, permille).min(max_ns);
    }
    merged.latency_ns[4] = max_ns;
    merged
}

fn percentile(buckets: &[u64; BUCKETS], total: u64, permille: u64) -> u64 {
    let rank = (total * permille).div_ceil(1000);
    let mut seen = 0;
    for (bucket, count) in buckets.iter().enumerate() {
        seen += count;
        if rank > 0 && seen >= rank {
            return bucket_top(bucket);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_at_or_below_its_buckets_top_by_at_most_a_quarter() {
        for nanos in (4..4096).chain([1 << 20, (1 << 40) + 12345, u64::MAX >> 1]) {
            let top = bucket_top(bucket_of(nanos));
            assert!(top >= nanos && top - nanos <= nanos / 4, "{nanos}: {top}");
        }
        assert_eq!(bucket_of(0), bucket_of(4));
        assert!(bucket_of(u64::MAX) < BUCKETS);
    }

    #[test]
    fn percentiles_of_merged_queues() {
        let queues: Vec<_> = (0..2).map(|_| QueueStats::default()).collect();
        for i in 0..1000u64 {
            let queue = &queues[(i % 2) as usize];
            queue.record(Kind::Read, 4096, i == 0);
            queue.record_latency(Kind::Read, (i + 1) * 1000);
        }
        let merged = merge(queues.iter(), Kind::Read);
        assert_eq!((merged.requests, merged.errors), (1000, 1));
        assert_eq!(merged.bytes, 999 * 4096);
        let [p50, p90, p99, p999, max] = merged.latency_ns;
        assert!((500_000..625_000).contains(&p50), "{p50}");
        assert!((900_000..=1_000_000).contains(&p90), "{p90}");
        assert!(p99 >= 990_000 && p999 >= p99 && max == 1_000_000);
        assert_eq!(merge(queues.iter(), Kind::Flush), KindStats::default());
    }
}
