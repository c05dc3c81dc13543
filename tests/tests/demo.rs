//! `qiang demo`: ready in one command, with sample promotions, and gone at Ctrl-C.
//!
//! Invariant: no process of a demo outlives it.

use qiang_tests::{Client, binary, comes_true, free_port, wait_until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_mins(1);
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// A running demo, killed with its test.
struct Demo {
    child: Child,
    home: TempDir,
    /// The first node, by the line that was printed.
    node: Value,
}

impl Demo {
    fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let (out, err) = (home.path().join("out"), home.path().join("err"));
        let mut child = Command::new(binary())
            .args([
                "demo",
                "-o",
                "json",
                "--base-port",
                &free_port().to_string(),
                "--data-dir",
            ])
            .arg(home.path().join("data"))
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("a file"))
            .stderr(File::create(&err).expect("a file"))
            .spawn()
            .expect("the binary starts");
        let line = wait_until(READY_WITHIN, "one line of JSON", || {
            assert!(
                matches!(child.try_wait(), Ok(None)),
                "it ended: {}",
                read(&err)
            );
            let text = read(&out);
            text.ends_with('\n')
                .then_some(text)
                .ok_or_else(|| read(&err))
        });
        assert_eq!(line.lines().count(), 1, "one line: {line}");
        let ready: Value = serde_json::from_str(&line).expect("a line of JSON");
        let node = ready["nodes"][0].clone();
        Self { child, home, node }
    }

    fn node_pid(&self) -> Pid {
        let pid = self.node["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Pid::from_raw)
            .unwrap_or_else(|| panic!("no pid in {}", self.node))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("a signal reaches the demo");
    }

    fn client(&self) -> Client {
        let http = self.node["http"].as_str().expect("an address");
        Client::new(http.trim_start_matches("http://"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            eprintln!(
                "--- stderr of the demo ---\n{}",
                read(&self.home.path().join("err"))
            );
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
}

#[test]
fn a_demo_is_ready_with_promotions_to_grab_and_gone_at_ctrl_c() {
    let mut demo = Demo::start();
    for member in ["id", "dc", "http", "peer", "pid", "data_dir"] {
        assert!(!demo.node[member].is_null(), "no {member} in {}", demo.node);
    }
    assert!(!is_gone(demo.node_pid()), "a process of its own");
    let client = demo.client();
    let promotions = client.get("/v1/promotions?state=active").expect(200);
    let first = promotions["promotions"][0]["promotion_id"].as_str();
    let first = first.unwrap_or_else(|| panic!("no active sample promotion: {promotions}"));
    client.grab("o-1", "alice").of(first, 1).granted();

    let node = demo.node_pid();
    demo.signal(Signal::INT);
    let status = wait_until(ENDS_WITHIN, "the demo ends", || {
        demo.child
            .try_wait()
            .expect("a child")
            .ok_or("it runs".to_owned())
    });
    assert_eq!(
        status.code(),
        Some(0),
        "Ctrl-C is how a demo ends: {status}"
    );
    assert!(is_gone(node), "its node outlived it");
}

#[test]
fn no_node_outlives_a_demo_that_is_killed() {
    let mut demo = Demo::start();
    let node = demo.node_pid();
    demo.signal(Signal::KILL);
    demo.child.wait().expect("a killed child ends");
    assert!(
        comes_true(ENDS_WITHIN, || is_gone(node)),
        "the node outlived the demo"
    );
}

#[test]
fn a_demo_whose_node_dies_says_so_and_ends() {
    let mut demo = Demo::start();
    kill_process(demo.node_pid(), Signal::KILL).expect("a signal reaches the node");
    let status = wait_until(ENDS_WITHIN, "the demo ends", || {
        demo.child
            .try_wait()
            .expect("a child")
            .ok_or("it runs".to_owned())
    });
    assert_eq!(status.code(), Some(5), "{status}");
    assert!(!read(&demo.home.path().join("err")).is_empty(), "says why");
}
