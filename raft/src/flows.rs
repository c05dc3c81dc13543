//! Reading flows: what is committed of a shard in its log, record by record, void batches left out.
//!
//! A cursor is `index << 16 | position`: unique and growing in commit order, so a reader that keeps
//! the last one misses none and sees none twice.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchSender;
use qiang_engine::{Batch, OrderId, Place, PromotionId, Record, ShardId, UnixMs};
use qiang_storage::GroupLog;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::group::ShardGroup;
use crate::types::batch_in;
use crate::world::{blocking, watch};

/// Bytes of entries read at once.
const READ_BYTES: usize = 1 << 20;

/// Bits of a cursor that number a record within its entry.
const POSITION_BITS: u32 = 16;

const _: () = assert!(qiang_engine::limits::ENTRY_RECORDS_MAX < 1 << POSITION_BITS);

/// Which flows to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowQuery {
    /// Of which shard.
    pub shard: ShardId,
    /// After which cursor; 0 from the oldest.
    pub after: u64,
    /// How many at most.
    pub limit: usize,
    /// How long to wait for the first.
    pub wait: Duration,
    /// Only those that concern this promotion.
    pub promotion_id: Option<PromotionId>,
    /// Only those that concern this order.
    pub order_id: Option<OrderId>,
}

impl FlowQuery {
    fn wants(&self, record: &Record) -> bool {
        let promotion = self.promotion_id.as_ref();
        let order = self.order_id.as_ref();
        promotion.is_none_or(|id| record.concerns_promotion(id))
            && order.is_none_or(|id| record.concerns_order(id))
    }
}

/// One committed change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Its place in the shard's flows.
    pub cursor: u64,
    /// The shard.
    pub shard: ShardId,
    /// Index of its log entry.
    pub index: u64,
    /// What changed.
    pub record: Record,
}

/// Why flows could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum FlowError {
    /// What follows the cursor was deleted by retention.
    #[error(
        "the flows after this cursor were deleted by retention; the oldest kept begin at cursor {oldest}"
    )]
    Forgotten {
        /// The oldest cursor that can be read from.
        oldest: u64,
    },
    /// The group is not running.
    #[error("the shard is not running")]
    Unavailable,
    /// The log could not be read.
    #[error("{0}")]
    Storage(String),
}

/// Reads the flows of one shard.
#[derive(Clone)]
pub struct FlowReader {
    pub(crate) group: Arc<ShardGroup>,
    pub(crate) place: Place,
    pub(crate) log: GroupLog,
}

impl FlowReader {
    /// Up to `limit` flows after the cursor `after` (0: from the oldest) that `wanted` lets through.
    /// Blocks on the disk.
    pub fn read(
        &self,
        after: u64,
        limit: usize,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Vec<Flow>, FlowError> {
        let applied = *self.group.applied.borrow();
        let first = self.log.first_index().unwrap_or(0);
        let mut next = after >> POSITION_BITS;
        if after == 0 {
            next = first;
        } else if next + 1 < first {
            return Err(FlowError::Forgotten {
                oldest: first << POSITION_BITS,
            });
        }
        next = next.max(first);
        let shard = self.group.shard_at(self.place);
        let mut flows = Vec::new();
        while next <= applied && flows.len() < limit {
            let values = self
                .log
                .read(next, applied + 1, READ_BYTES)
                .map_err(|error| FlowError::Storage(error.to_string()))?;
            if values.is_empty() {
                break;
            }
            for value in &values {
                let storage =
                    |error: String| FlowError::Storage(format!("log entry {next}: {error}"));
                let batch = batch_in(next, value).map_err(|error| storage(error.to_string()))?;
                if let Some(bytes) = batch.filter(|_| !self.group.is_void(next)) {
                    let records = Batch::records_of(self.place, &bytes)
                        .map_err(|error| storage(error.to_string()))?;
                    let later = |flow: &Flow| flow.cursor > after && wanted(&flow.record);
                    flows.extend(flows_of(shard, next, records).filter(later));
                }
                next += 1;
                if flows.len() >= limit {
                    break;
                }
            }
        }
        flows.truncate(limit);
        Ok(flows)
    }

    /// Whether this log has every flow after the cursor `after` that it could have: none is missing
    /// because a snapshot took the place of what this node was not there for.
    pub fn is_whole_after(&self, after: u64) -> bool {
        let next = (after >> POSITION_BITS).max(1);
        let applied = *self.group.applied.borrow();
        let runs = self.log.runs();
        let last = runs.last().map_or(0, |run| run.start);
        next > applied || last <= next && !runs.is_empty()
    }

    /// Flows as asked for; waits for the first while there is none, unless `stop` says so.
    pub async fn query(
        &self,
        query: FlowQuery,
        stop: impl Fn() -> bool,
    ) -> Result<Vec<Flow>, FlowError> {
        let until = Instant::now() + query.wait;
        // Subscribed before the first look, so that no advance is missed.
        let mut advances = self.advances();
        let query = Arc::new(query);
        loop {
            advances.mark_seen();
            let (reader, asked) = (self.clone(), query.clone());
            let read = move || reader.read(asked.after, asked.limit, |record| asked.wants(record));
            let flows = blocking(read).await;
            let flows = flows.map_err(|error| FlowError::Storage(error.to_string()))??;
            let waiting = flows.is_empty() && !stop();
            if !waiting || !matches!(timeout_at(until, advances.next()).await, Ok(true)) {
                return Ok(flows);
            }
        }
    }

    /// Tells of every advance of the log.
    fn advances(&self) -> watch::Receiver<u64> {
        self.group.applied.subscribe()
    }
}

/// Index of the first entry of a log that was decided at or after `time`, by halving: times grow along the log.
pub fn index_at(log: &GroupLog, time: UnixMs, to: u64) -> Result<u64, FlowError> {
    let (mut low, mut high) = (log.first_index().unwrap_or(0), to);
    while low < high {
        let middle = low + (high - low) / 2;
        match time_from(log, middle, high)? {
            Some(at) if at < time => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// When the first batch in `from..to` was decided.
fn time_from(log: &GroupLog, from: u64, to: u64) -> Result<Option<UnixMs>, FlowError> {
    let mut index = from;
    while index < to {
        let storage = |error: String| FlowError::Storage(format!("log entry {index}: {error}"));
        let values = log
            .read(index, index + 1, 1)
            .map_err(|error| storage(error.to_string()))?;
        let Some(value) = values.first() else {
            return Ok(None);
        };
        if let Some(bytes) = batch_in(index, value).map_err(|error| storage(error.to_string()))? {
            let batch = Batch::decode(&bytes).map_err(|error| storage(error.to_string()))?;
            let mut records = batch.parts.iter().flat_map(|part| &part.records);
            if let Some(record) = records.next() {
                return Ok(Some(record.at()));
            }
        }
        index += 1;
    }
    Ok(None)
}

/// What one batch holds of a shard, as flows.
pub fn flows_of(shard: ShardId, index: u64, records: Vec<Record>) -> impl Iterator<Item = Flow> {
    records
        .into_iter()
        .zip(0..)
        .map(move |(record, position): (Record, u64)| Flow {
            cursor: index << POSITION_BITS | position,
            shard,
            index,
            record,
        })
}
