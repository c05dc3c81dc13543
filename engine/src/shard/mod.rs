//! One shard: promotions, their orders, and who used how much of which.
//!
//! Three verbs carry everything. [`Shard::decide`] looks and never changes; [`Shard::apply`] changes
//! and never refuses; [`Shard::revert`] is its exact inverse. Leaders decide and apply, followers and
//! recovery only apply.
//!
//! Invariants, kept by `apply` and `revert` alike:
//! - of every promotion, `original + added == remaining + held + confirmed`;
//! - the units of a pin or an ip equal the sum over its live orders;
//! - `digest` equals the sum of the terms of all promotions and orders.

mod apply;
mod attempts;
mod decide;
mod decide_cart;
mod decide_order;
mod decide_promotion;
mod digest;
mod due;
mod index;
mod moves;
mod orders;
mod prefetch;
mod shown;
mod slab;
mod snapshot;
#[cfg(test)]
mod tests;
mod texts;
mod usage;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fxhash::FxHashMap;

pub use apply::ApplyError;
pub use attempts::{Attempts, Moment};
pub use decide::Decision;
pub use due::{Due, Tell};
pub use prefetch::{Ahead, PREFETCH_MAX};
pub use shown::{Change, Shown, Touched};

use crate::ids::{OrderId, Pin, PromotionId, TryId, UnixMs};
use crate::order::{Buyer, CartPart, GrantedItem, Order};
use crate::promotion::{Promotion, PromotionView};
use crate::seen::Seen;
use index::{Index, PARTS, Vacancy};
use orders::{Deadlines, Line, OrderSlot};
use shown::{Ground, Shared};
use slab::Slab;
use texts::Texts;
use usage::{KeyHasher, Usages};

/// The state of one shard.
#[derive(Debug, Clone)]
pub struct Shard {
    hasher: KeyHasher,
    promotions: Vec<Promotion>,
    promotion_names: BTreeMap<PromotionId, u32>,
    promotion_index: Index,
    /// The number found last: a grab looks for its promotion to be decided, counted and applied.
    latest_promotion: Cell<u32>,
    /// By number of the promotion. A clone of the shard shares them.
    shared: Vec<Arc<Shared>>,
    /// By number of the promotion: what readers are shown of it, once it was committed. A clone of the shard shares them.
    shown: Vec<Option<Arc<Shown>>>,
    /// Promotions changed since they were last taken, each once, and what they were before.
    touched: Vec<(u32, Ground)>,
    /// Whether a promotion is among them, by number.
    is_touched: Vec<bool>,
    texts: Texts,
    orders: Slab<OrderSlot>,
    order_index: Index,
    /// The second and further lines of orders that have them.
    more_lines: FxHashMap<u32, Box<[Line]>>,
    /// The parts in carts of orders that have one.
    carts: FxHashMap<u32, CartPart>,
    /// Carts this shard is home of whose guests have not acknowledged their present state.
    untold: BTreeSet<u32>,
    pins: Usages,
    ips: Usages,
    deadlines: Deadlines,
    undone: FxHashMap<TryId, UnixMs>,
    digest: u64,
    /// What each promotion adds to the digest, by its number.
    promotion_terms: Vec<u64>,
    /// Told of every order that comes in; for those who refuse early.
    seen: Option<Arc<Seen>>,
}

impl Shard {
    /// An empty shard. `hash_seed` seeds the maps of keys that strangers choose; it changes no answer.
    pub fn new(hash_seed: u64) -> Self {
        Shard {
            hasher: KeyHasher::new(hash_seed),
            promotions: Vec::new(),
            promotion_names: BTreeMap::new(),
            promotion_index: Index::new(1),
            latest_promotion: Cell::new(0),
            shared: Vec::new(),
            shown: Vec::new(),
            touched: Vec::new(),
            is_touched: Vec::new(),
            texts: Texts::new(),
            orders: Slab::new(),
            order_index: Index::new(PARTS),
            more_lines: FxHashMap::default(),
            carts: FxHashMap::default(),
            untold: BTreeSet::new(),
            pins: Usages::new(),
            ips: Usages::new(),
            deadlines: Deadlines::new(),
            undone: FxHashMap::default(),
            digest: 0,
            promotion_terms: Vec::new(),
            seen: None,
        }
    }

    /// The running hash over promotions and orders.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many orders the shard holds, in any state.
    pub fn order_count(&self) -> usize {
        self.orders.len()
    }

    /// All promotions, in the order of their creation.
    pub fn promotions(&self) -> &[Promotion] {
        &self.promotions
    }

    /// The promotion of this id.
    pub fn promotion(&self, promotion_id: &PromotionId) -> Option<&Promotion> {
        self.promotion_number(promotion_id)
            .map(|number| &self.promotions[number as usize])
    }

    /// The order of this id.
    pub fn order(&self, order_id: &OrderId) -> Option<Order> {
        self.order_slot(order_id).map(|slot| self.order_at(slot))
    }

    /// Every order, in no particular order.
    pub fn orders(&self) -> impl Iterator<Item = Order> {
        (0..self.orders.end())
            .filter(|slot| self.orders.get(*slot).taken())
            .map(|slot| self.order_at(slot))
    }

    /// The nonces of undone tries, with the time each was undone, ascending.
    pub fn undone_tries(&self) -> Vec<(TryId, UnixMs)> {
        let mut tries: Vec<_> = self
            .undone
            .iter()
            .map(|(try_id, at)| (*try_id, *at))
            .collect();
        tries.sort_unstable();
        tries
    }

    /// Units in live orders by promotion and pin, in no particular order.
    pub fn pin_units(&self) -> impl Iterator<Item = (PromotionId, Pin, u32)> {
        self.pins.iter(&self.texts).map(|(promotion, key, units)| {
            (
                self.promotions[promotion as usize].id.clone(),
                Pin::from_stored(key),
                units,
            )
        })
    }

    /// Units in live orders by promotion and ip, in no particular order.
    pub fn ip_units(&self) -> impl Iterator<Item = (PromotionId, IpAddr, u32)> {
        self.ips.iter(&self.texts).map(|(promotion, key, units)| {
            (
                self.promotions[promotion as usize].id.clone(),
                ip_of(key),
                units,
            )
        })
    }

    /// A promotion as readers see it.
    pub fn view(&self, promotion_id: &PromotionId, moment: &Moment) -> Option<PromotionView> {
        self.promotion_number(promotion_id)
            .map(|number| self.view_at(number, moment))
    }

    /// Tells `seen` of every order there is and of every one that comes in from now on.
    pub fn show_orders(&mut self, seen: Arc<Seen>) {
        for slot in (0..self.orders.end()).filter(|slot| self.orders.get(*slot).taken()) {
            let order = self.order_at(slot);
            let buyer = order.buyer.as_ref().map(|buyer| (&buyer.pin, buyer.ip));
            note_order(&seen, &order.order_id, buyer);
        }
        self.seen = Some(seen);
    }

    /// Notes that a promotion is about to be changed, or was just created.
    fn touch(&mut self, number: u32) {
        if !std::mem::replace(&mut self.is_touched[number as usize], true) {
            let before = Ground::of(&self.promotions[number as usize]);
            self.touched.push((number, before));
        }
    }

    fn view_at(&self, number: u32, moment: &Moment) -> PromotionView {
        let promotion = self.promotions[number as usize].clone();
        let attempts = self.attempts_of(number).at(&promotion.terms, moment);
        PromotionView {
            promotion,
            attempts,
        }
    }

    fn attempts_of(&self, number: u32) -> &Attempts {
        &self.shared[number as usize].attempts
    }

    fn promotion_number(&self, promotion_id: &PromotionId) -> Option<u32> {
        let is = |number: u32| {
            let promotion = self.promotions.get(number as usize);
            promotion.is_some_and(|promotion| promotion.id == *promotion_id)
        };
        let latest = self.latest_promotion.get();
        if is(latest) {
            return Some(latest);
        }
        let hash = self.hasher.hash(promotion_id.as_bytes());
        let number = self.promotion_index.find(hash, is)?;
        self.latest_promotion.set(number);
        Some(number)
    }

    fn order_slot(&self, order_id: &OrderId) -> Option<u32> {
        self.order_slot_or_vacancy(order_id).ok()
    }

    fn order_slot_or_vacancy(&self, order_id: &OrderId) -> Result<u32, Vacancy> {
        let hash = self.hasher.hash(order_id.as_bytes());
        self.order_index.find_or_vacancy(hash, |slot| {
            self.texts.get(self.orders.get(slot).id) == order_id.as_bytes()
        })
    }

    fn order_id_at(&self, slot: u32) -> OrderId {
        OrderId::from_stored(self.texts.get(self.orders.get(slot).id))
    }

    /// The lines of an order; a tombstone's only line has no units.
    fn lines(&self, slot: u32) -> impl Iterator<Item = Line> + use<'_> {
        let order = self.orders.get(slot);
        let more = if order.has_more_lines() {
            &*self.more_lines[&slot]
        } else {
            &[]
        };
        std::iter::once(order.line).chain(more.iter().copied())
    }

    /// The cart part of an order, if it has one.
    fn cart(&self, slot: u32) -> Option<&CartPart> {
        if self.orders.get(slot).has_cart() {
            self.carts.get(&slot)
        } else {
            None
        }
    }

    fn order_at(&self, slot: u32) -> Order {
        let order = self.orders.get(slot);
        let buyer = (!order.tombstone()).then(|| Buyer {
            pin: Pin::from_stored(self.pins.key(&self.texts, order.line.pin)),
            ip: ip_of(self.ips.key(&self.texts, order.line.ip)),
            channel: order.channel(),
        });
        Order {
            order_id: self.order_id_at(slot),
            buyer,
            items: self.lines(slot).map(|line| self.item_of(line)).collect(),
            granted_at: order.granted_at(),
            pay_by: order.pay_by(),
            state: order.state(),
            cart: self.cart(slot).map(|cart| Box::new(cart.clone())),
        }
    }

    fn item_of(&self, line: Line) -> GrantedItem {
        GrantedItem {
            promotion_id: self.promotions[line.promotion as usize].id.clone(),
            quantity: line.quantity,
            remaining: u64::from(line.remaining),
        }
    }
}

/// Compared by content; where things lie in memory, attempts and the hash seed do not count.
impl PartialEq for Shard {
    fn eq(&self, other: &Self) -> bool {
        fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
            let mut items: Vec<T> = items.collect();
            items.sort_unstable();
            items
        }
        let orders = |shard: &Shard| {
            let mut orders: Vec<Order> = shard.orders().collect();
            orders.sort_unstable_by(|a, b| a.order_id.cmp(&b.order_id));
            orders
        };
        self.digest == other.digest
            && self.promotions == other.promotions
            && self.undone_tries() == other.undone_tries()
            && sorted(self.pin_units()) == sorted(other.pin_units())
            && sorted(self.ip_units()) == sorted(other.ip_units())
            && self.untold.len() == other.untold.len()
            && orders(self) == orders(other)
    }
}

/// Has `seen` know an order and its buyer.
fn note_order(seen: &Seen, order_id: &OrderId, buyer: Option<(&Pin, IpAddr)>) {
    seen.insert(seen.order(order_id));
    if let Some((pin, ip)) = buyer {
        let (ip, bytes) = ip_bytes(ip);
        seen.insert(seen.pin(pin));
        seen.insert(seen.ip(&ip[..bytes]));
    }
}

/// The bytes an ip is kept as: 4 or 16.
pub(crate) fn ip_bytes(ip: IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            (bytes, 4)
        }
        IpAddr::V6(ip) => (ip.octets(), 16),
    }
}

fn ip_of(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(octets) => octets.into(),
        Err(_) => <[u8; 16]>::try_from(bytes)
            .expect("an ip is kept as 4 or 16 bytes")
            .into(),
    }
}
