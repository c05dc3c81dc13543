//! A node whose network is cut, both ways or one, for much longer than its lease.

use crate::{FAILS_OVER_WITHIN, alone, buyers, groups, promotions};
use qiang_tests::{
    Answer, Callers, Client, Cluster, Network, Node, Random, STEPS_MAX, check, id_on_shard,
    wait_until,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Units of each promotion whose history is recorded: some are sold out in the end, some are not.
const RECORDED_QUANTITY: u64 = 150;

/// A node of these tests answers sooner than by default: the test waits for what cannot be answered.
const ENVIRONMENT: [(&str, &str); 1] = [("QIANG_HTTP__REQUEST_TIMEOUT_MS", "1500")];

/// Readers of each promotion while the network heals.
const READERS_EACH: usize = 2;

/// Four nodes whose network can be cut, or why there are none.
fn four_hosts() -> Option<Cluster> {
    match Cluster::of_four_hosts(&ENVIRONMENT) {
        Ok(cluster) => Some(cluster),
        Err(why) => {
            eprintln!("not tested: {why}");
            None
        }
    }
}

/// Waits until every group is led, with a quorum, by somebody else than `victim`, by the word of the others.
#[track_caller]
fn others_lead(cluster: &Cluster, victim: u64) {
    let asked = cluster.running().find(|node| node.id() != victim);
    let asked = asked.expect("another").id();
    wait_until(FAILS_OVER_WITHIN, "the others lead everything", || {
        let groups = groups(cluster, asked);
        let waits = |group: &&Value| {
            let led = group["leader"]
                .as_u64()
                .is_some_and(|leader| leader != victim);
            !(led && group["has_quorum"] == true)
        };
        let waiting = groups.iter().find(waits);
        waiting.map_or(Ok(()), |group| Err(group.to_string()))
    });
}

/// Asks a node that is cut off for everything at once: it acknowledges no grab and shows no state.
#[track_caller]
fn acknowledges_nothing(node: &Client, name: &str, promotions: &[String]) {
    let grab = |id: &String| {
        node.grab(&format!("{name}-{id}"), "alice")
            .of(id, 1)
            .answer()
    };
    let read = |id: &String| node.get(&format!("/v1/promotions/{id}"));
    let answers = std::thread::scope(|scope| {
        let asked: Vec<_> = promotions
            .iter()
            .flat_map(|id| [scope.spawn(move || grab(id)), scope.spawn(move || read(id))])
            .collect();
        let join =
            |asked: std::thread::ScopedJoinHandle<'_, Answer>| asked.join().expect("an answer");
        asked.into_iter().map(join).collect::<Vec<_>>()
    });
    for answer in answers {
        assert!(refuses(&answer), "cut off, and yet it answers: {answer}");
    }
    let ready = node.get("/readyz");
    assert_eq!(ready.status, 503, "{ready}");
}

/// Not done, or not known to be done.
fn refuses(answer: &Answer) -> bool {
    matches!(
        (answer.status, answer.json()["code"].as_str()),
        (503, Some("unavailable")) | (504, Some("outcome_unknown"))
    )
}

/// Cuts a node off under two loads: buyers of all shards, and callers whose histories are judged.
#[track_caller]
fn drill(cluster: &Cluster, victim: u64, cut: fn(&Network, u64)) {
    let random = Random::from_environment();
    let promotions = promotions(cluster);
    let recorded: Vec<String> = (0..4)
        .map(|number| id_on_shard("H", number * 4 + number % 2))
        .collect();
    for id in &recorded {
        let promotion = cluster.any().promotion(id);
        promotion.quantity(RECORDED_QUANTITY).create();
    }
    let callers = Callers::start(&cluster.addresses(), 2, &recorded, &random);
    let buyers = buyers(cluster, "n", &promotions, &random);
    buyers.sell(100);
    callers.make(60);
    let began = Instant::now();
    cut(cluster.network(), victim);
    others_lead(cluster, victim);
    let led = began.elapsed();
    buyers.sell(100);
    acknowledges_nothing(cluster.node(victim), "cut", &promotions);
    callers.make(60);
    let lasted = began.elapsed();
    cluster.network().heal();
    cluster.decides();
    buyers.sell(100);
    callers.make(60);
    cluster.settle();
    for id in &promotions {
        // Whatever became of it, it is known now, and the buyer has one unit.
        let order = format!("cut-{id}");
        let again = cluster.node(victim).grab(&order, "alice").of(id, 1);
        again.answer().expect(200);
    }
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    let calls = callers.stop();
    println!(
        "node {victim} was cut off for {lasted:?}; the others led everything after {led:?}; {} calls recorded, {} sales",
        calls.len(),
        sold.len()
    );
    let quantities: BTreeMap<String, u64> = recorded
        .into_iter()
        .map(|id| (id, RECORDED_QUANTITY))
        .collect();
    check(&quantities, &calls, STEPS_MAX).expect_linearizable();
    cluster.has_all(&sold);
}

#[test]
fn a_leader_cut_off_from_its_peers_acknowledges_nothing_and_the_others_go_on() {
    let _alone = alone();
    let Some(cluster) = four_hosts() else { return };
    drill(&cluster, 1, Network::isolate);
}

#[test]
fn a_leader_that_hears_its_peers_and_is_heard_by_none_acknowledges_nothing() {
    let _alone = alone();
    let Some(cluster) = four_hosts() else { return };
    drill(&cluster, 1, Network::mute);
}

#[test]
fn a_leader_that_is_heard_and_hears_none_of_its_peers_acknowledges_nothing() {
    let _alone = alone();
    let Some(cluster) = four_hosts() else { return };
    drill(&cluster, 2, Network::deafen);
}

#[test]
fn a_data_centre_that_only_one_survivor_does_not_reach_is_not_recovered_from() {
    let _alone = alone();
    let Some(cluster) = four_hosts() else { return };
    for lost in [1, 2] {
        cluster.network().part(3, lost);
    }
    // What it heard just before, node 3 still believes for a moment.
    wait_until(FAILS_OVER_WITHIN, "recovery is refused for node 4", || {
        let recover = json!({"dc": "b"});
        let refused = cluster.node(3).post("/v1/cluster/recover", &recover);
        assert_eq!(refused.status, 409, "{refused}");
        let is_why = refused.text.contains("node 4 hears node");
        is_why.then_some(()).ok_or_else(|| refused.to_string())
    });
    cluster.network().heal();
    cluster.decides();
    let shown = cluster.node(3).get("/v1/cluster").expect(200);
    assert_eq!(shown["incarnation"], 1, "nothing was changed: {shown}");
}

#[test]
fn a_follower_cut_off_says_how_old_its_state_is_and_shows_it_only_when_asked_for_old_state() {
    let _alone = alone();
    let Some(cluster) = four_hosts() else { return };
    let (leading, follower) = (cluster.node(1), cluster.node(4));
    leading.promotion("A").quantity(100).create();
    leading.grab("before", "alice").of("A", 1).granted();
    let (fresh, stale) = ("/v1/promotions/A", "/v1/promotions/A?consistency=stale");
    wait_until(FAILS_OVER_WITHIN, "the follower has the grab", || {
        let view = follower.get(stale).expect(200);
        (view["remaining"] == 99)
            .then_some(())
            .ok_or_else(|| view.to_string())
    });
    let began = Instant::now();
    cluster.network().isolate(4);
    leading
        .grab("after", "bob")
        .of("A", 1)
        .granted_within(FAILS_OVER_WITHIN);
    let view = wait_until(FAILS_OVER_WITHIN, "it knows how long it is alone", || {
        let view = follower.get(stale).expect(200);
        let heard = view["stale"]["leader_heard_ms"].as_u64();
        (heard.is_some_and(|heard| heard >= 1000))
            .then_some(view.clone())
            .ok_or_else(|| view.to_string())
    });
    let alone_ms = u64::try_from(began.elapsed().as_millis()).expect("not for ever");
    let heard = view["stale"]["leader_heard_ms"]
        .as_u64()
        .expect("seen above");
    assert!(heard <= alone_ms + 1000, "alone for {alone_ms} ms: {view}");
    assert_eq!(view["remaining"], 99, "what it had: {view}");
    let answer = follower.get(fresh);
    assert!(refuses(&answer), "a fresh read of a node cut off: {answer}");
    assert_eq!(leading.get(fresh).expect(200)["remaining"], 98);

    cluster.network().heal();
    wait_until(FAILS_OVER_WITHIN, "it has caught up", || {
        let view = follower.get(stale).expect(200);
        let heard = view["stale"]["leader_heard_ms"].as_u64();
        let current = view["remaining"] == 98 && heard.is_some_and(|heard| heard < 1000);
        current.then_some(()).ok_or_else(|| view.to_string())
    });
    let view = wait_until(FAILS_OVER_WITHIN, "fresh reads are answered", || {
        let answer = follower.get(fresh);
        if refuses(&answer) {
            return Err(answer.to_string());
        }
        Ok(answer.expect(200))
    });
    assert_eq!(view["remaining"], 98, "never old: {view}");
    println!(
        "healed; the cut was {:?} long",
        Duration::from_millis(alone_ms)
    );
}

/// The terms of all groups.
fn terms(cluster: &Cluster) -> Vec<u64> {
    let term = |group: &Value| group["term"].as_u64().expect("a number");
    groups(cluster, 1).iter().map(term).collect()
}

#[test]
fn a_node_that_no_peer_can_call_unseats_no_leader() {
    const ALONE_MS: u64 = 4000;
    let _alone = alone();
    let random = Random::from_environment();
    let mut cluster = Cluster::of_one(Node::builder());
    cluster.add(2, "a");
    cluster.add(3, "b");
    cluster.add_built(Node::builder().number(4, "b").behind_proxy());
    cluster.settle();
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "u", &promotions, &random);
    buyers.sell(50);
    let (before, deaf) = (terms(&cluster), cluster.node(4));
    deaf.proxy().cut();
    // It asks for votes all the while, over connections of its own.
    let stale = format!("/v1/promotions/{}?consistency=stale", promotions[0]);
    wait_until(FAILS_OVER_WITHIN, "it is alone for long", || {
        let view = deaf.get(&stale).expect(200);
        let heard = view["stale"]["leader_heard_ms"].as_u64();
        (heard.is_some_and(|heard| heard >= ALONE_MS))
            .then_some(())
            .ok_or_else(|| view.to_string())
    });
    others_lead(&cluster, 4);
    buyers.sell(50);
    deaf.proxy().heal();
    cluster.settle();
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    // A busy machine may cost a group its leader, and then another for it to lead as planned again; votes asked for in earnest
    // would have cost each of them ten.
    let now = terms(&cluster);
    let elections: Vec<u64> = now
        .iter()
        .zip(before)
        .map(|(now, then)| now - then)
        .collect();
    let most = elections.iter().max().expect("groups");
    assert!(*most <= 6, "{elections:?} elections");
    cluster.has_all(&sold);
    println!("{elections:?} elections while a node was deaf for {ALONE_MS} ms");
}

#[test]
fn a_leader_that_was_cut_off_and_leads_again_never_reads_what_it_had_before() {
    let _alone = alone();
    let Some(cluster) = four_hosts() else { return };
    // Shards that node 1 leads, by the plan.
    let shown = cluster.any().get("/v1/cluster").expect(200);
    let shards = shown["shards"].as_array().expect("shards").iter();
    let led = shards.filter(|shard| shard["planned_leader"] == 1);
    let numbers = led.map(|shard| shard["shard"].as_u64().expect("a number"));
    let promotions: Vec<String> = numbers.map(|shard| id_on_shard("R", shard)).collect();
    assert_eq!(promotions.len(), 8);
    for id in &promotions {
        cluster.node(1).promotion(id).quantity(100).create();
    }
    // Its followers get what it proposes and commit it after all, under another leader; it hears of that only in the end.
    cluster.network().deafen(1);
    std::thread::scope(|scope| {
        for id in &promotions {
            let node = cluster.node(1);
            scope.spawn(move || node.grab(&format!("late-{id}"), "bob").of(id, 1).answer());
        }
    });
    others_lead(&cluster, 1);
    for id in &promotions {
        cluster
            .node(2)
            .grab(&format!("o-{id}"), "alice")
            .of(id, 40)
            .granted_within(FAILS_OVER_WITHIN);
    }
    // All of it is over: from now on nobody may be shown more than what is left.
    let stop = AtomicBool::new(false);
    let read = |id: &String| {
        let node = Client::new(&cluster.node(1).http_address());
        let mut old = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let answer = node.get(&format!("/v1/promotions/{id}"));
            if answer.status == 200 && answer.json()["remaining"].as_u64() > Some(60) {
                old.push(answer);
            }
        }
        old
    };
    let old = std::thread::scope(|scope| {
        let readers: Vec<_> = promotions
            .iter()
            .flat_map(|id| (0..READERS_EACH).map(move |_| id))
            .map(|id| scope.spawn(move || read(id)))
            .collect();
        cluster.network().heal();
        cluster.settle();
        stop.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .flat_map(|reader| reader.join().expect("answers"))
            .collect::<Vec<_>>()
    });
    assert!(
        old.is_empty(),
        "{} reads are old, the first: {}",
        old.len(),
        old[0]
    );
}
