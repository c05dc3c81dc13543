//! Grabs that are refused from the board, without waking their shard: the stampede after the last unit, and the one
//! before the start.
//!
//! Invariant: an early refusal is what the shard's actor would have answered at some moment since it was asked for. The
//! board holds what is committed, and shows it before anybody is told, and all that was committed before this stint before that is known to have begun;
//! what is on its way may be committed, and seen on other nodes, before the board shows it, so an unsettled promotion goes to the actor;
//! the lease says that nobody else has committed more; and what the shard has met, pending or not, goes to the actor.

use std::sync::atomic::Ordering;
use std::time::Duration;

use qiang_engine::command::Grab;
use qiang_engine::shard::Moment;
use qiang_engine::{Place, Rejection, UnixMs, early};

use crate::board::Board;
use crate::group::ShardGroup;
use crate::options::PolicyCell;
use crate::world::Clock;

/// What early refusals rest on.
#[derive(Clone)]
pub struct Early {
    pub board: Board,
    pub policy: PolicyCell,
    pub clock: Clock,
    /// How long a quorum's answer is trusted.
    pub lease: Duration,
}

impl Early {
    /// Refuses a grab on the shard at `place` at once, if that is certain; otherwise its shard's actor is to decide.
    pub fn refuse(&self, group: &ShardGroup, place: Place, grab: &Grab) -> Option<Rejection> {
        // What waits came first. One of it may be the same grab.
        let stint = group.stint()?;
        if group.mailbox.depth() > 0 {
            return None;
        }
        let item = grab.items.first()?;
        let policy = self.policy.get();
        // An actor's time never goes back, even if the clock does.
        let decided_at = UnixMs(group.decided_at.load(Ordering::Acquire));
        let moment = Moment {
            now: self.clock.now().max(decided_at),
            default_rate: policy.default_rate,
            rate_percent: policy.rate_percent,
        };
        self.board.look(&item.promotion_id, |shown| {
            let refused = early::refuse(shown, grab, group.seen_by(place), &moment)?;
            // Asked after the board was read, of the stint that was seen before: nobody else has led in between.
            if !group.is_vouched_for(stint, self.lease) {
                return None;
            }
            if refused.counts {
                shown.attempts().count_early();
            }
            group.note_asked();
            Some(refused.rejection)
        })?
    }
}
