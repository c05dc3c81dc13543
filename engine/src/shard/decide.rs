//! `decide`: one indivisible decision over the present state. It looks and never changes.
//!
//! The checks of a grab run in the order of the public contract, item by item in the order given:
//! the promotion's state, channel and rate, then the order id, then the limits, then what remains.

use super::orders::{Line, stored_remaining};
use super::{Moment, Shard, ip_bytes};
use crate::command::{Answer, Code, Command, Grab, Granted, Rejection};
use crate::early::closed_to;
use crate::ids::{PromotionId, UnixMs};
use crate::limits::{ORDERS_MAX, PAYMENT_TIMEOUT_MS_MAX};
use crate::order::{
    CartPart, CartRole, GrantedItem, GrantedItems, Item, Items, OrderState, ReturnReason, copy_of,
};
use crate::promotion::Promotion;
use crate::record::{self, Record, ReturnedFrom};

/// What a command comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// An accepted change: apply it, commit it, then answer with [`Shard::answer`].
    Record(Record),
    /// Nothing to change: a read, a replay, or something already done.
    Answer(Answer),
}

/// How a grab relates to an order id this shard knows.
pub(super) enum Known {
    /// The id is new here, and an order of it would wait so long for payment.
    New {
        /// The shortest timeout of its promotions, in milliseconds.
        pay_within_ms: u64,
    },
    /// The same grab came before.
    Same(u32),
}

pub(super) fn reject<T>(code: Code, promotion_id: Option<&PromotionId>) -> Result<T, Rejection> {
    Err(Rejection {
        code,
        promotion_id: promotion_id.cloned(),
    })
}

/// The record that grants `grab`, all checks having passed.
pub(super) fn grant_record(
    grab: &Grab,
    cart: Option<Box<CartPart>>,
    pay_within_ms: u64,
    moment: &Moment,
) -> record::Granted {
    record::Granted {
        order_id: grab.order_id.clone(),
        pin: grab.pin.clone(),
        ip: grab.ip,
        channel: grab.channel,
        items: copy_of(&grab.items),
        at: moment.now,
        pay_within_ms: u32::try_from(pay_within_ms).expect("the longest timeout fits 32 bits"),
        cart,
    }
}

impl Shard {
    /// Decides `command` at this moment.
    pub fn decide(&self, command: &Command, moment: &Moment) -> Result<Decision, Rejection> {
        match command {
            Command::Grab(grab) => self.decide_grab(grab, moment),
            Command::TryGrab(attempt) => self.decide_try(attempt, moment),
            Command::Seal {
                order_id,
                try_id,
                pay_by,
                items,
            } => self.decide_seal(order_id, *try_id, *pay_by, items, moment),
            Command::Undo { order_id, try_id } => Ok(self.decide_undo(order_id, *try_id, moment)),
            Command::Resolve { order_id, try_id } => {
                Ok(self.decide_resolve(order_id, *try_id, moment))
            }
            Command::Follow {
                order_id,
                try_id,
                outcome,
            } => Ok(self.decide_follow(order_id, *try_id, *outcome, moment)),
            Command::Told { order_id, outcome } => Ok(self.decide_told(order_id, *outcome, moment)),
            Command::Confirm { order_id } => self.decide_confirm(order_id, moment),
            Command::Cancel {
                order_id,
                reason,
                refund,
                promotion_id,
            } => self.decide_cancel(order_id, *reason, *refund, promotion_id.as_ref(), moment),
            Command::GetOrder { order_id } => {
                let slot = self.deciding_slot(order_id)?;
                Ok(Decision::Answer(self.order_answer(slot)))
            }
            Command::CreatePromotion {
                promotion_id,
                quantity,
                terms,
            } => self.decide_create(promotion_id, *quantity, terms, moment),
            Command::ChangePromotion {
                promotion_id,
                change,
            } => self.decide_change(promotion_id, change, moment),
            Command::StopPromotion {
                promotion_id,
                stopped,
            } => self.decide_stop(promotion_id, *stopped, moment),
            Command::DeletePromotion { promotion_id } => self.decide_delete(promotion_id, moment),
            Command::GetPromotion { promotion_id } => {
                let number = self.known_promotion(promotion_id)?;
                Ok(Decision::Answer(
                    self.promotion_answer(number, false, moment),
                ))
            }
            Command::ListPromotions {
                state,
                after,
                limit,
            } => Ok(Decision::Answer(self.list_promotions(
                *state,
                after.as_ref(),
                *limit,
                moment,
            ))),
        }
    }

    /// What to answer once `record`, decided from `command` and applied, is committed.
    pub fn answer(&self, command: &Command, record: &Record, moment: &Moment) -> Answer {
        match record {
            Record::PromotionCreated { promotion } => {
                self.answer_about(&promotion.id, true, moment)
            }
            Record::PromotionChanged(changed) => {
                self.answer_about(&changed.promotion_id, false, moment)
            }
            Record::PromotionClosed { promotion_id, .. } => {
                self.answer_about(promotion_id, false, moment)
            }
            Record::Granted(granted) => Answer::Granted(self.just_granted(granted)),
            Record::Sealed { order_id, .. } => match command {
                Command::Follow { .. } => Answer::Done,
                _ => self
                    .order_slot(order_id)
                    .map_or(Answer::Done, |slot| self.granted_answer(slot, false)),
            },
            Record::Confirmed { order_id, .. } | Record::Returned { order_id, .. } => match command
            {
                Command::Follow { .. } => Answer::Done,
                Command::Resolve { .. } => Answer::Outcome(self.outcome_of(order_id)),
                _ => self
                    .order_slot(order_id)
                    .map_or(Answer::Done, |slot| self.order_answer(slot)),
            },
            Record::Undone { .. } if matches!(command, Command::Resolve { .. }) => {
                Answer::Outcome(crate::command::CartOutcome::Undone)
            }
            Record::Undone { .. }
            | Record::Told { .. }
            | Record::Forgotten { .. }
            | Record::Checkpoint { .. } => Answer::Done,
        }
    }

    /// Counts the attempts of a grab that was decided: every item that came as far as the rate
    /// check and passed it, whatever was decided after.
    pub fn count_attempts(
        &mut self,
        grab: &Grab,
        result: &Result<Decision, Rejection>,
        moment: &Moment,
    ) {
        let reached = match result {
            Ok(Decision::Record(_)) => grab.items.len(),
            Ok(Decision::Answer(_)) => 1,
            Err(rejection) => {
                let failing = grab
                    .items
                    .iter()
                    .position(|item| Some(&item.promotion_id) == rejection.promotion_id.as_ref());
                let failing = failing.unwrap_or(0);
                let uncounted = matches!(
                    rejection.code,
                    Code::PromotionNotFound
                        | Code::NotStarted
                        | Code::Ended
                        | Code::Stopped
                        | Code::Deleted
                        | Code::ChannelClosed
                        | Code::RateLimited { .. }
                        | Code::TryUndone
                );
                if uncounted { failing } else { failing + 1 }
            }
        };
        for item in grab.items.iter().take(reached) {
            if let Some(number) = self.promotion_number(&item.promotion_id) {
                let terms = &self.promotions[number as usize].terms;
                self.attempts_of(number).count(terms, moment);
            }
        }
    }

    fn decide_grab(&self, grab: &Grab, moment: &Moment) -> Result<Decision, Rejection> {
        match self.check_grab(grab, None, moment)? {
            Known::Same(slot) => Ok(Decision::Answer(self.granted_answer(slot, true))),
            Known::New { pay_within_ms } => Ok(Decision::Record(Record::Granted(grant_record(
                grab,
                None,
                pay_within_ms,
                moment,
            )))),
        }
    }

    /// Runs all checks of a grab in their fixed order. `part` is the part in a cart, if it is one.
    pub(super) fn check_grab(
        &self,
        grab: &Grab,
        part: Option<&CartPart>,
        moment: &Moment,
    ) -> Result<Known, Rejection> {
        let mut pay_within_ms = PAYMENT_TIMEOUT_MS_MAX;
        for (position, item) in grab.items.iter().enumerate() {
            let number = self.check_open(item, grab, moment)?;
            if position == 0
                && let Some(slot) = self.check_order_id(grab, part)?
            {
                return Ok(Known::Same(slot));
            }
            self.check_limits(number, item, grab)?;
            let promotion = &self.promotions[number as usize];
            pay_within_ms = pay_within_ms.min(promotion.terms.payment_timeout_ms);
            let remaining = promotion.counters.remaining;
            if remaining < u64::from(item.quantity) {
                return reject(Code::SoldOut { remaining }, Some(&item.promotion_id));
            }
        }
        self.check_room()?;
        Ok(Known::New { pay_within_ms })
    }

    /// There is room for one more order.
    pub(super) fn check_room(&self) -> Result<(), Rejection> {
        if self.orders.len() < ORDERS_MAX && self.texts.has_room() {
            Ok(())
        } else {
            reject(Code::ShardFull, None)
        }
    }

    /// The promotion exists, is open, is sold on this channel and has attempts left.
    fn check_open(&self, item: &Item, grab: &Grab, moment: &Moment) -> Result<u32, Rejection> {
        let number = self.known_promotion(&item.promotion_id)?;
        let promotion = &self.promotions[number as usize];
        if let Some(code) = closed_to(promotion, grab.channel, moment.now) {
            return reject(code, Some(&item.promotion_id));
        }
        if let Some(retry_after_ms) = self.attempts_of(number).used_up(&promotion.terms, moment) {
            return reject(
                Code::RateLimited { retry_after_ms },
                Some(&item.promotion_id),
            );
        }
        Ok(number)
    }

    /// The order id is new here, or names this same grab.
    fn check_order_id(
        &self,
        grab: &Grab,
        part: Option<&CartPart>,
    ) -> Result<Option<u32>, Rejection> {
        let Some(slot) = self.order_slot(&grab.order_id) else {
            return Ok(None);
        };
        let order = self.orders.get(slot);
        if order.state() == OrderState::Tentative {
            let same_try = part.is_some_and(|part| {
                self.cart(slot)
                    .is_some_and(|cart| cart.try_id == part.try_id)
            });
            return if same_try {
                Ok(Some(slot))
            } else {
                reject(Code::InDoubt, None)
            };
        }
        if !order.tombstone() && !self.same_content(slot, grab, part) {
            return reject(Code::OrderMismatch, None);
        }
        if matches!(order.state(), OrderState::Returned { .. }) {
            return reject(Code::OrderReturned, None);
        }
        Ok(Some(slot))
    }

    /// Whether the order at `slot` came of the same grab: same buyer, same channel, same items.
    fn same_content(&self, slot: u32, grab: &Grab, part: Option<&CartPart>) -> bool {
        let order = self.orders.get(slot);
        let (ip, bytes) = ip_bytes(grab.ip);
        let same_buyer = self.pins.key(&self.texts, order.line.pin) == grab.pin.as_bytes()
            && self.ips.key(&self.texts, order.line.ip) == &ip[..bytes]
            && order.channel() == grab.channel;
        let same_lines = || {
            self.lines(slot).count() == grab.items.len()
                && self.lines(slot).all(|line| self.names(line, &grab.items))
        };
        same_buyer
            && match (
                self.cart(slot).map(|cart| &cart.role),
                part.map(|part| &part.role),
            ) {
                (None, None) => same_lines(),
                (Some(CartRole::Guest { home: known }), Some(CartRole::Guest { home })) => {
                    known == home && same_lines()
                }
                (Some(CartRole::Home { items: known, .. }), Some(CartRole::Home { items, .. })) => {
                    known.len() == items.len()
                        && known.iter().all(|item| {
                            items.iter().any(|other| {
                                (&other.promotion_id, other.quantity)
                                    == (&item.promotion_id, item.quantity)
                            })
                        })
                }
                _ => false,
            }
    }

    fn names(&self, line: Line, items: &[Item]) -> bool {
        let promotion_id = &self.promotions[line.promotion as usize].id;
        items
            .iter()
            .any(|item| item.promotion_id == *promotion_id && item.quantity == line.quantity)
    }

    /// Limits per order, per pin and per ip, in this order.
    fn check_limits(&self, number: u32, item: &Item, grab: &Grab) -> Result<(), Rejection> {
        let limits = &self.promotions[number as usize].terms.limits;
        let over = |limit: Option<u32>, used: &dyn Fn() -> u32| {
            limit.is_some_and(|limit| {
                u64::from(used()) + u64::from(item.quantity) > u64::from(limit)
            })
        };
        if over(limits.per_order, &|| 0) {
            return reject(Code::OrderLimit, Some(&item.promotion_id));
        }
        if over(limits.per_pin, &|| {
            self.pins
                .units(&self.hasher, &self.texts, number, grab.pin.as_bytes())
        }) {
            return reject(Code::PinLimit, Some(&item.promotion_id));
        }
        let (ip, bytes) = ip_bytes(grab.ip);
        if over(limits.per_ip, &|| {
            self.ips
                .units(&self.hasher, &self.texts, number, &ip[..bytes])
        }) {
            return reject(Code::IpLimit, Some(&item.promotion_id));
        }
        Ok(())
    }

    pub(super) fn known_promotion(&self, promotion_id: &PromotionId) -> Result<u32, Rejection> {
        match self.promotion_number(promotion_id) {
            Some(number) => Ok(number),
            None => reject(Code::PromotionNotFound, Some(promotion_id)),
        }
    }

    pub(super) fn order_answer(&self, slot: u32) -> Answer {
        Answer::Order(Box::new(self.order_at(slot)))
    }

    /// What the grab that was granted and applied last is answered: the same as [`Shard::granted_answer`] says of its order.
    fn just_granted(&self, granted: &record::Granted) -> Granted {
        let granted_item = |item: &Item| {
            let promotion = self.promotion(&item.promotion_id);
            let remaining = promotion.map_or(0, |promotion| promotion.counters.remaining);
            GrantedItem {
                promotion_id: item.promotion_id.clone(),
                quantity: item.quantity,
                remaining: u64::from(stored_remaining(remaining)),
            }
        };
        let items = match granted.items.as_slice() {
            [one] => GrantedItems::from_buf([granted_item(one)]),
            items => items.iter().map(granted_item).collect(),
        };
        Granted {
            order_id: granted.order_id.clone(),
            replayed: false,
            pay_by: granted.at.plus_ms(u64::from(granted.pay_within_ms)),
            items,
        }
    }

    /// What a grab is answered: for a cart at home, once it is sealed, the whole order.
    pub(super) fn granted_answer(&self, slot: u32, replayed: bool) -> Answer {
        let order = self.orders.get(slot);
        let whole = match self.cart(slot).map(|cart| &cart.role) {
            Some(CartRole::Home { items, .. }) if order.state() != OrderState::Tentative => {
                Some(items)
            }
            _ => None,
        };
        let items: GrantedItems = match whole {
            Some(items) => items.clone(),
            None => self.lines(slot).map(|line| self.item_of(line)).collect(),
        };
        Answer::Granted(Granted {
            order_id: self.order_id_at(slot),
            replayed,
            pay_by: order.pay_by(),
            items,
        })
    }

    fn answer_about(&self, promotion_id: &PromotionId, created: bool, moment: &Moment) -> Answer {
        self.promotion_number(promotion_id)
            .map_or(Answer::Done, |number| {
                self.promotion_answer(number, created, moment)
            })
    }

    pub(super) fn promotion_answer(&self, number: u32, created: bool, moment: &Moment) -> Answer {
        Answer::Promotion {
            view: Box::new(self.view_at(number, moment)),
            created,
        }
    }

    pub(super) fn promotion_at(&self, number: u32) -> &Promotion {
        &self.promotions[number as usize]
    }

    /// The items of an order on this shard.
    pub(super) fn lines_of(&self, slot: u32) -> Items {
        let item = |line: Line| Item {
            promotion_id: self.promotions[line.promotion as usize].id.clone(),
            quantity: line.quantity,
        };
        self.lines(slot).map(item).collect()
    }

    /// The record that gives the order at `slot` back.
    pub(super) fn returned_record(
        &self,
        slot: u32,
        reason: ReturnReason,
        from: ReturnedFrom,
        at: UnixMs,
    ) -> Record {
        let (order_id, lines) = (self.order_id_at(slot), self.lines_of(slot));
        Record::Returned {
            order_id,
            lines,
            reason,
            from,
            at,
        }
    }
}
