//! The store of one node: opening, closing, and what concerns all groups.
//!
//! Invariant: the directory's lock outlives the database, and the database outlives the writer.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{self, Sender};

use crate::batch::Batcher;
use crate::database::{BatchError, Database, RocksDb};
use crate::directory::{self, Directory};
use crate::group::Group;
use crate::operation::Operation;
use crate::reader;
use crate::snapshot;
use crate::stats::Counters;
use crate::wal_check;
use crate::writer::Writer;
use crate::{
    GROUPS_MAX, GroupId, GroupLog, Identity, IncarnationError, OpenError, Options, ReadError,
    SnapshotDir, Stats, WriteError,
};

/// All that is durable on one node. Clones share it; the last one dropped closes it.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What handles share, and the writer does not have: dropping the last of it ends the writer.
pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    /// `None` once closed, and in a store opened offline.
    pub(crate) queue: RwLock<Option<Sender<Operation>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    pub(crate) read_only: bool,
    tail_bytes: usize,
    loading: Mutex<()>,
    /// What takes the place of the writer's thread in a simulation.
    #[cfg(feature = "simulation")]
    pub(crate) simulation: Option<Arc<crate::simulation::Simulation>>,
}

/// What handles and writer share. Fields are dropped in this order: the database before the lock.
pub(crate) struct Core {
    pub(crate) database: Database,
    pub(crate) groups: [OnceLock<Arc<Group>>; GROUPS_MAX as usize],
    pub(crate) stats: Counters,
    /// Why the store takes no more writes.
    pub(crate) fault: OnceLock<Arc<str>>,
    /// One bit per group whose committed index was saved and is not yet written.
    pub(crate) lazy: AtomicU64,
    /// Whether the writer waits without looking at `lazy` again.
    pub(crate) asleep: AtomicBool,
    pub(crate) directory: Directory,
}

const _: () = assert!(
    GROUPS_MAX as u32 <= u64::BITS,
    "`lazy` has one bit per group"
);

impl Store {
    /// Opens the data directory of `identity`, creating it if it is absent or empty.
    ///
    /// # Errors
    /// See [`OpenError`]; a directory that is refused is left as it was.
    pub fn open(dir: &Path, identity: &Identity, options: &Options) -> Result<Self, OpenError> {
        let directory = Directory::take(dir, identity, directory::has_database)?;
        let path = directory.database();
        if !directory.is_new() {
            wal_check::check(&path, options)?;
        }
        let database = RocksDb::open(&path, options, directory.is_new())?;
        database.warm(options.wal_warm_bytes)?;
        let core = Core::in_use(Database::Rocks(database), directory)?;
        let (sender, receiver) = channel::bounded(options.queue_operations_max);
        let batcher = Batcher::new(core.clone(), options.sync, options.batch_bytes_max);
        let writer = Writer::new(core.clone(), receiver, batcher);
        let thread = thread::Builder::new()
            .name("storage-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::from_io("starting the writer's thread for", dir, &error))?;
        Ok(Self::from_parts(core, Some(sender), Some(thread), options))
    }

    /// Opens the data directory of a stopped node for reading, whosever it is. Nothing in its database is changed; every write is
    /// refused. Snapshots can be written.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_offline(dir: &Path) -> Result<Self, OpenError> {
        let options = Options::default();
        let directory = Directory::take_existing(dir)?;
        let path = directory.database();
        wal_check::check(&path, &options)?;
        let database = RocksDb::open_read_only(&path, &options)?;
        Ok(Self::from_parts(
            Arc::new(Core::new(Database::Rocks(database), directory)),
            None,
            None,
            &options,
        ))
    }

    fn from_parts(
        core: Arc<Core>,
        queue: Option<Sender<Operation>>,
        writer: Option<JoinHandle<()>>,
        options: &Options,
    ) -> Self {
        Self {
            inner: Arc::new(Inner::new(core, queue, writer, options)),
        }
    }

    /// Whose data this is, with the incarnation that is on disk.
    pub fn identity(&self) -> Identity {
        self.inner.core.directory.identity()
    }

    /// Lets the directory belong to `incarnation` from now on: durable on return, and after a crash in between it is the old one or
    /// the new one. Blocks for a few syncs of small files.
    ///
    /// # Errors
    /// If `incarnation` is below the directory's, the store was opened offline, or the file cannot be written.
    pub fn set_incarnation(&self, incarnation: u64) -> Result<(), IncarnationError> {
        if self.inner.read_only {
            return Err(IncarnationError::ReadOnly {
                dir: self.dir().to_path_buf(),
            });
        }
        self.inner.core.directory.set_incarnation(incarnation)
    }

    /// Writes down that the cluster lives on in `incarnation`, in which this node has no part; durable on return. Nothing where the directory's own is not
    /// before that. Blocks for a few syncs of small files.
    ///
    /// # Errors
    /// If the store was opened offline, or the file cannot be written.
    pub fn set_outlived_by(&self, incarnation: u64) -> Result<(), IncarnationError> {
        if self.inner.read_only {
            return Err(IncarnationError::ReadOnly {
                dir: self.dir().to_path_buf(),
            });
        }
        self.inner.core.directory.set_outlived_by(incarnation)
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.inner.core.directory.root()
    }

    /// The log of `group`, which is read on first use: floor, first, last, vote, committed.
    ///
    /// # Errors
    /// If the group cannot be, or what is kept beside its entries is damaged or contradicts them.
    pub fn log(&self, group: GroupId) -> Result<GroupLog, ReadError> {
        let Some(slot) = self.inner.core.groups.get(usize::from(group.0)) else {
            return Err(ReadError::NoSuchGroup {
                group,
                max: GROUPS_MAX - 1,
            });
        };
        let _loading = self
            .inner
            .loading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = slot.get() {
            return Ok(GroupLog::new(self.inner.clone(), loaded.clone()));
        }
        let state = reader::load(&self.inner.core.database, group, self.inner.tail_bytes)?;
        let loaded = slot.get_or_init(|| Arc::new(Group::new(group, state)));
        Ok(GroupLog::new(self.inner.clone(), loaded.clone()))
    }

    /// The groups that this node holds, in order: those with entries, a floor, or a committed index on disk. A vote and a tombstone
    /// do not count: they outlive a group that was cleared.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn groups(&self) -> Result<Vec<GroupId>, ReadError> {
        reader::groups(&self.inner.core.database)
    }

    /// Why the store takes no more writes; `None` while it does. It stays so until the store is opened again.
    pub fn fault(&self) -> Option<String> {
        self.inner.core.fault.get().map(ToString::to_string)
    }

    /// What the writer has done since the store was opened.
    pub fn stats(&self) -> Stats {
        self.inner.core.stats.read()
    }

    /// The snapshots of `group`.
    pub fn snapshots(&self, group: GroupId) -> SnapshotDir {
        SnapshotDir::new(&self.inner.core.directory.snapshots(), group)
    }

    /// Bytes that this user may still write to the file system of the data directory.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn disk_free_bytes(&self) -> io::Result<u64> {
        #[cfg(feature = "simulation")]
        if let Database::Memory(memory) = &self.inner.core.database {
            return Ok(memory.free_bytes());
        }
        let found = rustix::fs::statvfs(self.dir())?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Writes what waits and stops the writer. Every later write is refused; reads go on. The directory is free for another process when
    /// the last handle, of the store or of a log, is gone.
    pub fn close(self) {
        self.inner.run_simulation();
        self.inner.stop();
    }
}

impl Core {
    /// Of a directory that is going to be written: complete, and without what writers of snapshots left that were killed.
    pub(crate) fn in_use(database: Database, directory: Directory) -> Result<Arc<Self>, OpenError> {
        directory.finish_creation()?;
        let snapshots = directory.snapshots();
        snapshot::remove_unfinished(&snapshots)
            .map_err(|error| OpenError::from_io("clearing", &snapshots, &error))?;
        Ok(Arc::new(Self::new(database, directory)))
    }

    fn new(database: Database, directory: Directory) -> Self {
        Self {
            database,
            groups: [const { OnceLock::new() }; GROUPS_MAX as usize],
            stats: Counters::default(),
            fault: OnceLock::new(),
            lazy: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            directory,
        }
    }

    /// Refuses if the store takes no more writes.
    pub(crate) fn check_fault(&self) -> Result<(), WriteError> {
        match self.fault.get() {
            Some(reason) => Err(WriteError::Faulted {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// After a failure on the disk the store takes no more writes: says why.
    pub(crate) fn on_failure(&self, action: &'static str, error: &BatchError) -> WriteError {
        let path = self.database.path().display();
        let reason = format!("{action} {path} failed: {error}");
        tracing::error!(reason, "the store takes no more writes");
        WriteError::Faulted {
            reason: self.fault.get_or_init(|| reason.into()).clone(),
        }
    }
}

impl Inner {
    pub(crate) fn new(
        core: Arc<Core>,
        queue: Option<Sender<Operation>>,
        writer: Option<JoinHandle<()>>,
        options: &Options,
    ) -> Self {
        Self {
            core,
            read_only: queue.is_none(),
            queue: RwLock::new(queue),
            writer: Mutex::new(writer),
            tail_bytes: options.tail_bytes_per_group,
            loading: Mutex::new(()),
            #[cfg(feature = "simulation")]
            simulation: None,
        }
    }

    /// Whether the process that this store belongs to is gone, which only a simulation survives.
    #[cfg(not(feature = "simulation"))]
    #[expect(clippy::unused_self, reason = "as in a simulation")]
    pub(crate) fn is_over(&self) -> bool {
        false
    }

    /// Notes that something waits for the writer. Its thread waits on the queue itself.
    #[cfg(not(feature = "simulation"))]
    #[expect(clippy::unused_self, reason = "as in a simulation")]
    pub(crate) fn on_queued(&self) {}

    /// Writes and syncs everything that waits, where there is no writer's thread.
    #[cfg(not(feature = "simulation"))]
    #[expect(clippy::unused_self, reason = "as in a simulation")]
    pub(crate) fn run_simulation(&self) {}

    fn stop(&self) {
        self.queue
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // A callback may drop the last handle on the writer's own thread, which ends by itself then.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != thread::current().id())
            && writer.join().is_err()
        {
            tracing::error!(dir = %self.core.directory.root().display(), "the storage writer's thread panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}
