//! Whether a recorded history could have happened one call at a time: linearizability, per promotion.
//!
//! A history is linearizable if each call can be given one moment between its invocation and its completion such that the
//! calls, one after the other at these moments, get the answers they got (Herlihy and Wing, 1990). Calls of unknown fate may be given
//! any moment after their invocation, or none.
//!
//! The search is that of Wing and Gong (1993) with Lowe's memory of configurations seen before (2017), as in Knossos and
//! Porcupine; `search` says what is particular to this model.
//!
//! Invariant: "linearizable" and "not linearizable" are proofs (of the latter all but certain ones: configurations are
//! compared by keys of 128 bits). A search that reached its bound says so, and counts as a failure.

mod choices;
mod model;
mod search;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use crate::Call;
use model::Model;

/// A bound on the steps of one attempt to search: some ten seconds and some hundreds of megabytes. Linearizable histories of a few
/// thousand calls, some dozens of them of unknown fate, take a hundredth of it as a rule. Hard, and sometimes beyond it, are many
/// returns together with many unknown calls of different quantities.
pub const STEPS_MAX: u64 = 3_000_000;

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order of the calls that explains every answer.
    Linearizable,
    /// There is none.
    NotLinearizable {
        /// How far the search came, and the calls that fit nowhere.
        explanation: String,
    },
    /// The bound was reached first; nothing is known, which is no success.
    Exhausted {
        /// Steps made in each attempt.
        steps: u64,
        /// How far the search came.
        explanation: String,
    },
}

impl Verdict {
    /// Passes only if the history is linearizable.
    #[track_caller]
    pub fn expect_linearizable(&self) {
        match self {
            Self::Linearizable => {}
            Self::NotLinearizable { explanation } => panic!("not linearizable: {explanation}"),
            Self::Exhausted { steps, explanation } => panic!(
                "not known to be linearizable, the search gave up after {steps} steps: {explanation}"
            ),
        }
    }
}

/// Judges the calls of one promotion that began with `quantity` units, nothing being held.
///
/// A panic where a call cannot be part of such a history at all: it ends before it begins, or one order asks for two quantities.
#[track_caller]
pub fn check_promotion(quantity: u64, calls: &[Call], steps_max: u64) -> Verdict {
    match Model::of(quantity, calls) {
        Ok(model) => search::run(&model, calls, steps_max),
        Err(explanation) => Verdict::NotLinearizable { explanation },
    }
}

/// Judges a history of several promotions, given the units that each began with; the first that is not linearizable speaks
/// for all. Promotions are independent, so that each is judged by itself.
///
/// A panic where a promotion is called that is not given.
#[track_caller]
pub fn check(quantities: &BTreeMap<String, u64>, calls: &[Call], steps_max: u64) -> Verdict {
    let called: BTreeSet<&String> = calls.iter().map(|call| &call.promotion).collect();
    for promotion in called {
        let quantity = *quantities.get(promotion).unwrap_or_else(|| {
            panic!("a call of promotion {promotion}, whose quantity is not given")
        });
        let own: Vec<Call> = calls
            .iter()
            .filter(|call| call.promotion == *promotion)
            .cloned()
            .collect();
        let name = |explanation| format!("promotion {promotion}: {explanation}");
        match check_promotion(quantity, &own, steps_max) {
            Verdict::Linearizable => {}
            Verdict::NotLinearizable { explanation } => {
                let explanation = name(explanation);
                return Verdict::NotLinearizable { explanation };
            }
            Verdict::Exhausted { steps, explanation } => {
                let explanation = name(explanation);
                return Verdict::Exhausted { steps, explanation };
            }
        }
    }
    Verdict::Linearizable
}
