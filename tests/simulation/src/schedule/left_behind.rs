//! A leader stands still for long. Meanwhile the others elect another, the cluster grows, and groups move to the machines that come. When
//! the leader goes on, all it knows of are voters of which most have given up what they had. By their votes it would lead again, and sell
//! beside its successor.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Leader, decider, grab};
use crate::judge::Judge;
use crate::machine::any_speed;
use crate::story::{Stage, join};

/// The machines that come.
const NEWCOMERS: [(u64, &str); 4] = [(10, "a"), (11, "b"), (12, "a"), (13, "b")];

/// How long an election may take.
const ELECTED_WITHIN: Duration = Duration::from_secs(10);

/// How long groups may take to move, from one machine after another.
const MOVED_WITHIN: Duration = Duration::from_secs(30);

/// How long the leader is watched once it goes on: several elections.
const WATCHED_FOR: Duration = Duration::from_secs(10);

/// Plays it: whether the leader called somebody whom a group had left.
pub async fn play(seed: u64) -> Result<bool, String> {
    let schedule = async |stage: &Arc<Stage>| {
        let promotion = &stage.offers[1].id;
        let leader = Leader::of(stage, promotion).await?;
        leader.process.life.pause();
        let begun = Instant::now();
        let successor = loop {
            match decider(stage, promotion, Some(leader.id)) {
                Some((id, _)) => break id,
                None if begun.elapsed() >= ELECTED_WITHIN => return Err("no successor".to_owned()),
                None => sleep(Duration::from_millis(5)).await,
            }
        };
        for (id, dc) in NEWCOMERS {
            stage.machine_comes(id, dc);
            join(stage, successor, (id, dc)).await?;
        }
        sleep(MOVED_WITHIN).await;
        leader.process.life.go_on();
        let followers = leader.followers(stage);
        let (mut judge, mut called) = (Judge::default(), false);
        let begun = Instant::now();
        while begun.elapsed() < WATCHED_FOR {
            judge.look(stage);
            if stage.trace.violation().is_some() {
                return Ok(called);
            }
            for (id, process) in &followers {
                let cluster = process.node.cluster();
                let left =
                    |number| u16::try_from(number).map(|log| !cluster.voters(log).contains(id));
                let groups = process.node.group_statuses().into_iter().enumerate();
                called |= groups
                    .filter(|(_, group)| group.group != "meta" && group.hosted)
                    .any(|(number, _)| left(number) == Ok(true));
            }
            sleep(Duration::from_millis(1)).await;
        }
        let (_, last) = decider(stage, promotion, None).ok_or("nobody decides")?;
        grab(&last, promotion, "last").await?;
        Ok(called)
    };
    super::play(seed, |_| any_speed(), schedule).await
}
