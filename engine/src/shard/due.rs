//! What time alone brings about: payment deadlines, tentative deadlines, ends of promotions,
//! retention. The host calls these in bites; each bite is bounded.

use super::Shard;
use crate::command::CartOutcome;
use crate::ids::{OrderId, PromotionId, TryId, UnixMs};
use crate::limits::{FORGET_BITE, FORGET_SCAN_BITE, UNDONE_TRY_MS};
use crate::order::{CartRole, OrderState};
use crate::promotion::CloseReason;
use crate::record::Record;

/// What to do about an order whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// This shard decides: apply and commit this.
    Record(Record),
    /// Another shard decides: ask it.
    Ask {
        /// The order.
        order_id: OrderId,
        /// The attempt.
        try_id: TryId,
        /// Leads to the shard that decides.
        home: PromotionId,
    },
}

/// A cart whose guests are to be told what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tell {
    /// The order.
    pub order_id: OrderId,
    /// The attempt it came of.
    pub try_id: TryId,
    /// A promotion of home, then one promotion of each item.
    pub items: Vec<PromotionId>,
    /// What became of it.
    pub outcome: CartOutcome,
}

impl Shard {
    /// The next order whose deadline has passed, and what to do about it. After a
    /// [`Due::Record`] is applied, or [`Shard::postpone`] called, the next one comes.
    pub fn next_due(&self, now: UnixMs) -> Option<(u32, Due)> {
        let slot = self.deadlines.first_due(now)?;
        self.decide_due(slot, now).map(|due| (slot, due))
    }

    /// Looks at the order at `slot` again not before `until`: its home was asked.
    pub fn postpone(&mut self, slot: u32, until: UnixMs) {
        self.deadlines.unlink(&mut self.orders, slot);
        self.deadlines.link(&mut self.orders, slot, until);
    }

    /// When something is due for an open order.
    pub(super) fn due_at(&self, slot: u32) -> UnixMs {
        let order = self.orders.get(slot);
        match (order.state(), self.cart(slot)) {
            (OrderState::Tentative, Some(cart)) => cart.tentative_until,
            _ => order.pay_by(),
        }
    }

    pub(super) fn decide_due(&self, slot: u32, now: UnixMs) -> Option<Due> {
        let state = self.orders.get(slot).state();
        if state.closed_at().is_some() || now < self.due_at(slot) {
            return None;
        }
        let record = match self.cart(slot) {
            None => self.expired_record(slot, now),
            Some(cart) => match (&cart.role, state) {
                (CartRole::Guest { home }, _) => {
                    let (order_id, home) = (self.order_id_at(slot), home.clone());
                    return Some(Due::Ask {
                        order_id,
                        try_id: cart.try_id,
                        home,
                    });
                }
                (CartRole::Home { .. }, OrderState::Tentative) => {
                    self.undone_record(Some(slot), cart.try_id, now)
                }
                (CartRole::Home { .. }, _) => self.expired_record(slot, now),
            },
        };
        Some(Due::Record(record))
    }

    /// Carts this shard is home of whose guests do not know their present state.
    pub fn untold(&self) -> impl Iterator<Item = Tell> {
        self.untold.iter().filter_map(|slot| self.tell(*slot))
    }

    /// What the guests of this order are to be told, if it is a cart this shard is home of and they
    /// do not know its present state.
    pub fn untold_of(&self, order_id: &OrderId) -> Option<Tell> {
        self.order_slot(order_id)
            .filter(|slot| self.untold.contains(slot))
            .and_then(|slot| self.tell(slot))
    }

    fn tell(&self, slot: u32) -> Option<Tell> {
        let cart = self.cart(slot)?;
        let CartRole::Home { items, .. } = &cart.role else {
            return None;
        };
        Some(Tell {
            order_id: self.order_id_at(slot),
            try_id: cart.try_id,
            items: items.iter().map(|item| item.promotion_id.clone()).collect(),
            outcome: self.outcome_at(slot),
        })
    }

    /// Records that close promotions whose end has come, at most `limit`.
    pub fn ended(&self, now: UnixMs, limit: usize) -> Vec<Record> {
        let over = self.promotions.iter().filter(|promotion| {
            promotion.closed.is_none() && promotion.terms.ends_at.is_some_and(|end| now >= end)
        });
        let close = |promotion_id: &PromotionId| Record::PromotionClosed {
            promotion_id: promotion_id.clone(),
            reason: CloseReason::Ended,
            before: None,
            at: now,
        };
        over.take(limit)
            .map(|promotion| close(&promotion.id))
            .collect()
    }

    /// One bite of forgetting: looks at some order slots from `cursor` on and at the nonces, and
    /// returns the record that forgets what is past its retention, if anything is, and the next
    /// cursor. An order is past it `retention_ms` after all its promotions closed; `closed` is asked when those
    /// of other shards did, as far as is known.
    pub fn forgettable(
        &self,
        cursor: u32,
        now: UnixMs,
        retention_ms: u64,
        closed: impl Fn(&PromotionId) -> Option<UnixMs>,
    ) -> (Option<Record>, u32) {
        let is_past = |closed: Option<UnixMs>| {
            closed.is_some_and(|closed| now >= closed.plus_ms(retention_ms))
        };
        let end = self.orders.end();
        let mut orders = Vec::new();
        let mut slot = if cursor >= end { 0 } else { cursor };
        for _ in 0..FORGET_SCAN_BITE {
            if slot >= end || orders.len() >= FORGET_BITE {
                break;
            }
            if self.orders.get(slot).taken()
                && self.is_over(slot, is_past)
                && self.is_over_elsewhere(slot, |promotion| is_past(closed(promotion)))
            {
                orders.push(self.order_at(slot));
            }
            slot += 1;
        }
        let mut tries = self.undone_tries();
        tries.retain(|(_, at)| now >= at.plus_ms(UNDONE_TRY_MS));
        tries.truncate(FORGET_BITE);
        let nothing = orders.is_empty() && tries.is_empty();
        (
            (!nothing).then_some(Record::Forgotten {
                orders,
                tries,
                at: now,
            }),
            slot,
        )
    }

    /// Whether an order is closed and `is_past` holds for when each of its promotions on this shard was.
    fn is_over(&self, slot: u32, is_past: impl Fn(Option<UnixMs>) -> bool) -> bool {
        self.orders.get(slot).state().closed_at().is_some()
            && !self.untold.contains(&slot)
            && self.lines(slot).all(|line| {
                let closed = self.promotion_at(line.promotion).closed;
                is_past(closed.map(|(_, at)| at))
            })
    }

    /// Whether `is_past` holds for each promotion of other shards in an order that this one decides about. They may still have it
    /// returned, or asked for, and only this shard can say what became of it.
    fn is_over_elsewhere(&self, slot: u32, is_past: impl Fn(&PromotionId) -> bool) -> bool {
        let Some(CartRole::Home { items, .. }) = self.cart(slot).map(|cart| &cart.role) else {
            return true;
        };
        items.iter().all(|item| {
            let id = &item.promotion_id;
            self.promotion_number(id).is_some() || is_past(id)
        })
    }
}
