//! The groups that run on this node: started when they have data here or their leader calls, stopped when
//! placement has moved them elsewhere.
//!
//! Invariant: starting and stopping of groups is one after another; a group that is stopped has handed
//! everything it had to say to its actor before the actor is told to begin anew.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use openraft::{Config, Raft};
use qiang_engine::ShardId;
use qiang_engine::routing::{SHARDS, Sharing};
use qiang_storage::{GroupId, GroupLog, Store};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::any_raft::{AnyRaft, MetaRaft};
use crate::group::ShardGroup;
use crate::liveness::Liveness;
use crate::log_store::{LogStore, encode_log_id};
use crate::mailbox::LogEvent;
use crate::meta::{MetaMachine, MetaState};
use crate::network::Network;
use crate::options::{StartError, Timing};
use crate::peer::Peers;
use crate::placement::WITNESS_DC;
use crate::quiesce::Quiescence;
use crate::shard_machine::ShardMachine;
use crate::snapshot;
use crate::types::{LogId, NodeInfo, StoredMembership};
use crate::world::{Home, blocking, watch};

/// The group of the cluster's own state, whose number is above all others'.
pub const META_GROUP: GroupId = GroupId(SHARDS);

/// Every group of a node.
pub struct Groups {
    pub node_id: u64,
    pub info: NodeInfo,
    pub store: Store,
    pub peers: Peers,
    pub sharing: Sharing,
    /// The shards' groups, by number.
    pub shards: Vec<Arc<ShardGroup>>,
    pub meta_state: watch::Sender<MetaState>,
    pub liveness: Liveness,
    /// Held while a backup is taken.
    pub backups: Arc<Semaphore>,
    config: Arc<Config>,
    /// When a leader's word last came, by group.
    heard: BTreeMap<GroupId, Mutex<Option<Instant>>>,
    meta: RwLock<Option<MetaRaft>>,
    meta_quiescence: Arc<Quiescence>,
    /// Where groups run, whoever starts them.
    home: Home,
    /// Held while a group is started or stopped.
    open: tokio::sync::Mutex<Open>,
    /// That all groups stand still for an attempt at recovery, if they do. Held while a step of one is done.
    pub standstill: tokio::sync::Mutex<Option<Standstill>>,
}

/// Who votes in groups, by number.
pub type Voters = BTreeMap<u16, Vec<u64>>;

/// All groups stand still for an attempt at recovery.
pub struct Standstill {
    /// The attempt.
    pub attempt: u64,
    /// Who voted in each group that ran.
    pub voters: Voters,
}

/// Which groups may run.
struct Open {
    /// Whether any may start.
    is_open: bool,
    /// Word of the end of each state machine there is.
    ends: BTreeMap<GroupId, oneshot::Receiver<Infallible>>,
}

/// Kept by a state machine as long as it is there. Raft does not wait for it when it stops, so it may still have something to say then.
#[derive(Debug)]
pub struct Presence {
    _end: oneshot::Sender<Infallible>,
}

impl Presence {
    /// With word of its end.
    pub fn new() -> (Self, oneshot::Receiver<Infallible>) {
        let (end, word) = oneshot::channel();
        (Presence { _end: end }, word)
    }
}

impl Groups {
    pub fn new(
        node_id: u64,
        info: NodeInfo,
        store: Store,
        peers: Peers,
        shards: Vec<Arc<ShardGroup>>,
        config: Arc<Config>,
        timing: Timing,
    ) -> Self {
        let logs = u16::try_from(shards.len()).ok();
        let sharing = logs.and_then(Sharing::over);
        let sharing = sharing.expect("there is a group for each log");
        let heard = all(sharing).map(|group| (group, Mutex::default()));
        Groups {
            node_id,
            info,
            store,
            peers,
            sharing,
            shards,
            meta_state: watch::Sender::new(MetaState::default()),
            liveness: Liveness::new(timing),
            backups: Arc::new(Semaphore::new(1)),
            config,
            heard: heard.collect(),
            meta: RwLock::default(),
            meta_quiescence: Quiescence::new(META_GROUP, timing, None),
            home: Home::here(),
            open: tokio::sync::Mutex::new(Open {
                is_open: true,
                ends: BTreeMap::new(),
            }),
            standstill: tokio::sync::Mutex::default(),
        }
    }

    /// All groups that can be: the shards' in order, then meta.
    pub fn all(&self) -> impl Iterator<Item = GroupId> + use<> {
        all(self.sharing)
    }

    /// The group of a shard.
    pub fn of(&self, shard: ShardId) -> &Arc<ShardGroup> {
        &self.shards[usize::from(self.sharing.log_of(shard))]
    }

    /// The number of a shard's group.
    pub fn id_of(&self, shard: ShardId) -> GroupId {
        GroupId(self.sharing.log_of(shard))
    }

    /// Notes that a group's leader has spoken.
    pub fn note_heard(&self, group: GroupId) {
        if let Some(heard) = self.heard.get(&group) {
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// How long ago a group's leader last spoke to this node; where the group is quiescent, the leader's node.
    pub fn heard(&self, group: GroupId) -> Option<Duration> {
        if let Some(leader) = self.quiescence(group).and_then(|it| it.followed()) {
            return self.liveness.heard(leader);
        }
        self.spoke_at(group).map(|at| at.elapsed())
    }

    /// When a group's leader last spoke to this node.
    fn spoke_at(&self, group: GroupId) -> Option<Instant> {
        let heard = self.heard.get(&group)?;
        *heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A group's Raft instance, if it runs here.
    pub fn raft(&self, group: GroupId) -> Option<AnyRaft> {
        match self.shards.get(usize::from(group.0)) {
            Some(shard) => shard.raft().map(AnyRaft::Shard),
            None if group == META_GROUP => self.meta().map(AnyRaft::Meta),
            None => None,
        }
    }

    /// The meta group's Raft instance, if it runs here.
    pub fn meta(&self) -> Option<MetaRaft> {
        let meta = self.meta.read().unwrap_or_else(PoisonError::into_inner);
        meta.clone()
    }

    fn set_meta(&self, raft: Option<MetaRaft>) -> Option<MetaRaft> {
        let mut meta = self.meta.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut meta, raft)
    }

    /// Has a group mind its clock, if it is quiescent, and waits until it is awake.
    pub async fn roused(&self, group: GroupId) {
        if let Some(quiescence) = self.quiescence(group) {
            quiescence.roused().await;
        }
    }

    /// Whether a group minds its clock here.
    pub fn quiescence(&self, group: GroupId) -> Option<&Arc<Quiescence>> {
        match self.shards.get(usize::from(group.0)) {
            Some(shard) => Some(&shard.quiescence),
            None => (group == META_GROUP).then_some(&self.meta_quiescence),
        }
    }

    /// The groups that have data on this node.
    pub fn held(&self) -> Result<BTreeSet<GroupId>, StartError> {
        let groups = self
            .store
            .groups()
            .map_err(|error| group_error("of this node", &error))?;
        Ok(groups.into_iter().collect())
    }

    /// A group's Raft instance, started if it does not run: its leader calls.
    pub async fn called(&self, group: GroupId) -> Result<AnyRaft, StartError> {
        if let Some(raft) = self.raft(group) {
            return Ok(raft);
        }
        self.start(group).await
    }

    /// Starts a group on what is on disk; one that runs goes on.
    pub async fn start(&self, group: GroupId) -> Result<AnyRaft, StartError> {
        let mut open = self.open.lock().await;
        if let Some(raft) = self.raft(group) {
            return Ok(raft);
        }
        if !open.is_open || !self.heard.contains_key(&group) {
            return Err(group_error(&name(group), &"it does not run on this node"));
        }
        let (presence, end) = Presence::new();
        let raft = match self.shards.get(usize::from(group.0)) {
            Some(shard) => {
                let starting = self.start_shard(shard, presence);
                self.home.host_all(starting).await?
            }
            None => self.home.host_all(self.start_meta(presence)).await?,
        };
        open.ends.insert(group, end);
        if self.info.dc == WITNESS_DC {
            raft.set_elect(false);
        }
        Ok(raft)
    }

    /// Begins a new group of this node alone, or has one that this node alone votes in elect its leader
    /// without waiting for the election timeout.
    pub async fn lead_alone(&self, group: GroupId, bootstrap: bool) -> Result<(), StartError> {
        let Some(raft) = self.raft(group) else {
            return Ok(());
        };
        let wrong = |error: &dyn std::fmt::Display| group_error(&name(group), &error);
        if raft.is_initialized().await.map_err(|error| wrong(&error))? {
            let alone =
                raft.look(|metrics| metrics.membership_config.voter_ids().eq([self.node_id]));
            if alone {
                raft.elect().await.map_err(|error| wrong(&error))?;
            }
        } else if bootstrap {
            let begun = raft.initialize(self.node_id, self.info.clone()).await;
            begun.map_err(|error| wrong(&error))?;
        }
        Ok(())
    }

    async fn start_shard(
        &self,
        shard: &Arc<ShardGroup>,
        presence: Presence,
    ) -> Result<AnyRaft, StartError> {
        let id = shard.id;
        let wrong = |error: &dyn std::fmt::Display| group_error(&name(id), &error);
        let log = self.store.log(id).map_err(|error| wrong(&error))?;
        let log_store = LogStore::new(log.clone());
        let shards = shard.shards().len();
        mend_snapshot(id, shards, &self.store, &log_store, &log)
            .await
            .map_err(|error| wrong(&error))?;
        let machine = ShardMachine {
            group: id,
            shards,
            node_id: self.node_id,
            mailbox: shard.mailbox.clone(),
            inherited_to: log.last_index().or(log.floor().map(|(floor, _)| floor)),
            log,
            snapshots: self.store.snapshots(id),
            log_bytes: shard.log_bytes.clone(),
            applied: None,
            membership: StoredMembership::default(),
            presence,
        };
        let network = Network {
            group: id,
            peers: self.peers.clone(),
            contacts: shard.contacts.clone(),
        };
        let raft = Raft::new(
            self.node_id,
            self.config.clone(),
            network,
            log_store,
            machine,
        )
        .await;
        let raft = raft.map_err(|error| wrong(&error))?;
        shard.set_raft(Some(raft.clone()));
        let raft = AnyRaft::Shard(raft);
        shard.quiescence.begin_anew(Some(raft.clone()));
        Ok(raft)
    }

    async fn start_meta(&self, presence: Presence) -> Result<AnyRaft, StartError> {
        let wrong = |error: &dyn std::fmt::Display| group_error(&name(META_GROUP), &error);
        let log = self.store.log(META_GROUP).map_err(|error| wrong(&error))?;
        let (shown, snapshots) = (self.meta_state.clone(), self.store.snapshots(META_GROUP));
        let machine = MetaMachine::new(shown, log.clone(), snapshots, presence);
        let network = Network {
            group: META_GROUP,
            peers: self.peers.clone(),
            // Its leader answers nothing by a lease alone.
            contacts: Arc::default(),
        };
        let raft = Raft::new(
            self.node_id,
            self.config.clone(),
            network,
            LogStore::new(log),
            machine,
        )
        .await;
        let raft = raft.map_err(|error| wrong(&error))?;
        self.set_meta(Some(raft.clone()));
        let raft = AnyRaft::Meta(raft);
        self.meta_quiescence.begin_anew(Some(raft.clone()));
        Ok(raft)
    }

    /// Stops a group; its data stays.
    async fn stop_one(&self, group: GroupId, open: &mut Open) {
        let Some(raft) = self.raft(group) else {
            return;
        };
        let shard = self.shards.get(usize::from(group.0));
        // Taken away first: whoever meets an instance that is shut down takes that for a fault.
        match shard {
            Some(shard) => drop(shard.set_raft(None)),
            None => drop(self.set_meta(None)),
        }
        if let Some(quiescence) = self.quiescence(group) {
            quiescence.begin_anew(None);
        }
        raft.shutdown().await;
        if let Some(end) = open.ends.remove(&group) {
            let _ = end.await;
        }
        if let Some(shard) = shard {
            shard.mailbox.push_log(LogEvent::Reset);
        }
    }

    /// Stops a group that has left this node, and deletes what it has here but its vote and how far it had come (see
    /// [`Groups::outlives`]). Whether it did: where the leader has spoken since it was `asked` the group may have come back, what this
    /// node has acknowledged counts, and it goes on.
    pub async fn give_up(&self, group: GroupId, asked: Instant) -> io::Result<bool> {
        let mut open = self.open.lock().await;
        self.stop_one(group, &mut open).await;
        if self.spoke_at(group).is_some_and(|at| at >= asked) {
            drop(open);
            self.start(group).await.map_err(io::Error::other)?;
            return Ok(false);
        }
        let log = self.store.log(group).map_err(io::Error::other)?;
        let snapshots = self.store.snapshots(group);
        blocking(move || {
            let store = LogStore::new(log.clone());
            // If it was here only to catch up since it left before, it had come further then.
            let furthest = store.last()?.max(store.tombstone()?);
            let tombstone = furthest.map(|furthest| encode_log_id(&furthest));
            log.clear(tombstone).map_err(io::Error::other)?;
            snapshots.clear().map_err(io::Error::other)
        })
        .await??;
        Ok(true)
    }

    /// Whether this node had more of a group, when that left it, than a candidate with this last entry has. It has deleted what it
    /// acknowledged, but must not vote as if it never had: a candidate that was away all the time, and knows of no other voters than
    /// some that the group has left, would lead beside whom those of now elect. To who knows that this node is a voter again, the
    /// group's leaving is long past.
    pub fn outlives(&self, group: GroupId, candidate: Option<LogId>) -> io::Result<bool> {
        let log = self.store.log(group).map_err(io::Error::other)?;
        Ok(LogStore::new(log).tombstone()? > candidate)
    }

    /// Stops every group. None starts again until [`Groups::reopen`].
    pub async fn stop_all(&self) {
        let mut open = self.open.lock().await;
        open.is_open = false;
        for group in self.all() {
            self.stop_one(group, &mut open).await;
        }
    }

    /// Lets groups start again.
    pub async fn reopen(&self) {
        self.open.lock().await.is_open = true;
    }
}

/// Sees to it that a good snapshot reaches up to where Raft's view of the log begins.
async fn mend_snapshot(
    id: GroupId,
    shards: usize,
    store: &Store,
    log_store: &LogStore,
    log: &GroupLog,
) -> io::Result<()> {
    let Some(floor) = log_store.floor()? else {
        return Ok(());
    };
    let (log, snapshots) = (log.clone(), store.snapshots(id));
    blocking(move || snapshot::mend(id, shards, &log, &snapshots, floor)).await?
}

/// All groups that can be: the shards' in order, then meta.
pub fn all(sharing: Sharing) -> impl Iterator<Item = GroupId> + use<> {
    (0..sharing.logs()).map(GroupId).chain([META_GROUP])
}

/// What operators call a group: by the number of the first of its shards.
pub fn name(group: GroupId) -> String {
    if group == META_GROUP {
        "meta".to_owned()
    } else {
        group.0.to_string()
    }
}

pub fn group_error(group: &str, why: &dyn std::fmt::Display) -> StartError {
    StartError::Group {
        group: group.to_owned(),
        why: why.to_string(),
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
