//! Orders over several shards, on the coordinating node: try on all, seal at home, or undo.
//!
//! The coordinator holds nothing that matters: it may die between any two steps. Until home has
//! sealed, the order is not granted, and home undoes it when its time is over; from then on it is,
//! and home sees to it that the guests learn of it.

use std::time::Duration;

use futures::future::join_all;
use qiang_engine::command::{Code, Grab, Granted, TryGrab, TryRole};
use qiang_engine::order::{GrantedItem, Items};
use qiang_engine::routing::shard_of;
use qiang_engine::{Answer, Command, Refusal, Rejection, ShardId, TryId};
use tokio::time::{Instant, sleep, timeout};

use crate::service::{Service, is_code};

/// How long the parts of a try wait for each other, in milliseconds. Half a request's usual deadline:
/// a second try of the order, waiting for the first, can still succeed.
const TENTATIVE_MS: u64 = 2_000;

/// How long to wait before asking again whether another try of the same order has ended.
const OTHER_TRY_PAUSE: Duration = Duration::from_millis(50);

/// How long an answer waits for the undoing of its try, so that a repeat of the order does not meet it.
const UNDO_WAIT: Duration = Duration::from_millis(500);

/// The parts of one try, home first.
struct Parts {
    try_id: TryId,
    parts: Vec<(ShardId, Grab)>,
}

/// What a try came to.
enum Tried {
    /// Every shard has set its units aside.
    All(Vec<Granted>),
    /// Home knows the order.
    Replay(Granted),
    /// Another try of the same order is under way.
    InDoubt,
    /// The answer is no.
    Refused(Refusal),
}

/// Grabs an order whose items live on several shards.
pub(crate) async fn grab(
    service: &Service,
    grab: Grab,
    deadline: Instant,
) -> Result<Granted, Refusal> {
    loop {
        let parts = Parts::of(&grab);
        match parts.attempt(service, &grab, deadline).await {
            Tried::All(granted) => return parts.seal(service, &grab, granted, deadline).await,
            Tried::Replay(granted) => {
                parts.undo(service, &grab).await;
                return Ok(granted);
            }
            Tried::Refused(refusal) => {
                parts.undo(service, &grab).await;
                return Err(refusal);
            }
            Tried::InDoubt => {
                parts.undo(service, &grab).await;
                wait_for_other_try(deadline).await?;
            }
        }
    }
}

/// Pauses before a grab that met another try of the same order is tried again; past the deadline the
/// order's outcome is that try's, and not known.
pub(crate) async fn wait_for_other_try(deadline: Instant) -> Result<(), Refusal> {
    if Instant::now() + OTHER_TRY_PAUSE >= deadline {
        return Err(Refusal::OutcomeUnknown);
    }
    sleep(OTHER_TRY_PAUSE).await;
    Ok(())
}

impl Parts {
    /// Splits a grab by shard, the shard of its first item first.
    fn of(grab: &Grab) -> Self {
        let mut parts: Vec<(ShardId, Grab)> = Vec::new();
        for item in &grab.items {
            let shard = shard_of(&item.promotion_id);
            match parts.iter_mut().find(|(other, _)| *other == shard) {
                Some((_, part)) => part.items.push(item.clone()),
                None => parts.push((
                    shard,
                    Grab {
                        items: Items::from_iter([item.clone()]),
                        ..grab.clone()
                    },
                )),
            }
        }
        Parts {
            try_id: TryId(qiang_raft::world::random_u64()),
            parts,
        }
    }

    /// Asks every shard to set its units aside.
    async fn attempt(&self, service: &Service, grab: &Grab, deadline: Instant) -> Tried {
        let tentative_until = service.now().plus_ms(TENTATIVE_MS);
        let asked = self
            .parts
            .iter()
            .enumerate()
            .map(|(position, (shard, part))| {
                let role = if position == 0 {
                    TryRole::Home {
                        items: grab.items.clone(),
                    }
                } else {
                    TryRole::Guest {
                        home: grab.items[0].promotion_id.clone(),
                    }
                };
                let attempt = TryGrab {
                    grab: part.clone(),
                    try_id: self.try_id,
                    tentative_until,
                    role,
                };
                let until = deadline.min(Instant::now() + Duration::from_millis(TENTATIVE_MS));
                service.ask(*shard, Command::TryGrab(Box::new(attempt)), until)
            });
        verdict(grab, join_all(asked).await)
    }

    /// All parts are set aside: home seals, which is the moment of success.
    async fn seal(
        &self,
        service: &Service,
        grab: &Grab,
        granted: Vec<Granted>,
        deadline: Instant,
    ) -> Result<Granted, Refusal> {
        let (home, _) = &self.parts[0];
        let pay_by = granted
            .iter()
            .map(|part| part.pay_by)
            .min()
            .unwrap_or_default();
        let set_aside: Vec<GrantedItem> = granted.into_iter().flat_map(|part| part.items).collect();
        let in_order = grab.items.iter().filter_map(|item| {
            set_aside
                .iter()
                .find(|granted| granted.promotion_id == item.promotion_id)
                .cloned()
        });
        let seal = Command::Seal {
            order_id: grab.order_id.clone(),
            try_id: self.try_id,
            pay_by,
            items: in_order.collect(),
        };
        match service.ask(*home, seal, deadline).await {
            Ok(Answer::Granted(granted)) => Ok(granted),
            Ok(_) | Err(Refusal::OutcomeUnknown) => Err(Refusal::OutcomeUnknown),
            Err(refusal) => {
                // Home says that it was not sealed.
                self.undo(service, grab).await;
                let undone = is_code(&refusal, |code| matches!(code, Code::TryUndone));
                Err(if undone {
                    Refusal::Unavailable
                } else {
                    refusal
                })
            }
        }
    }

    /// Undoes the try wherever it may have come. What does not learn of it asks home.
    async fn undo(&self, service: &Service, grab: &Grab) {
        let until = Instant::now() + UNDO_WAIT;
        let undo = || Command::Undo {
            order_id: grab.order_id.clone(),
            try_id: self.try_id,
        };
        let asked = join_all(
            self.parts
                .iter()
                .map(|(shard, _)| service.ask(*shard, undo(), until)),
        );
        if timeout(UNDO_WAIT, asked).await.is_err() {
            tracing::debug!(order_id = %grab.order_id, "a try is still being undone");
        }
    }
}

/// What the shards' answers, home's first, come to together. Nothing is sealed yet, so whatever is
/// not a yes means that nothing is granted.
fn verdict(grab: &Grab, answers: Vec<Result<Answer, Refusal>>) -> Tried {
    let mut set_aside = Vec::new();
    let mut home_has_set_aside = false;
    let mut refusals: Vec<Refusal> = Vec::new();
    for (position, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(Answer::Granted(granted)) if granted.replayed && position == 0 => {
                return Tried::Replay(granted);
            }
            // A guest knows an order that home, asked now, does not: another order of the same id. Where
            // home could not be asked, it may well know it.
            Ok(Answer::Granted(granted)) if granted.replayed => {
                refusals.push(if home_has_set_aside {
                    Refusal::Rejected(Rejection {
                        code: Code::OrderMismatch,
                        promotion_id: None,
                    })
                } else {
                    Refusal::Unavailable
                });
            }
            Ok(Answer::Granted(granted)) => {
                home_has_set_aside |= position == 0;
                set_aside.push(granted);
            }
            Ok(_) | Err(Refusal::OutcomeUnknown) => refusals.push(Refusal::Unavailable),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() {
        return Tried::All(set_aside);
    }
    if refusals
        .iter()
        .any(|refusal| is_code(refusal, |code| matches!(code, Code::InDoubt)))
    {
        return Tried::InDoubt;
    }
    // The first failing item, in the order given, names the code; what is no rule comes after.
    let position = |refusal: &Refusal| match refusal {
        Refusal::Rejected(Rejection {
            code: Code::TryUndone,
            ..
        }) => usize::MAX,
        Refusal::Rejected(rejection) => grab
            .items
            .iter()
            .position(|item| Some(&item.promotion_id) == rejection.promotion_id.as_ref())
            .unwrap_or(0),
        _ => usize::MAX,
    };
    let first = refusals
        .into_iter()
        .min_by_key(position)
        .unwrap_or(Refusal::Unavailable);
    let internal = is_code(&first, |code| {
        matches!(code, Code::TryUndone | Code::NotHome)
    });
    Tried::Refused(if internal {
        Refusal::Unavailable
    } else {
        first
    })
}
