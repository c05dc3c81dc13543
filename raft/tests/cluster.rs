//! Four nodes in one process, over TCP on loopback: a cluster forms, leaders move, nodes die and come back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use qiang_engine::command::{Grab, Granted};
use qiang_engine::order::{Item, Items};
use qiang_engine::promotion::{Channel, Terms};
use qiang_engine::routing::{SHARDS, Sharing, shard_of};
use qiang_engine::{Answer, Command, OrderId, Pin, PromotionId, Record, Refusal};
use qiang_raft::offline::{self, OfflineError};
use qiang_raft::placement::WITNESS_DC;
use qiang_raft::{
    Begin, ClusterChange, Flow, FlowError, FlowQuery, GroupStatus, MetaAnswer, Node, NodeInfo,
    NodeOptions, Policy, Timing, World,
};
use qiang_storage::GroupId;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Long enough for elections on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    home: TempDir,
    nodes: BTreeMap<u64, Node>,
    addresses: BTreeMap<u64, String>,
}

/// A node of this number is a witness.
const WITNESS: u64 = 9;

fn dc(id: u64) -> &'static str {
    match id % 4 {
        _ if id == WITNESS => WITNESS_DC,
        1 | 2 => "a",
        _ => "b",
    }
}

fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + PATIENCE
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(state) => assert!(Instant::now() < end, "waited for: {what}; last: {state}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Cluster {
    /// Nodes 1 to `count`, all added and every group where it belongs.
    async fn of(count: u64) -> Self {
        let mut cluster = Cluster {
            home: tempfile::tempdir().expect("a directory"),
            nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        cluster.start(1, Begin::Bootstrap).await;
        let by = cluster.addresses[&1].clone();
        until("the first node founds the cluster", async || {
            let revision = cluster.nodes[&1].cluster().revision;
            (revision > 0)
                .then_some(())
                .ok_or_else(|| "not yet".to_owned())
        })
        .await;
        for id in 2..=count {
            cluster.start(id, Begin::Join(by.clone())).await;
            cluster.add(1, id).await;
        }
        cluster.settle().await;
        cluster
    }

    async fn start(&mut self, id: u64, begin: Begin) {
        let listener = match self.addresses.get(&id) {
            Some(address) => TcpListener::bind(address).await,
            None => TcpListener::bind("127.0.0.1:0").await,
        };
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        self.addresses.insert(id, address.clone());
        let options = NodeOptions {
            node_id: id,
            info: NodeInfo {
                peer_address: address,
                http_address: format!("http-{id}"),
                dc: dc(id).to_owned(),
                name: format!("node-{id}"),
            },
            data_dir: self.home.path().join(id.to_string()),
            begin,
            sharing: Sharing::over(2).expect("an even share"),
            snapshot_entries: 1_000,
            entries_kept: 100,
            timing: Timing {
                election_ms_min: 400,
            },
            version: "test".to_owned(),
            storage: qiang_storage::Options {
                wal_warm_bytes: 0,
                ..qiang_storage::Options::default()
            },
        };
        let policy = Policy {
            default_rate: None,
            rate_percent: 100,
            order_retention_ms: u64::MAX / 2,
            flow_retention_ms: u64::MAX / 2,
        };
        let node = Node::start(options, policy, World::default())
            .await
            .expect("the node starts");
        node.serve_peers(listener);
        self.nodes.insert(id, node);
    }

    async fn add(&self, by: u64, id: u64) {
        let added = self.nodes[&by]
            .add_node(id, &self.addresses[&id], dc(id), false)
            .await;
        assert!(added.is_ok(), "{added:?}");
    }

    async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("it runs");
        node.stop().await;
    }

    /// Waits until every group has the voters and the leader it should have.
    async fn settle(&self) {
        until("every group is where it should be", async || {
            for node in self.nodes.values() {
                let cluster = node.cluster();
                for (number, group) in node.group_statuses().into_iter().enumerate() {
                    let number = u16::try_from(number).expect("few groups");
                    let wanted = cluster.voters(number);
                    if !wanted.contains(&node.node_id()) {
                        continue;
                    }
                    let place = cluster.placement.of(number);
                    let led = place.is_none_or(|place| place.leader == group.leader);
                    if group.voters != wanted || !led || !group.has_quorum {
                        return Err(format!(
                            "node {} group {}: voters {:?} of {wanted:?}, leader {:?} of {:?}, quorum {}",
                            node.node_id(), group.group, group.voters, group.leader, place.map(|place| place.leader), group.has_quorum
                        ));
                    }
                }
            }
            Ok(())
        })
        .await;
    }

    /// Waits until every group stands still on every node, its quorum alive.
    async fn fall_silent(&self) {
        until("every group is quiescent", async || {
            for node in self.nodes.values() {
                let statuses = node.group_statuses();
                let stirs = |group: &&GroupStatus| !(group.quiescent && group.has_quorum);
                if let Some(group) = statuses.iter().filter(|group| group.hosted).find(stirs) {
                    return Err(format!("node {}: {group:?}", node.node_id()));
                }
            }
            Ok(())
        })
        .await;
    }

    async fn create(&self, by: u64, id: &str, quantity: u64) {
        let promotion_id = promotion(id);
        let shard = shard_of(&promotion_id);
        let create = Command::CreatePromotion {
            promotion_id,
            quantity,
            terms: Box::new(Terms::default()),
        };
        let answer = self.nodes[&by].ask(shard, create, deadline()).await;
        assert!(matches!(answer, Ok(Answer::Promotion { .. })), "{answer:?}");
    }

    async fn grab(&self, by: u64, order: &str, id: &str) -> Result<Granted, Refusal> {
        let item = Item {
            promotion_id: promotion(id),
            quantity: 1,
        };
        let grab = Grab {
            order_id: OrderId::new(order).expect("an id"),
            pin: Pin::new("alice").expect("an id"),
            ip: [203, 0, 113, 9].into(),
            channel: Channel::App,
            items: Items::from_iter([item]),
        };
        let shard = shard_of(&promotion(id));
        match self.nodes[&by]
            .ask(shard, Command::Grab(grab), deadline())
            .await?
        {
            Answer::Granted(granted) => Ok(granted),
            other => panic!("a grab was answered {other:?}"),
        }
    }

    /// Every member of every shard folds to the same: the same promotions, with the same counters.
    async fn agree(&self, id: &str, remaining: u64) {
        for node in self.nodes.values() {
            until("every replica shows the same", async || {
                let stale = node.stale_promotion(&promotion(id)).await;
                let shown = stale
                    .and_then(|stale| stale.promotion)
                    .map(|shown| shown.counters.remaining);
                (shown == Some(remaining))
                    .then_some(())
                    .ok_or_else(|| format!("node {}: {shown:?}", node.node_id()))
            })
            .await;
        }
    }
}

fn promotion(id: &str) -> PromotionId {
    PromotionId::new(id).expect("an id")
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_answers_for_any_shard_and_every_replica_agrees() {
    let cluster = Cluster::of(4).await;
    for number in 0..20 {
        let id = format!("P{number}");
        cluster.create(1 + number % 4, &id, 10).await;
        for by in 1..=4 {
            let granted = cluster.grab(by, &format!("o-{number}-{by}"), &id).await;
            assert!(granted.is_ok(), "{granted:?}");
        }
        cluster.agree(&id, 6).await;
    }
    let led: Vec<usize> = cluster
        .nodes
        .values()
        .map(|node| {
            let leads = node
                .group_statuses()
                .into_iter()
                .filter(|group| group.leader == Some(node.node_id()) && group.group != "meta");
            leads.count()
        })
        .collect();
    assert_eq!(led, [8, 8, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_followed_by_another_and_catches_up_when_it_returns() {
    let mut cluster = Cluster::of(4).await;
    cluster.create(1, "A", 100).await;
    for number in 0..10 {
        cluster
            .grab(3, &format!("o-{number}"), "A")
            .await
            .expect("a grab");
    }
    cluster.stop(1).await;
    for number in 0..10 {
        let again = cluster
            .grab(4, &format!("o-{number}"), "A")
            .await
            .expect("a replay");
        assert!(again.replayed);
    }
    for number in 10..20 {
        cluster
            .grab(2, &format!("o-{number}"), "A")
            .await
            .expect("a grab");
    }
    cluster.start(1, Begin::Existing).await;
    cluster.settle().await;
    cluster.agree("A", 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_nothing_is_asked_of_stand_still_and_are_there_when_it_is() {
    let mut cluster = Cluster::of(4).await;
    let promotions: Vec<String> = (0..20).map(|number| format!("P{number}")).collect();
    for id in &promotions {
        cluster.create(1, id, 100).await;
    }
    // Through every node, each time after a silence.
    for by in 1..=4 {
        cluster.fall_silent().await;
        for id in &promotions {
            let granted = cluster.grab(by, &format!("o-{id}-{by}"), id).await;
            assert!(granted.is_ok(), "{granted:?}");
        }
    }
    // The others notice the death of a leader that owed them no heartbeat.
    cluster.fall_silent().await;
    cluster.stop(1).await;
    for id in &promotions {
        cluster
            .grab(3, &format!("o-{id}-5"), id)
            .await
            .expect("a grab");
    }
    // A follower that comes back unseats nobody, and silence falls again.
    cluster.start(1, Begin::Existing).await;
    cluster.settle().await;
    cluster.fall_silent().await;
    let terms = |cluster: &Cluster| {
        let statuses = cluster.nodes[&3].group_statuses().into_iter();
        statuses.map(|group| group.term).collect::<Vec<u64>>()
    };
    let before = terms(&cluster);
    cluster.stop(4).await;
    cluster.start(4, Begin::Existing).await;
    cluster.settle().await;
    cluster.fall_silent().await;
    assert_eq!(terms(&cluster), before, "the leaders are the same");
    for id in &promotions {
        cluster.agree(id, 95).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_data_centre_is_recovered_from_and_fenced() {
    let mut cluster = Cluster::of(4).await;
    cluster.create(1, "A", 100).await;
    for number in 0..30 {
        cluster
            .grab(1 + number % 4, &format!("o-{number}"), "A")
            .await
            .expect("a grab");
    }
    let early = cluster.nodes[&3]
        .recover("b", false)
        .await
        .expect_err("a quorum lives");
    assert!(early.to_string().contains("answers"), "{early}");
    cluster.stop(1).await;
    cluster.stop(2).await;
    // Those that are left still hear them, or believe in their quorum, for a moment yet.
    let recovered = cluster.nodes[&3].recover("b", false).await;
    let recovered = recovered.expect("recovery waits for that");
    assert_eq!(
        (recovered.incarnation, recovered.survivors),
        (2, vec![3, 4])
    );
    assert_eq!(recovered.abandoned, [1, 2]);
    assert_eq!(recovered.groups, usize::from(SHARDS) + 1);
    cluster.settle().await;
    for number in 0..30 {
        let again = cluster
            .grab(4, &format!("o-{number}"), "A")
            .await
            .expect("a replay");
        assert!(again.replayed);
    }
    cluster.grab(3, "o-30", "A").await.expect("a new grab");
    // Node 1 comes back from the past: nobody listens to it.
    cluster.start(1, Begin::Existing).await;
    let abandoned = cluster.nodes[&1].clone();
    until("the abandoned node learns that it is fenced", async || {
        abandoned
            .report()
            .fenced
            .map(drop)
            .ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let asked = tokio::time::timeout(PATIENCE / 2, cluster.grab(1, "o-31", "A"));
    let refused = asked.await.expect("it does not wait for a leader");
    assert_eq!(refused, Err(Refusal::Unavailable));
    cluster.grab(4, "o-31", "A").await.expect("a new grab");
    // Nor is it brought back where nobody else answers: it remembers that it is outlived.
    drop(abandoned);
    cluster.stop(1).await;
    for id in [3, 4] {
        cluster.stop(id).await;
    }
    for id in [1, 2] {
        cluster.start(id, Begin::Existing).await;
    }
    until(
        "recovery is refused for what a node has heard of",
        async || {
            let refused = cluster.nodes[&2].recover("a", false).await;
            let refused = refused.expect_err("the cluster lives on").to_string();
            let has_heard = refused.contains("incarnation 2");
            has_heard.then_some(()).ok_or(refused)
        },
    )
    .await;
    let forced = cluster.nodes[&2].recover("a", true).await;
    let begun = forced.map(|recovered| recovered.incarnation);
    assert_eq!(begun, Ok(3), "above the life that was heard of");
    for id in [1, 2] {
        cluster.stop(id).await;
    }
    for id in [3, 4] {
        cluster.start(id, Begin::Existing).await;
    }
    // Under a new number, with an empty disk, it is welcome.
    let by = cluster.addresses[&3].clone();
    cluster.start(5, Begin::Join(by)).await;
    cluster.add(3, 5).await;
    cluster.settle().await;
    cluster.agree("A", 68).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_when_a_node_joined_recovers_with_it() {
    let mut cluster = Cluster::of(4).await;
    cluster.create(1, "A", 100).await;
    cluster.stop(3).await;
    let by = cluster.addresses[&1].clone();
    cluster.start(7, Begin::Join(by)).await;
    cluster.add(1, 7).await;
    cluster.settle().await;
    for number in 0..30 {
        let order = format!("o-{number}");
        cluster.grab(1, &order, "A").await.expect("a grab");
    }
    // Node 7 has a part of every group's majority now, and node 3 has never heard of it.
    for id in [1, 2, 7] {
        cluster.stop(id).await;
    }
    cluster.start(3, Begin::Existing).await;
    assert!(!cluster.nodes[&3].cluster().nodes.contains_key(&7));
    until("recovery is refused for want of node 7", async || {
        let refused = cluster.nodes[&3].recover("b", false).await;
        let refused = refused.expect_err("it is needed").to_string();
        let names_it = refused.contains("node 7 of data centre \"b\" does not answer");
        names_it.then_some(()).ok_or(refused)
    })
    .await;
    cluster.start(7, Begin::Existing).await;
    let recovered = until("recovery is taken up", async || {
        let recovered = cluster.nodes[&3].recover("b", false).await;
        recovered.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(recovered.survivors, [3, 4, 7]);
    assert_eq!(recovered.abandoned, [1, 2]);
    cluster.settle().await;
    for number in 0..30 {
        let again = cluster.grab(3, &format!("o-{number}"), "A").await;
        assert!(again.expect("a replay").replayed);
    }
    cluster.agree("A", 70).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_while_it_was_away_recovers_nothing() {
    let mut cluster = Cluster::of(4).await;
    cluster.create(1, "A", 100).await;
    let by = cluster.addresses[&1].clone();
    cluster.start(7, Begin::Join(by)).await;
    cluster.add(1, 7).await;
    cluster.settle().await;
    cluster.stop(3).await;
    let (node_id, force) = (3, false);
    let removed = ClusterChange::Remove { node_id, force };
    let removed = cluster.nodes[&1].change_cluster(removed).await;
    assert!(removed.is_ok(), "{removed:?}");
    until("node 4 knows that node 3 is removed", async || {
        let cluster = cluster.nodes[&4].cluster();
        let is_out = cluster.removed.contains(&3);
        is_out.then_some(()).ok_or_else(|| format!("{cluster:?}"))
    })
    .await;
    cluster.settle().await;
    cluster.grab(2, "o-1", "A").await.expect("a grab");
    for id in [1, 2] {
        cluster.stop(id).await;
    }
    cluster.start(3, Begin::Existing).await;
    let refused = cluster.nodes[&3].recover("b", false).await;
    let refused = refused.expect_err("it is out").to_string();
    assert!(refused.contains("node 3 was removed"), "{refused}");
    let recovered = until("recovery is taken up", async || {
        let recovered = cluster.nodes[&4].recover("b", false).await;
        recovered.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(recovered.survivors, [4, 7]);
    cluster.stop(3).await;
    cluster.settle().await;
    let again = cluster.grab(7, "o-1", "A").await;
    assert!(again.expect("a replay").replayed);
}

/// Four nodes and a witness, with ten grabs that data centre b has no word of, and is all that runs.
async fn grabs_that_b_lacks() -> Cluster {
    let mut cluster = Cluster::of(4).await;
    let by = cluster.addresses[&1].clone();
    cluster.start(WITNESS, Begin::Join(by)).await;
    cluster.add(1, WITNESS).await;
    cluster.settle().await;
    cluster.create(1, "A", 100).await;
    for id in [3, 4] {
        cluster.stop(id).await;
    }
    for number in 0..10 {
        let order = format!("o-{number}");
        cluster.grab(1, &order, "A").await.expect("a grab");
    }
    for id in [1, 2, WITNESS] {
        cluster.stop(id).await;
    }
    for id in [3, 4] {
        cluster.start(id, Begin::Existing).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_witness_has_is_not_lost_with_a_data_centre() {
    let mut cluster = grabs_that_b_lacks().await;
    let refused = until("recovery is refused for want of a majority", async || {
        let refused = cluster.nodes[&3].recover("b", false).await;
        let refused = refused.expect_err("a majority is lost").to_string();
        let is_why = refused.contains("nodes 1, 2, 9, a majority");
        is_why.then_some(refused.clone()).ok_or(refused)
    })
    .await;
    assert!(refused.contains("--force"), "{refused}");
    // The witness stands in until the others have what it has.
    cluster.start(WITNESS, Begin::Existing).await;
    for number in 0..10 {
        let again = cluster.grab(3, &format!("o-{number}"), "A").await;
        assert!(again.expect("a replay").replayed);
    }
    until("the others lead", async || {
        let led = cluster.nodes[&4].group_statuses();
        let leaders: Vec<Option<u64>> = led.iter().map(|group| group.leader).collect();
        let is_led = leaders.iter().all(|leader| matches!(leader, Some(3 | 4)));
        is_led.then_some(()).ok_or_else(|| format!("{leaders:?}"))
    })
    .await;
    cluster.agree("A", 90).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_what_a_lost_majority_has_it_goes_on_by_force_alone() {
    let cluster = grabs_that_b_lacks().await;
    let recovered = until("recovery is taken up", async || {
        let recovered = cluster.nodes[&4].recover("b", true).await;
        recovered.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(recovered.survivors, [3, 4]);
    assert_eq!(recovered.abandoned, [1, 2, WITNESS]);
    cluster.settle().await;
    let anew = cluster.grab(3, "o-1", "A").await.expect("a grab");
    assert!(!anew.replayed, "what was lost is lost");
    cluster.agree("A", 99).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_data_centre_that_only_listened_is_nothing_to_recover_from() {
    let mut cluster = Cluster::of(2).await;
    let by = cluster.addresses[&1].clone();
    cluster.start(3, Begin::Join(by)).await;
    let (listener, is_learner) = (&cluster.addresses[&3], true);
    let added = cluster.nodes[&1]
        .add_node(3, listener, dc(3), is_learner)
        .await;
    assert!(added.is_ok(), "{added:?}");
    until("node 2 knows of it", async || {
        let is_known = cluster.nodes[&2].cluster().nodes.contains_key(&3);
        is_known.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    cluster.stop(3).await;
    let refused = cluster.nodes[&2].recover("a", false).await;
    let refused = refused.expect_err("nothing is lost").to_string();
    assert!(refused.contains("remove-node"), "{refused}");
    cluster.create(2, "A", 1).await;
    cluster
        .grab(1, "o-1", "A")
        .await
        .expect("every group goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_and_leave_and_a_number_is_never_used_again() {
    let mut cluster = Cluster::of(5).await;
    cluster.create(1, "A", 100).await;
    for number in 0..10 {
        cluster
            .grab(1 + number % 5, &format!("o-{number}"), "A")
            .await
            .expect("a grab");
    }
    let remove = ClusterChange::Remove {
        node_id: 2,
        force: false,
    };
    cluster.nodes[&4]
        .change_cluster(remove)
        .await
        .expect("it may leave");
    until("the node has left", async || {
        let seen = cluster.nodes[&3].cluster();
        (!seen.nodes.contains_key(&2))
            .then_some(())
            .ok_or_else(|| format!("{:?}", seen.nodes.get(&2)))
    })
    .await;
    cluster.stop(2).await;
    cluster.settle().await;
    for number in 0..10 {
        let again = cluster
            .grab(5, &format!("o-{number}"), "A")
            .await
            .expect("a replay");
        assert!(again.replayed);
    }
    let again = cluster.nodes[&1]
        .add_node(2, "127.0.0.1:9", "a", false)
        .await;
    assert!(
        matches!(&again, Err(MetaAnswer::Refused(why)) if why.contains("never used twice")),
        "{again:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_whole_at_every_node_though_each_was_away_while_others_went_on() {
    let mut cluster = Cluster::of(4).await;
    cluster.create(1, "A", 100_000).await;
    let shard = shard_of(&promotion("A"));
    let group = GroupId(Sharing::over(2).expect("an even share").log_of(shard));
    let log = |node: &Node| node.store().log(group).expect("its log");
    let mut orders = Vec::new();
    for away in 1..=4 {
        let by = away % 4 + 1;
        let had = log(&cluster.nodes[&away]).last_index().expect("entries");
        cluster.stop(away).await;
        // More than the others keep for a node that comes back.
        for _ in 0..1_300 {
            let order = format!("o-{}", orders.len());
            cluster.grab(by, &order, "A").await.expect("a grab");
            orders.push(order);
        }
        for node in cluster.nodes.values() {
            until("entries give way to a snapshot", async || {
                let floor = log(node).floor().map(|(floor, _)| floor);
                let is_past = floor.is_some_and(|floor| floor > had);
                is_past.then_some(()).ok_or_else(|| format!("{floor:?}"))
            })
            .await;
        }
        cluster.start(away, Begin::Existing).await;
        cluster.settle().await;
        // The gap ends with the first entry that comes after it.
        let order = format!("o-{}", orders.len());
        cluster.grab(by, &order, "A").await.expect("a grab");
        orders.push(order);
        until(
            "a snapshot takes the place of what was missed",
            async || {
                let runs = log(&cluster.nodes[&away]).runs();
                (runs.len() > 1)
                    .then_some(())
                    .ok_or_else(|| format!("{runs:?}"))
            },
        )
        .await;
    }

    let query = |after, limit, order_id| FlowQuery {
        shard,
        after,
        limit,
        wait: Duration::ZERO,
        promotion_id: None,
        order_id,
    };
    let granted = |flow: &Flow| match &flow.record {
        Record::Granted(granted) => Some(granted.order_id.as_str().to_owned()),
        _ => None,
    };
    let mut all = Vec::new();
    for (id, node) in &cluster.nodes {
        // Followers hear of the last commit a little later.
        all = until("the node has applied everything", async || {
            let all = node.flows(query(0, usize::MAX, None), || true).await;
            let all = all.expect("flows");
            let last = all.iter().rev().find_map(granted);
            if last.as_ref() == orders.last() {
                Ok(all)
            } else {
                Err(format!("node {id} ends with {last:?}"))
            }
        })
        .await;
        let found: Vec<String> = all.iter().filter_map(granted).collect();
        assert!(found == orders, "node {id}: {found:?}");

        let mut paged: Vec<Flow> = Vec::new();
        loop {
            let after = paged.last().map_or(0, |flow| flow.cursor);
            let page = node.flows(query(after, 500, None), || true).await;
            let page = page.expect("a page");
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, all, "node {id}, page by page");

        for order in orders.iter().step_by(1_000) {
            let order_id = OrderId::new(order).expect("an id");
            let of_order = node.flows(query(0, 10, Some(order_id)), || true).await;
            assert_eq!(of_order.expect("flows").len(), 1, "node {id}, {order}");
        }
    }

    // The first entries, where retention has left them on node 1 alone.
    for id in 2..=4 {
        let forgotten = log(&cluster.nodes[&id]).forget_below(5);
        forgotten.expect("they are below the floor");
    }
    let page = cluster.nodes[&2].flows(query(1, 5, None), || true).await;
    assert_eq!(page.expect("node 1 has them"), all[..5]);
    cluster.stop(1).await;
    let page = cluster.nodes[&2].flows(query(1, 5, None), || true).await;
    let unasked = matches!(&page, Err(FlowError::Unasked { node: 1, .. }));
    assert!(unasked, "they are not said to be deleted: {page:?}");
    let page = cluster.nodes[&2].flows(query(0, 5, None), || true).await;
    let left: Vec<Flow> = all.into_iter().filter(|flow| flow.index >= 5).collect();
    assert_eq!(page.expect("what is left"), left[..5]);

    let offline = offline::open(&cluster.home.path().join("1")).expect("its data");
    let exported = offline.flows(shard, 0, |_| Ok(()));
    assert!(matches!(exported, Err(OfflineError::Gap { .. })));
    let rebuilt = offline.fold(shard, true);
    assert!(matches!(rebuilt, Err(OfflineError::Gap { .. })));
    let counted = offline.fold(shard, false).expect("from its snapshot");
    let promotion = counted.shard.promotion(&promotion("A")).expect("it");
    assert_eq!(promotion.counters.held, orders.len() as u64);
}
