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
use qiang_storage::{GroupLog, SnapshotDir};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::groups::Presence;
use crate::snapshot::{self, SNAPSHOTS_KEPT, SnapshotFile};
use crate::types::{LogId, Outcome, Payload, StoredMembership, TypeConfig};
use crate::world::{blocking, watch};

/// Versions of the configuration that are kept for `history` and `rollback`.
const HISTORY_MAX: usize = 100;

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
                    let wrong = |error| {
                        io::Error::other(format!("meta log entry {}: {error}", log_id.index))
                    };
                    let command = codec::decode(&payload.0).map_err(wrong)?;
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
        let read = move || {
            let mut bytes = Vec::new();
            let mut reader = snapshot::take_in(&log, &snapshots, &file)?;
            io::Read::read_to_end(&mut reader, &mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        let bytes = blocking(read).await??;
        self.applied = Applied {
            log_id: meta.last_log_id,
            membership: meta.last_membership.clone(),
            state: codec::decode(&bytes).map_err(io::Error::other)?,
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
