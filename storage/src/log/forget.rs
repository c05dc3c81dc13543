//! What leaves a log for good: flows too old to be kept, what a snapshot takes the place of, and the log of a group that this node holds
//! no more.
//!
//! Invariant: that something is gone is durable before its space is given back, and a crash in between costs only space.

use bytes::Bytes;
use crossbeam::channel::{self, Receiver};

use super::{GroupLog, put_first, truncate};
use crate::group::LogState;
use crate::operation::{Done, Edit};
use crate::record::{Kind, gap_key, meta_key};
use crate::{GroupId, WriteError};

impl GroupLog {
    /// Retention: forgets the flows below `index`. They are gone for every reader at once; table files
    /// that hold nothing else are deleted, and what lies in a file with later flows goes with that
    /// file. Nothing is written but the new first index: a deletion of every entry would have RocksDB
    /// rewrite the group's log. Blocks until it is durable: call it from a background thread.
    ///
    /// # Errors
    /// If `index` is above the floor (Raft may still need what is there), or the write fails.
    pub fn forget_below(&self, index: u64) -> Result<(), WriteError> {
        self.writable()?;
        let id = self.group.id;
        let (done, durable) = awaited();
        {
            let _order = self.group.ordered();
            let mut state = self.group.state();
            if index > state.raft_first() {
                return Err(self.across_floor("forgetting below", index, &state));
            }
            if state.first.is_none_or(|first| first >= index) {
                return Ok(());
            }
            let edits = forget(&mut state, id, index);
            drop(state);
            self.submit_change(edits, None, Some(done));
        }
        self.wait(&durable)?;
        if let Err(error) = self.inner.core.database.drop_files_below(id, index) {
            // They are forgotten already; their space comes back with the next call.
            tracing::warn!(group = id.0, %error, "table files of forgotten flows could not be dropped at once");
        }
        Ok(())
    }

    /// A snapshot that reaches up to `through` is about to be kept: if the log does not reach as far, removes the entries that were
    /// never saved as committed, for others may have been committed in their places. Blocks until that is durable, and every
    /// truncation before it: call it from a background thread.
    ///
    /// # Errors
    /// If the store takes no writes, or this write fails.
    pub fn make_way(&self, through: u64) -> Result<(), WriteError> {
        self.writable()?;
        let (done, durable) = awaited();
        {
            let _order = self.group.ordered();
            let mut state = self.group.state();
            if state.end.is_none_or(|end| end > through) {
                return Ok(());
            }
            let kept_end = state.vouched_end.max(state.raft_first());
            // Also where a truncation has left nothing: its own write may still be on its way.
            let edits = truncate(&mut state, self.group.id, kept_end).unwrap_or_else(|| {
                vec![Edit::DeleteEntries {
                    from: kept_end,
                    to: through + 1,
                }]
            });
            let end = (state.epoch, kept_end);
            drop(state);
            self.submit_change(edits, Some(end), Some(done));
        }
        self.wait(&durable)
    }

    /// A snapshot that reaches up to `through` is kept now: if the log does not reach as far, has it go on from there, as
    /// [`GroupLog::purge`] does. Blocks until that is durable: call it from a background thread.
    ///
    /// # Errors
    /// If the store takes no writes, or this write fails.
    pub fn go_on_after(&self, through: u64, marker: Bytes) -> Result<(), WriteError> {
        let reaches = self.group.state().end.is_some_and(|end| end > through);
        if reaches {
            return Ok(());
        }
        self.purge(through, marker)?;
        let (done, durable) = awaited();
        self.submit_change(Vec::new(), None, Some(done));
        self.wait(&durable)
    }

    /// Forgets the whole group, which has left this node for good: entries, floor, gaps and committed index. The log is then as if
    /// it had never been written, and may begin anywhere. Only the vote is kept, and `tombstone` beside it, or, without one, that of
    /// before: the group may come back, and whom this node voted for, and how far the group had come, must not be forgotten. It is
    /// one write: after a crash the group is as it was, or cleared. Blocks until it is durable and the space is given back, and
    /// meanwhile holds up every other change of the group: call it from a background thread, when the group's owner has stopped.
    ///
    /// # Errors
    /// If the store takes no writes, or this write fails.
    pub fn clear(&self, tombstone: Option<Bytes>) -> Result<(), WriteError> {
        self.writable()?;
        let id = self.group.id;
        let database = &self.inner.core.database;
        // Kept until the files are dropped: an entry appended now could already be in one of them.
        let order = self.group.ordered();
        let mut state = self.group.state();
        let edits = clear(&mut state, id, tombstone);
        let end = (state.epoch, 0);
        drop(state);
        // Before the write, see there.
        let unmerged = database.hold_merges(id);
        let (done, durable) = awaited();
        self.submit_change(edits, Some(end), Some(done));
        self.wait(&durable)?;
        if let Err(error) = unmerged.and_then(|unmerged| unmerged.drop_files()) {
            tracing::warn!(group = id.0, %error, "table files of a cleared group are merged away instead of dropped");
        }
        drop(order);
        database.merge(id);
        Ok(())
    }
}

impl GroupLog {
    /// Waits for a callback. A simulation, which has no writer's thread, writes and syncs everything that waits.
    fn wait(&self, durable: &Receiver<Result<(), WriteError>>) -> Result<(), WriteError> {
        self.inner.run_simulation();
        durable.recv().map_err(|_| WriteError::Closed)?
    }
}

/// A callback, and where its result arrives.
fn awaited() -> (Done, Receiver<Result<(), WriteError>>) {
    let (sender, receiver) = channel::bounded(1);
    let done = Box::new(move |result| {
        // Nobody listens any more only if the caller's thread is gone.
        let _ = sender.send(result);
    });
    (done, receiver)
}

/// Removes the flows below `index` from the state and says what that changes on disk.
fn forget(state: &mut LogState, id: GroupId, index: u64) -> Vec<Edit> {
    let mut edits = Vec::new();
    for gap in state.gaps.extract_if(.., |gap| gap.0 <= index) {
        edits.push(Edit::Delete {
            key: gap_key(id, gap.0).to_vec(),
        });
        // What follows a gap becomes the first flow, when nothing before the gap is left.
        state.first = Some(index.max(gap.1 + 1));
    }
    let first = state.first.map_or(index, |first| first.max(index));
    state.first = Some(first).filter(|first| state.end.is_some_and(|end| *first < end));
    edits.push(put_first(id, first));
    edits
}

/// Empties the state but for the vote and the tombstone and says what that changes on disk.
fn clear(state: &mut LogState, id: GroupId, tombstone: Option<Bytes>) -> Vec<Edit> {
    // From the very beginning: below the first flow there may be forgotten entries that no first index hides any more.
    let mut edits = vec![Edit::DeleteEntries {
        from: 0,
        to: u64::MAX,
    }];
    for kind in [Kind::First, Kind::Floor, Kind::Committed] {
        edits.push(Edit::Delete {
            key: meta_key(id, kind).to_vec(),
        });
    }
    for (first, _) in state.gaps.drain(..) {
        edits.push(Edit::Delete {
            key: gap_key(id, first).to_vec(),
        });
    }
    if let Some(tombstone) = tombstone {
        edits.push(Edit::Put {
            key: meta_key(id, Kind::Tombstone).to_vec(),
            payload: tombstone.to_vec(),
        });
        state.tombstone = Some(tombstone);
    }
    state.first = None;
    state.floor = None;
    state.end = None;
    state.committed = None;
    state.vouched_end = 0;
    state.durable_end = 0;
    state.tail.truncate(0);
    state.epoch += 1;
    edits
}
