//! `qiang demo`: a node as a process of its own with sample promotions, for trying things.
//!
//! Invariant: whatever becomes of the demo, no node outlives it. In order it stops them itself; killed, the system does.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Client, Failure, Output};

/// Nodes of this version's demo.
const NODES_MAX: u16 = 1;

/// A node's peer port is its public port and this.
const PEER_PORT_OFFSET: u16 = 100;

/// How long a node may take to become ready. It replays its log first, if there is one.
const READY_WITHIN: Duration = Duration::from_mins(2);

/// How long a node may take to stop; then it is killed. More than its default drain.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Pause between two looks at a node that starts or stops.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The data centre of all nodes of this version's demo.
const DC: &str = "a";

/// Lines of a dead node's log that are shown.
const LOG_LINES_SHOWN: usize = 20;

/// What to start, and where.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  qiang demo\n  qiang demo --base-port 8400 --data-dir demo-data -o json\n\n\
    Ctrl-C stops everything. Without --data-dir the data is temporary and removed at the end."
)]
pub(crate) struct DemoArgs {
    /// How many nodes; this version has one
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    nodes: u16,
    /// Keep the data here and use it again next time; otherwise it is temporary
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// Public port of the first node; its peer port is 100 above
    #[arg(long, value_name = "PORT", default_value_t = 7400)]
    base_port: u16,
}

/// Runs the demo until it is told to stop, or a node dies.
pub(crate) async fn run(args: &DemoArgs, out: &mut Output) -> Result<(), Failure> {
    check(args)?;
    // Before the first child, so that no signal finds the demo without its hands free.
    let mut stop = StopSignals::listen()?;
    let home = Home::open(args.data_dir.as_deref())?;
    let mut nodes = Vec::new();
    for number in 0..args.nodes {
        nodes.push(Node::start(
            args.base_port + number,
            u64::from(number) + 1,
            home.path(),
        )?);
    }
    let outcome = tokio::select! {
        outcome = show_and_watch(&mut nodes, &home, out) => outcome,
        () = stop.received() => Ok(()),
    };
    if outcome.is_ok() {
        eprintln!("stopping");
    }
    for node in &mut nodes {
        node.stop().await;
    }
    outcome
}

fn check(args: &DemoArgs) -> Result<(), Failure> {
    if args.nodes == 0 || args.nodes > NODES_MAX {
        return Err(Failure::Usage(format!(
            "--nodes {}: this version runs one node; clusters of several come with a later one",
            args.nodes
        )));
    }
    // Port 0 would be any port, and the peer port counts from it.
    if args.base_port == 0
        || args
            .base_port
            .checked_add(PEER_PORT_OFFSET + args.nodes)
            .is_none()
    {
        return Err(Failure::Usage(format!(
            "--base-port {}: there is no room for the ports after it",
            args.base_port
        )));
    }
    Ok(())
}

async fn show_and_watch(nodes: &mut [Node], home: &Home, out: &mut Output) -> Result<(), Failure> {
    for node in nodes.iter_mut() {
        node.wait_ready().await?;
    }
    let first = &nodes[0];
    create_samples(&first.client).await?;
    if out.is_json() {
        let ready = Ready {
            nodes: nodes.iter().map(Node::told).collect(),
        };
        let ready =
            serde_json::to_string(&ready).expect("texts and numbers always have a JSON form");
        out.json_line(&ready)?;
    } else {
        out.text(&told(nodes, home, &program(), &asked_server()))?;
    }
    loop {
        for node in nodes.iter_mut() {
            node.check_alive()?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The ways in which people and systems tell a program to end.
struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// `None` under `nohup`, which is to outlive its terminal.
    hang_up: Option<tokio::signal::unix::Signal>,
}

impl StopSignals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::Server(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: if hang_up_is_ignored() {
                None
            } else {
                Some(listen(SignalKind::hangup())?)
            },
        })
    }

    async fn received(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hang_up => {}
        }
    }
}

/// Whether whoever started this process had it ignore SIGHUP, the first bit of `SigIgn` in `proc_pid_status(5)`.
fn hang_up_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 != 0)
}

/// Where the nodes' data and logs lie.
struct Home {
    path: PathBuf,
    /// Removed when dropped.
    temporary: Option<tempfile::TempDir>,
}

impl Home {
    fn open(given: Option<&Path>) -> Result<Self, Failure> {
        let cannot =
            |error| Failure::Server(format!("cannot create the demo's data directory: {error}"));
        if let Some(path) = given {
            std::fs::create_dir_all(path).map_err(cannot)?;
            let path = std::path::absolute(path).map_err(cannot)?;
            return Ok(Self {
                path,
                temporary: None,
            });
        }
        let temporary = tempfile::TempDir::with_prefix("qiang-demo-").map_err(cannot)?;
        Ok(Self {
            path: temporary.path().to_owned(),
            temporary: Some(temporary),
        })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// What `-o json` prints when everything is ready.
#[derive(Serialize)]
struct Ready {
    nodes: Vec<Told>,
}

/// A node, as it is told.
#[derive(Serialize)]
struct Told {
    id: u64,
    dc: &'static str,
    http: SocketAddr,
    peer: SocketAddr,
    pid: u32,
    data_dir: String,
}

/// A node's process.
struct Node {
    id: u64,
    http: SocketAddr,
    peer: SocketAddr,
    data_dir: PathBuf,
    log: PathBuf,
    client: Client,
    child: Child,
}

impl Node {
    fn start(port: u16, id: u64, home: &Path) -> Result<Self, Failure> {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, port + PEER_PORT_OFFSET));
        check_free(http)?;
        check_free(peer)?;
        let data_dir = home.join(format!("node-{id}"));
        // Beside the data directory, which is the store's alone.
        let log = home.join(format!("node-{id}.log"));
        let cannot =
            |error: std::io::Error| Failure::Server(format!("cannot start node {id}: {error}"));
        let out = File::create(&log).map_err(cannot)?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command
            .args([
                "serve",
                "--bootstrap",
                "--dc",
                DC,
                "--node-id",
                &id.to_string(),
            ])
            .arg("--data-dir")
            .arg(&data_dir)
            .args([
                "--listen",
                &http.to_string(),
                "--peer-listen",
                &peer.to_string(),
            ])
            .args(["--parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(cannot)?)
            .stderr(out)
            // Ctrl-C on the terminal is the demo's to handle, which then asks its nodes to stop.
            .process_group(0);
        let child = command.spawn().map_err(cannot)?;
        let client = Client::to(http);
        Ok(Self {
            id,
            http,
            peer,
            data_dir,
            log,
            client,
            child,
        })
    }

    fn told(&self) -> Told {
        Told {
            id: self.id,
            dc: DC,
            http: self.http,
            peer: self.peer,
            pid: self.child.id(),
            data_dir: self.data_dir.display().to_string(),
        }
    }

    async fn wait_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.check_alive()?;
            let Err(failure) = self.client.get("/readyz").await else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                let log = self.last_log();
                return Err(Failure::Server(format!(
                    "node {} is not ready after {READY_WITHIN:?}: {failure}{log}",
                    self.id
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn check_alive(&mut self) -> Result<(), Failure> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => Err(Failure::Server(format!(
                "node {} ended by itself ({status}){}",
                self.id,
                self.last_log()
            ))),
        }
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>, Failure> {
        let id = self.id;
        self.child
            .try_wait()
            .map_err(|error| Failure::Server(format!("cannot look after node {id}: {error}")))
    }

    fn last_log(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        if shown.is_empty() {
            String::new()
        } else {
            format!("; it said last:\n{}", shown.join("\n"))
        }
    }

    /// Asks the node to stop, and waits for it. A node that does not stop is killed: the log is durable.
    async fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            // It may end in between: then there is nothing to ask.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                eprintln!(
                    "node {} did not stop within {STOP_WITHIN:?} and is killed",
                    self.id
                );
                self.kill();
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// However the demo ends: what it started ends too.
impl Drop for Node {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// Names a port that is taken before a node stumbles over it. A moment later it may still be taken by another.
fn check_free(address: SocketAddr) -> Result<(), Failure> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Server(format!(
            "the demo needs {address}: {error}; stop what listens there, or choose other ports with --base-port"
        ))),
    }
}

/// The promotions to try things with. The two of the cart live on different shards.
fn samples(now: jiff::Timestamp) -> Vec<Value> {
    let later = |seconds: i64| {
        let time = now.saturating_add(jiff::SignedDuration::from_secs(seconds));
        time.map_or(Value::Null, |time| json!(format!("{time:.3}")))
    };
    let price = json!({"original_cents": 499_900, "promotion_cents": 449_900, "currency": "CNY"});
    vec![
        json!({"promotion_id": "open", "title": "Limited by quantity alone", "quantity": 1000}),
        json!({"promotion_id": "by-ip", "title": "Two for one ip", "quantity": 100, "limits": {"per_ip": 2}}),
        json!({"promotion_id": "by-pin", "title": "Two for one pin", "quantity": 100, "limits": {"per_pin": 2}}),
        json!({
            "promotion_id": "by-ip-and-pin", "title": "One for one pin, three for one ip", "quantity": 100,
            "limits": {"per_pin": 1, "per_ip": 3}
        }),
        json!({
            "promotion_id": "later", "title": "Starts in ten minutes", "quantity": 10,
            "starts_at": later(600), "ends_at": later(86_400), "price": price
        }),
        json!({"promotion_id": "phone", "title": "A cart: phone", "quantity": 100, "price": price}),
        json!({"promotion_id": "case", "title": "A cart: case", "quantity": 100}),
    ]
}

async fn create_samples(client: &Client) -> Result<(), Failure> {
    for body in samples(jiff::Timestamp::now()) {
        match client.post("/v1/promotions", Some(&body)).await {
            // Left by an earlier demo on the same data, with other times.
            Ok(_) | Err(Failure::Refused(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// How this program is called from here: by its name if the shell finds it so, otherwise by its path.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else {
        return "qiang".to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join("qiang"))
        .find(|file| file.is_file());
    let same = |file: &Path| std::fs::canonicalize(file).ok() == std::fs::canonicalize(&own).ok();
    if found.is_some_and(|file| same(&file)) {
        return "qiang".to_owned();
    }
    let here = std::env::current_dir().ok();
    match here.and_then(|here| own.strip_prefix(here).ok().map(Path::to_owned)) {
        Some(relative) => format!("./{}", relative.display()),
        None => own.display().to_string(),
    }
}

/// The node that commands in this shell ask without being told.
fn asked_server() -> String {
    std::env::var("QIANG_SERVER").unwrap_or_else(|_| "127.0.0.1:7400".to_owned())
}

/// What is printed for people: where things are, and what to try, as it works when typed.
fn told(nodes: &[Node], home: &Home, program: &str, asked: &str) -> String {
    let mut lines = Vec::new();
    for node in nodes {
        lines.push(format!(
            "node {}   http://{}   pid {}   log {}",
            node.id,
            node.http,
            node.child.id(),
            node.log.display()
        ));
    }
    lines.push(match home.temporary {
        Some(_) => format!(
            "data in {}, removed at the end (--data-dir keeps it)",
            home.path.display()
        ),
        None => format!("data in {}", home.path.display()),
    });
    lines.push(String::new());
    lines.push("Try in another terminal:".to_owned());
    lines.extend(
        to_try(program, &nodes[0].http.to_string(), asked)
            .into_iter()
            .map(|line| format!("  {line}")),
    );
    lines.push(String::new());
    lines.push("Ctrl-C stops the demo.".to_owned());
    lines.join("\n")
}

fn to_try(program: &str, server: &str, asked: &str) -> Vec<String> {
    let at = if server == asked {
        String::new()
    } else {
        format!(" --server {server}")
    };
    let grab = |order: &str, pin: &str, items: &str| {
        format!("{program} grab{at} --order {order} --pin {pin} --ip 203.0.113.9 {items}")
    };
    let body = r#"{"order_id":"o-4","pin":"dave","ip":"203.0.113.10","channel":"web","items":[{"promotion_id":"by-ip-and-pin","quantity":1}]}"#;
    vec![
        format!("{program} promo list{at}"),
        grab("o-1", "alice", "open:1"),
        grab("o-2", "bob", "by-pin:2"),
        grab("o-3", "carol", "phone:1 case:2"),
        format!("{program} order get o-3{at}"),
        format!("{program} order confirm o-3{at}"),
        format!("{program} flows tail{at} --promotion phone"),
        format!(
            "curl -sS -X POST http://{server}/v1/grabs -H 'content-type: application/json' -d '{body}'"
        ),
        format!("curl -sS http://{server}/v1/promotions/open"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiang_engine::PromotionId;
    use qiang_engine::routing::shard_of;

    #[test]
    fn the_cart_of_the_samples_spans_two_shards() {
        let shard = |id: &str| shard_of(&PromotionId::new(id).unwrap());
        assert_ne!(shard("phone"), shard("case"));
    }

    #[test]
    fn what_is_printed_names_the_node_unless_it_is_asked_anyway() {
        let lines = to_try("qiang", "127.0.0.1:7400", "127.0.0.1:7400");
        assert!(
            lines
                .contains(&"qiang grab --order o-1 --pin alice --ip 203.0.113.9 open:1".to_owned())
        );
        let lines = to_try("./qiang", "127.0.0.1:8400", "127.0.0.1:7400");
        assert!(lines.contains(
            &"./qiang grab --server 127.0.0.1:8400 --order o-1 --pin alice --ip 203.0.113.9 open:1".to_owned()
        ));
    }

    #[test]
    fn more_nodes_than_this_version_runs_are_refused() {
        let args = |nodes, base_port| DemoArgs {
            nodes,
            data_dir: None,
            base_port,
        };
        assert!(check(&args(1, 7400)).is_ok());
        for wrong in [args(0, 7400), args(4, 7400), args(1, 0), args(1, 65_500)] {
            assert_eq!(check(&wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
