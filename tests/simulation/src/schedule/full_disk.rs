//! The disk of a leader becomes full, while its shards sleep or in the middle of a sale, and stays so. Nothing of it is gone, it hears and is
//! heard, and yet it can decide nothing any more: another must.

use std::sync::Arc;
use std::time::Duration;

use qiang_raft::world::Random;
use rand::RngExt;
use tokio::time::sleep;

use super::{Leader, grab};
use crate::machine::any_speed;
use crate::story::Stage;

/// Longer than a group stays awake of which nothing is asked.
const ASLEEP_AFTER: Duration = Duration::from_secs(4);

/// Plays it: whether the shard slept when the disk became full.
pub async fn play(seed: u64) -> Result<bool, String> {
    let schedule = async |stage: &Arc<Stage>| {
        let promotion = &stage.offers[1].id;
        let leader = Leader::of(stage, promotion).await?;
        let is_sale = Random.random_range(0..2) == 0;
        if !is_sale {
            sleep(ASLEEP_AFTER).await;
        }
        let slept = leader.status().quiescent;
        let come = |number: u32| {
            let (process, promotion) = (leader.process.clone(), promotion.clone());
            let order = format!("amid-{number}");
            tokio::spawn(async move { grab(&process, &promotion, &order).await });
        };
        if is_sale {
            for number in 1..Random.random_range(2..5) {
                come(number);
                sleep(Duration::from_micros(Random.random_range(0..2_000))).await;
            }
        }
        stage.fill_disk(leader.id);
        // Whoever comes first finds out.
        come(0);
        leader.is_succeeded(stage, |_| {}).await?;
        Ok(slept)
    };
    super::play(seed, |_| any_speed(), schedule).await
}
