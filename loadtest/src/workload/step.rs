//! One request of a run. Invariant: a step names orders by number only; what it says on the wire is the protocol's affair.

use super::Item;

/// Kinds of requests, by which figures are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A grab sent for the first time.
    Grab,
    /// A grab sent again with the same order id.
    Repeat,
    /// Many grabs in one request.
    Batch,
    /// An order is paid.
    Confirm,
    /// An order is given back.
    Cancel,
    /// A promotion or an order is looked at.
    Read,
}

impl Kind {
    /// All kinds, in the order of reports.
    pub const ALL: [Kind; 6] = [
        Kind::Grab,
        Kind::Repeat,
        Kind::Batch,
        Kind::Confirm,
        Kind::Cancel,
        Kind::Read,
    ];

    /// The kind's name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Grab => "grab",
            Kind::Repeat => "repeat",
            Kind::Batch => "batch",
            Kind::Confirm => "confirm",
            Kind::Cancel => "cancel",
            Kind::Read => "read",
        }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Grab for an order.
    Grab {
        /// The order.
        order: u64,
    },
    /// Grab for an order that was sent before.
    Repeat {
        /// The order.
        order: u64,
    },
    /// Grab for several orders, each for itself.
    Batch {
        /// The first order.
        first: u64,
        /// How many.
        count: u32,
        /// From each order's number to the next.
        stride: u64,
    },
    /// Confirm an order.
    Confirm {
        /// The order.
        order: u64,
        /// A promotion of it.
        promotion: u32,
    },
    /// Cancel an order.
    Cancel {
        /// The order.
        order: u64,
        /// Its item.
        item: Item,
        /// Whether its grab has not been sent yet.
        ahead: bool,
    },
    /// Look at a promotion.
    ReadPromotion {
        /// The promotion.
        promotion: u32,
    },
    /// Look at an order that was granted.
    ReadOrder {
        /// The order.
        order: u64,
        /// A promotion of it.
        promotion: u32,
    },
}

impl Step {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Step::Grab { .. } => Kind::Grab,
            Step::Repeat { .. } => Kind::Repeat,
            Step::Batch { .. } => Kind::Batch,
            Step::Confirm { .. } => Kind::Confirm,
            Step::Cancel { .. } => Kind::Cancel,
            Step::ReadPromotion { .. } | Step::ReadOrder { .. } => Kind::Read,
        }
    }

    /// How many answers come to it.
    pub fn answers(&self) -> usize {
        match self {
            Step::Batch { count, .. } => *count as usize,
            _ => 1,
        }
    }

    /// The `index`-th order it is about; `None` where it is about no order.
    pub fn order(&self, index: usize) -> Option<u64> {
        match self {
            Step::Batch { first, stride, .. } => Some(first + index as u64 * stride),
            Step::Grab { order }
            | Step::Repeat { order }
            | Step::Confirm { order, .. }
            | Step::Cancel { order, .. }
            | Step::ReadOrder { order, .. } => Some(*order),
            Step::ReadPromotion { .. } => None,
        }
    }
}
