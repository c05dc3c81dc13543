//! What Prometheus scrapes: counts of requests and grabs, and the node's own numbers at the moment of the scrape.
//!
//! Invariant: every name begins with `qiang_`, and no label takes a value that a caller chooses.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use qiang_raft::GroupStatus;
use tokio::sync::Semaphore;

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
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabel, Durations>,
    grabs: Family<ResultLabel, Counter>,
    granted: Counter,
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
        let requests = Family::<RequestLabels, Counter>::default();
        let durations = Family::<RouteLabel, Durations>::default();
        let grabs = Family::<ResultLabel, Counter>::default();
        let refused_connections = Counter::default();
        let granted = grabs
            .get_or_create(&ResultLabel { result: "granted" })
            .clone();
        registry.register(
            "requests",
            "Requests answered, by route, status and code",
            requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "Time from a request's head to its answer, by route",
            durations.clone(),
        );
        registry.register(
            "grabs",
            "Grabs answered, by result; each grab of a batch counts",
            grabs.clone(),
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
            granted,
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
        self.requests
            .get_or_create(&RequestLabels {
                route,
                status,
                code,
            })
            .inc();
        self.durations
            .get_or_create(&RouteLabel { route })
            .observe(took);
    }

    /// A grab was answered, alone or in a batch.
    pub(crate) fn on_grab(&self, result: &'static str) {
        if result == "granted" {
            self.granted.inc();
        } else {
            self.grabs.get_or_create(&ResultLabel { result }).inc();
        }
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
struct Durations(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; DURATION_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Durations {
    fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = DURATION_BOUNDS_US.partition_point(|bound| *bound < us);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        let counts: Vec<u64> = self
            .0
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let sum_us = self.0.sum_us.load(Ordering::Relaxed);
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

/// Reads the node's own numbers at each scrape.
struct NodeCollector {
    service: Service,
    gate: GrabGate,
    connections: Arc<Semaphore>,
    most: usize,
}

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCollector").finish_non_exhaustive()
    }
}

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_interface(&mut encoder)?;
        self.encode_shards(&mut encoder)?;
        self.encode_storage(&mut encoder)
    }
}

impl NodeCollector {
    fn encode_interface(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let config = self.service.config();
        let open = self.most - self.connections.available_permits().min(self.most);
        gauge(encoder, "connections", "Connections open now", open as u64)?;
        gauge(
            encoder,
            "grabs_in_flight",
            "Grabs let in and not yet answered",
            self.gate.in_flight(),
        )?;
        let bound = config.document.grab_concurrency_in_force();
        gauge(
            encoder,
            "grab_concurrency",
            "Grabs let in at a time, as in force now",
            bound,
        )?;
        gauge(
            encoder,
            "degraded",
            "1 while the configuration says degraded",
            config.document.degraded.into(),
        )?;
        gauge(
            encoder,
            "config_version",
            "Version of the configuration in force",
            config.version,
        )?;
        gauge(
            encoder,
            "draining",
            "1 while the node is about to stop",
            self.service.draining().into(),
        )
    }

    fn encode_shards(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Read = fn(u64, &GroupStatus) -> u64;
        let gauges: [(&str, &str, Read); 10] = [
            (
                "shard_is_leader",
                "1 where this node leads the shard",
                |node, group| (group.leader == Some(node)).into(),
            ),
            (
                "shard_has_quorum",
                "1 where the shard's quorum is reached",
                |_, group| group.has_quorum.into(),
            ),
            (
                "shard_deciding",
                "1 where this node decides for the shard",
                |_, group| group.deciding.into(),
            ),
            ("shard_term", "Raft term", |_, group| group.term),
            (
                "shard_last_index",
                "Index of the last entry in the log",
                |_, group| group.last_index,
            ),
            (
                "shard_commit_index",
                "Index up to which entries are committed",
                |_, group| group.committed_index,
            ),
            (
                "shard_applied_index",
                "Index up to which entries are applied",
                |_, group| group.applied_index,
            ),
            (
                "shard_queue_depth",
                "Commands that wait in the mailbox",
                |_, group| group.mailbox_depth as u64,
            ),
            (
                "shard_pending_entries",
                "Batches proposed and not yet committed",
                |_, group| group.pending_entries as u64,
            ),
            (
                "shard_orders",
                "Orders in memory, in any state",
                |_, group| group.orders,
            ),
        ];
        let status = self.service.status();
        for (name, help, read) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for group in &status.groups {
                let labels = [("shard", group.group.as_str())];
                let value = ConstGauge::new(read(status.node_id, group));
                value.encode(family.encode_family(&labels)?)?;
            }
        }
        gauge(
            encoder,
            "storage_faulted",
            "1 when the store takes no more writes",
            status.fault.is_some().into(),
        )
    }

    fn encode_storage(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.service.storage_stats();
        counter(
            encoder,
            "storage_syncs",
            "Batches written and synced",
            stats.syncs,
        )?;
        counter(
            encoder,
            "storage_entries",
            "Log entries made durable",
            stats.entries,
        )?;
        counter(
            encoder,
            "storage_bytes",
            "Bytes of those entries",
            stats.bytes,
        )?;
        let histograms = [
            (
                "storage_sync_duration_seconds",
                "Time of one batch's write and sync",
                &stats.sync_latency_us,
                1e6,
            ),
            (
                "storage_entries_per_sync",
                "Entries in one batch",
                &stats.entries_per_sync,
                1.0,
            ),
        ];
        for (name, help, seen, per_unit) in histograms {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            encode_histogram(metric, seen.bounds, &seen.counts, seen.sum, per_unit)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
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
