//! What lies between two placements: the moves, and whether every group keeps a quorum meanwhile.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{LogPlace, Placement};

/// A Raft group: that of the log of a number, or `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Group {
    /// The log of this number.
    Log(u16),
    /// The group of the cluster's own state.
    Meta,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(number) => write!(f, "{number}"),
            Self::Meta => f.write_str("meta"),
        }
    }
}

/// What changes in one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The group.
    pub group: Group,
    /// Nodes that get a replica, ascending.
    pub add: Vec<u64>,
    /// Nodes that lose theirs, ascending.
    pub remove: Vec<u64>,
    /// The leadership that moves: from whom, if anyone was to lead, to whom.
    pub lead: Option<(Option<u64>, u64)>,
}

/// What has to be done to come from one placement to another: the logs in order, then `meta`; groups without a change are left out.
pub fn moves(from: &Placement, to: &Placement) -> Vec<Move> {
    let mut moves = Vec::new();
    for group in groups(from, to) {
        let (before, after) = (voters(from, group), voters(to, group));
        let (led, leads) = (leader(from, group), leader(to, group));
        let change = Move {
            group,
            add: without(after, before),
            remove: without(before, after),
            lead: leads.filter(|_| led != leads).map(|next| (led, next)),
        };
        if !change.add.is_empty() || !change.remove.is_empty() || change.lead.is_some() {
            moves.push(change);
        }
    }
    moves
}

/// Whether a group with these voters can commit: a majority of them is alive. Nobody is no majority.
pub fn survives(voters: &[u64], alive: &BTreeSet<u64>) -> bool {
    let living = voters.iter().filter(|node| alive.contains(node)).count();
    living * 2 > voters.len()
}

/// The groups that a change from `present` to `after` could not be made in: their voters have no live majority now, so
/// they could not agree to it, or would have none afterwards.
pub fn would_lose_quorum(
    present: &Placement,
    after: &Placement,
    alive: &BTreeSet<u64>,
) -> Vec<Group> {
    groups(present, after)
        .filter(|group| {
            !survives(voters(present, *group), alive) || !survives(voters(after, *group), alive)
        })
        .collect()
}

fn groups(one: &Placement, other: &Placement) -> impl Iterator<Item = Group> + use<> {
    let logs = one.logs.len().max(other.logs.len());
    let logs = 0..u16::try_from(logs).expect("there are few logs");
    logs.map(Group::Log).chain(std::iter::once(Group::Meta))
}

fn voters(placement: &Placement, group: Group) -> &[u64] {
    match group {
        Group::Log(number) => log(placement, number).map_or(&[], |place| &place.voters),
        Group::Meta => &placement.meta,
    }
}

fn leader(placement: &Placement, group: Group) -> Option<u64> {
    match group {
        Group::Log(number) => log(placement, number)?.leader,
        Group::Meta => None,
    }
}

fn log(placement: &Placement, number: u16) -> Option<&LogPlace> {
    placement.logs.get(usize::from(number))
}

fn without(all: &[u64], those: &[u64]) -> Vec<u64> {
    let kept = all.iter().copied().filter(|node| !those.contains(node));
    kept.collect()
}
