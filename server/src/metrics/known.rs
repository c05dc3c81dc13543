//! A family of metrics whose labels are few and known to the program: the way to one of them is a look at a short list,
//! without a lock and without a hash.
//!
//! Invariant: a metric stays in its place, so what is counted is never lost or counted elsewhere.

use std::hash::Hash;
use std::sync::OnceLock;

use prometheus_client::metrics::family::Family;

/// Metrics that the list has room for; further ones are found by the family's own, slower way.
const LISTED_MAX: usize = 48;

/// Metrics of type `M` by labels `L`.
pub(super) struct Known<L, M> {
    family: Family<L, M>,
    listed: [OnceLock<(L, M)>; LISTED_MAX],
}

impl<L: Clone + Hash + Eq, M: Default> Default for Known<L, M> {
    fn default() -> Self {
        Known {
            family: Family::default(),
            listed: [const { OnceLock::new() }; LISTED_MAX],
        }
    }
}

impl<L: Clone + Hash + Eq, M: Clone + Default> Known<L, M> {
    /// The family, to be registered.
    pub(super) fn family(&self) -> Family<L, M> {
        self.family.clone()
    }

    /// Does something to the metric of these labels.
    pub(super) fn with(&self, labels: &L, act: impl FnOnce(&M)) {
        let metric = || self.family.get_or_create_owned(labels);
        for place in &self.listed {
            let (known, metric) = place.get_or_init(|| (labels.clone(), metric()));
            if known == labels {
                return act(metric);
            }
        }
        act(&metric());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    type Labels = [(&'static str, String); 1];

    #[test]
    fn each_label_has_one_metric_whether_listed_or_not() {
        let known = Known::<Labels, Counter>::default();
        let labels = |number: usize| [("number", number.to_string())];
        for round in 1..=3_u64 {
            for number in 0..2 * LISTED_MAX {
                known.with(&labels(number), |counter| {
                    counter.inc();
                });
                let counted = known.family().get_or_create_owned(&labels(number)).get();
                assert_eq!(counted, round, "of number {number}");
            }
        }
    }

    #[test]
    fn threads_that_meet_at_a_new_label_count_on_one_metric() {
        let known = Known::<Labels, Counter>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..10_000_usize {
                        known.with(&[("number", (number % 60).to_string())], |counter| {
                            counter.inc();
                        });
                    }
                });
            }
        });
        let counted = |number: usize| {
            let labels = [("number", number.to_string())];
            known.family().get_or_create_owned(&labels).get()
        };
        assert_eq!((0..60).map(counted).sum::<u64>(), 40_000);
    }
}
