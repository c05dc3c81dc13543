//! A million orders that fall due in the same second.
//!
//! `TEST_EXPIRING_ORDERS=N` changes the number of orders (default 1,000,000). Invariant: every one of them is returned
//! exactly once, and grabs on the same shard are answered all the while.

use qiang_tests::{Client, Node, id_on_shard, millis_since_epoch, shard_of, wait_until};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

const ORDERS_DEFAULT: usize = 1_000_000;
/// The contract's largest batch.
const IN_ONE: usize = 8192;
/// Long enough for a slow machine to give back a million; how long it really took is printed.
const RETURNED_WITHIN: Duration = Duration::from_mins(2);
/// No grab may take longer than this in between: half of the shortest deadline a caller would sensibly set.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked how long the machine stands still.
const STALLS_EVERY: Duration = Duration::from_millis(5);
const TOO_SLOW: &str = "too slow to have them all due at once: set TEST_EXPIRING_ORDERS to fewer";

#[test]
fn a_million_orders_due_in_one_second_are_returned_while_grabs_go_on() {
    let orders = std::env::var("TEST_EXPIRING_ORDERS").map_or(ORDERS_DEFAULT, |text| {
        text.parse()
            .expect("TEST_EXPIRING_ORDERS is a whole number")
    });
    let node = Node::start();
    let beside = id_on_shard("beside", shard_of("A"));
    node.promotion("A")
        .quantity(orders as u64)
        .payment_timeout_ms(3_600_000)
        .create();
    node.promotion(&beside).quantity(1_000_000).create();

    let due_ms = grab_all(&node, orders);
    assert_eq!(node.offered("A").remaining(), 0);
    let now_ms = millis_since_epoch(SystemTime::now());
    assert!(now_ms < due_ms, "{TOO_SLOW}");

    let over = AtomicBool::new(false);
    let (grabs, slowest, stalled, took) = std::thread::scope(|scope| {
        let stalls = scope.spawn(|| longest_stall(&node.scratch("stalls"), &over));
        let buyer = scope.spawn(|| grab_beside(&node, &beside, &over));
        let due = qiang_tests::instant_at(due_ms);
        let took = wait_until(
            due.saturating_duration_since(Instant::now()) + RETURNED_WITHIN,
            "all are returned",
            || {
                let view = node.offered("A").view();
                let returned = view["returned"].as_u64();
                (returned == Some(orders as u64))
                    .then(|| Instant::now().saturating_duration_since(due))
                    .ok_or(view.to_string())
            },
        );
        over.store(true, Ordering::Relaxed);
        let (grabs, slowest) = buyer.join().expect("the buyer");
        let stalled = stalls.join().expect("who looks at the machine");
        (grabs, slowest, stalled, took)
    });
    eprintln!(
        "{orders} orders were back {took:?} after their second; {grabs} grabs beside, slowest {slowest:?}; the machine stood still for {stalled:?}"
    );
    assert!(grabs > 0, "no grab was answered in between");
    assert!(
        slowest < ANSWERED_WITHIN + stalled,
        "a grab took {slowest:?} while orders expired, and the machine stood still for {stalled:?} at most"
    );

    let sale = node.offered("A");
    assert_eq!(sale.remaining(), i64::try_from(orders).expect("a count"));
    sale.balances_with(0);
    for number in (0..orders).step_by(orders / 200 + 1) {
        assert_eq!(
            node.order(&format!("o-{number}")).at("A").state(),
            "returned"
        );
    }
    node.cli(&["flows", "verify"]).ok();
}

/// Grabs everything in batches, each with the payment timeout that leads to the same moment, which it gives.
fn grab_all(node: &Node, orders: usize) -> i64 {
    node.promotion("warm").quantity(1_000_000).create();
    let started = Instant::now();
    for batch in 0..2 {
        grab_batch(node, "warm", "w", batch * IN_ONE, IN_ONE);
    }
    // Two batches tell how long all of them take; twice that and ten seconds leave room for a machine's moods.
    let all_of_them = started.elapsed() / 2 * u32::try_from(orders / IN_ONE + 1).expect("a count");
    let room = i64::try_from((2 * all_of_them).as_millis()).expect("a short time") + 10_000;
    let due_ms = millis_since_epoch(SystemTime::now()) + room;

    for first in (0..orders).step_by(IN_ONE) {
        let left = due_ms - millis_since_epoch(SystemTime::now());
        assert!(left > 0, "{TOO_SLOW}");
        node.offered("A")
            .patch(&json!({"payment_timeout_ms": left}))
            .expect(200);
        grab_batch(node, "A", "o", first, IN_ONE.min(orders - first));
    }
    due_ms
}

#[track_caller]
fn grab_batch(node: &Node, promotion: &str, name: &str, first: usize, count: usize) {
    let grabs: Vec<Value> = (first..first + count)
        .map(|number| {
            json!({"order_id": format!("{name}-{number}"), "pin": format!("p{number}"), "ip": "10.0.0.1",
                   "channel": "app", "items": [{"promotion_id": promotion, "quantity": 1}]})
        })
        .collect();
    let answer = node
        .post("/v1/grabs/batch", &json!({"grabs": grabs}))
        .expect(200);
    let results = answer["results"].as_array().expect("results");
    let refused = results.iter().find(|result| result["outcome"] != "granted");
    assert!(refused.is_none() && results.len() == count, "{refused:?}");
}

fn grab_beside(client: &Client, promotion: &str, over: &AtomicBool) -> (usize, Duration) {
    let mut slowest = Duration::ZERO;
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            return (number, slowest);
        }
        let asked = Instant::now();
        client
            .grab(&format!("b-{number}"), "alice")
            .of(promotion, 1)
            .granted();
        slowest = slowest.max(asked.elapsed());
    }
    unreachable!("numbers do not run out")
}

/// The longest that the machine kept somebody waiting who asks nothing of the node: a moment's sleep, and a small write synced to
/// the same disk.
fn longest_stall(path: &Path, over: &AtomicBool) -> Duration {
    let mut file = File::create(path).expect("a file");
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        std::thread::sleep(STALLS_EVERY);
        file.write_all(&[0; 4096]).expect("written");
        file.sync_data().expect("synced");
        longest = longest.max(began.elapsed().saturating_sub(STALLS_EVERY));
    }
    longest
}
