//! What the disk path costs: `cargo bench -p storage [-- --dir DIRECTORY]`.
//!
//! Prints tables: entries per sync and syncs per second as the number of appends on their way grows, beside a bare file that is
//! overwritten and synced; and bytes written per entry of 100 bytes, merges included, for several ways of merging. The directory
//! must be on the disk in question; the working directory's disk is the default.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use qiang_storage::{Bytes, GroupId, GroupLog, Identity, Options, Stats, Store};
use rocksdb::{DB, DBCompactionStyle, DBCompressionType, WriteBatch, WriteOptions};

const GROUPS: u16 = 16;
const ENTRY_BYTES: usize = 100;
const MIB: u64 = 1 << 20;

fn main() {
    // `cargo bench` adds `--bench`; `cargo test --benches` would not, and has no use for minutes of measuring.
    let arguments: Vec<String> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let given = arguments
        .iter()
        .position(|argument| argument == "--dir")
        .and_then(|at| arguments.get(at + 1));
    let base = given.map_or_else(|| PathBuf::from("."), PathBuf::from);
    probe_file(&base);
    open_times(&base);
    append_tables(&base);
    write_amplification(&base);
}

fn scratch(base: &Path) -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("qiang-bench-")
        .tempdir_in(base)
        .expect("the directory can be written")
}

fn open(dir: &Path, options: &Options) -> Store {
    let identity = Identity::new("bench", 1, 16);
    Store::open(dir, &identity, options).expect("an empty directory on a disk with space")
}

/// A bare file overwritten in place and synced: what the disk allows at most, one writer.
fn probe_file(base: &Path) {
    println!("bare file, overwritten in place, fdatasync after each write");
    println!(
        "{:>12} {:>10} {:>9} {:>9} {:>9}",
        "bytes", "syncs/s", "p50 us", "p99 us", "max us"
    );
    let dir = scratch(base);
    let path = dir.path().join("file");
    for bytes in [256, 4096, 65_536] {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&path)
            .expect("a new file");
        warm(&file, 64 * MIB);
        let block = vec![7; bytes];
        let mut taken = Vec::new();
        let begun = Instant::now();
        let mut at = 0;
        while begun.elapsed() < Duration::from_secs(3) {
            let write = Instant::now();
            file.write_all_at(&block, at).expect("an open file");
            file.sync_data().expect("an open file");
            taken.push(write.elapsed());
            at = (at + bytes as u64) % (63 * MIB);
        }
        let rate = taken.len() as f64 / begun.elapsed().as_secs_f64();
        taken.sort();
        let at = |percent: usize| taken[(taken.len() - 1) * percent / 100].as_micros();
        println!(
            "{bytes:>12} {rate:>10.0} {:>9} {:>9} {:>9}",
            at(50),
            at(99),
            at(100)
        );
    }
}

fn warm(file: &File, bytes: u64) {
    let block = vec![1; 1 << 20];
    for at in (0..bytes).step_by(block.len()) {
        file.write_all_at(&block, at).expect("space on the disk");
    }
    file.sync_all().expect("an open file");
}

/// What creating and opening cost a node's start.
fn open_times(base: &Path) {
    let dir = scratch(base);
    println!("\nopening with default options, ms");
    for what in ["created", "opened again", "opened after 1,000,000 entries"] {
        let begun = Instant::now();
        let store = open(dir.path(), &Options::default());
        println!("{what:>34} {:>9}", begun.elapsed().as_millis());
        if what == "opened again" {
            let log = store.log(GroupId(0)).expect("a healthy disk");
            for first in (0..1_000_000).step_by(1000) {
                let values = (first..first + 1000).map(|index| Bytes::from(entry(index)));
                log.append(
                    first,
                    values.collect(),
                    Box::new(|result| result.expect("a healthy disk")),
                );
            }
        }
        store.close();
    }
}

/// Every group keeps a number of appends of one entry on their way.
fn append_tables(base: &Path) {
    let cold = Options {
        wal_warm_bytes: 0,
        recycled_wals: 0,
        ..Options::default()
    };
    let unsynced = Options {
        sync: false,
        ..Options::default()
    };
    for (name, options) in [
        (
            "files overwritten in place (the default)",
            Options::default(),
        ),
        ("files that grow", cold),
        ("without sync: the cost of everything else", unsynced),
    ] {
        println!("\n{GROUPS} groups, entries of {ENTRY_BYTES} bytes, {name}");
        println!(
            "{:>12} {:>11} {:>9} {:>13} {:>9} {:>9} {:>9}",
            "on their way", "entries/s", "syncs/s", "entries/sync", "p50 us", "p99 us", "max us"
        );
        for pending in [1_u64, 2, 16, 64, 512, 4096] {
            let dir = scratch(base);
            let store = open(dir.path(), &options);
            let (stats, took) = append_for(&store, pending, Duration::from_secs(3));
            let seconds = took.as_secs_f64();
            let latency = &stats.sync_latency_us;
            println!(
                "{pending:>12} {:>11.0} {:>9.0} {:>13.1} {:>9} {:>9} {:>9}",
                stats.entries as f64 / seconds,
                stats.syncs as f64 / seconds,
                stats.entries as f64 / stats.syncs as f64,
                latency.quantile(0.5),
                latency.quantile(0.99),
                latency.max
            );
        }
    }
}

fn append_for(store: &Store, pending_max: u64, duration: Duration) -> (Stats, Duration) {
    let logs: Vec<GroupLog> = (0..GROUPS)
        .map(|group| store.log(GroupId(group)).expect("a new store"))
        .collect();
    let value = Bytes::from(vec![42; ENTRY_BYTES]);
    let pending = Arc::new((Mutex::new(0_u64), Condvar::new()));
    let begun = Instant::now();
    let mut next = [0_u64; GROUPS as usize];
    while begun.elapsed() < duration {
        for (log, next) in logs.iter().zip(&mut next) {
            let waiting = pending.0.lock().expect("no panics");
            let mut count = pending
                .1
                .wait_while(waiting, |count| *count >= pending_max)
                .expect("no panics");
            *count += 1;
            drop(count);
            let pending = pending.clone();
            let done = move |result: Result<(), _>| {
                result.expect("a healthy disk");
                let mut count = pending.0.lock().expect("no panics");
                *count -= 1;
                // The producer is woken once half of its window is free, as an actor is woken once for many.
                if *count <= pending_max / 2 {
                    pending.1.notify_one();
                }
            };
            log.append(*next, vec![value.clone()], Box::new(done));
            *next += 1;
        }
    }
    let waiting = pending.0.lock().expect("no panics");
    drop(
        pending
            .1
            .wait_while(waiting, |count| *count > 0)
            .expect("no panics"),
    );
    (store.stats(), begun.elapsed())
}

/// Bytes that this process gave to the disk, per byte of entries.
fn write_amplification(base: &Path) {
    const ENTRIES: u64 = 12_000_000;
    println!(
        "\n{ENTRIES} entries of {ENTRY_BYTES} bytes over {GROUPS} groups, half of them forgotten on the way"
    );
    println!(
        "{:>34} {:>12} {:>12} {:>12} {:>10}",
        "", "bytes/entry", "on disk MiB", "read 1M ms", "seconds"
    );
    report_store(base, ENTRIES);
    for style in [Style::Leveled, Style::Universal, Style::None] {
        report_style(base, style, ENTRIES);
    }
    println!(
        "bytes/entry counts write-ahead file, table files and merges; an entry itself has {ENTRY_BYTES}, key and checksum 14 more."
    );
}

/// Entries of one append: what a turn of a busy actor proposes.
const PER_APPEND: u64 = 20;
/// Retention follows the log's end at this distance, in entries per group.
const KEPT: u64 = 375_000;

fn report_store(base: &Path, entries: u64) {
    let dir = scratch(base);
    let options = Options {
        wal_warm_bytes: 0,
        ..Options::default()
    };
    let store = open(dir.path(), &options);
    let logs: Vec<GroupLog> = (0..GROUPS)
        .map(|group| store.log(GroupId(group)).expect("a new store"))
        .collect();
    let begun = (Instant::now(), written_bytes());
    let per_group = entries / u64::from(GROUPS);
    let outstanding = Arc::new(AtomicU64::new(0));
    for first in (0..per_group).step_by(PER_APPEND as usize) {
        for log in &logs {
            let values = (first..first + PER_APPEND)
                .map(|index| Bytes::from(entry(index)))
                .collect();
            outstanding.fetch_add(1, Ordering::Relaxed);
            let outstanding = outstanding.clone();
            let done = move |result: Result<(), _>| {
                result.expect("a healthy disk");
                outstanding.fetch_sub(1, Ordering::Relaxed);
            };
            log.append(first, values, Box::new(done));
        }
        let end = first + PER_APPEND;
        if end.is_multiple_of(BITE) && end > KEPT {
            for log in &logs {
                log.purge(end - KEPT, Bytes::from_static(b"marker"))
                    .expect("a healthy disk");
                log.forget_below(end - KEPT).expect("a healthy disk");
            }
        }
    }
    while outstanding.load(Ordering::Relaxed) > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    settle_merges(dir.path());
    let (took, written) = (begun.0.elapsed(), written_bytes() - begun.1);
    let read = Instant::now();
    let mut count = 0;
    for log in &logs {
        let mut at = log.first_index().expect("entries are kept");
        let end = (at + 1_000_000 / u64::from(GROUPS)).min(per_group);
        while at < end {
            let found = log.read(at, end, 1 << 20).expect("a healthy disk").len() as u64;
            at += found;
            count += found;
        }
    }
    let read = read.elapsed().as_millis() as f64 * 1e6 / count as f64;
    let per_entry = written as f64 / entries as f64;
    println!(
        "{:>34} {per_entry:>12.0} {:>12} {read:>12.0} {:>10.1}",
        "the store: a family per group",
        disk_bytes(dir.path()) / MIB,
        took.as_secs_f64()
    );
}

#[derive(Clone, Copy)]
enum Style {
    Leveled,
    Universal,
    None,
}

/// Retention runs whenever so many entries per group have become too old.
const BITE: u64 = KEPT / 5;

/// The same entries through bare RocksDB, all groups in one column family, with one way of merging, unsynced: only bytes count here.
fn report_style(base: &Path, style: Style, entries: u64) {
    let dir = scratch(base);
    let (name, options) = style_options(style);
    let db = DB::open(&options, dir.path()).expect("an empty directory");
    let unsynced = WriteOptions::default();
    let begun = (Instant::now(), written_bytes());
    let per_group = entries / u64::from(GROUPS);
    for first in (0..per_group).step_by(PER_APPEND as usize) {
        let mut batch = WriteBatch::default();
        for group in 0..GROUPS {
            for index in first..first + PER_APPEND {
                batch.put(key(group, index), entry(index));
            }
        }
        db.write_opt(batch, &unsynced).expect("a healthy disk");
        let end = first + PER_APPEND;
        if end.is_multiple_of(BITE) && end > KEPT {
            for group in 0..GROUPS {
                let (from, to) = (key(group, end - KEPT - BITE), key(group, end - KEPT));
                let mut batch = WriteBatch::default();
                batch.delete_range(from, to);
                db.write_opt(batch, &unsynced).expect("a healthy disk");
                db.delete_file_in_range(key(group, 0), to)
                    .expect("a healthy disk");
            }
        }
    }
    settle_merges(dir.path());
    let (took, written) = (begun.0.elapsed(), written_bytes() - begun.1);
    let read = Instant::now();
    let mut count = 0_u64;
    for group in 0..GROUPS {
        let end = per_group - KEPT + 1_000_000 / u64::from(GROUPS);
        let mut iterator = db.raw_iterator();
        iterator.seek(key(group, per_group - KEPT));
        while iterator
            .key()
            .is_some_and(|found| found < &key(group, end)[..])
        {
            count += 1;
            iterator.next();
        }
    }
    let read = read.elapsed().as_millis() as f64 * 1e6 / count as f64;
    let per_entry = written as f64 / entries as f64;
    println!(
        "{name:>34} {per_entry:>12.0} {:>12} {read:>12.0} {:>10.1}",
        disk_bytes(dir.path()) / MIB,
        took.as_secs_f64()
    );
}

fn style_options(style: Style) -> (&'static str, rocksdb::Options) {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(Options::default().memtable_bytes);
    options.set_max_write_buffer_number(4);
    options.set_max_background_jobs(2);
    options.set_level_zero_slowdown_writes_trigger(1000);
    options.set_level_zero_stop_writes_trigger(1000);
    let name = match style {
        Style::Leveled => "one family, leveled merges",
        Style::Universal => {
            options.set_compaction_style(DBCompactionStyle::Universal);
            "one family, universal merges"
        }
        Style::None => {
            options.set_disable_auto_compactions(true);
            "one family, no merges (keeps all)"
        }
    };
    (name, options)
}

fn key(group: u16, index: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&group.to_be_bytes());
    key[2..].copy_from_slice(&index.to_be_bytes());
    key
}

fn entry(index: u64) -> Vec<u8> {
    let mut value = vec![0; ENTRY_BYTES];
    for (at, byte) in value.iter_mut().enumerate() {
        *byte = (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at % 57)) as u8;
    }
    value
}

/// Waits until flushes and merges have written nothing for a second.
fn settle_merges(dir: &Path) {
    let mut before = (written_bytes(), disk_bytes(dir));
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = (written_bytes(), disk_bytes(dir));
        if now == before {
            return;
        }
        before = now;
    }
}

/// Bytes this process has handed to the file system (Linux).
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("Linux tells");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .expect("Linux tells");
    line.parse().expect("a number")
}

fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
