//! Which calls are worth trying next.
//!
//! Invariant: a call is left out only where another one is tried that leads to success whenever it does. The argument is always
//! that of exchange: in an order of calls that uses the one left out first and the other one later, the two can be
//! swapped, because nothing in between can tell them apart.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use super::model::{Kind, Standing};
use super::state::State;

impl State<'_> {
    /// The calls to try that fit and change the state, the best last: grants, whose answers name what remained, then returns, then calls
    /// of unknown fate.
    pub fn choices(&self) -> Vec<usize> {
        let fits = |call: &usize| self.standing(*call) == Standing::Effect;
        let fitting: Vec<usize> = self.open().filter(fits).collect();
        let mut choices = self.unknown_grabs(&fitting);
        choices.extend(self.returns(&fitting));
        choices.extend(self.grants(&fitting));
        choices
    }

    /// Grants that fit now and ask for the same quantity saw the same number: the one with the earliest deadline stands for all,
    /// unless another call of its order may come before its deadline.
    fn grants(&self, fitting: &[usize]) -> Vec<usize> {
        let granted = |call: &usize| self.item(*call).kind == Kind::Granted;
        let mut grants: Vec<usize> = fitting.iter().copied().filter(granted).collect();
        grants.sort_by_key(|call| self.item(*call).completed_ns);
        let mut quantities = HashSet::new();
        grants.retain(|call| {
            let order = &self.model.orders[self.item(*call).order];
            order.looked_at_early || quantities.insert(order.quantity)
        });
        grants.reverse();
        grants
    }

    /// Of orders of one quantity that nobody will look at any more, the one that has to be given back first stands for all.
    fn returns(&self, fitting: &[usize]) -> Vec<usize> {
        // One call for each order: a known one, and only otherwise one of unknown fate, which would have the same effect.
        let mut of_order: BTreeMap<usize, usize> = BTreeMap::new();
        for call in fitting {
            let item = self.item(*call);
            match item.kind {
                Kind::Returned => {
                    of_order.insert(item.order, *call);
                }
                Kind::MaybeReturned => {
                    of_order.entry(item.order).or_insert(*call);
                }
                _ => {}
            }
        }
        let mut orders: Vec<usize> = of_order.keys().copied().collect();
        orders.sort_by_key(|order| {
            let deadline = self.model.orders[*order].returned_by_ns;
            (deadline.is_none(), deadline)
        });
        let mut quantities = HashSet::new();
        orders.retain(|order| {
            self.sightings_left[*order] > 0 || quantities.insert(self.model.orders[*order].quantity)
        });
        orders.sort_by_key(|order| Reverse(self.model.orders[*order].returned_by_ns));
        orders.iter().map(|order| of_order[order]).collect()
    }

    /// Of grabs of unknown fate that nobody looks at, one stands for all of its quantity, and none is needed where one fits that
    /// must take place anyway.
    fn unknown_grabs(&self, fitting: &[usize]) -> Vec<usize> {
        let mut of_order: BTreeMap<usize, usize> = BTreeMap::new();
        for call in fitting {
            let item = self.item(*call);
            if item.kind == Kind::MaybeGranted {
                of_order.entry(item.order).or_insert(*call);
            }
        }
        let mut covered = HashSet::new();
        for order in of_order.keys() {
            let facts = &self.model.orders[*order];
            if facts.saw_held && self.fresh_left[*order] == 0 {
                covered.insert(facts.quantity);
            }
        }
        let mut calls = Vec::new();
        for (order, call) in of_order {
            let quantity = self.model.orders[order].quantity;
            if self.lane(call).is_none() || covered.insert(quantity) {
                calls.push(call);
            }
        }
        calls
    }
}
