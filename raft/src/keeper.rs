//! The keeper: now and then it has a group's next snapshot built by replay, lets Raft purge what the
//! snapshot holds, and deletes flows past their retention. One group at a time, in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qiang_engine::UnixMs;
use qiang_storage::SnapshotDir;
use tokio::time::Instant;

use crate::any_raft::AnyRaft;
use crate::flows::index_at;
use crate::group::ShardGroup;
use crate::groups::Groups;
use crate::options::PolicyCell;
use crate::types::{LogId, TypeConfig};
use crate::world::{Clock, blocking};

/// How often the keeper looks at all groups.
const ROUND_INTERVAL: Duration = Duration::from_secs(2);

/// Bytes of log, for each shard that writes to it, for which no snapshot is made yet: folding as much takes a third of a second
/// for each of them, as measured in docs/performance.md.
const SNAPSHOT_LOG_BYTES_MIN: u64 = 16 << 20;

/// Bytes of a snapshot that load about as fast as one small entry is replayed.
const SNAPSHOT_BYTES_PER_ENTRY: u64 = 512;

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
    let shards = shard.map_or(1, |group| group.shards().len());
    let log_bytes = bytes(|shard| &shard.log_bytes);
    let grown = log_bytes.saturating_sub(bytes(|shard| &shard.snapshot_bytes));
    let due = Due::after(newest_bytes(snapshots), snapshot_entries, shards);
    if applied <= snapshot || (applied < snapshot + due.entries && grown < due.bytes) {
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

/// What a log has to grow by before its next snapshot is due, whichever comes first.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    bytes: u64,
    entries: u64,
}

impl Due {
    /// After a snapshot of so many bytes. As many bytes again, so that snapshots at most double what is written, and a start
    /// replays at most about as much as it loads; and as many entries as are replayed while that is loaded, so that few
    /// small ones do not have a large state written over and over.
    fn after(snapshot_bytes: u64, snapshot_entries: u64, shards: usize) -> Self {
        Due {
            bytes: snapshot_bytes.max(SNAPSHOT_LOG_BYTES_MIN * shards as u64),
            entries: snapshot_entries.max(snapshot_bytes / SNAPSHOT_BYTES_PER_ENTRY),
        }
    }
}

/// How large the newest snapshot is; 0 if there is none.
fn newest_bytes(snapshots: &SnapshotDir) -> u64 {
    let known = snapshots.list().ok();
    let newest = known.and_then(|known| known.last().map(|newest| newest.bytes));
    newest.unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_snapshot_is_due_when_the_log_has_grown_by_as_much_as_the_last_one_has() {
        let mib = 1 << 20;
        let due = |bytes, entries| Due { bytes, entries };
        assert_eq!(Due::after(0, 1_000, 1), due(16 * mib, 1_000));
        assert_eq!(Due::after(0, 1_000, 16), due(256 * mib, 1_000));
        assert_eq!(
            Due::after(300 * mib, 1_000, 16),
            due(300 * mib, 300 * mib / 512)
        );
        assert_eq!(
            Due::after(mib, 1_000_000, 1),
            due(16 * mib, 1_000_000),
            "a small state does not make them come sooner"
        );
    }
}
