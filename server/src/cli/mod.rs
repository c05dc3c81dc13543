//! The command line. One file per family of commands; each asks a node over HTTP or reads a data directory, prints data
//! on stdout and everything else on stderr, and ends with one of the contract's exit codes.
//!
//! Invariant: the exit code follows from the kind of [`Failure`] alone, so that no command can end differently from
//! another for the same reason.

mod client;
mod cluster_view;
mod completions;
mod config;
mod failure;
mod flows;
mod grab;
mod order;
mod output;
mod promo;
mod raft;
mod serve;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use failure::Failure;

pub(crate) use client::Client;
pub(crate) use cluster_view::{ClusterView, GroupView};
pub(crate) use output::Output;

use client::ServerAddress;
use output::Format;
use values::Ask;

/// The top of the command line.
#[derive(Debug, Parser)]
#[command(
    name = "qiang",
    version,
    about = "Flash sales: grabs that are never granted twice and never lost",
    after_help = "Example:\n  qiang demo\n  qiang grab --order o-1 --pin alice --ip 203.0.113.9 open:1",
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
struct Global {
    /// The node to ask; any node answers for all
    #[arg(
        long,
        global = true,
        env = "QIANG_SERVER",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7400"
    )]
    server: ServerAddress,
    /// How data is printed
    #[arg(
        short = 'o',
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t = Format::Table
    )]
    output: Format,
    /// Do not ask before what cannot be taken back
    #[arg(long, global = true)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node
    Serve(serve::ServeArgs),
    /// Run a cluster with sample promotions, to try things
    Demo(crate::demo::DemoArgs),
    /// Promotions: create, look at, change, stop
    #[command(subcommand)]
    Promo(promo::PromoCommand),
    /// Grab units of promotions for an order
    Grab(grab::GrabArgs),
    /// Orders: look at, confirm, cancel
    #[command(subcommand)]
    Order(order::OrderCommand),
    /// The cluster's configuration, and checks of a node's file
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Flows: follow, export, verify, rebuild
    #[command(subcommand)]
    Flows(flows::FlowsCommand),
    /// The cluster: nodes, leaders, recovery
    #[command(subcommand)]
    Raft(raft::RaftCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// Runs the command line `arguments`, the program's name first, and says how the process should end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with code 0, wrong use to stderr with code 2: clap knows which.
            let code = u8::try_from(error.exit_code()).unwrap_or(failure::USAGE);
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(failure::SERVER),
            };
        }
    };
    match dispatch(cli) {
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let Global {
        server,
        output,
        yes,
    } = cli.global;
    let ask = Ask { yes };
    let mut out = Output::stdout(output);
    match cli.command {
        Command::Serve(args) => serve::run(&args, &mut out),
        Command::Demo(args) => wait(crate::demo::run(&args, &mut out)),
        Command::Promo(command) => wait(promo::run(command, ask, &Client::new(server), &mut out)),
        Command::Grab(args) => wait(grab::run(args, &Client::new(server), &mut out)),
        Command::Order(command) => wait(order::run(command, &Client::new(server), &mut out)),
        Command::Config(command) => wait(config::run(command, ask, &Client::new(server), &mut out)),
        Command::Flows(command) => wait(flows::run(command, &Client::new(server), &mut out)),
        Command::Raft(command) => wait(raft::run(command, ask, &Client::new(server), &mut out)),
        Command::Completions(args) => completions::run(&args, &mut Cli::command(), &mut out),
    }
}

/// Drives a command to its end on this thread: a client needs no more than one.
fn wait(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Server(format!("cannot start the runtime: {error}")))?
        .block_on(command)
}

#[cfg(test)]
mod tests;
