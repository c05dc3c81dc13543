//! What must hold: after every event among the nodes that run, and in the end everywhere and for every order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::order::OrderState;
use qiang_engine::routing::{SHARDS, shard_of};
use qiang_engine::shard::Shard;
use qiang_engine::{PromotionId, ShardId};
use qiang_raft::{Flow, FlowQuery};

use crate::buyers::{Told, order_id};
use crate::machine::Process;
use crate::story::Stage;
use crate::{readers, shop};

/// What was seen before.
#[derive(Default)]
pub struct Judge {
    /// The digest of each shard at each index.
    digests: BTreeMap<(String, u64), (u64, u64)>,
}

impl Judge {
    /// One node at a time that may decide, equal digests at equal indexes, counters in balance, nobody stopped.
    ///
    /// openraft orders leaders by term and node, so one term may see two; but a lease only one has.
    pub fn look(&mut self, stage: &Stage) {
        let mut deciding: BTreeMap<String, (u64, qiang_raft::GroupStatus)> = BTreeMap::new();
        for (id, process) in stage.processes() {
            for group in process.node.group_statuses() {
                if let Some(why) = &group.stopped {
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

/// Folds every shard's flows, from the first, and holds what buyers were told against them.
pub async fn judge_all(stage: &Arc<Stage>) {
    let shards = match fold_all(stage).await {
        Ok(shards) => shards,
        Err(why) => return stage.trace.violate(why),
    };
    for (order, told) in stage.book() {
        if let Err(why) = judge_order(&shards, &order, &told) {
            stage
                .trace
                .violate(format_args!("order {order} {why}; {told:?}"));
        }
    }
    let added = |id: &PromotionId| {
        let promotion = shards[usize::from(shard_of(id).0)].promotion(id)?;
        Some(promotion.counters.added)
    };
    if let Err(why) = shop::judge(stage, added) {
        stage.trace.violate(why);
    }
    for offer in &stage.offers {
        if let Err(why) = judge_offer(&shards, &offer.id, offer.quantity) {
            stage.trace.violate(format_args!("{}: {why}", offer.id));
        }
    }
}

async fn fold_all(stage: &Arc<Stage>) -> Result<Vec<Shard>, String> {
    let mut shards = Vec::new();
    let all = stage.members();
    for number in 0..SHARDS {
        let mut shard = Shard::new(7);
        let votes = |(id, process): &&(u64, Process)| {
            let cluster = process.node.cluster();
            cluster.voters(number).contains(id)
        };
        let processes: Vec<_> = all.iter().filter(votes).collect();
        let (id, process) = processes[usize::from(number) % processes.len()];
        let mut flows: Vec<Flow> = Vec::new();
        loop {
            let query = FlowQuery {
                shard: ShardId(number),
                after: flows.last().map_or(0, |flow| flow.cursor),
                limit: usize::MAX,
                wait: Duration::ZERO,
                promotion_id: None,
                order_id: None,
            };
            let node = process.node.clone();
            let reading = process
                .life
                .spawn(async move { node.flows(query, || true).await });
            let page = reading.await.map_err(|error| error.to_string())?;
            let page = page.map_err(|error| {
                format!("node {id} cannot read the flows of shard {number}: {error}")
            })?;
            if page.is_empty() {
                break;
            }
            flows.extend(page);
        }
        readers::judge(&stage.read(), number, &flows)?;
        for flow in &flows {
            let applied = shard.apply(&flow.record);
            applied.map_err(|error| {
                format!("shard {number}: the flow {flow:?} does not follow: {error}")
            })?;
        }
        for (id, process) in &processes {
            let status = &process.node.group_statuses()[usize::from(number)];
            if status.hosted
                && status
                    .digest
                    .is_some_and(|(_, digest)| digest != shard.digest())
            {
                return Err(format!(
                    "shard {number}: node {id} at {:?} differs from its {} flows, whose digest is {}",
                    status.digest,
                    flows.len(),
                    shard.digest()
                ));
            }
        }
        shards.push(shard);
    }
    Ok(shards)
}

/// What one shard holds of an order's item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Tentative,
    Held,
    Confirmed,
    Returned,
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

fn judge_order(shards: &[Shard], order: &str, told: &Told) -> Result<(), String> {
    let parts: Result<Vec<Part>, String> = told
        .items
        .iter()
        .map(|(id, quantity)| part(shards, order, id, *quantity))
        .collect();
    let parts = parts?;
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
