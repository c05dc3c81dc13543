//! The naive model: what the contract says, in the plainest words that can be executed. Maps of whole
//! orders; what a pin, an ip or a promotion has is summed up anew for every question.
//!
//! It shares with the engine the types of commands and answers, and nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use qiang_engine::command::{CartOutcome, Code, Grab, Granted, PromotionChange, TryGrab, TryRole};
use qiang_engine::order::{
    Buyer, CartPart, CartRole, GrantedItem, Order, OrderState, ReturnReason, Told,
};
use qiang_engine::promotion::{
    CloseReason, Counters, Promotion, PromotionState, PromotionView, Terms,
};
use qiang_engine::shard::Moment;
use qiang_engine::{Answer, Command, OrderId, Pin, PromotionId, Rejection, TryId, UnixMs};

/// What the model expects of an order whose time has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// The units go back.
    Expired,
    /// Home gives up the try.
    Undone,
    /// A guest asks home.
    Asks,
}

/// A promotion and the little that its orders do not tell.
#[derive(Debug)]
struct Sale {
    terms: Terms,
    created: Terms,
    original: u64,
    added: i64,
    stopped: bool,
    closed: Option<(CloseReason, UnixMs)>,
    version: u64,
    created_at: UnixMs,
    granted: u64,
    returned: u64,
    /// Units of paid orders that were forgotten.
    forgotten: u64,
    window: Option<(UnixMs, u64)>,
}

#[derive(Debug, Default)]
pub struct Model {
    sales: BTreeMap<PromotionId, Sale>,
    pub orders: BTreeMap<OrderId, Order>,
    pub undone: BTreeMap<TryId, UnixMs>,
    /// Guests that asked home are looked at again at this time.
    postponed: BTreeMap<OrderId, UnixMs>,
}

type Outcome = Result<Answer, Rejection>;

fn refuse<T>(code: Code, promotion_id: Option<&PromotionId>) -> Result<T, Rejection> {
    Err(Rejection {
        code,
        promotion_id: promotion_id.cloned(),
    })
}

fn open(order: &Order) -> bool {
    matches!(order.state, OrderState::Tentative | OrderState::Held)
}

fn live(order: &Order) -> bool {
    open(order) || matches!(order.state, OrderState::Confirmed { .. })
}

fn units_of(order: &Order, promotion_id: &PromotionId) -> u64 {
    let items = order.items.iter();
    items
        .filter(|item| item.promotion_id == *promotion_id)
        .map(|item| u64::from(item.quantity))
        .sum()
}

fn home_of(order: &Order) -> Option<&PromotionId> {
    match order.cart.as_deref() {
        Some(CartPart {
            role: CartRole::Guest { home },
            ..
        }) => Some(home),
        _ => None,
    }
}

fn outcome(order: &Order) -> CartOutcome {
    match order.state {
        OrderState::Tentative => CartOutcome::Undecided,
        OrderState::Held => CartOutcome::Sealed {
            pay_by: order.pay_by,
        },
        OrderState::Confirmed { .. } => CartOutcome::Confirmed,
        OrderState::Returned { reason, .. } => CartOutcome::Returned { reason },
    }
}

/// What the guests of an order in this state should know.
fn to_know(order: &Order) -> Told {
    match order.state {
        OrderState::Tentative => Told::Nothing,
        OrderState::Held => Told::Sealed,
        OrderState::Confirmed { .. } => Told::Confirmed,
        OrderState::Returned { .. } => Told::Returned,
    }
}

fn granted(order: &Order, replayed: bool) -> Answer {
    let whole = match order.cart.as_deref() {
        Some(CartPart {
            role: CartRole::Home { items, .. },
            ..
        }) if order.state != OrderState::Tentative => items,
        _ => &order.items,
    };
    Answer::Granted(Granted {
        order_id: order.order_id.clone(),
        replayed,
        pay_by: order.pay_by,
        items: whole.to_vec().into(),
    })
}

/// Items as a sorted list, to compare without regard to their order.
fn wanted<'a>(items: impl Iterator<Item = (&'a PromotionId, u32)>) -> Vec<(&'a PromotionId, u32)> {
    let mut items: Vec<_> = items.collect();
    items.sort();
    items
}

impl Model {
    pub fn execute(&mut self, command: &Command, moment: &Moment) -> Outcome {
        let now = moment.now;
        match command {
            Command::Grab(grab) => self.grab(grab, None, moment),
            Command::TryGrab(attempt) => self.grab(&attempt.grab, Some(attempt), moment),
            Command::Seal {
                order_id,
                try_id,
                pay_by,
                items,
            } => self.seal(order_id, *try_id, *pay_by, items),
            Command::Undo { order_id, try_id } => Ok(self.undo(order_id, *try_id, now)),
            Command::Resolve { order_id, try_id } => {
                Ok(Answer::Outcome(self.resolve(order_id, *try_id, now)))
            }
            Command::Follow {
                order_id,
                try_id,
                outcome,
            } => Ok(self.follow(order_id, *try_id, *outcome, now)),
            Command::Told { order_id, outcome } => Ok(self.told(order_id, *outcome)),
            Command::Confirm { order_id } => {
                let order = self.decided_here(order_id)?;
                match order.state {
                    OrderState::Returned { .. } => return refuse(Code::OrderReturned, None),
                    OrderState::Confirmed { .. } => {}
                    OrderState::Held | OrderState::Tentative => {
                        self.set(order_id, OrderState::Confirmed { at: now });
                    }
                }
                Ok(self.order_answer(order_id))
            }
            Command::Cancel {
                order_id,
                reason,
                refund,
                promotion_id,
            } => self.cancel(order_id, *reason, *refund, promotion_id.as_ref(), now),
            Command::GetOrder { order_id } => {
                self.decided_here(order_id)?;
                Ok(self.order_answer(order_id))
            }
            Command::CreatePromotion {
                promotion_id,
                quantity,
                terms,
            } => self.create(promotion_id, *quantity, terms, moment),
            Command::ChangePromotion {
                promotion_id,
                change,
            } => self.change(promotion_id, change, moment),
            Command::StopPromotion {
                promotion_id,
                stopped,
            } => {
                let sale = self.changeable(promotion_id, now)?;
                if sale.stopped != *stopped {
                    sale.stopped = *stopped;
                    sale.version += 1;
                }
                Ok(self.view_answer(promotion_id, false, moment))
            }
            Command::DeletePromotion { promotion_id } => {
                let sale = self.sale(promotion_id)?;
                if !matches!(sale.closed, Some((CloseReason::Deleted, _))) {
                    sale.closed = Some((CloseReason::Deleted, now));
                    sale.version += 1;
                }
                Ok(self.view_answer(promotion_id, false, moment))
            }
            Command::GetPromotion { promotion_id } => {
                self.sale(promotion_id)?;
                Ok(self.view_answer(promotion_id, false, moment))
            }
            Command::ListPromotions {
                state,
                after,
                limit,
            } => {
                let mut views = Vec::new();
                for promotion_id in self.sales.keys() {
                    let wanted = state.is_none_or(|state| state == self.state(promotion_id, now));
                    let behind = after.as_ref().is_none_or(|after| promotion_id > after);
                    if wanted && behind && views.len() < *limit {
                        views.push(self.view(promotion_id, moment));
                    }
                }
                Ok(Answer::Promotions(views))
            }
        }
    }

    // Promotions.

    fn sale(&mut self, promotion_id: &PromotionId) -> Result<&mut Sale, Rejection> {
        match self.sales.get_mut(promotion_id) {
            Some(sale) => Ok(sale),
            None => refuse(Code::PromotionNotFound, Some(promotion_id)),
        }
    }

    fn changeable(
        &mut self,
        promotion_id: &PromotionId,
        now: UnixMs,
    ) -> Result<&mut Sale, Rejection> {
        self.sale(promotion_id)?;
        match self.state(promotion_id, now) {
            PromotionState::Ended => refuse(Code::Ended, Some(promotion_id)),
            PromotionState::Deleted => refuse(Code::Deleted, Some(promotion_id)),
            _ => self.sale(promotion_id),
        }
    }

    fn create(
        &mut self,
        promotion_id: &PromotionId,
        quantity: u64,
        terms: &Terms,
        moment: &Moment,
    ) -> Outcome {
        if let Some(sale) = self.sales.get(promotion_id) {
            if matches!(sale.closed, Some((CloseReason::Deleted, _))) {
                return refuse(Code::Deleted, Some(promotion_id));
            }
            if sale.original != quantity || sale.created != *terms {
                return refuse(Code::PromotionExists, Some(promotion_id));
            }
            return Ok(self.view_answer(promotion_id, false, moment));
        }
        let sale = Sale {
            terms: terms.clone(),
            created: terms.clone(),
            original: quantity,
            added: 0,
            stopped: false,
            closed: None,
            version: 1,
            created_at: moment.now,
            granted: 0,
            returned: 0,
            forgotten: 0,
            window: None,
        };
        self.sales.insert(promotion_id.clone(), sale);
        Ok(self.view_answer(promotion_id, true, moment))
    }

    fn change(
        &mut self,
        promotion_id: &PromotionId,
        change: &PromotionChange,
        moment: &Moment,
    ) -> Outcome {
        self.changeable(promotion_id, moment.now)?;
        let remaining = self.remaining(promotion_id);
        let sale = self.sale(promotion_id)?;
        let mut terms = sale.terms.clone();
        let PromotionChange {
            add_quantity,
            title,
            ends_at,
            limits,
            rate,
            payment_timeout_ms,
            channels,
            price,
        } = change.clone();
        terms.title = title.unwrap_or(terms.title);
        terms.ends_at = ends_at.unwrap_or(terms.ends_at);
        terms.limits = limits.unwrap_or(terms.limits);
        terms.rate = rate.unwrap_or(terms.rate);
        terms.payment_timeout_ms = payment_timeout_ms.unwrap_or(terms.payment_timeout_ms);
        terms.channels = channels.unwrap_or(terms.channels);
        terms.price = price.unwrap_or(terms.price);
        if let (Some(start), Some(end)) = (terms.starts_at, terms.ends_at)
            && end <= start
        {
            return refuse(Code::EndBeforeStart, Some(promotion_id));
        }
        let add = add_quantity.unwrap_or(0);
        if i128::from(remaining) + i128::from(add) < 0 {
            return refuse(
                Code::InsufficientRemaining { remaining },
                Some(promotion_id),
            );
        }
        if i128::from(sale.original) + i128::from(sale.added) + i128::from(add) > 1 << 31 {
            return refuse(Code::QuantityTooLarge, Some(promotion_id));
        }
        if add != 0 || terms != sale.terms {
            sale.added += add;
            sale.terms = terms;
            sale.version += 1;
        }
        Ok(self.view_answer(promotion_id, false, moment))
    }

    /// The promotion's end came and was recorded.
    pub fn end(&mut self, promotion_id: &PromotionId, now: UnixMs) {
        let sale = self.sales.get_mut(promotion_id).unwrap();
        assert!(sale.closed.is_none(), "{promotion_id} was closed before");
        assert!(sale.terms.ends_at.is_some_and(|end| end <= now));
        sale.closed = Some((CloseReason::Ended, now));
        sale.version += 1;
    }

    /// Promotions whose end has come and is not recorded yet.
    pub fn overdue(&self, now: UnixMs) -> usize {
        let open = self.sales.values().filter(|sale| sale.closed.is_none());
        open.filter(|sale| sale.terms.ends_at.is_some_and(|end| end <= now))
            .count()
    }

    fn units(&self, promotion_id: &PromotionId, counts: impl Fn(&Order) -> bool) -> u64 {
        let orders = self.orders.values().filter(|order| counts(order));
        orders.map(|order| units_of(order, promotion_id)).sum()
    }

    /// What is offered less what is out. Panics when more was granted than was offered.
    fn remaining(&self, promotion_id: &PromotionId) -> u64 {
        let sale = &self.sales[promotion_id];
        let offered = i128::from(sale.original) + i128::from(sale.added);
        let out = self.units(promotion_id, live) + sale.forgotten;
        u64::try_from(offered - i128::from(out)).expect("more was granted than was offered")
    }

    fn state(&self, promotion_id: &PromotionId, now: UnixMs) -> PromotionState {
        let sale = &self.sales[promotion_id];
        if matches!(sale.closed, Some((CloseReason::Deleted, _))) {
            PromotionState::Deleted
        } else if sale.closed.is_some() || sale.terms.ends_at.is_some_and(|end| end <= now) {
            PromotionState::Ended
        } else if sale.stopped {
            PromotionState::Stopped
        } else if sale.terms.starts_at.is_some_and(|start| start > now) {
            PromotionState::Scheduled
        } else if self.remaining(promotion_id) == 0 {
            PromotionState::SoldOut
        } else {
            PromotionState::Active
        }
    }

    pub fn view(&self, promotion_id: &PromotionId, moment: &Moment) -> PromotionView {
        let sale = &self.sales[promotion_id];
        let paid = |order: &Order| matches!(order.state, OrderState::Confirmed { .. });
        PromotionView {
            promotion: Promotion {
                id: promotion_id.clone(),
                terms: Arc::new(sale.terms.clone()),
                created_terms: Arc::new(sale.created.clone()),
                counters: Counters {
                    original: sale.original,
                    added: sale.added,
                    remaining: self.remaining(promotion_id),
                    held: self.units(promotion_id, open),
                    confirmed: self.units(promotion_id, paid) + sale.forgotten,
                    granted: sale.granted,
                    returned: sale.returned,
                },
                stopped: sale.stopped,
                closed: sale.closed,
                version: sale.version,
                created_at: sale.created_at,
            },
            attempts: self.attempts(promotion_id, moment),
        }
    }

    fn view_answer(&self, promotion_id: &PromotionId, created: bool, moment: &Moment) -> Answer {
        let view = Box::new(self.view(promotion_id, moment));
        Answer::Promotion { view, created }
    }

    pub fn promotion_ids(&self) -> impl Iterator<Item = &PromotionId> {
        self.sales.keys()
    }

    // The rate window: it opens with the first attempt after the one before has passed.

    fn window(&self, promotion_id: &PromotionId, moment: &Moment) -> Option<(UnixMs, u64)> {
        let sale = &self.sales[promotion_id];
        let length = sale
            .terms
            .rate
            .or(moment.default_rate)
            .map_or(60_000, |rate| rate.window_ms);
        sale.window
            .filter(|(start, _)| *start <= moment.now && moment.now.0 < start.0 + length)
    }

    fn attempts(&self, promotion_id: &PromotionId, moment: &Moment) -> u64 {
        self.window(promotion_id, moment)
            .map_or(0, |(_, attempts)| attempts)
    }

    /// Refuses when the window is used up, otherwise counts this attempt.
    fn attempt(&mut self, promotion_id: &PromotionId, moment: &Moment) -> Result<(), Rejection> {
        let window = self.window(promotion_id, moment);
        let (start, attempts) = window.unwrap_or((moment.now, 0));
        let sale = self.sales.get_mut(promotion_id).unwrap();
        if let Some(rate) = sale.terms.rate.or(moment.default_rate)
            && attempts >= rate.attempts * u64::from(moment.rate_percent) / 100
        {
            let retry_after_ms = start.0 + rate.window_ms - moment.now.0;
            return refuse(Code::RateLimited { retry_after_ms }, Some(promotion_id));
        }
        sale.window = Some((start, attempts + 1));
        Ok(())
    }

    // Grabs.

    fn grab(&mut self, grab: &Grab, attempt: Option<&TryGrab>, moment: &Moment) -> Outcome {
        if let Some(attempt) = attempt
            && (moment.now >= attempt.tentative_until || self.undone.contains_key(&attempt.try_id))
        {
            return refuse(Code::TryUndone, None);
        }
        for (position, item) in grab.items.iter().enumerate() {
            let promotion_id = &item.promotion_id;
            self.sale(promotion_id)?;
            let closed = match self.state(promotion_id, moment.now) {
                PromotionState::Scheduled => Some(Code::NotStarted),
                PromotionState::Ended => Some(Code::Ended),
                PromotionState::Stopped => Some(Code::Stopped),
                PromotionState::Deleted => Some(Code::Deleted),
                PromotionState::Active | PromotionState::SoldOut => None,
            };
            if let Some(code) = closed {
                return refuse(code, Some(promotion_id));
            }
            if !self
                .sale(promotion_id)?
                .terms
                .channels
                .contains(grab.channel)
            {
                return refuse(Code::ChannelClosed, Some(promotion_id));
            }
            self.attempt(promotion_id, moment)?;
            if position == 0
                && let Some(order) = self.orders.get(&grab.order_id)
            {
                return known(order, grab, attempt);
            }
            let limits = self.sales[promotion_id].terms.limits;
            let quantity = u64::from(item.quantity);
            let over = |limit: Option<u32>, used: u64| {
                limit.is_some_and(|limit| used + quantity > u64::from(limit))
            };
            if over(limits.per_order, 0) {
                return refuse(Code::OrderLimit, Some(promotion_id));
            }
            if over(limits.per_pin, self.pin_units(promotion_id, &grab.pin)) {
                return refuse(Code::PinLimit, Some(promotion_id));
            }
            if over(limits.per_ip, self.ip_units(promotion_id, grab.ip)) {
                return refuse(Code::IpLimit, Some(promotion_id));
            }
            let remaining = self.remaining(promotion_id);
            if remaining < quantity {
                return refuse(Code::SoldOut { remaining }, Some(promotion_id));
            }
        }
        Ok(self.grant(grab, attempt, moment.now))
    }

    fn grant(&mut self, grab: &Grab, attempt: Option<&TryGrab>, now: UnixMs) -> Answer {
        let mut items = Vec::new();
        let mut timeout = u64::MAX;
        for item in &grab.items {
            let remaining = self.remaining(&item.promotion_id) - u64::from(item.quantity);
            let sale = self.sales.get_mut(&item.promotion_id).unwrap();
            sale.granted += u64::from(item.quantity);
            timeout = timeout.min(sale.terms.payment_timeout_ms);
            items.push(GrantedItem {
                promotion_id: item.promotion_id.clone(),
                quantity: item.quantity,
                remaining,
            });
        }
        let cart = attempt.map(|attempt| {
            let role = match &attempt.role {
                TryRole::Guest { home } => CartRole::Guest { home: home.clone() },
                TryRole::Home { items } => CartRole::Home {
                    items: items
                        .iter()
                        .map(|item| GrantedItem {
                            promotion_id: item.promotion_id.clone(),
                            quantity: item.quantity,
                            remaining: 0,
                        })
                        .collect(),
                    told: Told::Nothing,
                },
            };
            Box::new(CartPart {
                try_id: attempt.try_id,
                tentative_until: attempt.tentative_until,
                role,
            })
        });
        let order = Order {
            order_id: grab.order_id.clone(),
            buyer: Some(Buyer {
                pin: grab.pin.clone(),
                ip: grab.ip,
                channel: grab.channel,
            }),
            items: items.into(),
            granted_at: now,
            pay_by: UnixMs(now.0 + timeout),
            state: match cart {
                Some(_) => OrderState::Tentative,
                None => OrderState::Held,
            },
            cart,
        };
        let answer = granted(&order, false);
        self.orders.insert(grab.order_id.clone(), order);
        answer
    }

    pub fn pin_units(&self, promotion_id: &PromotionId, pin: &Pin) -> u64 {
        self.units(promotion_id, |order| {
            live(order) && order.buyer.as_ref().is_some_and(|buyer| buyer.pin == *pin)
        })
    }

    pub fn ip_units(&self, promotion_id: &PromotionId, ip: IpAddr) -> u64 {
        self.units(promotion_id, |order| {
            live(order) && order.buyer.as_ref().is_some_and(|buyer| buyer.ip == ip)
        })
    }

    // Orders.

    fn order_answer(&self, order_id: &OrderId) -> Answer {
        Answer::Order(Box::new(self.orders[order_id].clone()))
    }

    /// An order that is shown to people, at the shard that decides about it.
    fn decided_here(&self, order_id: &OrderId) -> Result<&Order, Rejection> {
        let Some(order) = self.orders.get(order_id) else {
            return refuse(Code::OrderNotFound, None);
        };
        if let Some(home) = home_of(order) {
            return refuse(Code::NotHome, Some(home));
        }
        if order.state == OrderState::Tentative {
            return refuse(Code::OrderNotFound, None);
        }
        Ok(order)
    }

    fn set(&mut self, order_id: &OrderId, state: OrderState) {
        let order = self.orders.get_mut(order_id).unwrap();
        let was_live = live(order);
        order.state = state;
        self.postponed.remove(order_id);
        if was_live && !live(order) {
            for item in &order.items {
                let sale = self.sales.get_mut(&item.promotion_id).unwrap();
                sale.returned += u64::from(item.quantity);
            }
        }
    }

    fn cancel(
        &mut self,
        order_id: &OrderId,
        reason: ReturnReason,
        refund: bool,
        promotion_id: Option<&PromotionId>,
        now: UnixMs,
    ) -> Outcome {
        let returned = OrderState::Returned { at: now, reason };
        let Some(order) = self.orders.get(order_id) else {
            let Some(promotion_id) = promotion_id else {
                return refuse(Code::OrderNotFound, None);
            };
            self.sale(promotion_id)?;
            let nothing = GrantedItem {
                promotion_id: promotion_id.clone(),
                quantity: 0,
                remaining: 0,
            };
            let tombstone = Order {
                order_id: order_id.clone(),
                buyer: None,
                items: vec![nothing].into(),
                granted_at: now,
                pay_by: now,
                state: returned,
                cart: None,
            };
            self.orders.insert(order_id.clone(), tombstone);
            return Ok(self.order_answer(order_id));
        };
        if let Some(home) = home_of(order) {
            return refuse(Code::NotHome, Some(home));
        }
        match order.state {
            OrderState::Returned { .. } => {}
            OrderState::Confirmed { .. } if !refund => return refuse(Code::OrderConfirmed, None),
            _ => self.set(order_id, returned),
        }
        Ok(self.order_answer(order_id))
    }

    // Carts.

    fn of_try(&self, order_id: &OrderId, try_id: TryId) -> Option<&Order> {
        let order = self.orders.get(order_id)?;
        (order.cart.as_ref()?.try_id == try_id).then_some(order)
    }

    fn seal(
        &mut self,
        order_id: &OrderId,
        try_id: TryId,
        pay_by: UnixMs,
        items: &[GrantedItem],
    ) -> Outcome {
        let Some(order) = self.of_try(order_id, try_id) else {
            return refuse(Code::TryUndone, None);
        };
        match order.state {
            OrderState::Returned { .. } => return refuse(Code::OrderReturned, None),
            OrderState::Held | OrderState::Confirmed { .. } => {}
            OrderState::Tentative => {
                self.set(order_id, OrderState::Held);
                let order = self.orders.get_mut(order_id).unwrap();
                order.pay_by = pay_by;
                if let CartRole::Home { items: whole, .. } = &mut order.cart.as_mut().unwrap().role
                {
                    *whole = items.to_vec().into();
                }
            }
        }
        Ok(granted(&self.orders[order_id], false))
    }

    fn undo(&mut self, order_id: &OrderId, try_id: TryId, now: UnixMs) -> Answer {
        let decided = self
            .of_try(order_id, try_id)
            .map(|order| order.state != OrderState::Tentative);
        if self.undone.contains_key(&try_id) || decided == Some(true) {
            return Answer::Done;
        }
        if decided == Some(false) {
            let order = self.orders.remove(order_id).unwrap();
            self.postponed.remove(order_id);
            for item in &order.items {
                let sale = self.sales.get_mut(&item.promotion_id).unwrap();
                sale.granted -= u64::from(item.quantity);
            }
        }
        self.undone.insert(try_id, now);
        Answer::Done
    }

    fn resolve(&mut self, order_id: &OrderId, try_id: TryId, now: UnixMs) -> CartOutcome {
        if self.undone.contains_key(&try_id) {
            return CartOutcome::Undone;
        }
        let Some(order) = self.of_try(order_id, try_id) else {
            self.undone.insert(try_id, now);
            return CartOutcome::Undone;
        };
        let due = open(order) && now >= deadline(order);
        if due && home_of(order).is_none() {
            self.act(order_id, now);
        }
        self.orders
            .get(order_id)
            .map_or(CartOutcome::Undone, outcome)
    }

    fn follow(
        &mut self,
        order_id: &OrderId,
        try_id: TryId,
        outcome: CartOutcome,
        now: UnixMs,
    ) -> Answer {
        let state = self.of_try(order_id, try_id).map(|order| order.state);
        match (outcome, state) {
            (CartOutcome::Undone, _) => {
                self.undo(order_id, try_id, now);
            }
            (CartOutcome::Sealed { pay_by }, Some(OrderState::Tentative)) => {
                self.set(order_id, OrderState::Held);
                self.orders.get_mut(order_id).unwrap().pay_by = pay_by;
            }
            (CartOutcome::Confirmed, Some(OrderState::Tentative | OrderState::Held)) => {
                self.set(order_id, OrderState::Confirmed { at: now });
            }
            (
                CartOutcome::Returned { reason },
                Some(OrderState::Tentative | OrderState::Held | OrderState::Confirmed { .. }),
            ) => self.set(order_id, OrderState::Returned { at: now, reason }),
            _ => {}
        }
        Answer::Done
    }

    fn told(&mut self, order_id: &OrderId, told_outcome: CartOutcome) -> Answer {
        if let Some(order) = self.orders.get_mut(order_id)
            && outcome(order) == told_outcome
        {
            let know = to_know(order);
            if let Some(cart) = &mut order.cart
                && let CartRole::Home { told, .. } = &mut cart.role
            {
                *told = know;
            }
        }
        Answer::Done
    }

    /// Orders at home whose guests do not know their state, ascending.
    pub fn untold(&self) -> Vec<OrderId> {
        let ignorant = |order: &&Order| match order.cart.as_deref() {
            Some(CartPart {
                role: CartRole::Home { told, .. },
                ..
            }) => *told != to_know(order),
            _ => false,
        };
        let orders = self.orders.values().filter(ignorant);
        orders.map(|order| order.order_id.clone()).collect()
    }

    // Time.

    /// What is to be done about an order whose time has come; does it, where it is done here.
    pub fn act(&mut self, order_id: &OrderId, now: UnixMs) -> Expected {
        let order = &self.orders[order_id];
        assert!(
            open(order) && now >= deadline(order),
            "too early: {order:?}"
        );
        let state = order.state;
        if home_of(order).is_some() {
            return Expected::Asks;
        }
        if state == OrderState::Tentative {
            let try_id = order.cart.as_ref().unwrap().try_id;
            self.undo(order_id, try_id, now);
            return Expected::Undone;
        }
        let reason = ReturnReason::Expired;
        self.set(order_id, OrderState::Returned { at: now, reason });
        Expected::Expired
    }

    pub fn postpone(&mut self, order_id: &OrderId, until: UnixMs) {
        self.postponed.insert(order_id.clone(), until);
    }

    /// Open orders that should have been looked at, `slack_ms` granted.
    pub fn late(&self, now: UnixMs, slack_ms: u64) -> Vec<&Order> {
        let late = |order: &&Order| {
            let due = self
                .postponed
                .get(&order.order_id)
                .copied()
                .unwrap_or(deadline(order));
            open(order) && due.0 + slack_ms <= now.0
        };
        self.orders.values().filter(late).collect()
    }

    /// Forgets what is past its retention; returns the orders and nonces forgotten, ascending.
    pub fn forget(&mut self, now: UnixMs, retention_ms: u64) -> (Vec<Order>, Vec<TryId>) {
        let untold = self.untold();
        let closed = |promotion_id: &PromotionId| {
            let closed = self.sales[promotion_id].closed;
            closed.is_some_and(|(_, at)| now.0 >= at.0 + retention_ms)
        };
        let over = |order: &&Order| {
            !open(order)
                && !untold.contains(&order.order_id)
                && order.items.iter().all(|item| closed(&item.promotion_id))
        };
        let orders: Vec<Order> = self.orders.values().filter(over).cloned().collect();
        for order in &orders {
            self.orders.remove(&order.order_id);
            if live(order) {
                for item in &order.items {
                    let sale = self.sales.get_mut(&item.promotion_id).unwrap();
                    sale.forgotten += u64::from(item.quantity);
                }
            }
        }
        let old = |at: UnixMs| now.0 >= at.0 + 60_000;
        let tries: Vec<TryId> = self
            .undone
            .iter()
            .filter(|(_, at)| old(**at))
            .map(|(try_id, _)| *try_id)
            .collect();
        self.undone.retain(|_, at| !old(*at));
        (orders, tries)
    }
}

/// When something is due for an open order.
fn deadline(order: &Order) -> UnixMs {
    match (&order.cart, order.state) {
        (Some(cart), OrderState::Tentative) => cart.tentative_until,
        _ => order.pay_by,
    }
}

/// What a grab is told whose order id is known.
fn known(order: &Order, grab: &Grab, attempt: Option<&TryGrab>) -> Outcome {
    if order.state == OrderState::Tentative {
        let same =
            attempt.map(|attempt| attempt.try_id) == order.cart.as_ref().map(|cart| cart.try_id);
        return if same {
            Ok(granted(order, false))
        } else {
            refuse(Code::InDoubt, None)
        };
    }
    let Some(buyer) = &order.buyer else {
        return refuse(Code::OrderReturned, None);
    };
    let of_grab = wanted(
        grab.items
            .iter()
            .map(|item| (&item.promotion_id, item.quantity)),
    );
    let of_order = wanted(
        order
            .items
            .iter()
            .map(|item| (&item.promotion_id, item.quantity)),
    );
    let same_items = match (
        order.cart.as_deref().map(|cart| &cart.role),
        attempt.map(|a| &a.role),
    ) {
        (None, None) => of_grab == of_order,
        (Some(CartRole::Guest { home }), Some(TryRole::Guest { home: asked })) => {
            home == asked && of_grab == of_order
        }
        (Some(CartRole::Home { items, .. }), Some(TryRole::Home { items: asked })) => {
            wanted(items.iter().map(|item| (&item.promotion_id, item.quantity)))
                == wanted(asked.iter().map(|item| (&item.promotion_id, item.quantity)))
        }
        _ => false,
    };
    if (&buyer.pin, buyer.ip, buyer.channel) != (&grab.pin, grab.ip, grab.channel) || !same_items {
        return refuse(Code::OrderMismatch, None);
    }
    match order.state {
        OrderState::Returned { .. } => refuse(Code::OrderReturned, None),
        _ => Ok(granted(order, true)),
    }
}
