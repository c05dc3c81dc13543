//! Grabs of one promotion: every row of the contract's table, the order of its checks, replays and limits.
//!
//! Invariant: a refused grab leaves nothing behind but its attempt.

use qiang_tests::{Client, Node, audit, parse_rfc3339_ms, rfc3339, shard_of, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn a_grab_is_granted_with_what_remains_and_a_deadline_to_pay() {
    let node = Node::start();
    node.promotion("A")
        .quantity(100)
        .payment_timeout_ms(60_000)
        .create();
    let before = parse_rfc3339_ms(&rfc3339(0));
    let granted = node.grab("o-1", "alice").of("A", 2).granted();
    let after = parse_rfc3339_ms(&rfc3339(0));
    assert_eq!(
        granted["items"],
        json!([{"promotion_id": "A", "quantity": 2, "remaining": 98}])
    );
    let pay_by = parse_rfc3339_ms(granted["pay_by"].as_str().expect("pay_by is a time"));
    assert!(
        (before + 60_000..=after + 60_000).contains(&pay_by),
        "{granted}"
    );
    assert_eq!(node.offered("A").remaining(), 98);
}

#[test]
fn an_order_waits_twenty_minutes_unless_the_promotion_says_otherwise() {
    let node = Node::start();
    node.promotion("A").create();
    let before = parse_rfc3339_ms(&rfc3339(0));
    let granted = node.grab("o-1", "alice").of("A", 1).granted();
    let pay_by = parse_rfc3339_ms(granted["pay_by"].as_str().expect("pay_by is a time"));
    let minutes_20 = 20 * 60 * 1000;
    let after = parse_rfc3339_ms(&rfc3339(0));
    assert!(
        (before + minutes_20..=after + minutes_20).contains(&pay_by),
        "{granted}"
    );
}

#[test]
fn the_same_grab_again_is_replayed_with_the_same_answer() {
    let node = Node::start();
    node.promotion("A").quantity(10).create();
    let grab = node.grab("o-1", "alice").of("A", 3);
    let mut first = grab.granted();
    node.grab("o-2", "bob").of("A", 1).granted();
    let again = grab.replayed();
    first["replayed"] = true.into();
    assert_eq!(again, first, "only `replayed` differs");
    assert_eq!(node.offered("A").remaining(), 6, "nothing was taken twice");
    node.offered("A").balances_with(0);
}

#[test]
fn a_granted_order_is_replayed_though_its_own_units_fill_every_limit() {
    let node = Node::start();
    node.promotion("A")
        .quantity(10)
        .per_order(2)
        .per_pin(2)
        .per_ip(2)
        .create();
    let grab = node.grab("o-1", "alice").of("A", 2);
    grab.granted();
    node.grab("o-2", "alice")
        .of("A", 1)
        .ip("198.51.100.1")
        .refused(409, "pin_limit");
    node.grab("o-3", "bob").of("A", 1).refused(409, "ip_limit");
    grab.replayed();
    assert_eq!(node.offered("A").remaining(), 8);
}

#[test]
fn a_granted_order_is_replayed_though_the_promotion_has_sold_out_since() {
    let node = Node::start();
    node.promotion("A").quantity(2).create();
    let grab = node.grab("o-1", "alice").of("A", 1);
    grab.granted();
    node.grab("o-2", "bob").of("A", 1).granted();
    wait_until(Duration::from_secs(1), "A is sold out", || {
        let state = node.offered("A").state();
        (state == "sold_out").then_some(()).ok_or(state)
    });
    grab.replayed();
    node.grab("o-3", "carol")
        .of("A", 1)
        .refused(409, "sold_out");
}

#[test]
fn a_confirmed_order_is_replayed() {
    let node = Node::start();
    node.promotion("A").create();
    let grab = node.grab("o-1", "alice").of("A", 1);
    grab.granted();
    node.order("o-1").confirm().expect(200);
    grab.replayed();
    assert_eq!(node.order("o-1").state(), "confirmed");
}

#[test]
fn a_sold_out_refusal_says_what_remains_and_is_refused_again() {
    let node = Node::start();
    node.promotion("A").quantity(3).create();
    node.grab("o-1", "alice").of("A", 2).granted();
    let grab = node.grab("o-2", "bob").of("A", 2);
    for _ in 0..3 {
        let problem = grab.refused(409, "sold_out");
        assert_eq!(problem["remaining"], 1, "{problem}");
    }
    node.order("o-2").answer().refused(404, "order_not_found");
    node.grab("o-3", "carol").of("A", 1).granted();
    for _ in 0..3 {
        let problem = grab.refused(409, "sold_out");
        assert_eq!(problem["remaining"], 0, "{problem}");
    }
    assert_eq!(node.offered("A").remaining(), 0);
    node.offered("A").balances_with(0);
}

#[test]
fn a_refused_order_id_may_grab_when_units_come_back() {
    let node = Node::start();
    node.promotion("A").quantity(1).create();
    node.grab("o-1", "alice").of("A", 1).granted();
    let grab = node.grab("o-2", "bob").of("A", 1);
    grab.refused(409, "sold_out");
    node.order("o-1").cancel("user").expect(200);
    grab.granted();
    grab.replayed();
}

#[test]
fn an_unknown_promotion_is_not_found() {
    let node = Node::start();
    let problem = node
        .grab("o-1", "alice")
        .of("nowhere", 1)
        .refused(404, "promotion_not_found");
    assert_eq!(problem["promotion_id"], "nowhere", "{problem}");
    node.order("o-1").answer().refused(404, "order_not_found");
}

#[test]
fn each_state_but_active_refuses_with_its_own_code() {
    let node = Node::start();
    node.promotion("later").starts_in_ms(3_600_000).create();
    node.grab("o-1", "alice")
        .of("later", 1)
        .refused(409, "not_started");

    node.promotion("stopped").create().stop().expect(200);
    node.grab("o-1", "alice")
        .of("stopped", 1)
        .refused(409, "stopped");
    node.offered("stopped").resume().expect(200);
    node.grab("o-1", "alice").of("stopped", 1).granted();

    node.promotion("over").starts_in_ms(-2000).create();
    node.offered("over")
        .patch(&json!({"ends_at": rfc3339(-1)}))
        .expect(200);
    node.grab("o-2", "alice")
        .of("over", 1)
        .refused(409, "ended");

    let gone = node.promotion("gone").create();
    assert_eq!(gone.delete().status / 100, 2);
    node.grab("o-3", "alice")
        .of("gone", 1)
        .refused(409, "deleted");
}

#[test]
fn a_channel_that_is_not_sold_on_is_closed() {
    let node = Node::start();
    node.promotion("A").channels(&["app", "web"]).create();
    for (order, channel) in [("o-1", "wechat"), ("o-2", "qq")] {
        node.grab(order, "alice")
            .of("A", 1)
            .channel(channel)
            .refused(409, "channel_closed");
    }
    node.grab("o-3", "alice")
        .of("A", 1)
        .channel("app")
        .granted();
    node.grab("o-4", "alice")
        .of("A", 1)
        .channel("web")
        .granted();
    assert_eq!(node.offered("A").remaining(), 98);
}

#[test]
fn other_content_under_a_known_order_id_is_a_mismatch() {
    let node = Node::start();
    node.promotion("A").create();
    node.grab("o-1", "alice").of("A", 1).granted();
    let others = [
        node.grab("o-1", "bob").of("A", 1),
        node.grab("o-1", "alice").of("A", 2),
        node.grab("o-1", "alice").of("A", 1).ip("198.51.100.1"),
        node.grab("o-1", "alice").of("A", 1).channel("web"),
    ];
    for other in others {
        other.refused(422, "order_mismatch");
    }
    node.grab("o-1", "alice").of("A", 1).replayed();
    assert_eq!(node.offered("A").remaining(), 99);
}

#[test]
fn a_returned_order_never_grabs_again() {
    let node = Node::start();
    node.promotion("A").quantity(1).create();
    let grab = node.grab("o-1", "alice").of("A", 1);
    grab.granted();
    node.order("o-1").cancel("user").expect(200);
    grab.refused(409, "order_returned");
    assert_eq!(node.offered("A").remaining(), 1);
    node.grab("o-2", "alice").of("A", 1).granted();
}

#[test]
fn a_limit_per_order_counts_the_sum_of_its_items() {
    let node = Node::start();
    node.promotion("A").per_order(2).create();
    node.grab("o-1", "alice")
        .of("A", 3)
        .refused(409, "order_limit");
    node.grab("o-2", "alice")
        .of("A", 1)
        .of("A", 1)
        .of("A", 1)
        .refused(409, "order_limit");
    node.grab("o-3", "alice").of("A", 2).granted();
    assert_eq!(node.offered("A").remaining(), 98);
}

#[test]
fn the_same_promotion_named_twice_is_summed_before_any_check() {
    let node = Node::start();
    node.promotion("A").quantity(5).per_pin(4).create();
    let granted = node.grab("o-1", "alice").of("A", 1).of("A", 2).granted();
    assert_eq!(
        granted["items"],
        json!([{"promotion_id": "A", "quantity": 3, "remaining": 2}])
    );
    node.grab("o-2", "alice")
        .of("A", 1)
        .of("A", 1)
        .refused(409, "pin_limit");
    node.grab("o-3", "bob")
        .of("A", 2)
        .of("A", 1)
        .refused(409, "sold_out");
    assert_eq!(node.offered("A").remaining(), 2);
}

#[test]
fn a_limit_per_pin_holds_over_its_live_orders_only() {
    let node = Node::start();
    node.promotion("A").per_pin(2).create();
    node.grab("o-1", "alice").of("A", 1).granted();
    node.grab("o-2", "alice").of("A", 1).granted();
    node.grab("o-3", "alice")
        .of("A", 1)
        .refused(409, "pin_limit");
    node.grab("o-4", "bob").of("A", 2).granted();

    node.order("o-1").cancel("user").expect(200);
    node.grab("o-3", "alice").of("A", 1).granted();
    node.order("o-2").confirm().expect(200);
    node.grab("o-5", "alice")
        .of("A", 1)
        .refused(409, "pin_limit");
    node.order("o-2")
        .cancel_with(&json!({"reason": "user", "refund": true}))
        .expect(200);
    node.grab("o-5", "alice").of("A", 1).granted();
    node.offered("A").balances_with(0);
}

#[test]
fn a_limit_per_ip_holds_over_its_live_orders_only() {
    let node = Node::start();
    node.promotion("A").per_ip(2).create();
    node.grab("o-1", "alice").of("A", 1).granted();
    node.grab("o-2", "bob").of("A", 1).granted();
    node.grab("o-3", "carol")
        .of("A", 1)
        .refused(409, "ip_limit");
    node.grab("o-4", "carol")
        .of("A", 1)
        .ip("198.51.100.7")
        .granted();
    node.order("o-2").cancel("stock").expect(200);
    node.grab("o-3", "carol").of("A", 1).granted();
}

#[test]
fn one_address_written_in_two_ways_is_one_address() {
    let node = Node::start();
    node.promotion("A").per_ip(1).create();
    node.grab("o-1", "alice")
        .of("A", 1)
        .ip("2001:db8::1")
        .granted();
    node.grab("o-2", "bob")
        .of("A", 1)
        .ip("2001:0db8:0:0:0:0:0:1")
        .refused(409, "ip_limit");
    node.grab("o-3", "bob")
        .of("A", 1)
        .ip("2001:db8::2")
        .granted();
}

#[test]
fn limits_left_out_do_not_limit() {
    let node = Node::start();
    node.promotion("quantity-only").quantity(1000).create();
    node.promotion("ip-only").quantity(1000).per_ip(1).create();
    for number in 0..5 {
        node.grab(&format!("q-{number}"), "alice")
            .of("quantity-only", 100)
            .granted();
        let ip = format!("198.51.100.{number}");
        node.grab(&format!("i-{number}"), "alice")
            .of("ip-only", 1)
            .ip(&ip)
            .granted();
    }
}

#[test]
fn attempts_of_a_window_are_used_up_by_refused_grabs_too() {
    let node = Node::start();
    node.promotion("A").quantity(1).rate(3_600_000, 4).create();
    let grab = node.grab("o-1", "alice").of("A", 1);
    grab.granted();
    grab.replayed();
    node.grab("o-2", "bob").of("A", 1).refused(409, "sold_out");
    node.grab("o-3", "bob").of("A", 1).refused(409, "sold_out");
    assert_eq!(node.offered("A").number("attempts"), 4);
    for draft in [grab, node.grab("o-4", "bob").of("A", 1)] {
        let answer = draft.answer();
        answer.refused(429, "rate_limited");
        let wait: u64 = answer
            .header("retry-after")
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or_else(|| panic!("Retry-After in seconds: {:?}", answer.headers));
        assert!((1..=3600).contains(&wait), "Retry-After {wait}");
    }
}

#[test]
fn a_new_window_brings_new_attempts() {
    let node = Node::start();
    node.promotion("A").rate(1000, 1).create();
    // More grabs than one window has attempts: some are refused, and each is granted within the windows to come.
    for number in 0..3 {
        let grab = node.grab(&format!("o-{number}"), "alice").of("A", 1);
        wait_until(
            Duration::from_secs(5),
            "a window with an attempt left",
            || {
                let answer = grab.answer();
                match answer.status {
                    200 => Ok(()),
                    _ => Err(answer.refused(429, "rate_limited").to_string()),
                }
            },
        );
    }
    assert_eq!(node.offered("A").remaining(), 97);
}

#[test]
fn checks_come_in_the_order_of_the_table() {
    let node = Node::start();
    // One grab that fails every check from the state on; each step takes away the first obstacle and meets the next.
    let sale = node
        .promotion("A")
        .quantity(2)
        .per_order(2)
        .per_pin(2)
        .per_ip(2)
        .channels(&["app"])
        .rate(3_600_000, 1)
        .create();
    node.grab("known", "alice").of("A", 2).granted();
    sale.stop().expect(200);
    let all_wrong = node.grab("known", "alice").of("A", 3).channel("web");
    all_wrong.refused(409, "stopped");
    sale.resume().expect(200);
    all_wrong.refused(409, "channel_closed");
    sale.patch(&json!({"channels": ["app", "web"]})).expect(200);
    all_wrong.refused(429, "rate_limited");
    node.grab("known", "alice")
        .of("A", 2)
        .refused(429, "rate_limited");
    sale.patch(&json!({"rate": {"window_ms": 3_600_000, "attempts": 1_000_000}}))
        .expect(200);
    all_wrong.refused(422, "order_mismatch");
    node.grab("known", "alice").of("A", 2).replayed();
    node.grab("new", "alice")
        .of("A", 3)
        .refused(409, "order_limit");
    node.grab("new", "alice")
        .of("A", 1)
        .refused(409, "pin_limit");
    node.grab("new", "bob").of("A", 1).refused(409, "ip_limit");
    node.grab("new", "bob")
        .of("A", 1)
        .ip("198.51.100.1")
        .refused(409, "sold_out");
    node.order("new").answer().refused(404, "order_not_found");
    assert_eq!(sale.remaining(), 0);
}

#[test]
fn a_returned_order_is_told_so_before_any_limit() {
    let node = Node::start();
    node.promotion("A")
        .quantity(2)
        .per_order(2)
        .per_pin(1)
        .create();
    let grab = node.grab("o-1", "alice").of("A", 1);
    grab.granted();
    node.order("o-1").cancel("user").expect(200);
    node.grab("o-2", "alice").of("A", 1).granted();
    node.grab("o-3", "bob").of("A", 1).granted();
    grab.refused(409, "order_returned");
}

#[test]
fn a_promotion_lives_on_the_shard_of_the_hash_of_its_id() {
    let node = Node::start();
    let ids = [
        "A",
        "C_1001_2",
        "promotion:with.every-byte_kind",
        "0123456789abcdef",
        "手机",
    ];
    for id in &ids[..4] {
        let view = node.promotion(id).create().view();
        assert_eq!(view["shard"], shard_of(id), "{id}");
    }
    node.promotion(ids[4]).answer().bad("promotion_id");
}

#[test]
fn a_batch_answers_in_the_order_given_and_a_bad_element_fails_alone() {
    let node = Node::start();
    node.promotion("A").quantity(2).create();
    let ok = |order: &str| node.grab(order, "alice").of("A", 1).body();
    let mut odd = ok("o-odd");
    odd["colour"] = "red".into();
    let mut wrong = ok("o-wrong");
    wrong["order_id"] = 5.into();
    let batch = json!({"grabs": [
        ok("o-1"), odd, wrong, ok("o-1"), "text",
        node.grab("o-2", "bob").of("nowhere", 1).body(), ok("o-3"), ok("o-4"),
        node.grab("o-5", "bob").body(),
    ]});
    let answer = node.post("/v1/grabs/batch", &batch).expect(200);
    let results = answer["results"].as_array().expect("results are a list");
    let short: Vec<(i64, &str)> = results
        .iter()
        .map(|result| {
            let word = result["outcome"]
                .as_str()
                .or(result["code"].as_str())
                .unwrap_or_default();
            (
                result["status"].as_i64().expect("a result has a status"),
                word,
            )
        })
        .collect();
    assert_eq!(short.len(), 9, "{answer}");
    assert_eq!(short[0], (200, "granted"));
    assert_eq!(short[1].0, 400, "an unknown field: {}", results[1]);
    assert!(
        results[1]["detail"].to_string().contains("colour"),
        "{}",
        results[1]
    );
    assert_eq!(short[2].0, 400, "a wrong type: {}", results[2]);
    assert!(
        results[2]["detail"].to_string().contains("order_id"),
        "{}",
        results[2]
    );
    assert_eq!(short[3], (200, "granted"));
    assert_eq!(
        (&results[0]["replayed"], &results[3]["replayed"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(short[4].0, 400, "not an object: {}", results[4]);
    assert_eq!(short[5], (404, "promotion_not_found"));
    assert_eq!(short[6], (200, "granted"));
    assert_eq!(short[7], (409, "sold_out"));
    assert_eq!(results[7]["remaining"], 0, "{}", results[7]);
    assert_eq!(short[8].0, 400, "no items: {}", results[8]);
    assert!(
        results[8]["detail"].to_string().contains("items"),
        "{}",
        results[8]
    );
    assert_eq!(node.offered("A").remaining(), 0);
    node.order("o-odd").answer().refused(404, "order_not_found");
}

#[test]
fn a_batch_holds_8192_grabs_and_not_one_more() {
    let node = Node::start();
    node.promotion("A").quantity(1_000_000).create();
    let batch = |count: usize| {
        let grabs: Vec<Value> = (0..count)
            .map(|number| {
                node.grab(&format!("b-{number}"), &format!("p{number}"))
                    .of("A", 1)
                    .body()
            })
            .collect();
        json!({"grabs": grabs})
    };
    node.post("/v1/grabs/batch", &batch(8193)).bad("grabs");
    assert_eq!(
        node.offered("A").number("granted"),
        0,
        "nothing of a refused batch was done"
    );
    let answer = node.post("/v1/grabs/batch", &batch(8192)).expect(200);
    let results = answer["results"].as_array().expect("results are a list");
    assert_eq!(results.len(), 8192);
    for (number, result) in results.iter().enumerate() {
        assert_eq!(result["status"], 200, "{result}");
        assert_eq!(
            result["order_id"],
            format!("b-{number}"),
            "in the order given"
        );
    }
    assert_eq!(node.offered("A").remaining(), 1_000_000 - 8192);
}

#[test]
fn an_empty_batch_is_answered_or_refused_but_never_hangs() {
    let node = Node::start();
    let answer = node.post("/v1/grabs/batch", &json!({"grabs": []}));
    match answer.status {
        200 => assert_eq!(answer.json()["results"], json!([])),
        _ => drop(answer.bad("grabs")),
    }
}

#[test]
fn the_same_grab_from_many_at_once_is_granted_once_and_replayed_to_the_others() {
    let node = Node::start();
    node.promotion("A").quantity(100).create();
    for round in 0..10 {
        let order = format!("o-{round}");
        let firsts = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..8)
                .map(|_| {
                    let grab = node.grab(&order, "alice").of("A", 2);
                    scope.spawn(move || grab.answer().expect(200)["replayed"] == false)
                })
                .collect();
            let answers = askers
                .into_iter()
                .map(|asker| asker.join().expect("an asker"));
            answers.filter(|first| *first).count()
        });
        assert_eq!(firsts, 1, "{order}");
    }
    assert_eq!(node.offered("A").remaining(), 80);
}

#[test]
fn a_stampede_gets_exactly_what_was_offered() {
    let node = Node::start();
    node.promotion("A").quantity(100).create();
    let granted: usize = std::thread::scope(|scope| {
        let buyers: Vec<_> = (0..8)
            .map(|buyer| {
                let client = Client::new(node.address());
                scope.spawn(move || {
                    let mut granted = 0;
                    for number in 0..50 {
                        let answer = client
                            .grab(&format!("o-{buyer}-{number}"), "alice")
                            .of("A", 1)
                            .answer();
                        match answer.status {
                            200 => granted += 1,
                            _ => drop(answer.refused(409, "sold_out")),
                        }
                    }
                    granted
                })
            })
            .collect();
        buyers
            .into_iter()
            .map(|buyer| buyer.join().expect("a buyer"))
            .sum()
    });
    assert_eq!(granted, 100);
    assert_eq!(
        (
            node.offered("A").remaining(),
            node.offered("A").state().as_str()
        ),
        (0, "sold_out")
    );
    audit(&node);
}
