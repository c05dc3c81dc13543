//! The node's own numbers, read from its service at the moment of each scrape.
//!
//! Invariant: a scrape costs the shards nothing: it reads what they have published.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use qiang_raft::GroupStatus;
use tokio::sync::Semaphore;

use super::encode_histogram;
use crate::http::GrabGate;
use crate::service::Service;

/// Reads the node's own numbers at each scrape.
pub(super) struct NodeCollector {
    pub(super) service: Service,
    pub(super) gate: GrabGate,
    /// One permit for each further connection.
    pub(super) connections: Arc<Semaphore>,
    /// Connections at a time, at most.
    pub(super) most: usize,
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
