//! Plays transcripts of one shard. Behind `|` stands the flow that was written, if one was.

use qiang_engine::record::{Record, ReturnedFrom};
use qiang_engine::shard::{Due, Moment};

use crate::script::{self, BEGINNING, Words};
use crate::support::Driven;
use crate::transcripts::Script;

pub struct ShardScript {
    driven: Driven,
    moment: Moment,
    /// How long closed orders of closed promotions are kept, in milliseconds.
    retention_ms: u64,
}

impl ShardScript {
    pub fn new() -> Self {
        ShardScript {
            driven: Driven::new(1),
            moment: Moment::at(BEGINNING),
            retention_ms: 10_000,
        }
    }

    /// Everything that is due by now, done.
    fn pass_time(&mut self) -> Vec<String> {
        let now = self.moment.now;
        let mut said = Vec::new();
        while let Some((slot, due)) = self.driven.shard.next_due(now) {
            match due {
                Due::Record(record) => {
                    said.push(say_record(&record));
                    self.driven.apply(record);
                }
                Due::Ask {
                    order_id,
                    try_id,
                    home,
                } => {
                    said.push(format!(
                        "asks home of {home} about {order_id} of try {}",
                        try_id.0
                    ));
                    self.driven.shard.postpone(slot, now.plus_ms(500));
                }
            }
        }
        for record in self.driven.shard.ended(now, usize::MAX) {
            said.push(say_record(&record));
            self.driven.apply(record);
        }
        if let (Some(record), _) = self
            .driven
            .shard
            .forgettable(0, now, self.retention_ms, |_| Some(now))
        {
            said.push(say_record(&record));
            self.driven.apply(record);
        }
        said.sort();
        said
    }
}

impl Script for ShardScript {
    fn play(&mut self, line: &str) -> Vec<String> {
        let words = Words::of(line);
        match words.verb {
            "wait" => {
                let ms: u64 = words.word(0).parse().unwrap();
                self.moment.now = self.moment.now.plus_ms(ms);
                self.pass_time()
            }
            "degraded" => {
                self.moment.rate_percent = words.word(0).parse().unwrap();
                Vec::new()
            }
            "untold" => {
                let tells = self.driven.shard.untold();
                tells
                    .map(|tell| format!("{}: {}", tell.order_id, script::say_outcome(tell.outcome)))
                    .collect()
            }
            _ => {
                let records = self.driven.records.len();
                let said = match self.driven.execute(&words.command(), &self.moment) {
                    Ok(answer) => script::answer(&answer, self.moment.now),
                    Err(rejection) => script::rejection(&rejection),
                };
                let flow = self
                    .driven
                    .records
                    .get(records)
                    .map(|record| format!(" | {}", record.type_name()));
                vec![said + &flow.unwrap_or_default()]
            }
        }
    }
}

/// What time brought about.
fn say_record(record: &Record) -> String {
    match record {
        Record::Returned {
            order_id,
            reason,
            from,
            ..
        } => {
            let from = match from {
                ReturnedFrom::Held => "held",
                ReturnedFrom::Tentative => "tentative",
                ReturnedFrom::Confirmed { .. } => "confirmed",
                ReturnedFrom::Unknown { .. } => "unknown",
            };
            format!(
                "{order_id} returned ({}), was {from} | returned",
                reason.as_str()
            )
        }
        Record::Undone { try_id, order, .. } => {
            let order = order
                .as_ref()
                .map_or("nothing".to_owned(), |order| order.order_id.to_string());
            format!("try {} of {order} undone | undone", try_id.0)
        }
        Record::PromotionClosed {
            promotion_id,
            reason,
            ..
        } => {
            format!("{promotion_id} closed ({reason:?}) | promotion_closed")
        }
        Record::Forgotten { orders, tries, .. } => {
            let mut orders: Vec<String> = orders
                .iter()
                .map(|order| order.order_id.to_string())
                .collect();
            orders.sort();
            let tries: Vec<String> = tries
                .iter()
                .map(|(try_id, _)| format!("try {}", try_id.0))
                .collect();
            format!("forgot {} | forgotten", [orders, tries].concat().join(", "))
        }
        other => format!("{} | {}", "unexpected", other.type_name()),
    }
}
