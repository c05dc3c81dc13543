//! `apply` and `revert`: the only code that changes a shard.
//!
//! Here is one arm for each kind of record and its inverse; what the arms share is in `moves`.

use std::sync::Arc;

use super::moves::{NewOrder, Units};
use super::orders::{Line, stored_remaining};
use super::{Shard, digest};
use crate::ids::{OrderId, Place, PromotionId, TryId, UnixMs};
use crate::order::{CartPart, CartRole, GrantedItem, Order, OrderState, ReturnReason, Told};
use crate::promotion::Promotion;
use crate::record::{Granted, PromotionChanged, Record, ReturnedFrom};

/// A record that cannot follow the state it meets: the log or the state is damaged, or there is a
/// bug. The shard must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// There is no such shard.
    #[error("no shard has the place {} in this log", .0.0)]
    NoShard(Place),
    /// The promotion is not there.
    #[error("promotion {0} is not there")]
    NoPromotion(PromotionId),
    /// The promotion is there already.
    #[error("promotion {0} is there already")]
    PromotionThere(PromotionId),
    /// The order is not there.
    #[error("order {0} is not there")]
    NoOrder(OrderId),
    /// The order is there already.
    #[error("order {0} is there already")]
    OrderThere(OrderId),
    /// The order is in another state.
    #[error("order {0} is not in the state that the record names")]
    WrongState(OrderId),
    /// A counter of the promotion would fall below zero or stop balancing.
    #[error("the counters of promotion {0} would not balance")]
    Unbalanced(PromotionId),
    /// The nonce is there already, or is not there.
    #[error("the nonce {} of an undone try is not as the record names it", .0.0)]
    WrongTry(TryId),
    /// The digests differ: this replica has diverged.
    #[error(
        "the digest is {here:016x} here but {recorded:016x} in the log: this replica has diverged"
    )]
    Diverged {
        /// This replica's digest.
        here: u64,
        /// The leader's digest at the same place in the log.
        recorded: u64,
    },
}

impl Shard {
    /// Applies an accepted record. An error means that the record cannot follow this state.
    pub fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        match record {
            Record::PromotionCreated { promotion } => self.put_promotion(promotion),
            Record::PromotionChanged(changed) => self.change_terms(changed, true),
            Record::PromotionClosed {
                promotion_id,
                reason,
                at,
                ..
            } => self.change_promotion(promotion_id, |promotion| {
                promotion.closed = Some((*reason, *at));
                promotion.version += 1;
                true
            }),
            Record::Granted(granted) => self.grant(granted),
            Record::Sealed {
                order_id,
                pay_by,
                items,
                ..
            } => self.seal(order_id, *pay_by, items, true),
            Record::Confirmed {
                order_id, from, at, ..
            } => {
                let slot = self.slot_in(order_id, *from)?;
                self.move_order(slot, OrderState::Confirmed { at: *at })
            }
            Record::Returned {
                order_id,
                reason,
                from,
                at,
                ..
            } => self.give_back(order_id, *reason, from, *at),
            Record::Undone { try_id, order, at } => self.undo(*try_id, order.as_deref(), *at),
            Record::Told {
                order_id,
                before,
                after,
                ..
            } => self.set_told(order_id, *before, *after),
            Record::Forgotten { orders, tries, .. } => self.forget(orders, tries),
            Record::Checkpoint { digest, .. } => self.check_digest(*digest),
        }
    }

    /// Takes back the record applied last: the exact inverse of [`Shard::apply`].
    pub fn revert(&mut self, record: &Record) -> Result<(), ApplyError> {
        match record {
            Record::PromotionCreated { promotion } => self.take_promotion(&promotion.id),
            Record::PromotionChanged(changed) => self.change_terms(changed, false),
            Record::PromotionClosed {
                promotion_id,
                before,
                ..
            } => self.change_promotion(promotion_id, |promotion| {
                promotion.closed = *before;
                promotion.version -= 1;
                true
            }),
            Record::Granted(granted) => self.ungrant(granted),
            Record::Sealed {
                order_id,
                pay_by_before,
                ..
            } => self.seal(order_id, *pay_by_before, &[], false),
            Record::Confirmed {
                order_id, from, at, ..
            } => {
                let slot = self.slot_in(order_id, OrderState::Confirmed { at: *at })?;
                self.move_order(slot, *from)
            }
            Record::Returned {
                order_id,
                reason,
                from,
                at,
                ..
            } => {
                let returned = OrderState::Returned {
                    at: *at,
                    reason: *reason,
                };
                let slot = self.slot_in(order_id, returned)?;
                match from {
                    ReturnedFrom::Held => self.move_order(slot, OrderState::Held),
                    ReturnedFrom::Tentative => self.move_order(slot, OrderState::Tentative),
                    ReturnedFrom::Confirmed { at } => {
                        self.move_order(slot, OrderState::Confirmed { at: *at })
                    }
                    ReturnedFrom::Unknown { .. } => {
                        self.take_order(slot);
                        Ok(())
                    }
                }
            }
            Record::Undone { try_id, order, .. } => self.redo(*try_id, order.as_deref()),
            Record::Told {
                order_id,
                before,
                after,
                ..
            } => self.set_told(order_id, *after, *before),
            Record::Forgotten { orders, tries, .. } => self.remember(orders, tries),
            Record::Checkpoint { digest, .. } => self.check_digest(*digest),
        }
    }

    fn check_digest(&self, recorded: u64) -> Result<(), ApplyError> {
        let here = self.digest;
        if here == recorded {
            Ok(())
        } else {
            Err(ApplyError::Diverged { here, recorded })
        }
    }

    // Promotions.

    /// Puts a promotion in; also used to load a saved one.
    pub(super) fn put_promotion(&mut self, promotion: &Promotion) -> Result<(), ApplyError> {
        if self.promotion_number(&promotion.id).is_some() {
            return Err(ApplyError::PromotionThere(promotion.id.clone()));
        }
        let number =
            u32::try_from(self.promotions.len()).expect("a shard has fewer than 2^32 promotions");
        let term = digest::promotion_term(promotion);
        self.digest = self.digest.wrapping_add(term);
        self.promotion_terms.push(term);
        self.promotion_names.insert(promotion.id.clone(), number);
        self.promotions.push(promotion.clone());
        self.shared.push(Arc::default());
        self.shown.push(None);
        self.is_touched.push(false);
        self.promotion_index
            .insert(self.hasher.hash(promotion.id.as_bytes()), number);
        self.touch(number);
        Ok(())
    }

    fn take_promotion(&mut self, promotion_id: &PromotionId) -> Result<(), ApplyError> {
        let number = self.number(promotion_id)?;
        if number as usize + 1 != self.promotions.len() {
            return Err(ApplyError::NoPromotion(promotion_id.clone()));
        }
        let term = self.promotion_terms.pop().expect("its number was found");
        self.digest = self.digest.wrapping_sub(term);
        self.promotions.pop();
        self.shared.pop();
        self.shown.pop();
        self.touched.retain(|(touched, _)| *touched != number);
        self.is_touched.pop();
        self.promotion_names.remove(promotion_id);
        self.promotion_index
            .remove(self.hasher.hash(promotion_id.as_bytes()), number);
        Ok(())
    }

    pub(super) fn number(&self, promotion_id: &PromotionId) -> Result<u32, ApplyError> {
        self.promotion_number(promotion_id)
            .ok_or_else(|| ApplyError::NoPromotion(promotion_id.clone()))
    }

    /// Changes a promotion and the digest with it; `change` says whether it was possible.
    fn change_promotion(
        &mut self,
        promotion_id: &PromotionId,
        change: impl FnOnce(&mut Promotion) -> bool,
    ) -> Result<(), ApplyError> {
        let number = self.number(promotion_id)?;
        self.change_promotion_at(number, change)
    }

    pub(super) fn change_promotion_at(
        &mut self,
        number: u32,
        change: impl FnOnce(&mut Promotion) -> bool,
    ) -> Result<(), ApplyError> {
        self.touch(number);
        let promotion = &mut self.promotions[number as usize];
        let changed = change(promotion) && promotion.counters.balanced();
        let term = digest::promotion_term(promotion);
        let before = std::mem::replace(&mut self.promotion_terms[number as usize], term);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(term);
        if changed {
            Ok(())
        } else {
            Err(ApplyError::Unbalanced(promotion.id.clone()))
        }
    }

    fn change_terms(
        &mut self,
        changed: &PromotionChanged,
        forward: bool,
    ) -> Result<(), ApplyError> {
        self.change_promotion(&changed.promotion_id, |promotion| {
            let (terms, stopped, add) = if forward {
                (
                    &changed.terms_after,
                    changed.stopped_after,
                    changed.add_quantity,
                )
            } else {
                (
                    &changed.terms_before,
                    changed.stopped_before,
                    -changed.add_quantity,
                )
            };
            if let Some(terms) = terms {
                promotion.terms = terms.clone();
            }
            promotion.stopped = stopped;
            promotion.version = promotion
                .version
                .wrapping_add_signed(if forward { 1 } else { -1 });
            let counters = &mut promotion.counters;
            counters.added += add;
            let remaining = counters.remaining.checked_add_signed(add);
            counters.remaining = remaining.unwrap_or_default();
            remaining.is_some()
        })
    }

    // Orders: a grant and its inverse.

    fn grant(&mut self, granted: &Granted) -> Result<(), ApplyError> {
        let vacancy = self.vacancy(&granted.order_id)?;
        let mut lines = smallvec::SmallVec::<[Line; 1]>::new();
        for item in &granted.items {
            let number = self.number(&item.promotion_id)?;
            self.move_units(number, item.quantity, Units::Remaining, Units::Held)?;
            let remaining = self.promotions[number as usize].counters.remaining;
            lines.push(Line {
                promotion: number,
                quantity: item.quantity,
                remaining: stored_remaining(remaining),
                ..Line::default()
            });
        }
        let order = NewOrder {
            order_id: &granted.order_id,
            vacancy,
            buyer: Some((&granted.pin, granted.ip, granted.channel)),
            granted_at: granted.at,
            pay_within_ms: granted.pay_within_ms,
            state: if granted.cart.is_some() {
                OrderState::Tentative
            } else {
                OrderState::Held
            },
            cart: granted.cart.as_deref(),
        };
        self.put_order(order, &mut lines);
        Ok(())
    }

    fn ungrant(&mut self, granted: &Granted) -> Result<(), ApplyError> {
        let state = if granted.cart.is_some() {
            OrderState::Tentative
        } else {
            OrderState::Held
        };
        let slot = self.slot_in(&granted.order_id, state)?;
        self.return_granted_units(slot)?;
        self.take_order(slot);
        Ok(())
    }

    /// Undoes the units of a grant as if it had never been.
    fn return_granted_units(&mut self, slot: u32) -> Result<(), ApplyError> {
        let lines: smallvec::SmallVec<[Line; 1]> = self.lines(slot).collect();
        lines.iter().try_for_each(|line| {
            self.move_units(line.promotion, line.quantity, Units::Held, Units::Remaining)
        })
    }

    fn seal(
        &mut self,
        order_id: &OrderId,
        pay_by: UnixMs,
        items: &[GrantedItem],
        forward: bool,
    ) -> Result<(), ApplyError> {
        let (from, to) = if forward {
            (OrderState::Tentative, OrderState::Held)
        } else {
            (OrderState::Held, OrderState::Tentative)
        };
        let slot = self.slot_in(order_id, from)?;
        self.leave_state(slot, from);
        let order = self.orders.get_mut(slot);
        order.pay_within_ms =
            u32::try_from(pay_by.ms_since(order.granted_at())).unwrap_or(u32::MAX);
        if let Some(CartPart {
            role: CartRole::Home { items: whole, .. },
            ..
        }) = self.carts.get_mut(&slot)
        {
            for (item, sealed) in whole.iter_mut().zip(items) {
                item.remaining = sealed.remaining;
            }
            if !forward {
                whole.iter_mut().for_each(|item| item.remaining = 0);
            }
        }
        self.set_order_state(slot, to);
        Ok(())
    }

    fn give_back(
        &mut self,
        order_id: &OrderId,
        reason: ReturnReason,
        from: &ReturnedFrom,
        at: UnixMs,
    ) -> Result<(), ApplyError> {
        let returned = OrderState::Returned { at, reason };
        let from = match from {
            ReturnedFrom::Held => OrderState::Held,
            ReturnedFrom::Tentative => OrderState::Tentative,
            ReturnedFrom::Confirmed { at } => OrderState::Confirmed { at: *at },
            ReturnedFrom::Unknown { promotion_id } => {
                let vacancy = self.vacancy(order_id)?;
                let line = Line {
                    promotion: self.number(promotion_id)?,
                    ..Line::default()
                };
                let tombstone = NewOrder {
                    order_id,
                    vacancy,
                    buyer: None,
                    granted_at: at,
                    pay_within_ms: 0,
                    state: returned,
                    cart: None,
                };
                self.put_order(tombstone, &mut [line]);
                return Ok(());
            }
        };
        let slot = self.slot_in(order_id, from)?;
        self.move_order(slot, returned)
    }

    fn undo(&mut self, try_id: TryId, order: Option<&Order>, at: UnixMs) -> Result<(), ApplyError> {
        if self.undone.insert(try_id, at).is_some() {
            return Err(ApplyError::WrongTry(try_id));
        }
        if let Some(order) = order {
            let slot = self.slot_in(&order.order_id, OrderState::Tentative)?;
            self.return_granted_units(slot)?;
            self.take_order(slot);
        }
        Ok(())
    }

    fn redo(&mut self, try_id: TryId, order: Option<&Order>) -> Result<(), ApplyError> {
        self.undone
            .remove(&try_id)
            .ok_or(ApplyError::WrongTry(try_id))?;
        if let Some(order) = order {
            for item in &order.items {
                let number = self.number(&item.promotion_id)?;
                self.move_units(number, item.quantity, Units::Remaining, Units::Held)?;
            }
            self.restore_order(order)?;
        }
        Ok(())
    }

    fn set_told(&mut self, order_id: &OrderId, from: Told, to: Told) -> Result<(), ApplyError> {
        let wrong = || ApplyError::WrongState(order_id.clone());
        let slot = self
            .order_slot(order_id)
            .ok_or_else(|| ApplyError::NoOrder(order_id.clone()))?;
        match self.carts.get_mut(&slot).map(|cart| &mut cart.role) {
            Some(CartRole::Home { told, .. }) if *told == from => *told = to,
            _ => return Err(wrong()),
        }
        self.note_untold(slot);
        Ok(())
    }

    fn forget(&mut self, orders: &[Order], tries: &[(TryId, UnixMs)]) -> Result<(), ApplyError> {
        for order in orders {
            let slot = self.slot_in(&order.order_id, order.state)?;
            self.take_order(slot);
        }
        tries.iter().try_for_each(|(try_id, _)| {
            self.undone
                .remove(try_id)
                .map(|_| ())
                .ok_or(ApplyError::WrongTry(*try_id))
        })
    }

    fn remember(&mut self, orders: &[Order], tries: &[(TryId, UnixMs)]) -> Result<(), ApplyError> {
        orders
            .iter()
            .try_for_each(|order| self.restore_order(order))?;
        self.undone.extend(tries.iter().copied());
        Ok(())
    }
}
