//! What the parts of one group of shards share: its Raft instance and what its actor shows others.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crossbeam::sync::{ShardedLock, ShardedLockReadGuard};
use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use openraft::{Instant, Raft, RaftMetrics};
use qiang_engine::actor::Actor;
use qiang_engine::routing::Sharing;
use qiang_engine::seen::Seen;
use qiang_engine::{Place, ShardId};
use qiang_storage::GroupId;

use crate::contacts::Contacts;
use crate::mailbox::Mailbox;
use crate::options::Timing;
use crate::question::Reply;
use crate::quiesce::Quiescence;
use crate::shard_machine::ShardMachine;
use crate::types::TypeConfig;
use crate::world::{random_u64, watch};

pub type ShardRaft = Raft<TypeConfig, ShardMachine>;

/// A group of shards on this node: they share a log, and thereby its Raft instance and its actor.
pub struct ShardGroup {
    pub id: GroupId,
    sharing: Sharing,
    /// What is shown of each shard, by their places.
    shards: Vec<Facade>,
    pub mailbox: Mailbox,
    pub quiescence: Arc<Quiescence>,
    pub contacts: Arc<Contacts>,
    /// Present while the group runs on this node. Threads that read it do not write to the same memory for it.
    running: ShardedLock<Option<Running>>,
    /// Set while the leadership is being handed over: commands wait, nothing new is decided.
    pub paused: AtomicBool,
    /// The last term whose leadership was given away, whether anybody took it or not.
    given_away: AtomicU64,
    /// Log index up to which the actor has taken committed entries.
    pub applied: watch::Sender<u64>,
    /// Log indexes of void batches, ascending.
    pub voids: RwLock<Vec<u64>>,
    /// Why the shard was stopped, if it was.
    stopped: RwLock<Option<String>>,
    pub deciding: AtomicBool,
    pub pending: AtomicUsize,
    /// The term whose leader this node's actor decides as; 0 while it does not decide, or the board is not yet as its stint found it.
    stint_term: AtomicU64,
    /// The time of the actor's last decision, in milliseconds of Unix time.
    pub decided_at: AtomicU64,
    /// Whether anybody was refused without asking the actor since this was last looked at.
    asked: AtomicBool,
    /// Bytes of entries applied since the process started.
    pub log_bytes: Arc<AtomicU64>,
    /// What `log_bytes` was at the last snapshot.
    pub snapshot_bytes: AtomicU64,
}

/// A Raft instance and what it shows of itself.
struct Running {
    raft: ShardRaft,
    metrics: watch::Receiver<RaftMetrics<TypeConfig>>,
}

/// What is shown of one shard.
struct Facade {
    shard: ShardId,
    /// What it may have met, for who refuses without asking it.
    seen: Arc<Seen>,
    orders: AtomicU64,
    /// A log index and the digest of the state there, the last with nothing pending.
    digest: Mutex<Option<(u64, u64)>>,
}

/// One shard, or the meta group, as operators see it; what is of its log and its actor is the same for all shards that share it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a report of independent facts, not a state machine"
)]
pub struct GroupStatus {
    /// The shard's number, or `meta`.
    pub group: String,
    /// Whether the group runs on this node.
    pub hosted: bool,
    /// Nodes that vote in it, as this node knows them, ascending.
    pub voters: Vec<u64>,
    /// Nodes that only listen, ascending.
    pub learners: Vec<u64>,
    /// Whether its voters are being changed: until that is committed those before are needed, too.
    pub changing: bool,
    /// The node that leads, if one is known.
    pub leader: Option<u64>,
    /// The Raft term.
    pub term: u64,
    /// Index of the last entry in the log.
    pub last_index: u64,
    /// Index up to which entries are committed.
    pub committed_index: u64,
    /// Index up to which entries are applied.
    pub applied_index: u64,
    /// Whether this node leads the group and a quorum agrees, or follows a leader.
    pub has_quorum: bool,
    /// Whether this node decides for the shard now.
    pub deciding: bool,
    /// Batches proposed and not yet committed, of all shards that share the log.
    pub pending_entries: usize,
    /// Commands that wait in the mailbox, of all of them.
    pub mailbox_depth: usize,
    /// Orders held in memory, in any state.
    pub orders: u64,
    /// A log index and the digest of the shard's counters there: replicas agree at equal indexes.
    pub digest: Option<(u64, u64)>,
    /// Whether this node leads the group, whatever its quorum says.
    pub leads: bool,
    /// Whether its clock stands still because nothing is asked of it; a leader has no lease then.
    pub quiescent: bool,
    /// Why the group was stopped, if it was.
    pub stopped: Option<String>,
}

impl ShardGroup {
    pub fn new(log: u16, sharing: Sharing, mailbox: Mailbox, timing: Timing) -> Self {
        let id = GroupId(log);
        let quiescence = Quiescence::new(id, timing, Some(mailbox.clone()));
        let facade = |shard| Facade {
            shard,
            seen: Arc::new(Seen::new(random_u64())),
            orders: AtomicU64::new(0),
            digest: Mutex::default(),
        };
        ShardGroup {
            id,
            sharing,
            shards: sharing.shards_of(log).map(facade).collect(),
            mailbox,
            quiescence,
            contacts: Arc::default(),
            running: ShardedLock::default(),
            paused: AtomicBool::new(false),
            given_away: AtomicU64::new(0),
            applied: watch::Sender::new(0),
            voids: RwLock::default(),
            stopped: RwLock::default(),
            deciding: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            stint_term: AtomicU64::new(0),
            decided_at: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            log_bytes: Arc::default(),
            snapshot_bytes: AtomicU64::new(0),
        }
    }

    /// The shards, by their places.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = ShardId> {
        self.shards.iter().map(|facade| facade.shard)
    }

    /// The shard at a place.
    pub fn shard_at(&self, place: Place) -> ShardId {
        self.sharing.shard_at(self.id.0, place)
    }

    /// What each shard may have met, by their places.
    pub fn seen(&self) -> impl Iterator<Item = &Arc<Seen>> {
        self.shards.iter().map(|facade| &facade.seen)
    }

    /// What a shard of this group may have met.
    pub fn seen_by(&self, place: Place) -> &Seen {
        &self.shards[place.index()].seen
    }

    /// The group's Raft instance, while it runs on this node.
    pub fn raft(&self) -> Option<ShardRaft> {
        let running = self.read_running();
        running.as_ref().map(|running| running.raft.clone())
    }

    /// Puts a started instance in its place, or takes it away.
    pub fn set_raft(&self, raft: Option<ShardRaft>) -> Option<ShardRaft> {
        let running = raft.map(|raft| Running {
            metrics: raft.metrics(),
            raft,
        });
        let mut present = self.running.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *present, running);
        before.map(|running| running.raft)
    }

    /// Looks for a moment at what the group's Raft instance shows of itself, while it runs on this node.
    pub fn look<T>(&self, look: impl FnOnce(&RaftMetrics<TypeConfig>) -> T) -> Option<T> {
        let running = self.read_running();
        running
            .as_ref()
            .map(|running| look(&running.metrics.borrow()))
    }

    fn read_running(&self) -> ShardedLockReadGuard<'_, Option<Running>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The term whose leader the actor decides as, whoever vouches for it, if it decides. The board shows at least all that was committed
    /// before it began to.
    pub fn stint(&self) -> Option<u64> {
        let term = self.stint_term.load(Ordering::Acquire);
        (term != 0).then_some(term)
    }

    /// Nothing vouches for this node's leadership of `term` from now on: the next leader comes without waiting for the lease, and may come
    /// late.
    pub fn give_away(&self, term: u64) {
        self.given_away.fetch_max(term, Ordering::AcqRel);
    }

    /// Whether a quorum vouches for this node's leadership of `term`, which was not given away.
    pub fn is_vouched_for(&self, term: u64, lease: Duration) -> bool {
        // A hand-over passes over the lease, and stands still before.
        let is_paused = self.paused.load(Ordering::Acquire);
        if is_paused || self.given_away.load(Ordering::Acquire) == term {
            return false;
        }
        let is_vouched_for = |metrics: &RaftMetrics<TypeConfig>| {
            let others_vouch = || {
                let voters = metrics.membership_config.membership().get_joint_config();
                let now = tokio::time::Instant::now();
                self.contacts.vouch(metrics.id, voters, now, lease)
            };
            metrics.current_term == term
                && has_lease(metrics, lease)
                && (is_alone(metrics) || others_vouch())
        };
        self.look(is_vouched_for) == Some(true)
    }

    /// Notes that somebody was refused without asking the actor.
    pub fn note_asked(&self) {
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Release);
        }
    }

    /// Whether this node decides for the shard and nothing waits for it to.
    pub fn has_nothing_to_do(&self) -> bool {
        let decides = self.deciding.load(Ordering::Acquire) && !self.paused.load(Ordering::Acquire);
        let asked = self.asked.swap(false, Ordering::AcqRel);
        decides && !asked && self.mailbox.idle() && self.pending.load(Ordering::Acquire) == 0
    }

    /// Why the shard was stopped, if it was.
    pub fn stopped(&self) -> Option<String> {
        let stopped = self.stopped.read().unwrap_or_else(PoisonError::into_inner);
        stopped.clone()
    }

    /// Says why the shard was stopped; only the first reason is kept. `None` when it begins anew.
    pub fn set_stopped(&self, why: Option<String>) {
        let mut stopped = self.stopped.write().unwrap_or_else(PoisonError::into_inner);
        *stopped = match why {
            Some(why) => stopped.take().or(Some(why)),
            None => None,
        };
    }

    /// Shows others how far the actor is.
    pub fn show(&self, actor: &Actor<Reply>) {
        let index = actor.applied_index();
        let voids = &actor.replica().voids;
        if self
            .voids
            .read()
            .is_ok_and(|shown| shown.len() != voids.len())
        {
            voids.clone_into(&mut self.voids.write().unwrap_or_else(PoisonError::into_inner));
        }
        self.applied
            .send_if_modified(|shown| std::mem::replace(shown, index) != index);
        for (facade, shard) in self.shards.iter().zip(&actor.replica().shards) {
            if actor.pending() == 0 {
                facade.show_digest(index, shard.digest());
            }
            let orders = shard.order_count() as u64;
            facade.orders.store(orders, Ordering::Relaxed);
        }
        let decides = actor.deciding() && !self.paused.load(Ordering::Acquire);
        self.deciding.store(decides, Ordering::Relaxed);
        let decided_at = actor.moment().now.0;
        self.decided_at.store(decided_at, Ordering::Release);
        self.pending.store(actor.pending(), Ordering::Relaxed);
    }

    /// Shows the term whose leader the actor decides as, if it decides. The board shows all that was committed before.
    pub fn show_stint(&self, term: Option<u64>) {
        self.stint_term
            .store(term.unwrap_or_default(), Ordering::Release);
    }

    /// Whether the log says that the entry at `index` is void.
    pub fn is_void(&self, index: u64) -> bool {
        self.voids
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .binary_search(&index)
            .is_ok()
    }

    /// A shard of this group.
    pub fn status(&self, place: Place, lease: Duration) -> GroupStatus {
        let facade = &self.shards[place.index()];
        let mut status = match self.raft() {
            Some(raft) => raft_status(&raft, lease),
            None => GroupStatus::unknown(),
        };
        status.group = facade.shard.to_string();
        status.applied_index = *self.applied.borrow();
        status.deciding = self.deciding.load(Ordering::Relaxed);
        status.pending_entries = self.pending.load(Ordering::Relaxed);
        status.mailbox_depth = self.mailbox.depth();
        status.quiescent = self.quiescence.is_quiescent();
        status.orders = facade.orders.load(Ordering::Relaxed);
        status.digest = *facade.lock_digest();
        status.stopped = self.stopped().or(status.stopped);
        status
    }
}

impl Facade {
    fn lock_digest(&self) -> MutexGuard<'_, Option<(u64, u64)>> {
        self.digest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the digest of the state at `index`.
    fn show_digest(&self, index: u64, digest: u64) {
        *self.lock_digest() = Some((index, digest));
    }
}

impl GroupStatus {
    /// A group that has not started.
    pub fn unknown() -> Self {
        GroupStatus {
            group: String::new(),
            hosted: false,
            voters: Vec::new(),
            learners: Vec::new(),
            changing: false,
            leader: None,
            term: 0,
            last_index: 0,
            committed_index: 0,
            applied_index: 0,
            has_quorum: false,
            deciding: false,
            pending_entries: 0,
            mailbox_depth: 0,
            orders: 0,
            digest: None,
            leads: false,
            quiescent: false,
            stopped: None,
        }
    }
}

/// The voters and the learners of a group, each ascending.
pub fn members(metrics: &RaftMetrics<TypeConfig>) -> (Vec<u64>, Vec<u64>) {
    let config = &metrics.membership_config;
    let learners = config.membership().learner_ids();
    (config.voter_ids().collect(), learners.collect())
}

/// Whether a group's voters are others than those who are committed, or two sets of them are needed.
fn is_changing(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let config = &metrics.membership_config;
    let committed = metrics.local_committed.map(|committed| committed.index);
    config.membership().get_joint_config().len() > 1
        || config.log_id().map(|log_id| log_id.index) > committed
}

/// What a Raft instance says of itself.
pub fn raft_status<SM>(raft: &Raft<TypeConfig, SM>, lease: Duration) -> GroupStatus
where
    SM: openraft::storage::RaftStateMachine<TypeConfig>,
{
    let receiver = raft.metrics();
    let metrics = receiver.borrow_watched();
    let leads = metrics.current_leader == Some(metrics.id);
    let (voters, learners) = members(&metrics);
    GroupStatus {
        hosted: true,
        voters,
        learners,
        changing: is_changing(&metrics),
        leads: metrics.state.is_leader(),
        leader: metrics.current_leader,
        term: metrics.current_term,
        last_index: metrics.last_log_index.unwrap_or(0),
        committed_index: metrics
            .local_committed
            .map_or(0, |committed| committed.index),
        applied_index: metrics.last_applied.map_or(0, |applied| applied.index),
        has_quorum: metrics.running_state.is_ok()
            && metrics.current_leader.is_some()
            && (!leads || has_lease(&metrics, lease)),
        stopped: metrics
            .running_state
            .as_ref()
            .err()
            .map(ToString::to_string),
        ..GroupStatus::unknown()
    }
}

/// Whether this node leads and has applied an entry of its own term: everything before is applied then.
pub fn leads_caught_up<SM>(raft: &Raft<TypeConfig, SM>) -> bool
where
    SM: openraft::storage::RaftStateMachine<TypeConfig>,
{
    let receiver = raft.metrics();
    let metrics = receiver.borrow_watched();
    let applied_term = metrics.last_applied.map(|applied| applied.leader_id.term);
    metrics.current_leader == Some(metrics.id) && applied_term == Some(metrics.current_term)
}

/// Whether a leader is sure that nobody else leads: it is the only voter, or a quorum answered it
/// within the lease.
pub fn has_lease(metrics: &RaftMetrics<TypeConfig>, lease: Duration) -> bool {
    if metrics.current_leader != Some(metrics.id) || !metrics.state.is_leader() {
        return false;
    }
    let acked = metrics.last_quorum_acked;
    is_alone(metrics) || acked.is_some_and(|acked| acked.into_inner().elapsed() < lease)
}

/// Whether this node is the only one that votes.
fn is_alone(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let configs = metrics.membership_config.membership().get_joint_config();
    let alone = |voters: &BTreeSet<u64>| voters.len() == 1 && voters.contains(&metrics.id);
    configs.iter().all(alone)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::Membership;

    use super::*;
    use crate::testing::log_id;
    use crate::types::{NodeInfo, StoredMembership};

    /// Whether a group is changing whose voters, these sets of them, are those of the entry at `at`.
    fn changing(sets: &[&[u64]], at: u64, committed: u64) -> bool {
        let sets = sets.iter().map(|ids| ids.iter().copied().collect());
        let sets: Vec<BTreeSet<u64>> = sets.collect();
        let nodes: BTreeMap<u64, NodeInfo> = (1..=4).map(|id| (id, NodeInfo::default())).collect();
        let membership = Membership::new(sets, nodes).expect("every voter is a node");
        let mut metrics = RaftMetrics::<TypeConfig>::new_initial(1);
        metrics.membership_config = Arc::new(StoredMembership::new(Some(log_id(at)), membership));
        metrics.local_committed = Some(log_id(committed));
        is_changing(&metrics)
    }

    #[test]
    fn a_group_is_changing_until_one_set_of_voters_is_committed() {
        assert!(changing(&[&[1], &[1, 2, 3, 4]], 5, 4), "under way");
        assert!(changing(&[&[1], &[1, 2, 3, 4]], 5, 5), "both are needed");
        assert!(changing(&[&[1, 2, 3, 4]], 6, 5), "not committed");
        assert!(!changing(&[&[1, 2, 3, 4]], 6, 6));
    }
}
