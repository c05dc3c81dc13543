//! Forged flows and counters: what a broken server would tell. Each forgery must be found, and named.

use std::fmt::Write;

use super::*;
use crate::ledger::Stripe;
use crate::workload::Name;

/// A run of which the client's side and the server's side are made up.
struct Story {
    run: RunId,
    workload: Workload,
    stripe: Stripe,
    flows: Vec<String>,
    cursor: u64,
}

impl Story {
    /// Two promotions of `quantity`.
    fn new(name: Name, quantity: u32) -> Self {
        let mut workload = Workload::new(name, 1);
        (workload.promotions, workload.quantity) = (2, quantity);
        let mut story = Self {
            run: RunId::now(),
            workload,
            stripe: Stripe::new(0, 1),
            flows: Vec::new(),
            cursor: 0,
        };
        for promotion in 0..2 {
            let id = story.run.promotion(promotion);
            let body = format!(r#""promotion_id":"{id}","quantity":{quantity}"#);
            story.flow(3, "promotion_created", &body);
        }
        story
    }

    fn flow(&mut self, shard: u16, kind: &str, body: &str) {
        self.cursor += 1;
        let cursor = self.cursor;
        let line = format!(r#"{{"cursor":"{cursor:020}","shard":{shard},"type":"{kind}",{body}}}"#);
        self.flows.push(line);
    }

    /// The client sends an order and hears this.
    fn sends(&mut self, heard: Grab) -> u64 {
        let order = self.stripe.begin();
        self.stripe.entry(order).on_grab(heard);
        order
    }

    fn items(&self, order: u64) -> String {
        let mut text = String::new();
        for item in self.workload.items(order) {
            let (id, quantity) = (self.run.promotion(item.promotion), item.quantity);
            let comma = if text.is_empty() { "" } else { "," };
            write!(
                text,
                r#"{comma}{{"promotion_id":"{id}","quantity":{quantity}}}"#
            )
            .unwrap();
        }
        format!("[{text}]")
    }

    /// The server's flow about an order, with its items and what else there is to say.
    fn tells(&mut self, order: u64, kind: &str, more: &str) {
        let (id, items) = (self.run.order(order), self.items(order));
        let body = format!(r#""order_id":"{id}","items":{items}{more}"#);
        self.flow(3, kind, &body);
    }

    /// An order that was granted and is told so.
    fn granted(&mut self) -> u64 {
        let order = self.sends(Grab::Granted);
        self.tells(order, "granted", "");
        order
    }

    /// What is found when the server's counters are `told`, or what the flows fold to where nothing is said.
    fn judged(self, told: impl FnOnce(&mut Vec<Counters>)) -> Vec<String> {
        let ledger = Ledger::new(vec![self.stripe]);
        let client = Client {
            run: &self.run,
            workload: &self.workload,
            ledger: &ledger,
        };
        let mut fold = Fold::new(client);
        for line in &self.flows {
            fold.line(line.as_bytes()).unwrap();
        }
        let mut counters: Vec<Counters> = fold
            .promotions
            .iter()
            .map(|c| c.unwrap_or_default())
            .collect();
        told(&mut counters);
        let found = fold.judge(&counters);
        assert_eq!(found.count(), found.first().len() as u64);
        found.first().iter().map(ToString::to_string).collect()
    }

    fn found(self) -> Vec<String> {
        self.judged(|_| {})
    }
}

#[track_caller]
fn assert_found(found: &[String], expected: &[&str]) {
    let fits = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(found, part)| found.contains(part));
    assert!(
        fits,
        "{expected:?} were expected, and found were {found:#?}"
    );
}

#[test]
fn a_clean_run_has_no_differences() {
    let mut story = Story::new(Name::Spread, 100);
    let (paid, cancelled) = (story.granted(), story.granted());
    story.stripe.entry(paid).on_confirm(Word::Done);
    story.tells(paid, "confirmed", r#","from":"held""#);
    story.stripe.entry(cancelled).on_cancel(Word::Done);
    story.tells(cancelled, "returned", r#","reason":"user","from":"held""#);
    let expired = story.granted();
    story.tells(expired, "returned", r#","reason":"expired","from":"held""#);
    story.sends(Grab::Refused);
    // Either is right of what nobody knows.
    story.sends(Grab::Unknown);
    let unknown = story.sends(Grab::Unknown);
    story.tells(unknown, "granted", "");
    story.flow(
        3,
        "told",
        r#""order_id":"x","before":"nothing","after":"sealed""#,
    );
    let found = story.judged(|counters| {
        let all: i64 = counters.iter().map(|c| c.granted).sum();
        let held: i64 = counters.iter().map(|c| c.held).sum();
        let back: i64 = counters.iter().map(|c| c.returned).sum();
        let paid: i64 = counters.iter().map(|c| c.confirmed).sum();
        assert_eq!((all, held, back, paid), (4, 1, 2, 1));
        let balanced = |c: &Counters| c.original + c.added == c.remaining + c.held + c.confirmed;
        assert!(counters.iter().all(balanced));
    });
    assert_found(&found, &[]);
}

#[test]
fn a_dropped_flow_is_a_loss() {
    let mut story = Story::new(Name::Spread, 100);
    story.granted();
    let lost = story.sends(Grab::Granted);
    let name = story.run.order(lost);
    assert_found(
        &story.found(),
        &[&format!(
            "order {name} was granted to the client, and no flow says so"
        )],
    );
}

#[test]
fn a_repeated_flow_is_a_double_grant() {
    let mut story = Story::new(Name::Spread, 100);
    let order = story.granted();
    story.tells(order, "granted", "");
    let name = story.run.order(order);
    assert_found(
        &story.found(),
        &[&format!("order {name} is granted a second time")],
    );
}

#[test]
fn one_unit_too_many_is_an_oversell() {
    let mut story = Story::new(Name::Hot, 2);
    story.workload.promotions = 1;
    for _ in 0..3 {
        story.granted();
    }
    let name = story.run.promotion(0);
    assert_found(
        &story.found(),
        &[&format!("promotion {name} has -1 units after flow")],
    );
}

#[test]
fn a_counter_that_is_off_by_one_is_found() {
    let mut story = Story::new(Name::Spread, 100);
    story.granted();
    let found = story.judged(|counters| counters[1].remaining -= 1);
    assert_found(&found, &["-p1: remaining is "]);
}

#[test]
fn a_refused_order_must_not_be_granted() {
    let mut story = Story::new(Name::Spread, 100);
    let order = story.sends(Grab::Refused);
    story.tells(order, "granted", "");
    assert_found(
        &story.found(),
        &["was refused to the client, and a flow grants it"],
    );
}

#[test]
fn a_denied_grant_is_found() {
    let mut story = Story::new(Name::Spread, 100);
    let order = story.granted();
    story.stripe.entry(order).on_grab(Grab::Contradicted);
    assert_found(
        &story.found(),
        &["was granted to the client and then denied"],
    );
}

#[test]
fn nobody_is_granted_what_nobody_asked_for() {
    let mut story = Story::new(Name::Spread, 100);
    story.tells(77, "granted", "");
    assert_found(&story.found(), &["-77 was never sent, and flow"]);
}

#[test]
fn a_grant_of_something_else_is_found() {
    let mut story = Story::new(Name::Spread, 100);
    let order = story.sends(Grab::Granted);
    let (id, promotion) = (story.run.order(order), story.run.promotion(0));
    let body =
        format!(r#""order_id":"{id}","items":[{{"promotion_id":"{promotion}","quantity":2}}]"#);
    story.flow(3, "granted", &body);
    assert_found(&story.found(), &["-p0:2"]);
}

#[test]
fn a_cancel_that_was_acknowledged_must_have_happened() {
    let mut story = Story::new(Name::Spread, 100);
    let order = story.granted();
    story.stripe.entry(order).on_cancel(Word::Done);
    assert_found(
        &story.found(),
        &["was acknowledged, and no flow returns it"],
    );
}

#[test]
fn a_confirm_that_was_acknowledged_must_have_happened() {
    let mut story = Story::new(Name::Spread, 100);
    let order = story.granted();
    story.stripe.entry(order).on_confirm(Word::Done);
    assert_found(
        &story.found(),
        &["was acknowledged, and no flow confirms it"],
    );
}

#[test]
fn an_order_is_closed_only_by_its_buyer_or_by_time() {
    let mut story = Story::new(Name::Spread, 100);
    let (one, two) = (story.granted(), story.granted());
    story.tells(one, "returned", r#","reason":"user","from":"held""#);
    story.tells(two, "confirmed", r#","from":"held""#);
    assert_found(
        &story.found(),
        &["nobody cancelled it", "nobody confirmed it"],
    );
}

#[test]
fn an_order_is_returned_once() {
    let mut story = Story::new(Name::Spread, 100);
    let order = story.granted();
    for _ in 0..2 {
        story.tells(order, "returned", r#","reason":"expired","from":"held""#);
    }
    assert_found(&story.found(), &["is returned by flow"]);
}

#[test]
fn an_order_cancelled_in_advance_is_never_granted() {
    let mut story = Story::new(Name::Spread, 100);
    let order = story.sends(Grab::Unsent);
    story.stripe.entry(order).on_cancel(Word::Done);
    let id = story.run.order(order);
    let body = format!(r#""order_id":"{id}","reason":"user","from":"unknown","items":[]"#);
    story.flow(3, "returned", &body);
    story.stripe.entry(order).on_grab(Grab::Refused);
    story.tells(order, "granted", "");
    assert_found(&story.found(), &["is granted a second time"]);
}

#[test]
fn what_is_no_flow_is_an_error() {
    let story = Story::new(Name::Spread, 1);
    let ledger = Ledger::new(vec![story.stripe]);
    let client = Client {
        run: &story.run,
        workload: &story.workload,
        ledger: &ledger,
    };
    let mut fold = Fold::new(client);
    let line = format!("{{\"order_id\":\"{}\"}}", story.run.order(1));
    assert!(
        fold.line(line.as_bytes())
            .unwrap_err()
            .contains("cannot be read")
    );
    // What others sold before is passed over unread.
    assert_eq!(fold.line(b"no flow of this run"), Ok(()));
}

/// An order of two promotions on two shards, told by `home` and `guest`.
fn cart(story: &mut Story, order: u64, shard: u16, kind: &str, item: usize, more: &str) {
    let id = story.run.order(order);
    let item = story.workload.items(order)[item];
    let (promotion, quantity) = (story.run.promotion(item.promotion), item.quantity);
    let body = format!(
        r#""order_id":"{id}","items":[{{"promotion_id":"{promotion}","quantity":{quantity}}}]{more}"#
    );
    story.flow(shard, kind, &body);
}

fn granted_cart(story: &mut Story, heard: Grab) -> u64 {
    let order = story.sends(heard);
    cart(story, order, 1, "granted", 0, r#","cart":{"role":"home"}"#);
    cart(story, order, 2, "granted", 1, r#","cart":{"role":"guest"}"#);
    order
}

fn sealed(story: &mut Story, order: u64, shards: &[u16]) {
    for shard in shards {
        let whole = format!(r#","order_items":{}"#, story.items(order));
        let more = if *shard == 1 { &whole[..] } else { "" };
        cart(
            story,
            order,
            *shard,
            "sealed",
            usize::from(*shard) - 1,
            more,
        );
    }
}

#[test]
fn a_cart_is_granted_by_its_sealing() {
    let mut story = Story::new(Name::Cart, 100);
    let order = granted_cart(&mut story, Grab::Granted);
    sealed(&mut story, order, &[1, 2]);
    // One that was undone, tried again and refused.
    let order = granted_cart(&mut story, Grab::Refused);
    for _ in 0..2 {
        cart(&mut story, order, 1, "undone", 0, "");
        cart(&mut story, order, 2, "undone", 1, "");
        cart(
            &mut story,
            order,
            1,
            "granted",
            0,
            r#","cart":{"role":"home"}"#,
        );
        cart(
            &mut story,
            order,
            2,
            "granted",
            1,
            r#","cart":{"role":"guest"}"#,
        );
    }
    cart(&mut story, order, 1, "undone", 0, "");
    cart(&mut story, order, 2, "undone", 1, "");
    assert_found(&story.found(), &[]);
}

#[test]
fn a_cart_that_was_only_set_aside_is_lost() {
    let mut story = Story::new(Name::Cart, 100);
    granted_cart(&mut story, Grab::Granted);
    let found = story.found();
    assert_found(&found, &["a loss", "shard 1 set aside, shard 2 set aside"]);
}

#[test]
fn a_cart_of_which_one_shard_knows_nothing_is_found() {
    let mut story = Story::new(Name::Cart, 100);
    let order = granted_cart(&mut story, Grab::Granted);
    sealed(&mut story, order, &[1]);
    assert_found(&story.found(), &["shard 1 held, shard 2 set aside"]);
}

#[test]
fn a_cart_sealed_twice_is_a_double_grant() {
    let mut story = Story::new(Name::Cart, 100);
    let order = granted_cart(&mut story, Grab::Granted);
    sealed(&mut story, order, &[1, 2, 1]);
    assert_found(&story.found(), &["is granted a second time"]);
}

#[test]
fn a_cart_without_one_of_its_parts_is_found() {
    let mut story = Story::new(Name::Cart, 100);
    let order = story.sends(Grab::Granted);
    cart(
        &mut story,
        order,
        1,
        "granted",
        0,
        r#","cart":{"role":"home"}"#,
    );
    sealed(&mut story, order, &[1]);
    assert_found(&story.found(), &["do not agree about order"]);
}
