//! openraft's own storage suite against the log store and the shards' state machine.
//!
//! The suite applies entries that it never appends, with gaps between them. A shard's snapshot is made
//! by replaying its log, so here a second log is written with whatever is applied, blanks in the gaps,
//! and the state machine replays that one.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{OptionalSend, StorageError};
use qiang_storage::{GroupId, GroupLog};
use tempfile::TempDir;

use crate::groups::Presence;
use crate::log_store::LogStore;
use crate::mailbox::Mailbox;
use crate::shard_machine::ShardMachine;
use crate::snapshot::{SnapshotBuilder, SnapshotFile};
use crate::testing::empty_store;
use crate::types::{Entry, LogId, StoredMembership, TypeConfig, encode_entry};

/// A shard's state machine whose log gets what is applied.
struct Logged {
    machine: ShardMachine,
    log: GroupLog,
}

impl RaftStateMachine<TypeConfig> for Logged {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.machine.applied_state().await
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut applied = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let next = self.log.last_index().map_or(0, |last| last + 1);
            let blank = |index| {
                Entry::new_blank(LogId {
                    index,
                    ..entry.log_id()
                })
            };
            let gap = (next..entry.index()).map(|index| encode_entry(&blank(index)));
            let values: Vec<Bytes> = gap.chain([encode_entry(&entry)]).collect();
            self.log.append(
                next,
                values,
                Box::new(|written| written.expect("the log takes what follows")),
            );
            applied.push(Ok((entry, responder)));
        }
        self.machine.apply(stream::iter(applied)).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.machine.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        file: SnapshotFile,
    ) -> Result<(), io::Error> {
        self.machine.install_snapshot(meta, file).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>, io::Error> {
        self.machine.get_current_snapshot().await
    }
}

/// Builds an empty store in a directory of its own.
struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Logged, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Logged), StorageError<TypeConfig>> {
        let (dir, store) = empty_store();
        let (under_test, replayed) = (GroupId(0), GroupId(1));
        let log = store.log(replayed).expect("a new group's log");
        let machine = ShardMachine {
            group: replayed,
            shards: 1,
            node_id: 1,
            mailbox: Mailbox::new(),
            log: log.clone(),
            snapshots: store.snapshots(replayed),
            inherited_to: None,
            log_bytes: std::sync::Arc::default(),
            applied: None,
            membership: StoredMembership::default(),
            presence: Presence::new().0,
        };
        let under_test = LogStore::new(store.log(under_test).expect("a new group's log"));
        Ok((dir, under_test, Logged { machine, log }))
    }
}

#[test]
fn the_log_store_and_the_shard_machine_pass_openrafts_storage_suite() {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(Suite::test_all(Builder))
        .expect("openraft's storage suite passes");
}
