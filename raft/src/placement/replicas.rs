//! The replicas of all logs within one data centre: trim what is too many, fill what is lacking, even out the rest.
//!
//! Invariant: each step changes as little as its purpose demands, so that replicas that lie well already stay.

use std::collections::{BTreeMap, BTreeSet};

use super::Centre;
use super::chains::{self, Cost, Gift};

/// The holders of each log within `centre`: `copies` of them, or all its nodes where they are fewer.
///
/// `present` are the voters of each log now, of all data centres. Of the nodes that serve, no two differ by more than one
/// replica.
pub(super) fn spread(centre: &Centre, copies: usize, present: &[&[u64]]) -> Vec<BTreeSet<u64>> {
    let here = |node: &u64| centre.serving.contains(node) || centre.draining.contains(node);
    let present: Vec<BTreeSet<u64>> = present
        .iter()
        .map(|voters| voters.iter().copied().filter(here).collect())
        .collect();
    let mut spread = Spread {
        centre,
        copies: copies.min(centre.serving.len() + centre.draining.len()),
        loads: centre.serving.iter().map(|node| (*node, 0)).collect(),
        logs: vec![BTreeSet::new(); present.len()],
        present: &present,
    };
    for (log, holders) in present.iter().enumerate() {
        for node in holders {
            spread.put(log, *node);
        }
    }
    spread.trim();
    spread.fill();
    spread.even_out();
    spread.logs
}

struct Spread<'a> {
    centre: &'a Centre,
    copies: usize,
    present: &'a [BTreeSet<u64>],
    /// The holders of each log as planned so far.
    logs: Vec<BTreeSet<u64>>,
    /// Replicas of each node that serves. What draining nodes keep is not part of the balance.
    loads: BTreeMap<u64, usize>,
}

impl Spread<'_> {
    /// Drops replicas of logs that have too many: those of draining nodes first, then those of the fullest nodes.
    fn trim(&mut self) {
        loop {
            let too_many = (0..self.logs.len()).filter(|s| self.logs[*s].len() > self.copies);
            let dropped = too_many
                .flat_map(|log| self.logs[log].iter().map(move |node| (log, *node)))
                .max_by_key(|(_, node)| (self.centre.draining.contains(node), self.load(*node)));
            match dropped {
                Some((log, node)) => self.take(log, node),
                None => return,
            }
        }
    }

    /// Gives logs that have too few to the emptiest nodes that do not hold them; to draining ones only for want of others.
    fn fill(&mut self) {
        for log in 0..self.logs.len() {
            while self.logs[log].len() < self.copies {
                let free = |node: &&u64| !self.logs[log].contains(node);
                let serving = self.centre.serving.iter().filter(free);
                let draining = self.centre.draining.iter().filter(free);
                let node = *serving
                    .min_by_key(|node| (self.load(**node), self.shared(log, **node, None)))
                    .or_else(|| draining.min_by_key(|node| self.held(**node)))
                    .expect("a log never wants more copies than the data centre has nodes");
                self.put(log, node);
            }
        }
    }

    /// Moves replicas along chains from fuller to emptier nodes until no two serving nodes differ by more than one.
    ///
    /// A node that holds more than another holds some log that the other lacks, so there is always a chain, of one move at
    /// least. Each makes the sum of the squared loads smaller, so the loop ends.
    fn even_out(&mut self) {
        while let Some(chain) = chains::cheapest(&self.loads, &self.gifts()) {
            for gift in chain {
                self.take(gift.log, gift.from);
                self.put(gift.log, gift.to);
            }
        }
    }

    /// Every replica that one serving node may give to another.
    fn gifts(&self) -> Vec<Gift> {
        let mut gifts = Vec::new();
        for (log, holders) in self.logs.iter().enumerate() {
            let (givers, takers): (Vec<u64>, Vec<u64>) =
                self.loads.keys().partition(|node| holders.contains(*node));
            for from in givers {
                gifts.extend(takers.iter().map(|to| Gift {
                    log,
                    from,
                    to: *to,
                    cost: self.cost(log, from, *to),
                }));
            }
        }
        gifts
    }

    fn cost(&self, log: usize, from: u64, to: u64) -> Cost {
        let present = &self.present[log];
        // A copy more, unless the one at `from` was to be made anyway or the one at `to` is there already.
        let copied = present.contains(&from) && !present.contains(&to);
        Cost {
            disturbed: usize::from(copied),
            gifts: 1,
            awkward: self.shared(log, to, Some(from)),
        }
    }

    /// How many logs `node` shares already with the other holders of `log`. Where this is low, many nodes take over a little
    /// when one dies, instead of one taking over everything.
    fn shared(&self, log: usize, node: u64, leaves: Option<u64>) -> usize {
        let stays = |other: &&u64| Some(**other) != leaves;
        let with = |other: &u64| {
            let both =
                |holders: &&BTreeSet<u64>| holders.contains(&node) && holders.contains(other);
            self.logs.iter().filter(both).count()
        };
        self.logs[log].iter().filter(stays).map(with).sum()
    }

    fn load(&self, node: u64) -> usize {
        self.loads.get(&node).copied().unwrap_or(0)
    }

    fn held(&self, node: u64) -> usize {
        let holds = |holders: &&BTreeSet<u64>| holders.contains(&node);
        self.logs.iter().filter(holds).count()
    }

    fn put(&mut self, log: usize, node: u64) {
        if self.logs[log].insert(node)
            && let Some(load) = self.loads.get_mut(&node)
        {
            *load += 1;
        }
    }

    fn take(&mut self, log: usize, node: u64) {
        if self.logs[log].remove(&node)
            && let Some(load) = self.loads.get_mut(&node)
        {
            *load -= 1;
        }
    }
}
