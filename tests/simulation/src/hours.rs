//! Promotions that begin and end by the clock, each with a steward who puts the end off or brings it forward, and people who come all the
//! time. Some pay at once or take their order back, so that it may be forgotten once the promotion is over.
//!
//! Invariant: what is sold was on sale at the time that its record has. Nobody is told that a promotion has not begun, or that it is over,
//! if no clock says so; and from when somebody is told that it was closed, it is, for everybody.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join;
use qiang_engine::command::{Code, Granted, PromotionChange};
use qiang_engine::promotion::{CloseReason, Promotion, Terms};
use qiang_engine::record::Record;
use qiang_engine::shard::Shard;
use qiang_engine::{Command, PromotionId, Refusal, UnixMs};
use qiang_raft::world::Random;
use rand::RngExt;
use tokio::time::sleep;

use crate::buyers::{
    Asked, answer_to_grab, ask_of_promotion, choose_with, is_of_another, short, take_back_or_pay,
};
use crate::crowd::come_one_by_one;
use crate::story::Stage;

/// Stewards at a time.
pub const STEWARDS: u32 = 2;

/// Units of a promotion: more than are ever grabbed of it.
const UNITS: u64 = 1_000_000;

/// How long its orders are held: longer than any run, and for every other promotion so short that they expire.
const PAY_WITHIN_MS: [u64; 2] = [3_600_000, 2_000];

/// It begins and lasts up to so long, in milliseconds; and from any time a new end is at most so far away.
const BEGINS_WITHIN_MS: u64 = 1_500;
const LASTS_MS: u64 = 2_500;

/// The longest pause between two things that a steward does and between two people who come, in milliseconds.
const ASKS_EVERY_MS: u64 = 400;
const COMES_EVERY_MS: u64 = 60;

/// How long people still come to a promotion that changes no more, in milliseconds.
const STILL_COME_MS: u64 = 300;

/// How long after its end, by the clock that is furthest behind, a promotion may still not be closed once all is well.
const CLOSED_WITHIN_MS: u64 = 1_000;

/// What is known of a promotion.
#[derive(Debug, Clone)]
struct Known {
    /// When it ends: one time, or several if it is not known which.
    ends: Vec<UnixMs>,
    /// When it was closed, once somebody was told.
    closed: Option<UnixMs>,
    /// Grows with every beginning and end of a change.
    changes: u64,
    /// Nobody asks for anything of it any more.
    is_left: bool,
}

/// A promotion that its steward and those who come know of.
struct Sale {
    promotion: PromotionId,
    starts_at: UnixMs,
    pay_within_ms: u64,
    known: Mutex<Known>,
}

impl Sale {
    fn any(stage: &Stage, steward: u32, number: usize) -> Self {
        let any = |longest_ms| Random.random_range(1..longest_ms);
        let starts_at = stage.clocks().now().plus_ms(any(BEGINS_WITHIN_MS));
        let ends_at = starts_at.plus_ms(any(LASTS_MS));
        Sale {
            promotion: PromotionId::new(&format!("H{steward}-{number}")).expect("an id"),
            starts_at,
            pay_within_ms: PAY_WITHIN_MS[number % PAY_WITHIN_MS.len()],
            known: Mutex::new(Known {
                ends: vec![ends_at],
                closed: None,
                changes: 0,
                is_left: false,
            }),
        }
    }

    fn expires(&self) -> bool {
        self.pay_within_ms == PAY_WITHIN_MS[1]
    }

    fn known(&self) -> Known {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn note(&self, note: impl FnOnce(&mut Known)) {
        note(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// One steward, until the stage is quiet: another promotion after each that is over, or of which it is not known when it ends.
pub async fn run(stage: Arc<Stage>, steward: u32) {
    for number in 0.. {
        let sale = Arc::new(Sale::any(&stage, steward, number));
        // It will be over, whatever becomes of it.
        stage.doom(&sale.promotion);
        while !create(&stage, &sale).await {
            if stage.is_quiet() {
                return;
            }
        }
        stage.display(&sale.promotion, sale.expires());
        join(tend(&stage, &sale), people_come(&stage, &sale)).await;
        if stage.is_quiet() {
            return;
        }
    }
}

/// Puts a promotion on sale; whether it is known to be, or to be over already.
async fn create(stage: &Arc<Stage>, sale: &Sale) -> bool {
    let terms = Terms {
        starts_at: Some(sale.starts_at),
        ends_at: sale.known().ends.first().copied(),
        payment_timeout_ms: sale.pay_within_ms,
        ..Terms::default()
    };
    let create = Command::CreatePromotion {
        promotion_id: sale.promotion.clone(),
        quantity: UNITS,
        terms: Box::new(terms),
    };
    let created = ask_of_promotion(stage, &sale.promotion, create).await;
    matches!(created, Some(Ok(_) | Err(Refusal::Rejected(_))))
}

/// Looks at a promotion and changes its end until it is closed, or it is not known when it ends.
async fn tend(stage: &Arc<Stage>, sale: &Sale) {
    while !stage.is_quiet() && sale.known().closed.is_none() && sale.known().ends.len() == 1 {
        sleep(Duration::from_millis(Random.random_range(1..ASKS_EVERY_MS))).await;
        if Random.random_range(0..3) == 0 {
            let ends_at = stage.clocks().now();
            let ends_at = ends_at.plus_ms(Random.random_range(0..LASTS_MS));
            end_at(stage, sale, ends_at).await;
        } else {
            look(stage, sale).await;
        }
    }
    sleep(Duration::from_millis(STILL_COME_MS)).await;
    sale.note(|known| known.is_left = true);
}

/// Has a promotion end at another time.
async fn end_at(stage: &Arc<Stage>, sale: &Sale, ends_at: UnixMs) {
    let change = PromotionChange {
        ends_at: Some(Some(ends_at)),
        ..PromotionChange::default()
    };
    let change = Command::ChangePromotion {
        promotion_id: sale.promotion.clone(),
        change: Box::new(change),
    };
    let before = sale.known();
    sale.note(|known| {
        known.ends.push(ends_at);
        known.changes += 1;
    });
    let mut asked = Asked::default();
    asked.begin();
    let answer = ask_of_promotion(stage, &sale.promotion, change).await;
    asked.end(answer.as_ref());
    stage.trace.note(format_args!(
        "{} ends at {} -> {}",
        sale.promotion,
        ends_at.0,
        short(answer.as_ref())
    ));
    let ends = match (asked.is_done(), asked.may_be_done()) {
        (true, _) => vec![ends_at],
        (false, true) => sale.known().ends,
        (false, false) => before.ends,
    };
    sale.note(|known| {
        known.ends = ends;
        known.changes += 1;
    });
}

/// Reads a promotion from its leader.
async fn look(stage: &Arc<Stage>, sale: &Sale) {
    let read = Command::GetPromotion {
        promotion_id: sale.promotion.clone(),
    };
    let answer = ask_of_promotion(stage, &sale.promotion, read).await;
    if let Some(Ok(view)) = answer {
        let seen = &view.promotion;
        if let Err(why) = judge_seen(stage, sale, seen) {
            stage
                .trace
                .violate(format_args!("{} {why}", sale.promotion));
        }
        sale.note(|known| known.closed = seen.closed.map(|(_, at)| at));
    }
}

/// Only its steward looks, so nothing changes meanwhile but what it is told, and that it is closed.
fn judge_seen(stage: &Stage, sale: &Sale, seen: &Promotion) -> Result<(), String> {
    let (known, ends_at) = (sale.known(), seen.terms.ends_at);
    if ends_at.is_none_or(|ends_at| !known.ends.contains(&ends_at)) {
        return Err(format!("ends at {ends_at:?}, and not at {:?}", known.ends));
    }
    match seen.closed {
        None => Ok(()),
        Some((CloseReason::Ended, at))
            if ends_at.is_some_and(|ends_at| at >= ends_at) && at <= stage.clocks().latest() =>
        {
            Ok(())
        }
        closed => Err(format!("is {closed:?}, with an end at {ends_at:?}")),
    }
}

/// People come to a promotion until it is left.
async fn people_come(stage: &Arc<Stage>, sale: &Arc<Sale>) {
    let visitor = |number| {
        let order = format!("h-{}-{number}", sale.promotion);
        visit(stage.clone(), sale.clone(), order)
    };
    come_one_by_one(COMES_EVERY_MS, || sale.known().is_left, visitor).await;
}

async fn visit(stage: Arc<Stage>, sale: Arc<Sale>, order: String) {
    choose_with(&stage, &order, &sale.promotion, sale.expires());
    let before = sale.known();
    let earliest = stage.clocks().earliest();
    let jumps = stage.clocks().jumps();
    let answer = answer_to_grab(&stage, &order).await;
    let is_one_end = sale.known().changes == before.changes;
    let can_be = match &answer {
        // Each part has its own time, and all may be paid for as long as the shortest.
        Some(Ok(granted)) if granted.items.len() > 1 => before.closed.is_none(),
        Some(Ok(granted)) => {
            let at = granted_at(&sale, granted);
            let may_end = before.ends.iter().any(|ends_at| at < *ends_at);
            before.closed.is_none() && at >= sale.starts_at && (may_end || !is_one_end)
        }
        Some(Err(Refusal::Rejected(rejection))) if is_of_another(rejection, &sale.promotion) => {
            true
        }
        Some(Err(Refusal::Rejected(rejection))) => match rejection.code {
            Code::NotStarted => {
                let may_begin = earliest < sale.starts_at || stage.clocks().jumps() != jumps;
                may_begin && before.closed.is_none()
            }
            Code::Ended => {
                let latest = stage.clocks().latest();
                let may_be_over = before.ends.iter().any(|ends_at| latest >= *ends_at);
                may_be_over || !is_one_end
            }
            _ => false,
        },
        Some(Err(_)) | None => true,
    };
    if !can_be {
        stage.trace.violate(format_args!(
            "{} begins at {} and was {before:?} when order {order} was grabbed: {answer:?}",
            sale.promotion, sale.starts_at.0
        ));
    }
    if let Some(Ok(_)) = answer {
        take_back_or_pay(&stage, &order).await;
    }
}

/// The time of the record of an order that is no cart.
fn granted_at(sale: &Sale, granted: &Granted) -> UnixMs {
    UnixMs(granted.pay_by.0 - sale.pay_within_ms)
}

/// Whether a record that is about to be applied sells only what is on sale at its time, and closes only what is over.
pub fn allows(shard: &Shard, record: &Record) -> bool {
    match record {
        Record::Granted(granted) => granted.items.iter().all(|item| {
            let promotion = shard.promotion(&item.promotion_id);
            promotion.is_some_and(|promotion| is_on_sale(promotion, granted.at))
        }),
        Record::PromotionClosed {
            promotion_id,
            reason: CloseReason::Ended,
            at,
            ..
        } => shard
            .promotion(promotion_id)
            .is_some_and(|promotion| promotion.closed.is_none() && is_over(promotion, *at)),
        _ => true,
    }
}

/// Not asked of the promotion's own idea of its state, which decided.
fn is_on_sale(promotion: &Promotion, at: UnixMs) -> bool {
    let starts_at = promotion.terms.starts_at;
    let has_begun = starts_at.is_none_or(|starts_at| at >= starts_at);
    promotion.closed.is_none() && !promotion.stopped && has_begun && !is_over(promotion, at)
}

fn is_over(promotion: &Promotion, at: UnixMs) -> bool {
    let ends_at = promotion.terms.ends_at;
    ends_at.is_some_and(|ends_at| at >= ends_at)
}

/// All is well, and has been for a while: what is over was closed.
pub fn judge(stage: &Stage, shards: &[Shard]) -> Result<(), String> {
    let by_now = UnixMs(stage.clocks().earliest().0 - CLOSED_WITHIN_MS);
    let mut promotions = shards.iter().flat_map(Shard::promotions);
    match promotions.find(|promotion| promotion.closed.is_none() && is_over(promotion, by_now)) {
        None => Ok(()),
        Some(promotion) => Err(format!(
            "{} is not closed at {}: {promotion:?}",
            promotion.id, by_now.0
        )),
    }
}
