//! A disk that gives back something else than was written: it is named, and nothing is skipped or silently dropped.

use std::fs;
use std::path::{Path, PathBuf};

use qiang_storage::{Bytes, GroupId, OpenError, Options, ReadError, Store};
use rocksdb::DB;

use crate::common::{
    append, check, content, copy_dir, identity, log, newest_wal, open, save_vote, small, value,
};

/// The database of a closed store, opened behind the store's back.
fn raw(dir: &Path, change: impl FnOnce(&DB)) {
    let mut options = rocksdb::Options::default();
    options.set_atomic_flush(true);
    let families = DB::list_cf(&options, dir.join("db")).unwrap();
    let db = DB::open_cf(&options, dir.join("db"), families).unwrap();
    change(&db);
}

fn log_key(group: u16, index: u64) -> Vec<u8> {
    [&group.to_be_bytes()[..], &index.to_be_bytes()].concat()
}

fn used() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for group in [1, 2] {
        let log = log(&store, group);
        append(&log, 0..100).unwrap();
        save_vote(&log, "v").unwrap();
        log.save_committed(90, Bytes::from("m"));
        log.purge(20, Bytes::from("m")).unwrap();
    }
    dir
}

#[test]
fn a_changed_value_is_named_by_group_index_and_key_and_other_groups_go_on() {
    let dir = used();
    raw(dir.path(), |db| {
        let family = db.cf_handle("log-01").unwrap();
        let mut stored = db.get_cf(family, log_key(1, 50)).unwrap().unwrap();
        *stored.last_mut().unwrap() ^= 1;
        db.put_cf(family, log_key(1, 50), stored).unwrap();
    });
    let store = open(dir.path());
    let damaged = log(&store, 1);
    check(&damaged, 0..50, 300);
    check(&damaged, 51..100, 300);
    for from in [30, 50] {
        let error = damaged.read(from, 100, usize::MAX).unwrap_err();
        assert!(
            matches!(
                error,
                ReadError::Corrupt {
                    group: GroupId(1),
                    index: 50,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("0x00010000000000000032"),
            "{error}"
        );
        assert!(
            error.to_string().contains(dir.path().to_str().unwrap()),
            "{error}"
        );
    }
    check(&log(&store, 2), 0..100, 300);
}

#[test]
fn an_entry_moved_to_another_key_or_deleted_is_noticed() {
    let dir = used();
    raw(dir.path(), |db| {
        let family = db.cf_handle("log-01").unwrap();
        let stored = db.get_cf(family, log_key(1, 50)).unwrap().unwrap();
        db.put_cf(family, log_key(1, 51), stored).unwrap();
        db.delete_cf(db.cf_handle("log-02").unwrap(), log_key(2, 70))
            .unwrap();
    });
    let store = open(dir.path());
    let error = log(&store, 1).read(51, 52, 1).unwrap_err();
    assert!(
        matches!(error, ReadError::Corrupt { index: 51, .. }),
        "{error}"
    );
    let error = log(&store, 2).read(60, 100, usize::MAX).unwrap_err();
    assert!(
        matches!(error, ReadError::Corrupt { index: 70, .. })
            && error.to_string().contains("missing"),
        "{error}"
    );
}

#[test]
fn a_log_that_lost_its_ends_is_not_opened() {
    let dir = used();
    raw(dir.path(), |db| {
        let family = db.cf_handle("log-01").unwrap();
        db.delete_range_cf(family, log_key(1, 85), log_key(1, 100))
            .unwrap();
        let family = db.cf_handle("log-02").unwrap();
        db.delete_range_cf(family, log_key(2, 0), log_key(2, 100))
            .unwrap();
    });
    let store = open(dir.path());
    let error = store.log(GroupId(1)).err().unwrap();
    assert!(
        matches!(error, ReadError::Corrupt { index: 90, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("committed") && error.to_string().contains("the last is 84"),
        "{error}"
    );
    let error = store.log(GroupId(2)).err().unwrap();
    assert!(
        matches!(error, ReadError::Corrupt { index: 0, .. }),
        "{error}"
    );
}

#[test]
fn damaged_state_is_named() {
    for (kind, name) in [
        (1, "first index"),
        (2, "floor"),
        (3, "vote"),
        (4, "committed index"),
    ] {
        let dir = used();
        raw(dir.path(), |db| {
            let family = db.cf_handle("meta").unwrap();
            let mut stored = db.get_cf(family, [0, 1, kind]).unwrap().unwrap();
            stored[4] ^= 0x80;
            db.put_cf(family, [0, 1, kind], stored).unwrap();
        });
        let store = open(dir.path());
        let error = store.log(GroupId(1)).err().unwrap();
        assert!(
            matches!(
                error,
                ReadError::CorruptState {
                    group: GroupId(1),
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains(name)
                && error.to_string().contains(&format!("0x00010{kind}")),
            "{error}"
        );
        check(&log(&store, 2), 0..100, 300);
    }
}

#[test]
fn a_damaged_table_file_is_named() {
    let dir = used();
    // Opening moves everything from the write-ahead file into a table file.
    drop(open(dir.path()));
    let place = |table: &PathBuf| {
        let bytes = fs::read(table).unwrap();
        bytes.windows(6).position(|bytes| bytes == b"1/50/\x0e")
    };
    let tables = files(dir.path(), "sst");
    let (table, at) = tables
        .iter()
        .find_map(|table| Some((table, place(table)?)))
        .unwrap();
    let mut bytes = fs::read(table).unwrap();
    bytes[at] ^= 1;
    fs::write(table, bytes).unwrap();
    let store = open(dir.path());
    let error = store
        .log(GroupId(1))
        .and_then(|log| log.read(50, 60, 1000))
        .unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Corrupt {
                group: GroupId(1),
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(table.file_name().unwrap().to_str().unwrap()),
        "{error}"
    );
}

/// A store that was killed after writing `batches` batches of its own each, in an old directory.
fn killed(options: &Options, batches: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let image = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &identity(), options).unwrap();
    let log = log(&store, 1);
    for index in 0..batches {
        append(&log, index..index + 1).unwrap();
    }
    copy_dir(dir.path(), image.path());
    image
}

/// Where the record of entry `index` of group 1 lies in a write-ahead file.
fn record_at(wal: &[u8], index: u64) -> usize {
    let value = value(1, index);
    wal.windows(value.len())
        .rposition(|bytes| bytes == value)
        .unwrap()
}

#[test]
fn a_write_ahead_file_damaged_in_its_middle_is_refused_and_left_alone() {
    for options in [
        small(),
        Options {
            wal_warm_bytes: 256 << 10,
            ..small()
        },
    ] {
        let image = killed(&options, 600);
        let wal = newest_wal(image.path());
        let good = fs::read(&wal).unwrap();
        for index in [0, 1, 300, 596] {
            let mut bytes = good.clone();
            bytes[record_at(&good, index)] ^= 4;
            fs::write(&wal, bytes).unwrap();
            let before = content(image.path());
            for opened in [
                Store::open(image.path(), &identity(), &options),
                Store::open_offline(image.path()),
            ] {
                let error = opened
                    .err()
                    .unwrap_or_else(|| panic!("damage at entry {index} was not noticed"));
                assert!(
                    matches!(&error, OpenError::Corrupt { file, .. } if *file == wal),
                    "{error}"
                );
            }
            assert_eq!(content(image.path()), before);
        }
        fs::write(&wal, good).unwrap();
        check(&log(&open(image.path()), 1), 0..600, 1000);
    }
}

/// A crash between two flushes: several write-ahead files hold what no table file has yet.
fn killed_with_several_wals() -> tempfile::TempDir {
    let dir = used();
    let image = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.set_recycle_log_file_num(4);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_write_buffer_size(64 << 10);
    options.set_max_write_buffer_number(10);
    options.set_min_write_buffer_number_to_merge(8);
    let names = DB::list_cf(&options, dir.path().join("db")).unwrap();
    let families = names.iter().map(|name| (name, options.clone()));
    let db = DB::open_cf_with_opts(&options, dir.path().join("db"), families).unwrap();
    let mut synced = rocksdb::WriteOptions::default();
    synced.set_sync(true);
    for index in 0..40_u8 {
        db.put_opt([index], vec![index; 10_000], &synced).unwrap();
    }
    copy_dir(dir.path(), image.path());
    image
}

#[test]
fn an_older_write_ahead_file_damaged_at_its_end_or_missing_is_refused() {
    let image = killed_with_several_wals();
    let wals = files(image.path(), "log");
    assert!(wals.len() >= 3, "{wals:?}");
    let older = &wals[wals.len() - 3];
    let good = fs::read(older).unwrap();
    let refused = |what: &str| {
        let before = content(image.path());
        let error = Store::open(image.path(), &identity(), &small()).err();
        assert!(
            matches!(error, Some(OpenError::Corrupt { .. })),
            "{what}: {error:?}"
        );
        assert_eq!(content(image.path()), before);
    };
    let mut bytes = good.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(older, bytes).unwrap();
    refused("its last record damaged");
    fs::write(older, &good[..good.len() - 1000]).unwrap();
    refused("its end cut");
    fs::remove_file(older).unwrap();
    refused("missing");
    fs::write(older, good).unwrap();
    let store = open(image.path());
    check(&log(&store, 1), 0..100, 300);
    drop(store);
    raw(image.path(), |db| {
        assert_eq!(db.get([39]).unwrap().unwrap(), [39; 10_000]);
    });
}

#[test]
fn a_database_without_any_write_ahead_file_is_refused() {
    let dir = used();
    for wal in files(dir.path(), "log") {
        fs::remove_file(wal).unwrap();
    }
    let error = Store::open(dir.path(), &identity(), &small())
        .err()
        .unwrap();
    assert!(
        matches!(&error, OpenError::Corrupt { file, .. } if file.ends_with("db")),
        "{error}"
    );
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(dir.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = found
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}
