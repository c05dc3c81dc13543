//! The backup that an operator took last amid everything, restored on another machine when the run is over: what it holds is there, what was undecided
//! in it is undone, and the new cluster sells on, on one node, while three more join amid faults, and on four.
//!
//! Invariant: the cluster that the backup was taken of is gone before another begins, so that never both sell.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::Shard;
use tokio::time::sleep;

use crate::backup::{self, Saved};
use crate::buyers::{self, Book, Told, order_id};
use crate::crowd::crowd;
use crate::faults::Faults;
use crate::hours;
use crate::judge::{Judge, Part, judge_offers, judge_orders, parts};
use crate::partners;
use crate::story::{CARTS_WITHIN, Stage, grow, settle};

/// The machine of the new cluster, and those that join it: of numbers that none had before.
const FIRST: (u64, &str) = (1_001, "a");
const OTHERS: [(u64, &str); 3] = [(1_002, "a"), (1_003, "b"), (1_004, "b")];

/// How long things go wrong while it grows.
const FAULTS_LAST: Duration = Duration::from_secs(5);

/// Buyers meanwhile: of numbers that none had before.
const BUYERS: Range<usize> = 1_000..1_003;

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
    stage.stock().begin_anew(|order| {
        let mut known = saved
            .shards
            .iter()
            .filter_map(|shard| shard.order(&order_id(order)));
        known.any(|order| order.state.live())
    });
    sell(stage, &mut judge, "r", &book).await?;
    grow_amid_faults(stage, &mut judge).await?;
    judge_restored(stage, &saved, &book).await?;
    sell(stage, &mut judge, "g", &book).await
}

/// Three more machines join while things go wrong and people buy.
async fn grow_amid_faults(stage: &Arc<Stage>, judge: &mut Judge) -> Result<(), String> {
    stage.set_quiet(false);
    let buyers: Vec<_> = BUYERS
        .map(|number| tokio::spawn(buyers::run(stage.clone(), number)))
        .collect();
    let growing = stage.clone();
    let growing = tokio::spawn(async move { grow(&growing, FIRST.0, OTHERS).await });
    let mut faults = Faults::amid_growth([FIRST].into_iter().chain(OTHERS));
    faults.rage(stage, judge, FAULTS_LAST).await;
    stage.set_quiet(true);
    faults.heal(stage).await;
    let panicked = |error| format!("a buyer panicked: {error}");
    for buyer in buyers {
        buyer.await.map_err(panicked)?;
    }
    let grown = growing.await;
    grown.map_err(|error| format!("an operator panicked: {error}"))??;
    faults.all_end().await?;
    settle(stage, judge).await?;
    sleep(CARTS_WITHIN).await;
    settle(stage, judge).await
}

/// Holds what there is against what the backup had.
async fn judge_restored(stage: &Arc<Stage>, saved: &Saved, book: &Book) -> Result<(), String> {
    let restored = backup::of_settled(stage).await?.shards;
    judge_offers(stage, &restored, "in the restored cluster");
    hours::judge(stage, &restored)?;
    partners::note_all(stage, &restored);
    for (order, told) in book {
        if let Err(why) = judge_order(stage, &saved.shards, &restored, order, told) {
            return Err(format!("order {order} in the restored cluster {why}"));
        }
    }
    Ok(())
}

/// An order that was sold, paid or given back in the backup is so, unless its time was over; one that was undecided is nowhere.
fn judge_order(
    stage: &Stage,
    saved: &[Shard],
    restored: &[Shard],
    order: &str,
    told: &Told,
) -> Result<(), String> {
    let was = parts(stage, saved, order, told)?;
    let is = parts(stage, restored, order, told)?;
    let becomes = |part: &Part| match part {
        Part::Tentative => Part::Nothing,
        part => *part,
    };
    // The shard of the first item decides, and the others follow. What it has forgotten they all have followed.
    let mut known = was.iter().filter(|part| **part != Part::Forgotten);
    let wanted = known.next().map_or(Part::Nothing, becomes);
    let expired = told.expires && wanted == Part::Held;
    let follows = |part: &Part| {
        *part == wanted
            || *part == Part::Forgotten
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

/// Crowds of this name come to every promotion: of one with units enough something is granted, and none is oversold. What all were told
/// whose orders are not of `before` the restore is true, too.
async fn sell(
    stage: &Arc<Stage>,
    judge: &mut Judge,
    crowds: &str,
    before: &Book,
) -> Result<(), String> {
    let granted = stage.trace.granted();
    for offer in 0..stage.offers.len() {
        crowd(stage.clone(), offer, format!("{crowds}-{offer}")).await;
    }
    if stage.trace.granted() == granted {
        return Err("the restored cluster grants nothing".to_owned());
    }
    settle(stage, judge).await?;
    let shards = backup::of_settled(stage).await?.shards;
    judge_offers(stage, &shards, "after a restore");
    let mut since = stage.book();
    since.retain(|order, _| !before.contains_key(order));
    judge_orders(stage, &shards, since.into_keys());
    Ok(())
}
