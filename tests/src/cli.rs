//! Running the command line as a user does, with its exit code and both outputs kept apart.
//!
//! Invariant: a command that hangs is killed and fails the test; it never blocks the suite.

use crate::{Node, binary, wait_until_by};
use serde_json::Value;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No command of the contract runs longer than this on the data of a test.
const COMMAND_WITHIN: Duration = Duration::from_mins(2);

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Run {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Data.
    pub stdout: String,
    /// Diagnostics.
    pub stderr: String,
}

/// Runs `command` to its end and keeps its outputs.
#[track_caller]
pub fn run(command: &mut Command) -> Run {
    run_within(command, COMMAND_WITHIN)
}

/// As [`run`], with a deadline of the caller's.
#[track_caller]
pub fn run_within(command: &mut Command, within: Duration) -> Run {
    let mut out = tempfile::tempfile().expect("a temporary file");
    let mut err = tempfile::tempfile().expect("a temporary file");
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().expect("a second handle"))
        .stderr(err.try_clone().expect("a second handle"))
        .spawn()
        .unwrap_or_else(|error| panic!("starting {shown}: {error}"));
    let deadline = Instant::now() + within;
    let mut status = None;
    wait_until_by(
        deadline + Duration::from_secs(5),
        "the command ends",
        || {
            status = child.try_wait().expect("a child can be waited for");
            if status.is_none() && Instant::now() > deadline {
                child.kill().expect("a child of ours can be killed");
                status = Some(child.wait().expect("a killed child ends"));
            }
            status.map(|_| ()).ok_or_else(|| shown.clone())
        },
    );
    let code = status.and_then(|status| status.code());
    let run = Run {
        command: shown,
        code,
        stdout: slurp(&mut out),
        stderr: slurp(&mut err),
    };
    assert!(
        Instant::now() <= deadline,
        "did not end within {within:?}: {run}"
    );
    run
}

fn slurp(file: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("a temporary file can be rewound");
    file.read_to_end(&mut bytes)
        .expect("a temporary file can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Run {
    /// The run, if it ended well; otherwise what came of it, for waiting until it does.
    ///
    /// # Errors
    /// The run as text.
    pub fn if_ok(self) -> Result<Run, String> {
        if self.code == Some(0) {
            Ok(self)
        } else {
            Err(self.to_string())
        }
    }

    /// The output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(&self) -> &str {
        self.exits(0)
    }

    /// The output of a command that must have ended with `code`.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "expected exit code {code}: {self}");
        &self.stdout
    }

    /// The failed command's diagnostics, which must name each of `parts`; data stays off stdout.
    #[track_caller]
    pub fn fails_naming(&self, code: i32, parts: &[&str]) {
        self.exits(code);
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "stderr does not name {part:?}: {self}"
            );
        }
        assert!(
            !self.stderr.contains("panicked"),
            "a panic is no diagnostic: {self}"
        );
    }

    /// The output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            command,
            code,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "{command}\n  exit {code:?}\n  stdout: {stdout}\n  stderr: {stderr}"
        )
    }
}

impl Node {
    /// `qiang ARGUMENTS` against this node.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Run {
        run(Command::new(binary())
            .args(arguments)
            .env("QIANG_SERVER", self.http_address())
            .env("NO_COLOR", "1"))
    }
}
