//! Operators who ask for what cannot be, and operators who ask at the same time.
//!
//! Invariant: a refusal has a reason, the exit code for refusals, and has changed nothing; of two operators at once each
//! gets a clear answer, and the second is judged by what the first has done.

use crate::{alone, buyers, promotions, qiang};
use qiang_tests::{Cluster, Node, Random, Run, free_port, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A process that starts and finds its cluster, on a machine that is busy with something else.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// The cluster's document, as far as it is shown: what operators change.
fn document(cluster: &Cluster) -> Value {
    let shown = cluster.any().get("/v1/cluster").expect(200);
    let groups = shown["shards"]
        .as_array()
        .expect("shards")
        .iter()
        .chain([&shown["meta"]]);
    let planned = groups.map(|group| json!([group["planned_voters"], group["planned_leader"]]));
    let nodes = shown["nodes"].as_array().expect("nodes").iter();
    let duties = nodes.map(|node| json!([node["id"], node["duty"]]));
    json!({
        "revision": shown["revision"], "removed": shown["removed"], "preferred": shown["preferred_dc"],
        "nodes": duties.collect::<Vec<_>>(), "groups": planned.collect::<Vec<_>>(),
    })
}

/// Asks by way of node `id` for what is refused with words that contain `why`, and changes nothing.
#[track_caller]
fn refused(cluster: &Cluster, id: u64, arguments: &[&str], why: &str) {
    let before = document(cluster);
    qiang(cluster, id, &[&["raft"], arguments].concat()).fails_naming(1, &[why]);
    assert_eq!(
        document(cluster),
        before,
        "{arguments:?} was refused and changed something"
    );
}

/// Waits until a node that was started beside a cluster can be added.
#[track_caller]
fn waits_to_be_added(node: &Node) {
    wait_until(STARTS_WITHIN, "the node waits to be added", || {
        let answer = node.try_get("/readyz").map_err(|error| error.to_string())?;
        answer
            .text
            .contains("add-node")
            .then_some(())
            .ok_or_else(|| answer.to_string())
    });
}

fn of_three() -> Cluster {
    let mut cluster = Cluster::of_one(Node::builder());
    cluster.add(2, "a");
    cluster.add(3, "b");
    cluster.settle();
    cluster
}

#[test]
fn a_node_that_cannot_be_added_is_refused_with_the_reason_and_nothing_changes() {
    let _alone = alone();
    let cluster = of_three();
    let foreign = Node::builder().number(9, "b").start();
    let nine = cluster.start_beside(Node::builder().number(9, "b"));
    waits_to_be_added(&nine);
    let nobody = format!("127.0.0.1:{}", free_port());
    let (taken, own) = (cluster.node(2).peer_address(), nine.peer_address());
    let elsewhere = foreign.peer_address();
    let add = |number, address, dc| ["add-node", number, "--address", address, "--dc", dc];
    for by in [1, 3] {
        refused(&cluster, by, &add("9", &nobody, "b"), &nobody);
        refused(&cluster, by, &add("3", &own, "b"), "already a member");
        refused(
            &cluster,
            by,
            &add("9", &taken, "a"),
            "node 2 already has the address",
        );
        refused(&cluster, by, &add("8", &own, "b"), "is node 9, not 8");
        refused(&cluster, by, &add("9", &own, "a"), "data centre");
        refused(&cluster, by, &add("9", &own, "c"), "third");
        refused(&cluster, by, &add("9", &elsewhere, "b"), "cluster");
        refused(
            &cluster,
            by,
            &["remove-node", "9", "--yes"],
            "node_not_found",
        );
        refused(&cluster, by, &["drain", "9"], "node_not_found");
        refused(&cluster, by, &["move-leaders", "--dc", "c"], "\"c\"");
    }
    // It is none the worse for all that.
    qiang(&cluster, 3, &[&["raft"], &add("9", &own, "b")[..]].concat()).ok();
}

#[test]
fn a_removal_that_would_lose_a_quorum_is_refused_and_a_spent_number_is_never_taken_again() {
    let _alone = alone();
    let mut cluster = of_three();
    cluster.any().promotion("A").create();
    cluster.any().grab("o-1", "alice").of("A", 1).granted();
    cluster.node_mut(3).kill();
    cluster.decides();
    refused(
        &cluster,
        1,
        &["remove-node", "2", "--yes"],
        "without a quorum",
    );
    cluster.any().grab("o-2", "bob").of("A", 1).granted();

    // The dead one is let go instead.
    let removed = qiang(
        &cluster,
        1,
        &["raft", "remove-node", "3", "--force", "--yes"],
    );
    assert!(removed.ok().contains("node 3 has left"), "{removed}");
    let shown = cluster.any().get("/v1/cluster").expect(200);
    assert_eq!(shown["removed"], json!([3]), "{shown}");
    cluster.settle();
    cluster.any().grab("o-1", "alice").of("A", 1).replayed();

    // It comes back with its data, and with another's disk, which is empty: it is out for good.
    let mut old = cluster.give_up(3);
    old.launch(false);
    let ready = wait_until(STARTS_WITHIN, "it knows that it is out", || {
        let ready = old.try_get("/readyz").map_err(|error| error.to_string())?;
        ready
            .text
            .contains("removed from the cluster")
            .then_some(ready.clone())
            .ok_or_else(|| ready.to_string())
    });
    assert_eq!(ready.status, 503, "{ready}");
    old.kill();
    let new = cluster.start_beside(Node::builder().number(3, "b"));
    let (own, dc) = (new.peer_address(), "b");
    refused(
        &cluster,
        1,
        &["add-node", "3", "--address", &own, "--dc", dc],
        "never used twice",
    );
    refused(
        &cluster,
        2,
        &["remove-node", "3", "--yes"],
        "node_not_found",
    );
}

/// Runs commands at the same time, each by way of another node.
fn at_once(cluster: &Cluster, commands: &[(u64, &[&str])]) -> Vec<Run> {
    std::thread::scope(|scope| {
        let ask = |by: u64, command: &[&str]| qiang(cluster, by, &[&["raft"], command].concat());
        let asked: Vec<_> = commands
            .iter()
            .map(|(by, command)| scope.spawn(move || ask(*by, command)))
            .collect();
        asked
            .into_iter()
            .map(|asked| asked.join().expect("a run"))
            .collect()
    })
}

/// Done, or refused with the reason.
#[track_caller]
fn is_clear(run: &Run) {
    match run.code {
        Some(0) => {}
        _ => run.fails_naming(1, &["cluster_refused"]),
    }
}

#[test]
fn operators_at_once_each_get_a_clear_answer_and_the_cluster_settles() {
    let _alone = alone();
    let random = Random::from_environment();
    let mut cluster = Cluster::of_four();
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "o", &promotions, &random);
    buyers.sell(50);
    let began = Instant::now();
    let (five, six) = (
        cluster.start_beside(Node::builder().number(5, "b")),
        cluster.start_beside(Node::builder().number(6, "a")),
    );
    waits_to_be_added(&five);
    waits_to_be_added(&six);
    let (at_five, at_six) = (five.peer_address(), six.peer_address());
    let add_five = ["add-node", "5", "--address", &at_five, "--dc", "b"];
    let add_six = ["add-node", "6", "--address", &at_six, "--dc", "a"];
    // Two want the same, one wants something else, one wants all to be even.
    let runs = at_once(
        &cluster,
        &[
            (1, &add_five),
            (3, &add_five),
            (2, &add_six),
            (4, &["rebalance"]),
        ],
    );
    let mut codes = [runs[0].code, runs[1].code];
    codes.sort_unstable();
    assert_eq!(
        codes,
        [Some(0), Some(1)],
        "one of them: {} {}",
        runs[0],
        runs[1]
    );
    runs[2].ok();
    runs.iter().for_each(is_clear);
    cluster.take_in(five);
    cluster.take_in(six);
    cluster.settle();
    let added = began.elapsed();

    // One node of each data centre goes, while somebody drains another.
    let runs = at_once(
        &cluster,
        &[
            (1, &["remove-node", "2", "--yes"]),
            (3, &["remove-node", "4", "--yes"]),
            (5, &["drain", "6"]),
            (6, &["rebalance"]),
        ],
    );
    runs[0].ok();
    runs[1].ok();
    runs.iter().for_each(is_clear);
    for id in [2, 4] {
        cluster.give_up(id).kill();
    }
    qiang(&cluster, 1, &["raft", "drain", "6", "--undo"]).ok();
    cluster.settle();
    let removed = began.elapsed();
    buyers.sell(50);
    let shown = cluster.any().get("/v1/cluster").expect(200);
    assert_eq!(shown["removed"], json!([2, 4]), "{shown}");
    for group in shown["shards"].as_array().expect("shards") {
        assert_eq!(group["voters"], json!([1, 3, 5, 6]), "{group}");
    }
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    cluster.has_all(&sold);
    println!("two added at once: settled after {added:?}; two removed at once: after {removed:?}");
}
