//! The writer thread: everything that changes the disk, of every group, in one order.
//!
//! It takes what waits in the queue into one batch, writes and syncs it once, and calls back in order. Invariants: a callback says `Ok`
//! only after the sync of its batch; a group's operations are written in the order in which they were handed over; after the first
//! failure nothing more is written, and every waiting and later operation is told why.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use rocksdb::{ColumnFamily, WriteBatch};

use crate::database::write_options;
use crate::group::Group;
use crate::record::{Kind, index_and_marker, log_key, meta_key, seal_into};
use crate::store::Core;
use crate::tail::Values;
use crate::{GroupId, WriteError};

/// Called once, on the writer's thread, when an operation is durable or has failed; on the caller's thread if it is refused at once. It
/// must be short and must not wait for the store: everybody's acknowledgements wait behind it.
pub type Done = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

/// Committed indexes reach the disk at most this often, and at least this often while there are new ones: they spare a restart some
/// asking, so they are worth bytes now and then, but no sync of their own.
const LAZY_WRITE_INTERVAL: Duration = Duration::from_millis(50);
/// Operations in one batch; bounds the callbacks that follow one sync.
const BATCH_OPERATIONS_MAX: usize = 4096;
/// First allocation of a batch, in bytes: enough for most.
const BATCH_CAPACITY_BYTES: usize = 16 << 10;

/// One change of the rare kinds.
pub(crate) enum Edit {
    /// Stores a piece of state.
    Put { key: Vec<u8>, payload: Vec<u8> },
    /// Removes a piece of state.
    Delete { key: Vec<u8> },
    /// Removes the entries `from..to`.
    DeleteEntries { from: u64, to: u64 },
}

/// What a caller hands over.
pub(crate) enum Operation {
    Append {
        group: Arc<Group>,
        first: u64,
        values: Values,
        /// Whether the first of them is now the first flow present.
        begins: bool,
        epoch: u64,
        done: Done,
    },
    Change {
        group: Arc<Group>,
        edits: Vec<Edit>,
        /// `(epoch, end)` of a log that was cut or moved.
        end: Option<(u64, u64)>,
        done: Option<Done>,
    },
    /// There are committed indexes to write, and the writer may be asleep.
    Wake,
}

impl Operation {
    /// Tells whoever waits for it.
    pub(crate) fn finish(self, result: Result<(), WriteError>) {
        match self {
            Self::Append {
                group,
                first,
                values,
                epoch,
                done,
                ..
            } => {
                if result.is_ok() {
                    group.state().on_durable(epoch, first + values.len() as u64);
                }
                done(result);
            }
            Self::Change {
                group, end, done, ..
            } => {
                if let (Ok(()), Some((epoch, end))) = (&result, end) {
                    group.state().on_durable(epoch, end);
                }
                if let Some(done) = done {
                    done(result);
                }
            }
            Self::Wake => {}
        }
    }
}

pub(crate) struct Writer {
    core: Arc<Core>,
    queue: Receiver<Operation>,
    sync: bool,
    batch_bytes_max: usize,
    /// The operations of the batch being built; kept between batches for its memory.
    taken: Vec<Operation>,
    /// Scratch for one stored value.
    sealed: Vec<u8>,
    last_lazy_write: Instant,
    /// Whether the write before was not synced: at most one in a row, so that a damaged file can be told from one cut by a crash.
    unsynced: bool,
}

/// What a batch came to, for the statistics.
#[derive(Default)]
struct Content {
    entries: u64,
    bytes: u64,
    /// Whether somebody waits for it to be durable.
    awaited: bool,
}

impl Writer {
    pub(crate) fn new(
        core: Arc<Core>,
        queue: Receiver<Operation>,
        sync: bool,
        batch_bytes_max: usize,
    ) -> Self {
        Self {
            core,
            queue,
            sync,
            batch_bytes_max,
            taken: Vec::new(),
            sealed: Vec::new(),
            last_lazy_write: Instant::now(),
            unsynced: false,
        }
    }

    /// Runs until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        let _guard = PanicGuard(self.core.clone());
        while let Some(operation) = self.next() {
            self.run_batch(Some(operation));
        }
        self.run_batch(None);
    }

    /// Waits for an operation; while waiting, writes the committed indexes that are due.
    fn next(&mut self) -> Option<Operation> {
        loop {
            // While there was work a moment ago there will be commits in a moment: nobody needs to wake this thread for them.
            match self.queue.recv_timeout(LAZY_WRITE_INTERVAL) {
                Ok(operation) => return Some(operation),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.core.lazy.load(Ordering::SeqCst) != 0 {
                self.run_batch(None);
                continue;
            }
            // Told to sleep first and looked at again after: whoever saves a committed index does it the other way round.
            self.core.asleep.store(true, Ordering::SeqCst);
            let received = match self.core.lazy.load(Ordering::SeqCst) {
                0 => Some(self.queue.recv().ok()),
                _ => None,
            };
            self.core.asleep.store(false, Ordering::SeqCst);
            if let Some(operation) = received {
                return operation;
            }
        }
    }

    /// Writes `operation`, everything else that waits, and the committed indexes if they are due; then calls back.
    fn run_batch(&mut self, operation: Option<Operation>) {
        let mut batch = WriteBatch::with_capacity_bytes(BATCH_CAPACITY_BYTES);
        let mut content = Content::default();
        let core = self.core.clone();
        let meta = core.database.meta();
        let mut next = operation;
        while let Some(operation) = next {
            self.add(&mut batch, meta, &operation, &mut content);
            self.taken.push(operation);
            let full = batch.size_in_bytes() >= self.batch_bytes_max
                || self.taken.len() >= BATCH_OPERATIONS_MAX;
            next = if full {
                None
            } else {
                self.queue.try_recv().ok()
            };
        }
        if self.taken.is_empty() || self.last_lazy_write.elapsed() >= LAZY_WRITE_INTERVAL {
            self.add_lazy(&mut batch, meta);
        }
        let result = self.write(batch, &content);
        for operation in self.taken.drain(..) {
            operation.finish(result.clone());
        }
    }

    fn write(&mut self, batch: WriteBatch, content: &Content) -> Result<(), WriteError> {
        if let Some(reason) = self.core.fault.get() {
            return Err(WriteError::Faulted {
                reason: reason.clone(),
            });
        }
        if batch.is_empty() {
            return Ok(());
        }
        let sync = self.sync && (content.awaited || self.unsynced);
        self.unsynced = !sync;
        let begun = Instant::now();
        self.core
            .database
            .db()
            .write_opt(batch, &write_options(sync))
            .map_err(|error| {
                let reason = format!(
                    "writing {} failed: {error}",
                    self.core.database.path().display()
                );
                tracing::error!(reason, "the store takes no more writes");
                WriteError::Faulted {
                    reason: self.core.fault.get_or_init(|| reason.into()).clone(),
                }
            })?;
        if content.awaited {
            self.core
                .stats
                .on_sync(begun.elapsed(), content.entries, content.bytes);
        }
        Ok(())
    }

    fn add(
        &mut self,
        batch: &mut WriteBatch,
        meta: &ColumnFamily,
        operation: &Operation,
        content: &mut Content,
    ) {
        let core = self.core.clone();
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
                    self.put(
                        batch,
                        meta,
                        &meta_key(group.id, Kind::First),
                        &first.to_be_bytes(),
                    );
                }
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
                    match edit {
                        Edit::Put { key, payload } => self.put(batch, meta, key, payload),
                        Edit::Delete { key } => batch.delete_cf(meta, key),
                        Edit::DeleteEntries { from, to } => {
                            batch.delete_range_cf(
                                core.database.log(group.id),
                                log_key(group.id, *from),
                                log_key(group.id, *to),
                            );
                        }
                    }
                }
                if let Some((_, end)) = end {
                    group.written_end.store(*end, Ordering::Relaxed);
                }
            }
            Operation::Wake => {}
        }
    }

    /// Adds the committed indexes saved since the last time, but none that is ahead of the entries written: those wait.
    fn add_lazy(&mut self, batch: &mut WriteBatch, meta: &ColumnFamily) {
        self.last_lazy_write = Instant::now();
        let mut saved = self.core.lazy.swap(0, Ordering::SeqCst);
        if self.core.fault.get().is_some() {
            return;
        }
        let core = self.core.clone();
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
                self.put(
                    batch,
                    meta,
                    &meta_key(GroupId(group.id.0), Kind::Committed),
                    &index_and_marker(index, &marker),
                );
            } else {
                core.lazy.fetch_or(1 << number, Ordering::SeqCst);
            }
        }
    }

    fn put(&mut self, batch: &mut WriteBatch, family: &ColumnFamily, key: &[u8], payload: &[u8]) {
        seal_into(&mut self.sealed, key, payload);
        batch.put_cf(family, key, &self.sealed);
    }
}

/// Stops the store for good if the writer's thread dies in a callback: waiting callers must not wait for ever for a dead thread.
struct PanicGuard(Arc<Core>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.0
            .fault
            .get_or_init(|| "the writer's thread panicked".into());
    }
}
