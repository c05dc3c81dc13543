//! Each kind of flow as readers get it.

use super::*;
use qiang_engine::order::{Buyer, ReturnReason};
use qiang_engine::promotion::{Channel, Counters, Limits, Terms};
use qiang_engine::{ShardId, UnixMs};
use serde_json::{Value, json};
use std::sync::Arc;

const AT: UnixMs = UnixMs(1000);

fn line(record: Record) -> Value {
    let flow = Flow {
        cursor: 3 << 16,
        shard: ShardId(5),
        index: 3,
        record,
    };
    let mut out = Vec::new();
    write_flow(&flow, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.find('\n'), Some(text.len() - 1), "one line: {text}");
    serde_json::from_str(&text).unwrap()
}

/// The line without what every line has, after checking that.
fn body(record: Record) -> Value {
    let mut line = line(record);
    assert_eq!(line["cursor"], "00000000000000196608");
    assert_eq!((&line["shard"], &line["index"]), (&json!(5), &json!(3)));
    assert_eq!(line["at"], "1970-01-01T00:00:01.000Z");
    let members = line.as_object_mut().unwrap();
    for common in ["cursor", "shard", "index", "at"] {
        members.remove(common);
    }
    line
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn item(quantity: u32) -> Item {
    Item {
        promotion_id: id("A"),
        quantity,
    }
}

fn granted_item(quantity: u32, remaining: u64) -> GrantedItem {
    GrantedItem {
        promotion_id: id("A"),
        quantity,
        remaining,
    }
}

fn part(role: CartRole) -> CartPart {
    CartPart {
        try_id: TryId(0xab),
        tentative_until: UnixMs(2000),
        role,
    }
}

fn granted(cart: Option<CartPart>) -> Record {
    Record::Granted(Granted {
        order_id: id("o-1"),
        pin: id("alice"),
        ip: "203.0.113.9".parse().unwrap(),
        channel: Channel::App,
        items: [item(2)].into_iter().collect(),
        at: AT,
        pay_within_ms: 60_000,
        cart: cart.map(Box::new),
    })
}

fn order() -> Order {
    Order {
        order_id: id("o-1"),
        buyer: Some(Buyer {
            pin: id("alice"),
            ip: "203.0.113.9".parse().unwrap(),
            channel: Channel::App,
        }),
        items: [granted_item(2, 5)].into_iter().collect(),
        granted_at: AT,
        pay_by: UnixMs(9000),
        state: OrderState::Held,
        cart: None,
    }
}

#[test]
fn a_creation_shows_quantity_and_terms() {
    let limits = Limits {
        per_pin: Some(2),
        ..Limits::default()
    };
    let terms = Arc::new(Terms {
        limits,
        title: "t".to_owned(),
        ..Terms::default()
    });
    let promotion = Promotion {
        id: id("A"),
        terms: terms.clone(),
        created_terms: terms,
        counters: Counters::offered(7),
        stopped: false,
        closed: None,
        version: 1,
        created_at: AT,
    };
    let line = body(Record::PromotionCreated {
        promotion: Box::new(promotion),
    });
    assert_eq!(line["type"], "promotion_created");
    assert_eq!(
        (&line["promotion_id"], &line["quantity"], &line["title"]),
        (&json!("A"), &json!(7), &json!("t"))
    );
    assert_eq!(
        line["limits"],
        json!({"per_order": null, "per_pin": 2, "per_ip": null})
    );
}

#[test]
fn a_change_shows_terms_only_where_they_changed() {
    let changed = |terms: Option<Terms>| {
        let terms = terms.map(Arc::new);
        let changed = PromotionChanged {
            promotion_id: id("A"),
            terms_before: terms.clone(),
            terms_after: terms,
            add_quantity: -3,
            stopped_before: false,
            stopped_after: true,
            at: AT,
        };
        body(Record::PromotionChanged(Box::new(changed)))
    };
    let quantity = json!({"type": "promotion_changed", "promotion_id": "A", "add_quantity": -3, "stopped": true});
    assert_eq!(changed(None), quantity);
    let with_terms = changed(Some(Terms::default()));
    assert_eq!(with_terms["payment_timeout_ms"], 1_200_000);
    assert_eq!(with_terms["limits"]["per_pin"], Value::Null);
}

#[test]
fn grants_show_the_buyer_the_items_and_the_part_in_a_cart() {
    let plain = json!({
        "type": "granted", "order_id": "o-1", "pin": "alice", "ip": "203.0.113.9", "channel": "app",
        "items": [{"promotion_id": "A", "quantity": 2}], "pay_within_ms": 60000,
    });
    assert_eq!(body(granted(None)), plain);
    let guest = body(granted(Some(part(CartRole::Guest { home: id("B") }))));
    let expected = json!({"try_id": "00000000000000ab", "tentative_until": "1970-01-01T00:00:02.000Z",
                          "role": "guest", "home_promotion_id": "B"});
    assert_eq!(guest["cart"], expected);
    let items = [granted_item(2, 0)].into_iter().collect();
    let home = body(granted(Some(part(CartRole::Home {
        items,
        told: Told::Nothing,
    }))));
    assert_eq!(
        home["cart"]["order_items"],
        json!([{"promotion_id": "A", "quantity": 2}])
    );
}

#[test]
fn every_other_kind_shows_what_it_moved() {
    let order_id = || id("o-1");
    let lines = || [item(2)].into_iter().collect();
    let items = json!([{"promotion_id": "A", "quantity": 2}]);
    let reason = ReturnReason::Expired;
    let cases = [
        (
            Record::PromotionClosed {
                promotion_id: id("A"),
                reason: CloseReason::Ended,
                before: None,
                at: AT,
            },
            json!({"type": "promotion_closed", "promotion_id": "A", "reason": "ended"}),
        ),
        (
            Record::Sealed {
                order_id: order_id(),
                lines: lines(),
                pay_by: UnixMs(2000),
                pay_by_before: AT,
                items: [granted_item(2, 5)].into_iter().collect(),
                at: AT,
            },
            json!({"type": "sealed", "order_id": "o-1", "items": items, "pay_by": "1970-01-01T00:00:02.000Z",
                   "order_items": [{"promotion_id": "A", "quantity": 2, "remaining": 5}]}),
        ),
        (
            Record::Confirmed {
                order_id: order_id(),
                lines: lines(),
                from: OrderState::Held,
                at: AT,
            },
            json!({"type": "confirmed", "order_id": "o-1", "from": "held", "items": items}),
        ),
        (
            Record::Returned {
                order_id: order_id(),
                lines: lines(),
                reason,
                from: ReturnedFrom::Held,
                at: AT,
            },
            json!({"type": "returned", "order_id": "o-1", "reason": "expired", "from": "held", "items": items}),
        ),
        (
            Record::Returned {
                order_id: order_id(),
                lines: std::iter::empty::<Item>().collect(),
                reason: ReturnReason::User,
                from: ReturnedFrom::Unknown {
                    promotion_id: id("A"),
                },
                at: AT,
            },
            json!({"type": "returned", "order_id": "o-1", "reason": "user", "from": "unknown", "items": [],
                   "promotion_id": "A"}),
        ),
        (
            Record::Undone {
                try_id: TryId(1),
                order: Some(Box::new(order())),
                at: AT,
            },
            json!({"type": "undone", "try_id": "0000000000000001", "order_id": "o-1", "items": items}),
        ),
        (
            Record::Undone {
                try_id: TryId(u64::MAX),
                order: None,
                at: AT,
            },
            json!({"type": "undone", "try_id": "ffffffffffffffff"}),
        ),
        (
            Record::Told {
                order_id: order_id(),
                before: Told::Nothing,
                after: Told::Sealed,
                at: AT,
            },
            json!({"type": "told", "order_id": "o-1", "before": "nothing", "after": "sealed"}),
        ),
        (
            Record::Forgotten {
                orders: vec![order()],
                tries: vec![(TryId(1), AT)],
                at: AT,
            },
            json!({"type": "forgotten", "order_ids": ["o-1"], "try_ids": ["0000000000000001"]}),
        ),
        (
            Record::Checkpoint {
                digest: 0xff,
                at: AT,
            },
            json!({"type": "checkpoint", "digest": "00000000000000ff"}),
        ),
    ];
    for (record, expected) in cases {
        assert_eq!(body(record), expected);
    }
}

#[test]
fn cursors_grow_as_texts_too() {
    let texts = [0, 1, 9, 10, u64::MAX].map(|cursor| Cursor(cursor).to_string());
    assert!(
        texts.is_sorted() && texts.iter().all(|text| text.len() == 20),
        "{texts:?}"
    );
}
