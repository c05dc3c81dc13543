//! What one connection does next.
//!
//! Invariant: a step follows from the seed, the connection's number and what it was answered before, never from time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Behaviour, Name, Step, Workload};
use crate::chance::Chance;
use crate::ledger::Stripe;

/// Orders of `mixed` that a connection remembers in order to confirm, cancel or read them.
const REMEMBERED_MAX: usize = 256;

/// How often an order of `retry` whose outcome is unknown is asked for again.
const REPEATS_MAX: u8 = 20;

/// The orders of one worker, up to a number of them.
#[derive(Debug)]
pub struct Orders {
    stripe: Stripe,
    left: u64,
    stride: u64,
}

impl Orders {
    /// Orders of worker `worker` of `workers`; at most `limit` of them.
    pub fn new(worker: u64, workers: u64, limit: u64) -> Self {
        Self {
            stripe: Stripe::new(worker, workers),
            left: limit,
            stride: workers,
        }
    }

    /// What is known of them.
    pub fn stripe(&mut self) -> &mut Stripe {
        &mut self.stripe
    }

    /// What is known of them, at the end.
    pub fn into_stripe(self) -> Stripe {
        self.stripe
    }

    fn begin(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        Some(self.stripe.begin())
    }

    /// Begins up to `most` orders: the first and how many.
    fn begin_many(&mut self, most: u32) -> Option<(u64, u32)> {
        let first = self.begin()?;
        let mut count = 1;
        while count < most && self.begin().is_some() {
            count += 1;
        }
        Some((first, count))
    }
}

/// How a grab, as far as the script minds, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Granted.
    Granted,
    /// Refused.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What one connection does.
#[derive(Debug)]
pub struct Script {
    workload: Arc<Workload>,
    chance: Chance,
    /// Steps that are due before any new order, with how often they were tried.
    to_do: VecDeque<(Step, u8)>,
    /// Orders that were granted here and not closed yet, oldest first.
    held: VecDeque<u64>,
    /// How often the repeats in flight were tried, oldest first.
    tries: VecDeque<(u64, u8)>,
}

impl Script {
    /// The script of connection number `connection`.
    pub fn new(workload: Arc<Workload>, connection: u64) -> Self {
        let chance = Chance::new(workload.seed.rotate_left(32), connection);
        Self {
            workload,
            chance,
            to_do: VecDeque::new(),
            held: VecDeque::new(),
            tries: VecDeque::new(),
        }
    }

    /// The next step; `None` when there are no more orders.
    pub fn next(&mut self, orders: &mut Orders) -> Option<Step> {
        if let Some((step, tried)) = self.to_do.pop_front() {
            if let Step::Repeat { order } = step {
                self.tries.push_back((order, tried));
            }
            return Some(step);
        }
        match self.workload.name {
            Name::Batch => {
                let (first, count) = orders.begin_many(self.workload.batch)?;
                let stride = orders.stride;
                Some(Step::Batch {
                    first,
                    count,
                    stride,
                })
            }
            Name::Mixed => self.next_mixed(orders),
            _ => Some(Step::Grab {
                order: orders.begin()?,
            }),
        }
    }

    /// In a hundred steps of `mixed`: 58 grabs, 12 confirms, 10 cancels and 3 in advance, 17 reads. Steps for which
    /// there is no order yet are grabs.
    fn next_mixed(&mut self, orders: &mut Orders) -> Option<Step> {
        match self.chance.below(100) {
            0..12 => {
                if let Some(order) = self.held.pop_front() {
                    let promotion = self.workload.items(order)[0].promotion;
                    return Some(Step::Confirm { order, promotion });
                }
            }
            12..22 => {
                // Half of the cancels are of fresh orders, half of old ones, some of which have expired.
                let order = match self.chance.below(2) {
                    0 => self.held.pop_front(),
                    _ => self.held.pop_back(),
                };
                if let Some(order) = order {
                    let item = self.workload.items(order)[0];
                    return Some(Step::Cancel {
                        order,
                        item,
                        ahead: false,
                    });
                }
            }
            22..25 => {
                let order = orders.begin()?;
                let item = self.workload.items(order)[0];
                return Some(Step::Cancel {
                    order,
                    item,
                    ahead: true,
                });
            }
            25..32 => {
                let promotion = self.chance.below(u64::from(self.workload.promotions)) as u32;
                return Some(Step::ReadPromotion { promotion });
            }
            32..42 if !self.held.is_empty() => {
                let index = self.chance.below(self.held.len() as u64) as usize;
                let order = self.held[index];
                let promotion = self.workload.items(order)[0].promotion;
                return Some(Step::ReadOrder { order, promotion });
            }
            _ => {}
        }
        Some(Step::Grab {
            order: orders.begin()?,
        })
    }

    /// Whether there is nothing more to do, unless a step under way brings something.
    pub fn is_done(&self, orders: &Orders) -> bool {
        self.to_do.is_empty() && orders.left == 0
    }

    /// Hears how a step ended.
    pub fn on_end(&mut self, step: &Step, ending: Ending) {
        match *step {
            Step::Grab { order } => self.on_grab(order, ending),
            Step::Repeat { order } => {
                let at = self.tries.iter().position(|(tried, _)| *tried == order);
                let tried = at.and_then(|at| self.tries.remove(at)).map_or(0, |t| t.1);
                if ending == Ending::Unknown && tried < REPEATS_MAX {
                    self.to_do.push_back((Step::Repeat { order }, tried + 1));
                }
            }
            // The late grab of an order that was cancelled in advance.
            Step::Cancel {
                order, ahead: true, ..
            } => self.to_do.push_back((Step::Grab { order }, 0)),
            _ => {}
        }
    }

    fn on_grab(&mut self, order: u64, ending: Ending) {
        match self.workload.name {
            Name::Retry => {
                let repeats = self.workload.behaviour(order) == Behaviour::Repeats;
                if repeats || ending == Ending::Unknown {
                    self.to_do.push_back((Step::Repeat { order }, 0));
                }
            }
            Name::Mixed if ending == Ending::Granted => {
                if self.held.len() == REMEMBERED_MAX {
                    self.held.pop_front();
                }
                self.held.push_back(order);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Kind;

    fn script(name: Name) -> (Script, Orders) {
        let workload = Arc::new(Workload::new(name, 1));
        (Script::new(workload, 0), Orders::new(0, 1, 10_000))
    }

    #[test]
    fn orders_end_at_their_number() {
        let (mut script, _) = script(Name::Spread);
        let mut orders = Orders::new(1, 2, 2);
        assert_eq!(script.next(&mut orders), Some(Step::Grab { order: 1 }));
        assert_eq!(script.next(&mut orders), Some(Step::Grab { order: 3 }));
        assert!(script.is_done(&orders));
        assert_eq!(script.next(&mut orders), None);
    }

    #[test]
    fn a_batch_takes_what_is_left() {
        let (mut script, _) = script(Name::Batch);
        let mut orders = Orders::new(0, 2, 1_500);
        let counts: Vec<usize> = std::iter::from_fn(|| script.next(&mut orders))
            .map(|step| step.answers())
            .collect();
        assert_eq!(counts, [1_000, 500]);
    }

    #[test]
    fn an_unknown_outcome_is_asked_again_but_not_for_ever() {
        let (mut script, mut orders) = script(Name::Retry);
        let first = script.next(&mut orders).unwrap();
        script.on_end(&first, Ending::Unknown);
        let order = first.order(0).unwrap();
        for _ in 0..=REPEATS_MAX {
            let step = script.next(&mut orders).unwrap();
            assert_eq!(step, Step::Repeat { order });
            script.on_end(&step, Ending::Unknown);
        }
        assert_eq!(script.next(&mut orders).unwrap().kind(), Kind::Grab);
    }

    #[test]
    fn a_cancel_in_advance_is_followed_by_its_grab() {
        let (mut script, mut orders) = script(Name::Mixed);
        loop {
            let step = script.next(&mut orders).unwrap();
            script.on_end(&step, Ending::Refused);
            if let Step::Cancel {
                order, ahead: true, ..
            } = step
            {
                assert_eq!(script.next(&mut orders), Some(Step::Grab { order }));
                return;
            }
        }
    }

    #[test]
    fn mixed_does_all_kinds() {
        let (mut script, mut orders) = script(Name::Mixed);
        let mut seen = [0; 3];
        for _ in 0..1_000 {
            let step = script.next(&mut orders).unwrap();
            script.on_end(&step, Ending::Granted);
            match step.kind() {
                Kind::Confirm => seen[0] += 1,
                Kind::Cancel => seen[1] += 1,
                Kind::Read => seen[2] += 1,
                _ => {}
            }
        }
        assert!(seen.iter().all(|seen| *seen > 50), "{seen:?}");
    }
}
