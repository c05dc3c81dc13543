//! Decisions about an order that is there already, or that a cancel has overtaken: confirm and cancel.

use super::decide::{Decision, reject};
use super::{Moment, Shard};
use crate::command::{Code, Rejection};
use crate::ids::{OrderId, PromotionId};
use crate::order::{CartRole, Item, Items, OrderState, ReturnReason};
use crate::record::{Record, ReturnedFrom};

impl Shard {
    pub(super) fn decide_confirm(
        &self,
        order_id: &OrderId,
        moment: &Moment,
    ) -> Result<Decision, Rejection> {
        let slot = self.deciding_slot(order_id)?;
        match self.orders.get(slot).state() {
            from @ (OrderState::Held | OrderState::Tentative) => {
                Ok(Decision::Record(Record::Confirmed {
                    order_id: order_id.clone(),
                    lines: self.lines_of(slot),
                    from,
                    at: moment.now,
                }))
            }
            OrderState::Confirmed { .. } => Ok(Decision::Answer(self.order_answer(slot))),
            OrderState::Returned { .. } => reject(Code::OrderReturned, None),
        }
    }

    pub(super) fn decide_cancel(
        &self,
        order_id: &OrderId,
        reason: ReturnReason,
        refund: bool,
        promotion_id: Option<&PromotionId>,
        moment: &Moment,
    ) -> Result<Decision, Rejection> {
        let Some(slot) = self.order_slot(order_id) else {
            let Some(promotion_id) = promotion_id else {
                return reject(Code::OrderNotFound, None);
            };
            self.known_promotion(promotion_id)?;
            self.check_room()?;
            let from = ReturnedFrom::Unknown {
                promotion_id: promotion_id.clone(),
            };
            let lines = Items::from_iter([Item {
                promotion_id: promotion_id.clone(),
                quantity: 0,
            }]);
            let order_id = order_id.clone();
            return Ok(Decision::Record(Record::Returned {
                order_id,
                lines,
                reason,
                from,
                at: moment.now,
            }));
        };
        self.check_home(slot)?;
        let from = match self.orders.get(slot).state() {
            OrderState::Held => ReturnedFrom::Held,
            OrderState::Tentative => ReturnedFrom::Tentative,
            OrderState::Confirmed { at } if refund => ReturnedFrom::Confirmed { at },
            OrderState::Confirmed { .. } => return reject(Code::OrderConfirmed, None),
            OrderState::Returned { .. } => return Ok(Decision::Answer(self.order_answer(slot))),
        };
        Ok(Decision::Record(
            self.returned_record(slot, reason, from, moment.now),
        ))
    }

    /// The slot of an order that this shard decides about and that anyone may see.
    pub(super) fn deciding_slot(&self, order_id: &OrderId) -> Result<u32, Rejection> {
        let Some(slot) = self.order_slot(order_id) else {
            return reject(Code::OrderNotFound, None);
        };
        self.check_home(slot)?;
        if self.orders.get(slot).state() == OrderState::Tentative {
            return reject(Code::OrderNotFound, None);
        }
        Ok(slot)
    }

    /// Refuses where another shard is home, naming the promotion that leads there.
    fn check_home(&self, slot: u32) -> Result<(), Rejection> {
        match self.cart(slot).map(|cart| &cart.role) {
            Some(CartRole::Guest { home }) => reject(Code::NotHome, Some(home)),
            _ => Ok(()),
        }
    }
}
