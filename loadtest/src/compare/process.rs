//! Servers that a comparison starts: processes in a directory of their own, on ports of their own.
//!
//! Invariant: no server outlives its value, and what it said is shown when it did not come up.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::failure::Failure;

/// How long a server may take to come up: a cluster of four forms in seconds, on a busy machine in tens of them.
const UP_WITHIN: Duration = Duration::from_mins(1);

/// Between two looks at a server that comes up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long processes may take to end after the one that started them was killed: the system ends them at once.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of a server's output that are shown when it did not come up.
const SHOWN_BYTES: usize = 2_000;

/// Servers of one contender.
#[derive(Debug)]
pub struct Servers {
    children: Vec<Child>,
    /// Processes that the children started, and that end with them.
    others: Vec<u32>,
    home: TempDir,
    stop: std::sync::Arc<AtomicBool>,
}

impl Servers {
    /// None yet, and a directory for them below `parent`.
    pub fn new(parent: &Path, stop: std::sync::Arc<AtomicBool>) -> Result<Self, Failure> {
        let home = TempDir::with_prefix_in("qiang-load-", parent).map_err(|error| {
            let parent = parent.display();
            Failure::Server(format!("cannot make a directory in {parent}: {error}"))
        })?;
        Ok(Self {
            children: Vec::new(),
            others: Vec::new(),
            home,
            stop,
        })
    }

    /// Their directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Makes a directory in theirs.
    pub fn directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.home().join(name);
        fs::create_dir_all(&path)
            .map_err(|error| Failure::Server(format!("cannot make {}: {error}", path.display())))?;
        Ok(path)
    }

    /// Starts one more; its output goes to a file.
    pub fn start(&mut self, command: &mut Command) -> Result<(), Failure> {
        let failed = |error: std::io::Error, what: &str| {
            Failure::Server(format!("cannot start {what}: {error}"))
        };
        let program = command.get_program().to_string_lossy().into_owned();
        let log = self.home().join(format!("log-{}", self.children.len()));
        let log = File::create(log).map_err(|error| failed(error, &program))?;
        let errors = log.try_clone().map_err(|error| failed(error, &program))?;
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .env("NO_COLOR", "1")
            // A Ctrl-C at the terminal is for this program alone, which then stops its servers.
            .process_group(0);
        // What the caller set for nodes of their own must not change what is measured.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"QIANG_") {
                command.env_remove(name);
            }
        }
        let child = command.spawn().map_err(|error| failed(error, &program))?;
        self.children.push(child);
        Ok(())
    }

    /// Processes of a child that must be gone, too, before the directory is removed.
    pub fn also(&mut self, pids: &[u32]) {
        self.others.extend_from_slice(pids);
    }

    /// The processes started here.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Looks until `up` says something.
    ///
    /// # Errors
    /// A server ended, too much time passed, or the comparison was interrupted.
    pub fn wait<T>(&mut self, what: &str, mut up: impl FnMut() -> Option<T>) -> Result<T, Failure> {
        let deadline = Instant::now() + UP_WITHIN;
        loop {
            if let Some(up) = up() {
                return Ok(up);
            }
            let ended = self
                .children
                .iter_mut()
                .any(|child| !matches!(child.try_wait(), Ok(None)));
            let why = if self.stop.load(Ordering::Relaxed) {
                return Err(interrupted());
            } else if ended {
                "it ended".to_owned()
            } else if Instant::now() > deadline {
                format!("nothing after {} s", UP_WITHIN.as_secs())
            } else {
                thread::sleep(LOOK_EVERY);
                continue;
            };
            let said = self.said();
            return Err(Failure::Server(format!(
                "{what} did not come up: {why}. It said:\n{said}"
            )));
        }
    }

    fn said(&self) -> String {
        let logs = (0..self.children.len()).map(|number| {
            let log = fs::read(self.home().join(format!("log-{number}"))).unwrap_or_default();
            let from = log.len().saturating_sub(SHOWN_BYTES);
            String::from_utf8_lossy(&log[from..]).into_owned()
        });
        logs.collect::<Vec<_>>().join("\n")
    }

    /// Bytes of all files below their directory.
    pub fn stored_bytes(&self) -> u64 {
        bytes_below(self.home())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Its data is temporary, so nothing is lost; one that has ended already is no error.
            drop(child.kill());
            drop(child.wait());
        }
        let deadline = Instant::now() + GONE_WITHIN;
        while self.others.iter().any(|pid| runs(*pid)) && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Whether a process runs; one that has ended and that nobody has asked after does not.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The first line that the first server of this directory printed, once it is whole.
pub fn line_in(home: &Path) -> Option<String> {
    let text = fs::read_to_string(home.join("log-0")).ok()?;
    text.split_once('\n').map(|(line, _)| line.to_owned())
}

/// The first line with which the first server of this directory told what it is in JSON.
pub fn json_in(home: &Path) -> Option<serde_json::Value> {
    let text = fs::read_to_string(home.join("log-0")).ok()?;
    let line = text.lines().find(|line| line.starts_with('{'))?;
    serde_json::from_str(line).ok()
}

/// The comparison was ended by its user.
pub fn interrupted() -> Failure {
    Failure::Server("interrupted; the servers it started were stopped".to_owned())
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let kind = entry.file_type().ok()?;
            if kind.is_dir() {
                Some(bytes_below(&entry.path()))
            } else {
                entry.metadata().ok().map(|metadata| metadata.len())
            }
        })
        .sum()
}

/// A port that nothing listens on just now, nor on the `count` − 1 after it.
///
/// They come from below the range of outgoing connections, of which a load has thousands.
pub fn free_ports(count: u16) -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 16_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(211) % u32::from(COUNT)) as u16;
    loop {
        let step = NEXT.fetch_add(count, Ordering::Relaxed);
        let first = FIRST + (start.wrapping_add(step)) % COUNT;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first + count).all(free) {
            return first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn servers() -> Servers {
        Servers::new(&std::env::temp_dir(), Arc::default()).unwrap()
    }

    #[test]
    fn no_server_outlives_its_value() {
        let mut servers = servers();
        servers.start(Command::new("sleep").arg("600")).unwrap();
        let pid = servers.pids()[0];
        assert!(runs(pid));
        drop(servers);
        assert!(!runs(pid));
    }

    #[test]
    fn what_a_server_said_is_shown_when_it_did_not_come_up() {
        let mut servers = servers();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no disk; exit 1"]);
        servers.start(&mut command).unwrap();
        let failure = servers.wait("the thing", || None::<()>).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("the thing did not come up: it ended") && text.contains("no disk"));
    }
}
