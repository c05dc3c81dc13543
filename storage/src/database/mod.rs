//! Where keys and values lie: in RocksDB, or, in a simulation, in memory that plays a disk. Everything above works on either in the
//! same way.
//!
//! Invariant: whatever a crash cuts off, what is found afterwards is a prefix of the batches written, of all families together.

#[cfg(feature = "simulation")]
mod memory;
mod rocks;

use std::path::Path;

use rocksdb::{ColumnFamily, DBRawIterator, ReadOptions, WriteBatch};

#[cfg(feature = "simulation")]
pub use memory::SimulatedDisk;
#[cfg(feature = "simulation")]
pub(crate) use memory::{Life, Memory};
pub(crate) use rocks::RocksDb;

use crate::GroupId;

/// First allocation of a batch, in bytes: enough for most.
const BATCH_CAPACITY_BYTES: usize = 16 << 10;

/// An open database: one family of keys for each group's entries, one for the state kept beside them.
pub(crate) enum Database {
    Rocks(RocksDb),
    #[cfg(feature = "simulation")]
    Memory(Memory),
}

/// One family of keys. Looked up once for many keys.
#[derive(Clone, Copy)]
pub(crate) enum Family<'a> {
    Rocks(&'a ColumnFamily),
    #[cfg(feature = "simulation")]
    Memory(memory::FamilyNumber),
}

/// Changes that reach the disk together or not at all.
pub(crate) enum Batch {
    Rocks(WriteBatch),
    #[cfg(feature = "simulation")]
    Memory(memory::Changes),
}

/// Walks over the keys of a family in order.
pub(crate) enum Cursor<'a> {
    Rocks(DBRawIterator<'a>),
    #[cfg(feature = "simulation")]
    Memory(memory::Cursor<'a>),
}

/// While it lives, no merge of the group's table files begins.
pub(crate) enum Unmerged<'a> {
    Rocks(rocks::Unmerged<'a>),
    #[cfg(feature = "simulation")]
    Memory(&'a Memory, GroupId),
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    #[error(transparent)]
    Rocks(#[from] rocksdb::Error),
    #[cfg(feature = "simulation")]
    #[error(transparent)]
    Memory(#[from] memory::DiskFull),
}

impl Database {
    /// Where it is, for messages.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Rocks(rocks) => rocks.path(),
            #[cfg(feature = "simulation")]
            Self::Memory(memory) => memory.path(),
        }
    }

    /// The entries of `group`, which must be below [`crate::GROUPS_MAX`].
    pub(crate) fn log(&self, group: GroupId) -> Family<'_> {
        match self {
            Self::Rocks(rocks) => Family::Rocks(rocks.log(group)),
            #[cfg(feature = "simulation")]
            Self::Memory(_) => Family::Memory(memory::log(group)),
        }
    }

    /// The state kept beside them.
    pub(crate) fn meta(&self) -> Family<'_> {
        match self {
            Self::Rocks(rocks) => Family::Rocks(rocks.meta()),
            #[cfg(feature = "simulation")]
            Self::Memory(_) => Family::Memory(memory::META),
        }
    }

    /// A batch for this database, empty.
    pub(crate) fn batch(&self) -> Batch {
        match self {
            Self::Rocks(_) => Batch::Rocks(WriteBatch::with_capacity_bytes(BATCH_CAPACITY_BYTES)),
            #[cfg(feature = "simulation")]
            Self::Memory(_) => Batch::Memory(memory::Changes::default()),
        }
    }

    /// Writes `batch`, and waits for the disk if `sync`. In memory that plays a disk the sync is a step of its own, which whoever
    /// drives the simulation takes.
    pub(crate) fn write(&self, batch: Batch, sync: bool) -> Result<(), BatchError> {
        match (self, batch) {
            (Self::Rocks(rocks), Batch::Rocks(batch)) => Ok(rocks.write(batch, sync)?),
            #[cfg(feature = "simulation")]
            (Self::Memory(memory), Batch::Memory(batch)) => Ok(memory.write(batch)?),
            #[cfg(feature = "simulation")]
            _ => unreachable!("a batch is written to the database that began it"),
        }
    }

    /// The value at `key` of the state kept beside the entries.
    pub(crate) fn get_meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, rocksdb::Error> {
        match self {
            Self::Rocks(rocks) => rocks.get_meta(key),
            #[cfg(feature = "simulation")]
            Self::Memory(memory) => Ok(memory.get(memory::META, key)),
        }
    }

    /// A cursor that stands nowhere yet. Bounds in `options` spare RocksDB work, and memory does without: the caller checks the keys.
    pub(crate) fn cursor(&self, family: Family<'_>, options: ReadOptions) -> Cursor<'_> {
        match (self, family) {
            (Self::Rocks(rocks), Family::Rocks(family)) => {
                Cursor::Rocks(rocks.cursor(family, options))
            }
            #[cfg(feature = "simulation")]
            (Self::Memory(memory), Family::Memory(family)) => Cursor::Memory(memory.cursor(family)),
            #[cfg(feature = "simulation")]
            _ => unreachable!("a family is one of this database"),
        }
    }

    /// Deletes the table files of `group` that hold nothing but entries below `index`, which must be forgotten already.
    pub(crate) fn drop_files_below(
        &self,
        group: GroupId,
        index: u64,
    ) -> Result<(), rocksdb::Error> {
        match self {
            Self::Rocks(rocks) => rocks.drop_files_below(group, index),
            #[cfg(feature = "simulation")]
            Self::Memory(memory) => {
                memory.drop_files_below(group, index);
                Ok(())
            }
        }
    }

    /// Keeps table files of `group` from being merged. To be called before the deletion of its entries is written: it then stays
    /// above all of them, in memory or in a file that is never dropped as a whole, so that dropping files cannot take it away from
    /// entries that a merge under way is just copying.
    pub(crate) fn hold_merges(&self, group: GroupId) -> Result<Unmerged<'_>, rocksdb::Error> {
        match self {
            Self::Rocks(rocks) => Ok(Unmerged::Rocks(rocks.hold_merges(group)?)),
            #[cfg(feature = "simulation")]
            Self::Memory(memory) => Ok(Unmerged::Memory(memory, group)),
        }
    }

    /// Merges all table files of `group`, so that what was deleted gives its space back.
    pub(crate) fn merge(&self, group: GroupId) {
        match self {
            Self::Rocks(rocks) => rocks.merge(group),
            // Deleted keys take no space there.
            #[cfg(feature = "simulation")]
            Self::Memory(_) => {}
        }
    }
}

impl Unmerged<'_> {
    /// Deletes the group's table files but the newest, whose entries must all be deleted already.
    pub(crate) fn drop_files(&self) -> Result<(), rocksdb::Error> {
        match self {
            Self::Rocks(unmerged) => unmerged.drop_files(),
            #[cfg(feature = "simulation")]
            Self::Memory(memory, group) => {
                memory.drop_files_below(*group, u64::MAX);
                Ok(())
            }
        }
    }
}

impl Batch {
    pub(crate) fn put(&mut self, family: Family<'_>, key: &[u8], value: &[u8]) {
        match (self, family) {
            (Self::Rocks(batch), Family::Rocks(family)) => batch.put_cf(family, key, value),
            #[cfg(feature = "simulation")]
            (Self::Memory(batch), Family::Memory(family)) => batch.put(family, key, value),
            #[cfg(feature = "simulation")]
            _ => unreachable!("batch and family are of one database"),
        }
    }

    pub(crate) fn delete(&mut self, family: Family<'_>, key: &[u8]) {
        match (self, family) {
            (Self::Rocks(batch), Family::Rocks(family)) => batch.delete_cf(family, key),
            #[cfg(feature = "simulation")]
            (Self::Memory(batch), Family::Memory(family)) => batch.delete(family, key),
            #[cfg(feature = "simulation")]
            _ => unreachable!("batch and family are of one database"),
        }
    }

    /// Deletes the keys from `from` to before `to`.
    pub(crate) fn delete_range(&mut self, family: Family<'_>, from: &[u8], to: &[u8]) {
        match (self, family) {
            (Self::Rocks(batch), Family::Rocks(family)) => batch.delete_range_cf(family, from, to),
            #[cfg(feature = "simulation")]
            (Self::Memory(batch), Family::Memory(family)) => batch.delete_range(family, from, to),
            #[cfg(feature = "simulation")]
            _ => unreachable!("batch and family are of one database"),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Rocks(batch) => batch.is_empty(),
            #[cfg(feature = "simulation")]
            Self::Memory(batch) => batch.is_empty(),
        }
    }

    pub(crate) fn size_in_bytes(&self) -> usize {
        match self {
            Self::Rocks(batch) => batch.size_in_bytes(),
            #[cfg(feature = "simulation")]
            Self::Memory(batch) => batch.size_in_bytes(),
        }
    }
}

impl Cursor<'_> {
    /// Goes to the first key that is not below `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) {
        match self {
            Self::Rocks(cursor) => cursor.seek(key),
            #[cfg(feature = "simulation")]
            Self::Memory(cursor) => cursor.seek(key),
        }
    }

    /// Goes to the last key that is not above `key`.
    pub(crate) fn seek_for_prev(&mut self, key: &[u8]) {
        match self {
            Self::Rocks(cursor) => cursor.seek_for_prev(key),
            #[cfg(feature = "simulation")]
            Self::Memory(cursor) => cursor.seek_for_prev(key),
        }
    }

    /// Goes to the next key.
    pub(crate) fn next(&mut self) {
        match self {
            Self::Rocks(cursor) => cursor.next(),
            #[cfg(feature = "simulation")]
            Self::Memory(cursor) => cursor.next(),
        }
    }

    /// The key and value it stands at; `None` past the end, and after an error.
    pub(crate) fn item(&self) -> Option<(&[u8], &[u8])> {
        match self {
            Self::Rocks(cursor) => cursor.item(),
            #[cfg(feature = "simulation")]
            Self::Memory(cursor) => cursor.item(),
        }
    }

    /// Whether it ended for want of keys, or for an error.
    pub(crate) fn status(&self) -> Result<(), rocksdb::Error> {
        match self {
            Self::Rocks(cursor) => cursor.status(),
            #[cfg(feature = "simulation")]
            Self::Memory(_) => Ok(()),
        }
    }
}
