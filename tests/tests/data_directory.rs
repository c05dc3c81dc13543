//! Data directories a node must not touch: each is refused with exit code 5 and a message that names the file.
//!
//! Invariant: a refused start changes nothing in the directory.

use qiang_tests::{Node, Run, audit, binary, run};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Every file below `folder` with its contents.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).expect("a readable file");
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// The files that hold data: a lock and a log of the storage engine may be touched by every opening.
fn data(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = contents(folder);
    all.retain(|path, _| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| !name.starts_with("LOG") && name != "LOCK" && name != "lock")
    });
    all
}

#[track_caller]
fn refused_naming(run: &Run, parts: &[&str]) {
    run.fails_naming(5, parts);
    assert!(run.stdout.is_empty(), "diagnostics belong on stderr: {run}");
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn a_directory_in_use_is_refused_and_its_owner_goes_on() {
    let node = Node::start();
    node.promotion("A").create();
    node.grab("o-1", "alice").of("A", 1).granted();
    let second = Node::builder().data_dir(node.data_dir()).prepare();
    refused_naming(
        &second.serve_and_fail(false),
        &[shown(node.data_dir()), "in use"],
    );
    refused_naming(&second.serve_and_fail(true), &[shown(node.data_dir())]);
    node.grab("o-2", "alice").of("A", 1).granted();
    audit(&node);
}

#[test]
fn offline_commands_refuse_a_directory_in_use() {
    let node = Node::start();
    node.promotion("A").create();
    for command in ["verify", "rebuild"] {
        let run = node.cli(&["flows", command, "--data-dir", shown(node.data_dir())]);
        run.fails_naming(5, &[shown(node.data_dir())]);
    }
    node.grab("o-1", "alice").of("A", 1).granted();
}

#[test]
fn a_second_bootstrap_of_the_same_data_is_refused_or_harmless() {
    let mut node = Node::start();
    node.promotion("A").quantity(5).create();
    node.grab("o-1", "alice").of("A", 1).granted();
    assert!(node.stop_gracefully().success());
    node.launch(true);
    let ended = qiang_tests::wait_until(Duration::from_mins(1), "it serves or it refuses", || {
        if node
            .try_get("/readyz")
            .is_ok_and(|answer| answer.status == 200)
        {
            return Ok(false);
        }
        let log = node.log();
        if log.to_lowercase().contains("bootstrap") && node.try_get("/livez").is_err() {
            return Ok(true);
        }
        Err(log)
    });
    if ended {
        assert_eq!(node.wait_exit().code(), Some(5), "{}", node.log());
        node.restart();
    }
    assert_eq!(node.offered("A").remaining(), 4);
    assert_eq!(node.order("o-1").state(), "held");
}

#[test]
fn a_start_without_bootstrap_on_nothing_says_what_to_do() {
    let node = Node::builder().prepare();
    let run = node.serve_and_fail(false);
    assert!(matches!(run.code, Some(2 | 5)), "{run}");
    assert!(
        run.stderr.contains("--bootstrap"),
        "says what to do next: {run}"
    );
    assert!(
        !node.data_dir().exists() || data(node.data_dir()).is_empty(),
        "left something behind"
    );
}

#[test]
fn a_directory_of_another_node_is_refused() {
    let mut node = Node::start();
    node.promotion("A").create();
    assert!(node.stop_gracefully().success());
    let before = data(node.data_dir());
    let data_dir = shown(node.data_dir()).to_owned();
    let other = run(Command::new(binary())
        .args([
            "serve",
            "--data-dir",
            &data_dir,
            "--node-id",
            "2",
            "--dc",
            "a",
        ])
        .args(["--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"]));
    refused_naming(&other, &[&data_dir]);
    assert_eq!(data(node.data_dir()), before);
    node.restart();
    assert_eq!(node.offered("A").remaining(), 100);
}

#[test]
fn a_file_in_the_place_of_the_directory_is_refused() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join("data");
    fs::write(&path, "not a directory").expect("a file");
    let node = Node::builder().data_dir(&path).prepare();
    refused_naming(&node.serve_and_fail(true), &[shown(&path)]);
    assert_eq!(
        fs::read(&path).expect("it is still there"),
        b"not a directory"
    );
}

#[test]
fn a_directory_with_something_else_in_it_is_not_taken_over() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join("data");
    fs::create_dir(&path).expect("a directory");
    fs::write(path.join("thesis.txt"), "ten years of work").expect("a file");
    let node = Node::builder().data_dir(&path).prepare();
    refused_naming(&node.serve_and_fail(true), &[shown(&path)]);
    assert_eq!(contents(&path).len(), 1);
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let blocked = Path::new("/proc/qiang-data");
    if !Path::new("/proc/self").exists() {
        eprintln!(
            "not tested: this needs /proc, a place where not even root may create a directory"
        );
        return;
    }
    let node = Node::builder().data_dir(blocked).prepare();
    refused_naming(&node.serve_and_fail(true), &[shown(blocked)]);
}

/// Stops a node with some data, lets `damage` loose on its directory, and gives the failed start.
#[track_caller]
fn start_after(damage: impl FnOnce(&Path)) -> (Node, Run) {
    let mut node = Node::start();
    node.promotion("A").create();
    for number in 0..50 {
        node.grab(&format!("o-{number}"), "alice")
            .of("A", 1)
            .granted();
    }
    node.kill();
    damage(node.data_dir());
    let before = data(node.data_dir());
    let run = node.serve_and_fail(false);
    assert_eq!(
        data(node.data_dir()),
        before,
        "a refused start changed the data: {run}"
    );
    (node, run)
}

/// Changes one member of the file that says whose the directory is and in which format.
fn rewrite_identity(data_dir: &Path, member: &str, value: Value) -> PathBuf {
    let file = data_dir.join("identity.json");
    let text = fs::read_to_string(&file).expect("an identity");
    let mut identity: Value = serde_json::from_str(&text).expect("an identity is JSON");
    assert!(!identity[member].is_null(), "no {member} in {identity}");
    identity[member] = value;
    fs::write(&file, identity.to_string()).expect("written");
    file
}

#[test]
fn a_directory_of_a_newer_format_is_refused() {
    let mut file = PathBuf::new();
    let (_node, run) =
        start_after(|data_dir| file = rewrite_identity(data_dir, "format", json!(4000)));
    refused_naming(&run, &[shown(&file), "4000"]);
}

#[test]
fn a_damaged_identity_is_refused() {
    let mut file = PathBuf::new();
    let (_node, run) = start_after(|data_dir| {
        file = data_dir.join("identity.json");
        fs::write(&file, b"\x00\xff garbage").expect("written");
    });
    refused_naming(&run, &[shown(&file)]);
}

#[test]
fn a_damaged_record_is_named_and_never_skipped() {
    let mut file = PathBuf::new();
    let (node, run) = start_after(|data_dir| file = damage_record(data_dir, b"o-25"));
    refused_naming(&run, &[shown(&file)]);
    let verify = node.cli(&["flows", "verify", "--data-dir", shown(node.data_dir())]);
    verify.fails_naming(5, &[shown(&file)]);
}

/// Changes the given bytes where a file of the database holds them, and says which file.
#[track_caller]
fn damage_record(data_dir: &Path, needle: &[u8]) -> PathBuf {
    for (path, mut bytes) in data(&data_dir.join("db")) {
        let found = bytes
            .windows(needle.len())
            .position(|window| window == needle);
        if let Some(at) = found {
            bytes[at] ^= 0x55;
            fs::write(&path, bytes).expect("written");
            return path;
        }
    }
    panic!("no file of the database holds {needle:?}");
}
