//! Short words for ids and commands, and a shard that is driven as its owner drives it: decide, count
//! the attempt, apply, answer. It keeps every record it applied, in order.

use std::net::IpAddr;

use qiang_engine::command::{Grab, sum_items};
use qiang_engine::promotion::Channel;
use qiang_engine::shard::{Decision, Moment};
use qiang_engine::{
    Answer, Command, OrderId, Pin, PromotionId, Record, Rejection, Shard, TryId, UnixMs,
};

pub fn order_id(text: &str) -> OrderId {
    OrderId::new(text).unwrap()
}

pub fn promotion_id(text: &str) -> PromotionId {
    PromotionId::new(text).unwrap()
}

pub fn pin(text: &str) -> Pin {
    Pin::new(text).unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A grab by the app, of items as `(promotion, quantity)`.
pub fn grab(order: &str, buyer: &str, from: &str, items: &[(&str, u32)]) -> Grab {
    let items = items
        .iter()
        .map(|(promotion, quantity)| (promotion_id(promotion), *quantity));
    Grab {
        order_id: order_id(order),
        pin: pin(buyer),
        ip: ip(from),
        channel: Channel::App,
        items: sum_items(items).unwrap(),
    }
}

/// A command that creates a promotion with plain terms.
pub fn create(promotion: &str, quantity: u64) -> Command {
    Command::CreatePromotion {
        promotion_id: promotion_id(promotion),
        quantity,
        terms: Box::default(),
    }
}

/// A shard, driven as its owner drives it.
pub struct Driven {
    pub shard: Shard,
    pub records: Vec<Record>,
}

impl Driven {
    pub fn new(hash_seed: u64) -> Self {
        Driven {
            shard: Shard::new(hash_seed),
            records: Vec::new(),
        }
    }

    /// Executes a command as if it were committed at once.
    pub fn execute(&mut self, command: &Command, moment: &Moment) -> Result<Answer, Rejection> {
        let result = self.shard.decide(command, moment);
        let grab = match command {
            Command::Grab(grab) => Some(grab),
            Command::TryGrab(attempt) => Some(&attempt.grab),
            _ => None,
        };
        if let Some(grab) = grab {
            self.shard.count_attempts(grab, &result, moment);
        }
        match result? {
            Decision::Answer(answer) => Ok(answer),
            Decision::Record(record) => {
                self.apply(record.clone());
                Ok(self.shard.answer(command, &record, moment))
            }
        }
    }

    /// Executes a command at a time, with no default rate.
    pub fn at(&mut self, now: u64, command: &Command) -> Result<Answer, Rejection> {
        self.execute(command, &Moment::at(UnixMs(now)))
    }

    pub fn apply(&mut self, record: Record) {
        self.shard
            .apply(&record)
            .unwrap_or_else(|error| panic!("{error}: {record:?}"));
        self.records.push(record);
    }
}

/// The try of a known order.
pub fn try_of(shard: &Shard, order_id: &OrderId) -> Option<TryId> {
    shard.order(order_id)?.cart.map(|cart| cart.try_id)
}
