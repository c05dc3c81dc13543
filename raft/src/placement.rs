//! Which node holds which replica, and who should lead: a pure function of the nodes and of where everything is now.
//!
//! No IO, no clock, no randomness: the same sites and the same present placement give the same plan on every node.
//!
//! Invariants of a plan: with two data centres each log has two replicas in each, so that its majority spans both;
//! replicas are spread evenly over the serving nodes of a data centre and leaders over those of the preferred one; and
//! a replica stays where it is unless its node's duty or the balance demands otherwise. A plan of a plan is that plan.

mod chains;
mod change;
mod leaders;
#[cfg(test)]
mod properties;
mod replicas;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use qiang_engine::routing::SHARDS;
use serde::{Deserialize, Serialize};

pub use change::{Group, Move, moves, survives, would_lose_quorum};

/// The data centre whose nodes vote in every group and are never to lead: the fifth vote that makes failover automatic.
pub const WITNESS_DC: &str = "witness";

/// How many data centres hold replicas, witnesses apart: the shape of two and two has no room for a third.
pub const DCS_MAX: usize = 2;

/// Replicas of a group in each of two data centres: a majority, three of four, then always spans both.
const REPLICAS_PER_DC: usize = 2;

/// Replicas of a group where there is one data centre only: one node may die.
const REPLICAS_ALONE: usize = 3;

/// A node as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The node; no two sites have the same.
    pub id: u64,
    /// Its data centre, or [`WITNESS_DC`].
    pub dc: String,
    /// What it is to be used for.
    pub duty: Duty,
}

/// What a node is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Duty {
    /// Holds replicas and leads.
    Serves,
    /// Is draining: keeps its replicas, gets new ones only where nobody else can take them, and leads nothing if anyone else can.
    NoLeading,
    /// Is going away: gets rid of everything, once another node can hold it.
    Leaving,
    /// Is a learner: gets no replica.
    Spare,
}

impl Duty {
    fn holds_replicas(self) -> bool {
        matches!(self, Self::Serves | Self::NoLeading)
    }
}

/// Where every group's voters are and who should lead.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    /// Of each log that shards share, by its number: the shards whose numbers leave it as the remainder.
    pub logs: Vec<LogPlace>,
    /// The voters of the meta group, ascending; its leader is not planned.
    pub meta: Vec<u64>,
}

impl Placement {
    /// Where the shard of this number is, or the group of the log of this number; nothing for other numbers.
    pub fn of(&self, number: u16) -> Option<&LogPlace> {
        self.logs.get(usize::from(self.log_of(number)?))
    }

    /// The same, to change it.
    pub fn of_mut(&mut self, number: u16) -> Option<&mut LogPlace> {
        let log = self.log_of(number)?;
        self.logs.get_mut(usize::from(log))
    }

    /// The voters of every group, one group after the other.
    pub fn voters(&self) -> impl Iterator<Item = &u64> {
        let of_logs = self.logs.iter().flat_map(|log| &log.voters);
        of_logs.chain(&self.meta)
    }

    /// The log of the shard of this number; nothing for other numbers, or where nothing is placed.
    pub fn log_of(&self, number: u16) -> Option<u16> {
        let logs = u16::try_from(self.logs.len()).ok()?;
        let is_shard = number < SHARDS && logs > 0;
        is_shard.then(|| number % logs)
    }

    /// A placement of so many logs that nobody holds yet.
    pub fn unplaced(logs: usize) -> Self {
        Self {
            logs: vec![LogPlace::default(); logs],
            meta: Vec::new(),
        }
    }
}

/// Where one log, and thereby the shards that share it, is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogPlace {
    /// Its voters, ascending.
    pub voters: Vec<u64>,
    /// Who should lead it; none where no voter may.
    pub leader: Option<u64>,
}

/// Why a node cannot join in a data centre.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DcError {
    /// The name is not well-formed.
    #[error("the data centre {dc:?} {source}")]
    Malformed {
        /// The name given.
        dc: String,
        /// What is wrong with it.
        source: qiang_engine::ids::IdError,
    },
    /// It would be a third one.
    #[error(
        "the data centre {dc:?} would be a third one: this cluster has {known:?}, and {WITNESS_DC:?} for nodes that \
         only vote; use one of these"
    )]
    Third {
        /// The name given.
        dc: String,
        /// The two that hold replicas.
        known: Vec<String>,
    },
}

/// Checks that a node of data centre `dc` can join `sites`.
pub fn check_dc(sites: &[Site], dc: &str) -> Result<(), DcError> {
    qiang_engine::ids::check_id(dc).map_err(|source| DcError::Malformed {
        dc: dc.to_owned(),
        source,
    })?;
    let known: BTreeSet<&str> = sites.iter().map(|site| site.dc.as_str()).collect();
    let known: Vec<String> = known
        .into_iter()
        .filter(|known| *known != WITNESS_DC)
        .map(str::to_owned)
        .collect();
    if dc == WITNESS_DC || known.len() < DCS_MAX || known.iter().any(|known| known == dc) {
        return Ok(());
    }
    Err(DcError::Third {
        dc: dc.to_owned(),
        known,
    })
}

/// Plans where the replicas of all groups should be and who should lead each log.
///
/// `present` gives the number of logs and what is to be moved as little as possible. With two data centres every
/// group gets two replicas in each, with one data centre three, fewer where there are fewer nodes; each node of
/// [`WITNESS_DC`] votes in every group besides.
///
/// Within a data centre the numbers of replicas of its serving nodes differ by at most one. So do the numbers of logs
/// led in `preferred_dc` (or in another one, where that has no serving node) as long as none of its nodes is draining: a
/// log that a draining node holds has fewer nodes to choose from, and no replica moves for that reason alone.
///
/// Where no node at all may hold a replica, everything stays as it is: a group never loses its last voters.
pub fn plan(sites: &[Site], present: &Placement, preferred_dc: &str) -> Placement {
    let (centres, witnesses) = members(sites);
    if centres.is_empty() {
        return present.clone();
    }
    let copies = if centres.len() == 1 {
        REPLICAS_ALONE
    } else {
        REPLICAS_PER_DC
    };

    let present_voters: Vec<&[u64]> = present
        .logs
        .iter()
        .map(|place| place.voters.as_slice())
        .collect();
    let mut voters = vec![witnesses.clone(); present.logs.len()];
    let mut meta = witnesses;
    for centre in centres.values() {
        let spread = replicas::spread(centre, copies, &present_voters);
        for (voters, here) in voters.iter_mut().zip(spread) {
            voters.extend(here);
        }
        let only_meta = replicas::spread(centre, copies, &[&present.meta]);
        meta.extend(only_meta.into_iter().flatten());
    }

    let present_leaders: Vec<Option<u64>> = present.logs.iter().map(|place| place.leader).collect();
    let leaders = leaders::choose(&centres, preferred_dc, &voters, &present_leaders);
    let logs = voters.into_iter().zip(leaders);
    Placement {
        logs: logs
            .map(|(voters, leader)| LogPlace {
                voters: voters.into_iter().collect(),
                leader,
            })
            .collect(),
        meta: meta.into_iter().collect(),
    }
}

/// The nodes of one data centre that may hold replicas.
#[derive(Debug, Default)]
struct Centre {
    serving: BTreeSet<u64>,
    draining: BTreeSet<u64>,
}

/// The data centres that can hold replicas, by name, and the witnesses.
fn members(sites: &[Site]) -> (BTreeMap<&str, Centre>, BTreeSet<u64>) {
    let mut centres: BTreeMap<&str, Centre> = BTreeMap::new();
    let mut witnesses = BTreeSet::new();
    for site in sites.iter().filter(|site| site.duty.holds_replicas()) {
        if site.dc == WITNESS_DC {
            witnesses.insert(site.id);
            continue;
        }
        let centre = centres.entry(&site.dc).or_default();
        if site.duty == Duty::Serves {
            centre.serving.insert(site.id);
        } else {
            centre.draining.insert(site.id);
        }
    }
    (centres, witnesses)
}
