//! What a shard can be asked, and what it answers. A refusal by a business rule is an answer, not
//! an error; what the caller cannot be told for certain is a refusal of its own kind.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{OrderId, Pin, PromotionId, TryId, UnixMs};
use crate::order::{GrantedItem, GrantedItems, Items, Order, ReturnReason};
use crate::promotion::{
    Channel, Channels, Limits, Price, PromotionState, PromotionView, Rate, Terms,
};

/// One grab: all items or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grab {
    /// The order; the same id with the same content is the same grab.
    pub order_id: OrderId,
    /// The buyer.
    pub pin: Pin,
    /// The buyer's address.
    pub ip: IpAddr,
    /// Where it comes from.
    pub channel: Channel,
    /// 1 to 32 items, each promotion once (see [`sum_items`]).
    pub items: Items,
}

/// Sums items that name the same promotion, at the place where it was first named.
///
/// Returns the promotion whose sum exceeds what an order can hold, if one does.
pub fn sum_items(
    items: impl IntoIterator<Item = (PromotionId, u32)>,
) -> Result<Items, PromotionId> {
    let mut summed = Items::new();
    for (promotion_id, quantity) in items {
        match summed
            .iter_mut()
            .find(|item| item.promotion_id == promotion_id)
        {
            None => summed.push(crate::order::Item {
                promotion_id,
                quantity,
            }),
            Some(item) => match item.quantity.checked_add(quantity) {
                Some(sum) if u64::from(sum) <= crate::limits::QUANTITY_MAX => item.quantity = sum,
                _ => return Err(promotion_id),
            },
        }
    }
    Ok(summed)
}

/// A cart's part for one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TryGrab {
    /// The grab with only this shard's items.
    pub grab: Grab,
    /// The attempt.
    pub try_id: TryId,
    /// Until when the parts wait for each other.
    pub tentative_until: UnixMs,
    /// This shard's role.
    pub role: TryRole,
}

/// The role of the shard that is asked to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TryRole {
    /// It is home: the whole order's items, in the order given.
    Home {
        /// All items of the order.
        items: Items,
    },
    /// It is a guest of the shard of this promotion.
    Guest {
        /// The order's first promotion.
        home: PromotionId,
    },
}

/// What home says about a try or an order, and what its guests follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CartOutcome {
    /// Home still waits for the other shards.
    Undecided,
    /// The try never happened.
    Undone,
    /// The order was granted.
    Sealed {
        /// Until when it waits for payment.
        pay_by: UnixMs,
    },
    /// The order was paid.
    Confirmed,
    /// The order was given back.
    Returned {
        /// Why.
        reason: ReturnReason,
    },
}

/// A change of a promotion; absent members stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PromotionChange {
    /// Units to add; negative takes away, down to −remaining.
    pub add_quantity: Option<i64>,
    /// New title.
    pub title: Option<String>,
    /// New end; `Some(None)` removes it.
    pub ends_at: Option<Option<UnixMs>>,
    /// New limits, replacing all of them.
    pub limits: Option<Limits>,
    /// New rate; `Some(None)` falls back to the default.
    pub rate: Option<Option<Rate>>,
    /// New payment timeout in milliseconds, for orders granted from now on.
    pub payment_timeout_ms: Option<u64>,
    /// New channels.
    pub channels: Option<Channels>,
    /// New price; `Some(None)` removes it.
    pub price: Option<Option<Price>>,
}

/// Everything a shard can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Grab, all items being on this shard.
    Grab(Grab),
    /// Set units aside for a cart.
    TryGrab(Box<TryGrab>),
    /// To home, when every shard has set its units aside: grant the order.
    Seal {
        /// The order.
        order_id: OrderId,
        /// The attempt.
        try_id: TryId,
        /// The earliest payment deadline of all shards.
        pay_by: UnixMs,
        /// The whole order with what remained on each shard, in the order given.
        items: Vec<GrantedItem>,
    },
    /// Undo a try: its units go back, its nonce stays for a minute.
    Undo {
        /// The order.
        order_id: OrderId,
        /// The attempt.
        try_id: TryId,
    },
    /// From a guest to home: what became of this try?
    Resolve {
        /// The order.
        order_id: OrderId,
        /// The attempt.
        try_id: TryId,
    },
    /// From home to a guest: this became of the order.
    Follow {
        /// The order.
        order_id: OrderId,
        /// The attempt.
        try_id: TryId,
        /// What home decided.
        outcome: CartOutcome,
    },
    /// To home: every guest has acknowledged this outcome.
    Told {
        /// The order.
        order_id: OrderId,
        /// What the guests were told.
        outcome: CartOutcome,
    },
    /// It was paid.
    Confirm {
        /// The order.
        order_id: OrderId,
    },
    /// Give it back.
    Cancel {
        /// The order.
        order_id: OrderId,
        /// Why.
        reason: ReturnReason,
        /// Also when it was paid.
        refund: bool,
        /// A promotion of this shard that the order names: with it, an order not yet seen is
        /// cancelled in advance.
        promotion_id: Option<PromotionId>,
    },
    /// Read an order.
    GetOrder {
        /// The order.
        order_id: OrderId,
    },
    /// Create a promotion.
    CreatePromotion {
        /// Its id.
        promotion_id: PromotionId,
        /// Units offered.
        quantity: u64,
        /// Its terms.
        terms: Box<Terms>,
    },
    /// Change a promotion.
    ChangePromotion {
        /// Which.
        promotion_id: PromotionId,
        /// How.
        change: Box<PromotionChange>,
    },
    /// Stop a promotion, or resume it.
    StopPromotion {
        /// Which.
        promotion_id: PromotionId,
        /// True to stop, false to resume.
        stopped: bool,
    },
    /// Delete a promotion.
    DeletePromotion {
        /// Which.
        promotion_id: PromotionId,
    },
    /// Read a promotion.
    GetPromotion {
        /// Which.
        promotion_id: PromotionId,
    },
    /// Read promotions in the order of their ids.
    ListPromotions {
        /// Only those in this state.
        state: Option<PromotionState>,
        /// Only ids greater than this one.
        after: Option<PromotionId>,
        /// At most so many.
        limit: usize,
    },
}

/// What a grant says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The order.
    pub order_id: OrderId,
    /// The answer to an earlier grab of the same order, given again.
    pub replayed: bool,
    /// Until when it waits for payment.
    pub pay_by: UnixMs,
    /// What was granted, and what remained right after.
    pub items: GrantedItems,
}

/// What a shard answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The grab, or the try, was granted.
    Granted(Granted),
    /// The order.
    Order(Box<Order>),
    /// The promotion; `created` when this command created it.
    Promotion {
        /// The promotion.
        view: Box<PromotionView>,
        /// It did not exist before.
        created: bool,
    },
    /// The promotions asked for, in the order of their ids.
    Promotions(Vec<PromotionView>),
    /// What home says of a cart.
    Outcome(CartOutcome),
    /// Done, or there was nothing to do.
    Done,
}

/// A refusal by a rule of the business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Which rule.
    pub code: Code,
    /// The promotion it concerns, where it concerns one.
    pub promotion_id: Option<PromotionId>,
}

/// Which rule refused. For grabs the variants down to `SoldOut` stand in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    /// There is no such promotion.
    PromotionNotFound,
    /// It has not started.
    NotStarted,
    /// It has ended.
    Ended,
    /// It is stopped.
    Stopped,
    /// It was deleted.
    Deleted,
    /// It is not sold on this channel.
    ChannelClosed,
    /// The window's attempts are used up.
    RateLimited {
        /// When the next window begins, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// The order id was used with other content.
    OrderMismatch,
    /// The order was cancelled or expired, or its cancel came first.
    OrderReturned,
    /// More units than one order may take.
    OrderLimit,
    /// More units than one pin may take.
    PinLimit,
    /// More units than one ip may take.
    IpLimit,
    /// Fewer units remain than asked.
    SoldOut {
        /// How many remain.
        remaining: u64,
    },
    /// There is no such order.
    OrderNotFound,
    /// The order was paid.
    OrderConfirmed,
    /// A promotion of this id exists with other content.
    PromotionExists,
    /// More units to take away than remain.
    InsufficientRemaining {
        /// How many remain.
        remaining: u64,
    },
    /// More units than a promotion may offer.
    QuantityTooLarge,
    /// The promotion would end before it starts.
    EndBeforeStart,
    /// The shard holds as many orders as it can.
    ShardFull,
    /// Two shards know different orders of this id: name a promotion of the one that is meant.
    AmbiguousOrder,
    /// Between shards only: the order is tentative under another try; ask again.
    InDoubt,
    /// Between shards only: this try was undone.
    TryUndone,
    /// Between shards only: another shard, that of this rejection's promotion, decides about the order.
    NotHome,
}

/// Why a command was not answered with what it asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// A rule of the business says no.
    Rejected(Rejection),
    /// The shard has as much to do as it can hold; nothing was done.
    Overloaded,
    /// This shard cannot decide just now; nothing was done.
    Unavailable,
    /// The command was sent for commit and its outcome is not known.
    OutcomeUnknown,
}

impl Command {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Command::GetOrder { .. }
                | Command::GetPromotion { .. }
                | Command::ListPromotions { .. }
        )
    }

    /// Whether doing it once more, at any later time, is the same as doing it once. Nearly all bring about what stays so: an order,
    /// a try, a promotion that is there or deleted. But a change of a promotion may add units each time, and a promotion that was stopped
    /// and resumed would be stopped again.
    pub fn may_repeat(&self) -> bool {
        !matches!(
            self,
            Command::ChangePromotion { .. } | Command::StopPromotion { .. }
        )
    }
}
