//! One real node: a process of the released binary with its own ports and data directory.
//!
//! Invariant: a node never outlives the test that started it, and when that test fails, what the node wrote to its
//! output is printed.

use crate::{Client, Host, PeerProxy, Run, run, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long enough for a start on a loaded machine that replays a large log.
const START_WITHIN: Duration = Duration::from_mins(2);
/// A drain answers what is in flight, each within the request deadline; more than this is a hang.
const STOP_WITHIN: Duration = Duration::from_mins(1);
/// Lines of a node's output that a failed test prints.
const LOG_LINES_SHOWN: usize = 120;

/// Logs that the shards share: more than one, so that there are carts over two of them and leaders on two nodes, however many
/// threads this machine has.
const LOGS: &str = "2";

/// The binary under test: `QIANG_BIN`, or `qiang` beside the folder of this test's executable.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("QIANG_BIN") {
        let named = PathBuf::from(named);
        assert!(
            named.is_file(),
            "QIANG_BIN names {}, which is not a file",
            named.display()
        );
        return named;
    }
    let test = std::env::current_exe().expect("a test knows its executable");
    let beside = test
        .ancestors()
        .nth(2)
        .expect("a test lives two folders deep in the target directory")
        .join("qiang");
    assert!(
        beside.is_file(),
        "{} does not exist: run `cargo build --release -p server` first, or name the binary in QIANG_BIN",
        beside.display()
    );
    beside
}

/// A port that nothing listens on just now.
///
/// Ports come from below the ephemeral range: a client's outgoing connection never takes the port of a node that is
/// down for a moment. Test binaries run one after another, threads of one share the counter.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 61 % u32::from(COUNT)).expect("below COUNT");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// How a node is started.
#[derive(Debug)]
pub struct Builder {
    id: u64,
    dc: String,
    join: Option<String>,
    data_dir: Option<PathBuf>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    host: Option<Host>,
    behind_proxy: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            id: 1,
            dc: "a".to_owned(),
            join: None,
            data_dir: None,
            flags: Vec::new(),
            environment: Vec::new(),
            host: None,
            behind_proxy: false,
        }
    }
}

impl Builder {
    /// The node's number and data centre; 1 and `a` unless said otherwise.
    #[must_use]
    pub fn number(mut self, id: u64, dc: &str) -> Self {
        self.id = id;
        dc.clone_into(&mut self.dc);
        self
    }

    /// Joins the cluster of the node at this peer address instead of beginning one.
    #[must_use]
    pub fn join(mut self, peer_address: &str) -> Self {
        self.join = Some(peer_address.to_owned());
        self
    }

    /// Runs it on a host of its own. It is reached through a door on this machine, its peers only over the hosts' network.
    #[must_use]
    pub fn on(mut self, host: Host) -> Self {
        self.host = Some(host);
        self
    }

    /// Has its peers find it behind a proxy: whatever they begin passes there, and nothing that it begins itself.
    #[must_use]
    pub fn behind_proxy(mut self) -> Self {
        self.behind_proxy = true;
        self
    }

    /// The number it is to have.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Keeps the data in `path` instead of a temporary directory.
    #[must_use]
    pub fn data_dir(mut self, path: &Path) -> Self {
        self.data_dir = Some(path.to_owned());
        self
    }

    /// Adds flags to `qiang serve`, at every start.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Sets an environment variable of the node.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the node for the first time and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Node {
        let mut node = self.prepare();
        node.launch(true);
        node.wait_ready();
        node
    }

    /// Everything but the process: directories, ports and flags.
    pub fn prepare(self) -> Node {
        let home = TempDir::with_prefix("qiang-test-").expect("a temporary directory");
        let data_dir = self.data_dir.unwrap_or_else(|| home.path().join("data"));
        let (http, peer) = (free_port(), free_port());
        let listens = SocketAddr::from((Ipv4Addr::LOCALHOST, http));
        let door = self
            .host
            .clone()
            .map(|host| PeerProxy::start_into(host, listens));
        let proxy = self
            .behind_proxy
            .then(|| PeerProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, peer))));
        let asked = door.as_ref().map_or(listens, PeerProxy::address);
        Node {
            id: self.id,
            dc: self.dc,
            join: self.join,
            client: Client::new(&asked.to_string()),
            listens,
            asked,
            host: self.host,
            _door: door,
            proxy,
            peer,
            data_dir,
            home,
            flags: self.flags,
            environment: self.environment,
            child: None,
        }
    }
}

/// A node of the released binary. It is a [`Client`] of itself.
#[derive(Debug)]
pub struct Node {
    id: u64,
    dc: String,
    join: Option<String>,
    client: Client,
    /// Its public address where it runs.
    listens: SocketAddr,
    /// The same for clients on this machine: another one if it runs on a host of its own.
    asked: SocketAddr,
    host: Option<Host>,
    _door: Option<PeerProxy>,
    proxy: Option<PeerProxy>,
    peer: u16,
    data_dir: PathBuf,
    home: TempDir,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Deref for Node {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Node {
    /// A fresh one-node cluster with default settings, ready to serve.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A node with settings of its own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where the data lives.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The public address, `127.0.0.1:port`.
    pub fn http_address(&self) -> String {
        self.asked.to_string()
    }

    /// The address for other nodes: `127.0.0.1:port`, or that of its host or its proxy.
    pub fn peer_address(&self) -> String {
        match &self.proxy {
            Some(proxy) => proxy.address().to_string(),
            None => self.peer_listens(),
        }
    }

    /// The proxy on the way of its peers to it.
    #[track_caller]
    pub fn proxy(&self) -> &PeerProxy {
        self.proxy.as_ref().expect("a node behind a proxy")
    }

    fn peer_listens(&self) -> String {
        let host = self
            .host
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, Host::address);
        format!("{host}:{}", self.peer)
    }

    /// Its number in the cluster.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its data centre.
    pub fn dc(&self) -> &str {
        &self.dc
    }

    /// Whether its process was started and not stopped since.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The process id; a panic where the node is down.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// `kill -9`: nothing is flushed, nobody is told.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a process of ours can be killed");
            child.wait().expect("a killed process ends");
        }
    }

    /// SIGTERM, without waiting for the end.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: the process stands still until [`Self::go_on`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("a signal reaches the node");
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        let status = wait_until(STOP_WITHIN, "the node's process ends", || {
            child
                .try_wait()
                .expect("a child can be waited for")
                .ok_or("it runs".to_owned())
        });
        self.child = None;
        status
    }

    /// SIGTERM and the end of the process: a drain.
    #[track_caller]
    pub fn stop_gracefully(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.wait_exit()
    }

    /// Starts the node again on the same data and ports and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.launch(false);
        self.wait_ready();
    }

    /// Starts the process again without waiting for readiness.
    #[track_caller]
    pub fn launch(&mut self, bootstrap: bool) {
        assert!(self.child.is_none(), "the node runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a log file in the test's directory");
        let errors = log.try_clone().expect("a second handle");
        let mut command = self.serve_command(bootstrap);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        self.child = Some(child);
        // A new process, new connections: a request must not fail on one of the dead process.
        self.client = Client::new(&self.http_address());
    }

    /// Runs `qiang serve` on this node's data and waits for its end: for starts that must fail.
    #[track_caller]
    pub fn serve_and_fail(&self, bootstrap: bool) -> Run {
        run(&mut self.serve_command(bootstrap))
    }

    fn serve_command(&self, bootstrap: bool) -> Command {
        let mut command = match &self.host {
            Some(host) => host.command(&binary()),
            None => Command::new(binary()),
        };
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--listen", &self.listens.to_string()])
            .args(["--peer-listen", &self.peer_listens()])
            .args(["--node-id", &self.id.to_string(), "--dc", &self.dc])
            .args(&self.flags)
            .current_dir(self.home.path())
            .env("NO_COLOR", "1")
            .env("QIANG_STORAGE__LOGS", LOGS)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        if self.proxy.is_some() {
            command.env("QIANG_PEER__ADVERTISE", self.peer_address());
        }
        match &self.join {
            Some(address) => drop(command.args(["--join", address])),
            None if bootstrap => drop(command.arg("--bootstrap")),
            None => {}
        }
        command
    }

    /// Waits until the node says that it is ready.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let deadline = Instant::now() + START_WITHIN;
        let mut state = String::from("not asked yet");
        loop {
            if let Some(status) = self.exited() {
                panic!("the node ended ({status}) instead of becoming ready; last state: {state}");
            }
            let asked = self.client.try_get("/readyz");
            state = match asked {
                Ok(answer) if answer.status == 200 => return,
                Ok(answer) => answer.to_string(),
                Err(error) => error.to_string(),
            };
            assert!(
                Instant::now() < deadline,
                "not ready within {START_WITHIN:?}: {state}"
            );
            // Not a synchronisation: only the pause between two looks.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()?
            .try_wait()
            .expect("a child can be waited for")
    }

    /// What the node wrote to stdout and stderr so far, but for a line that is still being written: a file that grows
    /// over the end of a page shows half of it for a moment.
    pub fn log(&self) -> String {
        let mut bytes = fs::read(self.log_path()).unwrap_or_default();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(whole.map_or(0, |end| end + 1));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("node.log")
    }

    /// A scratch file of this test, deleted with the node.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Whether the system may back its memory with huge pages, from `/proc`; `None` where that is not told.
    pub fn may_have_huge_pages(&self) -> Option<bool> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let told = status
            .lines()
            .find_map(|line| line.strip_prefix("THP_enabled:"))?;
        Some(told.trim() != "0")
    }

    /// Opens a file below the data directory for reading and writing, to damage it.
    #[track_caller]
    pub fn open_data(&self, relative: &Path) -> File {
        let path = self.data_dir.join(relative);
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let ended = self.exited();
        if self.child.is_some() && ended.is_none() {
            self.kill();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- output of the node (last {} lines) ---", shown.len());
            if let Some(status) = ended {
                eprintln!("(it had ended before: {status})");
            }
            for line in shown {
                eprintln!("{line}");
            }
            eprintln!("--- end of its output ---");
        }
    }
}
