//! The life of an order after its grab: read, confirm, cancel, refund, and a cancel that comes first.
//!
//! Invariant: each order ends once, and what it gives back is there again exactly once.

use qiang_tests::{Node, audit, parse_rfc3339_ms};
use serde_json::{Value, json};

#[test]
fn an_order_can_be_read_with_all_it_was_asked_for() {
    let node = Node::start();
    node.promotion("A").payment_timeout_ms(60_000).create();
    let granted = node
        .grab("o-1", "alice")
        .of("A", 2)
        .channel("wechat")
        .granted();
    let order = node.order("o-1").view();
    assert_eq!(order["order_id"], "o-1");
    assert_eq!(order["state"], "held");
    assert_eq!(order["pin"], "alice");
    assert_eq!(order["ip"], "203.0.113.9");
    assert_eq!(order["channel"], "wechat");
    assert_eq!(order["items"][0]["promotion_id"], "A");
    assert_eq!(order["items"][0]["quantity"], 2);
    assert_eq!(order["pay_by"], granted["pay_by"]);
    let at = |member: &str| parse_rfc3339_ms(order[member].as_str().expect("a time"));
    assert_eq!(at("pay_by") - at("granted_at"), 60_000, "{order}");
    assert_eq!(order["closed_at"], Value::Null, "{order}");
    assert_eq!(order["reason"], Value::Null, "{order}");
    assert_eq!(node.order("o-1").at("A").view(), order);
}

#[test]
fn an_order_never_seen_is_not_found() {
    let node = Node::start();
    node.promotion("A").create();
    for order in [node.order("none"), node.order("none").at("A")] {
        order.answer().refused(404, "order_not_found");
        order.confirm().refused(404, "order_not_found");
        order.cancel("user").refused(404, "order_not_found");
    }
}

#[test]
fn a_paid_order_stays_confirmed() {
    let node = Node::start();
    node.promotion("A").create();
    node.grab("o-1", "alice").of("A", 2).granted();
    node.order("o-1").confirm().expect(200);
    node.order("o-1").confirm().expect(200);
    node.order("o-1").at("A").confirm().expect(200);
    assert_eq!(node.order("o-1").state(), "confirmed");
    let sale = node.offered("A");
    assert_eq!((sale.remaining(), sale.number("confirmed")), (98, 2));
    node.order("o-1")
        .cancel("user")
        .refused(409, "order_confirmed");
    node.order("o-1")
        .cancel_with(&json!({"reason": "user", "refund": false}))
        .refused(409, "order_confirmed");
    assert_eq!(sale.remaining(), 98);
    sale.balances_with(0);
    audit(&node);
}

#[test]
fn a_cancelled_order_gives_back_its_units_once() {
    let node = Node::start();
    node.promotion("A").create();
    for (order, reason) in [("o-1", "user"), ("o-2", "stock"), ("o-3", "downstream")] {
        node.grab(order, "alice").of("A", 2).granted();
        assert_eq!(node.offered("A").remaining(), 98);
        for _ in 0..3 {
            node.order(order).cancel(reason).expect(200);
        }
        let view = node.order(order).view();
        assert_eq!(
            (&view["state"], &view["reason"]),
            (&json!("returned"), &json!(reason))
        );
        assert!(parse_rfc3339_ms(view["closed_at"].as_str().expect("a time")) > 0);
        assert_eq!(node.offered("A").remaining(), 100);
        node.order(order).confirm().refused(409, "order_returned");
    }
    let sale = node.offered("A");
    assert_eq!((sale.number("granted"), sale.number("returned")), (6, 6));
    sale.balances_with(0);
    audit(&node);
}

#[test]
fn a_refund_gives_back_what_was_paid() {
    let node = Node::start();
    node.promotion("A").create();
    node.grab("o-1", "alice").of("A", 2).granted();
    node.order("o-1").confirm().expect(200);
    let refund = json!({"reason": "user", "refund": true});
    node.order("o-1").cancel_with(&refund).expect(200);
    node.order("o-1").cancel_with(&refund).expect(200);
    node.order("o-1").cancel("user").expect(200);
    assert_eq!(node.order("o-1").state(), "returned");
    let sale = node.offered("A");
    assert_eq!((sale.remaining(), sale.number("confirmed")), (100, 0));
    sale.balances_with(0);
    node.order("o-1").confirm().refused(409, "order_returned");
    node.grab("o-1", "alice")
        .of("A", 2)
        .refused(409, "order_returned");
    audit(&node);
}

#[test]
fn a_cancel_before_its_grab_wins() {
    let node = Node::start();
    node.promotion("A").quantity(1).create();
    let early = json!({"reason": "downstream", "promotion_ids": ["A"]});
    node.order("o-1").cancel_with(&early).expect(200);
    node.order("o-1").cancel_with(&early).expect(200);
    for _ in 0..2 {
        node.grab("o-1", "alice")
            .of("A", 1)
            .refused(409, "order_returned");
    }
    assert_eq!(node.offered("A").remaining(), 1);
    node.offered("A").balances_with(0);
    node.grab("o-2", "alice").of("A", 1).granted();
    audit(&node);
}

#[test]
fn a_cancel_that_names_promotions_also_cancels_a_grab_that_came_first() {
    let node = Node::start();
    node.promotion("A").create();
    node.grab("o-1", "alice").of("A", 1).granted();
    let cancel = json!({"reason": "downstream", "promotion_ids": ["A"]});
    node.order("o-1").cancel_with(&cancel).expect(200);
    assert_eq!(node.order("o-1").state(), "returned");
    assert_eq!(node.offered("A").remaining(), 100);
    audit(&node);
}

#[test]
fn held_orders_of_a_stopped_or_deleted_promotion_live_on() {
    let node = Node::start();
    for (promotion, paid, left) in [("S", "s-1", "s-2"), ("D", "d-1", "d-2")] {
        node.promotion(promotion).create();
        node.grab(paid, "alice").of(promotion, 1).granted();
        node.grab(left, "bob").of(promotion, 1).granted();
    }
    node.offered("S").stop().expect(200);
    assert_eq!(node.offered("D").delete().status / 100, 2);
    for (promotion, paid, left) in [("S", "s-1", "s-2"), ("D", "d-1", "d-2")] {
        node.order(paid).confirm().expect(200);
        node.order(left).cancel("user").expect(200);
        assert_eq!(node.order(paid).state(), "confirmed", "{promotion}");
        assert_eq!(node.order(left).state(), "returned", "{promotion}");
    }
    assert_eq!(node.offered("S").remaining(), 99);
    audit(&node);
}

#[test]
fn a_cancel_with_another_reason_than_the_three_is_refused() {
    let node = Node::start();
    node.promotion("A").create();
    node.grab("o-1", "alice").of("A", 1).granted();
    node.order("o-1").cancel("whim").bad("reason");
    node.order("o-1")
        .cancel_with(&json!({"reason": "user", "refund": "yes"}))
        .bad("refund");
    node.order("o-1")
        .cancel_with(&json!({"reason": "user", "promotion_ids": "A"}))
        .bad("promotion_ids");
    node.order("o-1")
        .cancel_with(&json!({"reason": "user", "why": "so"}))
        .bad("why");
    assert_eq!(node.order("o-1").state(), "held");
}

#[test]
fn confirm_against_cancel_has_one_winner() {
    let node = Node::start();
    node.promotion("A").quantity(1000).create();
    for number in 0..50 {
        let order = format!("o-{number}");
        node.grab(&order, "alice").of("A", 1).granted();
        let (confirmed, cancelled) = std::thread::scope(|scope| {
            let confirm = scope.spawn(|| node.order(&order).confirm());
            let cancel = scope.spawn(|| node.order(&order).cancel("user"));
            (
                confirm.join().expect("confirm"),
                cancel.join().expect("cancel"),
            )
        });
        match node.order(&order).state().as_str() {
            "confirmed" => {
                confirmed.expect(200);
                cancelled.refused(409, "order_confirmed");
            }
            "returned" => {
                confirmed.refused(409, "order_returned");
                cancelled.expect(200);
            }
            other => panic!("{order} is {other} after {confirmed} and {cancelled}"),
        }
    }
    node.offered("A").balances_with(0);
    audit(&node);
}
