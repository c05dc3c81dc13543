//! Promotions: created, read, listed, changed, stopped, resumed, deleted, with their counters and prices.
//!
//! Invariant: `original + added == remaining + held + confirmed` after every step.

use qiang_tests::{Answer, Node, parse_rfc3339_ms, rfc3339, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

/// The contract's example, with dates around the present.
fn whole_promotion() -> Value {
    json!({
        "promotion_id": "A", "kind": 1, "title": "Phone −500", "sku_ids": ["100012043978"],
        "quantity": 100, "starts_at": rfc3339(-60_000), "ends_at": rfc3339(3_600_000),
        "limits": {"per_order": 2, "per_pin": 2, "per_ip": 10},
        "rate": {"window_ms": 60_000, "attempts": 60_000},
        "payment_timeout_ms": 1_200_000, "channels": ["app", "wechat", "qq", "web"],
        "price": {"original_cents": 499_900, "promotion_cents": 449_900, "currency": "CNY"}
    })
}

#[test]
fn a_promotion_comes_back_with_everything_it_was_given() {
    let node = Node::start();
    let body = whole_promotion();
    let created = node.post("/v1/promotions", &body).expect(201);
    for (member, given) in body.as_object().expect("an object") {
        if member.ends_with("_at") {
            let ms = |value: &Value| parse_rfc3339_ms(value.as_str().expect("a time"));
            assert_eq!(ms(&created[member]), ms(given), "{member} in {created}");
        } else {
            assert_eq!(created[member], *given, "{member} in {created}");
        }
    }
    for (member, value) in [
        ("original", json!(100)),
        ("remaining", json!(100)),
        ("attempts", json!(0)),
        ("granted", json!(0)),
        ("returned", json!(0)),
        ("confirmed", json!(0)),
        ("state", json!("active")),
        ("price_state", json!("promotion")),
        ("current_price_cents", json!(449_900)),
    ] {
        assert_eq!(created[member], value, "{member} in {created}");
    }
    assert!(
        created["version"].is_u64() && created["shard"].is_u64(),
        "{created}"
    );
    assert_eq!(node.offered("A").view(), created);
}

#[test]
fn only_the_id_and_the_quantity_are_required() {
    let node = Node::start();
    let created = node
        .post(
            "/v1/promotions",
            &json!({"promotion_id": "A", "quantity": 1}),
        )
        .expect(201);
    assert_eq!(created["state"], "active");
    assert_eq!(
        created["payment_timeout_ms"], 1_200_000,
        "twenty minutes: {created}"
    );
    node.grab("o-1", "alice").of("A", 1).granted();
    node.post("/v1/promotions", &json!({"promotion_id": "B"}))
        .bad("quantity");
    node.post("/v1/promotions", &json!({"quantity": 1}))
        .bad("promotion_id");
}

#[test]
fn the_same_promotion_again_is_fine_and_another_under_its_id_is_not() {
    let node = Node::start();
    let body = whole_promotion();
    node.post("/v1/promotions", &body).expect(201);
    node.grab("o-1", "alice").of("A", 1).granted();
    let again = node.post("/v1/promotions", &body).expect(200);
    assert_eq!(again["remaining"], 99, "the promotion as it is: {again}");
    for (member, value) in [
        ("quantity", json!(101)),
        ("title", json!("other")),
        ("limits", json!({"per_pin": 2})),
    ] {
        let mut other = body.clone();
        other[member] = value;
        node.post("/v1/promotions", &other)
            .refused(409, "promotion_exists");
    }
    assert_eq!(node.offered("A").view()["title"], "Phone −500");
}

#[test]
fn an_unknown_promotion_is_not_found_by_any_route() {
    let node = Node::start();
    let none = node.offered("none");
    for answer in [
        none.answer(),
        none.patch(&json!({"title": "t"})),
        none.stop(),
        none.resume(),
        none.delete(),
    ] {
        answer.refused(404, "promotion_not_found");
    }
}

#[test]
fn quantity_is_added_and_taken_down_to_what_remains() {
    let node = Node::start();
    let sale = node.promotion("A").quantity(10).create();
    node.grab("o-1", "alice").of("A", 3).granted();
    let added = sale.patch(&json!({"add_quantity": 50})).expect(200);
    assert_eq!(
        (&added["remaining"], &added["original"]),
        (&json!(57), &json!(10))
    );
    sale.balances_with(50);
    let problem = sale
        .patch(&json!({"add_quantity": -58}))
        .refused(409, "insufficient_remaining");
    assert!(
        problem["detail"].to_string().contains("57"),
        "says what remains: {problem}"
    );
    assert_eq!(sale.remaining(), 57);
    sale.patch(&json!({"add_quantity": -57})).expect(200);
    assert_eq!((sale.remaining(), sale.state().as_str()), (0, "sold_out"));
    sale.balances_with(-7);
    node.grab("o-2", "bob").of("A", 1).refused(409, "sold_out");
    sale.patch(&json!({"add_quantity": 1})).expect(200);
    assert_eq!(sale.state(), "active");
    node.grab("o-2", "bob").of("A", 1).granted();
    sale.balances_with(-6);
}

#[test]
fn a_change_is_all_or_nothing_and_makes_a_new_version() {
    let node = Node::start();
    let sale = node.promotion("A").quantity(10).create();
    let before = sale.view();
    sale.patch(&json!({"title": "new", "add_quantity": -11}))
        .refused(409, "insufficient_remaining");
    assert_eq!(sale.view(), before);
    let change = json!({
        "title": "new", "limits": {"per_order": 1}, "rate": {"window_ms": 1000, "attempts": 5},
        "payment_timeout_ms": 30_000, "channels": ["qq"],
        "price": {"original_cents": 2, "promotion_cents": 1, "currency": "CNY"}
    });
    let after = sale.patch(&change).expect(200);
    for (member, value) in change.as_object().expect("an object") {
        let same = match value {
            Value::Object(members) => members
                .iter()
                .all(|(name, value)| after[member][name] == *value),
            value => after[member] == *value,
        };
        assert!(same, "{member} in {after}");
    }
    assert!(
        after["version"].as_u64() > before["version"].as_u64(),
        "{after}"
    );
    assert_eq!(after["current_price_cents"], 1);
    node.grab("o-1", "alice")
        .of("A", 1)
        .refused(409, "channel_closed");
    node.grab("o-1", "alice")
        .of("A", 2)
        .channel("qq")
        .refused(409, "order_limit");
    node.grab("o-1", "alice").of("A", 1).channel("qq").granted();
    assert_eq!(node.order("o-1").view()["items"][0]["quantity"], 1);
}

#[test]
fn a_limit_lowered_below_what_is_held_refuses_the_next_grab_only() {
    let node = Node::start();
    let sale = node.promotion("A").per_pin(5).create();
    node.grab("o-1", "alice").of("A", 4).granted();
    sale.patch(&json!({"limits": {"per_pin": 2}})).expect(200);
    node.grab("o-2", "alice")
        .of("A", 1)
        .refused(409, "pin_limit");
    node.grab("o-1", "alice").of("A", 4).replayed();
    node.order("o-1").cancel("user").expect(200);
    node.grab("o-2", "alice").of("A", 2).granted();
    sale.balances_with(0);
}

#[test]
fn the_price_follows_the_state() {
    let node = Node::start();
    let sale = node
        .promotion("A")
        .quantity(1)
        .price(499_900, 449_900)
        .create();
    let price_is = |state: &str, price_state: &str, cents: u64| {
        let view = sale.view();
        let seen = (
            &view["state"],
            &view["price_state"],
            &view["current_price_cents"],
        );
        assert_eq!(seen, (&json!(state), &json!(price_state), &json!(cents)));
    };
    price_is("active", "promotion", 449_900);
    node.grab("o-1", "alice").of("A", 1).granted();
    price_is("sold_out", "original", 499_900);
    node.order("o-1").cancel("user").expect(200);
    price_is("active", "promotion", 449_900);
    sale.stop().expect(200);
    price_is("stopped", "original", 499_900);
    sale.resume().expect(200);
    price_is("active", "promotion", 449_900);
    let later = node
        .promotion("B")
        .starts_in_ms(3_600_000)
        .price(200, 100)
        .create()
        .view();
    assert_eq!(
        (
            &later["state"],
            &later["price_state"],
            &later["current_price_cents"]
        ),
        (&json!("scheduled"), &json!("original"), &json!(200))
    );
}

#[test]
fn a_price_of_a_promotion_without_one_is_not_made_up() {
    let node = Node::start();
    let view = node.promotion("A").create().view();
    assert_eq!(view["price"], Value::Null, "{view}");
    assert_eq!(view["current_price_cents"], Value::Null, "{view}");
}

#[test]
fn stop_resume_and_delete_can_be_repeated() {
    let node = Node::start();
    let sale = node.promotion("A").create();
    for _ in 0..2 {
        sale.stop().expect(200);
        assert_eq!(sale.state(), "stopped");
    }
    for _ in 0..2 {
        sale.resume().expect(200);
        assert_eq!(sale.state(), "active");
    }
    for _ in 0..2 {
        assert_eq!(sale.delete().status / 100, 2);
    }
    node.grab("o-1", "alice").of("A", 1).refused(409, "deleted");
    sale.resume().problem(409);
    sale.patch(&json!({"add_quantity": 1})).problem(409);
}

#[test]
fn a_stopped_promotion_survives_a_restart_as_it_was() {
    let mut node = Node::start();
    node.promotion("A").quantity(5).create().stop().expect(200);
    let mut before = node.offered("A").view();
    assert!(node.stop_gracefully().success());
    node.restart();
    let mut after = node.offered("A").view();
    // The attempts of a window are soft state: a new leader starts a fresh window.
    before["attempts"] = Value::Null;
    after["attempts"] = Value::Null;
    assert_eq!(after, before);
}

#[test]
fn promotions_are_listed_in_pages_and_by_state() {
    let node = Node::start();
    let mut ids: Vec<String> = (0..25).map(|number| format!("P{number:02}")).collect();
    for id in &ids {
        node.promotion(id).quantity(1).create();
    }
    for id in &ids[..3] {
        node.offered(id).stop().expect(200);
    }
    node.grab("o-1", "alice").of("P10", 1).granted();

    let whole = listed(&node.get("/v1/promotions?limit=100"));
    ids.sort();
    assert_eq!(whole, ids, "ordered by id");
    let mut paged: Vec<String> = Vec::new();
    loop {
        let after = paged
            .last()
            .map(|id| format!("&after={id}"))
            .unwrap_or_default();
        let page = listed(&node.get(&format!("/v1/promotions?limit=10{after}")));
        assert!(page.len() <= 10);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, ids);

    assert_eq!(listed(&node.get("/v1/promotions?state=stopped")), ids[..3]);
    wait_until(
        Duration::from_secs(1),
        "the sold out one is listed so",
        || {
            let found = listed(&node.get("/v1/promotions?state=sold_out"));
            (found == ["P10"]).then_some(()).ok_or(format!("{found:?}"))
        },
    );
    assert_eq!(listed(&node.get("/v1/promotions?state=active")).len(), 21);
    assert!(listed(&node.get("/v1/promotions?state=ended")).is_empty());
    node.get("/v1/promotions?state=asleep").bad("state");
    node.get("/v1/promotions?limit=0").bad("limit");
    node.get("/v1/promotions?limit=many").bad("limit");
}

#[track_caller]
fn listed(answer: &Answer) -> Vec<String> {
    let body = answer.expect(200);
    let list = body["promotions"]
        .as_array()
        .unwrap_or_else(|| panic!("no list: {answer}"));
    list.iter()
        .map(|promotion| {
            promotion["promotion_id"]
                .as_str()
                .expect("an id")
                .to_owned()
        })
        .collect()
}
