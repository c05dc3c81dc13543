//! An order-independent running hash over promotions and orders. Every part contributes a term to a
//! wrapping sum, so `apply` keeps it up by taking the old term away and adding the new one.

use crate::order::OrderState;
use crate::promotion::{CloseReason, Promotion};
use crate::routing::murmur_hash_64a;

/// Term of a promotion: its id, counters and life.
pub(super) fn promotion_term(promotion: &Promotion) -> u64 {
    let counters = &promotion.counters;
    let closed = match promotion.closed {
        None => 0,
        Some((CloseReason::Ended, at)) => at.0 << 2 | 1,
        Some((CloseReason::Deleted, at)) => at.0 << 2 | 2,
    };
    let id = murmur_hash_64a(promotion.id.as_bytes(), 0);
    [
        counters.original,
        counters.added.cast_unsigned(),
        counters.remaining,
        counters.held,
        counters.confirmed,
        counters.granted,
        counters.returned,
        u64::from(promotion.stopped),
        closed,
        promotion.version,
    ]
    .into_iter()
    .fold(id, mix)
}

/// Term of an order: its id and state.
pub(super) fn order_term(order_id: &[u8], state: OrderState) -> u64 {
    let state = match state {
        OrderState::Tentative => 1,
        OrderState::Held => 2,
        OrderState::Confirmed { .. } => 3,
        OrderState::Returned { .. } => 4,
    };
    murmur_hash_64a(order_id, state)
}

/// One step of a multiply-and-rotate mix; the constant is 2⁶⁴ divided by the golden ratio.
fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}
