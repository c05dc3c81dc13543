//! Promotions that are stopped, resumed and in the end deleted while people come, each by a keeper of its own. Some of those who come pay
//! at once, or take their order back, so that it may be forgotten when the promotion is deleted.
//!
//! Invariant: from when somebody is told that a promotion is stopped until it is asked to be resumed, nobody is granted anything of it;
//! from when somebody is told that it is resumed until it is asked to be stopped, nobody is told that it is stopped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join;
use qiang_engine::command::{Code, Granted};
use qiang_engine::promotion::Terms;
use qiang_engine::{Command, PromotionId, Refusal};
use qiang_raft::world::Random;
use rand::RngExt;
use tokio::time::sleep;

use crate::buyers::{
    Asked, answer_to_grab, ask_of_promotion, choose_with, is_of_another, short, take_back_or_pay,
};
use crate::crowd::come_one_by_one;
use crate::story::Stage;

/// Keepers at a time.
pub const KEEPERS: u32 = 2;

/// Units of a promotion: more than are ever grabbed of it.
const UNITS: u64 = 1_000_000;

/// The longest pause between two changes of a promotion and between two people who come, in milliseconds.
const CHANGES_EVERY_MS: u64 = 300;
const COMES_EVERY_MS: u64 = 60;

/// One change in so many deletes the promotion.
const DELETES_ONE_IN: u32 = 20;

/// How long people still come to a promotion that changes no more, in milliseconds.
const STILL_COME_MS: u64 = 200;

/// What a promotion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Open,
    Stopped,
    Deleted,
}

/// What is known of a promotion.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// What it is for certain. While a change has no end it may be either.
    is: Option<Is>,
    /// Grows with every beginning and end of a change.
    changes: u64,
    /// Nobody changes it any more.
    is_left: bool,
}

/// A promotion that its keeper and those who come know of.
struct Door {
    promotion: PromotionId,
    known: Mutex<Known>,
}

impl Door {
    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, note: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.changes += 1;
        note(&mut known);
    }
}

/// One keeper, until the stage is quiet: another promotion after each that was deleted, or of which it is not known what it is.
pub async fn run(stage: Arc<Stage>, keeper: u32) {
    for number in 0.. {
        if stage.is_quiet() {
            return;
        }
        let name = format!("D{keeper}-{number}");
        let door = Arc::new(Door {
            promotion: PromotionId::new(&name).expect("an id"),
            known: Mutex::new(Known {
                is: Some(Is::Open),
                changes: 0,
                is_left: false,
            }),
        });
        while !create(&stage, &door).await {
            if stage.is_quiet() {
                return;
            }
        }
        stage.display(&door.promotion, false);
        join(keep(&stage, &door), people_come(&stage, &door)).await;
    }
}

async fn create(stage: &Arc<Stage>, door: &Door) -> bool {
    let create = Command::CreatePromotion {
        promotion_id: door.promotion.clone(),
        quantity: UNITS,
        terms: Box::new(Terms::default()),
    };
    matches!(
        ask_of_promotion(stage, &door.promotion, create).await,
        Some(Ok(_))
    )
}

/// Changes a promotion until it is deleted, or it is not known what it is.
async fn keep(stage: &Arc<Stage>, door: &Door) {
    while !stage.is_quiet() {
        sleep(Duration::from_millis(
            Random.random_range(1..CHANGES_EVERY_MS),
        ))
        .await;
        let promotion_id = door.promotion.clone();
        let before = door.known().is;
        let after = match before {
            Some(Is::Deleted) | None => break,
            Some(_) if Random.random_range(0..DELETES_ONE_IN) == 0 => Is::Deleted,
            Some(Is::Open) => Is::Stopped,
            Some(Is::Stopped) => Is::Open,
        };
        let change = match after {
            Is::Deleted => Command::DeletePromotion { promotion_id },
            Is::Open | Is::Stopped => Command::StopPromotion {
                promotion_id,
                stopped: after == Is::Stopped,
            },
        };
        if after == Is::Deleted {
            stage.doom(&door.promotion);
        }
        let mut asked = Asked::default();
        asked.begin();
        door.note(|known| known.is = None);
        let answer = ask_of_promotion(stage, &door.promotion, change).await;
        asked.end(answer.as_ref());
        stage.trace.note(format_args!(
            "{} {after:?} -> {}",
            door.promotion,
            short(answer.as_ref())
        ));
        let is = match (asked.is_done(), asked.may_be_done()) {
            (true, _) => Some(after),
            (false, true) => None,
            (false, false) => before,
        };
        door.note(|known| known.is = is);
    }
    sleep(Duration::from_millis(STILL_COME_MS)).await;
    door.note(|known| known.is_left = true);
}

/// People come to a promotion until it is left.
async fn people_come(stage: &Arc<Stage>, door: &Arc<Door>) {
    let visitor = |number| {
        let order = format!("d-{}-{number}", door.promotion);
        visit(stage.clone(), door.clone(), order)
    };
    come_one_by_one(COMES_EVERY_MS, || door.known().is_left, visitor).await;
}

async fn visit(stage: Arc<Stage>, door: Arc<Door>, order: String) {
    choose_with(&stage, &order, &door.promotion, false);
    let before = door.known();
    let answer = answer_to_grab(&stage, &order).await;
    // What changed meanwhile may have been one or the other.
    if door.known().changes == before.changes
        && let Some(is) = before.is
        && !can_be(&door.promotion, is, answer.as_ref())
    {
        stage.trace.violate(format_args!(
            "{} was {is:?} all the time that order {order} was grabbed: {answer:?}",
            door.promotion
        ));
    }
    if let Some(Ok(_)) = answer {
        take_back_or_pay(&stage, &order).await;
    }
}

/// Whether somebody who grabs a promotion that `is` so all the time, alone or with another, can be told this.
fn can_be(promotion: &PromotionId, is: Is, answer: Option<&Result<Granted, Refusal>>) -> bool {
    match answer {
        Some(Ok(_)) => is == Is::Open,
        Some(Err(Refusal::Rejected(rejection))) if is_of_another(rejection, promotion) => true,
        Some(Err(Refusal::Rejected(rejection))) => match rejection.code {
            Code::Stopped => is == Is::Stopped,
            Code::Deleted => is == Is::Deleted,
            _ => true,
        },
        Some(Err(_)) | None => true,
    }
}
