//! A disk that fills up while the node serves.
//!
//! Invariant: once nothing can be written nothing is granted, and after space is made and a restart nothing
//! acknowledged is missing.

use qiang_tests::{Node, audit, wait_until};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A small file system of its own, unmounted at the end.
struct SmallDisk {
    at: TempDir,
}

impl SmallDisk {
    /// A tmpfs of so many MiB; `Err` says why there is none.
    fn mount(mib: u32) -> Result<Self, String> {
        if !rustix::process::getuid().is_root() {
            return Err("mounting a small file system needs root".to_owned());
        }
        let at = tempfile::tempdir().expect("a temporary directory");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at.path())
            .output()
            .map_err(|error| format!("mount cannot be run: {error}"))?;
        if mounted.status.success() {
            Ok(Self { at })
        } else {
            Err(String::from_utf8_lossy(&mounted.stderr).into_owned())
        }
    }

    fn path(&self) -> &Path {
        self.at.path()
    }

    /// Takes all space that is left with one file and says which.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).expect("a file on the small disk");
        let block = vec![7_u8; 64 * 1024];
        while file.write_all(&block).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.path().display());
        }
    }
}

/// A batch of grabs and the answers to each.
fn grab_many(node: &Node, round: usize) -> (Vec<Value>, Vec<Value>) {
    const IN_ONE: usize = 4000;
    let grabs: Vec<Value> = (0..IN_ONE)
        .map(|number| {
            node.grab(&format!("o-{round}-{number}"), &format!("pin-{number}"))
                .of("A", 1)
                .body()
        })
        .collect();
    let answer = node.post("/v1/grabs/batch", &json!({"grabs": grabs}));
    let results = match answer.status {
        200 => answer.json()["results"]
            .as_array()
            .expect("results")
            .clone(),
        _ => vec![answer.problem(503); IN_ONE],
    };
    (grabs, results)
}

#[test]
fn a_full_disk_refuses_grabs_says_why_and_loses_nothing() {
    let disk = match SmallDisk::mount(256) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("not tested: {why}");
            return;
        }
    };
    // Small files, so that the space taken before lasts for seconds and not for minutes.
    let mut node = Node::builder()
        .data_dir(&disk.path().join("data"))
        .env("QIANG_STORAGE__MEMTABLE_BYTES", "4194304")
        .env("QIANG_STORAGE__WAL_WARM_BYTES", "4194304")
        .start();
    node.promotion("A").quantity(100_000_000).create();
    node.grab("first", "alice").of("A", 1).granted();
    let filler = disk.fill();

    // Space that the storage had taken before lasts for a while; then it is over.
    let mut granted: Vec<String> = vec!["first".to_owned()];
    let mut round = 0;
    wait_until(
        Duration::from_mins(2),
        "the disk is full for the node too",
        || {
            round += 1;
            let (grabs, results) = grab_many(&node, round);
            let mut refused = 0;
            for (grab, result) in grabs.iter().zip(&results) {
                match result["status"].as_u64() {
                    Some(200) => granted.push(grab["order_id"].as_str().expect("an id").to_owned()),
                    Some(503) => refused += 1,
                    // What was under way when the disk filled up: its outcome is not known, which is said.
                    Some(504) => {}
                    other => panic!("{other:?}: {result}"),
                }
            }
            let all = refused == results.len();
            all.then_some(()).ok_or(format!(
                "{refused} of {} refused in round {round}",
                results.len()
            ))
        },
    );
    node.grab("late", "alice")
        .of("A", 1)
        .refused(503, "unavailable");
    let ready = node.get("/readyz");
    assert_eq!(ready.status, 503, "{ready}");
    let says_why = |text: &str| {
        let text = text.to_lowercase();
        text.contains("no space") || text.contains("disk")
    };
    assert!(says_why(&ready.text), "readyz does not say why: {ready}");
    assert!(says_why(&node.log()), "the log does not say why");
    assert_eq!(node.get("/livez").status, 200, "alive, but not ready");

    node.stop_gracefully();
    fs::remove_file(filler).expect("space is made");
    node.restart();
    let folded = audit(&node);
    for order in &granted {
        assert!(
            folded.order("A", order).is_some(),
            "{order} was acknowledged and is gone"
        );
    }
    node.grab("late", "alice").of("A", 1).granted();
    node.grab("first", "alice").of("A", 1).replayed();
    eprintln!(
        "{} acknowledged grabs survived the full disk",
        granted.len()
    );
}

#[test]
fn a_start_on_a_full_disk_is_refused_with_the_reason() {
    let disk = match SmallDisk::mount(2) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("not tested: {why}");
            return;
        }
    };
    disk.fill();
    let data = disk.path().join("data");
    let node = Node::builder().data_dir(&data).prepare();
    let run = node.serve_and_fail(true);
    run.fails_naming(5, &[data.to_str().expect("a plain path")]);
    assert!(
        run.stderr.to_lowercase().contains("space"),
        "says why: {run}"
    );
}
