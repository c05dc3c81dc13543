//! A cluster of real nodes, each a process, in two data centres.
//!
//! Invariant: what a verb asks for has come about when it returns, as far as the cluster says so itself.

use crate::{Node, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Elections and catching up on a machine that is busy with something else.
const SETTLES_WITHIN: Duration = Duration::from_mins(1);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: BTreeMap<u64, Node>,
}

impl Cluster {
    /// Nodes 1 and 2 in data centre `a`, 3 and 4 in `b`.
    #[track_caller]
    pub fn of_four() -> Self {
        let mut cluster = Self {
            nodes: BTreeMap::from([(1, Node::start())]),
        };
        for (id, dc) in [(2, "a"), (3, "b"), (4, "b")] {
            cluster.add(id, dc);
        }
        cluster.settle();
        cluster
    }

    /// Starts a node and adds it, without waiting until it has everything.
    #[track_caller]
    pub fn add(&mut self, id: u64, dc: &str) {
        let by = self.any().peer_address();
        let mut node = Node::builder().number(id, dc).join(&by).prepare();
        node.launch(false);
        let body = json!({"node_id": id, "address": node.peer_address(), "dc": dc});
        wait_until(SETTLES_WITHIN, "the node is added", || {
            let answer = self.any().post("/v1/cluster/nodes", &body);
            (answer.status == 200)
                .then_some(())
                .ok_or_else(|| answer.to_string())
        });
        self.nodes.insert(id, node);
    }

    /// Asks the cluster to let a node go, and stops it when it has gone.
    #[track_caller]
    pub fn remove(&mut self, id: u64) {
        let mut node = self.nodes.remove(&id).expect("a node of the cluster");
        let path = format!("/v1/cluster/nodes/{id}");
        wait_until(SETTLES_WITHIN, "the node may leave", || {
            let answer = self.any().delete(&path);
            (answer.status == 200)
                .then_some(())
                .ok_or_else(|| answer.to_string())
        });
        wait_until(SETTLES_WITHIN, "the node has left", || {
            let shown = self.any().get("/v1/cluster").json();
            let nodes = shown["nodes"].as_array().expect("nodes");
            let gone = nodes
                .iter()
                .all(|node| node["id"] != id || node["state"] == "removed");
            gone.then_some(()).ok_or_else(|| shown["nodes"].to_string())
        });
        node.kill();
    }

    /// A node by its number.
    #[track_caller]
    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    /// A node by its number, to kill or restart it.
    #[track_caller]
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the cluster")
    }

    /// The first node that runs.
    #[track_caller]
    pub fn any(&self) -> &Node {
        let mut running = self.nodes.values().filter(|node| node.is_running());
        running.next().expect("a node that runs")
    }

    /// All nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.is_running())
    }

    /// The public addresses of all nodes, also of those that are down.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.values().map(Node::http_address).collect()
    }

    /// The node that leads the shard of a promotion, by the word of any node.
    #[track_caller]
    pub fn leader_of(&self, shard: u64) -> u64 {
        wait_until(SETTLES_WITHIN, "the shard has a leader", || {
            let shown = self.any().get("/v1/cluster").json();
            let group = &shown["shards"][usize::try_from(shard).expect("few shards")];
            group["leader"].as_u64().ok_or_else(|| group.to_string())
        })
    }

    /// Waits until every group has the voters and the leader it should have, all of them caught up.
    #[track_caller]
    pub fn settle(&self) {
        wait_until(SETTLES_WITHIN, "every group is where it should be", || {
            let answer = self.any().get("/v1/cluster");
            if answer.status != 200 {
                return Err(answer.to_string());
            }
            let shown = answer.json();
            let shards = shown["shards"].as_array().expect("shards");
            for group in shards.iter().chain([&shown["meta"]]) {
                if let Some(why) = unsettled(group) {
                    return Err(why);
                }
            }
            Ok(())
        });
    }

    /// Waits until every group has a leader that decides, wherever it is.
    #[track_caller]
    pub fn decides(&self) {
        wait_until(
            SETTLES_WITHIN,
            "every group has a leader that decides",
            || {
                let answer = self.any().get("/v1/cluster");
                if answer.status != 200 {
                    return Err(answer.to_string());
                }
                let shown = answer.json();
                let shards = shown["shards"].as_array().expect("shards");
                let waits = shards.iter().find(|group| group["deciding"] != true);
                waits.map_or(Ok(()), |group| Err(group.to_string()))
            },
        );
    }
}

fn unsettled(group: &Value) -> Option<String> {
    let planned = &group["planned_leader"];
    let led = planned.is_null() || *planned == group["leader"];
    let placed = group["voters"] == group["planned_voters"];
    let replicas = group["replicas"].as_array()?;
    let voters = group["voters"].as_array()?.len();
    let current = replicas
        .iter()
        .filter(|replica| replica["lag"] == 0)
        .count()
        >= voters;
    (!(led && placed && current && group["has_quorum"] == true)).then(|| group.to_string())
}
