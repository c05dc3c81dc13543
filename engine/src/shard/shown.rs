//! What readers are shown of promotions: each as it was last committed.
//!
//! Nearly every change is one of counters, and those are changed in place; with any other change another [`Shown`] takes the
//! place of the one before. It takes two steps: when a batch has been decided, what it changed is noted as it is then
//! ([`Shard::take_touched`]); once the batch is committed, that is shown ([`Shard::show`]).
//!
//! Invariant: what a shard keeps as shown of a promotion is what was last committed of it. While the version is the same,
//! nothing but counters has changed.

use std::sync::Arc;

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
    attempts: Arc<Attempts>,
}

/// What is to be shown of a promotion that a batch has touched, once that is committed.
#[derive(Debug)]
pub struct Touched {
    number: u32,
    now: Now,
}

#[derive(Debug)]
enum Now {
    Counters(Counters),
    Whole(Box<Promotion>),
}

/// What readers are to see from now on.
#[derive(Debug)]
pub enum Change {
    /// A promotion in place of the one of this id, if there was one.
    Whole(Arc<Shown>),
    /// Other counters of what is shown already.
    Counters(Arc<Shown>, Counters),
}

impl Shown {
    fn new(promotion: Promotion, attempts: Arc<Attempts>) -> Self {
        let counters = AtomicCell::new(promotion.counters);
        Shown {
            promotion,
            counters,
            attempts,
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

    /// Shows other counters.
    pub fn set_counters(&self, counters: Counters) {
        self.counters.store(counters);
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
        &self.attempts
    }
}

impl Shard {
    /// Notes the promotions changed since the last call as they are now.
    pub fn take_touched(&mut self, mut note: impl FnMut(Touched)) {
        let mut touched = std::mem::take(&mut self.touched);
        for number in touched.drain(..) {
            // One whose creation was taken back is no longer there.
            if let Some(is_touched) = self.is_touched.get_mut(number as usize) {
                *is_touched = false;
                note(self.touched_as_it_is(number));
            }
        }
        self.touched = touched;
    }

    /// Forgets which promotions were changed.
    pub fn forget_touched(&mut self) {
        for number in self.touched.drain(..) {
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
        let shown = &mut self.shown[number];
        match (touched.now, shown) {
            (Now::Counters(counters), Some(shown)) => Change::Counters(shown.clone(), counters),
            (Now::Whole(promotion), shown) => {
                let new = Arc::new(Shown::new(*promotion, self.attempts[number].clone()));
                Change::Whole(shown.insert(new).clone())
            }
            (Now::Counters(_), None) => unreachable!("counters alone are of what is shown"),
        }
    }

    /// What readers are to see of all promotions, where all that there is is committed.
    pub fn show_all(&mut self) -> Vec<Change> {
        self.forget_touched();
        let numbers = 0..u32::try_from(self.promotions.len()).unwrap_or(u32::MAX);
        let whole = |number| Touched {
            number,
            now: self.whole(number),
        };
        let touched: Vec<Touched> = numbers.map(whole).collect();
        let shown = touched.into_iter().map(|touched| self.show(touched));
        shown.collect()
    }

    fn touched_as_it_is(&self, number: u32) -> Touched {
        let promotion = &self.promotions[number as usize];
        let now = match &self.shown[number as usize] {
            Some(shown) if shown.promotion.version == promotion.version => {
                Now::Counters(promotion.counters)
            }
            _ => self.whole(number),
        };
        Touched { number, now }
    }

    fn whole(&self, number: u32) -> Now {
        Now::Whole(Box::new(self.promotions[number as usize].clone()))
    }
}
