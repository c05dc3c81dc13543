//! `qiang serve`: settings together, log on, threads up, then the node until it is told to stop.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use qiang_raft::Begin;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use super::Failure;
use super::config::unusable;
use super::output::Output;
use crate::http::Workers;
use crate::node_config::{Effective, FlagSetting, LogFormat, NodeConfig};
use crate::serve;

/// How a node is started.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  qiang serve --data-dir /var/lib/qiang --bootstrap\n  qiang serve --config node.toml\n  \
    QIANG_HTTP__LISTEN=127.0.0.1:7401 qiang serve --config node.toml --print-config\n\n\
    A flag wins over an environment variable (QIANG_SECTION__KEY), that over the file, that over the default."
)]
pub(crate) struct ServeArgs {
    /// The node's settings, a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Number of this node in its cluster, from 1
    #[arg(long, value_name = "NUMBER")]
    node_id: Option<u64>,
    /// The data centre this node stands in
    #[arg(long, value_name = "NAME")]
    dc: Option<String>,
    /// Where this node keeps its data
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// Address of the public HTTP interface
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address for the other nodes of the cluster
    #[arg(long, value_name = "ADDRESS")]
    peer_listen: Option<String>,
    /// Begin a new one-node cluster if the data directory is empty; harmless if it is this node's already
    #[arg(long, conflicts_with = "join")]
    bootstrap: bool,
    /// Join the cluster of the node at this peer address, if the data directory is empty; then add it with `qiang raft add-node`
    #[arg(long, value_name = "PEER_ADDRESS")]
    join: Option<String>,
    /// Print the settings in force and where they come from, and do nothing else
    #[arg(long)]
    print_config: bool,
    /// End when the process of this number, which started this one, ends
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
}

/// Runs the node until it is told to stop.
pub(crate) fn run(args: &ServeArgs, out: &mut Output) -> Result<(), Failure> {
    if let Some(parent) = args.parent {
        end_with(parent)?;
    }
    // Variables that are not text cannot be settings: theirs have plain names and values.
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        Some((
            name.into_string().ok()?,
            value.to_string_lossy().into_owned(),
        ))
    });
    let effective = Effective::load(args.config.as_deref(), environment, &args.flags()?)
        .map_err(|error| unusable(&error))?;
    if args.print_config {
        return print(&effective, out);
    }
    let config = effective.config;
    start_log(&config);
    keep_pages_small();
    let logs = runtime("logs", config.log_threads())?;
    let connections: Vec<Runtime> = (0..config.connection_threads())
        .map(|_| runtime("http", 1))
        .collect::<Result<_, _>>()?;
    let alone = connections.is_empty().then_some(&logs);
    let runtimes = connections.iter().chain(alone);
    let workers = Workers::new(runtimes.map(|runtime| runtime.handle().clone()));
    logs.block_on(serve::run(config, args.begin(), workers))
        .map_err(|error| {
            if error.is_usage() {
                Failure::Usage(error.to_string())
            } else {
                Failure::Server(error.to_string())
            }
        })
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|error| Failure::Server(format!("cannot start the threads: {error}")))
}

impl ServeArgs {
    /// What an empty data directory becomes.
    fn begin(&self) -> Begin {
        match &self.join {
            Some(address) => Begin::Join(address.clone()),
            None if self.bootstrap => Begin::Bootstrap,
            None => Begin::Existing,
        }
    }

    /// The flags that are settings.
    fn flags(&self) -> Result<Vec<FlagSetting>, Failure> {
        let data_dir = match &self.data_dir {
            Some(path) => Some(path.to_str().ok_or_else(|| {
                Failure::Usage(format!(
                    "--data-dir {}: its name must be UTF-8",
                    path.display()
                ))
            })?),
            None => None,
        };
        let given = [
            (
                "--node-id",
                "node.id",
                self.node_id.map(|id| id.to_string()),
            ),
            ("--dc", "node.dc", self.dc.clone()),
            ("--data-dir", "node.data_dir", data_dir.map(str::to_owned)),
            ("--listen", "http.listen", self.listen.clone()),
            ("--peer-listen", "peer.listen", self.peer_listen.clone()),
        ];
        Ok(given
            .into_iter()
            .filter_map(|(flag, key, value)| Some((flag, key, value?)))
            .collect())
    }
}

fn print(effective: &Effective, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        let json = serde_json::to_string(&effective.config);
        return out.json(&json.map_err(|error| Failure::Server(error.to_string()))?);
    }
    out.bytes(effective.to_toml().as_bytes())
}

/// The log for people, on stderr.
fn start_log(config: &NodeConfig) {
    let filter =
        EnvFilter::try_new(&config.log.level).expect("the level was checked with the settings");
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log
            .with_ansi(std::io::stderr().is_terminal() && !no_colour())
            .init(),
    }
}

/// <https://no-color.org>: present and not empty.
fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Has the system back this process with pages of 4 KiB only: the allocator asks for huge ones, and whole megabytes are then
/// resident of which little is used. Before there are other threads, so that it holds for all of them.
#[cfg(target_os = "linux")]
fn keep_pages_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay allowed; more memory is used");
    }
}

/// Elsewhere the allocator is left to itself.
#[cfg(not(target_os = "linux"))]
fn keep_pages_small() {}

/// Has the system stop this process as soon as `parent` is gone, however it goes.
#[cfg(target_os = "linux")]
fn end_with(parent: u32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| {
        Failure::Server(format!(
            "cannot watch the process that started this one: {error}"
        ))
    })?;
    // It may have ended before the system was asked.
    let present = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if present == Some(parent) {
        Ok(())
    } else {
        Err(Failure::Server(format!(
            "process {parent}, which started this one, is gone"
        )))
    }
}

/// Elsewhere the parent stops its children itself, whenever it ends in order.
#[cfg(not(target_os = "linux"))]
fn end_with(_parent: u32) -> Result<(), Failure> {
    Ok(())
}
