//! The actor: the owner of the shards of one log, as a pure state machine.
//!
//! Its host feeds it two streams. From the log come entries, in order, and word of how proposals
//! ended (`log`); from clients come commands, a turn at a time (`turn`). Everything a turn accepts
//! becomes one batch, proposed as one log entry. The state thus runs ahead of the log by what is
//! *pending*, and replies wait:
//!
//! - an accepted command's reply waits until its own batch is committed;
//! - a refusal, a replay or a read waits until everything pending when it was decided is committed,
//!   and leaves at once when nothing is.
//!
//! Invariant: no reply ever shows a state that a failover could take back. For that, the oldest
//! pending batch always follows the log's tail, and each other one the batch before it.

mod log;
mod turn;

use std::collections::VecDeque;
use std::sync::Arc;

use fxhash::FxHashMap;

use crate::batch::Tag;
use crate::codec::DecodeError;
use crate::command::{Answer, Refusal};
use crate::ids::{OrderId, Place, PromotionId, TryId, UnixMs};
use crate::record::Record;
use crate::replica::Replica;
use crate::seen::Seen;
use crate::shard::{ApplyError, Change, Moment, Tell, Touched};

/// What the actor wants done, in order. `R` is the host's handle for one caller's reply.
#[derive(Debug)]
pub enum Effect<R> {
    /// Answer a caller.
    Reply {
        /// Whom.
        to: R,
        /// With what.
        result: Result<Answer, Refusal>,
    },
    /// Propose an encoded batch to the log.
    Propose {
        /// Its tag, by which its end is reported.
        tag: Tag,
        /// The encoded batch.
        bytes: Vec<u8>,
    },
    /// Show readers this of promotions, which is committed.
    Publish(Vec<Change>),
    /// Ask a cart's home what became of a try, then have this shard follow.
    Ask {
        /// The shard that asks.
        guest: Place,
        /// The order.
        order_id: OrderId,
        /// The attempt.
        try_id: TryId,
        /// A promotion of home.
        home: PromotionId,
    },
    /// Tell a cart's guests what became of it, then report that they were told.
    Tell {
        /// The shard that decided.
        home: Place,
        /// What, and to whom.
        tell: Tell,
    },
}

/// What stops a shard: its log or its state is damaged, or there is a bug.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A record does not follow the state.
    #[error("entry {index} cannot be applied: {source}")]
    Apply {
        /// Log index of the entry; 0 for one not yet in the log.
        index: u64,
        /// Why.
        source: ApplyError,
    },
    /// An entry is not a batch.
    #[error("entry {index} cannot be decoded: {source}")]
    Decode {
        /// Log index of the entry.
        index: u64,
        /// Why.
        source: DecodeError,
    },
}

/// A batch that was proposed and is not yet known to be committed.
#[derive(Debug)]
struct Pending<R> {
    me: Tag,
    /// What was applied ahead of the log, for reverting.
    decided: Vec<(Place, Record)>,
    /// Promotions it touched, as they are once it is committed.
    touched: Vec<(Place, Touched)>,
    /// What waits for its commit.
    waiting: Vec<Effect<R>>,
}

/// The turn being decided.
#[derive(Debug)]
struct Turn<R> {
    moment: Moment,
    /// Answers that no record of this turn precedes.
    unvouched: Vec<(R, Result<Answer, Refusal>)>,
    decided: Vec<(Place, Record)>,
    waiting: Vec<Effect<R>>,
}

/// What the actor keeps of one shard beside its state.
#[derive(Debug)]
struct Desk {
    records_since_checkpoint: u64,
    forget_cursor: u32,
    /// When to tell a cart's guests again.
    tell_again_at: FxHashMap<TryId, UnixMs>,
    seen: Arc<Seen>,
}

/// The owner of the shards of one log.
#[derive(Debug)]
pub struct Actor<R> {
    replica: Replica,
    applied_index: u64,
    /// The nonce of the present stint; absent while this node does not decide.
    stint: Option<u64>,
    /// Tag sequence within the stint.
    seq: u64,
    pending: VecDeque<Pending<R>>,
    turn: Turn<R>,
    effects: Vec<Effect<R>>,
    /// By the shards' places.
    desks: Vec<Desk>,
    /// The shard whose deadlines are looked at first in the next turn.
    first_due: usize,
}

impl<R> Actor<R> {
    /// The owner of shards whose state is `replica`, folded up to and including `applied_index`.
    /// It follows the log until an entry lets it decide. `seen`, one for each shard, is told of every order before anybody is
    /// answered.
    pub fn new(replica: Replica, applied_index: u64, seen: Vec<Arc<Seen>>) -> Self {
        assert_eq!(replica.shards.len(), seen.len(), "one for each shard");
        let desk = |seen| Desk {
            records_since_checkpoint: 0,
            forget_cursor: 0,
            tell_again_at: FxHashMap::default(),
            seen,
        };
        let moment = Moment::at(UnixMs(0));
        let mut actor = Actor {
            replica,
            applied_index,
            stint: None,
            seq: 0,
            pending: VecDeque::new(),
            turn: Turn {
                moment,
                unvouched: Vec::new(),
                decided: Vec::new(),
                waiting: Vec::new(),
            },
            effects: Vec::new(),
            desks: seen.into_iter().map(desk).collect(),
            first_due: 0,
        };
        actor.show_orders();
        actor
    }

    /// Has those who refuse early know of every order there is.
    fn show_orders(&mut self) {
        for (shard, desk) in self.replica.shards.iter_mut().zip(&self.desks) {
            shard.show_orders(desk.seen.clone());
        }
    }

    /// The state, ahead of the log by what is pending.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Log index of the last entry taken.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// Whether this node decides now.
    pub fn deciding(&self) -> bool {
        self.stint.is_some()
    }

    /// Batches proposed and not yet known to be committed.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Moves what the actor wants done to `into`.
    pub fn take_effects(&mut self, into: &mut Vec<Effect<R>>) {
        into.append(&mut self.effects);
    }

    /// Gives the shard up: whoever waits for a commit learns that its outcome is unknown.
    pub fn abandon(mut self) -> Vec<Effect<R>> {
        for pending in std::mem::take(&mut self.pending) {
            self.answer_all(pending.waiting, &Refusal::OutcomeUnknown);
        }
        let turn = std::mem::take(&mut self.turn.waiting);
        self.answer_all(turn, &Refusal::Unavailable);
        let unvouched = std::mem::take(&mut self.turn.unvouched).into_iter();
        let refuse = |(to, _)| Effect::Reply {
            to,
            result: Err(Refusal::Unavailable),
        };
        self.effects.extend(unvouched.map(refuse));
        self.effects
    }

    /// Answers every caller among `waiting` with the same refusal and drops the rest.
    fn answer_all(&mut self, waiting: Vec<Effect<R>>, refusal: &Refusal) {
        for effect in waiting {
            if let Effect::Reply { to, .. } = effect {
                self.effects.push(Effect::Reply {
                    to,
                    result: Err(refusal.clone()),
                });
            }
        }
    }
}
