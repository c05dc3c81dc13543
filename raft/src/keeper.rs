//! The keeper: now and then it has a group's next snapshot built by replay, lets Raft purge what the
//! snapshot holds, and deletes flows past their retention. One group at a time, in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qiang_engine::UnixMs;
use qiang_storage::SnapshotDir;
use tokio::time::Instant;

use crate::flows::index_at;
use crate::group::ShardGroup;
use crate::groups::{AnyRaft, Groups};
use crate::options::PolicyCell;
use crate::types::{LogId, TypeConfig};
use crate::world::{Clock, blocking};

/// How often the keeper looks at all groups.
const ROUND_INTERVAL: Duration = Duration::from_secs(2);

/// Bytes of log for which no snapshot is made yet: folding as much takes a fraction of a second.
const SNAPSHOT_LOG_BYTES_MIN: u64 = 16 << 20;

/// The pause between two looks whether a snapshot is made.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long one snapshot may take before the keeper goes on to the next group.
const SNAPSHOT_WAIT: Duration = Duration::from_mins(10);

/// Looks after a node's groups until the task is dropped.
pub async fn run_keeper(
    groups: Arc<Groups>,
    snapshot_entries: u64,
    policy: PolicyCell,
    clock: Clock,
) {
    loop {
        tokio::time::sleep(ROUND_INTERVAL).await;
        for group in groups.all() {
            let Some(raft) = groups.raft(group) else {
                continue;
            };
            let shard = groups.shards.get(usize::from(group.0));
            snapshot_if_due(
                &groups.store.snapshots(group),
                &raft,
                shard,
                snapshot_entries,
            )
            .await;
            if let Some(shard) = shard {
                let before = UnixMs(clock.now().0.saturating_sub(policy.get().flow_retention_ms));
                forget_flows(&groups, shard, before).await;
            }
        }
    }
}

async fn snapshot_if_due(
    snapshots: &SnapshotDir,
    raft: &AnyRaft,
    shard: Option<&Arc<ShardGroup>>,
    snapshot_entries: u64,
) {
    let index = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index);
    let reached = |metrics: &openraft::RaftMetrics<TypeConfig>| {
        (index(metrics.last_applied), index(metrics.snapshot))
    };
    let (applied, snapshot) = raft.look(reached);
    let bytes = |counter: fn(&ShardGroup) -> &AtomicU64| {
        shard.map_or(0, |shard| counter(shard).load(Ordering::Relaxed))
    };
    let log_bytes = bytes(|shard| &shard.log_bytes);
    let grown = log_bytes.saturating_sub(bytes(|shard| &shard.snapshot_bytes));
    if applied <= snapshot
        || (applied < snapshot + snapshot_entries && grown < bytes_due(snapshots))
    {
        return;
    }
    if let Err(error) = make_snapshot(raft, applied).await {
        tracing::warn!(error, "a snapshot was not made");
        return;
    }
    if let Some(shard) = shard {
        shard.snapshot_bytes.store(log_bytes, Ordering::Relaxed);
    }
}

/// Has a snapshot made that reaches up to `index` at least, and waits for it.
pub async fn make_snapshot(raft: &AnyRaft, index: u64) -> Result<(), String> {
    raft.snapshot().await.map_err(|error| error.to_string())?;
    let until = Instant::now() + SNAPSHOT_WAIT;
    while !raft.look(|metrics| metrics.snapshot.is_some_and(|log_id| log_id.index >= index)) {
        let fault = raft.look(|metrics| {
            metrics
                .running_state
                .as_ref()
                .err()
                .map(ToString::to_string)
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        if Instant::now() >= until {
            return Err(format!("it took longer than {SNAPSHOT_WAIT:?}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
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

/// Deletes flows decided before `before`, as far as an older snapshot than the newest holds their
/// effects: from what stays the shard can be rebuilt even if the newest snapshot goes bad.
async fn forget_flows(groups: &Arc<Groups>, shard: &Arc<ShardGroup>, before: UnixMs) {
    let id = shard.id;
    let groups = groups.clone();
    let forget = move || -> Result<(), String> {
        let log = groups.store.log(id).map_err(|error| error.to_string())?;
        let kept = groups
            .store
            .snapshots(id)
            .list()
            .map_err(|error| error.to_string())?;
        let Some(floor) = log.floor().map(|(floor, _)| floor) else {
            return Ok(());
        };
        let [oldest, _, ..] = kept.as_slice() else {
            return Ok(());
        };
        let index = index_at(&log, before, oldest.index.min(floor));
        let index = index.map_err(|error| error.to_string())?;
        log.forget_below(index).map_err(|error| error.to_string())
    };
    match blocking(forget).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error, "flows past their retention could not be deleted"),
        Err(error) => tracing::error!(%error, "deleting flows panicked"),
    }
}
