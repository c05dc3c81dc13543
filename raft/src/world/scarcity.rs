//! How little room there is in a simulation: limits that no story would reach are drawn small, so that what happens at them
//! happens.
//!
//! Invariant: outside a simulation a limit is what it is.

use std::ops::RangeInclusive;

use rand::RngExt;

use super::{Random, is_simulated};

/// One place in so many is scarce, and holds so much: no less than the parts of a simulation's carts, which come together, or none
/// would ever find room.
const SCARCE_ONE_IN: u32 = 3;
const SCARCE: RangeInclusive<usize> = 3..=8;

/// The room of a place that holds `limit`.
pub(crate) fn room(limit: usize) -> usize {
    if is_simulated() && Random.random_range(0..SCARCE_ONE_IN) == 0 {
        Random.random_range(SCARCE).min(limit)
    } else {
        limit
    }
}
