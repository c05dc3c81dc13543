//! Numbers that many threads add to and few read: each thread adds to a part of its own, so that no two meet at one place in
//! memory, and a reader looks at all parts.
//!
//! Invariant: what was added stays added; a reader that comes later sees it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::available_parallelism;

use crossbeam::utils::CachePadded;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// One `T` for each core; threads take turns at choosing theirs.
#[derive(Debug)]
pub(super) struct Striped<T>(Box<[CachePadded<T>]>);

impl<T: Default> Default for Striped<T> {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Striped((0..cores).map(|_| CachePadded::default()).collect())
    }
}

impl<T> Striped<T> {
    /// The part of this thread. Where there are more threads than cores, some have the same.
    pub(super) fn own(&self) -> &T {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        &self.0[NUMBER.with(|number| number % self.0.len())]
    }

    /// All parts.
    pub(super) fn parts(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|part| &**part)
    }
}

/// A number that only grows. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Count(Arc<Striped<AtomicU64>>);

impl Count {
    /// One more.
    pub(super) fn add_one(&self) {
        self.0.own().fetch_add(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub(super) fn get(&self) -> u64 {
        let parts = self.0.parts();
        parts.map(|part| part.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Count {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Count {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.get(), None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn what_many_threads_add_is_seen_whole() {
        let count = Count::default();
        std::thread::scope(|scope| {
            for _ in 0..3 * count.0.parts().count() {
                scope.spawn(|| (0..10_000).for_each(|_| count.add_one()));
            }
        });
        let added = 30_000 * count.0.parts().count() as u64;
        assert_eq!(count.get(), added);
        let mut registry = Registry::default();
        registry.register("things", "Things", count);
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        let line = format!("things_total {added}");
        assert!(page.lines().any(|found| found == line), "{page}");
    }
}
