//! A group that leaves the node: all of it goes at once but the vote and a tombstone, its space too, and it can come back.

use std::fs;
use std::path::Path;

use qiang_storage::{Bytes, GroupId, GroupLog, Options, Store, WriteError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::{
    append, awaited, check, copy_dir, identity, log, newest_wal, open, save_vote, settle, small,
};

/// A log with everything a log can have: flows below the floor, a gap, entries above, a committed index, a vote.
fn fill(log: &GroupLog) {
    append(log, 5..40).unwrap();
    log.save_committed(30, Bytes::from("c"));
    log.purge(99, Bytes::from("snapshot")).unwrap();
    append(log, 100..160).unwrap();
    log.save_committed(140, Bytes::from("c"));
    log.purge(120, Bytes::from("floor")).unwrap();
    log.forget_below(10).unwrap();
    save_vote(log, "vote").unwrap();
}

/// The runs of a log, written out.
fn runs(log: &GroupLog) -> String {
    format!("{:?}", log.runs())
}

fn assert_filled(log: &GroupLog) {
    assert_eq!(runs(log), "[10..31, 100..160]");
    assert_eq!(log.floor(), Some((120, Bytes::from("floor"))));
    assert_eq!(log.vote(), Some(Bytes::from("vote")));
    assert!(!log.is_empty());
    check(log, 10..31, 1000);
    check(log, 100..160, 1000);
}

fn assert_cleared(log: &GroupLog) {
    assert_eq!((log.first_index(), log.last_index()), (None, None));
    assert_eq!((log.floor(), log.committed()), (None, None));
    assert!(log.runs().is_empty() && log.is_empty());
    assert_eq!(log.vote(), Some(Bytes::from("vote")), "the vote is kept");
    for from in [0, 10, 100, 159] {
        assert!(log.read(from, 1000, usize::MAX).unwrap().is_empty());
    }
}

#[test]
fn a_cleared_group_is_as_if_never_written_but_for_its_vote_and_tombstone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (handle, other) = (log(&store, 1), log(&store, 2));
    fill(&handle);
    fill(&other);
    assert_eq!(store.groups().unwrap(), [GroupId(1), GroupId(2)]);
    let tombstone = Some(Bytes::from("tombstone"));
    handle.clear(tombstone.clone()).unwrap();
    assert_cleared(&handle);
    assert_eq!(handle.tombstone(), tombstone);
    assert_eq!(store.groups().unwrap(), [GroupId(2)]);
    handle.clear(None).unwrap();
    drop((handle, other));
    store.close();

    let store = open(dir.path());
    let handle = log(&store, 1);
    assert_cleared(&handle);
    assert_eq!(handle.tombstone(), tombstone);
    assert_eq!(store.groups().unwrap(), [GroupId(2)]);
    assert_filled(&log(&store, 2));
    // It comes back, and begins somewhere else: lower than before, then higher, then at a snapshot.
    append(&handle, 3..6).unwrap();
    assert_eq!(runs(&handle), "[3..6]");
    handle.clear(None).unwrap();
    append(&handle, 500..510).unwrap();
    assert_eq!(runs(&handle), "[500..510]");
    handle.clear(None).unwrap();
    handle.purge(130, Bytes::from("m")).unwrap();
    append(&handle, 131..133).unwrap();
    assert_eq!(store.groups().unwrap(), [GroupId(1), GroupId(2)]);
    drop(handle);
    store.close();

    let store = open(dir.path());
    let handle = log(&store, 1);
    assert_eq!(runs(&handle), "[131..133]");
    assert_eq!(handle.committed(), None);
    check(&handle, 131..133, 1000);
    assert!(handle.read(100, 131, usize::MAX).unwrap().is_empty());
    drop(handle);
    drop(store);
    let offline = Store::open_offline(dir.path()).unwrap();
    assert_eq!(log(&offline, 1).clear(None), Err(WriteError::ReadOnly));
}

#[test]
fn groups_are_those_with_entries_a_floor_or_a_committed_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for group in [1, 2, 4, 16] {
        save_vote(&log(&store, group), "vote").unwrap();
    }
    append(&log(&store, 2), 0..1).unwrap();
    log(&store, 3).purge(7, Bytes::new()).unwrap();
    append(&log(&store, 16), 0..1).unwrap();
    append(&log(&store, 5), 0..1).unwrap();
    log(&store, 5).truncate_after(None).unwrap();
    settle(&log(&store, 5));
    let held = [2, 3, 16];
    assert_eq!(store.groups().unwrap(), held.map(GroupId));
    for group in 0..17 {
        assert_eq!(log(&store, group).is_empty(), !held.contains(&group));
    }
}

/// Bytes of table files.
fn table_bytes(dir: &Path) -> u64 {
    fs::read_dir(dir.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "sst"))
        // A merge may delete a file at any moment.
        .filter_map(|entry| entry.metadata().ok())
        .map(|found| found.len())
        .sum()
}

#[test]
fn a_cleared_group_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let logs = [log(&store, 0), log(&store, 1)];
    for chunk in 0..100 {
        for log in &logs {
            let (done, answer) = awaited();
            let values = (0..100).map(|at| Bytes::from(vec![at; 1000])).collect();
            log.append(chunk * 100, values, done);
            answer.recv().unwrap().unwrap();
        }
    }
    // Ten megabytes each, and every quarter of one goes to table files.
    let before = table_bytes(dir.path());
    assert!(before > 15_000_000, "{before}");
    logs[0].clear(None).unwrap();
    // Files go when nothing reads them any more, which RocksDB sees to on a thread of its own.
    let deadline = std::time::Instant::now() + crate::common::DEADLINE;
    while table_bytes(dir.path()) > 11_500_000 {
        assert!(
            std::time::Instant::now() < deadline,
            "{} of {before} bytes are left",
            table_bytes(dir.path())
        );
        std::thread::yield_now();
    }
    assert_eq!(runs(&logs[1]), "[0..10000]");
    assert_eq!(logs[1].read(9_999, 10_000, 0).unwrap()[0].len(), 1000);
    assert!(logs[0].read(5_000, 10_000, usize::MAX).unwrap().is_empty());
}

#[test]
fn a_crash_while_clearing_leaves_the_group_as_it_was_or_cleared() {
    let seed: u64 = std::env::var("QIANG_STORAGE_TEST_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("QIANG_STORAGE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // Everything before the clearing is in one write-ahead file, which is not overwritten afterwards.
    let options = Options {
        memtable_bytes: 16 << 20,
        recycled_wals: 0,
        ..small()
    };
    let dir = tempfile::tempdir().unwrap();
    let before = tempfile::tempdir().unwrap();
    let kept = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
    let store = Store::open(dir.path(), &identity(), &options).unwrap();
    fill(&log(&store, 1));
    copy_dir(dir.path(), before.path());
    let wal = newest_wal(dir.path());
    // The database deletes the file when it has no more use for it; under this name it stays.
    fs::hard_link(&wal, kept.path().join("wal")).unwrap();
    log(&store, 1).clear(None).unwrap();
    drop(store);
    let whole = fs::read(kept.path().join("wal")).unwrap();
    let begin = fs::metadata(newest_wal(before.path())).unwrap().len() as usize;
    assert!(begin < whole.len(), "the clearing was written to this file");

    let mut cuts = vec![begin, whole.len()];
    cuts.extend((0..40).map(|_| random.random_range(begin..whole.len())));
    for at in cuts {
        let image = tempfile::tempdir().unwrap();
        copy_dir(before.path(), image.path());
        fs::write(newest_wal(image.path()), &whole[..at]).unwrap();
        let store = Store::open(image.path(), &identity(), &options).unwrap();
        let handle = log(&store, 1);
        if at == whole.len() {
            assert_cleared(&handle);
        } else {
            assert_filled(&handle);
        }
        let end = handle.last_index().map_or(0, |last| last + 1);
        append(&handle, end..end + 3).unwrap();
    }
}
