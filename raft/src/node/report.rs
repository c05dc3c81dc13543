//! What a node says of itself and of its groups, to operators and to other nodes.

use std::time::Duration;

use qiang_engine::ShardId;
use qiang_engine::routing::SHARDS;
use qiang_storage::GroupId;

use super::Node;
use crate::group::{GroupStatus, has_lease, leads_caught_up, members, raft_status};
use crate::groups::META_GROUP;
use crate::rpc::{Introduction, Members, NodeReport};

impl Node {
    /// The state of every shard on this node, in order, then of `meta`.
    pub fn group_statuses(&self) -> Vec<GroupStatus> {
        let groups = &self.inner.groups;
        let lease = self.inner.options.timing.lease();
        let shards = || (0..SHARDS).map(ShardId);
        let status = |shard| {
            let place = groups.sharing.place_of(shard);
            groups.of(shard).status(place, lease)
        };
        let mut statuses: Vec<GroupStatus> = shards().map(status).collect();
        let mut meta = GroupStatus::unknown();
        if let Some(raft) = groups.meta() {
            meta = raft_status(&raft, lease);
            meta.deciding = leads_caught_up(&raft);
            meta.quiescent = groups
                .quiescence(META_GROUP)
                .is_some_and(|it| it.is_quiescent());
        }
        "meta".clone_into(&mut meta.group);
        statuses.push(meta);
        let patience = Duration::from_millis(2 * self.inner.options.timing.election_ms_max());
        let ids = shards().map(|shard| groups.id_of(shard));
        for (status, group) in statuses.iter_mut().zip(ids.chain([META_GROUP])) {
            // A follower does not forget a leader that is gone.
            let follows = groups.heard(group).is_some_and(|heard| heard < patience);
            status.has_quorum &= status.leads || follows;
            if status.quiescent && status.leads {
                status.has_quorum = self.are_most_alive(&status.voters);
            }
        }
        statuses
    }

    /// Whether a majority of these nodes, this one among them, is there.
    fn are_most_alive(&self, voters: &[u64]) -> bool {
        let liveness = &self.inner.groups.liveness;
        let is_alive = |id: &&u64| **id == self.node_id() || liveness.boot(**id).is_some();
        2 * voters.iter().filter(is_alive).count() > voters.len()
    }

    /// This node, as it tells others.
    pub fn report(&self) -> NodeReport {
        let store = &self.inner.groups.store;
        let identity = store.identity();
        NodeReport {
            node_id: self.node_id(),
            info: self.inner.options.info.clone(),
            cluster_id: identity.cluster_id,
            incarnation: identity.incarnation,
            version: self.inner.options.version.clone(),
            started_at: self.inner.started_at.0,
            draining: self.is_draining(),
            fault: store.fault(),
            fenced: self.inner.groups.peers.credentials().fenced(),
            groups: self.group_statuses(),
        }
    }

    /// Who this node is, for those who do not know it.
    pub(crate) fn introduction(&self) -> Introduction {
        let held = self
            .inner
            .groups
            .held()
            .map_or(true, |held| !held.is_empty());
        Introduction {
            node_id: self.node_id(),
            info: self.inner.options.info.clone(),
            fresh: !held,
            logs: self.inner.groups.sharing.logs(),
        }
    }

    /// The members of a group, as this node knows them.
    pub(crate) async fn members(&self, group: GroupId) -> Result<Members, String> {
        // Whether it leads only a lease tells.
        self.inner.groups.roused(group).await;
        let raft = self
            .inner
            .groups
            .raft(group)
            .ok_or("the group does not run here")?;
        let lease = self.inner.options.timing.lease();
        Ok(raft.look(|metrics| {
            let (voters, learners) = members(metrics);
            Members {
                leads: has_lease(metrics, lease),
                voters,
                learners,
            }
        }))
    }
}
