//! Which life of the cluster a directory belongs to: kept across openings, and never taken back.

use std::fs;
use std::path::Path;

use qiang_storage::{FORMAT_VERSION, Identity, IncarnationError, OpenError, Store};

use crate::common::{append, check, content, identity, log, open, small};

/// The identity as it lies on disk.
fn on_disk(dir: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(dir.join("identity.json")).unwrap()).unwrap()
}

fn of_incarnation(incarnation: u64) -> Identity {
    Identity {
        incarnation,
        ..identity()
    }
}

#[test]
fn an_incarnation_survives_reopening_and_wins_over_the_one_given() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.identity().incarnation, 1, "a new cluster");
    append(&log(&store, 1), 0..5).unwrap();
    store.set_incarnation(3).unwrap();
    assert_eq!(store.identity(), of_incarnation(3));
    store.close();
    assert_eq!(Identity::read(dir.path()).unwrap(), Some(of_incarnation(3)));

    for given in [1, 3, 9] {
        let store = Store::open(dir.path(), &of_incarnation(given), &small()).unwrap();
        assert_eq!(store.identity(), of_incarnation(3), "opened as {given}");
        check(&log(&store, 1), 0..5, 1000);
    }
    let offline = Store::open_offline(dir.path()).unwrap();
    assert_eq!(offline.identity(), of_incarnation(3));
}

#[test]
fn an_incarnation_never_goes_down() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.set_incarnation(4).unwrap();
    let before = on_disk(dir.path());
    for lower in [0, 1, 3] {
        let error = store.set_incarnation(lower).unwrap_err();
        assert!(
            matches!(&error, IncarnationError::Backwards { found: 4, given, .. } if *given == lower),
            "{error}"
        );
    }
    assert_eq!(store.identity().incarnation, 4);
    assert_eq!(on_disk(dir.path()), before);
    store.set_incarnation(4).unwrap();
    store.set_incarnation(5).unwrap();
    assert_eq!(on_disk(dir.path())["incarnation"], 5);
}

#[test]
fn a_directory_knows_what_outlives_it_until_it_lives_in_that() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.set_incarnation(2).unwrap();
    for not_later in [0, 1, 2] {
        store.set_outlived_by(not_later).unwrap();
        assert_eq!(store.identity(), of_incarnation(2), "{not_later}");
    }
    store.set_outlived_by(5).unwrap();
    store.set_outlived_by(4).unwrap();
    let outlived = Identity {
        outlived_by: Some(5),
        ..of_incarnation(2)
    };
    assert_eq!(store.identity(), outlived);
    store.close();
    let store = open(dir.path());
    assert_eq!(store.identity(), outlived);
    store.set_incarnation(4).unwrap();
    assert_eq!(store.identity().outlived_by, Some(5), "4 is not yet 5");
    store.set_incarnation(5).unwrap();
    assert_eq!(store.identity(), of_incarnation(5));
}

#[test]
fn a_directory_may_begin_in_a_later_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &of_incarnation(6), &small()).unwrap();
    assert_eq!(store.identity(), of_incarnation(6));
    assert_eq!(on_disk(dir.path())["incarnation"], 6);
}

#[test]
fn a_directory_of_the_first_format_opens_in_the_first_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    append(&log(&open(dir.path()), 1), 0..5).unwrap();
    let text = r#"{"format": 1, "cluster_id": "sale-2026", "node_id": 7}"#;
    fs::write(dir.path().join("identity.json"), text).unwrap();
    let store = open(dir.path());
    // Every shard had a log of its own then.
    let first = Identity {
        logs: 16,
        ..identity()
    };
    assert_eq!(store.identity(), first);
    check(&log(&store, 1), 0..5, 1000);
    assert_eq!(
        fs::read_to_string(dir.path().join("identity.json")).unwrap(),
        text,
        "an older program can still open it"
    );
    store.set_incarnation(2).unwrap();
    assert_eq!(on_disk(dir.path())["incarnation"], 2);
    assert_eq!(on_disk(dir.path())["format"], FORMAT_VERSION);
}

#[test]
fn what_an_interrupted_change_leaves_is_no_identity() {
    let dir = tempfile::tempdir().unwrap();
    append(&log(&open(dir.path()), 1), 0..5).unwrap();
    // Cut after any number of bytes, before the rename.
    for cut in [0, 20, 60] {
        let whole = fs::read(dir.path().join("identity.json")).unwrap();
        fs::write(dir.path().join("identity.json.next"), &whole[..cut]).unwrap();
        let store = open(dir.path());
        assert_eq!(store.identity(), of_incarnation(1));
        check(&log(&store, 1), 0..5, 1000);
    }
    open(dir.path()).set_incarnation(2).unwrap();
    assert_eq!(open(dir.path()).identity(), of_incarnation(2));

    // With the identity itself lost, it must not be taken for a creation to begin again, which would delete the log.
    fs::rename(
        dir.path().join("identity.json"),
        dir.path().join("identity.json.next"),
    )
    .unwrap();
    let before = content(dir.path());
    let refused = Store::open(dir.path(), &identity(), &small()).err();
    assert!(matches!(refused, Some(OpenError::NotADataDirectory { .. })));
    assert_eq!(content(dir.path()), before);
}

#[test]
fn an_incarnation_that_cannot_be_written_is_an_error_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // In the way of the file that would take the identity's place.
    fs::create_dir(dir.path().join("identity.json.next")).unwrap();
    let error = store.set_incarnation(2).unwrap_err();
    assert!(matches!(error, IncarnationError::Io { .. }), "{error}");
    assert_eq!(store.identity().incarnation, 1);
    fs::remove_dir(dir.path().join("identity.json.next")).unwrap();
    drop(store);
    let offline = Store::open_offline(dir.path()).unwrap();
    assert!(matches!(
        offline.set_incarnation(2),
        Err(IncarnationError::ReadOnly { .. })
    ));
    assert_eq!(on_disk(dir.path())["incarnation"], 1);
}
