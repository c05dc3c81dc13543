//! What happens by itself: payment deadlines, start and end of a promotion, each within one second of its time.
//!
//! Invariant: what is due happens once, and never before its time.

use qiang_tests::{
    Kind, Node, audit, instant_at, parse_rfc3339_ms, rfc3339, shard_of, wait_until_by,
};
use serde_json::json;
use std::time::{Duration, Instant};

/// The contract's "within one second of it".
const WITHIN: Duration = Duration::from_secs(1);

#[test]
fn an_unpaid_order_is_returned_within_a_second_of_its_deadline_and_once() {
    let node = Node::start();
    node.promotion("A")
        .quantity(1)
        .payment_timeout_ms(1500)
        .create();
    let granted = node.grab("o-1", "alice").of("A", 1).granted();
    let due = parse_rfc3339_ms(granted["pay_by"].as_str().expect("a time"));
    wait_until_by(instant_at(due) + WITHIN, "o-1 is returned", || {
        let order = node.order("o-1").view();
        (order["state"] == "returned")
            .then_some(())
            .ok_or(order.to_string())
    });
    let order = node.order("o-1").view();
    let closed = parse_rfc3339_ms(order["closed_at"].as_str().expect("a time"));
    assert!(
        (due..=due + 1000).contains(&closed),
        "due {due}, closed {closed}: {order}"
    );
    let reason = order["reason"].as_str().unwrap_or_default();
    assert!(!reason.is_empty() && reason != "user", "{order}");

    node.order("o-1").confirm().refused(409, "order_returned");
    node.grab("o-1", "alice")
        .of("A", 1)
        .refused(409, "order_returned");
    let sale = node.offered("A");
    assert_eq!((sale.remaining(), sale.number("returned")), (1, 1));
    node.grab("o-2", "bob").of("A", 1).granted();
    let returns = node.flows(shard_of("A"));
    let returns = returns
        .iter()
        .filter(|flow| flow.kind == Kind::Returned && flow.order_id() == Some("o-1"));
    assert_eq!(returns.count(), 1);
    audit(&node);
}

#[test]
fn a_paid_order_does_not_expire() {
    let node = Node::start();
    node.promotion("A")
        .quantity(2)
        .payment_timeout_ms(2_000)
        .create();
    node.grab("paid", "alice").of("A", 1).granted();
    node.order("paid").confirm().expect(200);
    node.grab("left", "bob").of("A", 1).granted();
    wait_until_by(
        Instant::now() + Duration::from_secs(10),
        "the later order expires",
        || {
            let state = node.order("left").state();
            (state == "returned").then_some(()).ok_or(state)
        },
    );
    assert_eq!(node.order("paid").state(), "confirmed");
    node.offered("A").balances_with(0);
}

#[test]
fn confirm_against_expiry_has_one_winner() {
    let node = Node::start();
    node.promotion("A").payment_timeout_ms(300).create();
    for number in 0..10 {
        let order = format!("o-{number}");
        let granted = node.grab(&order, "alice").of("A", 1).granted();
        let due = instant_at(parse_rfc3339_ms(
            granted["pay_by"].as_str().expect("a time"),
        ));
        // Right at the deadline: either may win, but then it stays so.
        let answer = wait_until_by(due + WITHIN, "the deadline", || {
            let left = due.saturating_duration_since(Instant::now());
            if left > Duration::from_millis(1) {
                return Err(format!("{left:?} left"));
            }
            Ok(node.order(&order).confirm())
        });
        if answer.status == 200 {
            assert_eq!(node.order(&order).state(), "confirmed");
        } else {
            answer.refused(409, "order_returned");
            assert_eq!(node.order(&order).state(), "returned");
        }
    }
    node.offered("A").balances_with(0);
    audit(&node);
}

#[test]
fn an_order_that_fell_due_while_the_node_was_down_is_returned_after_its_start() {
    let mut node = Node::start();
    node.promotion("A")
        .quantity(1)
        .payment_timeout_ms(300)
        .create();
    let granted = node.grab("o-1", "alice").of("A", 1).granted();
    node.kill();
    let due = instant_at(parse_rfc3339_ms(
        granted["pay_by"].as_str().expect("a time"),
    ));
    wait_until_by(due + WITHIN, "the deadline passes", || {
        (Instant::now() > due)
            .then_some(())
            .ok_or("not yet".to_owned())
    });
    node.restart();
    wait_until_by(Instant::now() + WITHIN, "o-1 is returned", || {
        let state = node.order("o-1").state();
        (state == "returned").then_some(()).ok_or(state)
    });
    assert_eq!(node.offered("A").remaining(), 1);
    audit(&node);
}

#[test]
fn a_promotion_starts_within_a_second_of_its_time_and_never_before() {
    let node = Node::start();
    let sale = node
        .promotion("A")
        .starts_in_ms(1500)
        .price(200, 100)
        .create();
    let view = sale.view();
    assert_eq!(view["state"], "scheduled", "{view}");
    let starts = instant_at(parse_rfc3339_ms(
        view["starts_at"].as_str().expect("a time"),
    ));
    node.grab("o-1", "alice")
        .of("A", 1)
        .refused(409, "not_started");
    let mut asked = Instant::now();
    wait_until_by(starts + WITHIN, "a grab is granted", || {
        asked = Instant::now();
        let answer = node.grab("o-1", "alice").of("A", 1).answer();
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.refused(409, "not_started").to_string())
        }
    });
    assert!(
        Instant::now() >= starts,
        "granted {:?} too early",
        starts - asked
    );
    let view = sale.view();
    assert_eq!(
        (&view["state"], &view["current_price_cents"]),
        (&json!("active"), &json!(100))
    );
}

#[test]
fn a_promotion_ends_within_a_second_of_its_time_and_never_before() {
    let node = Node::start();
    let sale = node
        .promotion("A")
        .ends_in_ms(1500)
        .price(200, 100)
        .create();
    let view = sale.view();
    let ends = instant_at(parse_rfc3339_ms(view["ends_at"].as_str().expect("a time")));
    node.grab("held", "alice").of("A", 1).granted();
    let mut number = 0;
    wait_until_by(ends + WITHIN, "a grab is refused as ended", || {
        number += 1;
        let answer = node
            .grab(&format!("o-{number}"), "alice")
            .of("A", 1)
            .answer();
        if answer.status == 200 {
            return Err(answer.text);
        }
        // Sold out by then would be this test's fault: a hundred polls of 5 ms take half a second.
        let problem = answer.problem(409);
        let code = problem["code"].as_str().expect("a code");
        assert!(code == "ended" || code == "sold_out", "{answer}");
        (code == "ended").then_some(()).ok_or(answer.text)
    });
    assert!(Instant::now() >= ends, "ended too early");
    wait_until_by(ends + WITHIN, "the promotion says so", || {
        let view = sale.view();
        let told = view["state"] == "ended" && view["price_state"] == "original";
        told.then_some(()).ok_or(view.to_string())
    });
    assert_eq!(sale.view()["current_price_cents"], 200);
    node.order("held").confirm().expect(200);
    assert_eq!(
        node.order("held").state(),
        "confirmed",
        "held orders live on"
    );
    audit(&node);
}

#[test]
fn an_end_moved_by_a_change_is_the_end_that_counts() {
    let node = Node::start();
    let sale = node.promotion("A").ends_in_ms(3_600_000).create();
    sale.patch(&json!({"ends_at": rfc3339(500)})).expect(200);
    wait_until_by(
        Instant::now() + Duration::from_millis(1500),
        "it ended",
        || {
            let state = sale.state();
            (state == "ended").then_some(()).ok_or(state)
        },
    );
    node.grab("o-1", "alice").of("A", 1).refused(409, "ended");
}

#[test]
fn a_payment_timeout_changed_later_counts_for_later_orders() {
    let node = Node::start();
    let sale = node.promotion("A").payment_timeout_ms(3_600_000).create();
    node.grab("old", "alice").of("A", 1).granted();
    sale.patch(&json!({"payment_timeout_ms": 200})).expect(200);
    node.grab("new", "alice").of("A", 1).granted();
    wait_until_by(
        Instant::now() + Duration::from_millis(1200),
        "the new order expires",
        || {
            let state = node.order("new").state();
            (state == "returned").then_some(()).ok_or(state)
        },
    );
    assert_eq!(node.order("old").state(), "held");
}
