//! Verifying against a node of the test's own making, which can tell counters that are wrong, early or late.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;

/// The shard of promotion `A`.
fn shard() -> u16 {
    shard_of(&PromotionId::new("A").unwrap()).0
}

fn view(granted: i64) -> Value {
    json!({"promotion_id": "A", "original": 10, "remaining": 10 - granted, "granted": granted, "returned": 0, "confirmed": 0})
}

fn flow(cursor: u64, body: &Value) -> String {
    let mut flow = body.clone();
    flow["cursor"] = json!(format!("{cursor:020}"));
    flow.to_string()
}

fn created() -> Value {
    json!({"type": "promotion_created", "promotion_id": "A", "quantity": 10})
}

fn granted(order: &str) -> Value {
    json!({"type": "granted", "order_id": order, "items": [{"promotion_id": "A", "quantity": 1}]})
}

/// Flows with their cursors from 1 on.
fn flows(bodies: &[Value]) -> Vec<String> {
    (1..)
        .zip(bodies)
        .map(|(cursor, body)| flow(cursor * 100, body))
        .collect()
}

/// What the node of a test answers to a path with its query.
type Answers = dyn Fn(&str) -> (u16, String) + Send + Sync;

/// A node that answers as told, one connection for each request.
fn node(answers: Arc<Answers>) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().unwrap().unwrap() != "" {}
            let path = first.split(' ').nth(1).unwrap();
            let (status, body) = answers(path);
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    Client::to(address)
}

/// The value of a parameter of a path's query.
fn parameter<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The page of flows that a path asks for.
fn page(path: &str, flows: &[String]) -> String {
    let after: u64 = parameter(path, "after").map_or(0, |after| after.parse().unwrap());
    let cursor = |line: &String| {
        let flow: Value = serde_json::from_str(line).unwrap();
        flow["cursor"].as_str().unwrap().parse::<u64>().unwrap()
    };
    let left = flows.iter().filter(|line| cursor(line) > after);
    left.flat_map(|line| [line, "\n"]).collect()
}

fn list(promotions: &[Value]) -> String {
    json!({"promotions": promotions}).to_string()
}

fn verify(client: &Client, settle_within: Duration) -> Result<ShardReport, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(verify_shard(client, shard(), settle_within))
}

const SETTLED: Duration = Duration::from_secs(20);

#[test]
fn counters_that_equal_their_flows_are_no_drift() {
    let lines = flows(&[created(), granted("o-1")]);
    let client = node(Arc::new(move |path: &str| match path {
        flows if flows.starts_with("/v1/flows") => (200, page(flows, &lines)),
        _ => (200, list(&[view(1)])),
    }));
    let report = verify(&client, SETTLED).unwrap();
    assert_eq!(
        (report.flows, report.compared, report.drift),
        (2, 1, Vec::new())
    );
}

#[test]
fn a_counter_that_no_flow_explains_is_drift() {
    let lines = flows(&[created(), granted("o-1")]);
    let client = node(Arc::new(move |path: &str| match path {
        flows if flows.starts_with("/v1/flows") => (200, page(flows, &lines)),
        one if one.starts_with("/v1/promotions/A") => (200, view(2).to_string()),
        _ => (200, list(&[view(2)])),
    }));
    let report = verify(&client, Duration::from_millis(300)).unwrap();
    let told: Vec<_> = report
        .drift
        .iter()
        .map(|drift| (drift.counter, drift.counted, drift.flows))
        .collect();
    assert_eq!(
        told,
        [
            ("remaining", Some(8), Some(9)),
            ("granted", Some(2), Some(1))
        ]
    );
}

#[test]
fn a_promotion_that_is_only_in_the_flows_is_drift() {
    let lines = flows(&[created()]);
    let client = node(Arc::new(move |path: &str| match path {
        flows if flows.starts_with("/v1/flows") => (200, page(flows, &lines)),
        one if one.starts_with("/v1/promotions/A") => {
            (404, json!({"code": "promotion_not_found"}).to_string())
        }
        _ => (200, list(&[])),
    }));
    let report = verify(&client, Duration::from_millis(300)).unwrap();
    assert!(
        report
            .drift
            .iter()
            .any(|drift| drift.counted.is_none() && drift.flows == Some(10)),
        "{report:?}"
    );
}

#[test]
fn counters_ahead_of_the_flows_read_first_are_met_by_later_ones() {
    let lines = flows(&[created(), granted("o-1"), granted("o-2"), granted("o-3")]);
    let listed = AtomicUsize::new(0);
    let client = node(Arc::new(move |path: &str| match path {
        flows if flows.starts_with("/v1/flows") => {
            // Until the counters were told, two flows; then all of them, one more than the counters know of.
            let known = if listed.load(Ordering::SeqCst) == 0 {
                2
            } else {
                4
            };
            (200, page(flows, &lines[..known]))
        }
        _ => {
            listed.fetch_add(1, Ordering::SeqCst);
            (200, list(&[view(2)]))
        }
    }));
    let report = verify(&client, SETTLED).unwrap();
    assert_eq!((report.flows, report.drift), (4, Vec::new()));
}

#[test]
fn counters_behind_the_flows_read_first_are_asked_for_again() {
    let lines = flows(&[created(), granted("o-1"), granted("o-2")]);
    let client = node(Arc::new(move |path: &str| match path {
        flows if flows.starts_with("/v1/flows") => (200, page(flows, &lines)),
        one if one.starts_with("/v1/promotions/A") => (200, view(2).to_string()),
        _ => (200, list(&[view(1)])),
    }));
    assert_eq!(verify(&client, SETTLED).unwrap().drift, []);
}

#[test]
fn where_the_first_flows_are_gone_older_promotions_are_named_and_left_out() {
    let lines = flows(&[granted("o-0")]);
    let client = node(Arc::new(move |path: &str| match path {
        flows if flows.starts_with("/v1/flows") && parameter(flows, "after") == Some("1") => {
            (410, json!({"code": "flows_forgotten"}).to_string())
        }
        flows if flows.starts_with("/v1/flows") => (200, page(flows, &lines)),
        _ => (200, list(&[view(7)])),
    }));
    let report = verify(&client, SETTLED).unwrap();
    assert_eq!(
        (report.compared, report.drift, report.too_old),
        (0, Vec::new(), vec!["A".to_owned()])
    );
}

#[test]
fn flows_that_contradict_themselves_are_a_failed_check() {
    let lines = flows(&[granted("o-1"), created()]);
    let client = node(Arc::new(move |path: &str| match path {
        flows if flows.starts_with("/v1/flows") => (200, page(flows, &lines)),
        _ => (200, list(&[])),
    }));
    let failure = verify(&client, SETTLED).unwrap_err();
    assert_eq!(failure.exit_code(), 6, "{failure}");
    assert!(
        failure
            .to_string()
            .contains("promotion A appears before its creation"),
        "{failure}"
    );
}
