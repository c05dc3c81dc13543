//! Orders and grants on their way out.
//!
//! Invariant: an order shows all its items, of every shard, and a tombstone shows no buyer and no units.

use std::net::IpAddr;

use qiang_engine::command::Granted;
use qiang_engine::order::{GrantedItem, Order, OrderState};
use qiang_engine::{OrderId, Pin, PromotionId};
use serde::Serialize;

use super::time::{Time, write_time};

/// An order as the contract shows it.
#[derive(Debug, Serialize)]
pub(super) struct OrderShape<'a> {
    order_id: &'a OrderId,
    state: &'static str,
    pin: Option<&'a Pin>,
    ip: Option<IpAddr>,
    channel: Option<&'static str>,
    items: Vec<ItemShape<'a>>,
    granted_at: Option<Time>,
    pay_by: Option<Time>,
    closed_at: Option<Time>,
    reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct ItemShape<'a> {
    promotion_id: &'a PromotionId,
    quantity: u32,
}

impl<'a> From<&'a Order> for OrderShape<'a> {
    fn from(order: &'a Order) -> Self {
        let buyer = order.buyer.as_ref();
        let items = order.all_items().iter().filter(|item| item.quantity > 0);
        let granted = |time| buyer.map(|_| Time(time));
        OrderShape {
            order_id: &order.order_id,
            state: order.state.as_str(),
            pin: buyer.map(|buyer| &buyer.pin),
            ip: buyer.map(|buyer| buyer.ip),
            channel: buyer.map(|buyer| buyer.channel.as_str()),
            items: items
                .map(|item| ItemShape {
                    promotion_id: &item.promotion_id,
                    quantity: item.quantity,
                })
                .collect(),
            granted_at: granted(order.granted_at),
            pay_by: granted(order.pay_by),
            closed_at: order.state.closed_at().map(Time),
            reason: match order.state {
                OrderState::Returned { reason, .. } => Some(reason.as_str()),
                _ => None,
            },
        }
    }
}

/// The body of a granted grab.
pub(super) fn granted_body(granted: &Granted) -> Vec<u8> {
    let mut out = Vec::with_capacity(192 + 128 * granted.items.len());
    out.push(b'{');
    write_granted(granted, &mut out);
    out
}

/// Appends the members of a grant and the closing brace. Written by hand: it is the one body of the hot path. Ids need
/// no escapes, by their alphabet.
pub(super) fn write_granted(granted: &Granted, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"order_id\":\"");
    out.extend_from_slice(granted.order_id.as_bytes());
    out.extend_from_slice(b"\",\"outcome\":\"granted\",\"replayed\":");
    out.extend_from_slice(if granted.replayed { b"true" } else { b"false" });
    out.extend_from_slice(b",\"pay_by\":\"");
    out.extend_from_slice(&write_time(granted.pay_by));
    out.extend_from_slice(b"\",\"items\":[");
    for (at, item) in granted.items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_item(item, out);
    }
    out.extend_from_slice(b"]}");
}

fn write_item(item: &GrantedItem, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"promotion_id\":\"");
    out.extend_from_slice(item.promotion_id.as_bytes());
    out.extend_from_slice(b"\",\"quantity\":");
    write_number(item.quantity.into(), out);
    out.extend_from_slice(b",\"remaining\":");
    write_number(item.remaining, out);
    out.push(b'}');
}

/// Appends decimal digits.
pub(super) fn write_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiang_engine::order::{Buyer, CartPart, CartRole, ReturnReason, Told};
    use qiang_engine::promotion::Channel;
    use qiang_engine::{TryId, UnixMs};
    use serde_json::{Value, json};

    fn item(id: &str, quantity: u32, remaining: u64) -> GrantedItem {
        GrantedItem {
            promotion_id: PromotionId::new(id).unwrap(),
            quantity,
            remaining,
        }
    }

    fn order(state: OrderState) -> Order {
        let buyer = Buyer {
            pin: Pin::new("alice").unwrap(),
            ip: "2001:db8::1".parse().unwrap(),
            channel: Channel::Wechat,
        };
        Order {
            order_id: OrderId::new("o-1").unwrap(),
            buyer: Some(buyer),
            items: [item("A", 2, 98)].into_iter().collect(),
            granted_at: UnixMs(1000),
            pay_by: UnixMs(61_000),
            state,
            cart: None,
        }
    }

    fn shown(order: &Order) -> Value {
        serde_json::to_value(OrderShape::from(order)).unwrap()
    }

    #[test]
    fn a_held_order_shows_what_it_was_asked_for() {
        let expected = json!({
            "order_id": "o-1", "state": "held", "pin": "alice", "ip": "2001:db8::1", "channel": "wechat",
            "items": [{"promotion_id": "A", "quantity": 2}], "granted_at": "1970-01-01T00:00:01.000Z",
            "pay_by": "1970-01-01T00:01:01.000Z", "closed_at": null, "reason": null,
        });
        assert_eq!(shown(&order(OrderState::Held)), expected);
    }

    #[test]
    fn a_closed_order_shows_when_and_why() {
        let confirmed = shown(&order(OrderState::Confirmed { at: UnixMs(2000) }));
        assert_eq!(confirmed["state"], "confirmed");
        assert_eq!(
            (&confirmed["closed_at"], &confirmed["reason"]),
            (&json!("1970-01-01T00:00:02.000Z"), &Value::Null)
        );
        let reason = ReturnReason::Expired;
        let returned = shown(&order(OrderState::Returned {
            at: UnixMs(2000),
            reason,
        }));
        assert_eq!(
            (&returned["state"], &returned["reason"]),
            (&json!("returned"), &json!("expired"))
        );
    }

    #[test]
    fn a_tombstone_shows_no_buyer_and_no_units() {
        let reason = ReturnReason::User;
        let mut tombstone = order(OrderState::Returned {
            at: UnixMs(2000),
            reason,
        });
        tombstone.buyer = None;
        tombstone.items = [item("A", 0, 0)].into_iter().collect();
        let shown = shown(&tombstone);
        for member in ["pin", "ip", "channel", "granted_at", "pay_by"] {
            assert_eq!(shown[member], Value::Null, "{member}");
        }
        assert_eq!(
            (&shown["items"], &shown["state"]),
            (&json!([]), &json!("returned"))
        );
    }

    #[test]
    fn a_cart_shows_the_items_of_every_shard() {
        let mut cart = order(OrderState::Held);
        let items = [item("A", 2, 98), item("B", 1, 0)].into_iter().collect();
        let role = CartRole::Home {
            items,
            told: Told::Sealed,
        };
        cart.cart = Some(Box::new(CartPart {
            try_id: TryId(1),
            tentative_until: UnixMs(5),
            role,
        }));
        let ids: Vec<_> = shown(&cart)["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["promotion_id"].clone())
            .collect();
        assert_eq!(ids, [json!("A"), json!("B")]);
    }

    #[test]
    fn a_grant_is_written_as_the_contract_shows_it() {
        let granted = Granted {
            order_id: OrderId::new("o-1001").unwrap(),
            replayed: false,
            pay_by: UnixMs(1_781_742_000_000),
            items: vec![item("A", 1, 99)].into(),
        };
        let text = concat!(
            r#"{"order_id":"o-1001","outcome":"granted","replayed":false,"pay_by":"2026-06-18T00:20:00.000Z","#,
            r#""items":[{"promotion_id":"A","quantity":1,"remaining":99}]}"#
        );
        assert_eq!(String::from_utf8(granted_body(&granted)).unwrap(), text);
        let items = vec![item("A", 1 << 31, u64::MAX), item("B", 10, 0)];
        let replayed = Granted {
            replayed: true,
            items: items.into(),
            ..granted
        };
        let read: Value = serde_json::from_slice(&granted_body(&replayed)).unwrap();
        assert_eq!(read["replayed"], true);
        assert_eq!(
            read["items"],
            json!([{"promotion_id": "A", "quantity": 1_u64 << 31, "remaining": u64::MAX},
                   {"promotion_id": "B", "quantity": 10, "remaining": 0}])
        );
    }
}
