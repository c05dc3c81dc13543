//! Requests that are wrong: each gets its documented status and code, the field is named, and nothing changes.
//!
//! Invariant: after every refusal the node serves as before, with the same counters and no new flow.

use qiang_tests::{Node, rfc3339, shard_of};
use serde_json::{Value, json};

/// A node with one promotion and one order, and what must stay the same.
struct Untouched {
    node: Node,
    view: Value,
    flows: usize,
}

impl Untouched {
    fn start() -> Self {
        let node = Node::start();
        node.promotion("A")
            .quantity(10)
            .rate(3_600_000, 1_000_000)
            .create();
        node.grab("held", "alice").of("A", 1).granted();
        let view = without_attempts(node.offered("A").view());
        let flows = moving_flows(&node);
        Self { node, view, flows }
    }

    /// The promotion and its flows are as they were, and the node still grants.
    #[track_caller]
    fn is_unchanged(&self) {
        assert_eq!(without_attempts(self.node.offered("A").view()), self.view);
        assert_eq!(moving_flows(&self.node), self.flows);
        self.node.grab("held", "alice").of("A", 1).replayed();
        self.node.grab("fresh", "bob").of("A", 1).granted();
    }
}

/// Attempts count refused grabs too: they are the one trace a refusal may leave.
fn without_attempts(mut view: Value) -> Value {
    view["attempts"] = Value::Null;
    view
}

fn moving_flows(node: &Node) -> usize {
    let flows = node.flows(shard_of("A"));
    flows
        .iter()
        .filter(|flow| flow.kind != qiang_tests::Kind::Other)
        .count()
}

fn grab() -> Value {
    json!({"order_id": "o-1", "pin": "bob", "ip": "203.0.113.9", "channel": "app",
           "items": [{"promotion_id": "A", "quantity": 1}]})
}

/// The grab with one member changed.
fn with(pointer: &str, value: Value) -> Value {
    let mut body = grab();
    let (parent, member) = pointer.rsplit_once('/').expect("a pointer to a member");
    body.pointer_mut(parent).expect("the parent exists")[member] = value;
    body
}

fn without(member: &str) -> Value {
    let mut body = grab();
    body.as_object_mut().expect("an object").remove(member);
    body
}

#[test]
fn each_wrong_member_of_a_grab_is_named() {
    let untouched = Untouched::start();
    let node = &untouched.node;
    let two_to_the_31 = 1_i64 << 31;
    let long = "x".repeat(65);
    let cases = [
        ("order_id", without("order_id")),
        ("pin", without("pin")),
        ("items", without("items")),
        ("order_id", with("/order_id", json!(5))),
        ("order_id", with("/order_id", json!(null))),
        ("order_id", with("/order_id", json!(""))),
        ("order_id", with("/order_id", json!(long))),
        ("order_id", with("/order_id", json!("o 1"))),
        ("order_id", with("/order_id", json!("o/1"))),
        ("order_id", with("/order_id", json!("订单"))),
        ("order_id", with("/order_id", json!("o\u{0}1"))),
        ("pin", with("/pin", json!(""))),
        ("pin", with("/pin", json!(long))),
        ("pin", with("/pin", json!("a\nb"))),
        ("pin", with("/pin", json!(["alice"]))),
        ("ip", with("/ip", json!("203.0.113"))),
        ("ip", with("/ip", json!("203.0.113.256"))),
        ("ip", with("/ip", json!(""))),
        ("ip", with("/ip", json!(7))),
        ("channel", with("/channel", json!("telegram"))),
        ("channel", with("/channel", json!("APP"))),
        ("channel", with("/channel", json!(1))),
        ("items", with("/items", json!([]))),
        ("items", with("/items", json!("A"))),
        (
            "items",
            with("/items", json!({"promotion_id": "A", "quantity": 1})),
        ),
        ("quantity", with("/items/0/quantity", json!(0))),
        ("quantity", with("/items/0/quantity", json!(-1))),
        ("quantity", with("/items/0/quantity", json!(1.5))),
        ("quantity", with("/items/0/quantity", json!("1"))),
        (
            "quantity",
            with("/items/0/quantity", json!(two_to_the_31 + 1)),
        ),
        ("quantity", with("/items/0/quantity", json!(u64::MAX))),
        ("quantity", with("/items", json!([{"promotion_id": "A"}]))),
        ("promotion_id", with("/items", json!([{"quantity": 1}]))),
        ("promotion_id", with("/items/0/promotion_id", json!(long))),
        ("promotion_id", with("/items/0/promotion_id", json!("A B"))),
        ("colour", with("/colour", json!("red"))),
        ("size", with("/items/0/size", json!(1))),
    ];
    for (field, body) in cases {
        let problem = node.post("/v1/grabs", &body).bad(field);
        assert!(problem["code"] != "internal", "{problem}");
    }
    untouched.is_unchanged();
}

#[test]
fn a_sum_of_items_that_no_order_can_hold_is_refused() {
    let untouched = Untouched::start();
    let most = (1_i64 << 31) - 1;
    let items = json!([{"promotion_id": "A", "quantity": most}, {"promotion_id": "A", "quantity": most},
                       {"promotion_id": "A", "quantity": most}]);
    untouched
        .node
        .post("/v1/grabs", &with("/items", items))
        .bad("quantity");
    untouched.is_unchanged();
}

#[test]
fn thirty_two_items_are_an_order_and_thirty_three_are_not() {
    let untouched = Untouched::start();
    let items = |count: usize| json!(vec![json!({"promotion_id": "A", "quantity": 1}); count]);
    untouched
        .node
        .post("/v1/grabs", &with("/items", items(33)))
        .bad("items");
    let problem = untouched.node.post("/v1/grabs", &with("/items", items(32)));
    problem.refused(409, "sold_out");
    untouched.is_unchanged();
}

#[test]
fn ids_of_64_bytes_with_every_allowed_byte_are_fine() {
    let node = Node::start();
    let id = format!("{:-<64}", "abcXYZ019._:-");
    assert_eq!(id.len(), 64);
    node.promotion(&id).create();
    node.grab(&id, &id).of(&id, 1).granted();
    assert_eq!(node.order(&id).state(), "held");
    node.order(&id).confirm().expect(200);
}

#[test]
fn a_member_given_twice_is_named() {
    let untouched = Untouched::start();
    let twice = r#"{"order_id":"o-1","order_id":"o-2","pin":"bob","ip":"203.0.113.9","channel":"app",
                    "items":[{"promotion_id":"A","quantity":1}]}"#;
    untouched.node.post_text("/v1/grabs", twice).bad("order_id");
    let inside = r#"{"order_id":"o-1","pin":"bob","ip":"203.0.113.9","channel":"app",
                     "items":[{"promotion_id":"A","quantity":1,"quantity":2}]}"#;
    untouched
        .node
        .post_text("/v1/grabs", inside)
        .bad("quantity");
    let promotion = r#"{"promotion_id":"B","quantity":1,"quantity":2}"#;
    untouched
        .node
        .post_text("/v1/promotions", promotion)
        .bad("quantity");
    untouched
        .node
        .offered("B")
        .answer()
        .refused(404, "promotion_not_found");
    untouched.is_unchanged();
}

#[test]
fn what_is_not_json_is_refused() {
    let untouched = Untouched::start();
    let node = &untouched.node;
    for body in [
        "",
        "{",
        "null",
        "[]",
        "5",
        "\"grab\"",
        "{\"order_id\":",
        "{} {}",
        "{'order_id':1}",
    ] {
        node.post_text("/v1/grabs", body).problem(400);
        node.post_text("/v1/grabs/batch", body).problem(400);
        node.post_text("/v1/promotions", body).problem(400);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    node.post_text("/v1/grabs", &deep).problem(400);
    untouched.is_unchanged();
}

#[test]
fn each_wrong_member_of_a_promotion_is_named() {
    let untouched = Untouched::start();
    let node = &untouched.node;
    let long = "x".repeat(65);
    let cases = [
        ("promotion_id", json!({"quantity": 1})),
        ("promotion_id", json!({"promotion_id": "", "quantity": 1})),
        ("promotion_id", json!({"promotion_id": long, "quantity": 1})),
        (
            "promotion_id",
            json!({"promotion_id": "a b", "quantity": 1}),
        ),
        ("promotion_id", json!({"promotion_id": 7, "quantity": 1})),
        ("quantity", json!({"promotion_id": "B"})),
        ("quantity", json!({"promotion_id": "B", "quantity": -1})),
        ("quantity", json!({"promotion_id": "B", "quantity": "1"})),
        ("quantity", json!({"promotion_id": "B", "quantity": 0.5})),
        (
            "quantity",
            json!({"promotion_id": "B", "quantity": (1_i64 << 31) + 1}),
        ),
        (
            "starts_at",
            json!({"promotion_id": "B", "quantity": 1, "starts_at": "tomorrow"}),
        ),
        (
            "starts_at",
            json!({"promotion_id": "B", "quantity": 1, "starts_at": 0}),
        ),
        (
            "starts_at",
            json!({"promotion_id": "B", "quantity": 1, "starts_at": "2026-02-30T00:00:00Z"}),
        ),
        (
            "ends_at",
            json!({"promotion_id": "B", "quantity": 1, "ends_at": "2026-06-18 00:00"}),
        ),
        (
            "ends_at",
            json!({"promotion_id": "B", "quantity": 1, "ends_at": "99999-01-01T00:00:00Z"}),
        ),
        (
            "ends_at",
            json!({"promotion_id": "B", "quantity": 1, "starts_at": rfc3339(10_000), "ends_at": rfc3339(5000)}),
        ),
        (
            "per_pin",
            json!({"promotion_id": "B", "quantity": 1, "limits": {"per_pin": -1}}),
        ),
        (
            "per_order",
            json!({"promotion_id": "B", "quantity": 1, "limits": {"per_order": "two"}}),
        ),
        (
            "per_country",
            json!({"promotion_id": "B", "quantity": 1, "limits": {"per_country": 1}}),
        ),
        (
            "limits",
            json!({"promotion_id": "B", "quantity": 1, "limits": 3}),
        ),
        (
            "window_ms",
            json!({"promotion_id": "B", "quantity": 1, "rate": {"window_ms": 0, "attempts": 1}}),
        ),
        (
            "attempts",
            json!({"promotion_id": "B", "quantity": 1, "rate": {"window_ms": 1000}}),
        ),
        (
            "payment_timeout_ms",
            json!({"promotion_id": "B", "quantity": 1, "payment_timeout_ms": 0}),
        ),
        (
            "payment_timeout_ms",
            json!({"promotion_id": "B", "quantity": 1, "payment_timeout_ms": -5}),
        ),
        (
            "channels",
            json!({"promotion_id": "B", "quantity": 1, "channels": ["app", "fax"]}),
        ),
        (
            "channels",
            json!({"promotion_id": "B", "quantity": 1, "channels": "app"}),
        ),
        (
            "original_cents",
            json!({"promotion_id": "B", "quantity": 1, "price": {"promotion_cents": 1, "currency": "CNY"}}),
        ),
        (
            "promotion_cents",
            json!({"promotion_id": "B", "quantity": 1,
                   "price": {"original_cents": 1, "promotion_cents": -1, "currency": "CNY"}}),
        ),
        (
            "sku_ids",
            json!({"promotion_id": "B", "quantity": 1, "sku_ids": "1"}),
        ),
        (
            "colour",
            json!({"promotion_id": "B", "quantity": 1, "colour": "red"}),
        ),
        (
            "remaining",
            json!({"promotion_id": "B", "quantity": 1, "remaining": 5}),
        ),
    ];
    for (field, body) in cases {
        node.post("/v1/promotions", &body).bad(field);
    }
    node.offered("B")
        .answer()
        .refused(404, "promotion_not_found");
    untouched.is_unchanged();
}

#[test]
fn each_wrong_member_of_a_change_is_named() {
    let untouched = Untouched::start();
    let sale = untouched.node.offered("A");
    let cases = [
        ("add_quantity", json!({"add_quantity": "1"})),
        ("add_quantity", json!({"add_quantity": 1.5})),
        ("quantity", json!({"quantity": 5})),
        ("promotion_id", json!({"promotion_id": "B"})),
        ("remaining", json!({"remaining": 5})),
        ("title", json!({"title": 5})),
        ("ends_at", json!({"ends_at": "soon"})),
        ("per_pin", json!({"limits": {"per_pin": "one"}})),
        (
            "window_ms",
            json!({"rate": {"window_ms": -1, "attempts": 1}}),
        ),
        ("payment_timeout_ms", json!({"payment_timeout_ms": -1})),
        ("channels", json!({"channels": ["fax"]})),
        ("price", json!({"price": 5})),
    ];
    for (field, body) in cases {
        sale.patch(&body).bad(field);
    }
    sale.patch(&json!({"add_quantity": i64::from(i32::MAX) * 4}))
        .problem(400);
    sale.patch(&json!({"add_quantity": -10}))
        .refused(409, "insufficient_remaining");
    untouched.is_unchanged();
}

#[test]
fn an_end_before_the_start_is_refused_in_a_change_too() {
    let node = Node::start();
    let sale = node.promotion("A").starts_in_ms(3_600_000).create();
    let before = sale.view();
    sale.patch(&json!({"ends_at": rfc3339(1_800_000)}))
        .bad("ends_at");
    assert_eq!(sale.view(), before);
}

#[test]
fn bad_ids_in_paths_and_queries_are_named() {
    let node = Node::start();
    node.promotion("A").create();
    let long = "x".repeat(65);
    for id in [long.as_str(), "a%20b", "%E8%AE%A2", "a%00b", "%ff"] {
        node.get(&format!("/v1/orders/{id}")).bad("order_id");
        node.post_text(&format!("/v1/orders/{id}/confirm"), "")
            .bad("order_id");
        node.get(&format!("/v1/promotions/{id}"))
            .bad("promotion_id");
        node.get(&format!("/v1/orders/o-1?promotion_id={id}"))
            .bad("promotion_id");
    }
    node.get("/v1/orders/o-1?promotion=A").bad("promotion");
    node.get("/v1/promotions?after=a%20b").bad("after");
}

#[test]
fn unknown_routes_are_not_found() {
    let node = Node::start();
    for path in [
        "/",
        "/v1",
        "/v1/grab",
        "/v2/grabs",
        "/v1/grabs/",
        "/v1//grabs",
        "/v1/orders",
        "/V1/grabs",
        "/v1/orders/o-1/pay",
        "/v1/promotions/A/start",
        "/v1/grabs/batch/1",
        "/../livez",
    ] {
        let problem = node.get(path).problem(404);
        assert!(
            problem["code"]
                .as_str()
                .is_some_and(|code| code != "promotion_not_found"),
            "{problem}"
        );
    }
}

#[test]
fn a_wrong_method_is_told_which_are_allowed() {
    let node = Node::start();
    let cases = [
        ("GET", "/v1/grabs", "POST"),
        ("DELETE", "/v1/grabs", "POST"),
        ("GET", "/v1/grabs/batch", "POST"),
        ("GET", "/v1/orders/o-1/confirm", "POST"),
        ("GET", "/v1/orders/o-1/cancel", "POST"),
        ("DELETE", "/v1/orders/o-1", "GET"),
        ("PUT", "/v1/promotions", "GET, POST"),
        ("POST", "/v1/promotions/A", "DELETE, GET, PATCH"),
        ("GET", "/v1/promotions/A/stop", "POST"),
        ("POST", "/v1/flows", "GET"),
        ("DELETE", "/v1/config", "GET, PUT"),
        ("GET", "/v1/config/rollback", "POST"),
        ("POST", "/livez", "GET"),
        ("POST", "/readyz", "GET"),
        ("POST", "/metrics", "GET"),
        ("POST", "/v1/cluster", "GET"),
    ];
    for (method, path, allowed) in cases {
        let answer = match method {
            "GET" => node.get(path),
            "DELETE" => node.delete(path),
            "PUT" => node.put(path, &json!({})),
            _ => node.post(path, &json!({})),
        };
        answer.problem(405);
        let mut allow: Vec<&str> = answer
            .header("allow")
            .unwrap_or_else(|| panic!("no Allow: {answer}"))
            .split(',')
            .map(str::trim)
            .filter(|method| *method != "HEAD" && *method != "OPTIONS")
            .collect();
        allow.sort_unstable();
        assert_eq!(allow.join(", "), allowed, "{answer}");
    }
}
