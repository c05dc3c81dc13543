//! Readers of flows, as order services follow them: one for each shard, that asks any node for what comes after the last flow it
//! read. What each has read is how the shard's flows begin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qiang_engine::ShardId;
use qiang_raft::world::Random;
use qiang_raft::{Flow, FlowError, FlowQuery};
use rand::RngExt;
use tokio::time::sleep;

use crate::buyers::ask;
use crate::story::Stage;

/// The longest pause between two pages, and how long a node may wait for the first flow of one, in milliseconds.
const PAGES_EVERY_MS: u64 = 400;
const WAITS_MS: u64 = 200;

/// Flows of a page at most.
const PAGE_MAX: usize = 12;

/// What was read of each shard.
pub type Read = BTreeMap<u16, Vec<Flow>>;

/// The reader of one shard, until the stage is quiet.
pub async fn follow(stage: Arc<Stage>, shard: u16) {
    while !stage.is_quiet() {
        sleep(Duration::from_millis(
            Random.random_range(1..PAGES_EVERY_MS),
        ))
        .await;
        let last = stage
            .read()
            .get(&shard)
            .and_then(|read| read.last().map(|flow| flow.cursor));
        let query = FlowQuery {
            shard: ShardId(shard),
            after: last.unwrap_or_default(),
            limit: Random.random_range(1..=PAGE_MAX),
            wait: Duration::from_millis(Random.random_range(0..WAITS_MS)),
            promotion_id: None,
            order_id: None,
        };
        let page = ask(
            &stage,
            move |service| async move { service.flows(query).await },
        )
        .await;
        match page {
            Some(Ok(page)) => stage.read().entry(shard).or_default().extend(page),
            Some(Err(error @ FlowError::Forgotten { .. })) => stage
                .trace
                .violate(format_args!("the reader of shard {shard}: {error}")),
            // Another node, or a later time.
            Some(Err(_)) | None => {}
        }
    }
}

/// Holds what was read of a shard against all of its flows.
pub fn judge(read: &Read, shard: u16, flows: &[Flow]) -> Result<(), String> {
    let read = read.get(&shard).map_or(&[][..], Vec::as_slice);
    if flows.starts_with(read) {
        return Ok(());
    }
    let differs = read.iter().zip(flows).find(|(read, is)| read != is);
    Err(format!(
        "shard {shard}: a reader read {} flows of {}, the first that differs is {differs:?}",
        read.len(),
        flows.len()
    ))
}
