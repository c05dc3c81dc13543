//! Bringing about what the cluster's document says: each node, for the groups it leads, lets replicas join
//! and leave and has leaderships handed over; and for the groups it holds, gives up those that have left it.
//!
//! Invariant: every step may be done twice or not at all; nobody waits for it. What is wanted is in the
//! document, what is there is in the groups, and the difference grows smaller with every round.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use qiang_engine::codec;
use qiang_storage::GroupId;
use tokio::time::{Instant, timeout};

use crate::any_raft::AnyRaft;
use crate::cluster::{Cluster, ClusterChange, Member};
use crate::groups::{META_GROUP, name};
use crate::node::Node;
use crate::peer::Lane;
use crate::placement::{Duty, WITNESS_DC};
use crate::rpc::{self, Kind, Members, MetaAnswer, ShardRequest};
use crate::types::NodeInfo;
use crate::world::spawn;

/// How often a node looks, at least; it also looks when the document changes.
const ROUND_INTERVAL: Duration = Duration::from_millis(250);

/// Entries that a learner may lack when it becomes a voter: it has them within a moment.
const CAUGHT_UP_ENTRIES: u64 = 512;

/// How long a new leader keeps what it has before it hands it over to whoever should have it.
const LEADS_AT_LEAST: Duration = Duration::from_secs(2);

/// How long a node is asked for its view of a group.
const MEMBERS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long one change of a group's membership may take before it is looked at anew.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the rounds remember.
#[derive(Default)]
pub struct Memory {
    /// Since when this node leads a group, by group.
    leads_since: BTreeMap<GroupId, Instant>,
    /// When this node last looked for groups that have left it.
    swept_at: Option<Instant>,
}

/// Works at the difference until the node stops.
pub async fn run_reconciler(node: Node) {
    let mut state = node.groups().meta_state.subscribe();
    let mut memory = Memory::default();
    loop {
        // Whether the document has changed or the interval is over, there may be something to do.
        let _ = timeout(ROUND_INTERVAL, state.changed()).await;
        if let Some(fault) = node.groups().store.fault() {
            // It can commit nothing and would lead on by its heartbeats alone: the others are to elect.
            tracing::error!(fault, "every group stops on this node");
            node.groups().stop_all().await;
            return;
        }
        let cluster = state.borrow_and_update().cluster.clone();
        node.learn(&cluster);
        if cluster.revision == 0 {
            node.found_if_alone().await;
            continue;
        }
        node.reconcile(&cluster, &mut memory).await;
    }
}

/// How a group's members differ from what they should be.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// These are to listen first.
    Listen(BTreeMap<u64, NodeInfo>),
    /// The voters are to be these; then nobody else is to listen but the rest.
    Vote(BTreeSet<u64>),
    /// These are no longer to listen.
    Forget(BTreeSet<u64>),
    /// These have other addresses now.
    Readdress(BTreeMap<u64, NodeInfo>),
}

impl Node {
    async fn reconcile(&self, cluster: &Cluster, memory: &mut Memory) {
        for group in self.groups().all() {
            let Some(raft) = self.groups().raft(group) else {
                continue;
            };
            if !raft.is_leader() {
                memory.leads_since.remove(&group);
                continue;
            }
            let since = *memory.leads_since.entry(group).or_insert_with(Instant::now);
            let planned = self.planned_leader(cluster, group, &raft);
            // Who is to lead nothing, or to leave the group, hands over first. A leader that left while it
            // leads would be followed by one whose election no lease holds back.
            let own = cluster.nodes.get(&self.node_id());
            let leads = own.is_some_and(Member::leads);
            let stays = cluster.voters(group.0).contains(&self.node_id());
            if !(leads && stays) && planned.is_some() {
                self.hand_over_as_planned(group, &raft, planned);
            } else if let Some(step) = next_step(cluster, group, &raft, self.node_id()) {
                if !self.begin_change(group) {
                    continue;
                }
                let node = self.clone();
                spawn(async move {
                    node.groups().roused(group).await;
                    let taken = timeout(CHANGE_TIMEOUT, take_step(group, &raft, step)).await;
                    if let Ok(Err(error)) = taken {
                        tracing::debug!(
                            group = name(group),
                            error,
                            "a change of membership is tried again"
                        );
                    }
                    node.end_change(group);
                });
            } else if since.elapsed() >= LEADS_AT_LEAST {
                self.hand_over_as_planned(group, &raft, planned);
            }
        }
        if memory
            .swept_at
            .is_none_or(|at| at.elapsed() >= 4 * ROUND_INTERVAL)
        {
            memory.swept_at = Some(Instant::now());
            self.give_up_groups(cluster).await;
            self.retire_nodes(cluster).await;
            self.readdress(cluster).await;
        }
    }

    /// Gives up groups that placement has moved elsewhere, once the group itself says that this node is
    /// no member any more.
    async fn give_up_groups(&self, cluster: &Cluster) {
        let Ok(held) = self.groups().held() else {
            return;
        };
        // One that a late call has started again has nothing on disk but a vote.
        let runs = |group: &GroupId| self.groups().raft(*group).is_some();
        for group in self
            .groups()
            .all()
            .filter(|group| held.contains(group) || runs(group))
        {
            if group == META_GROUP {
                continue;
            }
            let own = self.node_id();
            if cluster.voters(group.0).contains(&own) || !cluster.nodes.contains_key(&own) {
                continue;
            }
            let asked = Instant::now();
            let mut left = false;
            for other in cluster.voters(group.0) {
                if let Some(members) = self.ask_members(*other, group).await
                    && members.leads
                {
                    left = !members.voters.contains(&own) && !members.learners.contains(&own);
                    break;
                }
            }
            if left {
                match self.groups().give_up(group, asked).await {
                    Ok(true) => tracing::info!(group = name(group), "the group has left this node"),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(group = name(group), %error, "a group that has left cannot be cleared");
                    }
                }
            }
        }
    }

    async fn ask_members(&self, node: u64, group: GroupId) -> Option<Members> {
        let request = ShardRequest::Members { group: group.0 };
        let payload = codec::encode(&request);
        let call = self
            .groups()
            .peers
            .call(node, Lane::Control, Kind::Shard as u8, &payload);
        rpc::answer(call.within(MEMBERS_TIMEOUT).await).ok()
    }

    /// The leader of the meta group notes which leaving nodes hold nothing any more.
    async fn retire_nodes(&self, cluster: &Cluster) {
        if !self
            .groups()
            .raft(META_GROUP)
            .is_some_and(|raft| raft.is_leader())
        {
            return;
        }
        let leaving = cluster
            .nodes
            .iter()
            .filter(|(_, member)| member.duty == Duty::Leaving);
        for (leaving, _) in leaving {
            let mut gone = true;
            for group in self.groups().all() {
                let mut heard = false;
                for other in cluster.voters(group.0) {
                    let members = if *other == self.node_id() {
                        self.members(group).await.ok()
                    } else {
                        self.ask_members(*other, group).await
                    };
                    if let Some(members) = members.filter(|members| members.leads) {
                        heard = true;
                        gone &= !members.voters.contains(leaving);
                        // Being told of its leaving is the last the meta group does for it.
                        gone &= group == META_GROUP || !members.learners.contains(leaving);
                        break;
                    }
                }
                if !heard || !gone {
                    gone = false;
                    break;
                }
            }
            if gone {
                let change = ClusterChange::Retire { node_id: *leaving };
                match self.change_cluster(change).await {
                    Ok(_) => tracing::info!(node = leaving, "the node has left the cluster"),
                    Err(answer) => {
                        tracing::debug!(?answer, node = leaving, "a node's leaving is noted later");
                    }
                }
            }
        }
    }

    /// Who should lead a group instead of this node, if anyone should and is well.
    fn planned_leader(&self, cluster: &Cluster, group: GroupId, raft: &AnyRaft) -> Option<u64> {
        let own = self.node_id();
        let place = cluster.placement.of(group.0);
        let dc = |id: u64| cluster.nodes.get(&id).map(|member| member.info.dc.as_str());
        let leads = |id: u64| cluster.nodes.get(&id).is_some_and(Member::leads);
        let is_planned = |id: u64| match place {
            Some(place) => place.leader == Some(id),
            None => leads(id) && dc(id) == Some(&cluster.preferred_dc),
        };
        let leaves = !cluster.voters(group.0).contains(&own);
        let goes = leaves || !leads(own);
        if is_planned(own) && !goes {
            return None;
        }
        let votes = |id: u64| {
            raft.look(|metrics| {
                metrics
                    .membership_config
                    .voter_ids()
                    .any(|voter| voter == id)
            })
        };
        let can = |id: &u64| {
            *id != own && dc(*id) != Some(WITNESS_DC) && votes(*id) && self.is_well(raft, *id)
        };
        let candidates = cluster.voters(group.0).iter().copied().filter(can);
        let best = candidates.min_by_key(|id| (!is_planned(*id), !leads(*id), *id))?;
        // Who is to lead nothing does not wait for the one that should lead, nor who leaves for one that may.
        let takes = is_planned(best) || goes && leads(best) || leaves;
        takes.then_some(best)
    }

    /// Whether a node is alive and not far behind.
    pub(crate) fn is_well(&self, raft: &AnyRaft, node: u64) -> bool {
        self.groups().liveness.boot(node).is_some() && raft.look(|metrics| caught_up(metrics, node))
    }

    /// A node that came back with other addresses says so.
    async fn readdress(&self, cluster: &Cluster) {
        let own = self.node_id();
        let info = &self.groups().info;
        if cluster
            .nodes
            .get(&own)
            .is_some_and(|member| member.info != *info)
        {
            let change = ClusterChange::Readdress {
                node_id: own,
                info: info.clone(),
            };
            if let Err(MetaAnswer::Refused(why)) = self.change_cluster(change).await {
                tracing::warn!(why, "the cluster does not take this node's new addresses");
            }
        }
    }
}

fn caught_up(metrics: &openraft::RaftMetrics<crate::types::TypeConfig>, node: u64) -> bool {
    let matched = metrics
        .replication
        .as_ref()
        .and_then(|progress| *progress.get(&node)?);
    let last = metrics.last_log_index.unwrap_or(0);
    matched.is_some_and(|matched| matched.index + CAUGHT_UP_ENTRIES >= last)
}

/// The next step towards the members that a group should have. Its leader `own` votes until it has handed over.
fn next_step(cluster: &Cluster, group: GroupId, raft: &AnyRaft, own: u64) -> Option<Step> {
    let mut wanted: BTreeSet<u64> = cluster.voters(group.0).iter().copied().collect();
    if wanted.is_empty() {
        return None;
    }
    wanted.insert(own);
    // The meta group is heard by all.
    let listeners: BTreeSet<u64> = if group == META_GROUP {
        cluster
            .nodes
            .keys()
            .copied()
            .filter(|id| !wanted.contains(id))
            .collect()
    } else {
        BTreeSet::new()
    };
    raft.look(|metrics| {
        let config = &metrics.membership_config;
        let present: BTreeMap<u64, NodeInfo> = config
            .nodes()
            .map(|(id, info)| (*id, info.clone()))
            .collect();
        let known = |id: &u64| Some((*id, cluster.nodes.get(id)?.info.clone()));
        let missing: BTreeMap<u64, NodeInfo> = wanted
            .union(&listeners)
            .filter(|id| !present.contains_key(id))
            .filter_map(known)
            .collect();
        if !missing.is_empty() {
            return Some(Step::Listen(missing));
        }
        let voters: BTreeSet<u64> = config.voter_ids().collect();
        let is_joint = config.membership().get_joint_config().len() > 1;
        if voters != wanted || is_joint {
            let newcomers = wanted.difference(&voters);
            let ready = newcomers.into_iter().all(|id| caught_up(metrics, *id));
            return ready.then_some(Step::Vote(wanted));
        }
        let superfluous: BTreeSet<u64> = present
            .keys()
            .copied()
            .filter(|id| !wanted.contains(id) && !listeners.contains(id))
            .collect();
        if !superfluous.is_empty() {
            return Some(Step::Forget(superfluous));
        }
        let moved: BTreeMap<u64, NodeInfo> = present
            .iter()
            .filter_map(|(id, info)| known(id).filter(|(_, now)| now != info))
            .collect();
        (!moved.is_empty()).then_some(Step::Readdress(moved))
    })
}

async fn take_step(group: GroupId, raft: &AnyRaft, step: Step) -> Result<(), String> {
    tracing::info!(group = name(group), ?step, "changing the members");
    let changed = match step {
        Step::Listen(nodes) => {
            for (node_id, info) in nodes {
                raft.add_learner(node_id, info)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        // Who no longer votes listens until the next step, so that it hears of it.
        Step::Vote(voters) => {
            raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true)
                .await
        }
        Step::Forget(nodes) => {
            raft.change_membership(ChangeMembers::RemoveNodes(nodes), true)
                .await
        }
        Step::Readdress(nodes) => {
            raft.change_membership(ChangeMembers::SetNodes(nodes), true)
                .await
        }
    };
    changed.map_err(|error| error.to_string())
}
