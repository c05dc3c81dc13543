//! How long a start takes with a million orders on the disk.

use crate::alone;
use qiang_tests::{Node, id_on_shard};
use serde_json::{Value, json};
use std::time::Instant;

/// Orders made.
const ORDERS: u32 = 1_000_000;

/// The most grabs that one batch may have.
const IN_BATCH: u32 = 8192;

/// One batch of orders, each of one unit.
fn batch(promotions: &[String], first: u32) -> Value {
    let order = |number: u32| {
        json!({
            "order_id": format!("o-{number}"), "pin": format!("pin-{number}"), "ip": "203.0.113.9", "channel": "app",
            "items": [{"promotion_id": promotions[number as usize % promotions.len()], "quantity": 1}],
        })
    };
    let last = ORDERS.min(first + IN_BATCH);
    json!({"grabs": (first..last).map(order).collect::<Vec<_>>()})
}

#[test]
fn a_node_with_a_million_orders_comes_back_with_all_of_them() {
    let _alone = alone();
    let mut node = Node::start();
    let promotions: Vec<String> = (0..16).map(|shard| id_on_shard("M", shard)).collect();
    for id in &promotions {
        node.promotion(id).quantity(u64::from(ORDERS)).create();
    }
    let began = Instant::now();
    for first in (0..ORDERS).step_by(IN_BATCH as usize) {
        let answer = node
            .post("/v1/grabs/batch", &batch(&promotions, first))
            .expect(200);
        let results = answer["results"].as_array().expect("results");
        let refused = results.iter().find(|result| result["status"] != 200);
        assert!(refused.is_none(), "{refused:?}");
    }
    println!("{ORDERS} orders made in {:?}", began.elapsed());
    let mut restart = |how: &str, stop: fn(&mut Node)| {
        stop(&mut node);
        let began = Instant::now();
        node.restart();
        println!("ready {:?} after the start, {how}", began.elapsed());
        let held: i64 = promotions
            .iter()
            .map(|id| i64::from(ORDERS) - node.offered(id).remaining())
            .sum();
        assert_eq!(held, i64::from(ORDERS), "units held");
        node.grab("o-0", "pin-0").of(&promotions[0], 1).replayed();
    };
    restart("killed", Node::kill);
    restart("stopped", |node| assert!(node.stop_gracefully().success()));
}
