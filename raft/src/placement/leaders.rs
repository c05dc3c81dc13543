//! Who should lead each log, given its voters.
//!
//! Invariant: no leadership could be handed on, by way of whatever other nodes, to make two nodes' numbers more equal. Where
//! every log has the same number of serving voters in the leading data centre and these hold the replicas evenly, that
//! means a difference of at most one.

use std::collections::{BTreeMap, BTreeSet};

use super::Centre;
use super::chains::{self, Cost, Gift};

/// The leader of each log; a present one stays where it may lead and the balance allows it.
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

/// How willingly each node is made a leader, the lower the better. Witnesses have no rank: none is ever to lead.
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
    /// Who may lead each log.
    candidates: Vec<BTreeSet<u64>>,
    present: &'a [Option<u64>],
    chosen: Vec<Option<u64>>,
    /// Logs led by each node that may lead any.
    loads: BTreeMap<u64, usize>,
}

impl Leaders<'_> {
    fn keep(&mut self) {
        for (log, leader) in self.present.iter().enumerate() {
            if let Some(leader) = leader.filter(|leader| self.candidates[log].contains(leader)) {
                self.set(log, leader);
            }
        }
    }

    fn appoint(&mut self) {
        for log in 0..self.chosen.len() {
            let emptiest = self.candidates[log]
                .iter()
                .min_by_key(|node| self.loads[*node])
                .filter(|_| self.chosen[log].is_none());
            if let Some(emptiest) = emptiest.copied() {
                self.set(log, emptiest);
            }
        }
    }

    fn even_out(&mut self) {
        while let Some(chain) = chains::cheapest(&self.loads, &self.gifts()) {
            for gift in chain {
                self.set(gift.log, gift.to);
            }
        }
    }

    /// Every leadership that one candidate may hand to another.
    fn gifts(&self) -> Vec<Gift> {
        let mut gifts = Vec::new();
        for (log, candidates) in self.candidates.iter().enumerate() {
            let Some(from) = self.chosen[log] else {
                continue;
            };
            gifts.extend(candidates.iter().filter(|to| **to != from).map(|to| Gift {
                log,
                from,
                to: *to,
                cost: Cost {
                    disturbed: usize::from(self.present[log] == Some(from)),
                    gifts: 1,
                    awkward: 0,
                },
            }));
        }
        gifts
    }

    fn set(&mut self, log: usize, leader: u64) {
        if let Some(before) = self.chosen[log].replace(leader) {
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
