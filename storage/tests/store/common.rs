//! Words shared by the tests of the store. Invariant: what an entry holds follows from its group and index, so that every reader can
//! check what it reads.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use qiang_storage::{Bytes, Done, GroupId, GroupLog, Identity, Options, Store, WriteError};

/// Longer than any write may take; a test that waits so long has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn identity() -> Identity {
    Identity::new("sale-2026", 7, 4)
}

/// Small files, so that little data goes through flushes, merges and recycled files.
pub fn small() -> Options {
    Options {
        memtable_bytes: 256 << 10,
        wal_warm_bytes: 0,
        tail_bytes_per_group: 4 << 10,
        ..Options::default()
    }
}

pub fn open(dir: &Path) -> Store {
    Store::open(dir, &identity(), &small()).unwrap()
}

pub fn log(store: &Store, group: u16) -> GroupLog {
    store.log(GroupId(group)).unwrap()
}

/// What the entry at `index` holds: its place, then bytes whose number and values follow from it.
pub fn value(group: u16, index: u64) -> Bytes {
    let filler = usize::try_from(index % 90).unwrap();
    let mut text = format!("{group}/{index}/").into_bytes();
    text.extend((0..filler).map(|at| (index as usize * 31 + at * 7) as u8));
    Bytes::from(text)
}

pub fn values(group: u16, range: std::ops::Range<u64>) -> Vec<Bytes> {
    range.map(|index| value(group, index)).collect()
}

/// A callback, and where its answer arrives.
pub fn awaited() -> (Done, mpsc::Receiver<Result<(), WriteError>>) {
    let (sender, receiver) = mpsc::channel();
    (
        Box::new(move |result| sender.send(result).unwrap()),
        receiver,
    )
}

/// Appends the entries of `range` and waits until they are durable.
pub fn append(log: &GroupLog, range: std::ops::Range<u64>) -> Result<(), WriteError> {
    let (done, answer) = awaited();
    log.append(range.start, values(log.group().0, range), done);
    answer.recv_timeout(DEADLINE).unwrap()
}

pub fn save_vote(log: &GroupLog, vote: &str) -> Result<(), WriteError> {
    let (done, answer) = awaited();
    log.save_vote(Bytes::from(vote.to_owned()), done);
    answer.recv_timeout(DEADLINE).unwrap()
}

/// Waits until everything handed over before is on disk.
pub fn settle(log: &GroupLog) {
    let (done, answer) = awaited();
    log.append(0, Vec::new(), done);
    answer.recv_timeout(DEADLINE).unwrap().unwrap();
}

/// Reads all of `range` in pieces of `bytes_max` and checks every entry.
pub fn check(log: &GroupLog, range: std::ops::Range<u64>, bytes_max: usize) {
    let group = log.group().0;
    let mut at = range.start;
    while at < range.end {
        let found = log.read(at, range.end, bytes_max).unwrap();
        assert!(
            !found.is_empty(),
            "group {group} has nothing at {at} of {range:?}"
        );
        for entry in found {
            assert_eq!(entry, value(group, at), "group {group} index {at}");
            at += 1;
        }
    }
    assert_eq!(at, range.end);
}

/// Copies a data directory as a crash would leave it. Its store may be open.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            // RocksDB may delete a file that it no longer needs between the listing and the copy.
            match std::fs::copy(entry.path(), target) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
        }
    }
}

/// Name and content of every file under `dir`, to see whether anything changed.
pub fn content(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            found.push((path.clone(), std::fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

/// The newest write-ahead file.
pub fn newest_wal(dir: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(dir.join("db")).unwrap();
    let wals = files.map(|entry| entry.unwrap().path());
    wals.filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max()
        .unwrap()
}
