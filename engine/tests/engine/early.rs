//! What is refused early is what the shard would have said, attempts and all.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use qiang_engine::early::{self, Refused};
use qiang_engine::seen::Seen;
use qiang_engine::shard::Moment;
use qiang_engine::{Answer, Command, PromotionId, Rejection, Shard};

use crate::story::{self, Listener};

/// Refuses early what can be, and holds it against what the shard then says.
#[derive(Default)]
struct Early {
    refused: Option<Refused>,
    /// The promotion asked for, and its attempts before.
    attempts: Option<(PromotionId, u64)>,
    /// Early refusals by code.
    reached: BTreeMap<String, u32>,
}

impl Listener for Early {
    fn before_command(&mut self, command: &Command, moment: &Moment, shard: &Shard) {
        self.refused = None;
        let Command::Grab(grab) = command else { return };
        let Some(item) = grab.items.first() else {
            return;
        };
        let mut shard_shown = shard.clone();
        let mut shown = shard_shown
            .show_all()
            .into_iter()
            .map(|change| change.shown().0.clone());
        let Some(shown) = shown.find(|shown| *shown.id() == item.promotion_id) else {
            return;
        };
        let seen = Arc::new(Seen::new(1));
        shard_shown.show_orders(seen.clone());
        self.refused = early::refuse(&shown, grab, &seen, moment);
        let attempts = shard.view(&item.promotion_id, moment).unwrap().attempts;
        self.attempts = Some((item.promotion_id.clone(), attempts));
    }

    fn on_command(&mut self, _: &Command, _: &Moment, answer: &Result<Answer, Rejection>) {
        let Some(refused) = &self.refused else { return };
        assert_eq!(Err(&refused.rejection), answer.as_ref());
        let code = format!("{:?}", refused.rejection.code);
        let name = code.split(' ').next().unwrap_or_default().to_owned();
        *self.reached.entry(name).or_default() += 1;
    }

    fn on_step(&mut self, shard: &Shard, moment: &Moment) {
        if let (Some(refused), Some((promotion_id, before))) =
            (self.refused.take(), self.attempts.take())
        {
            let after = shard.view(&promotion_id, moment).unwrap().attempts;
            assert_eq!(after, before + u64::from(refused.counts), "{refused:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_refused_early_the_shard_refuses_with_the_same_code(
        steps in story::steps(),
        default_rate in story::default_rate(),
    ) {
        story::tell(&steps, default_rate, &mut Early::default());
    }
}

#[test]
fn every_code_that_can_be_is_refused_early() {
    let mut runner = TestRunner::deterministic();
    let mut early = Early::default();
    for _ in 0..4_000 {
        let steps = story::steps().new_tree(&mut runner).unwrap().current();
        story::tell(&steps, None, &mut early);
    }
    let all = "RateLimited NotStarted Ended Stopped Deleted ChannelClosed OrderLimit PinLimit IpLimit SoldOut";
    for name in all.split_whitespace() {
        let times = early.reached.get(name).copied().unwrap_or_default();
        assert!(times >= 10, "{name} {times} times: {:?}", early.reached);
    }
}
