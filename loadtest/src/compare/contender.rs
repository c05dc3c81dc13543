//! Who is compared, and one measurement of one of them.
//!
//! Invariant: every measurement begins with a server that was just started and has sold nothing, in a directory of its own;
//! nothing of one reaches the next, and while one is measured no other runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::runtime::Runtime;

use super::disk::{self, Disk};
use super::process::{Servers, free_ports, interrupted};
use super::redis::{self, Settings, WAITED_FOR};
use crate::client::{Address, Http, Plain, Resp};
use crate::drive::{Driven, Plan, drive};
use crate::failure::Failure;
use crate::identity::RunId;
use crate::progress::Progress;
use crate::run::{Used, Watched, measure, run};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// qiang on one node.
    One,
    /// qiang on four nodes.
    Four {
        /// How many of them the connections go to; the first leads all shards when it starts.
        asked: usize,
    },
    /// Redis with a script.
    Redis(Settings),
    /// A bare HTTP server.
    Bare,
}

/// What all measurements share.
pub struct Ground {
    /// qiang's binary.
    pub qiang: PathBuf,
    /// Where servers keep their data.
    pub directory: PathBuf,
    /// For admin requests and audits.
    pub runtime: Runtime,
    /// Set to end early.
    pub stop: Arc<AtomicBool>,
}

/// A contender that runs.
pub struct Running {
    servers: Servers,
    contender: Contender,
    targets: Vec<SocketAddr>,
    /// The processes that do the work.
    pids: Vec<u32>,
}

/// One measurement.
#[derive(Debug)]
pub struct Sample {
    /// Orders and figures.
    pub driven: Driven,
    /// What the servers used.
    pub server: Option<Used>,
    /// What the generator used, in seconds of processor time.
    pub client_cpu_seconds: f64,
    /// The disk just before.
    pub disk: Disk,
}

impl Contender {
    /// Starts it.
    ///
    /// # Errors
    /// It did not come up.
    pub fn start(self, ground: &Ground) -> Result<Running, Failure> {
        let mut servers = Servers::new(&ground.directory, Arc::clone(&ground.stop))?;
        let (targets, pids) = match self {
            Contender::One => start_one(&mut servers, ground)?,
            Contender::Four { asked } => {
                let (mut targets, pids) = start_four(&mut servers, ground)?;
                targets.truncate(asked);
                (targets, pids)
            }
            Contender::Redis(settings) => {
                let address = redis::start(&mut servers, settings)?;
                (vec![address], servers.pids())
            }
            Contender::Bare => start_bare(&mut servers)?,
        };
        Ok(Running {
            servers,
            contender: self,
            targets,
            pids,
        })
    }
}

impl Running {
    /// Drives a plan against it; the plan's targets are replaced. qiang is audited afterwards.
    ///
    /// # Errors
    /// The run failed, or the audit found a difference.
    pub fn sample(&self, ground: &Ground, plan: &Plan) -> Result<Sample, Failure> {
        let plan = &Plan {
            targets: self.targets.clone(),
            ..plan.clone()
        };
        let disk = disk::probe(self.servers.home())?;
        let (driven, client_cpu_seconds, server) = match self.contender {
            Contender::One | Contender::Four { .. } => self.drive_qiang(ground, plan)?,
            Contender::Redis(settings) => {
                let run = RunId::now();
                let (script, workload) = (settings.script, &plan.workload);
                let sha = redis::prepare(self.targets[0], script, run, workload)?;
                let replicas = (settings.replicas > 0).then_some(WAITED_FOR);
                let protocol = |_| Resp::new(run, Arc::clone(workload), script, &sha, replicas);
                let mut watch = Progress::hidden(plan.limit);
                measure(Some(self.watched()), || drive(plan, &protocol, &mut watch))?
            }
            Contender::Bare => {
                let run = RunId::now();
                let host = self.targets[0].to_string();
                let protocol = |_| Http::new(run, Arc::clone(&plan.workload), &host).to_anyone();
                let mut watch = Progress::hidden(plan.limit);
                measure(Some(self.watched()), || drive(plan, &protocol, &mut watch))?
            }
        };
        if ground.stop.load(Ordering::Relaxed) {
            return Err(interrupted());
        }
        if let Some(broken) = &driven.record.broken {
            return Err(Failure::Server(format!(
                "{:?} answered with what could not be understood: {broken}",
                self.contender
            )));
        }
        Ok(Sample {
            driven,
            server,
            client_cpu_seconds,
            disk,
        })
    }

    fn watched(&self) -> Watched<'_> {
        Watched {
            pids: &self.pids,
            data: self.servers.home(),
        }
    }

    fn drive_qiang(
        &self,
        ground: &Ground,
        plan: &Plan,
    ) -> Result<(Driven, f64, Option<Used>), Failure> {
        let targets: Vec<Address> = self.targets.iter().copied().map(Into::into).collect();
        let mut watch = Progress::hidden(plan.limit);
        let outcome = run(
            &ground.runtime,
            &targets,
            plan,
            Some(self.watched()),
            &mut watch,
        )?;
        let findings = outcome.findings;
        if findings.differences.count() > 0 {
            return Err(Failure::Audit(findings.differences.to_string()));
        }
        Ok((outcome.driven, outcome.client_cpu_seconds, outcome.server))
    }

    /// A number that qiang's first node tells among its metrics.
    ///
    /// # Errors
    /// It cannot be asked, or has no such number.
    pub fn metric(&self, ground: &Ground, name: &str) -> Result<f64, Failure> {
        let node = Plain::new(self.targets[0].into());
        let body = ground.runtime.block_on(node.get("/metrics"))?;
        let text = String::from_utf8_lossy(&body);
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.ok_or_else(|| Failure::Server(format!("{} has no {name}", node.address())))
    }

    /// Bytes of all its files.
    pub fn stored_bytes(&self) -> u64 {
        self.servers.stored_bytes()
    }
}

type Started = (Vec<SocketAddr>, Vec<u32>);

fn start_one(servers: &mut Servers, ground: &Ground) -> Result<Started, Failure> {
    let port = free_ports(2);
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let mut command = Command::new(&ground.qiang);
    command
        .args(["serve", "--bootstrap", "--data-dir"])
        .arg(servers.home().join("data"))
        .args(["--listen", &address(port).to_string()])
        .args(["--peer-listen", &address(port + 1).to_string()]);
    servers.start(&mut command)?;
    wait_ready(servers, ground, &[address(port)])?;
    Ok((vec![address(port)], servers.pids()))
}

/// Peer ports of a demo are this much above the public ones.
const PEER_PORT_OFFSET: u16 = 100;

fn start_four(servers: &mut Servers, ground: &Ground) -> Result<Started, Failure> {
    const NODES: u16 = 4;
    let port = free_ports(PEER_PORT_OFFSET + NODES);
    let mut command = Command::new(&ground.qiang);
    command
        .args([
            "demo",
            "--nodes",
            &NODES.to_string(),
            "-o",
            "json",
            "--data-dir",
        ])
        .arg(servers.home().join("demo"))
        .args(["--base-port", &port.to_string()]);
    servers.start(&mut command)?;
    let home = servers.home().to_owned();
    let told = servers.wait("qiang demo", || super::process::json_in(&home))?;
    let nodes = told["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let target = |node: &Value| {
        let http = node["http"].as_str()?;
        http.trim_start_matches("http://").parse().ok()
    };
    let targets: Option<Vec<SocketAddr>> = nodes.iter().map(target).collect();
    let pids: Option<Vec<u32>> = nodes
        .iter()
        .map(|node| node["pid"].as_u64().map(|pid| pid as u32))
        .collect();
    let (Some(targets), Some(pids)) = (targets, pids) else {
        return Err(Failure::Server(format!(
            "qiang demo told of its nodes: {told}"
        )));
    };
    servers.also(&pids);
    wait_ready(servers, ground, &targets)?;
    Ok((targets, pids))
}

fn start_bare(servers: &mut Servers) -> Result<Started, Failure> {
    let own = std::env::current_exe().map_err(|error| {
        Failure::Server(format!("this program's own file is not known: {error}"))
    })?;
    servers.start(Command::new(own).arg("answer"))?;
    let home = servers.home().to_owned();
    let address = servers.wait("the bare server", || {
        super::process::line_in(&home)?.trim().parse().ok()
    })?;
    Ok((vec![address], servers.pids()))
}

fn wait_ready(
    servers: &mut Servers,
    ground: &Ground,
    targets: &[SocketAddr],
) -> Result<(), Failure> {
    for target in targets {
        let node = Plain::new((*target).into());
        servers.wait("qiang", || {
            ground.runtime.block_on(node.get("/readyz")).ok()
        })?;
    }
    Ok(())
}
