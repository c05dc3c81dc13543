//! Backups: what was granted before one is there after a restore, all of it and nothing half; a file that is not what
//! was written is refused; and nothing that exists is overwritten.

use qiang_tests::{Client, Cluster, Node, Run, binary, id_on_shard, run, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Long enough for a cart that was cut in the middle to be undone, or its order's payment time to pass.
const SETTLES_WITHIN: Duration = Duration::from_mins(1);

/// Carts granted before the first backup is taken, so that it is taken in the middle of them.
const CARTS_BEFORE: u64 = 200;

/// Backups that are taken while carts are granted.
const SAVES: usize = 5;

/// A buyer's carts after the first that is not in a backup: some later one may be, on other shards.
const CARTS_CUT: usize = 20;

fn shown(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn offline(arguments: &[&str]) -> Run {
    // A server that nobody runs: offline commands ask none.
    run(Command::new(binary())
        .args(arguments)
        .env("QIANG_SERVER", "127.0.0.1:1")
        .env("NO_COLOR", "1"))
}

#[track_caller]
fn save(node: &Node, file: &Path) -> Value {
    let saved = node.cli(&["raft", "snapshot", "save", shown(file), "-o", "json"]);
    saved.ok();
    saved.json()
}

fn restore(file: &Path, data_dir: &Path) -> Run {
    let arguments = ["raft", "snapshot", "restore", shown(file), "--data-dir"];
    offline(&[&arguments[..], &[shown(data_dir), "-o", "json"]].concat())
}

/// A node on what was restored from `file`.
#[track_caller]
fn restored(file: &Path, data_dir: &Path) -> Node {
    restore(file, data_dir).ok();
    let mut node = Node::builder().data_dir(data_dir).prepare();
    node.restart();
    node
}

/// A node with a little of everything, and a backup of it.
#[track_caller]
fn saved() -> (Node, PathBuf) {
    let node = Node::start();
    node.promotion("A").quantity(100).create();
    for number in 0..40 {
        node.grab(&format!("o-{number}"), "alice")
            .of("A", 1)
            .granted();
    }
    let file = node.scratch("backup.qiang");
    save(&node, &file);
    (node, file)
}

#[test]
fn what_was_granted_before_a_backup_is_there_after_a_restore() {
    let mut node = Node::start();
    let (first, second) = (id_on_shard("P", 3), id_on_shard("Q", 11));
    node.promotion(&first).quantity(100).per_pin(2).create();
    node.promotion(&second).quantity(50).create();
    node.grab("held", "alice").of(&first, 2).granted();
    node.grab("cart", "bob")
        .of(&first, 1)
        .of(&second, 3)
        .granted();
    node.grab("paid", "carol").of(&second, 1).granted();
    assert_eq!(node.order("paid").confirm().status, 200);
    node.grab("returned", "dave").of(&second, 1).granted();
    assert_eq!(node.order("returned").cancel("user").status, 200);
    node.cli(&["config", "set", "grab_concurrency=777"]).ok();
    let cluster = node.get("/v1/cluster").json();

    let file = node.scratch("backup.qiang");
    let told = save(&node, &file);
    assert_eq!(told["cluster_id"], cluster["cluster_id"]);
    node.grab("later", "erin").of(&first, 1).granted();
    node.kill();

    let status = offline(&["raft", "snapshot", "status", shown(&file), "-o", "json"]);
    status.ok();
    let status = status.json();
    assert_eq!(status["cluster_id"], cluster["cluster_id"]);
    assert_eq!(status["incarnation"], 1);
    let groups = status["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 17);
    assert_eq!(
        (&groups[3]["orders"], &groups[3]["promotions"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&groups[11]["orders"], &groups[11]["promotions"]),
        (&3.into(), &1.into())
    );

    let home = tempfile::tempdir().expect("a temporary directory");
    let data_dir = home.path().join("deep/new");
    let mut again = restored(&file, &data_dir);
    for _ in 0..2 {
        assert_eq!(again.offered(&first).remaining(), 97);
        assert_eq!(again.offered(&second).remaining(), 46);
        again.grab("held", "alice").of(&first, 2).replayed();
        again
            .grab("cart", "bob")
            .of(&first, 1)
            .of(&second, 3)
            .replayed();
        assert_eq!(again.order("paid").state(), "confirmed");
        assert_eq!(again.order("returned").state(), "returned");
        // The limits count what was granted before.
        again
            .grab("more", "alice")
            .of(&first, 1)
            .refused(409, "pin_limit");
        assert_eq!(again.get("/v1/config").json()["grab_concurrency"], 777);
        // It goes on as a node of its own: a restart finds what was restored.
        assert!(again.stop_gracefully().success());
        again.restart();
    }
    assert_eq!(again.order("later").answer().status, 404);
    again.grab("later", "erin").of(&first, 1).granted();
    assert_eq!(again.offered(&first).remaining(), 96);

    let shown_now = again.get("/v1/cluster").json();
    assert_ne!(shown_now["cluster_id"], cluster["cluster_id"]);
    assert!(shown_now["revision"].as_u64() > cluster["revision"].as_u64());
    assert_eq!(shown_now["nodes"].as_array().map(Vec::len), Some(1));
    again.cli(&["flows", "verify"]).ok();
    assert!(again.stop_gracefully().success());
    offline(&["flows", "verify", "--data-dir", shown(&data_dir)]).ok();
}

#[test]
fn a_restored_directory_verifies_before_it_was_ever_started() {
    let (_node, file) = saved();
    let home = tempfile::tempdir().expect("a temporary directory");
    let data_dir = home.path().join("new");
    restore(&file, &data_dir).ok();
    offline(&["flows", "verify", "--data-dir", shown(&data_dir)]).ok();
}

#[test]
fn carts_that_are_granted_meanwhile_are_whole_or_not_there() {
    let node = Node::start();
    let shards = cart_promotions(&node);
    let clients = [(); 4].map(|()| node.deref().clone());
    let files = save_amid_carts(&clients, &shards, &node);
    check_restored_carts(&files, &shards);
}

#[test]
fn a_follower_saves_a_cluster_whose_leaders_are_elsewhere() {
    let cluster = Cluster::of_four();
    let shards = cart_promotions(cluster.node(1));
    let clients = [1, 2, 3, 4].map(|id| cluster.node(id).deref().clone());
    // In the data centre that leads nothing.
    let files = save_amid_carts(&clients, &shards, cluster.node(3));
    check_restored_carts(&files, &shards);
}

/// Promotions on three shards.
fn cart_promotions(client: &Client) -> [String; 3] {
    let shards = [1, 6, 12].map(|shard| id_on_shard("C", shard));
    for id in &shards {
        client.promotion(id).quantity(1_000_000).create();
    }
    shards
}

/// Has four buyers grab carts, each of two shards, and saves from `node` again and again meanwhile.
#[track_caller]
fn save_amid_carts(clients: &[Client; 4], shards: &[String; 3], node: &Node) -> Vec<PathBuf> {
    let (stop, granted) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for (buyer, client) in clients.iter().enumerate() {
            let (stop, granted) = (&stop, &granted);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let order = format!("{buyer}-{number}");
                    // Every shard is home of some carts and guest of others.
                    let at = (buyer + number) % 3;
                    let (home, guest) = (&shards[at], &shards[(at + 1) % 3]);
                    let cart = client.grab(&order, "p").of(home, 1).of(guest, 1);
                    cart.granted_within(SETTLES_WITHIN);
                    match number % 3 {
                        0 => drop(client.order(&order).at(home).confirm()),
                        1 => drop(client.order(&order).at(home).cancel("user")),
                        _ => {}
                    }
                    granted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let ended = StopOnDrop(&stop);
        wait_until(SETTLES_WITHIN, "carts are granted", || {
            let granted = granted.load(Ordering::Relaxed);
            (granted >= CARTS_BEFORE)
                .then_some(())
                .ok_or_else(|| granted.to_string())
        });
        // A save may be over before the next cart is granted. One that held carts up would always be.
        let mut files = Vec::new();
        wait_until(SETTLES_WITHIN, "carts are granted during saves", || {
            let file = node.scratch(&format!("{}.qiang", files.len()));
            let before = granted.load(Ordering::Relaxed);
            save(node, &file);
            if granted.load(Ordering::Relaxed) > before {
                files.push(file);
            } else {
                fs::remove_file(file).expect("a backup");
            }
            (files.len() == SAVES)
                .then_some(())
                .ok_or_else(|| format!("{} of {SAVES}", files.len()))
        });
        drop(ended);
        files
    })
}

/// Lets the buyers end, also when an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[track_caller]
fn check_restored_carts(files: &[PathBuf], shards: &[String; 3]) {
    let home = tempfile::tempdir().expect("a temporary directory");
    for (number, file) in files.iter().enumerate() {
        let again = restored(file, &home.path().join(number.to_string()));
        check_carts(&again, shards);
    }
}

/// Every cart is in the same state on both of its shards, as soon as what was undecided has been decided.
#[track_caller]
fn check_carts(node: &Node, shards: &[String; 3]) {
    let mut carts = 0;
    for buyer in 0..4 {
        let mut absent = 0;
        for number in 0.. {
            if absent == CARTS_CUT {
                break;
            }
            let order = format!("{buyer}-{number}");
            let at = (buyer + number) % 3;
            let state = |shard: &String| {
                let answer = node.order(&order).at(shard).answer();
                match answer.status {
                    404 => "not there".to_owned(),
                    _ => answer.json()["state"].as_str().unwrap_or("?").to_owned(),
                }
            };
            let states = wait_until(SETTLES_WITHIN, "a cart is whole", || {
                let states = [state(&shards[at]), state(&shards[(at + 1) % 3])];
                (states[0] == states[1])
                    .then(|| states[0].clone())
                    .ok_or_else(|| format!("{order}: {states:?}"))
            });
            if states == "not there" {
                absent += 1;
            } else {
                carts += 1;
            }
        }
    }
    assert!(carts >= CARTS_BEFORE, "{carts} carts were restored");
    let held: BTreeSet<i64> = shards
        .iter()
        .map(|id| node.offered(id).number("original") - node.offered(id).remaining())
        .collect();
    assert!(held.iter().all(|units| *units > 0), "{held:?}");
}

#[test]
fn a_file_that_was_cut_or_damaged_is_refused_and_nothing_is_made_of_it() {
    let (node, file) = saved();
    let whole = fs::read(&file).expect("a backup");
    let home = tempfile::tempdir().expect("a temporary directory");
    let data_dir = home.path().join("new");
    let refused = |what: &str, bytes: &[u8], told: &str| {
        let path = node.scratch(what);
        fs::write(&path, bytes).expect("written");
        let status = offline(&["raft", "snapshot", "status", shown(&path)]);
        status.fails_naming(6, &[shown(&path), told]);
        assert!(status.stdout.is_empty(), "{status}");
        restore(&path, &data_dir).fails_naming(6, &[shown(&path), told]);
        assert!(!data_dir.exists(), "{what} left something behind");
    };
    for end in [0, 5, 11, 200, whole.len() / 2, whole.len() - 1] {
        refused("cut.qiang", &whole[..end], "cut short");
    }
    for at in [20, 300, whole.len() / 2, whole.len() - 30, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        refused(
            "damaged.qiang",
            &damaged,
            shown(&node.scratch("damaged.qiang")),
        );
    }
    let mut newer = whole.clone();
    newer[8] = 9;
    refused("newer.qiang", &newer, "version 9");
    refused(
        "thesis.txt",
        b"ten years of work, and no backup",
        "not a backup",
    );
    let absent = node.scratch("absent.qiang");
    offline(&["raft", "snapshot", "status", shown(&absent)]).fails_naming(5, &[shown(&absent)]);
    restore(&absent, &data_dir).fails_naming(5, &[shown(&absent)]);
    assert!(!data_dir.exists());
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let (node, file) = saved();
    let before = fs::read(&file).expect("a backup");
    let save_again = ["raft", "snapshot", "save", shown(&file)];
    node.cli(&save_again)
        .fails_naming(2, &[shown(&file), "--yes"]);
    assert_eq!(fs::read(&file).expect("a backup"), before);
    node.cli(&[&save_again[..], &["--yes"]].concat()).ok();

    restore(&file, node.data_dir()).fails_naming(2, &[shown(node.data_dir())]);
    let home = tempfile::tempdir().expect("a temporary directory");
    fs::write(home.path().join("thesis.txt"), "ten years of work").expect("a file");
    restore(&file, home.path()).fails_naming(2, &["thesis.txt"]);
    assert_eq!(fs::read_dir(home.path()).expect("a folder").count(), 1);
    node.grab("after", "alice").of("A", 1).granted();
}

#[test]
fn an_empty_directory_that_exists_is_taken() {
    let (_node, file) = saved();
    let home = tempfile::tempdir().expect("a temporary directory");
    let again = restored(&file, home.path());
    assert_eq!(again.offered("A").remaining(), 60);
}

#[test]
fn a_save_that_fails_leaves_no_file() {
    let (mut node, _) = saved();
    node.kill();
    let file = node.scratch("never.qiang");
    let save = ["raft", "snapshot", "save", shown(&file)];
    node.cli(&save).fails_naming(3, &[&node.http_address()]);
    let folder = file.parent().expect("a folder");
    let left = fs::read_dir(folder).expect("a folder").filter_map(|entry| {
        let name = entry.expect("an entry").file_name();
        name.to_string_lossy().starts_with("never").then_some(name)
    });
    assert_eq!(left.count(), 0);
    let nowhere = node.scratch("no-such-folder").join("backup.qiang");
    node.cli(&["raft", "snapshot", "save", shown(&nowhere)])
        .fails_naming(2, &[shown(&nowhere)]);
}

#[test]
fn a_restore_in_an_impossible_data_centre_is_refused() {
    let (_node, file) = saved();
    let home = tempfile::tempdir().expect("a temporary directory");
    let data_dir = home.path().join("new");
    for (flag, value) in [
        ("--dc", "witness"),
        ("--dc", "not a name"),
        ("--peer", "nowhere"),
        ("--node-id", "0"),
    ] {
        let arguments = [
            "raft",
            "snapshot",
            "restore",
            shown(&file),
            "--data-dir",
            shown(&data_dir),
        ];
        offline(&[&arguments[..], &[flag, value]].concat()).exits(2);
        assert!(!data_dir.exists(), "{flag} {value}");
    }
}
