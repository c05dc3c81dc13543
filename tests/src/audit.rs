//! The naive audit: fold the flows with plain maps, and compare with what the routes say.
//!
//! Invariant: at every prefix of the flows no promotion is oversold, no limit is passed, and no order takes units
//! twice; at the end the counters of every promotion equal the fold.

use crate::{Client, Flow, Kind, shard_of};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long changes may go on that nobody asks for.
const QUIET_WITHIN: Duration = Duration::from_mins(1);

/// What an order holds on one shard, by the flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Promotions and units.
    pub items: Vec<(String, i64)>,
    /// The buyer.
    pub pin: String,
    /// The buyer's address.
    pub ip: String,
    /// `held`, `confirmed` or `returned`.
    pub state: &'static str,
}

/// A promotion's counters and limits, by the flows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Units offered at creation.
    pub original: i64,
    /// Units added since.
    pub added: i64,
    /// Units ever taken and not undone.
    pub granted: i64,
    /// Units ever given back.
    pub returned: i64,
    /// Units in orders that were paid.
    pub confirmed: i64,
    per_pin: Option<i64>,
    per_ip: Option<i64>,
    by_pin: BTreeMap<String, i64>,
    by_ip: BTreeMap<String, i64>,
}

impl Tally {
    /// Units still to be grabbed.
    pub fn remaining(&self) -> i64 {
        self.original + self.added - self.granted + self.returned
    }
}

/// The outcome of folding every flow.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// Orders by shard and id: a cart over several shards has a part on each.
    pub orders: BTreeMap<(u64, String), Held>,
    /// Promotions by id.
    pub promotions: BTreeMap<String, Tally>,
}

/// Folds all flows of the node and compares with the promotions' counters; a panic names the first contradiction.
///
/// To be called when nobody asks for anything. What comes by itself between flows and counters, such as the end of a cart that a crash has
/// interrupted, is read and compared again.
#[track_caller]
pub fn audit(client: &Client) -> Audit {
    let until = Instant::now() + QUIET_WITHIN;
    loop {
        let flows = client.all_flows();
        let mut audit = Audit::default();
        for (shard, flows) in (0_u64..).zip(&flows) {
            for flow in flows {
                audit.fold(shard, flow);
            }
        }
        let Err(contradiction) = audit.compare(client) else {
            return audit;
        };
        let count = |flows: &[Vec<Flow>]| flows.iter().map(Vec::len).sum::<usize>();
        let has_more = count(&client.all_flows()) > count(&flows);
        assert!(has_more && Instant::now() < until, "{contradiction}");
    }
}

fn compare(id: &str, tally: &Tally, view: &Value) -> Result<(), String> {
    let folded = [
        ("original", tally.original),
        ("remaining", tally.remaining()),
        ("granted", tally.granted),
        ("returned", tally.returned),
        ("confirmed", tally.confirmed),
    ];
    for (member, folded) in folded {
        if view[member].as_i64() != Some(folded) {
            return Err(format!(
                "{member} of {id}: route against flows, {folded}; {view} {tally:?}"
            ));
        }
    }
    assert_eq!(view["shard"].as_u64(), Some(shard_of(id)), "{view}");
    Ok(())
}

impl Audit {
    /// Whether the promotions' counters are what was folded, or the first that is not.
    fn compare(&self, client: &Client) -> Result<(), String> {
        for (id, tally) in &self.promotions {
            compare(id, tally, &client.offered(id).view())?;
        }
        Ok(())
    }

    #[track_caller]
    fn fold(&mut self, shard: u64, flow: &Flow) {
        match flow.kind {
            Kind::Created => self.create(flow),
            Kind::Changed => self.change(flow),
            Kind::Granted => self.grant(shard, flow),
            Kind::Confirmed => self.confirm(shard, flow),
            Kind::Returned => self.give_back(shard, flow, "returned"),
            Kind::Undone => self.undo(shard, flow),
            Kind::Closed | Kind::Sealed | Kind::Other => {}
        }
    }

    fn create(&mut self, flow: &Flow) {
        let id = flow
            .promotion_id()
            .expect("a creation names its promotion")
            .to_owned();
        let original = flow.json["quantity"]
            .as_i64()
            .expect("a creation has its quantity");
        let mut tally = Tally {
            original,
            ..Tally::default()
        };
        tally.take_limits(&flow.json["limits"]);
        let before = self.promotions.insert(id, tally);
        assert!(before.is_none(), "created twice: {}", flow.json);
    }

    fn change(&mut self, flow: &Flow) {
        let tally = self.promotion(flow.promotion_id().expect("a change names its promotion"));
        tally.added += flow.json["add_quantity"].as_i64().unwrap_or(0);
        if let Some(limits) = flow.json.get("limits") {
            tally.take_limits(limits);
        }
        assert!(
            tally.remaining() >= 0,
            "taken below what is held: {}",
            flow.json
        );
    }

    #[track_caller]
    fn grant(&mut self, shard: u64, flow: &Flow) {
        let order = order_of(flow);
        let text = |member: &str| {
            flow.json[member]
                .as_str()
                .unwrap_or_else(|| panic!("no {member}: {}", flow.json))
                .to_owned()
        };
        let held = Held {
            items: flow.items(),
            pin: text("pin"),
            ip: text("ip"),
            state: "held",
        };
        for (promotion, units) in &held.items {
            assert_eq!(
                shard_of(promotion),
                shard,
                "on a wrong shard: {}",
                flow.json
            );
            let tally = self.promotion(promotion);
            tally.granted += units;
            let of_pin = tally.by_pin.entry(held.pin.clone()).or_default();
            *of_pin += units;
            let over_pin = tally.per_pin.is_some_and(|limit| *of_pin > limit);
            let of_ip = tally.by_ip.entry(held.ip.clone()).or_default();
            *of_ip += units;
            let over_ip = tally.per_ip.is_some_and(|limit| *of_ip > limit);
            assert!(
                !over_pin && !over_ip,
                "over a limit: {} {tally:?}",
                flow.json
            );
            assert!(tally.remaining() >= 0, "oversold: {} {tally:?}", flow.json);
        }
        let before = self.orders.insert((shard, order), held);
        assert!(
            before.is_none(),
            "granted twice: {} after {before:?}",
            flow.json
        );
    }

    #[track_caller]
    fn confirm(&mut self, shard: u64, flow: &Flow) {
        let held = self.live(shard, flow);
        assert_eq!(held.state, "held", "confirmed out of turn: {}", flow.json);
        for (promotion, units) in &held.items {
            self.promotion(promotion).confirmed += units;
        }
        self.orders.insert(
            (shard, order_of(flow)),
            Held {
                state: "confirmed",
                ..held
            },
        );
    }

    #[track_caller]
    fn give_back(&mut self, shard: u64, flow: &Flow, state: &'static str) {
        let order = order_of(flow);
        if !self.orders.contains_key(&(shard, order.clone())) {
            // A cancel before its grab: a tombstone that moves no units.
            let tombstone = Held {
                items: Vec::new(),
                pin: String::new(),
                ip: String::new(),
                state,
            };
            self.orders.insert((shard, order), tombstone);
            return;
        }
        let held = self.live(shard, flow);
        self.release(&held);
        self.orders.insert((shard, order), Held { state, ..held });
    }

    #[track_caller]
    fn undo(&mut self, shard: u64, flow: &Flow) {
        // An attempt that was refused here, or never came, is undone without naming an order: it took nothing.
        let Some(order) = flow.order_id() else { return };
        let held = self.orders.remove(&(shard, order.to_owned()));
        let held = held.unwrap_or_else(|| panic!("undone, but never tried: {}", flow.json));
        assert_eq!(held.state, "held", "undone out of turn: {}", flow.json);
        for (promotion, units) in &held.items {
            let tally = self.promotion(promotion);
            tally.granted -= units;
            tally.free(&held.pin, &held.ip, *units);
        }
    }

    fn release(&mut self, held: &Held) {
        for (promotion, units) in &held.items {
            let tally = self.promotion(promotion);
            tally.returned += units;
            if held.state == "confirmed" {
                tally.confirmed -= units;
            }
            tally.free(&held.pin, &held.ip, *units);
        }
    }

    #[track_caller]
    fn live(&self, shard: u64, flow: &Flow) -> Held {
        let held = self.orders.get(&(shard, order_of(flow)));
        let held = held.unwrap_or_else(|| panic!("about an order never granted: {}", flow.json));
        assert_ne!(held.state, "returned", "after its return: {}", flow.json);
        held.clone()
    }

    #[track_caller]
    fn promotion(&mut self, id: &str) -> &mut Tally {
        self.promotions
            .get_mut(id)
            .unwrap_or_else(|| panic!("a flow of {id} before its creation"))
    }

    /// The part of an order on the shard of its promotion `first`.
    pub fn order(&self, first: &str, order: &str) -> Option<&Held> {
        self.orders.get(&(shard_of(first), order.to_owned()))
    }
}

impl Tally {
    fn take_limits(&mut self, limits: &Value) {
        self.per_pin = limits["per_pin"].as_i64();
        self.per_ip = limits["per_ip"].as_i64();
    }

    fn free(&mut self, pin: &str, ip: &str, units: i64) {
        for (by, key) in [(&mut self.by_pin, pin), (&mut self.by_ip, ip)] {
            *by.get_mut(key).expect("a live order is counted") -= units;
        }
    }
}

#[track_caller]
fn order_of(flow: &Flow) -> String {
    flow.order_id()
        .unwrap_or_else(|| panic!("no order_id: {}", flow.json))
        .to_owned()
}
