//! The writer thread: everything that changes the disk, of every group, in one order.
//!
//! It takes what waits in the queue into one batch, writes and syncs it once, and calls back in order. Invariants: a callback says `Ok`
//! only after the sync of its batch; after the first failure every waiting and later operation is told why.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use crate::batch::{Batcher, Wrote};
use crate::operation::Operation;
use crate::store::Core;

/// Committed indexes reach the disk at most this often, and at least this often while there are new ones: they spare a restart some
/// asking, so they are worth bytes now and then, but no sync of their own.
const LAZY_WRITE_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) struct Writer {
    core: Arc<Core>,
    queue: Receiver<Operation>,
    batcher: Batcher,
    /// The operations of the batch being built; kept between batches for its memory.
    taken: Vec<Operation>,
    last_lazy_write: Instant,
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>, queue: Receiver<Operation>, batcher: Batcher) -> Self {
        Self {
            core,
            queue,
            batcher,
            taken: Vec::new(),
            last_lazy_write: Instant::now(),
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
        let queue = &self.queue;
        let mut gathered = self
            .batcher
            .gather(&mut self.taken, operation, || queue.try_recv().ok());
        if self.taken.is_empty() || self.last_lazy_write.elapsed() >= LAZY_WRITE_INTERVAL {
            self.last_lazy_write = Instant::now();
            self.batcher.add_lazy(&mut gathered);
        }
        let content = gathered.content;
        let begun = Instant::now();
        let wrote = self.batcher.write(gathered);
        if content.awaited && matches!(wrote, Ok(Wrote::Unsynced | Wrote::Synced)) {
            self.core
                .stats
                .on_sync(begun.elapsed(), content.entries, content.bytes);
        }
        let result = wrote.map(|_| ());
        for operation in self.taken.drain(..) {
            operation.finish(result.clone());
        }
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
