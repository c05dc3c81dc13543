//! A node of the released binary, and runs of `qiang-load` against it. Invariant: a node never outlives its test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Long enough for a start on a loaded machine.
const START_WITHIN: Duration = Duration::from_mins(1);

/// The binary under test: `QIANG_BINARY`, or `qiang` beside the folder of this test's executable.
pub fn qiang() -> PathBuf {
    if let Some(named) = std::env::var_os("QIANG_BINARY") {
        return PathBuf::from(named);
    }
    let test = std::env::current_exe().expect("a test knows its executable");
    let release = test.ancestors().nth(2);
    let beside = release
        .expect("a test lives two folders deep in the target directory")
        .join("qiang");
    assert!(
        beside.is_file(),
        "{} does not exist: run `./dev test`, which builds it first, or name the binary in QIANG_BINARY",
        beside.display()
    );
    beside
}

/// A port that nothing listens on just now, below the range of outgoing connections.
fn free_port() -> u16 {
    const FIRST: u16 = 28_000;
    const COUNT: u16 = 4_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16 % COUNT;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start.wrapping_add(step)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A fresh one-node cluster.
pub struct Node {
    child: Child,
    pub address: String,
    _home: TempDir,
}

impl Node {
    pub fn start() -> Self {
        let home = TempDir::with_prefix("qiang-load-test-").expect("a temporary directory");
        let address = format!("127.0.0.1:{}", free_port());
        let child = Command::new(qiang())
            .args(["serve", "--bootstrap", "--data-dir"])
            .arg(home.path().join("data"))
            .args(["--listen", &address])
            .args(["--peer-listen", &format!("127.0.0.1:{}", free_port())])
            // It is no setting of the node's, and the node would say so.
            .env_remove("QIANG_BINARY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the released binary starts");
        let node = Self {
            child,
            address,
            _home: home,
        };
        let deadline = Instant::now() + START_WITHIN;
        while !node.is_ready() {
            assert!(Instant::now() < deadline, "the node is not ready");
            // Not a synchronisation: only the pause between two looks.
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    fn is_ready(&self) -> bool {
        self.get("/readyz")
            .is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n");
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).ok()?;
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Waits until grabs were sent to it, then ends it at once.
    pub fn kill_when_asked(&mut self) {
        let deadline = Instant::now() + START_WITHIN;
        let was_asked = |answer: String| answer.contains("route=\"grabs\"");
        while !self.get("/metrics").is_some_and(was_asked) {
            assert!(Instant::now() < deadline, "no grab came");
            // Not a synchronisation: only the pause between two looks.
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().expect("a process of ours can be killed");
        self.child.wait().expect("a killed process ends");
    }

    /// Runs a workload against it, with JSON as the output.
    pub fn load(&self, workload: &str, arguments: &[&str]) -> Run {
        load_at(&self.address, workload, arguments)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `qiang-load` with these arguments.
pub fn qiang_load(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qiang-load"));
    command.args(arguments).env("NO_COLOR", "1");
    command.output().expect("qiang-load starts")
}

/// Runs a workload against the node at `address`, with JSON as the output.
pub fn load_at(address: &str, workload: &str, arguments: &[&str]) -> Run {
    let fixed = ["run", workload, "--target", address, "-o", "json"];
    let output = qiang_load(&[&fixed, arguments].concat());
    Run {
        code: output.status.code(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        summary: serde_json::from_slice(&output.stdout).unwrap_or_default(),
    }
}

/// A run that has ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub errors: String,
    pub summary: Value,
}

impl Run {
    /// Ended well, with a clean audit.
    #[track_caller]
    pub fn clean(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.errors);
        assert_eq!(self.summary["audit"]["differences"], 0);
        assert!(
            self.summary["broken"].is_null(),
            "{}",
            self.summary["broken"]
        );
        self
    }

    /// A number of the summary, by its path.
    #[track_caller]
    pub fn number(&self, path: &str) -> u64 {
        let found = self.summary.pointer(path).and_then(Value::as_u64);
        found.unwrap_or_else(|| panic!("no number at {path} of {}", self.summary))
    }

    /// How often an answer with this code came.
    pub fn answers(&self, code: &str) -> u64 {
        let answers = self.summary["answers"].as_array().into_iter().flatten();
        let found = answers.filter(|answered| answered["code"] == code);
        found
            .filter_map(|answered| answered["count"].as_u64())
            .sum()
    }
}
