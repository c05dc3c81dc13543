//! Counters of the writer, kept without locks. Invariant: they only grow, as Prometheus counters must.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in microseconds.
const LATENCY_BOUNDS_US: [u64; 14] = [
    50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 409_600,
    1_638_400,
];
/// Upper bounds of the buckets of entries per sync.
const ENTRIES_BOUNDS: [u64; 13] = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096];

/// What the store has done since it was opened.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Batches written and synced.
    pub syncs: u64,
    /// Entries made durable.
    pub entries: u64,
    /// Bytes of those entries' values, without keys and checksums.
    pub bytes: u64,
    /// Time of one batch's write and sync, in microseconds.
    pub sync_latency_us: Histogram,
    /// Entries in one batch.
    pub entries_per_sync: Histogram,
}

/// A distribution with fixed buckets.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Inclusive upper bounds; a last bucket without a bound follows.
    pub bounds: &'static [u64],
    /// Observations per bucket (not cumulated), one more than `bounds`.
    pub counts: Vec<u64>,
    /// Sum of all observations.
    pub sum: u64,
    /// The greatest observation.
    pub max: u64,
}

impl Histogram {
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The upper bound of the bucket that holds the given share (0 to 1) of observations; the maximum for the last one.
    pub fn quantile(&self, share: f64) -> u64 {
        let mut rest = share * self.count() as f64;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            rest -= *count as f64;
            if rest <= 0.0 {
                return (*bound).min(self.max);
            }
        }
        self.max
    }
}

/// The live counters behind [`Stats`].
#[derive(Default)]
pub(crate) struct Counters {
    syncs: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    latency: Buckets<15>,
    batch: Buckets<14>,
}

impl Counters {
    pub(crate) fn on_sync(&self, took: Duration, entries: u64, bytes: u64) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.latency.observe(
            &LATENCY_BOUNDS_US,
            u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        );
        self.batch.observe(&ENTRIES_BOUNDS, entries);
    }

    pub(crate) fn read(&self) -> Stats {
        Stats {
            syncs: self.syncs.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            sync_latency_us: self.latency.read(&LATENCY_BOUNDS_US),
            entries_per_sync: self.batch.read(&ENTRIES_BOUNDS),
        }
    }
}

struct Buckets<const N: usize> {
    counts: [AtomicU64; N],
    sum: AtomicU64,
    max: AtomicU64,
}

impl<const N: usize> Default for Buckets<N> {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; N],
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Buckets<N> {
    fn observe(&self, bounds: &[u64], value: u64) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    fn read(&self, bounds: &'static [u64]) -> Histogram {
        Histogram {
            bounds,
            counts: self
                .counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .collect(),
            sum: self.sum.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
        }
    }
}

const _: () = assert!(
    LATENCY_BOUNDS_US.len() + 1 == 15 && ENTRIES_BOUNDS.len() + 1 == 14,
    "one bucket more than bounds"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_their_buckets() {
        let counters = Counters::default();
        for (us, entries) in [(50, 0), (51, 1), (5_000_000, 10_000)] {
            counters.on_sync(Duration::from_micros(us), entries, 10);
        }
        let stats = counters.read();
        assert_eq!((stats.syncs, stats.entries, stats.bytes), (3, 10_001, 30));
        assert_eq!(stats.sync_latency_us.counts[..2], [1, 1]);
        assert_eq!(stats.sync_latency_us.counts.last(), Some(&1));
        assert_eq!(
            (stats.sync_latency_us.count(), stats.sync_latency_us.max),
            (3, 5_000_000)
        );
        assert_eq!(stats.sync_latency_us.quantile(0.5), 100);
        assert_eq!(stats.sync_latency_us.quantile(1.0), 5_000_000);
        assert_eq!(stats.entries_per_sync.counts[..2], [1, 1]);
    }
}
