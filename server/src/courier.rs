//! The courier: carries word of carts between shards. An actor asks for it again and again until it
//! was done, so a message that is lost here is only late.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use qiang_engine::command::CartOutcome;
use qiang_engine::routing::shard_of;
use qiang_engine::shard::Tell;
use qiang_engine::{Answer, Command, OrderId, PromotionId, ShardId, TryId};
use qiang_raft::CourierJob;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::service::Service;

/// Messages under way at once; the rest wait in the queue.
const UNDER_WAY_MAX: usize = 256;

/// How long one message may take; the actor asks again after about as long.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// Carries messages until the node stops.
pub async fn run_courier(service: Service, mut jobs: mpsc::Receiver<CourierJob>) {
    let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    while let Some(job) = jobs.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let service = service.clone();
        qiang_raft::world::spawn(async move {
            match job {
                CourierJob::Ask {
                    guest,
                    order_id,
                    try_id,
                    home,
                } => ask(&service, guest, order_id, try_id, &home).await,
                CourierJob::Tell { home, tell } => self::tell(&service, home, tell).await,
                CourierJob::Closing { promotion_id } => find_closing(&service, promotion_id).await,
            }
            drop(place);
        });
    }
}

/// Asks home what became of a try and has the guest follow.
async fn ask(
    service: &Service,
    guest: ShardId,
    order_id: OrderId,
    try_id: TryId,
    home: &PromotionId,
) {
    let until = Instant::now() + MESSAGE_TIMEOUT;
    let resolve = Command::Resolve {
        order_id: order_id.clone(),
        try_id,
    };
    let Ok(Answer::Outcome(outcome)) = service.ask(shard_of(home), resolve, until).await else {
        return;
    };
    if outcome != CartOutcome::Undecided {
        let follow = Command::Follow {
            order_id,
            try_id,
            outcome,
        };
        if let Err(refusal) = service.ask(guest, follow, until).await {
            tracing::debug!(?refusal, "a guest did not follow yet");
        }
    }
}

/// Tells every guest what home decided and, when all have acknowledged it, home that they have.
async fn tell(service: &Service, home: ShardId, tell: Tell) {
    let until = Instant::now() + MESSAGE_TIMEOUT;
    let mut guests: Vec<ShardId> = tell
        .items
        .iter()
        .map(shard_of)
        .filter(|shard| *shard != home)
        .collect();
    guests.sort_unstable();
    guests.dedup();
    let follow = || Command::Follow {
        order_id: tell.order_id.clone(),
        try_id: tell.try_id,
        outcome: tell.outcome,
    };
    let answers = join_all(
        guests
            .into_iter()
            .map(|guest| service.ask(guest, follow(), until)),
    )
    .await;
    if answers.iter().all(Result::is_ok) {
        let told = Command::Told {
            order_id: tell.order_id,
            outcome: tell.outcome,
        };
        if let Err(refusal) = service.ask(home, told, until).await {
            tracing::debug!(?refusal, "home will tell its guests again");
        }
    }
}

/// Notes when a promotion was closed, if some replica has it so: what is closed stays closed.
async fn find_closing(service: &Service, promotion_id: PromotionId) {
    let node = service.node();
    let found = node.stale_promotion(&promotion_id).await;
    let closed = found.and_then(|stale| stale.promotion?.closed);
    if let Some((_, at)) = closed {
        node.note_closing(promotion_id, at);
    }
}
