//! The Raft instance of any group, a shard's or the meta group's, which differ in their state machines only.

use std::collections::BTreeMap;

use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf, WatchReceiverOf};
use openraft::{ChangeMembers, Raft, RaftMetrics};

use crate::group::ShardRaft;
use crate::meta::MetaMachine;
use crate::snapshot::SnapshotFile;
use crate::types::{NodeInfo, TypeConfig};

/// The meta group's Raft instance.
pub type MetaRaft = Raft<TypeConfig, MetaMachine>;

/// The Raft instance of any group.
#[derive(Clone)]
pub enum AnyRaft {
    /// A shard's.
    Shard(ShardRaft),
    /// The meta group's.
    Meta(MetaRaft),
}

/// The same call on either.
macro_rules! either {
    ($any:expr, $raft:ident => $call:expr) => {
        match $any {
            AnyRaft::Shard($raft) => $call,
            AnyRaft::Meta($raft) => $call,
        }
    };
}

impl AnyRaft {
    pub async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RaftError<TypeConfig>> {
        either!(self, raft => raft.append_entries(request).await)
    }

    /// Has the instance mind its clock, or stop it: no heartbeats and no elections then.
    pub fn set_tick(&self, ticks: bool) {
        either!(self, raft => raft.runtime_config().tick(ticks));
    }

    /// Says whether it may stand for election by itself.
    pub fn set_elect(&self, elects: bool) {
        either!(self, raft => raft.runtime_config().elect(elects));
    }

    /// Has a leader ask its followers whether it still leads.
    pub async fn send_heartbeat(&self) -> Result<(), Fatal<TypeConfig>> {
        either!(self, raft => raft.trigger().heartbeat().await)
    }

    /// Word of changes of the metrics.
    pub fn changes(&self) -> WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>> {
        either!(self, raft => raft.metrics())
    }

    /// Says whether a leader speaks when it has nothing to say.
    pub fn set_heartbeat(&self, speaks: bool) {
        either!(self, raft => raft.runtime_config().heartbeat(speaks));
    }

    pub async fn vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>> {
        either!(self, raft => raft.vote(request).await)
    }

    pub async fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>> {
        either!(self, raft => raft.pre_vote(request).await)
    }

    pub async fn handle_transfer_leader(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Fatal<TypeConfig>> {
        either!(self, raft => raft.handle_transfer_leader(request).await)
    }

    pub async fn install(
        &self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
    ) -> Result<SnapshotResponse<TypeConfig>, Fatal<TypeConfig>> {
        either!(self, raft => raft.install_full_snapshot(vote, snapshot).await)
    }

    pub fn is_leader(&self) -> bool {
        either!(self, raft => raft.is_leader())
    }

    /// Looks at the metrics for a moment.
    pub fn look<T>(&self, look: impl FnOnce(&RaftMetrics<TypeConfig>) -> T) -> T {
        either!(self, raft => look(&raft.metrics().borrow_watched()))
    }

    pub async fn elect(&self) -> Result<(), Fatal<TypeConfig>> {
        either!(self, raft => raft.trigger().elect(false).await)
    }

    /// Stands for election, if a quorum says that it would vote for it, whether it may by itself or not.
    pub async fn stand(&self) -> Result<(), Fatal<TypeConfig>> {
        either!(self, raft => raft.trigger().elect(true).await)
    }

    pub async fn transfer_leader(&self, to: u64) -> Result<(), Fatal<TypeConfig>> {
        either!(self, raft => raft.trigger().transfer_leader(to).await)
    }

    pub async fn snapshot(&self) -> Result<(), Fatal<TypeConfig>> {
        either!(self, raft => raft.trigger().snapshot().await)
    }

    pub async fn change_membership(
        &self,
        change: ChangeMembers<u64, NodeInfo>,
        retain: bool,
    ) -> Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>> {
        either!(self, raft => raft.change_membership(change, retain).await.map(drop))
    }

    pub async fn add_learner(
        &self,
        node_id: u64,
        info: NodeInfo,
    ) -> Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>> {
        either!(self, raft => raft.add_learner(node_id, info, false).await.map(drop))
    }

    pub async fn shutdown(&self) {
        // A group that has already stopped, for a fault, has nothing more to say.
        let _ = either!(self, raft => raft.shutdown().await);
    }

    pub async fn is_initialized(&self) -> Result<bool, Fatal<TypeConfig>> {
        either!(self, raft => raft.is_initialized().await)
    }

    /// Begins a new group of this node alone.
    pub async fn initialize(&self, node_id: u64, info: NodeInfo) -> Result<(), String> {
        let members = BTreeMap::from([(node_id, info)]);
        either!(self, raft => raft.initialize(members).await.map_err(|error| error.to_string()))
    }
}
