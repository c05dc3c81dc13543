//! The cluster as operators see it: each node and each group, from the document and from what every node says of itself.
//!
//! A node's `commit_index` and `lag` are sums over the logs it holds, each counted once however many shards share it, so that
//! they can be compared between nodes that hold the same: entries known to be committed, and entries committed that it has not applied yet.
//!
//! Invariant: every node of the document is shown, whether it answers or not; what nobody said is null.

use std::collections::BTreeMap;

use qiang_engine::UnixMs;
use qiang_engine::routing::SHARDS;
use qiang_raft::placement::Duty;
use qiang_raft::{Cluster, NodeInfo, NodeReport};
use serde::Serialize;

use super::group_view::{GroupShape, Scope};
use crate::http::health::{META, readiness};
use crate::http::time::Time;

/// What became of asking a node.
#[derive(Debug)]
pub(super) enum Heard {
    /// It answered.
    Report(Box<NodeReport>),
    /// It did not.
    Silence,
    /// It was not asked.
    NotAsked,
}

impl Heard {
    fn report(&self) -> Option<&NodeReport> {
        match self {
            Heard::Report(report) => Some(report),
            Heard::Silence | Heard::NotAsked => None,
        }
    }
}

/// What is known of the cluster.
#[derive(Debug)]
pub(super) struct Known {
    cluster: Cluster,
    /// The node that tells it.
    told_by: u64,
    nodes: BTreeMap<u64, (NodeInfo, Heard)>,
    scope: Scope,
}

#[derive(Debug, Serialize)]
pub(super) struct ClusterShape<'a> {
    cluster_id: &'a str,
    incarnation: u64,
    revision: u64,
    preferred_dc: &'a str,
    /// The node that answers.
    told_by: u64,
    nodes: Vec<NodeShape<'a>>,
    /// Numbers that were removed and are never used again.
    removed: Vec<u64>,
    shards: Vec<GroupShape<'a>>,
    meta: GroupShape<'a>,
}

#[derive(Debug, Serialize)]
struct NodeShape<'a> {
    id: u64,
    name: &'a str,
    dc: &'a str,
    state: &'static str,
    duty: Option<&'static str>,
    /// Whether it votes in any group.
    voter: bool,
    /// Shards that it leads.
    leads: usize,
    /// Shards that it holds.
    replicas: usize,
    http_address: &'a str,
    peer_address: &'a str,
    version: Option<&'a str>,
    started_at: Option<Time>,
    commit_index: Option<u64>,
    lag: Option<u64>,
    fault: Option<&'a str>,
    fenced: Option<&'a str>,
}

impl Known {
    /// What all nodes say, asked by the node `told_by`.
    pub(super) fn by_all(
        cluster: Cluster,
        told_by: u64,
        nodes: BTreeMap<u64, (NodeInfo, Heard)>,
    ) -> Self {
        Known {
            cluster,
            told_by,
            nodes,
            scope: Scope::All,
        }
    }

    /// What one node knows without asking anybody.
    pub(super) fn by_one(cluster: Cluster, own: NodeReport) -> Self {
        let members = cluster.nodes.iter();
        let mut nodes: BTreeMap<u64, (NodeInfo, Heard)> = members
            .map(|(id, member)| (*id, (member.info.clone(), Heard::NotAsked)))
            .collect();
        let told_by = own.node_id;
        nodes.insert(told_by, (own.info.clone(), Heard::Report(Box::new(own))));
        Known {
            cluster,
            told_by,
            nodes,
            scope: Scope::One,
        }
    }

    /// As it is shown.
    pub(super) fn shape(&self) -> ClusterShape<'_> {
        let reports: Vec<&NodeReport> = self
            .nodes
            .values()
            .filter_map(|(_, heard)| heard.report())
            .collect();
        let group =
            |name: &str, number| GroupShape::of(name, number, &self.cluster, &reports, self.scope);
        let shards: Vec<_> = (0..SHARDS)
            .map(|shard| group(&shard.to_string(), shard))
            .collect();
        // The meta group's place comes after the shards'.
        let meta = group(META, SHARDS);
        let own = self.nodes.get(&self.told_by);
        let own = own.and_then(|(_, heard)| heard.report());
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|(id, (info, heard))| self.node(*id, info, heard, &shards, &meta));
        ClusterShape {
            cluster_id: own.map_or("", |own| &own.cluster_id),
            incarnation: own.map_or(0, |own| own.incarnation),
            revision: self.cluster.revision,
            preferred_dc: &self.cluster.preferred_dc,
            told_by: self.told_by,
            nodes: nodes.collect(),
            removed: self.cluster.removed.iter().copied().collect(),
            shards,
            meta,
        }
    }

    fn node<'a>(
        &'a self,
        id: u64,
        info: &'a NodeInfo,
        heard: &'a Heard,
        shards: &[GroupShape<'_>],
        meta: &GroupShape<'_>,
    ) -> NodeShape<'a> {
        let report = heard.report();
        let info = report.map_or(info, |report| &report.info);
        let groups = || shards.iter().chain([meta]);
        // Of the shards that share a log the first stands for all.
        let logs = shards.iter().take(self.cluster.placement.logs.len());
        let held = logs.chain([meta]).flat_map(|group| &group.replicas);
        let held: Vec<_> = held.filter(|replica| replica.node == id).collect();
        let holds = |group: &&GroupShape<'_>| match report {
            Some(_) => group.replicas.iter().any(|replica| replica.node == id),
            None => group.voters.contains(&id) || group.learners.contains(&id),
        };
        NodeShape {
            id,
            name: &info.name,
            dc: &info.dc,
            state: self.state(id, heard, groups()),
            duty: self
                .cluster
                .nodes
                .get(&id)
                .map(|member| duty_word(member.duty)),
            voter: groups().any(|group| group.voters.contains(&id)),
            leads: shards
                .iter()
                .filter(|group| group.leader == Some(id))
                .count(),
            replicas: shards.iter().filter(holds).count(),
            http_address: &info.http_address,
            peer_address: &info.peer_address,
            version: report.map(|report| report.version.as_str()),
            started_at: report.map(|report| Time(UnixMs(report.started_at))),
            commit_index: report.map(|_| held.iter().map(|held| held.committed_index).sum()),
            lag: report.map(|_| held.iter().map(|held| held.lag).sum()),
            fault: report.and_then(|report| report.fault.as_deref()),
            fenced: report.and_then(|report| report.fenced.as_deref()),
        }
    }

    /// One word for what an operator has to know first.
    fn state<'g>(
        &self,
        id: u64,
        heard: &Heard,
        mut groups: impl Iterator<Item = &'g GroupShape<'g>>,
    ) -> &'static str {
        if self.cluster.removed.contains(&id) {
            return "removed";
        }
        let report = match heard {
            Heard::Silence => return "unreachable",
            Heard::NotAsked => return "unknown",
            Heard::Report(report) => report,
        };
        let duty = self.cluster.nodes.get(&id).map(|member| member.duty);
        let hears = |name: &str| {
            let mut groups = report.groups.iter();
            groups.any(|group| group.group == name && group.hosted)
        };
        let mut lacks_a_vote = || {
            groups.any(|group| group.planned_voters.contains(&id) && !group.voters.contains(&id))
        };
        match report {
            _ if report.fenced.is_some() => "fenced",
            _ if report.fault.is_some() => "faulted",
            _ if report.draining => "draining",
            _ if matches!(duty, Some(Duty::NoLeading | Duty::Leaving)) => "draining",
            _ if !hears(META) => "joining",
            _ if readiness(report).is_err() => "degraded",
            _ if lacks_a_vote() => "joining",
            _ => "ready",
        }
    }
}

fn duty_word(duty: Duty) -> &'static str {
    match duty {
        Duty::Serves => "serves",
        Duty::NoLeading => "drained",
        Duty::Leaving => "leaving",
        Duty::Spare => "learner",
    }
}
