//! Schedules that chance would not find soon, told in full: a leader is deposed and does not know it, while somebody asks it what
//! remains; or one can decide nothing any more, and everybody still hears it; or it comes back when its groups have moved elsewhere.
//!
//! Invariant: what a leader tells after its successor has sold is not from before that sale.

pub mod full_disk;
pub mod held_up;
pub mod left_behind;
pub mod slow_clock;

use std::sync::Arc;
use std::time::Duration;

use qiang_engine::command::{Grab, Granted};
use qiang_engine::order::Item;
use qiang_engine::promotion::Channel;
use qiang_engine::routing::shard_of;
use qiang_engine::{Command, Pin, PromotionId};
use qiang_raft::GroupStatus;
use tokio::time::{Instant, sleep, timeout};

use crate::buyers::order_id;
use crate::machine::Process;
use crate::retention::Retention;
use crate::story::{Stage, create_offers, form, home};
use crate::trace::Trace;

/// Long enough for what was said to arrive.
const HEARD_WITHIN: Duration = Duration::from_millis(8);

/// How long a reader waits for the leader: with a lease it answers at once.
const READER_WAITS: Duration = Duration::from_millis(3);

/// From the last word of the leader until a successor must have been elected and have sold.
const SOLD_WITHIN: Duration = Duration::from_secs(2);

/// A leader, which nobody hears any more, and what it leads.
struct Leader<'a> {
    id: u64,
    process: Process,
    promotion: &'a PromotionId,
}

/// Sets the stage with machines of these speeds and a cluster on it, and plays a schedule.
async fn play<T>(
    seed: u64,
    speed: impl Fn(u64) -> u64,
    schedule: impl AsyncFnOnce(&Arc<Stage>) -> Result<T, String>,
) -> Result<T, String> {
    let home = home();
    let stage = Stage::new(Trace::new(seed), home.path(), Retention::long(), speed);
    let played = async {
        form(&stage).await?;
        create_offers(&stage).await?;
        schedule(&stage).await
    };
    let played = played.await;
    stage.strike();
    match stage.trace.violation() {
        Some(why) => Err(why),
        None => played,
    }
}

impl<'a> Leader<'a> {
    /// The one of a promotion. Its group is awake from now on.
    async fn of(stage: &Stage, promotion: &'a PromotionId) -> Result<Self, String> {
        let somebody = stage.process(1).ok_or("node 1 does not run")?;
        grab(&somebody, promotion, "first").await?;
        let (id, process) = decider(stage, promotion, None).ok_or("nobody decides")?;
        Ok(Leader {
            id,
            process,
            promotion,
        })
    }

    /// The machines that follow it.
    fn followers(&self, stage: &Stage) -> Vec<(u64, Process)> {
        let mut others = stage.processes();
        others.retain(|(id, _)| *id != self.id);
        others
    }

    fn status(&self) -> GroupStatus {
        status(&self.process, self.promotion)
    }

    /// Has the successor sell as soon as there is one, and asks the leader what remains. `look` is told all the time whether there is
    /// a successor, and once more when it has sold.
    async fn is_succeeded(&self, stage: &Stage, mut look: impl FnMut(bool)) -> Result<(), String> {
        let until = Instant::now() + SOLD_WITHIN;
        for number in 0.. {
            if Instant::now() >= until {
                break;
            }
            let successor = decider(stage, self.promotion, Some(self.id));
            look(successor.is_some());
            let Some((_, successor)) = successor else {
                sleep(Duration::from_millis(1)).await;
                continue;
            };
            let order = format!("later-{number}");
            let Ok(sold) = grab(&successor, self.promotion, &order).await else {
                continue;
            };
            look(true);
            let (remaining, id) = (sold.items[0].remaining, self.id);
            let told = remaining_by(&self.process, self.promotion).await;
            if told.is_some_and(|told| told > remaining) {
                return Err(format!(
                    "{remaining} remain, and node {id}, which was deposed, tells {told:?}"
                ));
            }
        }
        let succeeded = decider(stage, self.promotion, Some(self.id)).is_some();
        succeeded
            .then_some(())
            .ok_or("no successor came".to_owned())
    }
}

/// The node but `not` that decides about a promotion.
fn decider(stage: &Stage, promotion: &PromotionId, not: Option<u64>) -> Option<(u64, Process)> {
    let decides = |(id, process): &(u64, Process)| {
        let status = status(process, promotion);
        Some(*id) != not && status.leads && status.deciding
    };
    stage.processes().into_iter().find(decides)
}

fn status(process: &Process, promotion: &PromotionId) -> GroupStatus {
    let shard = usize::from(shard_of(promotion).0);
    process.node.group_statuses().swap_remove(shard)
}

async fn grab(process: &Process, promotion: &PromotionId, order: &str) -> Result<Granted, String> {
    let item = Item {
        promotion_id: promotion.clone(),
        quantity: 1,
    };
    let grab = Grab {
        order_id: order_id(order),
        pin: Pin::new("buyer").expect("an id"),
        ip: [203, 0, 113, 9].into(),
        channel: Channel::App,
        items: [item].into_iter().collect(),
    };
    let service = process.service.clone();
    let granting = process.life.spawn(async move { service.grab(grab).await });
    let granted = granting.await.map_err(|error| error.to_string())?;
    granted.map_err(|refusal| format!("{order} was refused: {refusal:?}"))
}

/// What a node tells at once of what remains.
async fn remaining_by(process: &Process, promotion: &PromotionId) -> Option<u64> {
    let (service, id) = (process.service.clone(), promotion.clone());
    let read = Command::GetPromotion {
        promotion_id: id.clone(),
    };
    let reading = process
        .life
        .spawn(async move { service.promotion(&id, read).await });
    let told = timeout(READER_WAITS, reading).await.ok()?.ok()?;
    Some(told.ok()?.0.promotion.counters.remaining)
}
