//! Four real nodes in two data centres, and what is done to them: kills, pauses, a lost data centre, rolling restarts,
//! nodes that come and go. Every acknowledged grab is there afterwards, once; nothing is oversold.
//!
//! The drills print what they measured; no figure is asserted.

use qiang_tests::{Buyers, Cluster, Gap, Node, Random, Sale, audit, id_on_shard, wait_until};
use serde_json::json;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A cluster is four processes: one at a time is what the machine is there for.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

const PACE: Duration = Duration::from_millis(2);

/// How much is on sale: more than any of these tests sells.
const QUANTITY: u64 = 1_000_000;

/// One promotion on every second shard or so, so that each node that leads, leads some.
fn promotions(cluster: &Cluster) -> Vec<String> {
    let ids: Vec<String> = (0..8)
        .map(|number| id_on_shard("P", number * 2 + number % 2))
        .collect();
    for id in &ids {
        cluster.any().promotion(id).quantity(QUANTITY).create();
    }
    ids
}

fn buyers(cluster: &Cluster, name: &str, promotions: &[String], random: &Random) -> Buyers {
    Buyers::start(&cluster.addresses(), name, promotions, 6, PACE, random)
}

#[track_caller]
fn wait_for_sales(buyers: &Buyers, more: usize) {
    let wanted = buyers.count() + more;
    wait_until(Duration::from_mins(1), "buyers get on", || {
        let count = buyers.count();
        (count >= wanted)
            .then_some(())
            .ok_or_else(|| format!("{count} of {wanted}"))
    });
}

/// Every sale is there, exactly once, on every node that is asked; and the books balance.
#[track_caller]
fn all_there(cluster: &Cluster, sales: &[Sale]) {
    for (number, sale) in sales.iter().enumerate() {
        // A third is asked of each: enough to notice a replica that lost some.
        if number % 3 == 0 {
            let again = cluster.any().post("/v1/grabs", &sale.body).expect(200);
            assert_eq!(
                again["replayed"], true,
                "an acknowledged grab is lost: {again}"
            );
        }
    }
    let audit = audit(cluster.any());
    let held: i64 = audit
        .promotions
        .values()
        .map(|tally| tally.original - tally.remaining())
        .sum();
    let sold = i64::try_from(sales.len()).expect("few sales");
    assert!(
        held >= sold,
        "{sold} grabs were acknowledged, {held} units are held"
    );
}

/// The longest pause between two sales of one promotion.
fn worst_gap(sales: &[Sale]) -> Gap {
    Gap::longest(sales, |sale| {
        sale.body["items"][0]["promotion_id"].to_string()
    })
}

#[test]
fn twenty_leaders_are_killed_under_load_and_no_acknowledged_grab_is_lost() {
    let _alone = alone();
    let random = Random::from_environment();
    let mut cluster = Cluster::of_four();
    let promotions = promotions(&cluster);
    let mut gaps = Vec::new();
    let mut sales = Vec::new();
    for round in 0..20 {
        let victim = cluster.leader_of(round % 8 * 2);
        let buyers = buyers(&cluster, &format!("k{round}"), &promotions, &random);
        wait_for_sales(&buyers, 100);
        cluster.node_mut(victim).kill();
        wait_for_sales(&buyers, 300);
        cluster.decides();
        let (sold, failed) = buyers.stop();
        assert!(failed.is_empty(), "{failed:?}");
        gaps.push(worst_gap(&sold).length);
        sales.extend(sold);
        cluster.node_mut(victim).restart();
    }
    cluster.settle();
    all_there(&cluster, &sales);
    gaps.sort();
    println!(
        "failover after kill -9, longest gap of any promotion in granted grabs over 20 kills: median {:?}, longest {:?}",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    );
}

#[test]
fn a_lost_data_centre_is_recovered_from_with_every_acknowledged_grab() {
    let _alone = alone();
    let random = Random::from_environment();
    let mut cluster = Cluster::of_four();
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "d", &promotions, &random);
    wait_for_sales(&buyers, 500);
    cluster.node_mut(1).kill();
    cluster.node_mut(2).kill();
    let began = Instant::now();
    let answer = wait_until(Duration::from_secs(30), "recovery is taken up", || {
        let answer = cluster
            .node(3)
            .post("/v1/cluster/recover", &json!({"dc": "b"}));
        (answer.status == 200)
            .then(|| answer.json())
            .ok_or_else(|| answer.to_string())
    });
    let asked = began.elapsed();
    assert_eq!(answer["incarnation"], 2, "{answer}");
    cluster.decides();
    let decided = began.elapsed();
    wait_for_sales(&buyers, 300);
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    all_there(&cluster, &sold);
    // What comes back from the past is not listened to, and says so.
    cluster.node_mut(1).launch(false);
    wait_until(
        Duration::from_secs(30),
        "the abandoned node knows that it is out",
        || {
            let answer = cluster
                .node(1)
                .try_get("/readyz")
                .map_err(|error| error.to_string())?;
            let fenced = answer.status == 503 && answer.text.contains("out of the cluster");
            fenced.then_some(()).ok_or_else(|| answer.to_string())
        },
    );
    let refused = cluster
        .node(3)
        .post("/v1/cluster/recover", &json!({"dc": "b"}));
    assert_eq!(refused.status, 409, "{refused}");
    println!(
        "recovery of a data centre: answered in {asked:?}, every group decides after {decided:?}"
    );
}

#[test]
fn recovery_is_refused_while_a_quorum_lives() {
    let _alone = alone();
    let mut cluster = Cluster::of_four();
    let refused = |cluster: &Cluster, dc: &str| {
        let answer = cluster
            .node(3)
            .post("/v1/cluster/recover", &json!({"dc": dc}));
        assert_eq!(answer.status, 409, "{answer}");
        answer.text
    };
    assert!(refused(&cluster, "b").contains("answers"));
    assert!(refused(&cluster, "x").contains('x'));
    cluster.node_mut(1).kill();
    assert!(refused(&cluster, "b").contains("node 2"));
    cluster.decides();
    cluster.any().get("/v1/cluster").expect(200);
}

#[test]
fn who_has_lost_its_data_does_not_come_back_under_its_number() {
    let _alone = alone();
    let mut cluster = Cluster::of_four();
    cluster.node_mut(4).kill();
    let blank = Node::builder().number(4, "b");
    let blank = blank.join(&cluster.any().peer_address()).prepare();
    let refused = blank.serve_and_fail(false);
    refused.fails_naming(5, &["never used twice", "remove-node 4"]);
}

#[test]
fn a_leader_that_stood_still_for_longer_than_its_lease_grants_nothing_twice() {
    let _alone = alone();
    let random = Random::from_environment();
    let cluster = Cluster::of_four();
    let promotions = promotions(&cluster);
    let mut sales = Vec::new();
    for round in 0..5 {
        let buyers = buyers(&cluster, &format!("s{round}"), &promotions, &random);
        wait_for_sales(&buyers, 100);
        let victim = cluster.leader_of(round * 2);
        cluster.node(victim).pause();
        let other = cluster
            .running()
            .find(|node| node.id() != victim)
            .expect("another");
        wait_until(Duration::from_secs(30), "another leads", || {
            let shown = other.get("/v1/cluster").json();
            let shards = shown["shards"].as_array().expect("shards");
            let led = shards
                .iter()
                .filter(|group| group["leader"] == victim || group["deciding"] != true)
                .count();
            (led == 0)
                .then_some(())
                .ok_or_else(|| format!("{led} shards wait"))
        });
        cluster.node(victim).go_on();
        wait_for_sales(&buyers, 200);
        let (sold, failed) = buyers.stop();
        assert!(failed.is_empty(), "{failed:?}");
        sales.extend(sold);
    }
    cluster.settle();
    all_there(&cluster, &sales);
}

#[test]
fn a_rolling_restart_fails_no_request_of_a_client_that_repeats() {
    let _alone = alone();
    let random = Random::from_environment();
    let mut cluster = Cluster::of_four();
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "r", &promotions, &random);
    for id in 1..=4 {
        wait_for_sales(&buyers, 200);
        assert!(cluster.node_mut(id).stop_gracefully().success());
        wait_for_sales(&buyers, 100);
        cluster.node_mut(id).restart();
        cluster.decides();
    }
    cluster.settle();
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    all_there(&cluster, &sold);
    println!(
        "rolling restart: longest gap of any promotion {:?}",
        worst_gap(&sold).length
    );
}

#[test]
fn nodes_come_and_go_under_load() {
    let _alone = alone();
    let random = Random::from_environment();
    let mut cluster = Cluster::of_four();
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "m", &promotions, &random);
    wait_for_sales(&buyers, 200);
    cluster.add(5, "a");
    cluster.add(6, "b");
    cluster.settle();
    wait_for_sales(&buyers, 200);
    cluster.remove(2);
    cluster.remove(3);
    cluster.settle();
    wait_for_sales(&buyers, 200);
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    all_there(&cluster, &sold);
    println!(
        "two nodes added and two removed: longest gap of any promotion {:?}",
        worst_gap(&sold).length
    );
}

#[test]
fn a_drain_moves_every_leader_without_a_pause_worth_the_name() {
    let _alone = alone();
    let random = Random::from_environment();
    let cluster = Cluster::of_four();
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "g", &promotions, &random);
    wait_for_sales(&buyers, 300);
    let quiet = worst_gap(&buyers.so_far()).length;
    let drained = Instant::now();
    cluster
        .node(2)
        .post("/v1/cluster/nodes/1/drain", &json!({"drain": true}))
        .expect(200);
    wait_until(Duration::from_secs(30), "node 1 leads nothing", || {
        let shown = cluster.node(2).get("/v1/cluster").json();
        let shards = shown["shards"].as_array().expect("shards");
        let led = shards.iter().filter(|group| group["leader"] == 1).count();
        (led == 0)
            .then_some(())
            .ok_or_else(|| format!("it leads {led} shards"))
    });
    wait_for_sales(&buyers, 300);
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    all_there(&cluster, &sold);
    let after: Vec<Sale> = sold.into_iter().filter(|sale| sale.at >= drained).collect();
    println!(
        "drain: longest gap of any promotion {:?} (before it {quiet:?})",
        worst_gap(&after).length
    );
}
