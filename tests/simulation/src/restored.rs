//! The backup that an operator took last amid everything, restored on another machine when the run is over: what it holds is there, what was undecided
//! in it is undone, and the new cluster sells on.
//!
//! Invariant: the cluster that the backup was taken of is gone before another begins, so that never both sell.

use std::path::Path;
use std::sync::Arc;

use qiang_engine::Shard;
use tokio::time::sleep;

use crate::backup::{self, Saved};
use crate::buyers::Told;
use crate::crowd::crowd;
use crate::hours;
use crate::judge::{Judge, Part, judge_offers, judge_orders, parts};
use crate::partners;
use crate::story::{CARTS_WITHIN, Stage, settle};

/// The machine of the new cluster: of a number that none had before.
const MACHINE: u64 = 1_000;

/// A backup, and what is in it.
pub struct Kept {
    pub file: Vec<u8>,
    pub saved: Saved,
}

/// Restores the backup that was taken last, if any was, and sells.
pub async fn judge(stage: &Arc<Stage>, home: &Path) -> Result<(), String> {
    let Some(kept) = stage.take_last_backup() else {
        return Ok(());
    };
    let Kept { file, saved } = kept;
    stage.trace.note("the last backup is restored");
    let path = home.join("backup");
    std::fs::write(&path, file).map_err(|error| error.to_string())?;
    stage.restore(MACHINE, home, &path).await?;
    let mut judge = Judge::default();
    settle(stage, &mut judge).await?;
    sleep(CARTS_WITHIN).await;
    settle(stage, &mut judge).await?;
    let restored = backup::of_settled(stage).await?.shards;
    judge_offers(stage, &restored, "in the restored cluster");
    hours::judge(stage, &restored)?;
    partners::note_all(stage, &restored);
    for (order, told) in stage.book() {
        let judged = judge_order(&saved.shards, &restored, &order, &told);
        if let Err(why) = judged
            && !stage.may_be_forgotten(&told)
        {
            return Err(format!("order {order} in the restored cluster {why}"));
        }
    }
    sell(stage, &mut judge).await
}

/// An order that was sold, paid or given back in the backup is so, unless its time was over; one that was undecided is nowhere.
fn judge_order(
    saved: &[Shard],
    restored: &[Shard],
    order: &str,
    told: &Told,
) -> Result<(), String> {
    let (was, is) = (parts(saved, order, told)?, parts(restored, order, told)?);
    let becomes = |part: &Part| match part {
        Part::Tentative => Part::Nothing,
        part => *part,
    };
    // The shard of the first item decides, and the others follow.
    let wanted = was.first().map_or(Part::Nothing, becomes);
    let expired = told.expires && wanted == Part::Held;
    let follows = |part: &Part| {
        *part == wanted
            || expired && *part == Part::Returned
            // What was given back before its grab came leaves a mark where it was given back, and nothing elsewhere.
            || wanted == Part::Nothing && *part == Part::Returned
            || wanted == Part::Returned && *part == Part::Nothing
    };
    if is.iter().all(follows) {
        Ok(())
    } else {
        Err(format!("was {was:?} and is {is:?}"))
    }
}

/// Crowds come to every promotion: of one with units enough something is granted, and none is oversold.
async fn sell(stage: &Arc<Stage>, judge: &mut Judge) -> Result<(), String> {
    let before = stage.trace.granted();
    let mut orders = Vec::new();
    for offer in 0..stage.offers.len() {
        orders.extend(crowd(stage.clone(), offer, format!("r-{offer}")).await);
    }
    if stage.trace.granted() == before {
        return Err("the restored cluster grants nothing".to_owned());
    }
    settle(stage, judge).await?;
    let shards = backup::of_settled(stage).await?.shards;
    judge_offers(stage, &shards, "after a restore");
    judge_orders(stage, &shards, orders);
    Ok(())
}
