//! The cluster as `GET /v1/cluster` tells it, for commands that show it or wait for it.
//!
//! Invariant: what this version does not know is let pass, so that it understands a newer node.

use serde::Deserialize;
use serde_json::Value;

use super::{Client, Failure};

/// The whole cluster.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ClusterView {
    pub(crate) revision: u64,
    pub(crate) preferred_dc: String,
    /// The node that told it.
    pub(crate) told_by: u64,
    pub(crate) nodes: Vec<NodeView>,
    /// Numbers that were removed.
    pub(crate) removed: Vec<u64>,
    pub(crate) shards: Vec<GroupView>,
    pub(crate) meta: GroupView,
}

/// A node.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct NodeView {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) dc: String,
    pub(crate) state: String,
    pub(crate) duty: Option<String>,
    pub(crate) voter: bool,
    pub(crate) leads: u64,
    pub(crate) replicas: u64,
    pub(crate) http_address: String,
    pub(crate) commit_index: Option<u64>,
    pub(crate) lag: Option<u64>,
    pub(crate) fault: Option<String>,
    pub(crate) fenced: Option<String>,
}

/// A shard, or the meta group.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct GroupView {
    shard: Option<u16>,
    pub(crate) leader: Option<u64>,
    pub(crate) planned_leader: Option<u64>,
    pub(crate) has_quorum: Option<bool>,
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    changing: bool,
    pub(crate) planned_voters: Vec<u64>,
    pub(crate) replicas: Vec<ReplicaView>,
}

/// A replica that was heard.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ReplicaView {
    pub(crate) node: u64,
    pub(crate) applied_index: u64,
}

impl ClusterView {
    /// Asks a node; with `local`, only for what it knows itself.
    pub(crate) async fn ask(client: &Client, local: bool) -> Result<Self, Failure> {
        let path = if local {
            "/v1/cluster?local=true"
        } else {
            "/v1/cluster"
        };
        Self::parse(client.get(path).await?.json()?)
    }

    /// Reads an answer.
    pub(crate) fn parse(told: Value) -> Result<Self, Failure> {
        serde_json::from_value(told).map_err(|error| {
            Failure::Server(format!(
                "the node's answer to /v1/cluster is not understood: {error}"
            ))
        })
    }

    /// The shards in order, then the meta group.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupView> {
        self.shards.iter().chain([&self.meta])
    }

    /// The node of this number, if it belongs to the cluster.
    pub(crate) fn node(&self, id: u64) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// How many groups there are.
    pub(crate) fn groups_count(&self) -> usize {
        self.shards.len() + 1
    }

    /// How many groups have the voters and the leader that they should have.
    pub(crate) fn groups_as_planned(&self) -> usize {
        let planned = |group: &&GroupView| group.votes_as_planned() && group.is_led_as_planned();
        self.groups().filter(planned).count()
    }
}

impl GroupView {
    /// The shard's number, or `meta`.
    pub(crate) fn name(&self) -> String {
        self.shard
            .map_or_else(|| "meta".to_owned(), |shard| shard.to_string())
    }

    /// Whether it is the group of the cluster's own state.
    pub(crate) fn is_meta(&self) -> bool {
        self.shard.is_none()
    }

    /// Whether it decides, with exactly the voters that the cluster's document says.
    pub(crate) fn votes_as_planned(&self) -> bool {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        self.has_quorum == Some(true)
            && !self.changing
            && sorted(&self.voters) == sorted(&self.planned_voters)
    }

    /// Whether it is led, by the node that should lead it where the document says which.
    pub(crate) fn is_led_as_planned(&self) -> bool {
        self.leader.is_some()
            && self
                .planned_leader
                .is_none_or(|planned| self.leader == Some(planned))
    }
}
