//! The log of a group, as its owner uses it, and what is found of it after closing and opening.

use std::time::{Duration, Instant};

use crate::common::{
    append, awaited, check, identity, log, open, save_vote, settle, small, value, values,
};
use qiang_storage::{Bytes, GroupId, GroupLog, Options, ReadError, Store, WriteError};

/// The runs of a log, written out.
fn runs(log: &GroupLog) -> String {
    format!("{:?}", log.runs())
}

#[test]
fn reopening_finds_entries_votes_floors_and_committed_indexes_of_every_group() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for group in [0, 3, 16] {
        let log = log(&store, group);
        append(&log, 0..50).unwrap();
        save_vote(&log, &format!("vote of {group}")).unwrap();
        log.save_committed(40, Bytes::from("forty"));
        log.purge(10, Bytes::from("ten")).unwrap();
        append(&log, 50..60).unwrap();
    }
    assert_eq!(store.stats().entries, 180);
    store.close();

    let store = open(dir.path());
    assert_eq!(store.identity(), identity());
    assert_eq!(
        store.groups().unwrap(),
        [GroupId(0), GroupId(3), GroupId(16)]
    );
    for group in [0, 3, 16] {
        let log = log(&store, group);
        assert_eq!((log.first_index(), log.last_index()), (Some(0), Some(59)));
        assert_eq!(log.floor(), Some((10, Bytes::from("ten"))));
        assert_eq!(log.vote(), Some(Bytes::from(format!("vote of {group}"))));
        assert_eq!(log.committed(), Some((40, Bytes::from("forty"))));
        check(&log, 0..60, 100);
        check(&log, 0..60, usize::MAX);
    }
    let empty = log(&store, 5);
    assert_eq!(
        (
            empty.first_index(),
            empty.last_index(),
            empty.floor(),
            empty.vote()
        ),
        (None, None, None, None)
    );
    assert!(matches!(
        store.log(GroupId(64)),
        Err(ReadError::NoSuchGroup { .. })
    ));
}

#[test]
fn entries_are_readable_on_return_and_called_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = log(&store, 1);
    let (sender, receiver) = std::sync::mpsc::channel();
    for index in 0..500 {
        let sender = sender.clone();
        log.append(
            index,
            values(1, index..index + 1),
            Box::new(move |result| sender.send((index, result)).unwrap()),
        );
        assert_eq!(log.read(index, index + 1, 1).unwrap(), [value(1, index)]);
        assert_eq!(log.last_index(), Some(index));
    }
    for index in 0..500 {
        assert_eq!(
            receiver.recv_timeout(crate::common::DEADLINE).unwrap(),
            (index, Ok(()))
        );
    }
    check(&log, 0..500, 1000);
    let stats = store.stats();
    assert_eq!((stats.entries, stats.entries_per_sync.sum), (500, 500));
    assert_eq!(stats.syncs, stats.sync_latency_us.count());
}

#[test]
fn a_read_gives_at_least_one_entry_and_stops_at_its_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(
        dir.path(),
        &identity(),
        &Options {
            tail_bytes_per_group: 0,
            ..small()
        },
    )
    .unwrap();
    let log = log(&store, 2);
    append(&log, 0..30).unwrap();
    append(&log, 30..31).unwrap();
    for index in 0..31 {
        assert_eq!(log.read(index, 31, 0).unwrap(), [value(2, index)]);
    }
    assert_eq!(log.read(4, 9, usize::MAX).unwrap(), values(2, 4..9));
    assert!(log.read(31, 40, usize::MAX).unwrap().is_empty());
    assert!(log.read(9, 9, usize::MAX).unwrap().is_empty());
}

#[test]
fn an_append_that_does_not_follow_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = log(&store, 1);
    append(&log, 5..8).unwrap();
    for wrong in [0, 7, 9] {
        let error = append(&log, wrong..wrong + 2).unwrap_err();
        assert_eq!(
            error,
            WriteError::NotConsecutive {
                group: GroupId(1),
                expected: 8,
                given: wrong
            }
        );
    }
    append(&log, 8..9).unwrap();
    check(&log, 5..9, 1);
}

#[test]
fn a_truncated_log_goes_on_with_other_entries_across_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 1);
    append(&handle, 0..100).unwrap();
    handle.truncate_after(59).unwrap();
    assert_eq!(handle.last_index(), Some(59));
    assert!(handle.read(60, 100, usize::MAX).unwrap().is_empty());
    drop(handle);
    store.close();

    let store = open(dir.path());
    let handle = log(&store, 1);
    assert_eq!(handle.last_index(), Some(59));
    // Other content than before, shorter than what was cut.
    let (done, answer) = awaited();
    handle.append(60, vec![Bytes::from("new 60"), Bytes::from("new 61")], done);
    answer
        .recv_timeout(crate::common::DEADLINE)
        .unwrap()
        .unwrap();
    drop(handle);
    store.close();

    let store = open(dir.path());
    let handle = log(&store, 1);
    assert_eq!(handle.last_index(), Some(61));
    check(&handle, 0..60, 1000);
    assert_eq!(
        handle.read(60, 100, usize::MAX).unwrap(),
        ["new 60", "new 61"]
    );

    handle.truncate_after(None).unwrap();
    assert_eq!((handle.first_index(), handle.last_index()), (None, None));
    append(&handle, 0..3).unwrap();
    check(&handle, 0..3, 1000);
}

#[test]
fn a_truncation_while_the_cut_entries_are_on_their_way_never_shows_them_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(
        dir.path(),
        &identity(),
        &Options {
            tail_bytes_per_group: 0,
            ..small()
        },
    )
    .unwrap();
    let log = log(&store, 1);
    append(&log, 0..10).unwrap();
    for round in 0_u64..200 {
        log.append(
            10,
            vec![Bytes::from(format!("old {round}"))],
            Box::new(|_| ()),
        );
        log.truncate_after(9).unwrap();
        let new = Bytes::from(format!("new {round}"));
        let (done, answer) = awaited();
        log.append(10, vec![new.clone(), new.clone()], done);
        assert_eq!(log.read(10, 12, usize::MAX).unwrap(), [&new, &new]);
        answer
            .recv_timeout(crate::common::DEADLINE)
            .unwrap()
            .unwrap();
        assert_eq!(log.read(10, 12, usize::MAX).unwrap(), [&new, &new]);
        log.truncate_after(9).unwrap();
    }
}

#[test]
fn a_purge_moves_only_what_raft_sees() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 1);
    append(&handle, 0..20).unwrap();
    handle.purge(19, Bytes::from("a")).unwrap();
    assert_eq!((handle.first_index(), handle.last_index()), (Some(0), None));
    check(&handle, 0..20, 1000);
    handle.purge(12, Bytes::from("lower")).unwrap();
    assert_eq!(
        handle.floor(),
        Some((19, Bytes::from("a"))),
        "a lower floor changes nothing"
    );
    assert!(matches!(
        handle.truncate_after(18),
        Err(WriteError::AcrossFloor { .. })
    ));
    append(&handle, 20..25).unwrap();
    assert_eq!(handle.last_index(), Some(24));
    assert_eq!(runs(&handle), "[0..25]");
}

#[test]
fn what_a_snapshot_may_contradict_is_gone_for_good_before_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 1);
    append(&handle, 0..20).unwrap();
    handle.save_committed(14, Bytes::from("c"));
    handle.make_way(19).unwrap();
    assert_eq!(
        runs(&handle),
        "[0..20]",
        "it reaches as far as the snapshot"
    );
    handle.make_way(20).unwrap();
    assert_eq!(runs(&handle), "[0..15]");
    // What the next start finds, though nothing was written since.
    drop((handle, store));
    let store = open(dir.path());
    let handle = log(&store, 1);
    assert_eq!(runs(&handle), "[0..15]");
    handle.purge(99, Bytes::from("snapshot")).unwrap();
    append(&handle, 100..101).unwrap();
    assert_eq!(runs(&handle), "[0..15, 100..101]");
}

#[test]
fn a_log_goes_on_after_a_snapshot_that_it_did_not_reach() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (empty, longer) = (log(&store, 1), log(&store, 2));
    append(&longer, 0..20).unwrap();
    for handle in [&empty, &longer] {
        handle.go_on_after(9, Bytes::from("snapshot")).unwrap();
    }
    assert_eq!(longer.floor(), None);
    drop((empty, longer, store));
    let store = open(dir.path());
    assert_eq!(store.groups().unwrap(), [GroupId(1), GroupId(2)]);
    let handle = log(&store, 1);
    assert_eq!(handle.floor(), Some((9, Bytes::from("snapshot"))));
    append(&handle, 10..12).unwrap();
    assert_eq!(runs(&handle), "[10..12]");
}

#[test]
fn a_floor_beyond_the_log_keeps_committed_flows_and_drops_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 1);
    append(&handle, 0..20).unwrap();
    handle.save_committed(14, Bytes::from("c"));
    handle.purge(99, Bytes::from("snapshot")).unwrap();
    assert_eq!((handle.first_index(), handle.last_index()), (Some(0), None));
    assert_eq!(
        runs(&handle),
        "[0..15]",
        "15 to 19 were never said to be committed"
    );
    let error = append(&handle, 20..21).unwrap_err();
    assert_eq!(
        error,
        WriteError::NotConsecutive {
            group: GroupId(1),
            expected: 100,
            given: 20
        }
    );
    append(&handle, 100..110).unwrap();
    handle.save_committed(105, Bytes::from("c"));
    handle.purge(199, Bytes::from("snapshot 2")).unwrap();
    append(&handle, 200..201).unwrap();
    drop(handle);
    store.close();

    let store = open(dir.path());
    let handle = log(&store, 1);
    assert_eq!(runs(&handle), "[0..15, 100..106, 200..201]");
    assert_eq!(
        (handle.floor(), handle.last_index()),
        (Some((199, Bytes::from("snapshot 2"))), Some(200))
    );
    for run in handle.runs() {
        check(&handle, run.clone(), 50);
        assert!(handle.read(run.end, run.end + 1, 1000).unwrap().is_empty());
        let found = handle.read(run.start, 1000, usize::MAX).unwrap();
        assert_eq!(
            found.len() as u64,
            run.end - run.start,
            "a read stops at a gap"
        );
    }
    handle.forget_below(103).unwrap();
    assert_eq!(runs(&handle), "[103..106, 200..201]");
    handle.forget_below(150).unwrap();
    assert_eq!(
        (runs(&handle), handle.first_index()),
        ("[200..201]".into(), Some(200))
    );
    drop(handle);
    store.close();
    assert_eq!(runs(&log(&open(dir.path()), 1)), "[200..201]");
}

#[test]
fn a_new_replica_may_begin_at_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 1);
    handle.save_committed(500, Bytes::from("c"));
    handle.purge(500, Bytes::from("m")).unwrap();
    assert_eq!((handle.first_index(), handle.last_index()), (None, None));
    drop(handle);
    store.close();
    let store = open(dir.path());
    let handle = log(&store, 1);
    assert_eq!(handle.floor(), Some((500, Bytes::from("m"))));
    append(&handle, 501..503).unwrap();
    assert_eq!(
        (handle.first_index(), handle.last_index(), runs(&handle)),
        (Some(501), Some(502), "[501..503]".into())
    );
}

#[test]
fn retention_deletes_flows_and_gives_their_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let logs = [log(&store, 0), log(&store, 1)];
    let big = |index: u64| Bytes::from(vec![index as u8; 1000]);
    for chunk in 0..80 {
        for log in &logs {
            let (done, answer) = awaited();
            log.append(
                chunk * 100,
                (chunk * 100..chunk * 100 + 100).map(big).collect(),
                done,
            );
            answer
                .recv_timeout(crate::common::DEADLINE)
                .unwrap()
                .unwrap();
        }
    }
    let refused = logs[0].forget_below(10).unwrap_err();
    assert!(
        matches!(refused, WriteError::AcrossFloor { .. }),
        "{refused}"
    );
    let tables = |dir: &std::path::Path| -> u64 {
        let files = std::fs::read_dir(dir.join("db")).unwrap();
        let paths = files.map(|entry| entry.unwrap().path());
        let tables = paths.filter(|path| path.extension().is_some_and(|found| found == "sst"));
        // A merge may delete a file at any moment.
        tables
            .filter_map(|path| path.metadata().ok())
            .map(|found| found.len())
            .sum()
    };
    let before = tables(dir.path());
    for log in &logs {
        log.purge(7_899, Bytes::from("m")).unwrap();
        log.forget_below(7_800).unwrap();
        assert_eq!(
            (log.first_index(), log.last_index()),
            (Some(7_800), Some(7_999))
        );
        assert!(log.read(7_799, 7_801, usize::MAX).unwrap().is_empty());
        assert_eq!(log.read(7_800, 7_850, usize::MAX).unwrap().len(), 50);
        assert!(matches!(
            log.forget_below(7_901),
            Err(WriteError::AcrossFloor { .. })
        ));
    }
    // What merges run behind it may still be at work: wait for the space, not for a time.
    let deadline = Instant::now() + crate::common::DEADLINE;
    while tables(dir.path()) > before / 2 {
        assert!(
            Instant::now() < deadline,
            "tables hold {} of {before} bytes",
            tables(dir.path())
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    logs[0].forget_below(7_900).unwrap();
    drop(logs);
    store.close();
    let store = open(dir.path());
    assert_eq!(
        (log(&store, 0).first_index(), log(&store, 1).first_index()),
        (Some(7_900), Some(7_800))
    );
    assert_eq!(log(&store, 0).read(7_950, 7_951, 1).unwrap(), [big(7_950)]);
}

#[test]
fn all_flows_can_be_forgotten_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 1);
    append(&handle, 0..10).unwrap();
    handle.purge(9, Bytes::from("m")).unwrap();
    handle.forget_below(10).unwrap();
    assert_eq!(
        (handle.first_index(), handle.last_index(), runs(&handle)),
        (None, None, "[]".into())
    );
    drop(handle);
    store.close();
    let store = open(dir.path());
    let handle = log(&store, 1);
    append(&handle, 10..12).unwrap();
    assert_eq!(runs(&handle), "[10..12]");
    handle.truncate_after(9).unwrap();
    drop(handle);
    store.close();
    let store = open(dir.path());
    let handle = log(&store, 1);
    assert_eq!((handle.first_index(), runs(&handle)), (None, "[]".into()));
    append(&handle, 10..13).unwrap();
    assert_eq!(runs(&handle), "[10..13]");
}

#[test]
fn an_idle_writer_writes_the_committed_index_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 1);
    append(&handle, 0..5).unwrap();
    for (index, pause_ms) in [(2, 0), (3, 300), (4, 300)] {
        // The longer pauses let the writer fall asleep, so that it has to be woken.
        std::thread::sleep(Duration::from_millis(pause_ms));
        handle.save_committed(index, Bytes::from("c"));
        let deadline = Instant::now() + crate::common::DEADLINE;
        loop {
            let copy = tempfile::tempdir().unwrap();
            crate::common::copy_dir(dir.path(), copy.path());
            if log(&open(copy.path()), 1).committed() == Some((index, Bytes::from("c"))) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "committed index {index} is not written"
            );
        }
    }
    assert_eq!(store.stats().syncs, 1, "it costs no sync");
}

#[test]
fn a_committed_index_ahead_of_the_log_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 1);
    append(&handle, 0..5).unwrap();
    handle.save_committed(5, Bytes::from("ahead"));
    assert_eq!(handle.committed(), Some((5, Bytes::from("ahead"))));
    settle(&handle);
    drop(handle);
    store.close();
    assert_eq!(log(&open(dir.path()), 1).committed(), None);
}

#[test]
fn a_closed_store_refuses_writes_and_goes_on_reading() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = log(&store, 1);
    let answers: Vec<_> = (0..200)
        .map(|index| {
            let (done, answer) = awaited();
            log.append(index, values(1, index..index + 1), done);
            answer
        })
        .collect();
    store.close();
    assert!(
        answers.iter().all(|answer| answer.try_recv() == Ok(Ok(()))),
        "closing waits for what was handed over"
    );
    assert_eq!(append(&log, 200..201), Err(WriteError::Closed));
    check(&log, 0..200, 100);
}

#[test]
fn a_stopped_nodes_directory_can_be_read_but_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 4);
    append(&handle, 0..300).unwrap();
    save_vote(&handle, "v").unwrap();
    drop(handle);
    store.close();

    let before = crate::common::content(dir.path());
    let store = Store::open_offline(dir.path()).unwrap();
    assert_eq!(store.identity(), identity());
    assert_eq!(store.groups().unwrap(), [GroupId(4)]);
    let handle = log(&store, 4);
    check(&handle, 0..300, 500);
    assert_eq!(append(&handle, 300..301), Err(WriteError::ReadOnly));
    assert_eq!(save_vote(&handle, "w"), Err(WriteError::ReadOnly));
    assert_eq!(handle.truncate_after(3), Err(WriteError::ReadOnly));
    assert_eq!(handle.purge(3, Bytes::new()), Err(WriteError::ReadOnly));
    assert_eq!(handle.forget_below(3), Err(WriteError::ReadOnly));
    drop((handle, store));
    assert_eq!(crate::common::content(dir.path()), before);
    check(&log(&open(dir.path()), 4), 0..300, 500);
}

#[test]
fn warmed_write_ahead_files_are_overwritten_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        wal_warm_bytes: 1 << 20,
        ..small()
    };
    let store = Store::open(dir.path(), &identity(), &options).unwrap();
    let wal = crate::common::newest_wal(dir.path());
    assert!(std::fs::metadata(&wal).unwrap().len() >= 1 << 20);
    append(&log(&store, 0), 0..1000).unwrap();
    assert!(store.disk_free_bytes().unwrap() > 0);
    store.close();
    let store = Store::open(dir.path(), &identity(), &options).unwrap();
    check(&log(&store, 0), 0..1000, 5000);
}

#[test]
fn forgetting_up_to_an_entry_never_takes_that_entry() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = log(&store, 1);
    for chunk in 0..300 {
        append(&log, chunk * 100..chunk * 100 + 100).unwrap();
    }
    log.purge(29_999, Bytes::from("m")).unwrap();
    // Wherever a table file ends, some of these meet its last entry.
    for below in (1..29_999).step_by(97) {
        log.forget_below(below).unwrap();
        check(&log, below..below + 1, 1);
        check(&log, 29_990..30_000, 1000);
    }
    check(&log, log.first_index().unwrap()..30_000, 100_000);
}

#[test]
fn a_callback_that_panics_stops_the_store_loudly() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let handle = log(&store, 1);
    handle.append(
        0,
        values(1, 0..1),
        Box::new(|_| panic!("a bug in a callback")),
    );
    let deadline = Instant::now() + crate::common::DEADLINE;
    while store.fault().is_none() {
        assert!(
            Instant::now() < deadline,
            "the writer's end was not noticed"
        );
        std::thread::yield_now();
    }
    assert!(matches!(
        append(&handle, 1..2),
        Err(WriteError::Faulted { .. })
    ));
    check(&handle, 0..1, 1);
    drop(handle);
    store.close();
    check(&log(&open(dir.path()), 1), 0..1, 1);
}

#[test]
fn committed_entries_on_their_way_stay_readable_when_a_snapshot_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        tail_bytes_per_group: 0,
        ..small()
    };
    let store = Store::open(dir.path(), &identity(), &options).unwrap();
    let log = log(&store, 1);
    let mut end = 0;
    for _ in 0..200 {
        log.append(
            end,
            values(1, end..end + 4),
            Box::new(|result| result.unwrap()),
        );
        log.save_committed(end + 2, Bytes::from("c"));
        log.purge(end + 9, Bytes::from("m")).unwrap();
        check(&log, end..end + 3, 1);
        assert!(log.read(end + 3, end + 10, 1).unwrap().is_empty());
        end += 10;
    }
    settle(&log);
    for start in (0..end).step_by(10) {
        check(&log, start..start + 3, 1);
    }
}
