//! Reading flows: what is committed of a shard in its log, record by record, void batches left out.
//!
//! A cursor is `index << 16 | position`: unique and growing in commit order, so a reader that keeps
//! the last one misses none and sees none twice. The last record of an entry has the greatest position there is: so who has read
//! all of an entry is told from who has read a part of it, also when the entry is gone.
//!
//! A node that was away for long has a gap in its log, where a snapshot took the place of entries. Others have those, each with
//! gaps of its own, so one log is read as far as it goes, and then another's.

mod across;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchSender;
use qiang_engine::{Batch, OrderId, Place, PromotionId, Record, ShardId, UnixMs};
use qiang_storage::GroupLog;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::group::ShardGroup;
use crate::peer::FRAME_BYTES_MAX;
use crate::types::batch_in;
use crate::world::{blocking, room, watch};

/// Bytes of entries read at once.
const READ_BYTES: usize = 1 << 20;

/// Bytes of entries after which their flows are given out, though they are fewer than asked for: they are in memory at once, and go
/// from node to node in one message, on the lane of the heartbeats, where a reader may wait without its connection falling silent.
const PAGE_BYTES: usize = 1 << 20;

const _: () = assert!(PAGE_BYTES < FRAME_BYTES_MAX / 4);

/// Bits of a cursor that number a record within its entry.
const POSITION_BITS: u32 = 16;

/// The position of the last record of an entry.
const LAST: u64 = (1 << POSITION_BITS) - 1;

const _: () = assert!(qiang_engine::limits::ENTRY_RECORDS_MAX as u64 <= LAST);

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

/// The cursor of the end of what lies before entry `index`, which is not the first of all.
fn before(index: u64) -> u64 {
    (index << POSITION_BITS) - 1
}

/// The first entry that may hold flows: the one before it says who is in the group.
const FIRST_ENTRY: u64 = 1;

/// The entry with which a reader at `cursor` goes on: the one after, if it has all of its own.
fn next_entry(cursor: u64) -> u64 {
    (cursor.saturating_add(1) >> POSITION_BITS).max(FIRST_ENTRY)
}

/// How many records of entry `index` a reader at `cursor`, who is to go on with it, has read.
fn read_of(index: u64, cursor: u64) -> usize {
    if index == cursor >> POSITION_BITS {
        usize::try_from((cursor & LAST) + 1).expect("few bits")
    } else {
        0
    }
}

/// What one log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// As many flows as were asked for, or as may be given out at once, or all up to the end or to a gap.
    pub flows: Vec<Flow>,
    /// The first entry that is lacking here, if the flows end at a gap.
    pub gap: Option<u64>,
}

/// Why flows could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum FlowError {
    /// What follows the cursor was deleted by retention.
    #[error(
        "the flows after this cursor were deleted by retention; all that is left follows the cursor {oldest}"
    )]
    Forgotten {
        /// The cursor that all that is left follows.
        oldest: u64,
    },
    /// The group is not running.
    #[error("the shard is not running")]
    Unavailable,
    /// The log could not be read.
    #[error("{0}")]
    Storage(String),
    /// What follows the cursor may be left on a node that cannot be asked.
    #[error("what follows this cursor may be left on node {node}, which cannot be asked now")]
    Unasked {
        /// The node.
        node: u64,
        /// The cursor that all that is left elsewhere follows, if that is known.
        oldest: Option<u64>,
    },
}

impl FlowError {
    /// What is to be told where neither of two logs had what was asked for. That it was deleted is told only where nobody else
    /// may have it, and then from where on either has flows.
    fn or(self, other: FlowError) -> FlowError {
        match (self, other) {
            (Self::Unavailable, known) | (known, Self::Unavailable) => known,
            (Self::Forgotten { oldest: one }, Self::Forgotten { oldest: other }) => {
                let oldest = one.min(other);
                Self::Forgotten { oldest }
            }
            (
                Self::Forgotten { oldest },
                Self::Unasked {
                    node,
                    oldest: known,
                },
            )
            | (
                Self::Unasked {
                    node,
                    oldest: known,
                },
                Self::Forgotten { oldest },
            ) => {
                let oldest = known.map_or(oldest, |known| known.min(oldest));
                let oldest = Some(oldest);
                Self::Unasked { node, oldest }
            }
            (Self::Forgotten { .. }, unknown) => unknown,
            (one, _) => one,
        }
    }
}

/// Reads the flows of one shard from one log.
#[derive(Clone)]
pub struct FlowReader {
    pub(crate) group: Arc<ShardGroup>,
    pub(crate) place: Place,
    pub(crate) log: GroupLog,
}

impl FlowReader {
    /// Up to `limit` flows after the cursor `after` that `wanted` lets through. Blocks on the disk.
    pub fn read(
        &self,
        after: u64,
        limit: usize,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Page, FlowError> {
        let applied = *self.group.applied.borrow();
        let mut next = self.start(after)?;
        let shard = self.group.shard_at(self.place);
        let mut flows = Vec::new();
        let mut gap = None;
        let (read_bytes, page_bytes) = (room(READ_BYTES), room(PAGE_BYTES));
        let mut bytes = 0;
        while next <= applied && flows.len() < limit && bytes < page_bytes {
            let values = self
                .log
                .read(next, applied + 1, read_bytes)
                .map_err(|error| FlowError::Storage(error.to_string()))?;
            if values.is_empty() {
                gap = Some(next);
                break;
            }
            for value in &values {
                let storage =
                    |error: String| FlowError::Storage(format!("log entry {next}: {error}"));
                let batch = batch_in(next, value).map_err(|error| storage(error.to_string()))?;
                if let Some(batch) = batch.filter(|_| !self.group.is_void(next)) {
                    let records = Batch::records_of(self.place, &batch)
                        .map_err(|error| storage(error.to_string()))?;
                    let known = flows.len();
                    let later = flows_of(shard, next, records).skip(read_of(next, after));
                    flows.extend(later.filter(|flow| wanted(&flow.record)));
                    bytes += if flows.len() > known { batch.len() } else { 0 };
                }
                next += 1;
                if flows.len() >= limit || bytes >= page_bytes {
                    break;
                }
            }
        }
        flows.truncate(limit);
        Ok(Page { flows, gap })
    }

    /// The entry with which reading after the cursor `after` begins.
    fn start(&self, after: u64) -> Result<u64, FlowError> {
        let applied = *self.group.applied.borrow();
        let first = self.log.first_index().unwrap_or(applied + 1);
        let next = next_entry(after);
        if next < first {
            return Err(FlowError::Forgotten {
                oldest: before(first),
            });
        }
        Ok(next)
    }

    /// Whether this log has the entry with which reading after the cursor `after` begins. A log that does not go so far yet has
    /// not; one of which all is forgotten has nothing, and knows that there is nothing.
    pub fn goes_on_after(&self, after: u64) -> Result<bool, FlowError> {
        let next = self.start(after)?;
        let applied = *self.group.applied.borrow();
        let is_here = |run: &Range<u64>| run.contains(&next);
        let is_empty = self.log.first_index().is_none();
        Ok(next <= applied && self.log.runs().iter().any(is_here)
            || is_empty && next == applied + 1)
    }

    /// Whether this log has the entry with which reading after the cursor `after` goes on, applied or not.
    pub fn may_have_after(&self, after: u64) -> bool {
        let next = next_entry(after);
        self.log.runs().iter().any(|run| run.contains(&next))
    }

    /// Flows as asked for; waits for the first while there is none, unless `stop` says so.
    pub async fn query(
        &self,
        query: &FlowQuery,
        stop: impl Fn() -> bool,
    ) -> Result<Page, FlowError> {
        let until = Instant::now() + query.wait;
        // Subscribed before the first look, so that no advance is missed.
        let mut advances = self.advances();
        let query = Arc::new(query.clone());
        loop {
            advances.mark_seen();
            let (reader, asked) = (self.clone(), query.clone());
            let read = move || reader.read(asked.after, asked.limit, |record| asked.wants(record));
            let page = blocking(read).await;
            let page = page.map_err(|error| FlowError::Storage(error.to_string()))??;
            let waiting = page.flows.is_empty() && page.gap.is_none() && !stop();
            if !waiting || !matches!(timeout_at(until, advances.next()).await, Ok(true)) {
                return Ok(page);
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
    let last = records.len().saturating_sub(1) as u64;
    records.into_iter().zip(0..).map(move |(record, position)| {
        let position = if position == last { LAST } else { position };
        Flow {
            cursor: index << POSITION_BITS | position,
            shard,
            index,
            record,
        }
    })
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
