//! What must hold: after every event among the nodes that run, and in the end everywhere and for every order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::order::{Order, OrderState};
use qiang_engine::routing::{SHARDS, shard_of};
use qiang_engine::shard::Shard;
use qiang_engine::{OrderId, PromotionId, ShardId};
use qiang_raft::{Flow, FlowError, FlowQuery};

use crate::backup::{self, Saved};
use crate::buyers::{Book, Told, order_id};
use crate::hours;
use crate::machine::Process;
use crate::partners;
use crate::readers::{self, BEGINNING, Run};
use crate::shop;
use crate::story::Stage;

/// What was seen before.
#[derive(Default)]
pub struct Judge {
    /// The digest of each shard at each index.
    digests: BTreeMap<(String, u64), (u64, u64)>,
}

impl Judge {
    /// One node at a time that may decide, equal digests at equal indexes, counters in balance, nobody stopped whose disk takes
    /// what it writes.
    ///
    /// openraft orders leaders by term and node, so one term may see two; but a lease only one has.
    pub fn look(&mut self, stage: &Stage) {
        let mut deciding: BTreeMap<String, (u64, qiang_raft::GroupStatus)> = BTreeMap::new();
        for (id, process) in stage.processes() {
            for group in process.node.group_statuses() {
                if let Some(why) = &group.stopped
                    && !stage.is_full(id)
                {
                    stage.trace.violate(format_args!(
                        "node {id} stopped group {}: {why}",
                        group.group
                    ));
                }
                // The meta group decides nothing by its lease alone, so it is handed over without a pause: two
                // may think for a moment that they lead it, and the log takes what one of them says.
                let by_lease = group.group != "meta";
                // Nor does a quiescent leader decide before a quorum has given it a lease again.
                let by_lease = by_lease && !group.quiescent;
                if by_lease && group.leads && group.deciding && group.has_quorum {
                    let known = deciding.get(&group.group);
                    if let Some((other, theirs)) = known {
                        stage.trace.violate(format_args!(
                            "nodes {other} and {id} decide for group {} at the same time, both with a lease: {theirs:?} and {group:?}",
                            group.group
                        ));
                    }
                    deciding.insert(group.group.clone(), (id, group.clone()));
                }
                if let Some((index, digest)) = group.digest {
                    let known = self
                        .digests
                        .entry((group.group.clone(), index))
                        .or_insert((digest, id));
                    if known.0 != digest {
                        stage.trace.violate(format_args!(
                            "shard {} differs at index {index} between nodes {} and {id}",
                            group.group, known.1
                        ));
                    }
                }
            }
            process.node.board().for_each(|promotion| {
                let counters = &promotion.counters;
                let given = counters.remaining + counters.held + counters.confirmed;
                if i128::from(given) != i128::from(counters.original) + i128::from(counters.added) {
                    stage.trace.violate(format_args!(
                        "node {id}: {} is out of balance: {counters:?}",
                        promotion.id
                    ));
                }
            });
        }
    }
}

/// Holds what there is in the end against what buyers were told.
pub async fn judge_all(stage: &Arc<Stage>) {
    let shards = match judged_shards(stage).await {
        Ok(shards) => shards,
        Err(why) => return stage.trace.violate(why),
    };
    judge_orders(stage, &shards, stage.book().into_keys());
    let added = |id: &PromotionId| {
        let promotion = shards[usize::from(shard_of(id).0)].promotion(id)?;
        Some(promotion.counters.added)
    };
    if let Err(why) = shop::judge(stage, added) {
        stage.trace.violate(why);
    }
    if let Err(why) = partners::judge(stage, &shards) {
        stage.trace.violate(why);
    }
    if let Err(why) = hours::judge(stage, &shards) {
        stage.trace.violate(why);
    }
    judge_offers(stage, &shards, "in the end");
}

/// Holds what there is against what buyers were told of these orders.
pub fn judge_orders(stage: &Stage, shards: &[Shard], orders: impl IntoIterator<Item = String>) {
    for order in orders {
        let told = stage.told(&order);
        if let Err(why) = judge_order(stage, shards, &order, &told) {
            let trace = &stage.trace;
            trace.violate(format_args!("order {order} {why}; {told:?}"));
        }
    }
}

/// Nothing is oversold, and every unit is accounted for.
pub fn judge_offers(stage: &Stage, shards: &[Shard], place: &str) {
    for offer in &stage.offers {
        if let Err(why) = judge_offer(shards, &offer.id, offer.quantity) {
            let trace = &stage.trace;
            trace.violate(format_args!("{} {place}: {why}", offer.id));
        }
    }
}

/// The shards as a backup has them, once they were found to be what every node holds, and what all their flows make if all are known.
async fn judged_shards(stage: &Arc<Stage>) -> Result<Vec<Shard>, String> {
    let members = stage.members();
    let Saved { shards, ends } = backup::of_settled(stage).await?;
    for ((number, shard), end) in (0..SHARDS).zip(&shards).zip(ends) {
        let hosts: Vec<&(u64, Process)> = members
            .iter()
            .filter(|(id, process)| process.node.cluster().voters(number).contains(id))
            .collect();
        for (id, process) in &hosts {
            let status = &process.node.group_statuses()[usize::from(number)];
            if status.hosted
                && status
                    .digest
                    .is_some_and(|(_, digest)| digest != shard.digest())
            {
                return Err(format!(
                    "shard {number}: node {id} at {:?} differs from the backup, whose digest is {}",
                    status.digest,
                    shard.digest()
                ));
            }
        }
        let (id, process) = hosts[usize::from(number) % hosts.len()];
        let kept = kept_flows(*id, process, number).await?;
        match readers::judge(&stage.read(), number, &kept)? {
            Some(mut flows) => {
                // Time goes on, and more may have been forgotten since.
                flows.retain(|flow| flow.index <= end);
                judge_flows(stage, number, &flows, &shards)?;
            }
            None if stage.may_lack_flows() => stage
                .trace
                .note(format_args!("the beginning of shard {number} is gone")),
            None => return Err(format!("the beginning of shard {number} is gone")),
        }
    }
    Ok(shards)
}

/// All flows of a shard that are left, as a node finds them here and there.
async fn kept_flows(id: u64, process: &Process, shard: u16) -> Result<Run, String> {
    let mut kept = Run::after(BEGINNING);
    loop {
        let query = FlowQuery {
            shard: ShardId(shard),
            after: kept.end(),
            limit: usize::MAX,
            wait: Duration::ZERO,
            promotion_id: None,
            order_id: None,
        };
        let node = process.node.clone();
        let reading = process
            .life
            .spawn(async move { node.flows(query, || true).await });
        match reading.await.map_err(|error| error.to_string())? {
            Ok(page) if page.is_empty() => return Ok(kept),
            Ok(page) => kept.flows.extend(page),
            // Some may have been deleted since the last page.
            Err(FlowError::Forgotten { oldest }) => kept = Run::after(oldest),
            Err(error) => {
                return Err(format!(
                    "node {id} cannot read the flows of shard {shard}: {error}"
                ));
            }
        }
    }
}

/// Folds all flows of a shard, from the first, to what it is among these.
fn judge_flows(stage: &Stage, number: u16, flows: &[Flow], shards: &[Shard]) -> Result<(), String> {
    let is = &shards[usize::from(number)];
    let mut shard = Shard::new(7);
    for flow in flows {
        if !stage.retention.allows(&shard, &flow.record, shards) {
            return Err(format!("shard {number}: {flow:?} forgets too early"));
        }
        if !hours::allows(&shard, &flow.record) {
            return Err(format!(
                "shard {number}: {flow:?} comes when it cannot, by the clock or for what it is about"
            ));
        }
        let applied = shard.apply(&flow.record);
        applied.map_err(|error| {
            format!("shard {number}: the flow {flow:?} does not follow: {error}")
        })?;
        partners::note_applied(stage, &shard, &flow.record);
    }
    if shard != *is {
        return Err(format!(
            "shard {number}: its {} flows make another shard than it is: {}",
            flows.len(),
            difference(&shard, is)
        ));
    }
    Ok(())
}

/// In what two shards differ.
fn difference(one: &Shard, other: &Shard) -> String {
    let orders = |shard: &Shard| -> BTreeMap<OrderId, Order> {
        let orders = shard.orders();
        orders
            .map(|order| (order.order_id.clone(), order))
            .collect()
    };
    let (ones, others) = (orders(one), orders(other));
    for id in ones.keys().chain(others.keys()) {
        if ones.get(id) != others.get(id) {
            return format!("{:?} and {:?}", ones.get(id), others.get(id));
        }
    }
    let told = |shard: &Shard| {
        let tries = shard.undone_tries();
        let units: BTreeSet<_> = shard.pin_units().collect();
        let untold = shard.untold().count();
        (shard.promotions().to_vec(), tries, units, untold)
    };
    format!("{:?} and {:?}", told(one), told(other))
}

/// What one shard holds of an order's item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Nothing,
    Tentative,
    Held,
    Confirmed,
    Returned,
    /// Nothing, which may be because it was forgotten.
    Forgotten,
}

fn part(
    shards: &[Shard],
    order: &str,
    promotion: &PromotionId,
    quantity: u32,
) -> Result<Part, String> {
    let Some(known) = shards[usize::from(shard_of(promotion).0)].order(&order_id(order)) else {
        return Ok(Part::Nothing);
    };
    if known.buyer.is_some() {
        let item = known
            .items
            .iter()
            .find(|item| item.promotion_id == *promotion);
        let held = item.map(|item| item.quantity);
        if held != Some(quantity) {
            return Err(format!(
                "asked for {quantity} of {promotion} and has {held:?}"
            ));
        }
    }
    Ok(match known.state {
        OrderState::Tentative => Part::Tentative,
        OrderState::Held => Part::Held,
        OrderState::Confirmed { .. } => Part::Confirmed,
        OrderState::Returned { .. } => Part::Returned,
    })
}

/// What the shards hold of each item of an order.
pub fn parts(
    stage: &Stage,
    shards: &[Shard],
    order: &str,
    told: &Told,
) -> Result<Vec<Part>, String> {
    let items = told.items.iter();
    let part = |(id, quantity): &(PromotionId, u32)| {
        Ok(match part(shards, order, id, *quantity)? {
            Part::Nothing if stage.may_be_forgotten_at(id, told) => Part::Forgotten,
            part => part,
        })
    };
    items.map(part).collect()
}

fn judge_order(stage: &Stage, shards: &[Shard], order: &str, told: &Told) -> Result<(), String> {
    let mut parts = parts(stage, shards, order, told)?;
    parts.retain(|part| *part != Part::Forgotten);
    if parts.is_empty() {
        return Ok(());
    }
    let live = |part: &&Part| matches!(part, Part::Held | Part::Confirmed);
    let lives = parts.iter().filter(live).count();
    if parts.contains(&Part::Tentative) {
        return Err(format!("is still tentative: {parts:?}"));
    }
    if lives > 0 && parts.iter().any(|part| *part != parts[0]) {
        return Err(format!("is not all or nothing: {parts:?}"));
    }
    let is_returned = told.may_be_returned() && parts.contains(&Part::Returned);
    if told.granted.is_some() && lives == 0 && !is_returned {
        return Err(format!("was granted and is lost: {parts:?}"));
    }
    if told.granted.is_none() && !told.in_doubt && lives > 0 {
        return Err(format!("was never granted and holds units: {parts:?}"));
    }
    if !told.confirm.may_be_done() && parts.contains(&Part::Confirmed) {
        return Err(format!("was refused every payment and is paid: {parts:?}"));
    }
    if !told.expires && !told.may_be_given_back() && parts.contains(&Part::Returned) {
        return Err(format!(
            "was refused every cancel and is returned: {parts:?}"
        ));
    }
    if told.is_given_back() && lives > 0 {
        return Err(format!("was given back and holds units: {parts:?}"));
    }
    if told.confirm.is_done() && !told.refund.may_be_done() {
        if told.cancel.is_done() {
            return Err("was both cancelled and paid".to_owned());
        }
        if parts.iter().any(|part| *part != Part::Confirmed) {
            return Err(format!("was paid and is not: {parts:?}"));
        }
    }
    Ok(())
}

/// Holds a backup, taken amid everything, against what buyers had been told `before` it was asked for: what was acknowledged is in it,
/// and what is not granted where an order is decided is granted nowhere.
pub fn judge_backup(stage: &Stage, shards: &[Shard], before: &Book) {
    for (order, told) in before {
        let now = stage.told(order);
        if let Err(why) = judge_backed_up(stage, shards, order, (told, &now)) {
            let trace = &stage.trace;
            trace.violate(format_args!("order {order} in a backup {why}; {now:?}"));
        }
    }
    judge_offers(stage, shards, "in a backup");
}

fn judge_backed_up(
    stage: &Stage,
    shards: &[Shard],
    order: &str,
    (before, now): (&Told, &Told),
) -> Result<(), String> {
    let parts = parts(stage, shards, order, now)?;
    // The shard of the first item decides.
    let Some(decided) = parts.first().filter(|part| **part != Part::Forgotten) else {
        return Ok(());
    };
    let is_sealed = |part: &Part| matches!(part, Part::Held | Part::Confirmed);
    let lives = parts.iter().filter(|part| is_sealed(part)).count();
    match decided {
        Part::Nothing | Part::Tentative if lives > 0 => {
            return Err(format!(
                "is granted, and not where it is decided: {parts:?}"
            ));
        }
        Part::Held | Part::Confirmed
            if parts.contains(&Part::Nothing) || parts.contains(&Part::Returned) =>
        {
            return Err(format!("is not all or nothing: {parts:?}"));
        }
        _ => {}
    }
    let is_granted = is_sealed(decided);
    if before.granted.is_some() && !now.may_be_returned() && !is_granted {
        return Err(format!("was granted and is lost: {parts:?}"));
    }
    if before.is_given_back() && is_granted {
        return Err(format!("was given back and holds units: {parts:?}"));
    }
    let stays_paid = before.confirm.is_done() && !now.refund.may_be_done();
    if stays_paid && *decided != Part::Confirmed {
        return Err(format!("was paid and is not: {parts:?}"));
    }
    Ok(())
}

fn judge_offer(shards: &[Shard], id: &PromotionId, quantity: u64) -> Result<(), String> {
    let shard = &shards[usize::from(shard_of(id).0)];
    let promotion = shard.promotion(id).ok_or("it is gone")?;
    let mut live = 0;
    for order in shard.orders().filter(|order| order.state.live()) {
        for item in order.items.iter().filter(|item| item.promotion_id == *id) {
            live += u64::from(item.quantity);
        }
    }
    if live > quantity {
        return Err(format!("oversold: {live} of {quantity}"));
    }
    if promotion.counters.remaining + live != quantity {
        return Err(format!(
            "{} remain and {live} are in orders, of {quantity}",
            promotion.counters.remaining
        ));
    }
    Ok(())
}
