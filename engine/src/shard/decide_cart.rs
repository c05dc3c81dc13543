//! Decisions about orders over several shards: home decides, guests ask.
//!
//! 1. Every shard sets its units aside under the coordinating node's nonce: a *tentative* grant.
//! 2. Home seals: that is the moment of success. Guests are told afterwards.
//! 3. A guest whose deadline passes never decides, it asks home. Home that does not know the try, or
//!    waited too long for it, first writes that it is undone and then says so.

use super::decide::{Decision, Known, grant_record, reject};
use super::{Moment, Shard};
use crate::command::{Answer, CartOutcome, Code, Rejection, TryGrab, TryRole};
use crate::ids::{OrderId, TryId, UnixMs};
use crate::limits::TENTATIVE_MS_MAX;
use crate::order::{CartPart, CartRole, GrantedItem, OrderState, ReturnReason, Told};
use crate::record::{Record, ReturnedFrom};

impl Shard {
    pub(super) fn decide_try(
        &self,
        attempt: &TryGrab,
        moment: &Moment,
    ) -> Result<Decision, Rejection> {
        // Nonces are forgotten after a while. A twin so late that its nonce is forgotten is past its own
        // deadline; let in, it could meet an equally late seal when its guests have long given up.
        let over = moment.now >= attempt.tentative_until;
        if over || self.undone.contains_key(&attempt.try_id) {
            return reject(Code::TryUndone, None);
        }
        let role = match &attempt.role {
            TryRole::Guest { home } => CartRole::Guest { home: home.clone() },
            TryRole::Home { items } => {
                let unsealed = |item: &crate::order::Item| GrantedItem {
                    promotion_id: item.promotion_id.clone(),
                    quantity: item.quantity,
                    remaining: 0,
                };
                CartRole::Home {
                    items: items.iter().map(unsealed).collect(),
                    told: Told::Nothing,
                }
            }
        };
        let part = CartPart {
            try_id: attempt.try_id,
            tentative_until: attempt
                .tentative_until
                .min(moment.now.plus_ms(TENTATIVE_MS_MAX)),
            role,
        };
        match self.check_grab(&attempt.grab, Some(&part), moment)? {
            Known::Same(slot) => {
                let replayed = self.orders.get(slot).state() != OrderState::Tentative;
                Ok(Decision::Answer(self.granted_answer(slot, replayed)))
            }
            Known::New { pay_within_ms } => Ok(Decision::Record(Record::Granted(grant_record(
                &attempt.grab,
                Some(Box::new(part)),
                pay_within_ms,
                moment,
            )))),
        }
    }

    pub(super) fn decide_seal(
        &self,
        order_id: &OrderId,
        try_id: TryId,
        pay_by: UnixMs,
        items: &[GrantedItem],
        moment: &Moment,
    ) -> Result<Decision, Rejection> {
        let Some(slot) = self.slot_of_try(order_id, try_id) else {
            return reject(Code::TryUndone, None);
        };
        let order = self.orders.get(slot);
        match order.state() {
            OrderState::Tentative => Ok(Decision::Record(Record::Sealed {
                order_id: order_id.clone(),
                lines: self.lines_of(slot),
                pay_by,
                pay_by_before: order.pay_by(),
                items: items.iter().cloned().collect(),
                at: moment.now,
            })),
            OrderState::Held | OrderState::Confirmed { .. } => {
                Ok(Decision::Answer(self.granted_answer(slot, false)))
            }
            OrderState::Returned { .. } => reject(Code::OrderReturned, None),
        }
    }

    pub(super) fn decide_undo(
        &self,
        order_id: &OrderId,
        try_id: TryId,
        moment: &Moment,
    ) -> Decision {
        if self.undone.contains_key(&try_id) {
            return Decision::Answer(Answer::Done);
        }
        match self.slot_of_try(order_id, try_id) {
            // What home has decided is not undone by a coordinator that did not learn of it.
            Some(slot) if self.orders.get(slot).state() != OrderState::Tentative => {
                Decision::Answer(Answer::Done)
            }
            slot => Decision::Record(self.undone_record(slot, try_id, moment.now)),
        }
    }

    /// Home's word on a try. Where there is none yet and the time is over, home writes it first.
    pub(super) fn decide_resolve(
        &self,
        order_id: &OrderId,
        try_id: TryId,
        moment: &Moment,
    ) -> Decision {
        let outcome = |outcome| Decision::Answer(Answer::Outcome(outcome));
        if self.undone.contains_key(&try_id) {
            return outcome(CartOutcome::Undone);
        }
        let Some(slot) = self.slot_of_try(order_id, try_id) else {
            return Decision::Record(self.undone_record(None, try_id, moment.now));
        };
        match self.decide_due(slot, moment.now) {
            Some(super::Due::Record(record)) => Decision::Record(record),
            _ => outcome(self.outcome_of(order_id)),
        }
    }

    /// A guest follows what home decided.
    pub(super) fn decide_follow(
        &self,
        order_id: &OrderId,
        try_id: TryId,
        outcome: CartOutcome,
        moment: &Moment,
    ) -> Decision {
        if outcome == CartOutcome::Undone {
            return self.decide_undo(order_id, try_id, moment);
        }
        let nothing = Decision::Answer(Answer::Done);
        let Some(slot) = self.slot_of_try(order_id, try_id) else {
            return nothing;
        };
        let order = self.orders.get(slot);
        let order_id = order_id.clone();
        let at = moment.now;
        let record = match (outcome, order.state()) {
            (CartOutcome::Sealed { pay_by }, OrderState::Tentative) => {
                let items = crate::order::GrantedItems::new();
                Record::Sealed {
                    order_id,
                    lines: self.lines_of(slot),
                    pay_by,
                    pay_by_before: order.pay_by(),
                    items,
                    at,
                }
            }
            (CartOutcome::Confirmed, from @ (OrderState::Tentative | OrderState::Held)) => {
                Record::Confirmed {
                    order_id,
                    lines: self.lines_of(slot),
                    from,
                    at,
                }
            }
            (CartOutcome::Returned { reason }, from) => match from {
                OrderState::Tentative => {
                    self.returned_record(slot, reason, ReturnedFrom::Tentative, at)
                }
                OrderState::Held => self.returned_record(slot, reason, ReturnedFrom::Held, at),
                OrderState::Confirmed { at: paid } => {
                    self.returned_record(slot, reason, ReturnedFrom::Confirmed { at: paid }, at)
                }
                OrderState::Returned { .. } => return nothing,
            },
            _ => return nothing,
        };
        Decision::Record(record)
    }

    pub(super) fn decide_told(
        &self,
        order_id: &OrderId,
        outcome: CartOutcome,
        moment: &Moment,
    ) -> Decision {
        let nothing = Decision::Answer(Answer::Done);
        let Some(slot) = self.order_slot(order_id) else {
            return nothing;
        };
        let Some(CartRole::Home { told, .. }) = self.cart(slot).map(|cart| &cart.role) else {
            return nothing;
        };
        let state = self.orders.get(slot).state();
        if self.outcome_of(order_id) != outcome || *told == state.to_tell() {
            return nothing;
        }
        let order_id = order_id.clone();
        Decision::Record(Record::Told {
            order_id,
            before: *told,
            after: state.to_tell(),
            at: moment.now,
        })
    }

    /// The slot of an order, if it belongs to this try.
    fn slot_of_try(&self, order_id: &OrderId, try_id: TryId) -> Option<u32> {
        self.order_slot(order_id)
            .filter(|slot| self.cart(*slot).is_some_and(|cart| cart.try_id == try_id))
    }

    pub(super) fn undone_record(&self, slot: Option<u32>, try_id: TryId, at: UnixMs) -> Record {
        Record::Undone {
            try_id,
            order: slot.map(|slot| Box::new(self.order_at(slot))),
            at,
        }
    }

    /// What home says of an order it knows; of one it does not, that it is undone.
    pub(super) fn outcome_of(&self, order_id: &OrderId) -> CartOutcome {
        let Some(slot) = self.order_slot(order_id) else {
            return CartOutcome::Undone;
        };
        self.outcome_at(slot)
    }

    pub(super) fn outcome_at(&self, slot: u32) -> CartOutcome {
        let order = self.orders.get(slot);
        match order.state() {
            OrderState::Tentative => CartOutcome::Undecided,
            OrderState::Held => CartOutcome::Sealed {
                pay_by: order.pay_by(),
            },
            OrderState::Confirmed { .. } => CartOutcome::Confirmed,
            OrderState::Returned { reason, .. } => CartOutcome::Returned { reason },
        }
    }

    /// The record by which the deciding shard ends an order whose time is over.
    pub(super) fn expired_record(&self, slot: u32, now: UnixMs) -> Record {
        self.returned_record(slot, ReturnReason::Expired, ReturnedFrom::Held, now)
    }
}
