//! The cluster's configuration: read, put by compare-and-set, history, rollback, and in force within a second.
//!
//! Invariant: the document in force is always a whole one, with a version that only grows.

use qiang_tests::{Client, Node, audit, wait_until};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The contract: in force on every node within a second.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(1);

fn document(node: &Client) -> Value {
    node.get("/v1/config").expect(200)
}

/// Puts the present document with some members changed.
#[track_caller]
fn change(node: &Client, members: &Value) -> Value {
    let mut next = document(node);
    for (member, value) in members.as_object().expect("an object") {
        next[member] = value.clone();
    }
    node.put("/v1/config", &next).expect(200)
}

fn version(document: &Value) -> u64 {
    document["version"]
        .as_u64()
        .unwrap_or_else(|| panic!("no version in {document}"))
}

#[test]
fn the_configuration_is_put_by_compare_and_set() {
    let node = Node::start();
    let first = document(&node);
    let mut next = first.clone();
    next["grab_concurrency"] = 123.into();
    let put = node.put("/v1/config", &next).expect(200);
    assert!(version(&put) > version(&first), "{put}");
    assert_eq!(put["grab_concurrency"], 123);
    assert_eq!(document(&node), put);

    // Whoever read the first version has read too early.
    next["grab_concurrency"] = 456.into();
    node.put("/v1/config", &next).problem(409);
    assert_eq!(document(&node), put);
    next["version"] = put["version"].clone();
    let third = node.put("/v1/config", &next).expect(200);
    assert_eq!(third["grab_concurrency"], 456);
}

#[test]
fn of_many_who_replace_one_version_exactly_one_wins() {
    let node = Node::start();
    let first = document(&node);
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let operators: Vec<_> = (0..8)
            .map(|operator| {
                let (node, mut next) = (&node, first.clone());
                next["grab_concurrency"] = (100 + operator).into();
                scope.spawn(move || node.put("/v1/config", &next).status)
            })
            .collect();
        operators
            .into_iter()
            .map(|operator| operator.join().expect("an operator"))
            .collect()
    });
    assert_eq!(
        answers.iter().filter(|status| **status == 200).count(),
        1,
        "{answers:?}"
    );
    assert_eq!(
        answers.iter().filter(|status| **status == 409).count(),
        7,
        "{answers:?}"
    );
}

#[test]
fn what_is_wrong_in_a_configuration_is_named_and_changes_nothing() {
    let node = Node::start();
    let first = document(&node);
    for (member, value) in [
        ("grab_concurrency", json!(0)),
        ("grab_concurrency", json!("many")),
        ("degraded", json!("yes")),
        ("rate", json!({"window_ms": 0, "attempts": 1})),
        ("colour", json!("red")),
    ] {
        let mut next = first.clone();
        next[member] = value;
        node.put("/v1/config", &next).bad(member);
    }
    let mut unversioned = first.clone();
    unversioned
        .as_object_mut()
        .expect("an object")
        .remove("version");
    node.put("/v1/config", &unversioned).bad("version");
    assert_eq!(document(&node), first);
}

#[test]
fn history_tells_every_version_and_rollback_brings_one_back() {
    let mut node = Node::start();
    let one = change(&node, &json!({"grab_concurrency": 111}));
    let two = change(&node, &json!({"grab_concurrency": 222}));
    let history = node.get("/v1/config/history").expect(200);
    let versions = history["versions"]
        .as_array()
        .unwrap_or_else(|| panic!("no versions: {history}"));
    let told = |wanted: &Value| {
        versions.iter().any(|old| {
            old["version"] == wanted["version"]
                && old["grab_concurrency"] == wanted["grab_concurrency"]
        })
    };
    assert!(told(&one) && told(&two), "{history}");

    let back = node
        .post("/v1/config/rollback", &json!({"version": version(&one)}))
        .expect(200);
    assert_eq!(back["grab_concurrency"], 111);
    assert!(
        version(&back) > version(&two),
        "a rollback is a new version: {back}"
    );
    assert_eq!(document(&node), back);
    node.post("/v1/config/rollback", &json!({"version": 4711}))
        .problem(404);
    node.post("/v1/config/rollback", &json!({})).bad("version");

    node.kill();
    node.restart();
    assert_eq!(document(&node), back, "a configuration survives a kill");
}

#[test]
fn a_restarted_node_is_ready_only_with_the_configuration_in_force() {
    let rate = json!({"window_ms": 3_600_000, "attempts": 1});
    // Several nodes at a time: what comes up in an unlucky order does so on a busy machine.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut node = Node::start();
                let put = change(&node, &json!({"grab_concurrency": 77, "rate": rate}));
                node.promotion("A").create();
                for number in 0..4 {
                    node.kill();
                    node.restart();
                    assert_eq!(document(&node), put, "right after readyz said yes");
                    // A fresh window has one attempt by the configuration, and any number by the defaults.
                    node.grab(&format!("o-{number}"), "alice")
                        .of("A", 1)
                        .granted();
                    let second = node.grab(&format!("p-{number}"), "alice").of("A", 1);
                    second.refused(429, "rate_limited");
                }
            });
        }
    });
}

#[test]
fn a_default_rate_is_in_force_within_a_second_where_a_promotion_has_none() {
    let node = Node::start();
    node.promotion("A").create();
    node.promotion("own").rate(3_600_000, 1_000_000).create();
    change(
        &node,
        &json!({"rate": {"window_ms": 3_600_000, "attempts": 2}}),
    );
    let mut number = 0;
    wait_until(IN_FORCE_WITHIN, "grabs of A are limited", || {
        number += 1;
        let answer = node
            .grab(&format!("o-{number}"), "alice")
            .of("A", 1)
            .answer();
        match answer.status {
            429 => Ok(answer.refused(429, "rate_limited")),
            200 => Err(answer.text),
            _ => panic!("{answer}"),
        }
    });
    for number in 0..5 {
        node.grab(&format!("own-{number}"), "alice")
            .of("own", 1)
            .granted();
    }
    change(&node, &json!({"rate": null}));
    wait_until(IN_FORCE_WITHIN, "grabs of A are free again", || {
        let answer = node.grab("free", "alice").of("A", 1).answer();
        (answer.status == 200).then_some(()).ok_or(answer.text)
    });
}

#[test]
fn degraded_lowers_the_windows_within_a_second() {
    let node = Node::start();
    change(&node, &json!({"degraded_percent": 50}));
    node.promotion("A")
        .quantity(1000)
        .rate(3_600_000, 10)
        .create();
    for number in 0..6 {
        node.grab(&format!("o-{number}"), "alice")
            .of("A", 1)
            .granted();
    }
    change(&node, &json!({"degraded": true}));
    wait_until(IN_FORCE_WITHIN, "half of ten attempts are used up", || {
        let answer = node.grab("o-0", "alice").of("A", 1).answer();
        match answer.status {
            429 => Ok(answer.refused(429, "rate_limited")),
            _ => Err(answer.text),
        }
    });
    assert!(
        node.get("/metrics").text.contains("degraded"),
        "the metrics say so"
    );
    change(&node, &json!({"degraded": false, "rate": null}));
    node.offered("A")
        .patch(&json!({"rate": {"window_ms": 3_600_000, "attempts": 1_000_000}}))
        .expect(200);
    wait_until(IN_FORCE_WITHIN, "attempts are as before", || {
        let answer = node.grab("o-0", "alice").of("A", 1).answer();
        (answer.status == 200).then_some(()).ok_or(answer.text)
    });
}

#[test]
fn more_grabs_at_once_than_allowed_are_refused_before_anything_is_done() {
    let node = Node::start();
    node.promotion("A").quantity(1_000_000).create();
    change(&node, &json!({"grab_concurrency": 1}));
    let refused = AtomicBool::new(false);
    // Many buyers at once meet in the node sooner or later; each refusal is checked, and each refused order asks again.
    std::thread::scope(|scope| {
        for buyer in 0..8 {
            let (node, refused) = (&node, &refused);
            scope.spawn(move || {
                let client = Client::new(node.address());
                for number in 0..2000 {
                    if refused.load(Ordering::Relaxed) {
                        return;
                    }
                    let grab = client
                        .grab(&format!("o-{buyer}-{number}"), "alice")
                        .of("A", 1);
                    let answer = grab.answer();
                    if answer.status != 429 {
                        answer.expect(200);
                        continue;
                    }
                    answer.refused(429, "overloaded");
                    let wait = answer
                        .header("retry-after")
                        .and_then(|seconds| seconds.parse::<u64>().ok());
                    assert!(
                        wait.is_some_and(|wait| wait >= 1),
                        "Retry-After: {:?}",
                        answer.headers
                    );
                    refused.store(true, Ordering::Relaxed);
                    let granted = wait_until(
                        Duration::from_secs(10),
                        "the refused grab is let in",
                        || {
                            let again = grab.answer();
                            match again.status {
                                200 => Ok(again.json()),
                                _ => Err(again.text),
                            }
                        },
                    );
                    assert_eq!(
                        granted["replayed"], false,
                        "refused before anything was done"
                    );
                }
            });
        }
    });
    assert!(
        refused.load(Ordering::Relaxed),
        "8 buyers with 2,000 grabs each were never too many for a bound of one"
    );
    audit(&node);
}

#[test]
fn the_command_line_changes_the_configuration() {
    let node = Node::start();
    node.cli(&["config", "set", "grab_concurrency=321", "degraded=true"])
        .ok();
    let now = document(&node);
    assert_eq!(
        (&now["grab_concurrency"], &now["degraded"]),
        (&json!(321), &json!(true))
    );
    node.cli(&["config", "set", "grab_concurrency=0"])
        .fails_naming(2, &["grab_concurrency"]);
    node.cli(&["config", "set", "grab_concurrency=1", "--version", "0"])
        .exits(1);
    let before = version(&document(&node)).to_string();
    node.cli(&["config", "set", "grab_concurrency=999"]).ok();
    assert!(node.cli(&["config", "history"]).ok().contains("321"));
    node.cli(&["config", "rollback", &before, "--yes"]).ok();
    assert_eq!(document(&node)["grab_concurrency"], 321);
}
