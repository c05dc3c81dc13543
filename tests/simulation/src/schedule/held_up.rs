//! What a leader hears is held up on its way, and what it says is heard by nobody any more. Answers from before then reach it when its
//! followers have nearly lost patience, and openraft takes them for answers to what it has said since. Believing that, it would go on
//! telling what is in stock while its successor sells.

use std::sync::Arc;
use std::time::Duration;

use qiang_raft::world::Random;
use rand::RngExt;
use tokio::time::sleep;

use super::{HEARD_WITHIN, Leader, grab};
use crate::machine::any_speed;
use crate::story::Stage;

/// Between two grabs whose answers are held up: longer than the first takes to its followers, so that it is an entry of its own.
const APART: Duration = Duration::from_millis(20);

/// Plays it: whether openraft still believed in the leader's lease when the successor had sold.
pub async fn play(seed: u64) -> Result<bool, String> {
    let schedule = async |stage: &Arc<Stage>| {
        let promotion = &stage.offers[1].id;
        let leader = Leader::of(stage, promotion).await?;
        let followers = leader.followers(stage);
        // Just before the followers elect another: they trust a leader for a time, and then wait at random.
        let wait = Duration::from_millis(Random.random_range(100..300));
        for (follower, process) in &followers {
            let late = process.timing.trust() + wait;
            stage.net.hold_up(*follower, leader.id, late);
        }
        for order in ["second", "third"] {
            let (process, promotion) = (leader.process.clone(), promotion.clone());
            tokio::spawn(async move { grab(&process, &promotion, order).await });
            sleep(APART).await;
        }
        sleep(HEARD_WITHIN).await;
        for (follower, _) in &followers {
            stage.net.cut(leader.id, *follower);
        }
        let mut tempted = false;
        let look = |succeeded| {
            let status = leader.status();
            tempted |= succeeded && status.leads && status.has_quorum;
        };
        leader.is_succeeded(stage, look).await?;
        Ok(tempted)
    };
    super::play(seed, |_| any_speed(), schedule).await
}
