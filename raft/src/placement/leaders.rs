//! Who should lead each shard, given its voters.
//!
//! Invariant: no leadership could be handed on, by way of whatever other nodes, to make two nodes' numbers more equal. Where
//! every shard has the same number of serving voters in the leading data centre and these hold the replicas evenly, that
//! means a difference of at most one.

use std::collections::{BTreeMap, BTreeSet};

use super::Centre;
use super::chains::{self, Cost, Gift};

/// The leader of each shard; a present one stays where it may lead and the balance allows it.
pub(super) fn choose(
    centres: &BTreeMap<&str, Centre>,
    preferred_dc: &str,
    voters: &[BTreeSet<u64>],
    present: &[Option<u64>],
) -> Vec<Option<u64>> {
    let ranks = ranks(centres, preferred_dc);
    let mut leaders = Leaders {
        candidates: voters
            .iter()
            .map(|voters| best_ranked(&ranks, voters))
            .collect(),
        loads: ranks.keys().map(|node| (*node, 0)).collect(),
        chosen: vec![None; voters.len()],
        present,
    };
    leaders.keep();
    leaders.appoint();
    leaders.even_out();
    leaders.chosen
}

/// How willingly each node is made a leader, the lower the better. Witnesses have no rank: they never lead.
fn ranks(centres: &BTreeMap<&str, Centre>, preferred_dc: &str) -> BTreeMap<u64, u8> {
    let mut by_preference = std::iter::once(preferred_dc)
        .chain(centres.keys().copied())
        .filter(|dc| centres.contains_key(dc));
    let leading_dc = by_preference
        .clone()
        .find(|dc| !centres[dc].serving.is_empty())
        .or_else(|| by_preference.next());
    let mut ranks = BTreeMap::new();
    for (dc, centre) in centres {
        let away = u8::from(Some(*dc) != leading_dc);
        ranks.extend(centre.serving.iter().map(|node| (*node, away)));
        ranks.extend(centre.draining.iter().map(|node| (*node, 2 + away)));
    }
    ranks
}

/// Those of `voters` with the best rank among them.
fn best_ranked(ranks: &BTreeMap<u64, u8>, voters: &BTreeSet<u64>) -> BTreeSet<u64> {
    let best = voters.iter().filter_map(|node| ranks.get(node)).min();
    let is_best = |node: &&u64| best.is_some() && ranks.get(*node) == best;
    voters.iter().filter(is_best).copied().collect()
}

struct Leaders<'a> {
    /// Who may lead each shard.
    candidates: Vec<BTreeSet<u64>>,
    present: &'a [Option<u64>],
    chosen: Vec<Option<u64>>,
    /// Shards led by each node that may lead any.
    loads: BTreeMap<u64, usize>,
}

impl Leaders<'_> {
    fn keep(&mut self) {
        for (shard, leader) in self.present.iter().enumerate() {
            if let Some(leader) = leader.filter(|leader| self.candidates[shard].contains(leader)) {
                self.set(shard, leader);
            }
        }
    }

    fn appoint(&mut self) {
        for shard in 0..self.chosen.len() {
            let emptiest = self.candidates[shard]
                .iter()
                .min_by_key(|node| self.loads[*node])
                .filter(|_| self.chosen[shard].is_none());
            if let Some(emptiest) = emptiest.copied() {
                self.set(shard, emptiest);
            }
        }
    }

    fn even_out(&mut self) {
        while let Some(chain) = chains::cheapest(&self.loads, &self.gifts()) {
            for gift in chain {
                self.set(gift.shard, gift.to);
            }
        }
    }

    /// Every leadership that one candidate may hand to another.
    fn gifts(&self) -> Vec<Gift> {
        let mut gifts = Vec::new();
        for (shard, candidates) in self.candidates.iter().enumerate() {
            let Some(from) = self.chosen[shard] else {
                continue;
            };
            gifts.extend(candidates.iter().filter(|to| **to != from).map(|to| Gift {
                shard,
                from,
                to: *to,
                cost: Cost {
                    disturbed: usize::from(self.present[shard] == Some(from)),
                    gifts: 1,
                    awkward: 0,
                },
            }));
        }
        gifts
    }

    fn set(&mut self, shard: usize, leader: u64) {
        if let Some(before) = self.chosen[shard].replace(leader) {
            *self.load(before) -= 1;
        }
        *self.load(leader) += 1;
    }

    fn load(&mut self, node: u64) -> &mut usize {
        self.loads
            .get_mut(&node)
            .expect("every candidate has a rank and thereby a load")
    }
}
