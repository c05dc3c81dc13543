//! Snapshot files: written whole or not at all, and never trusted when damaged.

use std::fs;
use std::io::{ErrorKind, Read, Write};

use qiang_storage::{GroupId, SnapshotDir, SnapshotError, SnapshotReader};

use crate::common::open;

/// Three blocks and a half.
fn content() -> Vec<u8> {
    (0..230_000_u32).map(|at| (at / 7) as u8).collect()
}

fn write(snapshots: &SnapshotDir, index: u64, meta: &[u8], content: &[u8]) {
    let mut writer = snapshots.create(index, meta).unwrap();
    for piece in content.chunks(10_001) {
        writer.write_all(piece).unwrap();
    }
    let info = writer.finish().unwrap();
    assert_eq!(
        (info.index, fs::metadata(&info.path).unwrap().len()),
        (index, info.bytes)
    );
}

fn read(reader: &mut SnapshotReader) -> Vec<u8> {
    let mut found = Vec::new();
    reader.read_to_end(&mut found).unwrap();
    found
}

fn indexes(snapshots: &SnapshotDir) -> Vec<u64> {
    snapshots
        .list()
        .unwrap()
        .iter()
        .map(|snapshot| snapshot.index)
        .collect()
}

#[test]
fn a_finished_snapshot_reads_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let snapshots = store.snapshots(GroupId(3));
    assert!(snapshots.list().unwrap().is_empty() && snapshots.newest_good().unwrap().is_none());
    for (index, length) in [(7, 0), (8, 1), (9, 65_536), (10, 131_072), (11, 230_000)] {
        write(&snapshots, index, b"who", &content()[..length]);
        let mut reader = snapshots.open(index).unwrap();
        assert_eq!(
            (reader.group(), reader.index(), reader.meta()),
            (GroupId(3), index, &b"who"[..])
        );
        reader.verify().unwrap();
        assert!(read(&mut reader) == content()[..length], "{length} bytes");
    }
    assert_eq!(indexes(&snapshots), [7, 8, 9, 10, 11]);
    assert!(store.snapshots(GroupId(4)).list().unwrap().is_empty());
    snapshots.keep_newest(2).unwrap();
    assert_eq!(indexes(&snapshots), [10, 11]);
    snapshots.delete_all().unwrap();
    assert!(indexes(&snapshots).is_empty());
    assert!(matches!(snapshots.open(11), Err(SnapshotError::Io { .. })));
}

#[test]
fn an_unfinished_snapshot_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let snapshots = store.snapshots(GroupId(3));
    let files = || {
        fs::read_dir(dir.path().join("snapshots/3"))
            .unwrap()
            .count()
    };
    let mut writer = snapshots.create(5, b"").unwrap();
    writer.write_all(&content()).unwrap();
    assert_eq!((indexes(&snapshots), files()), (vec![], 1));
    drop(writer);
    assert_eq!(files(), 0);

    // A killed process cannot clean up: the next open does.
    std::mem::forget(snapshots.create(6, b"").unwrap());
    assert_eq!(files(), 1);
    store.close();
    open(dir.path());
    assert_eq!(files(), 0);
}

#[test]
fn every_cut_and_every_changed_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let snapshots = store.snapshots(GroupId(3));
    write(&snapshots, 5, b"meta", &content());
    let path = snapshots.list().unwrap()[0].path.clone();
    let good = fs::read(&path).unwrap();
    let is_bad = |what: &str| {
        let verified = snapshots.open(5).and_then(|reader| reader.verify());
        let Err(SnapshotError::Corrupt { path: named, .. }) = verified else {
            panic!("{what}: {verified:?}")
        };
        assert_eq!(named, path);
        assert!(snapshots.newest_good().unwrap().is_none());
        // Nor does a reader that trusts the stream get to its end.
        if let Ok(mut reader) = snapshots.open(5) {
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
            assert!(matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof
            ));
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
    };
    let places = (0..100)
        .chain((100..good.len()).step_by(4_999))
        .chain(good.len() - 30..good.len());
    for at in places {
        fs::write(&path, &good[..at]).unwrap();
        is_bad(&format!("cut at {at}"));
        let mut changed = good.clone();
        changed[at] ^= 0x10;
        fs::write(&path, &changed).unwrap();
        is_bad(&format!("byte {at} changed"));
    }
    fs::write(&path, [&good[..], &[0]].concat()).unwrap();
    is_bad("prolonged");
    let block = 65_536 + 8;
    let header = good.len() - 230_000 - 4 * 8 - 16;
    let mut swapped = good.clone();
    swapped[header..header + 2 * block].rotate_left(block);
    fs::write(&path, &swapped).unwrap();
    is_bad("two blocks swapped");
    fs::write(&path, &good).unwrap();
    snapshots.open(5).unwrap().verify().unwrap();
}

#[test]
fn the_newest_good_one_is_found_behind_bad_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let snapshots = store.snapshots(GroupId(3));
    for index in [5, 6, 7] {
        write(
            &snapshots,
            index,
            b"",
            format!("content {index}").as_bytes(),
        );
    }
    let paths: Vec<_> = snapshots
        .list()
        .unwrap()
        .into_iter()
        .map(|snapshot| snapshot.path)
        .collect();
    fs::write(&paths[2], "nonsense").unwrap();
    fs::copy(&paths[0], &paths[1]).unwrap();
    let error = snapshots.open(6).err().unwrap();
    assert!(error.to_string().contains("its header 5"), "{error}");
    let mut newest = snapshots.newest_good().unwrap().unwrap();
    assert_eq!(
        (newest.index(), read(&mut newest)),
        (5, b"content 5".to_vec())
    );
}

#[test]
fn an_imported_snapshot_is_verified_and_of_the_right_group() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (from, to) = (store.snapshots(GroupId(3)), store.snapshots(GroupId(3)));
    write(&from, 5, b"m", &content());
    let received = dir.path().join("received");
    fs::rename(&from.list().unwrap()[0].path, &received).unwrap();
    let good = fs::read(&received).unwrap();

    let error = store.snapshots(GroupId(4)).import(&received).unwrap_err();
    assert!(
        matches!(error, SnapshotError::Other { found_index: 5, .. }),
        "{error}"
    );
    fs::write(&received, &good[..good.len() - 1]).unwrap();
    assert!(matches!(
        to.import(&received),
        Err(SnapshotError::Corrupt { .. })
    ));
    assert!(indexes(&to).is_empty());

    fs::write(&received, &good).unwrap();
    let info = to.import(&received).unwrap();
    assert_eq!(
        (info.index, info.bytes, received.exists()),
        (5, good.len() as u64, false)
    );
    assert!(read(&mut to.newest_good().unwrap().unwrap()) == content());
}

#[test]
fn clearing_removes_every_file_of_the_group_and_of_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (snapshots, other) = (store.snapshots(GroupId(3)), store.snapshots(GroupId(4)));
    snapshots.clear().unwrap();
    for index in [7, 8] {
        write(&snapshots, index, b"", &content());
        write(&other, index, b"", &content());
    }
    let damaged = snapshots.list().unwrap()[0].path.with_extension("bad");
    fs::write(&damaged, "set aside").unwrap();
    let mut unfinished = snapshots.create(9, b"").unwrap();
    unfinished.write_all(&content()).unwrap();
    snapshots.clear().unwrap();
    assert!(!damaged.parent().unwrap().exists());
    assert!(
        unfinished.finish().is_err(),
        "it belonged to what was cleared"
    );
    assert!(snapshots.list().unwrap().is_empty());
    assert_eq!(indexes(&other), [7, 8]);
    write(&snapshots, 2, b"", &content());
    assert_eq!(indexes(&snapshots), [2]);
}
