//! `qiang raft`: the cluster's nodes, who leads what, and recovery.
//!
//! Most commands change the cluster's document and then wait until the nodes have brought it about; `--no-wait` leaves
//! that to the cluster, which goes on by itself either way.
//!
//! Invariant: a command that ends with 0 has done what it says, unless it was told not to wait.

mod leaders;
mod nodes;
mod progress;
mod recovery;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;
mod wait;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Failure;
use super::client::{Answer, Client};
use super::output::Output;
use super::values::Ask;

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Example:\n  qiang raft status\n  qiang raft add-node 5 --address 10.0.0.5:7500 --dc a\n  \
    qiang raft move-leaders --dc b"
)]
pub(crate) enum RaftCommand {
    /// Show nodes and groups; exit code 6 if a group has no quorum
    #[command(
        after_help = "Example:\n  qiang raft status\n  qiang raft status --stale --server 127.0.0.1:7402\n  \
        qiang raft status -o json\n\n\
        COMMIT and LAG are summed over the groups that a node holds: entries it knows to be committed, and entries\n\
        committed that it has not applied yet. ADDRESS is where the node serves HTTP. JSON also shows every group."
    )]
    Status(status::StatusArgs),
    /// Add a node that was started with `qiang serve --join`
    #[command(
        after_help = "Example:\n  qiang raft add-node 5 --address 10.0.0.5:7500 --dc a\n  \
        qiang raft add-node 6 --address 10.0.0.6:7500 --dc b --learner\n\n\
        Waits until the node holds all it should and votes in it. A learner hears of the cluster and holds nothing; the\n\
        same command without --learner makes it serve."
    )]
    AddNode(nodes::AddArgs),
    /// Remove a node for good: its number is never used again
    #[command(
        after_help = "Example:\n  qiang raft remove-node 5\n  qiang raft remove-node 5 --force --yes\n\n\
        Waits until other nodes have taken over what it holds."
    )]
    RemoveNode(nodes::RemoveArgs),
    /// Let a node lead nothing, before maintenance
    #[command(after_help = "Example:\n  qiang raft drain 2\n  qiang raft drain 2 --undo")]
    Drain(nodes::DrainArgs),
    /// Have a shard, and those that share its log, led by a node that holds it
    #[command(after_help = "Example:\n  qiang raft transfer-leader 3 2")]
    TransferLeader(leaders::TransferArgs),
    /// Have all shards led in one data centre
    #[command(after_help = "Example:\n  qiang raft move-leaders --dc b")]
    MoveLeaders(leaders::MoveArgs),
    /// Spread replicas and leaders evenly over the nodes
    #[command(after_help = "Example:\n  qiang raft rebalance --dry-run\n  qiang raft rebalance")]
    Rebalance(leaders::RebalanceArgs),
    /// Go on in one data centre after the other is lost for good
    #[command(
        after_help = "Example:\n  qiang raft recover --dc b --server 127.0.0.1:7402\n\n\
        Ask any node of the data centre that is left. Refused while a group still has a quorum, while a node of the lost data\n\
        centre answers or is heard, while a node of the one that is left does not answer, or where none of the lost votes in any\n\
        group; and where acknowledged grabs would be lost, unless --force: the lost are a majority of a group, as with a witness\n\
        among them, or one that is left has heard that the cluster goes on elsewhere, and that is lost, too."
    )]
    Recover(recovery::RecoverArgs),
    /// Backups: take one, check one, begin a new cluster from one
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
}

/// Whether to wait until the nodes have done what the document says.
#[derive(Debug, Clone, Copy, Args)]
struct Waiting {
    /// Do not wait until it is brought about
    #[arg(long)]
    no_wait: bool,
}

/// Runs the command.
pub(crate) async fn run(
    command: RaftCommand,
    ask: Ask,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        RaftCommand::Status(args) => status::run(args, client, out).await,
        RaftCommand::AddNode(args) => nodes::add(&args, client, out).await,
        RaftCommand::RemoveNode(args) => nodes::remove(&args, ask, client, out).await,
        RaftCommand::Drain(args) => nodes::drain(&args, client, out).await,
        RaftCommand::TransferLeader(args) => leaders::transfer(&args, client, out).await,
        RaftCommand::MoveLeaders(args) => leaders::move_all(&args, client, out).await,
        RaftCommand::Rebalance(args) => leaders::rebalance(args, client, out).await,
        RaftCommand::Recover(args) => recovery::run(&args, ask, client, out).await,
        RaftCommand::Snapshot(command) => snapshot::run(command, ask, client, out).await,
    }
}

/// The document's revision that made a change.
fn revision(answer: &Answer) -> Result<u64, Failure> {
    let answer = answer.json()?;
    answer["revision"].as_u64().ok_or_else(|| {
        Failure::Server(format!(
            "the node's answer has no revision, so it is not known what was done: {answer}"
        ))
    })
}

/// Says what was done: for people in words, for programs the revision.
fn done(out: &mut Output, revision: u64, told: &str) -> Result<(), Failure> {
    if out.is_json() {
        let answer: Value = json!({"revision": revision});
        return out.json(&answer.to_string());
    }
    out.text(told)
}

/// Numbers as they are read: `1, 2 and 5`.
fn listed(numbers: &[u64]) -> String {
    let texts: Vec<String> = numbers.iter().map(u64::to_string).collect();
    match texts.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
