//! A disk that a simulation plays: ordered maps in memory instead of RocksDB.
//!
//! What is written is visible at once, and survives the process; what is synced survives a power failure too, and of the rest a
//! prefix of whole batches does, as many as the simulation wants: RocksDB's write-ahead file ends, when it is read again, before
//! the first record whose checksum fails. Invariant: a process that is gone changes nothing any more, and nothing here depends on
//! a clock or on chance.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use crate::record::log_key;
use crate::{GROUPS_MAX, GroupId};

/// The place of a family among all: the groups' logs, then what is kept beside them.
pub(crate) type FamilyNumber = usize;

pub(crate) const META: FamilyNumber = GROUPS_MAX as usize;

/// Entries that go with one table file when flows are forgotten: few, so that simulations see forgotten entries both gone and
/// still there.
const FILE_ENTRIES: u64 = 64;

/// Bytes free on a disk that is not full.
const FREE_BYTES: u64 = 1 << 40;

/// The family of `group`'s entries.
pub(crate) fn log(group: GroupId) -> FamilyNumber {
    usize::from(group.0)
}

/// The disk of one simulated node. Clones are the same disk. It outlives the processes that use it: each
/// [`crate::Store::open_simulated`] begins a new one and ends the one before.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    platter: Arc<Mutex<Platter>>,
}

/// A process that uses a disk, told when it is over.
pub(crate) trait Life: Send + Sync {
    /// Forgets what was still to be done, and frees the data directory.
    fn end(&self);
}

#[derive(Default)]
struct Platter {
    /// Counts the processes: only the last one writes.
    life: u64,
    full: bool,
    /// Whether a database was ever made here.
    has_database: bool,
    /// What a power failure leaves.
    durable: Content,
    /// What is written.
    written: Content,
    /// The batches between the two, oldest first.
    unsynced: VecDeque<Changes>,
    /// How many batches this process has made durable.
    synced: u64,
    process: Option<Weak<dyn Life>>,
}

type Content = BTreeMap<FamilyNumber, BTreeMap<Vec<u8>, Bytes>>;

/// What a full disk says.
#[derive(Debug, thiserror::Error)]
#[error("IO error: No space left on device: the simulated disk is full")]
pub(crate) struct DiskFull;

impl SimulatedDisk {
    /// A blank disk with space enough.
    pub fn new() -> Self {
        Self::default()
    }

    /// The power fails: of the batches written but not synced (their number is given to `keep`), the first `keep(number)` are
    /// found again, and what a batch holds is found whole or not at all. The process that used the disk is gone: nothing it
    /// does reaches the disk any more, its callbacks are never called, and its data directory is free.
    pub fn crash(&self, keep: impl FnOnce(usize) -> usize) {
        let mut platter = self.platter();
        platter.settle(keep);
        platter.end_process();
        let process = platter.process.take();
        drop(platter);
        end(process);
    }

    /// Lets writes and syncs fail for want of space, or no more. What was written before stays, and a store that failed once
    /// stays failed.
    pub fn set_full(&self, full: bool) {
        self.platter().full = full;
    }

    /// Begins a new process; what an earlier one wrote counts as synced, for opening a database writes it to table files.
    pub(crate) fn begin_process(&self) -> u64 {
        let mut platter = self.platter();
        platter.settle(|written| written);
        platter.end_process();
        let life = platter.life;
        let process = platter.process.take();
        drop(platter);
        end(process);
        life
    }

    /// Makes the process known that was begun.
    pub(crate) fn enter(&self, process: Weak<dyn Life>) {
        self.platter().process = Some(process);
    }

    /// Whether a database was made on this disk.
    pub(crate) fn has_database(&self) -> bool {
        self.platter().has_database
    }

    /// Makes an empty database, whatever there was.
    pub(crate) fn make_database(&self) {
        let mut platter = self.platter();
        platter.has_database = true;
        platter.durable.clear();
        platter.written.clear();
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Not under the platter's lock: what a process forgets may hold handles of its store.
fn end(process: Option<Weak<dyn Life>>) {
    if let Some(process) = process.and_then(|process| process.upgrade()) {
        process.end();
    }
}

impl Platter {
    /// Decides what of the batches not synced is found again.
    fn settle(&mut self, keep: impl FnOnce(usize) -> usize) {
        if self.unsynced.is_empty() {
            keep(0);
            return;
        }
        let kept = keep(self.unsynced.len());
        for batch in self.unsynced.drain(..).take(kept) {
            batch.apply(&mut self.durable);
        }
        self.written = self.durable.clone();
    }

    fn end_process(&mut self) {
        self.life += 1;
        self.synced = 0;
    }
}

/// A disk as one process uses it.
pub(crate) struct Memory {
    disk: SimulatedDisk,
    life: u64,
    path: PathBuf,
}

impl Memory {
    /// The disk in the process `life`; messages call it `path`.
    pub(crate) fn new(disk: SimulatedDisk, life: u64, path: PathBuf) -> Self {
        Self { disk, life, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The process this belongs to.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Whether the process is over.
    pub(crate) fn is_over(&self) -> bool {
        self.disk.platter().life != self.life
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        if self.disk.platter().full {
            0
        } else {
            FREE_BYTES
        }
    }

    pub(super) fn write(&self, batch: Changes) -> Result<(), DiskFull> {
        let Some(mut platter) = self.living() else {
            return Ok(());
        };
        if platter.full {
            return Err(DiskFull);
        }
        batch.apply(&mut platter.written);
        platter.unsynced.push_back(batch);
        Ok(())
    }

    /// How many batches this process has written.
    pub(crate) fn written(&self) -> u64 {
        let platter = self.disk.platter();
        platter.synced + platter.unsynced.len() as u64
    }

    /// Makes the first `count` batches of this process durable.
    pub(crate) fn sync(&self, count: u64) -> Result<(), DiskFull> {
        let Some(mut platter) = self.living() else {
            return Ok(());
        };
        let platter = &mut *platter;
        if platter.full && platter.synced < count {
            return Err(DiskFull);
        }
        while platter.synced < count
            && let Some(batch) = platter.unsynced.pop_front()
        {
            batch.apply(&mut platter.durable);
            platter.synced += 1;
        }
        Ok(())
    }

    pub(super) fn get(&self, family: FamilyNumber, key: &[u8]) -> Option<Vec<u8>> {
        let platter = self.disk.platter();
        Some(platter.written.get(&family)?.get(key)?.to_vec())
    }

    pub(super) fn cursor(&self, family: FamilyNumber) -> Cursor<'_> {
        Cursor {
            memory: self,
            family,
            at: None,
        }
    }

    /// Files are dropped for good at once, whether a batch was synced since or not.
    pub(super) fn drop_files_below(&self, group: GroupId, index: u64) {
        let Some(mut platter) = self.living() else {
            return;
        };
        let end = index - index % FILE_ENTRIES;
        let dropped = Change::DeleteRange {
            family: log(group),
            from: log_key(group, 0).to_vec(),
            to: log_key(group, end).to_vec(),
        };
        dropped.apply(&mut platter.durable);
        dropped.apply(&mut platter.written);
    }

    fn living(&self) -> Option<MutexGuard<'_, Platter>> {
        let platter = self.disk.platter();
        (platter.life == self.life).then_some(platter)
    }
}

/// A batch.
#[derive(Default)]
pub(crate) struct Changes {
    changes: Vec<Change>,
    bytes: usize,
}

enum Change {
    Put {
        family: FamilyNumber,
        key: Vec<u8>,
        value: Bytes,
    },
    Delete {
        family: FamilyNumber,
        key: Vec<u8>,
    },
    DeleteRange {
        family: FamilyNumber,
        from: Vec<u8>,
        to: Vec<u8>,
    },
}

impl Changes {
    pub(super) fn put(&mut self, family: FamilyNumber, key: &[u8], value: &[u8]) {
        self.bytes += key.len() + value.len();
        self.changes.push(Change::Put {
            family,
            key: key.to_vec(),
            value: Bytes::copy_from_slice(value),
        });
    }

    pub(super) fn delete(&mut self, family: FamilyNumber, key: &[u8]) {
        self.bytes += key.len();
        let key = key.to_vec();
        self.changes.push(Change::Delete { family, key });
    }

    pub(super) fn delete_range(&mut self, family: FamilyNumber, from: &[u8], to: &[u8]) {
        self.bytes += from.len() + to.len();
        let (from, to) = (from.to_vec(), to.to_vec());
        self.changes.push(Change::DeleteRange { family, from, to });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn size_in_bytes(&self) -> usize {
        self.bytes
    }

    fn apply(&self, content: &mut Content) {
        for change in &self.changes {
            change.apply(content);
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Self::Put { family, key, value } => {
                let family = content.entry(*family).or_default();
                family.insert(key.clone(), value.clone());
            }
            Self::Delete { family, key } => {
                content.entry(*family).or_default().remove(key);
            }
            Self::DeleteRange { family, from, to } => {
                let range = (Bound::Included(from), Bound::Excluded(to));
                // A range that is empty or upside down is no range of a map.
                if from < to {
                    let family = content.entry(*family).or_default();
                    family.extract_if(range, |_, _| true).for_each(drop);
                }
            }
        }
    }
}

/// Walks over a family. What is written meanwhile may be seen or not.
pub(crate) struct Cursor<'a> {
    memory: &'a Memory,
    family: FamilyNumber,
    at: Option<(Vec<u8>, Bytes)>,
}

impl Cursor<'_> {
    pub(super) fn seek(&mut self, key: &[u8]) {
        self.first_in((Bound::Included(key), Bound::Unbounded));
    }

    pub(super) fn next(&mut self) {
        if let Some((key, _)) = self.at.take() {
            self.first_in((Bound::Excluded(&key), Bound::Unbounded));
        }
    }

    pub(super) fn seek_for_prev(&mut self, key: &[u8]) {
        let platter = self.memory.disk.platter();
        let family = platter.written.get(&self.family);
        let range = (Bound::Unbounded, Bound::Included(key));
        let found = family.and_then(|family| family.range::<[u8], _>(range).next_back());
        self.at = found.map(|(key, value)| (key.clone(), value.clone()));
    }

    pub(super) fn item(&self) -> Option<(&[u8], &[u8])> {
        self.at.as_ref().map(|(key, value)| (&key[..], &value[..]))
    }

    fn first_in(&mut self, range: (Bound<&[u8]>, Bound<&[u8]>)) {
        let platter = self.memory.disk.platter();
        let family = platter.written.get(&self.family);
        let found = family.and_then(|family| family.range::<[u8], _>(range).next());
        self.at = found.map(|(key, value)| (key.clone(), value.clone()));
    }
}
