//! Walks the README as a reader would: every console block is run, and what it prints is compared.
//!
//! The convention for README.md, from the repository's root:
//!
//! - A fenced block with the info string `console` is walked: a line that starts with `$ ` is a command (a line that
//!   ends with `\` goes on in the next one), the lines after it, up to the next command or the end of the block, are
//!   what it prints on stdout and stderr together. Blocks with another info string (`sh`, `toml`, …) are not walked.
//! - A block ` ```console serving ` holds one command that goes on running; what it prints must come within a minute,
//!   and may be followed by more. It is interrupted (Ctrl-C) at the end of the walk.
//! - `…` inside a line stands for any text, `…` alone on a line for any lines. Any RFC 3339 time stands for any other, and a run of spaces for any other.
//!   Everything else must be printed as it stands.
//! - Commands run one after the other in the repository's root, with the binary under test first in `PATH` as `qiang`.
//!   `./dev demo` stands for `qiang demo` of that binary, since the test has no need to build it once more. Where a command or
//!   its output says port 7400 (7401 …), the walk uses free ports of this machine, and data goes to a temporary directory
//!   unless the command names one.
//! - A command must exit with 0, unless a line `# exits with 1` (or another number) stands at the end of what it prints.
//!
//! Invariant: the README's only truth is what the binary does today.

use qiang_tests::{Block, Step, Walk, binary, comes_true, matches_printed, run, wait_until};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The first of the ports the README names; the walk moves this port and those right after it.
const README_PORT: u16 = 7400;
/// Ports after the first that a demo may use: four nodes, public and peers.
const PORTS: u16 = 8;
const COMES_UP_WITHIN: Duration = Duration::from_mins(1);
const ENDS_WITHIN: Duration = Duration::from_secs(20);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the root")
        .to_owned()
}

#[test]
fn the_readme_works_as_printed() {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md in the root");
    let walk = Walk::parse(&text);
    assert!(
        walk.blocks.iter().any(|block| block.serving),
        "no `console serving` block: nothing starts a demo"
    );
    let steps: usize = walk.blocks.iter().map(|block| block.steps.len()).sum();
    assert!(steps >= 5, "only {steps} commands: that is no walk");
    let mut reader = Reader::new();
    for block in &walk.blocks {
        reader.walk(block);
    }
}

/// Someone who follows the README, with a shell.
struct Reader {
    home: TempDir,
    base_port: u16,
    serving: Vec<Child>,
}

impl Reader {
    fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("a temporary directory"),
            base_port: free_ports(),
            serving: Vec::new(),
        }
    }

    #[track_caller]
    fn walk(&mut self, block: &Block) {
        for step in &block.steps {
            eprintln!("README.md:{}: $ {}", step.line, step.command);
            if block.serving {
                assert_eq!(
                    block.steps.len(),
                    1,
                    "line {}: a serving block holds one command",
                    block.line
                );
                self.serve(step);
            } else {
                self.step(step);
            }
        }
    }

    #[track_caller]
    fn step(&self, step: &Step) {
        let (expected, code) = expectation(&step.printed);
        let printed: Vec<String> = expected.iter().map(|line| self.on_my_ports(line)).collect();
        let walk = || {
            let run = run(&mut self.shell(&format!("{{ {}\n}} 2>&1", step.command)));
            let (line, command, printed_now) = (step.line, &step.command, &run.stdout);
            if run.code != Some(code) {
                return Err(format!("README.md:{line}: {run}"));
            }
            matches_printed(&printed, printed_now)
                .then_some(())
                .ok_or_else(|| {
                    let printed = printed.join("\n");
                    format!("README.md:{line}: `{command}` should print\n{printed}\nbut printed\n{printed_now}")
                })
        };
        // Who leads what, a pause of the machine may change for a moment. Nothing else is asked twice.
        if step.command.starts_with("qiang raft status") {
            wait_until(COMES_UP_WITHIN, "the cluster is as the README says", walk);
        } else if let Err(why) = walk() {
            panic!("{why}");
        }
    }

    #[track_caller]
    fn serve(&mut self, step: &Step) {
        let log = self.home.path().join(format!("serving-{}.log", step.line));
        let out = File::create(&log).expect("a log file");
        let mut command = self.shell(&format!("exec {}", step.command));
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .process_group(0);
        self.serving.push(command.spawn().expect("a shell"));
        let mut printed: Vec<String> = step
            .printed
            .iter()
            .map(|line| self.on_my_ports(line))
            .collect();
        printed.push("…".to_owned());
        wait_until(
            COMES_UP_WITHIN,
            &format!("what README.md:{} says that it prints", step.line),
            || {
                let seen = fs::read_to_string(&log).expect("its output");
                matches_printed(&printed, &seen)
                    .then_some(())
                    .ok_or(format!("expected\n{}\nprinted\n{seen}", printed.join("\n")))
            },
        );
    }

    fn shell(&self, command: &str) -> Command {
        let bin = binary();
        let folder = bin
            .parent()
            .expect("a binary lies in a folder")
            .to_string_lossy()
            .into_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &self.on_my_machine(command)])
            .current_dir(root())
            .env("PATH", format!("{folder}:{path}"))
            .env("QIANG_SERVER", format!("127.0.0.1:{}", self.base_port))
            .env("NO_COLOR", "1")
            .env("TMPDIR", self.home.path());
        shell
    }

    /// The command with the walk's demo, data and ports.
    fn on_my_machine(&self, command: &str) -> String {
        let mut command = command.replace("./dev demo", "qiang demo");
        if let Some((before, after)) = command.clone().split_once("qiang demo") {
            let data = if after.contains("--data-dir") {
                String::new()
            } else {
                format!(" --data-dir '{}'", self.home.path().join("demo").display())
            };
            let port = if after.contains("--base-port") {
                ""
            } else {
                " --base-port 7400"
            };
            command = format!("{before}qiang demo{data}{port}{after}");
        }
        self.on_my_ports(&command)
    }

    fn on_my_ports(&self, text: &str) -> String {
        // From the last to the first, so that no port that was just written is read again.
        (0..PORTS).fold(text.to_owned(), |text, step| {
            text.replace(
                &(README_PORT + step).to_string(),
                &(self.base_port + step).to_string(),
            )
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for child in &mut self.serving {
            let group = i32::try_from(child.id())
                .ok()
                .and_then(Pid::from_raw)
                .expect("a process id");
            let interrupted = kill_process_group(group, Signal::INT);
            let ended = interrupted.is_ok()
                && comes_true(ENDS_WITHIN, || !matches!(child.try_wait(), Ok(None)));
            if !ended {
                eprintln!("Ctrl-C did not end what the README started; it is killed");
                let killed = kill_process_group(group, Signal::KILL);
                let waited = child.wait();
                eprintln!("{killed:?} {waited:?}");
            }
            assert!(ended || std::thread::panicking(), "Ctrl-C stops all");
        }
    }
}

/// What is printed, without the note about the exit code, and that code.
fn expectation(printed: &[String]) -> (Vec<String>, i32) {
    let mut code = 0;
    let mut lines = Vec::new();
    for line in printed {
        match line.strip_prefix("# exits with ") {
            Some(number) => code = number.trim().parse().expect("`# exits with N`"),
            None => lines.push(line.clone()),
        }
    }
    (lines, code)
}

/// The first of so many neighbouring ports that nothing listens on, none of which the README names.
fn free_ports() -> u16 {
    (0..200_u16)
        .map(|step| {
            17_000
                + (u16::try_from(std::process::id() % 1000).expect("below 1000") + step * 16) % 3000
        })
        .find(|first| (0..PORTS).all(|step| TcpListener::bind(("127.0.0.1", first + step)).is_ok()))
        .expect("some neighbouring ports are free")
}
