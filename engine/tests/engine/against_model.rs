//! Any story told to the engine and to the naive model: the same answers, the same counters.

use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use qiang_engine::order::OrderState;
use qiang_engine::shard::{Due, Moment};
use qiang_engine::{Answer, Command, OrderId, PromotionId, Record, Rejection, Shard, UnixMs};

use crate::model::{Expected, Model};
use crate::story::{self, ASK_AGAIN_MS, Listener, RETENTION_MS};

/// An order is looked at within one deadline bucket, 64 ms, of its time.
const SLACK_MS: u64 = 64;

#[derive(Default)]
struct Checked(Model);

impl Listener for Checked {
    fn on_command(
        &mut self,
        command: &Command,
        moment: &Moment,
        answer: &Result<Answer, Rejection>,
    ) {
        assert_eq!(
            *answer,
            self.0.execute(command, moment),
            "{command:?} at {moment:?}"
        );
    }

    fn on_due(&mut self, order_id: &OrderId, due: &Due, now: UnixMs) {
        let found = match due {
            Due::Ask { .. } => Expected::Asks,
            Due::Record(Record::Undone { .. }) => Expected::Undone,
            Due::Record(_) => Expected::Expired,
        };
        assert_eq!(found, self.0.act(order_id, now));
        if found == Expected::Asks {
            self.0.postpone(order_id, now.plus_ms(ASK_AGAIN_MS));
        }
    }

    fn on_end(&mut self, promotion_id: &PromotionId, now: UnixMs) {
        self.0.end(promotion_id, now);
    }

    fn on_time(&mut self, now: UnixMs) {
        let late = self.0.late(now, SLACK_MS);
        assert!(late.is_empty(), "not looked at by {now:?}: {late:?}");
        assert_eq!(self.0.overdue(now), 0, "promotions past their end");
    }

    fn on_forgotten(&mut self, record: Option<&Record>, now: UnixMs) {
        let (mut orders, tries) = match record {
            Some(Record::Forgotten { orders, tries, .. }) => (orders.clone(), tries.clone()),
            Some(other) => panic!("not forgetting: {other:?}"),
            None => (Vec::new(), Vec::new()),
        };
        orders.sort_by(|a, b| a.order_id.cmp(&b.order_id));
        let tries = tries.into_iter().map(|(try_id, _)| try_id).collect();
        assert_eq!((orders, tries), self.0.forget(now, RETENTION_MS));
    }

    fn on_step(&mut self, shard: &Shard, moment: &Moment) {
        same_promotions(shard, &self.0, moment);
        same_orders(shard, &self.0);
        same_usage(shard, &self.0);
    }
}

fn same_promotions(shard: &Shard, model: &Model, moment: &Moment) {
    assert_eq!(shard.promotions().len(), model.promotion_ids().count());
    for promotion_id in model.promotion_ids() {
        let view = shard.view(promotion_id, moment).unwrap();
        assert_eq!(view, model.view(promotion_id, moment));
        let counters = view.promotion.counters;
        assert!(counters.balanced(), "{counters:?}");
        let offered = counters
            .original
            .checked_add_signed(counters.added)
            .unwrap();
        assert!(
            counters.held + counters.confirmed <= offered,
            "oversold: {counters:?}"
        );
    }
}

fn same_orders(shard: &Shard, model: &Model) {
    let mut orders: Vec<_> = shard.orders().collect();
    orders.sort_by(|a, b| a.order_id.cmp(&b.order_id));
    assert_eq!(orders, model.orders.values().cloned().collect::<Vec<_>>());
    assert_eq!(shard.order_count(), orders.len());
    for order in orders {
        assert_eq!(shard.order(&order.order_id).as_ref(), Some(&order));
    }
    let tries: Vec<_> = model
        .undone
        .iter()
        .map(|(try_id, at)| (*try_id, *at))
        .collect();
    assert_eq!(shard.undone_tries(), tries);
    let mut untold: Vec<OrderId> = shard.untold().map(|tell| tell.order_id).collect();
    untold.sort();
    assert_eq!(untold, model.untold());
}

/// The units of every pin and ip are the sum over its live orders; none is listed without units.
fn same_usage(shard: &Shard, model: &Model) {
    for (promotion_id, pin, units) in shard.pin_units() {
        assert_eq!(
            u64::from(units),
            model.pin_units(&promotion_id, &pin),
            "{pin} in {promotion_id}"
        );
    }
    for (promotion_id, ip, units) in shard.ip_units() {
        assert_eq!(
            u64::from(units),
            model.ip_units(&promotion_id, ip),
            "{ip} in {promotion_id}"
        );
    }
    let live = model
        .orders
        .values()
        .filter(|order| !matches!(order.state, OrderState::Returned { .. }));
    let live: u64 = live
        .flat_map(|order| &order.items)
        .map(|item| u64::from(item.quantity))
        .sum();
    assert_eq!(
        live,
        shard
            .pin_units()
            .map(|(_, _, units)| u64::from(units))
            .sum::<u64>()
    );
    assert_eq!(
        live,
        shard
            .ip_units()
            .map(|(_, _, units)| u64::from(units))
            .sum::<u64>()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_and_counter_is_the_naive_models(
        steps in story::steps(),
        default_rate in story::default_rate(),
    ) {
        story::tell(&steps, default_rate, &mut Checked::default());
    }
}

/// Counts what stories reach, so that a story that reaches nothing cannot pass for a proof.
#[derive(Default)]
struct Reached(BTreeMap<String, u32>);

impl Reached {
    fn note(&mut self, what: &impl Debug) {
        let name = format!("{what:?}");
        let end = name.find(|c: char| !c.is_alphanumeric());
        self.count(&name[..end.unwrap_or(name.len())]);
    }

    fn count(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }
}

impl Listener for Reached {
    fn on_command(&mut self, command: &Command, _: &Moment, answer: &Result<Answer, Rejection>) {
        match answer {
            Err(rejection) => self.note(&rejection.code),
            Ok(Answer::Granted(granted)) if granted.replayed => self.count("Replayed"),
            Ok(_) => self.note(command),
        }
    }

    fn on_due(&mut self, _: &OrderId, due: &Due, _: UnixMs) {
        self.note(due);
    }

    fn on_record(&mut self, record: &Record, _: &Shard) {
        self.count(&format!("record_{}", record.type_name()));
    }
}

#[test]
fn stories_reach_every_rule() {
    let mut runner = TestRunner::deterministic();
    let mut reached = Reached::default();
    for _ in 0..2_000 {
        let steps = story::steps().new_tree(&mut runner).unwrap().current();
        story::tell(&steps, None, &mut reached);
    }
    let all = "Grab TryGrab Seal Undo Resolve Follow Told Confirm Cancel GetOrder CreatePromotion \
        ChangePromotion StopPromotion DeletePromotion GetPromotion ListPromotions Replayed Ask \
        PromotionNotFound NotStarted Ended Stopped Deleted ChannelClosed RateLimited OrderMismatch \
        OrderReturned OrderLimit PinLimit IpLimit SoldOut OrderNotFound OrderConfirmed \
        PromotionExists InsufficientRemaining QuantityTooLarge EndBeforeStart InDoubt TryUndone \
        NotHome record_promotion_created record_promotion_changed record_promotion_closed \
        record_granted record_sealed record_confirmed record_returned record_undone record_told \
        record_forgotten record_checkpoint";
    for name in all.split_whitespace() {
        let times = reached.0.get(name).copied().unwrap_or_default();
        assert!(
            times >= 10,
            "{name} was reached {times} times: {:?}",
            reached.0
        );
    }
}
