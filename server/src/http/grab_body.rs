//! A grab on its way in: from JSON to the engine's `Grab`.
//!
//! Invariant: items that name the same promotion are summed before anything is checked, and an address written in two
//! ways is one address.

mod plain;

use std::fmt;
use std::net::IpAddr;

use qiang_engine::command::{Grab, sum_items};
use qiang_engine::limits::{ITEMS_MAX, QUANTITY_MAX};
use qiang_engine::order::{Item, Items};
use qiang_engine::{OrderId, Pin, PromotionId};
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{ChannelName, List, Object, Whole, parse};
use super::problem::Problem;

/// Most grabs in one batch (the public contract).
pub(super) const BATCH_GRABS_MAX: usize = 8192;

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrabBody {
    order_id: OrderId,
    pin: Pin,
    ip: IpAddr,
    channel: ChannelName,
    items: ItemsBody,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemBody {
    promotion_id: PromotionId,
    quantity: Whole<1, QUANTITY_MAX>,
}

/// 1 to 32 items; most grabs have one, which needs no list.
#[derive(Debug, PartialEq, Eq)]
struct ItemsBody(Items);

impl<'de> Deserialize<'de> for ItemsBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = ItemsBody;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of 1 to {ITEMS_MAX} items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ItemsBody, A::Error> {
                let mut items = Items::new();
                while let Some(Object(item)) = list.next_element::<Object<ItemBody>>()? {
                    if items.len() == ITEMS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "has more than {ITEMS_MAX} items"
                        )));
                    }
                    items.push(Item {
                        promotion_id: item.promotion_id,
                        quantity: item.quantity.u32(),
                    });
                }
                if items.is_empty() {
                    return Err(A::Error::invalid_length(0, &self));
                }
                Ok(ItemsBody(items))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchBody<'a> {
    #[serde(borrow)]
    grabs: List<&'a RawValue, 0, BATCH_GRABS_MAX>,
}

/// Reads one grab.
///
/// # Errors
/// 400 `invalid_request` naming the member that is wrong.
pub(super) fn parse_grab(body: &[u8]) -> Result<Grab, Problem> {
    match plain::read_grab(body) {
        Some(body) => grab_of(body),
        None => parse::<Object<GrabBody>>(body).and_then(|Object(body)| grab_of(body)),
    }
}

fn grab_of(body: GrabBody) -> Result<Grab, Problem> {
    let mut items = body.items.0;
    if items.len() > 1 {
        let given = items
            .into_iter()
            .map(|item| (item.promotion_id, item.quantity));
        items = sum_items(given).map_err(|promotion_id| {
            let what = format!(
                "the items of promotion {promotion_id} have a quantity of more than {QUANTITY_MAX} together"
            );
            Problem::invalid("items", &what)
        })?;
    }
    Ok(Grab {
        order_id: body.order_id,
        pin: body.pin,
        // An IPv4 address inside an IPv6 one is the same buyer's.
        ip: body.ip.to_canonical(),
        channel: body.channel.0,
        items,
    })
}

/// The elements of a batch: grabs, and those that are none.
#[derive(Debug)]
pub(super) struct Batch {
    /// In their order.
    pub(super) grabs: Vec<Grab>,
    /// What is wrong with each of the others, and its position among all, ascending.
    pub(super) wrong: Vec<(usize, Problem)>,
}

impl Batch {
    fn of(elements: impl ExactSizeIterator<Item = Result<Grab, Problem>>) -> Self {
        let mut batch = Batch {
            grabs: Vec::with_capacity(elements.len()),
            wrong: Vec::new(),
        };
        for (position, element) in elements.enumerate() {
            match element {
                Ok(grab) => batch.grabs.push(grab),
                Err(problem) => batch.wrong.push((position, problem)),
            }
        }
        batch
    }

    /// How many elements there are.
    pub(super) fn len(&self) -> usize {
        self.grabs.len() + self.wrong.len()
    }
}

/// Reads a batch.
///
/// # Errors
/// 400 `invalid_request` where the batch itself is wrong.
pub(super) fn parse_batch(body: &[u8]) -> Result<Batch, Problem> {
    if let Some(grabs) = plain::read_batch(body) {
        return Ok(Batch::of(grabs.into_iter().map(grab_of)));
    }
    // Elements are read one by one, so that a wrong one fails alone.
    let Object(batch) = parse::<Object<BatchBody<'_>>>(body)?;
    let grabs = batch.grabs.0.into_iter();
    Ok(Batch::of(
        grabs.map(|grab| parse_grab(grab.get().as_bytes())),
    ))
}

#[cfg(test)]
#[path = "grab_body_tests.rs"]
mod tests;
