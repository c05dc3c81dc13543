//! Folding the flows of a run, and judging the fold.
//!
//! Invariant: nothing is taken on trust from the server: counters and the state of every order are computed here from
//! single flows, in commit order, and every flow must be one that can follow those before it.

use std::collections::{BTreeMap, HashMap};

use super::difference::{Difference, Differences};
use super::flow::{Flow, FlowItem, parse};
use super::part::{Part, State};
use crate::identity::RunId;
use crate::ledger::{Entry, Grab, Ledger, Word};
use crate::sale::Counters;
use crate::workload::Workload;

/// What is known of a run on the client's side.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The run.
    pub run: &'a RunId,
    /// What its orders asked for.
    pub workload: &'a Workload,
    /// What they were answered.
    pub ledger: &'a Ledger,
}

/// An order over several shards.
#[derive(Debug, Default)]
struct Cart {
    /// What it is on each shard; few.
    parts: BTreeMap<u16, Part>,
    /// Units set aside or held by its parts, by promotion.
    units: BTreeMap<u32, i64>,
    /// Whether its first shard has sealed it.
    sealed: bool,
}

/// The flows of a run, folded so far.
#[derive(Debug)]
pub struct Fold<'a> {
    client: Client<'a>,
    promotions: Vec<Option<Counters>>,
    /// Orders on one shard, by number.
    orders: Vec<Part>,
    /// Orders on several.
    carts: HashMap<u64, Cart>,
    differences: Differences,
    flows: u64,
}

impl<'a> Fold<'a> {
    /// Nothing yet.
    pub fn new(client: Client<'a>) -> Self {
        Self {
            client,
            promotions: vec![None; client.workload.promotions as usize],
            orders: vec![Part::default(); client.ledger.end() as usize],
            carts: HashMap::new(),
            differences: Differences::default(),
            flows: 0,
        }
    }

    /// How many flows of the run were folded.
    pub fn flows(&self) -> u64 {
        self.flows
    }

    /// Folds a line of `GET /v1/flows`. Lines of other runs are passed over.
    ///
    /// # Errors
    /// It is not a flow.
    pub fn line(&mut self, line: &[u8]) -> Result<(), String> {
        // Cheaper than reading the line: a server may have sold for long before this run.
        if memchr::memmem::find(line, self.client.run.as_str().as_bytes()).is_none() {
            return Ok(());
        }
        let flow = parse(line)?;
        self.flows += 1;
        match flow.kind {
            "promotion_created" => self.on_created(&flow),
            "promotion_changed" => self.on_changed(&flow),
            "granted" => self.on_order(&flow, Self::on_granted),
            "sealed" => self.on_order(&flow, Self::on_sealed),
            "confirmed" => self.on_order(&flow, Self::on_confirmed),
            "returned" => self.on_order(&flow, Self::on_returned),
            "undone" => self.on_order(&flow, Self::on_undone),
            _ => {}
        }
        Ok(())
    }

    fn on_created(&mut self, flow: &Flow<'_>) {
        let Some(number) = flow
            .promotion_id
            .and_then(|id| self.client.run.parse_promotion(id))
        else {
            return;
        };
        let quantity = flow.quantity.unwrap_or_default();
        if let Some(place) = self.promotions.get_mut(number as usize) {
            *place = Some(Counters {
                original: quantity,
                remaining: quantity,
                ..Counters::default()
            });
        }
    }

    fn on_changed(&mut self, flow: &Flow<'_>) {
        let units = flow.add_quantity.unwrap_or_default();
        if let Some(id) = flow.promotion_id {
            self.change(id, flow, |counters| {
                counters.added += units;
                counters.remaining += units;
            });
        }
    }

    /// Folds a flow about an order of this run; one about an order that was never sent is a difference.
    fn on_order(&mut self, flow: &Flow<'_>, fold: fn(&mut Self, &Flow<'_>, u64, Entry)) {
        let number = flow.order_id.and_then(|id| self.client.run.parse_order(id));
        let Some(number) = number else {
            return;
        };
        let entry = self.client.ledger.entry(number);
        if number >= self.orders.len() as u64 || is_unsent(entry) {
            let order = self.client.run.order(number);
            let cursor = flow.cursor.to_owned();
            self.differences.push(Difference::Unasked { order, cursor });
            return;
        }
        fold(self, flow, number, entry);
    }

    fn on_granted(&mut self, flow: &Flow<'_>, number: u64, _: Entry) {
        let cart = flow.cart.is_some();
        if cart {
            let cart = self.carts.entry(number).or_default();
            for item in &flow.items {
                if let Some(promotion) = self.client.run.parse_promotion(item.promotion_id) {
                    *cart.units.entry(promotion).or_default() += item.quantity;
                }
            }
        } else {
            self.check_content(flow, number, &flow.items);
        }
        let to = if cart { State::Tentative } else { State::Held };
        self.step(flow, number, "granted", to);
        self.change_all(flow, |counters, units| {
            counters.remaining -= units;
            counters.granted += units;
            counters.held += units;
        });
    }

    fn on_sealed(&mut self, flow: &Flow<'_>, number: u64, _: Entry) {
        if !flow.order_items.is_empty() {
            self.check_content(flow, number, &flow.order_items);
            let cart = self.carts.entry(number).or_default();
            if std::mem::replace(&mut cart.sealed, true) {
                self.granted_twice(flow, number);
                return;
            }
        }
        self.step(flow, number, "sealed", State::Held);
    }

    fn on_confirmed(&mut self, flow: &Flow<'_>, number: u64, entry: Entry) {
        if entry.confirm() == Word::Unasked {
            let (order, cursor) = (self.client.run.order(number), flow.cursor.to_owned());
            let difference = Difference::ConfirmedUnasked { order, cursor };
            self.differences.push(difference);
        }
        self.step(flow, number, "confirmed", State::Confirmed);
        self.change_all(flow, |counters, units| {
            counters.confirmed += units;
            counters.held -= units;
        });
    }

    fn on_returned(&mut self, flow: &Flow<'_>, number: u64, entry: Entry) {
        let reason = flow.reason.unwrap_or_default();
        let unasked = reason != "expired" && entry.cancel() == Word::Unasked;
        // A part that was only set aside may be given back without anybody's wish.
        if unasked && flow.from != Some("tentative") {
            self.differences.push(Difference::ReturnedUnasked {
                order: self.client.run.order(number),
                cursor: flow.cursor.to_owned(),
                reason: reason.to_owned(),
            });
        }
        let was_confirmed = self.state(number, flow.shard) == State::Confirmed;
        if flow.from == Some("unknown") {
            self.step(flow, number, "cancelled in advance", State::Returned);
            return;
        }
        self.step(flow, number, "returned", State::Returned);
        self.change_all(flow, |counters, units| {
            counters.remaining += units;
            counters.returned += units;
            if was_confirmed {
                counters.confirmed -= units;
            } else {
                counters.held -= units;
            }
        });
    }

    fn on_undone(&mut self, flow: &Flow<'_>, number: u64, _: Entry) {
        // A try that was undone before it came has set nothing aside.
        if flow.items.is_empty() {
            return;
        }
        if let Some(cart) = self.carts.get_mut(&number) {
            for item in &flow.items {
                if let Some(promotion) = self.client.run.parse_promotion(item.promotion_id) {
                    *cart.units.entry(promotion).or_default() -= item.quantity;
                }
            }
        }
        self.step(flow, number, "undone", State::Nothing);
        self.change_all(flow, |counters, units| {
            counters.remaining += units;
            counters.granted -= units;
            counters.held -= units;
        });
    }

    /// Moves an order's part on the flow's shard, if that can follow.
    fn step(&mut self, flow: &Flow<'_>, number: u64, verb: &'static str, to: State) {
        let part = match self.carts.get_mut(&number) {
            Some(cart) => cart.parts.entry(flow.shard).or_default(),
            None => &mut self.orders[number as usize],
        };
        let before = part.state();
        if part.step(to).is_ok() {
            return;
        }
        if verb == "granted" {
            self.granted_twice(flow, number);
            return;
        }
        self.differences.push(Difference::OutOfTurn {
            order: self.client.run.order(number),
            verb,
            state: before.as_str(),
            cursor: flow.cursor.to_owned(),
        });
    }

    fn granted_twice(&mut self, flow: &Flow<'_>, number: u64) {
        let (order, cursor) = (self.client.run.order(number), flow.cursor.to_owned());
        self.differences
            .push(Difference::GrantedTwice { order, cursor });
    }

    fn state(&self, number: u64, shard: u16) -> State {
        match self.carts.get(&number) {
            Some(cart) => cart.parts.get(&shard).copied().unwrap_or_default().state(),
            None => self.orders[number as usize].state(),
        }
    }

    fn change_all(&mut self, flow: &Flow<'_>, change: impl Fn(&mut Counters, i64)) {
        for item in &flow.items {
            self.change(item.promotion_id, flow, |c| change(c, item.quantity));
        }
    }

    /// Changes a promotion's counters; less than nothing remaining is an oversell.
    fn change(&mut self, id: &str, flow: &Flow<'_>, change: impl FnOnce(&mut Counters)) {
        let number = self.client.run.parse_promotion(id);
        let found = number.and_then(|number| self.promotions.get_mut(number as usize)?.as_mut());
        let (promotion, cursor) = (id.to_owned(), flow.cursor.to_owned());
        let Some(counters) = found else {
            self.differences
                .push(Difference::NoPromotion { promotion, cursor });
            return;
        };
        change(counters);
        let remaining = counters.remaining;
        if remaining < 0 {
            self.differences.push(Difference::Oversold {
                promotion,
                remaining,
                cursor,
            });
        }
    }

    fn check_content(&mut self, flow: &Flow<'_>, number: u64, granted: &[FlowItem<'_>]) {
        let asked = self.client.workload.items(number);
        let same = asked.len() == granted.len()
            && asked.iter().all(|asked| {
                granted.iter().any(|granted| {
                    let promotion = self.client.run.parse_promotion(granted.promotion_id);
                    promotion == Some(asked.promotion)
                        && granted.quantity == i64::from(asked.quantity)
                })
            });
        if same {
            return;
        }
        let asked = asked.iter().map(|item| {
            let promotion = self.client.run.promotion(item.promotion);
            format!("{promotion}:{}", item.quantity)
        });
        let asked = asked.collect::<Vec<_>>().join(" ");
        let granted = granted
            .iter()
            .map(|item| format!("{}:{}", item.promotion_id, item.quantity));
        self.differences.push(Difference::OtherContent {
            order: self.client.run.order(number),
            asked,
            granted: granted.collect::<Vec<_>>().join(" "),
            cursor: flow.cursor.to_owned(),
        });
    }

    /// Compares what was folded with the client's side and with the counters that the server tells, in the promotions' order.
    pub fn judge(&self, told: &[Counters]) -> Differences {
        let mut found = self.differences.clone();
        for (number, entry) in self.client.ledger.orders() {
            self.judge_order(number, entry, &mut found);
        }
        for (number, cart) in &self.carts {
            self.judge_parts(*number, cart, &mut found);
        }
        for (number, told) in told.iter().enumerate() {
            let folded = self.promotions[number].unwrap_or_default();
            for ((counter, told), (_, folded)) in told.named().into_iter().zip(folded.named()) {
                if told != folded {
                    found.push(Difference::CounterOff {
                        promotion: self.client.run.promotion(number as u32),
                        counter,
                        told,
                        folded,
                    });
                }
            }
        }
        found
    }

    fn judge_order(&self, number: u64, entry: Entry, found: &mut Differences) {
        let order = || self.client.run.order(number);
        let part = self.whole(number);
        match (entry.grab(), part.was_granted()) {
            (Grab::Granted, false) => found.push(Difference::Lost(order())),
            (Grab::Refused, true) => found.push(Difference::RefusedButGranted(order())),
            (Grab::Contradicted, _) => found.push(Difference::Contradicted(order())),
            _ => {}
        }
        if entry.cancel() == Word::Done && part.state() != State::Returned {
            found.push(Difference::CancelLost(order()));
        }
        if entry.confirm() == Word::Done && !part.was_confirmed() {
            found.push(Difference::ConfirmLost(order()));
        }
    }

    /// An order as a whole: as its only shard has it, or, over several, as any part that got furthest once it was sealed.
    fn whole(&self, number: u64) -> Part {
        match self.carts.get(&number) {
            None => self.orders[number as usize],
            Some(cart) if cart.sealed => {
                let furthest = cart.parts.values().max_by_key(|part| part.state());
                furthest.copied().unwrap_or_default()
            }
            Some(_) => Part::default(),
        }
    }

    /// All parts of an order must have come to the same, and together be all of it.
    fn judge_parts(&self, number: u64, cart: &Cart, found: &mut Differences) {
        let mut states = cart.parts.values().map(|part| part.state());
        let same = if cart.sealed {
            let asked = self.client.workload.items(number);
            let whole = asked.iter().all(|item| {
                cart.units.get(&item.promotion).copied() == Some(i64::from(item.quantity))
            });
            let first = states.next().unwrap_or_default();
            whole && first != State::Tentative && states.all(|state| state == first)
        } else {
            states.all(|state| matches!(state, State::Nothing | State::Returned))
        };
        if same {
            return;
        }
        let told = cart
            .parts
            .iter()
            .map(|(shard, part)| format!("shard {shard} {}", part.state().as_str()));
        found.push(Difference::PartsDisagree {
            order: self.client.run.order(number),
            told: told.collect::<Vec<_>>().join(", "),
        });
    }
}

/// Whether nothing at all was sent about an order.
fn is_unsent(entry: Entry) -> bool {
    entry.grab() == Grab::Unsent && entry.cancel() == Word::Unasked
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
