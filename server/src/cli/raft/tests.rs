//! What is shown of a cluster, and what is waited for, from answers as nodes give them.

use clap::Parser;
use serde_json::{Value, json};

use super::super::{Cli, ClusterView};
use super::{leaders, listed, nodes, recovery, status};

fn node(id: u64, dc: &str, state: &str, leads: u64) -> Value {
    json!({
        "id": id, "name": format!("node-{id}"), "dc": dc, "state": state, "duty": "serves", "voter": true,
        "leads": leads, "replicas": 2, "http_address": format!("127.0.0.1:{}", 7399 + id),
        "peer_address": "127.0.0.1:7500", "version": "0.1.0", "started_at": null, "commit_index": 40, "lag": 0,
        "fault": null, "fenced": null
    })
}

fn group(shard: Option<u16>, leader: Option<u64>, voters: &[u64]) -> Value {
    let replicas = voters.iter().map(|node| {
        json!({"node": node, "voter": true, "last_index": 9, "committed_index": 9, "applied_index": 9, "lag": 0,
               "stopped": null})
    });
    let mut group = json!({
        "leader": leader, "planned_leader": shard.and(leader), "term": 2, "has_quorum": leader.is_some(), "deciding": true,
        "last_index": 9, "committed_index": 9, "applied_index": 9, "lag": 0, "orders": 0, "stopped": null,
        "voters": voters, "learners": [], "changing": false, "planned_voters": voters, "replicas": replicas.collect::<Vec<_>>()
    });
    if let Some(shard) = shard {
        group["shard"] = json!(shard);
    }
    group
}

/// Two shards on nodes 1 and 2 of data centre a and 3 and 4 of b, led by 1 and 2.
fn told() -> Value {
    let all = [1, 2, 3, 4];
    json!({
        "cluster_id": "c", "incarnation": 1, "revision": 7, "preferred_dc": "a", "told_by": 1, "removed": [],
        "nodes": [node(1, "a", "ready", 1), node(2, "a", "ready", 1), node(3, "b", "ready", 0), node(4, "b", "ready", 0)],
        "shards": [group(Some(0), Some(1), &all), group(Some(1), Some(2), &all)],
        "meta": group(None, Some(1), &all),
        "something_newer": true
    })
}

fn view(told: &Value) -> ClusterView {
    ClusterView::parse(told.clone()).expect("understood")
}

#[test]
fn status_shows_every_node_also_one_that_does_not_answer() {
    let mut told = told();
    told["nodes"][2] = node(3, "b", "unreachable", 0);
    for unknown in ["commit_index", "lag", "version", "started_at"] {
        told["nodes"][2][unknown] = json!(null);
    }
    told["nodes"][3]["voter"] = json!(false);
    told["nodes"][3]["duty"] = json!("learner");
    let expected = "\
ID   NAME     DC   ADDRESS          STATE         VOTER     SHARDS-LED   COMMIT   LAG
 1   node-1   a    127.0.0.1:7400   ready         yes                1       40     0
 2   node-2   a    127.0.0.1:7401   ready         yes                1       40     0
 3   node-3   b    127.0.0.1:7402   unreachable   yes                0        -     -
 4   node-4   b    127.0.0.1:7403   ready         learner            0       40     0";
    assert_eq!(status::rows(&view(&told)), expected);
}

#[test]
fn a_name_cannot_speak_to_the_terminal() {
    let mut told = told();
    told["nodes"][0]["name"] = json!("\u{1b}[2J");
    assert!(!status::rows(&view(&told)).contains('\u{1b}'));
}

#[test]
fn a_group_without_a_quorum_is_exit_code_6_and_named() {
    let mut told = told();
    assert!(status::check_quorum(&view(&told)).is_ok());
    // What is not known is not lost.
    told["shards"][0]["has_quorum"] = json!(null);
    assert!(status::check_quorum(&view(&told)).is_ok());
    told["shards"][1]["has_quorum"] = json!(false);
    told["meta"]["has_quorum"] = json!(false);
    let failure = status::check_quorum(&view(&told)).unwrap_err();
    assert_eq!(failure.exit_code(), 6);
    assert_eq!(
        failure.to_string(),
        "2 of 3 groups have no leader with a quorum: 1, meta"
    );
}

#[test]
fn the_reason_of_a_fault_is_told() {
    let mut told = told();
    told["nodes"][1]["fault"] = json!("no space left on device");
    told["nodes"][2]["fenced"] = json!("incarnation 2 has begun");
    assert_eq!(
        status::troubles(&view(&told)),
        [
            "node 2: no space left on device",
            "node 3: incarnation 2 has begun"
        ]
    );
}

/// The cluster while node 5 joins shard 0 in the place of node 2.
fn joining() -> Value {
    let mut told = told();
    told["nodes"]
        .as_array_mut()
        .unwrap()
        .push(node(5, "a", "joining", 0));
    told["shards"][0]["planned_voters"] = json!([1, 3, 4, 5]);
    told
}

#[test]
fn a_node_has_joined_when_it_votes_where_it_should_and_hears_the_rest() {
    let mut told = joining();
    let stage = |told: &Value| {
        let stage = nodes::joined(&view(told), 5, false).unwrap();
        (stage.done, stage.total, stage.moved)
    };
    assert_eq!(stage(&told), (0, 2, 0));
    let replica = json!({"node": 5, "applied_index": 4});
    told["meta"]["learners"] = json!([5]);
    told["meta"]["replicas"][0] = replica.clone();
    assert_eq!(stage(&told), (1, 2, 4));
    // A voter whose replica nobody has seen yet has not joined.
    told["shards"][0]["voters"] = json!([1, 3, 4, 5]);
    assert_eq!(stage(&told), (1, 2, 4));
    told["shards"][0]["replicas"][1] = replica;
    assert_eq!(stage(&told), (2, 2, 8));
    let learner = nodes::joined(&view(&told), 5, true).unwrap();
    assert_eq!((learner.done, learner.total), (1, 1));
}

#[test]
fn a_node_that_somebody_else_removes_is_not_waited_for() {
    let failure = nodes::joined(&view(&told()), 5, false).unwrap_err();
    assert_eq!(failure.exit_code(), 1);
}

#[test]
fn a_node_has_left_only_when_the_document_has_forgotten_it() {
    let mut told = told();
    let done = |told: &Value| nodes::left(&view(told), 4).done;
    assert_eq!(done(&told), 0);
    for group in ["/shards/0", "/shards/1", "/meta"] {
        told.pointer_mut(group).unwrap()["voters"] = json!([1, 2, 3]);
    }
    told["shards"][0]["learners"] = json!([4]);
    assert_eq!(done(&told), 2);
    told["shards"][0]["learners"] = json!([]);
    assert_eq!(done(&told), 2);
    told["nodes"].as_array_mut().unwrap().pop();
    assert!(nodes::left(&view(&told), 4).is_over());
}

#[test]
fn a_node_is_drained_when_it_leads_nothing_not_even_the_meta_group() {
    let mut told = told();
    told["shards"][0]["planned_leader"] = json!(2);
    let done = |told: &Value| nodes::drained(&view(told), 1).unwrap().done;
    assert_eq!(done(&told), 1);
    told["shards"][0]["leader"] = json!(2);
    assert_eq!(done(&told), 2);
    told["meta"]["leader"] = json!(2);
    assert!(nodes::drained(&view(&told), 1).unwrap().is_over());
    // Nobody else can lead it: waiting would not help.
    told["shards"][1]["planned_leader"] = json!(1);
    assert_eq!(nodes::drained(&view(&told), 1).unwrap_err().exit_code(), 6);
}

#[test]
fn a_shard_is_transferred_when_its_new_leader_leads_it() {
    let mut told = told();
    told["shards"][0]["planned_leader"] = json!(3);
    let over = |told: &Value| leaders::transferred(&view(told), 0, 3).unwrap().is_over();
    assert!(!over(&told));
    told["shards"][0]["leader"] = json!(3);
    assert!(over(&told));
    told["shards"][0]["planned_leader"] = json!(4);
    assert!(leaders::transferred(&view(&told), 0, 3).is_err());
}

#[test]
fn leaders_have_moved_when_every_shard_is_led_as_planned() {
    let mut told = told();
    assert!(leaders::is_moved_on_paper(&view(&told), "a"));
    assert!(!leaders::is_moved_on_paper(&view(&told), "b"));
    told["preferred_dc"] = json!("b");
    told["shards"][0]["planned_leader"] = json!(3);
    assert!(!leaders::is_moved_on_paper(&view(&told), "b"));
    told["shards"][1]["planned_leader"] = json!(4);
    assert!(leaders::is_moved_on_paper(&view(&told), "b"));
    assert_eq!(leaders::moved(&view(&told)).done, 0);
    told["shards"][0]["leader"] = json!(3);
    told["shards"][1]["leader"] = json!(4);
    assert!(leaders::moved(&view(&told)).is_over());
}

#[test]
fn a_plan_is_a_table_of_moves() {
    let moves = [
        json!({"group": "3", "add": [5], "remove": [1], "lead": {"from": 1, "to": 5}}),
        json!({"group": "meta", "add": [], "remove": [], "lead": null}),
    ];
    let expected = "\
GROUP   TO NODES   FROM NODES   LEADER
    3   5          1            1 -> 5
 meta   -          -            -";
    assert_eq!(leaders::plan(&moves), expected);
    assert_eq!(leaders::plan(&[]), "everything is where it should be");
}

#[test]
fn recovery_names_who_is_out_before_and_after() {
    let question = |force| {
        let dc = "b".to_owned();
        recovery::question(&view(&told()), &recovery::RecoverArgs { dc, force })
    };
    let plain = question(false);
    assert!(
        plain.contains("data centre b alone") && plain.contains("nodes 1 and 2"),
        "{plain}"
    );
    assert!(!plain.contains("acknowledged"), "{plain}");
    let forced = question(true);
    assert!(
        forced.contains("may be lost that were acknowledged"),
        "{forced}"
    );
    let recovered =
        json!({"incarnation": 2, "survivors": [3, 4], "abandoned": [1, 2], "groups": 17});
    assert_eq!(
        recovery::told(&recovered),
        "17 groups go on with nodes 3 and 4; nodes 1 and 2 are out of the cluster. This is incarnation 2"
    );
    let mut told = told();
    told["meta"]["has_quorum"] = json!(false);
    assert_eq!(recovery::decided(&view(&told)).done, 2);
}

#[test]
fn numbers_are_listed_as_they_are_read() {
    assert_eq!(listed(&[]), "none");
    assert_eq!(listed(&[1]), "1");
    assert_eq!(listed(&[1, 2, 5]), "1, 2 and 5");
}

#[test]
fn wrong_numbers_and_lacking_flags_are_wrong_use() {
    for line in [
        "qiang raft",
        "qiang raft add-node",
        "qiang raft add-node 0 --address n:1 --dc a",
        "qiang raft add-node 5 --dc a",
        "qiang raft add-node 5 --address n:1",
        "qiang raft remove-node x",
        "qiang raft transfer-leader 16 1",
        "qiang raft transfer-leader meta 1",
        "qiang raft transfer-leader 3",
        "qiang raft move-leaders",
        "qiang raft drain",
        "qiang raft recover",
        "qiang raft status --fresh",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}
