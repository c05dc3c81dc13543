//! Grabs that are taken and grabs that are refused, member by member.

use proptest::prelude::*;
use qiang_engine::promotion::Channel;
use serde_json::{Value, json};

use super::*;

fn grab() -> Value {
    json!({"order_id": "o-1", "pin": "bob", "ip": "203.0.113.9", "channel": "app",
           "items": [{"promotion_id": "A", "quantity": 1}]})
}

fn read(body: &Value) -> Result<Grab, Problem> {
    parse_grab(body.to_string().as_bytes())
}

/// The grab with the member at `pointer` set.
fn with(pointer: &str, value: Value) -> Value {
    let mut body = grab();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[member] = value;
    body
}

fn without(parent: &str, member: &str) -> Value {
    let mut body = grab();
    let parent = body.pointer_mut(parent).unwrap();
    parent.as_object_mut().unwrap().remove(member);
    body
}

#[test]
fn a_grab_is_read_whole() {
    let read = read(&grab()).unwrap();
    assert_eq!(read.order_id.as_str(), "o-1");
    assert_eq!(read.pin.as_str(), "bob");
    assert_eq!(read.ip.to_string(), "203.0.113.9");
    assert_eq!(read.channel, Channel::App);
    assert_eq!(
        (read.items[0].promotion_id.as_str(), read.items[0].quantity),
        ("A", 1)
    );
}

#[test]
fn each_wrong_member_is_named() {
    let long = "x".repeat(65);
    let over = (1_u64 << 31) + 1;
    let quantity = "items[0].quantity";
    let cases = [
        ("order_id", without("", "order_id")),
        ("pin", without("", "pin")),
        ("ip", without("", "ip")),
        ("channel", without("", "channel")),
        ("items", without("", "items")),
        (quantity, without("/items/0", "quantity")),
        ("items[0].promotion_id", without("/items/0", "promotion_id")),
        ("order_id", with("/order_id", json!(5))),
        ("order_id", with("/order_id", json!(null))),
        ("order_id", with("/order_id", json!(""))),
        ("order_id", with("/order_id", json!(long))),
        ("order_id", with("/order_id", json!("o 1"))),
        ("order_id", with("/order_id", json!("o/1"))),
        ("order_id", with("/order_id", json!("订单"))),
        ("order_id", with("/order_id", json!("o\u{0}1"))),
        ("pin", with("/pin", json!("a\nb"))),
        ("pin", with("/pin", json!(["alice"]))),
        ("ip", with("/ip", json!("203.0.113"))),
        ("ip", with("/ip", json!("203.0.113.256"))),
        ("ip", with("/ip", json!(""))),
        ("ip", with("/ip", json!(7))),
        ("ip", with("/ip", json!([203, 0, 113, 9]))),
        ("channel", with("/channel", json!("telegram"))),
        ("channel", with("/channel", json!({"app": null}))),
        ("items", with("/items", json!([]))),
        ("items", with("/items", json!("A"))),
        (
            "items",
            with("/items", json!({"promotion_id": "A", "quantity": 1})),
        ),
        ("items[0]", with("/items", json!([["A", 1]]))),
        (quantity, with("/items/0/quantity", json!(0))),
        (quantity, with("/items/0/quantity", json!(-1))),
        (quantity, with("/items/0/quantity", json!(1.5))),
        (quantity, with("/items/0/quantity", json!("1"))),
        (quantity, with("/items/0/quantity", json!(over))),
        (quantity, with("/items/0/quantity", json!(u64::MAX))),
        (
            "items[0].promotion_id",
            with("/items/0/promotion_id", json!("A B")),
        ),
        ("colour", with("/colour", json!("red"))),
        ("items[0].size", with("/items/0/size", json!(1))),
    ];
    for (field, body) in cases {
        let problem = read(&body).unwrap_err();
        assert_eq!(problem.field(), field, "{body}: {}", problem.detail());
        assert_eq!(problem.status(), 400);
        assert!(
            problem.detail().contains(field),
            "{body}: {}",
            problem.detail()
        );
    }
}

#[test]
fn the_array_form_of_a_grab_is_no_grab() {
    assert!(
        parse_grab(br#"["o-1","bob","203.0.113.9","app",[{"promotion_id":"A","quantity":1}]]"#)
            .is_err()
    );
}

#[test]
fn a_member_given_twice_is_named() {
    let twice = r#"{"order_id":"o-1","order_id":"o-2","pin":"bob"}"#;
    assert_eq!(
        parse_grab(twice.as_bytes()).unwrap_err().field(),
        "order_id"
    );
    let inside = r#"{"order_id":"o-1","items":[{"promotion_id":"A","quantity":1,"quantity":2}]}"#;
    assert_eq!(
        parse_grab(inside.as_bytes()).unwrap_err().field(),
        "items[0].quantity"
    );
}

#[test]
fn the_most_of_everything_is_taken() {
    let id = format!("{:-<64}", "abcXYZ019._:-");
    let mut body = with("/items/0/quantity", json!(1_u64 << 31));
    for member in ["order_id", "pin"] {
        body[member] = json!(id);
    }
    body["items"][0]["promotion_id"] = json!(id);
    assert_eq!(read(&body).unwrap().items[0].quantity, 1 << 31);
    let items = |count: usize| {
        with(
            "/items",
            json!(vec![json!({"promotion_id": "A", "quantity": 1}); count]),
        )
    };
    assert_eq!(read(&items(32)).unwrap().items[0].quantity, 32);
    assert_eq!(read(&items(33)).unwrap_err().field(), "items");
}

#[test]
fn items_of_one_promotion_are_summed_where_it_is_first_named() {
    let item = |id: &str, quantity: u64| json!({"promotion_id": id, "quantity": quantity});
    let body = with("/items", json!([item("A", 1), item("B", 5), item("A", 2)]));
    let items = read(&body).unwrap().items;
    let summed: Vec<_> = items
        .iter()
        .map(|item| (item.promotion_id.as_str(), item.quantity))
        .collect();
    assert_eq!(summed, [("A", 3), ("B", 5)]);
    let most = 1_u64 << 31;
    let problem = read(&with("/items", json!([item("A", most), item("A", 1)]))).unwrap_err();
    assert_eq!(problem.field(), "items");
    assert!(problem.detail().contains("quantity") && problem.detail().contains('A'));
}

#[test]
fn an_address_has_one_form() {
    let ip = |text: &str| read(&with("/ip", json!(text))).unwrap().ip;
    assert_eq!(ip("::ffff:203.0.113.9"), ip("203.0.113.9"));
    assert_eq!(ip("2001:db8::1"), ip("2001:0db8:0:0:0:0:0:1"));
}

#[test]
fn a_wrong_element_of_a_batch_fails_alone() {
    let batch =
        json!({"grabs": [grab(), {"order_id": 5}, "text", with("/colour", json!(1)), grab()]});
    let read = parse_batch(batch.to_string().as_bytes()).unwrap();
    let fields: Vec<_> = read
        .wrong
        .iter()
        .map(|(position, problem)| (*position, problem.field()))
        .collect();
    assert_eq!(fields, [(1, "order_id"), (2, ""), (3, "colour")]);
    assert_eq!((read.grabs.len(), read.len()), (2, 5));
}

#[test]
fn a_batch_that_is_wrong_itself_is_refused_whole() {
    let batch = |count: usize| json!({"grabs": vec![json!(1); count]}).to_string();
    assert_eq!(parse_batch(batch(8192).as_bytes()).unwrap().len(), 8192);
    assert_eq!(parse_batch(br#"{"grabs":[]}"#).unwrap().len(), 0);
    for (body, field) in [
        (batch(8193).as_str(), "grabs"),
        ("{}", "grabs"),
        (r#"{"grabs":5}"#, "grabs"),
        (r#"{"grabs":[],"grabs":[]}"#, "grabs"),
        (r#"{"grabs":[],"odd":1}"#, "odd"),
        ("[]", ""),
        (r#"{"grabs":[{]}"#, ""),
    ] {
        let problem = parse_batch(body.as_bytes()).unwrap_err();
        assert_eq!(problem.field(), field, "{}", problem.detail());
    }
}

/// The grab that JSON's own reader takes a text for.
fn read_as_json(text: &str) -> Option<GrabBody> {
    let read = serde_json::from_str::<Object<GrabBody>>(text);
    read.ok().map(|Object(grab)| grab)
}

#[test]
fn the_plain_form_is_read_as_json_is() {
    let plain = [
        r#"{"order_id":"o-1","pin":"bob","ip":"203.0.113.9","channel":"app","items":[{"promotion_id":"A","quantity":1}]}"#,
        r#"{"items":[{"quantity":2147483648,"promotion_id":"A"},{"promotion_id":"A.b_c:d-9","quantity":10}],
            "channel" : "wechat", "ip":"::1","pin":"b", "order_id":"o" }
        "#,
    ];
    for text in plain {
        let read = plain::read_grab(text.as_bytes());
        assert!(read.is_some() && read == read_as_json(text), "{text}");
    }
    let batch = format!("{{\"grabs\": [{},{}] }}", plain[0], plain[1]);
    let read = plain::read_batch(batch.as_bytes()).expect("it is plain");
    assert!(read.into_iter().map(Some).eq(plain.map(read_as_json)));
}

#[test]
fn what_is_not_plain_is_left_to_json() {
    let plain = |text: &str| plain::read_grab(text.as_bytes()).is_some();
    let grab = r#"{"order_id":"o-1","pin":"bob","ip":"203.0.113.9","channel":"app","items":[{"promotion_id":"A","quantity":1}]}"#;
    assert!(plain(grab));
    for (part, other) in [
        ("o-1", "o\\u002d1"),
        ("o-1", "o\t1"),
        ("o-1\"", "o-1\n\""),
        ("pin\"", "pin \""),
        ("{\"order_id\"", "{\"order_id\" \"order_id\""),
        ("o-1", ""),
        ("o-1", "订单"),
        ("order_id", "order"),
        ("203.0.113.9", "203.0.113.09"),
        ("\"app\"", "\"App\""),
        ("\"app\"", "null"),
        ("\"quantity\":1", "\"quantity\":01"),
        ("\"quantity\":1", "\"quantity\":1.0"),
        ("\"quantity\":1", "\"quantity\":1e0"),
        ("\"quantity\":1", "\"quantity\":+1"),
        ("\"quantity\":1", "\"quantity\":0"),
        ("\"quantity\":1", "\"quantity\":2147483649"),
        ("\"quantity\":1", "\"quantity\":36893488147419103233"),
        ("\"quantity\":1", "\"quantity\":1,\"quantity\":1"),
        ("\"quantity\":1", "\"quantity\":1,"),
        ("}]", "},]"),
        ("}]}", "}]}}"),
        ("}]}", "}]"),
        ("}]}", "}]}\u{a0}"),
    ] {
        assert!(grab.contains(part), "{part}");
        assert!(!plain(&grab.replacen(part, other, 1)), "{other}");
    }
}

proptest! {
    /// However a text was spoilt: what is taken for plain JSON takes for the same.
    #[test]
    fn a_spoilt_grab_is_nothing_else_than_json_says(
        spots in prop::collection::vec((any::<prop::sample::Index>(), 0..3, any::<prop::sample::Index>()), 0..4)
    ) {
        const PIECES: [&str; 24] = [
            "\"", "\\", "{", "}", "[", "]", ",", ":", " ", "\n", "\u{b}", "0", "1", "9", "-", ".", "e", "a", "A", "/", "é",
            "\"pin\":\"c\",", "\"ip\":\"::ffff:1.2.3.4\",", "{\"promotion_id\":\"B\",\"quantity\":7},",
        ];
        let mut text = grab().to_string();
        for (at, how, piece) in spots {
            let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
            let place = places[at.index(places.len())];
            if how > 0 {
                text.remove(place);
            }
            if how != 1 {
                text.insert_str(place, PIECES[piece.index(PIECES.len())]);
            }
        }
        if let Some(grab) = plain::read_grab(text.as_bytes()) {
            prop_assert_eq!(Some(grab), read_as_json(&text), "{}", text);
        }
        let batch = format!("{{\"grabs\":[{text}]}}");
        if let Some(grabs) = plain::read_batch(batch.as_bytes()) {
            let read = serde_json::from_str::<Object<BatchBody<'_>>>(&batch);
            let read = read.map(|Object(batch)| batch.grabs.0).unwrap_or_default();
            let read: Vec<_> = read.into_iter().map(|grab| read_as_json(grab.get())).collect();
            prop_assert_eq!(grabs.into_iter().map(Some).collect::<Vec<_>>(), read, "{}", text);
        }
    }
}
