//! What the audit can find. Invariant: a difference names the order or promotion, and what either side says of it.

use std::fmt;

/// Differences that are kept in full; further ones are counted.
const KEPT_MAX: usize = 20;

/// Where the server's flows and counters do not agree with what it told the client, or with each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// An acknowledged grant has no flow.
    #[error("order {0} was granted to the client, and no flow says so: a loss")]
    Lost(String),
    /// An order has two grants.
    #[error("order {order} is granted a second time by flow {cursor}: a double grant")]
    GrantedTwice {
        /// The order.
        order: String,
        /// The second grant.
        cursor: String,
    },
    /// A promotion gave more than it had.
    #[error("promotion {promotion} has {remaining} units after flow {cursor}: an oversell")]
    Oversold {
        /// The promotion.
        promotion: String,
        /// What remains by the flows: less than nothing.
        remaining: i64,
        /// The flow that took too much.
        cursor: String,
    },
    /// A counter is not what the flows fold to.
    #[error("promotion {promotion}: {counter} is {told}, and its flows say {folded}")]
    CounterOff {
        /// The promotion.
        promotion: String,
        /// The counter.
        counter: &'static str,
        /// What the server tells.
        told: i64,
        /// What the flows fold to.
        folded: i64,
    },
    /// An order that was refused, each time it was asked for, has a grant.
    #[error("order {0} was refused to the client, and a flow grants it")]
    RefusedButGranted(String),
    /// A grant of an order that nobody asked for.
    #[error("order {order} was never sent, and flow {cursor} is about it")]
    Unasked {
        /// The order.
        order: String,
        /// The flow.
        cursor: String,
    },
    /// A grant of something else than was asked for.
    #[error("order {order} asked for {asked}, and flow {cursor} grants {granted}")]
    OtherContent {
        /// The order.
        order: String,
        /// What was asked for.
        asked: String,
        /// What was granted.
        granted: String,
        /// The flow.
        cursor: String,
    },
    /// The client was told both that an order is granted and that it is not.
    #[error("order {0} was granted to the client and then denied")]
    Contradicted(String),
    /// An acknowledged cancel did not happen.
    #[error("the cancel of order {0} was acknowledged, and no flow returns it")]
    CancelLost(String),
    /// An acknowledged confirm did not happen.
    #[error("the confirm of order {0} was acknowledged, and no flow confirms it")]
    ConfirmLost(String),
    /// An order was given back by nobody.
    #[error("order {order} is returned by flow {cursor} ({reason}), and nobody cancelled it")]
    ReturnedUnasked {
        /// The order.
        order: String,
        /// The flow.
        cursor: String,
        /// The reason it gives.
        reason: String,
    },
    /// An order was confirmed by nobody.
    #[error("order {order} is confirmed by flow {cursor}, and nobody confirmed it")]
    ConfirmedUnasked {
        /// The order.
        order: String,
        /// The flow.
        cursor: String,
    },
    /// A flow that cannot follow those before it.
    #[error("order {order} is {verb} by flow {cursor} though it was {state} before")]
    OutOfTurn {
        /// The order.
        order: String,
        /// What the flow does.
        verb: &'static str,
        /// What the order was.
        state: &'static str,
        /// The flow.
        cursor: String,
    },
    /// The shards do not agree about an order.
    #[error("the shards do not agree about order {order}: {told}")]
    PartsDisagree {
        /// The order.
        order: String,
        /// What each says.
        told: String,
    },
    /// A flow is about a promotion that was not created.
    #[error("flow {cursor} is about promotion {promotion} before its creation")]
    NoPromotion {
        /// The promotion.
        promotion: String,
        /// The flow.
        cursor: String,
    },
}

/// The first differences, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    kept: Vec<Difference>,
    count: u64,
}

impl Differences {
    /// Adds one.
    pub fn push(&mut self, difference: Difference) {
        self.count += 1;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(difference);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first ones.
    pub fn first(&self) -> &[Difference] {
        &self.kept
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.count == 1 {
            "difference"
        } else {
            "differences"
        };
        write!(f, "the audit found {} {what}:", self.count)?;
        for difference in &self.kept {
            write!(f, "\n  {difference}")?;
        }
        let more = self.count - self.kept.len() as u64;
        if more > 0 {
            write!(f, "\n  and {more} more")?;
        }
        Ok(())
    }
}
