//! A disk that fills up: the store stops and says why, reads go on, and after space is made a restart finds everything acknowledged.
//!
//! The small disk is a tmpfs of its own, which needs root; without it these tests say so and do nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use qiang_storage::{Bytes, OpenError, Store, WriteError};

use crate::common::{append, awaited, check, identity, log, save_vote, small};

/// A mounted tmpfs, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|ran| ran.status.success()) {
            return Some(Self(dir));
        }
        eprintln!("skipped: mounting a tmpfs needs root and mount(8)");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_stops_writing_but_not_reading_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::mount(16 << 20) else {
        return;
    };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 6 << 20]).unwrap();
    let dir = disk.path().join("data");
    let store = Store::open(&dir, &identity(), &small()).unwrap();
    let handle = log(&store, 1);
    save_vote(&handle, "before").unwrap();
    let mut end = 0;
    let error = loop {
        match append(&handle, end..end + 20) {
            Ok(()) => end += 20,
            Err(error) => break error,
        }
        assert!(end < 1_000_000, "the disk never filled up");
    };
    let WriteError::Faulted { reason } = &error else {
        panic!("{error}")
    };
    assert!(reason.contains("No space left on device"), "{reason}");
    assert_eq!(store.fault().as_deref(), Some(&**reason));
    // Space alone does not wake it: what RocksDB holds in memory is not what the disk holds.
    fs::remove_file(&ballast).unwrap();
    let (done, answer) = awaited();
    handle.append(end + 20, vec![Bytes::from("later")], done);
    assert_eq!(answer.recv().unwrap(), Err(error.clone()));
    assert_eq!(save_vote(&handle, "after"), Err(error.clone()));
    assert_eq!(handle.purge(1, Bytes::new()), Err(error.clone()));
    assert_eq!(handle.truncate_after(1), Err(error.clone()));
    assert_eq!(handle.forget_below(0), Err(error));
    check(&handle, 0..end, 10_000);
    drop(handle);
    store.close();

    let store = Store::open(&dir, &identity(), &small()).unwrap();
    let handle = log(&store, 1);
    assert_eq!(
        (store.fault(), handle.vote()),
        (None, Some(Bytes::from("before")))
    );
    let found = handle.last_index().unwrap() + 1;
    assert!(
        found >= end,
        "{end} entries were acknowledged, {found} are there"
    );
    check(&handle, 0..found, 10_000);
    append(&handle, found..found + 100).unwrap();
}

#[test]
fn a_full_disk_at_the_start_is_said_and_changes_nothing() {
    let Some(disk) = SmallDisk::mount(8 << 20) else {
        return;
    };
    let dir = disk.path().join("data");
    let store = Store::open(&dir, &identity(), &small()).unwrap();
    append(&log(&store, 1), 0..100).unwrap();
    store.close();
    let ballast = disk.path().join("ballast");
    let mut size: usize = 8 << 20;
    while size > 0 {
        // Fills the disk to its last page.
        let filled = fs::read(&ballast).map_or(0, |bytes| bytes.len());
        let _ = fs::write(&ballast, vec![1; filled + size]);
        size /= 2;
    }
    let mut rest = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(disk.path().join("rest"))
        .unwrap();
    while std::io::Write::write_all(&mut rest, &[1; 4096]).is_ok() {}
    for dir in [&dir, &disk.path().join("new")] {
        let error = Store::open(dir, &identity(), &small()).err().unwrap();
        assert!(
            matches!(&error, OpenError::NoSpace { path, .. } if path.starts_with(disk.path())),
            "{error:?}"
        );
    }
    let offline = Store::open_offline(&dir).unwrap();
    check(&log(&offline, 1), 0..100, 1000);
    drop(offline);
    fs::remove_file(&ballast).unwrap();
    let store = Store::open(&dir, &identity(), &small()).unwrap();
    check(&log(&store, 1), 0..100, 1000);
    Store::open(&disk.path().join("new"), &identity(), &small()).unwrap();
}
