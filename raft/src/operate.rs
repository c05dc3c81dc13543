//! What operators ask of the cluster, from any node: changes of its document and of its configuration, which
//! the leader of the meta group makes, and the state of every node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use qiang_engine::promotion::Promotion;
use qiang_engine::routing::{SHARDS, shard_of};
use qiang_engine::{PromotionId, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::cluster::{ClusterChange, ClusterRefusal};
use crate::groups::META_GROUP;
use crate::meta::{ConfigRefusal, ConfigVersion, MetaCommand};
use crate::node::Node;
use crate::peer::Lane;
use crate::placement::{Group, Move, moves};
use crate::rpc::{self, Introduction, Kind, MetaAnswer, MetaRequest, NodeReport, ShardRequest};
use crate::types::{NodeInfo, Outcome};

/// How long a node is asked for its state before it counts as unreachable.
const REPORT_TIMEOUT: Duration = Duration::from_millis(700);

/// How long the leader of the meta group is asked for a change.
const META_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node that is to join may take to answer.
const NEWCOMER_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause before the leader of the meta group is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a promotion's replica knows, and how far behind it may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// The promotion as of the last entry applied here; `None` if it is not known here.
    pub promotion: Option<Promotion>,
    /// The last entry applied.
    pub applied_index: u64,
    /// Entries known here to be committed and not applied yet.
    pub lag_entries: u64,
    /// How long ago this replica last heard of its leader, in milliseconds; `None` if it has not, or leads.
    pub leader_heard_ms: Option<u64>,
}

impl Node {
    /// Puts `document` in the place of version `expected` of the configuration.
    pub async fn put_config(
        &self,
        expected: u64,
        document: String,
    ) -> Result<ConfigVersion, ConfigRefusal> {
        let next = ConfigVersion {
            version: 0,
            at: self.now(),
            document,
        };
        let request = MetaRequest::PutConfig {
            expected,
            next: next.clone(),
        };
        match self.ask_meta(request).await {
            MetaAnswer::Done(version) => Ok(ConfigVersion { version, ..next }),
            MetaAnswer::Conflict(current) => Err(ConfigRefusal::Conflict { current }),
            MetaAnswer::Refused(_) | MetaAnswer::Elsewhere { .. } => {
                Err(ConfigRefusal::Unavailable)
            }
            MetaAnswer::Unknown => Err(ConfigRefusal::OutcomeUnknown),
        }
    }

    /// Changes the cluster; the revision that did.
    pub async fn change_cluster(&self, change: ClusterChange) -> Result<u64, MetaAnswer> {
        match self.ask_meta(MetaRequest::Change(change)).await {
            MetaAnswer::Done(revision) => Ok(revision),
            answer => Err(answer),
        }
    }

    /// Adds the node that listens at `address`, after making sure that it is who it is said to be.
    pub async fn add_node(
        &self,
        node_id: u64,
        address: &str,
        dc: &str,
        learner: bool,
    ) -> Result<u64, MetaAnswer> {
        let refused = |why: String| Err(MetaAnswer::Refused(why));
        let info = NodeInfo {
            peer_address: address.to_owned(),
            dc: dc.to_owned(),
            ..NodeInfo::default()
        };
        // What is wrong with the request itself is said before anybody is asked.
        let change = ClusterChange::Add {
            node_id,
            info,
            learner,
        };
        let known = self.cluster();
        if known.revision > 0
            && let Err(refusal) = known.decide(&change, &BTreeSet::new())
        {
            return refused(refusal.to_string());
        }
        let peers = &self.groups().peers;
        let asked = peers
            .ask_stranger(address, Kind::Introduce as u8, &[], NEWCOMER_TIMEOUT)
            .await;
        let (who, introduction) = match asked {
            Ok(answer) => answer,
            Err(error) => {
                return refused(format!(
                    "no node answers at {address}: {error}. Start it first, with --join and the peer address of a node of this cluster"
                ));
            }
        };
        let introduction: Introduction = match rpc::answer(Ok(introduction)) {
            Ok(introduction) => introduction,
            Err(error) => return refused(format!("what answers at {address} is no node: {error}")),
        };
        if introduction.node_id != node_id {
            return refused(format!(
                "the node at {address} is node {}, not {node_id}",
                introduction.node_id
            ));
        }
        let own = peers.credentials().who();
        if who.cluster_id != own.cluster_id {
            return refused(format!(
                "node {node_id} belongs to another cluster, {}",
                who.cluster_id
            ));
        }
        if introduction.info.dc != dc {
            return refused(format!(
                "node {node_id} says that it is in data centre {:?}, not {dc:?}",
                introduction.info.dc
            ));
        }
        let is_known = self.cluster().nodes.contains_key(&node_id);
        if !introduction.fresh && !is_known {
            return refused(format!(
                "node {node_id} holds data from an earlier membership: wipe its data directory and give it a new number"
            ));
        }
        let info = NodeInfo {
            peer_address: address.to_owned(),
            ..introduction.info
        };
        self.change_cluster(ClusterChange::Add {
            node_id,
            info,
            learner,
        })
        .await
    }

    /// What `Rebalance` would move, by shard in their order, then, as `None`, of the meta group. Shards that
    /// share a log move together.
    pub fn planned_moves(&self) -> Vec<(Option<u16>, Move)> {
        let cluster = self.cluster();
        let next = cluster.decide(&ClusterChange::Rebalance, &BTreeSet::new());
        let planned = next.map_or(Vec::new(), |next| {
            moves(&cluster.placement, &next.placement)
        });
        let sharing = self.groups().sharing;
        let by_shard = planned.into_iter().flat_map(|planned| {
            let shards: Vec<Option<u16>> = match planned.group {
                Group::Log(log) => sharing.shards_of(log).map(|shard| Some(shard.0)).collect(),
                Group::Meta => vec![None],
            };
            shards
                .into_iter()
                .map(move |shard| (shard, planned.clone()))
        });
        let mut by_shard: Vec<(Option<u16>, Move)> = by_shard.collect();
        by_shard.sort_by_key(|(shard, _)| shard.unwrap_or(SHARDS));
        by_shard
    }

    /// Every node of the cluster with its report, or none where it does not answer.
    pub async fn survey(&self) -> BTreeMap<u64, (NodeInfo, Option<NodeReport>)> {
        let cluster = self.cluster();
        let mut known: BTreeMap<u64, NodeInfo> = cluster
            .nodes
            .iter()
            .map(|(id, member)| (*id, member.info.clone()))
            .collect();
        // A node that is not, or no longer, part of the cluster still knows itself.
        known
            .entry(self.node_id())
            .or_insert_with(|| self.groups().info.clone());
        let asked = known.into_iter().map(|(id, info)| async move {
            let report = if id == self.node_id() {
                Some(self.report())
            } else {
                self.ask_node::<NodeReport>(id, Kind::Report, &(), REPORT_TIMEOUT)
                    .await
                    .ok()
            };
            (id, (info, report))
        });
        join_all(asked).await.into_iter().collect()
    }

    async fn alive(&self) -> BTreeSet<u64> {
        let survey = self.survey().await;
        let alive = survey
            .into_iter()
            .filter(|(_, (_, report))| report.is_some());
        alive.map(|(id, _)| id).collect()
    }

    pub(crate) async fn ask_node<T: DeserializeOwned>(
        &self,
        node: u64,
        kind: Kind,
        what: &impl Serialize,
        patience: Duration,
    ) -> Result<T, rpc::Error> {
        let payload = codec::encode(what);
        let call = self
            .groups()
            .peers
            .call(node, Lane::Control, kind as u8, &payload);
        rpc::answer(call.within(patience).await)
    }

    /// Has the leader of the meta group answer, wherever it is.
    async fn ask_meta(&self, request: MetaRequest) -> MetaAnswer {
        let until = Instant::now() + META_TIMEOUT;
        let mut hint = None;
        loop {
            let known = || {
                self.groups()
                    .raft(META_GROUP)?
                    .look(|metrics| metrics.current_leader)
            };
            let answer = match hint.take().or_else(known) {
                Some(leader) if leader == self.node_id() => self.answer_meta(request.clone()).await,
                Some(leader) => match self
                    .ask_node(leader, Kind::Meta, &request, META_TIMEOUT)
                    .await
                {
                    Ok(answer) => answer,
                    Err(rpc::Error::Call(crate::peer::CallError::NotSent(_))) => {
                        MetaAnswer::Elsewhere { leader: None }
                    }
                    Err(_) => MetaAnswer::Unknown,
                },
                None => MetaAnswer::Elsewhere { leader: None },
            };
            let MetaAnswer::Elsewhere { leader } = answer else {
                return answer;
            };
            if Instant::now() + LOOK_AGAIN >= until {
                return answer;
            }
            hint = leader;
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The answer to a question for the leader of the meta group.
    pub(crate) async fn answer_meta(&self, request: MetaRequest) -> MetaAnswer {
        match request {
            MetaRequest::PutConfig { expected, next } => {
                self.propose_meta(&MetaCommand::PutConfig { expected, next })
                    .await
            }
            MetaRequest::Change(change) => {
                let alive = match &change {
                    ClusterChange::Remove { .. } => self.alive().await,
                    _ => BTreeSet::new(),
                };
                loop {
                    if let Some(elsewhere) = self.meta_is_elsewhere() {
                        return elsewhere;
                    }
                    let next = match self.cluster().decide(&change, &alive) {
                        Ok(next) => next,
                        Err(ClusterRefusal::NotFounded) => {
                            return MetaAnswer::Elsewhere { leader: None };
                        }
                        Err(refusal) => return MetaAnswer::Refused(refusal.to_string()),
                    };
                    match self.propose_meta(&MetaCommand::PutCluster { next }).await {
                        // Another change came first: what it has done is looked at anew.
                        MetaAnswer::Conflict(_) => sleep(LOOK_AGAIN).await,
                        answer => return answer,
                    }
                }
            }
        }
    }

    /// Where the meta group is led, if not here with everything applied.
    fn meta_is_elsewhere(&self) -> Option<MetaAnswer> {
        let Some(raft) = self.groups().meta() else {
            return Some(MetaAnswer::Elsewhere { leader: None });
        };
        let leads = raft.is_leader() && crate::group::leads_caught_up(&raft);
        let leader = || {
            self.groups()
                .raft(META_GROUP)?
                .look(|metrics| metrics.current_leader)
        };
        (!leads).then(|| MetaAnswer::Elsewhere {
            leader: leader().filter(|leader| *leader != self.node_id()),
        })
    }

    async fn propose_meta(&self, command: &MetaCommand) -> MetaAnswer {
        let Some(raft) = self.groups().meta() else {
            return MetaAnswer::Elsewhere { leader: None };
        };
        self.groups().roused(META_GROUP).await;
        match raft.client_write(command.encode()).await {
            Ok(written) => match written.data {
                Outcome::Done(number) => MetaAnswer::Done(number),
                Outcome::Conflict(current) => MetaAnswer::Conflict(current),
            },
            Err(error) => match error.forward_to_leader() {
                Some(forward) => MetaAnswer::Elsewhere {
                    leader: forward.leader_id,
                },
                None => MetaAnswer::Unknown,
            },
        }
    }

    /// The first node of a new cluster writes the cluster's first revision, once all its groups run.
    pub(crate) async fn found_if_alone(&self) {
        let own = self.node_id();
        let Some(raft) = self.groups().raft(META_GROUP) else {
            return;
        };
        let alone = raft.look(|metrics| metrics.membership_config.voter_ids().eq([own]));
        if !alone || self.meta_is_elsewhere().is_some() || self.cluster().revision > 0 {
            return;
        }
        for group in self.groups().all() {
            let begun = match self.groups().start(group).await {
                Ok(_) => self.groups().lead_alone(group, true).await,
                Err(error) => Err(error),
            };
            if let Err(error) = begun {
                tracing::error!(%error, "a group of the new cluster does not begin");
                return;
            }
        }
        let info = self.groups().info.clone();
        if let Err(answer) = self
            .change_cluster(ClusterChange::Found {
                node_id: own,
                info,
                logs: self.groups().sharing.logs(),
            })
            .await
        {
            tracing::debug!(?answer, "the cluster's first revision is not written yet");
        }
    }

    /// A promotion as some replica has it: this node's, or, where it has none, another's.
    pub async fn stale_promotion(&self, promotion_id: &PromotionId) -> Option<Stale> {
        let shard = shard_of(promotion_id);
        if self.groups().of(shard).raft().is_some() {
            return self.stale_here(promotion_id);
        }
        let voters = self.cluster().voters(shard.0).to_vec();
        for node in voters {
            let request = ShardRequest::Stale {
                promotion_id: promotion_id.clone(),
            };
            if let Ok(Some(stale)) = self
                .ask_node(node, Kind::Shard, &request, REPORT_TIMEOUT)
                .await
            {
                return Some(stale);
            }
        }
        None
    }

    /// A promotion as this node's replica has it; `None` where it has none.
    pub(crate) fn stale_here(&self, promotion_id: &PromotionId) -> Option<Stale> {
        let shard = shard_of(promotion_id);
        let group = self.groups().of(shard);
        let raft = self.groups().raft(group.id)?;
        let applied_index = *group.applied.borrow();
        let committed = raft.look(|metrics| {
            metrics
                .local_committed
                .map_or(0, |committed| committed.index)
        });
        let heard = self.groups().heard(group.id).filter(|_| !raft.is_leader());
        let heard = heard.map(|heard| u64::try_from(heard.as_millis()).unwrap_or(u64::MAX));
        Some(Stale {
            promotion: self.board().get(promotion_id),
            applied_index,
            lag_entries: committed.saturating_sub(applied_index),
            leader_heard_ms: heard,
        })
    }
}
