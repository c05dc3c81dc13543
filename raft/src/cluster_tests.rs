use super::*;

fn info(number: u64, dc: &str) -> NodeInfo {
    NodeInfo {
        peer_address: format!("10.0.0.{number}:7500"),
        http_address: format!("10.0.0.{number}:7400"),
        dc: dc.to_owned(),
        name: format!("node-{number}"),
    }
}

fn add(number: u64, dc: &str) -> ClusterChange {
    ClusterChange::Add {
        node_id: number,
        info: info(number, dc),
        learner: false,
    }
}

fn all(cluster: &Cluster) -> BTreeSet<u64> {
    cluster.nodes.keys().copied().collect()
}

/// Nodes 1 and 2 in data centre a, 3 and 4 in b.
fn four() -> Cluster {
    let found = ClusterChange::Found {
        node_id: 1,
        info: info(1, "a"),
        logs: 16,
    };
    let mut cluster = Cluster::default()
        .decide(&found, &BTreeSet::new())
        .expect("the first node");
    for (number, dc) in [(2, "a"), (3, "b"), (4, "b")] {
        cluster = cluster
            .decide(&add(number, dc), &all(&cluster))
            .expect("a node");
    }
    cluster
}

#[test]
fn four_nodes_hold_every_group_and_the_preferred_data_centre_leads() {
    let cluster = four();
    assert_eq!(cluster.revision, 4);
    assert_eq!(cluster.placement.meta, [1, 2, 3, 4]);
    for place in &cluster.placement.logs {
        assert_eq!(place.voters, [1, 2, 3, 4]);
    }
    let led = |node| {
        cluster
            .placement
            .logs
            .iter()
            .filter(|place| place.leader == Some(node))
            .count()
    };
    assert_eq!([led(1), led(2), led(3), led(4)], [8, 8, 0, 0]);
}

#[test]
fn nothing_is_changed_before_the_cluster_is_founded() {
    let refused = Cluster::default().decide(&add(2, "a"), &BTreeSet::new());
    assert_eq!(refused, Err(ClusterRefusal::NotFounded));
}

#[test]
fn what_cannot_be_is_refused_and_named() {
    let cluster = four();
    let refused = |change: ClusterChange| {
        cluster
            .decide(&change, &all(&cluster))
            .expect_err("a refusal")
            .to_string()
    };
    assert!(refused(add(3, "b")).contains("node 3 is already a member"));
    assert!(refused(add(5, "c")).contains("third"));
    assert!(
        refused(ClusterChange::Drain {
            node_id: 9,
            drain: true
        })
        .contains("no node 9")
    );
    assert!(
        refused(ClusterChange::Lead {
            shard: 16,
            node_id: 1
        })
        .contains("no shard 16")
    );
    assert!(refused(ClusterChange::PreferDc { dc: "x".to_owned() }).contains("\"x\""));
    assert!(refused(ClusterChange::Rebalance).contains("where it should be"));
    let mut taken = info(5, "a");
    taken.peer_address = info(2, "a").peer_address;
    let add = ClusterChange::Add {
        node_id: 5,
        info: taken,
        learner: false,
    };
    assert!(refused(add).contains("node 2 already has the address"));
}

#[test]
fn a_removal_that_would_lose_a_quorum_is_refused_unless_forced() {
    let cluster = four();
    let remove = |force| ClusterChange::Remove { node_id: 3, force };
    let alive: BTreeSet<u64> = [1, 3].into();
    let refused = cluster
        .decide(&remove(false), &alive)
        .expect_err("two of four live");
    assert!(
        refused.to_string().contains("without a quorum"),
        "{refused}"
    );
    assert!(cluster.decide(&remove(true), &alive).is_ok());
    let next = cluster
        .decide(&remove(false), &all(&cluster))
        .expect("all live");
    assert_eq!(next.nodes[&3].duty, Duty::Leaving);
    assert!(
        next.placement
            .logs
            .iter()
            .all(|place| place.voters == [1, 2, 4])
    );
}

#[test]
fn a_removed_number_is_never_used_again() {
    let cluster = four();
    let removed = cluster
        .decide(
            &ClusterChange::Remove {
                node_id: 4,
                force: false,
            },
            &all(&cluster),
        )
        .and_then(|cluster| cluster.decide(&ClusterChange::Retire { node_id: 4 }, &all(&cluster)))
        .expect("a removal");
    assert!(!removed.nodes.contains_key(&4));
    assert_eq!(
        removed.decide(&add(4, "b"), &all(&removed)),
        Err(ClusterRefusal::UsedBefore(4))
    );
    assert!(removed.decide(&add(5, "b"), &all(&removed)).is_ok());
}

#[test]
fn after_recovery_only_the_surviving_data_centre_is_left() {
    let cluster = four();
    let next = cluster
        .decide(
            &ClusterChange::Recovered { dc: "b".to_owned() },
            &[3, 4].into(),
        )
        .expect("recovered");
    assert_eq!(next.nodes.keys().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(next.removed, [1, 2].into());
    assert!(
        next.placement
            .logs
            .iter()
            .all(|place| place.voters == [3, 4])
    );
    assert!(
        next.placement
            .logs
            .iter()
            .all(|place| matches!(place.leader, Some(3 | 4)))
    );
}

#[test]
fn a_learner_holds_nothing_until_it_is_added_to_serve() {
    let cluster = four();
    let learner = ClusterChange::Add {
        node_id: 5,
        info: info(5, "b"),
        learner: true,
    };
    let cluster = cluster.decide(&learner, &all(&cluster)).expect("a learner");
    assert!(
        cluster
            .placement
            .logs
            .iter()
            .all(|place| !place.voters.contains(&5))
    );
    let cluster = cluster
        .decide(&add(5, "b"), &all(&cluster))
        .expect("it serves");
    assert!(
        cluster
            .placement
            .logs
            .iter()
            .any(|place| place.voters.contains(&5))
    );
}
