//! The tasks that actors live in. A task owns its actor and nobody else touches it; it sleeps while there is
//! nothing to do.
//!
//! One round of an actor: take what the log has to say, then, if it may decide, drain the mailbox to
//! a limit, decide, and propose all that was accepted as one entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use qiang_engine::actor::{Actor, Effect, Fatal};
use qiang_engine::shard::{Moment, PREFETCH_MAX};
use qiang_engine::{PromotionId, Refusal, Replica, UnixMs};
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::board::Board;
use crate::closings::Closings;
use crate::group::{ShardGroup, raft_status};
use crate::mailbox::LogEvent;
use crate::node::CourierJob;
use crate::options::PolicyCell;
use crate::proposal::Proposal;
use crate::question::{Asked, Reply};
use crate::types::LogId;
use crate::world::{Clock, HoldUps, Random, is_simulated, random_u64, room, sleep_to_beat, spawn};

/// Log events and commands taken in one round, so that one busy actor does not starve its neighbours.
const ROUND_EVENTS_MAX: usize = 1024;

/// How long an actor sleeps at most: deadlines are looked at this often, and a tenth of a second is
/// little beside the second that they are promised within.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often an actor looks at ends of promotions, retention and guests to be told.
const CHORES_INTERVAL: Duration = Duration::from_millis(200);

/// How long a leader that does not decide waits before it asks the log for a blank entry again.
const BLANK_INTERVAL: Duration = Duration::from_millis(250);

/// What every actor of a node works with.
#[derive(Clone)]
pub struct Surroundings {
    pub board: Board,
    pub policy: PolicyCell,
    pub closings: Closings,
    pub courier: mpsc::Sender<CourierJob>,
    /// How long a quorum's answer is trusted.
    pub lease: Duration,
    /// The time that decisions are made by.
    pub clock: Clock,
}

/// An actor in its place: with its mailbox, its group and the node around it.
pub struct Seat {
    group: Arc<ShardGroup>,
    around: Surroundings,
    /// Absent once its shards were stopped.
    actor: Option<Actor<Reply>>,
    /// The blank entry that this node's present leadership began with.
    leadership: Option<LogId>,
    effects: Vec<Effect<Reply>>,
    /// Commands about to be decided.
    next: Vec<Asked>,
    /// Proposals of a leader that has no lease yet after its group was quiescent, in their order.
    held: Vec<Proposal>,
    /// Log events, and commands, taken in one round.
    round_max: usize,
    chores_at: Instant,
    blank_at: Instant,
    hold_ups: HoldUps,
}

/// Why the shards of a group are stopped on this node.
#[derive(Debug, thiserror::Error)]
enum StopReason {
    /// Its log or its state is damaged, or there is a bug.
    #[error(transparent)]
    Actor(#[from] Fatal),
    /// Raft gave up, as it does when the store takes no more writes.
    #[error("Raft stopped: {0}")]
    Raft(String),
}

/// Runs an actor until `stop`.
pub async fn run_seat(mut seat: Seat, stop: Arc<AtomicBool>) {
    // A simulation sees for itself that a shard stands still.
    let _guard = (!is_simulated()).then_some(AbortOnPanic);
    let mailbox = seat.group.mailbox.clone();
    while !stop.load(Ordering::Acquire) {
        if !seat.run_round().await {
            mailbox.stirred().await;
        }
        seat.end_round().await;
    }
    seat.give_up();
}

/// Has every actor look around at least every [`LOOK_INTERVAL`], until `stop`.
pub async fn run_clockwork(groups: Vec<Arc<ShardGroup>>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Acquire) {
        sleep_to_beat(LOOK_INTERVAL).await;
        for group in &groups {
            group.mailbox.wake();
        }
    }
}

/// Ends the process when its actor panics, which is a bug that leaves the shard in a state that cannot be trusted; a
/// restart recovers it from its flows.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "an actor panicked: the node stops here; restart it to recover from the log"
            );
            std::process::abort();
        }
    }
}

impl Seat {
    pub fn new(group: Arc<ShardGroup>, around: Surroundings) -> Self {
        let now = Instant::now();
        let actor = new_actor(&group);
        Seat {
            group,
            around,
            actor: Some(actor),
            leadership: None,
            effects: Vec::new(),
            next: Vec::with_capacity(PREFETCH_MAX),
            held: Vec::new(),
            round_max: room(ROUND_EVENTS_MAX),
            chores_at: now,
            blank_at: now + BLANK_INTERVAL,
            hold_ups: HoldUps::new(),
        }
    }

    /// One round; whether there was anything to do.
    async fn run_round(&mut self) -> bool {
        let Some(actor) = self.actor.take() else {
            return self.wait_for_reset();
        };
        let mut actor = actor;
        match self.run_actor(&mut actor).await {
            Ok(busy) => {
                self.actor = Some(actor);
                busy
            }
            Err(fatal) => {
                self.stop(actor, &fatal.to_string());
                true
            }
        }
    }

    async fn run_actor(&mut self, actor: &mut Actor<Reply>) -> Result<bool, StopReason> {
        let heard = self.hear_log(actor)?;
        self.hold_ups.before_deciding().await;
        let awake = self.group.quiescence.is_awake();
        if awake {
            for proposal in std::mem::take(&mut self.held) {
                proposal.hand_over(&self.group);
            }
        }
        let worked = if self.takes_turn(actor) {
            self.run_turn(actor, awake)?
        } else if actor.deciding() {
            false
        } else {
            self.seek_stint()?;
            refuse_waiting(&self.group)
        };
        actor.take_effects(&mut self.effects);
        let acted = !self.effects.is_empty();
        // Readers of flows must not be behind an answer.
        self.group.show(actor);
        if acted {
            self.hold_ups.before_acting().await;
        }
        self.act();
        // Whoever refuses from the board must not find it as it was before this stint.
        let stint = self.leadership.filter(|_| actor.deciding());
        self.group
            .show_stint(stint.map(|leadership| leadership.leader_id.term));
        let waits = awake && self.takes_turn(actor) && !self.group.mailbox.idle();
        Ok(heard || worked || acted || waits)
    }

    /// Whether the actor is to decide what waits. With its window full it sleeps until the log speaks, and so it does, or until
    /// more comes, while a turn does not pay.
    fn takes_turn(&self, actor: &Actor<Reply>) -> bool {
        let paused = self.group.paused.load(Ordering::Acquire);
        actor.ready() && !paused && actor.pays(self.group.mailbox.depth())
    }

    /// Takes what the log has to say.
    fn hear_log(&mut self, actor: &mut Actor<Reply>) -> Result<bool, Fatal> {
        let mut heard = false;
        for _ in 0..self.round_max {
            let Some(event) = self.group.mailbox.take_log() else {
                break;
            };
            heard = true;
            match event {
                LogEvent::Batch { index, bytes } => actor.handle_batch(index, &bytes)?,
                LogEvent::Blank { index, leader } => self.hear_blank(actor, index, leader)?,
                LogEvent::Other { index } => actor.handle_other(index),
                LogEvent::Snapshot { index, replica } => actor.handle_snapshot(index, *replica)?,
                LogEvent::Refused { tag } => actor.handle_refused(tag)?,
                LogEvent::Unknown { tag } => actor.handle_unknown(tag),
                LogEvent::Reset => self.begin_anew(actor),
            }
        }
        Ok(heard)
    }

    /// The group was stopped on this node: whoever waits learns that the outcome is unknown, and the
    /// actor begins from nothing.
    fn begin_anew(&mut self, actor: &mut Actor<Reply>) {
        let old = std::mem::replace(actor, new_actor(&self.group));
        self.effects.extend(old.abandon());
        self.leadership = None;
        self.group.set_stopped(None);
        for shard in self.group.shards() {
            self.around.board.forget(shard);
        }
    }

    /// After a fault: commands are refused and the log is not heard, until the group begins anew.
    fn wait_for_reset(&mut self) -> bool {
        let mut any = refuse_waiting(&self.group);
        while let Some(event) = self.group.mailbox.take_log() {
            any = true;
            if matches!(event, LogEvent::Reset) {
                let mut actor = new_actor(&self.group);
                self.begin_anew(&mut actor);
                self.actor = Some(actor);
                break;
            }
        }
        any
    }

    /// A blank entry of this node's own leadership begins a stint. A further one of the same leadership,
    /// while that stint is under way, says nothing: what is pending lies in the same term and lives.
    fn hear_blank(
        &mut self,
        actor: &mut Actor<Reply>,
        index: u64,
        leader: Option<LogId>,
    ) -> Result<(), Fatal> {
        let known = self.leadership.map(|known| known.leader_id);
        if actor.deciding() && leader.is_some() && leader.map(|blank| blank.leader_id) == known {
            actor.handle_other(index);
            return Ok(());
        }
        self.leadership = leader;
        actor.handle_blank(index, leader.map(|_| Random.random_range(1..=u64::MAX)))
    }

    /// Decides what waits; of a group that is not awake only what the time brings, and commands rouse it.
    fn run_turn(&mut self, actor: &mut Actor<Reply>, awake: bool) -> Result<bool, Fatal> {
        if !awake && self.group.mailbox.depth() > 0 {
            self.group.quiescence.rouse();
        }
        let policy = self.around.policy.get();
        let now = self.around.clock.now();
        let moment = Moment {
            now,
            default_rate: policy.default_rate,
            rate_percent: policy.rate_percent,
        };
        actor.begin_turn(moment);
        let mut commands = 0;
        while awake && commands < self.round_max && !actor.turn_full() {
            let next = self.take_commands();
            if next == 0 {
                break;
            }
            commands += next;
            if next > 1 {
                actor.prefetch(self.next.iter().flat_map(Asked::commands));
            }
            for asked in self.next.drain(..) {
                asked
                    .decide(|place, command, reply| actor.handle_command(place, command, reply))?;
            }
        }
        actor.run_deadlines()?;
        if self.chores_at <= Instant::now() {
            self.chores_at = Instant::now() + CHORES_INTERVAL;
            actor.run_chores(policy.order_retention_ms, |id| self.closed_elsewhere(id))?;
        }
        // After everything was taken and decided: whoever asked later may know more than this state.
        actor.end_turn(self.has_lease());
        Ok(commands > 0)
    }

    /// When a promotion of another shard was closed, as far as this node knows.
    fn closed_elsewhere(&self, promotion_id: &PromotionId) -> Option<UnixMs> {
        self.around.closings.of(promotion_id, || {
            self.send_courier(CourierJob::Closing {
                promotion_id: promotion_id.clone(),
            });
        })
    }

    /// Takes commands that wait, until they are worth being looked at together; how many they are.
    fn take_commands(&mut self) -> usize {
        let mut count = 0;
        while count < PREFETCH_MAX {
            let Some(asked) = self.group.mailbox.take_commands() else {
                break;
            };
            count += asked.len();
            self.next.push(asked);
        }
        count
    }

    /// Whether a quorum vouches for the leadership that the present stint began with: in a later one of this node
    /// others may have led in between, and what they committed may not have come here yet.
    fn has_lease(&self) -> bool {
        self.leadership.is_some_and(|leadership| {
            let term = leadership.leader_id.term;
            self.group.is_vouched_for(term, self.around.lease)
        })
    }

    async fn end_round(&mut self) {
        let (group, lease) = (&self.group, self.around.lease);
        let leads_without_lease = || {
            let status = group.raft().map(|raft| raft_status(&raft, lease));
            status.is_some_and(|status| status.leads && !status.has_quorum)
        };
        self.hold_ups.end_round(leads_without_lease).await;
    }

    /// A leader that may not decide asks for a blank entry, from which on it may: after a refused or
    /// lost proposal no election need come.
    fn seek_stint(&mut self) -> Result<(), StopReason> {
        let Some(raft) = self.group.raft() else {
            return Ok(());
        };
        if let Err(fatal) = &raft.metrics().borrow_watched().running_state {
            return Err(StopReason::Raft(fatal.to_string()));
        }
        let now = Instant::now();
        let leads = raft.is_leader();
        if leads && now < self.blank_at {
            return Ok(());
        }
        // A fresh leader's own blank is on its way: it is given its time.
        self.blank_at = now + BLANK_INTERVAL;
        if !leads {
            return Ok(());
        }
        spawn(async move {
            if let Err(error) = raft.write_blank().await {
                tracing::debug!(%error, "a blank entry was not written");
            }
        });
        Ok(())
    }

    fn act(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Reply { to, result } => to.send(result),
                Effect::Propose { tag, bytes } => {
                    let leadership = self.leadership;
                    let proposal = Proposal {
                        leadership,
                        tag,
                        bytes,
                    };
                    // The group may have become awake since this round began: none overtakes those that are held.
                    if self.held.is_empty() && self.group.quiescence.is_awake() {
                        proposal.hand_over(&self.group);
                    } else {
                        self.held.push(proposal);
                        self.group.quiescence.rouse();
                    }
                }
                Effect::Publish(changes) => changes
                    .into_iter()
                    .for_each(|change| self.around.board.publish(change)),
                Effect::Ask {
                    guest,
                    order_id,
                    try_id,
                    home,
                } => {
                    self.send_courier(CourierJob::Ask {
                        guest: self.group.shard_at(guest),
                        order_id,
                        try_id,
                        home,
                    });
                }
                Effect::Tell { home, tell } => self.send_courier(CourierJob::Tell {
                    home: self.group.shard_at(home),
                    tell,
                }),
            }
        }
        // Empty again, and as large as a turn needs.
        self.effects = effects;
    }

    /// A job that finds no room is dropped: the actor asks and tells again until it is acknowledged, and asks again when a promotion closed.
    fn send_courier(&self, job: CourierJob) {
        if self.around.courier.try_send(job).is_err() {
            tracing::debug!(group = self.group.id.0, "the courier is busy");
        }
    }

    /// Stops the group's shards on this node, loudly. Its state in memory cannot be trusted; the log can.
    fn stop(&mut self, actor: Actor<Reply>, why: &str) {
        let shards: Vec<u16> = self.group.shards().map(|shard| shard.0).collect();
        tracing::error!(
            ?shards,
            why,
            "shards stopped: restart the node to recover them from their flows"
        );
        self.group.set_stopped(Some(why.to_owned()));
        self.effects = actor.abandon();
        self.act();
        self.group.deciding.store(false, Ordering::Relaxed);
        self.group.show_stint(None);
        if let Some(raft) = self.group.raft() {
            spawn(async move { raft.shutdown().await });
        }
    }

    /// The node is stopping: whoever still waits is answered.
    fn give_up(&mut self) {
        if let Some(actor) = self.actor.take() {
            self.effects = actor.abandon();
            self.act();
        }
        self.refuse_all();
    }

    fn refuse_all(&self) -> bool {
        let mut any = refuse_waiting(&self.group);
        while self.group.mailbox.take_log().is_some() {
            any = true;
        }
        any
    }
}

fn new_actor(group: &ShardGroup) -> Actor<Reply> {
    let replica = Replica::new(group.shards().len(), random_u64());
    Actor::new(replica, 0, group.seen().cloned().collect())
}

/// Answers `unavailable` to every command that waits.
fn refuse_waiting(group: &ShardGroup) -> bool {
    let mut any = false;
    while let Some(asked) = group.mailbox.take_commands() {
        asked.refuse(&Refusal::Unavailable);
        any = true;
    }
    any
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
