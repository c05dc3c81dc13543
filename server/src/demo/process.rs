//! A node's process.
//!
//! Invariant: a process that was started is stopped, or killed, before its handle is gone.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::PEER_PORT_OFFSET;
use super::home::Home;
use crate::cli::{Client, Failure};

/// How long a node may take to stop; then it is killed. More than its default drain.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How long a node may take until it answers.
const ALIVE_WITHIN: Duration = Duration::from_mins(1);

/// Pause between two looks at a node that starts or stops.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The variable that a node's number of threads comes from.
const THREADS: &str = "QIANG_RUNTIME__THREADS";

/// Lines of a dead node's log that are shown.
const LOG_LINES_SHOWN: usize = 20;

/// A node, as it is told.
#[derive(Serialize)]
pub(super) struct Told {
    id: u64,
    dc: String,
    http: SocketAddr,
    peer: SocketAddr,
    pid: u32,
    data_dir: String,
}

/// How a node without data begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Begins {
    /// A new cluster.
    Alone,
    /// In the cluster of the node that listens there for its peers.
    With(SocketAddr),
}

/// Who a node is and where.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) id: u64,
    pub(super) dc: &'static str,
    pub(super) http: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) data_dir: PathBuf,
    pub(super) log: PathBuf,
    /// Its share of the machine's cores.
    pub(super) threads: usize,
}

impl Place {
    /// The `number`th node of `nodes`, from 1: the first half in data centre a, the rest in b.
    pub(super) fn of(number: u16, nodes: u16, base_port: u16, home: &Home) -> Self {
        let port = base_port + number - 1;
        let id = u64::from(number);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Place {
            id,
            dc: if number <= nodes.div_ceil(2) {
                "a"
            } else {
                "b"
            },
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, port + PEER_PORT_OFFSET)),
            data_dir: home.data_dir(id),
            log: home.log(id),
            threads: (cores / usize::from(nodes)).max(1),
        }
    }

    /// The arguments that start this node on data that is there.
    pub(super) fn arguments(&self) -> Vec<String> {
        let texts = [
            ("--node-id", self.id.to_string()),
            ("--dc", self.dc.to_owned()),
            ("--data-dir", self.data_dir.display().to_string()),
            ("--listen", self.http.to_string()),
            ("--peer-listen", self.peer.to_string()),
        ];
        let flags = texts
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        std::iter::once("serve".to_owned()).chain(flags).collect()
    }
}

/// A running node.
pub(super) struct Process {
    pub(super) place: Place,
    pub(super) client: Client,
    child: Child,
}

impl Process {
    pub(super) fn start(place: Place, begins: Begins) -> Result<Self, Failure> {
        check_free(place.http)?;
        check_free(place.peer)?;
        let id = place.id;
        let cannot =
            |error: std::io::Error| Failure::Server(format!("cannot start node {id}: {error}"));
        let out = File::create(&place.log).map_err(cannot)?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.args(place.arguments());
        match begins {
            Begins::Alone => command.arg("--bootstrap"),
            Begins::With(peer) => command.args(["--join", &peer.to_string()]),
        };
        // Nodes that each took all cores would only be in each other's way.
        if std::env::var_os(THREADS).is_none() {
            command.env(THREADS, place.threads.to_string());
        }
        command
            .args(["--parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(cannot)?)
            .stderr(out)
            // Ctrl-C on the terminal is the demo's to handle, which then asks its nodes to stop.
            .process_group(0);
        let child = command.spawn().map_err(cannot)?;
        let client = Client::to(place.http);
        Ok(Self {
            place,
            client,
            child,
        })
    }

    pub(super) fn told(&self) -> Told {
        Told {
            id: self.place.id,
            dc: self.place.dc.to_owned(),
            http: self.place.http,
            peer: self.place.peer,
            pid: self.pid(),
            data_dir: self.place.data_dir.display().to_string(),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process answers, ready or not.
    pub(super) async fn wait_alive(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + ALIVE_WITHIN;
        loop {
            self.check_alive()?;
            let Err(failure) = self.client.get("/livez").await else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(Failure::Server(format!(
                    "node {} does not answer after {ALIVE_WITHIN:?}: {failure}{}",
                    self.place.id,
                    self.last_log()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) fn check_alive(&mut self) -> Result<(), Failure> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => Err(Failure::Server(format!(
                "node {} ended by itself ({status}){}",
                self.place.id,
                self.last_log()
            ))),
        }
    }

    pub(super) fn exited(&mut self) -> Result<Option<ExitStatus>, Failure> {
        let id = self.place.id;
        self.child
            .try_wait()
            .map_err(|error| Failure::Server(format!("cannot look after node {id}: {error}")))
    }

    /// The end of the node's log, as the end of a sentence about it.
    pub(super) fn last_log(&self) -> String {
        let log = std::fs::read(&self.place.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        if shown.is_empty() {
            String::new()
        } else {
            format!("; it said last:\n{}", shown.join("\n"))
        }
    }

    /// Asks all nodes to stop, and waits for them. One that does not stop is killed: the log is durable.
    pub(super) async fn stop_all(nodes: &mut [Process]) {
        for node in nodes.iter_mut() {
            node.ask_to_stop();
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for node in nodes {
            while matches!(node.child.try_wait(), Ok(None)) {
                if Instant::now() >= deadline {
                    eprintln!(
                        "node {} did not stop within {STOP_WITHIN:?} and is killed",
                        node.place.id
                    );
                    node.kill();
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    fn ask_to_stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            // It may end in between: then there is nothing to ask.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// However the demo ends: what it started ends too.
impl Drop for Process {
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
