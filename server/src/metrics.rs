//! What Prometheus scrapes: counts of requests and grabs, and the node's own numbers at the moment of the scrape.
//!
//! Invariant: every name begins with `qiang_`, and no label takes a value that a caller chooses.

mod known;
mod node;
mod striped;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use self::known::Known;
use self::node::NodeCollector;
use self::striped::{Count, Striped};
use crate::http::GrabGate;
use crate::service::Service;

/// Inclusive upper bounds of the buckets of request durations, in microseconds.
const DURATION_BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1000, 2000, 3000, 5000, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000,
];

/// The counters of the public interface and the way to read all others.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Known<RequestLabels, Count>,
    durations: Known<RouteLabel, Durations>,
    grabs: Known<ResultLabel, Count>,
    refused_connections: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Metrics {
    /// The metrics of a node's public interface; `connections` has one permit for each further connection.
    pub(crate) fn new(service: Service, gate: GrabGate, connections: Arc<Semaphore>) -> Self {
        let mut registry = Registry::with_prefix("qiang");
        let requests = Known::<RequestLabels, Count>::default();
        let durations = Known::<RouteLabel, Durations>::default();
        let grabs = Known::<ResultLabel, Count>::default();
        let refused_connections = Counter::default();
        // Shown from the start: a rate over it has a beginning then.
        grabs.with(&ResultLabel { result: "granted" }, |_| {});
        registry.register(
            "requests",
            "Requests answered, by route, status and code",
            requests.family(),
        );
        registry.register(
            "request_duration_seconds",
            "Time from a request's head to its answer, by route",
            durations.family(),
        );
        registry.register(
            "grabs",
            "Grabs answered, by result; each grab of a batch counts",
            grabs.family(),
        );
        registry.register(
            "connections_refused",
            "Connections closed because of their bound",
            refused_connections.clone(),
        );
        registry.register(
            "build",
            "The running binary",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let most = connections.available_permits();
        registry.register_collector(Box::new(NodeCollector {
            service,
            gate,
            connections,
            most,
        }));
        Metrics {
            registry,
            requests,
            durations,
            grabs,
            refused_connections,
        }
    }

    /// A request was answered.
    pub(crate) fn on_request(
        &self,
        route: &'static str,
        status: u16,
        code: &'static str,
        took: Duration,
    ) {
        let labels = RequestLabels {
            route,
            status,
            code,
        };
        self.requests.with(&labels, Count::add_one);
        self.durations
            .with(&RouteLabel { route }, |durations| durations.observe(took));
    }

    /// A grab was answered, alone or in a batch.
    pub(crate) fn on_grab(&self, result: &'static str) {
        self.grabs.with(&ResultLabel { result }, Count::add_one);
    }

    /// A connection was closed because there were too many.
    pub(crate) fn on_connection_refused(&self) {
        self.refused_connections.inc();
    }

    /// The page as `OpenMetrics` text.
    pub(crate) fn page(&self) -> String {
        let mut page = String::new();
        encode(&mut page, &self.registry).expect("a text takes every line");
        page
    }
}

/// A distribution of durations; observing is two additions, without a lock.
#[derive(Debug, Clone, Default)]
struct Durations(Arc<Striped<Buckets>>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; DURATION_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Durations {
    fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = DURATION_BOUNDS_US.partition_point(|bound| *bound < us);
        let own = self.0.own();
        own.counts[bucket].fetch_add(1, Ordering::Relaxed);
        own.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        let mut counts = [0; DURATION_BOUNDS_US.len() + 1];
        let mut sum_us = 0;
        for part in self.0.parts() {
            for (count, of_part) in counts.iter_mut().zip(&part.counts) {
                *count += of_part.load(Ordering::Relaxed);
            }
            sum_us += part.sum_us.load(Ordering::Relaxed);
        }
        encode_histogram(encoder, &DURATION_BOUNDS_US, &counts, sum_us, 1e6)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Writes a distribution whose bounds and sum are in parts of `per_unit` of the metric's unit.
fn encode_histogram(
    mut encoder: MetricEncoder<'_>,
    bounds: &[u64],
    counts: &[u64],
    sum: u64,
    per_unit: f64,
) -> fmt::Result {
    let bounds = bounds
        .iter()
        .map(|bound| *bound as f64 / per_unit)
        .chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
    encoder.encode_histogram::<NoLabelSet>(
        sum as f64 / per_unit,
        counts.iter().sum(),
        &buckets,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_cumulated_buckets() {
        let mut registry = Registry::with_prefix("qiang");
        let durations = Durations::default();
        registry.register("took_seconds", "How long", durations.clone());
        for us in [0, 100, 101, 5_000_000, 5_000_001] {
            durations.observe(Duration::from_micros(us));
        }
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        for line in [
            "qiang_took_seconds_bucket{le=\"0.0001\"} 2",
            "qiang_took_seconds_bucket{le=\"0.00025\"} 3",
            "qiang_took_seconds_bucket{le=\"5.0\"} 4",
            "qiang_took_seconds_bucket{le=\"+Inf\"} 5",
            "qiang_took_seconds_count 5",
            "qiang_took_seconds_sum 10.000202",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "no {line:?} in\n{page}"
            );
        }
    }
}
