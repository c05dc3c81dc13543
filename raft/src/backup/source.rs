//! What the part of a backup that one log's shards are is made of: its newest snapshot that is not past the cut, and its log up to there.
//!
//! Invariant: once it is open it stays readable, whatever snapshots are made and deleted meanwhile.

use std::io::{self, Write};

use qiang_engine::Batch;
use qiang_engine::routing::Sharing;
use qiang_storage::{GroupId, GroupLog, SnapshotDir, SnapshotReader};

use super::cut::{Step, step_of};
use crate::groups::Groups;
use crate::log_store::LogStore;
use crate::snapshot::{self, Folding};
use crate::types::{LogId, batch_in, decode_log_id};

/// Bytes of entries read at once.
const READ_BYTES: usize = 1 << 20;

/// What the state of the shards of one log is made of.
pub(super) struct Source {
    pub(super) group: GroupId,
    /// How many shards share the log.
    shards: usize,
    log: GroupLog,
    /// The newest snapshot that is not past the cut.
    snapshot: Option<SnapshotReader>,
    /// The first entry to fold after it.
    from: u64,
    pub(super) cut: LogId,
}

impl Source {
    /// Opens what the shards' state at the log index `cut` is made of.
    pub(super) fn open(groups: &Groups, group: GroupId, cut: u64) -> io::Result<Self> {
        let log = groups.store.log(group).map_err(io::Error::other)?;
        let snapshot = newest_up_to(&groups.store.snapshots(group), cut)?;
        let from = snapshot::fold_from(&log, snapshot.as_ref().map(SnapshotReader::index))?;
        let cut = log_id_at(&log, cut, snapshot.as_ref())?;
        Ok(Source {
            group,
            shards: groups.sharing.shards_per_log(),
            log,
            snapshot,
            from,
            cut,
        })
    }

    /// Writes the shards' state at the cut.
    pub(super) fn write(self, out: &mut impl Write) -> io::Result<()> {
        let mut folding = Folding::new(self.shards);
        if let Some(mut reader) = self.snapshot {
            folding.replica = snapshot::load(&mut reader)?;
        }
        if self.from <= self.cut.index {
            snapshot::fold(&mut folding, &self.log, self.from, self.cut.index)?;
        }
        folding.replica.save(out)
    }
}

/// The newest snapshot that verifies and reaches no further than `index`.
fn newest_up_to(snapshots: &SnapshotDir, index: u64) -> io::Result<Option<SnapshotReader>> {
    for known in snapshots.list().map_err(io::Error::other)?.iter().rev() {
        if known.index > index {
            continue;
        }
        let opened = snapshots.open(known.index);
        match opened.and_then(|reader| reader.verify().map(|()| reader)) {
            Ok(reader) => return Ok(Some(reader)),
            Err(error) => tracing::warn!(%error, "a snapshot is passed over"),
        }
    }
    Ok(None)
}

/// The log id of the entry at `index`, from wherever it is still known.
fn log_id_at(log: &GroupLog, index: u64, snapshot: Option<&SnapshotReader>) -> io::Result<LogId> {
    let values = log.read(index, index + 1, 1).map_err(io::Error::other)?;
    if let Some(value) = values.first() {
        return decode_log_id(index, value);
    }
    let of_snapshot = match snapshot {
        Some(reader) => snapshot::read_meta(reader)?.last_log_id,
        None => None,
    };
    let known = [of_snapshot, LogStore::new(log.clone()).floor()?];
    let mut known = known.into_iter().flatten();
    let found = known.find(|log_id| log_id.index == index);
    found.ok_or_else(|| missing(index))
}

/// The steps that a log's shards have committed after the log index `from` up to `to`.
pub(super) fn steps_in(
    log: &GroupLog,
    sharing: Sharing,
    from: u64,
    to: u64,
    steps: &mut Vec<Step>,
) -> io::Result<()> {
    let mut next = from + 1;
    while next <= to {
        let values = log
            .read(next, to + 1, READ_BYTES)
            .map_err(io::Error::other)?;
        if values.is_empty() {
            return Err(missing(next));
        }
        for value in &values {
            if let Some(bytes) = batch_in(next, value)? {
                let batch = Batch::decode(&bytes).map_err(io::Error::other)?;
                let log = log.group().0;
                for part in &batch.parts {
                    let shard = sharing.shard_at(log, part.place);
                    let step = |record| step_of(shard, log, next, record);
                    steps.extend(part.records.iter().filter_map(step));
                }
            }
            next += 1;
        }
    }
    Ok(())
}

fn missing(index: u64) -> io::Error {
    let message = format!("log entry {index} is not on this node: try again, or ask another node");
    io::Error::new(io::ErrorKind::UnexpectedEof, message)
}
