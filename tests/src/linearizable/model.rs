//! One promotion as a sequential object, and what the calls of a history say about each order before any search.
//!
//! Invariant: the state is a function of the set of calls that took place, whatever their order: an order is granted once and given back
//! once in its life, and what remains is what was offered less what is held. So a set of calls names a configuration.

use std::collections::BTreeMap;

use crate::{Call, Event, GrabOutcome, ReturnOutcome};

/// A call as the search sees it. Calls that never happened and reads without an answer are left out.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    pub kind: Kind,
    /// Index of the order; of a read, meaningless.
    pub order: usize,
    pub invoked_ns: u64,
    /// None if the fate is unknown: the call may take place at any time or not at all.
    pub completed_ns: Option<u64>,
    /// Index of the call in the history.
    pub source: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Granted,
    Replayed,
    SoldOut { remaining: u64 },
    OrderReturned,
    MaybeGranted,
    Returned,
    NotHeld,
    MaybeReturned,
    Read { remaining: u64 },
}

impl Kind {
    /// The answer says that the order had been granted.
    pub fn saw_held(self) -> bool {
        matches!(self, Self::Replayed | Self::OrderReturned | Self::Returned)
    }

    /// The answer says that the order had not been granted.
    pub fn saw_fresh(self) -> bool {
        matches!(self, Self::SoldOut { .. } | Self::NotHeld)
    }

    /// The call takes units if it has an effect.
    pub fn takes(self) -> bool {
        matches!(self, Self::Granted | Self::MaybeGranted)
    }

    /// The call gives units back if it has an effect.
    pub fn gives_back(self) -> bool {
        matches!(self, Self::Returned | Self::MaybeReturned)
    }

    /// The call may never have happened.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::MaybeGranted | Self::MaybeReturned)
    }

    /// The answer says where the order stood, apart from those of its grant and of its returns.
    pub fn is_sighting(self) -> bool {
        self.saw_fresh() || matches!(self, Self::Replayed | Self::OrderReturned)
    }
}

/// What a history says about an order as a whole.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not the states of one thing"
)]
#[derive(Debug, Clone, Default)]
pub struct Order {
    pub quantity: u64,
    /// Units left right after its grant, where some answer says so.
    pub after: Option<u64>,
    /// Some call says that it was granted by that very call.
    pub granted: bool,
    /// Some answer says that it had been granted.
    pub saw_held: bool,
    /// Answers that say that it had not been granted.
    pub seen_fresh: usize,
    /// Answers that say where it stood, apart from those of its grant and of its returns.
    pub sightings: usize,
    /// Some call would give it back.
    pub returns: bool,
    /// Some other call of it began before its grant was answered.
    pub looked_at_early: bool,
    /// When it must have been given back, if it must.
    pub returned_by_ns: Option<u64>,
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Fresh,
    Held,
    Returned,
}

/// What taking place now would mean for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its answer fits, and it changes the state.
    Effect,
    /// Its answer fits, and it changes nothing.
    NoEffect,
    /// Its answer does not fit now.
    NotYet,
    /// Its answer can never fit any more.
    Never,
}

/// A history, ready for the search.
#[derive(Debug)]
pub struct Model {
    pub quantity: u64,
    pub items: Vec<Item>,
    pub orders: Vec<Order>,
}

impl Model {
    /// Takes the calls of one promotion; an explanation where they contradict each other in whatever order.
    #[track_caller]
    pub fn of(quantity: u64, calls: &[Call]) -> Result<Self, String> {
        let mut model = Self {
            quantity,
            items: Vec::new(),
            orders: Vec::new(),
        };
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        for (source, call) in calls.iter().enumerate() {
            assert!(
                call.invoked_ns <= call.completed_ns,
                "ends before it begins: {call}"
            );
            let (name, kind) = match &call.event {
                Event::Grab { order, outcome, .. } => (order.as_str(), grab_kind(*outcome)),
                Event::Return { order, outcome } => (order.as_str(), return_kind(*outcome)),
                Event::Read { remaining } => {
                    ("", remaining.map(|remaining| Kind::Read { remaining }))
                }
            };
            let next = numbers.len();
            let order = *numbers.entry(name).or_insert(next);
            if order == next {
                model.orders.push(Order::default());
            }
            model.note(order, call, kind, calls)?;
            if let Some(kind) = kind {
                model.items.push(Item {
                    kind,
                    order,
                    invoked_ns: call.invoked_ns,
                    completed_ns: Some(call.completed_ns).filter(|_| !kind.is_optional()),
                    source,
                });
            }
        }
        model.find_early_looks();
        // An order that some call was granted for was granted by no other call.
        let orders = &model.orders;
        model
            .items
            .retain(|item| item.kind != Kind::MaybeGranted || !orders[item.order].granted);
        Ok(model)
    }

    /// Learns from one call what it says about its order.
    #[track_caller]
    fn note(
        &mut self,
        number: usize,
        call: &Call,
        kind: Option<Kind>,
        calls: &[Call],
    ) -> Result<(), String> {
        let order = &mut self.orders[number];
        if let Event::Grab {
            order: name,
            quantity,
            outcome,
        } = &call.event
        {
            assert!(
                order.quantity == 0 || order.quantity == *quantity,
                "one order, two quantities: {call}"
            );
            order.quantity = *quantity;
            if let GrabOutcome::Granted { remaining } | GrabOutcome::Replayed { remaining } =
                outcome
            {
                let granted = matches!(outcome, GrabOutcome::Granted { .. });
                if granted && order.granted {
                    return Err(format!("granted twice:{}", about(name, calls)));
                }
                if order.after.is_some_and(|after| after != *remaining) {
                    return Err(format!(
                        "one grant, two numbers remaining:{}",
                        about(name, calls)
                    ));
                }
                order.granted |= granted;
                order.after = Some(*remaining);
            }
        }
        let Some(kind) = kind else {
            return Ok(());
        };
        order.saw_held |= kind.saw_held();
        order.seen_fresh += usize::from(kind.saw_fresh());
        order.sightings += usize::from(kind.is_sighting());
        order.returns |= kind.gives_back();
        if kind == Kind::Returned {
            let by = order.returned_by_ns.unwrap_or(u64::MAX);
            order.returned_by_ns = Some(by.min(call.completed_ns));
        }
        Ok(())
    }

    /// Finds the orders that some other call asks about before the answer to their grant.
    fn find_early_looks(&mut self) {
        let mut earliest = vec![u64::MAX; self.orders.len()];
        for item in self.items.iter().filter(|item| item.kind != Kind::Granted) {
            let known = &mut earliest[item.order];
            *known = item.invoked_ns.min(*known);
        }
        for item in self.items.iter().filter(|item| item.kind == Kind::Granted) {
            let order = &mut self.orders[item.order];
            order.looked_at_early = Some(earliest[item.order]) <= item.completed_ns;
        }
    }

    /// What must remain for this call to take place, where its answer says so.
    pub fn needed(&self, item: &Item) -> Option<u64> {
        let order = &self.orders[item.order];
        match item.kind {
            Kind::Granted => order.after?.checked_add(order.quantity),
            Kind::Read { remaining } | Kind::SoldOut { remaining } => Some(remaining),
            _ => None,
        }
    }

    /// What it would mean for `item` to take place with so many units remaining and its order in this status.
    pub fn standing(&self, item: &Item, status: Status, remaining: u64) -> Standing {
        let order = &self.orders[item.order];
        let left = remaining.checked_sub(order.quantity);
        match (item.kind, status) {
            (Kind::Read { remaining: seen }, _) if seen == remaining => Standing::NoEffect,
            (Kind::Granted | Kind::MaybeGranted, Status::Fresh)
                if left.is_some() && order.after.is_none_or(|after| left == Some(after)) =>
            {
                Standing::Effect
            }
            (Kind::SoldOut { remaining: seen }, Status::Fresh) if seen >= order.quantity => {
                Standing::Never
            }
            (Kind::SoldOut { remaining: seen }, Status::Fresh) if seen == remaining => {
                Standing::NoEffect
            }
            (Kind::Returned | Kind::MaybeReturned, Status::Held) => Standing::Effect,
            (Kind::Replayed, Status::Held)
            | (Kind::OrderReturned | Kind::Returned, Status::Returned)
            | (Kind::NotHeld, Status::Fresh) => Standing::NoEffect,
            (
                Kind::Granted | Kind::SoldOut { .. } | Kind::NotHeld,
                Status::Held | Status::Returned,
            )
            | (Kind::Replayed, Status::Returned) => Standing::Never,
            _ => Standing::NotYet,
        }
    }
}

fn grab_kind(outcome: GrabOutcome) -> Option<Kind> {
    match outcome {
        GrabOutcome::Granted { .. } => Some(Kind::Granted),
        GrabOutcome::Replayed { .. } => Some(Kind::Replayed),
        GrabOutcome::SoldOut { remaining } => Some(Kind::SoldOut { remaining }),
        GrabOutcome::OrderReturned => Some(Kind::OrderReturned),
        GrabOutcome::Unknown => Some(Kind::MaybeGranted),
        GrabOutcome::NotDone => None,
    }
}

fn return_kind(outcome: ReturnOutcome) -> Option<Kind> {
    match outcome {
        ReturnOutcome::Returned => Some(Kind::Returned),
        ReturnOutcome::NotHeld => Some(Kind::NotHeld),
        ReturnOutcome::Unknown => Some(Kind::MaybeReturned),
        ReturnOutcome::NotDone => None,
    }
}

/// The calls of an order, a line each.
pub fn about(order: &str, calls: &[Call]) -> String {
    let own = calls
        .iter()
        .filter(|call| call.event.order() == Some(order));
    let lines: Vec<String> = own.map(|call| format!("\n  {call}")).collect();
    lines.concat()
}
