//! `qiang raft add-node`, `remove-node` and `drain`: which nodes there are and what they are used for.

use clap::Args;
use serde_json::json;

use super::super::GroupView;
use super::super::output::Output;
use super::super::values::{Ask, in_url, with_query};
use super::super::{Client, ClusterView, Failure};
use super::progress::{Progress, Stage};
use super::wait::wait;
use super::{Waiting, done, revision};

/// The node to add.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The number it was started with
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node: u64,
    /// Where it listens for its peers
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// The data centre it was started with
    #[arg(long, value_name = "NAME")]
    dc: String,
    /// Only to hear of the cluster, until it is added without this
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// The node to remove.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The node
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node: u64,
    /// Also if groups would be left without a quorum
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// The node that is to lead nothing.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node: u64,
    /// Let it lead again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) async fn add(args: &AddArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let node = args.node;
    let mut body = json!({"node_id": node, "address": args.address, "dc": args.dc});
    if args.learner {
        body["learner"] = json!(true);
    }
    let answer = client.post("/v1/cluster/nodes", Some(&body)).await?;
    let revision = revision(&answer)?;
    if args.waiting.no_wait {
        return done(out, revision, &format!("node {node} is being added"));
    }
    let progress = Progress::new(format!("node {node} joins"), "groups");
    let view = wait(client, revision, progress, |view| {
        joined(view, node, args.learner)
    })
    .await?;
    let shards = view.node(node).map_or(0, |node| node.replicas);
    let told = if args.learner {
        format!("node {node} listens; add it again without --learner to let it serve")
    } else {
        format!("node {node} serves: it votes in {shards} shards")
    };
    done(out, revision, &told)
}

/// In how many of the groups that it should be in a node is what it should be.
pub(super) fn joined(view: &ClusterView, node: u64, learner: bool) -> Result<Stage, Failure> {
    if view.node(node).is_none() {
        return Err(Failure::Refused(format!(
            "node {node} was removed again by somebody else"
        )));
    }
    let votes_there = |group: &&GroupView| group.planned_voters.contains(&node);
    let own: Vec<&GroupView> = view
        .groups()
        .filter(|group| !learner && votes_there(group))
        .collect();
    let replica = |group: &GroupView| {
        let mut replicas = group.replicas.iter();
        replicas.find(|replica| replica.node == node).cloned()
    };
    let is_in = |group: &GroupView| replica(group).is_some() && group.voters.contains(&node);
    let in_own = own.iter().filter(|group| is_in(group)).count();
    // Where it does not vote in the meta group, it hears of it.
    let hears_too = !own.iter().any(|group| group.is_meta());
    let hears = view.meta.learners.contains(&node) && replica(&view.meta).is_some();
    let applied = view.groups().filter_map(replica);
    Ok(Stage {
        done: in_own + usize::from(hears_too && hears),
        total: own.len() + usize::from(hears_too),
        moved: applied.map(|replica| replica.applied_index).sum(),
    })
}

pub(super) async fn remove(
    args: &RemoveArgs,
    ask: Ask,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let node = args.node;
    let before = ClusterView::ask(client, true).await?;
    if before.told_by == node {
        return Err(Failure::Usage(format!(
            "{} is node {node} itself, which will not hear of its end: ask another with --server",
            client.server()
        )));
    }
    ask.confirm(&format!(
        "Remove node {node} from the cluster? It never comes back under this number."
    ))?;
    let path = with_query(
        &format!("/v1/cluster/nodes/{}", in_url(&node.to_string())),
        &[("force", args.force.then(|| "true".to_owned()))],
    );
    let revision = revision(&client.delete(&path).await?)?;
    if args.waiting.no_wait {
        return done(out, revision, &format!("node {node} is being removed"));
    }
    let progress = Progress::new(format!("node {node} leaves"), "groups");
    wait(client, revision, progress, |view| Ok(left(view, node))).await?;
    done(
        out,
        revision,
        &format!("node {node} has left the cluster; stop it and delete its data"),
    )
}

/// How many groups a node has left; all of them only when the cluster's document has forgotten it.
pub(super) fn left(view: &ClusterView, node: u64) -> Stage {
    let holds = |group: &&GroupView| group.voters.contains(&node) || group.learners.contains(&node);
    let total = view.groups_count();
    let free = total - view.groups().filter(holds).count();
    // Having left all groups is not yet having left.
    let is_known = view.node(node).is_some();
    Stage::of(if is_known { free.min(total - 1) } else { total }, total)
}

pub(super) async fn drain(
    args: &DrainArgs,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let node = args.node;
    let path = format!("/v1/cluster/nodes/{node}/drain");
    let body = json!({"drain": !args.undo});
    let revision = revision(&client.post(&path, Some(&body)).await?)?;
    if args.undo {
        return done(out, revision, &format!("node {node} may lead again"));
    }
    if args.waiting.no_wait {
        return done(out, revision, &format!("node {node} is being drained"));
    }
    let progress = Progress::new(format!("node {node} is drained"), "groups led by others");
    wait(client, revision, progress, |view| drained(view, node)).await?;
    done(
        out,
        revision,
        &format!("node {node} leads nothing; `qiang raft drain {node} --undo` lets it lead again"),
    )
}

/// How many groups a node does not lead.
pub(super) fn drained(view: &ClusterView, node: u64) -> Result<Stage, Failure> {
    let stays = |group: &&GroupView| group.planned_leader == Some(node);
    let stays: Vec<String> = view.groups().filter(stays).map(GroupView::name).collect();
    if !stays.is_empty() {
        return Err(Failure::Check(format!(
            "no other node can lead these shards, which node {node} goes on leading: {}",
            stays.join(", ")
        )));
    }
    let led = view.groups().filter(|group| group.leader == Some(node));
    let total = view.groups_count();
    Ok(Stage::of(total - led.count(), total))
}
