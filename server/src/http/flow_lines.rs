//! Flows on their way out: one line of JSON each.
//!
//! Invariant: every line carries its cursor, shard, index, time and type; the cursor's digits are as many on every line,
//! so that cursors grow as texts too. Numbers that JSON readers would round are texts.

use std::fmt;
use std::net::IpAddr;

use qiang_engine::order::{CartPart, CartRole, GrantedItem, Item, Order, OrderState, Told};
use qiang_engine::promotion::{CloseReason, Promotion};
use qiang_engine::record::{Granted, PromotionChanged, ReturnedFrom};
use qiang_engine::{OrderId, Pin, PromotionId, Record, TryId};
use qiang_raft::Flow;
use serde::{Serialize, Serializer};

use super::promotion_view::TermsShape;
use super::time::Time;

/// Digits of a cursor: as many as 2⁶⁴ has.
const CURSOR_DIGITS: usize = 20;

/// A cursor as text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor(pub(super) u64);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0CURSOR_DIGITS$}", self.0)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// 64 bits that are no quantity, in hexadecimal.
#[derive(Debug, Clone, Copy)]
struct Hex(u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    cursor: Cursor,
    shard: u16,
    index: u64,
    at: Time,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Created(CreatedShape<'a>),
    Changed(ChangedShape<'a>),
    Closed {
        promotion_id: &'a PromotionId,
        reason: CloseReason,
    },
    Granted(GrantedShape<'a>),
    Sealed(SealedShape<'a>),
    Confirmed {
        order_id: &'a OrderId,
        from: &'static str,
        items: &'a [Item],
    },
    Returned(ReturnedShape<'a>),
    Undone(UndoneShape<'a>),
    Told {
        order_id: &'a OrderId,
        before: &'static str,
        after: &'static str,
    },
    Forgotten {
        order_ids: Vec<&'a OrderId>,
        try_ids: Vec<Hex>,
    },
    Checkpoint {
        digest: Hex,
    },
}

#[derive(Debug, Serialize)]
struct CreatedShape<'a> {
    promotion_id: &'a PromotionId,
    quantity: u64,
    #[serde(flatten)]
    terms: TermsShape<'a>,
}

#[derive(Debug, Serialize)]
struct ChangedShape<'a> {
    promotion_id: &'a PromotionId,
    add_quantity: i64,
    stopped: bool,
    /// The terms from now on; absent when they did not change.
    #[serde(flatten)]
    terms: Option<TermsShape<'a>>,
}

#[derive(Debug, Serialize)]
struct GrantedShape<'a> {
    order_id: &'a OrderId,
    pin: &'a Pin,
    ip: IpAddr,
    channel: &'static str,
    items: &'a [Item],
    pay_within_ms: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cart: Option<CartShape<'a>>,
}

/// A part of an order over several shards: set aside until home seals it.
#[derive(Debug, Serialize)]
struct CartShape<'a> {
    try_id: Hex,
    tentative_until: Time,
    role: &'static str,
    /// At home: the whole order.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_items: Option<Vec<ItemShape<'a>>>,
    /// At a guest: the order's first promotion, whose shard is home.
    #[serde(skip_serializing_if = "Option::is_none")]
    home_promotion_id: Option<&'a PromotionId>,
}

#[derive(Debug, Serialize)]
struct ItemShape<'a> {
    promotion_id: &'a PromotionId,
    quantity: u32,
}

#[derive(Debug, Serialize)]
struct SealedShape<'a> {
    order_id: &'a OrderId,
    items: &'a [Item],
    pay_by: Time,
    /// At home: the whole order, with what remained on each shard.
    #[serde(skip_serializing_if = "<[GrantedItem]>::is_empty")]
    order_items: &'a [GrantedItem],
}

#[derive(Debug, Serialize)]
struct ReturnedShape<'a> {
    order_id: &'a OrderId,
    reason: &'static str,
    from: &'static str,
    items: &'a [Item],
    /// Where the cancel of an order not yet seen left its tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    promotion_id: Option<&'a PromotionId>,
}

#[derive(Debug, Serialize)]
struct UndoneShape<'a> {
    try_id: Hex,
    /// Absent when the undo came before the try.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<&'a OrderId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<ItemShape<'a>>>,
}

/// Appends one flow and its line end.
pub(crate) fn write_flow(flow: &Flow, out: &mut Vec<u8>) {
    let line = Line {
        cursor: Cursor(flow.cursor),
        shard: flow.shard.0,
        index: flow.index,
        at: Time(flow.record.at()),
        kind: flow.record.type_name(),
        body: body_of(&flow.record),
    };
    serde_json::to_writer(&mut *out, &line)
        .expect("memory takes every byte, and all keys are texts");
    out.push(b'\n');
}

fn body_of(record: &Record) -> Body<'_> {
    match record {
        Record::PromotionCreated { promotion } => Body::Created(created(promotion)),
        Record::PromotionChanged(changed) => Body::Changed(changed_shape(changed)),
        Record::PromotionClosed {
            promotion_id,
            reason,
            ..
        } => Body::Closed {
            promotion_id,
            reason: *reason,
        },
        Record::Granted(granted) => Body::Granted(granted_shape(granted)),
        Record::Sealed {
            order_id,
            lines,
            pay_by,
            items,
            ..
        } => Body::Sealed(SealedShape {
            order_id,
            items: lines,
            pay_by: Time(*pay_by),
            order_items: items,
        }),
        Record::Confirmed {
            order_id,
            lines,
            from,
            ..
        } => Body::Confirmed {
            order_id,
            from: OrderState::as_str(*from),
            items: lines,
        },
        Record::Returned {
            order_id,
            lines,
            reason,
            from,
            ..
        } => Body::Returned(ReturnedShape {
            order_id,
            reason: reason.as_str(),
            from: returned_from(from),
            items: lines,
            promotion_id: match from {
                ReturnedFrom::Unknown { promotion_id } => Some(promotion_id),
                _ => None,
            },
        }),
        Record::Undone { try_id, order, .. } => Body::Undone(undone(*try_id, order.as_deref())),
        Record::Told {
            order_id,
            before,
            after,
            ..
        } => Body::Told {
            order_id,
            before: told(*before),
            after: told(*after),
        },
        Record::Forgotten { orders, tries, .. } => Body::Forgotten {
            order_ids: orders.iter().map(|order| &order.order_id).collect(),
            try_ids: tries.iter().map(|(try_id, _)| Hex(try_id.0)).collect(),
        },
        Record::Checkpoint { digest, .. } => Body::Checkpoint {
            digest: Hex(*digest),
        },
    }
}

fn created(promotion: &Promotion) -> CreatedShape<'_> {
    CreatedShape {
        promotion_id: &promotion.id,
        quantity: promotion.counters.original,
        terms: (&*promotion.terms).into(),
    }
}

fn changed_shape(changed: &PromotionChanged) -> ChangedShape<'_> {
    ChangedShape {
        promotion_id: &changed.promotion_id,
        add_quantity: changed.add_quantity,
        stopped: changed.stopped_after,
        terms: changed.terms_after.as_deref().map(TermsShape::from),
    }
}

fn granted_shape(granted: &Granted) -> GrantedShape<'_> {
    GrantedShape {
        order_id: &granted.order_id,
        pin: &granted.pin,
        ip: granted.ip,
        channel: granted.channel.as_str(),
        items: &granted.items,
        pay_within_ms: granted.pay_within_ms,
        cart: granted.cart.as_deref().map(cart_shape),
    }
}

fn cart_shape(part: &CartPart) -> CartShape<'_> {
    let (role, order_items, home_promotion_id) = match &part.role {
        CartRole::Home { items, .. } => ("home", Some(item_shapes(items)), None),
        CartRole::Guest { home } => ("guest", None, Some(home)),
    };
    CartShape {
        try_id: Hex(part.try_id.0),
        tentative_until: Time(part.tentative_until),
        role,
        order_items,
        home_promotion_id,
    }
}

fn undone(try_id: TryId, order: Option<&Order>) -> UndoneShape<'_> {
    UndoneShape {
        try_id: Hex(try_id.0),
        order_id: order.map(|order| &order.order_id),
        items: order.map(|order| item_shapes(&order.items)),
    }
}

fn item_shapes(items: &[GrantedItem]) -> Vec<ItemShape<'_>> {
    let shapes = items.iter().map(|item| ItemShape {
        promotion_id: &item.promotion_id,
        quantity: item.quantity,
    });
    shapes.collect()
}

fn returned_from(from: &ReturnedFrom) -> &'static str {
    match from {
        ReturnedFrom::Held => "held",
        ReturnedFrom::Confirmed { .. } => "confirmed",
        ReturnedFrom::Tentative => "tentative",
        ReturnedFrom::Unknown { .. } => "unknown",
    }
}

fn told(told: Told) -> &'static str {
    match told {
        Told::Nothing => "nothing",
        Told::Sealed => "sealed",
        Told::Confirmed => "confirmed",
        Told::Returned => "returned",
    }
}

#[cfg(test)]
#[path = "flow_lines_tests.rs"]
mod tests;
