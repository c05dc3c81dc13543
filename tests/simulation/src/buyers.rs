//! Buyers: they grab single orders and carts, repeat what they got no answer to, pay, cancel and look. Each
//! notes what it was told; whatever they were told must stay true, and be true in the end.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::command::{Code, Grab, Granted};
use qiang_engine::order::{Item, Items, Order, OrderState, ReturnReason};
use qiang_engine::promotion::{Channel, PromotionView};
use qiang_engine::{Command, OrderId, Pin, PromotionId, Refusal, Rejection};
use qiang_raft::world::Random;
use qiang_server::service::{CancelOrder, Service};
use rand::RngExt;
use tokio::time::{sleep, timeout};

use crate::crowd::crowd;
use crate::stock::End;
use crate::story::{Offer, Stage};

/// How long a buyer waits for an answer: longer than a node takes.
const PATIENCE: Duration = Duration::from_secs(6);

/// New orders that a buyer puts into one batch at most.
const BATCH_NEW_MAX: u32 = 4;

/// How often an order without an answer is repeated while faults go on.
const REPEATS_MAX: u32 = 3;

/// One of so many who give an order back does so also if it was paid.
const REFUND_ONE_IN: u32 = 3;

/// One of so many who come to a promotion takes something else, too.
const CART_ONE_IN: u32 = 3;

/// One of so many who paid gives the order back after a while, in milliseconds at most.
const REGRETS_ONE_IN: u32 = 3;
const REGRETS_WITHIN_MS: u64 = 3_000;

/// One of so many who ask about an order do not say what it is of, and as many name any of its promotions; the others name the first.
const HINTS_OTHERWISE_ONE_IN: u32 = 6;

/// The longest pause between two looks of somebody who only looks, in milliseconds.
const LOOKS_EVERY_MS: u64 = 50;

/// What a buyer was told of one order.
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub items: Vec<(PromotionId, u32)>,
    /// Whose it is; all others share a pin and an address.
    pub patron: Option<u8>,
    /// It expires soon unless it is paid.
    pub expires: bool,
    pub granted: Option<Granted>,
    /// Some grab of it got no definite answer.
    pub in_doubt: bool,
    pub cancel: Asked,
    /// Cancels that hold though it was paid.
    pub refund: Asked,
    pub confirm: Asked,
}

impl Told {
    /// Somebody was told that it was given back.
    pub fn is_given_back(&self) -> bool {
        self.cancel.is_done() || self.refund.is_done()
    }

    /// It was given back by a buyer, or may be at any time.
    pub fn may_be_given_back(&self) -> bool {
        self.cancel.may_be_done() || self.refund.may_be_done()
    }

    /// It returned by itself, or was given back, or may be at any time.
    pub fn may_be_returned(&self) -> bool {
        self.expires && !self.confirm.is_done() || self.may_be_given_back()
    }
}

/// What was asked of an order, maybe several times, and what is known of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    done: bool,
    /// Questions under way, and those without a definite answer: each may take effect at any time.
    open: u32,
}

impl Asked {
    /// Somebody was told that it was done.
    pub fn is_done(self) -> bool {
        self.done
    }

    /// It was done, or may be at any time.
    pub fn may_be_done(self) -> bool {
        self.done || self.open > 0
    }

    /// It is asked for once more.
    pub fn begin(&mut self) {
        self.open += 1;
    }

    /// A question ends with this answer, if any came.
    pub fn end<T>(&mut self, answer: Option<&Result<T, Refusal>>) {
        match answer {
            Some(Ok(_)) => self.done = true,
            Some(Err(Refusal::Rejected(_) | Refusal::Unavailable | Refusal::Overloaded)) => {
                self.open -= 1;
            }
            Some(Err(Refusal::OutcomeUnknown)) | None => {}
        }
    }
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
                if Random.random_range(0..REFUND_ONE_IN) == 0 {
                    refund(&stage, &order).await;
                } else {
                    cancel(&stage, &order).await;
                }
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
            // Of several shards, with carts and an order that may be known.
            (5, Some(old)) => {
                let new = 0..Random.random_range(1..=BATCH_NEW_MAX);
                let new: Vec<String> = new
                    .map(|place| format!("o-{number}-{turn}-{place}"))
                    .collect();
                for order in &new {
                    stage.write(order, |told| choose_items(&stage.offers, told));
                }
                let mut batch = new.clone();
                batch.insert(Random.random_range(0..=batch.len()), old);
                grab_all(&stage, &batch).await;
                mine.extend(new);
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

/// Somebody who comes to a promotion grabs one of it; one of so many does together with something else, before or behind it.
pub fn choose_with(stage: &Stage, order: &str, promotion: &PromotionId, expires: bool) {
    let with_another = Random.random_range(0..CART_ONE_IN) == 0;
    let another = with_another.then(|| stage.something_besides(promotion));
    stage.write(order, |told| {
        told.items.push((promotion.clone(), 1));
        told.expires = expires;
        if let Some((another, expires)) = another.flatten() {
            let place = Random.random_range(0..=1);
            told.items.insert(place, (another, 1));
            told.expires |= expires;
        }
    });
}

/// Whether it is another promotion of a cart that it is refused for.
pub fn is_of_another(rejection: &Rejection, promotion: &PromotionId) -> bool {
    let of = rejection.promotion_id.as_ref();
    of.is_some_and(|of| of != promotion)
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
pub async fn ask<T, F>(stage: &Arc<Stage>, question: impl FnOnce(Service) -> F) -> Option<T>
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

/// Asks some node something of a promotion.
pub async fn ask_of_promotion(
    stage: &Arc<Stage>,
    promotion: &PromotionId,
    command: Command,
) -> Option<Result<PromotionView, Refusal>> {
    let id = promotion.clone();
    let of_it = move |service: Service| async move { service.promotion(&id, command).await };
    let answer = ask(stage, of_it).await?;
    Some(answer.map(|(view, _)| view))
}

/// Grabs an order, for the first time or again; whether the answer is definite.
pub async fn grab(stage: &Arc<Stage>, order: &str) -> bool {
    match answer_to_grab(stage, order).await {
        Some(Ok(_) | Err(Refusal::Rejected(_))) => true,
        Some(Err(Refusal::Unavailable | Refusal::Overloaded | Refusal::OutcomeUnknown)) | None => {
            false
        }
    }
}

/// Grabs an order, and says what came of it, if anything did.
pub async fn answer_to_grab(stage: &Arc<Stage>, order: &str) -> Option<Result<Granted, Refusal>> {
    let (asked, request) = begin(stage, order);
    let grab = move |service: Service| async move { service.grab(request).await };
    let answer = ask(stage, grab).await;
    asked.end(stage, answer.clone());
    answer
}

/// Grabs several orders at once, as one batch.
pub async fn grab_all(stage: &Arc<Stage>, orders: &[String]) {
    if let [order] = orders {
        grab(stage, order).await;
        return;
    }
    let begun = orders.iter().map(|order| begin(stage, order));
    let (asked, requests): (Vec<_>, Vec<_>) = begun.unzip();
    let grab = move |service: Service| async move {
        let answers = service.grab_batch(requests).await;
        answers.collect::<Vec<_>>()
    };
    let answers = ask(stage, grab).await;
    let mut answers = answers.map(Vec::into_iter);
    for asked in asked {
        let answer = answers
            .as_mut()
            .map(|answers| answers.next().expect("one for each grab"));
        asked.end(stage, answer);
    }
}

/// A grab of an order that is under way.
struct Grabbing<'o> {
    order: &'o str,
    /// What had been told of it before.
    told: Told,
    /// Its number among those whose refusals are judged.
    call: Option<u64>,
}

/// A grab of an order begins.
fn begin<'o>(stage: &Stage, order: &'o str) -> (Grabbing<'o>, Grab) {
    let told = stage.told(order);
    let item = |(id, quantity): &(PromotionId, u32)| Item {
        promotion_id: id.clone(),
        quantity: *quantity,
    };
    let pin = told
        .patron
        .map_or("buyer".to_owned(), |patron| format!("patron-{patron}"));
    let ip = 9 + told.patron.map_or(0, |patron| patron + 1);
    let request = Grab {
        order_id: order_id(order),
        pin: Pin::new(&pin).expect("an id"),
        ip: [203, 0, 113, ip].into(),
        channel: Channel::App,
        items: told.items.iter().map(item).collect::<Items>(),
    };
    let alone = alone(stage, &told);
    let call = alone.map(|(offer, units)| stage.stock().begin(order, &offer.id, units));
    (Grabbing { order, told, call }, request)
}

impl Grabbing<'_> {
    /// It ends with this answer.
    fn end(self, stage: &Stage, answer: Option<Result<Granted, Refusal>>) {
        let Grabbing { order, told, call } = self;
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
            (alone(stage, &told), others, &answer)
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
                    && (before.pay_by != granted.pay_by
                        || told.granted.is_some() && !granted.replayed)
                {
                    stage.trace.violate(format_args!(
                        "order {order} was granted twice: {before:?}, then {granted:?}"
                    ));
                }
                if told.is_given_back() {
                    stage
                        .trace
                        .violate(format_args!("order {order} was cancelled and then granted"));
                }
                stage.trace.count_grant();
                stage.write(order, |told| {
                    told.granted.get_or_insert(granted);
                });
            }
            Some(Err(Refusal::Rejected(rejection))) => {
                let may_be_given_back =
                    told.may_be_given_back() || stage.told(order).may_be_given_back();
                let may_be_returned = told.expires || may_be_given_back;
                if told.granted.is_some()
                    && !(matches!(rejection.code, Code::OrderReturned) && may_be_returned)
                {
                    stage.trace.violate(format_args!(
                        "order {order} was granted, and then refused: {rejection:?}"
                    ));
                }
            }
            Some(Err(Refusal::Unavailable | Refusal::Overloaded)) => {}
            Some(Err(Refusal::OutcomeUnknown)) | None => {
                stage.write(order, |told| told.in_doubt = true);
            }
        }
    }
}

/// Gives an order back, unless it was paid.
pub async fn cancel(stage: &Arc<Stage>, order: &str) {
    stage.write(order, |told| told.cancel.begin());
    let answer = give_back(stage, order, false).await;
    stage.write(order, |told| told.cancel.end(answer.as_ref()));
}

/// One of three gives an order back, one pays it and may regret it, and one does neither.
pub async fn take_back_or_pay(stage: &Arc<Stage>, order: &str) {
    match Random.random_range(0..3) {
        0 => cancel(stage, order).await,
        1 => {
            confirm(stage, order).await;
            if Random.random_range(0..REGRETS_ONE_IN) == 0 {
                sleep(Duration::from_millis(
                    Random.random_range(1..REGRETS_WITHIN_MS),
                ))
                .await;
                refund(stage, order).await;
            }
        }
        _ => {}
    }
}

/// Gives an order back, also if it was paid.
pub async fn refund(stage: &Arc<Stage>, order: &str) {
    stage.write(order, |told| told.refund.begin());
    let answer = give_back(stage, order, true).await;
    stage.write(order, |told| told.refund.end(answer.as_ref()));
}

async fn give_back(
    stage: &Arc<Stage>,
    order: &str,
    refund: bool,
) -> Option<Result<Order, Refusal>> {
    let told = stage.told(order);
    let request = CancelOrder {
        order_id: order_id(order),
        reason: ReturnReason::User,
        refund,
        promotion_ids: told.items.iter().map(|(id, _)| id.clone()).collect(),
        promotion_id: lead(&told),
    };
    let answer = ask(stage, move |service| async move {
        service.cancel_order(request).await
    })
    .await;
    let what = if refund { "refund" } else { "cancel" };
    stage
        .trace
        .note(format_args!("{what} {order} -> {}", short(answer.as_ref())));
    if matches!(answer, Some(Ok(_))) {
        stage.stock().returned(order);
    }
    answer
}

pub async fn confirm(stage: &Arc<Stage>, order: &str) {
    let told = stage.told(order);
    stage.write(order, |told| told.confirm.begin());
    let (id, lead) = (order_id(order), lead(&told));
    let answer = ask(stage, move |service| async move {
        service.confirm_order(&id, lead.as_ref()).await
    })
    .await;
    stage.trace.note(format_args!(
        "confirm {order} -> {}",
        short(answer.as_ref())
    ));
    stage.write(order, |told| told.confirm.end(answer.as_ref()));
}

/// Reads an order: what was done before somebody looked is seen, whichever node is asked.
async fn look(stage: &Arc<Stage>, order: &str) {
    let told = stage.told(order);
    let (id, lead) = (order_id(order), lead(&told));
    let asked = lead.clone();
    let answer = ask(stage, move |service| async move {
        service.get_order(&id, asked.as_ref()).await
    })
    .await;
    stage
        .trace
        .note(format_args!("look {order} -> {}", short(answer.as_ref())));
    let may_be_returned = told.may_be_returned() || stage.told(order).may_be_given_back();
    let is_true = match &answer {
        Some(Ok(seen)) => match seen.state {
            OrderState::Tentative => told.granted.is_none(),
            OrderState::Held => !told.is_given_back() && !told.confirm.is_done(),
            OrderState::Confirmed { .. } => !told.is_given_back(),
            OrderState::Returned { .. } => told.granted.is_none() || may_be_returned,
        },
        Some(Err(Refusal::Rejected(_))) => {
            let now = stage.told(order);
            let first = now.items.first().map(|(id, _)| id);
            let mut asked = lead.iter().chain(first);
            told.granted.is_none() || asked.any(|id| stage.may_be_forgotten_at(id, &now))
        }
        _ => true,
    };
    if !is_true {
        stage.trace.violate(format_args!(
            "order {order} was seen as it no longer was: {answer:?}; {told:?}"
        ));
    }
}

/// What leads to an order's shard, where anything does.
fn lead(told: &Told) -> Option<PromotionId> {
    let place = match Random.random_range(0..HINTS_OTHERWISE_ONE_IN) {
        0 => return None,
        1 => Random.random_range(0..told.items.len()),
        _ => 0,
    };
    told.items.get(place).map(|(id, _)| id.clone())
}

pub fn order_id(order: &str) -> OrderId {
    OrderId::new(order).expect("an id")
}

/// An answer in a word.
pub fn short<T>(answer: Option<&Result<T, Refusal>>) -> String {
    match answer {
        None => "no answer".to_owned(),
        Some(Ok(_)) => "ok".to_owned(),
        Some(Err(Refusal::Rejected(rejection))) => format!("{:?}", rejection.code),
        Some(Err(refusal)) => format!("{refusal:?}"),
    }
}
