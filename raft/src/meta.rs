//! The meta group: the cluster's own state, kept by the same Raft and the same log as the shards.
//!
//! Commands are decided when they are applied, on every node alike, so nothing runs ahead here. Its
//! state is small: the configuration document, as text that this crate gives no meaning, and the
//! documents before it.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend};
use qiang_engine::{UnixMs, codec};
use qiang_storage::SnapshotDir;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::snapshot::{self, SNAPSHOTS_KEPT, SnapshotFile};
use crate::types::{LogId, Payload, StoredMembership, TypeConfig};

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
    /// Names the proposal that put it, for the proposer to recognise its own.
    pub nonce: u64,
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

/// What the meta group can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MetaCommand {
    /// Put a document in the place of version `expected`.
    PutConfig { expected: u64, next: ConfigVersion },
}

impl MetaCommand {
    pub fn encode(&self) -> Payload {
        Payload(Bytes::from(codec::encode(self)))
    }
}

/// All versions, oldest first; the last is in force.
pub type Versions = Arc<Vec<ConfigVersion>>;

/// The versions before any was put.
pub fn no_versions() -> Versions {
    Arc::new(vec![ConfigVersion {
        version: 0,
        at: UnixMs(0),
        document: String::new(),
        nonce: 0,
    }])
}

#[derive(Clone)]
struct Applied {
    log_id: Option<LogId>,
    membership: StoredMembership,
}

/// The meta group's state machine.
pub struct MetaMachine {
    versions: watch::Sender<Versions>,
    applied: Arc<RwLock<Applied>>,
    snapshots: SnapshotDir,
}

impl MetaMachine {
    /// A state machine that shows its state through `versions`.
    pub fn new(versions: watch::Sender<Versions>, snapshots: SnapshotDir) -> Self {
        let applied = Applied {
            log_id: None,
            membership: StoredMembership::default(),
        };
        MetaMachine {
            versions,
            applied: Arc::new(RwLock::new(applied)),
            snapshots,
        }
    }

    fn applied(&self) -> Applied {
        self.applied
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_applied(&self, change: impl FnOnce(&mut Applied)) {
        change(&mut self.applied.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn execute(&self, command: MetaCommand) {
        let MetaCommand::PutConfig { expected, mut next } = command;
        self.versions.send_if_modified(|versions| {
            let current = versions.last().map_or(0, |version| version.version);
            if current != expected {
                return false;
            }
            next.version = current + 1;
            let mut all = versions.as_ref().clone();
            all.push(next);
            if all.len() > HISTORY_MAX {
                all.remove(0);
            }
            *versions = Arc::new(all);
            true
        });
    }
}

impl RaftStateMachine<TypeConfig> for MetaMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = MetaSnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.applied();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let log_id = entry.log_id();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(payload) => {
                    let wrong = |error| {
                        io::Error::other(format!("meta log entry {}: {error}", log_id.index))
                    };
                    self.execute(codec::decode(&payload.0).map_err(wrong)?);
                }
                EntryPayload::Membership(membership) => self.set_applied(|applied| {
                    applied.membership = StoredMembership::new(Some(log_id), membership);
                }),
            }
            self.set_applied(|applied| applied.log_id = Some(log_id));
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> MetaSnapshotBuilder {
        let versions = self.versions.borrow().clone();
        MetaSnapshotBuilder {
            versions,
            applied: self.applied(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        file: SnapshotFile,
    ) -> Result<(), io::Error> {
        let mut reader = snapshot::take_in(&self.snapshots, &file)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut reader, &mut bytes)?;
        let versions: Vec<ConfigVersion> = codec::decode(&bytes).map_err(io::Error::other)?;
        self.versions.send_replace(Arc::new(versions));
        self.set_applied(|applied| {
            applied.log_id = meta.last_log_id;
            applied.membership = meta.last_membership.clone();
        });
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
    versions: Versions,
    applied: Applied,
    snapshots: SnapshotDir,
}

impl RaftSnapshotBuilder<TypeConfig> for MetaSnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotFile>, io::Error> {
        let log_id = self
            .applied
            .log_id
            .ok_or_else(|| io::Error::other("there is nothing to snapshot yet"))?;
        let meta = codec::encode(&(self.applied.log_id, &self.applied.membership));
        let mut writer = self
            .snapshots
            .create(log_id.index, &meta)
            .map_err(io::Error::other)?;
        io::Write::write_all(&mut writer, &codec::encode(self.versions.as_ref()))?;
        writer.finish().map_err(io::Error::other)?;
        self.snapshots
            .keep_newest(SNAPSHOTS_KEPT)
            .map_err(io::Error::other)?;
        snapshot::current(&self.snapshots)?
            .ok_or_else(|| io::Error::other("the snapshot just written is not there"))
    }
}
