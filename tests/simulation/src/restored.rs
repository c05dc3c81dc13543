//! The backup that an operator took last amid everything, restored on another machine when the run is over: what it holds is there, what was undecided
//! in it is undone, and the new cluster sells on, on one node and on four.
//!
//! Invariant: the cluster that the backup was taken of is gone before another begins, so that never both sell.

use std::sync::Arc;

use qiang_engine::Shard;
use tokio::time::sleep;

use crate::backup::{self, Saved};
use crate::buyers::{Book, Told};
use crate::crowd::crowd;
use crate::hours;
use crate::judge::{Judge, Part, judge_offers, judge_orders, parts};
use crate::partners;
use crate::story::{CARTS_WITHIN, Stage, grow, settle};

/// The machine of the new cluster, and those that join it: of numbers that none had before.
const FIRST: (u64, &str) = (1_001, "a");
const OTHERS: [(u64, &str); 3] = [(1_002, "a"), (1_003, "b"), (1_004, "b")];

/// A backup, and what is in it.
pub struct Kept {
    pub file: Vec<u8>,
    pub saved: Saved,
}

/// Restores the backup that was taken last, if any was, and sells, on one node and on four.
pub async fn judge(stage: &Arc<Stage>) -> Result<(), String> {
    let Some(kept) = stage.take_last_backup() else {
        return Ok(());
    };
    let Kept { file, saved } = kept;
    let book = stage.book();
    stage.trace.note("the last backup is restored");
    let path = stage.path_of("backup");
    std::fs::write(&path, file).map_err(|error| error.to_string())?;
    stage.restore(FIRST, &path).await?;
    let mut judge = Judge::default();
    settle(stage, &mut judge).await?;
    sleep(CARTS_WITHIN).await;
    settle(stage, &mut judge).await?;
    judge_restored(stage, &saved, &book).await?;
    let mut sold = Vec::new();
    sell(stage, &mut judge, "r", &mut sold).await?;
    grow(stage, FIRST.0, OTHERS).await?;
    settle(stage, &mut judge).await?;
    judge_restored(stage, &saved, &book).await?;
    sell(stage, &mut judge, "g", &mut sold).await
}

/// Holds what there is against what the backup had.
async fn judge_restored(stage: &Arc<Stage>, saved: &Saved, book: &Book) -> Result<(), String> {
    let restored = backup::of_settled(stage).await?.shards;
    judge_offers(stage, &restored, "in the restored cluster");
    hours::judge(stage, &restored)?;
    partners::note_all(stage, &restored);
    for (order, told) in book {
        let judged = judge_order(&saved.shards, &restored, order, told);
        if let Err(why) = judged
            && !stage.may_be_forgotten(told)
        {
            return Err(format!("order {order} in the restored cluster {why}"));
        }
    }
    Ok(())
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

/// Crowds of this name come to every promotion: of one with units enough something is granted, and none is oversold. What those who were
/// `sold` something before were told is true, too.
async fn sell(
    stage: &Arc<Stage>,
    judge: &mut Judge,
    crowds: &str,
    sold: &mut Vec<String>,
) -> Result<(), String> {
    let before = stage.trace.granted();
    for offer in 0..stage.offers.len() {
        sold.extend(crowd(stage.clone(), offer, format!("{crowds}-{offer}")).await);
    }
    if stage.trace.granted() == before {
        return Err("the restored cluster grants nothing".to_owned());
    }
    settle(stage, judge).await?;
    let shards = backup::of_settled(stage).await?.shards;
    judge_offers(stage, &shards, "after a restore");
    judge_orders(stage, &shards, sold.iter().cloned());
    Ok(())
}
