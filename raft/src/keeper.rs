//! The keeper: now and then it has a group's next snapshot built by replay, lets Raft purge what the
//! snapshot holds, and deletes flows past their retention. One group at a time, in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use qiang_engine::UnixMs;
use qiang_storage::SnapshotDir;

use crate::flows::FlowReader;
use crate::host::wall_clock;
use crate::node::PolicyCell;
use crate::types::TypeConfig;

/// How often the keeper looks at all groups.
const ROUND_INTERVAL: Duration = Duration::from_secs(2);

/// Bytes of log for which no snapshot is made yet: folding as much takes a fraction of a second.
const SNAPSHOT_LOG_BYTES_MIN: u64 = 16 << 20;

/// How long one snapshot may take before the keeper goes on to the next group.
const SNAPSHOT_WAIT: Duration = Duration::from_mins(10);

/// A group the keeper looks after.
pub struct Kept<SM: openraft::storage::RaftStateMachine<TypeConfig>> {
    pub raft: Raft<TypeConfig, SM>,
    pub snapshots: SnapshotDir,
    /// Where flows can be forgotten; the meta group keeps none.
    pub flows: Option<FlowReader>,
    /// Bytes of entries applied since the process started.
    pub log_bytes: Arc<AtomicU64>,
    /// What `log_bytes` was at the last snapshot.
    pub snapshot_bytes: AtomicU64,
}

/// Keeps one kind of groups until the task is dropped.
pub async fn run_keeper<SM>(groups: Vec<Kept<SM>>, snapshot_entries: u64, policy: PolicyCell)
where
    SM: openraft::storage::RaftStateMachine<TypeConfig>,
{
    let groups: Vec<Arc<Kept<SM>>> = groups.into_iter().map(Arc::new).collect();
    loop {
        tokio::time::sleep(ROUND_INTERVAL).await;
        for group in &groups {
            snapshot_if_due(group, snapshot_entries).await;
            forget_flows(group, policy.get().flow_retention_ms).await;
        }
    }
}

async fn snapshot_if_due<SM>(group: &Kept<SM>, snapshot_entries: u64)
where
    SM: openraft::storage::RaftStateMachine<TypeConfig>,
{
    let (applied, snapshot) = {
        let receiver = group.raft.metrics();
        let metrics = receiver.borrow_watched();
        let index = |log_id: Option<crate::types::LogId>| log_id.map_or(0, |log_id| log_id.index);
        (index(metrics.last_applied), index(metrics.snapshot))
    };
    let log_bytes = group.log_bytes.load(Ordering::Relaxed);
    let grown = log_bytes.saturating_sub(group.snapshot_bytes.load(Ordering::Relaxed));
    if applied <= snapshot
        || (applied < snapshot + snapshot_entries && grown < bytes_due(&group.snapshots))
    {
        return;
    }
    if let Err(error) = group.raft.trigger().snapshot().await {
        tracing::warn!(%error, "a snapshot could not be started");
        return;
    }
    let done = |metrics: &openraft::RaftMetrics<TypeConfig>| {
        metrics
            .snapshot
            .is_some_and(|log_id| log_id.index >= applied)
    };
    if let Err(error) = group
        .raft
        .wait(Some(SNAPSHOT_WAIT))
        .metrics(done, "a snapshot is built")
        .await
    {
        tracing::warn!(%error, "a snapshot was not built in time");
        return;
    }
    group.snapshot_bytes.store(log_bytes, Ordering::Relaxed);
}

/// After how many bytes of log the next snapshot is due: as many as the last one has, so that snapshots
/// at most double what is written, and a start replays at most about as much as it loads.
fn bytes_due(snapshots: &SnapshotDir) -> u64 {
    let newest = snapshots
        .list()
        .ok()
        .and_then(|known| known.last().map(|newest| newest.bytes));
    newest.unwrap_or(0).max(SNAPSHOT_LOG_BYTES_MIN)
}

/// Deletes flows older than the retention, as far as an older snapshot than the newest holds their
/// effects: from what stays the shard can be rebuilt even if the newest snapshot goes bad.
async fn forget_flows<SM>(group: &Arc<Kept<SM>>, retention_ms: u64)
where
    SM: openraft::storage::RaftStateMachine<TypeConfig>,
{
    let group = group.clone();
    let forget = move || -> Result<(), String> {
        let Some(flows) = &group.flows else {
            return Ok(());
        };
        let kept = group.snapshots.list().map_err(|error| error.to_string())?;
        let Some(floor) = flows.log.floor().map(|(floor, _)| floor) else {
            return Ok(());
        };
        let [oldest, _, ..] = kept.as_slice() else {
            return Ok(());
        };
        let before = UnixMs(wall_clock().0.saturating_sub(retention_ms));
        let index = flows
            .index_at(before, oldest.index.min(floor))
            .map_err(|error| error.to_string())?;
        flows
            .log
            .forget_below(index)
            .map_err(|error| error.to_string())
    };
    match tokio::task::spawn_blocking(forget).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error, "flows past their retention could not be deleted"),
        Err(error) => tracing::error!(%error, "deleting flows panicked"),
    }
}
