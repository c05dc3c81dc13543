//! The attempts of each promotion's present rate window: soft state of the node that decides. It is
//! not replicated, not in snapshots and not in the digest; a new leader starts a fresh window.

use crate::ids::UnixMs;
use crate::promotion::{Promotion, Rate};

/// What holds at the moment of a decision besides the shard's own state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The time, read once for a whole turn.
    pub now: UnixMs,
    /// Rate of promotions that set none, from the cluster's configuration.
    pub default_rate: Option<Rate>,
    /// Percent of every rate that is let through; below 100 while degraded.
    pub rate_percent: u32,
}

impl Moment {
    /// This time, with no default rate and undegraded.
    pub fn at(now: UnixMs) -> Self {
        Moment {
            now,
            default_rate: None,
            rate_percent: 100,
        }
    }
}

/// One promotion's window.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    started_at: UnixMs,
    attempts: u64,
    /// Whether the promotion changed since readers were last shown it.
    pub(super) touched: bool,
}

impl Window {
    /// The attempts that count at this moment.
    pub(super) fn attempts(self, promotion: &Promotion, moment: &Moment) -> u64 {
        if self.passed(promotion, moment) {
            0
        } else {
            self.attempts
        }
    }

    fn passed(self, promotion: &Promotion, moment: &Moment) -> bool {
        let window_ms = promotion.window_ms(moment.default_rate);
        moment.now < self.started_at || moment.now.ms_since(self.started_at) >= window_ms
    }

    /// Milliseconds until the next window if this one is used up.
    pub(super) fn used_up(self, promotion: &Promotion, moment: &Moment) -> Option<u64> {
        let rate = promotion.terms.rate.or(moment.default_rate)?;
        let allowed = u128::from(rate.attempts) * u128::from(moment.rate_percent) / 100;
        let used = self.attempts(promotion, moment);
        (u128::from(used) >= allowed).then(|| {
            let elapsed_ms = if self.passed(promotion, moment) {
                0
            } else {
                moment.now.ms_since(self.started_at)
            };
            rate.window_ms.saturating_sub(elapsed_ms).max(1)
        })
    }

    /// Counts attempts.
    pub(super) fn count(&mut self, promotion: &Promotion, attempts: u64, moment: &Moment) {
        if self.passed(promotion, moment) {
            (self.started_at, self.attempts) = (moment.now, 0);
        }
        self.attempts += attempts;
    }
}
