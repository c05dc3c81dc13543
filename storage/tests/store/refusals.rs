//! Directories that a store refuses: each with its own error, which names the directory or file, and nothing in it changed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{append, content, identity, log, open, small};
use qiang_storage::{FORMAT_VERSION, Identity, OpenError, Store};

fn refusal(dir: &Path) -> OpenError {
    refusal_of(dir, &identity())
}

fn refusal_of(dir: &Path, identity: &Identity) -> OpenError {
    match Store::open(dir, identity, &small()) {
        Ok(_) => panic!("{} was opened", dir.display()),
        Err(error) => error,
    }
}

fn offline_refusal(dir: &Path) -> OpenError {
    match Store::open_offline(dir) {
        Ok(_) => panic!("{} was opened", dir.display()),
        Err(error) => error,
    }
}

/// A data directory with something in it.
fn used() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    append(&log(&open(dir.path()), 0), 0..10).unwrap();
    dir
}

#[test]
fn a_directory_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = log(&store, 0);
    let error = refusal(dir.path());
    assert!(
        matches!(&error, OpenError::InUse { dir: named } if named == dir.path()),
        "{error}"
    );
    assert!(error.to_string().contains(dir.path().to_str().unwrap()));
    assert!(matches!(
        offline_refusal(dir.path()),
        OpenError::InUse { .. }
    ));
    store.close();
    assert!(
        matches!(refusal(dir.path()), OpenError::InUse { .. }),
        "a log still holds it"
    );
    drop(log);
    let offline = Store::open_offline(dir.path()).unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::InUse { .. }));
    drop(offline);
    open(dir.path());
}

#[test]
fn a_directory_of_another_cluster_or_node() {
    let dir = used();
    let before = content(dir.path());
    let other = Identity {
        cluster_id: "rehearsal".into(),
        ..identity()
    };
    let error = refusal_of(dir.path(), &other);
    assert!(matches!(error, OpenError::OtherCluster { .. }));
    assert!(
        error
            .to_string()
            .contains("\"sale-2026\", not to \"rehearsal\""),
        "{error}"
    );
    let error = refusal_of(
        dir.path(),
        &Identity {
            node_id: 8,
            ..identity()
        },
    );
    assert!(
        matches!(
            error,
            OpenError::OtherNode {
                found: 7,
                expected: 8,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(content(dir.path()), before);
}

#[test]
fn a_directory_of_a_newer_format() {
    let dir = used();
    let text = r#"{"format": 99, "cluster": {"id": "sale-2026"}}"#;
    fs::write(dir.path().join("identity.json"), text).unwrap();
    let before = content(dir.path());
    for error in [refusal(dir.path()), offline_refusal(dir.path())] {
        assert!(
            matches!(
                error,
                OpenError::NewerFormat {
                    found: 99,
                    supported: FORMAT_VERSION,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("99")
                && error.to_string().contains(&FORMAT_VERSION.to_string())
        );
    }
    assert_eq!(content(dir.path()), before);
}

#[test]
fn a_file_or_a_strangers_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data");
    fs::write(&file, "a file").unwrap();
    assert!(matches!(
        refusal(&file),
        OpenError::NotADataDirectory { .. }
    ));
    assert!(matches!(
        refusal(&file.join("below")),
        OpenError::NotADataDirectory { .. }
    ));
    assert!(matches!(
        offline_refusal(&file),
        OpenError::NotADataDirectory { .. }
    ));
    assert_eq!(fs::read_to_string(&file).unwrap(), "a file");

    let before = content(dir.path());
    let error = refusal(dir.path());
    assert!(
        matches!(error, OpenError::NotADataDirectory { .. })
            && error.to_string().contains("holds data"),
        "{error}"
    );
    assert!(matches!(
        offline_refusal(dir.path()),
        OpenError::NotADataDirectory { .. }
    ));
    assert_eq!(
        content(dir.path()),
        before,
        "not even a lock is left behind"
    );
}

#[test]
fn an_absent_directory_is_created_but_not_offline() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("a/b");
    assert!(matches!(
        offline_refusal(&absent),
        OpenError::Missing { .. }
    ));
    assert!(!absent.exists());
    open(&absent);
    Store::open_offline(&absent).unwrap();
    assert!(matches!(
        offline_refusal(tempfile::tempdir().unwrap().path()),
        OpenError::Missing { .. }
    ));
}

#[test]
fn a_creation_that_was_interrupted_is_begun_again() {
    let dir = used();
    fs::rename(
        dir.path().join("identity.json"),
        dir.path().join("identity.json.new"),
    )
    .unwrap();
    assert!(matches!(
        offline_refusal(dir.path()),
        OpenError::Missing { .. }
    ));
    let store = open(dir.path());
    assert_eq!(log(&store, 0).last_index(), None);
    append(&log(&store, 0), 0..2).unwrap();
}

#[test]
fn a_directory_that_lost_its_database_or_identity() {
    let dir = used();
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let error = refusal(dir.path());
    assert!(
        matches!(&error, OpenError::Corrupt { file, .. } if file.ends_with("db/CURRENT")),
        "{error}"
    );

    let dir = used();
    fs::remove_file(dir.path().join("identity.json")).unwrap();
    let before = content(dir.path());
    assert!(matches!(
        refusal(dir.path()),
        OpenError::NotADataDirectory { .. }
    ));
    assert_eq!(content(dir.path()), before);

    let dir = used();
    for damaged in ["", "{\"format\": 1}", "{\"format\": \"1\"}", "\u{0}\u{0}"] {
        fs::write(dir.path().join("identity.json"), damaged).unwrap();
        let error = refusal(dir.path());
        assert!(
            matches!(&error, OpenError::Corrupt { file, .. } if file.ends_with("identity.json")),
            "{error}"
        );
    }
}

/// Root writes whatever the permissions say, so the directory is mounted for reading.
#[test]
fn a_directory_that_cannot_be_written() {
    let dir = used();
    let bind = |arguments: &[&str]| {
        let ran = Command::new("mount").args(arguments).output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    let path = dir.path().to_str().unwrap();
    if !bind(&["--bind", path, path]) {
        eprintln!("skipped: mounting a directory read-only needs root and mount(8)");
        return;
    }
    let read_only = bind(&["-o", "remount,ro,bind", path]);
    let before = content(dir.path());
    let refused = read_only.then(|| refusal(dir.path()));
    let absent = read_only.then(|| refusal(&dir.path().join("absent")));
    let read =
        read_only.then(|| Store::open_offline(dir.path()).map(|store| log(&store, 0).last_index()));
    let after = content(dir.path());
    assert!(Command::new("umount").arg(path).status().unwrap().success());
    assert!(read_only, "remounting read-only failed");
    for error in [refused, absent].into_iter().flatten() {
        assert!(
            matches!(&error, OpenError::NotWritable { path, .. } if path.starts_with(dir.path())),
            "{error}"
        );
    }
    assert_eq!(
        read.unwrap().unwrap(),
        Some(9),
        "a copy on a medium that cannot be written can be read"
    );
    assert_eq!(before, after);
}
