//! Connections that misbehave: too much, too slow, cut off, or not HTTP at all.
//!
//! Invariant: none of them costs the node more than its bounds, and other buyers are served meanwhile.

use qiang_tests::{Client, Node, Raw, RawAnswer};
use std::time::{Duration, Instant};

/// Enough for any answer that is due at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// More than the limits of [`impatient`], less than their defaults together.
const PATIENCE: Duration = Duration::from_secs(9);

const GRAB: &str = r#"{"order_id":"o-1","pin":"alice","ip":"203.0.113.9","channel":"app","items":[{"promotion_id":"A","quantity":1}]}"#;

fn selling() -> Node {
    let node = Node::start();
    node.promotion("A").create();
    node
}

/// A node that loses its patience after a second instead of its usual ten or so.
fn impatient() -> Node {
    let node = Node::builder()
        .env("QIANG_HTTP__HEADER_TIMEOUT_MS", "1000")
        .env("QIANG_HTTP__REQUEST_TIMEOUT_MS", "2000")
        .start();
    node.promotion("A").create();
    node
}

#[test]
fn a_body_that_says_it_is_too_large_is_refused_before_it_is_sent() {
    let node = selling();
    let mut raw = Raw::connect(node.address());
    raw.send("POST /v1/grabs HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 10485760\r\n\r\n{\"order");
    raw.read(AT_ONCE).answer().problem(400);
    node.grab("o-2", "bob").of("A", 1).granted();
}

#[test]
fn an_endless_chunked_body_is_refused_when_it_passes_the_limit() {
    let node = selling();
    let mut raw = Raw::connect(node.address());
    raw.send("POST /v1/grabs HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
    // Half as much again as the limit of 1 MiB, and never an end.
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..24 {
        raw.send(&chunk);
    }
    raw.read(AT_ONCE).answer().problem(400);
    node.grab("o-2", "bob").of("A", 1).granted();
}

#[test]
fn a_body_just_within_the_limit_is_read() {
    let node = selling();
    let padding = " ".repeat((1 << 20) - GRAB.len());
    let answer = node.post_text("/v1/grabs", &format!("{GRAB}{padding}"));
    assert_eq!(answer.expect(200)["outcome"], "granted");
    node.post_text("/v1/grabs", &format!("{GRAB}{padding} "))
        .problem(400);
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    let node = selling();
    let mut body = GRAB.as_bytes().to_vec();
    let at = GRAB.find("alice").expect("the pin");
    body[at] = 0xff;
    let mut raw = Raw::connect(node.address());
    raw.request("POST", "/v1/grabs", &body);
    raw.read(AT_ONCE).answer().problem(400);
    node.order("o-1").answer().refused(404, "order_not_found");
    assert_eq!(node.offered("A").remaining(), 100);
}

#[test]
fn headers_that_never_end_are_cut_off_in_time() {
    let node = impatient();
    let mut slow = Raw::connect(node.address());
    slow.send("POST /v1/grabs HTTP/1.1\r\nhost: te");
    let started = Instant::now();
    match slow.read(PATIENCE) {
        RawAnswer::Closed(_) => {}
        RawAnswer::Answer(answer) => assert!((400..500).contains(&answer.status), "{answer}"),
        RawAnswer::Silent(_) => panic!("kept open for {:?}", started.elapsed()),
    }
    // Over a new connection: the one from before was idle for as long, and is hung up on at the same time.
    let client = Client::new(&node.http_address());
    client.grab("o-1", "alice").of("A", 1).granted();
}

#[test]
fn a_body_that_never_ends_is_cut_off_in_time() {
    let node = impatient();
    let mut slow = Raw::connect(node.address());
    slow.send("POST /v1/grabs HTTP/1.1\r\nhost: test\r\ncontent-length: 200\r\n\r\n{\"order_id\"");
    let started = Instant::now();
    match slow.read(PATIENCE) {
        RawAnswer::Closed(_) => {}
        RawAnswer::Answer(answer) => assert!((400..500).contains(&answer.status), "{answer}"),
        RawAnswer::Silent(_) => panic!("kept open for {:?}", started.elapsed()),
    }
    assert_eq!(node.offered("A").remaining(), 100);
}

#[test]
fn slow_connections_do_not_keep_others_from_grabbing() {
    let node = selling();
    let mut slow: Vec<Raw> = Vec::new();
    for _ in 0..200 {
        let mut raw = Raw::connect(node.address());
        raw.send("POST /v1/grabs HTTP/1.1\r\nhost: test\r\ncontent-length: 200\r\n\r\n{");
        slow.push(raw);
    }
    for number in 0..20 {
        node.grab(&format!("o-{number}"), "alice")
            .of("A", 1)
            .granted();
    }
    drop(slow);
    node.grab("o-20", "alice").of("A", 1).granted();
}

#[test]
fn connections_past_the_bound_are_closed_at_once_and_those_within_it_are_served() {
    let node = Node::builder()
        .env("QIANG_HTTP__CONNECTIONS_MAX", "20")
        .start();
    node.promotion("A").create();
    // The node's own client keeps one or two; these take the rest and more.
    let mut held: Vec<Raw> = (0..25).map(|_| Raw::connect(node.address())).collect();
    let mut closed = 0;
    for raw in &mut held {
        raw.request("GET", "/v1/promotions/A", "");
        match raw.read(AT_ONCE) {
            RawAnswer::Answer(answer) => drop(answer.expect(200)),
            RawAnswer::Closed(_) => closed += 1,
            RawAnswer::Silent(seen) => panic!("left waiting: {seen:?}"),
        }
    }
    assert!(
        (5..=8).contains(&closed),
        "{closed} of 25 were closed where 20 are allowed"
    );
    drop(held);
    qiang_tests::wait_until(AT_ONCE, "a new connection is served", || {
        let mut raw = Raw::connect(node.address());
        raw.request("GET", "/v1/promotions/A", "");
        match raw.read(AT_ONCE) {
            RawAnswer::Answer(answer) => Ok(answer.expect(200)),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_half_closed_connection_still_gets_its_answer() {
    let node = selling();
    let mut raw = Raw::connect(node.address());
    raw.request("POST", "/v1/grabs", GRAB).finish_sending();
    let answer = raw.read(AT_ONCE).answer();
    assert_eq!(answer.expect(200)["outcome"], "granted");
}

#[test]
fn a_connection_closed_in_the_middle_of_a_body_changes_nothing() {
    let node = selling();
    for cut in [1, 30, GRAB.len() - 1] {
        let mut raw = Raw::connect(node.address());
        let head = format!(
            "POST /v1/grabs HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
            GRAB.len()
        );
        raw.send(head).send(&GRAB[..cut]).finish_sending();
        match raw.read(AT_ONCE) {
            RawAnswer::Closed(_) => {}
            RawAnswer::Answer(answer) => assert_eq!(answer.status, 400, "{answer}"),
            RawAnswer::Silent(seen) => panic!("left open: {seen:?}"),
        }
    }
    assert_eq!(node.offered("A").remaining(), 100);
    node.order("o-1").answer().refused(404, "order_not_found");
}

#[test]
fn a_buyer_who_hangs_up_before_the_answer_can_learn_it_by_asking_again() {
    let node = selling();
    let mut raw = Raw::connect(node.address());
    raw.request("POST", "/v1/grabs", GRAB);
    drop(raw);
    let again = node.post_text("/v1/grabs", GRAB).expect(200);
    assert_eq!(again["outcome"], "granted");
    assert_eq!(
        node.offered("A").remaining(),
        99,
        "one grab, whether or not the first arrived"
    );
}

#[test]
fn what_is_not_http_is_refused_and_nobody_else_notices() {
    let node = selling();
    let garbage: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GRAB me if you can\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00\x00\x00\x00\x00\x00\x00\x00\r\n\r\n",
        b"GET /v1/promotions/A HTTP/1.1\r\nbad header\r\n\r\n",
    ];
    for bytes in garbage {
        let mut raw = Raw::connect(node.address());
        raw.send(bytes).finish_sending();
        match raw.read(AT_ONCE) {
            RawAnswer::Closed(_) => {}
            RawAnswer::Answer(answer) => assert!((400..600).contains(&answer.status), "{answer}"),
            RawAnswer::Silent(seen) => panic!("{bytes:?} left open: {seen:?}"),
        }
    }
    node.grab("o-1", "alice").of("A", 1).granted();
}

#[test]
fn headers_without_measure_are_refused() {
    let node = selling();
    let mut raw = Raw::connect(node.address());
    raw.send("GET /v1/promotions/A HTTP/1.1\r\nhost: test\r\n");
    let line = format!("x-padding: {}\r\n", "y".repeat(8000));
    for _ in 0..200 {
        raw.send(&line);
    }
    raw.send("\r\n");
    match raw.read(AT_ONCE) {
        RawAnswer::Closed(_) => {}
        RawAnswer::Answer(answer) => assert!((400..500).contains(&answer.status), "{answer}"),
        RawAnswer::Silent(seen) => panic!("left open: {seen:?}"),
    }
    node.grab("o-1", "alice").of("A", 1).granted();
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let node = selling();
    let mut raw = Raw::connect(node.address());
    for number in 0..16 {
        let body = GRAB.replace("o-1", &format!("o-{number}"));
        raw.request("POST", "/v1/grabs", body);
    }
    for number in 0..16 {
        let answer = raw.read(AT_ONCE).answer().expect(200);
        assert_eq!(answer["order_id"], format!("o-{number}"));
    }
    assert_eq!(node.offered("A").remaining(), 84);
}

#[test]
fn a_client_that_waits_for_continue_gets_it_or_its_answer() {
    let node = selling();
    let mut raw = Raw::connect(node.address());
    let head = format!(
        "POST /v1/grabs HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        GRAB.len()
    );
    raw.send(head);
    let first = raw.read(AT_ONCE).answer();
    assert_eq!(first.status, 100, "{first}");
    raw.send(GRAB);
    assert_eq!(raw.read(AT_ONCE).answer().expect(200)["outcome"], "granted");
}
