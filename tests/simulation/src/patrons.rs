//! Patrons: each has a pin and an address of its own, and asks for one thing after the other of a promotion that limits what one of
//! these may hold. So it knows what it holds, but for what got no answer.
//!
//! Invariant: what a patron surely holds is never more than what it holds, and that never more than what it may hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::command::{Code, Granted};
use qiang_engine::promotion::{Limits, Terms};
use qiang_engine::{Command, PromotionId, Refusal};
use qiang_raft::world::Random;
use rand::RngExt;
use tokio::time::sleep;

use crate::buyers::{answer_to_grab, ask_of_promotion, confirm, refund, short};
use crate::story::Stage;

/// Patrons at a time: two by themselves, and two and two who may want the last units of the same promotion.
pub const PATRONS: u8 = 6;
const BY_THEMSELVES: u8 = 2;

/// Units that one pin, or one address, may hold.
const LIMIT: u32 = 3;

/// Units of a promotion: more than are ever held of it, or so few that patrons stand in each other's way.
const MANY: u64 = 1_000_000;
const FEW: u64 = 5;

/// The longest pause between two things that a patron does, in milliseconds.
const ASKS_EVERY_MS: u64 = 250;

/// What a patron holds of a promotion, by order.
#[derive(Debug, Default)]
struct Holdings {
    /// Granted, and not asked to be taken back.
    sure: BTreeMap<String, u32>,
    /// Without an answer: may be held or not, and may come to be either at any time.
    in_doubt: BTreeMap<String, u32>,
}

impl Holdings {
    fn surely(&self) -> u32 {
        self.sure.values().sum()
    }

    fn at_most(&self) -> u32 {
        self.surely() + self.in_doubt.values().sum::<u32>()
    }

    /// Whether somebody who holds this and asks for more units can be told so.
    fn explain(&self, units: u32, answer: &Result<Granted, Refusal>, few: bool) -> bool {
        match answer {
            Ok(_) => self.surely() + units <= LIMIT,
            Err(Refusal::Rejected(rejection)) => match rejection.code {
                Code::PinLimit | Code::IpLimit => self.at_most() + units > LIMIT,
                // Limits come before what remains.
                Code::SoldOut { .. } => few && self.surely() + units <= LIMIT,
                _ => false,
            },
            Err(_) => true,
        }
    }
}

/// One patron, until the stage is quiet. The limit is that of a pin or that of an address, by turns.
pub async fn run(stage: Arc<Stage>, patron: u8) {
    let few = patron >= BY_THEMSELVES;
    let by_pin = patron.is_multiple_of(2);
    let name = format!("L{}{}", u8::from(few), u8::from(by_pin));
    let promotion = PromotionId::new(&name).expect("an id");
    while !create(&stage, &promotion, few, by_pin).await {
        if stage.is_quiet() {
            return;
        }
    }
    let mut holdings = Holdings::default();
    for number in 0.. {
        if stage.is_quiet() {
            return;
        }
        sleep(Duration::from_millis(Random.random_range(1..ASKS_EVERY_MS))).await;
        let any = |orders: &BTreeMap<String, u32>| {
            let at = Random.random_range(0..orders.len().max(1));
            orders.keys().nth(at).cloned()
        };
        let (sure, in_doubt) = (any(&holdings.sure), any(&holdings.in_doubt));
        match (Random.random_range(0..6), sure, in_doubt) {
            (0 | 1, _, Some(order)) | (0 | 1, Some(order), None) => {
                take_back(&stage, &mut holdings, order).await;
            }
            (2, Some(order), _) => confirm(&stage, &order).await,
            _ => {
                let order = format!("l-{patron}-{number}");
                let units = Random.random_range(1..=2);
                stage.write(&order, |told| {
                    told.items.push((promotion.clone(), units));
                    told.patron = Some(patron);
                });
                grab(&stage, &mut holdings, order, units, few).await;
            }
        }
    }
}

async fn create(stage: &Arc<Stage>, promotion: &PromotionId, few: bool, by_pin: bool) -> bool {
    let limits = Limits {
        per_pin: by_pin.then_some(LIMIT),
        per_ip: (!by_pin).then_some(LIMIT),
        ..Limits::default()
    };
    let terms = Terms {
        limits,
        ..Terms::default()
    };
    let create = Command::CreatePromotion {
        promotion_id: promotion.clone(),
        quantity: if few { FEW } else { MANY },
        terms: Box::new(terms),
    };
    matches!(
        ask_of_promotion(stage, promotion, create).await,
        Some(Ok(_))
    )
}

async fn grab(stage: &Arc<Stage>, holdings: &mut Holdings, order: String, units: u32, few: bool) {
    let answer = answer_to_grab(stage, &order).await;
    if let Some(answer) = &answer
        && !holdings.explain(units, answer, few)
    {
        stage.trace.violate(format_args!(
            "order {order} of {units} was told {} by whom {LIMIT} may hold, and holds {holdings:?}",
            short(Some(answer))
        ));
    }
    match answer {
        Some(Ok(_)) => holdings.sure.insert(order, units),
        Some(Err(Refusal::OutcomeUnknown)) | None => holdings.in_doubt.insert(order, units),
        Some(Err(_)) => None,
    };
}

/// Takes an order back, paid or not; while there is no answer it is not known whether it is held.
async fn take_back(stage: &Arc<Stage>, holdings: &mut Holdings, order: String) {
    refund(stage, &order).await;
    let told = stage.told(&order);
    let sure = holdings.sure.remove(&order);
    let units = sure.or(holdings.in_doubt.remove(&order));
    let units = units.expect("it was held, or may be");
    if told.refund.is_done() {
        return;
    }
    let holds = if told.refund.may_be_done() || sure.is_none() {
        &mut holdings.in_doubt
    } else {
        &mut holdings.sure
    };
    holds.insert(order, units);
}
