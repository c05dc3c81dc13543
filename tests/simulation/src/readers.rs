//! Readers of flows, as order services follow them: one for each shard, that asks any node for what comes after the last flow it
//! read, and reads on until there is no more. Only where flows are deleted soon it may come too late, and goes on with what is left.
//! What each has read is a part of the shard's flows without a hole, from the beginning if it never came too late.

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

/// The cursor that all flows follow: that of the first entry, which says who is in the group. From 0 a reader would get what is left.
pub const BEGINNING: u64 = (1 << 16) - 1;

/// What was read of each shard.
pub type Read = BTreeMap<u16, Run>;

/// Consecutive flows of a shard: all that follow a cursor up to the last of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub after: u64,
    pub flows: Vec<Flow>,
}

impl Run {
    /// Of which nothing was read yet.
    pub fn after(cursor: u64) -> Self {
        Run {
            after: cursor,
            flows: Vec::new(),
        }
    }

    /// The cursor to go on with.
    pub fn end(&self) -> u64 {
        self.flows.last().map_or(self.after, |flow| flow.cursor)
    }

    /// Those that follow `cursor`.
    fn beyond(&self, cursor: u64) -> &[Flow] {
        let known = self.flows.partition_point(|flow| flow.cursor <= cursor);
        &self.flows[known..]
    }
}

/// The reader of one shard, until the stage is quiet and nothing is left to be read.
pub async fn follow(stage: Arc<Stage>, shard: u16) {
    loop {
        let is_quiet = stage.is_quiet();
        sleep(Duration::from_millis(
            Random.random_range(1..PAGES_EVERY_MS),
        ))
        .await;
        let after = stage.read().get(&shard).map_or(BEGINNING, Run::end);
        let query = FlowQuery {
            shard: ShardId(shard),
            after,
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
            Some(Ok(page)) if page.is_empty() && is_quiet => return,
            Some(Ok(page)) => {
                let mut read = stage.read();
                let run = read.entry(shard).or_insert(Run::after(after));
                run.flows.extend(page);
            }
            Some(Err(FlowError::Forgotten { oldest })) if stage.may_lack_flows() => {
                let trace = &stage.trace;
                trace.note(format_args!("the reader of shard {shard} came too late"));
                stage.read().insert(shard, Run::after(oldest));
            }
            Some(Err(error @ FlowError::Forgotten { .. })) => {
                let trace = &stage.trace;
                return trace.violate(format_args!("the reader of shard {shard}: {error}"));
            }
            // Another node, or a later time.
            Some(Err(_)) | None => {}
        }
    }
}

/// Holds what was read of a shard against what is kept of its flows. All of them from the first, if they are known.
pub fn judge(read: &Read, shard: u16, kept: &Run) -> Result<Option<Vec<Flow>>, String> {
    let nothing = Run::after(BEGINNING);
    let read = read.get(&shard).unwrap_or(&nothing);
    let (ours, theirs) = (read.beyond(kept.after), kept.beyond(read.after));
    if !theirs.starts_with(ours) {
        let differs = ours.iter().zip(theirs).find(|(read, is)| read != is);
        return Err(format!(
            "shard {shard}: a reader read {} flows after {}, where {} after {} are kept; the first that differs is {differs:?}",
            read.flows.len(),
            read.after,
            kept.flows.len(),
            kept.after
        ));
    }
    if kept.after == BEGINNING {
        return Ok(Some(kept.flows.clone()));
    }
    let reaches = read.after == BEGINNING && read.end() >= kept.after;
    let whole = || [&read.flows[..], kept.beyond(read.end())].concat();
    Ok(reaches.then(whole))
}
