//! Buyers: they grab single orders and carts, repeat what they got no answer to, pay, cancel and look. Each
//! notes what it was told; whatever they were told must stay true, and be true in the end.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::command::{Code, Grab, Granted};
use qiang_engine::order::{Item, Items, OrderState, ReturnReason};
use qiang_engine::promotion::Channel;
use qiang_engine::{OrderId, Pin, PromotionId, Refusal};
use qiang_raft::world::Random;
use qiang_server::service::{CancelOrder, Service};
use rand::RngExt;
use tokio::time::{sleep, timeout};

use crate::stock::End;
use crate::story::{Offer, Stage};

/// How long a buyer waits for an answer: longer than a node takes.
const PATIENCE: Duration = Duration::from_secs(6);

/// How often an order without an answer is repeated while faults go on.
const REPEATS_MAX: u32 = 3;

/// Orders that a crowd places at once.
const CROWD: u64 = 6;

/// Within how many milliseconds a crowd comes, and one in it who is hasty pays or takes the order back: as fast as a commit, or slower.
const CROWD_WITHIN_MS: [u64; 3] = [3, 10, 40];

/// The longest pause between two looks of somebody who only looks, in milliseconds.
const LOOKS_EVERY_MS: u64 = 50;

/// What a buyer was told of one order.
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub items: Vec<(PromotionId, u32)>,
    /// It expires soon unless it is paid.
    pub expires: bool,
    pub granted: Option<Granted>,
    /// Some grab of it got no definite answer.
    pub in_doubt: bool,
    pub cancel: Asked,
    pub confirm: Asked,
}

/// What became of a question about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asked {
    #[default]
    Never,
    InDoubt,
    Refused,
    Done,
}

/// Orders by their id.
pub type Book = BTreeMap<String, Told>;

/// One buyer, until the stage is quiet.
pub async fn run(stage: Arc<Stage>, number: usize) {
    let mut mine: Vec<String> = Vec::new();
    for turn in 0.. {
        if stage.is_quiet() {
            return;
        }
        sleep(Duration::from_millis(Random.random_range(1..60))).await;
        let old = (!mine.is_empty()).then(|| mine[Random.random_range(0..mine.len())].clone());
        match (Random.random_range(0..10), old) {
            (0, Some(order)) => {
                cancel(&stage, &order).await;
                look(&stage, &order).await;
            }
            (1, Some(order)) => {
                if stage.told(&order).granted.is_some() {
                    confirm(&stage, &order).await;
                }
                look(&stage, &order).await;
            }
            (2, Some(order)) => {
                grab(&stage, &order).await;
            }
            (3, Some(order)) => look(&stage, &order).await,
            (4, _) => {
                let offer = Random.random_range(0..stage.offers.len());
                let name = format!("o-{number}-{turn}");
                mine.extend(crowd(stage.clone(), offer, name).await);
            }
            _ => {
                let order = format!("o-{number}-{turn}");
                stage.write(&order, |told| choose_items(&stage.offers, told));
                // An impatient one asks twice at once.
                let twice = Random.random_range(0..5) == 0;
                let second = twice.then(|| {
                    let (stage, order) = (stage.clone(), order.clone());
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(Random.random_range(0..30))).await;
                        grab(&stage, &order).await
                    })
                });
                for _ in 0..=Random.random_range(0..=REPEATS_MAX) {
                    if grab(&stage, &order).await {
                        break;
                    }
                }
                if let Some(second) = second {
                    // A panic in it would be this run's, too.
                    let _ = second.await.expect("a grab does not panic");
                }
                // The fewer orders may hold units, the more a refusal has to explain.
                let told = stage.told(&order);
                if told.in_doubt && alone(&stage, &told).is_some() {
                    cancel(&stage, &order).await;
                }
                mine.push(order);
            }
        }
    }
}

/// What somebody in a crowd does without waiting for the grant.
#[derive(Clone, Copy)]
enum Haste {
    Waits,
    TakesBack,
    Pays,
}

/// Most pay: a payment names the order that it needs.
const HASTES: [Haste; 5] = [
    Haste::Waits,
    Haste::TakesBack,
    Haste::Pays,
    Haste::Pays,
    Haste::Pays,
];

/// A crowd at one promotion, that of this number: orders all at once, most of which are paid or taken back without waiting
/// for the answer. So one proposal follows another that has no end yet, and cannot be without it.
pub async fn crowd(stage: Arc<Stage>, offer: usize, name: String) -> Vec<String> {
    let offer = &stage.offers[offer];
    let within_ms = CROWD_WITHIN_MS[Random.random_range(0..CROWD_WITHIN_MS.len())];
    let orders: Vec<String> = (0..CROWD)
        .map(|member| format!("{name}-{member}"))
        .collect();
    let place = |order: &String| {
        stage.write(order, |told| {
            told.items.push((offer.id.clone(), 1));
            told.expires |= offer.expires;
        });
        let (stage, order) = (stage.clone(), order.clone());
        let haste = HASTES[Random.random_range(0..HASTES.len())];
        tokio::spawn(async move {
            sleep(Duration::from_millis(Random.random_range(0..within_ms))).await;
            let hurry = async {
                sleep(Duration::from_millis(Random.random_range(0..within_ms))).await;
                match haste {
                    Haste::Waits => {}
                    Haste::TakesBack => cancel(&stage, &order).await,
                    Haste::Pays => confirm(&stage, &order).await,
                }
            };
            tokio::join!(grab(&stage, &order), hurry);
        })
    };
    let members: Vec<_> = orders.iter().map(place).collect();
    for member in members {
        member.await.expect("a grab does not panic");
    }
    orders
}

/// Somebody who buys nothing and looks at what changed last, through any node and without waiting for the answer, until
/// the stage is quiet.
pub async fn watch(stage: Arc<Stage>) {
    while !stage.is_quiet() {
        sleep(Duration::from_millis(
            Random.random_range(1..LOOKS_EVERY_MS),
        ))
        .await;
        let latest = stage.latest();
        if !latest.is_empty() {
            let order = latest[Random.random_range(0..latest.len())].clone();
            let stage = stage.clone();
            tokio::spawn(async move { look(&stage, &order).await });
        }
    }
}

fn choose_items(offers: &[Offer], told: &mut Told) {
    let count = if Random.random_range(0..3) == 0 {
        Random.random_range(2..=3)
    } else {
        1
    };
    let offers: Vec<&Offer> = offers
        .iter()
        .filter(|offer| count == 1 || !offer.alone)
        .collect();
    for _ in 0..count {
        let offer = offers[Random.random_range(0..offers.len())];
        if told.items.iter().all(|(id, _)| *id != offer.id) {
            told.items
                .push((offer.id.clone(), Random.random_range(1..=2)));
            told.expires |= offer.expires;
        }
    }
}

/// The promotion of an order, if no cart has it, and the units asked for.
fn alone<'s>(stage: &'s Stage, told: &Told) -> Option<(&'s Offer, u64)> {
    let [(id, units)] = &told.items[..] else {
        return None;
    };
    let mut alone = stage.offers.iter().filter(|offer| offer.alone);
    let offer = alone.find(|offer| offer.id == *id)?;
    Some((offer, u64::from(*units)))
}

/// A refusal of an order of so many units for want of them is true if fewer are said to remain, and others may at some moment have held
/// all but those.
fn judge_refusal(
    stage: &Stage,
    order: &str,
    (offer, units): (&Offer, u64),
    code: Code,
    others: u64,
) {
    let Code::SoldOut { remaining } = code else {
        return;
    };
    if remaining >= units || offer.quantity > others + remaining {
        stage.trace.violate(format_args!(
            "order {order} of {units} was told that {remaining} of {} remain, while others held {others} at most",
            offer.quantity
        ));
    }
}

/// Asks some node; `None` if the answer did not come.
async fn ask<T, F>(stage: &Arc<Stage>, question: impl FnOnce(Service) -> F) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    sleep(Duration::from_micros(Random.random_range(50..500))).await;
    let process = stage.any_process()?;
    let answering = process.life.spawn(question(process.service.clone()));
    let answer = timeout(PATIENCE, answering).await.ok()?.ok()?;
    sleep(Duration::from_micros(Random.random_range(50..500))).await;
    // What a process says as it dies is not heard.
    process.life.is_alive().then_some(answer)
}

/// Grabs an order, for the first time or again; whether the answer is definite.
pub async fn grab(stage: &Arc<Stage>, order: &str) -> bool {
    let told = stage.told(order);
    let request = Grab {
        order_id: order_id(order),
        pin: Pin::new("buyer").expect("an id"),
        ip: [203, 0, 113, 9].into(),
        channel: Channel::App,
        items: told
            .items
            .iter()
            .map(|(id, quantity)| Item {
                promotion_id: id.clone(),
                quantity: *quantity,
            })
            .collect::<Items>(),
    };
    let alone = alone(stage, &told);
    let call = alone.map(|(offer, units)| stage.stock().begin(order, &offer.id, units));
    let answer = ask(
        stage,
        move |service| async move { service.grab(request).await },
    )
    .await;
    stage
        .trace
        .note(format_args!("grab {order} -> {}", short(answer.as_ref())));
    let end = match answer {
        Some(Err(Refusal::Rejected(_) | Refusal::Unavailable | Refusal::Overloaded)) => {
            End::Refused
        }
        Some(Ok(_) | Err(Refusal::OutcomeUnknown)) | None => End::Held,
    };
    let others = call.map(|call| stage.stock().end(call, end));
    if let (Some(alone), Some(others), Some(Err(Refusal::Rejected(rejection)))) =
        (alone, others, &answer)
    {
        judge_refusal(stage, order, alone, rejection.code, others);
    }
    match answer {
        Some(Ok(granted)) => {
            let asked: Vec<(PromotionId, u32)> = granted
                .items
                .iter()
                .map(|item| (item.promotion_id.clone(), item.quantity))
                .collect();
            if asked != told.items {
                stage.trace.violate(format_args!(
                    "order {order} asked for {:?} and was granted {asked:?}",
                    told.items
                ));
            }
            let now = stage.told(order);
            if let Some(before) = &now.granted
                && (before.pay_by != granted.pay_by || told.granted.is_some() && !granted.replayed)
            {
                stage.trace.violate(format_args!(
                    "order {order} was granted twice: {before:?}, then {granted:?}"
                ));
            }
            if told.cancel == Asked::Done {
                stage
                    .trace
                    .violate(format_args!("order {order} was cancelled and then granted"));
            }
            stage.trace.count_grant();
            stage.write(order, |told| {
                told.granted.get_or_insert(granted);
            });
            true
        }
        Some(Err(Refusal::Rejected(rejection))) => {
            let may_be_returned = told.expires || told.cancel != Asked::Never;
            let now = stage.told(order);
            let may_be_returned = may_be_returned || now.cancel != Asked::Never;
            if told.granted.is_some()
                && !(matches!(rejection.code, Code::OrderReturned) && may_be_returned)
            {
                stage.trace.violate(format_args!(
                    "order {order} was granted, and then refused: {rejection:?}"
                ));
            }
            true
        }
        Some(Err(Refusal::Unavailable | Refusal::Overloaded)) => false,
        Some(Err(Refusal::OutcomeUnknown)) | None => {
            stage.write(order, |told| {
                told.in_doubt = true;
            });
            false
        }
    }
}

async fn cancel(stage: &Arc<Stage>, order: &str) {
    let told = stage.told(order);
    stage.write(order, |told| {
        told.cancel = told.cancel.max_with(Asked::InDoubt);
    });
    let request = CancelOrder {
        order_id: order_id(order),
        reason: ReturnReason::User,
        refund: false,
        promotion_ids: told.items.iter().map(|(id, _)| id.clone()).collect(),
        promotion_id: told.items.first().map(|(id, _)| id.clone()),
    };
    let answer = ask(stage, move |service| async move {
        service.cancel_order(request).await
    })
    .await;
    stage
        .trace
        .note(format_args!("cancel {order} -> {}", short(answer.as_ref())));
    let outcome = outcome(answer.as_ref());
    if outcome == Asked::Done {
        stage.stock().returned(order);
    }
    stage.write(order, |told| {
        told.cancel = told.cancel.max_with(outcome);
    });
}

async fn confirm(stage: &Arc<Stage>, order: &str) {
    let told = stage.told(order);
    stage.write(order, |told| {
        told.confirm = told.confirm.max_with(Asked::InDoubt);
    });
    let (id, first) = (
        order_id(order),
        told.items.first().map(|(id, _)| id.clone()),
    );
    let answer = ask(stage, move |service| async move {
        service.confirm_order(&id, first.as_ref()).await
    })
    .await;
    stage.trace.note(format_args!(
        "confirm {order} -> {}",
        short(answer.as_ref())
    ));
    let outcome = outcome(answer.as_ref());
    stage.write(order, |told| {
        told.confirm = told.confirm.max_with(outcome);
    });
}

/// Reads an order: what was done before somebody looked is seen, whichever node is asked.
async fn look(stage: &Arc<Stage>, order: &str) {
    let told = stage.told(order);
    let (id, first) = (
        order_id(order),
        told.items.first().map(|(id, _)| id.clone()),
    );
    let answer = ask(stage, move |service| async move {
        service.get_order(&id, first.as_ref()).await
    })
    .await;
    stage
        .trace
        .note(format_args!("look {order} -> {}", short(answer.as_ref())));
    let may_be_returned =
        told.expires && told.confirm != Asked::Done || stage.told(order).cancel != Asked::Never;
    let is_true = match &answer {
        Some(Ok(seen)) => match seen.state {
            OrderState::Tentative => told.granted.is_none(),
            OrderState::Held => told.cancel != Asked::Done && told.confirm != Asked::Done,
            OrderState::Confirmed { .. } => told.cancel != Asked::Done,
            OrderState::Returned { .. } => told.granted.is_none() || may_be_returned,
        },
        Some(Err(Refusal::Rejected(_))) => told.granted.is_none(),
        _ => true,
    };
    if !is_true {
        stage.trace.violate(format_args!(
            "order {order} was seen as it no longer was: {answer:?}; {told:?}"
        ));
    }
}

fn outcome<T>(answer: Option<&Result<T, Refusal>>) -> Asked {
    match answer {
        Some(Ok(_)) => Asked::Done,
        Some(Err(Refusal::Rejected(_) | Refusal::Unavailable | Refusal::Overloaded)) => {
            Asked::Refused
        }
        Some(Err(Refusal::OutcomeUnknown)) | None => Asked::InDoubt,
    }
}

impl Asked {
    /// The later of two answers that says more: done is done, and a doubt is not undone by a refusal.
    fn max_with(self, later: Asked) -> Asked {
        match (self, later) {
            (Asked::Done, _) | (_, Asked::Done) => Asked::Done,
            (Asked::InDoubt, _) | (_, Asked::InDoubt) => Asked::InDoubt,
            (_, later) => later,
        }
    }
}

pub fn order_id(order: &str) -> OrderId {
    OrderId::new(order).expect("an id")
}

fn short<T>(answer: Option<&Result<T, Refusal>>) -> String {
    match answer {
        None => "no answer".to_owned(),
        Some(Ok(_)) => "ok".to_owned(),
        Some(Err(Refusal::Rejected(rejection))) => format!("{:?}", rejection.code),
        Some(Err(refusal)) => format!("{refusal:?}"),
    }
}
