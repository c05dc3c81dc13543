//! Puts operations into batches and writes them: what the writer's thread and a simulation have in common.
//!
//! Invariants: a group's operations are written in the order in which they were handed over; a committed index is never written ahead
//! of its entries; after the first failure nothing more is written.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::WriteError;
use crate::database::{Batch, Family};
use crate::group::Group;
use crate::operation::{Edit, Operation};
use crate::record::{Kind, index_and_marker, log_key, meta_key, seal_into};
use crate::store::Core;

/// Operations in one batch; bounds the callbacks that follow one sync.
const BATCH_OPERATIONS_MAX: usize = 4096;

pub(crate) struct Batcher {
    core: Arc<Core>,
    sync: bool,
    batch_bytes_max: usize,
    /// Scratch for one stored value.
    sealed: Vec<u8>,
    /// Whether the write before was not synced: at most one in a row, so that a damaged file can be told from one cut by a crash.
    unsynced: bool,
}

/// A batch being built.
pub(crate) struct Gathered {
    batch: Batch,
    pub(crate) content: Content,
}

/// What a batch came to, for the statistics.
#[derive(Default, Clone, Copy)]
pub(crate) struct Content {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Whether somebody waits for it to be durable.
    pub(crate) awaited: bool,
}

/// How a batch was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// There was nothing in it.
    Nothing,
    /// Nobody waits for it, or the store does not sync.
    Unsynced,
    Synced,
}

impl Batcher {
    pub(crate) fn new(core: Arc<Core>, sync: bool, batch_bytes_max: usize) -> Self {
        Self {
            core,
            sync,
            batch_bytes_max,
            sealed: Vec::new(),
            unsynced: false,
        }
    }

    /// Puts `first` and what `next` gives after it into a batch and into `taken`, until there is nothing more or the batch is full.
    pub(crate) fn gather(
        &mut self,
        taken: &mut Vec<Operation>,
        first: Option<Operation>,
        mut next: impl FnMut() -> Option<Operation>,
    ) -> Gathered {
        let core = self.core.clone();
        let mut gathered = Gathered {
            batch: core.database.batch(),
            content: Content::default(),
        };
        let meta = core.database.meta();
        let mut waiting = first;
        while let Some(operation) = waiting {
            self.add(&mut gathered, meta, &operation);
            taken.push(operation);
            let full = gathered.batch.size_in_bytes() >= self.batch_bytes_max
                || taken.len() >= BATCH_OPERATIONS_MAX;
            waiting = if full { None } else { next() };
        }
        gathered
    }

    fn add(&mut self, gathered: &mut Gathered, meta: Family<'_>, operation: &Operation) {
        let Gathered { batch, content } = gathered;
        match operation {
            Operation::Append {
                group,
                first,
                values,
                begins,
                ..
            } => {
                content.awaited = true;
                if *begins {
                    let key = meta_key(group.id, Kind::First);
                    self.put(batch, meta, &key, &first.to_be_bytes());
                }
                let core = self.core.clone();
                let log = core.database.log(group.id);
                let mut index = *first;
                for value in values.iter() {
                    self.put(batch, log, &log_key(group.id, index), value);
                    content.bytes += value.len() as u64;
                    index += 1;
                }
                content.entries += index - first;
                group.written_end.store(index, Ordering::Relaxed);
            }
            Operation::Change {
                group, edits, end, ..
            } => {
                content.awaited = true;
                for edit in edits {
                    self.add_edit(batch, meta, group, edit);
                }
                if let Some((_, end)) = end {
                    group.written_end.store(*end, Ordering::Relaxed);
                }
            }
            Operation::Wake => {}
        }
    }

    fn add_edit(&mut self, batch: &mut Batch, meta: Family<'_>, group: &Group, edit: &Edit) {
        match edit {
            Edit::Put { key, payload } => self.put(batch, meta, key, payload),
            Edit::Delete { key } => batch.delete(meta, key),
            Edit::DeleteEntries { from, to } => batch.delete_range(
                self.core.database.log(group.id),
                &log_key(group.id, *from),
                &log_key(group.id, *to),
            ),
        }
    }

    /// Adds the committed indexes saved since the last time, but none that is ahead of the entries written: those wait.
    pub(crate) fn add_lazy(&mut self, gathered: &mut Gathered) {
        let core = self.core.clone();
        let mut saved = core.lazy.swap(0, Ordering::SeqCst);
        if core.fault.get().is_some() {
            return;
        }
        while saved != 0 {
            let number = saved.trailing_zeros();
            saved &= saved - 1;
            let group = core.groups[number as usize]
                .get()
                .expect("only a loaded group saves");
            let committed = group.state().committed.clone();
            let Some((index, marker)) = committed else {
                continue;
            };
            if index < group.written_end.load(Ordering::Relaxed) {
                let key = meta_key(group.id, Kind::Committed);
                let payload = index_and_marker(index, &marker);
                self.put(&mut gathered.batch, core.database.meta(), &key, &payload);
            } else {
                core.lazy.fetch_or(1 << number, Ordering::SeqCst);
            }
        }
    }

    fn put(&mut self, batch: &mut Batch, family: Family<'_>, key: &[u8], payload: &[u8]) {
        seal_into(&mut self.sealed, key, payload);
        batch.put(family, key, &self.sealed);
    }

    /// Writes the batch, with a sync if it needs one.
    pub(crate) fn write(&mut self, gathered: Gathered) -> Result<Wrote, WriteError> {
        self.core.check_fault()?;
        let Gathered { batch, content } = gathered;
        if batch.is_empty() {
            return Ok(Wrote::Nothing);
        }
        let sync = self.sync && (content.awaited || self.unsynced);
        self.unsynced = !sync;
        let database = &self.core.database;
        database
            .write(batch, sync)
            .map_err(|error| self.core.on_failure("writing", &error))?;
        Ok(if sync { Wrote::Synced } else { Wrote::Unsynced })
    }
}
