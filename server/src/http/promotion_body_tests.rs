//! Promotions and changes that are taken, and those that are refused, member by member.

use super::*;
use serde_json::{Value, json};

fn create(body: &Value) -> Result<(u64, Terms), Problem> {
    match parse_create(body.to_string().as_bytes())?.1 {
        Command::CreatePromotion {
            quantity, terms, ..
        } => Ok((quantity, *terms)),
        other => panic!("{other:?}"),
    }
}

fn change(body: &Value) -> Result<PromotionChange, Problem> {
    let id = PromotionId::new("A").unwrap();
    match parse_change(id, body.to_string().as_bytes())? {
        Command::ChangePromotion { change, .. } => Ok(*change),
        other => panic!("{other:?}"),
    }
}

/// The least promotion with one more member.
fn with(member: &str, value: Value) -> Value {
    let mut body = json!({"promotion_id": "B", "quantity": 1});
    body[member] = value;
    body
}

#[test]
fn the_contracts_example_is_read_whole() {
    let body = json!({
        "promotion_id": "A", "kind": 1, "title": "Phone −500", "sku_ids": ["100012043978"], "quantity": 100,
        "starts_at": "2026-06-18T00:00:00Z", "ends_at": "2026-06-20T23:59:59Z",
        "limits": {"per_order": 2, "per_pin": 2, "per_ip": 10},
        "rate": {"window_ms": 60000, "attempts": 60000},
        "payment_timeout_ms": 1_200_000, "channels": ["app", "wechat"],
        "price": {"original_cents": 499_900, "promotion_cents": 449_900, "currency": "CNY"}
    });
    let (quantity, terms) = create(&body).unwrap();
    assert_eq!(quantity, 100);
    let expected = Terms {
        kind: 1,
        title: "Phone −500".to_owned(),
        sku_ids: vec!["100012043978".to_owned()],
        starts_at: Some(UnixMs(1_781_740_800_000)),
        ends_at: Some(UnixMs(1_781_999_999_000)),
        limits: Limits {
            per_order: Some(2),
            per_pin: Some(2),
            per_ip: Some(10),
        },
        rate: Some(Rate {
            window_ms: 60_000,
            attempts: 60_000,
        }),
        payment_timeout_ms: 1_200_000,
        channels: [Channel::App, Channel::Wechat].into_iter().collect(),
        price: Some(Price {
            original_cents: 499_900,
            promotion_cents: 449_900,
            currency: "CNY".to_owned(),
        }),
    };
    assert_eq!(terms, expected);
}

#[test]
fn only_id_and_quantity_are_required_and_null_is_absent_where_views_show_it() {
    let least = json!({"promotion_id": "B", "quantity": 1});
    assert_eq!(create(&least).unwrap(), (1, Terms::default()));
    let nulls = json!({"promotion_id": "B", "quantity": 1, "starts_at": null, "ends_at": null, "rate": null,
                       "price": null, "limits": {"per_order": null, "per_pin": null, "per_ip": null}});
    assert_eq!(create(&nulls).unwrap(), (1, Terms::default()));
}

#[test]
fn each_wrong_member_of_a_promotion_is_named() {
    let over = (1_u64 << 31) + 1;
    let cases = [
        ("promotion_id", json!({"quantity": 1})),
        ("quantity", json!({"promotion_id": "B"})),
        ("promotion_id", with("promotion_id", json!(""))),
        ("promotion_id", with("promotion_id", json!("x".repeat(65)))),
        ("promotion_id", with("promotion_id", json!(7))),
        ("quantity", with("quantity", json!(0))),
        ("quantity", with("quantity", json!(-1))),
        ("quantity", with("quantity", json!("1"))),
        ("quantity", with("quantity", json!(0.5))),
        ("quantity", with("quantity", json!(over))),
        ("kind", with("kind", json!(-1))),
        ("kind", with("kind", json!(1_u64 << 32))),
        ("kind", with("kind", json!(null))),
        ("title", with("title", json!(5))),
        ("title", with("title", json!("x".repeat(513)))),
        ("title", with("title", json!(null))),
        ("sku_ids", with("sku_ids", json!("1"))),
        ("sku_ids", with("sku_ids", json!(vec!["1"; 1025]))),
        ("sku_ids[1]", with("sku_ids", json!(["1", "a b"]))),
        ("sku_ids[0]", with("sku_ids", json!([1]))),
        ("starts_at", with("starts_at", json!("tomorrow"))),
        ("starts_at", with("starts_at", json!(0))),
        (
            "starts_at",
            with("starts_at", json!("2026-02-30T00:00:00Z")),
        ),
        ("ends_at", with("ends_at", json!("2026-06-18 00:00"))),
        ("ends_at", with("ends_at", json!("99999-01-01T00:00:00Z"))),
        ("limits", with("limits", json!(3))),
        ("limits", with("limits", json!([1, 1, 1]))),
        ("limits", with("limits", json!(null))),
        ("limits.per_pin", with("limits", json!({"per_pin": -1}))),
        ("limits.per_pin", with("limits", json!({"per_pin": 0}))),
        (
            "limits.per_order",
            with("limits", json!({"per_order": "two"})),
        ),
        (
            "limits.per_country",
            with("limits", json!({"per_country": 1})),
        ),
        (
            "rate.window_ms",
            with("rate", json!({"window_ms": 0, "attempts": 1})),
        ),
        (
            "rate.window_ms",
            with("rate", json!({"window_ms": 86_400_001, "attempts": 1})),
        ),
        ("rate.attempts", with("rate", json!({"window_ms": 1000}))),
        (
            "rate.attempts",
            with("rate", json!({"window_ms": 1000, "attempts": -1})),
        ),
        ("payment_timeout_ms", with("payment_timeout_ms", json!(0))),
        ("payment_timeout_ms", with("payment_timeout_ms", json!(-5))),
        (
            "payment_timeout_ms",
            with("payment_timeout_ms", json!(2_592_000_001_u64)),
        ),
        ("channels[1]", with("channels", json!(["app", "fax"]))),
        ("channels", with("channels", json!([]))),
        ("channels", with("channels", json!(["app", "app"]))),
        (
            "channels",
            with("channels", json!(["app", "web", "qq", "wechat", "app"])),
        ),
        ("channels", with("channels", json!("app"))),
        (
            "price.original_cents",
            with("price", json!({"promotion_cents": 1, "currency": "CNY"})),
        ),
        (
            "price.promotion_cents",
            with(
                "price",
                json!({"original_cents": 1, "promotion_cents": -1, "currency": "CNY"}),
            ),
        ),
        (
            "price.currency",
            with(
                "price",
                json!({"original_cents": 1, "promotion_cents": 1, "currency": "cny"}),
            ),
        ),
        ("colour", with("colour", json!("red"))),
        ("remaining", with("remaining", json!(5))),
    ];
    for (field, body) in cases {
        let problem = create(&body).unwrap_err();
        assert_eq!(problem.field(), field, "{body}: {}", problem.detail());
        assert_eq!(problem.status(), 400);
    }
}

#[test]
fn an_end_that_is_not_after_the_start_is_named() {
    let mut body = with("starts_at", json!("2026-06-18T00:00:00Z"));
    body["ends_at"] = json!("2026-06-18T08:00:00+08:00");
    assert_eq!(create(&body).unwrap_err().field(), "ends_at");
    body["ends_at"] = json!("2026-06-18T00:00:00.001Z");
    assert!(create(&body).is_ok());
}

#[test]
fn the_most_of_everything_is_taken() {
    let mut body = with("quantity", json!(1_u64 << 31));
    body["title"] = json!("x".repeat(512));
    body["sku_ids"] = json!(vec!["1"; 1024]);
    body["payment_timeout_ms"] = json!(2_592_000_000_u64);
    body["rate"] = json!({"window_ms": 86_400_000, "attempts": 0});
    body["channels"] = json!(["web", "qq", "wechat", "app"]);
    let (quantity, terms) = create(&body).unwrap();
    assert_eq!(
        (quantity, terms.sku_ids.len(), terms.channels),
        (1 << 31, 1024, Channels::ALL)
    );
}

#[test]
fn a_change_tells_absent_from_null() {
    assert_eq!(change(&json!({})).unwrap(), PromotionChange::default());
    let removed = change(&json!({"ends_at": null, "rate": null, "price": null})).unwrap();
    assert_eq!(
        (removed.ends_at, removed.rate, removed.price),
        (Some(None), Some(None), Some(None))
    );
    let given = change(
        &json!({"add_quantity": -5, "title": "t", "limits": {"per_pin": 1}, "channels": ["qq"],
                               "rate": {"window_ms": 1, "attempts": 0}}),
    );
    let given = given.unwrap();
    assert_eq!(
        (given.add_quantity, given.title.as_deref()),
        (Some(-5), Some("t"))
    );
    assert_eq!(
        given.limits,
        Some(Limits {
            per_pin: Some(1),
            ..Limits::default()
        })
    );
    assert_eq!(
        given.rate,
        Some(Some(Rate {
            window_ms: 1,
            attempts: 0
        }))
    );
}

#[test]
fn each_wrong_member_of_a_change_is_named() {
    let cases = [
        ("add_quantity", json!({"add_quantity": "1"})),
        ("add_quantity", json!({"add_quantity": 1.5})),
        ("add_quantity", json!({"add_quantity": null})),
        (
            "add_quantity",
            json!({"add_quantity": i64::from(i32::MAX) * 4}),
        ),
        ("add_quantity", json!({"add_quantity": i64::MIN})),
        ("quantity", json!({"quantity": 5})),
        ("promotion_id", json!({"promotion_id": "B"})),
        ("starts_at", json!({"starts_at": "2026-06-18T00:00:00Z"})),
        ("title", json!({"title": null})),
        ("ends_at", json!({"ends_at": "soon"})),
        ("limits", json!({"limits": null})),
        ("limits.per_pin", json!({"limits": {"per_pin": "one"}})),
        (
            "rate.window_ms",
            json!({"rate": {"window_ms": -1, "attempts": 1}}),
        ),
        ("payment_timeout_ms", json!({"payment_timeout_ms": -1})),
        ("channels[0]", json!({"channels": ["fax"]})),
        ("price", json!({"price": 5})),
        ("", json!([])),
    ];
    for (field, body) in cases {
        let problem = change(&body).unwrap_err();
        assert_eq!(problem.field(), field, "{body}: {}", problem.detail());
    }
}
