//! RocksDB as this crate uses it. Invariant: whatever a crash cuts off the write-ahead files, recovery keeps a prefix of the batches
//! written, of all column families together.

use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBRawIterator, DBRecoveryMode, FlushOptions, InfoLogger, LogLevel,
    ReadOptions, WriteBatch, WriteOptions,
};

use crate::record::log_key;
use crate::{GROUPS_MAX, GroupId, OpenError, Options};

const META: &str = "meta";

/// Memtables of one column family: one being filled, the rest waiting for their flush.
const MEMTABLES_MAX: i32 = 4;
/// Uncompressed bytes of a block: big, because the log is read in runs.
const LOG_BLOCK_BYTES: usize = 32 << 10;
/// Bytes after which a table file being written is handed to the disk, so that a flush does not delay a synced write at its end.
const BACKGROUND_SYNC_BYTES: u64 = 1 << 20;
/// A memtable grows by this part of what all may hold together: small, because every group has one.
const ARENA_BLOCK_PART: usize = 512;

/// An open RocksDB: one column family for each group's entries, one for the state kept beside them.
pub(crate) struct RocksDb {
    db: DB,
    path: PathBuf,
    /// The names of the groups' families, by group.
    logs: Vec<String>,
}

impl RocksDb {
    /// Opens the database for reading and writing.
    pub(crate) fn open(path: &Path, options: &Options, create: bool) -> Result<Self, OpenError> {
        let mut general = general_options(options);
        general.create_if_missing(create);
        general.create_missing_column_families(create);
        let db = DB::open_cf_descriptors(&general, path, families(options))
            .map_err(|error| OpenError::from_rocksdb("opening", path, &error))?;
        Ok(Self {
            db,
            path: path.to_path_buf(),
            logs: log_names().collect(),
        })
    }

    /// Opens the database without changing a byte of it; the write-ahead files are replayed into memory.
    pub(crate) fn open_read_only(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let db = DB::open_cf_descriptors_read_only(
            &general_options(options),
            path,
            families(options),
            false,
        )
        .map_err(|error| OpenError::from_rocksdb("reading", path, &error))?;
        Ok(Self {
            db,
            path: path.to_path_buf(),
            logs: log_names().collect(),
        })
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The entries of `group`, which must be below [`GROUPS_MAX`].
    pub(crate) fn log(&self, group: GroupId) -> &ColumnFamily {
        let name = &self.logs[usize::from(group.0)];
        self.db.cf_handle(name).expect("opened with this family")
    }

    /// The state kept beside them.
    pub(crate) fn meta(&self) -> &ColumnFamily {
        self.db.cf_handle(META).expect("opened with this family")
    }

    /// Writes `batch`, and waits for the disk if `sync`.
    pub(crate) fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), rocksdb::Error> {
        self.db.write_opt(batch, &write_options(sync))
    }

    /// The value at `key` of the state kept beside the entries.
    pub(crate) fn get_meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, rocksdb::Error> {
        self.db.get_cf(self.meta(), key)
    }

    /// A cursor that stands nowhere yet.
    pub(crate) fn cursor(&self, family: &ColumnFamily, options: ReadOptions) -> DBRawIterator<'_> {
        self.db.raw_iterator_cf_opt(family, options)
    }

    /// Deletes the table files of `group` that hold nothing but entries below `index`, which must be forgotten already.
    pub(crate) fn drop_files_below(
        &self,
        group: GroupId,
        index: u64,
    ) -> Result<(), rocksdb::Error> {
        // The end is inclusive.
        let (from, to) = (log_key(group, 0), log_key(group, index - 1));
        self.db.delete_file_in_range_cf(self.log(group), from, to)
    }

    /// Keeps RocksDB from beginning to merge table files of `group`. To be called before the deletion of its entries is
    /// written: it then stays above all of them, in memory or in a file that is never dropped as a whole, so that dropping
    /// files cannot take it away from entries that a merge under way is just copying.
    pub(crate) fn hold_merges(&self, group: GroupId) -> Result<Unmerged<'_>, rocksdb::Error> {
        self.set_merges(group, false)?;
        Ok(Unmerged {
            database: self,
            group,
        })
    }

    fn set_merges(&self, group: GroupId, on: bool) -> Result<(), rocksdb::Error> {
        let off = if on { "false" } else { "true" };
        self.db
            .set_options_cf(self.log(group), &[("disable_auto_compactions", off)])
    }

    /// Merges all table files of `group`, so that what was deleted gives its space back.
    pub(crate) fn merge(&self, group: GroupId) {
        let mut options = CompactOptions::default();
        // Other groups' files go on being merged.
        options.set_exclusive_manual_compaction(false);
        self.db
            .compact_range_cf_opt(self.log(group), None::<&[u8]>, None::<&[u8]>, &options);
    }

    /// Fills two write-ahead files with `bytes` of padding each and retires them, so that from now on write-ahead files are
    /// overwritten in place. Padding enters no memtable and so no table file. Files of an earlier process are not reused by
    /// RocksDB, hence at every open.
    pub(crate) fn warm(&self, bytes: usize) -> Result<(), OpenError> {
        const PIECE: usize = 1 << 20;
        if bytes == 0 {
            return Ok(());
        }
        let fail = |error: &rocksdb::Error| OpenError::from_rocksdb("preparing", &self.path, error);
        let padding = vec![0; PIECE];
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        for _ in 0..2 {
            for piece in 0..bytes.div_ceil(PIECE) {
                let mut batch = WriteBatch::default();
                batch.put_log_data(&padding);
                let last = piece + 1 == bytes.div_ceil(PIECE);
                if last {
                    // A flush of empty memtables would not change the file.
                    batch.put_cf(self.meta(), WARM_KEY, b"");
                }
                self.db
                    .write_opt(batch, &write_options(last))
                    .map_err(|error| fail(&error))?;
            }
            self.db
                .flush_cf_opt(self.meta(), &flush)
                .map_err(|error| fail(&error))?;
        }
        Ok(())
    }
}

/// While it lives, no merge of the group's table files begins.
pub(crate) struct Unmerged<'a> {
    database: &'a RocksDb,
    group: GroupId,
}

impl Unmerged<'_> {
    /// Deletes the group's table files but the newest, whose entries must all be deleted already.
    pub(crate) fn drop_files(&self) -> Result<(), rocksdb::Error> {
        self.database.drop_files_below(self.group, u64::MAX)
    }
}

impl Drop for Unmerged<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.database.set_merges(self.group, true) {
            tracing::warn!(group = self.group.0, %error, "table files are not merged until the next start");
        }
    }
}

/// A key of no group (groups' keys are longer), rewritten when the write-ahead files are warmed.
const WARM_KEY: &[u8] = b"w";

/// Options of a write that waits for the disk, or not.
fn write_options(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}

fn general_options(options: &Options) -> rocksdb::Options {
    let mut general = rocksdb::Options::default();
    // A crash may cut the newest write-ahead file anywhere; what is recovered is then a prefix, never one with a hole.
    general.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // A whole write-ahead file that vanished or shrank is noticed at open.
    general.set_track_and_verify_wals_in_manifest(true);
    general.set_recycle_log_file_num(options.recycled_wals);
    // All families go to table files together: a write-ahead file is then free for reuse as soon as its memtables are flushed.
    general.set_atomic_flush(true);
    general.set_db_write_buffer_size(options.memtable_bytes);
    general.set_paranoid_checks(true);
    general.set_max_background_jobs(2);
    general.set_bytes_per_sync(BACKGROUND_SYNC_BYTES);
    general.set_max_open_files(512);
    general.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, on_message));
    general.set_stats_dump_period_sec(0);
    general
}

/// Takes what RocksDB has to say into the node's log; no diary of its own lies among the data. A warning is often no more than the end
/// of a file that a crash cut.
fn on_message(level: LogLevel, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(message, "RocksDB"),
        LogLevel::Warn => tracing::info!(message, "RocksDB"),
        _ => tracing::debug!(message, "RocksDB"),
    }
}

fn log_names() -> impl Iterator<Item = String> {
    (0..GROUPS_MAX).map(|group| format!("log-{group:02}"))
}

fn families(options: &Options) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    let logs =
        log_names().map(|name| ColumnFamilyDescriptor::new(name, log_options(options, &cache)));
    let meta = ColumnFamilyDescriptor::new(META, meta_options(options, &cache));
    logs.chain([meta]).collect()
}

/// The log is appended to at the end of each group and deleted at the beginning. With a family for each group, the table files of
/// a family follow one another and never overlap: RocksDB moves them down its levels without rewriting them, and retention
/// deletes them whole. An entry is written twice in all, to the write-ahead file and to a table file. With one family for all
/// groups every flushed file overlaps every other, and entries are merged two to three times more (this crate's bench measures it).
fn log_options(options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut log = rocksdb::Options::default();
    // One group may fill what all share.
    log.set_write_buffer_size(options.memtable_bytes);
    log.set_arena_block_size(options.memtable_bytes / ARENA_BLOCK_PART);
    log.set_max_write_buffer_number(MEMTABLES_MAX);
    log.set_compression_type(DBCompressionType::None);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(LOG_BLOCK_BYTES);
    table.set_block_cache(cache);
    table.set_format_version(6);
    log.set_block_based_table_factory(&table);
    log
}

fn meta_options(options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut meta = rocksdb::Options::default();
    meta.set_arena_block_size(options.memtable_bytes / ARENA_BLOCK_PART);
    meta.set_write_buffer_size(options.memtable_bytes);
    meta.set_compression_type(DBCompressionType::None);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    meta.set_block_based_table_factory(&table);
    meta
}
