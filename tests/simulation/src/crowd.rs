//! Crowds: many buyers at one promotion at once, who do not wait for one answer before they ask the next; and people who come one by one.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use qiang_raft::world::Random;
use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::buyers::{cancel, confirm, grab_all};
use crate::story::Stage;

/// Orders that a crowd places at once, and one crowd in so many as one batch.
const CROWD: u64 = 6;
const BATCH_ONE_IN: u32 = 3;

/// Within how many milliseconds a crowd comes, and one in it who is hasty pays or takes the order back: as fast as a commit, or slower.
const CROWD_WITHIN_MS: [u64; 3] = [3, 10, 40];

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

/// A crowd at one promotion, that of this number: orders all at once, each by itself or as one batch, most of which are paid or taken
/// back without waiting for the answer. So one proposal follows another that has no end yet, and cannot be without it.
pub async fn crowd(stage: Arc<Stage>, offer: usize, name: String) -> Vec<String> {
    let offer = &stage.offers[offer];
    let within_ms = CROWD_WITHIN_MS[Random.random_range(0..CROWD_WITHIN_MS.len())];
    let orders: Vec<String> = (0..CROWD)
        .map(|member| format!("{name}-{member}"))
        .collect();
    for order in &orders {
        stage.write(order, |told| {
            told.items.push((offer.id.clone(), 1));
            told.expires |= offer.expires;
        });
    }
    let together = Random.random_range(0..BATCH_ONE_IN) == 0;
    let place = |orders: &[String]| {
        let (stage, orders) = (stage.clone(), orders.to_vec());
        let haste = |_| HASTES[Random.random_range(0..HASTES.len())];
        let hastes: Vec<Haste> = orders.iter().map(haste).collect();
        tokio::spawn(async move {
            sleep(Duration::from_millis(Random.random_range(0..within_ms))).await;
            let members = orders.iter().zip(hastes);
            let hurry = members.map(|member| hurry(&stage, member, within_ms));
            tokio::join!(grab_all(&stage, &orders), join_all(hurry));
        })
    };
    let placed: Vec<_> = if together {
        vec![place(&orders)]
    } else {
        orders.chunks(1).map(place).collect()
    };
    for placed in placed {
        placed.await.expect("a grab does not panic");
    }
    orders
}

/// What a member of a crowd does while its grab is under way.
async fn hurry(stage: &Arc<Stage>, (order, haste): (&String, Haste), within_ms: u64) {
    sleep(Duration::from_millis(Random.random_range(0..within_ms))).await;
    match haste {
        Haste::Waits => {}
        Haste::TakesBack => cancel(stage, order).await,
        Haste::Pays => confirm(stage, order).await,
    }
}

/// People who come one after the other, a random time up to so many milliseconds apart and none waiting for the one before, until it is
/// over; `visit` is what the one of a number does.
pub async fn come_one_by_one<V: Future<Output = ()> + Send + 'static>(
    every_ms: u64,
    is_over: impl Fn() -> bool,
    visit: impl Fn(usize) -> V,
) {
    let mut people = JoinSet::new();
    while !is_over() {
        sleep(Duration::from_millis(Random.random_range(1..every_ms))).await;
        people.spawn(visit(people.len()));
    }
    // A panic in one would be this run's, too.
    people.join_all().await;
}
