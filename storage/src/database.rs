//! RocksDB as this crate uses it. Invariant: whatever a crash cuts off the write-ahead files, recovery keeps a prefix of the batches
//! written, of both column families together.

use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, FlushOptions, InfoLogger, LogLevel, WriteBatch, WriteOptions,
};

use crate::{OpenError, Options};

const LOG: &str = "log";
const META: &str = "meta";

/// Memtables of one column family: one being filled, the rest waiting for their flush.
const MEMTABLES_MAX: i32 = 4;
/// Level-0 files that start a merge into level 1. What follows from it is said at [`log_options`].
const LEVEL0_MERGE_FILES: i32 = 4;
/// Far beyond what the merge trigger allows: a log must not be slowed down by a merge that lags.
const LEVEL0_SLOWDOWN_FILES: i32 = 64;
const LEVEL0_STOP_FILES: i32 = 128;
/// Uncompressed bytes of a block: big, because the log is read in runs.
const LOG_BLOCK_BYTES: usize = 32 << 10;
/// Bytes after which a table file being written is handed to the disk, so that a flush does not delay a synced write at its end.
const BACKGROUND_SYNC_BYTES: u64 = 1 << 20;
/// An open RocksDB with its two column families.
pub(crate) struct Database {
    db: DB,
    path: PathBuf,
}

impl Database {
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
        })
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The entries.
    pub(crate) fn log(&self) -> &ColumnFamily {
        self.db.cf_handle(LOG).expect("opened with this family")
    }

    /// The state kept beside them.
    pub(crate) fn meta(&self) -> &ColumnFamily {
        self.db.cf_handle(META).expect("opened with this family")
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
                .flush_cfs_opt(&[self.meta(), self.log()], &flush)
                .map_err(|error| fail(&error))?;
        }
        Ok(())
    }
}

/// A key of no group (groups' keys are longer), rewritten when the write-ahead files are warmed.
const WARM_KEY: &[u8] = b"w";

/// Options of a write that waits for the disk, or not.
pub(crate) fn write_options(sync: bool) -> WriteOptions {
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
    // Both families go to table files together: a write-ahead file is then free for reuse as soon as its memtable is flushed.
    general.set_atomic_flush(true);
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
        _ => tracing::info!(message, "RocksDB"),
    }
}

fn families(options: &Options) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    vec![
        ColumnFamilyDescriptor::new(LOG, log_options(options, &cache)),
        ColumnFamilyDescriptor::new(META, meta_options(options, &cache)),
    ]
}

/// The log is appended to at the end of each group and deleted at the beginning. Every flushed file holds a slice of every group, so
/// level-0 files are merged once into level 1, which cuts them by group (RocksDB cuts a file where the next level has a file to skip).
/// From there on nothing overlaps: files move down without being rewritten, and retention deletes them whole. Measured by this
/// crate's bench against universal compaction and against none.
fn log_options(options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut log = rocksdb::Options::default();
    log.set_write_buffer_size(options.memtable_bytes);
    log.set_max_write_buffer_number(MEMTABLES_MAX);
    log.set_compression_type(DBCompressionType::None);
    log.set_level_compaction_dynamic_level_bytes(false);
    log.set_level_zero_file_num_compaction_trigger(LEVEL0_MERGE_FILES);
    log.set_level_zero_slowdown_writes_trigger(LEVEL0_SLOWDOWN_FILES);
    log.set_level_zero_stop_writes_trigger(LEVEL0_STOP_FILES);
    // Level 1 passes everything on at once: what stays there would be rewritten by the next merge.
    log.set_max_bytes_for_level_base(options.memtable_bytes as u64);
    log.set_max_bytes_for_level_multiplier(1024.0);
    log.set_num_levels(4);
    // Files are cut by group only where they are small beside a group's share of the next level.
    log.set_target_file_size_base(options.memtable_bytes as u64 / 4);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(LOG_BLOCK_BYTES);
    table.set_block_cache(cache);
    table.set_format_version(6);
    log.set_block_based_table_factory(&table);
    log
}

fn meta_options(options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut meta = rocksdb::Options::default();
    // As large as the log's: both are flushed together, and the smaller would cut the larger short.
    meta.set_write_buffer_size(options.memtable_bytes);
    meta.set_compression_type(DBCompressionType::None);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    meta.set_block_based_table_factory(&table);
    meta
}
