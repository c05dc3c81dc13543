//! What an order is: who grabbed what, and what became of it. An order id grabs at most once.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::ids::{OrderId, Pin, PromotionId, TryId, UnixMs};
use crate::promotion::Channel;

/// Units of one promotion.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Item {
    /// Which promotion.
    pub promotion_id: PromotionId,
    /// How many units, 1 to 2³¹.
    pub quantity: u32,
}

/// The items of a grab; most have one.
pub type Items = SmallVec<[Item; 1]>;

/// The same items once more. `clone` does it with a loop, even for one.
pub(crate) fn copy_of(items: &Items) -> Items {
    match items.as_slice() {
        [one] => Items::from_buf([one.clone()]),
        _ => items.clone(),
    }
}

/// A granted item, with what remained right after it was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedItem {
    /// Which promotion.
    pub promotion_id: PromotionId,
    /// How many units.
    pub quantity: u32,
    /// Units of the promotion that remained right after this grant.
    pub remaining: u64,
}

/// Granted items; most orders have one.
pub type GrantedItems = SmallVec<[GrantedItem; 1]>;

/// Why units were given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReturnReason {
    /// The buyer changed their mind.
    User,
    /// The warehouse had none.
    Stock,
    /// A later step of the order failed.
    Downstream,
    /// Not paid in time.
    Expired,
}

impl ReturnReason {
    /// The reason's name in the public contract.
    pub fn as_str(self) -> &'static str {
        match self {
            ReturnReason::User => "user",
            ReturnReason::Stock => "stock",
            ReturnReason::Downstream => "downstream",
            ReturnReason::Expired => "expired",
        }
    }
}

/// What became of an order, as one shard knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderState {
    /// Part of a cart whose home has not sealed it yet; its units are set aside until then.
    Tentative,
    /// Granted, waits for payment.
    Held,
    /// Paid.
    Confirmed {
        /// When.
        at: UnixMs,
    },
    /// Given back; it never grabs again.
    Returned {
        /// When.
        at: UnixMs,
        /// Why.
        reason: ReturnReason,
    },
}

impl OrderState {
    /// The state's name in the public contract; a tentative order is not shown to anyone.
    pub fn as_str(self) -> &'static str {
        match self {
            OrderState::Tentative => "tentative",
            OrderState::Held => "held",
            OrderState::Confirmed { .. } => "confirmed",
            OrderState::Returned { .. } => "returned",
        }
    }

    /// When the order was closed, if it was.
    pub fn closed_at(self) -> Option<UnixMs> {
        match self {
            OrderState::Tentative | OrderState::Held => None,
            OrderState::Confirmed { at } | OrderState::Returned { at, .. } => Some(at),
        }
    }

    /// What guests of a cart in this state should have acknowledged.
    pub fn to_tell(self) -> Told {
        match self {
            OrderState::Tentative => Told::Nothing,
            OrderState::Held => Told::Sealed,
            OrderState::Confirmed { .. } => Told::Confirmed,
            OrderState::Returned { .. } => Told::Returned,
        }
    }

    /// Whether its units are out of stock: set aside, held or paid.
    pub fn live(self) -> bool {
        !matches!(self, OrderState::Returned { .. })
    }
}

/// This shard's part in an order over several shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CartPart {
    /// The attempt this part belongs to.
    pub try_id: TryId,
    /// Until when home waits for the other shards before it undoes the try; guests ask home then.
    pub tentative_until: UnixMs,
    /// Home or guest.
    pub role: CartRole,
}

/// The latest outcome of a cart that every guest has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// None yet.
    Nothing,
    /// That it was granted.
    Sealed,
    /// That it was paid.
    Confirmed,
    /// That it was given back.
    Returned,
}

/// Who decides about a cart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CartRole {
    /// The shard of the order's first item: it alone decides.
    Home {
        /// The whole order, all shards' items, in the order given. What remained of the guests'
        /// items becomes known when the order is sealed; until then it is 0.
        items: GrantedItems,
        /// What every guest has acknowledged so far.
        told: Told,
    },
    /// Any other shard: it asks home.
    Guest {
        /// The order's first promotion, whose shard is home.
        home: PromotionId,
    },
}

impl CartPart {
    /// Whether this shard decides about the order.
    pub fn is_home(&self) -> bool {
        matches!(self.role, CartRole::Home { .. })
    }
}

/// Everything a shard knows about one order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub order_id: OrderId,
    /// Who grabbed, from where and on which channel; absent for a tombstone: an order that was
    /// cancelled before its grab came.
    pub buyer: Option<Buyer>,
    /// The items on this shard. A tombstone names its promotion with a quantity of 0.
    pub items: GrantedItems,
    /// When it was granted; for a tombstone, when it was cancelled.
    pub granted_at: UnixMs,
    /// Until when it waits for payment.
    pub pay_by: UnixMs,
    /// What became of it.
    pub state: OrderState,
    /// Its part in an order over several shards.
    pub cart: Option<Box<CartPart>>,
}

/// Who grabs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buyer {
    /// The account.
    pub pin: Pin,
    /// The address that the order service vouches for.
    pub ip: IpAddr,
    /// Where the grab came from.
    pub channel: Channel,
}

impl Order {
    /// The items of the whole order: home's list for a cart, otherwise this shard's.
    pub fn all_items(&self) -> &GrantedItems {
        match self.cart.as_deref() {
            Some(CartPart {
                role: CartRole::Home { items, .. },
                ..
            }) => items,
            _ => &self.items,
        }
    }
}
