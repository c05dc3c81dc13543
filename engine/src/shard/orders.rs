//! Order slots, 44 bytes each, and the lists of orders by deadline that run through them.
//!
//! An order is in exactly one deadline list while it is tentative or held, and in none otherwise;
//! the two words that link it there hold the time it was closed afterwards.

use std::collections::BTreeMap;

use super::slab::Slab;
use super::texts::Text;
use crate::ids::UnixMs;
use crate::limits::DEADLINE_BUCKET_MS_LOG2;
use crate::order::{OrderState, ReturnReason};
use crate::promotion::Channel;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// Marks a `prev` link that names a bucket: the order is the first of its list.
const BUCKET: u32 = 1 << 31;

/// One promotion's part of an order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    /// Number of the promotion.
    pub(super) promotion: u32,
    /// Slot of the pin's usage, or `NONE` in a tombstone.
    pub(super) pin: u32,
    /// Slot of the ip's usage, or `NONE` in a tombstone.
    pub(super) ip: u32,
    /// Units.
    pub(super) quantity: u32,
    /// Units of the promotion that remained right after the grant.
    pub(super) remaining: u32,
}

/// What a line keeps of the units that remained: more than fit are as many as fit.
pub(super) fn stored_remaining(remaining: u64) -> u32 {
    u32::try_from(remaining).unwrap_or(u32::MAX)
}

/// One order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OrderSlot {
    /// Time of the grant (upper 48 bits), then flags: see the accessors. Low and high half, since a
    /// whole `u64` would have the slot padded to 48 bytes.
    stamp: [u32; 2],
    /// Deadline list links while open, time of closing (low, high) when closed.
    links: [u32; 2],
    /// The order id.
    pub(super) id: Text,
    /// From the grant to the payment deadline, in milliseconds.
    pub(super) pay_within_ms: u32,
    /// The first line; further ones are kept aside.
    pub(super) line: Line,
}

const _: () = assert!(size_of::<OrderSlot>() == 44);

const STATE: u64 = 0b11;
const CHANNEL_SHIFT: u32 = 2;
const REASON_SHIFT: u32 = 4;
const CART: u64 = 1 << 6;
const MORE_LINES: u64 = 1 << 7;

const REASONS: [ReturnReason; 4] = [
    ReturnReason::User,
    ReturnReason::Stock,
    ReturnReason::Downstream,
    ReturnReason::Expired,
];

impl OrderSlot {
    pub(super) fn new(
        id: Text,
        granted_at: UnixMs,
        pay_within_ms: u32,
        channel: Channel,
        line: Line,
    ) -> Self {
        let mut order = OrderSlot {
            stamp: [0; 2],
            links: [NONE; 2],
            id,
            pay_within_ms,
            line,
        };
        order.set_stamp(granted_at.0 << 16 | (channel as u64) << CHANNEL_SHIFT);
        order
    }

    fn stamp(&self) -> u64 {
        joined(self.stamp)
    }

    fn set_stamp(&mut self, stamp: u64) {
        self.stamp = halves(stamp);
    }

    /// Whether the slot is taken by an order.
    pub(super) fn taken(&self) -> bool {
        self.stamp() != 0 || self.line.quantity != 0 || self.id != Text::default()
    }

    pub(super) fn granted_at(&self) -> UnixMs {
        UnixMs(self.stamp() >> 16)
    }

    pub(super) fn pay_by(&self) -> UnixMs {
        self.granted_at().plus_ms(u64::from(self.pay_within_ms))
    }

    pub(super) fn channel(&self) -> Channel {
        Channel::ALL[(self.stamp() >> CHANNEL_SHIFT & 0b11) as usize]
    }

    pub(super) fn tombstone(&self) -> bool {
        self.line.pin == NONE
    }

    pub(super) fn has_cart(&self) -> bool {
        self.stamp() & CART != 0
    }

    pub(super) fn has_more_lines(&self) -> bool {
        self.stamp() & MORE_LINES != 0
    }

    pub(super) fn mark(&mut self, cart: bool, more_lines: bool) {
        let marks = if cart { CART } else { 0 } | if more_lines { MORE_LINES } else { 0 };
        self.set_stamp(self.stamp() | marks);
    }

    pub(super) fn state(&self) -> OrderState {
        let closed_at = || UnixMs(joined(self.links));
        match self.stamp() & STATE {
            0 => OrderState::Tentative,
            1 => OrderState::Held,
            2 => OrderState::Confirmed { at: closed_at() },
            _ => OrderState::Returned {
                at: closed_at(),
                reason: REASONS[(self.stamp() >> REASON_SHIFT & 0b11) as usize],
            },
        }
    }

    /// Sets the state of an order that is in no deadline list.
    pub(super) fn set_state(&mut self, state: OrderState) {
        let flags = match state {
            OrderState::Tentative => 0,
            OrderState::Held => 1,
            OrderState::Confirmed { .. } => 2,
            OrderState::Returned { reason, .. } => 3 | (reason as u64) << REASON_SHIFT,
        };
        self.set_stamp(self.stamp() & !(STATE | 0b11 << REASON_SHIFT) | flags);
        if let Some(UnixMs(at)) = state.closed_at() {
            self.links = halves(at);
        }
    }
}

/// The low and the high half of a number.
fn halves(number: u64) -> [u32; 2] {
    let low = u32::try_from(number & u64::from(u32::MAX)).expect("masked to 32 bits");
    let high = u32::try_from(number >> 32).expect("shifted to 32 bits");
    [low, high]
}

fn joined([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    number: u64,
    first: u32,
}

/// Orders by the time at which something is due.
#[derive(Debug, Clone)]
pub(super) struct Deadlines {
    by_number: BTreeMap<u64, u32>,
    buckets: Slab<Bucket>,
    /// The bucket linked last: grabs of one moment share it.
    latest: Option<(u64, u32)>,
}

/// The bucket that is wholly past when `at` has come: an order is never due early.
fn bucket_number(at: UnixMs) -> u64 {
    (at.0 >> DEADLINE_BUCKET_MS_LOG2) + 1
}

impl Deadlines {
    pub(super) fn new() -> Self {
        Deadlines {
            by_number: BTreeMap::new(),
            buckets: Slab::new(),
            latest: None,
        }
    }

    /// Puts an order into the list of `at`.
    pub(super) fn link(&mut self, orders: &mut Slab<OrderSlot>, slot: u32, at: UnixMs) {
        let number = bucket_number(at);
        let bucket = match self.latest {
            Some((latest, bucket)) if latest == number => bucket,
            _ => {
                let buckets = &mut self.buckets;
                *self.by_number.entry(number).or_insert_with(|| {
                    buckets.insert(Bucket {
                        number,
                        first: NONE,
                    })
                })
            }
        };
        self.latest = Some((number, bucket));
        let first = std::mem::replace(&mut self.buckets.get_mut(bucket).first, slot);
        orders.get_mut(slot).links = [BUCKET | bucket, first];
        if first != NONE {
            orders.get_mut(first).links[0] = slot;
        }
    }

    /// Takes an order out of its list.
    pub(super) fn unlink(&mut self, orders: &mut Slab<OrderSlot>, slot: u32) {
        let [prev, next] = std::mem::replace(&mut orders.get_mut(slot).links, [NONE; 2]);
        if next != NONE {
            orders.get_mut(next).links[0] = prev;
        }
        if prev & BUCKET == 0 {
            orders.get_mut(prev).links[1] = next;
            return;
        }
        let number = prev & !BUCKET;
        self.buckets.get_mut(number).first = next;
        if next == NONE {
            let bucket = self.buckets.remove(number);
            self.by_number.remove(&bucket.number);
            self.latest = None;
        }
    }

    /// Whether no order is in any list.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty() && self.buckets.len() == 0
    }

    /// An order whose time has come, if there is one.
    pub(super) fn first_due(&self, now: UnixMs) -> Option<u32> {
        let (number, bucket) = self.by_number.first_key_value()?;
        (number << DEADLINE_BUCKET_MS_LOG2 <= now.0).then(|| self.buckets.get(*bucket).first)
    }
}
