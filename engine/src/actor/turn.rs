//! A turn: read the clock once, decide what waits, propose what was accepted as one batch.

use super::{Actor, Effect, Fatal, Pending};
use crate::batch::{Batch, Tag};
use crate::command::{Answer, Command, Refusal};
use crate::ids::{Place, PromotionId, UnixMs};
use crate::limits::{
    BATCH_RECORDS_MAX, CHECKPOINT_RECORDS, COURIER_RETRY_MS, ENTRIES_IN_FLIGHT_MAX, EXPIRE_BITE,
    EXPIRE_BITE_IDLE, FORGET_BITE, RECORDS_ON_THEIR_WAY_FEW,
};
use crate::record::Record;
use crate::shard::{Ahead, Decision, Due, Moment, Shard, Tell};

impl<R> Actor<R> {
    /// Whether a turn may accept anything now: the actor decides, and few enough batches are on
    /// their way. Otherwise the mailbox gathers, and batches grow with load by themselves.
    pub fn ready(&self) -> bool {
        self.stint.is_some() && self.pending.len() < ENTRIES_IN_FLIGHT_MAX
    }

    /// Whether a turn for `waiting` commands is worth an entry of its own now. Every entry costs the same beside what it holds, on
    /// every replica, so while many records are on their way what waits gathers until it is half as many. With every
    /// word of the log fewer are on their way, so it never waits longer than until those of now have ended.
    pub fn pays(&self, waiting: usize) -> bool {
        let pending = self.pending.iter().map(|pending| pending.decided.len());
        let pending: usize = pending.sum();
        pending <= RECORDS_ON_THEIR_WAY_FEW || 2 * waiting >= pending
    }

    /// Begins a turn.
    pub fn begin_turn(&mut self, moment: Moment) {
        let now = moment.now.max(self.turn.moment.now);
        self.turn.moment = Moment { now, ..moment };
    }

    /// Whether the turn has accepted as much as one batch should hold.
    pub fn turn_full(&self) -> bool {
        self.turn.decided.len() >= BATCH_RECORDS_MAX
    }

    /// Has the processor fetch what deciding these commands, each on the shard at its place, will look at.
    pub fn prefetch<'c>(&self, commands: impl Iterator<Item = (Place, &'c Command)>) {
        let mut ahead = Ahead::default();
        for (place, command) in commands {
            if let Some(shard) = self.replica.shards.get(place.index()) {
                ahead.command(shard, command);
            }
        }
        ahead.fetch();
    }

    /// Decides one command of a client, or of another shard, on the shard at `place`.
    pub fn handle_command(&mut self, place: Place, command: &Command, to: R) -> Result<(), Fatal> {
        if self.stint.is_none() {
            self.effects.push(Effect::Reply {
                to,
                result: Err(Refusal::Unavailable),
            });
            return Ok(());
        }
        let moment = self.turn.moment;
        let shard = self.shard_mut(place)?;
        let decision = shard.decide(command, &moment);
        let grab = match command {
            Command::Grab(grab) => Some(grab),
            Command::TryGrab(attempt) => Some(&attempt.grab),
            _ => None,
        };
        if let Some(grab) = grab {
            shard.count_attempts(grab, &decision, &moment);
        }
        let result = match decision {
            Ok(Decision::Record(record)) => {
                apply(shard, &record)?;
                let answer = shard.answer(command, &record, &moment);
                self.turn.decided.push((place, record));
                Ok(answer)
            }
            Ok(Decision::Answer(answer)) => Ok(answer),
            Err(rejection) => Err(Refusal::Rejected(rejection)),
        };
        self.reply(to, result);
        Ok(())
    }

    /// What time alone brings about, a bounded bite of it: deadlines that have passed.
    pub fn run_deadlines(&mut self) -> Result<(), Fatal> {
        if self.stint.is_none() {
            return Ok(());
        }
        let idle = self.turn.decided.is_empty();
        let mut bite = if idle { EXPIRE_BITE_IDLE } else { EXPIRE_BITE };
        // Each shard is the first in its turn, so that one with many deadlines does not hold up the others for long.
        let (shards, first) = (self.desks.len(), self.first_due);
        for place in (first..shards).chain(0..first) {
            self.run_deadlines_of(place_at(place), &mut bite)?;
        }
        self.first_due = (first + 1) % shards;
        Ok(())
    }

    fn run_deadlines_of(&mut self, place: Place, bite: &mut usize) -> Result<(), Fatal> {
        let now = self.turn.moment.now;
        while *bite > 0 {
            let shard = self.shard_mut(place)?;
            let Some((slot, due)) = shard.next_due(now) else {
                break;
            };
            *bite -= 1;
            match due {
                Due::Record(record) => self.accept(place, record)?,
                Due::Ask {
                    order_id,
                    try_id,
                    home,
                } => {
                    shard.postpone(slot, now.plus_ms(COURIER_RETRY_MS));
                    self.when_committed(Effect::Ask {
                        guest: place,
                        order_id,
                        try_id,
                        home,
                    });
                }
            }
        }
        Ok(())
    }

    /// What is looked at now and then: ends of promotions, retention, guests still to be told. The
    /// host calls it a few times a second within a turn. Orders are forgotten `retention_ms` after
    /// their promotions closed; `closed` is asked when those of other shards did, as far as is known.
    pub fn run_chores(
        &mut self,
        retention_ms: u64,
        closed: impl Fn(&PromotionId) -> Option<UnixMs>,
    ) -> Result<(), Fatal> {
        if self.stint.is_none() {
            return Ok(());
        }
        for place in (0..self.desks.len()).map(place_at) {
            self.run_chores_of(place, retention_ms, &closed)?;
        }
        Ok(())
    }

    fn run_chores_of(
        &mut self,
        place: Place,
        retention_ms: u64,
        closed: impl Fn(&PromotionId) -> Option<UnixMs>,
    ) -> Result<(), Fatal> {
        let now = self.turn.moment.now;
        for record in self.shard_mut(place)?.ended(now, FORGET_BITE) {
            self.accept(place, record)?;
        }
        let cursor = self.desks[place.index()].forget_cursor;
        let shard = self.shard_mut(place)?;
        let (forgotten, cursor) = shard.forgettable(cursor, now, retention_ms, closed);
        self.desks[place.index()].forget_cursor = cursor;
        if let Some(record) = forgotten {
            self.accept(place, record)?;
        }
        self.tell_again(place)
    }

    /// Ends the turn: what it accepted becomes one batch, pending from now on. `lease` says whether now, after everything was
    /// decided, this node is sure to be the only one that decides: without it, what no record of this turn
    /// confirms is answered `unavailable`.
    pub fn end_turn(&mut self, lease: bool) {
        self.answer_unvouched(lease);
        if self.turn.decided.is_empty() {
            debug_assert!(
                self.turn.waiting.is_empty(),
                "nothing waits for a batch that is not"
            );
            return;
        }
        let Some(stint) = self.stint else { return };
        self.tell_now();
        self.checkpoint();
        self.seq += 1;
        let me = Tag {
            stint,
            seq: self.seq,
        };
        let prev = self
            .pending
            .back()
            .map_or(self.replica.tail, |pending| pending.me);
        let decided = take(&mut self.turn.decided);
        self.effects.push(Effect::Propose {
            tag: me,
            bytes: Batch::encode_decided(me, prev, &decided),
        });
        self.pending.push_back(Pending {
            me,
            decided,
            touched: self.replica.take_touched(),
            waiting: take(&mut self.turn.waiting),
        });
    }

    fn shard_mut(&mut self, place: Place) -> Result<&mut Shard, Fatal> {
        let shard = self.replica.shard_mut(place);
        shard.map_err(|source| Fatal::Apply { index: 0, source })
    }

    fn accept(&mut self, place: Place, record: Record) -> Result<(), Fatal> {
        apply(self.shard_mut(place)?, &record)?;
        self.turn.decided.push((place, record));
        Ok(())
    }

    /// Answers once everything decided so far is committed. A record of this very turn vouches for the answer; what was
    /// proposed before does not: it may be committed by another leader, who had sold on when this one still answered.
    fn reply(&mut self, to: R, result: Result<Answer, Refusal>) {
        if self.turn.decided.is_empty() {
            self.turn.unvouched.push((to, result));
        } else {
            self.turn.waiting.push(Effect::Reply { to, result });
        }
    }

    /// Answers what was decided before this turn had a record, if the lease or a later record vouches for it.
    fn answer_unvouched(&mut self, lease: bool) {
        for (to, result) in std::mem::take(&mut self.turn.unvouched) {
            if lease && let Some(latest) = self.pending.back_mut() {
                latest.waiting.push(Effect::Reply { to, result });
            } else if lease {
                self.effects.push(Effect::Reply { to, result });
            } else if !self.turn.decided.is_empty() {
                self.turn.waiting.push(Effect::Reply { to, result });
            } else {
                let result = Err(Refusal::Unavailable);
                self.effects.push(Effect::Reply { to, result });
            }
        }
    }

    /// Does `effect` once everything decided so far is committed; at once if it is.
    fn when_committed(&mut self, effect: Effect<R>) {
        if !self.turn.decided.is_empty() {
            self.turn.waiting.push(effect);
        } else if let Some(latest) = self.pending.back_mut() {
            latest.waiting.push(effect);
        } else {
            self.effects.push(effect);
        }
    }

    /// Now and then what a turn decided on a shard ends with a digest that every replica asserts.
    fn checkpoint(&mut self) {
        for (place, _) in &self.turn.decided {
            self.desks[place.index()].records_since_checkpoint += 1;
        }
        let at = self.turn.moment.now;
        let desks = self.desks.iter_mut().zip(&self.replica.shards);
        for (place, (desk, shard)) in desks.enumerate() {
            if desk.records_since_checkpoint >= CHECKPOINT_RECORDS {
                desk.records_since_checkpoint = 0;
                let digest = shard.digest();
                let checkpoint = Record::Checkpoint { digest, at };
                self.turn.decided.push((place_at(place), checkpoint));
            }
        }
    }

    /// Has the guests of carts that this turn changed told, once the change is committed.
    fn tell_now(&mut self) {
        let changed = self
            .turn
            .decided
            .iter()
            .filter_map(|(place, record)| match record {
                Record::Sealed { order_id, .. }
                | Record::Confirmed { order_id, .. }
                | Record::Returned { order_id, .. } => {
                    let shard = self.replica.shards.get(place.index())?;
                    Some((*place, shard.untold_of(order_id)?))
                }
                _ => None,
            });
        let tells: Vec<(Place, Tell)> = changed.collect();
        for (place, tell) in tells {
            self.tell(place, tell);
        }
    }

    fn tell_again(&mut self, place: Place) -> Result<(), Fatal> {
        let now = self.turn.moment.now;
        let desk = &mut self.desks[place.index()];
        let shard = self.replica.shard_mut(place);
        let shard = shard.map_err(|source| Fatal::Apply { index: 0, source })?;
        if shard.untold().next().is_none() {
            desk.tell_again_at.clear();
            return Ok(());
        }
        let due = |tell: &Tell| {
            desk.tell_again_at
                .get(&tell.try_id)
                .is_none_or(|at| now >= *at)
        };
        let tells: Vec<Tell> = shard.untold().filter(due).take(FORGET_BITE).collect();
        for tell in tells {
            self.tell(place, tell);
        }
        Ok(())
    }

    fn tell(&mut self, home: Place, tell: Tell) {
        let again_at = self.turn.moment.now.plus_ms(COURIER_RETRY_MS);
        let desk = &mut self.desks[home.index()];
        desk.tell_again_at.insert(tell.try_id, again_at);
        self.when_committed(Effect::Tell { home, tell });
    }

    /// The moment of the present turn.
    pub fn moment(&self) -> &Moment {
        &self.turn.moment
    }
}

/// Takes what a turn has gathered, and leaves room for as much: the next one is likely to be like it.
fn take<T>(gathered: &mut Vec<T>) -> Vec<T> {
    let room = gathered.len();
    std::mem::replace(gathered, Vec::with_capacity(room))
}

fn place_at(index: usize) -> Place {
    Place(u8::try_from(index).expect("there are few shards"))
}

fn apply(shard: &mut Shard, record: &Record) -> Result<(), Fatal> {
    let applied = shard.apply(record);
    applied.map_err(|source| Fatal::Apply { index: 0, source })
}
