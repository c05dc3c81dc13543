//! `qiang flows`: every accepted change in commit order, from a node or from a data directory, and what can be proved
//! with them.

mod export;
mod line;
mod offline;
mod reader;
mod report;
mod tail;
mod tally;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use qiang_engine::{OrderId, PromotionId};

use super::Failure;
use super::client::Client;
use super::output::Output;

/// What to do with flows.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Example:\n  qiang flows tail --follow\n  qiang flows verify\n  qiang flows rebuild --data-dir qiang-data"
)]
pub(crate) enum FlowsCommand {
    /// Print flows, and follow them
    #[command(
        after_help = "Example:\n  qiang flows tail\n  qiang flows tail --promotion A --follow\n  \
        qiang flows tail --shard 3 --after 1200 --limit 50 -o json\n\n\
        Every flow has a cursor that grows within its shard. A reader that goes on with --after CURSOR misses none and\n\
        sees none twice."
    )]
    Tail(TailArgs),
    /// Write flows as NDJSON, from a node or from the data directory of a stopped one
    #[command(after_help = "Example:\n  qiang flows export > flows.ndjson\n  \
        qiang flows export --data-dir qiang-data --shard 3 --out shard-3.ndjson")]
    Export(ExportArgs),
    /// Compare every promotion's counters with its flows; exit code 6 if they differ
    #[command(
        after_help = "Example:\n  qiang flows verify\n  qiang flows verify --data-dir qiang-data\n\n\
        Asks a running node, also one that is serving grabs; with --data-dir it reads the data of a stopped one."
    )]
    Verify(VerifyArgs),
    /// Rebuild every counter from the flows alone, from the data directory of a stopped node
    #[command(
        after_help = "Example:\n  qiang flows rebuild --data-dir qiang-data\n  \
        qiang flows rebuild --data-dir qiang-data --ignore-snapshots\n\n\
        Nothing is written. The counters are compared with those that the newest snapshot leads to; exit code 6 if they\n\
        differ, 5 if the data cannot be read."
    )]
    Rebuild(RebuildArgs),
}

/// Which flows to print.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Only this shard
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(..i64::from(qiang_engine::routing::SHARDS)))]
    shard: Option<u16>,
    /// Only flows about this promotion
    #[arg(long, value_name = "PROMOTION_ID", conflicts_with = "shard")]
    promotion: Option<PromotionId>,
    /// Only flows about this order
    #[arg(long, value_name = "ORDER_ID")]
    order: Option<OrderId>,
    /// Only flows after this one; a cursor belongs to its shard
    #[arg(long, value_name = "CURSOR")]
    after: Option<u64>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Wait for further flows instead of ending
    #[arg(short, long)]
    follow: bool,
}

/// Which flows to write, and where.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Only this shard
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(..i64::from(qiang_engine::routing::SHARDS)))]
    shard: Option<u16>,
    /// Only flows after this one; a cursor belongs to its shard
    #[arg(long, value_name = "CURSOR", requires = "shard")]
    after: Option<u64>,
    /// Read the data of a stopped node
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// Write to this file, which must not exist yet, instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What to verify.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Verify the data of a stopped node instead of asking a running one
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
}

/// What to rebuild from.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// The data of a stopped node
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: PathBuf,
    /// Do not even look at snapshots: nothing is compared then
    #[arg(long)]
    ignore_snapshots: bool,
}

/// Runs the command.
pub(crate) async fn run(
    command: FlowsCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        FlowsCommand::Tail(args) => tail::run(&args, client, out).await,
        FlowsCommand::Export(args) => export::run(&args, client, out).await,
        FlowsCommand::Verify(args) => match &args.data_dir {
            Some(dir) => offline::verify(dir, out),
            None => verify::run(client, out).await,
        },
        FlowsCommand::Rebuild(args) => offline::rebuild(&args.data_dir, args.ignore_snapshots, out),
    }
}

/// The shards that a command is about.
fn shards(only: Option<u16>) -> std::ops::Range<u16> {
    only.map_or(0..qiang_engine::routing::SHARDS, |shard| shard..shard + 1)
}
