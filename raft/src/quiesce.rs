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

use crate::any_raft::AnyRaft;
use crate::group::has_lease;
use crate::liveness::{Boot, Liveness};
use crate::mailbox::Mailbox;
use crate::node::Node;
use crate::options::Timing;
use crate::peer::Lane;
use crate::rpc::{self, Kind, Quiesce};
use crate::types::{LogId, TypeConfig};
use crate::world::{random_below, spawn};

/// How long nothing must have been asked of a group before it is quiescent: longer than any pause of a sale.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// Whether a group minds its clock on this node.
pub struct Quiescence {
    group: GroupId,
    timing: Timing,
    state: Mutex<State>,
    /// The same as whether the phase is [`Phase::Awake`], for those who only look.
    awake: AtomicBool,
    /// A leader has the lease again, or waits for it no longer.
    roused: Notify,
    /// The actor that waits for that, of a shard.
    mailbox: Option<Mailbox>,
}

struct State {
    /// The instance whose clock it is; none while the group does not run here.
    raft: Option<AnyRaft>,
    phase: Phase,
}

enum Phase {
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

const AWAKE: Phase = Phase::Awake { quiet: None };

impl Quiescence {
    pub fn new(group: GroupId, timing: Timing, mailbox: Option<Mailbox>) -> Arc<Self> {
        let state = State {
            raft: None,
            phase: AWAKE,
        };
        Arc::new(Quiescence {
            group,
            timing,
            state: Mutex::new(state),
            awake: AtomicBool::new(true),
            roused: Notify::new(),
            mailbox,
        })
    }

    /// Whether the clock ticks and, for a leader, nothing speaks against a lease.
    pub fn is_awake(&self) -> bool {
        self.awake.load(Ordering::Acquire)
    }

    /// Whether the clock stands, and the members' do.
    pub fn is_quiescent(&self) -> bool {
        matches!(self.lock().phase, Phase::Quiescent { .. })
    }

    /// The group was started with this instance, whose clock ticks, or stopped.
    pub fn begin_anew(&self, raft: Option<AnyRaft>) {
        let mut state = self.lock();
        state.raft = raft;
        self.enter(&mut state, AWAKE);
    }

    /// The leader whose process a quiescent follower watches.
    pub fn followed(&self) -> Option<u64> {
        match &self.lock().phase {
            Phase::Quiescent { watched, .. } => watched.first().map(|leader| leader.node),
            _ => None,
        }
    }

    /// Has the group mind its clock again, unless it does. A leader is awake as soon as it has the lease again.
    pub fn rouse(self: &Arc<Self>) {
        if self.is_awake() {
            return;
        }
        let mut state = self.lock();
        let Some(raft) = state.raft.clone() else {
            return;
        };
        if matches!(state.phase, Phase::Awake { .. } | Phase::Rousing) {
            return;
        }
        raft.set_tick(true);
        if raft.is_leader() {
            self.enter(&mut state, Phase::Rousing);
            spawn(self.clone().regain_lease(raft));
        } else {
            self.enter(&mut state, AWAKE);
        }
    }

    /// The same, and waits until it is awake.
    pub async fn roused(self: &Arc<Self>) {
        loop {
            let roused = self.roused.notified();
            tokio::pin!(roused);
            roused.as_mut().enable();
            self.rouse();
            if !matches!(self.lock().phase, Phase::Rousing) {
                return;
            }
            roused.await;
        }
    }

    /// Asks the members whether this node still leads. Where no quorum says so in time the group goes on as one
    /// that has lost it.
    async fn regain_lease(self: Arc<Self>, raft: AnyRaft) {
        let until = Instant::now() + self.timing.trust();
        // Fails only where Raft has stopped, as its metrics tell.
        let _ = raft.send_heartbeat().await;
        let mut changed = raft.changes();
        let lease = self.timing.lease();
        let lacks_lease = |metrics: &RaftMetrics<TypeConfig>| {
            let leads = metrics.state.is_leader() && metrics.running_state.is_ok();
            leads && !has_lease(metrics, lease)
        };
        while raft.look(lacks_lease) {
            if !matches!(timeout_at(until, changed.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        {
            let mut state = self.lock();
            if matches!(state.phase, Phase::Rousing) {
                self.enter(&mut state, AWAKE);
            }
        }
        self.roused.notify_waiters();
        if let Some(mailbox) = &self.mailbox {
            mailbox.wake();
        }
    }

    /// Whether a vote against the leader is to be refused: the group is quiescent and the processes that it watches
    /// live. Whoever asks for one doubts that, so a leader shows itself, and a follower that does not hear it soon
    /// minds its clock again.
    pub fn trusts_its_leader(self: &Arc<Self>, liveness: &Liveness) -> bool {
        let (trusts, leads) = {
            let mut state = self.lock();
            let leads = state.raft.as_ref().is_some_and(AnyRaft::is_leader);
            let Phase::Quiescent { watched, rouse_at } = &mut state.phase else {
                return false;
            };
            let live = watched.iter().all(|process| liveness.is_alive(*process));
            let trusts = rouse_at.is_none() && live;
            rouse_at.get_or_insert_with(|| soon(self.timing));
            (trusts, leads)
        };
        if leads {
            self.rouse();
        }
        trusts
    }

    fn enter(&self, state: &mut State, next: Phase) {
        let awake = matches!(next, Phase::Awake { .. });
        self.awake.store(awake, Ordering::Release);
        state.phase = next;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        for id in self.groups().all() {
            let (Some(raft), Some(quiescence)) =
                (self.groups().raft(id), self.groups().quiescence(id))
            else {
                continue;
            };
            if quiescence.is_awake() {
                self.let_others_lead(id, &raft, terms);
            }
            self.watch_group(quiescence, &raft);
        }
    }

    fn watch_group(&self, group: &Arc<Quiescence>, raft: &AnyRaft) {
        let mut state = group.lock();
        match &mut state.phase {
            Phase::Awake { quiet } => {
                let Some(end) = self.quiet_end(group.group, raft) else {
                    *quiet = None;
                    return;
                };
                let (known, since) = quiet.get_or_insert_with(|| (end, Instant::now()));
                if *known != end {
                    *quiet = Some((end, Instant::now()));
                } else if since.elapsed() >= QUIET_FOR {
                    raft.set_tick(false);
                    group.enter(&mut state, Phase::Settling);
                    spawn(self.clone().settle(group.clone(), raft.clone(), end));
                }
            }
            Phase::Quiescent { watched, rouse_at } => {
                let liveness = &self.groups().liveness;
                if !watched.iter().all(|process| liveness.is_alive(*process)) {
                    rouse_at.get_or_insert_with(|| soon(group.timing));
                }
                let due = rouse_at.is_some_and(|at| at <= Instant::now() || raft.is_leader());
                drop(state);
                if due {
                    group.rouse();
                }
            }
            Phase::Settling | Phase::Rousing => {}
        }
    }

    /// Where the log of a group that this node leads has ended, if every member has all of it and nothing is under way.
    fn quiet_end(&self, id: GroupId, raft: &AnyRaft) -> Option<End> {
        let shard = self.groups().shards.get(usize::from(id.0));
        if self.is_changing(id) || !shard.is_none_or(|shard| shard.has_nothing_to_do()) {
            return None;
        }
        raft.look(|metrics| {
            let index = metrics.last_log_index?;
            let has_all = |log_id: Option<LogId>| log_id.is_some_and(|it| it.index == index);
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
        })
    }

    /// Has every member stop its clock, or goes on.
    async fn settle(self, group: Arc<Quiescence>, raft: AnyRaft, end: End) {
        // Heartbeats that are on their way would rouse who has just stopped its clock.
        sleep(group.timing.beat()).await;
        let agreed = self.stop_clocks(&group, &raft, end).await;
        let agreed = agreed.filter(|_| self.quiet_end(group.group, &raft) == Some(end));
        {
            let mut state = group.lock();
            if let (Phase::Settling, Some(watched)) = (&state.phase, agreed) {
                let rouse_at = None;
                group.enter(&mut state, Phase::Quiescent { watched, rouse_at });
                return;
            }
        }
        group.rouse();
    }

    /// Asks every other member to stop its clock; their processes, if all do.
    async fn stop_clocks(&self, group: &Quiescence, raft: &AnyRaft, end: End) -> Option<Vec<Boot>> {
        if self.quiet_end(group.group, raft) != Some(end) {
            return None;
        }
        let members: Vec<u64> = raft.look(|metrics| {
            let nodes = metrics.membership_config.nodes().map(|(id, _)| *id);
            nodes.filter(|id| *id != self.node_id()).collect()
        });
        let boots = members.iter().map(|id| self.groups().liveness.boot(*id));
        let boots: Vec<Boot> = boots.collect::<Option<_>>()?;
        let request = Quiesce {
            group: group.group.0,
            term: end.term,
            last_index: end.index,
        };
        let payload = codec::encode(&request);
        let patience = 2 * group.timing.beat();
        let asked = members.into_iter().map(|member| {
            let (peers, kind) = (&self.groups().peers, Kind::Quiesce as u8);
            let call = peers.call(member, Lane::Control, kind, &payload);
            async move { rpc::answer::<bool>(call.within(patience).await) }
        });
        let agreed = join_all(asked).await;
        agreed.iter().all(|it| *it == Ok(true)).then_some(boots)
    }

    /// Stops the clock of a group that `leader` leads, if this replica has all that it has; whether it did.
    pub(crate) fn stop_clock(&self, leader: u64, request: &Quiesce) -> bool {
        let Some(group) = self.groups().quiescence(GroupId(request.group)) else {
            return false;
        };
        let Some(boot) = self.groups().liveness.boot(leader) else {
            return false;
        };
        let mut state = group.lock();
        let Some(raft) = state.raft.clone() else {
            return false;
        };
        let last_index = Some(request.last_index);
        let has_all = raft.look(|metrics| {
            metrics.running_state.is_ok()
                && metrics.current_leader == Some(leader)
                && metrics.current_term == request.term
                && metrics.last_log_index == last_index
                && metrics.last_applied.map(|applied| applied.index) == last_index
        });
        let minds_it = matches!(state.phase, Phase::Awake { .. } | Phase::Quiescent { .. });
        if has_all && minds_it {
            raft.set_tick(false);
            let (watched, rouse_at) = (vec![boot], None);
            group.enter(&mut state, Phase::Quiescent { watched, rouse_at });
        }
        has_all && minds_it
    }

    /// A leader that no quorum answers keeps silent every other while: those that still hear it would trust it for
    /// ever, and nobody else could be elected.
    fn let_others_lead(&self, group: GroupId, raft: &AnyRaft, terms: &mut Terms) {
        let timing = self.options().timing;
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
            let unanswered_for = answered.unwrap_or(leads.1.elapsed());
            let lost_for = unanswered_for.checked_sub(timing.trust());
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
