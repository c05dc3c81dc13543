//! Redis as an opponent: started with the persistence asked for, its script loaded, its promotions set.
//!
//! Invariant: it is given what it needs to be fast and nothing that it would not have in a shop: no snapshots to disk beside
//! the log, everything else as its makers set it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::process::{Servers, free_ports};
use crate::client::{RedisScript, Resp, command};
use crate::failure::Failure;
use crate::identity::RunId;
use crate::workload::Workload;

/// `q.lua`, the whole grab.
const WHOLE: &str = include_str!("../../peers/redis/q.lua");

/// `q_min.lua`, the fewest calls.
const FEWEST: &str = include_str!("../../peers/redis/q_min.lua");

/// How long a command of the set-up may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What is written before a grab is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    Memory,
    /// `appendfsync always`.
    Always,
}

/// How Redis is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The script that decides.
    pub script: RedisScript,
    /// What is written.
    pub persistence: Persistence,
    /// Replicas beside the master; with any, a grab waits for two of them.
    pub replicas: u16,
}

/// Replicas that must have a grab: with the master three of four, as qiang's majority.
pub const WAITED_FOR: u64 = 2;

/// Whether there is a Redis on this machine.
pub fn is_installed() -> bool {
    let asked = Command::new("redis-server").arg("--version").output();
    asked.is_ok_and(|output| output.status.success())
}

/// Starts Redis and waits until it and its replicas are ready; its address.
pub fn start(servers: &mut Servers, settings: Settings) -> Result<SocketAddr, Failure> {
    let first = free_ports(1 + settings.replicas);
    for number in 0..=settings.replicas {
        let mut command = Command::new("redis-server");
        let directory = servers.directory(&format!("redis-{number}"))?;
        let appendonly = match settings.persistence {
            Persistence::Memory => "no",
            Persistence::Always => "yes",
        };
        command
            .current_dir(directory)
            .args(["--bind", "127.0.0.1", "--save", ""])
            .args(["--port", &(first + number).to_string()])
            .args(["--appendonly", appendonly, "--appendfsync", "always"])
            // Replicas are waited for before anything is measured; sooner is no advantage.
            .args(["--repl-diskless-sync-delay", "0"]);
        if number > 0 {
            command.args(["--replicaof", "127.0.0.1", &first.to_string()]);
        }
        servers.start(&mut command)?;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], first));
    servers.wait("Redis", || {
        let told = Setup::connect(address)
            .ok()?
            .ask(&[b"INFO", b"replication"])
            .ok()?;
        let online = told.matches("state=online").count();
        (online == usize::from(settings.replicas)).then_some(())
    })?;
    Ok(address)
}

/// Loads the script and sets the run's promotions; the script's name for calls.
pub fn prepare(
    address: SocketAddr,
    script: RedisScript,
    run: RunId,
    workload: &Workload,
) -> Result<String, Failure> {
    let prepared = Setup::connect(address).and_then(|mut setup| {
        let text = match script {
            RedisScript::Whole => WHOLE,
            RedisScript::Fewest => FEWEST,
        };
        let quantity = workload.quantity.to_string();
        for promotion in 0..workload.promotions {
            let key = Resp::keys(&run, script, promotion).swap_remove(0);
            let units = quantity.as_bytes();
            setup.ask(&[
                b"HSET",
                key.as_bytes(),
                b"o",
                units,
                b"b",
                units,
                b"c",
                b"0",
                b"w",
                b"0",
            ])?;
        }
        setup.ask(&[b"SCRIPT", b"LOAD", text.as_bytes()])
    });
    prepared.map_err(|error| Failure::Server(format!("Redis at {address}: {error}")))
}

/// A connection for setting up: one command, one reply.
struct Setup {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Setup {
    fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let input = Vec::new();
        Ok(Self { stream, input })
    }

    /// The text of a simple reply, a number or a bulk.
    fn ask(&mut self, parts: &[&[u8]]) -> std::io::Result<String> {
        self.stream.write_all(&command(parts))?;
        let line = self.line()?;
        match line.split_at_checked(1) {
            Some(("+" | ":", rest)) => Ok(rest.to_owned()),
            Some(("$", length)) => {
                let length: usize = length.parse().map_err(std::io::Error::other)?;
                let text = self.take(length)?;
                self.take(2)?;
                Ok(text)
            }
            _ => Err(std::io::Error::other(line)),
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.input) {
                let line = self.take(end + 1)?;
                return Ok(line.trim_end().to_owned());
            }
            self.read()?;
        }
    }

    fn take(&mut self, length: usize) -> std::io::Result<String> {
        while self.input.len() < length {
            self.read()?;
        }
        let rest = self.input.split_off(length);
        let taken = std::mem::replace(&mut self.input, rest);
        String::from_utf8(taken).map_err(std::io::Error::other)
    }

    fn read(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            bytes => {
                self.input.extend_from_slice(&buffer[..bytes]);
                Ok(())
            }
        }
    }
}
