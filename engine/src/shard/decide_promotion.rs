//! Decisions about promotions: their creation, changes and life.

use std::ops::Bound;
use std::sync::Arc;

use super::decide::{Decision, reject};
use super::{Moment, Shard};
use crate::command::{Answer, Code, PromotionChange, Rejection};
use crate::ids::PromotionId;
use crate::limits::QUANTITY_MAX;
use crate::promotion::{CloseReason, Counters, Promotion, PromotionState, Terms};
use crate::record::{PromotionChanged, Record};

impl Shard {
    pub(super) fn decide_create(
        &self,
        promotion_id: &PromotionId,
        quantity: u64,
        terms: &Terms,
        moment: &Moment,
    ) -> Result<Decision, Rejection> {
        let Some(number) = self.promotion_number(promotion_id) else {
            let terms = Arc::new(terms.clone());
            let promotion = Promotion {
                id: promotion_id.clone(),
                terms: terms.clone(),
                created_terms: terms,
                counters: Counters::offered(quantity),
                stopped: false,
                closed: None,
                version: 1,
                created_at: moment.now,
            };
            return Ok(Decision::Record(Record::PromotionCreated {
                promotion: Box::new(promotion),
            }));
        };
        let known = self.promotion_at(number);
        if matches!(known.closed, Some((CloseReason::Deleted, _))) {
            return reject(Code::Deleted, Some(promotion_id));
        }
        if *known.created_terms != *terms || known.counters.original != quantity {
            return reject(Code::PromotionExists, Some(promotion_id));
        }
        Ok(Decision::Answer(
            self.promotion_answer(number, false, moment),
        ))
    }

    pub(super) fn decide_change(
        &self,
        promotion_id: &PromotionId,
        change: &PromotionChange,
        moment: &Moment,
    ) -> Result<Decision, Rejection> {
        let number = self.open_promotion(promotion_id, moment)?;
        let promotion = self.promotion_at(number);
        let terms = changed_terms(&promotion.terms, change);
        if let (Some(start), Some(end)) = (terms.starts_at, terms.ends_at)
            && end <= start
        {
            return reject(Code::EndBeforeStart, Some(promotion_id));
        }
        let add = change.add_quantity.unwrap_or(0);
        let counters = &promotion.counters;
        if counters.remaining.checked_add_signed(add).is_none() {
            return reject(
                Code::InsufficientRemaining {
                    remaining: counters.remaining,
                },
                Some(promotion_id),
            );
        }
        let offered = i128::from(counters.original) + i128::from(counters.added) + i128::from(add);
        if offered > i128::from(QUANTITY_MAX) {
            return reject(Code::QuantityTooLarge, Some(promotion_id));
        }
        let same_terms = terms == *promotion.terms;
        if same_terms && add == 0 {
            return Ok(Decision::Answer(
                self.promotion_answer(number, false, moment),
            ));
        }
        Ok(Decision::Record(Record::PromotionChanged(Box::new(
            PromotionChanged {
                promotion_id: promotion_id.clone(),
                terms_before: (!same_terms).then(|| promotion.terms.clone()),
                terms_after: (!same_terms).then(|| Arc::new(terms)),
                add_quantity: add,
                stopped_before: promotion.stopped,
                stopped_after: promotion.stopped,
                at: moment.now,
            },
        ))))
    }

    pub(super) fn decide_stop(
        &self,
        promotion_id: &PromotionId,
        stopped: bool,
        moment: &Moment,
    ) -> Result<Decision, Rejection> {
        let number = self.open_promotion(promotion_id, moment)?;
        let promotion = self.promotion_at(number);
        if promotion.stopped == stopped {
            return Ok(Decision::Answer(
                self.promotion_answer(number, false, moment),
            ));
        }
        Ok(Decision::Record(Record::PromotionChanged(Box::new(
            PromotionChanged {
                promotion_id: promotion_id.clone(),
                terms_before: None,
                terms_after: None,
                add_quantity: 0,
                stopped_before: promotion.stopped,
                stopped_after: stopped,
                at: moment.now,
            },
        ))))
    }

    pub(super) fn decide_delete(
        &self,
        promotion_id: &PromotionId,
        moment: &Moment,
    ) -> Result<Decision, Rejection> {
        let number = self.known_promotion(promotion_id)?;
        let before = self.promotion_at(number).closed;
        if matches!(before, Some((CloseReason::Deleted, _))) {
            return Ok(Decision::Answer(
                self.promotion_answer(number, false, moment),
            ));
        }
        let promotion_id = promotion_id.clone();
        Ok(Decision::Record(Record::PromotionClosed {
            promotion_id,
            reason: CloseReason::Deleted,
            before,
            at: moment.now,
        }))
    }

    pub(super) fn list_promotions(
        &self,
        state: Option<PromotionState>,
        after: Option<&PromotionId>,
        limit: usize,
        moment: &Moment,
    ) -> Answer {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let numbers = self
            .promotion_names
            .range::<PromotionId, _>((from, Bound::Unbounded))
            .map(|(_, number)| *number);
        let in_state = |number: &u32| {
            state.is_none_or(|state| self.promotion_at(*number).state(moment.now) == state)
        };
        Answer::Promotions(
            numbers
                .filter(in_state)
                .take(limit)
                .map(|number| self.view_at(number, moment))
                .collect(),
        )
    }

    /// The number of a promotion that can still be changed.
    fn open_promotion(
        &self,
        promotion_id: &PromotionId,
        moment: &Moment,
    ) -> Result<u32, Rejection> {
        let number = self.known_promotion(promotion_id)?;
        match self.promotion_at(number).state(moment.now) {
            PromotionState::Ended => reject(Code::Ended, Some(promotion_id)),
            PromotionState::Deleted => reject(Code::Deleted, Some(promotion_id)),
            _ => Ok(number),
        }
    }
}

fn changed_terms(terms: &Terms, change: &PromotionChange) -> Terms {
    let mut terms = terms.clone();
    if let Some(title) = &change.title {
        terms.title.clone_from(title);
    }
    if let Some(ends_at) = change.ends_at {
        terms.ends_at = ends_at;
    }
    if let Some(limits) = change.limits {
        terms.limits = limits;
    }
    if let Some(rate) = change.rate {
        terms.rate = rate;
    }
    if let Some(payment_timeout_ms) = change.payment_timeout_ms {
        terms.payment_timeout_ms = payment_timeout_ms;
    }
    if let Some(channels) = change.channels {
        terms.channels = channels;
    }
    if let Some(price) = &change.price {
        terms.price.clone_from(price);
    }
    terms
}
