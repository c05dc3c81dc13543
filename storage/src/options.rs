//! The sizes a store runs with. Invariant: every queue and buffer of this crate has its bound here or as a constant beside its use.

/// Sizes and switches of a [`crate::Store`]. The defaults suit a node with sixteen shards.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of entries that all groups together keep in memory before they go to table files, and so about the size of one
    /// write-ahead file. Larger ones mean fewer, larger table files; up to four times as much exists while the disk lags.
    pub memtable_bytes: usize,
    /// Write-ahead files kept for overwriting. Syncing a file that is overwritten in place changes no metadata and is two to ten
    /// times cheaper than syncing one that grows; four covers every memtable that may be waiting for its flush.
    pub recycled_wals: usize,
    /// Bytes written ahead into each of the first two write-ahead files at open, so that the very first grabs already overwrite
    /// instead of growing a file. Best equal to `memtable_bytes`; 0 leaves the files cold (tests, tools).
    pub wal_warm_bytes: usize,
    /// Bytes of memory for the newest entries of each group, so that replication and apply read no disk. Entries not yet durable
    /// are kept besides, however many.
    pub tail_bytes_per_group: usize,
    /// Operations that may wait for the writer thread. A full queue blocks the caller: that is the back pressure.
    pub queue_operations_max: usize,
    /// Bytes after which a batch is closed and synced, so that one batch cannot delay everybody's acknowledgement for long.
    pub batch_bytes_max: usize,
    /// Bytes of RocksDB's block cache, for replays and lagging readers; the hot path reads from the tail.
    pub block_cache_bytes: usize,
    /// Whether a write waits for the disk. Off, a power failure loses acknowledged entries: for benches only.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            memtable_bytes: 32 * MIB,
            recycled_wals: 4,
            wal_warm_bytes: 32 * MIB,
            tail_bytes_per_group: 2 * MIB,
            queue_operations_max: 4096,
            batch_bytes_max: 4 * MIB,
            block_cache_bytes: 32 * MIB,
            sync: true,
        }
    }
}
