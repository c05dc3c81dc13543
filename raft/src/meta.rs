//! The meta group: the cluster's own state, kept by the same Raft and the same log as the shards.
//!
//! Commands are decided when they are applied, on every node alike, so nothing runs ahead here. Its
//! state is small: the configuration document, as text that this crate gives no meaning, with the
//! documents before it, and the cluster's nodes and placement (`cluster`). Every node has it: those that
//! do not vote in the group listen to it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchSender;
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend};
use qiang_engine::{UnixMs, codec};
use qiang_storage::{GroupLog, SnapshotDir, SnapshotReader};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::groups::Presence;
use crate::snapshot::{self, SNAPSHOTS_KEPT, SnapshotFile};
use crate::types::{LogId, Outcome, Payload, StoredMembership, TypeConfig, decode_entry};
use crate::world::{blocking, watch};

/// Versions of the configuration that are kept for `history` and `rollback`.
const HISTORY_MAX: usize = 100;

/// Bytes of entries read at once.
const READ_BYTES: usize = 1 << 20;

/// One version of the configuration document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigVersion {
    /// Grows by one with every change; 0 is the default, before the first.
    pub version: u64,
    /// When it was put.
    pub at: UnixMs,
    /// The document; empty before the first.
    pub document: String,
}

/// Why a configuration was not put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigRefusal {
    /// Another version is in force than the caller expects.
    Conflict {
        /// The version in force.
        current: u64,
    },
    /// No leader or quorum just now; nothing was done.
    Unavailable,
    /// It was sent for commit and its outcome is not known.
    OutcomeUnknown,
}

/// What the meta group's log holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MetaCommand {
    /// Put a document in the place of version `expected`.
    PutConfig { expected: u64, next: ConfigVersion },
    /// Put the cluster's next revision in the place of the one before it.
    PutCluster { next: Cluster },
}

impl MetaCommand {
    pub fn encode(&self) -> Payload {
        Payload(Bytes::from(codec::encode(self)))
    }

    fn decode(index: u64, payload: &Payload) -> io::Result<Self> {
        let wrong = |error| io::Error::other(format!("meta log entry {index}: {error}"));
        codec::decode(&payload.0).map_err(wrong)
    }
}

/// The cluster's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaState {
    /// All versions of the configuration, oldest first; the last is in force.
    pub versions: Arc<Vec<ConfigVersion>>,
    /// The cluster as it should be.
    pub cluster: Arc<Cluster>,
}

impl Default for MetaState {
    fn default() -> Self {
        let before_the_first = ConfigVersion {
            version: 0,
            at: UnixMs(0),
            document: String::new(),
        };
        MetaState {
            versions: Arc::new(vec![before_the_first]),
            cluster: Arc::default(),
        }
    }
}

impl MetaState {
    /// The version of the configuration in force.
    pub fn config_version(&self) -> u64 {
        self.versions.last().map_or(0, |version| version.version)
    }

    /// The state as it would be if all were committed that is on this disk, where the group may stand still or not have begun yet.
    pub fn on_disk(log: &GroupLog, snapshots: &SnapshotDir) -> io::Result<Self> {
        let newest = snapshots.newest_good().map_err(io::Error::other)?;
        let reached = newest.as_ref().map(SnapshotReader::index);
        let mut next = snapshot::fold_from(log, reached)?;
        let mut state = match newest {
            Some(reader) => Self::read(reader)?,
            None => Self::default(),
        };
        while let Some(last) = log.last_index().filter(|last| next <= *last) {
            let values = log.read(next, last + 1, READ_BYTES);
            let values = values.map_err(io::Error::other)?;
            if values.is_empty() {
                let lacking = format!("log entry {next} is missing");
                return Err(io::Error::other(lacking));
            }
            for value in &values {
                if let EntryPayload::Normal(payload) = decode_entry(next, value)?.payload {
                    state.execute(MetaCommand::decode(next, &payload)?);
                }
                next += 1;
            }
        }
        Ok(state)
    }

    fn read(mut snapshot: impl io::Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes)?;
        codec::decode(&bytes).map_err(io::Error::other)
    }

    fn execute(&mut self, command: MetaCommand) -> Outcome {
        match command {
            MetaCommand::PutConfig { expected, mut next } => {
                let current = self.config_version();
                if current != expected {
                    return Outcome::Conflict(current);
                }
                next.version = current + 1;
                let versions = Arc::make_mut(&mut self.versions);
                versions.push(next);
                if versions.len() > HISTORY_MAX {
                    versions.remove(0);
                }
                Outcome::Done(current + 1)
            }
            MetaCommand::PutCluster { next } => {
                let current = self.cluster.revision;
                if next.revision != current + 1 {
                    return Outcome::Conflict(current);
                }
                self.cluster = Arc::new(next);
                Outcome::Done(current + 1)
            }
        }
    }
}

struct Applied {
    log_id: Option<LogId>,
    membership: StoredMembership,
    state: MetaState,
}

/// The meta group's state machine.
pub struct MetaMachine {
    /// Where the state is shown. A group that is started again shows it only once it is as far as before.
    shown: watch::Sender<MetaState>,
    applied: Applied,
    log: GroupLog,
    snapshots: SnapshotDir,
    _presence: Presence,
}

impl MetaMachine {
    /// A state machine that shows its state through `shown`.
    pub fn new(
        shown: watch::Sender<MetaState>,
        log: GroupLog,
        snapshots: SnapshotDir,
        presence: Presence,
    ) -> Self {
        MetaMachine {
            shown,
            applied: Applied {
                log_id: None,
                membership: StoredMembership::default(),
                state: MetaState::default(),
            },
            log,
            snapshots,
            _presence: presence,
        }
    }

    fn show(&self) {
        let state = &self.applied.state;
        self.shown.send_if_modified(|shown| {
            let is_newer = state.config_version() >= shown.config_version()
                && state.cluster.revision >= shown.cluster.revision;
            let changes = is_newer && state != shown;
            if changes {
                *shown = state.clone();
            }
            changes
        });
    }
}

impl RaftStateMachine<TypeConfig> for MetaMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = MetaSnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied.log_id, self.applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let log_id = entry.log_id();
            let mut outcome = Outcome::Done(log_id.index);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(payload) => {
                    let command = MetaCommand::decode(log_id.index, &payload)?;
                    outcome = self.applied.state.execute(command);
                }
                EntryPayload::Membership(membership) => {
                    self.applied.membership = StoredMembership::new(Some(log_id), membership);
                }
            }
            self.applied.log_id = Some(log_id);
            self.show();
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> MetaSnapshotBuilder {
        MetaSnapshotBuilder {
            log_id: self.applied.log_id,
            membership: self.applied.membership.clone(),
            state: self.applied.state.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        file: SnapshotFile,
    ) -> Result<(), io::Error> {
        let (log, snapshots) = (self.log.clone(), self.snapshots.clone());
        let take_in = move || snapshot::take_in(&log, &snapshots, &file, MetaState::read);
        let state = blocking(take_in).await??;
        self.applied = Applied {
            log_id: meta.last_log_id,
            membership: meta.last_membership.clone(),
            state,
        };
        self.show();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>, io::Error> {
        snapshot::current(&self.snapshots)
    }
}

/// Writes the meta group's state as it was when the builder was made.
pub struct MetaSnapshotBuilder {
    log_id: Option<LogId>,
    membership: StoredMembership,
    state: MetaState,
    snapshots: SnapshotDir,
}

impl RaftSnapshotBuilder<TypeConfig> for MetaSnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotFile>, io::Error> {
        let log_id = self
            .log_id
            .ok_or_else(|| io::Error::other("there is nothing to snapshot yet"))?;
        let meta = codec::encode(&(self.log_id, &self.membership));
        let mut writer = self
            .snapshots
            .create(log_id.index, &meta)
            .map_err(io::Error::other)?;
        io::Write::write_all(&mut writer, &codec::encode(&self.state))?;
        writer.finish().map_err(io::Error::other)?;
        self.snapshots
            .keep_newest(SNAPSHOTS_KEPT)
            .map_err(io::Error::other)?;
        snapshot::current(&self.snapshots)?
            .ok_or_else(|| io::Error::other("the snapshot just written is not there"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::groups::META_GROUP;
    use crate::testing::{empty_store, log_id};
    use crate::types::{Entry, encode_entry};

    /// A document of this revision.
    fn put(revision: u64) -> MetaCommand {
        let next = Cluster {
            revision,
            ..Cluster::default()
        };
        MetaCommand::PutCluster { next }
    }

    fn entry(index: u64, command: &MetaCommand) -> Bytes {
        encode_entry(&Entry {
            log_id: log_id(index),
            payload: EntryPayload::Normal(command.encode()),
        })
    }

    #[test]
    fn what_is_on_disk_is_a_snapshot_and_all_of_the_log_behind_it_though_nobody_said_that_it_is_committed()
     {
        let (_dir, store) = empty_store();
        let log = store.log(META_GROUP).expect("a log");
        let snapshots = store.snapshots(META_GROUP);
        let revision = || MetaState::on_disk(&log, &snapshots).map(|state| state.cluster.revision);
        assert_eq!(revision().expect("nothing is there"), 0);
        let blank = encode_entry(&Entry {
            log_id: log_id(0),
            payload: EntryPayload::Blank,
        });
        // The third comes too late: another has taken its place.
        let entries = vec![
            blank,
            entry(1, &put(1)),
            entry(2, &put(2)),
            entry(3, &put(2)),
        ];
        log.append(0, entries, Box::new(|_| {}));
        assert_eq!(revision().expect("a log"), 2);
        let state = MetaState {
            cluster: Arc::new(Cluster {
                revision: 7,
                ..Cluster::default()
            }),
            ..MetaState::default()
        };
        let meta = codec::encode(&(Some(log_id(3)), StoredMembership::default()));
        let mut writer = snapshots.create(3, &meta).expect("a snapshot");
        writer.write_all(&codec::encode(&state)).expect("its state");
        writer.finish().expect("its end");
        assert_eq!(revision().expect("a snapshot of the whole log"), 7);
        log.append(4, vec![entry(4, &put(8))], Box::new(|_| {}));
        assert_eq!(revision().expect("a snapshot and a log"), 8);
    }
}
