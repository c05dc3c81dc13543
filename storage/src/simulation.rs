//! A store without a thread, for simulations: whoever opened it says when something is written, and when it is synced.
//!
//! Batches are put together by the same code as on the writer's thread. Invariant: callbacks come in the order of the operations,
//! each after the sync that its batch needs, and never once the process is over; nothing depends on a clock.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crossbeam::channel::{self, Receiver};

use crate::batch::{Batcher, Content, Wrote};
use crate::database::{BatchError, Database, Life, Memory};
use crate::directory::Directory;
use crate::operation::Operation;
use crate::store::{Core, Inner};
use crate::{Identity, OpenError, Options, SimulatedDisk, Store, WriteError};

/// A batch that was written and waits for [`Store::simulated_sync`].
#[derive(Debug)]
pub struct Written {
    /// The process that wrote it.
    life: u64,
    /// Its place among the process's batches, also those with nothing in them.
    number: u64,
    awaits_sync: bool,
}

impl Written {
    /// Whether the real store would sync it, which takes a disk its time. Otherwise it holds only committed indexes, or was not
    /// written because the disk is full, or there was nothing to write: its callbacks, if any, could come at once.
    pub fn awaits_sync(&self) -> bool {
        self.awaits_sync
    }
}

type OnWork = Arc<dyn Fn() + Send + Sync>;

/// What takes the place of the writer's thread.
pub(crate) struct Simulation {
    core: Arc<Core>,
    state: Mutex<State>,
    on_work: Mutex<Option<OnWork>>,
}

struct State {
    queue: Receiver<Operation>,
    batcher: Batcher,
    /// Batches whose callbacks were not called yet, oldest first.
    pending: VecDeque<Pending>,
    /// How many batches were built.
    built: u64,
}

struct Pending {
    number: u64,
    operations: Vec<Operation>,
    content: Content,
    wrote: Result<Wrote, WriteError>,
    /// How many batches the disk held with it.
    on_disk: u64,
}

impl Store {
    /// Opens the data directory of `identity` with `disk` in the place of its database, for a simulation. The directory is a real one:
    /// its lock, identity and snapshots lie there, and are not part of what a [`SimulatedDisk::crash`] takes back. Any store opened
    /// on `disk` before belongs to a process that is over: see there.
    ///
    /// Nothing is written until [`Store::simulated_write`]; only calls that block ([`crate::GroupLog::forget_below`],
    /// [`crate::GroupLog::make_way`], [`crate::GroupLog::go_on_after`], [`crate::GroupLog::clear`], [`Store::close`]) write and sync all that waits by themselves. A store that is dropped was killed:
    /// what was not written is lost. The queue has no bound.
    ///
    /// # Errors
    /// See [`OpenError`]; also if the directory is complete but `disk` is blank.
    pub fn open_simulated(
        dir: &Path,
        disk: &SimulatedDisk,
        identity: &Identity,
        options: &Options,
    ) -> Result<Self, OpenError> {
        // First, for it frees the directory.
        let life = disk.begin_process();
        let directory = Directory::take(dir, identity, |_| Ok(disk.has_database()))?;
        if directory.is_new() {
            disk.make_database();
        }
        let memory = Memory::new(disk.clone(), life, directory.database());
        let core = Core::in_use(Database::Memory(memory), directory)?;
        let (sender, queue) = channel::unbounded();
        let simulation = Arc::new(Simulation {
            core: core.clone(),
            state: Mutex::new(State {
                queue,
                batcher: Batcher::new(core.clone(), options.sync, options.batch_bytes_max),
                pending: VecDeque::new(),
                built: 0,
            }),
            on_work: Mutex::new(None),
        });
        let process: Weak<dyn Life> = Arc::downgrade(&(simulation.clone() as Arc<dyn Life>));
        disk.enter(process);
        let mut inner = Inner::new(core, Some(sender), None, options);
        inner.simulation = Some(simulation);
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// In a simulation: puts everything that waits into one batch, up to the limits of a real one, and writes it without a sync.
    /// `None` if nothing waits; also once the process is over, and in a store that is not simulated.
    pub fn simulated_write(&self) -> Option<Written> {
        self.inner.simulation.as_ref()?.write()
    }

    /// In a simulation: makes `written` and everything written before it durable, and calls back in order. Does nothing once the
    /// process is over.
    pub fn simulated_sync(&self, written: &Written) {
        if let Some(simulation) = &self.inner.simulation {
            simulation.sync(written);
        }
    }

    /// In a simulation: `on_work` is called whenever something begins to wait for [`Store::simulated_write`], from within the call
    /// that hands it over. It must only take note.
    pub fn on_simulated_work(&self, on_work: Box<dyn Fn() + Send + Sync>) {
        if let Some(simulation) = &self.inner.simulation {
            *simulation.on_work() = Some(on_work.into());
        }
    }
}

impl Inner {
    /// Whether the process that this store belongs to is gone, which only a simulation survives.
    pub(crate) fn is_over(&self) -> bool {
        self.simulation
            .as_ref()
            .is_some_and(|simulation| simulation.memory().is_over())
    }

    /// Notes that something waits for the writer. Its thread waits on the queue itself; a simulation has to be told.
    pub(crate) fn on_queued(&self) {
        if let Some(simulation) = &self.simulation {
            let on_work = simulation.on_work().clone();
            if let Some(on_work) = on_work.filter(|_| !simulation.memory().is_over()) {
                on_work();
            }
        }
    }

    /// Writes and syncs everything that waits, if this is a simulation.
    pub(crate) fn run_simulation(&self) {
        let Some(simulation) = &self.simulation else {
            return;
        };
        while let Some(written) = simulation.write() {
            simulation.sync(&written);
        }
        // What was written before, and somebody else was going to sync.
        let number = simulation.state().built;
        simulation.sync(&Written {
            life: simulation.memory().life(),
            number,
            awaits_sync: false,
        });
    }
}

impl Simulation {
    fn write(&self) -> Option<Written> {
        if self.memory().is_over() {
            return None;
        }
        let mut state = self.state();
        let State { queue, batcher, .. } = &mut *state;
        let mut operations = Vec::new();
        let first = queue.try_recv().ok();
        let mut gathered = batcher.gather(&mut operations, first, || queue.try_recv().ok());
        // How often the real writer takes them along, its clock decides: here it is as often as possible.
        batcher.add_lazy(&mut gathered);
        let content = gathered.content;
        let wrote = batcher.write(gathered);
        // A store that has failed says so of every batch, also of one with nothing in it.
        if operations.is_empty() && matches!(wrote, Ok(Wrote::Nothing) | Err(_)) {
            return None;
        }
        state.built += 1;
        let number = state.built;
        let awaits_sync = wrote == Ok(Wrote::Synced);
        state.pending.push_back(Pending {
            number,
            operations,
            content,
            wrote,
            on_disk: self.memory().written(),
        });
        Some(Written {
            life: self.memory().life(),
            number,
            awaits_sync,
        })
    }

    fn sync(&self, written: &Written) {
        if written.life != self.memory().life() {
            return;
        }
        // One at a time, and without the lock: a callback may hand something over, or end the process.
        while !self.memory().is_over()
            && let Some(pending) = self.take_pending(written.number)
        {
            let result = self.sync_one(&pending);
            for operation in pending.operations {
                operation.finish(result.clone());
            }
        }
    }

    fn take_pending(&self, number: u64) -> Option<Pending> {
        self.state()
            .pending
            .pop_front_if(|oldest| oldest.number <= number)
    }

    fn sync_one(&self, pending: &Pending) -> Result<(), WriteError> {
        let wrote = pending.wrote.clone()?;
        // An earlier one may have failed after this one was written.
        self.core.check_fault()?;
        if wrote == Wrote::Synced {
            self.memory()
                .sync(pending.on_disk)
                .map_err(|error| self.core.on_failure("syncing", &BatchError::Memory(error)))?;
        }
        let content = pending.content;
        if content.awaited && wrote != Wrote::Nothing {
            let stats = &self.core.stats;
            stats.on_sync(Duration::ZERO, content.entries, content.bytes);
        }
        Ok(())
    }

    fn memory(&self) -> &Memory {
        match &self.core.database {
            Database::Memory(memory) => memory,
            Database::Rocks(_) => unreachable!("a simulation is made with its memory"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_work(&self) -> MutexGuard<'_, Option<OnWork>> {
        self.on_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life for Simulation {
    fn end(&self) {
        let mut state = self.state();
        let pending = std::mem::take(&mut state.pending);
        let waiting: Vec<Operation> = state.queue.try_iter().collect();
        drop(state);
        let on_work = self.on_work().take();
        if let Err(error) = self.core.directory.release() {
            tracing::warn!(%error, "the directory of a process that is gone could not be freed");
        }
        // Without the locks: what these hold may be the last handle of the store.
        drop((pending, waiting, on_work));
    }
}
