//! Flow records: the accepted changes of a shard. Each has one meaning for ever, and carries enough
//! to be undone exactly.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{OrderId, Pin, PromotionId, TryId, UnixMs};
use crate::order::{GrantedItems, Items, Order, OrderState, ReturnReason, Told};
use crate::promotion::{Channel, CloseReason, Promotion, Terms};

/// One accepted change.
///
/// The order of the variants and of their fields is the stored format (see [`crate::codec`]):
/// append, never reorder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A promotion came to be.
    PromotionCreated {
        /// The promotion as created.
        promotion: Box<Promotion>,
    },
    /// Its terms, quantity or stop mark changed.
    PromotionChanged(Box<PromotionChanged>),
    /// It was closed for good.
    PromotionClosed {
        /// Which.
        promotion_id: PromotionId,
        /// Why.
        reason: CloseReason,
        /// Why and when it was closed before, if it was: an ended promotion can still be deleted.
        before: Option<(CloseReason, UnixMs)>,
        /// When.
        at: UnixMs,
    },
    /// Units were granted, or set aside for a cart.
    Granted(Granted),
    /// Home granted a cart, or a guest followed it.
    Sealed {
        /// The order.
        order_id: OrderId,
        /// Its items on this shard.
        lines: Items,
        /// Until when it waits for payment.
        pay_by: UnixMs,
        /// What it said before.
        pay_by_before: UnixMs,
        /// At home, the whole order with what remained on each shard; empty at guests.
        items: GrantedItems,
        /// When.
        at: UnixMs,
    },
    /// An order was paid.
    Confirmed {
        /// The order.
        order_id: OrderId,
        /// Its items on this shard.
        lines: Items,
        /// The state it was in: held or, at a guest, tentative.
        from: OrderState,
        /// When.
        at: UnixMs,
    },
    /// An order was given back.
    Returned {
        /// The order.
        order_id: OrderId,
        /// Its items on this shard.
        lines: Items,
        /// Why.
        reason: ReturnReason,
        /// What it was before.
        from: ReturnedFrom,
        /// When.
        at: UnixMs,
    },
    /// A try was undone: its units went back, its order id was freed, its nonce is kept a while.
    Undone {
        /// The attempt.
        try_id: TryId,
        /// The order as it was, if the try had come.
        order: Option<Box<Order>>,
        /// When.
        at: UnixMs,
    },
    /// Every guest of an order has acknowledged its present state.
    Told {
        /// The order.
        order_id: OrderId,
        /// What they had acknowledged before.
        before: Told,
        /// What they have acknowledged now.
        after: Told,
        /// When.
        at: UnixMs,
    },
    /// Closed orders past their retention, and nonces of undone tries, were forgotten.
    Forgotten {
        /// The orders as they were.
        orders: Vec<Order>,
        /// The nonces, with the time each try was undone.
        tries: Vec<(TryId, UnixMs)>,
        /// When.
        at: UnixMs,
    },
    /// The digest of the state before this record; every replica asserts it.
    Checkpoint {
        /// The digest.
        digest: u64,
        /// When.
        at: UnixMs,
    },
}

/// The terms, quantity or stop mark of a promotion, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionChanged {
    /// Which.
    pub promotion_id: PromotionId,
    /// Terms before; absent when they did not change.
    pub terms_before: Option<Arc<Terms>>,
    /// Terms after; present with `terms_before`.
    pub terms_after: Option<Arc<Terms>>,
    /// Units added; negative when taken away.
    pub add_quantity: i64,
    /// Stop mark before.
    pub stopped_before: bool,
    /// Stop mark after.
    pub stopped_after: bool,
    /// When.
    pub at: UnixMs,
}

/// Units granted on this shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The order.
    pub order_id: OrderId,
    /// The buyer.
    pub pin: Pin,
    /// The buyer's address.
    pub ip: IpAddr,
    /// Where it came from.
    pub channel: Channel,
    /// The items on this shard.
    pub items: Items,
    /// When.
    pub at: UnixMs,
    /// How long it waits for payment, in milliseconds.
    pub pay_within_ms: u32,
    /// This shard's part in a cart: the grant is tentative then.
    pub cart: Option<Box<crate::order::CartPart>>,
}

/// What an order was before it was given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReturnedFrom {
    /// Held.
    Held,
    /// Paid: this is a refund.
    Confirmed {
        /// When it was paid.
        at: UnixMs,
    },
    /// Tentative.
    Tentative,
    /// Not known here: the cancel came before the grab, and leaves a tombstone at this promotion.
    Unknown {
        /// A promotion of this shard that the order names.
        promotion_id: PromotionId,
    },
}

impl Record {
    /// When it was decided.
    pub fn at(&self) -> UnixMs {
        match self {
            Record::PromotionCreated { promotion } => promotion.created_at,
            Record::PromotionChanged(changed) => changed.at,
            Record::Granted(granted) => granted.at,
            Record::PromotionClosed { at, .. }
            | Record::Sealed { at, .. }
            | Record::Confirmed { at, .. }
            | Record::Returned { at, .. }
            | Record::Undone { at, .. }
            | Record::Told { at, .. }
            | Record::Forgotten { at, .. }
            | Record::Checkpoint { at, .. } => *at,
        }
    }

    /// The record's type in flows: the variant's name in snake case.
    pub fn type_name(&self) -> &'static str {
        match self {
            Record::PromotionCreated { .. } => "promotion_created",
            Record::PromotionChanged(_) => "promotion_changed",
            Record::PromotionClosed { .. } => "promotion_closed",
            Record::Granted(_) => "granted",
            Record::Sealed { .. } => "sealed",
            Record::Confirmed { .. } => "confirmed",
            Record::Returned { .. } => "returned",
            Record::Undone { .. } => "undone",
            Record::Told { .. } => "told",
            Record::Forgotten { .. } => "forgotten",
            Record::Checkpoint { .. } => "checkpoint",
        }
    }

    /// Whether it concerns this promotion.
    pub fn concerns_promotion(&self, id: &PromotionId) -> bool {
        let in_order = |order: &Order| order.items.iter().any(|item| item.promotion_id == *id);
        match self {
            Record::PromotionCreated { promotion } => promotion.id == *id,
            Record::PromotionChanged(changed) => changed.promotion_id == *id,
            Record::PromotionClosed { promotion_id, .. } => promotion_id == id,
            Record::Granted(Granted { items: lines, .. })
            | Record::Sealed { lines, .. }
            | Record::Confirmed { lines, .. }
            | Record::Returned { lines, .. } => lines.iter().any(|line| line.promotion_id == *id),
            Record::Undone { order, .. } => order.as_deref().is_some_and(in_order),
            Record::Forgotten { orders, .. } => orders.iter().any(in_order),
            Record::Told { .. } | Record::Checkpoint { .. } => false,
        }
    }

    /// Whether it concerns this order.
    pub fn concerns_order(&self, id: &OrderId) -> bool {
        match self {
            Record::Granted(granted) => granted.order_id == *id,
            Record::Sealed { order_id, .. }
            | Record::Confirmed { order_id, .. }
            | Record::Returned { order_id, .. }
            | Record::Told { order_id, .. } => order_id == id,
            Record::Undone { order, .. } => {
                order.as_ref().is_some_and(|order| order.order_id == *id)
            }
            Record::Forgotten { orders, .. } => orders.iter().any(|order| order.order_id == *id),
            Record::PromotionCreated { .. }
            | Record::PromotionChanged(_)
            | Record::PromotionClosed { .. }
            | Record::Checkpoint { .. } => false,
        }
    }
}
