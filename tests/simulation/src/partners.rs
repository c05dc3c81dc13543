//! Partners: three keep one promotion between them and change it at any time, none knowing of the others, until one deletes it and they go on
//! with the next. People come to the promotions of every other firm; to the others nobody does, so that it is known what remains of them.
//!
//! Invariant: whatever anybody is told of such a promotion is noted in its history, from before it was asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{join, join_all};
use qiang_engine::command::{Code, PromotionChange};
use qiang_engine::promotion::{Limits, Promotion, PromotionView};
use qiang_engine::record::Record;
use qiang_engine::routing::shard_of;
use qiang_engine::shard::Shard;
use qiang_engine::{Command, PromotionId, Refusal};
use qiang_raft::Stale;
use qiang_raft::world::Random;
use qiang_server::service::Service;
use rand::RngExt;
use tokio::time::sleep;

use crate::buyers::{answer_to_grab, ask, ask_of_promotion, cancel};
use crate::crowd::come_one_by_one;
use crate::story::Stage;
use crate::versions::{Change, Fact, History, Question, Told, price, title};

/// Firms at a time, and the partners of each.
pub const FIRMS: u32 = 2;
const PARTNERS: u32 = 3;

/// Units of a promotion at first: where people come more than are ever grabbed or taken away, and elsewhere so few that some are asked to
/// be taken away that do not remain.
const MANY: u64 = 1_000_000;
const FEW: u64 = 50;

/// The longest pause between what a partner asks, and between two people who come, in milliseconds.
const ASKS_EVERY_MS: u64 = 250;
const COMES_EVERY_MS: u64 = 80;

/// So many things at most a partner asks at once.
const AT_ONCE_MAX: u32 = 3;

/// One of so many things that partners ask deletes the promotion.
const DELETES_ONE_IN: u32 = 400;

/// One of so many people looks at some replica first.
const LOOKS_FIRST_ONE_IN: u32 = 2;

/// Units of one order at most.
const UNITS_MAX: u32 = 3;

/// What was asked and told of each promotion.
pub type Histories = BTreeMap<PromotionId, History>;

/// A promotion that partners keep.
struct Kept {
    promotion: PromotionId,
    units: u64,
    /// No partner keeps it any longer.
    is_left: AtomicBool,
}

/// One firm, until the stage is quiet: another promotion after each that was deleted.
pub async fn run(stage: Arc<Stage>, firm: u32) {
    let people = firm.is_multiple_of(2);
    for number in 0.. {
        if stage.is_quiet() {
            return;
        }
        let kept = Arc::new(Kept {
            promotion: PromotionId::new(&format!("F{firm}-{number}")).expect("an id"),
            units: if people { MANY } else { FEW },
            is_left: AtomicBool::new(false),
        });
        let history = History::new(kept.units);
        stage.histories().insert(kept.promotion.clone(), history);
        let keeping = async {
            join_all((0..PARTNERS).map(|_| keep(&stage, &kept))).await;
            kept.is_left.store(true, Ordering::Relaxed);
        };
        if people {
            join(keeping, people_come(&stage, &kept)).await;
        } else {
            keeping.await;
        }
    }
}

/// One partner, until it is told that the promotion is deleted.
async fn keep(stage: &Arc<Stage>, kept: &Kept) {
    change(stage, kept, Change::Create).await;
    while !stage.is_quiet() {
        sleep(Duration::from_millis(Random.random_range(1..ASKS_EVERY_MS))).await;
        let at_once = 0..Random.random_range(1..=AT_ONCE_MAX);
        let told = join_all(at_once.map(|_| ask_something(stage, kept))).await;
        if told.contains(&Told::Fact(Fact::Deleted)) {
            return;
        }
    }
}

async fn ask_something(stage: &Arc<Stage>, kept: &Kept) -> Told {
    if Random.random_range(0..DELETES_ONE_IN) == 0 {
        stage.doom(&kept.promotion);
        return change(stage, kept, Change::Delete).await;
    }
    let number = history(stage, &kept.promotion, History::number);
    let more = i64::try_from(number).expect("partners ask few things");
    let limit = [None, Some(1), Some(2)][Random.random_range(0..3)];
    let wish = match Random.random_range(0..10) {
        0 | 1 => return read(stage, kept).await,
        2 => return read_stale(stage, kept).await,
        3 => Change::Create,
        4 | 5 => Change::Stop(Random.random_range(0..2) == 0),
        6 => Change::LimitOrders(limit),
        7 => Change::Name(number),
        8 => Change::Add(-more),
        _ => Change::Add(more),
    };
    change(stage, kept, wish).await
}

async fn change(stage: &Arc<Stage>, kept: &Kept, change: Change) -> Told {
    let command = command(kept, &change);
    let call = begin(stage, &kept.promotion, Question::Change(change));
    let answer = ask_of_promotion(stage, &kept.promotion, command).await;
    end_view(stage, call, answer)
}

async fn read(stage: &Arc<Stage>, kept: &Kept) -> Told {
    let promotion_id = kept.promotion.clone();
    let call = begin(stage, &kept.promotion, Question::Read);
    let read = Command::GetPromotion { promotion_id };
    let answer = ask_of_promotion(stage, &kept.promotion, read).await;
    end_view(stage, call, answer)
}

/// Reads the promotion as some replica has it.
async fn read_stale(stage: &Arc<Stage>, kept: &Kept) -> Told {
    let id = kept.promotion.clone();
    let call = begin(stage, &kept.promotion, Question::StaleRead);
    let read = move |service: Service| async move { service.node().stale_promotion(&id).await };
    match ask(stage, read).await.flatten() {
        Some(Stale {
            promotion: Some(promotion),
            ..
        }) => end_seen(stage, call, &promotion),
        // A replica may not know of it yet.
        _ => end(stage, call, Told::Nothing),
    }
}

fn command(kept: &Kept, change: &Change) -> Command {
    let promotion_id = kept.promotion.clone();
    let change = match change {
        Change::Create => {
            return Command::CreatePromotion {
                promotion_id,
                quantity: kept.units,
                terms: Box::default(),
            };
        }
        Change::Stop(stopped) => {
            return Command::StopPromotion {
                promotion_id,
                stopped: *stopped,
            };
        }
        Change::Delete => return Command::DeletePromotion { promotion_id },
        Change::Name(number) => PromotionChange {
            title: Some(title(*number)),
            price: Some(Some(price(*number))),
            ..PromotionChange::default()
        },
        Change::LimitOrders(per_order) => PromotionChange {
            limits: Some(Limits {
                per_order: *per_order,
                ..Limits::default()
            }),
            ..PromotionChange::default()
        },
        Change::Add(units) => PromotionChange {
            add_quantity: Some(*units),
            ..PromotionChange::default()
        },
    };
    Command::ChangePromotion {
        promotion_id,
        change: Box::new(change),
    }
}

/// People come to a promotion until it is left.
async fn people_come(stage: &Arc<Stage>, kept: &Arc<Kept>) {
    let visitor = |number| {
        let order = format!("f-{}-{number}", kept.promotion);
        visit(stage.clone(), kept.clone(), order)
    };
    come_one_by_one(
        COMES_EVERY_MS,
        || kept.is_left.load(Ordering::Relaxed),
        visitor,
    )
    .await;
}

async fn visit(stage: Arc<Stage>, kept: Arc<Kept>, order: String) {
    let units = Random.random_range(1..=UNITS_MAX);
    stage.write(&order, |told| {
        told.items.push((kept.promotion.clone(), units));
    });
    // Some come because of what they have just seen, which the node that they ask may not show yet.
    if Random.random_range(0..LOOKS_FIRST_ONE_IN) == 0 {
        read_stale(&stage, &kept).await;
    }
    let call = begin(&stage, &kept.promotion, Question::Read);
    let answer = answer_to_grab(&stage, &order).await;
    match &answer {
        Some(Ok(_)) => end(&stage, call, Told::Fact(Fact::Sells(units))),
        Some(Err(refusal)) => end_refused(&stage, call, refusal, units),
        None => end(&stage, call, Told::Nothing),
    };
    if matches!(answer, Some(Ok(_))) && Random.random_range(0..2) == 0 {
        cancel(&stage, &order).await;
    }
}

/// A call that is under way.
pub struct Call {
    promotion: PromotionId,
    number: usize,
}

fn history<T>(stage: &Stage, promotion: &PromotionId, note: impl FnOnce(&mut History) -> T) -> T {
    let mut histories = stage.histories();
    note(histories.get_mut(promotion).expect("partners keep it"))
}

fn begin(stage: &Stage, promotion: &PromotionId, question: Question) -> Call {
    let promotion = promotion.clone();
    let number = history(stage, &promotion, |history| history.begin(question));
    Call { promotion, number }
}

fn end(stage: &Stage, call: Call, told: Told) -> Told {
    let Call { promotion, number } = call;
    history(stage, &promotion, |history| {
        let question = history.end(number, told);
        let trace = &stage.trace;
        trace.note(format_args!("{promotion}: {question:?} -> {told:?}"));
    });
    told
}

fn end_seen(stage: &Stage, call: Call, seen: &Promotion) -> Told {
    note(stage, seen);
    end(stage, call, Told::Version(seen.version))
}

fn end_view(stage: &Stage, call: Call, answer: Option<Result<PromotionView, Refusal>>) -> Told {
    match answer {
        Some(Ok(view)) => end_seen(stage, call, &view.promotion),
        Some(Err(refusal)) => end_refused(stage, call, &refusal, 0),
        None => end(stage, call, Told::Nothing),
    }
}

/// A call ends with a refusal, of an order of so many units if it was one.
fn end_refused(stage: &Stage, call: Call, refusal: &Refusal, units: u32) -> Told {
    let code = match refusal {
        Refusal::OutcomeUnknown => return end(stage, call, Told::Nothing),
        Refusal::Unavailable | Refusal::Overloaded => return end(stage, call, Told::Refused),
        Refusal::Rejected(rejection) => rejection.code,
    };
    let fact = match code {
        Code::PromotionNotFound => Fact::NotThere,
        Code::Deleted => Fact::Deleted,
        Code::Stopped => Fact::Stopped,
        Code::OrderLimit => Fact::Limits(units),
        Code::InsufficientRemaining { remaining } => Fact::Remains(remaining),
        _ => {
            let promotion = &call.promotion;
            let trace = &stage.trace;
            trace.violate(format_args!("{promotion} cannot be refused with {code:?}"));
            return end(stage, call, Told::Refused);
        }
    };
    end(stage, call, Told::Fact(fact))
}

/// Notes what a promotion is at its version.
fn note(stage: &Stage, promotion: &Promotion) {
    let noted = history(stage, &promotion.id, |history| history.is(promotion));
    if let Err(why) = noted {
        let id = &promotion.id;
        stage.trace.violate(format_args!("{id}: {why}"));
    }
}

/// Somebody begins to look at everything that partners keep.
pub fn begin_looks(stage: &Stage) -> Vec<Call> {
    let kept: Vec<PromotionId> = stage.histories().keys().cloned().collect();
    let look = |promotion| begin(stage, promotion, Question::Read);
    kept.iter().map(look).collect()
}

/// And has seen these shards.
pub fn end_looks(stage: &Stage, looks: Vec<Call>, shards: &[Shard]) {
    for call in looks {
        match kept_in(shards, &call.promotion) {
            Some(promotion) => end_seen(stage, call, promotion),
            None => end(stage, call, Told::Fact(Fact::NotThere)),
        };
    }
}

fn kept_in<'s>(shards: &'s [Shard], promotion: &PromotionId) -> Option<&'s Promotion> {
    shards[usize::from(shard_of(promotion).0)].promotion(promotion)
}

/// Notes what a committed record made of what partners keep; it was the last that the shard applied.
pub fn note_applied(stage: &Stage, shard: &Shard, record: &Record) {
    let kept: Vec<PromotionId> = stage.histories().keys().cloned().collect();
    let concerned = kept.iter().filter(|id| record.concerns_promotion(id));
    let made = concerned.filter_map(|id| shard.promotion(id));
    made.for_each(|promotion| note(stage, promotion));
}

/// Notes what partners keep is in these shards.
pub fn note_all(stage: &Stage, shards: &[Shard]) {
    let kept: Vec<PromotionId> = stage.histories().keys().cloned().collect();
    let there = kept.iter().filter_map(|id| kept_in(shards, id));
    there.for_each(|promotion| note(stage, promotion));
}

/// Holds everything that was told against what there is in the end.
pub fn judge(stage: &Stage, shards: &[Shard]) -> Result<(), String> {
    note_all(stage, shards);
    let kept: Vec<PromotionId> = stage.histories().keys().cloned().collect();
    for id in kept {
        let last = kept_in(shards, &id).map_or(0, |promotion| promotion.version);
        let judged = history(stage, &id, |history| history.judge(last));
        judged.map_err(|why| format!("{id}: {why}"))?;
    }
    Ok(())
}
