//! What survives: `kill -9` under load again and again, a drain, and a rebuild from the flows alone.
//!
//! Invariant: whatever was acknowledged is there after every restart, once, and counters equal flows.

use qiang_tests::{
    Acknowledged, Answer, Audit, Client, Load, Node, Random, Raw, audit, instant_at,
    parse_rfc3339_ms, shard_of, wait_until, wait_until_by,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The issue's number: twenty times in a row.
const KILLS: u64 = 20;
const BUYERS: u64 = 4;

/// Promotions on several shards: some plentiful, one that sells out, one with limits.
fn open_the_shop(client: &Client) -> Vec<String> {
    let ids: Vec<String> = (0..6).map(|number| format!("P{number}")).collect();
    for id in &ids[..4] {
        client.promotion(id).quantity(10_000_000).create();
    }
    client.promotion(&ids[4]).quantity(200).create();
    client
        .promotion(&ids[5])
        .quantity(1_000_000)
        .per_pin(5)
        .per_ip(20)
        .create();
    ids
}

#[test]
fn twenty_kills_under_load_lose_nothing_and_grant_nothing_twice() {
    let random = Random::from_environment();
    let mut node = Node::start();
    let promotions = open_the_shop(&node);
    let mut all: Vec<Acknowledged> = Vec::new();
    let mut learnt: Vec<(Value, bool)> = Vec::new();
    let mut rounds = random.fork(1000);
    for round in 0..KILLS {
        let load = Load::start(
            &node,
            &format!("r{round}"),
            &promotions,
            BUYERS,
            &random.fork(round),
        );
        let enough = usize::try_from(20 + rounds.below(600)).expect("a small number");
        wait_until(Duration::from_mins(1), "the load is under way", || {
            let count = load.acknowledged();
            (count >= enough)
                .then_some(())
                .ok_or(format!("{count} of {enough} acknowledged"))
        });
        node.kill();
        let (acknowledged, unknown) = load.stop();
        verified_offline(node.data_dir(), &node);
        node.restart();

        for one in &acknowledged {
            still_held(&node, one);
        }
        all.extend(acknowledged);
        let folded = audit(&node);
        for one in &all {
            folded_once(&folded, one);
        }
        // What was left without an answer is learnt by asking again, and asking again takes nothing twice.
        for body in unknown {
            let answer = node.post("/v1/grabs", &body);
            assert!(
                matches!(answer.status, 200 | 409),
                "round {round}: {answer}"
            );
            learnt.push((body, answer.status == 200));
        }
        for one in all.iter().rev().take(20) {
            replayed_as_before(&node.post("/v1/grabs", &one.body), one);
        }
        node.cli(&["flows", "verify"]).ok();
    }
    assert!(all.len() >= 20 * 20, "{} acknowledged in all", all.len());
    every_cart_is_whole_or_not_at_all(&node, &learnt);
    eprintln!("{} acknowledged grabs survived {KILLS} kills", all.len());
}

#[track_caller]
fn verified_offline(data_dir: &Path, node: &Node) {
    let data_dir = data_dir.to_str().expect("a plain path");
    node.cli(&["flows", "verify", "--data-dir", data_dir]).ok();
}

#[track_caller]
fn still_held(node: &Node, one: &Acknowledged) {
    let order = node.order(one.order_id()).at(one.promotion_id()).view();
    assert_eq!(order["state"], "held", "{order}");
    assert_eq!(order["pay_by"], one.pay_by, "{order}");
    assert_eq!(order["pin"], one.body["pin"], "{order}");
}

#[track_caller]
fn folded_once(folded: &Audit, one: &Acknowledged) {
    let items = one.body["items"].as_array().expect("items");
    for item in items {
        let promotion = item["promotion_id"].as_str().expect("an id");
        let held = folded.order(promotion, one.order_id());
        let held =
            held.unwrap_or_else(|| panic!("acknowledged but not in the flows: {}", one.body));
        let units: i64 = held
            .items
            .iter()
            .filter(|(id, _)| id == promotion)
            .map(|(_, units)| units)
            .sum();
        let asked: i64 = items
            .iter()
            .filter(|item| item["promotion_id"] == promotion)
            .map(|item| item["quantity"].as_i64().expect("a quantity"))
            .sum();
        assert_eq!(units, asked, "{held:?} for {}", one.body);
    }
}

#[track_caller]
fn replayed_as_before(answer: &Answer, one: &Acknowledged) {
    let body = answer.expect(200);
    assert_eq!(
        (&body["replayed"], &body["pay_by"]),
        (&json!(true), &json!(one.pay_by)),
        "{answer}"
    );
}

/// Grabs whose node was killed under them: by what asking again told, all their items are held or none is.
///
/// A shard may hold units for a refused cart a moment longer, until it has asked the cart's home.
fn every_cart_is_whole_or_not_at_all(node: &Node, learnt: &[(Value, bool)]) {
    wait_until(
        Duration::from_secs(30),
        "all shards agree on every cart",
        || {
            let folded = audit(node);
            let torn = learnt.iter().find(|(body, granted)| {
                let order = body["order_id"].as_str().expect("an id");
                let items = body["items"].as_array().expect("items");
                items.iter().any(|item| {
                    let promotion = item["promotion_id"].as_str().expect("an id");
                    let held = folded
                        .order(promotion, order)
                        .is_some_and(|part| part.state == "held");
                    held != *granted
                })
            });
            torn.map_or(Ok(()), |(body, granted)| {
                Err(format!(
                    "granted: {granted}, yet not on every shard so: {body}"
                ))
            })
        },
    );
}

#[test]
fn every_kind_of_change_survives_a_kill() {
    let mut node = Node::start();
    let sale = node
        .promotion("A")
        .quantity(10)
        .per_pin(2)
        .price(2, 1)
        .create();
    sale.patch(&json!({"add_quantity": 5, "title": "changed"}))
        .expect(200);
    node.promotion("stopped").create().stop().expect(200);
    assert_eq!(node.promotion("gone").create().delete().status / 100, 2);
    node.grab("held", "alice").of("A", 1).granted();
    node.grab("paid", "bob").of("A", 2).granted();
    node.order("paid").confirm().expect(200);
    node.grab("left", "carol").of("A", 1).granted();
    node.order("left").cancel("stock").expect(200);
    node.order("early")
        .cancel_with(&json!({"reason": "user", "promotion_ids": ["A"]}))
        .expect(200);
    let everything = |node: &Node| {
        let mut seen: Vec<Value> = ["A", "stopped"].map(|id| node.offered(id).view()).into();
        for view in &mut seen {
            view["attempts"] = Value::Null;
        }
        seen.extend(["held", "paid", "left"].map(|id| node.order(id).view()));
        seen
    };
    let before = everything(&node);
    for _ in 0..2 {
        node.kill();
        node.restart();
        assert_eq!(everything(&node), before);
    }
    node.grab("early", "dave")
        .of("A", 1)
        .refused(409, "order_returned");
    node.grab("left", "carol")
        .of("A", 1)
        .refused(409, "order_returned");
    node.grab("held", "alice").of("A", 1).replayed();
    node.grab("more", "bob")
        .of("A", 1)
        .refused(409, "pin_limit");
    node.grab("o-1", "erin")
        .of("stopped", 1)
        .refused(409, "stopped");
    node.grab("o-1", "erin")
        .of("gone", 1)
        .refused(409, "deleted");
    audit(&node);
}

/// Losers of a stampede are refused without asking the shard, unless it has met them.
#[test]
fn who_was_met_before_a_kill_is_known_when_nothing_remains() {
    let mut node = Node::start();
    node.promotion("A").quantity(3).per_pin(2).create();
    node.grab("o-1", "alice").of("A", 2).granted();
    node.grab("o-2", "bob").of("A", 1).granted();
    for _ in 0..2 {
        node.grab("o-3", "carol")
            .of("A", 1)
            .refused(409, "sold_out");
        // Checks that come before what remains.
        node.grab("o-1", "alice").of("A", 2).replayed();
        node.grab("o-1", "alice")
            .of("A", 1)
            .refused(422, "order_mismatch");
        node.grab("o-4", "alice")
            .of("A", 1)
            .refused(409, "pin_limit");
        node.grab("o-5", "carol")
            .of("A", 3)
            .refused(409, "pin_limit");
        node.kill();
        node.restart();
    }
    let before = node.offered("A").number("attempts");
    for _ in 0..10 {
        node.grab("o-3", "carol")
            .of("A", 1)
            .refused(409, "sold_out");
    }
    let after = node.offered("A").number("attempts");
    assert_eq!(after, before + 10, "every refusal is an attempt");
    node.order("o-2").at("A").cancel("user").expect(200);
    node.grab("o-3", "carol").of("A", 1).granted();
    audit(&node);
}

#[test]
fn a_drain_answers_what_is_in_flight_and_ends_well() {
    let mut node = Node::start();
    node.promotion("A").create();
    let body = node.grab("o-1", "alice").of("A", 1).body().to_string();
    let (first, rest) = body.split_at(20);
    let mut slow = Raw::connect(node.address());
    slow.send(format!(
        "POST /v1/grabs HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{first}",
        body.len()
    ));
    // A whole request on a second connection is answered: the node has read the half of ours as well.
    node.grab("o-2", "bob").of("A", 1).granted();

    node.ask_to_stop();
    let within = Duration::from_secs(10);
    wait_until(within, "readyz says that the node drains", || {
        match node.try_get("/readyz") {
            Ok(answer) if answer.status == 503 => Ok(()),
            Ok(answer) => Err(answer.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    slow.send(rest);
    let answer = slow.read(within).answer();
    assert_eq!(
        answer.expect(200)["outcome"],
        "granted",
        "accepted before the drain: answered"
    );
    let status = node.wait_exit();
    assert!(status.success(), "{status}");
    node.restart();
    assert_eq!(node.order("o-1").state(), "held");
    assert_eq!(node.offered("A").remaining(), 98);
}

#[test]
fn a_drain_does_not_wait_for_idle_connections_or_waiting_readers() {
    let mut node = Node::start();
    node.promotion("A").create();
    let last = node
        .flows(shard_of("A"))
        .last()
        .expect("the creation")
        .cursor;
    let _idle = Raw::connect(node.address());
    let mut reader = Raw::connect(node.address());
    let path = format!(
        "/v1/flows?shard={}&after={last}&wait_ms=30000",
        shard_of("A")
    );
    reader.request("GET", &path, "");
    let within = Duration::from_secs(10);
    let stopping = std::time::Instant::now();
    let status = node.stop_gracefully();
    assert!(status.success(), "{status}");
    assert!(
        stopping.elapsed() < within,
        "the drain took {:?}",
        stopping.elapsed()
    );
}

#[test]
fn a_drain_under_load_loses_no_acknowledged_grab() {
    let random = Random::from_environment();
    let mut node = Node::start();
    let promotions = open_the_shop(&node);
    let mut all = Vec::new();
    for round in 0..3 {
        let load = Load::start(
            &node,
            &format!("r{round}"),
            &promotions,
            BUYERS,
            &random.fork(round),
        );
        wait_until(Duration::from_mins(1), "the load is under way", || {
            let count = load.acknowledged();
            (count >= 300)
                .then_some(())
                .ok_or(format!("{count} acknowledged"))
        });
        let status = node.stop_gracefully();
        assert!(status.success(), "{status}");
        let (acknowledged, _) = load.stop();
        all.extend(acknowledged);
        verified_offline(node.data_dir(), &node);
        node.restart();
        let folded = audit(&node);
        for one in &all {
            folded_once(&folded, one);
        }
    }
}

#[test]
fn a_node_that_stood_still_goes_on_where_it_was() {
    let node = Node::start();
    node.promotion("A").payment_timeout_ms(1000).create();
    let granted = node.grab("o-1", "alice").of("A", 1).granted();
    let due = instant_at(parse_rfc3339_ms(
        granted["pay_by"].as_str().expect("a time"),
    ));
    node.pause();
    // Longer than any lease or heartbeat of a cluster would be.
    let late = due + Duration::from_secs(3);
    wait_until_by(
        late + Duration::from_secs(1),
        "the node sleeps over a deadline",
        || {
            (Instant::now() > late)
                .then_some(())
                .ok_or("not yet".to_owned())
        },
    );
    node.go_on();
    wait_until(Duration::from_secs(1), "o-1 is returned", || {
        let state = node.order("o-1").state();
        (state == "returned").then_some(()).ok_or(state)
    });
    node.grab("o-2", "alice").of("A", 1).granted();
    assert_eq!(node.offered("A").remaining(), 99);
    audit(&node);
}

#[test]
fn a_start_from_a_snapshot_is_a_start_from_all_flows() {
    let random = Random::from_environment();
    let mut node = Node::builder()
        .env("QIANG_STORAGE__SNAPSHOT_ENTRIES", "1500")
        .start();
    node.promotion("A")
        .quantity(100_000_000)
        .per_pin(1_000_000)
        .create();
    let snapshots = node.data_dir().join("snapshots");
    let shard = usize::try_from(shard_of("A")).expect("few shards");
    let log = wait_until(Duration::from_secs(30), "the shard has a log", || {
        let shown = node.get("/v1/cluster").json();
        let log = &shown["shards"][shard]["log"];
        log.as_u64().ok_or_else(|| shown.to_string())
    });
    // One promotion and few buyers: many small entries in one shard, until it writes snapshots of its own accord.
    let load = Load::start(&node, "r", &["A".to_owned()], 3, &random);
    wait_until(Duration::from_mins(3), "two snapshots are written", || {
        let count = load.acknowledged();
        let written = files_below(&snapshots.join(log.to_string())).len();
        (written > 1)
            .then_some(())
            .ok_or(format!("{written} after {count} grabs"))
    });
    node.kill();
    let (acknowledged, _) = load.stop();
    verified_offline(node.data_dir(), &node);
    node.restart();
    assert!(
        !files_below(&snapshots).is_empty(),
        "the restart had a snapshot to start from"
    );
    let counters = |node: &Node| {
        let mut view = node.offered("A").view();
        view["attempts"] = Value::Null;
        view
    };
    let from_snapshot = counters(&node);
    for one in acknowledged.iter().step_by(acknowledged.len() / 500 + 1) {
        still_held(&node, one);
    }
    replayed_as_before(
        &node.post("/v1/grabs", &acknowledged[0].body),
        &acknowledged[0],
    );
    audit(&node);

    // A damaged snapshot is not trusted, and none is needed: the flows tell it all.
    assert!(node.stop_gracefully().success());
    for file in files_below(&snapshots) {
        let mut bytes = std::fs::read(&file).expect("a snapshot");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        std::fs::write(&file, bytes).expect("written");
    }
    node.restart();
    assert_eq!(
        counters(&node),
        from_snapshot,
        "started over damaged snapshots"
    );
    assert!(node.stop_gracefully().success());
    assert!(delete_snapshots(node.data_dir()) > 0);
    let data_dir = node.data_dir().to_str().expect("a plain path").to_owned();
    node.cli(&["flows", "rebuild", "--data-dir", &data_dir])
        .ok();
    node.restart();
    assert_eq!(
        counters(&node),
        from_snapshot,
        "rebuilt from the flows alone"
    );
    audit(&node);
}

#[test]
fn counters_are_rebuilt_from_the_flows_alone() {
    let random = Random::from_environment();
    let mut node = Node::start();
    let promotions = open_the_shop(&node);
    let load = Load::start(&node, "r", &promotions, BUYERS, &random);
    wait_until(Duration::from_mins(1), "some grabs", || {
        let count = load.acknowledged();
        (count >= 500)
            .then_some(())
            .ok_or(format!("{count} acknowledged"))
    });
    let (acknowledged, _) = load.stop();
    for one in acknowledged.iter().step_by(3) {
        node.order(one.order_id())
            .at(one.promotion_id())
            .confirm()
            .expect(200);
    }
    for one in acknowledged.iter().skip(1).step_by(3) {
        node.order(one.order_id())
            .at(one.promotion_id())
            .cancel("user")
            .expect(200);
    }
    let counters = |node: &Node| -> Vec<Value> {
        promotions
            .iter()
            .map(|id| {
                let mut view = node.offered(id).view();
                view["attempts"] = Value::Null;
                view
            })
            .collect()
    };
    let before = counters(&node);
    assert!(node.stop_gracefully().success());

    let deleted = delete_snapshots(node.data_dir());
    let data_dir = node.data_dir().to_str().expect("a plain path").to_owned();
    let rebuilt = node.cli(&["flows", "rebuild", "--data-dir", &data_dir]);
    rebuilt.ok();
    eprintln!(
        "{deleted} snapshot files deleted; rebuild says:\n{}",
        rebuilt.stdout
    );
    node.cli(&["flows", "verify", "--data-dir", &data_dir]).ok();
    node.restart();
    assert_eq!(counters(&node), before);
    for one in acknowledged.iter().take(50) {
        replayed_or_returned(&node.post("/v1/grabs", &one.body));
    }
    audit(&node);
}

#[track_caller]
fn replayed_or_returned(answer: &Answer) {
    if answer.status == 200 {
        assert_eq!(answer.json()["replayed"], true, "{answer}");
    } else {
        answer.refused(409, "order_returned");
    }
}

/// Deletes every snapshot of a stopped node and says how many there were.
fn delete_snapshots(data_dir: &Path) -> usize {
    let files = files_below(&data_dir.join("snapshots"));
    for file in &files {
        std::fs::remove_file(file).expect("a snapshot can be deleted");
    }
    files.len()
}

/// Every finished snapshot below a folder; none where the folder is not there yet.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "snapshot")
            {
                found.push(path);
            }
        }
    }
    found
}
