//! Groups that nothing is asked of: the clocks of their Raft instances stand still, so that an idle cluster has next to
//! nothing to do, and the liveness of nodes takes the place of their heartbeats.
//!
//! A leader that has been quiet for a while, and all of whose members have its whole log, sends no more heartbeats and
//! has every member stop its clock. Whatever is said to the group rouses it, and so does a silent or restarted node: of any
//! member for the leader, of the leader for the others.
//!
//! Invariant: nothing that is promised rests on quiescence. Raft's votes and logs do not depend on clocks, and a leader
//! that is roused decides and answers only with a lease that a quorum has given it anew. Where some members of a group are
//! quiescent and others are not, that ends by itself: the heartbeats of a leader that is awake rouse
//! the others, and so do the requests for votes of a follower that is, within an election timeout.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, RaftMetrics};
use qiang_engine::codec;
use qiang_storage::GroupId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::group::{ShardGroup, ShardRaft, has_lease};
use crate::groups::{AnyRaft, Groups};
use crate::liveness::{Boot, Liveness};
use crate::node::{Node, Timing};
use crate::peer::Lane;
use crate::rpc::{self, Kind, Quiesce};
use crate::types::TypeConfig;
use crate::world::{random_below, spawn};

/// How long nothing must have been asked of a group before it is quiescent: longer than any pause of a sale.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// Whether a shard's group minds its clock on this node.
pub struct Quiescence {
    timing: Timing,
    state: Mutex<State>,
    /// The same as whether `state` is [`State::Awake`], for those who only look.
    awake: AtomicBool,
    /// A leader has the lease again, or waits for it no longer.
    roused: Notify,
}

enum State {
    /// The clock ticks. A leader notes what its log has ended with for how long.
    Awake { quiet: Option<(End, Instant)> },
    /// This node leads, its clock stands, and the members are asked to stop theirs.
    Settling,
    /// The clock stands for as long as these processes live; or until then, because somebody doubts it.
    Quiescent {
        watched: Vec<Boot>,
        rouse_at: Option<Instant>,
    },
    /// This node leads, its clock ticks again, and a quorum has not answered yet.
    Rousing,
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    term: u64,
    index: u64,
}

impl Quiescence {
    pub fn new(timing: Timing) -> Self {
        Quiescence {
            timing,
            state: Mutex::new(State::Awake { quiet: None }),
            awake: AtomicBool::new(true),
            roused: Notify::new(),
        }
    }

    /// Whether the clock ticks and, for a leader, nothing speaks against a lease.
    pub fn is_awake(&self) -> bool {
        self.awake.load(Ordering::Acquire)
    }

    /// Whether the clock stands, and the members' do.
    pub fn is_quiescent(&self) -> bool {
        matches!(*self.lock(), State::Quiescent { .. })
    }

    /// The group's instance was started: its clock ticks.
    pub fn begin_anew(&self) {
        self.set(&mut self.lock(), State::Awake { quiet: None });
    }

    /// The leader whose process a quiescent follower watches.
    pub fn followed(&self) -> Option<u64> {
        match &*self.lock() {
            State::Quiescent { watched, .. } => watched.first().map(|leader| leader.node),
            _ => None,
        }
    }

    fn set(&self, state: &mut State, next: State) {
        self.awake
            .store(matches!(next, State::Awake { .. }), Ordering::Release);
        *state = next;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShardGroup {
    /// Has the group mind its clock again, unless it does. A leader is awake as soon as it has the lease again.
    pub fn rouse(self: &Arc<Self>) {
        if self.quiescence.is_awake() {
            return;
        }
        let Some(raft) = self.raft() else { return };
        let mut state = self.quiescence.lock();
        if matches!(*state, State::Awake { .. } | State::Rousing) {
            return;
        }
        raft.runtime_config().tick(true);
        if raft.is_leader() {
            self.quiescence.set(&mut state, State::Rousing);
            spawn(self.clone().regain_lease(raft));
        } else {
            let awake = State::Awake { quiet: None };
            self.quiescence.set(&mut state, awake);
        }
    }

    /// The same, and waits until it is awake.
    pub async fn roused(self: &Arc<Self>) {
        loop {
            let roused = self.quiescence.roused.notified();
            tokio::pin!(roused);
            roused.as_mut().enable();
            self.rouse();
            if !matches!(*self.quiescence.lock(), State::Rousing) {
                return;
            }
            roused.await;
        }
    }

    /// Asks the members whether this node still leads. Where no quorum says so in time the group goes on as one
    /// that has lost it.
    async fn regain_lease(self: Arc<Self>, raft: ShardRaft) {
        let timing = self.quiescence.timing;
        let until = Instant::now() + Duration::from_millis(timing.election_ms_max());
        // Fails only where Raft has stopped, as its metrics tell.
        let _ = raft.trigger().heartbeat().await;
        let mut metrics = raft.metrics();
        let lacks_lease = |metrics: &RaftMetrics<TypeConfig>| {
            let leads = metrics.state.is_leader() && metrics.running_state.is_ok();
            leads && !has_lease(metrics, timing.lease())
        };
        while lacks_lease(&metrics.borrow_watched()) {
            if !matches!(timeout_at(until, metrics.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        {
            let mut state = self.quiescence.lock();
            if matches!(*state, State::Rousing) {
                let awake = State::Awake { quiet: None };
                self.quiescence.set(&mut state, awake);
            }
        }
        self.quiescence.roused.notify_waiters();
        self.mailbox.wake();
    }

    /// Whether a vote against the leader is to be refused: the group is quiescent and the processes that it watches
    /// live. Whoever asks for one doubts that, so a leader shows itself, and a follower that does not hear it soon
    /// minds its clock again.
    pub fn trusts_its_leader(self: &Arc<Self>, liveness: &Liveness) -> bool {
        let timing = self.quiescence.timing;
        let leads = self.raft().is_some_and(|raft| raft.is_leader());
        let trusts = match &mut *self.quiescence.lock() {
            State::Quiescent { watched, rouse_at } => {
                let trusts = rouse_at.is_none() && watched.iter().all(|it| liveness.is_alive(*it));
                rouse_at.get_or_insert_with(|| soon(timing));
                trusts
            }
            _ => false,
        };
        if leads {
            self.rouse();
        }
        trusts
    }
}

/// A while hence, for each another, so that not all ask for votes at once.
fn soon(timing: Timing) -> Instant {
    Instant::now() + random_below(Duration::from_millis(timing.election_ms_min))
}

/// Since when each group is led by this node in the same term.
pub type Terms = BTreeMap<GroupId, (u64, Instant)>;

impl Node {
    /// Looks at every group once: is it to be quiescent, or to be roused, and if a leader has lost its quorum, is it to
    /// keep silent.
    pub(crate) fn watch_groups(&self, terms: &mut Terms) {
        for id in Groups::all() {
            let Some(raft) = self.groups().raft(id) else {
                continue;
            };
            let shard = self.groups().shards.get(usize::from(id.0));
            if shard.is_none_or(|shard| shard.quiescence.is_awake()) {
                self.let_others_lead(id, &raft, terms);
            }
            if let (Some(shard), AnyRaft::Shard(raft)) = (shard, &raft) {
                self.watch_group(shard, raft);
            }
        }
    }

    fn watch_group(&self, group: &Arc<ShardGroup>, raft: &ShardRaft) {
        let mut state = group.quiescence.lock();
        match &mut *state {
            State::Awake { quiet } => {
                let Some(end) = self.quiet_end(group, raft) else {
                    *quiet = None;
                    return;
                };
                let (known, since) = quiet.get_or_insert_with(|| (end, Instant::now()));
                if *known != end {
                    *quiet = Some((end, Instant::now()));
                } else if since.elapsed() >= QUIET_FOR {
                    raft.runtime_config().tick(false);
                    group.quiescence.set(&mut state, State::Settling);
                    spawn(self.clone().settle(group.clone(), raft.clone(), end));
                }
            }
            State::Quiescent { watched, rouse_at } => {
                let liveness = &self.groups().liveness;
                if !watched.iter().all(|process| liveness.is_alive(*process)) {
                    let timing = group.quiescence.timing;
                    rouse_at.get_or_insert_with(|| soon(timing));
                }
                let due = rouse_at.is_some_and(|at| at <= Instant::now() || raft.is_leader());
                drop(state);
                if due {
                    group.rouse();
                }
            }
            State::Settling | State::Rousing => {}
        }
    }

    /// Where the log of a group that this node leads has ended, if every member has all of it and nothing is under way.
    fn quiet_end(&self, group: &ShardGroup, raft: &ShardRaft) -> Option<End> {
        let id = GroupId(group.shard.0);
        let nothing_waits = group.mailbox.idle() && group.pending.load(Ordering::Acquire) == 0;
        let decides =
            group.deciding.load(Ordering::Acquire) && !group.paused.load(Ordering::Acquire);
        if !(nothing_waits && decides) || self.is_changing(id) {
            return None;
        }
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = metrics.last_log_index?;
        let has_all =
            |log_id: Option<crate::types::LogId>| log_id.is_some_and(|it| it.index == index);
        let leads = metrics.state.is_leader() && metrics.current_leader == Some(metrics.id);
        let membership = metrics.membership_config.membership();
        let is_quiet = leads
            && metrics.running_state.is_ok()
            && has_all(metrics.last_applied)
            && has_all(metrics.cluster_committed)
            && membership.get_joint_config().len() == 1
            && metrics
                .replication
                .as_ref()?
                .values()
                .all(|it| has_all(*it));
        let term = metrics.current_term;
        is_quiet.then_some(End { term, index })
    }

    /// Has every member stop its clock, or goes on.
    async fn settle(self, group: Arc<ShardGroup>, raft: ShardRaft, end: End) {
        // Heartbeats that are on their way would rouse who has just stopped its clock.
        sleep(group.quiescence.timing.beat()).await;
        let agreed = self.stop_clocks(&group, &raft, end).await;
        let agreed = agreed.filter(|_| self.quiet_end(&group, &raft) == Some(end));
        {
            let mut state = group.quiescence.lock();
            if let (State::Settling, Some(watched)) = (&*state, agreed) {
                let rouse_at = None;
                let quiescent = State::Quiescent { watched, rouse_at };
                group.quiescence.set(&mut state, quiescent);
                return;
            }
        }
        group.rouse();
    }

    /// Asks every other member to stop its clock; their processes, if all do.
    async fn stop_clocks(
        &self,
        group: &ShardGroup,
        raft: &ShardRaft,
        end: End,
    ) -> Option<Vec<Boot>> {
        let members: Vec<u64> = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let nodes = metrics.membership_config.nodes().map(|(id, _)| *id);
            nodes.filter(|id| *id != self.node_id()).collect()
        };
        let boots = members.iter().map(|id| self.groups().liveness.boot(*id));
        let boots: Vec<Boot> = boots.collect::<Option<_>>()?;
        let request = Quiesce {
            group: group.shard.0,
            term: end.term,
            last_index: end.index,
        };
        let payload: bytes::Bytes = codec::encode(&request).into();
        let patience = 2 * group.quiescence.timing.beat();
        let asked = members.into_iter().map(|member| {
            let (peers, kind) = (&self.groups().peers, Kind::Quiesce as u8);
            let call = peers.call(member, Lane::Control, kind, payload.clone());
            async move { rpc::answer::<bool>(call.within(patience).await) }
        });
        let agreed = join_all(asked).await;
        agreed.iter().all(|it| *it == Ok(true)).then_some(boots)
    }

    /// Stops the clock of a group that `leader` leads, if this replica has all that it has; whether it did.
    pub(crate) fn stop_clock(&self, leader: u64, request: &Quiesce) -> bool {
        let group = self.groups().shards.get(usize::from(request.group));
        let Some((group, raft)) = group.and_then(|group| Some((group, group.raft()?))) else {
            return false;
        };
        let Some(boot) = self.groups().liveness.boot(leader) else {
            return false;
        };
        let mut state = group.quiescence.lock();
        let follows = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let applied = metrics.last_applied.map(|applied| applied.index);
            metrics.running_state.is_ok()
                && metrics.current_leader == Some(leader)
                && metrics.current_term == request.term
                && metrics.last_log_index == Some(request.last_index)
                && applied == Some(request.last_index)
        };
        let stops = follows && matches!(*state, State::Awake { .. } | State::Quiescent { .. });
        if stops {
            raft.runtime_config().tick(false);
            let watched = vec![boot];
            let rouse_at = None;
            let quiescent = State::Quiescent { watched, rouse_at };
            group.quiescence.set(&mut state, quiescent);
        }
        stops
    }

    /// A leader that no quorum answers keeps silent every other while: those that still hear it would trust it for
    /// ever, and nobody else could be elected.
    fn let_others_lead(&self, group: GroupId, raft: &AnyRaft, terms: &mut Terms) {
        let timing = self.options().timing;
        let trusted = Duration::from_millis(timing.election_ms_max());
        let silent = raft.look(|metrics| {
            if !metrics.state.is_leader() {
                return None;
            }
            let term = metrics.current_term;
            let leads = terms.entry(group).or_insert((term, Instant::now()));
            if leads.0 != term {
                *leads = (term, Instant::now());
            }
            let answered = metrics
                .last_quorum_acked
                .map(|at| at.into_inner().elapsed());
            let alone = metrics.membership_config.voter_ids().eq([metrics.id]);
            let lost_for = answered.unwrap_or(leads.1.elapsed()).checked_sub(trusted);
            Some(!alone && lost_for.is_some_and(|lost_for| is_silent(lost_for, timing)))
        });
        if let Some(silent) = silent {
            raft.set_heartbeat(!silent);
        }
    }
}

/// Whether a leader that has lost its quorum so long ago keeps silent: long enough for the others' trust to end and for
/// an election, then it speaks for as long.
fn is_silent(lost_for: Duration, timing: Timing) -> bool {
    let while_ms = u128::from(2 * (timing.election_ms_min + timing.election_ms_max()));
    (lost_for.as_millis() / while_ms).is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_lost_its_quorum_is_silent_and_speaks_by_turns() {
        let timing = Timing {
            election_ms_min: 200,
        };
        let at = |ms| is_silent(Duration::from_millis(ms), timing);
        assert_eq!(
            [0, 999, 1000, 1999, 2000].map(at),
            [true, true, false, false, true]
        );
    }
}
