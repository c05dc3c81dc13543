//! The cluster as it should be: its nodes, what each is to be used for, and where every group's replicas
//! belong. One small document, kept by the meta group; every node brings about its own part of it.
//!
//! Invariant: the document only changes as a whole, from the revision it was decided on; so two operators
//! at once are one after the other, and the second is judged by what the first has done.

use std::collections::{BTreeMap, BTreeSet};

use qiang_engine::routing::SHARDS;
use serde::{Deserialize, Serialize};

use crate::placement::{
    DcError, Duty, Group, Placement, Site, WITNESS_DC, check_dc, plan, would_lose_quorum,
};
use crate::types::NodeInfo;

/// Nodes of a cluster at most.
pub const NODES_MAX: usize = 64;

/// A node that belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its addresses, data centre and name.
    pub info: NodeInfo,
    /// What it is to be used for.
    pub duty: Duty,
}

impl Member {
    /// Whether it is one that leads.
    pub fn leads(&self) -> bool {
        self.duty == Duty::Serves && self.info.dc != WITNESS_DC
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cluster {
    /// Grows by one with every change; 0 before the first.
    pub revision: u64,
    /// Its nodes by number.
    pub nodes: BTreeMap<u64, Member>,
    /// Numbers of nodes that were removed; they are never used again, because an empty node of a known
    /// number would have forgotten whom it voted for.
    pub removed: BTreeSet<u64>,
    /// The data centre whose nodes lead.
    pub preferred_dc: String,
    /// Where every group's replicas belong and who should lead.
    pub placement: Placement,
}

/// A change that an operator, or a node on its own, asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterChange {
    /// The first node begins the cluster.
    Found {
        /// The node.
        node_id: u64,
        /// What others know of it.
        info: NodeInfo,
        /// How many logs the shards share.
        logs: u16,
    },
    /// A node joins.
    Add {
        /// The node.
        node_id: u64,
        /// What others know of it.
        info: NodeInfo,
        /// Only to listen, until it is added without this.
        learner: bool,
    },
    /// A node comes back with other addresses.
    Readdress {
        /// The node.
        node_id: u64,
        /// What others know of it now.
        info: NodeInfo,
    },
    /// A node is to lead nothing, or may lead again.
    Drain {
        /// The node.
        node_id: u64,
        /// Whether it is to lead nothing.
        drain: bool,
    },
    /// A node is to give up everything and leave.
    Remove {
        /// The node.
        node_id: u64,
        /// Also if a group could lose its quorum.
        force: bool,
    },
    /// A node that was leaving holds nothing any more.
    Retire {
        /// The node.
        node_id: u64,
    },
    /// All leaders to the nodes of a data centre.
    PreferDc {
        /// The data centre.
        dc: String,
    },
    /// The leader of one shard, and of those that share its log, to one node.
    Lead {
        /// The shard.
        shard: u16,
        /// The node.
        node_id: u64,
    },
    /// Replicas and leaders evenly over all nodes.
    Rebalance,
    /// Only one data centre is left, after recovery.
    Recovered {
        /// The data centre.
        dc: String,
    },
}

/// Why a change cannot be; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterRefusal {
    /// The number is taken.
    #[error("node {0} is already a member of the cluster")]
    Duplicate(u64),
    /// The number was used before.
    #[error("node {0} was a member and was removed: a number is never used twice, choose another")]
    UsedBefore(u64),
    /// No such node.
    #[error("the cluster has no node {0}")]
    UnknownNode(u64),
    /// No such shard.
    #[error("there is no shard {0}: shards are numbered 0 to {max}", max = SHARDS - 1)]
    UnknownShard(u16),
    /// No such data centre, or one too many.
    #[error(transparent)]
    Dc(#[from] DcError),
    /// No node of this data centre can lead.
    #[error("no node of data centre {0:?} can lead")]
    NoLeaders(String),
    /// Another node has the address.
    #[error("node {node_id} already has the address {address}")]
    AddressTaken {
        /// The node that has it.
        node_id: u64,
        /// The address.
        address: String,
    },
    /// The node cannot lead the shard.
    #[error("node {node_id} cannot lead shard {shard}: it {why}")]
    CannotLead {
        /// The shard.
        shard: u16,
        /// The node.
        node_id: u64,
        /// Why not.
        why: &'static str,
    },
    /// Groups would be left without a living majority.
    #[error(
        "removing node {node_id} would leave {} of the groups without a quorum of living nodes ({}); start the nodes that are down first, or use --force",
        .groups.len(), name_groups(.groups)
    )]
    LosesQuorum {
        /// The node.
        node_id: u64,
        /// The groups.
        groups: Vec<Group>,
    },
    /// It is the only node.
    #[error("node {0} is the only one that holds replicas: add another first")]
    LastNode(u64),
    /// More than are supported.
    #[error("the cluster has {NODES_MAX} nodes, which is the most")]
    TooManyNodes,
    /// The first node has not written the first revision yet.
    #[error("the cluster is just being founded: try again in a moment")]
    NotFounded,
    /// It was done already, or is not needed.
    #[error("{0}")]
    Nothing(String),
}

fn name_groups(groups: &[Group]) -> String {
    let named: Vec<String> = groups.iter().take(3).map(ToString::to_string).collect();
    let more = if groups.len() > 3 { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}

impl Cluster {
    /// Decides a change; `alive` are the nodes that answer now. The result is the next revision.
    ///
    /// # Errors
    /// See [`ClusterRefusal`].
    pub fn decide(
        &self,
        change: &ClusterChange,
        alive: &BTreeSet<u64>,
    ) -> Result<Cluster, ClusterRefusal> {
        if self.revision == 0 && !matches!(change, ClusterChange::Found { .. }) {
            return Err(ClusterRefusal::NotFounded);
        }
        let mut next = self.clone();
        next.revision += 1;
        match change {
            ClusterChange::Found {
                node_id,
                info,
                logs,
            } => {
                if !self.nodes.is_empty() {
                    return Err(ClusterRefusal::Nothing(
                        "the cluster exists already".to_owned(),
                    ));
                }
                next.preferred_dc.clone_from(&info.dc);
                next.placement = Placement::unplaced(usize::from(*logs));
                next.join(*node_id, info, Duty::Serves);
            }
            ClusterChange::Add {
                node_id,
                info,
                learner,
            } => {
                self.check_newcomer(*node_id, info)?;
                next.join(
                    *node_id,
                    info,
                    if *learner { Duty::Spare } else { Duty::Serves },
                );
            }
            ClusterChange::Readdress { node_id, info } => {
                let member = next.member(*node_id)?;
                if member.info == *info {
                    return Err(ClusterRefusal::Nothing(format!(
                        "node {node_id} is known by these addresses"
                    )));
                }
                member.info = info.clone();
                return Ok(next);
            }
            ClusterChange::Drain { node_id, drain } => next.drain(*node_id, *drain)?,
            ClusterChange::Remove { node_id, force } => {
                next.member(*node_id)?.duty = Duty::Leaving;
                if !next
                    .nodes
                    .values()
                    .any(|member| matches!(member.duty, Duty::Serves | Duty::NoLeading))
                {
                    return Err(ClusterRefusal::LastNode(*node_id));
                }
                next.replan();
                let groups = would_lose_quorum(&self.placement, &next.placement, alive);
                if !groups.is_empty() && !force {
                    return Err(ClusterRefusal::LosesQuorum {
                        node_id: *node_id,
                        groups,
                    });
                }
            }
            ClusterChange::Retire { node_id } => {
                next.member(*node_id)?;
                next.nodes.remove(node_id);
                next.removed.insert(*node_id);
                return Ok(next);
            }
            ClusterChange::PreferDc { dc } => {
                let leads = |member: &Member| member.info.dc == *dc && member.duty == Duty::Serves;
                if dc == WITNESS_DC || !self.nodes.values().any(leads) {
                    return Err(ClusterRefusal::NoLeaders(dc.clone()));
                }
                next.preferred_dc.clone_from(dc);
            }
            ClusterChange::Lead { shard, node_id } => {
                next.lead(*shard, *node_id)?;
                return Ok(next);
            }
            ClusterChange::Rebalance => {}
            ClusterChange::Recovered { dc } => {
                let nodes = self.nodes.clone().into_iter();
                let (kept, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    nodes.partition(|(_, member)| member.info.dc == *dc);
                next.nodes = kept;
                next.removed.extend(lost.keys());
                next.preferred_dc.clone_from(dc);
            }
        }
        next.replan();
        let unchanged = Cluster {
            revision: next.revision,
            ..self.clone()
        };
        if matches!(
            change,
            ClusterChange::Rebalance | ClusterChange::PreferDc { .. }
        ) && next == unchanged
        {
            return Err(ClusterRefusal::Nothing(
                "everything is where it should be".to_owned(),
            ));
        }
        Ok(next)
    }

    /// What the planner is told of the nodes.
    pub fn sites(&self) -> Vec<Site> {
        let site = |(id, member): (&u64, &Member)| Site {
            id: *id,
            dc: member.info.dc.clone(),
            duty: member.duty,
        };
        self.nodes.iter().map(site).collect()
    }

    /// The voters that a shard, or a group, should have; past the shards' numbers, those of the meta group.
    pub fn voters(&self, number: u16) -> &[u64] {
        match self.placement.of(number) {
            Some(place) => &place.voters,
            None => &self.placement.meta,
        }
    }

    fn replan(&mut self) {
        self.placement = plan(&self.sites(), &self.placement, &self.preferred_dc);
    }

    fn member(&mut self, node_id: u64) -> Result<&mut Member, ClusterRefusal> {
        self.nodes
            .get_mut(&node_id)
            .ok_or(ClusterRefusal::UnknownNode(node_id))
    }

    fn join(&mut self, node_id: u64, info: &NodeInfo, duty: Duty) {
        let info = info.clone();
        self.nodes.insert(node_id, Member { info, duty });
    }

    fn check_newcomer(&self, node_id: u64, info: &NodeInfo) -> Result<(), ClusterRefusal> {
        if self.removed.contains(&node_id) {
            return Err(ClusterRefusal::UsedBefore(node_id));
        }
        match self.nodes.get(&node_id) {
            // A learner that is to serve from now on.
            Some(known) if known.duty == Duty::Spare && known.info.dc == info.dc => return Ok(()),
            Some(_) => return Err(ClusterRefusal::Duplicate(node_id)),
            None => {}
        }
        let taken = self
            .nodes
            .iter()
            .find(|(_, member)| member.info.peer_address == info.peer_address);
        if let Some((other, _)) = taken {
            return Err(ClusterRefusal::AddressTaken {
                node_id: *other,
                address: info.peer_address.clone(),
            });
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(ClusterRefusal::TooManyNodes);
        }
        Ok(check_dc(&self.sites(), &info.dc)?)
    }

    fn drain(&mut self, node_id: u64, drain: bool) -> Result<(), ClusterRefusal> {
        let member = self.member(node_id)?;
        let (from, to) = if drain {
            (Duty::Serves, Duty::NoLeading)
        } else {
            (Duty::NoLeading, Duty::Serves)
        };
        if member.duty != from {
            let state = match member.duty {
                Duty::Serves => "is not draining",
                Duty::NoLeading => "is draining already",
                Duty::Leaving => "is leaving",
                Duty::Spare => "is a learner, which leads nothing",
            };
            return Err(ClusterRefusal::Nothing(format!("node {node_id} {state}")));
        }
        member.duty = to;
        Ok(())
    }

    fn lead(&mut self, shard: u16, node_id: u64) -> Result<(), ClusterRefusal> {
        let member = self.member(node_id)?.clone();
        let place = self.placement.of_mut(shard);
        let place = place.ok_or(ClusterRefusal::UnknownShard(shard))?;
        let why = match member.duty {
            _ if member.info.dc == WITNESS_DC => Some("is a witness"),
            _ if !place.voters.contains(&node_id) => Some("holds no replica of it"),
            Duty::NoLeading => Some("is draining"),
            Duty::Leaving => Some("is leaving"),
            Duty::Serves | Duty::Spare => None,
        };
        if let Some(why) = why {
            return Err(ClusterRefusal::CannotLead {
                shard,
                node_id,
                why,
            });
        }
        place.leader = Some(node_id);
        Ok(())
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
