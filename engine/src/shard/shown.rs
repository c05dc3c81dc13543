//! What readers are shown of promotions: each as it was last committed.
//!
//! Nearly every change is one of counters, and those are changed in place; with any other change another [`Shown`] takes the
//! place of the one before. It takes two steps: when a batch has been decided, what it changed is noted as it is then
//! ([`Shard::take_touched`]); once the batch is committed, that is shown ([`Shard::show`]).
//!
//! Between the two a batch may be committed, and others may have seen it on another node, where it is shown sooner. A promotion is
//! *unsettled* meanwhile if the batch changes what grabs are refused for: its version, or what remains.
//!
//! Invariant: what a shard keeps as shown of a promotion is what was last committed of it. While the version is the same,
//! nothing but counters has changed. While a promotion is settled, nobody can have seen another version of it committed than is shown, nor
//! that more or less remains.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::atomic::AtomicCell;

use super::Shard;
use super::attempts::Attempts;
use crate::command::Code;
use crate::early::closed_to;
use crate::ids::{PromotionId, UnixMs};
use crate::promotion::{Channel, Counters, Promotion, Terms};

/// A promotion for readers on any thread: as it was last committed, and its attempts, which go on being counted.
#[derive(Debug)]
pub struct Shown {
    /// The promotion but for its counters, which are of when it was first shown so.
    promotion: Promotion,
    counters: AtomicCell<Counters>,
    shared: Arc<Shared>,
}

/// What a shard and all that is shown of a promotion share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) attempts: Attempts,
    /// How many batches on their way unsettle the promotion. Its actor counts; anybody looks.
    unsettled: AtomicU32,
}

impl Shared {
    fn unsettle(&self) {
        let unsettled = self.unsettled.load(Ordering::Relaxed);
        self.unsettled.store(unsettled + 1, Ordering::Release);
    }

    fn settle(&self) {
        let unsettled = self.unsettled.load(Ordering::Relaxed);
        self.unsettled.store(unsettled - 1, Ordering::Release);
    }
}

/// What grabs of a promotion are refused for: its version, and what remains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ground {
    version: u64,
    remaining: u64,
}

impl Ground {
    pub(super) fn of(promotion: &Promotion) -> Self {
        Ground {
            version: promotion.version,
            remaining: promotion.counters.remaining,
        }
    }
}

/// What is to be shown of a promotion that a batch has touched, once that is committed.
#[derive(Debug)]
pub struct Touched {
    number: u32,
    now: Now,
    /// Whether the batch unsettles the promotion until it is shown, or taken back.
    unsettles: bool,
}

#[derive(Debug)]
enum Now {
    Counters(Counters),
    Whole(Box<Promotion>),
}

/// What readers are to see from now on.
#[derive(Debug)]
pub struct Change {
    shown: Arc<Shown>,
    /// Its counters, if it is shown already and nothing else has changed.
    counters: Option<Counters>,
    settles: bool,
}

impl Change {
    /// What it is about, and the counters that it is to have.
    pub fn shown(&self) -> (&Arc<Shown>, Counters) {
        let counters = self.counters.unwrap_or_else(|| self.shown.counters());
        (&self.shown, counters)
    }

    /// Shows it; `put` puts a promotion in place of the one of its id, if there was one.
    pub fn publish(self, put: impl FnOnce(Arc<Shown>)) {
        let Change {
            shown,
            counters,
            settles,
        } = self;
        match counters {
            Some(counters) => shown.counters.store(counters),
            None => put(shown.clone()),
        }
        // Not before it is shown.
        if settles {
            shown.shared.settle();
        }
    }
}

impl Shown {
    fn new(promotion: Promotion, shared: Arc<Shared>) -> Self {
        let counters = AtomicCell::new(promotion.counters);
        Shown {
            promotion,
            counters,
            shared,
        }
    }

    /// Of which promotion it is.
    pub fn id(&self) -> &PromotionId {
        &self.promotion.id
    }

    /// The promotion as it was last committed.
    pub fn promotion(&self) -> Promotion {
        Promotion {
            counters: self.counters(),
            ..self.promotion.clone()
        }
    }

    /// Its counters alone.
    pub fn counters(&self) -> Counters {
        self.counters.load()
    }

    /// Whether a batch is on its way that changes what grabs are refused for. Asked before anything else, so that what is read then is not
    /// older than what anybody had seen.
    pub fn is_unsettled(&self) -> bool {
        self.shared.unsettled.load(Ordering::Acquire) != 0
    }

    /// Its terms.
    pub fn terms(&self) -> &Terms {
        &self.promotion.terms
    }

    /// Why it is not on sale on this channel now, if it is not.
    pub(crate) fn closed_to(&self, channel: Channel, now: UnixMs) -> Option<Code> {
        closed_to(&self.promotion, channel, now)
    }

    /// Its attempts, in the present window.
    pub fn attempts(&self) -> &Attempts {
        &self.shared.attempts
    }
}

impl Shard {
    /// Notes the promotions changed since the last call as they are now. Each is shown, or [withdrawn](Shard::withdraw), later.
    pub fn take_touched(&mut self, mut note: impl FnMut(Touched)) {
        let mut touched = std::mem::take(&mut self.touched);
        for (number, before) in touched.drain(..) {
            // One whose creation was taken back is no longer there.
            if let Some(is_touched) = self.is_touched.get_mut(number as usize) {
                *is_touched = false;
                note(self.touched_as_it_is(number, before));
            }
        }
        self.touched = touched;
    }

    /// What was touched was taken back, and is never shown.
    pub fn withdraw(&self, touched: &Touched) {
        // If its creation was taken back, too, it is no longer there.
        if let Some(shared) = self.shared.get(touched.number as usize)
            && touched.unsettles
        {
            shared.settle();
        }
    }

    /// Forgets which promotions were changed.
    pub fn forget_touched(&mut self) {
        for (number, _) in self.touched.drain(..) {
            if let Some(is_touched) = self.is_touched.get_mut(number as usize) {
                *is_touched = false;
            }
        }
    }

    /// What readers are to see now that it is committed.
    ///
    /// # Panics
    /// If there is no such promotion: what is committed is not taken back.
    pub fn show(&mut self, touched: Touched) -> Change {
        let number = touched.number as usize;
        let (shown, counters) = match (touched.now, &mut self.shown[number]) {
            (Now::Counters(counters), Some(shown)) => (shown.clone(), Some(counters)),
            (Now::Whole(promotion), shown) => {
                let new = Arc::new(Shown::new(*promotion, self.shared[number].clone()));
                (shown.insert(new).clone(), None)
            }
            (Now::Counters(_), None) => unreachable!("counters alone are of what is shown"),
        };
        Change {
            shown,
            counters,
            settles: touched.unsettles,
        }
    }

    /// What readers are to see of all promotions, where all that there is is committed.
    pub fn show_all(&mut self) -> Vec<Change> {
        self.forget_touched();
        let numbers = 0..u32::try_from(self.promotions.len()).unwrap_or(u32::MAX);
        let whole = |number| Touched {
            number,
            now: self.whole(number),
            unsettles: false,
        };
        let touched: Vec<Touched> = numbers.map(whole).collect();
        let shown = touched.into_iter().map(|touched| self.show(touched));
        shown.collect()
    }

    fn touched_as_it_is(&self, number: u32, before: Ground) -> Touched {
        let promotion = &self.promotions[number as usize];
        let unsettles = Ground::of(promotion) != before;
        if unsettles {
            self.shared[number as usize].unsettle();
        }
        let now = match &self.shown[number as usize] {
            Some(shown) if shown.promotion.version == promotion.version => {
                Now::Counters(promotion.counters)
            }
            _ => self.whole(number),
        };
        Touched {
            number,
            now,
            unsettles,
        }
    }

    fn whole(&self, number: u32) -> Now {
        Now::Whole(Box::new(self.promotions[number as usize].clone()))
    }
}
