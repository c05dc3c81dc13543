//! A turn: read the clock once, decide what waits, propose what was accepted as one batch.

use super::{Actor, Effect, Fatal, Pending};
use crate::batch::{Batch, Tag};
use crate::command::{Answer, Command, Refusal, Rejection};
use crate::ids::UnixMs;
use crate::limits::{
    BATCH_RECORDS_MAX, CHECKPOINT_RECORDS, COURIER_RETRY_MS, ENTRIES_IN_FLIGHT_MAX, EXPIRE_BITE,
    EXPIRE_BITE_IDLE, FORGET_BITE,
};
use crate::record::Record;
use crate::shard::{Decision, Due, Moment, Tell};

impl<R> Actor<R> {
    /// Whether a turn may accept anything now: the actor decides, and few enough batches are on
    /// their way. Otherwise the mailbox gathers, and batches grow with load by themselves.
    pub fn ready(&self) -> bool {
        self.stint.is_some() && self.pending.len() < ENTRIES_IN_FLIGHT_MAX
    }

    /// Begins a turn.
    pub fn begin_turn(&mut self, moment: Moment) {
        let now = moment.now.max(self.turn.moment.now);
        self.turn.moment = Moment { now, ..moment };
    }

    /// Whether the turn has accepted as much as one batch should hold.
    pub fn turn_full(&self) -> bool {
        self.turn.records.len() >= BATCH_RECORDS_MAX
    }

    /// Decides one command of a client, or of another shard.
    pub fn handle_command(&mut self, command: &Command, to: R) -> Result<(), Fatal> {
        if self.stint.is_none() {
            self.effects.push(Effect::Reply {
                to,
                result: Err(Refusal::Unavailable),
            });
            return Ok(());
        }
        let decision = self.replica.shard.decide(command, &self.turn.moment);
        match command {
            Command::Grab(grab) => self.count_attempts(grab, &decision),
            Command::TryGrab(attempt) => self.count_attempts(&attempt.grab, &decision),
            _ => {}
        }
        let result = match decision {
            Ok(Decision::Record(record)) => {
                self.apply(&record)?;
                let answer = self
                    .replica
                    .shard
                    .answer(command, &record, &self.turn.moment);
                self.turn.records.push(record);
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
        let now = self.turn.moment.now;
        let idle = self.turn.records.is_empty();
        for _ in 0..if idle { EXPIRE_BITE_IDLE } else { EXPIRE_BITE } {
            match self.replica.shard.next_due(now) {
                None => break,
                Some((_, Due::Record(record))) => self.accept(record)?,
                Some((
                    slot,
                    Due::Ask {
                        order_id,
                        try_id,
                        home,
                    },
                )) => {
                    self.replica
                        .shard
                        .postpone(slot, now.plus_ms(COURIER_RETRY_MS));
                    self.when_committed(Effect::Ask {
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
    /// their promotions closed.
    pub fn run_chores(&mut self, retention_ms: u64) -> Result<(), Fatal> {
        if self.stint.is_none() {
            return Ok(());
        }
        let now = self.turn.moment.now;
        for record in self.replica.shard.ended(now, FORGET_BITE) {
            self.accept(record)?;
        }
        let (forgotten, cursor) =
            self.replica
                .shard
                .forgettable(self.forget_cursor, now, retention_ms);
        self.forget_cursor = cursor;
        if let Some(record) = forgotten {
            self.accept(record)?;
        }
        self.tell_again(now);
        Ok(())
    }

    /// Ends the turn: what it accepted becomes one batch, pending from now on. `lease` says whether now, after everything was
    /// decided, this node is sure to be the only one that decides: without it, what no record of this turn
    /// confirms is answered `unavailable`.
    pub fn end_turn(&mut self, lease: bool) {
        self.answer_unvouched(lease);
        if self.turn.records.is_empty() {
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
        let batch = Batch {
            me,
            prev,
            records: std::mem::take(&mut self.turn.records),
        };
        self.effects.push(Effect::Propose {
            tag: me,
            bytes: batch.encode(),
        });
        self.pending.push_back(Pending {
            me,
            records: batch.records,
            touched: self.replica.shard.take_touched(),
            waiting: std::mem::take(&mut self.turn.waiting),
        });
    }

    fn count_attempts(
        &mut self,
        grab: &crate::command::Grab,
        decision: &Result<Decision, Rejection>,
    ) {
        self.replica
            .shard
            .count_attempts(grab, decision, &self.turn.moment);
    }

    fn apply(&mut self, record: &Record) -> Result<(), Fatal> {
        self.replica
            .shard
            .apply(record)
            .map_err(|source| Fatal::Apply { index: 0, source })
    }

    fn accept(&mut self, record: Record) -> Result<(), Fatal> {
        self.apply(&record)?;
        self.turn.records.push(record);
        Ok(())
    }

    /// Answers once everything decided so far is committed. A record of this very turn vouches for the answer; what was
    /// proposed before does not: it may be committed by another leader, who had sold on when this one still answered.
    fn reply(&mut self, to: R, result: Result<Answer, Refusal>) {
        if self.turn.records.is_empty() {
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
            } else if !self.turn.records.is_empty() {
                self.turn.waiting.push(Effect::Reply { to, result });
            } else {
                let result = Err(Refusal::Unavailable);
                self.effects.push(Effect::Reply { to, result });
            }
        }
    }

    /// Does `effect` once everything decided so far is committed; at once if it is.
    fn when_committed(&mut self, effect: Effect<R>) {
        if !self.turn.records.is_empty() {
            self.turn.waiting.push(effect);
        } else if let Some(latest) = self.pending.back_mut() {
            latest.waiting.push(effect);
        } else {
            self.effects.push(effect);
        }
    }

    /// Now and then the batch ends with a digest that every replica asserts.
    fn checkpoint(&mut self) {
        self.records_since_checkpoint += self.turn.records.len() as u64;
        if self.records_since_checkpoint >= CHECKPOINT_RECORDS {
            self.records_since_checkpoint = 0;
            let digest = self.replica.shard.digest();
            self.turn.records.push(Record::Checkpoint {
                digest,
                at: self.turn.moment.now,
            });
        }
    }

    /// Has the guests of carts that this turn changed told, once the change is committed.
    fn tell_now(&mut self) {
        let changed = self.turn.records.iter().filter_map(|record| match record {
            Record::Sealed { order_id, .. }
            | Record::Confirmed { order_id, .. }
            | Record::Returned { order_id, .. } => self.replica.shard.untold_of(order_id),
            _ => None,
        });
        let tells: Vec<Tell> = changed.collect();
        for tell in tells {
            self.tell(tell);
        }
    }

    fn tell_again(&mut self, now: UnixMs) {
        let due = |tell: &Tell| {
            self.tell_again_at
                .get(&tell.try_id)
                .is_none_or(|at| now >= *at)
        };
        let tells: Vec<Tell> = self
            .replica
            .shard
            .untold()
            .filter(due)
            .take(FORGET_BITE)
            .collect();
        if tells.is_empty() && self.replica.shard.untold().next().is_none() {
            self.tell_again_at.clear();
        }
        for tell in tells {
            self.tell(tell);
        }
    }

    fn tell(&mut self, tell: Tell) {
        self.tell_again_at
            .insert(tell.try_id, self.turn.moment.now.plus_ms(COURIER_RETRY_MS));
        self.when_committed(Effect::Tell(tell));
    }

    /// The moment of the present turn.
    pub fn moment(&self) -> &Moment {
        &self.turn.moment
    }
}
