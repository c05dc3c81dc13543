//! A stopped node's data directory: the same folding as live, for `qiang flows verify`, `export` and
//! `rebuild`. Nothing in the directory is changed.

use std::io;
use std::path::Path;

use qiang_engine::routing::{SHARDS, Sharing};
use qiang_engine::{Batch, Shard, ShardId};
use qiang_storage::{GroupId, GroupLog, OpenError, ReadError, Store};

use crate::flows::{Flow, flows_of};
use crate::options::StartError;
use crate::snapshot::{self, Folding};
use crate::start::sharing_of;
use crate::types::batch_in;

/// Bytes of entries read at once.
const READ_BYTES: usize = 4 << 20;

/// Why a data directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its shards share logs in a way that is not known.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A group's log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A shard's flows or snapshot cannot be folded.
    #[error("shard {shard}: {source}")]
    Fold {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: io::Error,
    },
    /// Flows that rebuilding needs were deleted by retention.
    #[error(
        "shard {shard}: the flows before log index {first_index} were deleted by retention: rebuild from a snapshot at or after it"
    )]
    Forgotten {
        /// The shard.
        shard: ShardId,
        /// The first index that is left.
        first_index: u64,
    },
    /// Flows lie on other nodes.
    #[error(
        "shard {shard}: the flows of log entries {first_index} to {last_index} are not here, for a snapshot took their place when this node had been away: take them from another node"
    )]
    Gap {
        /// The shard.
        shard: ShardId,
        /// The first index that is lacking.
        first_index: u64,
        /// The last index that is lacking.
        last_index: u64,
    },
}

/// A data directory opened for reading.
pub struct Offline {
    store: Store,
    sharing: Sharing,
}

/// What a shard's flows fold to.
#[derive(Debug)]
pub struct Folded {
    /// The shard.
    pub shard: Shard,
    /// Log indexes of void batches, ascending.
    pub voids: Vec<u64>,
    /// First log index that was folded.
    pub first_index: u64,
    /// Last log index that was folded.
    pub last_index: u64,
    /// Entries folded.
    pub entries: u64,
    /// The snapshot that the fold began from, if it did.
    pub snapshot_index: Option<u64>,
}

/// Opens a stopped node's data directory. It takes the same lock as a running node.
pub fn open(dir: &Path) -> Result<Offline, OfflineError> {
    let store = Store::open_offline(dir)?;
    let sharing = sharing_of(&store)?;
    Ok(Offline { store, sharing })
}

impl Offline {
    /// Folds a shard's flows: from its newest good snapshot on, or from flows alone.
    pub fn fold(&self, shard: ShardId, ignore_snapshots: bool) -> Result<Folded, OfflineError> {
        let wrong = |source: io::Error| OfflineError::Fold { shard, source };
        let log = self.log(shard)?;
        let first = log.first_index().unwrap_or(0);
        let snapshots = self.store.snapshots(self.group(shard));
        let place = self.sharing.place_of(shard);
        let newest = if ignore_snapshots {
            None
        } else {
            snapshots
                .newest_good()
                .map_err(|error| wrong(io::Error::other(error)))?
        };
        let mut folding = Folding::new(self.sharing.shards_per_log());
        let (from, snapshot_index) = match newest {
            Some(mut reader) => {
                let index = reader.index();
                folding.replica = snapshot::load(&mut reader).map_err(wrong)?;
                (index + 1, Some(index))
            }
            None if first > 1 => {
                return Err(OfflineError::Forgotten {
                    shard,
                    first_index: first,
                });
            }
            None => (first, None),
        };
        folding.replica = folding.replica.part(place.index()..place.index() + 1);
        let last_index = last_committed(&log);
        let entries = match last_index {
            Some(last) if last >= from => {
                let run = log.runs().into_iter().find(|run| run.contains(&from));
                let end = run.map_or(from, |run| run.end);
                if end <= last {
                    return Err(gap_at(end, &log, shard, last));
                }
                snapshot::fold(&mut folding, &log, from, last).map_err(wrong)?
            }
            _ => 0,
        };
        let mut replica = folding.replica;
        Ok(Folded {
            shard: replica.shards.remove(0),
            voids: replica.voids,
            first_index: from,
            last_index: last_index.unwrap_or(0),
            entries,
            snapshot_index,
        })
    }

    /// Hands every committed flow of a shard to `take`, in commit order.
    pub fn flows(
        &self,
        shard: ShardId,
        after: u64,
        mut take: impl FnMut(Flow) -> io::Result<()>,
    ) -> Result<(), OfflineError> {
        let wrong = |source: io::Error| OfflineError::Fold { shard, source };
        let log = self.log(shard)?;
        let place = self.sharing.place_of(shard);
        let voids = self.fold(shard, false)?.voids;
        let Some(last) = last_committed(&log) else {
            return Ok(());
        };
        let mut next = log.first_index().unwrap_or(0);
        while next <= last {
            let values = log.read(next, last + 1, READ_BYTES)?;
            if values.is_empty() {
                return Err(gap_at(next, &log, shard, last));
            }
            for value in &values {
                if let Some(bytes) = batch_in(next, value)
                    .map_err(wrong)?
                    .filter(|_| voids.binary_search(&next).is_err())
                {
                    let records = Batch::records_of(place, &bytes);
                    let records = records.map_err(|error| wrong(io::Error::other(error)))?;
                    flows_of(shard, next, records)
                        .filter(|flow| flow.cursor > after)
                        .try_for_each(&mut take)
                        .map_err(wrong)?;
                }
                next += 1;
            }
        }
        Ok(())
    }

    /// All shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        (0..SHARDS).map(ShardId)
    }

    fn log(&self, shard: ShardId) -> Result<GroupLog, OfflineError> {
        Ok(self.store.log(self.group(shard))?)
    }

    fn group(&self, shard: ShardId) -> GroupId {
        GroupId(self.sharing.log_of(shard))
    }
}

/// That entries from `first_index` on are lacking, up to the next that is there, or to `last`.
fn gap_at(first_index: u64, log: &GroupLog, shard: ShardId, last: u64) -> OfflineError {
    let mut runs = log.runs().into_iter();
    let behind = runs.find(|run| run.start > first_index);
    OfflineError::Gap {
        shard,
        first_index,
        last_index: behind.map_or(last, |run| run.start - 1),
    }
}

/// The last entry that is known to be committed. In a group of one voter every entry on its disk is.
fn last_committed(log: &GroupLog) -> Option<u64> {
    log.last_index()
        .max(log.committed().map(|(index, _)| index))
}
