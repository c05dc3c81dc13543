//! Evening out by chains: one node gives a unit to the next, that one another unit to the one after it, and so on.
//!
//! Replicas and leaderships are both spread this way. Only the ends of a chain change their numbers, by one each.
//!
//! Invariant: as long as numbers can be made more equal at all there is a chain that does it (the augmenting paths of matching
//! theory), so a search that finds none has proved the spread the best there is.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A unit of `log` that `from` may give to `to`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gift {
    pub log: usize,
    pub from: u64,
    pub to: u64,
    pub cost: Cost,
}

/// What speaks against a gift or a chain of them, the weightiest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Units that would leave the place where they are now.
    pub disturbed: usize,
    /// Number of gifts.
    pub gifts: usize,
    /// How badly it suits otherwise.
    pub awkward: usize,
}

impl Cost {
    fn plus(self, other: Self) -> Self {
        Self {
            disturbed: self.disturbed + other.disturbed,
            gifts: self.gifts + other.gifts,
            awkward: self.awkward + other.awkward,
        }
    }
}

/// The cheapest chain from some node to another that has at least two units fewer; among equals the one that levels the most.
///
/// The gifts of a chain can be made in any order: no node is in it twice. None where no such chain exists.
pub(super) fn cheapest(loads: &BTreeMap<u64, usize>, gifts: &[Gift]) -> Option<Vec<Gift>> {
    let mut best = None;
    for (from, high) in loads {
        let reached = reach(*from, gifts);
        let lower = loads.iter().filter(|(_, low)| **low + 2 <= *high);
        for (to, low) in lower {
            if let Some((cost, _)) = reached.get(to) {
                let found = ((*cost, Reverse(high - low)), *from, *to);
                if best.is_none_or(|best| found < best) {
                    best = Some(found);
                }
            }
        }
    }
    let (_, from, to) = best?;
    let reached = reach(from, gifts);
    let mut chain = Vec::new();
    let mut node = to;
    while node != from {
        let gift = reached[&node].1;
        chain.push(gift);
        node = gift.from;
    }
    Some(chain)
}

/// The cheapest way to each node that gifts lead to from `start`, and its last gift: the algorithm of Bellman and Ford.
/// Every gift costs something, so that no way goes through a node twice.
fn reach(start: u64, gifts: &[Gift]) -> BTreeMap<u64, (Cost, Gift)> {
    let mut reached: BTreeMap<u64, (Cost, Gift)> = BTreeMap::new();
    loop {
        let mut better = false;
        for gift in gifts.iter().filter(|gift| gift.to != start) {
            let so_far = if gift.from == start {
                Cost::default()
            } else if let Some((cost, _)) = reached.get(&gift.from) {
                *cost
            } else {
                continue;
            };
            let cost = so_far.plus(gift.cost);
            if reached.get(&gift.to).is_none_or(|(known, _)| cost < *known) {
                reached.insert(gift.to, (cost, *gift));
                better = true;
            }
        }
        if !better {
            return reached;
        }
    }
}
