//! A leader whose clock is slow among followers whose clocks are fast. One of them does not hear it for a while and asks the others again
//! and again for their votes, which they refuse as long as they trust the leader. Then nobody hears the leader any more, and the others
//! lose their trust early, by its clock. Trusting its lease for as long as they are to trust it, the leader would go on telling
//! what is in stock while its successor sells.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::PromotionId;
use qiang_engine::routing::shard_of;
use qiang_raft::ClusterChange;
use qiang_raft::world::Random;
use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::{HEARD_WITHIN, Leader, SOLD_WITHIN, decider, grab};
use crate::judge::Judge;
use crate::machine::{FASTEST, SLOWEST};
use crate::story::Stage;

/// The machine whose clock is slow.
const SLOW: u64 = 1;

/// The one that does not hear it.
const DEAF: u64 = 4;

/// How long it does not, in milliseconds: it has lost its trust then.
const DEAF_MS: Range<u64> = 800..1_200;

/// Plays it: whether the successor came at a time when the leader, had it trusted its lease for as long, would still have had it.
pub async fn play(seed: u64) -> Result<bool, String> {
    let speed = |id| if id == SLOW { SLOWEST } else { FASTEST };
    let schedule = async |stage: &Arc<Stage>| {
        let promotion = &stage.offers[1].id;
        lead(stage, promotion).await?;
        let leader = Leader::of(stage, promotion).await?;
        sleep(HEARD_WITHIN).await;
        stage.net.cut(leader.id, DEAF);
        sleep(Duration::from_millis(Random.random_range(DEAF_MS))).await;
        for (follower, _) in leader.followers(stage) {
            stage.net.cut(leader.id, follower);
        }
        let timing = leader.process.timing;
        let margin = timing.trust().saturating_sub(timing.lease());
        let (mut vouched_for_at, mut tempted) = (Instant::now(), false);
        let mut judge = Judge::default();
        let look = |succeeded| {
            judge.look(stage);
            let (now, status) = (Instant::now(), leader.status());
            if status.leads && status.has_quorum {
                vouched_for_at = now;
            }
            tempted |= succeeded && now < vouched_for_at + margin;
        };
        leader.is_succeeded(stage, look).await?;
        Ok(tempted)
    };
    super::play(seed, speed, schedule).await
}

/// Has the machine with the slow clock lead the promotion's group.
async fn lead(stage: &Stage, promotion: &PromotionId) -> Result<(), String> {
    let process = stage.process(SLOW).ok_or("the slow one does not run")?;
    let change = ClusterChange::Lead {
        shard: shard_of(promotion).0,
        node_id: SLOW,
    };
    let node = process.node.clone();
    let changing = process
        .life
        .spawn(async move { node.change_cluster(change).await });
    let changed = changing.await.map_err(|error| error.to_string())?;
    changed.map_err(|why| format!("the leader was not moved: {why:?}"))?;
    let until = Instant::now() + SOLD_WITHIN;
    while decider(stage, promotion, None).is_none_or(|(id, _)| id != SLOW) {
        if Instant::now() >= until {
            return Err("the slow one does not lead".to_owned());
        }
        // Moved or not, the group is awake.
        let _ = grab(&process, promotion, "awake").await;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
