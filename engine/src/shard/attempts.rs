//! The attempts of each promotion's present rate window: soft state of the node that decides. It is
//! not replicated, not in snapshots and not in the digest; a new leader starts a fresh window.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::UnixMs;
use crate::promotion::{Rate, Terms};

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

/// The attempts of one promotion in its present window. The shard's owner counts them and begins windows; who refuses
/// grabs early counts, too.
#[derive(Debug, Default)]
pub struct Attempts {
    /// In milliseconds of Unix time.
    window_started_at: AtomicU64,
    count: AtomicU64,
}

impl Attempts {
    /// The attempts that count at this moment.
    pub fn at(&self, terms: &Terms, moment: &Moment) -> u64 {
        if self.has_passed(terms, moment) {
            0
        } else {
            self.count.load(Ordering::Acquire)
        }
    }

    /// Whether the window is over at this moment: the next attempt that the shard's owner counts begins another.
    pub fn has_passed(&self, terms: &Terms, moment: &Moment) -> bool {
        let window_ms = terms.window_ms(moment.default_rate);
        let started_at = self.started_at();
        moment.now < started_at || moment.now.ms_since(started_at) >= window_ms
    }

    /// Milliseconds until the next window if this one is used up.
    pub fn used_up(&self, terms: &Terms, moment: &Moment) -> Option<u64> {
        let rate = terms.rate.or(moment.default_rate)?;
        let allowed = u128::from(rate.attempts) * u128::from(moment.rate_percent) / 100;
        let used = self.at(terms, moment);
        (u128::from(used) >= allowed).then(|| {
            let elapsed_ms = if self.has_passed(terms, moment) {
                0
            } else {
                moment.now.ms_since(self.started_at())
            };
            rate.window_ms.saturating_sub(elapsed_ms).max(1)
        })
    }

    /// Counts one attempt, for the shard's owner.
    pub(super) fn count(&self, terms: &Terms, moment: &Moment) {
        if self.has_passed(terms, moment) {
            self.count.store(0, Ordering::Release);
            self.window_started_at
                .store(moment.now.0, Ordering::Release);
        }
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one attempt that was refused early, in a window that has not passed.
    pub fn count_early(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// A word of them, for the memory alone.
    pub(super) fn look(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn started_at(&self) -> UnixMs {
        UnixMs(self.window_started_at.load(Ordering::Acquire))
    }
}
