//! The state machine of a group of shards as openraft sees it: committed entries go on to the actor's mailbox, in
//! order, and nothing is decided here. "Applied" thus means handed to the actor.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend};
use qiang_storage::{GroupId, GroupLog, SnapshotDir};

use crate::groups::Presence;
use crate::mailbox::{LogEvent, Mailbox};
use crate::snapshot::{self, SnapshotBuilder, SnapshotFile};
use crate::types::{LogId, Outcome, StoredMembership, TypeConfig};
use crate::world::blocking;

/// The state machine of one group of shards.
pub struct ShardMachine {
    pub group: GroupId,
    /// How many shards share the group's log.
    pub shards: usize,
    pub node_id: u64,
    pub mailbox: Mailbox,
    pub log: GroupLog,
    pub snapshots: SnapshotDir,
    /// Entries up to here were in the log when this process started: it proposed none of them.
    pub inherited_to: Option<u64>,
    /// Bytes of batches that came through here.
    pub log_bytes: Arc<AtomicU64>,
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub presence: Presence,
}

impl ShardMachine {
    fn event(
        &mut self,
        log_id: LogId,
        payload: EntryPayload<crate::types::Payload, u64, crate::types::NodeInfo>,
    ) -> LogEvent {
        let index = log_id.index;
        match payload {
            EntryPayload::Normal(payload) => {
                self.log_bytes
                    .fetch_add(payload.0.len() as u64, Ordering::Relaxed);
                LogEvent::Batch {
                    index,
                    bytes: payload.0,
                }
            }
            EntryPayload::Blank => {
                let own =
                    log_id.leader_id.node_id == self.node_id && Some(index) > self.inherited_to;
                LogEvent::Blank {
                    index,
                    leader: own.then_some(log_id),
                }
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(log_id), membership);
                LogEvent::Other { index }
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for ShardMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.mailbox.log_has_room().await;
            let log_id = entry.log_id();
            let event = self.event(log_id, entry.payload);
            self.mailbox.push_log(event);
            self.applied = Some(log_id);
            if let Some(responder) = responder {
                responder.send(Outcome::Done(log_id.index));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            group: self.group,
            shards: self.shards,
            log: self.log.clone(),
            snapshots: self.snapshots.clone(),
            last_log_id: self.applied,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        file: SnapshotFile,
    ) -> Result<(), io::Error> {
        let (log, snapshots) = (self.log.clone(), self.snapshots.clone());
        let index = file.index;
        let load = |mut reader| snapshot::load(&mut reader);
        let take_in = move || snapshot::take_in(&log, &snapshots, &file, load);
        let replica = blocking(take_in).await??;
        self.mailbox.push_log(LogEvent::Snapshot {
            index,
            replica: Box::new(replica),
        });
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>, io::Error> {
        let snapshots = self.snapshots.clone();
        blocking(move || snapshot::current(&snapshots)).await?
    }
}
