//! The primitives that `apply` and `revert` are made of: an order goes in or out, or moves from one
//! state to another, and its units with it. Each keeps usage, deadlines, digest and `untold` true.

use std::net::IpAddr;

use super::apply::ApplyError;
use super::index::Vacancy;
use super::orders::{Line, NONE, OrderSlot, stored_remaining};
use super::{Shard, digest, ip_bytes, note_order};
use crate::ids::{OrderId, Pin, UnixMs};
use crate::order::{CartPart, CartRole, Order, OrderState};
use crate::promotion::Channel;

/// What an order slot is made from.
pub(super) struct NewOrder<'a> {
    pub(super) order_id: &'a OrderId,
    /// Where its id goes in the index: see [`Shard::vacancy`].
    pub(super) vacancy: Vacancy,
    /// Absent for a tombstone.
    pub(super) buyer: Option<(&'a Pin, IpAddr, Channel)>,
    pub(super) granted_at: UnixMs,
    pub(super) pay_within_ms: u32,
    pub(super) state: OrderState,
    pub(super) cart: Option<&'a CartPart>,
}

/// Where the units of an order are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Units {
    /// In stock, never granted.
    Remaining,
    /// In a tentative or held order.
    Held,
    /// In a paid order.
    Confirmed,
    /// Back in stock from a returned order.
    Returned,
}

impl Units {
    pub(super) fn of(state: OrderState) -> Self {
        match state {
            OrderState::Tentative | OrderState::Held => Units::Held,
            OrderState::Confirmed { .. } => Units::Confirmed,
            OrderState::Returned { .. } => Units::Returned,
        }
    }
}

impl Shard {
    /// Puts an order in as it was, without touching the counters of its promotions.
    pub(super) fn restore_order(&mut self, order: &Order) -> Result<(), ApplyError> {
        let vacancy = self.vacancy(&order.order_id)?;
        let mut lines = smallvec::SmallVec::<[Line; 1]>::new();
        for item in &order.items {
            lines.push(Line {
                promotion: self.number(&item.promotion_id)?,
                quantity: item.quantity,
                remaining: stored_remaining(item.remaining),
                ..Line::default()
            });
        }
        let new = NewOrder {
            order_id: &order.order_id,
            vacancy,
            buyer: order
                .buyer
                .as_ref()
                .map(|buyer| (&buyer.pin, buyer.ip, buyer.channel)),
            granted_at: order.granted_at,
            pay_within_ms: u32::try_from(order.pay_by.ms_since(order.granted_at))
                .unwrap_or(u32::MAX),
            state: order.state,
            cart: order.cart.as_deref(),
        };
        self.put_order(new, &mut lines);
        Ok(())
    }

    /// Where the id of a new order goes in the index.
    pub(super) fn vacancy(&self, order_id: &OrderId) -> Result<Vacancy, ApplyError> {
        match self.order_slot_or_vacancy(order_id) {
            Ok(_) => Err(ApplyError::OrderThere(order_id.clone())),
            Err(vacancy) => Ok(vacancy),
        }
    }

    /// Puts an order in, with the usage of its pin and ip, its deadline and its digest term.
    pub(super) fn put_order(&mut self, new: NewOrder<'_>, lines: &mut [Line]) {
        if let Some(seen) = &self.seen {
            let buyer = new.buyer.map(|(pin, ip, _)| (pin, ip));
            note_order(seen, new.order_id, buyer);
        }
        let mut channel = Channel::App;
        for line in lines.iter_mut() {
            (line.pin, line.ip) = (NONE, NONE);
            if let Some((pin, ip, from)) = new.buyer {
                channel = from;
                let (ip, bytes) = ip_bytes(ip);
                line.pin = self.pins.refer(
                    &self.hasher,
                    &mut self.texts,
                    line.promotion,
                    pin.as_bytes(),
                );
                line.ip =
                    self.ips
                        .refer(&self.hasher, &mut self.texts, line.promotion, &ip[..bytes]);
            }
        }
        let id = self.texts.insert(new.order_id.as_bytes());
        let (first, more) = lines.split_first().expect("an order has an item");
        let mut order = OrderSlot::new(id, new.granted_at, new.pay_within_ms, channel, *first);
        order.mark(new.cart.is_some(), !more.is_empty());
        let slot = self.orders.insert(order);
        if !more.is_empty() {
            self.more_lines.insert(slot, more.into());
        }
        if let Some(cart) = new.cart {
            self.carts.insert(slot, cart.clone());
        }
        self.order_index.fill(new.vacancy, slot);
        if new.state.live() {
            self.count_usage(slot, true);
        }
        self.set_order_state(slot, new.state);
    }

    /// Takes an order out: the inverse of [`Shard::put_order`].
    pub(super) fn take_order(&mut self, slot: u32) {
        let state = self.orders.get(slot).state();
        self.leave_state(slot, state);
        if state.live() {
            self.count_usage(slot, false);
        }
        let lines: smallvec::SmallVec<[Line; 1]> = self.lines(slot).collect();
        let order = *self.orders.get(slot);
        self.order_index
            .remove(self.hasher.hash(self.texts.get(order.id)), slot);
        if !order.tombstone() {
            for line in lines {
                self.pins.release(&self.hasher, &mut self.texts, line.pin);
                self.ips.release(&self.hasher, &mut self.texts, line.ip);
            }
        }
        self.texts.remove(order.id);
        self.more_lines.remove(&slot);
        self.carts.remove(&slot);
        self.untold.remove(&slot);
        self.orders.remove(slot);
    }

    // Orders: from one state to another.

    pub(super) fn slot_in(&self, order_id: &OrderId, state: OrderState) -> Result<u32, ApplyError> {
        let slot = self
            .order_slot(order_id)
            .ok_or_else(|| ApplyError::NoOrder(order_id.clone()))?;
        if self.orders.get(slot).state() == state {
            Ok(slot)
        } else {
            Err(ApplyError::WrongState(order_id.clone()))
        }
    }

    /// Moves an order, its units and its usage to another state.
    pub(super) fn move_order(&mut self, slot: u32, to: OrderState) -> Result<(), ApplyError> {
        let from = self.orders.get(slot).state();
        let lines: smallvec::SmallVec<[Line; 1]> = self.lines(slot).collect();
        for line in lines {
            self.move_units(
                line.promotion,
                line.quantity,
                Units::of(from),
                Units::of(to),
            )?;
        }
        if from.live() != to.live() {
            self.count_usage(slot, to.live());
        }
        self.leave_state(slot, from);
        self.set_order_state(slot, to);
        Ok(())
    }

    /// Takes the order's term out of the digest and the order out of its deadline list.
    pub(super) fn leave_state(&mut self, slot: u32, state: OrderState) {
        let order_id = self.texts.get(self.orders.get(slot).id);
        self.digest = self
            .digest
            .wrapping_sub(digest::order_term(order_id, state));
        if state.closed_at().is_none() {
            self.deadlines.unlink(&mut self.orders, slot);
        }
    }

    /// Sets the state of an order that is in no deadline list and has no term in the digest.
    pub(super) fn set_order_state(&mut self, slot: u32, state: OrderState) {
        self.orders.get_mut(slot).set_state(state);
        let order_id = self.texts.get(self.orders.get(slot).id);
        self.digest = self
            .digest
            .wrapping_add(digest::order_term(order_id, state));
        if state.closed_at().is_none() {
            let due = self.due_at(slot);
            self.deadlines.link(&mut self.orders, slot, due);
        }
        self.note_untold(slot);
    }

    /// Keeps `untold` true: carts this shard is home of whose guests do not know the present state.
    pub(super) fn note_untold(&mut self, slot: u32) {
        let state = self.orders.get(slot).state();
        let told = match self.cart(slot).map(|cart| &cart.role) {
            Some(CartRole::Home { told, .. }) => *told == state.to_tell(),
            _ => return,
        };
        if told {
            self.untold.remove(&slot)
        } else {
            self.untold.insert(slot)
        };
    }

    fn count_usage(&mut self, slot: u32, add: bool) {
        let order = self.orders.get(slot);
        let more = if order.has_more_lines() {
            &*self.more_lines[&slot]
        } else {
            &[]
        };
        for line in std::iter::once(&order.line).chain(more) {
            if add {
                self.pins.add(line.pin, line.quantity);
                self.ips.add(line.ip, line.quantity);
            } else {
                self.pins.subtract(line.pin, line.quantity);
                self.ips.subtract(line.ip, line.quantity);
            }
        }
    }

    pub(super) fn move_units(
        &mut self,
        number: u32,
        quantity: u32,
        from: Units,
        to: Units,
    ) -> Result<(), ApplyError> {
        let quantity = u64::from(quantity);
        self.change_promotion_at(number, |promotion| {
            let counters = &mut promotion.counters;
            // A grant counts as granted when its units leave stock and a return as returned when a
            // closed order gives them back; undoing either counts it as never having been.
            match (from, to) {
                (Units::Remaining, Units::Held) => counters.granted += quantity,
                (Units::Held, Units::Remaining) => {
                    counters.granted = counters.granted.wrapping_sub(quantity);
                }
                (_, Units::Returned) => counters.returned += quantity,
                (Units::Returned, _) => {
                    counters.returned = counters.returned.wrapping_sub(quantity);
                }
                _ => {}
            }
            for (units, add) in [(from, false), (to, true)] {
                let counter = match units {
                    Units::Remaining | Units::Returned => &mut counters.remaining,
                    Units::Held => &mut counters.held,
                    Units::Confirmed => &mut counters.confirmed,
                };
                let moved = if add {
                    counter.checked_add(quantity)
                } else {
                    counter.checked_sub(quantity)
                };
                let Some(moved) = moved else { return false };
                *counter = moved;
            }
            true
        })
    }
}
