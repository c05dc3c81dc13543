//! Folding flows into counters a second time, with plain maps and without the engine: what `verify` compares the
//! engine's counters with.
//!
//! Invariant: nothing here shares code with the engine's own fold, so an error in one does not hide in the other.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use qiang_engine::Record;
use serde::Deserialize;
use serde_json::Value;

/// A promotion's counters, in units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Offered at creation.
    pub original: i64,
    /// Still to be grabbed.
    pub remaining: i64,
    /// Ever granted.
    pub granted: i64,
    /// Ever given back.
    pub returned: i64,
    /// In orders that were paid.
    pub confirmed: i64,
}

/// The counters' names in the contract.
pub(crate) const NAMES: [&str; 5] = ["original", "remaining", "granted", "returned", "confirmed"];

impl Counters {
    /// The values in the order of [`NAMES`].
    pub(crate) fn values(&self) -> [i64; 5] {
        [
            self.original,
            self.remaining,
            self.granted,
            self.returned,
            self.confirmed,
        ]
    }

    /// The counters of a promotion as the routes tell it; `None` if one is missing.
    pub(crate) fn from_view(view: &Value) -> Option<Self> {
        let [original, remaining, granted, returned, confirmed] =
            NAMES.map(|name| view[name].as_i64());
        Some(Self {
            original: original?,
            remaining: remaining?,
            granted: granted?,
            returned: returned?,
            confirmed: confirmed?,
        })
    }

    /// The counters that the engine keeps.
    pub(crate) fn from_engine(counters: &qiang_engine::promotion::Counters) -> Self {
        let [original, remaining, granted, returned, confirmed] = [
            counters.original,
            counters.remaining,
            counters.granted,
            counters.returned,
            counters.confirmed,
        ]
        .map(|units| i64::try_from(units).unwrap_or(i64::MAX));
        Self {
            original,
            remaining,
            granted,
            returned,
            confirmed,
        }
    }
}

/// What a flow does to the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A promotion came to be.
    Created { promotion: String, quantity: i64 },
    /// Units were added or taken away.
    Added { promotion: String, units: i64 },
    /// Units were granted to an order.
    Granted {
        order: String,
        items: Vec<(String, i64)>,
    },
    /// An order was paid.
    Confirmed { order: String },
    /// An order was given back.
    Returned { order: String },
    /// A grant was undone as if it had never been.
    Undone { order: String },
    /// Closed orders were forgotten: their ids may come again.
    Forgotten { orders: Vec<String> },
    /// No units moved.
    Nothing,
}

/// Why flows cannot be folded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    /// It is not a flow.
    #[error("a flow cannot be read: {0}")]
    Unreadable(String),
    /// A member is not there.
    #[error("a flow of type {kind} has no {member}")]
    Incomplete {
        /// The flow's type.
        kind: String,
        /// The member.
        member: &'static str,
    },
    /// A promotion was not created before.
    #[error("promotion {0} appears before its creation")]
    NoPromotion(String),
    /// An order was not granted before.
    #[error("order {0} appears before its grant")]
    NoOrder(String),
    /// A promotion was created again.
    #[error("promotion {0} is created twice")]
    Twice(String),
    /// An order was granted again.
    #[error("order {0} is granted twice")]
    GrantedTwice(String),
    /// An order was confirmed or returned out of turn.
    #[error("order {order} is {verb} though it was {state} before")]
    OutOfTurn {
        /// The order.
        order: String,
        /// What the flow says.
        verb: &'static str,
        /// What it was.
        state: &'static str,
    },
}

/// The members of a flow, as the routes tell it, that move units.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    promotion_id: Option<String>,
    order_id: Option<String>,
    quantity: Option<i64>,
    add_quantity: Option<i64>,
    items: Option<Vec<LineItem>>,
    order_ids: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct LineItem {
    promotion_id: String,
    quantity: i64,
}

impl Change {
    /// What a flow as the routes tell it does.
    pub(crate) fn from_line(line: &str) -> Result<Self, Contradiction> {
        let flow: Line<'_> = serde_json::from_str(line)
            .map_err(|error| Contradiction::Unreadable(error.to_string()))?;
        let kind = flow.kind;
        let missing = |member| Contradiction::Incomplete {
            kind: kind.to_string(),
            member,
        };
        let promotion = || flow.promotion_id.ok_or_else(|| missing("promotion_id"));
        let order = || flow.order_id.clone().ok_or_else(|| missing("order_id"));
        Ok(match &*kind {
            "promotion_created" => {
                let quantity = flow.quantity.ok_or_else(|| missing("quantity"))?;
                Change::Created {
                    promotion: promotion()?,
                    quantity,
                }
            }
            "promotion_changed" => {
                let units = flow.add_quantity.unwrap_or_default();
                Change::Added {
                    promotion: promotion()?,
                    units,
                }
            }
            "granted" => {
                let items = flow.items.ok_or_else(|| missing("items"))?;
                let items = items
                    .into_iter()
                    .map(|item| (item.promotion_id, item.quantity))
                    .collect();
                Change::Granted {
                    order: order()?,
                    items,
                }
            }
            "confirmed" => Change::Confirmed { order: order()? },
            "returned" => Change::Returned { order: order()? },
            // A try that never came here has no order.
            "undone" => flow
                .order_id
                .map_or(Change::Nothing, |order| Change::Undone { order }),
            "forgotten" => Change::Forgotten {
                orders: flow.order_ids.ok_or_else(|| missing("order_ids"))?,
            },
            _ => Change::Nothing,
        })
    }

    /// What a record of the log does.
    pub(crate) fn from_record(record: &Record) -> Self {
        match record {
            Record::PromotionCreated { promotion } => Change::Created {
                promotion: promotion.id.to_string(),
                quantity: i64::try_from(promotion.counters.original).unwrap_or(i64::MAX),
            },
            Record::PromotionChanged(changed) => Change::Added {
                promotion: changed.promotion_id.to_string(),
                units: changed.add_quantity,
            },
            Record::Granted(granted) => {
                let item = |item: &qiang_engine::order::Item| {
                    (item.promotion_id.to_string(), i64::from(item.quantity))
                };
                Change::Granted {
                    order: granted.order_id.to_string(),
                    items: granted.items.iter().map(item).collect(),
                }
            }
            Record::Confirmed { order_id, .. } => Change::Confirmed {
                order: order_id.to_string(),
            },
            Record::Returned { order_id, .. } => Change::Returned {
                order: order_id.to_string(),
            },
            Record::Undone {
                order: Some(order), ..
            } => Change::Undone {
                order: order.order_id.to_string(),
            },
            Record::Forgotten { orders, .. } => Change::Forgotten {
                orders: orders
                    .iter()
                    .map(|order| order.order_id.to_string())
                    .collect(),
            },
            Record::Undone { order: None, .. }
            | Record::PromotionClosed { .. }
            | Record::Sealed { .. }
            | Record::Told { .. }
            | Record::Checkpoint { .. } => Change::Nothing,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Held,
    Confirmed,
    Returned,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Held => "held",
            State::Confirmed => "confirmed",
            State::Returned => "returned",
        }
    }
}

#[derive(Debug)]
struct Order {
    /// Numbers of promotions, with units; most orders have one.
    items: Box<[(u32, i64)]>,
    state: State,
}

/// The flows of one shard, folded so far.
///
/// Where retention removed the first flows, only promotions created in the flows that are left can be told: all their
/// orders are in them too.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    a_part: bool,
    names: BTreeMap<String, u32>,
    counters: Vec<Counters>,
    orders: HashMap<String, Order>,
    flows: u64,
}

impl Tally {
    /// A fold of flows whose beginning is gone.
    pub(crate) fn of_a_part() -> Self {
        Self {
            a_part: true,
            ..Self::default()
        }
    }

    /// Whether the flows are folded from the first on.
    pub(crate) fn is_whole(&self) -> bool {
        !self.a_part
    }

    /// Folds the next flow.
    pub(crate) fn fold(&mut self, change: Change) -> Result<(), Contradiction> {
        self.flows += 1;
        match change {
            Change::Created {
                promotion,
                quantity,
            } => self.create(promotion, quantity),
            Change::Added { promotion, units } => {
                if let Some(number) = self.number(&promotion)? {
                    self.counters[number as usize].remaining += units;
                }
                Ok(())
            }
            Change::Granted { order, items } => self.grant(order, &items),
            Change::Confirmed { order } => self.confirm(order),
            Change::Returned { order } => self.give_back(order),
            Change::Undone { order } => self.undo(order),
            Change::Forgotten { orders } => {
                for order in orders {
                    self.orders.remove(&order);
                }
                Ok(())
            }
            Change::Nothing => Ok(()),
        }
    }

    /// How many flows were folded.
    pub(crate) fn flows(&self) -> u64 {
        self.flows
    }

    /// Every promotion with its counters, by id.
    pub(crate) fn promotions(&self) -> impl Iterator<Item = (&str, Counters)> {
        self.names
            .iter()
            .map(|(name, number)| (name.as_str(), self.counters[*number as usize]))
    }

    /// The counters of a promotion.
    pub(crate) fn promotion(&self, id: &str) -> Option<Counters> {
        self.names
            .get(id)
            .map(|number| self.counters[*number as usize])
    }

    /// The promotion's number; `None` for one whose first flows are gone.
    fn number(&self, promotion: &str) -> Result<Option<u32>, Contradiction> {
        match self.names.get(promotion) {
            None if !self.a_part => Err(Contradiction::NoPromotion(promotion.to_owned())),
            found => Ok(found.copied()),
        }
    }

    /// The order that a flow is about is not there: that is right only if its grant is among the flows that are gone.
    fn absent(&self, order: String) -> Result<(), Contradiction> {
        if self.a_part {
            Ok(())
        } else {
            Err(Contradiction::NoOrder(order))
        }
    }

    fn create(&mut self, promotion: String, quantity: i64) -> Result<(), Contradiction> {
        if self.names.contains_key(&promotion) {
            return Err(Contradiction::Twice(promotion));
        }
        let number =
            u32::try_from(self.counters.len()).expect("a shard has fewer than 2^32 promotions");
        self.names.insert(promotion, number);
        self.counters.push(Counters {
            original: quantity,
            remaining: quantity,
            ..Counters::default()
        });
        Ok(())
    }

    fn grant(&mut self, order: String, items: &[(String, i64)]) -> Result<(), Contradiction> {
        if self.orders.contains_key(&order) {
            return Err(Contradiction::GrantedTwice(order));
        }
        let mut numbered = Vec::with_capacity(items.len());
        for (promotion, units) in items {
            if let Some(number) = self.number(promotion)? {
                numbered.push((number, *units));
            }
        }
        let items = numbered.into_boxed_slice();
        for (number, units) in &items {
            let counters = &mut self.counters[*number as usize];
            counters.remaining -= units;
            counters.granted += units;
        }
        self.orders.insert(
            order,
            Order {
                items,
                state: State::Held,
            },
        );
        Ok(())
    }

    fn confirm(&mut self, order: String) -> Result<(), Contradiction> {
        let Some(found) = self.orders.get_mut(&order) else {
            return self.absent(order);
        };
        if found.state != State::Held {
            return Err(Contradiction::OutOfTurn {
                order,
                verb: "confirmed",
                state: found.state.as_str(),
            });
        }
        found.state = State::Confirmed;
        for (number, units) in &found.items {
            self.counters[*number as usize].confirmed += units;
        }
        Ok(())
    }

    fn give_back(&mut self, order: String) -> Result<(), Contradiction> {
        let Some(found) = self.orders.get_mut(&order) else {
            // A cancel that came before its grab: it moves no units, and the order never grabs again.
            self.orders.insert(
                order,
                Order {
                    items: Box::default(),
                    state: State::Returned,
                },
            );
            return Ok(());
        };
        let before = std::mem::replace(&mut found.state, State::Returned);
        if before == State::Returned {
            return Err(Contradiction::OutOfTurn {
                order,
                verb: "returned",
                state: before.as_str(),
            });
        }
        for (number, units) in &found.items {
            let counters = &mut self.counters[*number as usize];
            counters.remaining += units;
            counters.returned += units;
            if before == State::Confirmed {
                counters.confirmed -= units;
            }
        }
        Ok(())
    }

    fn undo(&mut self, order: String) -> Result<(), Contradiction> {
        let Some(found) = self.orders.remove(&order) else {
            return self.absent(order);
        };
        if found.state != State::Held {
            return Err(Contradiction::OutOfTurn {
                order,
                verb: "undone",
                state: found.state.as_str(),
            });
        }
        for (number, units) in &found.items {
            let counters = &mut self.counters[*number as usize];
            counters.remaining += units;
            counters.granted -= units;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
