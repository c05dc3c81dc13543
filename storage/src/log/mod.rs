//! The log of one group as its owner sees it.
//!
//! Invariant: what a call returns from is visible to readers at once, and reaches the disk in the order of the calls. One task should
//! own a group's changes; readers may be many.

mod forget;

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::group::{Group, LogState};
use crate::operation::{Done, Edit, Operation};
use crate::reader::{self, RunError};
use crate::record::{Kind, gap_key, index_and_marker, meta_key};
use crate::store::Inner;
use crate::{GroupId, ReadError, WriteError};

/// The log of one group. Clones share it, and keep the store open.
#[derive(Clone)]
pub struct GroupLog {
    inner: Arc<Inner>,
    group: Arc<Group>,
}

impl GroupLog {
    pub(crate) fn new(inner: Arc<Inner>, group: Arc<Group>) -> Self {
        Self { inner, group }
    }

    /// Which group this is.
    pub fn group(&self) -> GroupId {
        self.group.id
    }

    /// Appends `values` from `first_index` on, which must follow the last entry (or the floor; a log never written may begin anywhere).
    /// They are readable on return; `done` is told when they are durable, or why they are not. Blocks while the writer's queue is
    /// full. After a failure the entries may or may not be found at the next open.
    pub fn append(&self, first_index: u64, values: Vec<Bytes>, done: Done) {
        if let Err(error) = self.writable() {
            return self.refuse(done, error);
        }
        if values.is_empty() {
            return self.submit_change(Vec::new(), None, Some(done));
        }
        let values = Arc::new(values);
        let order = self.group.ordered();
        let mut state = self.group.state();
        let expected = state.end.unwrap_or(first_index);
        if first_index != expected {
            drop(state);
            drop(order);
            let error = WriteError::NotConsecutive {
                group: self.group.id,
                expected,
                given: first_index,
            };
            return self.refuse(done, error);
        }
        let begins = state.first.is_none();
        state.first.get_or_insert(first_index);
        state.end = Some(first_index + values.len() as u64);
        let durable_end = state.durable_end;
        state.tail.push(first_index, values.clone(), durable_end);
        let epoch = state.epoch;
        drop(state);
        self.submit(Operation::Append {
            group: self.group.clone(),
            first: first_index,
            values,
            begins,
            epoch,
            done,
        });
    }

    /// Removes the entries after `last_kept` (`None`: all above the floor). Readers see it at once; it becomes durable in order with what
    /// follows it, so nothing later can be durable without it. Blocks while the writer's queue is full.
    ///
    /// # Errors
    /// If `last_kept` is below the floor, or the store takes no writes.
    pub fn truncate_after(&self, last_kept: impl Into<Option<u64>>) -> Result<(), WriteError> {
        let last_kept = last_kept.into();
        self.writable()?;
        let _order = self.group.ordered();
        let mut state = self.group.state();
        let kept_end = last_kept.map_or(state.raft_first(), |kept| kept + 1);
        if kept_end < state.raft_first() {
            return Err(self.across_floor("truncating after", last_kept.unwrap_or(0), &state));
        }
        let Some(edits) = truncate(&mut state, self.group.id, kept_end) else {
            return Ok(());
        };
        let end = (state.epoch, kept_end);
        drop(state);
        self.submit_change(edits, Some(end), None);
        Ok(())
    }

    /// Raises the floor that Raft sees to `through` and keeps `marker` with it. Flows stay readable below it. A floor beyond the last entry
    /// (a snapshot took the place of what was missing) leaves an empty log that goes on at `through + 1`; entries that were never
    /// saved as committed are removed then, for nobody will ever say that they were. A floor that is not higher changes nothing.
    /// Durability as with [`GroupLog::truncate_after`].
    ///
    /// # Errors
    /// If the store takes no writes.
    pub fn purge(&self, through: u64, marker: Bytes) -> Result<(), WriteError> {
        self.writable()?;
        let _order = self.group.ordered();
        let mut state = self.group.state();
        if state
            .floor
            .as_ref()
            .is_some_and(|(floor, _)| *floor >= through)
        {
            return Ok(());
        }
        let id = self.group.id;
        let mut edits = vec![Edit::Put {
            key: meta_key(id, Kind::Floor).to_vec(),
            payload: index_and_marker(through, &marker),
        }];
        let mut end = None;
        if state.end.is_none_or(|end| end <= through) {
            skip_to(&mut state, id, through + 1, &mut edits);
            end = Some((state.epoch, through + 1));
        }
        state.floor = Some((through, marker));
        let committed = state.committed.is_some();
        drop(state);
        self.submit_change(edits, end, None);
        if committed {
            self.mark_lazy();
        }
        Ok(())
    }

    /// The last purged index and its marker.
    pub fn floor(&self) -> Option<(u64, Bytes)> {
        self.group.state().floor.clone()
    }

    /// Whether nothing is held but perhaps a vote and a tombstone: no entry, no floor, no committed index. So is a log never
    /// written, and a cleared one.
    pub fn is_empty(&self) -> bool {
        let state = self.group.state();
        state.end.is_none() && state.committed.is_none()
    }

    /// The first flow physically present; retention moves it.
    pub fn first_index(&self) -> Option<u64> {
        self.group.state().first
    }

    /// The last entry above the floor.
    pub fn last_index(&self) -> Option<u64> {
        self.group.state().last()
    }

    /// The runs of consecutive entries physically present, ends exclusive. More than one if a snapshot was ever installed over missing
    /// entries.
    pub fn runs(&self) -> Vec<Range<u64>> {
        self.group.state().runs()
    }

    /// Entries from `from` to before `to_exclusive`, consecutive, until about `bytes_max` bytes, at least one if there is one at
    /// `from`; fewer than asked for says nothing about what follows. From memory if they are new, otherwise from the disk with
    /// their checksums verified.
    ///
    /// # Errors
    /// If an entry is damaged or missing where it should be: it is named, and never skipped.
    pub fn read(
        &self,
        from: u64,
        to_exclusive: u64,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        loop {
            let state = self.group.state();
            let Some(run) = state.run_from(from) else {
                return Ok(Vec::new());
            };
            let end = run.end.min(to_exclusive);
            if end <= from {
                return Ok(Vec::new());
            }
            let start = state.tail.start();
            if from >= start {
                return Ok(state.tail.read(from, end, bytes_max));
            }
            let epoch = state.epoch;
            drop(state);
            let database = &self.inner.core.database;
            match reader::read_run(database, self.group.id, from..end.min(start), bytes_max) {
                Ok(found) => return Ok(found),
                Err(RunError::Read(error)) => return Err(error),
                Err(RunError::Missing(index)) => {
                    let state = self.group.state();
                    // Retention or a truncation may have come in between: look again.
                    if state.epoch == epoch && state.run_from(from).is_some() {
                        return Err(reader::corrupt(
                            database,
                            self.group.id,
                            index,
                            "the entry is missing",
                        ));
                    }
                }
            }
        }
    }

    /// Stores Raft's vote, in order with appends; `done` is told when it is durable.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        if let Err(error) = self.writable() {
            return self.refuse(done, error);
        }
        let _order = self.group.ordered();
        let edit = Edit::Put {
            key: meta_key(self.group.id, Kind::Vote).to_vec(),
            payload: vote.to_vec(),
        };
        self.group.state().vote = Some(vote);
        self.submit_change(vec![edit], None, Some(done));
    }

    /// The vote as last saved.
    pub fn vote(&self) -> Option<Bytes> {
        self.group.state().vote.clone()
    }

    /// What [`GroupLog::clear`] was told to keep, when the group last left this node.
    pub fn tombstone(&self) -> Option<Bytes> {
        self.group.state().tombstone.clone()
    }

    /// Notes how far the log is committed. Cheap: it rides in a later batch, or is written without a sync within about 50 ms, never ahead
    /// of its entries. An index at which there is no entry yet is kept in memory only.
    pub fn save_committed(&self, index: u64, marker: Bytes) {
        let mut state = self.group.state();
        state.committed = Some((index, marker));
        let present = state.end.is_some_and(|end| index < end);
        if present {
            state.vouched_end = state.vouched_end.max(index + 1);
        }
        drop(state);
        if present && !self.inner.read_only {
            self.mark_lazy();
        }
    }

    /// The committed index as last saved.
    pub fn committed(&self) -> Option<(u64, Bytes)> {
        self.group.state().committed.clone()
    }

    fn across_floor(&self, action: &'static str, index: u64, state: &LogState) -> WriteError {
        let floor = state
            .floor
            .as_ref()
            .map_or_else(|| "none".to_owned(), |(floor, _)| floor.to_string());
        WriteError::AcrossFloor {
            group: self.group.id,
            action,
            index,
            floor,
        }
    }

    fn writable(&self) -> Result<(), WriteError> {
        self.inner.core.check_fault()?;
        if self.inner.read_only {
            return Err(WriteError::ReadOnly);
        }
        Ok(())
    }

    /// Tells an operation at once that it was not taken.
    fn refuse(&self, done: Done, error: WriteError) {
        if self.inner.is_over() {
            return;
        }
        done(Err(error));
    }

    fn submit_change(&self, edits: Vec<Edit>, end: Option<(u64, u64)>, done: Option<Done>) {
        self.submit(Operation::Change {
            group: self.group.clone(),
            edits,
            end,
            done,
        });
    }

    /// Hands an operation to the writer; an operation it cannot take is told so.
    fn submit(&self, operation: Operation) {
        if self.inner.is_over() {
            return;
        }
        let queue = self
            .inner
            .queue
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let refused = match queue.as_ref() {
            Some(queue) => queue.send(operation).err().map(|refused| refused.0),
            None => Some(operation),
        };
        drop(queue);
        if let Some(operation) = refused {
            operation.finish(Err(self.writable().err().unwrap_or(WriteError::Closed)));
        }
        self.inner.on_queued();
    }

    /// Tells the writer that the committed index waits, without a wake-up unless it sleeps for good.
    fn mark_lazy(&self) {
        let core = &self.inner.core;
        core.lazy.fetch_or(1 << self.group.id.0, Ordering::SeqCst);
        if core.asleep.load(Ordering::SeqCst)
            && let Some(queue) = self
                .inner
                .queue
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
        {
            // A full queue wakes the writer as well.
            let _ = queue.try_send(Operation::Wake);
        }
        self.inner.on_queued();
    }
}

/// Ends the log at `kept_end` and says what that changes on disk; `None` if it goes no further.
fn truncate(state: &mut LogState, id: GroupId, kept_end: u64) -> Option<Vec<Edit>> {
    let end = state.end.filter(|end| *end > kept_end)?;
    let mut edits = vec![Edit::DeleteEntries {
        from: kept_end,
        to: end,
    }];
    cut(state, kept_end);
    if state.first.is_some_and(|first| first >= kept_end) {
        state.first = None;
        edits.push(match state.floor {
            Some(_) => put_first(id, kept_end),
            None => Edit::Delete {
                key: meta_key(id, Kind::First).to_vec(),
            },
        });
    }
    if state.first.is_none() && state.floor.is_none() {
        state.end = None;
    }
    Some(edits)
}

/// Ends the log at `end`.
fn cut(state: &mut LogState, end: u64) {
    state.end = Some(end);
    state.tail.truncate(end);
    state.durable_end = state.durable_end.min(end);
    state.vouched_end = state.vouched_end.min(end);
    state.epoch += 1;
}

/// Moves the end of the log forward to `end`, over indexes that will never be written, and removes what is not known to be committed.
fn skip_to(state: &mut LogState, id: GroupId, end: u64, edits: &mut Vec<Edit>) {
    let kept_end = state.vouched_end.max(state.raft_first());
    if let Some(old_end) = state.end.filter(|old_end| *old_end > kept_end) {
        edits.push(Edit::DeleteEntries {
            from: kept_end,
            to: old_end,
        });
    }
    if state.first.is_none_or(|first| first >= kept_end) {
        state.first = None;
        edits.push(put_first(id, end));
    }
    let gap_first = state.end.map_or(kept_end, |old_end| old_end.min(kept_end));
    if state.first.is_some() {
        // A gap that reaches the end already grows instead.
        let gap_first = state
            .gaps
            .pop_if(|gap| gap.1 + 1 == gap_first)
            .map_or(gap_first, |gap| gap.0);
        state.gaps.push((gap_first, end - 1));
        edits.push(Edit::Put {
            key: gap_key(id, gap_first).to_vec(),
            payload: (end - 1).to_be_bytes().to_vec(),
        });
    }
    state.end = Some(end);
    // What was kept may still be on its way to the disk: the tail goes on holding it, and it counts as
    // durable only when the writer says so.
    state.tail.truncate(kept_end);
    state.tail.skip_to(end);
    state.vouched_end = end;
    state.epoch += 1;
}

/// Says on disk where the flows begin. Once a log has a floor this is never taken back, only moved up,
/// at most to where the next append goes: entries below do not count even if a table file still
/// holds them.
fn put_first(id: GroupId, first: u64) -> Edit {
    Edit::Put {
        key: meta_key(id, Kind::First).to_vec(),
        payload: first.to_be_bytes().to_vec(),
    }
}
