//! The way of a command to the leader of its shard, wherever that is: here, or forwarded; and again, until
//! the deadline, while leaders change.
//!
//! Invariant: a command whose outcome is unknown is repeated only if twice is the same as once, and what
//! such a repeat refuses is not told as a refusal: the first may still take effect.

use std::sync::Arc;
use std::time::Duration;

use qiang_engine::routing::SHARDS;
use qiang_engine::{Answer, Command, Refusal, ShardId, codec};
use qiang_storage::GroupId;
use tokio::time::{Instant, sleep, timeout_at};

use crate::groups::Groups;
use crate::peer::{CallError, Lane};
use crate::rpc::{self, ForwardAnswer, Forwarded, Kind};

/// The pause before a shard without a leader is asked again: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(40);

/// What asking one node came to.
enum Tried {
    Answered(Result<Answer, Refusal>),
    /// Nothing was done; somebody else may lead.
    NotDone {
        leader: Option<u64>,
    },
    Unknown,
}

/// Finds leaders.
#[derive(Clone)]
pub struct Router {
    groups: Arc<Groups>,
}

impl Router {
    pub fn new(groups: Arc<Groups>) -> Self {
        Router { groups }
    }

    /// Has the leader of `shard` answer `command`.
    pub async fn ask(
        &self,
        shard: ShardId,
        command: Command,
        deadline: Instant,
    ) -> Result<Answer, Refusal> {
        if shard.0 >= SHARDS {
            return Err(Refusal::Unavailable);
        }
        let mut pause = PAUSE_MIN;
        let mut unknown = false;
        let mut hint = None;
        let mut attempt = 0;
        loop {
            let tried = match hint.take().or_else(|| self.leader(shard, attempt)) {
                Some(leader) if leader == self.groups.node_id => {
                    self.ask_here(shard, &command, deadline).await
                }
                Some(leader) => self.forward(leader, shard, &command, deadline).await,
                None => Tried::NotDone { leader: None },
            };
            match tried {
                // The attempt before may still take effect where this one did not.
                Tried::Answered(Err(Refusal::Rejected(_))) if unknown && !command.is_read() => {
                    return Err(Refusal::OutcomeUnknown);
                }
                Tried::Answered(answer) => return answer,
                Tried::NotDone { leader } => hint = leader,
                Tried::Unknown if command.may_repeat() => unknown = true,
                Tried::Unknown => return Err(Refusal::OutcomeUnknown),
            }
            attempt += 1;
            if Instant::now() + pause >= deadline || self.is_hopeless(shard) {
                return Err(if unknown && !command.is_read() {
                    Refusal::OutcomeUnknown
                } else {
                    Refusal::Unavailable
                });
            }
            if hint.is_none() {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// The answer to another node's question for a shard that it believes is led here.
    pub async fn answer_forwarded(&self, forwarded: Forwarded) -> ForwardAnswer {
        let shard = ShardId(forwarded.shard);
        let deadline = Instant::now() + Duration::from_millis(forwarded.patience_ms);
        let elsewhere = |leader: Option<u64>| ForwardAnswer::Elsewhere {
            leader: leader.filter(|leader| *leader != self.groups.node_id),
        };
        let Some(raft) = self.groups.raft(GroupId(shard.0)) else {
            return elsewhere(None);
        };
        if !raft.is_leader() {
            return elsewhere(raft.look(|metrics| metrics.current_leader));
        }
        match self.ask_here(shard, &forwarded.command, deadline).await {
            Tried::Answered(answer) => ForwardAnswer::Decided(answer),
            Tried::NotDone { .. } => elsewhere(raft.look(|metrics| metrics.current_leader)),
            Tried::Unknown => ForwardAnswer::Decided(Err(Refusal::OutcomeUnknown)),
        }
    }

    /// Who leads a shard, as far as this node knows; where it has no replica, one that has.
    fn leader(&self, shard: ShardId, attempt: usize) -> Option<u64> {
        if let Some(raft) = self.groups.raft(GroupId(shard.0)) {
            return raft.look(|metrics| metrics.current_leader);
        }
        let state = self.groups.meta_state.borrow();
        let place = state.cluster.placement.shards.get(usize::from(shard.0))?;
        let first = place.leader.into_iter();
        let candidates: Vec<u64> = first.chain(place.voters.iter().copied()).collect();
        candidates.get(attempt % candidates.len().max(1)).copied()
    }

    /// Whether waiting for a leader is in vain: the shard stopped here, and nobody else has it.
    fn is_hopeless(&self, shard: ShardId) -> bool {
        let group = &self.groups.shards[usize::from(shard.0)];
        let alone = |raft: crate::groups::AnyRaft| {
            raft.look(|metrics| {
                metrics
                    .membership_config
                    .voter_ids()
                    .eq([self.groups.node_id])
            })
        };
        group.stopped().is_some() && self.groups.raft(GroupId(shard.0)).is_none_or(alone)
    }

    async fn ask_here(&self, shard: ShardId, command: &Command, deadline: Instant) -> Tried {
        let mailbox = &self.groups.shards[usize::from(shard.0)].mailbox;
        match timeout_at(deadline, mailbox.ask(command.clone())).await {
            Ok(Err(Refusal::Unavailable)) => Tried::NotDone { leader: None },
            Ok(Err(Refusal::OutcomeUnknown)) => Tried::Unknown,
            Ok(answer) => Tried::Answered(answer),
            Err(_) => Tried::Answered(Err(Refusal::OutcomeUnknown)),
        }
    }

    async fn forward(
        &self,
        leader: u64,
        shard: ShardId,
        command: &Command,
        deadline: Instant,
    ) -> Tried {
        let patience = deadline.saturating_duration_since(Instant::now());
        let forwarded = Forwarded {
            shard: shard.0,
            command: command.clone(),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        let payload = codec::encode(&forwarded).into();
        let call = self
            .groups
            .peers
            .call(leader, Lane::Forward, Kind::Forward as u8, payload);
        match rpc::answer::<ForwardAnswer>(call.within(patience).await) {
            Ok(ForwardAnswer::Decided(Err(Refusal::Unavailable))) => {
                Tried::NotDone { leader: None }
            }
            Ok(ForwardAnswer::Decided(Err(Refusal::OutcomeUnknown))) => Tried::Unknown,
            Ok(ForwardAnswer::Decided(answer)) => Tried::Answered(answer),
            Ok(ForwardAnswer::Elsewhere { leader }) => Tried::NotDone { leader },
            Err(rpc::Error::Call(CallError::NotSent(_))) => Tried::NotDone { leader: None },
            Err(rpc::Error::Call(CallError::TimedOut)) => {
                Tried::Answered(Err(Refusal::OutcomeUnknown))
            }
            Err(error) => {
                tracing::debug!(leader, shard = shard.0, %error, "a forwarded command's outcome is not known");
                Tried::Unknown
            }
        }
    }
}
