//! The way of commands to the leader of their shard, wherever that is: here, or forwarded, many to a frame; and again,
//! until the deadline, while leaders change.
//!
//! Invariant: a command whose outcome is unknown is repeated only if once more is the same as once, and however
//! such a repeat is refused, the outcome stays unknown: the first may still take effect.

use std::iter::zip;
use std::sync::Arc;
use std::time::Duration;

use openraft::RaftMetrics;
use qiang_engine::routing::SHARDS;
use qiang_engine::{Command, Refusal, ShardId, codec};
use smallvec::smallvec;
use tokio::time::{Instant, sleep};

use crate::early::Early;
use crate::groups::Groups;
use crate::peer::{CallError, Lane, Responder};
use crate::question::{Each, Outcome, Question};
use crate::rpc::{self, ForwardAnswer, Forwarded, Kind};
use crate::types::TypeConfig;

/// The pause before a shard without a leader is asked again: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(40);

/// What asking one node came to.
enum Tried {
    /// An answer to each command.
    Answered(Each<Outcome>),
    /// Nothing was done; somebody else may lead.
    NotDone {
        leader: Option<u64>,
    },
    Unknown,
}

/// Whether `outcome` is what the caller of `command` is to be told: it is not to be tried again.
fn is_final(command: &Command, outcome: &Outcome) -> bool {
    match outcome {
        Err(Refusal::Unavailable) => false,
        Err(Refusal::OutcomeUnknown) => !command.may_repeat(),
        _ => true,
    }
}

/// Commands that a first attempt did not bring to their end, and what they came to so far.
struct Journey<'a> {
    commands: &'a [Command],
    outcomes: Each<Option<Outcome>>,
    /// Whether an attempt may have taken effect, by command.
    unknown: Each<bool>,
}

impl<'a> Journey<'a> {
    fn of(commands: &'a [Command]) -> Self {
        Journey {
            commands,
            outcomes: smallvec![None; commands.len()],
            unknown: smallvec![false; commands.len()],
        }
    }

    /// Positions of commands without an outcome, ascending.
    fn open(&self) -> Each<usize> {
        let positions = 0..self.commands.len();
        positions
            .filter(|position| self.outcomes[*position].is_none())
            .collect()
    }

    /// Takes what an attempt at the commands at `open` came to; who leads instead, if that was learnt.
    fn take_all(&mut self, open: Each<usize>, tried: Tried) -> Option<u64> {
        let outcomes = match tried {
            Tried::Answered(outcomes) => outcomes,
            Tried::NotDone { leader } => return leader,
            Tried::Unknown => smallvec![Err(Refusal::OutcomeUnknown); open.len()],
        };
        for (position, outcome) in open.into_iter().zip(outcomes) {
            self.take(position, outcome);
        }
        None
    }

    /// Takes what the attempt at the command at `position` came to; it stays open if it is to be tried again.
    fn take(&mut self, position: usize, outcome: Outcome) {
        if is_final(&self.commands[position], &outcome) {
            // The attempt before may still take effect where this one did not.
            let in_doubt = outcome.is_err() && self.may_have_happened(position);
            self.outcomes[position] = Some(if in_doubt {
                Err(Refusal::OutcomeUnknown)
            } else {
                outcome
            });
        } else if outcome == Err(Refusal::OutcomeUnknown) {
            self.unknown[position] = true;
        }
    }

    fn may_have_happened(&self, position: usize) -> bool {
        self.unknown[position] && !self.commands[position].is_read()
    }

    /// The time is over: what is still open ends with what is known of it.
    fn end(mut self) -> Each<Outcome> {
        for position in self.open() {
            self.outcomes[position] = Some(Err(if self.may_have_happened(position) {
                Refusal::OutcomeUnknown
            } else {
                Refusal::Unavailable
            }));
        }
        self.outcomes.into_iter().flatten().collect()
    }
}

/// Finds leaders.
#[derive(Clone)]
pub struct Router {
    groups: Arc<Groups>,
    early: Early,
}

impl Router {
    pub fn new(groups: Arc<Groups>, early: Early) -> Self {
        Router { groups, early }
    }

    /// Has the leader of `shard` answer each command of `question`, in their order.
    pub async fn ask(
        &self,
        shard: ShardId,
        question: &Arc<Question>,
        deadline: Instant,
    ) -> Each<Outcome> {
        let commands = question.commands();
        if shard.0 >= SHARDS {
            return Journey::of(commands).end();
        }
        if let Some(refused) = self.refuse_early(shard, commands) {
            return refused;
        }
        let leader = self.leader(shard, 0);
        let tried = self.attempt(leader, shard, question, deadline).await;
        let is_over = |outcomes: &Each<Outcome>| {
            zip(commands, outcomes).all(|(command, outcome)| is_final(command, outcome))
        };
        match tried {
            Tried::Answered(outcomes) if is_over(&outcomes) => outcomes,
            tried => Box::pin(self.try_again(shard, commands, tried, deadline)).await,
        }
    }

    /// Asks anew, until the deadline, what the first attempt did not bring to its end.
    async fn try_again(
        &self,
        shard: ShardId,
        commands: &[Command],
        mut tried: Tried,
        deadline: Instant,
    ) -> Each<Outcome> {
        let mut journey = Journey::of(commands);
        let mut open = journey.open();
        let mut pause = PAUSE_MIN;
        let mut attempt = 0;
        loop {
            let hint = journey.take_all(open, tried);
            open = journey.open();
            let in_vain = || Instant::now() + pause >= deadline || self.is_hopeless(shard);
            if open.is_empty() || in_vain() {
                return journey.end();
            }
            attempt += 1;
            if hint.is_none() {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            let leader = hint.or_else(|| self.leader(shard, attempt));
            let again = open.iter().map(|at| commands[*at].clone());
            let again = Question::new(again.collect::<Each<_>>());
            tried = self.attempt(leader, shard, &again, deadline).await;
        }
    }

    /// Asks `leader`.
    async fn attempt(
        &self,
        leader: Option<u64>,
        shard: ShardId,
        question: &Arc<Question>,
        deadline: Instant,
    ) -> Tried {
        match leader {
            Some(leader) if leader == self.groups.node_id => {
                let place = self.groups.sharing.place_of(shard);
                let mailbox = &self.groups.of(shard).mailbox;
                Tried::Answered(mailbox.ask(place, question, deadline).await)
            }
            Some(leader) => {
                let commands = question.commands();
                self.forward(leader, shard, commands, deadline).await
            }
            None => Tried::NotDone { leader: None },
        }
    }

    /// Refuses a lone grab without asking the shard's actor, if this node is where it is decided and it is certain.
    fn refuse_early(&self, shard: ShardId, commands: &[Command]) -> Option<Each<Outcome>> {
        let [Command::Grab(grab)] = commands else {
            return None;
        };
        let place = self.groups.sharing.place_of(shard);
        let rejection = self.early.refuse(self.groups.of(shard), place, grab)?;
        Some(smallvec![Err(Refusal::Rejected(rejection))])
    }

    /// Answers another node's question for a shard that it believes is led here.
    pub fn answer_forwarded(&self, forwarded: Forwarded<Each<Command>>, to: Responder) {
        let Forwarded { shard, commands } = forwarded;
        let shard = ShardId(shard);
        let answer = |to: Responder, answer| {
            to.answer(&rpc::encode_answer::<ForwardAnswer>(&Ok(answer)));
        };
        if shard.0 >= SHARDS || commands.is_empty() {
            return answer(to, ForwardAnswer::Elsewhere { leader: None });
        }
        let group = self.groups.of(shard);
        if group.look(|metrics| metrics.state.is_leader()) != Some(true) {
            let leader = group.look(|metrics| metrics.current_leader).flatten();
            let leader = leader.filter(|leader| *leader != self.groups.node_id);
            return answer(to, ForwardAnswer::Elsewhere { leader });
        }
        if let Some(refused) = self.refuse_early(shard, &commands) {
            return answer(to, ForwardAnswer::Decided(refused));
        }
        let taker = move |outcomes| answer(to, ForwardAnswer::Decided(outcomes));
        let question = Question::for_taker(commands, taker);
        let place = self.groups.sharing.place_of(shard);
        group.mailbox.tell(place, &question);
    }

    /// Who leads a shard, as far as this node knows; where it runs no replica, another that has one.
    fn leader(&self, shard: ShardId, attempt: usize) -> Option<u64> {
        let leader = |metrics: &RaftMetrics<TypeConfig>| {
            let runs = metrics.running_state.is_ok();
            runs.then_some(metrics.current_leader)
        };
        if let Some(leader) = self.groups.of(shard).look(leader).flatten() {
            return leader;
        }
        let state = self.groups.meta_state.borrow();
        let place = state.cluster.placement.of(shard.0)?;
        let first = place.leader.into_iter();
        let others = first
            .chain(place.voters.iter().copied())
            .filter(|id| *id != self.groups.node_id);
        let others: Vec<u64> = others.collect();
        others.get(attempt % others.len().max(1)).copied()
    }

    /// Whether waiting for a leader is in vain: the cluster goes on without this node, or the shard or the whole store stopped here
    /// and nobody else has it.
    fn is_hopeless(&self, shard: ShardId) -> bool {
        if self.groups.peers.credentials().out().is_some() {
            return true;
        }
        let group = self.groups.of(shard);
        let stopped = || group.stopped().is_some() || self.groups.store.fault().is_some();
        let own = self.groups.node_id;
        let alone = || {
            let state = self.groups.meta_state.borrow();
            state.cluster.voters(shard.0).iter().all(|id| *id == own)
        };
        stopped() && alone()
    }

    async fn forward(
        &self,
        leader: u64,
        shard: ShardId,
        commands: &[Command],
        deadline: Instant,
    ) -> Tried {
        let patience = deadline.saturating_duration_since(Instant::now());
        let forwarded = Forwarded {
            shard: shard.0,
            commands,
        };
        let payload = codec::encode(&forwarded);
        let call = self
            .groups
            .peers
            .call(leader, Lane::Forward, Kind::Forward as u8, &payload);
        match rpc::answer::<ForwardAnswer>(call.within(patience).await) {
            Ok(ForwardAnswer::Decided(outcomes)) if outcomes.len() == commands.len() => {
                Tried::Answered(outcomes)
            }
            Ok(ForwardAnswer::Decided(_)) => Tried::Unknown,
            Ok(ForwardAnswer::Elsewhere { leader }) => Tried::NotDone { leader },
            Err(rpc::Error::Call(CallError::NotSent(_))) => Tried::NotDone { leader: None },
            Err(error) => {
                tracing::debug!(leader, shard = shard.0, %error, "the outcome of forwarded commands is not known");
                Tried::Unknown
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use qiang_engine::command::Code;
    use qiang_engine::{Answer, PromotionId, Rejection};

    use super::*;
    use crate::question::only_outcome;

    fn promotion() -> PromotionId {
        PromotionId::new("A").expect("an id")
    }

    /// A command that may be repeated, and may take effect.
    fn delete() -> Command {
        Command::DeletePromotion {
            promotion_id: promotion(),
        }
    }

    fn read() -> Command {
        Command::GetPromotion {
            promotion_id: promotion(),
        }
    }

    fn not_found() -> Refusal {
        Refusal::Rejected(Rejection {
            code: Code::PromotionNotFound,
            promotion_id: Some(promotion()),
        })
    }

    /// What `command` comes to whose attempts come to these; the time is over after them.
    fn told(command: Command, attempts: impl IntoIterator<Item = Outcome>) -> Outcome {
        let commands = [command];
        let mut journey = Journey::of(&commands);
        for outcome in attempts {
            journey.take_all(journey.open(), Tried::Answered(smallvec![outcome]));
        }
        only_outcome(journey.end())
    }

    #[test]
    fn whatever_refuses_a_repeat_says_nothing_of_the_attempt_before() {
        for refusal in [not_found(), Refusal::Overloaded, Refusal::Unavailable] {
            let outcome = told(
                delete(),
                [Err(Refusal::OutcomeUnknown), Err(refusal.clone())],
            );
            assert_eq!(outcome, Err(Refusal::OutcomeUnknown), "{refusal:?}");
            let outcome = told(delete(), [Err(Refusal::Unavailable), Err(refusal.clone())]);
            assert_eq!(outcome, Err(refusal), "nothing had been done before");
        }
    }

    #[test]
    fn a_read_without_an_answer_has_done_nothing() {
        for refusal in [not_found(), Refusal::Overloaded, Refusal::Unavailable] {
            let outcome = told(read(), [Err(Refusal::OutcomeUnknown), Err(refusal.clone())]);
            assert_eq!(outcome, Err(refusal));
        }
    }

    #[test]
    fn what_others_may_undo_is_not_done_again() {
        let stop = Command::StopPromotion {
            promotion_id: promotion(),
            stopped: true,
        };
        let attempts = [Err(Refusal::OutcomeUnknown), Ok(Answer::Done)];
        assert_eq!(told(stop, attempts), Err(Refusal::OutcomeUnknown));
    }

    #[test]
    fn an_answer_ends_the_doubt() {
        let answered = told(delete(), [Err(Refusal::OutcomeUnknown), Ok(Answer::Done)]);
        assert_eq!(answered, Ok(Answer::Done));
    }
}
