//! What is known of one group in memory: where its log begins, where Raft's view of it begins, where it ends, and its votes.
//!
//! Invariant: `LogState` is what the log *will* be once everything handed to the writer is written; operations reach the writer in the
//! order in which they changed the state, because both happen under `Group::order`.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::GroupId;
use crate::tail::Tail;

/// One group, shared by its callers and the writer.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    /// Held while an operation changes the state and enters the queue. The writer never takes it, so waiting for a full queue under it
    /// cannot block the writer.
    pub(crate) order: Mutex<()>,
    /// Held for moments only, by callers and writer.
    state: Mutex<LogState>,
    /// End of what the writer has put into a batch; only the writer moves it.
    pub(crate) written_end: AtomicU64,
}

/// The state of one log. Ends are exclusive.
pub(crate) struct LogState {
    /// The first flow physically present.
    pub(crate) first: Option<u64>,
    /// Last purged index and its marker.
    pub(crate) floor: Option<(u64, Bytes)>,
    /// Where the next append goes; `None` in a log that was never written: it may begin anywhere.
    pub(crate) end: Option<u64>,
    /// Indexes within `first..end` that a snapshot took the place of, ordered, as inclusive pairs.
    pub(crate) gaps: Vec<(u64, u64)>,
    pub(crate) vote: Option<Bytes>,
    /// How far the group had come when it last left this node.
    pub(crate) tombstone: Option<Bytes>,
    pub(crate) committed: Option<(u64, Bytes)>,
    /// Entries below were present when they were saved as committed: they are flows for good.
    pub(crate) vouched_end: u64,
    /// Everything below is durable.
    pub(crate) durable_end: u64,
    /// Counts truncations and resets, so that a late notice of durability is not taken for that of a newer entry.
    pub(crate) epoch: u64,
    pub(crate) tail: Tail,
}

impl Group {
    pub(crate) fn new(id: GroupId, state: LogState) -> Self {
        let written_end = AtomicU64::new(state.end.unwrap_or(0));
        Self {
            id,
            order: Mutex::new(()),
            state: Mutex::new(state),
            written_end,
        }
    }

    /// The state. A panic elsewhere while it was held cannot have left it half changed: every change is a few assignments.
    pub(crate) fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ordered(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogState {
    /// The first index above the floor, where Raft's view of the log begins.
    pub(crate) fn raft_first(&self) -> u64 {
        self.floor.as_ref().map_or(0, |(floor, _)| floor + 1)
    }

    /// The last entry above the floor.
    pub(crate) fn last(&self) -> Option<u64> {
        let end = self.end?;
        (end > self.raft_first() && self.first.is_some()).then(|| end - 1)
    }

    /// The run of entries physically present that begins at `from`, up to the next gap or the end.
    pub(crate) fn run_from(&self, from: u64) -> Option<Range<u64>> {
        let (first, end) = (self.first?, self.end?);
        if from < first
            || from >= end
            || self.gaps.iter().any(|gap| (gap.0..=gap.1).contains(&from))
        {
            return None;
        }
        let end = self
            .gaps
            .iter()
            .map(|gap| gap.0)
            .find(|gap| *gap > from)
            .unwrap_or(end);
        Some(from..end)
    }

    /// All runs of entries physically present, in order.
    pub(crate) fn runs(&self) -> Vec<Range<u64>> {
        let (Some(first), Some(end)) = (self.first, self.end) else {
            return Vec::new();
        };
        let mut runs = Vec::new();
        let mut from = first;
        for &(gap_first, gap_last) in &self.gaps {
            runs.push(from..gap_first);
            from = gap_last + 1;
        }
        runs.push(from..end);
        runs.retain(|run| !run.is_empty());
        runs
    }

    /// Notes that everything below `end` handed over in `epoch` is durable.
    pub(crate) fn on_durable(&mut self, epoch: u64, end: u64) {
        if epoch == self.epoch && end > self.durable_end {
            self.durable_end = end;
        }
    }
}
