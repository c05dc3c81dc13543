//! One schedule, told in full: what a leader hears is held up on its way, and what it says is heard by nobody any more. Answers
//! from before then reach it when its followers have nearly lost patience, and openraft takes them for answers to what it has
//! said since. Believing that, it would go on telling what is in stock while its successor sells.
//!
//! Invariant: what the leader tells after its successor has sold is not from before that sale.

use std::time::Duration;

use qiang_engine::command::{Grab, Granted};
use qiang_engine::order::Item;
use qiang_engine::promotion::Channel;
use qiang_engine::routing::shard_of;
use qiang_engine::{Command, Pin, PromotionId};
use qiang_raft::world::Random;
use qiang_raft::{GroupStatus, Timing};
use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};

use crate::buyers::order_id;
use crate::machine::Process;
use crate::story::{Stage, create_offers, form, home};
use crate::trace::Trace;

/// Between two grabs whose answers are held up: longer than the first takes to its followers, so that it is an entry of its own.
const APART: Duration = Duration::from_millis(20);

/// Long enough for what was said to arrive.
const HEARD_WITHIN: Duration = Duration::from_millis(8);

/// How long a reader waits for the leader: with a lease it answers at once.
const READER_WAITS: Duration = Duration::from_millis(3);

/// From the last word of the leader until a successor must have been elected and have sold.
const SOLD_WITHIN: Duration = Duration::from_secs(2);

/// Plays the schedule: whether openraft still believed in the leader's lease when the successor had sold.
pub async fn play(seed: u64) -> Result<bool, String> {
    let home = home();
    let stage = Stage::new(Trace::new(seed), home.path());
    let played = play_on(&stage).await;
    stage.strike();
    match stage.trace.violation() {
        Some(why) => Err(why),
        None => played,
    }
}

async fn play_on(stage: &std::sync::Arc<Stage>) -> Result<bool, String> {
    form(stage).await?;
    create_offers(stage).await?;
    let promotion = &stage.offers[1].id;
    // The group is awake from now on.
    let awake = stage.process(1).ok_or("node 1 does not run")?;
    grab(&awake, promotion, "first").await?;
    let (leader, process) = decider(stage, promotion, None).ok_or("nobody decides")?;
    let others: Vec<u64> = stage.processes().into_iter().map(|(id, _)| id).collect();
    let others = || others.iter().copied().filter(|id| *id != leader);

    // Just before the followers elect another: they trust a leader for a time, and then wait at random.
    let timing = Timing::default();
    let late = timing.trust() + Duration::from_millis(Random.random_range(100..300));
    others().for_each(|other| stage.net.hold_up(other, leader, late));
    for order in ["second", "third"] {
        let (process, promotion) = (process.clone(), promotion.clone());
        tokio::spawn(async move { grab(&process, &promotion, order).await });
        sleep(APART).await;
    }
    sleep(HEARD_WITHIN).await;
    others().for_each(|other| stage.net.cut(leader, other));

    let until = Instant::now() + SOLD_WITHIN;
    let mut tempted = false;
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let Some((_, successor)) = decider(stage, promotion, Some(leader)) else {
            sleep(Duration::from_millis(1)).await;
            continue;
        };
        let Ok(sold) = grab(&successor, promotion, &format!("later-{number}")).await else {
            continue;
        };
        let status = status(&process, promotion);
        tempted |= status.leads && status.has_quorum;
        let remaining = sold.items[0].remaining;
        let told = remaining_by(&process, promotion).await;
        if told.is_some_and(|told| told > remaining) {
            return Err(format!(
                "{remaining} remain, and node {leader}, which was deposed, tells {told:?}"
            ));
        }
    }
    let sold = decider(stage, promotion, Some(leader)).is_some();
    sold.then_some(tempted)
        .ok_or("no successor came".to_owned())
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
