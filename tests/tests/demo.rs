//! `qiang demo`: a cluster that is ready in one command, with sample promotions, that lives on when a node dies, can be
//! operated as its help says, and is gone at Ctrl-C.
//!
//! Invariant: no process of a demo outlives it.

use qiang_tests::{Client, Run, binary, comes_true, run, wait_until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_mins(1);
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// An election and what it waits for, on a machine that is busy with something else.
const FAILS_OVER_WITHIN: Duration = Duration::from_secs(20);

/// Each demo is several processes: one demo at a time is what the machine is there for.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A running demo, killed with its test.
struct Demo {
    child: Child,
    /// Handed on when it is stopped.
    files: Option<Files>,
    base_port: u16,
    /// The nodes, by the line that was printed.
    nodes: Vec<Value>,
}

/// Where a demo keeps its data, from one start to the next.
struct Files {
    home: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Files {
    fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("a temporary directory"),
            _alone: ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn err(&self) -> String {
        read(&self.home.path().join("err"))
    }
}

impl Demo {
    fn start(nodes: u16) -> Self {
        Self::start_in(Files::new(), nodes)
    }

    fn start_in(files: Files, nodes: u16) -> Self {
        let (out, err) = (files.home.path().join("out"), files.home.path().join("err"));
        let base_port = free_ports(nodes + 1);
        let mut child = Command::new(binary())
            .args(["demo", "-o", "json", "--nodes", &nodes.to_string()])
            .args(["--base-port", &base_port.to_string(), "--data-dir"])
            .arg(files.home.path().join("data"))
            // However many threads this machine has.
            .env("QIANG_STORAGE__LOGS", "2")
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
        let told = ready["nodes"].as_array().expect("nodes").clone();
        assert_eq!(told.len(), usize::from(nodes), "{line}");
        Self {
            child,
            files: Some(files),
            base_port,
            nodes: told,
        }
    }

    fn files(&self) -> &Files {
        self.files
            .as_ref()
            .expect("it has its files until it is stopped")
    }

    /// The process of node `id`.
    fn pid(&self, id: usize) -> Pid {
        let pid = self.nodes[id - 1]["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Pid::from_raw)
            .unwrap_or_else(|| panic!("no pid in {}", self.nodes[id - 1]))
    }

    /// `kill -9` of node `id`.
    fn kill(&self, id: usize) {
        kill_process(self.pid(id), Signal::KILL).expect("a signal reaches the node");
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("a signal reaches the demo");
    }

    /// Where node `id` serves HTTP.
    fn address(&self, id: usize) -> &str {
        self.nodes[id - 1]["http"].as_str().expect("an address")
    }

    fn client(&self, id: usize) -> Client {
        Client::new(self.address(id))
    }

    /// `qiang raft ARGUMENTS`, asking node `id`.
    fn raft(&self, id: usize, arguments: &[&str]) -> Run {
        run(Command::new(binary())
            .arg("raft")
            .args(arguments)
            .env("QIANG_SERVER", self.address(id))
            .env("NO_COLOR", "1"))
    }

    /// What `qiang raft status` says once every group has a quorum: a leader that was not answered for a moment says that it has none.
    fn status(&self, id: usize, more: &[&str]) -> Run {
        let arguments = [&["status"], more].concat();
        wait_until(FAILS_OVER_WITHIN, "every group has a quorum", || {
            self.raft(id, &arguments).if_ok()
        })
    }

    /// The cluster as node `id` tells it.
    fn cluster(&self, id: usize) -> Value {
        self.client(id).get("/v1/cluster").expect(200)
    }

    /// How many shards the nodes lead, as node `asked` tells it.
    fn leads(&self, asked: usize) -> Vec<(u64, u64)> {
        let cluster = self.cluster(asked);
        let nodes = cluster["nodes"].as_array().expect("nodes");
        let number = |node: &Value, member: &str| node[member].as_u64().expect("a number");
        nodes
            .iter()
            .map(|node| (number(node, "id"), number(node, "leads")))
            .collect()
    }

    /// Waits until a grab by node `id` is granted; a repeated one is the same grab.
    fn grab_until_granted(&self, id: usize, order: &str, promotion: &str) {
        let client = self.client(id);
        wait_until(FAILS_OVER_WITHIN, "the grab is granted", || {
            let answer = client.grab(order, "alice").of(promotion, 1).answer();
            (answer.status == 200)
                .then_some(())
                .ok_or_else(|| answer.to_string())
        });
    }

    fn wait_end(&mut self) -> ExitStatus {
        wait_until(ENDS_WITHIN, "the demo ends", || {
            self.child
                .try_wait()
                .expect("a child")
                .ok_or("it runs".to_owned())
        })
    }

    /// Ctrl-C, and the end of everything.
    fn stop(mut self) -> Files {
        self.signal(Signal::INT);
        let status = self.wait_end();
        assert_eq!(
            status.code(),
            Some(0),
            "Ctrl-C is how a demo ends: {status}"
        );
        for id in 1..=self.nodes.len() {
            assert!(is_gone(self.pid(id)), "node {id} outlived the demo");
        }
        self.files
            .take()
            .expect("it has its files until it is stopped")
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            drop(self.child.wait());
        }
        if let (true, Some(files)) = (std::thread::panicking(), &self.files) {
            eprintln!("--- stderr of the demo ---\n{}", files.err());
        }
    }
}

/// A node that was started beside the demo, killed with its test.
struct Beside(Child);

impl Beside {
    /// Starts `arguments`, its log in `log`.
    fn start(arguments: &[String], log: &Path) -> Self {
        let log = File::create(log).expect("a file");
        let child = Command::new(binary())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        Self(child)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
}

/// The first of so many neighbouring ports that are free with those of the peers, 100 above.
fn free_ports(count: u16) -> u16 {
    let start = u16::try_from(std::process::id() % 30).expect("below 30");
    (0..30)
        .map(|step| 10_000 + (start + step) % 30 * 200)
        .find(|first| {
            let ports = (*first..first + count).flat_map(|port| [port, port + 100]);
            ports
                .map(|port| TcpListener::bind(("127.0.0.1", port)))
                .all(|bound| bound.is_ok())
        })
        .expect("some neighbouring ports are free")
}

#[test]
fn a_demo_is_a_cluster_with_promotions_to_grab_and_gone_at_ctrl_c() {
    let demo = Demo::start(4);
    for (node, dc) in demo.nodes.iter().zip(["a", "a", "b", "b"]) {
        for member in ["id", "http", "peer", "pid", "data_dir"] {
            assert!(!node[member].is_null(), "no {member} in {node}");
        }
        assert_eq!(node["dc"], dc, "{node}");
    }
    assert!(
        (1..=4).all(|id| !is_gone(demo.pid(id))),
        "processes of their own"
    );
    // Nodes that each took all cores would be in each other's way.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = format!("QIANG_RUNTIME__THREADS={}\0", (cores / 4).max(1));
    for id in 1..=4 {
        let pid = demo.pid(id).as_raw_nonzero();
        let environment = read(Path::new(&format!("/proc/{pid}/environ")));
        assert!(environment.contains(&share), "node {id}: {environment:?}");
    }
    // Half the shards are led by each node of data centre a, whomever one asks.
    for asked in [1, 4] {
        assert_eq!(demo.leads(asked), [(1, 8), (2, 8), (3, 0), (4, 0)]);
    }
    let promotions = demo
        .client(1)
        .get("/v1/promotions?state=active")
        .expect(200);
    let first = promotions["promotions"][0]["promotion_id"].as_str();
    let first = first.unwrap_or_else(|| panic!("no active sample promotion: {promotions}"));
    demo.client(4).grab("o-1", "alice").of(first, 1).granted();
    demo.client(2).grab("o-1", "alice").of(first, 1).replayed();
    demo.stop();
}

#[test]
fn no_node_outlives_a_demo_that_is_killed() {
    let mut demo = Demo::start(2);
    demo.signal(Signal::KILL);
    demo.child.wait().expect("a killed child ends");
    for id in 1..=2 {
        let pid = demo.pid(id);
        assert!(
            comes_true(ENDS_WITHIN, || is_gone(pid)),
            "node {id} outlived the demo"
        );
    }
}

#[test]
fn a_demo_of_one_node_ends_with_it_and_says_why() {
    let mut demo = Demo::start(1);
    demo.kill(1);
    let status = demo.wait_end();
    assert_eq!(status.code(), Some(5), "{status}");
    let told = demo.files().err();
    assert!(told.contains("node 1"), "says which: {told}");
}

#[test]
fn a_node_that_is_killed_does_not_end_a_demo_and_comes_back_by_the_printed_command() {
    let demo = Demo::start(4);
    demo.client(1).grab("o-1", "alice").of("open", 1).granted();
    demo.kill(1);
    demo.grab_until_granted(2, "o-2", "open");
    demo.client(2).grab("o-1", "alice").of("open", 1).replayed();

    let told = wait_until(ENDS_WITHIN, "the death is reported", || {
        let told = demo.files().err();
        let line = told.lines().find(|line| line.contains(" serve "));
        line.map(|line| line.trim().to_owned()).ok_or(told.clone())
    });
    // The folder of the test has no character that a shell would take for another.
    let arguments: Vec<String> = told.split(' ').skip(1).map(str::to_owned).collect();
    assert!(
        arguments.contains(&"--node-id".to_owned()),
        "a command line: {told}"
    );
    let _back = Beside::start(&arguments, &demo.files().home.path().join("back.log"));
    wait_until(READY_WITHIN, "node 1 leads its half again", || {
        let leads = demo.leads(2);
        (leads == [(1, 8), (2, 8), (3, 0), (4, 0)])
            .then_some(())
            .ok_or_else(|| format!("{leads:?}"))
    });
    demo.client(1).grab("o-2", "alice").of("open", 1).replayed();
    demo.stop();
}

#[test]
fn a_demo_comes_back_on_its_data_with_as_many_nodes_as_before() {
    let demo = Demo::start(2);
    demo.client(2).grab("o-1", "alice").of("open", 1).granted();
    let revision = demo.cluster(1)["revision"].clone();
    let files = demo.stop();

    let refused = run(Command::new(binary())
        .args(["demo", "--nodes", "4", "--data-dir"])
        .arg(files.home.path().join("data")));
    refused.fails_naming(2, &["--nodes 2"]);

    let demo = Demo::start_in(files, 2);
    demo.client(1).grab("o-1", "alice").of("open", 1).replayed();
    let cluster = demo.cluster(1);
    // New addresses are two changes; nothing was added again.
    let changes = cluster["revision"].as_u64().zip(revision.as_u64());
    let changes = changes.map(|(now, before)| now - before);
    assert!(changes.is_some_and(|changes| changes <= 2), "{cluster}");
    demo.stop();
}

#[test]
fn the_cluster_of_a_demo_is_operated_from_the_command_line() {
    let demo = Demo::start(4);
    let status = demo.status(1, &[]);
    let head = status.ok().lines().next().unwrap_or_default();
    let columns: Vec<&str> = head.split_whitespace().collect();
    let expected = [
        "ID",
        "NAME",
        "DC",
        "ADDRESS",
        "STATE",
        "VOTER",
        "SHARDS-LED",
        "COMMIT",
        "LAG",
    ];
    assert_eq!(columns, expected, "{status}");
    assert_eq!(status.stdout.lines().count(), 5, "{status}");
    let told = demo.status(3, &["-o", "json"]);
    assert_eq!(told.json()["revision"], demo.cluster(3)["revision"]);

    demo.raft(3, &["drain", "1"]).ok();
    assert_eq!(demo.leads(1), [(1, 0), (2, 16), (3, 0), (4, 0)]);
    demo.raft(3, &["drain", "1"])
        .fails_naming(1, &["cluster_refused"]);
    demo.raft(3, &["drain", "1", "--undo"]).ok();
    demo.raft(1, &["move-leaders", "--dc", "b"]).ok();
    assert_eq!(demo.leads(4), [(1, 0), (2, 0), (3, 8), (4, 8)]);
    demo.raft(1, &["move-leaders", "--dc", "nowhere"])
        .fails_naming(1, &["nowhere"]);
    demo.raft(2, &["transfer-leader", "3", "1"]).ok();
    assert_eq!(demo.cluster(4)["shards"][3]["leader"], 1);
    // Those that share its log go with it.
    assert_eq!(demo.leads(4), [(1, 8), (2, 0), (3, 8), (4, 0)]);
    demo.raft(2, &["transfer-leader", "3", "9"])
        .fails_naming(1, &["node_not_found"]);
    let planned = demo.raft(2, &["rebalance", "--dry-run", "-o", "json"]);
    planned.ok();
    let moves = planned.json()["moves"].as_array().cloned();
    let moved = moves
        .into_iter()
        .flatten()
        .map(|planned| planned["group"].clone());
    let odd = (0..8).map(|number| json!((number * 2 + 1).to_string()));
    assert!(moved.eq(odd), "{planned}");
    demo.raft(2, &["rebalance"]).ok();
    assert_eq!(demo.leads(4), [(1, 0), (2, 0), (3, 8), (4, 8)]);
    let nothing = demo.raft(2, &["rebalance", "--dry-run", "-o", "json"]);
    assert_eq!(nothing.json()["moves"], json!([]));
    demo.client(1).grab("o-1", "alice").of("open", 1).granted();
    demo.stop();
}

#[test]
fn a_node_is_added_to_a_demo_and_another_removed() {
    let demo = Demo::start(4);
    let http = format!("127.0.0.1:{}", demo.base_port + 4);
    let peer = format!("127.0.0.1:{}", demo.base_port + 104);
    let add = |flags: &[&str]| {
        let mut arguments = vec!["add-node", "5", "--address", &peer];
        arguments.extend(flags);
        demo.raft(1, &arguments)
    };
    // Nobody listens there yet.
    add(&["--dc", "b"]).fails_naming(1, &[&peer]);
    let data = demo.files().home.path().join("data").join("node-5");
    let join = demo.nodes[0]["peer"].as_str().expect("an address");
    let serve = [
        "serve",
        "--node-id",
        "5",
        "--dc",
        "b",
        "--data-dir",
        data.to_str().expect("a plain path"),
        "--listen",
        &http,
        "--peer-listen",
        &peer,
        "--join",
        join,
    ];
    let serve: Vec<String> = serve.iter().map(|word| (*word).to_owned()).collect();
    let _five = Beside::start(&serve, &demo.files().home.path().join("five.log"));
    let client = Client::new(&http);
    wait_until(READY_WITHIN, "node 5 waits to be added", || {
        match client.try_get("/readyz") {
            Ok(answer) if answer.text.contains("add-node") => Ok(()),
            Ok(answer) => Err(answer.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    add(&["--dc", "a"]).fails_naming(1, &["data centre"]);
    add(&["--dc", "c"]).fails_naming(1, &["third"]);
    let added = add(&["--dc", "b"]);
    assert!(added.ok().contains("node 5 serves"), "{added}");
    assert!(added.stderr.contains("groups"), "says how far: {added}");
    client.get("/readyz");
    client.grab("o-1", "alice").of("open", 1).granted();
    add(&["--dc", "b"]).fails_naming(1, &["already a member"]);

    demo.raft(1, &["remove-node", "4"])
        .fails_naming(2, &["--yes"]);
    demo.raft(4, &["remove-node", "4", "--yes"])
        .fails_naming(2, &["--server"]);
    demo.raft(1, &["remove-node", "4", "--yes"]).ok();
    let ids: Vec<u64> = demo.leads(1).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [1, 2, 3, 5]);
    demo.raft(1, &["remove-node", "4", "--yes"])
        .fails_naming(1, &["node_not_found"]);
    client.grab("o-1", "alice").of("open", 1).replayed();
    demo.stop();
}

#[test]
fn a_lost_data_centre_is_shown_and_recovered_from_the_command_line() {
    let demo = Demo::start(4);
    demo.client(1).grab("o-1", "alice").of("open", 1).granted();
    demo.raft(3, &["recover", "--dc", "b", "--yes"])
        .fails_naming(1, &["recovery_refused"]);
    demo.kill(1);
    demo.kill(2);
    let status = demo.raft(3, &["status"]);
    status.fails_naming(6, &["17 of 17 groups"]);
    let silent = status
        .stdout
        .lines()
        .filter(|line| line.contains("unreachable"));
    assert_eq!(silent.count(), 2, "{status}");
    demo.raft(3, &["recover", "--dc", "b"])
        .fails_naming(2, &["nodes 1 and 2", "--yes"]);
    let recovered = demo.raft(3, &["recover", "--dc", "b", "--yes", "-o", "json"]);
    recovered.ok();
    let told = recovered.json();
    assert_eq!(
        (&told["survivors"], &told["abandoned"], &told["groups"]),
        (&json!([3, 4]), &json!([1, 2]), &json!(17)),
        "{recovered}"
    );
    demo.grab_until_granted(4, "o-2", "open");
    demo.client(3).grab("o-1", "alice").of("open", 1).replayed();
    demo.status(3, &[]);
    demo.stop();
}

#[test]
fn a_replica_tells_what_it_has_and_how_far_behind_it_is() {
    let demo = Demo::start(2);
    demo.client(1).grab("o-1", "alice").of("open", 1).granted();
    let path = "/v1/promotions/open?consistency=stale";
    let client = demo.client(2);
    wait_until(FAILS_OVER_WITHIN, "the replica has the grab", || {
        let view = client.get(path).expect(200);
        let stale = &view["stale"];
        assert!(
            stale["applied_index"].is_u64() && stale["lag_entries"].is_u64(),
            "{view}"
        );
        (view["remaining"] == 999)
            .then_some(())
            .ok_or_else(|| view.to_string())
    });
    client
        .get("/v1/promotions/nowhere?consistency=stale")
        .refused(404, "promotion_not_found");
    client
        .get("/v1/promotions/open?consistency=fresh")
        .bad("consistency");
    demo.stop();
}
