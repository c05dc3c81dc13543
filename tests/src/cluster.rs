//! A cluster of real nodes, each a process, in two data centres.
//!
//! Invariant: what a verb asks for has come about when it returns, as far as the cluster says so itself.

use crate::{Builder, Network, Node, Sale, audit, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Elections and catching up on a machine that is busy with something else.
const SETTLES_WITHIN: Duration = Duration::from_mins(1);

/// Of the sales that must be there, as many are asked for again at most: a few seconds' work.
const ASKED_AGAIN_MAX: usize = 1000;

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: processes before the network they are on.
    nodes: BTreeMap<u64, Node>,
    network: Option<Network>,
}

impl Cluster {
    /// Nodes 1 and 2 in data centre `a`, 3 and 4 in `b`.
    #[track_caller]
    pub fn of_four() -> Self {
        let mut cluster = Self::of_one(Node::builder());
        cluster.add_three();
        cluster
    }

    /// The same, each on a host of its own, so that the network between them can be cut; `environment` is that of
    /// all. `Err` says why there can be no hosts here.
    #[track_caller]
    pub fn of_four_hosts(environment: &[(&str, &str)]) -> Result<Self, String> {
        let mut network = Network::lay()?;
        let own = network.host(1)?;
        let first = with_environment(Node::builder(), environment).on(own);
        let mut cluster = Self::of_one(first);
        for (id, dc) in [(2, "a"), (3, "b"), (4, "b")] {
            let own = network.host(id)?;
            let node = Node::builder().number(id, dc).on(own);
            cluster.add_built(with_environment(node, environment));
        }
        cluster.network = Some(network);
        cluster.settle();
        Ok(cluster)
    }

    /// A cluster that begins with one node.
    #[track_caller]
    pub fn of_one(first: Builder) -> Self {
        Self {
            nodes: BTreeMap::from([(first.id(), first.start())]),
            network: None,
        }
    }

    #[track_caller]
    fn add_three(&mut self) {
        for (id, dc) in [(2, "a"), (3, "b"), (4, "b")] {
            self.add(id, dc);
        }
        self.settle();
    }

    /// The network between its nodes.
    #[track_caller]
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a cluster of hosts")
    }

    /// Starts a node and adds it, without waiting until it has everything.
    #[track_caller]
    pub fn add(&mut self, id: u64, dc: &str) {
        self.add_built(Node::builder().number(id, dc));
    }

    /// As [`Self::add`], with settings of its own.
    #[track_caller]
    pub fn add_built(&mut self, node: Builder) {
        let node = self.start_beside(node);
        let (id, address) = (node.id(), node.peer_address());
        let body = json!({"node_id": id, "address": address, "dc": node.dc()});
        wait_until(SETTLES_WITHIN, "the node is added", || {
            let answer = self.any().post("/v1/cluster/nodes", &body);
            (answer.status == 200)
                .then_some(())
                .ok_or_else(|| answer.to_string())
        });
        self.nodes.insert(id, node);
    }

    /// Starts a node that waits to be added.
    #[track_caller]
    pub fn start_beside(&self, node: Builder) -> Node {
        let mut node = node.join(&self.any().peer_address()).prepare();
        node.launch(false);
        node
    }

    /// Takes in a node that was started beside it and has been added since.
    pub fn take_in(&mut self, node: Node) {
        self.nodes.insert(node.id(), node);
    }

    /// Gives up a node that has been removed.
    #[track_caller]
    pub fn give_up(&mut self, id: u64) -> Node {
        self.nodes.remove(&id).expect("a node of the cluster")
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
    pub fn running(&self) -> impl Iterator<Item = &Node> + Clone {
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

    /// Every sale is there, once, whoever is asked; nothing is oversold and the books balance.
    ///
    /// To be called when nothing is in flight.
    #[track_caller]
    pub fn has_all(&self, sales: &[Sale]) {
        // Each is in the flows, as is seen below; some are asked for too, to see that the shards know them.
        let step = sales.len().div_ceil(ASKED_AGAIN_MAX).max(1);
        let nodes = self.running().cycle();
        for (sale, node) in sales.iter().step_by(step).zip(nodes) {
            let again = node.post("/v1/grabs", &sale.body).expect(200);
            assert_eq!(
                again["replayed"], true,
                "an acknowledged grab is lost: {again}"
            );
        }
        let books = audit(self.any());
        for Sale { body, .. } in sales {
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            let promotion = text(&body["items"][0]["promotion_id"]);
            let order = text(&body["order_id"]);
            let held = books.order(&promotion, &order);
            assert!(held.is_some(), "{order} was acknowledged and is gone");
        }
    }
}

fn with_environment(node: Builder, environment: &[(&str, &str)]) -> Builder {
    environment
        .iter()
        .fold(node, |node, (name, value)| node.env(name, value))
}

fn unsettled(group: &Value) -> Option<String> {
    let planned = &group["planned_leader"];
    let led = planned.is_null() || *planned == group["leader"];
    let placed = group["voters"] == group["planned_voters"] && group["changing"] == false;
    let replicas = group["replicas"].as_array()?;
    let voters = group["voters"].as_array()?.len();
    let current = replicas
        .iter()
        .filter(|replica| replica["lag"] == 0)
        .count()
        >= voters;
    (!(led && placed && current && group["has_quorum"] == true)).then(|| group.to_string())
}
