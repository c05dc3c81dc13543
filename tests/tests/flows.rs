//! The flow log as its readers see it: every committed change once, in order, and at once when they wait for it.
//!
//! Invariant: a reader that keeps the last cursor misses none and sees none twice.

use qiang_tests::{Flow, Kind, Node, id_on_another_shard, id_on_shard, shard_of, wait_until};
use std::time::{Duration, Instant};

fn kinds(flows: &[Flow]) -> Vec<Kind> {
    flows
        .iter()
        .map(|flow| flow.kind)
        .filter(|kind| *kind != Kind::Other)
        .collect()
}

#[test]
fn every_accepted_change_is_a_flow_and_no_refusal_is() {
    let node = Node::start();
    let sale = node.promotion("A").quantity(3).per_order(2).create();
    node.grab("o-1", "alice").of("A", 2).granted();
    node.grab("o-1", "alice").of("A", 2).replayed();
    node.grab("o-2", "bob").of("A", 2).refused(409, "sold_out");
    node.grab("o-2", "bob")
        .of("A", 3)
        .refused(409, "order_limit");
    node.order("o-1").confirm().expect(200);
    node.order("o-1").confirm().expect(200);
    node.grab("o-3", "carol").of("A", 1).granted();
    node.order("o-3").cancel("user").expect(200);
    node.order("o-3").cancel("user").expect(200);
    sale.stop().expect(200);
    assert_eq!(sale.delete().status / 100, 2);
    let flows = node.flows(shard_of("A"));
    assert_eq!(
        kinds(&flows),
        [
            Kind::Created,
            Kind::Granted,
            Kind::Confirmed,
            Kind::Granted,
            Kind::Returned,
            Kind::Changed,
            Kind::Closed
        ]
    );
    let grant = flows
        .iter()
        .find(|flow| flow.kind == Kind::Granted)
        .expect("a grant");
    assert_eq!(grant.order_id(), Some("o-1"));
    assert_eq!(grant.items(), [("A".to_owned(), 2)]);
    assert_eq!(grant.json["pin"], "alice");
}

#[test]
fn flows_are_read_in_pages_that_neither_repeat_nor_skip() {
    let node = Node::start();
    node.promotion("A").create();
    for number in 0..25 {
        node.grab(&format!("o-{number}"), "alice")
            .of("A", 1)
            .granted();
    }
    let shard = shard_of("A");
    let whole = node.flows(shard);
    let mut paged: Vec<Flow> = Vec::new();
    loop {
        let page = node.flow_page(shard, paged.last().map(|flow| flow.cursor), "&limit=7");
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    let cursors = |flows: &[Flow]| flows.iter().map(|flow| flow.cursor).collect::<Vec<_>>();
    assert_eq!(cursors(&paged), cursors(&whole));
    let granted: Vec<_> = whole
        .iter()
        .filter(|flow| flow.kind == Kind::Granted)
        .collect();
    let orders: Vec<_> = granted.iter().filter_map(|flow| flow.order_id()).collect();
    let expected: Vec<String> = (0..25).map(|number| format!("o-{number}")).collect();
    assert_eq!(orders, expected, "in commit order");
}

#[test]
fn cursors_stay_the_same_over_a_restart() {
    let mut node = Node::start();
    node.promotion("A").create();
    node.grab("o-1", "alice").of("A", 1).granted();
    let shard = shard_of("A");
    let before = node.flows(shard);
    let last = before.last().expect("flows").cursor;
    node.kill();
    node.restart();
    let pairs = |flows: &[Flow]| {
        flows
            .iter()
            .map(|flow| (flow.cursor, flow.json.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(pairs(&node.flows(shard))[..before.len()], pairs(&before));
    node.grab("o-2", "alice").of("A", 1).granted();
    let after = node.flows_after(shard, Some(last), "");
    assert_eq!(kinds(&after), [Kind::Granted]);
    assert_eq!(after.last().and_then(Flow::order_id), Some("o-2"));
}

#[test]
fn flows_can_be_filtered_by_promotion_and_by_order() {
    let node = Node::start();
    let other = id_on_shard("B", shard_of("A"));
    node.promotion("A").create();
    node.promotion(&other).create();
    node.grab("o-1", "alice").of("A", 1).granted();
    node.grab("o-2", "alice").of(&other, 1).granted();
    node.grab("o-3", "alice").of("A", 1).of(&other, 1).granted();
    node.order("o-1").cancel("user").expect(200);
    let shard = shard_of("A");
    let of_a = node.flows_after(shard, None, "&promotion_id=A");
    let orders: Vec<_> = of_a.iter().filter_map(Flow::order_id).collect();
    assert_eq!(
        kinds(&of_a),
        [Kind::Created, Kind::Granted, Kind::Granted, Kind::Returned]
    );
    assert_eq!(orders, ["o-1", "o-3", "o-1"], "of A alone");
    let of_order = node.flows_after(shard, None, "&order_id=o-1");
    assert_eq!(kinds(&of_order), [Kind::Granted, Kind::Returned]);
    assert!(node.flows_after(shard, None, "&order_id=none").is_empty());
}

#[test]
fn a_reader_that_waits_is_woken_by_the_next_flow() {
    let node = Node::start();
    node.promotion("A").create();
    let shard = shard_of("A");
    let last = node.flows(shard).last().expect("the creation").cursor;
    let waits = Duration::from_secs(20);
    let (waited, page) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let started = Instant::now();
            let page = node.flow_page(shard, Some(last), "&wait_ms=20000");
            (started.elapsed(), page)
        });
        // Grabs go on until the reader is back: whichever came after it began to wait woke it.
        let mut number = 0;
        wait_until(waits * 2, "the reader returns", || {
            number += 1;
            node.grab(&format!("o-{number}"), "alice")
                .of("A", 1)
                .answer();
            reader
                .is_finished()
                .then_some(())
                .ok_or(format!("{number} grabs later it still waits"))
        });
        reader.join().expect("the reader")
    });
    assert!(waited < waits / 2, "woken only after {waited:?}");
    assert!(
        page.iter()
            .any(|flow| flow.order_id().is_some_and(|order| order.starts_with("o-")))
    );
}

#[test]
fn a_reader_waits_as_long_as_it_asked_and_is_answered_with_nothing() {
    let node = Node::start();
    node.promotion("A").create();
    let shard = shard_of("A");
    let last = node.flows(shard).last().expect("the creation").cursor;
    let started = Instant::now();
    let page = node.flow_page(shard, Some(last), "&wait_ms=700");
    let waited = started.elapsed();
    assert!(kinds(&page).is_empty(), "nothing happened: {page:?}");
    // Bookkeeping of the shard itself is a flow too, and may end the wait.
    assert!(
        waited >= Duration::from_millis(700) || !page.is_empty(),
        "{waited:?}"
    );
}

#[test]
fn a_change_of_another_shard_does_not_end_the_wait() {
    let node = Node::start();
    let elsewhere = id_on_another_shard("B", &["A"]);
    node.promotion("A").create();
    node.promotion(&elsewhere).create();
    let shard = shard_of("A");
    let last = node.flows(shard).last().expect("the creation").cursor;
    let (waited, page) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let started = Instant::now();
            (
                node.flow_page(shard, Some(last), "&wait_ms=700"),
                started.elapsed(),
            )
        });
        node.grab("o-1", "alice").of(&elsewhere, 1).granted();
        let (page, waited) = reader.join().expect("the reader");
        (waited, page)
    });
    assert!(kinds(&page).is_empty(), "{page:?}");
    assert!(
        waited >= Duration::from_millis(700) || !page.is_empty(),
        "{waited:?}"
    );
}

#[test]
fn followers_of_a_busy_shard_see_every_flow_once() {
    let node = Node::start();
    node.promotion("A").quantity(100_000).create();
    let shard = shard_of("A");
    let followed = std::thread::scope(|scope| {
        let follower = scope.spawn(|| {
            let mut seen: Vec<Flow> = Vec::new();
            while !seen.iter().any(|flow| flow.order_id() == Some("last")) {
                let after = seen.last().map(|flow| flow.cursor);
                seen.extend(node.flow_page(shard, after, "&limit=50&wait_ms=10000"));
            }
            seen
        });
        let buyers: Vec<_> = (0..3)
            .map(|buyer| {
                let node = &node;
                scope.spawn(move || {
                    for number in 0..200 {
                        node.grab(&format!("o-{buyer}-{number}"), "alice")
                            .of("A", 1)
                            .granted();
                    }
                })
            })
            .collect();
        for buyer in buyers {
            buyer.join().expect("a buyer");
        }
        node.grab("last", "alice").of("A", 1).granted();
        follower.join().expect("the follower")
    });
    let whole = node.flows(shard);
    let orders = |flows: &[Flow]| {
        flows
            .iter()
            .filter_map(|flow| flow.order_id().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(orders(&followed), orders(&whole));
    assert_eq!(orders(&whole).len(), 601);
}

#[test]
fn bad_parameters_of_the_flow_route_are_named() {
    let node = Node::start();
    node.get("/v1/flows?shard=16").bad("shard");
    node.get("/v1/flows?shard=one").bad("shard");
    node.get("/v1/flows?shard=0&limit=0").bad("limit");
    node.get("/v1/flows?shard=0&after=soon").bad("after");
    node.get("/v1/flows?shard=0&wait_ms=-1").bad("wait_ms");
    node.get("/v1/flows?shard=0&colour=red").bad("colour");
}
