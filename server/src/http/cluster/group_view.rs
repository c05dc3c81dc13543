//! One group as an operator sees it: what its leader says of it, or, where none is heard, its most advanced replica.
//!
//! Invariant: a group has a quorum only where its leader says so itself; what a follower last heard is no proof.

use qiang_engine::routing::SHARDS;
use qiang_raft::{Cluster, GroupStatus, NodeReport};
use serde::Serialize;

/// Whom the figures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every node was asked; who is not heard was not reached.
    All,
    /// One node tells what it knows, which may be old.
    One,
}

/// A group: a shard, or the group of the cluster's own state.
#[derive(Debug, Serialize)]
pub(super) struct GroupShape<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shard: Option<u16>,
    /// The number of its log: shards of the same one have the same leader, voters and indexes.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<u16>,
    pub(super) leader: Option<u64>,
    planned_leader: Option<u64>,
    term: u64,
    /// `None` where nobody was asked who could know.
    has_quorum: Option<bool>,
    deciding: bool,
    last_index: u64,
    pub(super) committed_index: u64,
    applied_index: u64,
    /// Entries that whoever the figures come from knows to be committed and has not applied yet.
    lag: u64,
    orders: u64,
    stopped: Option<&'a str>,
    pub(super) voters: &'a [u64],
    pub(super) learners: &'a [u64],
    /// Until a change of voters is committed those before are needed, too.
    changing: bool,
    pub(super) planned_voters: &'a [u64],
    pub(super) replicas: Vec<ReplicaShape<'a>>,
}

/// A replica on a node that was heard.
#[derive(Debug, Serialize)]
pub(super) struct ReplicaShape<'a> {
    pub(super) node: u64,
    voter: bool,
    last_index: u64,
    pub(super) committed_index: u64,
    applied_index: u64,
    /// Entries that are committed and that this replica has not applied yet.
    pub(super) lag: u64,
    stopped: Option<&'a str>,
}

impl<'a> GroupShape<'a> {
    /// The group of this `name`, whose place in the cluster's document is `number`.
    pub(super) fn of(
        name: &str,
        number: u16,
        cluster: &'a Cluster,
        reports: &[&'a NodeReport],
        scope: Scope,
    ) -> Self {
        let replicas = replicas(name, reports);
        let leading = replicas.iter().filter(|(_, status)| status.leads);
        // After a partition an old leader may not know yet that it is one no more.
        let leading = leading.max_by_key(|(_, status)| status.term);
        let told_by = leading.or_else(|| {
            let most = |(_, status): &&(u64, &GroupStatus)| (status.committed_index, status.term);
            replicas.iter().max_by_key(most)
        });
        let status = told_by.map(|(_, status)| *status);
        let place = cluster.placement.of(number);
        GroupShape {
            shard: (number < SHARDS).then_some(number),
            log: cluster.placement.log_of(number),
            leader: match scope {
                Scope::All => leading.map(|(node, _)| *node),
                Scope::One => status.and_then(|status| status.leader),
            },
            planned_leader: place.and_then(|place| place.leader),
            term: status.map_or(0, |status| status.term),
            has_quorum: match scope {
                Scope::All => Some(leading.is_some_and(|(_, status)| status.has_quorum)),
                Scope::One => status.map(|status| status.has_quorum),
            },
            deciding: status.is_some_and(|status| status.deciding),
            last_index: status.map_or(0, |status| status.last_index),
            committed_index: status.map_or(0, |status| status.committed_index),
            applied_index: status.map_or(0, |status| status.applied_index),
            lag: status.map_or(0, |status| {
                status.committed_index.saturating_sub(status.applied_index)
            }),
            orders: status.map_or(0, |status| status.orders),
            stopped: status.and_then(|status| status.stopped.as_deref()),
            voters: status.map_or(&[], |status| &status.voters),
            learners: status.map_or(&[], |status| &status.learners),
            changing: status.is_some_and(|status| status.changing),
            planned_voters: cluster.voters(number),
            replicas: shown(&replicas, status),
        }
    }
}

/// The group's replicas on nodes that were heard and belong to the cluster's present life.
fn replicas<'a>(name: &str, reports: &[&'a NodeReport]) -> Vec<(u64, &'a GroupStatus)> {
    let present = reports.iter().filter(|report| report.fenced.is_none());
    let found = present.filter_map(|report| {
        let status = report.groups.iter().find(|group| group.group == name)?;
        status.hosted.then_some((report.node_id, status))
    });
    found.collect()
}

fn shown<'a>(
    replicas: &[(u64, &'a GroupStatus)],
    told: Option<&GroupStatus>,
) -> Vec<ReplicaShape<'a>> {
    let committed = told.map_or(0, |told| told.committed_index);
    let shape = |(node, status): &(u64, &'a GroupStatus)| ReplicaShape {
        node: *node,
        voter: told.is_some_and(|told| told.voters.contains(node)),
        last_index: status.last_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        lag: committed.saturating_sub(status.applied_index),
        stopped: status.stopped.as_deref(),
    };
    replicas.iter().map(shape).collect()
}
