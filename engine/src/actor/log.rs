//! What the log says: entries in order, and how proposals ended.
//!
//! Leadership has no signals but these. An actor starts a stint of deciding only when the log
//! delivers the blank entry that its own node proposed as leader: everything earlier is then
//! applied. Anything else that is effective and not its own ends the stint.

use super::{Actor, Effect, Fatal, Pending};
use crate::batch::{Batch, Tag};
use crate::command::Refusal;
use crate::ids::Place;
use crate::replica::{Folded, Replica};
use crate::shard::{Shard, Touched};

impl<R> Actor<R> {
    /// A batch was committed at `index`.
    pub fn handle_batch(&mut self, index: u64, bytes: &[u8]) -> Result<(), Fatal> {
        let decode = |source| Fatal::Decode { index, source };
        let (me, prev) = Batch::peek(bytes).map_err(decode)?;
        self.applied_index = index;
        if self.pending.front().is_some_and(|front| front.me == me) {
            self.release_front(prev);
            return Ok(());
        }
        if prev != self.replica.tail {
            // Void: it was proposed after a proposal that never came to be, or came before it. If it is of this stint, no other
            // word of it will come.
            self.replica.voids.push(index);
            return self.handle_refused(me);
        }
        // Another node's batch took effect: what is pending here never will.
        self.abort_pending()?;
        let batch = Batch::decode(bytes).map_err(decode)?;
        let folded = self
            .replica
            .fold(index, &batch)
            .map_err(|source| Fatal::Apply { index, source })?;
        assert!(
            folded == Folded::Effective,
            "a batch that follows the tail is effective"
        );
        let touched = self.replica.take_touched();
        self.publish(touched);
        Ok(())
    }

    /// A blank entry was committed at `index`. Log order is term order, so nothing pending can follow
    /// it. `stint` is a fresh random nonce if this node proposed the blank as leader: it may decide
    /// from here on.
    pub fn handle_blank(&mut self, index: u64, stint: Option<u64>) -> Result<(), Fatal> {
        self.applied_index = index;
        self.abort_pending()?;
        self.stint = stint;
        self.seq = 0;
        Ok(())
    }

    /// An entry without meaning for the shard, such as a change of membership, was committed.
    pub fn handle_other(&mut self, index: u64) {
        self.applied_index = index;
    }

    /// A snapshot from another node replaces the state.
    pub fn handle_snapshot(&mut self, index: u64, replica: Replica) -> Result<(), Fatal> {
        self.abort_pending()?;
        assert_eq!(
            replica.shards.len(),
            self.desks.len(),
            "a log's shards are the same everywhere"
        );
        self.replica = replica;
        self.show_orders();
        self.applied_index = index;
        let shards = self.replica.shards.iter_mut();
        let changes = shards.flat_map(Shard::show_all).collect();
        self.effects.push(Effect::Publish(changes));
        Ok(())
    }

    /// The proposal `tag` was refused before it came into the log, or is void in it: it and all after it are dead,
    /// since the chain is broken there, and nothing of them was done.
    pub fn handle_refused(&mut self, tag: Tag) -> Result<(), Fatal> {
        let Some(position) = self.pending.iter().position(|pending| pending.me == tag) else {
            return Ok(());
        };
        self.stint = None;
        self.revert_from(position, &Refusal::Unavailable)
    }

    /// The outcome of the proposal `tag` is not known: stop deciding. The log will say what became of
    /// it; until then it stays pending.
    pub fn handle_unknown(&mut self, tag: Tag) {
        if self.pending.iter().any(|pending| pending.me == tag) {
            self.stint = None;
        }
    }

    /// The oldest pending batch is committed; it is applied already.
    fn release_front(&mut self, prev: Tag) {
        assert!(
            prev == self.replica.tail,
            "the oldest pending batch follows the tail"
        );
        let Pending {
            me,
            touched,
            waiting,
            ..
        } = self.pending.pop_front().expect("it was looked at just now");
        self.replica.tail = me;
        self.publish(touched);
        self.effects.extend(waiting);
    }

    /// Nothing pending will take effect as decided: take it back, newest first, and end the stint.
    fn abort_pending(&mut self) -> Result<(), Fatal> {
        self.stint = None;
        self.revert_from(0, &Refusal::OutcomeUnknown)
    }

    fn revert_from(&mut self, position: usize, refusal: &Refusal) -> Result<(), Fatal> {
        let dead = self.pending.split_off(position);
        for pending in dead.iter().rev() {
            for (place, record) in pending.decided.iter().rev() {
                let shard = self.replica.shard_mut(*place);
                shard
                    .and_then(|shard| shard.revert(record))
                    .map_err(|source| Fatal::Apply { index: 0, source })?;
            }
        }
        for pending in dead {
            self.replica.withdraw(&pending.touched);
            self.answer_all(pending.waiting, refusal);
        }
        // What was reverted was never shown to readers.
        self.replica.forget_touched();
        Ok(())
    }

    fn publish(&mut self, touched: Vec<(Place, Touched)>) {
        if !touched.is_empty() {
            let changes = self.replica.show(touched);
            self.effects.push(Effect::Publish(changes));
        }
    }
}
