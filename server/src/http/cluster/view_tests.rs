//! The cluster as it is shown: whose word counts, and what is said of nodes that say nothing.

use std::collections::BTreeMap;

use qiang_engine::routing::SHARDS;
use qiang_raft::placement::Duty;
use qiang_raft::{Cluster, ClusterChange, GroupStatus, NodeInfo, NodeReport};
use serde_json::{Value, json};

use super::view::{Heard, Known};

fn info(id: u64, dc: &str) -> NodeInfo {
    NodeInfo {
        name: format!("node-{id}"),
        dc: dc.to_owned(),
        http_address: format!("127.0.0.1:{}", 7399 + id),
        peer_address: format!("127.0.0.1:{}", 7499 + id),
    }
}

/// Nodes 1 and 2 in data centre a, 3 and 4 in b, as the document says.
fn document() -> Cluster {
    let found = ClusterChange::Found {
        node_id: 1,
        info: info(1, "a"),
        logs: SHARDS,
    };
    let nobody = std::collections::BTreeSet::new();
    let mut cluster = Cluster::default().decide(&found, &nobody).unwrap();
    for (node_id, dc) in [(2, "a"), (3, "b"), (4, "b")] {
        let add = ClusterChange::Add {
            node_id,
            info: info(node_id, dc),
            learner: false,
        };
        cluster = cluster.decide(&add, &nobody).unwrap();
    }
    cluster
}

fn group(name: &str, leader: u64, own: u64) -> GroupStatus {
    GroupStatus {
        group: name.to_owned(),
        hosted: true,
        voters: vec![1, 2, 3, 4],
        learners: Vec::new(),
        changing: false,
        leader: Some(leader),
        term: 2,
        last_index: 9,
        committed_index: if leader == own { 8 } else { 7 },
        applied_index: 6,
        has_quorum: true,
        deciding: leader == own,
        pending_entries: 0,
        mailbox_depth: 0,
        orders: 3,
        digest: None,
        leads: leader == own,
        quiescent: false,
        stopped: None,
    }
}

/// A node that holds everything; node 1 leads the shards of even number and the meta group, node 2 the others.
fn report(id: u64) -> NodeReport {
    let mut groups: Vec<GroupStatus> = (0..SHARDS)
        .map(|shard| group(&shard.to_string(), u64::from(1 + shard % 2), id))
        .collect();
    groups.push(group("meta", 1, id));
    NodeReport {
        node_id: id,
        info: info(id, if id < 3 { "a" } else { "b" }),
        cluster_id: "c".to_owned(),
        incarnation: 1,
        version: "0.1.0".to_owned(),
        started_at: 1000,
        draining: false,
        fault: None,
        fenced: None,
        groups,
    }
}

fn shown(cluster: Cluster, reports: impl IntoIterator<Item = NodeReport>) -> Value {
    let mut reports: BTreeMap<u64, NodeReport> = reports
        .into_iter()
        .map(|report| (report.node_id, report))
        .collect();
    let told_by = *reports.keys().next().unwrap();
    let nodes = (1..=4).map(|id| {
        let heard = reports.remove(&id);
        let heard = heard.map_or(Heard::Silence, |report| Heard::Report(Box::new(report)));
        (id, (info(id, if id < 3 { "a" } else { "b" }), heard))
    });
    let known = Known::by_all(cluster, told_by, nodes.collect());
    serde_json::to_value(known.shape()).unwrap()
}

fn states(shown: &Value) -> Vec<&str> {
    let nodes = shown["nodes"].as_array().unwrap().iter();
    nodes.map(|node| node["state"].as_str().unwrap()).collect()
}

#[test]
fn a_healthy_cluster_shows_its_nodes_and_what_leaders_say() {
    let shown = shown(document(), (1..=4).map(report));
    assert_eq!(states(&shown), ["ready"; 4]);
    assert_eq!(
        (
            &shown["cluster_id"],
            &shown["revision"],
            &shown["preferred_dc"]
        ),
        (&json!("c"), &json!(4), &json!("a"))
    );
    let first = &shown["nodes"][0];
    assert_eq!(
        (&first["leads"], &first["replicas"], &first["voter"]),
        (&json!(8), &json!(16), &json!(true))
    );
    // It leads eight shards and the meta group: 9 × 8 entries committed, and 8 × 7 that it knows of from others.
    assert_eq!(first["commit_index"], 9 * 8 + 8 * 7);
    assert_eq!(first["lag"], 17 * 2);
    let shard = &shown["shards"][3];
    assert_eq!(
        (
            &shard["shard"],
            &shard["leader"],
            &shard["has_quorum"],
            &shard["committed_index"]
        ),
        (&json!(3), &json!(2), &json!(true), &json!(8))
    );
    assert_eq!(shard["planned_voters"], json!([1, 2, 3, 4]));
    assert_eq!(shard["changing"], false);
    assert_eq!(shard["replicas"].as_array().unwrap().len(), 4);
    assert_eq!(shard["replicas"][3]["lag"], 2);
    let meta = &shown["meta"];
    assert!(meta.get("shard").is_none(), "{meta}");
    assert_eq!(
        (&meta["leader"], &meta["planned_leader"]),
        (&json!(1), &json!(null))
    );
}

#[test]
fn a_node_that_does_not_answer_is_a_row_and_its_groups_have_no_leader() {
    let shown = shown(document(), [2, 3, 4].map(report));
    assert_eq!(states(&shown), ["unreachable", "ready", "ready", "ready"]);
    let silent = &shown["nodes"][0];
    assert_eq!(
        (
            &silent["name"],
            &silent["dc"],
            &silent["lag"],
            &silent["version"]
        ),
        (&json!("node-1"), &json!("a"), &json!(null), &json!(null))
    );
    // What followers last heard of it is no leader and no quorum.
    let (led_by_it, other) = (&shown["shards"][0], &shown["shards"][1]);
    assert_eq!(
        (&led_by_it["leader"], &led_by_it["has_quorum"]),
        (&json!(null), &json!(false))
    );
    assert_eq!(led_by_it["committed_index"], 7);
    assert_eq!(
        (&other["leader"], &other["has_quorum"]),
        (&json!(2), &json!(true))
    );
}

#[test]
fn of_two_that_say_they_lead_the_higher_term_counts() {
    let mut newer = report(3);
    newer.groups[0].leader = Some(3);
    newer.groups[0].leads = true;
    newer.groups[0].term = 5;
    let shown = shown(document(), [report(1), report(2), newer, report(4)]);
    assert_eq!(
        (&shown["shards"][0]["leader"], &shown["shards"][0]["term"]),
        (&json!(3), &json!(5))
    );
}

#[test]
fn one_word_says_what_an_operator_has_to_know_first() {
    let mut cluster = document();
    cluster.nodes.get_mut(&2).unwrap().duty = Duty::NoLeading;
    let mut faulted = report(1);
    faulted.fault = Some("no space left on device".to_owned());
    let mut joining = report(3);
    for group in &mut joining.groups {
        group.hosted = false;
    }
    let mut degraded = report(4);
    degraded.groups[5].stopped = Some("digest differs".to_owned());
    let shown_now = shown(cluster, [faulted, report(2), joining, degraded]);
    assert_eq!(
        states(&shown_now),
        ["faulted", "draining", "joining", "degraded"]
    );
    assert_eq!(shown_now["nodes"][1]["duty"], "drained");

    let mut cluster = document();
    cluster.removed.insert(4);
    let mut fenced = report(3);
    fenced.fenced = Some("incarnation 2 has begun".to_owned());
    let mut listening = [report(1), report(2)];
    for report in &mut listening {
        // Node 2 is to vote in shard 0 and does not yet.
        report.groups[0].voters = vec![1, 3, 4];
    }
    let [one, two] = listening;
    let shown = shown(cluster, [one, two, fenced, report(4)]);
    assert_eq!(states(&shown), ["ready", "joining", "fenced", "removed"]);
}

#[test]
fn what_one_node_knows_alone_says_so() {
    let known = Known::by_one(document(), report(3));
    let shown = serde_json::to_value(known.shape()).unwrap();
    assert_eq!(states(&shown), ["unknown", "unknown", "ready", "unknown"]);
    assert_eq!(shown["told_by"], 3);
    let shard = &shown["shards"][1];
    assert_eq!(
        (
            &shard["leader"],
            &shard["has_quorum"],
            &shard["committed_index"]
        ),
        (&json!(2), &json!(true), &json!(7))
    );
    assert_eq!(shown["nodes"][1]["leads"], 8);
    assert_eq!(shown["nodes"][1]["lag"], json!(null));

    let mut waiting = report(5);
    for group in &mut waiting.groups {
        *group = GroupStatus {
            group: group.group.clone(),
            hosted: false,
            voters: Vec::new(),
            leader: None,
            ..group.clone()
        };
    }
    let known = Known::by_one(Cluster::default(), waiting);
    let shown = serde_json::to_value(known.shape()).unwrap();
    assert_eq!(states(&shown), ["joining"]);
    assert_eq!(shown["shards"][0]["has_quorum"], json!(null));
}
